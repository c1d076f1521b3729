"""Integers, ties and special values, decided from the text of the ONNX specification, not from a backend.

Each test quotes the sentence it checks. What the text leaves undefined must not count against a backend: there the reference
has to be undecided, or the campaign must never draw it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch

import specs
from oracles.reference import reference
from specs.formats import BY_NUMPY
from specs.program import Program

SIGNED = [np.int8, np.int16, np.int32, np.int64]
UNSIGNED = [np.uint8, np.uint16, np.uint32, np.uint64]
INF, NAN = np.inf, np.nan


def model(op: str, inputs: list[np.ndarray], outputs: list[tuple[int, list[int]]], opset: int, **attrs: Any) -> bytes:
    names = [f"x{i}" for i in range(len(inputs))]
    node = onnx.helper.make_node(op, names, [f"y{i}" for i in range(len(outputs))], **attrs)
    given = [onnx.helper.make_tensor_value_info(n, BY_NUMPY[a.dtype].onnx, a.shape) for n, a in zip(names, inputs, strict=True)]
    made = [onnx.helper.make_tensor_value_info(f"y{i}", form, shape) for i, (form, shape) in enumerate(outputs)]
    graph = onnx.helper.make_graph([node], "g", given, made)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10).SerializeToString()


def run(op: str, *inputs: np.ndarray, to: type | None = None, shape: list[int] | None = None, opset: int = 22, **attrs: Any) -> np.ndarray:
    form = BY_NUMPY[np.dtype(to or inputs[0].dtype)].onnx
    proto = model(op, list(inputs), [(form, list(inputs[0].shape) if shape is None else shape)], opset, **attrs)
    return specs.run(proto, {f"x{i}": a for i, a in enumerate(inputs)})["y0"]


def undecided(op: str, *inputs: np.ndarray, to: type | None = None, opset: int = 22, **attrs: Any) -> list[bool]:
    form = BY_NUMPY[np.dtype(to or inputs[0].dtype)].onnx
    proto = model(op, list(inputs), [(form, list(inputs[0].shape))], opset, **attrs)
    ball = reference(Program(proto, torch.float64), {f"x{i}": a for i, a in enumerate(inputs)})["y0"].ball
    return [False] * inputs[0].size if ball.worst is None else torch.isinf(ball.worst).flatten().tolist()


def equal(got: np.ndarray, want: Any, dtype: Any) -> None:
    assert got.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(got, np.array(want, dtype))


# division --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", SIGNED)
def test_division_truncates(dtype: Any) -> None:
    """Div: "For integer inputs, the result is computed using truncating division (rounding toward zero)"."""
    equal(run("Div", np.array([7, -7, 7, -7, -1, 1, 0], dtype), np.array([2, 2, -2, -2, 3, -3, -5], dtype)), [3, -3, -3, 3, 0, 0, 0], dtype)


@pytest.mark.parametrize("dtype", UNSIGNED)
def test_unsigned_division(dtype: Any) -> None:
    top = np.iinfo(dtype).max
    equal(run("Div", np.array([top, top, top - 1, 5], dtype), np.array([2, top, top, 7], dtype)), [top // 2, 1, 0, 0], dtype)


@pytest.mark.parametrize("dtype", SIGNED)
def test_modulo_has_the_sign_of_the_divisor_and_fmod_that_of_the_dividend(dtype: Any) -> None:
    """Mod: "If fmod is 0, the output is calculated as A - floor(A / B) * B. The result has the same sign as B." """
    a, b = np.array([7, -7, 7, -7, -6], dtype), np.array([3, 3, -3, -3, 3], dtype)
    equal(run("Mod", a, b), [1, 2, -2, -1, 0], dtype)
    equal(run("Mod", a, b, fmod=1), [1, -1, 1, -1, 0], dtype)


@pytest.mark.parametrize("dtype", UNSIGNED)
def test_unsigned_modulo(dtype: Any) -> None:
    top = np.iinfo(dtype).max
    equal(run("Mod", np.array([top, top, 5], dtype), np.array([2, top - 1, 7], dtype)), [1, 1, 5], dtype)


@pytest.mark.parametrize("op", ["Div", "Mod"])
def test_integers_are_never_divided_by_zero(op: str) -> None:
    """ONNX does not say what that is, and processors trap: drawn divisors have a range without 0."""
    from fuzzer.generate import generate_from
    from fuzzer.grow import Menu
    from fuzzer.sources import Seeded

    seen = 0
    for i in range(80):
        made = generate_from(Seeded("divisors", op, i), 1, Menu(frozenset([("", op)])), check=False, wraps=False)
        divisor = next((s.inputs[1] for s in made.network.steps if s.op == op), None)
        if divisor is not None and divisor.format.is_integer and made.found.safe:
            seen += 1
            assert (np.asarray(made.found.contents[divisor.name]) != 0).all()
    assert seen


# shifts ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", UNSIGNED)
def test_shifts_fill_with_zeros_up_to_the_width(dtype: Any) -> None:
    """BitShift: "this operator moves its binary representation toward the right side"."""
    bits, top = np.iinfo(dtype).bits, np.iinfo(dtype).max
    x, by = np.array([top, top, 1, 1, top], dtype), np.array([1, bits - 1, bits - 1, 0, 0], dtype)
    equal(run("BitShift", x, by, direction="RIGHT"), [top >> 1, 1, 0, 1, top], dtype)
    equal(run("BitShift", x, by, direction="LEFT"), [top - 1, 1 << (bits - 1), 1 << (bits - 1), 1, top], dtype)


@pytest.mark.parametrize("dtype", UNSIGNED)
def test_shifts_beyond_the_width_leave_nothing_where_onnx_says_so(dtype: Any) -> None:
    """BitShift 28: "If Y is ... greater than or equal to the number of bits of T, then the result is ... 0". Before, it does not say."""
    bits, top = np.iinfo(dtype).bits, np.iinfo(dtype).max
    x, by = np.array([top, top], dtype), np.array([bits, bits + 3], dtype)
    for direction in ("LEFT", "RIGHT"):
        equal(run("BitShift", x, by, direction=direction, opset=28), [0, 0], dtype)


@pytest.mark.parametrize("dtype", SIGNED)
def test_signed_right_shifts_extend_the_sign(dtype: Any) -> None:
    """BitShift 28: "For a signed T the right shift is an arithmetic shift ... -1 for a right shift on a negative X"."""
    bits = np.iinfo(dtype).bits
    x, by = np.array([-8, -1, 8, -8, 8, -8], dtype), np.array([1, 3, 2, bits, bits, -1], dtype)
    equal(run("BitShift", x, by, direction="RIGHT", opset=28), [-4, -1, 2, -1, 0, -1], dtype)
    equal(run("BitShift", x, by, direction="LEFT", opset=28), [-16, -8, 32, 0, 0, 0], dtype)


# overflow ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [*SIGNED, *UNSIGNED])
def test_sums_and_products_wrap(dtype: Any) -> None:
    """Two's complement, as every type's arithmetic in numpy, which ONNX's texts and tests refer to."""
    low, top = np.iinfo(dtype).min, np.iinfo(dtype).max
    a, b = np.array([top, low, top], dtype), np.array([1, 1, 2], dtype)
    with np.errstate(over="ignore"):
        equal(run("Add", a, b), a + b, dtype)
        equal(run("Sub", a, b), a - b, dtype)
        equal(run("Mul", a, b), a * b, dtype)


