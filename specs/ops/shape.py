"""Operators that change or read shapes: Reshape, Transpose, Squeeze, Flatten, Expand, Tile, Shape, Size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.numerics import EXACT, Ball, Policy, Radii, moves, undecided
from specs.program import Node
from specs.rule import Dim, Misfit
from specs.terms import floor_div, known, prod


def any_type(meaning: Callable[..., Any]) -> Callable[..., Any]:
    """Strings have no torch type: they move as positions in a pool, whose entry 0 is the empty string that padding leaves."""

    @wraps(meaning)
    def applied(a: Node, *xs: Any) -> Any:
        if not any(isinstance(x, np.ndarray) for x in xs):
            return meaning(a, *xs)
        pool, args, at = [np.array([""], dtype=object)], list(xs), 1
        for i, x in enumerate(xs):
            if isinstance(x, np.ndarray):
                args[i] = torch.arange(at, at + x.size).reshape(x.shape)
                pool.append(x.reshape(-1))
                at += x.size
        flat = np.concatenate(pool)

        def back(y: Tensor) -> np.ndarray:
            return flat[y.reshape(-1).numpy()].reshape(tuple(y.shape))

        result = meaning(a, *args)
        return tuple(back(y) for y in result) if isinstance(result, tuple) else back(result)

    return applied


def reads_shape(node: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Only the shape of the first input matters: exact, unless all of it is undecided and so its shape may be another."""
    worst = balls[0].worst if balls and balls[0] is not None else None
    if worst is None or not bool(torch.isinf(worst).all()):
        return [EXACT] * len(ys)
    return [(undecided(y), undecided(y)) for y in ys]


# Reshape ---------------------------------------------------------------------------------------------------------------
@any_type
def _reshape(a: Node, x: Tensor, shape: Tensor | None = None) -> Tensor:
    target: list[int] = list(a.shape) if shape is None else shape.tolist()
    if not a.allowzero:
        target = [x.shape[i] if d == 0 else d for i, d in enumerate(target)]
    if -1 in target:
        others = prod(d for d in target if d != -1)
        target[target.index(-1)] = x.numel() // others if others else 0
    return x.reshape(target)


def _factors(n: int) -> list[int]:
    found, p = list[int](), 2
    while n > 1:
        while n % p == 0:
            found.append(p)
            n //= p
        p += 1
    return found


def _refactor(g: Draw, total: int) -> list[Dim]:
    """Any factorisation of a number of elements into a drawn number of dims."""
    shape = [1] * g.int(1, 5)
    for p in _factors(total):
        shape[g.choose(len(shape))] *= p
    return list(shape)


def _edit(g: Draw, dims: list[Dim]) -> None:
    """One merge of neighbours, split of a dim, or insertion or removal of a 1."""
    kind = g.choose(4)
    if kind == 0 and len(dims) > 1:
        i = g.choose(len(dims) - 1)
        dims[i : i + 2] = [dims[i] * dims[i + 1]]
    elif kind == 1 and dims and len(dims) < 6:
        i = g.choose(len(dims))
        k = g.divisor(dims[i])
        g.require(dims[i] % k == 0)
        rest = floor_div(dims[i], k)
        dims[i : i + 1] = [k, rest] if g.flag() else [rest, k]
    elif kind == 2 and len(dims) < 6:
        dims.insert(g.choose(len(dims) + 1), 1)
    else:
        ones = [i for i, d in enumerate(dims) if known(d) and d == 1]
        if ones:
            del dims[g.pick(ones)]


