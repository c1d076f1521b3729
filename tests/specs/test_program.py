"""Programs: models parsed and evaluated, in declared and in promoted types, with functions and sub-graphs, and what is refused."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import helper, numpy_helper

import specs
from specs.program import Program, compiled
from specs.rule import Unsupported, UsageError


def model(text: str, opset: int = 18, extra: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}{extra}]> {text}')


X = np.array([[1.5, -2.0], [0.25, 4.0]], np.float32)


def run(text: str, opset: int = 18, extra: str = "", **inputs: np.ndarray) -> dict[str, np.ndarray]:
    return specs.run(model(text, opset, extra), inputs)


# types of a run ------------------------------------------------------------------------------------------------------
def test_declared_types_round_and_promoted_ones_do_not() -> None:
    m = model("agraph (float16[1] x) => (float16[1] y) { e = Exp(x) y = Mul(e, e) }")
    x = np.array([1.0], np.float16)
    declared, promoted = specs.run(m, {"x": x})["y"], specs.run(m, {"x": x}, "float64")["y"]
    assert declared.dtype == np.float16 and promoted.dtype == np.float64
    assert promoted[0] == pytest.approx(np.exp(1.0) ** 2, rel=1e-15)
    assert declared[0] == np.float16(np.float16(np.exp(np.float16(1))) ** 2)
    assert specs.run(m, {"x": x}, torch.float32)["y"].dtype == np.float32


def test_integers_are_never_promoted() -> None:
    m = model("agraph (int8[2] x) => (int8[2] y, int8[2] z) { y = Add(x, x) z = Neg(y) }")
    got = specs.run(m, {"x": np.array([100, -3], np.int8)}, "float64")
    assert got["y"].dtype == np.int8 and got["y"].tolist() == [-56, -6] and got["z"].tolist() == [56, 6]


@pytest.mark.parametrize(("kind", "dtype"), [("uint16", np.uint16), ("uint32", np.uint32), ("uint64", np.uint64), ("uint8", np.uint8)])
def test_unsigned_integers_wrap_at_their_own_width(kind: str, dtype: type) -> None:
    top = np.iinfo(dtype).max
    got = run(f"agraph ({kind}[2] x) => ({kind}[2] y) {{ y = Add(x, x) }}", x=np.array([top, 3], dtype))["y"]
    assert got.dtype == dtype and got.tolist() == [top - 1, 6]


def test_a_name_of_a_type_is_as_good_as_the_type() -> None:
    m = model("agraph (float[2,2] x) => (float[2,2] y) { y = Sqrt(x) }").SerializeToString()
    a, b = specs.run(m, {"x": X}, "float64"), specs.run(m, {"x": X}, torch.float64)
    np.testing.assert_array_equal(a["y"], b["y"])


# attributes and versions ---------------------------------------------------------------------------------------------
def test_defaults_come_from_the_schema() -> None:
    """LeakyRelu's alpha, LogSoftmax's axis, Gemm's factors: nobody wrote them."""
    got = run("agraph (float[2,2] x) => (float[2,2] y, float[2,2] z) { y = LeakyRelu(x) z = Softmax(x) }", x=X)
    np.testing.assert_allclose(got["y"], np.where(X < 0, np.float32(0.01) * X, X))
    np.testing.assert_allclose(got["z"].sum(-1), 1, rtol=1e-6)


def test_the_opset_decides_what_a_default_means() -> None:
    """Softmax before opset 13 works on everything from axis 1 on, after it on the last axis."""
    x = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    text = "agraph (float[2,2,2] x) => (float[2,2,2] y) { y = Softmax(x) }"
    assert run(text, 11, x=x)["y"].sum() == pytest.approx(2, rel=1e-6)
    assert run(text, 13, x=x)["y"].sum() == pytest.approx(4, rel=1e-6)


