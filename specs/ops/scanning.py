"""Operators that walk along one axis: ArgMax, ArgMin, CumSum, CumProd."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.contraction import accumulated, overflowing
from specs.formats import UINT64
from specs.numerics import EXACT, INF, Ball, ErrorRule, Policy, Radii, exact_whole, finite, gamma, settle, undecidable
from specs.pointwise import ordered
from specs.program import Node

#: A choice is doubtful within the distance at which a deviation is flagged, which is two spreads.
WIDE = 2.0


# ArgMax, ArgMin ------------------------------------------------------------------------------------------------------
def _position(largest: bool) -> Callable[[Node, Tensor], Tensor]:
    def meaning(a: Node, x: Tensor) -> Tensor:
        x = ordered(x, a.in_formats[0])
        find = torch.argmax if largest else torch.argmin
        if a.select_last_index:
            return x.shape[a.axis] - 1 - find(x.flip(a.axis), a.axis, bool(a.keepdims))
        return find(x, a.axis, bool(a.keepdims))

    return meaning


def candidates(x: Tensor, e: Tensor, at: Tensor, axis: int) -> Tensor:
    """Which elements along the axis may be the largest; `at` is where the largest is (with its axis kept).

    An exact tie is decided, by position: elements that are exact and equal to the exact winner are no candidates.
    """
    best = x.gather(axis, at)
    possible = x + e >= (x - e).amax(axis, keepdim=True)
    tied = (x == best) & (e == 0) & (e.gather(axis, at) == 0)
    return (possible & ~tied).scatter(axis, at, True)


def _position_error(largest: bool) -> ErrorRule:
    """The largest distance to an index that may win; undecided where a NaN is compared, which legal implementations treat differently."""

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        ball, y, keep = balls[0], ys[0], bool(node.keepdims)
        assert ball is not None
        axis, x = node.axis, ball.value
        nan = x.isnan().any(axis, keepdim=keep) if x.is_floating_point() else None
        if nan is not None and not bool(nan.any()):
            nan = None
        if ball.worst is None:
            return [EXACT] if nan is None else [(zero := torch.zeros(y.shape, dtype=torch.float64).masked_fill(nan, INF), zero)]
        if node.in_formats[0] is UINT64:
            return undecidable(node, policy, balls, ys)
        wide = x.double() if largest else -x.double()
        at = y if keep else y.unsqueeze(axis)
        shape = [1] * x.dim()
        shape[axis] = -1
        apart = (torch.arange(x.shape[axis]).view(shape) - at).abs().double()

        def farthest(e: Tensor) -> Tensor:
            far = (apart * candidates(wide, e, at, axis)).amax(axis, keepdim=keep)
            return far if nan is None else far.masked_fill(nan, INF)

        return [(farthest(ball.worst), farthest(WIDE * ball.spread))]

    return rule


def _draw_position(g: Draw) -> Rule:
    x = g.operand(rank=(1, 6))
    attrs: dict[str, Any] = {}
    axis = 0
    if g.flag(0.8):
        axis = attrs["axis"] = g.axis(len(x))
    if g.flag():
        attrs["keepdims"] = 0 if g.flag(0.8) else 1
    if g.flag(0.4):
        attrs["select_last_index"] = 1
    keep = attrs.get("keepdims", 1)
    return Rule([x], [[1 if i == axis % len(x) else d for i, d in enumerate(x) if keep or i != axis % len(x)]], attrs)


op("ArgMax", meaning=_position(True), error=_position_error(True))(_draw_position)
op("ArgMin", meaning=_position(False), error=_position_error(False))(_draw_position)


# CumSum, CumProd -----------------------------------------------------------------------------------------------------
def _along(a: Node, x: Tensor, axis: Tensor, scan: Callable[[Tensor, int], Tensor], neutral: int) -> Tensor:
    """`exclusive` shifts by one element, `reverse` walks from the end."""
    dim = int(axis) % x.dim()
    if a.reverse:
        x = x.flip(dim)
    if a.exclusive and x.shape[dim]:
        first = torch.full_like(x.narrow(dim, 0, 1), neutral)
        x = torch.cat([first, x.narrow(dim, 0, x.shape[dim] - 1)], dim)
    y = scan(x, dim)
    return y.flip(dim) if a.reverse else y


def _cumulative_sum(a: Node, x: Tensor, axis: Tensor) -> Tensor:
    return _along(a, x, axis, lambda t, dim: t.cumsum(dim, dtype=t.dtype), 0)


def _cumulative_product(a: Node, x: Tensor, axis: Tensor) -> Tensor:
    return _along(a, x, axis, lambda t, dim: t.cumprod(dim, dtype=t.dtype), 1)


def _cumulative_sum_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """gamma_n of all magnitudes passed; an exclusive sum may be an inclusive one less the element itself."""
    (ball, axis), form = balls[:2], node.out_formats[0]
    assert ball is not None
    assert axis is not None
    if form is None or not form.is_float or axis.worst is not None:
        return exact_whole(node, policy, balls, ys)
    x, n = ball.value.abs(), ball.value.shape[int(axis.value)]
    passed = node.op.meaning(node, x, axis.value)
    worst, spread = accumulated(policy, form, passed + x if node.exclusive else passed, n)
    if ball.worst is not None:
        worst = worst + node.op.meaning(node, finite(ball.worst), axis.value)
        variance = node.op.meaning(node, finite(ball.spread).clamp(max=1e150).square(), axis.value)
        spread = (variance + spread.square()).sqrt()
    return [(settle(worst), settle(spread))]


def _cumulative_product_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Like ReduceProd: a lost denormal may have been enlarged by what came after it."""
    (ball, axis), form = balls[:2], node.out_formats[0]
    assert ball is not None
    assert axis is not None
    if form is None or not form.is_float or axis.worst is not None:
        return exact_whole(node, policy, balls, ys)
    x, n, u = ball.value.abs(), ball.value.shape[int(axis.value)], policy.u(form)
    size = ys[0].abs()
    reached = node.op.meaning(node, x.clamp(min=1.0), axis.value)
    lost = reached * policy.eta(form)
    worst, spread = overflowing(policy, form, reached, size * gamma(n, u) + lost * n, size * (math.sqrt(n) * u) + lost)
    if ball.worst is not None:
        factor = _along(node, (finite(ball.worst) / x).log1p(), axis.value, lambda t, dim: t.cumsum(dim), 0)
        # Without cancellation where no factor is zero.
        worst = worst + torch.where(size > 0, size * factor.expm1(), node.op.meaning(node, x + finite(ball.worst), axis.value))
        moved = node.op.meaning(node, x + finite(ball.spread), axis.value) - size
        spread = (spread.square() + moved.clamp(max=1e150).square()).sqrt()
    return [(settle(worst), settle(spread))]


def _draw_cumulative(g: Draw) -> Rule:
    x = g.operand(rank=(1, 6), low=0)
    axis = g.const(g.axis(len(x)))
    attrs = {name: 1 for name in ("exclusive", "reverse") if g.flag(0.4)}
    return Rule([x, axis], [x], attrs)


op("CumSum", meaning=_cumulative_sum, error=_cumulative_sum_error)(_draw_cumulative)
op("CumProd", meaning=_cumulative_product, error=_cumulative_product_error, since=26)(_draw_cumulative)
