"""Operators that select by value: TopK, Compress, NonZero, Unique, NonMaxSuppression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.formats import UINT64
from specs.numerics import EXACT, INF, Ball, Policy, Radii, finite, moves, undecidable, undecided, zeros_like
from specs.ops.scattering import SIGN
from specs.ops.shape import any_type
from specs.program import Node
from specs.terms import known, prod


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
        if not unordered:
            return [EXACT] * len(ys)
        apart, open_ = _anywhere(values, axis), undecided(values)
        return [(apart, apart), (open_, open_)][: len(ys)]
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
    x = g.operand(rank=(1, 6))
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
    x = g.operand(rank=(1, 6))
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


# what the data decide --------------------------------------------------------------------------------------------------
def _all_or_nothing(certain: bool, radii: Sequence[Radii], ys: Sequence[Any]) -> Sequence[Radii]:
    """Where the number of results depends on the data, one uncertain element makes all of them undecided."""
    return radii if certain else [(undecided(y), undecided(y)) for y in ys]


def _nonzero_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    x = balls[0]
    assert x is not None
    certain = x.worst is None or bool(((x.value.double().abs() > x.worst) | (x.worst == 0)).all())  # bool has no abs
    return _all_or_nothing(certain, [EXACT], ys)


@op("NonZero", meaning=lambda a, x: (x != 0).nonzero().T, error=_nonzero_error, weight=0.5)
def nonzero(g: Draw) -> Rule:
    """Indices of what is not zero, one row an axis."""
    x = g.operand(rank=(0, 6), low=0)
    return Rule([x], [[x.rank, None]])


def _first(groups: Tensor, count: int) -> Tensor:
    """The first position of each group."""
    n = groups.numel()
    return torch.full([count], n, dtype=torch.int64).scatter_reduce(0, groups, torch.arange(n), "amin")


@any_type
def _unique_ordered(a: Node, x: Tensor) -> tuple[Tensor, ...]:
    rows = x.reshape(-1, 1) if a.axis is None else x.movedim(a.axis, 0).reshape(x.shape[a.axis], -1)
    keys = (rows ^ SIGN) if a.in_formats[0] is UINT64 and not x.is_floating_point() else rows.double() if x.is_floating_point() else rows
    if keys.shape[1] == 1:
        _, groups, counts = torch.unique(keys.reshape(-1), sorted=True, return_inverse=True, return_counts=True)
    elif keys.numel():
        _, groups, counts = torch.unique(keys, sorted=True, return_inverse=True, return_counts=True, dim=0)
    else:  # slices without elements are all the same
        n = keys.shape[0]
        groups, counts = torch.zeros(n, dtype=torch.int64), torch.full([min(n, 1)], n, dtype=torch.int64)
    first = _first(groups, counts.numel())
    if a.sorted == 0:
        order = first.argsort()
        first, counts, groups = first[order], counts[order], order.argsort()[groups]
    y = x.reshape(-1)[first] if a.axis is None else x.index_select(a.axis, first)
    return y, first, groups, counts


def _unique(a: Node, x: Any) -> tuple[Any, ...]:
    if isinstance(x, np.ndarray):
        return _unique_strings(a, x)
    return _unique_ordered(a, x)[: len(a.outputs)]


def _unique_strings(a: Node, x: np.ndarray) -> tuple[Any, ...]:
    """Strings by their rank among all strings, which torch can sort."""
    words, codes = np.unique(x.astype(str), return_inverse=True)
    y, *rest = _unique_ordered(a, torch.from_numpy(codes.reshape(x.shape)))
    return (words.astype(object)[y.numpy()], *rest)[: len(a.outputs)]


def _slices_apart(x: Ball, axis: int) -> bool:
    """Whether the lexicographic order of the slices is certain: neighbours are exactly equal up to elements that are certainly apart, or throughout."""
    rows, e = (t.double().movedim(axis, 0).reshape(t.shape[axis], -1) for t in (x.value, x.worst))
    if rows.shape[0] < 2 or not rows.shape[1]:
        return True
    order = torch.unique(rows, dim=0, return_inverse=True)[1].argsort(stable=True)
    low, high = (rows - e)[order], (rows + e)[order]
    same = (high[:-1] == low[1:]) & (low[:-1] == high[1:])
    at = (~same).byte().argmax(1, keepdim=True)
    apart = (high[:-1] < low[1:]).gather(1, at).squeeze(1)
    return bool((apart | same.all(1)).all())


def _unique_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Decided when all values are exact, or further apart than they are uncertain."""
    x = balls[0]
    assert x is not None
    if x.worst is None:
        return [EXACT] * len(ys)
    if node.in_formats[0] is UINT64:
        return _all_or_nothing(bool((x.worst == 0).all()), [EXACT] * len(ys), ys)
    if node.axis is not None:
        first = _unique_ordered(node, x.value)[1]
        moved: list[Radii] = [(x.worst.index_select(node.axis, first), x.spread.index_select(node.axis, first))]
        return _all_or_nothing(_slices_apart(x, node.axis), [*moved, EXACT, EXACT, EXACT][: len(ys)], ys)
    value, order = x.value.double().reshape(-1).sort()
    e = x.worst.reshape(-1)[order]
    reach = (value + e).cummax(0).values[:-1]
    inexact = torch.where(e == 0, -INF, value + e).cummax(0).values[:-1]
    low = (value - e)[1:]
    tied = (value[1:] == value[:-1]) & (e[1:] == 0) & (e[:-1] == 0) & (inexact < low)
    first = _unique_ordered(node, x.value)[1]
    radii: list[Radii] = [(x.worst.reshape(-1)[first], x.spread.reshape(-1)[first])]
    return _all_or_nothing(bool(((reach < low) | tied).all()), [*radii, EXACT, EXACT, EXACT][: len(ys)], ys)


