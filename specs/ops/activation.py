"""Activation functions: Relu, PRelu, Elu, Gelu, HardSwish, Shrink, Clip ..."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from specs import Draw, Rule, op, unary
from specs.formats import DOUBLE, UINT64, Format
from specs.numerics import INF, Ball, Policy, Radii, at_threshold, between, finite, integers_exact, lipschitz, local, monotone
from specs.pointwise import answer, choose_attrs, coefficient, monotone_all, nan_free, ordered, piecewise, sloped, undecided_stays
from specs.program import Node

FLOAT32_EXACT = 2**24  # integers above it are not all representable in the float32 that attributes are computed with


def _same_shape(g: Draw) -> Rule:
    x = g.operand(low=0)
    return Rule([x], [x])


# piecewise linear ------------------------------------------------------------------------------------------------------
def _leaky_relu(a: Node, x: Tensor) -> Tensor:
    return torch.where(x < 0, x * a.alpha, x)


def _prelu(a: Node, x: Tensor, slope: Tensor) -> Tensor:
    """Until opset 7 a vector of slopes belongs to the channels, axis 1."""
    if a.version < 7 and slope.ndim == 1 and x.ndim > 2 and slope.shape[0] != 1:
        slope = slope.reshape([-1] + [1] * (x.ndim - 2))
    if a.in_formats[0] is UINT64:
        return x
    return torch.where(x < 0, slope * x, x)


def _prelu_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """A change of x counts max(1, |slope|) times where the sign is not sure; a change of the slope only where x may be negative."""
    x, s = balls[0], balls[1]
    assert x is not None
    assert s is not None
    y, own = ys[0], local(policy, node.out_formats[0], ys[0]) * (x.value < 0)  # what passes is not rounded
    if x.worst is None and s.worst is None:
        return answer(None, None, y, own)

    def swing(e: Any, d: Any) -> Tensor:
        zero = torch.zeros((), dtype=torch.float64)
        e, d = zero if e is None else e, zero if d is None else d
        steep = (s.value.abs() + d) * (1 + policy.u(node.out_formats[0]))
        factor = torch.where(x.value - e >= 0, 1.0, torch.where(x.value + e < 0, steep, steep.clamp(min=1.0)))
        return factor * e + d * (-(x.value - e)).clamp(min=0)

    return answer(swing(x.worst, s.worst), swing(x.spread, s.spread), y, own)


unary("Relu", torch.relu, error=nan_free(monotone(rounds=False)), proxy=lambda x: torch.where(x < 0, x * 0.1, x))
unary(
    "LeakyRelu",
    _leaky_relu,
    error=sloped(lambda a: max(1.0, abs(a.alpha)), lambda a, x, y: (-x).clamp(min=0) * (abs(a.alpha) * (1 + coefficient(a, "alpha"))), lambda a: a.alpha >= 0),
    attrs=lambda g: choose_attrs(g, alpha=[0.1, 0.01, 0.5, 1.5, 0.0, -0.3]),
)


@op("PRelu", meaning=_prelu, error=integers_exact(_prelu_error))
def prelu(g: Draw) -> Rule:
    x = g.operand(low=0)
    slope = g.broadcastable(x, role="weight", within=True)
    return Rule([x, slope], [x])


# exponential -----------------------------------------------------------------------------------------------------------
def _elu(a: Node, x: Tensor) -> Tensor:
    return torch.where(x > 0, x, x.clamp(max=0).expm1() * a.alpha)


def _selu(a: Node, x: Tensor) -> Tensor:
    return torch.where(x > 0, x, x.clamp(max=0).expm1() * a.alpha) * a.gamma


def _celu(a: Node, x: Tensor) -> Tensor:
    return x.clamp(min=0) + (x.clamp(max=0) / a.alpha).expm1() * a.alpha


def _selu_rounding(a: Node, x: Tensor, y: Tensor) -> Tensor:
    """One product where x is positive; below, an exponential within 4 u, less 1, times both coefficients."""
    off, above = coefficient(a, "alpha", "gamma"), y.abs()
    return (above * (1 + off)).maximum((x < 0).double() * (abs(a.alpha * a.gamma) * (4 + 2 * off)))


def _softplus(x: Tensor) -> Tensor:
    return x.clamp(min=0) + (-x.abs()).exp().log1p()


unary(
    "Elu",
    _elu,
    error=sloped(lambda a: max(1.0, abs(a.alpha)), lambda a, x, y: (x < 0).double() * (4 * abs(a.alpha)), lambda a: a.alpha >= 0),
    attrs=lambda g: choose_attrs(g, alpha=[1.0, 0.5, 2.0, 0.1, -0.5]),
)
unary(
    "Selu",
    _selu,
    error=sloped(
        lambda a: abs(a.gamma) * max(1.0, abs(a.alpha)),
        _selu_rounding,
        lambda a: a.alpha >= 0,
    ),
    attrs=lambda g: choose_attrs(g, alpha=[1.5, 0.5, 2.0, -0.5], gamma=[1.0, 0.7, 2.0, -0.5]),
)
unary(
    "Celu",
    _celu,
    # For a positive alpha |x / alpha| exp(x / alpha) stays below 1/e; for a negative one the exponential grows with its argument.
    error=sloped(
        lambda a: INF,
        lambda a, x, y: (x < 0).double() * (5 * a.alpha) if a.alpha > 0 else y.abs() * (4 + (x / a.alpha).abs()) - 4 * a.alpha,
        lambda a: True,
    ),
    attrs=lambda g: choose_attrs(g, alpha=[1.0, 0.5, 2.0, 4.0]),
)
unary("Softplus", _softplus, error=monotone(4, 2))
unary("Softsign", F.softsign, error=monotone(4))


# smooth gates ----------------------------------------------------------------------------------------------------------
def _gelu(a: Node, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=a.approximate)


def swish(a: Node, x: Tensor) -> Tensor:
    return x * (x * a.alpha).sigmoid()


def gelu_slope(a: Node) -> float:
    return 1.13


def gelu_rounding(a: Node, x: Tensor, y: Tensor) -> Tensor:
    """8 u |x|: vectorised forms take an erf that is absolutely accurate only.

    The function that ONNX defines the tanh form by holds its constants in float32, which shows in doubles.
    """
    constants = 2.0**27 if a.out_formats[0] is DOUBLE and a.approximate == "tanh" else 0.0  # 2^-25 in units of u
    return x.abs() * (8 + constants) + y.abs() * 3


def _hard_swish_rounding(a: Node, x: Tensor, y: Tensor) -> Tensor:
    """3 u |x|; by ONNX's definition 1/6 is a float32 attribute."""
    sixth = 2.0**52 * 7.5e-9 if a.out_formats[0] is DOUBLE else 0.0
    return x.abs() * (3 + x.abs().clamp(max=3.1) * sixth)