@pytest.mark.parametrize("dtype", SIGNED)
def test_the_least_integer_is_its_own_negative(dtype: Any) -> None:
    low = np.iinfo(dtype).min
    equal(run("Neg", np.array([low, 1], dtype)), [low, -1], dtype)
    equal(run("Abs", np.array([low, -1], dtype)), [low, 1], dtype)


# casts -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("value", "source", "target", "want"), [
    (200, np.int16, np.int8, -56), (300, np.int32, np.uint8, 44), (-1, np.int64, np.uint32, 2**32 - 1), (2**40 + 5, np.int64, np.int32, 5),
    (2**63, np.uint64, np.int64, -(2**63)), (-1, np.int8, np.uint64, 2**64 - 1), (2**31, np.uint32, np.int32, -(2**31)), (-129, np.int16, np.int8, 127),
])  # fmt: skip
def test_casts_of_integers_drop_the_higher_bits(value: int, source: Any, target: Any, want: int) -> None:
    """Cast: "when OOR, discard higher bits and reinterpret ... For example, 200 (int16) -> -56 (int8)"."""
    equal(cast(np.array([value], source), target), [want], target)


@pytest.mark.parametrize("target", [np.int8, np.uint8, np.int32, np.uint64])
def test_casts_of_floats_out_of_range_are_undecided(target: Any) -> None:
    """Cast: "fixed point: undefined if OOR"."""
    top, low = float(np.iinfo(target).max), float(np.iinfo(target).min)
    x = np.array([2 * top + 10, low - top - 10, NAN, INF, 3.7], np.float32)
    proto = model("Cast", [x], [(BY_NUMPY[np.dtype(target)].onnx, [5])], 22, to=BY_NUMPY[np.dtype(target)].onnx)
    ball = reference(Program(proto, torch.float64), {"x0": x})["y0"].ball
    assert ball.worst is not None and torch.isinf(ball.worst).tolist() == [True, True, True, True, False]


