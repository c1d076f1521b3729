"""Elementwise operators where torch, numpy and ONNX differ: old broadcasting, wide unsigned integers, division, undecided sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from oracles.reference import reference
from specs import run
from specs.formats import BY_NUMPY
from specs.program import Program


def model(op: str, inputs: dict[str, np.ndarray], out: Any, opset: int = 22, chain: str | None = None, **attrs: Any) -> onnx.ModelProto:
    """One node, or `chain` on the first input before it."""
    first = next(iter(inputs))
    nodes = [helper.make_node(chain, [first], ["t"])] if chain else []
    nodes.append(helper.make_node(op, ["t" if chain and k == first else k for k in inputs], ["y"], **attrs))
    infos = [helper.make_tensor_value_info(k, BY_NUMPY[v.dtype].onnx, v.shape) for k, v in inputs.items()]
    graph = helper.make_graph(nodes, "g", infos, [helper.make_tensor_value_info("y", BY_NUMPY[np.dtype(out)].onnx, None)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def compute(op: str, *arrays: np.ndarray, out: Any = None, opset: int = 22, **attrs: Any) -> np.ndarray:
    inputs = {f"x{i}": a for i, a in enumerate(arrays)}
    return run(model(op, inputs, out or arrays[0].dtype, opset, **attrs), inputs)["y"]


def radius(op: str, *arrays: np.ndarray, out: Any = None, chain: str | None = None, opset: int = 22, **attrs: Any) -> Any:
    """The certified radius of the result; None when it is exact."""
    inputs = {f"x{i}": a for i, a in enumerate(arrays)}
    ball = reference(Program(model(op, inputs, out or arrays[0].dtype, opset, chain, **attrs), torch.float64), inputs)["y"].ball
    return None if ball.worst is None else ball.worst.tolist()


WIDE = np.array([0, 1, 7, 2**63 - 1, 2**63, 2**63 + 5, 2**64 - 1], np.uint64)


@pytest.mark.parametrize("divisor", [1, 3, 10, 2**63, 2**64 - 1])
def test_uint64_keeps_its_upper_half(divisor: int) -> None:
    d = np.full_like(WIDE, divisor)
    assert (compute("Div", WIDE, d) == WIDE // d).all()
    assert (compute("Mod", WIDE, d) == WIDE % d).all()
    assert (compute("Max", WIDE, d) == np.maximum(WIDE, d)).all()
    assert (compute("Less", WIDE, d, out=np.bool_) == (d > WIDE)).all()


def test_uint64_shifts_casts_and_clips() -> None:
    assert (compute("BitShift", WIDE, np.full_like(WIDE, 3), direction="RIGHT") == WIDE >> np.uint64(3)).all()
    assert (compute("BitShift", WIDE, np.full_like(WIDE, 0), direction="RIGHT") == WIDE).all()
    assert (compute("Cast", WIDE, out=np.float32, to=onnx.TensorProto.FLOAT) == WIDE.astype(np.float32)).all()
    assert (compute("Cast", np.array([1.5, 1e19]), out=np.uint64, to=onnx.TensorProto.UINT64) == np.array([1, 10**19], np.uint64)).all()
    low, high = np.array(2**62, np.uint64), np.array(2**63 + 1, np.uint64)
    assert (compute("Clip", WIDE, low, high) == np.clip(WIDE, low, high)).all()


def test_integer_division_truncates_wraps_and_never_traps() -> None:
    x, y = np.array([7, -7, 7, -7, -(2**31), 5], np.int32), np.array([2, 2, -2, -2, -1, 0], np.int32)
    assert compute("Div", x, y)[:5].tolist() == [3, -3, -3, 3, -(2**31)]
    assert radius("Div", x, y) == [0, 0, 0, 0, float("inf"), float("inf")]


def test_modulo_takes_the_sign_of_the_divisor_unless_fmod() -> None:
    x, y = np.array([-4, 7, 5, 4, -7, 8], np.int64), np.array([2, -3, 8, -2, 3, 5], np.int64)
    assert compute("Mod", x, y).tolist() == [0, -2, 5, 0, 2, 3]
    assert compute("Mod", x, y, fmod=1).tolist() == [0, 1, 5, 0, -1, 3]


def test_integers_wrap() -> None:
    assert compute("Add", np.array([250], np.uint8), np.array([10], np.uint8)).tolist() == [4]
    assert compute("Mul", np.array([60000], np.uint16), np.array([3], np.uint16)).tolist() == [60000 * 3 % 65536]
    assert compute("Sub", np.array([1], np.uint32), np.array([2], np.uint32)).tolist() == [2**32 - 1]


def test_broadcasting_before_opset_7_starts_at_an_axis() -> None:
    x, y = np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.array([10, 20, 30], np.float32)
    assert (compute("Add", x, y, opset=6, broadcast=1, axis=1) == x + y[:, None]).all()
    assert (compute("Add", x, np.arange(4, dtype=np.float32), opset=6, broadcast=1) == x + np.arange(4)).all()
    assert radius("Mul", x, y, opset=6, broadcast=1, axis=1) is not None
    truth = np.array([True, False])
    assert (compute("And", x > 5, truth, opset=1, broadcast=1, axis=0) == ((x > 5) & truth[:, None, None])).all()


def test_old_attributes() -> None:
    x = np.array([[-3, 0.5, 3]], np.float32)
    assert compute("Clip", x, opset=6, min=-1.0, max=2.0).tolist() == [[-1, 0.5, 2]]
    assert compute("Clip", x, opset=6).tolist() == x.tolist()
    assert compute("Cast", x, out=np.int32, opset=1, to="INT32").tolist() == [[-3, 0, 3]]
    slopes = np.array([2, 3], np.float32)
    assert compute("PRelu", -np.ones((1, 2, 2), np.float32), slopes, opset=6).tolist() == [[[-2, -2], [-3, -3]]]


def test_crossed_bounds_of_clip_yield_the_upper_one() -> None:
    assert compute("Clip", np.array([-9, 0, 9], np.float32), np.array(5, np.float32), np.array(1, np.float32)).tolist() == [1, 1, 1]


def test_exact_operands_decide_ties_and_rounded_ones_do_not() -> None:
    x = np.array([2.0, 4.0], np.float32)
    assert radius("Equal", x, x, out=np.bool_) is None
    assert radius("Less", x, np.array([1.4142135, 9], np.float32), out=np.bool_, chain="Sqrt") == [float("inf"), 0]
    assert radius("Where", np.array([True, False]), x, x, out=np.float32) is None


def test_a_decided_operand_decides_logic() -> None:
    x = np.array([2.0, 2.0], np.float32)
    nodes = [
        helper.make_node("Sqrt", ["x"], ["s"]),
        helper.make_node("Less", ["s", "c"], ["unsure"]),
        helper.make_node("And", ["unsure", "sure"], ["y"]),
    ]
    constants = {"c": np.array(np.sqrt(2), np.float32), "sure": np.array([False, True])}
    tensors = [onnx.numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, [2])], [helper.make_tensor_value_info("y", 9, [2])], tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    assert reference(Program(proto, torch.float64), {"x": x})["y"].ball.worst.tolist() == [0, float("inf")]


def test_division_by_what_may_be_zero_is_undecided() -> None:
    x, y = np.array([1.0, 1.0], np.float32), np.array([3.0, np.pi], np.float32)
    worst = radius("Div", y, x, chain="Sin", out=np.float32)
    assert max(worst) < 1e-5
    nodes = [helper.make_node("Cos", ["x"], ["s"]), helper.make_node("Reciprocal", ["s"], ["y"])]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, [1])], [helper.make_tensor_value_info("y", 1, [1])])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    assert reference(Program(proto, torch.float64), {"x": np.array([np.pi / 2], np.float32)})["y"].ball.worst.tolist()[0] == float("inf")


def test_powers() -> None:
    assert compute("Pow", np.array([2, -3, 5], np.int32), np.array([10, 3, 0], np.int64)).tolist() == [1024, -27, 1]
    assert radius("Pow", np.array([10, 10], np.int32), np.array([3, 12], np.int64)) == [0, float("inf")]
    assert radius("Pow", np.array([2.0], np.float32), np.array([0.5], np.float32))[0] < 1e-6
    # a base that may be negative has no certain square root
    assert radius("Pow", np.array([np.pi / 2], np.float32), np.array([0.5], np.float32), chain="Cos") == [float("inf")]
