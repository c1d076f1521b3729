"""Operators that join, cut and pad: Concat, Split, Slice, Pad."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from specs import Draw, Rule, op
from specs.formats import INT64, Format
from specs.numerics import moves, moves_all
from specs.ops.shape import any_type
from specs.program import Node
from specs.rule import Dim, Operand
from specs.terms import ceil_div, known


# Concat ------------------------------------------------------------------------------------------------------------------
@any_type
def _concat(a: Node, *xs: Tensor) -> Tensor:
    return torch.cat(xs, 1 if a.axis is None else a.axis)


@op("Concat", meaning=_concat, error=moves_all, weight=2)
def concat(g: Draw) -> Rule:
    """One to six operands, now and then empty ones."""
    x = g.operand(rank=(1, 6), low=0)
    axis = g.axis(len(x))
    at, parts = axis % len(x), [x]
    for _ in range(g.pick([1, 2, 1, 3, 0, 5])):
        parts.append(g.operand(like=[None if i == at else d for i, d in enumerate(x)], low=0))
    out = list(x)
    for p in parts[1:]:
        out[at] = out[at] + p[at]
    return Rule(parts, [out], {"axis": axis})


# Split -------------------------------------------------------------------------------------------------------------------
@any_type
def _split(a: Node, x: Tensor, split: Tensor | None = None) -> tuple[Tensor, ...]:
    axis = a.axis or 0
    if split is not None:
        sizes = [int(n) for n in split.tolist()]
    elif a.split is not None:
        sizes = a.split
    else:
        parts, size = a.num_outputs or len(a.outputs), x.shape[axis]
        chunk, sizes = -(-size // parts), list[int]()
        for _ in range(parts):
            sizes.append(min(chunk, size - sum(sizes)))
    return x.split(sizes, axis)


@op("Split", meaning=_split, error=moves())
def split(g: Draw) -> Rule:
    """Equal parts, an uneven last one (from opset 18 on), or sizes given as an input, some of them zero."""
    x = g.operand(rank=(1, 6))
    axis = g.axis(len(x))
    at, attrs = axis % len(x), dict[str, Any]()
    if axis or g.flag():
        attrs["axis"] = axis
    size = x[at]
    if g.flag():
        content, sizes = _sizes(g, size)
        inputs = [x, g.const(content)]
    else:
        parts = g.divisor(size, 6)
        if g.opset >= 18:
            if g.flag():
                parts = g.int(1, 5)
            attrs["num_outputs"] = parts
        chunk = ceil_div(size, parts)
        g.require(size > chunk * (parts - 1))
        sizes = [chunk] * (parts - 1) + [size - chunk * (parts - 1)]
        g.skip()
        inputs = [x, None]
    return Rule(inputs, [[n if i == at else d for i, d in enumerate(x)] for n in sizes], attrs)


def _sizes(g: Draw, size: Dim) -> tuple[list[Dim], list[Dim]]:
    """Sizes of one to five parts; for an unknown size all but one are small numbers."""
    parts = g.int(1, 5)
    if known(size):
        cuts = sorted(g.int(0, size) for _ in range(parts - 1))
        ends = [0, *cuts, size]
        sizes = [b - a for a, b in pairwise(ends)]
    else:
        sizes = [g.int(1, 4) for _ in range(parts - 1)]
        rest = size - sum(sizes)
        g.require(rest >= 1)
        sizes.insert(g.choose(parts), rest)
    return list(sizes), list(sizes)


# Slice -------------------------------------------------------------------------------------------------------------------
@any_type
def _slice(a: Node, x: Tensor, starts: Tensor | None = None, ends: Tensor | None = None, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    first: list[int] = a.starts if starts is None else starts.tolist()
    last: list[int] = a.ends if ends is None else ends.tolist()
    where: Sequence[int] = (a.axes if axes is None else axes.tolist()) or range(len(first))
    by: list[int] = [1] * len(first) if steps is None else steps.tolist()
    for start, end, axis, step in zip(first, last, where, by, strict=True):
        size = x.shape[axis]
        if size == 0:
            continue
        start, end = _clamp(start, size, 0, size if step > 0 else size - 1), _clamp(end, size, *((0, size) if step > 0 else (-1, size - 1)))
        if step > 0:
            x = x[(slice(None),) * (axis % x.dim()) + (slice(start, end, step),)]
        else:
            x = x.index_select(axis, torch.arange(start, min(start, end), step))
    return x


def _clamp(i: int, size: int, low: int, high: int) -> int:
    return max(low, min(i + size if i < 0 else i, high))


@op("Slice", meaning=_slice, error=moves(), weight=2)
def slice_(g: Draw) -> Rule:
    """Starts and ends counted from both ends and beyond them, steps of both signs, some axes, rarely an empty result."""
    x = g.operand(rank=(1, 6), low=0)
    rank = len(x)
    in_order = g.flag(0.25)
    axes = list(range(g.int(1, rank))) if in_order else g.axes(rank, least=1)
    forward, strided, form = g.flag(0.3), g.flag(0.7), g.type("Tind")
    out, starts, ends, steps = list(x), list[Dim](), list[Dim](), list[int]()
    for axis in axes:
        step = g.pick([1, 2, 3, 1]) if forward else g.pick([1, -1, 2, -2, 3, -3, 7, -7])
        step = step if strided else 1
        start, end, out[axis] = (_cut if known(x[axis]) else _cut_unknown)(g, x[axis], step, form)
        starts.append(start)
        ends.append(end)
        steps.append(step)
    inputs: list[Operand | None] = [x, g.const(starts), g.const(ends)]
    if in_order and g.flag(0.7):
        inputs.append(None)
        g.skip()
    else:
        inputs.append(g.const(axes))
    if all(s == 1 for s in steps) and g.flag():
        inputs.append(None)
        g.skip()
    else:
        inputs.append(g.const(steps))
    return Rule(inputs, [out])


def _cut(g: Draw, size: int, step: int, form: Format) -> tuple[int, int, int]:
    """(start, end, length) of a slice of a known size; every way of writing the same slice may be drawn."""
    most, least = int(form.largest), int(form.lowest)
    if size == 0:
        return g.pick([0, -1, 5]) if step > 0 else 0, g.pick([0, most, 3]) if step > 0 else least, 0
    stride = abs(step)
    from_end = g.choose(max(1, size // 2 if g.flag(0.7) else size))  # elements left out where the slice begins
    count = -(-(size - from_end) // stride)
    whole = g.flag(0.4)
    length = count if whole else g.int(0 if g.flag(0.05) else 1, count)
    start = from_end if step > 0 else size - 1 - from_end
    stop = start + step * length - (step // stride) * (g.choose(stride) if length else 0)  # any end between the last element and the next
    if step > 0:
        beyond = stop >= size or length == count
        end = g.pick([most, size, size + 3, 2**31 - 1]) if beyond else g.pick([stop, stop - size])
        first = [start, start - size] + ([least, -size - 2] if start == 0 else [])
    else:
        beyond = stop < 0 or length == count
        end = g.pick([least, -size - 1, -size - 4, -(2**31)]) if beyond else g.pick([stop, stop - size])
        first = [start, start - size] + ([most, size, size + 2] if start == size - 1 else [])
    return g.pick(first), end, length


def _cut_unknown(g: Draw, size: Dim, step: int, form: Format) -> tuple[int, int, Dim]:
    """A slice of an unknown size that leaves out a few elements at either end."""
    before, after = g.int(0, 3), g.int(0, 3)
    g.require(size > before + after)
    length = ceil_div(size - before - after, abs(step))
    if step > 0:
        return before, -after if after else int(form.largest), length
    return -1 - before, after - 1 if after else int(form.lowest), length


# Pad ---------------------------------------------------------------------------------------------------------------------
@any_type
def _pad(a: Node, x: Tensor, pads: Tensor | None = None, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    amounts: list[int] = (a.pads or a.paddings or []) if pads is None else pads.reshape(-1).tolist()
    half, rank = len(amounts) // 2, x.dim()
    where: Sequence[int] = range(rank) if axes is None else axes.tolist()
    around = {axis % rank: (amounts[i], amounts[half + i]) for i, axis in enumerate(where)}
    for axis, (before, after) in around.items():
        size = x.shape[axis]
        if before < 0 or after < 0:  # elements are removed first, so that the other modes repeat only what is left
            x = x.narrow(axis, max(0, -before), size + min(0, before) + min(0, after))
    if a.mode == "constant":
        return _pad_constant(x, {i: (max(0, b), max(0, e)) for i, (b, e) in around.items()}, a.value if value is None else value)
    for axis, (before, after) in around.items():
        if before > 0 or after > 0:
            x = x.index_select(axis, _SOURCE[a.mode](torch.arange(-max(0, before), x.shape[axis] + max(0, after)), x.shape[axis]))
    return x


def _reflected(i: Tensor, size: int) -> Tensor:
    if size == 1:
        return torch.zeros_like(i)
    i = i.remainder(2 * (size - 1))
    return torch.where(i >= size, 2 * (size - 1) - i, i)


_SOURCE = {
    "reflect": _reflected,
    "edge": lambda i, size: i.clamp(0, size - 1),
    "wrap": lambda i, size: i.remainder(size),
}


def _pad_constant(x: Tensor, around: dict[int, tuple[int, int]], value: Tensor | float | None) -> Tensor:
    flat = [n for i in range(x.dim() - 1, -1, -1) for n in around.get(i, (0, 0))]
    if not any(flat):
        return x
    narrow = x.dtype if x.dtype.itemsize == 1 and x.is_floating_point() else None  # torch cannot pad 8-bit floats: pad their bits
    if isinstance(value, Tensor):
        value = value.reshape(()).to(x.dtype)
        if narrow:
            x, value = x.view(torch.uint8), value.view(torch.uint8)
        y = torch.where(F.pad(torch.ones(x.shape, dtype=torch.bool), flat), F.pad(x, flat), value)
    else:
        y = F.pad(x.view(torch.uint8) if narrow else x, flat, value=value or 0)
    return y.view(narrow) if narrow else y


@op("Pad", meaning=_pad, error=moves(0, 2), weight=2)
def pad(g: Draw) -> Rule:
    """All modes; from opset 18 on only some axes. Negative amounts only where nobody can disagree about what is repeated."""
    modes = ["constant", "reflect", "edge", "constant"]
    mode = g.pick([*modes, "wrap"] if g.opset >= 19 else modes)
    x = g.operand(rank=(1, 6), low=0 if mode == "constant" else 1)
    rank = len(x)
    some = g.opset >= 18 and g.flag(0.4)
    axes = g.axes(rank, least=1) if some else list(range(rank))
    out, befores, afters = list(x), list[int](), list[int]()
    for axis in axes:
        before, after = _amounts(g, x[axis], mode)
        out[axis] = x[axis] + (before + after)
        befores.append(before)
        afters.append(after)
    inputs: list[Operand | None] = [x, g.const([*befores, *afters])]
    if mode == "constant" and g.flag(0.6):
        inputs.append(g.operand(like=[], role="weight"))
    elif some:
        g.skip()
        inputs.append(None)
    if some:
        g.type("Tind", among=[INT64])  # strict shape inference cannot read axes of type int32
        inputs.append(g.const(axes))
    explicit = mode != "constant" or g.flag(0.3)
    return Rule(inputs, [out], {"mode": mode} if explicit else {})


def _amounts(g: Draw, size: Dim, mode: str) -> tuple[int, int]:
    """How much to pad before and after one axis; a reflection is shorter than the axis."""
    if g.flag(0.4):
        return 0, 0
    most = 4 if mode != "reflect" else min(4, size - 1) if known(size) else g.int(0, 3)
    before, after = g.int(0, most), g.int(0, most)
    if g.flag(0.2):
        cut = g.int(1, 2)
        if mode in ("constant", "edge"):
            before, after = (-cut, after) if g.flag() else (before, -cut)
        else:
            before, after = -cut, -g.int(0, 1)
    least = 0 if mode == "constant" else 1
    g.require(size + min(0, before) + min(0, after) >= least)
    if mode == "reflect":
        g.require(size > max(before, after))
    return before, after