def gate_rounding(a: Any, x: Tensor, y: Tensor) -> Tensor:
    """A sigmoid within 2 u s + 3.5 u of an argument that was itself rounded, times x."""
    return x.abs() * 4 + y.abs() * 4


# Largest slopes: Gelu 1.129 (either form), Mish 1.089, HardSwish 1.5, x sigmoid(alpha x) 1.0998 for every alpha.
unary(
    "Gelu",
    _gelu,
    error=sloped(gelu_slope, gelu_rounding),
    since=20,
    attrs=lambda g: choose_attrs(g, approximate=["tanh", "none"]),
)
unary("Mish", F.mish, error=lipschitz(1.09, 6, relative_to_input=True), since=18)
op("HardSwish", meaning=lambda a, x: F.hardswish(x), error=sloped(lambda a: 1.5, _hard_swish_rounding), since=14)(_same_shape)
unary("Swish", swish, error=sloped(lambda a: 1.1, gate_rounding), since=24, attrs=lambda g: choose_attrs(g, alpha=[1.0, 1.702, 0.5, -1.0, 0.0]))


def _swiglu_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """A gate within its own rounding, times the other operand."""
    a, b, y, form = balls[0], balls[1], ys[0], node.out_formats[0]
    assert a is not None
    assert b is not None
    u, gate = policy.u(form), swish(node, a.value)
    slack = gate_rounding(node, a.value, gate) * u + policy.eta(form)

    def swing(e: Any, d: Any) -> Tensor:
        off = slack if e is None else slack + e * 1.1
        return off * b.value.abs() if d is None else off * b.value.abs() + (gate.abs() + off) * d

    return answer(swing(a.worst, b.worst), swing(a.spread, b.spread), y, local(policy, form, y))


@op("SwiGLU", meaning=lambda a, x, y: swish(a, x) * y, error=_swiglu_error, since=28)
def swiglu(g: Draw) -> Rule:
    x = g.operand(low=0)
    return Rule([x, g.operand(like=x)], [x], choose_attrs(g, alpha=[1.0, 1.702, 0.5, -1.0, 0.0]))


# clipped and thresholded -----------------------------------------------------------------------------------------------
def _hard_sigmoid(a: Node, x: Tensor) -> Tensor:
    return (x * a.alpha + a.beta).clamp(0, 1)


