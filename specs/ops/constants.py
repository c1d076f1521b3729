"""Operators that make values: Constant, ConstantOfShape, Range, EyeLike, OneHot, and Trilu, which clears part of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from onnx import SparseTensorProto, numpy_helper
from torch import Tensor

from specs import Draw, Rule, op
from specs.formats import BOOL, BY_ONNX, DOUBLE, FLOAT, FLOAT16, INT8, INT32, INT64, INTEGERS, STRING, UINT8, Format
from specs.numerics import Ball, Policy, Radii, exact_whole, moves
from specs.ops.shape import any_type, reads_shape
from specs.program import Node, to_torch
from specs.rule import Dim
from specs.terms import known

#: Formats of which a Constant is drawn; other operators draw the rest as initializers.
PLAIN = [FLOAT, INT64, FLOAT16, DOUBLE, INT32, BOOL, INT8, UINT8]


# Constant ----------------------------------------------------------------------------------------------------------------
def _constant(a: Node) -> Any:
    for name, value in a.attrs.items():
        if value is None:
            continue
        if name == "value":
            return to_torch(value[1], value[0], a.promote)
        if name == "sparse_value":
            return _dense(a, value)
        if name in ("value_string", "value_strings"):
            return np.array(value, dtype=object)
        if name in ("value_int", "value_ints"):
            return torch.tensor(value, dtype=torch.int64)
        if name in ("value_float", "value_floats"):  # the attribute is a 32-bit float, whatever this run computes in
            return torch.tensor(value, dtype=torch.float32).to(a.torch(FLOAT))
    raise ValueError(f"{a}: a Constant without a value")


def _dense(a: Node, sparse: SparseTensorProto) -> Any:
    """Indices are flat (rank 1) or one row of coordinates per value (rank 2)."""
    values, indices, shape = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices), tuple(sparse.dims)
    array = np.zeros(shape, values.dtype)
    flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), shape)
    array.reshape(-1)[flat] = values
    return to_torch(array, BY_ONNX[sparse.values.data_type], a.promote)


def _numbers(g: Draw, form: Format, shape: Sequence[int]) -> np.ndarray:
    """Small numbers that every format holds exactly, halves among them where it can."""
    low, high = (0, 1) if form is BOOL else (-8 if form.lowest < 0 else 0, 8)
    content = [g.int(low, high) for _ in range(math.prod(shape))]
    return np.asarray(np.array(content).reshape(shape) / (2 if form.is_float else 1), form.numpy)


@op("Constant", meaning=_constant, error=exact_whole, weight=0.3)
def constant(g: Draw) -> Rule:
    """A tensor, or the short forms for numbers and lists of them."""
    kind = g.pick(["value", "value_float", "value_floats", "value_int", "value_ints", "value", "value_string", "value_strings"])
    if "string" in kind:
        g.type("T", among=[STRING])
        words = [g.pick(["", "a", "Tea", "straße"]) for _ in range(g.int(1, 4))]
        return Rule([], [[] if kind == "value_string" else [len(words)]], {kind: words[0] if kind == "value_string" else words})
    if kind == "value":
        shape = [g.int(0 if g.flag(0.1) else 1, 4) for _ in range(g.int(0, 3))]
        return Rule([], [shape], {"value": _numbers(g, g.type("T", among=PLAIN), shape)})
    form = g.type("T", among=[FLOAT if "float" in kind else INT64])
    shape = [] if kind in ("value_float", "value_int") else [g.int(1, 5)]
    return Rule([], [shape], {kind: _numbers(g, form, shape).tolist()})


def _constant_of_shape(a: Node, shape: Tensor) -> Any:
    dims: list[int] = shape.tolist()
    if a.value is None:
        return torch.zeros(dims, dtype=a.torch(FLOAT))
    return to_torch(a.value[1].reshape(()), a.value[0], a.promote).expand(dims)


@op("ConstantOfShape", meaning=_constant_of_shape, error=exact_whole, weight=0.5)
def constant_of_shape(g: Draw) -> Rule:
    """One value in a drawn shape, rank 0 and empty dims included."""
    dims = g.sizes(g.int(0, 4), 1, 16)
    if dims and g.flag(0.05):
        dims[g.choose(len(dims))] = 0
    shape = g.const(dims)
    if g.flag(0.2):
        g.type("T2", among=[FLOAT])
        return Rule([shape], [dims])
    return Rule([shape], [dims], {"value": _numbers(g, g.type("T2"), [1])})


# Range, EyeLike ------------------------------------------------------------------------------------------------------------
def _range(a: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, step = start.reshape(()), delta.reshape(())
    if first.is_floating_point():
        count = math.ceil((float(limit) - float(first)) / float(step))
        wide = torch.float32 if first.dtype in (torch.float16, torch.bfloat16) else first.dtype
        return (first.to(wide) + torch.arange(max(0, count), dtype=wide) * step.to(wide)).to(first.dtype)
    count = -((int(first) - int(limit)) // int(step))
    return first + torch.arange(max(0, count), dtype=first.dtype) * step


def _range_error(a: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Tensor]) -> Sequence[Radii]:
    """Multiplying or adding step by step are both legal: element i carries up to i + 2 roundings of what came before."""
    form, y = a.out_formats[0], ys[0]
    if any(b is not None and b.worst is not None for b in balls) or form is None or not form.is_float:
        return exact_whole(a, policy, balls, ys)
    assert balls[0] is not None and balls[2] is not None
    i, u = torch.arange(y.shape[0], dtype=torch.float64), policy.u(form)
    size = balls[0].value.abs().reshape(()) + balls[2].value.abs().reshape(()) * i
    eta = policy.eta(form)
    return [(size * (i + 2) * u + eta, size * ((i + 2).sqrt() * u) + eta)]


@op("Range", meaning=_range, error=_range_error, weight=0.5)
def range_(g: Draw) -> Rule:
    """Up and down; a float limit lies half a step off, where every rounding counts the same number of elements."""
    form = g.type("T")
    count = g.size(1, 32) if not g.flag(0.05) else 0
    step = g.int(1, 4) * (-1 if form.lowest < 0 and g.flag(0.4) else 1)
    start, sign = g.int(-16, 16), 1 if step > 0 else -1
    if not known(count):
        first, last, by = start, start + count * step, step
    elif form.is_float:
        first, by = start / 4, step * g.pick([1.0, 0.5, 0.1, 1 / 3])
        last = first + (count - 0.5) * by
    else:
        first, by = start, step
        last = start + (count - 1) * step + g.int(1, abs(step)) * sign if count else start - g.int(0, 3) * sign
    return Rule([g.const(first), g.const(last), g.const(by)], [[count]])


def _eye_like(a: Node, x: Tensor) -> Tensor:
    rows, columns = x.shape
    on = torch.arange(columns) - torch.arange(rows).unsqueeze(1) == a.k
    return on.to(a.torch(BY_ONNX[a.dtype]) if a.dtype is not None else x.dtype)


@op("EyeLike", meaning=_eye_like, error=reads_shape, weight=0.3)
def eye_like(g: Draw) -> Rule:
    """Ones on one diagonal of a matrix of another's shape and of its type or another; the diagonal may lie outside."""
    x = g.operand(rank=2)
    attrs: dict[str, Any] = {"k": g.int(-3, 4)} if g.flag() else {}
    if g.flag():
        attrs["dtype"] = g.type("T2").onnx
    else:
        g.type("T2", among=[x.format] if x.format is not None else None)
    return Rule([x], [x], attrs)


