"""Rounding and propagation of softmax and its logarithm, in closed form: composed of their steps, an error would be counted above and below the line."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specs.contraction import growth
from specs.formats import Format
from specs.numerics import COVERED, INF, TYPICAL, Ball, Policy, Radii, settle

if TYPE_CHECKING:
    from torch import Tensor

STEPS = 7.0  # two exponentials of 4 u and a quotient of 2.5 u, in quadrature
SEEN = 90.0  # exp() of minus as much is below the smallest normal number
FAR = 300.0  # exp() of a radius beyond this says nothing any more


def distances(x: Tensor, p: Tensor, axis: int) -> Tensor:
    """How far every operand lies below the largest: its rounding, not that of the operand, is what counts. 0 where p is 0."""
    return (x.amax(axis, keepdim=True) - x).masked_fill(p == 0, 0.0).masked_fill(x.isneginf(), 0.0)


def softmax_radii(policy: Policy, form: Format, x: Tensor, ball: Ball, axis: int) -> Radii:
    """Closed form over both ends: x_i + e_i against x_j - e_j and the other way round; so never more than 1."""
    n, u = x.shape[axis], policy.u(form)
    p = x.softmax(axis)
    d = distances(x, p, axis)
    own = p * (d * (2 * u) + (p * d).sum(axis, keepdim=True) * (2 * u) + growth(policy, form, n) + 12 * u) + policy.eta(form)
    rough = p * ((d * (2 * COVERED)).square() + (TYPICAL**2 * n + (STEPS * COVERED) ** 2)).sqrt_().mul_(u) + policy.eta(form)
    if ball.worst is None:
        return settle(own.clamp(max=1.0)), settle(rough.clamp(max=1.0))
    swing, moved = softmax_moved(x, p, ball.worst, ball.spread, axis)
    return settle((swing + own).clamp(max=1.0)), settle((moved.square() + rough.square()).sqrt().clamp(max=1.0))


def softmax_moved(x: Tensor, p: Tensor, worst: Tensor, spread: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """How far the errors of the operands take a softmax p, from both ends and in quadrature: x_i moves p_i by p_i (1 - p_i), every other x_j by -p_i p_j."""
    e, s = worst.clamp(max=FAR), spread.clamp(max=FAR)
    up, down = p * e.exp(), p * (-e).exp()
    above = up / (up + (down.sum(axis, keepdim=True) - down).clamp(min=0)) - p
    below = p - down / (down + (up.sum(axis, keepdim=True) - up).clamp(min=0))
    others = (p * s).square()
    moved = ((s * (1 - p)).square() + others.sum(axis, keepdim=True) - others).clamp(min=0).sqrt().clamp(max=FAR).expm1() * p
    return _reaching(x, worst, above.maximum(below), axis), _reaching(x, spread, moved, axis)


def _reaching(x: Tensor, e: Tensor, moved: Tensor, axis: int) -> Tensor:
    """Errors of the operands that no exponential can tell: what may come within sight of the largest may be all."""
    if not e.numel() or float(e.amax()) <= FAR / 2:
        return moved
    top = e + e.amax(axis, keepdim=True)
    return moved.masked_fill((top > FAR) & (x.amax(axis, keepdim=True) - x <= top + SEEN), 1.0)


def log_softmax_radii(policy: Policy, form: Format, x: Tensor, ball: Ball, y: Tensor, axis: int) -> Radii:
    """Absolute: a result near 0 or a logit far from the largest makes the relative error unbounded."""
    n, u = x.shape[axis], policy.u(form)
    p = y.exp()
    d = x.amax(axis, keepdim=True) - x
    shared = (p * d.masked_fill(p == 0, 0.0)).sum(axis, keepdim=True) * (2 * u) + 8 * u
    own = d * (2 * u) + y.abs() * (4 * u) + shared + policy.eta(form)
    worst, spread = own + growth(policy, form, n), own * COVERED + TYPICAL * math.sqrt(n) * u
    if ball.worst is None:
        return settle(worst), settle(spread)
    e, s = ball.worst, ball.spread
    carried = (p * e.clamp(max=FAR).expm1()).sum(axis, keepdim=True).log1p().masked_fill((e > FAR).any(axis, keepdim=True), INF)
    variance = s.square() + (p * s).square().sum(axis, keepdim=True)
    return settle(worst + e + carried), settle((spread.square() + variance).sqrt())
