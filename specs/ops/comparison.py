"""Comparisons, logic and selection: Equal, Less, Greater, And, Or, Xor, Where, with the sets where rounding leaves them undecided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specs import Draw, Operator, Rule, op
from specs.formats import BOOL, STRING, Format
from specs.numerics import EXACT, INF, Ball, Policy, Radii, settle, undecidable, undecided, zeros_like
from specs.pointwise import aligned, aligned_balls, ordered, shaped
from specs.program import Node
from specs.schema import formats
from specs.terms import broadcast


def _compare(how: Callable[[Any, Any], Any]) -> Callable[..., Tensor]:
    def meaning(a: Node, x: Any, y: Any) -> Tensor:
        if isinstance(x, np.ndarray):  # strings
            return torch.from_numpy(np.asarray(how(x, y), dtype=np.bool_))
        form = a.in_formats[0]
        return how(ordered(x, form), ordered(aligned(a, x, y), form))

    return meaning


def _comparison_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Undecided if |a - b| <= e_a + e_b and that sum is not zero: exact operands decide ties exactly."""
    if all(b is None or b.worst is None for b in balls):
        return [EXACT]
    a, b = aligned_balls(node, balls)
    y = ys[0]
    form: Format | None = node.in_formats[0]
    if node.inputs[0] == node.inputs[1] and a.worst is not None:  # a value compared with itself, whatever it is
        return _undecided_where(y, [a.worst.isinf()])
    if form is None or form.kind == "bool" or form.name == "uint64":
        return _undecided_where(y, [r for r in (a.worst, b.worst) if r is not None])
    distance = (a.value.double() - b.value.double()).abs()

    def unsure(e: Any, d: Any) -> Tensor:
        total = e if d is None else d if e is None else e + d
        close = ~(distance > total) & (total > 0)
        return zeros_like(y).masked_fill(close, INF)

    doubled = [None if e is None else 2 * e for e in (a.spread, b.spread)]  # a suspect lies beyond twice the spread
    return [(unsure(a.worst, b.worst), unsure(*doubled))]


def _undecided_where(y: Tensor, radii: Sequence[Tensor]) -> Sequence[Radii]:
    """Undecided wherever one of these radii is not zero."""
    r = zeros_like(y)
    for e in radii:
        r = r.masked_fill(~(e == 0), INF)
    return [(r, r)]


def _ordering(g: Draw) -> Rule:
    x = g.operand(low=0, among=[f for f in formats(g.op.name, "", g.opset, "T") if f is not STRING])
    y = g.broadcastable(x)
    return Rule([x, y], [broadcast(x, y)])


def _comparison(name: str, how: Callable[[Any, Any], Any], since: int = 13) -> Operator:
    return op(name, meaning=_compare(how), error=_comparison_error, since=since)(_ordering)


_comparison("Equal", lambda x, y: x == y)
_comparison("Less", lambda x, y: x < y)
_comparison("Greater", lambda x, y: x > y)
_comparison("LessOrEqual", lambda x, y: x <= y)
_comparison("GreaterOrEqual", lambda x, y: x >= y)


# logic -----------------------------------------------------------------------------------------------------------------
def _logic_error(decides: bool | None) -> Any:
    """A decided operand of the value that `decides` (False for And, True for Or) settles the result whatever the other is."""

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        if all(b is None or b.worst is None for b in balls):
            return [EXACT]
        a, b = aligned_balls(node, balls)
        y = ys[0]
        radii = _undecided_where(y, [r for r in (a.worst, b.worst) if r is not None])
        if decides is None:
            return radii
        sure = torch.zeros_like(y)
        for ball in (a, b):
            here = ball.value == decides
            sure = sure | (here if ball.worst is None else here & (ball.worst == 0))
        r = radii[0][0].masked_fill(sure, 0.0)
        return [(r, r)]

    return rule


def _logical(name: str, meaning: Callable[[Tensor, Tensor], Tensor], decides: bool | None) -> Operator:
    return op(name, meaning=lambda a, x, y: meaning(x, aligned(a, x, y)), error=_logic_error(decides))(_ordering)


_logical("And", torch.logical_and, False)
_logical("Or", torch.logical_or, True)
_logical("Xor", torch.logical_xor, None)


# Where -----------------------------------------------------------------------------------------------------------------
def _where(a: Node, condition: Tensor, x: Any, y: Any) -> Any:
    return np.where(condition.numpy(), x, y) if isinstance(x, np.ndarray) else torch.where(condition, x, y)


def _where_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """The radius of the branch taken; max(e_a, e_b) + |a - b| where the condition is undecided."""
    if all(b is None or b.worst is None for b in balls):
        return [EXACT]
    condition, a, b = balls
    assert condition is not None
    assert a is not None
    assert b is not None
    y = ys[0]
    if not isinstance(y, Tensor) or y.is_complex():
        return undecidable(node, policy, balls, ys)
    zero = torch.zeros((), dtype=torch.float64)
    apart = None
    if condition.worst is not None:
        pattern = node.out_formats[0] is not None and node.out_formats[0].name == "uint64"  # a difference of bit patterns means nothing
        apart = undecided(y) if pattern else (a.value.double() - b.value.double()).abs()

    def radius(e: Any, d: Any, c: Any) -> Tensor:
        e, d = zero if e is None else e, zero if d is None else d
        taken = torch.where(condition.value, e, d)
        if apart is not None:
            taken = torch.where(c > 0, e.maximum(d) + apart, taken)
        return settle(shaped(taken, y))

    return [(radius(a.worst, b.worst, condition.worst), radius(a.spread, b.spread, condition.spread))]


@op("Where", meaning=_where, error=_where_error)
def where(g: Draw) -> Rule:
    condition = g.operand(low=0, among=[BOOL])
    x = g.broadcastable(condition, among=[f for f in formats("Where", "", g.opset, "T") if f.kind not in ("string", "complex")])
    y = g.broadcastable(broadcast(condition, x))
    return Rule([condition, x, y], [broadcast(condition, x, y)])