@op("Reshape", meaning=_reshape, error=moves(), weight=2)
def reshape(g: Draw) -> Rule:
    """Merges, splits and free factorisations, written with 0 copies, a -1 somewhere, and allowzero."""
    x = g.operand(rank=(0, 6), low=0)
    dims = list(x)
    decided = known(*dims)
    if not decided:
        for d in dims:
            g.require(d >= 1)
    if decided and prod(dims) > 0 and g.flag(0.4):
        dims = _refactor(g, prod(dims))
    else:
        for _ in range(g.int(1, 4)):
            _edit(g, dims)
    zero = [known(d) and d == 0 for d in dims]
    copied = [i < len(x) and known(d) == known(x[i]) and (d is x[i] or (known(d) and d == x[i])) for i, d in enumerate(dims)]
    allowzero = g.opset >= 14 and (any(z and not c for z, c in zip(zero, copied, strict=True)) or g.flag(0.15))
    if not allowzero and any(z and not c for z, c in zip(zero, copied, strict=True)):
        raise Misfit("Reshape: an empty dim that cannot be written without allowzero")
    written = list(dims)
    if not allowzero:
        written = [0 if c and (z or g.flag(0.3)) else d for d, c, z in zip(dims, copied, zero, strict=True)]
    if dims and not any(zero) and g.flag():
        written[g.choose(len(dims))] = -1
    shape = g.const(written)
    return Rule([x, shape], [dims], {"allowzero": 1} if allowzero else {})


# Transpose, Squeeze, Unsqueeze, Flatten -----------------------------------------------------------------------------------
@any_type
def _transpose(a: Node, x: Tensor) -> Tensor:
    return x.permute(a.perm if a.perm is not None else tuple(range(x.dim() - 1, -1, -1)))


@op("Transpose", meaning=_transpose, error=moves(), weight=2)
def transpose(g: Draw) -> Rule:
    """Any permutation, or none given, which reverses."""
    x = g.operand(rank=(0, 6), low=0)
    if not x or g.flag(0.2):
        return Rule([x], [x[::-1]])
    perm = g.permutation(len(x))
    return Rule([x], [[x[i] for i in perm]], {"perm": perm})