def _hard_sigmoid_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Both ends of the line before it is clipped: a saturated element is exact."""
    ball, y, form = balls[0], ys[0], node.out_formats[0]
    assert ball is not None
    part = ball.value * node.alpha
    line, own = part + node.beta, policy.eta(form)
    rounding = (part.abs() * (2 + coefficient(node, "alpha")) + 2 * abs(node.beta)) * policy.u(form) + own

    def swing(e: Any) -> Tensor:
        reach = rounding if e is None else finite(e) * abs(node.alpha) + rounding
        return undecided_stays(between((line + reach).clamp(0, 1), (line - reach).clamp(0, 1), y), e)

    return answer(swing(ball.worst), at_threshold(swing, ball.spread), y, y.abs() * policy.u(form))


def _hard_sigmoid_proxy(a: Node, x: Tensor) -> Tensor:
    line = x * a.alpha + a.beta
    return line.clamp(0, 1) + (line - line.clamp(0, 1)) * 0.01


unary(
    "HardSigmoid",
    _hard_sigmoid,
    error=_hard_sigmoid_error,
    proxy=_hard_sigmoid_proxy,
    attrs=lambda g: choose_attrs(g, alpha=[0.5, 1.0, 0.1, -0.2], beta=[0.0, 0.3, 1.0]),
)


def _thresholded_relu(a: Node, x: Tensor) -> Tensor:
    return torch.where(x > a.alpha, x, torch.zeros_like(x))


def _shrink(a: Node, x: Tensor) -> Tensor:
    if not x.is_floating_point():  # computed in floats and truncated
        if a.in_formats[0] is UINT64:
            return torch.where(ordered(x, UINT64) > ordered(torch.tensor(int(max(0.0, a.lambd))), UINT64), x - int(a.bias), 0)
        wide = x.double()
        return torch.where(x < -a.lambd, wide + a.bias, torch.where(x > a.lambd, wide - a.bias, 0.0)).to(x.dtype)
    return torch.where(x < -a.lambd, x + a.bias, torch.where(x > a.lambd, x - a.bias, torch.zeros_like(x)))


def _shrink_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Jumps at both thresholds; integers are decided while a float32 holds them."""
    form: Format = node.out_formats[0]
    if form.is_float:
        return _shrink_edges(node, policy, balls, ys)
    ball, y = balls[0], ys[0]
    assert ball is not None
    bad = (ball.value.double().abs() >= FLOAT32_EXACT) | (ball.value < 0 if form is UINT64 else torch.zeros_like(y, dtype=torch.bool))
    if ball.worst is not None:
        bad = bad | ~(ball.worst == 0)
    if not bool(bad.any()):
        return answer(None, None, y)
    r = torch.zeros(y.shape, dtype=torch.float64).masked_fill(bad, INF)
    return [(r, r)]


_shrink_edges = piecewise(lambda a: [-a.lambd, a.lambd], 2)


def _clip(a: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    """min(max(x, low), high): a lower end above the upper one yields the upper one. Attributes until opset 11."""
    if a.version < 11:
        return x if a.min is None and a.max is None else x.clamp(a.min, a.max)
    form = a.in_formats[0]
    y = ordered(x, form)
    if low is not None:
        y = y.maximum(ordered(low, form).reshape(()))
    if high is not None:
        y = y.minimum(ordered(high, form).reshape(()))
    return ordered(y, form)


def _clip_proxy(a: Node, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    y = _clip(a, x, low, high)
    return y + (x - y) * 0.01


unary(
    "ThresholdedRelu",
    _thresholded_relu,
    error=piecewise(lambda a: [a.alpha], rounds=False),
    proxy=lambda a, x: torch.where(x > a.alpha, x, x * 0.01),
    attrs=lambda g: choose_attrs(g, alpha=[1.0, 0.5, 0.0, 2.0, -0.5]),
)


@op("Shrink", meaning=_shrink, error=_shrink_error)
def shrink(g: Draw) -> Rule:
    x = g.operand(low=0)
    if g.type("T").is_float:
        return Rule([x], [x], choose_attrs(g, lambd=[0.5, 1.0, 0.0, 1.5], bias=[0.5, 1.0, 0.25, 2.0, -0.5]))
    attrs = choose_attrs(g, lambd=[1.0, 2.0, 1.5], bias=[1.0])
    return Rule([x], [x], attrs if "lambd" in attrs else {})  # a bias above the threshold would leave an unsigned type


@op("Clip", meaning=_clip, error=monotone_all(), proxy=_clip_proxy)
def clip(g: Draw) -> Rule:
    """Bounds fresh (mostly constants) or any scalar of the network, in order or, rarely, crossed."""
    x = g.operand(low=0)
    form, kind = g.type("T"), g.choose(16)
    ends = (0, 3) if form.kind == "uint" else (-2, 0)
    uppers = (ends[1], ends[1] + 6) if form.kind == "uint" else (0, 4)
    if kind == 15 and g.opset >= 13:
        ends, uppers = uppers, ends
    inputs: list[Any] = [x]
    for low, high in (ends, uppers):
        choice = g.choose(8)
        if choice == 7:
            inputs.append(g.operand(rank=0))
        elif choice >= 5:
            g.skip()
            inputs.append(None)
        else:
            inputs.append(g.given([], low, high, role="weight"))
    return Rule(inputs, [x])
