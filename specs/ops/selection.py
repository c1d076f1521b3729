"""Operators that select by value: TopK, Compress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.formats import UINT64
from specs.numerics import EXACT, INF, Ball, Policy, Radii, finite, moves, undecidable, zeros_like
from specs.ops.scattering import SIGN
from specs.ops.shape import any_type
from specs.program import Node
from specs.terms import known


# TopK ------------------------------------------------------------------------------------------------------------------
def _ordered(a: Node, x: Tensor) -> tuple[Tensor, Tensor]:
    """All values along the axis, best first, ties by lower index, with their indices."""
    unsigned = a.in_formats[0] is UINT64 and not x.is_floating_point()
    x = x ^ SIGN if unsigned else x
    values, indices = torch.sort(x, dim=a.axis % x.ndim, descending=a.largest != 0, stable=True)
    return values ^ SIGN if unsigned else values, indices


def _top_k(a: Node, x: Tensor, k: Tensor | None = None) -> tuple[Tensor, Tensor]:
    values, indices = _ordered(a, x)
    count, axis = a.k if k is None else int(k), a.axis % x.ndim
    return values.narrow(axis, 0, count), indices.narrow(axis, 0, count)


def _top_k_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Values lie between those of the ends; an index is decided when no other element can overtake or be overtaken."""
    x, values = balls[0], ys[0]
    assert x is not None
    if (len(balls) > 1 and balls[1] is not None and balls[1].worst is not None) or (x.worst is not None and node.in_formats[0] is UINT64):
        return undecidable(node, policy, balls, ys)
    axis, count = node.axis % values.ndim, values.shape[node.axis]
    unordered = node.sorted == 0 and count > 1
    if x.worst is None:
        return [(apart := _anywhere(values, axis), apart), (INF + zeros_like(values),) * 2] if unordered else [EXACT] * len(ys)
    order = _ordered(node, x.value)[1]
    radii = []
    for e in (finite(x.worst), finite(2 * x.spread)):
        ends = [_ordered(node, x.value.double() + s * e)[0].narrow(axis, 0, count) for s in (-1, 1)]
        swing = (ends[0] - values).abs().maximum((ends[1] - values).abs())
        if unordered:
            swing = swing.amax(axis, keepdim=True) + _anywhere(values, axis)
        settled = torch.zeros_like(swing, dtype=torch.bool) if unordered else _settled(node, x.value.double(), e, order, axis).narrow(axis, 0, count)
        radii.append((swing.masked_fill(swing > 1e290, INF), zeros_like(values).masked_fill(~settled, INF)))
    (worst, index), (spread, likely) = radii
    return [(worst, spread / 2), (index, likely)][: len(ys)]


def _anywhere(values: Tensor, axis: int) -> Tensor:
    """How far each value is from any of those returned: without sorting they may come in any order."""
    values = values.double()
    return (values - values.amin(axis, keepdim=True)).maximum(values.amax(axis, keepdim=True) - values)


def _settled(node: Any, x: Tensor, e: Tensor, order: Tensor, axis: int) -> Tensor:
    """In sorted order, which elements are apart from all before and all after; equal exact ones are apart by their index."""
    x, e = (x if node.largest != 0 else -x).gather(axis, order), e.gather(axis, order)
    low, high, exact = x - e, x + e, e == 0

    def before(ends: Tensor) -> Tensor:
        shifted = torch.roll(ends.cummin(axis).values, 1, axis)
        return shifted.index_fill(axis, torch.zeros(1, dtype=torch.int64), INF)

    def after(ends: Tensor) -> Tensor:
        return -before(-ends.flip(axis)).flip(axis)

    above, above_inexact = before(low), before(low.masked_fill(exact, INF))
    below, below_inexact = after(high), after(high.masked_fill(exact, -INF))
    apart = (above > high) & (below < low)
    return apart | (exact & (above >= high) & (above_inexact > high) & (below <= low) & (below_inexact < low))


@op("TopK", meaning=_top_k, error=_top_k_error)
def top_k(g: Draw) -> Rule:
    """The k largest or smallest along an axis, with their indices."""
    x = g.operand(rank=(1, 5))
    axis = g.axis(x.rank)
    at = axis % x.rank
    count = g.size(1, x[at])
    k = g.const([count])
    out = [*x[:at], count, *x[at + 1 :]]
    attrs = {"axis": axis} if at != x.rank - 1 or g.flag() else {}
    if g.flag(0.4):
        attrs["largest"] = 0
    if g.flag(0.1):
        attrs["sorted"] = 0
    return Rule([x, k], [out, out], attrs)


# Compress --------------------------------------------------------------------------------------------------------------
@any_type
def _compress(a: Node, x: Tensor, condition: Tensor) -> Tensor:
    x, axis = (x.reshape(-1), 0) if a.axis is None else (x, a.axis % x.ndim)
    return x.index_select(axis, condition.reshape(-1).nonzero()[:, 0])


@op("Compress", meaning=_compress, error=moves(0))
def compress(g: Draw) -> Rule:
    """Slices where a known condition holds; the condition may be shorter than the axis."""
    x = g.operand(rank=(1, 5))
    axis = g.axis(x.rank) if g.flag(0.8) else None
    if axis is None and not known(*x):
        axis = 0
    length = x[axis] if axis is not None else int(np.prod(x))
    most = min(length, 24) if known(length) else 6
    kept = [g.flag(0.6) for _ in range(most if g.flag(0.6) else g.int(1, most))]
    if not any(kept) and not g.flag(0.1):
        kept[0] = True
    g.require(length >= len(kept))
    condition = g.const(np.array(kept))
    out = [sum(kept)] if axis is None else [sum(kept) if i == axis % x.rank else d for i, d in enumerate(x)]
    return Rule([x, condition], [out], {} if axis is None else {"axis": axis})
