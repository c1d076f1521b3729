"""Elementwise operators of ONNX Runtime's own domain: Gelu with and without a bias, QuickGelu, ScaledSiLU, GatedAdd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from specs import Draw, Rule, op
from specs.contrib import MICROSOFT, declare
from specs.formats import BFLOAT16, DOUBLE, FLOAT, FLOAT16, FLOATS
from specs.numerics import COVERED, Ball, Policy, Radii, add, quadrature
from specs.ops.activation import gate_rounding, gelu_rounding, gelu_slope, swish
from specs.pointwise import answer, choose_attrs, sloped
from specs.program import Node
from specs.rule import UsageError

SINGLES = [FLOAT, FLOAT16, BFLOAT16]
declare("Gelu", "X:T", "Y:T", T=FLOATS)
declare("QuickGelu", "X:T", "Y:T", {"alpha": 1.702}, T=FLOATS)
declare("FastGelu", "X:T bias:T?", "Y:T", T=FLOATS)
declare("BiasGelu", "A:T B:T", "C:T", T=FLOATS)
declare("ScaledSiLU", "X:T scale:M?", "Y:T", {"alpha": 1.0}, T=SINGLES, M=SINGLES)
declare("GatedAdd", "X:T Y:T gate:T", "output:T", T=SINGLES)


def _fast_gelu(a: Node, x: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.gelu(x if bias is None else _biased(x, bias), approximate="tanh")


def _biased(x: Tensor, bias: Tensor) -> Tensor:
    if bias.shape != x.shape[-1:]:
        raise UsageError(f"a bias of {list(bias.shape)} for an input of {list(x.shape)}: it has one element for each of the last dim")
    return x + bias


def _biased_gelu_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Gelu of a rounded sum."""
    x, bias, y, form = balls[0], balls[1] if len(balls) > 1 else None, ys[0], node.out_formats[0]
    assert x is not None
    u = policy.u(form)
    total, own = x.value, y.abs() * (3 * u) + policy.eta(form)
    worst, spread = x.worst, x.spread
    if bias is not None:
        total = total + bias.value
        own = own + (x.value.abs() + bias.value.abs()) * (1.13 * u)
        worst, spread = add(worst, bias.worst), quadrature(spread, bias.spread)
    own = own + total.abs() * (8 * u + (2.0**-25 if form is DOUBLE else 0.0))  # constants may be float32, as in Gelu
    return answer(None if worst is None else worst * 1.13, None if spread is None else spread * 1.13, y, own, COVERED)


@op("Gelu", meaning=lambda a, x: F.gelu(x), error=sloped(gelu_slope, gelu_rounding), domain=MICROSOFT, among=[FLOAT])
def microsoft_gelu(g: Draw) -> Rule:
    x = g.operand()
    return Rule([x], [x])


@op("QuickGelu", meaning=swish, error=sloped(lambda a: 1.1, gate_rounding), domain=MICROSOFT, among=[FLOAT])
def quick_gelu(g: Draw) -> Rule:
    x = g.operand()
    return Rule([x], [x], choose_attrs(g, alpha=[1.702, 1.0, 0.5, -1.0]))


@op("FastGelu", meaning=_fast_gelu, error=_biased_gelu_error, domain=MICROSOFT, among=[FLOAT])
def fast_gelu(g: Draw) -> Rule:
    x = g.operand(rank=(1, 6))
    if g.flag():
        g.skip()
        return Rule([x, None], [x])
    return Rule([x, g.operand(like=[x[-1]], role="weight")], [x])


@op("BiasGelu", meaning=lambda a, x, bias: F.gelu(_biased(x, bias)), error=_biased_gelu_error, domain=MICROSOFT, among=[FLOAT])
def bias_gelu(g: Draw) -> Rule:
    x = g.operand(rank=(1, 6))
    return Rule([x, g.operand(like=[x[-1]], role="weight")], [x])


def _scaled_silu(a: Node, x: Tensor, scale: Tensor | None = None) -> Tensor:
    z = (x * (a.alpha if scale is None else scale.reshape(()).to(a.promote or torch.float32))).to(x.dtype)
    return z * z.sigmoid()


def _scaled_silu_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """x sigmoid(x), of slope 1.1 at most, of a rounded product."""
    x, scale, y, form = balls[0], balls[1] if len(balls) > 1 else None, ys[0], node.out_formats[0]
    assert x is not None
    factor = node.alpha if scale is None else scale.value.reshape(())
    u, z = policy.u(form), x.value * factor
    own = z.abs() * (4.5 + 2.5) * u + y.abs() * 7 * u + policy.eta(form)

    def swing(e: Any, d: Any) -> Any:
        parts = None if e is None else e * abs(factor)
        if d is None:
            return None if parts is None else parts * 1.1
        turned = (x.value.abs() + (0.0 if e is None else e)) * d.reshape(())
        return (turned if parts is None else parts + turned) * 1.1

    return answer(swing(x.worst, None if scale is None else scale.worst), swing(x.spread, None if scale is None else scale.spread), y, own, COVERED)


def _gated_add_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """x + y gate, each step rounded."""
    x, other, gate = (b for b in balls if b is not None)
    u, y = policy.u(node.out_formats[0]), ys[0]
    part = other.value * gate.value

    def swing(which: int) -> Tensor:
        e, d, f = (torch.zeros((), dtype=torch.float64) if b[which] is None else b[which] for b in (x, other, gate))
        return e + d * gate.value.abs() + f * other.value.abs() + d * f

    return answer(swing(1), swing(2), y, (part.abs() * 2 + x.value.abs()) * u + policy.eta(node.out_formats[0]))


@op("ScaledSiLU", meaning=_scaled_silu, error=_scaled_silu_error, domain=MICROSOFT)
def scaled_silu(g: Draw) -> Rule:
    x = g.operand()
    if g.flag():
        return Rule([x, g.given([], 0.25, 2.0, role="weight")], [x])
    g.skip()
    return Rule([x, None], [x], choose_attrs(g, alpha=[0.5, 1.702, -1.0]))


@op("GatedAdd", meaning=lambda a, x, y, gate: x + y * gate, error=_gated_add_error, domain=MICROSOFT, among=[FLOAT, FLOAT16])
def gated_add(g: Draw) -> Rule:
    x = g.operand(rank=(1, 6))
    return Rule([x, g.operand(like=x), g.operand(like=[*x[:-1], 1])], [x])
