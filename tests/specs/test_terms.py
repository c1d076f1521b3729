"""Arithmetic on dimensions: z3 terms and ints must give the same answer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import z3
from hypothesis import given
from hypothesis import strategies as st

from specs import terms

sizes = st.integers(0, 200)
divisors = st.integers(1, 9)


def solved(rule: Any, *values: int) -> int:
    """The value of a rule over z3 integers that are then fixed to these values."""
    unknown = [z3.Int(f"d{i}") for i in range(len(values))]
    result, solver = z3.Int("result"), z3.Solver()
    solver.add(result == rule(*unknown), *[d == v for d, v in zip(unknown, values, strict=True)])
    assert solver.check() == z3.sat
    return solver.model()[result].as_long()  # type: ignore[union-attr]


@given(st.integers(-50, 200), divisors)
def test_divisions_round_as_said(a: int, b: int) -> None:
    assert terms.floor_div(a, b) == math.floor(a / b) == solved(lambda d: terms.floor_div(d, b), a)
    assert terms.ceil_div(a, b) == math.ceil(a / b) == solved(lambda d: terms.ceil_div(d, b), a)


@given(sizes, sizes)
def test_extremes(a: int, b: int) -> None:
    assert terms.maximum(a, b) == max(a, b) == solved(terms.maximum, a, b)
    assert terms.minimum(a, b) == min(a, b) == solved(terms.minimum, a, b)
    assert terms.maximum(a, z3.IntVal(b)) is not None


@given(st.lists(st.integers(0, 9), max_size=4))
def test_products(dims: list[int]) -> None:
    assert terms.prod(dims) == math.prod(dims) == solved(lambda *d: terms.prod(d) + 0, *dims)


@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 4), st.integers(0, 4), st.integers(1, 3), st.booleans())
def test_windows_count_positions(size: int, kernel: int, stride: int, pad: int, dilation: int, ceil: bool) -> None:
    span = dilation * (kernel - 1) + 1
    if span > size + pad:
        return
    starts = [s for s in range(0, size + pad, stride) if s + span <= size + pad]
    partial = (size + pad - span) % stride != 0
    positions = len(starts) + (1 if ceil and partial else 0)
    assert terms.window(size, kernel, stride, pad, dilation, ceil) == positions
    assert solved(lambda d: terms.window(d, kernel, stride, pad, dilation, ceil), size) == positions


@given(st.lists(st.integers(1, 4), max_size=4), st.data())
def test_broadcast_is_numpys(shape: list[int], data: st.DataObject) -> None:
    kept = data.draw(st.integers(0, len(shape)))
    other = [1 if data.draw(st.booleans()) else d for d in shape[kept:]]
    assert terms.broadcast(shape, other) == list(np.broadcast_shapes(tuple(shape), tuple(other)))


def test_broadcast_keeps_terms() -> None:
    n = z3.Int("n")
    assert terms.broadcast([n, 1], [4]) == [n, 4]
    assert terms.broadcast([1, 3], [n, 3]) == [n, 3]
    assert terms.broadcast([]) == []


def test_known_and_either() -> None:
    n = z3.Int("n")
    assert terms.known(1, 2) and not terms.known(1, n)
    assert terms.either(False, True) is True and terms.either(False, False) is False
    assert z3.is_expr(terms.either(n > 1, False))


def test_chained_comparisons_of_terms_are_refused() -> None:
    """`1 <= d <= 4` on a z3 term would drop its first half: it has to be loud."""
    d = z3.Int("d")
    with pytest.raises(z3.Z3Exception):
        bool(1 <= d <= 4)
