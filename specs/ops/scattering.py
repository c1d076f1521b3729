"""Operators that write elements by index: ScatterElements, ScatterND, TensorScatter and the old Scatter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.formats import FLOATS, INTEGERS, UINT64
from specs.numerics import EXACT, INF, Ball, ErrorRule, Policy, Radii, finite, moves, settle, undecidable, zeros_like
from specs.operator import meaning_only
from specs.ops.gathering import least, loose, tuples, within, wrapped
from specs.ops.shape import any_type
from specs.program import Node
from specs.rule import Dim, Unsupported, UsageError
from specs.terms import known, minimum, prod

SIGN = -(2**63)  # flips an unsigned 64-bit pattern into one whose signed order is the unsigned order

# scattering ------------------------------------------------------------------------------------------------------------
_REDUCE = {"mul": "prod", "max": "amax", "min": "amin"}


def scatter(a: Node, x: Tensor, axis: int, indices: Tensor, updates: Tensor) -> Tensor:
    """Updates written or reduced into x along one axis, by valid int64 indices of the updates' shape."""
    kind, form = a.reduction or "none", a.in_formats[0]
    if kind == "none":
        return x.scatter(axis, indices, updates)
    if x.dtype == torch.bool:  # Or for add and max, And for mul and min
        return x.byte().scatter_reduce(axis, indices, updates.byte(), "amax" if kind in ("add", "max") else "amin").bool()
    if kind == "add":
        return x.scatter_add(axis, indices, updates)
    if x.is_complex():
        raise Unsupported(f"scatter with reduction {kind} of complex numbers")
    if form is UINT64 and kind != "mul" and not x.is_floating_point():
        return (x ^ SIGN).scatter_reduce(axis, indices, updates ^ SIGN, _REDUCE[kind]) ^ SIGN
    return x.scatter_reduce(axis, indices, updates, _REDUCE[kind])


def _elements_plan(a: Node, x: Tensor, indices: Tensor, updates: Tensor) -> tuple[Tensor, int, Tensor, Tensor]:
    if indices.ndim != x.ndim or updates.shape != indices.shape:
        raise UsageError(f"{a.name}: indices {list(indices.shape)} and updates {list(updates.shape)} for data of rank {x.ndim}")
    axis = a.axis % x.ndim
    return x, axis, wrapped(indices, x.shape[axis]), updates


def _nd_plan(a: Node, x: Tensor, indices: Tensor, updates: Tensor) -> tuple[Tensor, int, Tensor, Tensor]:
    """ScatterND as a scatter along the first axis of (positions, elements of a slice)."""
    k = indices.shape[-1]
    linear = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for i, size in enumerate(x.shape[:k]):
        linear = linear * size + wrapped(indices[..., i], size)
    rows, inner = linear.numel(), prod(x.shape[k:])
    return x.reshape(prod(x.shape[:k]), inner), 0, linear.reshape(rows, 1).expand(rows, inner), updates.reshape(rows, inner)


Plan = Callable[[Node, Tensor, Tensor, Tensor], tuple[Tensor, int, Tensor, Tensor]]


