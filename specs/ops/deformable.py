"""DeformConv: a convolution whose sampling points are moved by a tensor of offsets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from specs.contraction import accumulated, overflowing
from specs.draw import Draw
from specs.numerics import Ball, Policy, Radii, finite, settle
from specs.operator import op
from specs.ops.convolution import channels
from specs.ops.windows import ROOM, Axis, place, slide
from specs.program import Node
from specs.rule import Operand, Rule
from specs.terms import floor_div, known, prod


def _positions(a: Node, axes: Sequence[Axis], offset: Tensor) -> Tensor:
    """Coordinates of the sampling points: [n, offset group, axis, kernel * out]."""
    kernel, out, rank = [w.kernel for w in axes], [w.out for w in axes], len(axes)
    moved = offset.reshape(offset.shape[0], a.offset_group, math.prod(kernel), rank, math.prod(out)).movedim(3, 2)
    points = []
    for i, w in enumerate(axes):
        k = (torch.arange(w.kernel) * w.dilation).reshape([-1 if j == i else 1 for j in range(rank)]).expand(kernel).reshape(-1, 1)
        o = (torch.arange(w.out) * w.stride - w.begin).reshape([-1 if j == i else 1 for j in range(rank)]).expand(out).reshape(1, -1)
        points.append(k + o)
    return (moved + torch.stack(points).to(offset.dtype)).flatten(-2)


def _sampled(x: Tensor, positions: Tensor) -> Tensor:
    """Multilinear interpolation with zeros outside: [n, offset group, channels of it, kernel * out]."""
    n, groups, rank, _ = positions.shape
    size = list(x.shape[2:])
    flat = x.reshape(n, groups, x.shape[1] // groups, -1)
    low = positions.floor()
    part = positions - low
    low = low.clamp(-2, max(size) + 1).to(torch.int64)  # farther out is outside all the same, and fits an integer
    total = None
    for corner in itertools.product((0, 1), repeat=rank):
        index, weight = torch.zeros_like(low[:, :, 0]), torch.ones_like(part[:, :, 0])
        for i, bit in enumerate(corner):
            at = low[:, :, i] + bit
            weight = weight * (part[:, :, i] if bit else 1 - part[:, :, i]) * ((at >= 0) & (at < size[i]))
            index = index * size[i] + at.clamp(0, size[i] - 1)
        value = flat.gather(3, index[:, :, None].expand(-1, -1, flat.shape[2], -1)) * weight[:, :, None]
        total = value if total is None else total + value
    assert total is not None
    return total


def _contracted(a: Node, columns: Tensor, w: Tensor, axes: Sequence[Axis]) -> Tensor:
    """Columns [n, c, kernel, out] times kernels."""
    n, m, out = columns.shape[0], w.shape[0], [v.out for v in axes]
    y = torch.einsum("ngckp,gmck->ngmp", columns.reshape(n, a.group, w.shape[1], -1, math.prod(out)), w.reshape(a.group, m // a.group, w.shape[1], -1))
    return y.reshape(n, m, *out)


def _weighted(sampled: Tensor, mask: Tensor | None, axes: Sequence[Axis]) -> Tensor:
    """The samples as columns [n, c, kernel, out], each times its mask."""
    n, groups, c, _ = sampled.shape
    columns = sampled.reshape(n, groups, c, math.prod(w.kernel for w in axes), math.prod(w.out for w in axes))
    if mask is not None:
        columns = columns * mask.reshape(n, groups, 1, *columns.shape[3:])
    return columns.flatten(1, 2)


def _deform_conv(a: Node, x: Tensor, w: Tensor, offset: Tensor, b: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
    """A point outside the padded input reads zero, and so does one in the padding: only the input itself is interpolated."""
    axes = place(a, x.shape[2:], w.shape[2:])
    form = x.dtype
    if form in (torch.float16, torch.bfloat16):
        x, w, offset, b, mask = (None if t is None else t.float() for t in (x, w, offset, b, mask))  # type: ignore[assignment]
    y = _contracted(a, _weighted(_sampled(x, _positions(a, axes, offset)), mask, axes), w, axes)
    return (y if b is None else y + b.reshape(-1, *[1] * len(axes))).to(form)


def _slopes(x: Tensor, groups: int, i: int) -> Tensor:
    """The steepest step along an axis, borders to zero included, for every channel: [n, offset group, channels, 1]."""
    wide = torch.nn.functional.pad(x, [1 if j // 2 == x.ndim - 3 - i else 0 for j in range(2 * (x.ndim - 2))])
    return wide.diff(dim=2 + i).abs().flatten(2).amax(-1).reshape(x.shape[0], groups, -1, 1)


def _deform_conv_error(node: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Interpolation is continuous: a coordinate that is off by e moves a sample by at most e times the steepest step."""
    x, w, offset, b, mask = [*balls, None, None][:5]
    assert x is not None
    assert w is not None
    assert offset is not None
    form = node.out_formats[0]
    assert form is not None
    u = policy.u(form)
    axes = place(node, x.value.shape[2:], w.value.shape[2:])
    rank, groups = len(axes), node.offset_group
    at = _positions(node, axes, offset.value)
    zero = torch.zeros_like(offset.value)
    sampled = _sampled(x.value, at)
    magnitude = _sampled(x.value.abs(), at)
    masked = None if mask is None else mask.value.abs()
    columns, wide = _weighted(sampled.abs(), masked, axes), _weighted(magnitude, masked, axes)
    reach = torch.tensor([float(v.size + v.begin + v.span + v.stride * v.out) for v in axes]).reshape(1, 1, -1, 1)
    result: list[Tensor] = []
    for which in (1, 2):
        e = offset[which]
        away = _positions(node, axes, zero if e is None else finite(e)) - _positions(node, axes, zero) + (at.abs() + reach) * (2 * u)
        moved = magnitude * ((2 * rank + 3) * u) + sum(_slopes(x.value, groups, i) * away[:, :, i, None] for i in range(rank))
        moved = torch.minimum(moved, x.value.abs().flatten(2).amax(-1).reshape(x.value.shape[0], groups, -1, 1) * 2)
        ex = x[which]
        if ex is not None:
            moved = moved + finite(ex).flatten(2).amax(-1).reshape(x.value.shape[0], groups, -1, 1)
        off = _weighted(moved, masked, axes)
        em = None if mask is None else mask[which]
        if em is not None:
            off = off + _weighted(sampled.abs() + moved, finite(em), axes)
        ew = w[which]
        weights = w.value.abs()
        if which == 1:
            total = _contracted(node, off, weights, axes)
            if ew is not None:
                total = total + _contracted(node, columns + off, finite(ew), axes)
        else:
            total = _contracted(node, off.clamp(max=1e150).square(), weights.square(), axes)
            if ew is not None:
                total = total + _contracted(node, columns.square(), finite(ew).clamp(max=1e150).square(), axes)
        eb = None if b is None else b[which]
        if eb is not None:
            eb = finite(eb).reshape(-1, *[1] * rank)
            total = total + (eb if which == 1 else eb.clamp(max=1e150).square())
        result.append(total)
    terms = w.value[0].numel() + 1 if w.value.numel() else 1
    sums = _contracted(node, wide, w.value.abs(), axes)
    if b is not None:
        sums = sums + b.value.abs().reshape(-1, *[1] * rank)
    worst, spread = accumulated(policy, form, sums, terms, extra=2)
    return [overflowing(policy, form, sums, settle(result[0] + worst), settle((result[1] + spread.square()).sqrt()))]