def cast(x: np.ndarray, target: Any) -> np.ndarray:
    form = BY_NUMPY[np.dtype(target)].onnx
    return specs.run(model("Cast", [x], [(form, list(x.shape))], 22, to=form), {"x0": x})["y0"]


def test_casts_of_floats_truncate() -> None:
    equal(cast(np.array([2.9, -2.9, 0.5, -0.5], np.float32), np.int32), [2, -2, 0, 0], np.int32)


def test_casts_to_bool() -> None:
    """Cast: "bool: +/- 0.0 to False; all else to True"; "zero to False; nonzero to True"."""
    equal(cast(np.array([0.0, -0.0, 0.1, NAN, INF, -3], np.float32), np.bool_), [False, False, True, True, True, True], np.bool_)
    equal(cast(np.array([0, 256, -1], np.int32), np.bool_), [False, True, True], np.bool_)


def test_casts_of_bool_and_of_large_integers_to_floats() -> None:
    """Cast: "bool to floating point: {1.0, 0.0}"; "fixed point to floating point: +/- infinity if OOR"."""
    equal(cast(np.array([True, False]), np.float16), [1.0, 0.0], np.float16)
    equal(cast(np.array([100000, -100000, 2048], np.int32), np.float16), [INF, -INF, 2048], np.float16)
    equal(cast(np.array([2**64 - 1], np.uint64), np.float32), [2.0**64], np.float32)


def test_casts_between_floats_round_to_nearest_even_and_overflow_to_infinity() -> None:
    """Cast: "floating point to floating point: +/- infinity if OOR"."""
    equal(cast(np.array([1e6, -1e6, 1 + 2**-11, 1 + 3 * 2**-11], np.float32), np.float16), [INF, -INF, 1.0, 1 + 2**-9], np.float16)


# extremes --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", UNSIGNED)
def test_extremes_and_comparisons_of_unsigned_numbers(dtype: Any) -> None:
    top = np.iinfo(dtype).max
    a, b = np.array([top, 1, 0], dtype), np.array([1, top, top], dtype)
    equal(run("Max", a, b), [top, top, top], dtype)
    equal(run("Min", a, b), [1, 1, 0], dtype)
    equal(run("Greater", a, b, to=np.bool_), [True, False, False], np.bool_)
    equal(run("Clip", a, np.array(2, dtype), np.array(top - 1, dtype)), [top - 1, 2, 2], dtype)


def test_a_lower_end_above_the_upper_one_yields_the_upper_one() -> None:
    """Clip: "When 'min' is greater than 'max', the clip operator sets all the 'input' values to the value of 'max'"."""
    for dtype in (np.float32, np.int32, np.uint8):
        equal(run("Clip", np.array([0, 5, 9], dtype), np.array(7, dtype), np.array(3, dtype)), [3, 3, 3], dtype)


