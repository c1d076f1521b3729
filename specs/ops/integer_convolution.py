"""Convolutions of quantised tensors: ConvInteger and QLinearConv."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from specs.draw import Draw
from specs.formats import INT8, UINT8
from specs.numerics import EXACT, INF, Ball, Policy, Radii, between, finite, settle
from specs.operator import op
from specs.ops.convolution import channels, convolve
from specs.ops.windows import slide
from specs.program import Node
from specs.rule import Dim, Operand, Rule
from specs.terms import floor_div, prod


def _level(q: Tensor, zero: Tensor | None, rank: int | None = None) -> Tensor:
    """Quantised numbers from their zero point on, in float64, where sums of their products stay exact.

    Padding comes after this and so stands for a real zero. `rank` is given for weights, whose zero points may be one a channel.
    """
    level = q.double()
    if zero is None:
        return level
    return level - (zero.double().reshape(-1, *[1] * (rank - 1)) if rank is not None and zero.numel() > 1 else zero.double().reshape(()))


def _sums(a: Node, x: Tensor, w: Tensor, x_zero: Tensor | None, w_zero: Tensor | None) -> Tensor:
    return convolve(a, _level(x, x_zero), _level(w, w_zero, w.ndim))


def _radius(q: Ball | None, zero: Ball | None, which: int, like: Tensor, channelwise: bool) -> Tensor | None:
    """Radius of a level, whose number and zero point may both be inexact."""
    total = None
    for b in (q, zero):
        if b is not None and b[which] is not None:
            e = finite(b[which])
            if b is zero and channelwise and e.numel() > 1:
                e = e.reshape(-1, *[1] * (like.ndim - 1))
            elif b is zero:
                e = e.reshape(())
            total = e.expand(like.shape) if total is None else total + e
    return total


def _sum_radii(node: Node, x: Ball, w: Ball, x_zero: Ball | None, w_zero: Ball | None) -> Radii:
    """What inexact operands do to the integer sums, which add no rounding of their own."""
    values = [_level(x.value, None if x_zero is None else x_zero.value).abs(), _level(w.value, None if w_zero is None else w_zero.value, w.value.ndim).abs()]
    result: list[Tensor | None] = []
    for which in (1, 2):
        ex, ew = _radius(x, x_zero, which, values[0], False), _radius(w, w_zero, which, values[1], True)
        if ex is None and ew is None:
            return EXACT
        parts: list[Tensor] = []
        if ex is not None:
            parts.append(convolve(node, ex, values[1]))
        if ew is not None:
            parts.append(convolve(node, values[0] if ex is None else values[0] + ex, ew))
        result.append(settle(torch.stack(parts).sum(0)))
    return result[0], result[1]


def _zero_point(g: Draw, form: Any, shape: Sequence[Dim] = ()) -> Operand:
    """Zero points as quantisers make them: near the middle of an unsigned range, at or near 0 of a signed one."""
    low, high = (96, 160) if form is UINT8 else (-8, 8)
    return g.given(shape, low, high, role="parameter")


# ConvInteger -----------------------------------------------------------------------------------------------------------
def _conv_integer(a: Node, x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None) -> Tensor:
    return _sums(a, x, w, x_zero, w_zero).to(torch.int64).to(torch.int32)


def _conv_integer_error(node: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    x, w, *zeros = balls
    assert x is not None
    assert w is not None
    return [_sum_radii(node, x, w, *[*zeros, None, None][:2])]


@op("ConvInteger", meaning=_conv_integer, error=_conv_integer_error)
def conv_integer(g: Draw) -> Rule:
    """Bytes of either sign on both sides, with zero points for none, one or both of them."""
    x = g.operand(rank=(3, 5), low=0, among=[UINT8, INT8])
    shape, weight, m, attrs = _shapes(g, x)
    operands: list[Operand | None] = [x, g.operand(like=weight, role="weight")]
    kind = g.choose(4)
    if kind:
        if kind == 3:
            g.skip()
        operands.append(_zero_point(g, g.type("T1")) if kind < 3 else None)
    if kind > 1:
        operands.append(_zero_point(g, g.type("T2"), g.pick(([], [m]))))
    return Rule(operands, [shape], attrs)


def _shapes(g: Draw, x: Sequence[Dim]) -> tuple[list[Dim], list[Dim], Dim, dict[str, Any]]:
    """Result and weight shape, output channels and attributes, as for Conv."""
    n, c, *space = x
    for d in (c, *space):
        g.require(d >= 1)
    w = slide(g, space)
    group, m = channels(g, c, prod([n, *w.out]), math.prod(w.kernel))
    attrs = dict(w.attrs)
    if group > 1:
        attrs["group"] = group
    if g.flag():
        attrs["kernel_shape"] = w.kernel
    return [n, m, *w.out], [m, floor_div(c, group), *w.kernel], m, attrs


# QLinearConv -----------------------------------------------------------------------------------------------------------
def _channelwise(t: Tensor, rank: int) -> Tensor:
    return t.reshape(-1, *[1] * (rank - 2)) if t.numel() > 1 else t.reshape(())


def _requantised(a: Node, sums: Tensor, scale: Tensor, y_zero: Tensor) -> Tensor:
    """Rounded to the nearest level, ties to even, and cut to the range."""
    form = a.out_formats[0]
    low, high = (form.lowest, form.largest) if form is not None else (0, 255)
    return ((sums * scale).round() + y_zero.to(sums.dtype).reshape(())).clamp(low, high)


def qlinear_conv_meaning(
    a: Node, x: Tensor, x_scale: Tensor, x_zero: Tensor, w: Tensor, w_scale: Tensor, w_zero: Tensor, y_scale: Tensor, y_zero: Tensor, b: Tensor | None = None
) -> Tensor:
    """The bias is counted in steps of x_scale * w_scale, so it joins the integer sums."""
    sums = _sums(a, x, w, x_zero, w_zero)
    if b is not None:
        sums = sums + _channelwise(b.double(), sums.ndim)
    scale = x_scale.reshape(()) * _channelwise(w_scale, sums.ndim) / y_scale.reshape(())
    return _requantised(a, sums.to(scale.dtype), scale, y_zero).to(a.out())


def qlinear_conv_error(node: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """A sum of integers is exact; its scaling in float32, or by a fixed-point factor, decides the level only off the middle.

    ONNX does not say how to round a tie, so a tie may go either way.
    """
    x, xs, xz, w, ws, wz, ys_, yz, *bias = balls
    assert x is not None
    assert w is not None
    values: list[Any] = [None if b is None else b.value for b in balls]
    scales = [b for b in (xs, ws, ys_) if b is not None]
    inherited = _sum_radii(node, x, w, xz, wz)
    sums = _sums(node, values[0], values[3], values[2], values[5])
    b = bias[0] if bias else None
    if b is not None:
        sums = sums + _channelwise(b.value.double(), sums.ndim)
    factor = values[1].double().reshape(()) * _channelwise(values[4].double(), sums.ndim) / values[6].double().reshape(())
    shift = values[7].double()
    result: list[Tensor] = []
    for which in (1, 2):
        relative: Any = 6 * 2.0**-24
        for s in scales:
            if s[which] is not None:
                r = _channelwise(finite(s[which]) / s.value.double().abs(), sums.ndim)
                relative = relative + (r / (1 - r)).masked_fill(r >= 1, INF)
        off = sums.abs() * factor.abs() * relative
        moved = inherited[which - 1]
        if moved is not None:
            off = off + finite(moved) * factor.abs() * (1 + relative)
        if b is not None and b[which] is not None:
            off = off + _channelwise(finite(b[which]), sums.ndim) * factor.abs() * (1 + relative)
        off = torch.nan_to_num(off, nan=1e300, posinf=1e300)
        # Half a step more makes both neighbours of a tie possible, whichever way it is rounded.
        ends = [_ends(node, sums * factor + sign * off, sign, shift) for sign in (-1, 1)]
        r = between(ends[0], ends[1], ys[0])
        if yz is not None and yz[which] is not None:
            r = r + finite(yz[which]).reshape(())
        result.append(settle(r))
    if not bool(result[0].any()):
        return [EXACT]
    return [(result[0], result[1])]


def _ends(node: Node, level: Tensor, sign: int, shift: Tensor) -> Tensor:
    """The lowest (sign -1) or highest level that a value may be rounded to."""
    form = node.out_formats[0]
    low, high = (form.lowest, form.largest) if form is not None else (0, 255)
    rounded = (level - 0.5).ceil() if sign < 0 else (level + 0.5).floor()
    return (rounded + shift.reshape(())).clamp(low, high)


@op("QLinearConv", meaning=qlinear_conv_meaning, error=qlinear_conv_error)
def qlinear_conv(g: Draw) -> Rule:
    """Scales such that results fill the range without all being cut; one scale or one a channel.

    The mixtures of signs that quantisers make are likelier than the others that the schema allows.
    """
    x = g.operand(rank=(3, 5), low=0, among=[UINT8, INT8])
    return qlinear_conv_rule(g, x, x)


def qlinear_conv_rule(g: Draw, x: Operand, shape: Sequence[Dim]) -> Rule:
    """What goes with the first operand; `shape`: its dims with the channels second."""
    form = g.type("T1")
    if g.flag(0.8):
        g.type("T2", among=[INT8] if form is INT8 else None)
        g.type("T3", among=[form])
    made, weight, m, attrs = _shapes(g, shape)
    x_scale, x_zero = g.given([], 0.01, 0.1, role="parameter"), _zero_point(g, form)
    w = g.operand(like=weight, role="weight")
    each: list[Dim] = [m] if g.flag() else []
    w_scale, w_zero = g.given(each, 0.005, 0.05, role="parameter"), _zero_point(g, g.type("T2"), each)
    y_scale, y_zero = g.given([], 0.05, 1.0, role="parameter"), _zero_point(g, g.type("T3"))
    operands = [x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero]
    if g.flag():
        operands.append(g.given([m], -2000, 2000, role="parameter"))
    return Rule(operands, [made], attrs)
