"""Sequences (Python lists) and optionals (None when empty).

In the bounds interpreter a sequence is a list of balls, and the radii of a sequence output are lists in which None marks an
exact element.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from specs.numerics import EXACT, Ball, Policy, Radii, undecided
from specs.operator import meaning_only
from specs.program import Node

Balls = Sequence[Any]


def _decided(b: Any) -> bool:
    return b is None or isinstance(b, list) or b.worst is None or not bool(b.worst.any())


def _radii(x: Any) -> Radii:
    """Radii of a value in the form in which rules return them."""
    if isinstance(x, list):
        return [b.worst for b in x], [b.spread for b in x]
    return EXACT if x is None else (x.worst, x.spread)


def _undecided(y: Any) -> Radii:
    if y is None:
        return EXACT
    r = [undecided(v) for v in y] if isinstance(y, list) else undecided(y)
    return r, r


def _rearranged(node: Node, policy: Policy, balls: Balls, ys: Sequence[Any]) -> Sequence[Radii]:
    """Elements are handed on as they are: the meaning itself, applied to balls instead of tensors."""
    values = [b.value if isinstance(b, Ball) and i != _data(node) else b for i, b in enumerate(balls)]
    if not all(_decided(b) for i, b in enumerate(balls) if i != _data(node)):
        return [_undecided(y) for y in ys]
    return [_radii(node.op.meaning(node, *values))]


def _data(node: Node) -> int:
    """Which input beside the sequence is an element, not a position."""
    return 1 if node.op.name == "SequenceInsert" else -1


def _each(node: Node, policy: Policy, balls: Balls, ys: Sequence[Any]) -> Sequence[Radii]:
    return [_radii(list(balls))]


def _same(node: Node, policy: Policy, balls: Balls, ys: Sequence[Any]) -> Sequence[Radii]:
    return [_radii(balls[0]) if balls else EXACT]


def _certain(node: Node, policy: Policy, balls: Balls, ys: Sequence[Any]) -> Sequence[Radii]:
    return [EXACT]


# sequences -------------------------------------------------------------------------------------------------------------
def _construct(a: Node, *xs: Any) -> list[Any]:
    return list(xs)


def _empty(a: Node) -> list[Any]:
    return []


def _at(a: Node, sequence: list[Any], position: Any) -> Any:
    return sequence[int(position)]


def _insert(a: Node, sequence: list[Any], x: Any, position: Any = None) -> list[Any]:
    i = len(sequence) if position is None else int(position)
    return [*sequence[:i], x, *sequence[i:]]


def _erase(a: Node, sequence: list[Any], position: Any = None) -> list[Any]:
    i = (-1 if position is None else int(position)) % len(sequence)
    return sequence[:i] + sequence[i + 1 :]


def _length(a: Node, sequence: list[Any]) -> torch.Tensor:
    return torch.tensor(len(sequence))


def _split(a: Node, x: Any, split: Any = None) -> list[Any]:
    axis = a.axis % x.ndim
    size = x.shape[axis]
    if split is None:
        sizes = [1] * size
    elif split.ndim == 0:
        step = int(split)
        sizes = [min(step, size - at) for at in range(0, size, step)]
    else:
        sizes = split.tolist()
    parts = list(torch.split(x, sizes, axis)) if isinstance(x, torch.Tensor) else np.split(x, np.cumsum(sizes)[:-1].tolist(), axis) if sizes else []
    return [p.squeeze(axis) for p in parts] if split is None and not a.keepdims else parts


def _split_error(node: Node, policy: Policy, balls: Balls, ys: Sequence[Any]) -> Sequence[Radii]:
    x, split = balls[0], balls[1] if len(balls) > 1 else None
    if not _decided(split):
        return [_undecided(ys[0])]
    if x.worst is None:
        return [EXACT]
    args = [] if split is None else [split.value]
    return [(_split(node, x.worst, *args), _split(node, x.spread, *args))]


def _concat(a: Node, sequence: list[Any]) -> Any:
    torchy = isinstance(sequence[0], torch.Tensor)
    if a.new_axis:
        return torch.stack(sequence, a.axis) if torchy else np.stack(sequence, a.axis)
    return torch.cat(sequence, a.axis) if torchy else np.concatenate(sequence, a.axis)


def _concat_error(node: Node, policy: Policy, balls: Balls, ys: Sequence[Any]) -> Sequence[Radii]:
    items = balls[0]
    if all(b.worst is None for b in items):
        return [EXACT]
    both = ([torch.zeros(b.value.shape, dtype=torch.float64) if b[i] is None else b[i] for b in items] for i in (1, 2))
    return [tuple(_concat(node, radii) for radii in both)]  # type: ignore[list-item]


meaning_only("SequenceConstruct", _construct, error=_each)
meaning_only("SequenceEmpty", _empty, error=_certain)
meaning_only("SequenceAt", _at, error=_rearranged)
meaning_only("SequenceInsert", _insert, error=_rearranged)
meaning_only("SequenceErase", _erase, error=_rearranged)
meaning_only("SequenceLength", _length, error=_certain)
meaning_only("SplitToSequence", _split, error=_split_error)
meaning_only("ConcatFromSequence", _concat, error=_concat_error)


# optionals -------------------------------------------------------------------------------------------------------------
def _optional(a: Node, x: Any = None) -> Any:
    return x


def _get(a: Node, x: Any) -> Any:
    if x is None:
        raise IndexError("OptionalGetElement: the optional is empty")
    return x


def _has(a: Node, x: Any = None) -> torch.Tensor:
    return torch.tensor(x is not None)


meaning_only("Optional", _optional, error=_same)
meaning_only("OptionalGetElement", _get, error=_same)
meaning_only("OptionalHasElement", _has, error=_certain)