@op("Unique", meaning=_unique, error=_unique_error, weight=0.5)
def unique(g: Draw) -> Rule:
    """Distinct elements or slices, with where they first are, which one each element is, and how many."""
    x = g.operand(rank=(1, 6))
    axis = g.axis(x.rank) if g.flag() else None
    attrs = {"sorted": 0} if g.flag(0.3) else {}
    if axis is not None:
        attrs["axis"] = axis
    y = [None] if axis is None else [None if i == axis % x.rank else d for i, d in enumerate(x)]
    among = [prod(x)] if axis is None else [x[axis]]
    more = [shape if g.flag(0.7) else None for shape in ([None], among, [None])]
    return Rule([x], [y, *more], attrs)


# NonMaxSuppression -----------------------------------------------------------------------------------------------------
def _overlap(a: Node, boxes: Tensor, e: Tensor, worst: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Least and greatest intersection over union of every two boxes whose numbers are uncertain by `e`.

    Without a radius of their own (`worst`) two equal ends are a side of 0, however it is rounded.
    """
    if a.center_point_box:
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        low, high, e = centre - half, centre + half, e[..., :2] + e[..., 2:] / 2
        side, swing = boxes[..., 2:], 2 * e
    else:
        low, high = boxes[..., :2].minimum(boxes[..., 2:]), boxes[..., :2].maximum(boxes[..., 2:])
        e = e[..., :2].maximum(e[..., 2:])
        side = high - low
        swing = 2 * e * ((side > 0) | (worst is not None and (worst[..., :2] + worst[..., 2:] > 0)))
    both = high.unsqueeze(-2).minimum(high.unsqueeze(-3)) - low.unsqueeze(-2).maximum(low.unsqueeze(-3))
    pair = 2 * e.unsqueeze(-2).maximum(e.unsqueeze(-3))  # both ends may be those of the less certain box

    def ratio(inner: Tensor, one: Tensor) -> Tensor:
        area, alone = inner.clamp(min=0).prod(-1), one.prod(-1)
        solid = (one > 0).all(-1)
        union = alone.unsqueeze(-1) + alone.unsqueeze(-2) - area
        ok = solid.unsqueeze(-1) & solid.unsqueeze(-2) & (area > 0)
        return torch.where(ok, torch.where(union > 0, area / union, INF), 0.0)

    more = ratio(both + pair, side - swing)
    thin = ((side.abs() <= swing) & (swing > 0)).any(-1)  # whether there is such a box at all is open
    return ratio(both - pair, side + swing), more.masked_fill(thin.unsqueeze(-1) | thin.unsqueeze(-2), INF)


def _best_first(scores: Tensor, threshold: float | None) -> list[int]:
    order = scores.argsort(descending=True, stable=True).tolist()
    return order if threshold is None else [i for i in order if float(scores[i]) >= threshold]


def _nms(a: Node, boxes: Tensor, scores: Tensor, most: Tensor | None = None, iou: Tensor | None = None, least: Tensor | None = None) -> Tensor:
    count = int(most.reshape(-1)[0]) if most is not None and most.numel() else 0
    overlaps = _overlap(a, boxes, torch.zeros_like(boxes))[0] > (float(iou.reshape(-1)[0]) if iou is not None and iou.numel() else 0.0)
    threshold = float(least.reshape(-1)[0]) if least is not None and least.numel() else None
    found = list[list[int]]()
    for b, suppresses in enumerate(overlaps.tolist()):
        for c in range(scores.shape[1]):
            kept = list[int]()
            for i in _best_first(scores[b, c], threshold):
                if len(kept) >= count:
                    break
                if not any(suppresses[i][j] for j in kept):
                    kept.append(i)
            found += [[b, c, i] for i in kept]
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 3)


def _nms_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Decided when no score is too near another or the threshold, and no overlap too near its own."""
    boxes, scores, _, iou, least = [*balls, None, None, None][:5]
    assert boxes is not None and scores is not None
    if any(b is not None and b.worst is not None for b in balls[2:]):
        return undecidable(node, policy, balls, ys)
    u = 8 * 2.0**-24
    e = boxes.value.abs() * u + (boxes.worst if boxes.worst is not None else 0.0)
    lowest, highest = _overlap(node, boxes.value, e, boxes.worst)
    limit = float(iou.value.reshape(-1)[0]) if iou is not None and iou.value.numel() else 0.0
    itself = torch.eye(boxes.value.shape[1], dtype=torch.bool)
    certain = bool(((lowest > limit * (1 + u)) | (highest < limit * (1 - u)) | (highest == 0) | itself).all())
    ordered, order = scores.value.sort(-1)
    d = scores.worst.gather(-1, order) if scores.worst is not None else torch.zeros_like(ordered)
    gap = ordered.diff(dim=-1)
    certain = certain and bool(((gap > d[..., 1:] + d[..., :-1]) | ((gap == 0) & (d[..., 1:] + d[..., :-1] == 0))).all())
    if least is not None and least.value.numel():
        certain = certain and bool(((ordered - float(least.value.reshape(-1)[0])).abs() > d).all())
    return _all_or_nothing(certain, [EXACT], ys)


@op("NonMaxSuppression", meaning=_nms, error=_nms_error, weight=0.3)
def non_max_suppression(g: Draw) -> Rule:
    """The best boxes that do not overlap a better one too much."""
    batch, classes, count = g.size(1, 3), g.size(1, 3), g.size(1, 12)
    boxes = g.given([batch, count, 4], 0.0, 1.0) if g.flag(0.7) else g.operand(like=[batch, count, 4])
    scores = g.operand(like=[batch, classes, count])
    most = g.const(np.array(g.pick([3, 1, 20, 0]), dtype=np.int64)) if g.flag(0.95) else g.skip()
    iou = g.const(np.array(g.pick([0.5, 0.3, 0.0, 1.0]), dtype=np.float32)) if g.flag(0.8) else g.skip()
    least = g.const(np.array(g.pick([0.2, 0.0, -1.0]), dtype=np.float32)) if g.flag() else g.skip()
    return Rule([boxes, scores, most, iou, least], [[None, 3]], {"center_point_box": 1} if g.flag(0.4) else {})
