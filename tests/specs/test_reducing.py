"""Reductions, matrix products, softmax and normalisations: forms that are not drawn, and bounds at the places where they are hardest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import helper

from oracles.judge import reference
from specs.program import Program
from tests.specs.test_old_forms import X, ints, one

W = X[0].T.copy()  # 4 by 3
F32 = np.float32


def softmax(x: np.ndarray, axis: Any) -> np.ndarray:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def standardised(x: np.ndarray, axes: Any, epsilon: float = 1e-5) -> np.ndarray:
    return (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + epsilon)


B, M, V = np.array([1, 2, 3], F32), np.array([0.5, 5, 20], F32), np.array([1, 4, 9], F32)
BM, BV = X.mean((0, 2)), X.var((0, 2))


def column(x: np.ndarray) -> np.ndarray:
    return x.reshape(-1, 1)


NORMED = (X - column(M)) / np.sqrt(column(V) + 1e-5) * column(B) + column(B)
TRAINED = standardised(X, (0, 2)) * column(B) + column(B)

FORMS: list[tuple[str, Callable[[], list[np.ndarray]], list[Any]]] = [
    ("Softmax-11 over all axes from one on", lambda: one("Softmax", 12, X / 8), [softmax(X / 8, (1, 2))]),
    ("Softmax-11, last axis", lambda: one("Softmax", 12, X / 8, axis=-1), [softmax(X / 8, 2)]),
    ("LogSoftmax-1, axis 0", lambda: one("LogSoftmax", 9, X / 8, axis=0), [np.log(softmax(X / 8, (0, 1, 2)))]),
    ("Hardmax-11", lambda: one("Hardmax", 12, np.array([[[1, 3], [3, 2]]], F32)), [np.array([[[0, 1], [0, 0]]], F32)]),
    ("ReduceSum-11, axes as an attribute", lambda: one("ReduceSum", 12, X, axes=[-1, 0], keepdims=0), [X.sum((0, 2))]),
    ("ReduceMax-1, all", lambda: one("ReduceMax", 8, X), [X.max(keepdims=True)]),
    ("ReduceMax-20 of nothing", lambda: one("ReduceMax", 20, X[:, :0], ints(1)), [np.full((2, 1, 4), -np.inf)]),
    ("ReduceMin-20 of no bytes", lambda: one("ReduceMin", 20, np.zeros((0, 2), np.uint8), ints(0)), [np.full((1, 2), 255)]),
    ("ReduceMax-20 of bools", lambda: one("ReduceMax", 20, X > 22, ints(2), keepdims=0), [(X > 22).any(2)]),
    ("ReduceLogSumExp-18 of nothing", lambda: one("ReduceLogSumExp", 18, X[:, :0], ints(1)), [np.full((2, 1, 4), -np.inf)]),
    ("ReduceLogSum of integers", lambda: one("ReduceLogSum", 18, np.array([3, 5], np.int32), keepdims=0), [np.array(2)]),
    ("ReduceMean of unsigned integers", lambda: one("ReduceMean", 18, np.array([2**63, 2**63 - 1], np.uint64), keepdims=0),
     [np.array((2**64 - 1) // 2, np.uint64)]),
    ("ReduceMax of unsigned integers", lambda: one("ReduceMax", 18, np.array([2**63, 1], np.uint64), keepdims=0), [np.array(2**63, np.uint64)]),
    ("ArgMin of unsigned integers", lambda: one("ArgMin", 13, np.array([2**63, 1], np.uint64), keepdims=0), [np.array(1)]),
    ("Gemm-6 without broadcasting", lambda: one("Gemm", 6, X[0], W, np.ones((3, 3), F32), alpha=2.0), [2 * X[0] @ W + 1]),
    ("Gemm-6 with it", lambda: one("Gemm", 6, X[0], W, np.ones(3, F32), broadcast=1, beta=-1.0), [X[0] @ W - 1]),
    ("Gemm of integers by a fraction", lambda: one("Gemm", 13, np.array([[3]], np.int32), np.array([[5]], np.int32), alpha=0.5), [np.array([[7]])]),
    ("Einsum, implicit, capitals first", lambda: one("Einsum", 12, X[0], W, equation="bA, Ac"), [X[0] @ W]),
    ("Einsum, implicit, transposed", lambda: one("Einsum", 12, X[0], equation="bA"), [X[0].T]),
    ("Einsum of bytes wraps", lambda: one("Einsum", 12, np.array([200, 100], np.uint8), equation="i->"), [np.array(44, np.uint8)]),
    ("BatchNormalization-1", lambda: one("BatchNormalization", 1, X, B, B, M, V, is_test=1), [NORMED]),
    ("BatchNormalization-7, not spatial", lambda: one("BatchNormalization", 7, X[:, :, 0], B, B, M, V, spatial=0),
     [((X[:, :, 0] - M) / np.sqrt(V + 1e-5) * B + B)]),
    ("BatchNormalization-9, training", lambda: one("BatchNormalization", 9, X, B, B, M, V, outputs=5),
     [TRAINED, M * 0.9 + BM * 0.1, V * 0.9 + BV * 0.1, BM, BV]),
    ("BatchNormalization-15 of rank 1", lambda: one("BatchNormalization", 15, X[0, 0], B[:1], B[:1], M[:1], V[:1]), [(X[0, 0] - 0.5) / np.sqrt(1 + 1e-5) + 1]),
    ("GroupNormalization-18, per group", lambda: one("GroupNormalization", 18, X.reshape(2, 6, 2), B, B, num_groups=3),
     [(standardised(X.reshape(2, 3, 4), 2) * column(B) + column(B)).reshape(2, 6, 2)]),
    ("LpNormalization of a row of zeros", lambda: one("LpNormalization", 22, np.zeros((1, 3), F32)), [np.zeros((1, 3))]),
]  # fmt: skip


@pytest.mark.parametrize(("compute", "expected"), [case[1:] for case in FORMS], ids=[case[0] for case in FORMS])
def test_form(compute: Callable[[], list[np.ndarray]], expected: list[Any]) -> None:
    for got, want in zip(compute(), expected, strict=True):
        assert got.shape == np.shape(want)
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)


def bound(op: str, x: np.ndarray, *others: np.ndarray, opset: int = 18, **attrs: Any) -> tuple[np.ndarray, np.ndarray]:
    """The reference of one node and its certified radius."""
    inputs = [x, *others]
    names = [f"i{k}" for k in range(len(inputs))]
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(i.dtype), i.shape) for n, i in zip(names, inputs, strict=True)]
    graph = helper.make_graph([helper.make_node(op, names, ["y"], **attrs)], "g", infos, [onnx.ValueInfoProto(name="y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    ball = reference(Program(model, torch.float64), dict(zip(names, inputs, strict=True)))["y"].ball
    return ball.value.numpy(), np.zeros(ball.value.shape) if ball.worst is None else ball.worst.numpy()


def test_a_near_constant_row_is_undecided_where_one_pass_variance_is_legal() -> None:
    row = np.array([[1000.0, 1000.001, 1000.0, 1000.0]], F32)
    assert np.isinf(bound("LayerNormalization", row, np.ones(4, F32))[1]).all()
    assert np.isfinite(bound("LayerNormalization", row - 1000, np.ones(4, F32))[1]).all()


def test_softmax_of_far_logits_allows_for_the_rounding_of_their_distance() -> None:
    y, worst = bound("LogSoftmax", np.array([[1000.0, 0.0]], F32))
    assert worst[0, 1] >= 1000 * 2**-24
    assert worst[0, 1] < 1e-3 * abs(y[0, 1])
    assert bound("Softmax", np.array([[80.0, -80.0]], F32))[1].max() <= 1e-5


def test_ties_of_exact_operands_are_decided() -> None:
    y, worst = bound("ArgMax", np.array([[3.0, 3.0, 1.0]], F32), axis=1, select_last_index=1)
    assert y[0, 0] == 1
    assert not worst.any()


def test_a_half_precision_mean_is_undecided_where_its_sum_overflows() -> None:
    x = np.full((1, 100), 1000, np.float16)
    assert np.isinf(bound("ReduceMean", x, ints(1))[1]).all()
    assert np.isfinite(bound("ReduceMean", x / 10, ints(1))[1]).all()


def test_integer_products_that_leave_the_range_are_undecided() -> None:
    assert np.isinf(bound("ReduceProd", np.full(40, 3, np.int32))[1]).all()
    assert not bound("ReduceProd", np.full(10, 3, np.int32))[1].any()


def test_a_softmax_over_one_element_is_1_within_units_unless_nothing_is_known_of_it() -> None:
    x = np.array([[3.7], [-80.0]], F32)
    for op, value in (("Softmax", 1.0), ("LogSoftmax", 0.0)):
        y, worst = bound(op, x)
        assert (y == value).all() and (np.abs(worst - 4 * 2.0**-24) < 1e-9).all(), "kernels with an exponential of their own give 1 - u"
    assert np.isinf(bound("Softmax", np.array([[np.inf]], F32))[1]).all()


@pytest.mark.parametrize("kind", [np.int32, np.uint8])
def test_a_mean_of_doubtful_integers_moves_by_their_mean_and_one(kind: Any) -> None:
    text = f"""<ir_version: 8, opset_import: ["" : 18]> agraph (float[1,4] x) => ({"int32" if kind is np.int32 else "uint8"}[1,1] y) {{
        r = Sqrt(x) c = Cast<to: int = {helper.np_dtype_to_tensor_dtype(np.dtype(kind))}>(r) axes = Constant<value_ints = [1]>() y = ReduceMean(c, axes) }}"""
    ball = reference(Program(onnx.parser.parse_model(text), torch.float64), {"x": np.array([[4, 9, 5, 100]], F32)})["y"].ball
    for doubt in ((0, 0), (1, 0), (0, 1), (1, 1)):  # 2 and 3 may be 1 and 2
        legal = (2 - doubt[0] + 3 - doubt[1] + 2 + 10) // 4
        assert abs(int(ball.value) - legal) <= float(ball.worst) <= 2


def test_errors_of_one_origin_add_up_in_a_sum() -> None:
    """One uncertain number in a thousand elements: their mean is as uncertain as it is, not a thirtieth of that."""

    def spread(body: str) -> float:
        text = f'<ir_version: 8, opset_import: ["" : 18]> agraph (float[1] x, float[1000] z) => (float[1] y) {{ axes = Constant<value_ints = [0]>() {body} }}'
        inputs = {"x": np.array([0.7], F32), "z": np.zeros(1000, F32)}
        return float(reference(Program(onnx.parser.parse_model(text), torch.float64), inputs)["y"].ball.spread)

    one = spread("y = Tanh(x)")
    for body in ("t = Tanh(x) n = Constant<value_ints = [1000]>() b = Expand(t, n)", "t = Tanh(x) b = Max(t, z)", "t = Tanh(x) b = Add(z, t)"):
        assert spread(f"{body} y = ReduceMean(b, axes)") >= one
    apart = spread("t = Add(z, x) b = Tanh(t) y = ReduceMean(b, axes)")
    assert apart < 20 * one, "each by itself: only the sum's own rounding"


def test_a_zero_point_on_a_tie_moves_all_elements_together() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> agraph (float[64] x) => (float[1] y) {
        q, s, z = DynamicQuantizeLinear(x) f = Cast<to: int = 1>(q) axes = Constant<value_ints = [0]>() y = ReduceSum(f, axes) }"""
    x = np.linspace(-2, 2, 64).astype(F32)
    ball = reference(Program(onnx.parser.parse_model(text), torch.float64), {"x": x})["y"].ball
    assert float(ball.spread) >= 64 / 2
