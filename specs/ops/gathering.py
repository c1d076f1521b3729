"""Operators that read elements by index: Gather, GatherElements, GatherND, ReverseSequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.numerics import INF, Ball, ErrorRule, Policy, Radii, moves, zeros_like
from specs.ops.shape import any_type
from specs.program import Node
from specs.rule import Dim, Operand, UsageError
from specs.terms import known, minimum, prod


def wrapped(indices: Tensor, size: int) -> Tensor:
    """Negative indices counted from the end, as int64; what is out of bounds stays so and makes torch raise."""
    indices = indices.long()
    return torch.where(indices < 0, indices + size, indices)


def loose(ball: Ball | None, which: int = 1) -> Tensor | None:
    """Where the indices in a ball may be others; None when all are certain."""
    if ball is None or ball[which] is None:
        return None
    off: Tensor = ball[which] > 0
    return off if bool(off.any()) else None


def gathers(reach: Callable[[Any, Tensor, Tensor], Tensor]) -> ErrorRule:
    """Elements moved by indices; only what an uncertain index reads is undecided: `reach(node, uncertain, output)`."""
    move = moves(0)

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        data, indices = balls[0], balls[1]
        assert data is not None and indices is not None
        [(worst, spread)] = move(node, policy, [data, Ball(indices.value)], ys)
        radii = []
        for which, r in ((1, worst), (2, spread)):
            off = loose(indices, which)
            radii.append(r if off is None else (zeros_like(ys[0]) if r is None else r).masked_fill(reach(node, off, ys[0]), INF))
        return [(radii[0], zeros_like(ys[0]) if radii[1] is None and radii[0] is not None else radii[1])]

    return rule


# gathering -------------------------------------------------------------------------------------------------------------
@any_type
def _gather(a: Node, x: Tensor, indices: Tensor) -> Tensor:
    axis = a.axis % x.ndim
    y = x.index_select(axis, wrapped(indices, x.shape[axis]).reshape(-1))
    return y.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _gather_reach(a: Node, off: Tensor, y: Tensor) -> Tensor:
    rank = y.ndim - off.ndim + 1
    return off.reshape([*off.shape, *[1] * (rank - 1 - a.axis % rank)]).expand(y.shape)


@op("Gather", meaning=_gather, error=gathers(_gather_reach), weight=1.5)
def gather(g: Draw) -> Rule:
    """Slices along one axis, by indices of any rank."""
    x = g.operand(rank=(1, 6), low=0)
    axis = g.axis(x.rank)
    at = axis % x.rank
    g.require(x[at] >= 1)
    shape = [g.size(0 if g.flag(0.02) else 1, 8) for _ in range(g.pick([1, 1, 0, 2, 3]) if x.rank < 5 else 1)]
    indices = g.given(shape, -x[at], x[at] - 1)
    return Rule([x, indices], [[*x[:at], *shape, *x[at + 1 :]]], {"axis": axis} if axis or g.flag(0.2) else {})


@any_type
def _gather_elements(a: Node, x: Tensor, indices: Tensor) -> Tensor:
    if indices.ndim != x.ndim:
        raise UsageError(f"GatherElements: indices of rank {indices.ndim} for data of rank {x.ndim}")
    axis = a.axis % x.ndim
    return x.gather(axis, wrapped(indices, x.shape[axis]))


def within(g: Draw, x: Operand, at: int, most: Dim) -> list[Dim]:
    """A shape of indices: no dim beyond that of the data, free along the axis up to `most`."""
    return [g.size(1, most) if i == at else d if g.flag(0.6) else g.size(1, d) for i, d in enumerate(x)]


@op("GatherElements", meaning=_gather_elements, error=gathers(lambda a, off, y: off))
def gather_elements(g: Draw) -> Rule:
    """One element for each index, along one axis."""
    x = g.operand(rank=(1, 6))
    axis = g.axis(x.rank)
    shape = within(g, x, axis % x.rank, 12)
    indices = g.given(shape, -x[axis], x[axis] - 1)
    return Rule([x, indices], [shape], {"axis": axis} if axis or g.flag(0.2) else {})


@any_type
def _gather_nd(a: Node, x: Tensor, indices: Tensor) -> Tensor:
    b, k = a.batch_dims or 0, indices.shape[-1]
    batch, points = prod(x.shape[:b]), prod(indices.shape[b:-1])
    flat, picks = x.reshape([batch, *x.shape[b:]]), indices.long().reshape(batch, points, k)
    y = flat[(torch.arange(batch)[:, None], *picks.unbind(-1))]
    return y.reshape([*indices.shape[:-1], *x.shape[b + k :]])


def _gather_nd_reach(a: Node, off: Tensor, y: Tensor) -> Tensor:
    off = off.any(-1)
    return off.reshape([*off.shape, *[1] * (y.ndim - off.ndim)]).expand(y.shape)


def tuples(g: Draw, sizes: Sequence[Dim], count: int) -> np.ndarray:
    """`count` different index tuples into known sizes, some components counted from the end."""
    total, places, rows = prod(sizes), dict[int, int](), list[list[int]]()
    for i in range(count):  # the first steps of a Fisher-Yates shuffle
        j = i + g.choose(total - i)
        linear, places[j] = places.get(j, j), places.get(i, i)
        row = list[int]()
        for s in reversed(sizes):
            row.insert(0, linear % s - (s if g.flag(0.3) else 0))
            linear //= s
        rows.append(row)
    return np.array(rows, dtype=np.int64).reshape(count, len(sizes))


def least(sizes: Sequence[Dim]) -> Dim:
    """The smallest of some sizes: what every component of an index tuple may go up to."""
    result = sizes[0]
    for s in sizes[1:]:
        result = minimum(result, s)
    return result


@op("GatherND", meaning=_gather_nd, error=gathers(_gather_nd_reach))
def gather_nd(g: Draw) -> Rule:
    """Slices by index tuples, with leading batch dims shared by data and indices."""
    x = g.operand(rank=(1, 6))
    batch = g.pick([0, 0, 0, 1, 2])
    batch = batch if batch < x.rank else 0
    k = g.int(1, x.rank - batch)
    free = g.sizes(g.pick([1, 1, 0, 2]), 1, 6)
    if not batch and known(*x) and len(free) == 1 and g.flag(0.3):
        free = [g.int(1, min(8, prod(x[:k])))]
        indices = g.const(tuples(g, x[:k], free[0]))
    else:
        low = least(x[batch : batch + k])
        indices = g.given([*x[:batch], *free, k], -low, low - 1)
    return Rule([x, indices], [[*x[:batch], *free, *x[batch + k :]]], {"batch_dims": batch} if batch or g.flag(0.1) else {})


# reversing -------------------------------------------------------------------------------------------------------------
@any_type
def _reverse_sequence(a: Node, x: Tensor, lengths: Tensor) -> Tensor:
    rows = x.transpose(0, 1) if a.time_axis == 0 else x  # (batch, time, ...)
    batch, time = rows.shape[:2]
    steps, ends = torch.arange(time)[None, :], lengths.long()[:, None]
    y = rows[torch.arange(batch)[:, None], torch.where(steps < ends, ends - 1 - steps, steps)]
    return y.transpose(0, 1) if a.time_axis == 0 else y


def _reverse_reach(a: Node, off: Tensor, y: Tensor) -> Tensor:
    return (off[None, :] if a.time_axis == 0 else off[:, None]).reshape([*((1, -1) if a.time_axis == 0 else (-1, 1)), *[1] * (y.ndim - 2)]).expand(y.shape)


@op("ReverseSequence", meaning=_reverse_sequence, error=gathers(_reverse_reach))
def reverse_sequence(g: Draw) -> Rule:
    """The first steps of each sequence in reverse, each with its own length."""
    x = g.operand(rank=(2, 6))
    time = g.choose(2)
    lengths = g.given([x[1 - time]], 0 if g.flag(0.2) else 1, x[time])
    return Rule([x, lengths], [x], {"time_axis": 1, "batch_axis": 0} if time else {"time_axis": 0, "batch_axis": 1} if g.flag() else {})
