"""If, Loop and Scan: one function each serves the plain interpreter (tensors) and the bounds interpreter (balls).

A condition or a trip count that is not exact makes everything computed under it undecided, while the reference goes on with
its own decision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from specs.numerics import Ball, Radii, undecided, zeros_like
from specs.operator import meaning_only
from specs.program import Node
from specs.rule import Unsupported

Call = Callable[[str, Sequence[Any]], list[Any]]
#: A loop that runs longer than this in a small test is an endless one.
MOST = 1_000_000


# a value is a tensor, None (an empty optional), a ball of one of these, or a list of such values (a sequence) ----------
def value(x: Any) -> Any:
    return [value(e) for e in x] if isinstance(x, list) else x.value if isinstance(x, Ball) else x


def decided(x: Any) -> bool:
    return all(decided(e) for e in x) if isinstance(x, list) else not isinstance(x, Ball) or x.worst is None or not bool(x.worst.any())


def give_up(x: Any) -> Any:
    """The same value, undecided; plain values stay as they are."""
    if isinstance(x, list):
        return [give_up(e) for e in x]
    if not isinstance(x, Ball) or x.value is None:
        return x
    r = undecided(x.value)
    return Ball(x.value, r, r)


def part(x: Any, move: Callable[[Any], Any]) -> Any:
    """The same rearrangement of a value and of its radii."""
    if not isinstance(x, Ball):
        return move(x)
    return Ball(move(x.value), None if x.worst is None else move(x.worst), None if x.spread is None else move(x.spread))


def together(items: Sequence[Any], join: Callable[[list[Any]], Any]) -> Any:
    """Join values, and their radii when one of them is inexact."""
    if not any(isinstance(x, Ball) for x in items):
        return join(list(items))
    balls = [x if isinstance(x, Ball) else Ball(x) for x in items]
    result = join([b.value for b in balls])
    if all(b.worst is None for b in balls):
        return Ball(result)
    return Ball(result, *(join([zeros_like(b.value) if b[i] is None else b[i] for b in balls]) for i in (1, 2)))


def alike(args: Sequence[Any], x: Any) -> Any:
    """A new value in the manner of the others: a ball where they are balls."""
    return Ball(x) if any(isinstance(a, Ball) for a in args) else x


def returned(x: Any, times: int) -> Any:
    """What a body that ran so often has made: errors of one origin came back every time and added up, which quadrature cannot know."""
    if isinstance(x, list):
        return [returned(e, times) for e in x]
    if times < 2 or not isinstance(x, Ball) or x.worst is None or x.spread is None:
        return x
    return Ball(x.value, x.worst, (x.spread * times**0.5).fmin(x.worst))


def _if(node: Node, call: Call, args: Sequence[Any]) -> list[Any]:
    results = call("then_branch" if bool(value(args[0])) else "else_branch", [])
    return results if decided(args[0]) else [give_up(r) for r in results]


def _stack(items: list[Any], axis: int = 0) -> Any:
    if not isinstance(items[0], torch.Tensor):  # strings
        import numpy as np

        return np.stack(items, axis)
    return torch.stack(items, axis)


def _loop(node: Node, call: Call, args: Sequence[Any]) -> list[Any]:
    most, condition, *carried = [*args, None, None][: max(2, len(args))]
    sure = decided(most) and decided(condition)
    trips = None if value(most) is None else int(value(most))
    going = condition is None or bool(value(condition))
    n, i = len(carried), 0
    collected: list[list[Any]] = [[] for _ in node.outputs[n:]]
    while going and (trips is None or i < trips):
        if i >= MOST:
            raise Unsupported(f"Loop: more than {MOST} iterations")
        results = call("body", [alike(args, torch.tensor(i)), alike(args, torch.tensor(True)), *carried])
        sure = sure and decided(results[0])
        going, carried = bool(value(results[0])), results[1 : n + 1]
        for items, x in zip(collected, results[n + 1 :], strict=False):
            items.append(x)
        i += 1
    if i:
        stacks = [together(items, _stack) for items in collected]
    else:
        stacks = _empty(collected, lambda: call("body", [alike(args, torch.tensor(0)), alike(args, torch.tensor(True)), *carried])[n + 1 :])
    results = [*carried, *stacks]
    return [returned(r, i) for r in results] if sure else [give_up(r) for r in results]


def _empty(collected: Sequence[Any], once: Callable[[], list[Any]], axes: Sequence[int] | None = None) -> list[Any]:
    """Scan outputs of a loop without iterations: their element shape is what one run of the body would give."""
    if not collected:
        return []
    try:
        samples = once()
    except (RuntimeError, IndexError) as e:
        raise Unsupported(f"a loop without iterations whose scan outputs have an unknown shape: {e}") from e

    def emptied(axis: int) -> Callable[[Any], Any]:
        return lambda t: t[None][:0] if axis == 0 else t.unsqueeze(axis).narrow(axis, 0, 0)

    return [part(x, emptied(axes[k] if axes else 0)) for k, x in enumerate(samples)]


def _axis(x: Any, axis: int, extra: int = 0) -> int:
    return axis % (value(x).ndim + extra)


def _scan(node: Node, call: Call, args: Sequence[Any]) -> list[Any]:
    if node.version == 8:
        return _scan_8(node, call, args)
    m = node.num_scan_inputs
    n = len(args) - m
    state, scanned = list(args[:n]), args[n:]
    k = len(node.outputs) - n
    axes = [_axis(x, a) for x, a in zip(scanned, node.scan_input_axes or [0] * m, strict=True)]
    back = node.scan_input_directions or [0] * m
    out_axes, out_back = node.scan_output_axes or [0] * k, node.scan_output_directions or [0] * k
    length = value(scanned[0]).shape[axes[0]]
    collected: list[list[Any]] = [[] for _ in range(k)]
    for i in range(length):
        elements = [_element(x, axis, length - 1 - i if b else i) for x, axis, b in zip(scanned, axes, back, strict=True)]
        results = call("body", [*state, *elements])
        state = results[:n]
        for items, x, b in zip(collected, results[n:], out_back, strict=False):
            items.insert(0, x) if b else items.append(x)
    if length == 0:
        blanks = [part(x, _blank(axis)) for x, axis in zip(scanned, axes, strict=True)]
        samples = call("body", [*state, *blanks])[n:]
        return [*state, *_empty(collected, lambda: samples, [_axis(x, a, 1) for x, a in zip(samples, out_axes, strict=True)])]
    stacks = [_stacked(items, axis) for items, axis in zip(collected, out_axes, strict=True)]
    return [returned(x, length) for x in (*state, *stacks)]


def _element(x: Any, axis: int, i: int) -> Any:
    if not isinstance(value(x), torch.Tensor):  # strings
        return part(x, lambda t: t.take(i, axis))
    return part(x, lambda t: t.select(axis, i))


def _blank(axis: int) -> Callable[[Any], Any]:
    """An element of a scan over nothing, to learn shapes from."""
    return lambda t: t.new_zeros([d for j, d in enumerate(t.shape) if j != axis])


def _stacked(items: list[Any], axis: int) -> Any:
    axis = _axis(items[0], axis, 1)
    return together(items, lambda parts: _stack(parts, axis))


def _scan_8(node: Node, call: Call, args: Sequence[Any]) -> list[Any]:
    """The first version: a batch in axis 0, its own length per member, scan axis 1; what lies beyond a length is zero."""
    lengths, rest, m = args[0], args[1:], node.num_scan_inputs
    n = len(rest) - m
    back = node.directions or [0] * m
    batch, longest = value(rest[n]).shape[:2]
    finals: list[list[Any]] = [[] for _ in range(n)]
    outs: list[list[Any]] = [[] for _ in node.outputs[n:]]
    for b in range(batch):
        state = [_element(x, 0, b) for x in rest[:n]]
        scanned = [_element(x, 0, b) for x in rest[n:]]
        length = longest if lengths is None else int(value(lengths)[b])
        collected: list[list[Any]] = [[] for _ in outs]
        for i in range(length):
            results = call("body", [*state, *(_element(x, 0, length - 1 - i if d else i) for x, d in zip(scanned, back, strict=True))])
            state = results[:n]
            for items, x in zip(collected, results[n:], strict=False):
                items.append(x)
        for items, x in zip(finals, state, strict=True):
            items.append(x)
        for items, parts in zip(outs, collected, strict=True):
            if not parts:
                raise Unsupported("Scan: a member of length 0, whose outputs have an unknown shape")
            zero = part(parts[0], torch.zeros_like)
            items.append(together([*parts, *[zero] * (longest - length)], _stack))
    results = [together(items, _stack) for items in (*finals, *outs)]
    return [returned(r, longest) for r in results] if decided(lengths) else [give_up(r) for r in results]


def _sequence_map(node: Node, call: Call, args: Sequence[Any]) -> list[Any]:
    rows = [call("body", [a[i] if isinstance(a, list) else a for a in args]) for i in range(len(args[0]))]
    return [[row[k] for row in rows] for k in range(len(node.outputs))]


def _by_control(node: Node, *args: Any) -> Any:
    raise Unsupported(f"{node.op.name}: needs an interpreter that evaluates sub-graphs")


def _through(node: Any, policy: Any, balls: Any, ys: Any) -> Sequence[Radii]:
    """Never asked: the interpreter follows the sub-graphs instead."""
    return [(undecided(y), undecided(y)) for y in ys]


for _name, _control in {"If": _if, "Loop": _loop, "Scan": _scan, "SequenceMap": _sequence_map}.items():
    meaning_only(_name, _by_control, error=_through, control=_control)
