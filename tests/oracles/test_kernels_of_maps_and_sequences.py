"""Shipped kernels over maps and sequences: inside the bound on drawn cases, applied exactly where they say, and every planted defect found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from oracles.backends.kernels import kernels as backend
from oracles.guard import Regime
from oracles.judge import judge
from oracles.kernel import Kernel, kernels
from oracles.native import Native
from specs.rule import Unsupported
from tests.oracles.kernel_cases import Bench, cases, caught, planted

#: Blocks and operators that draw cases of a kernel.
DRAWN = {
    "deformable-convolution": ("DeformConv",),
    "deformable-aggregation": ("dcnv4/kernel",),
    "involution": ("involution/kernel",),
    "subpixel-convolution": ("espcn-subpixel-conv/kernel",),
    "depthwise-convolution": ("unireplknet-lark-block/kernel",),
    "fft-convolution": ("sgconv/kernel", "Conv"),
    "flash-attention": ("flash-attention/kernel", "Attention"),
    "neighbourhood-attention": ("dilated-neighborhood-attention/kernel",),
    "sequential-scan": ("selective-scan/kernel",),
    "chunked-scan": ("selective-scan/kernel",),
    "soft-nms": ("soft-nms/kernel",),
    "capsule-routing": ("capsule-routing/kernel",),
}
WITHIN = 80  # cases in which a planted defect has to be found; the slowest needs a mask below zero or one stride that is not the other
FIRST = {name: next(iter(kernels()[name].defects)) for name in DRAWN}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Bench() as warm:
        yield warm


def _honest(bench: Bench, setting: str, count: int, start: int) -> float:
    """The share of elements that was compared, over so many cases of which none is a finding."""
    drawn, compared, outputs = cases(DRAWN[setting.split("@")[0]], start), 0.0, 0
    for _ in range(count):
        while not (verdicts := bench.verdicts(next(drawn), setting)):
            pass
        for v in verdicts:
            assert v.verdict in ("ok", "noise"), v
            compared, outputs = compared + 1 - v.masked, outputs + 1
    return compared / outputs


@pytest.mark.parametrize("name", DRAWN)
def test_a_kernel_stays_inside_the_bound(name: str, bench: Bench) -> None:
    assert _honest(bench, name, 12, 0) > 0.3  # a decision at an edge leaves what follows undecided


@pytest.mark.slow
@pytest.mark.parametrize("setting", [*DRAWN, *(f"{name}@{b}" for name in DRAWN for b in kernels()[name].baselines)])
def test_kernels_and_baselines_stay_inside_the_bound_over_many_draws(setting: str, bench: Bench) -> None:
    assert _honest(bench, setting, 100, 1000) > 0.3


@pytest.mark.parametrize(("name", "defect"), FIRST.items())
def test_a_planted_defect_of_every_kernel_is_found(name: str, defect: str, bench: Bench) -> None:
    assert caught(bench, name, defect, DRAWN[name], WITHIN)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "defect"), [p for p in planted(tuple(DRAWN)) if FIRST[p[0]] != p[1]])
def test_every_planted_defect_is_found(name: str, defect: str, bench: Bench) -> None:
    needed = caught(bench, name, defect, DRAWN[name], WITHIN)
    print(f"{name}!{defect}: found in case {needed}")
    assert needed


def test_enough_defects_are_planted() -> None:
    assert all(len(kernels()[name].defects) >= 3 for name in DRAWN)
    assert len(planted(tuple(DRAWN))) >= 32


# where they apply ------------------------------------------------------------------------------------------------------
def _model(op: str, shapes: list[tuple[int, ...]], opset: int = 23, kind: int = TensorProto.FLOAT, outputs: int = 1, **attrs: Any) -> onnx.ModelProto:
    names = [f"x{i}" for i in range(len(shapes))]
    results = [f"y{i}" for i in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(op, names, results, **attrs)],
        "one",
        [helper.make_tensor_value_info(n, kind, s) for n, s in zip(names, shapes, strict=True)],
        [helper.make_empty_tensor_value_info(r) for r in results],
    )
    return onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10))


def _run(model: onnx.ModelProto, setting: str, inputs: dict[str, np.ndarray] | None = None) -> Any:
    rng = np.random.default_rng(0)
    if inputs is None:
        inputs = {}
        for i in model.graph.input:
            dims = [d.dim_value for d in i.type.tensor_type.shape.dim]
            inputs[i.name] = rng.standard_normal(dims).astype(helper.tensor_dtype_to_np_dtype(i.type.tensor_type.elem_type))
    return inputs, backend(model.SerializeToString(), setting)(inputs)


APPLIES = [
    ("depthwise-convolution", _model("Conv", [(1, 4, 9, 9), (4, 1, 7, 7)], group=4, pads=[3] * 4)),
    ("depthwise-convolution", _model("Conv", [(1, 4, 9, 9), (8, 1, 3, 3)], group=4, strides=[2, 1])),
    ("fft-convolution", _model("Conv", [(2, 4, 30), (6, 2, 30)], group=2, pads=[29, 0])),
    ("fft-convolution", _model("Conv", [(1, 1, 5, 6), (1, 1, 3, 3)], dilations=[2, 1])),
    ("deformable-convolution", _model("DeformConv", [(1, 2, 5, 5), (3, 2, 3, 3), (1, 18, 5, 5)], pads=[1] * 4)),
    ("flash-attention", _model("Attention", [(1, 4, 5, 8), (1, 2, 7, 8), (1, 2, 7, 3)], is_causal=1)),
    ("flash-attention", _model("Attention", [(1, 5, 8), (1, 7, 8), (1, 7, 8)], q_num_heads=2, kv_num_heads=2)),
    ("flash-attention", _model("Attention", [(1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 3), (5, 9), (1, 2, 2, 8), (1, 2, 2, 3)], outputs=3)),
]
NOT = [
    ("depthwise-convolution", _model("Conv", [(1, 4, 9, 9), (4, 2, 3, 3)], group=2)),
    ("depthwise-convolution", _model("Conv", [(1, 4, 9), (4, 1, 3)], group=4)),
    ("depthwise-convolution", _model("Conv", [(1, 4, 9, 9), (4, 1, 3, 3)], group=4, auto_pad="SAME_UPPER")),
    ("depthwise-convolution", _model("Conv", [(1, 4, 9, 9), (4, 1, 3, 3)], group=4, kind=TensorProto.DOUBLE)),
    ("depthwise-convolution", _model("Conv", [(0, 4, 9, 9), (4, 1, 3, 3)], group=4)),
    ("fft-convolution", _model("Conv", [(1, 1, 9), (1, 1, 3)], strides=[2])),
    ("fft-convolution", _model("Conv", [(1, 1, 4, 4, 4), (1, 1, 3, 3, 3)])),
    ("deformable-convolution", _model("DeformConv", [(1, 2, 5), (3, 2, 3), (1, 3, 5)], pads=[1] * 2)),
    ("flash-attention", _model("Attention", [(1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 3)], outputs=4)),
    ("flash-attention", _model("Attention", [(1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 3)], opset=25, left_window_size=2)),
    ("flash-attention", _model("Attention", [(1, 2, 5, 8), (1, 2, 7, 8), (1, 2, 7, 3)], kind=TensorProto.FLOAT16)),
]


@pytest.mark.parametrize(("name", "model"), APPLIES)
def test_a_kernel_applies(name: str, model: onnx.ModelProto) -> None:
    inputs, outputs = _run(model, name)
    assert all(v.verdict == "ok" for v in judge(model.SerializeToString(), inputs, outputs))


@pytest.mark.parametrize(("name", "model"), NOT)
def test_a_kernel_does_not_apply(name: str, model: onnx.ModelProto) -> None:
    with pytest.raises(Unsupported, match="applies to no node"):
        _run(model, name)


# properties of their own -----------------------------------------------------------------------------------------------
def test_a_transform_is_refused_what_it_would_spread() -> None:
    model = _model("Conv", [(1, 1, 64), (1, 1, 33)], pads=[16, 16])
    x = np.ones((1, 1, 64), np.float32)
    x[0, 0, 3] = np.inf
    with pytest.raises(Unsupported, match="applies to no node"):
        _run(model, "fft-convolution", {"x0": x, "x1": np.ones((1, 1, 33), np.float32)})


def test_a_quiet_stretch_keeps_its_own_accuracy_under_the_transform() -> None:
    """Thirty orders of magnitude apart in one map: each output is inside the bound of its own window."""
    model = _model("Conv", [(1, 2, 200), (2, 1, 20)], group=2)
    rng = np.random.default_rng(1)
    x, w = (rng.standard_normal(s).astype(np.float32) for s in ((1, 2, 200), (2, 1, 20)))
    x[..., 100:] *= np.float32(1e-15)
    x[:, 1] *= np.float32(1e-15)
    inputs, outputs = _run(model, "fft-convolution", {"x0": x, "x1": w})
    assert judge(model.SerializeToString(), inputs, outputs)[0].verdict == "ok"
    _, careless = _run(model, "fft-convolution!small-outputs", inputs)
    assert judge(model.SerializeToString(), inputs, careless)[0].verdict == "wrong"


def _scan_inputs(length: int) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(2)
    u, b, c = (rng.standard_normal(s).astype(np.float32) for s in ((2, length, 19), (2, length, 5), (2, length, 5)))
    delta, rates = (np.abs(rng.standard_normal(s)).astype(np.float32) for s in ((2, length, 19), (19, 5)))
    return [u, delta, -rates, b, c, u[0, 0]], u


def test_chunks_do_not_depend_on_the_number_of_threads() -> None:
    inputs, y = _scan_inputs(300)
    chunked = Native(kernels()["chunked-scan"])
    one, three = (chunked({}, inputs, [y], Regime("threads", threads=t)) for t in (1, 3))
    assert one is not None and three is not None
    assert np.array_equal(one[0], three[0])  # type: ignore[arg-type]


def test_both_scans_agree_over_many_chunks() -> None:
    inputs, y = _scan_inputs(1000)
    a, b = (Native(kernels()[name])({}, inputs, [y]) for name in ("chunked-scan", "sequential-scan"))
    assert a is not None and b is not None and a[0] is not None and b[0] is not None
    assert float(np.abs(a[0] - b[0]).max()) < 1e-5 * float(np.abs(b[0]).max())


def test_the_scratch_of_tiled_attention_does_not_grow_with_the_sequence() -> None:
    flash, plain = (Native(kernels()["flash-attention"], symbol) for symbol in ("", "plain_attention"))

    def wanted(native: Native, length: int) -> int:
        x = np.zeros((1, 1, length, 16), np.float32)
        return native.bare({}, [x, x, x], [x]).workspace

    assert wanted(flash, 4096) == wanted(flash, 256)
    assert wanted(plain, 4096) > 200 * wanted(plain, 256)


@pytest.mark.parametrize("queries", [1, 17])
def test_attention_over_several_tiles_is_torchs(queries: int) -> None:
    rng = np.random.default_rng(3)
    q, k, v = (rng.standard_normal((2, 3, n, 20)).astype(np.float32) for n in (queries, 700, 700))
    done = Native(kernels()["flash-attention"])({}, [q, k, v], [q])
    assert done is not None
    wide = [torch.from_numpy(t).double() for t in (q, k, v)]
    want = torch.nn.functional.scaled_dot_product_attention(wide[0], wide[1], wide[2])
    assert np.allclose(done[0], want.numpy(), rtol=1e-5, atol=1e-6)  # type: ignore[arg-type]


def test_the_exponential_is_within_two_units(tmp_path: Any) -> None:
    source = tmp_path / "exponentials.cpp"
    source.write_text(
        '#include "exponential.h"\n#include "kernel.h"\n'
        'extern "C" int exponentials(const Call *call) {\n'
        "    const float *x = (const float *)call->in[0].data;\n    float *y = (float *)call->out[0].data;\n"
        "    for (int64_t i = 0; i < elements(&call->in[0]); i++) y[i] = exponential(x[i]);\n    return 0;\n}\n"
    )
    x = np.concatenate([np.linspace(-87, 88.7, 200_001), np.linspace(-1e-3, 1e-3, 2001), [0, -np.inf, np.inf, -200, 200, np.nan]]).astype(np.float32)
    done = Native(Kernel("exponentials", "Exp", source=source, symbol="exponentials"))({}, [x], [x])
    assert done is not None and done[0] is not None
    with np.errstate(over="ignore"):
        want = np.exp(x.astype(np.float64))
    units = np.abs(done[0][:-6] - want[:-6]) / np.spacing(want[:-6].astype(np.float32))
    assert float(units.max()) <= 2
    assert np.array_equal(done[0][-6:], np.array([1, 0, np.inf, 0, np.inf, np.nan], np.float32), equal_nan=True)
