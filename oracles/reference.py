"""The float64 reference of a case with a bound for every element: values and radii in one pass over the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from specs.formats import Format
from specs.numerics import INF, LOOSEST, Ball, Policy, Sure, outputs
from specs.program import Node, Program, wrap

HUGE = 1e290  # a radius beyond is what is left of an infinite one


@dataclass(frozen=True)
class Expected:
    """One output of the reference: the ball (of lists for a sequence; without radii for strings) and its format."""

    ball: Ball
    format: Format | None


class _Balls:
    """The interpreter that carries a ball for every value."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __call__(self, node: Node, args: list[Any]) -> Sequence[Any]:
        balls: list[Any] = [None if a is None else a if isinstance(a, (Ball, list)) else Ball(a) for a in args]
        ys = [wrap(y, f) for y, f in zip(outputs(node.op.meaning(node, *[_value(b) for b in balls])), node.out_formats, strict=False)]
        radii = node.op.error(node, self.policy, balls, ys)
        for y, (worst, spread) in zip(ys, radii, strict=False):
            if isinstance(y, torch.Tensor) and any(r is not None and r.shape != y.shape for r in (worst, spread)):
                raise ValueError(f"{node.op.name}: a radius of another shape than the value's: the operator's error rule is wrong")
        return [_watched(y, worst, spread, form) for y, (worst, spread), form in zip(ys, radii, node.out_formats, strict=False)]


def _value(ball: Any) -> Any:
    return [_value(b) for b in ball] if isinstance(ball, list) else ball.value if ball is not None else None


def _watched(y: Any, worst: Any, spread: Any, form: Format | None) -> Any:
    """NaN and anything that may overflow in the declared format is undecided: a wider intermediate is legal."""
    if isinstance(y, list):
        return [_watched(v, w, s, form) for v, w, s in zip(y, worst or [None] * len(y), spread or [None] * len(y), strict=True)]
    if not isinstance(y, torch.Tensor) or form is None or not form.is_float or not y.numel():
        if worst is not None and isinstance(y, torch.Tensor) and not bool(worst.any()):  # as sure as if it had never been in doubt
            return Ball(y)
        return Ball(y, worst, worst if spread is None else spread)
    if worst is None:
        if y.abs().amax().item() <= form.largest:
            return Ball(y)
        worst = spread = torch.zeros(y.shape, dtype=torch.float64)
    elif (y.abs() + worst).amax().item() <= min(form.largest, HUGE):
        return Sure(y, worst, worst if spread is None else torch.fmin(spread, worst))
    undecided = ~(y.abs() + worst <= min(form.largest, HUGE))
    return Ball(y, worst.masked_fill(undecided, INF), (worst if spread is None else torch.fmin(spread, worst)).masked_fill(undecided, INF))


def balls(program: Program, feeds: Mapping[str, Ball], policy: Policy = LOOSEST) -> dict[str, Expected]:
    """`reference` for inputs that are not exact themselves."""
    with torch.no_grad():
        results = program.run(feeds, _Balls(policy))  # type: ignore[arg-type]
    return {name: Expected(_as_ball(value), program.formats.get(name)) for name, value in results.items()}


def reference(program: Program, inputs: Mapping[str, np.ndarray], policy: Policy = LOOSEST) -> dict[str, Expected]:
    """Balls of all outputs of a program promoted to float64.

    Raises Unsupported for an operator without a meaning, UsageError for inputs that do not fit.
    """
    with torch.no_grad():
        feeds: dict[str, Any] = {name: [Ball(e) for e in t] if isinstance(t, list) else Ball(t) for name, t in program.feeds(inputs).items()}
        results = program.run(feeds, _Balls(policy))
    return {name: Expected(_as_ball(value), program.formats.get(name)) for name, value in results.items()}


def _as_ball(value: Any) -> Ball:
    if not isinstance(value, list):
        return value if isinstance(value, Ball) else Ball(value)
    balls = [_as_ball(e) for e in value]  # a sequence: one ball of lists
    return Ball([b.value for b in balls], [b.worst for b in balls], [b.spread for b in balls])