@any_type
def _squeeze(a: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen = a.axes if axes is None else axes.tolist()
    return x.squeeze() if chosen is None else x.squeeze(tuple(chosen))


@op("Squeeze", meaning=_squeeze, error=moves())
def squeeze(g: Draw) -> Rule:
    """Some or all dims of size 1; an empty list of axes means different things to different readers and is not drawn."""
    if g.flag():
        rank = g.int(1, 5)
        ones = set(g.permutation(rank)[: g.int(1, min(3, rank))])
        x = g.operand(like=[1 if i in ones else None for i in range(rank)], low=0)
    else:
        x = g.operand(rank=(0, 6), low=0)
    singles = [i for i, d in enumerate(x) if known(d) and d == 1]
    if known(*x) and (not singles or g.flag(0.3)):
        g.skip()
        return Rule([x, None], [[d for d in x if d != 1]])
    if not singles:
        singles = [g.choose(len(x))]
        g.require(x[singles[0]] == 1)
    chosen = [singles[i] for i in g.permutation(len(singles))][: g.int(1, len(singles))]
    axes = g.const([i - len(x) if g.flag(0.3) else i for i in chosen])
    return Rule([x, axes], [[d for i, d in enumerate(x) if i not in chosen]])


@any_type
def _unsqueeze(a: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    chosen: list[int] = a.axes if axes is None else axes.reshape(-1).tolist()
    rank = x.dim() + len(chosen)
    for i in sorted(i % rank for i in chosen):
        x = x.unsqueeze(i)
    return x


@op("Unsqueeze", meaning=_unsqueeze, error=moves())
def unsqueeze(g: Draw) -> Rule:
    """New dims of size 1, axes counted in the result, in any order."""
    x = g.operand(rank=(0, 6), low=0)
    rank = len(x) + g.int(1, 3 if len(x) < 4 else 2)
    chosen = g.permutation(rank)[: rank - len(x)]
    axes = g.const([i - rank if g.flag(0.3) else i for i in chosen])
    rest = iter(x)
    return Rule([x, axes], [[1 if i in chosen else next(rest) for i in range(rank)]])


@any_type
def _flatten(a: Node, x: Tensor) -> Tensor:
    axis = a.axis + x.dim() if a.axis < 0 else a.axis
    return x.reshape(prod(x.shape[:axis]), prod(x.shape[axis:]))


@op("Flatten", meaning=_flatten, error=moves())
def flatten(g: Draw) -> Rule:
    """Everything before the axis by everything from it on."""
    x = g.operand(rank=(0, 6), low=0)
    rank = len(x)
    axis = g.int(0, rank)
    shape = [prod(x[:axis]), prod(x[axis:])]
    if axis == 1 and g.flag():
        return Rule([x], [shape])
    return Rule([x], [shape], {"axis": axis - rank if axis < rank and g.flag(0.4) else axis})


# Expand, Tile --------------------------------------------------------------------------------------------------------------
@any_type
def _expand(a: Node, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(shape.tolist())))


@op("Expand", meaning=_expand, error=moves())
def expand(g: Draw) -> Rule:
    """Numpy's broadcasting both ways: the shape may be shorter than the operand, or hold 1 where the operand is larger."""
    if g.flag():
        x = g.operand(like=[1 if g.flag() else None for _ in range(g.int(1, 4))], low=0)
    else:
        x = g.operand(rank=(0, 6), low=0)
    front = g.sizes(g.int(0, 2), 1, 4)
    out = [g.size(1, 16) if known(d) and d == 1 and g.flag(0.8) else d for d in x]
    shape = [*front, *(1 if d is o and g.flag(0.3) else o for d, o in zip(x, out, strict=True))]
    if not front:
        while shape and x and shape[0] is x[len(x) - len(shape)] and g.flag(0.3):
            shape = shape[1:]
    content = g.const(shape)
    return Rule([x, content], [[*front, *out]])


@any_type
def _tile(a: Node, x: Tensor, repeats: Tensor, axis: Tensor | None = None) -> Tensor:
    if axis is None:
        return x.repeat(repeats.tolist())
    times = [1] * x.dim()
    times[int(axis)] = int(repeats)
    return x.repeat(times)


@op("Tile", meaning=_tile, error=moves())
def tile(g: Draw) -> Rule:
    """Repeats per dim, one of them rarely zero."""
    x = g.operand(rank=(1, 6), low=0)
    times = [g.pick([1, 1, 2, 1, 3, 2]) for _ in x]
    if g.flag(0.02):
        times[g.choose(len(times))] = 0
    repeats = g.const(times)
    return Rule([x, repeats], [[d * k for d, k in zip(x, times, strict=True)]])


# Shape, Size ---------------------------------------------------------------------------------------------------------------
def _shape(a: Node, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[_within(a.start or 0, len(x.shape)) : _within(a.end, len(x.shape))], dtype=torch.int64)


def _within(i: int | None, rank: int) -> int:
    return rank if i is None else min(max(i + rank if i < 0 else i, 0), rank)


@op("Shape", meaning=_shape, error=reads_shape, weight=0.5)
def shape_of(g: Draw) -> Rule:
    """The shape or, from opset 15 on, a slice of it, whose ends may be out of range."""
    x = g.operand(rank=(0, 6), low=0)
    rank, attrs = len(x), dict[str, int]()
    if g.opset >= 15:
        if g.flag():
            attrs["start"] = g.int(-rank - 1, rank + 1)
        if g.flag():
            attrs["end"] = g.int(-rank - 1, rank + 1)
    length = _within(attrs.get("end"), rank) - _within(attrs.get("start", 0), rank)
    return Rule([x], [[max(0, length)]], attrs)


def _size(a: Node, x: Tensor) -> Tensor:
    return torch.tensor(prod(x.shape), dtype=torch.int64)


@op("Size", meaning=_size, error=reads_shape, weight=0.3)
def size_of(g: Draw) -> Rule:
    """The number of elements."""
    return Rule([g.operand(rank=(0, 6), low=0)], [[]])


__all__ = ["any_type", "reads_shape"]