def test_axes_may_be_an_attribute_or_an_input() -> None:
    old = run("agraph (float[2,2] x) => (float[2,1] y) { y = ReduceMean <axes = [1]> (x) }", 13, x=X)["y"]
    new = run("agraph (float[2,2] x) => (float[2,1] y) <int64[1] a = {1}> { y = ReduceMean(x, a) }", 18, x=X)["y"]
    np.testing.assert_array_equal(old, new)


def test_ai_onnx_is_the_empty_domain() -> None:
    m = helper.make_model(
        helper.make_graph(
            [helper.make_node("Neg", ["x"], ["y"], domain="ai.onnx")],
            "g",
            [helper.make_tensor_value_info("x", 1, [2])],
            [helper.make_tensor_value_info("y", 1, [2])],
        ),
        opset_imports=[helper.make_opsetid("ai.onnx", 18)],
    )
    assert specs.run(m, {"x": np.array([1, -2], np.float32)})["y"].tolist() == [-1, 2]


# functions, sub-graphs, sequences ------------------------------------------------------------------------------------
FUNCTION = """
agraph (float[2,2] x) => (float[2,2] y) { y = local.twice(x) }
<domain: "local", opset_import: ["" : 18, "local" : 1]> twice (a) => (c) { b = local.once(a) c = local.once(b) }
<domain: "local", opset_import: ["" : 18]> once (a) => (b) { one = Constant <value_float = 1.0> () b = Add(a, one) }
"""


def test_functions_are_inlined_within_each_other() -> None:
    np.testing.assert_array_equal(run(FUNCTION, extra=', "local" : 1', x=X)["y"], X + 2)


def test_a_branch_sees_the_values_around_it_and_only_it_is_run() -> None:
    text = """agraph (bool c, float[2,2] x) => (float[2,2] y) {
        n = Neg(x)
        y = If (c) <then_branch = g1 () => (float[2,2] t) { t = Add(n, x) },
                    else_branch = g2 () => (float[2,2] e) { e = Identity(n) }>
    }"""
    assert not run(text, c=np.array(True), x=X)["y"].any()
    np.testing.assert_array_equal(run(text, c=np.array(False), x=X)["y"], -X)


def test_a_loop_carries_and_collects() -> None:
    text = """agraph (int64 n, float[2] x) => (float[2] last, float[k,2] all) <bool on = {1}> {
        last, all = Loop (n, on, x) <body = b (int64 i, bool go, float[2] v) => (bool go_on, float[2] w, float[2] seen)
            { go_on = Identity(go) w = Add(v, v) seen = Identity(v) }>
    }"""
    got = run(text, n=np.array(3), x=np.array([1, -1], np.float32))
    assert got["last"].tolist() == [8, -8] and got["all"].tolist() == [[1, -1], [2, -2], [4, -4]]


def test_sequences_and_optionals_go_in_and_out() -> None:
    got = run("agraph (seq(float[2]) s) => (float[2] y, seq(float[2]) t) <int64 i = {-1}> { y = SequenceAt(s, i) t = SequenceErase(s) }", s=[X[0], X[1]])  # type: ignore[arg-type]
    assert got["y"].tolist() == X[1].tolist() and [a.tolist() for a in got["t"]] == [X[0].tolist()]
    text = "agraph (optional(float[2]) o) => (bool y) { y = OptionalHasElement(o) }"
    assert bool(run(text, o=X[0])["y"]) and not bool(run(text, o=None)["y"])  # type: ignore[arg-type]


def test_strings_pass_through() -> None:
    words = np.array(["a", "é"], object)
    got = run("agraph (string[2] x) => (string[2] y, string[1] z) <int64[1] i = {1}> { y = Identity(x) z = Gather(x, i) }", x=words)
    assert got["y"].tolist() == ["a", "é"] and got["z"].tolist() == ["é"]


