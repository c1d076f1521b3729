"""Softmax, LogSoftmax, Hardmax: over one axis, or before opset 13 over everything from an axis on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.exponentials import log_softmax_radii, softmax_radii
from specs.formats import Format
from specs.numerics import EXACT, INF, TYPICAL, Ball, Policy, Radii
from specs.ops.scanning import WIDE, candidates
from specs.program import Node

ALONE = 4.0  # units of roundoff: kernels with an exponential of their own give 1 - u for a row of one element


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
def _reshaped(ball: Ball, x: Tensor) -> Ball:
    return Ball(x, *(None if r is None else r.reshape(x.shape) for r in ball[1:]))


def _setting(node: Any, balls: Sequence[Ball | None]) -> tuple[Format, Ball, Tensor, int]:
    ball, form = balls[0], node.out_formats[0]
    assert ball is not None
    x, axis = _coerced(node, ball.value)
    return form, _reshaped(ball, x), x, axis


def _alone(policy: Policy, form: Format, ball: Ball, x: Tensor, axis: int, y: Tensor) -> Sequence[Radii] | None:
    """A row of one element is 1, and its logarithm 0, whatever the element is: exp(0) / exp(0), each as exact as an exponential is. None for longer rows."""
    if x.shape[axis] != 1:
        return None
    own = torch.full(y.shape, ALONE * policy.u(form), dtype=torch.float64)
    if ball.worst is not None and not bool((ball.worst < INF).all()):
        own = own.masked_fill(~(ball.worst < INF).reshape(y.shape), INF)
    return [(own, own * TYPICAL)]  # what is infinite gives a NaN, which the interpreter finds undecided


def _softmax_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    form, ball, x, axis = _setting(node, balls)
    if not x.numel():
        return [EXACT]
    if (alone := _alone(policy, form, ball, x, axis, ys[0])) is not None:
        return alone
    worst, spread = softmax_radii(policy, form, x, ball, axis)
    return [(worst.reshape(ys[0].shape), spread.reshape(ys[0].shape))]


def _log_softmax_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    form, ball, x, axis = _setting(node, balls)
    if not x.numel():
        return [EXACT]
    if (alone := _alone(policy, form, ball, x, axis, ys[0])) is not None:
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
