"""The float64 reference of a case with a bound for every element: values and radii in one pass over the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from specs.formats import Format
from specs.numerics import INF, LOOSEST, Ball, Policy, Sure, SureTogether, Together, outputs
from specs.program import Node, Program, wrap

HUGE = 1e290  # a radius beyond is what is left of an infinite one
SQUARED = 1e150  # a sure one can be squared
SECOND = 2.0**-9  # share of a radius for what the first order leaves out
#: Families that give an element of a smaller operand to several results, by broadcasting, repeating or gathering.
SPREADING = frozenset({"activation", "arithmetic", "comparison", "fused_quantisation", "gathering", "quantisation", "resizing", "shape"})


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
        balls: list[Any] = [a if a is None or isinstance(a, (Ball, list)) else Ball(a) for a in args]
        values = [b.value if isinstance(b, Ball) else _value(b) for b in balls]
        forms = node.out_formats
        ys = [wrap(y, f) for y, f in zip(outputs(node.op.meaning(node, *values)), forms, strict=False)]
        results, together = list[Any](), None
        for y, (worst, spread), form in zip(ys, node.op.error(node, self.policy, balls, ys), forms, strict=False):
            if worst is not None:
                if isinstance(y, torch.Tensor) and (worst.shape != y.shape or (spread is not None and spread.shape != y.shape)):
                    raise ValueError(f"{node.op.name}: a radius of another shape than the value's: the operator's error rule is wrong")
                together = _together(node, balls, ys) if together is None else together
            results.append(_watched(y, worst, spread, form, bool(together)))
        return results


def _together(node: Node, balls: Sequence[Any], ys: Sequence[Any]) -> bool:
    """Whether results may share errors: an operand's did, or one uncertain element went into several results as it is."""
    for b in balls:
        if isinstance(b, list):
            if any(isinstance(e, Ball) and e.together for e in b):
                return True
        elif b is not None and b.worst is not None:
            if b.together or node.op.together:
                return True
            if node.op.family in SPREADING and any(isinstance(y, torch.Tensor) and y.numel() > b.value.numel() for y in ys):
                return True
    return node.op.together


def _value(ball: Any) -> Any:
    return [_value(b) for b in ball] if isinstance(ball, list) else ball.value if ball is not None else None


def _watched(y: Any, worst: Any, spread: Any, form: Format | None, together: bool = False) -> Any:
    """NaN and anything that may overflow in the declared format is undecided: a wider intermediate is legal."""
    if isinstance(y, list):
        return [_watched(v, w, s, form, together) for v, w, s in zip(y, worst or [None] * len(y), spread or [None] * len(y), strict=True)]
    if not isinstance(y, torch.Tensor) or form is None or not form.is_float or not y.numel():
        if worst is not None and isinstance(y, torch.Tensor) and y.numel() and not bool(worst.any()):  # as sure as if it had never been in doubt
            return Ball(y)
        return (Together if together else Ball)(y, worst, worst if spread is None else spread)
    if worst is None:
        if y.abs().amax().item() <= form.largest:
            return Ball(y)
        worst = spread = torch.zeros(y.shape, dtype=torch.float64)
    elif (y.abs() + worst).amax().item() <= min(form.largest, SQUARED):
        return (SureTogether if together else Sure)(y, worst, worst if spread is None else torch.fmin(spread, worst))
    undecided = ~(y.abs() + worst <= min(form.largest, HUGE))
    return (Together if together else Ball)(
        y, worst.masked_fill(undecided, INF), (worst if spread is None else torch.fmin(spread, worst)).masked_fill(undecided, INF)
    )


def balls(program: Program, feeds: Mapping[str, Ball], policy: Policy = LOOSEST) -> dict[str, Expected]:
    """`reference` for inputs that are not exact themselves."""
    with torch.inference_mode():
        results = program.run(feeds, _Balls(policy))  # type: ignore[arg-type]
    return _expected(program, results, policy)


def reference(program: Program, inputs: Mapping[str, np.ndarray], policy: Policy = LOOSEST) -> dict[str, Expected]:
    """Balls of all outputs of a program promoted to float64.

    Raises Unsupported for an operator without a meaning, UsageError for inputs that do not fit.
    """
    with torch.inference_mode():
        feeds: dict[str, Any] = {name: _given(t, program.inputs[name][0]) for name, t in program.feeds(inputs).items()}
        results = program.run(feeds, _Balls(policy))
    return _expected(program, results, policy)


def _given(t: Any, form: Format | None) -> Any:
    """An input as it is; one below the smallest normal number may be read as zero by whoever flushes."""
    if isinstance(t, list):
        return [Ball(e) for e in t]
    if form is None or not form.is_float or form.bits < 16 or not isinstance(t, torch.Tensor) or not t.numel() or form.tiny > 2.0**-120:
        return Ball(t)
    size = t.abs()
    denormal = (size > 0) & (size < form.tiny)
    if not bool(denormal.any()):
        return Ball(t)
    radius = size.where(denormal, 0.0)
    return Ball(t, radius, radius)


def _expected(program: Program, results: Mapping[str, Any], policy: Policy) -> dict[str, Expected]:
    """Radii are of the first order: each node rounds the value it should have. The value it has is off by as much as its radius."""
    by = 1 + SECOND + 2 * len(program.graph.nodes) * max((policy.u(f) for f in program.coarsest), default=0.0)
    return {name: Expected(_widened(_as_ball(value), by), program.formats.get(name)) for name, value in results.items()}


def _widened(ball: Ball, by: float) -> Ball:
    if not isinstance(ball.worst, torch.Tensor) or not ball.value.is_floating_point():  # steps are whole
        return ball
    return Ball(ball.value, ball.worst * by, ball.spread)


def _as_ball(value: Any) -> Ball:
    if not isinstance(value, list):
        return value if isinstance(value, Ball) else Ball(value)
    balls = [_as_ball(e) for e in value]  # a sequence: one ball of lists
    return Ball([b.value for b in balls], [b.worst for b in balls], [b.spread for b in balls])
