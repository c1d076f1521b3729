"""Every operator is covered, or stands in left_out.json with the reason: never both, never neither."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import specs
from fuzzer.coverage import WRAPPED, covered
from fuzzer.grow import OPSETS
from oracles.plugin import backends
from oracles.pool import run
from oracles.records import Case
from specs.contrib import MICROSOFT
from specs.operator import operators
from tests.specs.selfcheck import draw_one

LEFT_OUT: dict[str, dict[str, dict[str, str]]] = json.loads((Path(specs.__path__[0]) / "left_out.json").read_text())
DEFAULT, CONTRIB = LEFT_OUT["default domain"], LEFT_OUT[MICROSOFT]


def newest() -> dict[str, onnx.defs.OpSchema]:
    """The default domain's operators at the newest opset of the installed onnx, without the deprecated ones."""
    found = {s.name: s for s in onnx.defs.get_all_schemas() if s.domain == ""}
    return {n: s for n, s in found.items() if not s.deprecated}


def test_every_operator_of_the_default_domain_has_a_spec_or_a_reason() -> None:
    names, known = set(newest()), {name for domain, name in operators() if not domain}
    assert len(names) >= 201
    assert names - known == set(DEFAULT["no spec"])


def test_every_spec_is_drawn_or_has_a_reason() -> None:
    drawn = {o.name for o in covered().values() if not o.domain}
    known = {name for domain, name in operators() if not domain}
    assert known - drawn == set(DEFAULT["not drawn"])
    assert set(WRAPPED) <= drawn


@pytest.mark.backends
@pytest.mark.parametrize("name", ["CausalConvWithState", "LinearAttention", "SwiGLU"])
def test_what_begins_behind_the_drawn_opsets_no_compiler_takes(name: str) -> None:
    """Should this fail, OPSETS may go on to that opset."""
    op = operators()["", name]
    assert op.since > max(OPSETS) and op.draw is not None
    made = draw_one(op, 0)
    assert made is not None
    assert told(made.case) == {"unsupported"}


def test_every_kernel_of_onnx_runtime_outside_onnx_has_a_spec_or_a_reason() -> None:
    state = pytest.importorskip("onnxruntime.capi.onnxruntime_pybind11_state")
    kernels = {d.op_name for d in state.get_all_opkernel_def() if d.domain == MICROSOFT and d.provider == "CPUExecutionProvider"}
    known = {name for domain, name in operators() if domain == MICROSOFT}
    import onnxruntime

    missing = kernels - known - set(CONTRIB["no spec"])
    assert not missing or onnxruntime.__version__ != "1.31.1", f"neither covered nor left out with a reason: {sorted(missing)}"
    assert not known & set(CONTRIB["no spec"])


def test_reasons_are_given() -> None:
    for where in LEFT_OUT.values():
        for reasons in where.values():
            assert all(len(reason) > 20 for reason in reasons.values())


@pytest.mark.backends
def test_nobody_implements_image_decoder() -> None:
    """Should this fail, ImageDecoder wants a drawing."""
    node = onnx.helper.make_node("ImageDecoder", ["x"], ["y"])
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.UINT8, s) for n, s in (("x", [10]), ("y", [None, None, 3])))
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
    assert told(Case(model, {"x": np.zeros(10, np.uint8)})) == {"unsupported"}


def told(case: Case) -> set[str]:
    """How the compilers that are here end."""
    return {o.status for name in ("onnxruntime", "tvm") if backends()[name].available() for o in run(case, name)} or {"unsupported"}


@pytest.mark.parametrize("name", ["Scatter", "Upsample"])
def test_what_is_deprecated_cannot_be_drawn(name: str) -> None:
    found = onnx.defs.get_schema(name, max(OPSETS), "")
    assert found.deprecated and found.since_version <= min(OPSETS)