@op("DeformConv", meaning=_deform_conv, error=_deform_conv_error, since=19)
def deform_conv(g: Draw) -> Rule:
    """Nearly always in two dimensions, the only case that is implemented anywhere."""
    rank = g.pick((4,) * 14 + (3, 5))
    x = g.operand(rank=rank)
    n, c, *space = x
    w = slide(g, space, automatic=False, kernels=(2, 1, 3))
    points = math.prod(w.kernel)
    offsets = g.divisor(c) if g.flag(0.3) else 1
    if known(n, *w.out) and prod([n, offsets * points * (rank - 2), *w.out]) > ROOM:
        w, offsets = slide(g, space, automatic=False, kernels=(1,)), 1
        points = 1
        g.require(prod([n, rank - 2, *w.out]) <= ROOM)
    group, m = channels(g, c, prod([n, *w.out]), points)
    attrs = dict(w.attrs)
    if group > 1:
        attrs["group"] = group
    if offsets > 1:
        attrs["offset_group"] = offsets
    if g.flag():
        attrs["kernel_shape"] = w.kernel
    operands: list[Operand | None] = [
        x,
        g.operand(like=[m, floor_div(c, group), *w.kernel], role="weight"),
        g.operand(like=[n, offsets * points * (rank - 2), *w.out]),
    ]
    biased, masked = g.flag(), g.flag()
    if biased:
        operands.append(g.operand(like=[m], role="weight"))
    elif masked:
        g.skip()
        operands.append(None)
    if masked:
        operands.append(g.operand(like=[n, offsets * points, *w.out]))
    return Rule(operands, [[n, m, *w.out]], attrs)