def scatters(plan: Plan) -> tuple[Callable[..., Any], ErrorRule]:
    """Meaning and error rule of a scatter, which differ only in how positions are written."""

    @any_type
    def meaning(a: Node, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        data, axis, at, new = plan(a, x, indices, updates)
        return scatter(a, data, axis, at, new).reshape(x.shape)

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        x, indices, updates = balls[:3]
        assert x is not None and indices is not None and updates is not None
        if loose(indices) is not None:
            return undecidable(node, policy, balls, ys)
        values = [x.value, updates.value]
        if not isinstance(x.value, Tensor):
            return [EXACT]
        errors = [(b.worst, b.spread) if b.worst is not None else (zeros_like(b.value),) * 2 for b in (x, updates)]
        inexact = x.worst is not None or updates.worst is not None
        data, axis, at, _ = plan(node, x.value, indices.value, updates.value)
        hits = torch.zeros(data.shape, dtype=torch.float64).scatter_add(axis, at, torch.ones(at.shape, dtype=torch.float64))

        def into(kind: str, first: Tensor, second: Tensor) -> Tensor:
            one, axis, at, new = plan(node, first, indices.value, second)
            return one.scatter(axis, at, new) if kind == "none" else one.scatter_reduce(axis, at, new, kind)

        def shaped(worst: Tensor, spread: Tensor) -> Sequence[Radii]:
            return [(settle(worst.reshape(x.value.shape)), settle(spread.reshape(x.value.shape)))]

        kind, form, twice = node.reduction or "none", node.out_formats[0], hits > 1
        if kind == "none":
            if not inexact and not bool(twice.any()):
                return [EXACT]
            moved = [into("none", errors[0][w], errors[1][w]).masked_fill(twice, INF) for w in (0, 1)]  # which of two writes wins is open
            return shaped(moved[0], moved[1])
        if form is None or not form.is_float:
            if not inexact:
                return [EXACT]
            touched = [into("sum", *(finite(e[w]) for e in errors)) for w in (0, 1)]
            return shaped(*(t.masked_fill(t > 0, INF) for t in touched))
        if kind in ("max", "min"):
            if not inexact:
                return [EXACT]
            reduce = _REDUCE[kind]
            middle = into(reduce, *values)
            swings = []
            for w in (0, 1):
                ends = [into(reduce, *(v + s * finite(e[w]) for v, e in zip(values, errors, strict=True))) for s in (-1, 1)]
                swings.append((ends[0] - middle).abs().maximum((ends[1] - middle).abs()))
            return shaped(*swings)
        u, u_acc, eta = policy.u(form), policy.accumulation(form), policy.eta(form)
        sizes = [v.abs() for v in values]
        wide = [s + finite(e[0]) for s, e in zip(sizes, errors, strict=True)]
        grow = (hits * u_acc + u) / (1 - (hits * u_acc + u)).clamp(min=0) * (hits > 0)
        half = (hits.sqrt() * u_acc + u) * (hits > 0)
        if kind == "add":
            worst = into("sum", finite(errors[0][0]), finite(errors[1][0])) + into("sum", *wide) * grow + hits * eta
            square = into("sum", *(finite(e[1]).clamp(max=1e150).square() for e in errors))
            return shaped(worst, (square + (into("sum", *sizes) * half + eta * (hits > 0)).square()).sqrt())
        # A product of a subset may lose a denormal or overflow before the other factors bring it back.
        product, most = into("prod", *sizes), into("prod", *(w.clamp(min=1) for w in wide))
        lost = hits * eta * most
        worst = into("prod", *wide) * (1 + grow) - product + lost
        spread = into("prod", *(s + finite(e[1]) for s, e in zip(sizes, errors, strict=True))) * (1 + half) - product + lost
        over = most > form.largest
        return shaped(worst.masked_fill(over, INF), spread.masked_fill(over, INF))

    return meaning, rule


_scatter_elements, _scatter_elements_error = scatters(_elements_plan)
_scatter_nd, _scatter_nd_error = scatters(_nd_plan)


def _lines(g: Draw, shape: Sequence[int], axis: int, size: int) -> np.ndarray:
    """Indices that differ along an axis: the same different places on every line, shifted from line to line."""
    places = tuples(g, [size], shape[axis])[:, 0]
    offsets = np.indices(shape).sum(0)
    step = np.arange(shape[axis]).reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return (places.reshape(step.shape) + offsets - step) % size - size * (offsets % 3 == 2)


def _reduction(g: Draw) -> dict[str, Any]:
    """A reduction this opset has and the data's type can be reduced with."""
    kinds = ["none", "none"] + (["add", "mul"] if g.opset >= 16 else []) + (["max", "min"] if g.opset >= 18 else [])
    kind = g.pick(kinds)
    return {} if kind == "none" else {"reduction": kind}


@op("ScatterElements", meaning=_scatter_elements, error=_scatter_elements_error)
def scatter_elements(g: Draw) -> Rule:
    """Elements written or reduced along one axis; without a reduction no position twice."""
    attrs = _reduction(g)
    x = g.operand(rank=(1, 6), among=INTEGERS + FLOATS if attrs else None)
    axis = g.axis(x.rank)
    at = axis % x.rank
    if attrs:
        shape = within(g, x, at, 12)
        indices = g.given(shape, -x[at], x[at] - 1)
    else:
        low = -x[at] if g.flag(0.3) else 0  # one half of the range: -1 and size - 1 are the same place
        if at == x.rank - 1:
            shape = within(g, x, at, x[at])
            indices = g.given(shape, low, low + x[at] - 1, unique=True)
        elif known(*x) and g.flag(0.7):
            shape = within(g, x, at, minimum(x[at], 8))
            indices = g.const(_lines(g, shape, at, x[at]))
        else:
            shape = within(g, x, at, 1)
            indices = g.given(shape, low, low + x[at] - 1)
    updates = g.operand(like=shape)
    if axis or g.flag(0.2):
        attrs["axis"] = axis
    return Rule([x, indices, updates], [x], attrs)


@op("ScatterND", meaning=_scatter_nd, error=_scatter_nd_error)
def scatter_nd(g: Draw) -> Rule:
    """Slices written or reduced at index tuples; without a reduction no tuple twice."""
    attrs = _reduction(g)
    x = g.operand(rank=(1, 6), among=INTEGERS + FLOATS if attrs else None)
    k = g.int(1, x.rank)
    rows: list[Dim] = g.sizes(g.pick([1, 1, 0, 2]), 1, 5)
    low = least(x[:k])
    if attrs:
        indices = g.given([*rows, k], -low, low - 1)
    elif known(*x):
        rows = [g.int(1, min(12, prod(x[:k])))]
        indices = g.const(tuples(g, x[:k], rows[0]))
    else:
        rows = [1]
        indices = g.given([1, k], -low, low - 1)
    updates = g.operand(like=[*rows, *x[k:]])
    return Rule([x, indices, updates], [x], attrs)


meaning_only("Scatter", _scatter_elements, error=_scatter_elements_error)


# TensorScatter ---------------------------------------------------------------------------------------------------------
@any_type
def _tensor_scatter(a: Node, x: Tensor, update: Tensor, write: Tensor | None = None) -> Tensor:
    if x.dtype.itemsize == 1 and x.is_floating_point():  # torch moves no 8-bit floats
        return _tensor_scatter(a, x.view(torch.uint8), update.view(torch.uint8), write).view(x.dtype)
    axis = a.axis % x.ndim
    start = write.long() if write is not None else torch.zeros(x.shape[0], dtype=torch.int64)
    at = start[:, None] + torch.arange(update.shape[axis])
    at = at % x.shape[axis] if a.mode == "circular" else at
    at = at.reshape([at.shape[0], *[at.shape[1] if i == axis else 1 for i in range(1, x.ndim)]])
    return x.scatter(axis, at.expand(update.shape), update)


@op("TensorScatter", meaning=_tensor_scatter, error=moves(0, 1), since=24)
def tensor_scatter(g: Draw) -> Rule:
    """A cache with new entries written for each sample of the batch at its own place, once round if circular."""
    x = g.operand(rank=(2, 6))
    axis = g.int(1, x.rank - 1)
    length = g.size(1, x[axis])
    update = g.operand(like=[length if i == axis else d for i, d in enumerate(x)])
    circular = g.flag()
    write = g.given([x[0]], 0, x[axis] - 1 if circular else x[axis] - length) if g.flag(0.8) else g.skip()
    attrs: dict[str, Any] = {"mode": "circular"} if circular else {}
    if axis != x.rank - 2 or g.flag(0.3):
        attrs["axis"] = axis - x.rank if g.flag(0.4) else axis
    return Rule([x, update, write], [x], attrs)
