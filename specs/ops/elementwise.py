"""Unary mathematics as a table: Abs, Floor, Exp, Sin, Erf, Not, IsNaN, Identity ... The constants k, m bound an error by k u |y| + m u.

They are at least a third above the largest error of ONNX Runtime, torch and TVM over 180,000 arguments each, in float32 and float16, and
leave the 2 ulp of GPU libraries room.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log, pi
from typing import Any

import torch
from torch import Tensor

from specs import Draw, Rule, op, unary
from specs.formats import UINT64, Format
from specs.numerics import COVERED, EXACT, INF, Ball, Policy, Radii, at_threshold, exact, local, monotone, undecided
from specs.pointwise import answer, choose_attrs, nan_free, undecided_stays, unless_zero, within_range
from specs.program import Node

SAFE_ANGLE = 8192.0  # beyond it libraries reduce arguments with few bits; nothing is claimed there


def _one(balls: Sequence[Ball | None]) -> Ball:
    assert balls[0] is not None
    return balls[0]


# integers and floats ---------------------------------------------------------------------------------------------------
def _abs(a: Node, x: Tensor) -> Tensor:
    return x if a.in_formats[0] is UINT64 else x.abs()


def _sign(a: Node, x: Tensor) -> Tensor:
    return (x != 0).to(x.dtype) if a.in_formats[0] is UINT64 else x.sign()


def _same(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """The result is as far off as the operand and is not rounded (Abs, Neg)."""
    ball = _one(balls)
    return [(ball.worst, ball.spread)]


def _passes(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Identity hands its operand on, sequences (lists of balls) and optionals too."""
    ball: Any = balls[0]
    if isinstance(ball, list):
        return [([b.worst for b in ball], [b.spread for b in ball])]
    return [EXACT] if ball is None else [(ball.worst, ball.spread)]


def _any(g: Draw) -> Rule:
    x = g.operand(low=0)
    return Rule([x], [x])


op("Abs", meaning=_abs, error=within_range(_same))(_any)
op("Sign", meaning=_sign, error=nan_free(monotone(rounds=False)), proxy=lambda a, x: x.tanh())(_any)
op("Identity", meaning=lambda a, x: x, error=_passes)(_any)
unary("Neg", torch.neg, error=within_range(_same))
unary("BitwiseNot", torch.bitwise_not, error=exact, since=18)
unary("Not", torch.logical_not, error=exact)
unary("Floor", torch.floor, error=monotone(rounds=False), proxy=lambda x: x)
unary("Ceil", torch.ceil, error=monotone(rounds=False), proxy=lambda x: x)
unary("Round", torch.round, error=monotone(rounds=False), proxy=lambda x: x)


# roots, exponentials, hyperbolic functions -----------------------------------------------------------------------------
def _reciprocal_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """e |y| / (|x| - e): undecided as soon as the operand may be zero."""
    ball, y = _one(balls), ys[0]
    own = local(policy, node.out_formats[0], y, 2)
    if ball.worst is None:
        return answer(None, None, y, own)
    size = ball.value.abs()

    def swing(e: Tensor) -> Tensor:
        return (e * y.abs() / (size - e)).masked_fill(e >= size, INF)

    return answer(swing(ball.worst), at_threshold(swing, ball.spread), y, own)


def _exponent(a: Node, x: Tensor) -> list[Tensor]:
    """Exponentials overflow so steeply that only a loss on their argument leads back."""
    form = a.out_formats[0]
    size = x if a.op.name == "Exp" else x.abs()
    return [size - log(0.25 * (form.largest if form is not None else 1e30))]


unary("Sqrt", torch.sqrt, error=monotone(2), safe=lambda x: -x)
unary("Reciprocal", torch.reciprocal, error=_reciprocal_error, safe=lambda x: 1e-2 - x.abs())
op("Exp", meaning=lambda a, x: x.exp(), error=monotone(4.5, rooted=True), safe=_exponent)(_any)
op("Sinh", meaning=lambda a, x: x.sinh(), error=monotone(4, 1, rooted=True), safe=_exponent)(_any)
# not monotone, but convex and even: the larger end is the farthest point
op("Cosh", meaning=lambda a, x: x.cosh(), error=monotone(5, rooted=True), safe=_exponent)(_any)
unary("Log", torch.log, error=monotone(6), safe=lambda x: 1e-6 - x)
unary("Tanh", torch.tanh, error=monotone(5, 2, rooted=True))
unary("Asinh", torch.asinh, error=monotone(4, 1, rooted=True))
unary("Acosh", torch.acosh, error=monotone(4, 1), safe=lambda x: 1 - x)
unary("Atanh", torch.atanh, error=monotone(4, 2, rooted=True), safe=lambda x: x.abs() - 0.999)
unary("Sigmoid", torch.sigmoid, error=monotone(2, 3.5, rooted=True))