def test_nan_goes_through_extremes_and_is_never_compared() -> None:
    """ONNX's node tests take numpy's maximum and minimum, which hand a NaN on; what a backend makes of one is not judged."""
    a, b = np.array([NAN, 1, 2], np.float32), np.array([1, NAN, 1], np.float32)
    for op in ("Max", "Min"):
        assert np.isnan(run(op, a, b)).tolist() == [True, True, False]
        assert undecided(op, a, b) == [True, True, False]
    for op in ("Less", "Greater", "Equal"):
        equal(run(op, a, b, to=np.bool_), [False, False, op == "Greater"], np.bool_)


def test_signs() -> None:
    """Sign: "If input > 0, output 1. if input < 0, output -1. if input == 0, output 0." """
    equal(run("Sign", np.array([-5, 0, 7], np.int8)), [-1, 0, 1], np.int8)
    equal(run("Sign", np.array([0, 2**64 - 1], np.uint64)), [0, 1], np.uint64)


# ties --------------------------------------------------------------------------------------------------------------------
def test_halves_round_to_even() -> None:
    """Round: "In case of halves, the rule is to round them to the nearest even integer"."""
    equal(run("Round", np.array([0.9, 2.5, 2.3, 1.5, -4.5, -0.5], np.float32)), [1.0, 2.0, 2.0, 2.0, -4.0, -0.0], np.float32)


def test_quantisation_rounds_halves_to_even_and_saturates() -> None:
    """QuantizeLinear: "For (x / y_scale), it rounds to the nearest even"; uint8: [0, 255]."""
    x, scale, zero = np.array([1, 3, 5, -1, 600, -600], np.float32), np.array(2, np.float32), np.array(10, np.uint8)
    equal(run("QuantizeLinear", x, scale, zero, to=np.uint8), [10, 12, 12, 10, 255, 0], np.uint8)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint8])
def test_the_first_of_equal_extremes_or_the_last_when_asked(dtype: Any) -> None:
    """ArgMax: "If select_last_index is True ..., the index of the last occurrence ... Otherwise ... the first"."""
    x = np.array([3, 7, 7, 1, 1], dtype)
    equal(run("ArgMax", x, to=np.int64, shape=[1], axis=0), [1], np.int64)
    equal(run("ArgMax", x, to=np.int64, shape=[1], axis=0, select_last_index=1), [2], np.int64)
    equal(run("ArgMin", x, to=np.int64, shape=[1], axis=0), [3], np.int64)
    equal(run("ArgMin", x, to=np.int64, shape=[1], axis=0, select_last_index=1), [4], np.int64)


@pytest.mark.parametrize("largest", [0, 1])
def test_equal_elements_keep_their_order_among_the_top(largest: int) -> None:
    """TopK: "Given two equivalent values ... the element with the lower index will appear first"."""
    x, k = np.array([5, 1, 5, 1, 5, 1], np.int64), np.array([3], np.int64)
    proto = model("TopK", [x, k], [(7, [3]), (7, [3])], 22, largest=largest)
    got = specs.run(proto, {"x0": x, "x1": k})
    equal(got["y1"], [0, 2, 4] if largest else [1, 3, 5], np.int64)


# empty sets ----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("op", "dtype", "want"), [
    ("ReduceMax", np.float32, -INF), ("ReduceMin", np.float32, INF), ("ReduceMax", np.int32, -(2**31)), ("ReduceMin", np.int32, 2**31 - 1),
    ("ReduceMax", np.uint8, 0), ("ReduceMin", np.uint8, 255), ("ReduceSum", np.int64, 0), ("ReduceProd", np.int32, 1),
])  # fmt: skip
def test_reductions_of_nothing(op: str, dtype: Any, want: Any) -> None:
    """ReduceMax: "Reduction over an empty set of values yields minus infinity (if supported by the datatype) or the minimum value"."""
    x, axes = np.zeros((2, 0), dtype), np.array([1], np.int64)
    equal(run(op, x, axes, shape=[2, 1]), [[want], [want]], dtype)
