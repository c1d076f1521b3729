"""The same cause over many cases gives one key; different causes give different keys."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, parser

from oracles.records import Case, Outcome, Verdict
from triage.cause import cause, cause_key
from triage.message import normalise

FUSE = (
    "Fail: [ONNXRuntimeError] : 1 : FAIL : Exception during initialization: /onnxruntime_src/onnxruntime/core/optimizer/relu_clip_fusion.cc:{line} "
    "virtual onnxruntime::common::Status "
    "onnxruntime::FuseReluClip::Apply(onnxruntime::Graph&, onnxruntime::Node&) const Unexpected data type for Clip 'min' input of {type}\n"
)


def chain(*ops: str, dtype: str = "float", prefix: str = "v", start: int = 0) -> bytes:
    """x -> op -> op ... with generated names, as different cases of one campaign have."""
    lines, last = list[str](), "x"
    for i, op in enumerate(ops):
        out = "y" if i == len(ops) - 1 else f"{prefix}{start + i}"
        lines.append(f'["/{op}_{start + i}"] {out} = {op}({last})')
        last = out
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({dtype}[4] x) => ({dtype}[4] y) {{ {" ".join(lines)} }}'
    return parser.parse_model(text).SerializeToString()


def case(model: bytes) -> Case:
    return Case(model, {"x": np.zeros(4, np.float32)})


def broken(message: str, setting: str = "all", verdict: str = "broken") -> Verdict:
    return Verdict("onnxruntime", setting, verdict, message=message)  # type: ignore[arg-type]


def test_node_names_and_lines_do_not_split() -> None:
    first = cause_key(case(chain("Sin", "Relu", "Clip")), broken(FUSE.format(line=83, type=11)))
    second = cause_key(case(chain("Cos", "Tanh", "Relu", "Clip", start=20, prefix="w")), broken(FUSE.format(line=77, type=11)))
    assert first == second and len(first) == 16


@pytest.mark.parametrize("name", ["/Erf", "/Erf_1", "n17"])
def test_names_of_the_same_operator_merge(name: str) -> None:
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Erf", ["x"], ["y"], name=name)], "g", [helper.make_tensor_value_info("x", 1, [4])], [helper.make_tensor_value_info("y", 1, [4])]
        )
    )
    said = f"NotImplemented: Could not find an implementation for Erf(13) node with name '{name}'"
    found = cause(case(model.SerializeToString()), broken(said, verdict="refused"))
    assert found.ops == ("Erf",)
    assert found.message == "NotImplemented: Could not find an implementation for Erf(#) node with name '<name>'"


def test_different_operators_verdicts_backends_and_types_differ() -> None:
    wrong = Verdict("onnxruntime", "all", "wrong", output="y")
    keys = {
        cause_key(case(chain("Sin", "Relu")), wrong),
        cause_key(case(chain("Sin", "Tanh")), wrong),
        cause_key(case(chain("Sin", "Relu")), Verdict("tvm", "fused", "wrong", output="y")),
        cause_key(case(chain("Sin", "Relu")), Verdict("onnxruntime", "all", "nonfinite", output="y")),
        cause_key(case(chain("Sin", "Relu", dtype="double")), wrong),
        cause_key(case(chain("Sin", "Relu")), Verdict("onnxruntime", "off", "wrong", output="y")),
        cause_key(case(chain("Sin", "Relu")), broken("Fail: one thing")),
        cause_key(case(chain("Sin", "Relu")), broken("Fail: another thing")),
    }
    assert len(keys) == 8


def test_pattern_is_that_of_the_least_optimised_failing_setting() -> None:
    model = case(chain("Sin", "Relu"))
    verdicts = [Verdict("onnxruntime", s, "wrong", output="y") for s in ("off", "all")]
    assert cause(model, verdicts[1], verdicts=verdicts).pattern == "always"
    assert cause(model, verdicts[1]).pattern == "optimised"


def test_an_output_behind_identity_blames_what_computes_it() -> None:
    assert cause(case(chain("Sin", "Exp", "Identity", "Identity")), Verdict("tvm", "fused", "wrong", output="y")).ops == ("Exp",)


def test_words_that_are_operators_too_are_not_blamed() -> None:
    said = "Fail: Type Error: Shape of initializer does not match. {1} != {}"
    found = cause(case(chain("Shape", "Sin", "Cos", "Tan", "Relu")), broken(said))
    assert found.ops == ()


def test_a_value_named_in_the_message_blames_its_maker() -> None:
    said = "Fail: Type Error: Shape of initializer v1 does not match. {1} != {}"
    assert cause(case(chain("Shape", "Sin", "Cos", "Tan", "Relu")), broken(said)).ops == ("Sin",)


def test_crashes_differ_by_stage() -> None:
    model = case(chain("Sin", "Cos", "Tan", "Relu", "Abs"))
    died = Verdict("tvm", "fused", "crash", message="killed by signal 11 (SIGSEGV)")
    keys = {cause_key(model, died, [Outcome("tvm", "fused", "crash", stage=stage)]) for stage in ("load", "run")}  # type: ignore[arg-type]
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Input shape:{2,3}, requested shape:{5}", "Input shape:{7,1,1}, requested shape:{5,?}"),
        ("at 0x7f00aa12 in /tmp/tmpab12/model.so", "at 0x7f00bb34 in /var/tmp/x/model.so"),
        ("D:\\a\\_work\\core\\graph.cc:12 bad", "/src/core/graph.cc:99 bad"),
        ("error: 'tmp4' was not declared", "error: 'tmp17' was not declared"),
        ("value -1.5e-3 out of range", "value nan out of range"),
    ],
)
def test_numbers_shapes_paths_and_addresses_go(a: str, b: str) -> None:
    assert normalise(a) == normalise(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [("expects tensor(int64)", "expects tensor(int32)"), ("conv1d failed", "conv2d failed"), ("graph.cc:1 bad", "session.cc:1 bad"), ("float16", "bfloat16")],
)
def test_what_tells_causes_apart_stays(a: str, b: str) -> None:
    assert normalise(a) != normalise(b)


def test_unnamed_models_can_be_keyed() -> None:
    model = onnx.load_from_string(chain("Sin", "Relu"))
    for node in model.graph.node:
        node.name = ""
    assert cause(case(model.SerializeToString()), broken("")).ops == ("Sin", "Relu")


def test_source_files_and_optypes_name_operators() -> None:
    model = case(chain("Sin", "Cast", "Max", "LRN", "Relu"))
    assert cause(model, broken("Fail: Exception during initialization: /src/cpu/cast_op.cc:12 Attribute saturate is only")).ops == ("Cast",)
    assert cause(model, broken("Fail: Type parameter (T) of Optype (Max) bound to different types")).ops == ("Max",)
    assert cause(model, broken("Fail: lrn.h:12 size_ % 2 == 1 was false")).ops == ("LRN",)
    assert cause(model, broken("Fail: tensor.h:12 bad")).ops == ()


def test_a_wrong_shape_is_one_defect_in_all_types() -> None:
    def shape(kind: str, message: str) -> str:
        return cause_key(case(chain("Sin", "NonZero", dtype=kind)), Verdict("onnxruntime", "off", "mistyped", output="y", message=message))

    assert shape("float", "shape [1, 1], expected [0, 1]") == shape("double", "shape [2], expected [3]")
    assert shape("float", "shape [1], expected [0]") != shape("float", "type float64, declared float")
    assert shape("float", "type float64, declared float") != shape("double", "type float32, declared double")


def test_writing_into_an_input_blames_its_readers() -> None:
    found = cause(case(chain("Sin", "Relu")), Verdict("onnxruntime", "off", "unstable", message="wrote into its input x"))
    assert found.ops == ("Sin",) and found.message == "wrote into its input x"
