"""Softmax, LogSoftmax, Hardmax: over one axis, or before opset 13 over everything from an axis on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.contraction import growth
from specs.formats import Format
from specs.numerics import COVERED, EXACT, INF, TYPICAL, Ball, Policy, Radii, settle, zeros_like
from specs.ops.scanning import WIDE, candidates
from specs.program import Node

FAR = 300.0  # exp() of a radius beyond this says nothing any more


# meanings ------------------------------------------------------------------------------------------------------------
def _coerced(a: Node, x: Tensor) -> tuple[Tensor, int]:
    """The operand and the axis to work along; before opset 13 a matrix whose rows hold everything from the axis on."""
    if a.version >= 13:
        return x, a.axis
    axis = a.axis % x.dim() if a.axis < x.dim() else x.dim()
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:])), 1


def _along(f: Callable[[Tensor, int], Tensor]) -> Callable[[Node, Tensor], Tensor]:
    def meaning(a: Node, x: Tensor) -> Tensor:
        y, axis = _coerced(a, x)
        return f(y, axis).reshape(x.shape)

    return meaning


def _hardmax(x: Tensor, axis: int) -> Tensor:
    """One at the first largest element."""
    at = x.argmax(axis, keepdim=True)
    return torch.zeros_like(x).scatter(axis, at, 1.0)


# errors --------------------------------------------------------------------------------------------------------------
def distances(x: Tensor, p: Tensor, axis: int) -> Tensor:
    """How far every operand lies below the largest: its rounding, not that of the operand, is what counts. 0 where p is 0."""
    return (x.amax(axis, keepdim=True) - x).masked_fill(p == 0, 0.0).masked_fill(torch.isneginf(x), 0.0)


def softmax_radii(policy: Policy, form: Format, x: Tensor, ball: Ball, axis: int) -> Radii:
    """Closed form over both ends: x_i + e_i against x_j - e_j and the other way round; so never more than 1."""
    n, u = x.shape[axis], policy.u(form)
    p = torch.softmax(x, axis)
    d = distances(x, p, axis)
    own = p * (d * (2 * u) + (p * d).sum(axis, keepdim=True) * (2 * u) + growth(policy, form, n) + 12 * u) + policy.eta(form)
    rough = p * ((d * (2 * COVERED) + (TYPICAL * math.sqrt(n) + 12 * COVERED)) * u) + policy.eta(form)
    if ball.worst is None:
        return settle(own.clamp(max=1.0)), settle(rough.clamp(max=1.0))
    e, s = ball.worst.clamp(max=FAR), ball.spread.clamp(max=FAR)
    up, down = p * e.exp(), p * (-e).exp()
    above = up / (up + (down.sum(axis, keepdim=True) - down).clamp(min=0)) - p
    below = p - down / (down + (up.sum(axis, keepdim=True) - up).clamp(min=0))
    # Deviations in quadrature: x_i moves p_i by p_i (1 - p_i), every other x_j by -p_i p_j.
    moved = ((s * (1 - p)).square() + (p * s).square().sum(axis, keepdim=True) - (p * s).square()).clamp(min=0).sqrt().clamp(max=FAR).expm1() * p
    worst = (above.maximum(below) + own).clamp(max=1.0)
    return settle(worst), settle((moved.square() + rough.square()).sqrt().clamp(max=1.0))


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


def _reshaped(ball: Ball, x: Tensor) -> Ball:
    return Ball(x, *(None if r is None else r.reshape(x.shape) for r in ball[1:]))


def _setting(node: Any, balls: Sequence[Ball | None]) -> tuple[Format, Ball, Tensor, int]:
    ball, form = balls[0], node.out_formats[0]
    assert ball is not None
    x, axis = _coerced(node, ball.value)
    return form, _reshaped(ball, x), x, axis


def _alone(ball: Ball, x: Tensor, axis: int, y: Tensor) -> Sequence[Radii] | None:
    """A row of one element is 1, and its logarithm 0, whatever the element is: exp(0) / exp(0). None for longer rows."""
    if x.shape[axis] != 1:
        return None
    if ball.worst is None or bool((ball.worst < INF).all()):
        return [EXACT]  # what is infinite gives a NaN, which the interpreter finds undecided
    open_ = zeros_like(x).masked_fill(~(ball.worst < INF), INF).reshape(y.shape)
    return [(open_, open_)]


def _softmax_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    form, ball, x, axis = _setting(node, balls)
    if not x.numel():
        return [EXACT]
    if (alone := _alone(ball, x, axis, ys[0])) is not None:
        return alone
    worst, spread = softmax_radii(policy, form, x, ball, axis)
    return [(worst.reshape(ys[0].shape), spread.reshape(ys[0].shape))]


def _log_softmax_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    form, ball, x, axis = _setting(node, balls)
    if not x.numel():
        return [EXACT]
    if (alone := _alone(ball, x, axis, ys[0])) is not None:
        return alone
    worst, spread = log_softmax_radii(policy, form, x, ball, ys[0].reshape(x.shape), axis)
    return [(worst.reshape(ys[0].shape), spread.reshape(ys[0].shape))]


def _hardmax_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Every element that may be the largest may be 0 or 1, unless there is only one; a row with a NaN is undecided."""
    _, ball, x, axis = _setting(node, balls)
    nan = x.isnan().any(axis, keepdim=True)
    if ball.worst is None and not bool(nan.any()):
        return [EXACT]

    def open_(e: Any) -> Tensor:
        e = torch.zeros(x.shape, dtype=torch.float64) if e is None else e
        may = candidates(x.double(), e, x.argmax(axis, keepdim=True), axis)
        r = (may & (may.sum(axis, keepdim=True) > 1)).double()
        return r.masked_fill(nan, INF).reshape(ys[0].shape)

    return [(open_(ball.worst), open_(None if ball.spread is None else WIDE * ball.spread))]


# drawing -------------------------------------------------------------------------------------------------------------
def _draw(g: Draw) -> Rule:
    x = g.operand(rank=(1, 6))
    return Rule([x], [x], {} if g.flag(0.3) else {"axis": g.axis(len(x))})


op("Softmax", meaning=_along(torch.softmax), error=_softmax_error, weight=2)(_draw)
op("LogSoftmax", meaning=_along(torch.log_softmax), error=_log_softmax_error)(_draw)
op("Hardmax", meaning=_along(_hardmax), error=_hardmax_error, proxy=_along(torch.softmax))(_draw)
