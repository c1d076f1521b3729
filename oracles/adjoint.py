"""The adjoint bound for one element: every rounding of the network, weighted by its exact first-order influence on that element.

The ball bound multiplies by the norm of each layer, so it says nothing about deep networks; the gradient sees what cancels
along the paths and grows about linearly with depth. One float64 run with a zero perturbation after every operator, one
backward pass per element.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from oracles.records import Verdict
from specs.numerics import LOOSEST, Ball, Policy, outputs
from specs.program import Node, Program, wrap

CERTIFIED, LIKELY = 2.0, 6.0  # times the first-order worst case; times the statistical influence

#: A suspect verdict as it stands after the adjoint bound has been asked.
Weigh = Callable[[Verdict], Verdict]


class Influence(NamedTuple):
    """first: sum |g| r over worst-case roundings; second: root of the sum of squares over statistical ones; inf when undecided."""

    first: float
    second: float


class _Perturbed:
    """An interpreter that adds a zero with a gradient to every rounded result, and keeps the size of that rounding."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.zeros: list[torch.Tensor] = []
        self.worst: list[torch.Tensor] = []
        self.spread: list[torch.Tensor] = []

    def __call__(self, node: Node, args: list[Any]) -> Sequence[Any]:
        ys = [wrap(y, f) for y, f in zip(outputs(node.op.meaning(node, *args)), node.out_formats, strict=False)]
        exact = [_exact(a) for a in args]
        with torch.no_grad():
            radii = node.op.error(node, self.policy, exact, [_detached(y) for y in ys])
        return [self._perturb(y, worst, spread) for y, (worst, spread) in zip(ys, radii, strict=False)]

    def _perturb(self, y: Any, worst: Any, spread: Any) -> Any:
        if not isinstance(y, torch.Tensor) or worst is None or not y.is_floating_point():
            return y
        zero = torch.zeros(y.shape, dtype=torch.float64, requires_grad=True)
        self.zeros.append(zero)
        self.worst.append(worst)
        self.spread.append(worst if spread is None else spread)
        return y + zero


def _exact(a: Any) -> Any:
    return None if a is None else [_exact(x) for x in a] if isinstance(a, list) else Ball(_detached(a))


def _detached(a: Any) -> Any:
    return a.detach() if isinstance(a, torch.Tensor) else [_detached(x) for x in a] if isinstance(a, list) else a


def influence(program: Program, inputs: Mapping[str, np.ndarray], output: str, element: tuple[int, ...], policy: Policy = LOOSEST) -> Influence:
    """First-order bounds for one element of one output of a program promoted to float64."""
    run = _Perturbed(policy)
    y = program.run(program.feeds(inputs), run)[output]
    if not isinstance(y, torch.Tensor) or not y.requires_grad:
        return Influence(math.inf, math.inf)
    gradients = torch.autograd.grad(y[element], run.zeros, allow_unused=True)
    first = second = 0.0
    for g, worst, spread in zip(gradients, run.worst, run.spread, strict=True):
        if g is not None:
            g = g.abs()
            first += float(torch.where(g > 0, g * worst, 0.0).sum())
            second += float(torch.where(g > 0, g * spread, 0.0).square().sum())
    return Influence(*(math.inf if math.isnan(x) else x for x in (first, math.sqrt(second) if second >= 0 else math.nan)))


def weigher(program: Program, inputs: Mapping[str, np.ndarray], policy: Policy = LOOSEST) -> Weigh:
    """For the suspects of one case: certified to first order, likely, or noise. Other verdicts pass."""

    def weigh(v: Verdict) -> Verdict:
        if v.grade != "likely" or v.verdict != "wrong" or v.element is None or not isinstance(v.got, float) or not isinstance(v.expected, float):
            return v
        error = abs(v.got - v.expected)
        bound = influence(program, inputs, v.output, v.element, policy)
        if error > CERTIFIED * bound.first:
            return replace(v, grade="certified", bound=CERTIFIED * bound.first, ratio=error / max(CERTIFIED * bound.first, 1e-300))
        if error > LIKELY * bound.second:
            return replace(v, bound=LIKELY * bound.second, ratio=error / max(LIKELY * bound.second, 1e-300))
        return replace(v, verdict="noise", grade=None)

    return weigh