def _erf(a: Node, x: Tensor) -> Tensor:
    if x.is_floating_point():
        return x.erf()
    return x.double().erf().to(x.dtype)  # integers until opset 13


# Vectorised libraries use Abramowitz and Stegun 7.1.26: 1 - p(x) exp(-x^2) within 1.5e-7, plus the roundings of what is taken from 1.
op("Erf", meaning=_erf, error=monotone(-4, 8))(_any)


# trigonometry ----------------------------------------------------------------------------------------------------------
def _waves(slope: Any) -> Any:
    """Sin and Cos: min(|f'| e + e^2 / 2, e, 2), and an absolute rounding, for the relative one is unbounded at the roots."""

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        ball, y, form = _one(balls), ys[0], node.out_formats[0]
        own = local(policy, form, y, *((4, 4) if form.name == "double" else (3, 1)))
        own = unless_zero(own, ball)
        far = ball.value.abs() > SAFE_ANGLE
        if bool(far.any()):
            own = own.masked_fill(far, 2.0)
        if ball.worst is None:
            return answer(None, None, y, own, COVERED)
        first = slope(ball.value).abs()

        def swing(e: Tensor) -> Tensor:
            return undecided_stays((first * e + e * e / 2).minimum(e).clamp(max=2.0).nan_to_num(nan=2.0), e)

        return answer(swing(ball.worst), at_threshold(swing, ball.spread), y, own, COVERED)

    return rule


def _tan_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Monotone between poles, undecided across one; an argument reduced with an error of u moves the result by (1 + y^2) u."""
    ball, y, form = _one(balls), ys[0], node.out_formats[0]
    own = local(policy, form, y, 6) + (1 + y * y) * policy.u(form)
    own = own.masked_fill(ball.value.abs() > SAFE_ANGLE, INF)
    if ball.worst is None:
        return answer(None, None, y, own)

    def swing(e: Tensor) -> Tensor:
        low, high = ball.value - e, ball.value + e
        ends = (low.tan() - y).abs().maximum((high.tan() - y).abs())
        return ends.masked_fill((low / pi + 0.5).floor() != (high / pi + 0.5).floor(), INF).masked_fill(e >= pi, INF)

    return answer(swing(ball.worst), at_threshold(swing, ball.spread), y, own)


unary("Sin", torch.sin, error=_waves(torch.cos), safe=lambda x: x.abs() - SAFE_ANGLE)
unary("Cos", torch.cos, error=_waves(torch.sin), safe=lambda x: x.abs() - SAFE_ANGLE)
unary("Tan", torch.tan, error=_tan_error, safe=lambda x: 0.05 - x.cos().abs())
unary("Asin", torch.asin, error=monotone(11), safe=lambda x: x.abs() - 1)
unary("Acos", torch.acos, error=monotone(6, 3), safe=lambda x: x.abs() - 1)  # pi/2 - asin near 1 is absolute
unary("Atan", torch.atan, error=monotone(6))


# classification --------------------------------------------------------------------------------------------------------
def _plain(x: Tensor) -> Tensor:
    """torch has no isinf for 8-bit floats."""
    return x if x.dtype.itemsize > 1 else x.float()


def _is_inf(a: Node, x: Tensor) -> Tensor:
    x = _plain(x)
    if a.detect_positive and a.detect_negative:
        return x.isinf()
    if a.detect_positive:
        return x == INF
    return x == -INF if a.detect_negative else torch.zeros_like(x, dtype=torch.bool)


def _classified(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Decided as long as the operand is finite by more than its radius."""
    ball = _one(balls)
    if ball.worst is None:
        return [EXACT]
    form: Format | None = node.in_formats[0]
    largest = INF if form is None else form.largest
    r = undecided(ys[0]).masked_fill(ball.value.abs() + ball.worst < largest, 0.0)
    return [(r, r)]


unary("IsNaN", lambda x: _plain(x).isnan(), error=_classified)
unary("IsInf", _is_inf, error=_classified, attrs=lambda g: choose_attrs(g, detect_negative=[1, 0], detect_positive=[1, 0]))
