"""Both sides of two-sided operators: a miscompilation of one side shows only where data are on it.

Contents that leave a Relu, a Clip or a comparison on one side are moved by gradients until one element is across, as long as
everything stays inside its domain. What cannot be reached (a Relu behind a Sigmoid) is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fuzzer.network import Value
from fuzzer.search import RATE, Found, as_tensors, rounded, unsafe_at
from specs.numerics import outputs
from specs.program import Node, Program, evaluate, wrap

STEPS = 8
ACROSS = 0.05  # how far beyond the edge an element is moved
Distance = Callable[[Node, Sequence[Any]], Any]


def _inside(node: Node, args: Sequence[Any]) -> Any:
    """Clip: how far inside its bounds, which came as attributes and became inputs."""
    low, high = [*args[1:], None, None][:2] if node.version >= 11 else (node.min, node.max)
    parts = [p for p in (None if low is None else args[0] - low, None if high is None else high - args[0]) if p is not None]
    return reduce(torch.minimum, parts) if parts else None


def _first(node: Node, args: Sequence[Any]) -> Any:
    """Max and Min: the first operand against the others."""
    if len(args) < 2:
        return None
    others = reduce(torch.maximum if node.op.name == "Max" else torch.minimum, args[1:])
    return args[0] - others


def _compared(node: Node, args: Sequence[Any]) -> Any:
    return args[0] - args[1] if node.version >= 7 else None


#: How far the operands are from the edge, positive on one side of it.
EDGES: dict[str, Distance] = {
    **dict.fromkeys(("Abs", "Celu", "Elu", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Selu", "Sign"), lambda node, args: args[0]),
    "ThresholdedRelu": lambda node, args: args[0] - node.alpha,
    "Shrink": lambda node, args: args[0].abs() - node.lambd,
    "Clip": _inside,
    **dict.fromkeys(("Max", "Min"), _first),
    **dict.fromkeys(("Greater", "GreaterOrEqual", "Less", "LessOrEqual"), _compared),
}


class Reached:
    """An interpreter that counts two-sided nodes over floats, those on both sides, and keeps a loss for each of the others."""

    def __init__(self, leaves: Mapping[str, Any] | None = None) -> None:
        self.leaves = leaves or {}
        self.nodes = self.both = 0
        self.losses: list[Tensor] = []

    def __call__(self, node: Node, args: list[Any]) -> Sequence[Any]:
        if node.op.name == "Constant" and node.outputs[0] in self.leaves:
            return [self.leaves[node.outputs[0]]]
        edge = EDGES.get(node.op.name) if node.op.domain == "" else None
        if edge is not None and isinstance(args[0], Tensor) and args[0].is_floating_point():
            self._look(edge(node, args))
        meaning = node.op.proxy if node.op.proxy is not None and args and isinstance(args[0], Tensor) and args[0].requires_grad else node.op.meaning
        return [wrap(y, f) for y, f in zip(outputs(meaning(node, *args)), node.out_formats, strict=False)]

    def _look(self, d: Any) -> None:
        if d is None or d.numel() < 2:
            return
        self.nodes += 1
        flat = d.flatten()
        low, high = flat[flat.argmin()], flat[flat.argmax()]  # one element: a tie must not move as one
        if bool(low < 0) and bool(high > 0):
            self.both += 1
        elif low.requires_grad:
            self.losses.append((ACROSS + low if bool(low >= 0) else ACROSS - high).clamp(min=0))


def reached(program: Program, feeds: Mapping[str, Any]) -> Reached:
    """What one evaluation of a program reaches."""
    seen = Reached(feeds)
    with torch.no_grad():
        evaluate(program.graph, dict(feeds), seen)
    return seen


def both_sides(leaves: Sequence[Value], program: Program, found: Found) -> Found:
    """Safe contents that reach more sides, or those found."""
    if not any(n.op.name in EDGES for n in program.graph.nodes):
        return found
    tensors = as_tensors(leaves, found.contents)
    free = [v for v in leaves if v.format.is_float and v.format.bits >= 16 and v.low is None and v.high is None]
    for v in free:
        tensors[v.name].requires_grad_(True)
    params, best, most = [tensors[v.name] for v in free], found, -1
    for step in range(STEPS + 1 if params else 0):
        seen = Reached(tensors)
        try:
            evaluate(program.graph, dict(tensors), seen)
        except (IndexError, RuntimeError):  # what was moved left the domain of an operator: an index outside, a chance that is NaN
            if step == 0:
                raise
            break
        if most < 0:
            most = seen.both
        elif seen.both > most:
            contents: dict[str, np.ndarray] = {**found.contents, **{v.name: rounded(tensors[v.name], v) for v in free}}
            if unsafe_at(program, as_tensors(leaves, contents)) is not None:
                break
            best, most = replace(best, contents=contents, steps=best.steps + step), seen.both
        if not seen.losses or not _moved(torch.stack(seen.losses).sum(), params):
            break
    return best


def _moved(loss: Tensor, params: Sequence[Tensor]) -> bool:
    """One step down; False when nothing moves the loss."""
    gradients = torch.autograd.grad(loss, params, allow_unused=True)
    largest = max((float(g.abs().amax()) for g in gradients if g is not None and g.numel()), default=0.0)
    if not 0 < largest < float("inf"):
        return False
    with torch.no_grad():
        for p, g in zip(params, gradients, strict=True):
            if g is not None and g.numel():
                p -= RATE * (1 + p.abs()) * (g / g.abs().amax().clamp(min=1e-30)).nan_to_num()
    return True
