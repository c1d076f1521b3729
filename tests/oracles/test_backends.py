"""Backends: what is registered, what `--backends` may say, what a refusal sounds like, and that the real ones answer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import helper, numpy_helper

from oracles import plugin, pool
from oracles.backends import onnxruntime as ort
from oracles.backends import tvm
from oracles.failures import classify, tidy
from oracles.plugin import Target
from oracles.records import Case
from specs.formats import BY_NAME, FLOAT4E2M1, INT4, UINT2, UINT4
from specs.rule import Unsupported, UsageError

ROOT = Path(__file__).resolve().parents[2]
INFO = helper.make_tensor_value_info


def case(nodes: list, inputs: dict[str, np.ndarray], outputs: dict[str, int], weights: dict[str, np.ndarray] | None = None, opset: int = 20) -> Case:
    graph = helper.make_graph(
        nodes,
        "g",
        [INFO(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()],
        [INFO(n, t, None) for n, t in outputs.items()],
        [numpy_helper.from_array(a, n) for n, a in (weights or {}).items()],
    )
    return Case(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10).SerializeToString(), inputs)


def small(dtype: object = np.float32) -> Case:
    """Relu(x) @ w + x: something to fuse, exact in every float type."""
    x = (np.arange(9).reshape(3, 3) - 4).astype(dtype)
    w = np.eye(3, k=1).astype(dtype)
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["b"]), helper.make_node("Add", ["b", "x"], ["y"])]
    return case(nodes, {"x": x}, {"y": helper.np_dtype_to_tensor_dtype(np.dtype(dtype))}, {"w": w})


def small_answer() -> list[list[float]]:
    x = np.arange(9.0).reshape(3, 3) - 4
    return (np.maximum(x, 0) @ np.eye(3, k=1) + x).tolist()


# the registry --------------------------------------------------------------------------------------------------------
def test_listing_the_backends_imports_no_compiler() -> None:
    code = "import sys; from oracles import plugin; print(*plugin.backends()); print([m for m in ('torch', 'tvm', 'onnxruntime') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    names, imported = done.stdout.splitlines()
    assert {"inductor", "liar", "null", "onnxruntime", "reference", "torch", "tvm"} <= set(names.split())
    assert imported == "[]"


def test_every_backend_says_what_it_is() -> None:
    for b in plugin.backends().values():
        assert set(b.default) <= set(b.settings) and b.reference_setting in (None, *b.settings), b.name
        assert b.available() == (not b.missing()) and (b.version() or b.missing()), b.name


def test_what_the_user_may_write() -> None:
    assert plugin.parse("onnxruntime") == [Target("onnxruntime", ("off", "all"))]
    assert plugin.parse("onnxruntime:basic, tvm:*") == [Target("onnxruntime", ("basic",)), Target("tvm", ("default", "fused", "random"))]
    assert plugin.parse("tvm:fused,tvm:default,tvm:fused") == [Target("tvm", ("fused", "default"))]
    assert plugin.parse("onnxruntime:off+all") == [Target("onnxruntime", ("off", "all"))]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("onxruntime", "no backend 'onxruntime' (did you mean 'onnxruntime'?); there are "),
        ("tvm:fuse", "backend 'tvm' has no setting 'fuse' (did you mean 'fused'?); it has default, fused, random"),
        ("tvm,,null", "a name is missing between two commas"),
        ("", "a name is missing"),
    ],
)
def test_mistakes_are_answered_with_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UsageError) as e:
        plugin.parse(text)
    assert sentence in str(e.value)


def test_a_missing_compiler_is_an_outcome_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin.backends()

    @plugin.backend("absent", requires=["no_such_compiler"], install="pip install no-such-compiler")
    def absent(model: bytes, setting: str) -> plugin.Compiled:
        raise AssertionError("never called")

    try:
        (outcome,) = pool.run(small(), "absent")
        assert outcome.status == "missing" and "pip install no-such-compiler" in outcome.message
        assert plugin.find("absent").version() is None
    finally:
        del plugin._registry["absent"]


def test_a_name_can_be_taken_only_once() -> None:
    plugin.backends()
    with pytest.raises(ValueError, match="already registered"):
        plugin.backend("tvm")(lambda model, setting: dict)
    with pytest.raises(ValueError, match="settings among"):
        plugin.backend("new", settings=["a"], default=["b"])


# failures ------------------------------------------------------------------------------------------------------------
class OpNotImplemented(Exception):
    pass


@pytest.mark.parametrize(
    ("backend", "error", "status"),
    [
        ("tvm", OpNotImplemented("The following operators are not supported for frontend ONNX: GRU"), "unsupported"),
        ("tvm", ValueError("Dynamic Split not yet supported"), "unsupported"),
        ("tvm", AssertionError("Only constant depth currently supported."), "unsupported"),
        ("tvm", ValueError("TopK k must be a constant"), "unsupported"),
        ("tvm", RuntimeError("Check failed: shape.size() == indices.size() (1 vs. 0) : Tensor dimension mismatch in read ndim = 1, indices.size=0"), "error"),
        ("tvm", KeyError("num_heads"), "error"),
        ("tvm", TypeError("Binary operators must have the same datatype for both operands."), "error"),
        (
            "onnxruntime",
            RuntimeError("[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for Max(13) node with name ''"),
            "unsupported",
        ),
        (
            "onnxruntime",
            RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Fatal error: ai.onnx.preview:FlexAttention(-1) is not a registered function/op"),
            "unsupported",
        ),
        ("onnxruntime", RuntimeError("[ONNXRuntimeError] : 1 : FAIL : Type Error: Type parameter (T) of Optype (Add) bound to different types"), "error"),
        ("onnxruntime", RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 1"), "oom"),
        ("torch", RuntimeError("\"softmax_lastdim_kernel_impl\" not implemented for 'Int'"), "unsupported"),
        ("torch", NotImplementedError("whatever"), "unsupported"),
        ("torch", RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"), "error"),
        ("null", Unsupported("no meaning"), "unsupported"),
        ("null", MemoryError(), "oom"),
    ],
)
def test_a_refusal_is_told_from_a_failure(backend: str, error: Exception, status: str) -> None:
    assert classify(error, plugin.find(backend).unsupported)[0] == status


def test_messages_are_the_same_in_the_next_run() -> None:
    text = "\x1b[31mRuntimeError\x1b[0m at 0x7f00deadbeef\n\n  12:30:01 in /tmp/assay-12-ab/inductor-x/k3/ck.cpp:3\n" + "more\n" * 50
    other = text.replace("7f00deadbeef", "7fffaaaa1111").replace("assay-12-ab", "assay-99-zz").replace("12:30:01", "13:31:02")
    assert tidy(text) == tidy(other)
    assert tidy(text).splitlines()[0] == "RuntimeError at 0x?" and len(tidy(text).splitlines()) == 8


# the real ones ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["onnxruntime:*", "tvm:*", "torch", "null", "reference"])
def test_it_answers(text: str) -> None:
    for o in pool.run(small(), text, timeout=120):
        assert o.status == "ok" and o.outputs is not None, o.message
        assert o.outputs["y"].tolist() == small_answer() and o.again is None, o.setting
        assert o.outputs["y"].dtype == (np.float64 if text == "reference" else np.float32)


@pytest.mark.slow
def test_inductor_answers() -> None:
    for o in pool.run(small(), "inductor:*", timeout=200):
        assert o.status == "ok" and o.outputs is not None, o.message
        assert o.outputs["y"].tolist() == small_answer(), o.setting


def test_types_numpy_lacks_go_through_onnxruntime() -> None:
    x = np.array([-3, 5, 1], ml_dtypes.int4)
    nodes = [helper.make_node("DequantizeLinear", ["x", "s"], ["y"]), helper.make_node("QuantizeLinear", ["y", "s"], ["z"], output_dtype=INT4.onnx)]
    c = case(nodes, {"x": x}, {"y": 1, "z": INT4.onnx}, {"s": np.float32(1)}, opset=21)
    (o,) = pool.run(c, "onnxruntime:off")
    assert o.outputs is not None, o.message
    assert o.outputs["y"].tolist() == [-3, 5, 1] and o.outputs["z"].dtype == ml_dtypes.int4 and o.outputs["z"].astype(int).tolist() == [-3, 5, 1]
    for name in ("bfloat16", "float8e4m3fn", "float8e5m2fnuz"):
        form = BY_NAME[name]
        (o,) = pool.run(case([helper.make_node("Identity", ["x"], ["y"])], {"x": np.array([1, 2, 3]).astype(form.numpy)}, {"y": form.onnx}), "onnxruntime:off")
        assert o.outputs is not None and o.outputs["y"].dtype == form.numpy and o.outputs["y"].astype(float).tolist() == [1, 2, 3], o.message


@pytest.mark.parametrize("form", [INT4, UINT4, UINT2, FLOAT4E2M1])
def test_packing_is_undone(form: object) -> None:
    assert hasattr(form, "bits")
    low = 0 if form.kind != "int" else form.lowest  # type: ignore[attr-defined]
    values = (np.arange(7) % 4 + low).astype(form.numpy)  # type: ignore[attr-defined]
    raw = ort.packed(values, form.bits)  # type: ignore[attr-defined]
    assert len(raw) == -(-7 * form.bits // 8)  # type: ignore[attr-defined]
    assert ort.unpacked(raw, form, (7,)).tolist() == values.tolist()  # type: ignore[arg-type]


def test_refusals_of_the_real_ones() -> None:
    gru = case(
        [helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=1)],
        {"x": np.ones((1, 1, 1), np.float32)},
        {"y": 1},
        {"w": np.ones((1, 3, 1), np.float32), "r": np.ones((1, 3, 1), np.float32)},
    )
    complexes = case([helper.make_node("Identity", ["x"], ["y"])], {"x": np.ones(2, np.complex64)}, {"y": 14})
    assert [o.status for o in pool.run(gru, "tvm:default,onnxruntime:off", timeout=60)] == ["unsupported", "ok"]
    assert [o.status for o in pool.run(complexes, "onnxruntime:off")] == ["unsupported"]


def test_random_passes_depend_on_the_model_alone() -> None:
    lists = {tuple(tvm.passes(bytes([i]), "random")) for i in range(20)}
    assert len(lists) == 20 and all(tvm.passes(bytes([i]), "random") == tvm.passes(bytes([i]), "random") for i in range(3))
    for names in lists:
        assert names.index("LegalizeOps") < names.index("CallTIRRewrite") < names.index("VMShapeLower")
        assert ("FuseTIR" in names) == ("FuseOps" in names)


def test_inductor_follows_the_values_of_parameters() -> None:
    """Axes and sizes given as tensors are read while tracing, and read again when they change."""
    from oracles.backends import inductor

    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    c = case([helper.make_node("CumSum", ["x", "axis"], ["y"])], {"x": x, "axis": np.array(0, np.int64)}, {"y": 1})
    compiled = inductor.inductor(c.model, "off")
    for axis in (0, 1, -1):
        assert compiled({"x": x, "axis": np.array(axis, np.int64)})["y"].tolist() == np.cumsum(x, axis).tolist()