# Trilu, OneHot ---------------------------------------------------------------------------------------------------------------
@any_type
def _trilu(a: Node, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else max(-x.shape[-2], min(int(k), x.shape[-1]))
    return torch.triu(x, diagonal) if a.upper else torch.tril(x, diagonal)


@op("Trilu", meaning=_trilu, error=moves(), since=14)
def trilu(g: Draw) -> Rule:
    """Either triangle of a batch of matrices, with a diagonal that may lie outside them."""
    x = g.operand(rank=(2, 4), low=0)
    upper = g.pick([None, 0, 1])
    attrs = {} if upper is None else {"upper": upper}
    if g.flag(0.3):
        g.skip()
        return Rule([x, None], [x], attrs)
    return Rule([x, g.const(np.array(g.int(-4, 5), np.int64))], [x], attrs)


@any_type
def _one_hot(a: Node, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    size, at = int(depth.reshape(())), indices.long()
    form = a.in_formats[0]
    if form is None or form.kind != "uint":  # a uint64 beyond 2^63 is a negative int64 here and hits nothing, as it must
        at = torch.where(at < 0, at + size, at)
    axis = a.axis % (indices.dim() + 1)
    classes = torch.arange(size).reshape([-1] + [1] * (indices.dim() - axis))
    return torch.where(at.unsqueeze(axis) == classes, values[1], values[0])


@op("OneHot", meaning=_one_hot, error=moves(2), weight=0.5)
def one_hot(g: Draw) -> Rule:
    """Indices from both ends, some of them outside, which are all off; as floats they are whole numbers."""
    usual = [INT64, INT32, FLOAT] if g.flag(0.8) else [FLOAT, *INTEGERS]
    form = g.type("T1", among=usual)
    depth, outside = g.size(1, 16), 1 if g.flag(0.2) else 0
    low, high = -depth - 2 * outside if form.lowest < 0 and g.flag(0.4) else 0, depth - 1 + 2 * outside
    if form.is_float and known(depth):
        shape: list[Dim] = [g.int(1, 8) for _ in range(g.int(1, 2))]
        indices = g.const(np.array([g.int(low, high) for _ in range(math.prod(shape))], form.numpy).reshape(shape))
    else:
        g.require(not form.is_float)
        shape = g.sizes(g.int(1, 3), 1, 8)
        indices = g.given(shape, low, high, among=[form])
    g.type("T2", among=usual)
    size = g.const(depth if g.flag(0.7) else [depth])
    values = g.operand(like=[2], role="weight")
    attrs, axis = dict[str, int](), len(shape)
    if g.flag(0.6):
        axis = g.axis(len(shape) + 1)
        attrs["axis"], axis = axis, axis % (len(shape) + 1)
    return Rule([indices, size, values], [[*shape[:axis], depth, *shape[axis:]]], attrs)
