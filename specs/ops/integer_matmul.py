"""Matrix products of quantised tensors: MatMulInteger, QLinearMatMul."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.formats import INT8, UINT8, Format
from specs.numerics import EXACT, INF, Ball, Policy, Radii, add, between, finite, settle
from specs.ops.quantisation import to_grid
from specs.program import Node
from specs.rule import Dim, Operand
from specs.terms import broadcast


def _laid(t: Tensor, rows: bool) -> Tensor:
    """A scale or zero point for the whole, for every row of the left or every column of the right operand."""
    if t.numel() == 1:
        return t.reshape(())
    return t.unsqueeze(-1) if rows and t.dim() == 1 else t


def _level(q: Tensor, zero: Tensor | None, rows: bool) -> Tensor:
    """Numbers from their zero point on, in double, where sums of their products stay exact."""
    return q.double() if zero is None else q.double() - _laid(zero.double(), rows)


def _radius(q: Ball, zero: Ball | None, which: int, rows: bool) -> Tensor | None:
    total = None if q[which] is None else finite(q[which])
    if zero is not None and zero[which] is not None:
        e = _laid(finite(zero[which]), rows).expand(q.value.shape)
        total = e if total is None else total + e
    return total


def _sum_radii(x: Ball, y: Ball, x_zero: Ball | None, y_zero: Ball | None) -> Radii:
    """What inexact operands do to the integer sums, which add no rounding of their own."""
    sizes = [_level(q.value, None if z is None else z.value, rows).abs() for q, z, rows in ((x, x_zero, True), (y, y_zero, False))]
    radii = []
    for which in (1, 2):
        ex, ey = _radius(x, x_zero, which, True), _radius(y, y_zero, which, False)
        if ex is None and ey is None:
            return EXACT
        left = None if ex is None else ex @ sizes[1]
        right = None if ey is None else (sizes[0] if ex is None else sizes[0] + ex) @ ey
        radii.append(settle(add(left, right)))
    return radii[0], radii[1]


# MatMulInteger -------------------------------------------------------------------------------------------------------
def _matmul_integer(a: Node, x: Tensor, y: Tensor, x_zero: Tensor | None = None, y_zero: Tensor | None = None) -> Tensor:
    return (_level(x, x_zero, True) @ _level(y, y_zero, False)).to(torch.int64).to(torch.int32)


def _matmul_integer_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    x, y, *zeros = balls
    assert x is not None and y is not None
    return [_sum_radii(x, y, *[*zeros, None, None][:2])]


def _operands(g: Draw) -> tuple[Operand, list[Dim], list[Dim]]:
    """The left operand, the shape of the right one, and that of the result."""
    x = g.operand(rank=(2, 6), among=[UINT8, INT8])
    batch = list(x[:-2]) if g.flag(0.4) else []
    if batch and g.flag(0.3):
        batch[g.choose(len(batch))] = 1
    n = g.size(1, 32)
    return x, [*batch, x[-1], n], [*broadcast(x[:-2], batch), x[-2], n]


def _zero(g: Draw, variable: str, shape: Sequence[Dim] = ()) -> Operand:
    """As quantisers make them: near the middle of an unsigned range, at or near 0 of a signed one."""
    low, high = (96, 160) if g.type(variable) is UINT8 else (-8, 8)
    return g.given(shape, low, high, role="parameter")


@op("MatMulInteger", meaning=_matmul_integer, error=_matmul_integer_error)
def matmul_integer(g: Draw) -> Rule:
    """Zero points for none, one or both operands; for every row, for every column."""
    x, like, shape = _operands(g)
    operands: list[Operand | None] = [x, g.operand(like=like, role="weight", among=[UINT8, INT8])]
    kind = g.choose(4)
    if kind == 3:
        g.skip()
        operands.append(None)
    elif kind:
        rows = [x[-2]] if len(x) == 2 else [*x[:-1], 1]
        operands.append(_zero(g, "T1", rows if g.flag(0.15) else ()))
    if kind > 1:
        columns = [like[-1]] if len(like) == 2 else [*like[:-2], 1, like[-1]]
        operands.append(_zero(g, "T2", columns if g.flag(0.4) else ()))
    return Rule(operands, [shape])


# QLinearMatMul -------------------------------------------------------------------------------------------------------
def _quantised(form: Format | None, level: Tensor, zero: Tensor) -> Tensor:
    """Rounded to the nearest, ties to even, and cut to the range; 8-bit floats are saturated."""
    zero = _laid(zero.to(level.dtype), True)
    if form is not None and form.is_float:
        return to_grid(level.double() + zero.double(), form)
    assert form is not None
    return (level.round() + zero).clamp(form.lowest, form.largest)


def _factor(x_scale: Tensor, y_scale: Tensor, scale: Tensor) -> Tensor:
    return _laid(x_scale, True) * _laid(y_scale, False) / _laid(scale, True)


def _qlinear(a: Node, x: Tensor, x_scale: Tensor, x_zero: Tensor, y: Tensor, y_scale: Tensor, y_zero: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    sums = _level(x, x_zero, True) @ _level(y, y_zero, False)
    kind = torch.promote_types(x_scale.dtype, torch.float32)
    return _quantised(a.out_formats[0], sums.to(kind) * _factor(x_scale.to(kind), y_scale.to(kind), scale.to(kind)), zero).to(a.out())


def _qlinear_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Exact sums; their scaling decides the level unless it comes close to the middle between two."""
    x, xs, xz, y, ys_, yz, s, z = balls
    assert x is not None and y is not None and xs is not None and ys_ is not None and s is not None and z is not None
    assert xz is not None and yz is not None
    form = node.out_formats[0]
    inherited = _sum_radii(x, y, xz, yz)
    sums = _level(x.value, xz.value, True) @ _level(y.value, yz.value, False)
    factor = _factor(*(b.value.double() for b in (xs, ys_, s)))
    # The product of the operands as they are, or the sums scaled once, in the type of the scales.
    u = max(2.0**-24, policy.u(node.in_formats[1]))
    rounding = 6 * u if form.is_float is False else (6 + x.value.shape[-1]) * u
    found = []
    for which in (1, 2):
        relative: Any = rounding
        for b, rows in ((xs, True), (ys_, False), (s, True)):
            if b[which] is not None:
                r = _laid(finite(b[which]) / b.value.double().abs(), rows)
                relative = relative + (r / (1 - r)).masked_fill(r >= 1, INF)
        off = sums.abs() * factor.abs() * relative
        if inherited[which - 1] is not None:
            off = off + finite(inherited[which - 1]) * factor.abs() * (1 + relative)
        off = off.nan_to_num(nan=1e300, posinf=1e300)
        ends = [_quantised(form, sums * factor + sign * off, z.value).double() for sign in (-1, 1)]
        r = between(ends[0], ends[1], ys[0])
        if z[which] is not None:
            r = r + _laid(finite(z[which]), True)
        found.append(settle(r))
    return [(found[0], found[1]) if bool(found[0].any()) else EXACT]


@op("QLinearMatMul", meaning=_qlinear, error=_qlinear_error)
def qlinear_matmul(g: Draw) -> Rule:
    """Scales such that results fill the range; one for all, or one for every row or column."""
    x, like, shape = _operands(g)
    form = g.type("T1")
    if g.flag(0.8):
        g.type("T2", among=[INT8] if form is INT8 else [INT8, UINT8])
        g.type("T3", among=[form])
    columns = [like[-1]] if len(like) == 2 else [*like[:-2], 1, like[-1]]
    each = columns if g.flag(0.3) else []
    operands = [x, g.given([], 0.01, 0.1, role="parameter"), _zero(g, "T1"), g.operand(like=like, role="weight", among=[UINT8, INT8])]
    operands += [g.given(each, 0.005, 0.05, role="parameter"), _zero(g, "T2", each)]
    g.type("T3", among=[UINT8, INT8])
    return Rule([*operands, g.given([], 0.05, 1.0, role="parameter"), _zero(g, "T3")], [shape])