def test_initializers_that_are_inputs_need_not_be_fed() -> None:
    m = model("agraph (float[2,2] x) => (float[2,2] y) <float[2,2] w = {1, 1, 1, 1}> { y = Add(x, w) }")
    m.graph.input.append(helper.make_tensor_value_info("w", 1, [2, 2]))
    np.testing.assert_array_equal(specs.run(m, {"x": X})["y"], X + 1)


def test_symbolic_dimensions_take_any_size() -> None:
    m = model("agraph (float[N,M] x) => (float[M,N] y) { y = Transpose(x) }")
    for shape in ((1, 3), (2, 2), (0, 4)):
        assert specs.run(m, {"x": np.zeros(shape, np.float32)})["y"].shape == shape[::-1]


def test_every_value_can_be_kept_and_programs_are_cached() -> None:
    m = model("agraph (float[2,2] x) => (float[2,2] y) { a = Abs(x) y = Neg(a) }").SerializeToString()
    p = Program(m)
    kept = p.run(p.feeds({"x": X}), keep=True)
    assert set(kept) == {"x", "a", "y"}
    assert compiled(m) is compiled(m)
    assert compiled(m, torch.float64) is not compiled(m)
    assert p.inputs["x"][1] == [2, 2] and p.outputs == ["y"] and str(p.graph.nodes[0]) == "Abs(x) -> a"


def test_inputs_are_not_written_to() -> None:
    x = X.copy()
    x.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run("agraph (float[2,2] x) => (float[2,2] y) { y = Relu(x) }", x=x)
    np.testing.assert_array_equal(x, X)


# what is refused -----------------------------------------------------------------------------------------------------
def test_an_operator_without_a_meaning() -> None:
    with pytest.raises(Unsupported, match=r"no meaning for operator acme\.Frobnicate"):
        run("agraph (float[2,2] x) => (float[2,2] y) { y = acme.Frobnicate(x) }", extra=', "acme" : 1', x=X)


def test_an_element_type_without_a_meaning() -> None:
    m = model("agraph (float[2] x) => (float[2] y) { y = Neg(x) }")
    m.graph.initializer.append(onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT6E2M3, dims=[1], raw_data=b"\0"))
    with pytest.raises(Unsupported, match="element type 27"):
        specs.run(m, {"x": X[0]})


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({}, "input 'x' is missing; the model needs x"),
        ({"x": X.astype(np.float64)}, "input 'x' has type float64, the model declares float"),
        ({"x": X[0]}, r"input 'x' has shape \[2\], the model declares \[2, 2\]"),
        ({"x": np.zeros((2, 3), np.float32)}, r"input 'x' has shape \[2, 3\], the model declares \[2, 2\]"),
    ],
)
def test_inputs_that_do_not_fit(inputs: dict[str, np.ndarray], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        run("agraph (float[2,2] x) => (float[2,2] y) { y = Neg(x) }", **inputs)


def test_bytes_that_are_no_model() -> None:
    with pytest.raises(UsageError, match="not an ONNX model"):
        specs.run(b"\x08\xff\xff this is not protobuf", {})


# reading attributes --------------------------------------------------------------------------------------------------
def test_attributes_read_as_python_values() -> None:
    tensor = numpy_helper.from_array(np.array([1, 2], np.int32))
    m = model('agraph (float[1,1,4,4] x) => (float[1,1,2,2] y) { y = MaxPool <kernel_shape = [2, 2], strides = [2, 2], auto_pad = "VALID"> (x) }')
    node = Program(m).graph.nodes[0]
    assert node.kernel_shape == [2, 2] and node.auto_pad == "VALID" and node.ceil_mode == 0 and node.dilations is None and node.nothing_of_that_name is None
    constant = helper.make_model(
        helper.make_graph([helper.make_node("Constant", [], ["y"], value=tensor)], "g", [], [helper.make_tensor_value_info("y", 6, [2])]),
        opset_imports=[helper.make_opsetid("", 18)],
    )
    form, array = Program(constant).graph.nodes[0].value
    assert form.name == "int32" and array.tolist() == [1, 2]
