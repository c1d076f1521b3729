"""The adjoint bound for one element: every rounding of the network, weighted by its exact first-order influence on that element.

The ball bound multiplies by the norm of each layer, so it says nothing about deep networks; the gradient sees what cancels
along the paths and grows about linearly with depth. One float64 run with a zero perturbation after every operator, one
backward pass per element.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from oracles.baselines import Baselines
from oracles.compare import compare
from oracles.records import Verdict
from oracles.reference import Expected, reference
from specs.numerics import LOOSEST, STRICT, Ball, Policy, outputs
from specs.program import Node, Program, to_torch, wrap

CERTIFIED, LIKELY = 2.0, 6.0  # times the first-order worst case; times the statistical influence

NEAR = 0.8  # of the statistical bound: nearer than clean elements come but for one in a hundred
#: Times the error of other runs. In halves nothing else finds a weak fault; in wider formats the bounds do, and sums differ more.
WHOLE, WHOLE_HALF = 8.0, 3.0
LUCKY = 1e3  # times below their bound: runs that happen to round nothing are no measure for others
CHOICE = 0.125  # of the largest element: what no single rounding reaches, but a neighbour in a tie does
COARSE = 2.0**-7  # of the array's root mean square: what a bound that is made of roundings stays below


class Influence(NamedTuple):
    """first: sum |g| r over worst-case roundings; second: root of the sum of squares over statistical ones; inf when undecided.

    broken: rounded values pass an operator without a derivative (Floor, a comparison), whose influence is not in these sums.
    choice: an operator may give another value altogether (a tie of nearest neighbours): first order says nothing, the ball does.
    """

    first: float
    second: float
    broken: bool = False
    choice: bool = False


class _Perturbed:
    """An interpreter that adds a zero with a gradient to every rounded result, and keeps the size of that rounding."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.zeros: list[torch.Tensor] = []
        self.worst: list[torch.Tensor] = []
        self.spread: list[torch.Tensor] = []
        self.broken = self.choice = False

    def __call__(self, node: Node, args: list[Any]) -> Sequence[Any]:
        ys = [wrap(y, f) for y, f in zip(outputs(node.op.meaning(node, *args)), node.out_formats, strict=False)]
        if any(isinstance(a, torch.Tensor) and a.requires_grad for a in args):
            self.broken |= node.op.proxy is not None or any(isinstance(y, torch.Tensor) and not y.requires_grad for y in ys)
        exact = [_exact(a) for a in args]
        with torch.no_grad():
            radii = node.op.error(node, self.policy, exact, [_detached(y) for y in ys])
        return [self._perturb(y, worst, spread) for y, (worst, spread) in zip(ys, radii, strict=False)]

    def _perturb(self, y: Any, worst: Any, spread: Any) -> Any:
        if not isinstance(y, torch.Tensor) or worst is None or not y.is_floating_point():
            return y
        zero = torch.zeros(y.shape, dtype=torch.float64, requires_grad=True)
        finite = worst.masked_fill(worst == math.inf, 0.0)
        self.choice |= bool(finite.numel()) and bool(finite.amax() > max(CHOICE * float(y.detach().abs().nan_to_num(0.0, 0.0, 0.0).amax()), 1e-30))
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
    return Influence(*(math.inf if math.isnan(x) else x for x in (first, math.sqrt(second) if second >= 0 else math.nan)), broken=run.broken, choice=run.choice)


class Weigh:
    """What is asked about one case beyond its bounds: the adjoint bound of a suspect, and the evidence of a whole array."""

    def __init__(self, program: Program, inputs: Mapping[str, np.ndarray], policy: Policy = LOOSEST) -> None:
        self.program, self.inputs, self.policy = program, inputs, policy
        self.baselines = Baselines(program, inputs)
        self._strict: tuple[Mapping[str, Expected], Weigh] | None = None

    def __call__(self, v: Verdict) -> Verdict:
        """A suspect is certified to first order, likely, or noise. Other verdicts pass."""
        if v.grade != "likely" or v.verdict != "wrong" or v.element is None or not isinstance(v.got, float) or not isinstance(v.expected, float):
            return v
        error = abs(v.got - v.expected)
        bound = influence(self.program, self.inputs, v.output, v.element, self.policy)
        if bound.choice:
            return replace(v, verdict="noise", grade=None)  # within the ball, or it would not be a mere suspect
        if bound.broken and error <= 2 * (v.bound or 0.0):
            return replace(v, verdict="noise", grade=None)  # within a step that a rounding can take
        if bound.broken:  # what the gradient does not see, other runs may show
            return replace(v, verdict="noise", grade=None) if self.baselines.error(v.output, v.element, v.expected) > error / 10 else v
        if error > CERTIFIED * bound.first:
            return replace(v, grade="certified", bound=CERTIFIED * bound.first, ratio=error / max(CERTIFIED * bound.first, 1e-300))
        if error > LIKELY * bound.second:
            return replace(v, bound=LIKELY * bound.second, ratio=error / max(LIKELY * bound.second, 1e-300))
        return replace(v, verdict="noise", grade=None)

    def strictly(self, v: Verdict, got: Any) -> Verdict:
        """`imprecise` where an element is inside what any compiler may do, but beyond what a strict one has declared."""
        if v.verdict not in ("ok", "noise") or self.policy == STRICT or not v.output:
            return v
        if self._strict is None:
            self._strict = reference(self.program, self.inputs, STRICT), Weigh(self.program, self.inputs, STRICT)
        expected, weigh = self._strict
        found = weigh(compare(v.backend, v.setting, v.output, expected[v.output], got))
        return replace(found, verdict="imprecise") if found.verdict == "wrong" else v

    def whole(self, v: Verdict, want: Expected, got: Any) -> Verdict:
        """`imprecise` where no element is beyond its bound but the array as a whole is further off than any run of ours."""
        value, worst, spread = want.ball
        if v.verdict not in ("ok", "noise") or want.format is None or not want.format.is_float or worst is None:
            return v
        if not isinstance(got, np.ndarray) or got.shape != tuple(value.shape):
            return v
        decided = (worst < math.inf) & torch.isfinite(value)
        error = (to_torch(got, want.format, torch.float64) - value).abs().masked_fill(~decided, 0.0)
        near = error / spread.clamp(min=1e-300)
        at = tuple(int(i) for i in np.unravel_index(int(near.flatten().argmax()), tuple(near.shape))) if near.numel() else ()
        if not near.numel() or not bool(near[at] > NEAR):
            return v
        if bool(spread[at] > COARSE * value.masked_fill(~decided, 0.0).square().mean().sqrt()):
            return v  # not a rounding but a choice (an unsorted TopK, a neighbour): other runs only happen to choose alike
        ratio = self.baselines.ratio(v.output, got, value, decided, want.format)
        if ratio is None or ratio <= (WHOLE_HALF if want.format.bits <= 16 else WHOLE) or ratio > LUCKY * float(near[at]):
            return v
        message = f"error of the whole array {ratio:.1f} times the largest of several runs in the same precision"
        numbers = {"got": float(got[at]), "expected": float(value[at]), "bound": float(spread[at]), "ratio": ratio}
        return replace(v, verdict="imprecise", grade="likely", element=at, message=message, **numbers)


def weigher(program: Program, inputs: Mapping[str, np.ndarray], policy: Policy = LOOSEST) -> Weigh:
    """For one case."""
    return Weigh(program, inputs, policy)
