"""Recurrences and attention against torch's own modules, which share no code with the meanings; sound radii on the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, parser

import specs
from oracles.reference import reference
from specs.program import Program


def model(op: str, inputs: dict[str, np.ndarray | None], outputs: list[str], opset: int = 22, **attrs: Any) -> onnx.ModelProto:
    names = [n if v is not None else "" for n, v in inputs.items()]
    node = helper.make_node(op, names, outputs, **attrs)
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in inputs.items() if v is not None]
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name=o) for o in outputs if o])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def given(inputs: dict[str, np.ndarray | None]) -> dict[str, np.ndarray]:
    return {n: v for n, v in inputs.items() if v is not None}


def random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


#: torch's order of gates, as blocks of ONNX's.
GATES = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 2, 3, 1]}


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("layout", [0, 1])
def test_as_torch(kind: str, directions: int, layout: int) -> None:
    length, batch, size, hidden, gates = 5, 3, 4, 6, len(GATES[kind])
    module = getattr(torch.nn, kind)(size, hidden, bidirectional=directions == 2, batch_first=bool(layout))
    order = np.argsort(GATES[kind])

    def blocks(name: str) -> np.ndarray:
        parts = [getattr(module, f"{name}_l0{suffix}").detach().numpy() for suffix in ("", "_reverse")[:directions]]
        return np.stack([np.concatenate([np.split(p, gates)[i] for i in order]) for p in parts])

    inputs: dict[str, np.ndarray | None] = {
        "x": random(batch, length, size) if layout else random(length, batch, size),
        "w": blocks("weight_ih"),
        "r": blocks("weight_hh"),
        "b": np.concatenate([blocks("bias_ih"), blocks("bias_hh")], 1),
        "lengths": None,
        "h": random(batch, directions, hidden) if layout else random(directions, batch, hidden),
    }
    attrs: dict[str, Any] = {"hidden_size": hidden, "direction": "bidirectional" if directions == 2 else "forward", "layout": layout}
    if kind == "GRU":
        attrs["linear_before_reset"] = 1
    proto = model(kind, inputs, ["y", "last"], **attrs)
    h = torch.from_numpy(inputs["h"].swapaxes(0, 1).copy() if layout else inputs["h"])  # type: ignore[union-attr]
    state = (h, torch.zeros_like(h)) if kind == "LSTM" else h
    with torch.no_grad():
        want, _ = module(torch.from_numpy(inputs["x"]), state)
    want = want.numpy().reshape(*want.shape[:2], directions, hidden)
    got = specs.run(proto, given(inputs))["y"]
    np.testing.assert_allclose(got, want if layout else want.transpose(0, 2, 1, 3), rtol=1e-5, atol=1e-6)
    ball = reference(Program(proto, torch.float64), given(inputs))["y"].ball
    assert bool(((torch.from_numpy(got).double() - ball.value).abs() <= ball.worst).all())
    assert float(ball.worst.max()) < 1e-3


def test_lengths_end_each_sequence_by_itself() -> None:
    x, w, r = random(4, 2, 3), random(1, 5, 3), random(1, 5, 5)
    inputs = {"x": x, "w": w, "r": r, "b": None, "lengths": np.array([2, 4], np.int32)}
    got = specs.run(model("RNN", inputs, ["y", "last"], hidden_size=5, direction="reverse"), given(inputs))
    alone = {"x": x[:2, :1], "w": w, "r": r}
    want = specs.run(model("RNN", alone, ["y", "last"], hidden_size=5, direction="reverse"), alone)
    np.testing.assert_allclose(got["y"][:2, :, :1], want["y"], rtol=1e-6)
    np.testing.assert_allclose(got["last"][:, :1], want["last"], rtol=1e-6)
    assert not got["y"][2:, :, 0].any()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("flat", [False, True])
def test_attention_as_torch(causal: bool, group: int, flat: bool) -> None:
    q, k, v = random(2, 4, 5, 8), random(2, 4 // group, 5, 8), random(2, 4 // group, 5, 6)
    tensors = [torch.from_numpy(t) for t in (q, k, v)]
    want = torch.nn.functional.scaled_dot_product_attention(*tensors, is_causal=causal, enable_gqa=group > 1).numpy()
    attrs: dict[str, Any] = {"is_causal": int(causal)}
    inputs: dict[str, np.ndarray | None] = {"q": q, "k": k, "v": v}
    if flat:
        attrs |= {"q_num_heads": 4, "kv_num_heads": 4 // group}
        inputs = {n: t.transpose(0, 2, 1, 3).reshape(2, 5, -1) for n, t in (("q", q), ("k", k), ("v", v))}
        want = want.transpose(0, 2, 1, 3).reshape(2, 5, -1)
    proto = model("Attention", inputs, ["y"], 23, **attrs)
    np.testing.assert_allclose(specs.run(proto, given(inputs))["y"], want, rtol=1e-5, atol=1e-6)
    ball = reference(Program(proto, torch.float64), given(inputs))["y"].ball
    assert bool(((torch.from_numpy(want).double() - ball.value).abs() <= ball.worst).all())


def test_a_query_without_keys_gives_zeros() -> None:
    inputs: dict[str, np.ndarray | None] = {
        "q": random(1, 1, 2, 4),
        "k": random(1, 1, 3, 4),
        "v": random(1, 1, 3, 4),
        "mask": np.array([[False] * 3, [True] * 3]),
    }
    got = specs.run(model("Attention", inputs, ["y"], 23), given(inputs))["y"]
    assert not got[0, 0, 0].any()
    assert got[0, 0, 1].all()


def test_overflow_inside_a_formula_is_undecided() -> None:
    half = np.float16
    inputs: dict[str, np.ndarray | None] = {"q": np.full((1, 1, 1, 2), 300, half), "k": np.full((1, 1, 2, 2), 300, half), "v": random(1, 1, 2, 2).astype(half)}
    ball = reference(Program(model("Attention", inputs, ["y"], 23), torch.float64), given(inputs))["y"].ball
    assert bool(torch.isinf(ball.worst).all())


def test_a_sum_may_begin_with_the_bias() -> None:
    """GEMM adds its products to the bias one by one, each rounded at the size of the bias; the bound was once that of one addition."""
    text = """<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[1,1,8] x, float[8,12] w, float[12] b) => (float[1,1,4] y, float[2,1,2,1,2] present)
        { y, present = com.microsoft.Attention<num_heads = 2>(x, w, b) }"""
    program = Program(parser.parse_model(text).SerializeToString(), torch.float64)
    far = 0.0
    for seed in range(40):
        draw = np.random.default_rng(seed)
        x, w, b = (draw.normal(0, s, n).astype(np.float32) for s, n in ((0.1, (1, 1, 8)), (0.1, (8, 12)), (1.0, 12)))
        total = b.copy()
        for i in range(8):
            total = total + x[0, 0, i] * w[i]
        ball = reference(program, {"x": x, "w": w, "b": b})["present"].ball
        got = torch.from_numpy(total[4:].reshape(2, 1, 2, 1, 2)).double()
        assert ball.worst is not None and bool(((got - ball.value).abs() <= ball.worst).all())
        far = max(far, float(((got - ball.value).abs() / ball.worst).max()))
    assert far > 0.2, "the bound is far from what it is for"
