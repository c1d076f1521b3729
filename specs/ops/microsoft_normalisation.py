"""Normalisations that ONNX Runtime's optimiser makes: SimplifiedLayerNormalization, and both kinds after a sum with a skip connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from specs import Draw, Rule, op
from specs.contrib import MICROSOFT, declare
from specs.formats import BFLOAT16, DOUBLE, FLOAT, FLOAT16
from specs.moments import affine, standardised
from specs.numerics import Ball, Policy, Radii, add, quadrature, settle
from specs.operator import meaning_only
from specs.program import Node
from specs.rule import Operand, UsageError

FLOATS = [FLOAT, FLOAT16, DOUBLE, BFLOAT16]
declare("SkipLayerNormalization", "input:T skip:T gamma:T beta:T? bias:T?",
        "output:T mean:tensor(float)? inv_std_var:tensor(float)? input_skip_bias_sum:T?", {"epsilon": 1e-12}, T=FLOATS)  # fmt: skip
declare("SkipSimplifiedLayerNormalization", "input:T skip:T gamma:T bias:T?",
        "output:T mean:tensor(float)? inv_std_var:tensor(float)? input_skip_bias_sum:T?", {"epsilon": 1e-12}, T=FLOATS)  # fmt: skip
declare("SimplifiedLayerNormalization", "X:T scale:V", "Y:V inv_std_var:U?",
        {"axis": -1, "epsilon": 1e-5, "stash_type": 1}, domain="", T=FLOATS, U=FLOATS, V=FLOATS)  # fmt: skip


def _wide(x: Tensor) -> Tensor:
    """Halves are normalised in float32."""
    return x.float() if x.dtype.itemsize < 4 else x


def _normalised(a: Node, x: Tensor, gamma: Tensor, beta: Tensor | None, centred: bool) -> tuple[Tensor, Tensor, Tensor]:
    if any(w is not None and w.shape != x.shape[-1:] for w in (gamma, beta)):
        raise UsageError(f"{a.name}: gamma and beta have one element for each of the last dim, here {list(x.shape)}")
    wide = _wide(x)
    mean = wide.mean(-1, True)
    c = wide - mean if centred else wide
    inverse = (c.square().mean(-1, True) + a.epsilon).rsqrt()
    y = c * inverse * gamma
    return (y if beta is None else y + beta).to(x.dtype), mean, inverse


def _summed(x: Tensor, skip: Tensor, bias: Tensor | None) -> Tensor:
    if x.ndim not in (2, 3):
        raise UsageError(f"SkipLayerNormalization: an input of rank {x.ndim}: it is (batch, sequence, hidden), or (tokens, hidden)")
    return x + skip if bias is None else x + skip + bias


def _results(a: Node, y: Tensor, mean: Tensor, inverse: Tensor, total: Tensor, wanted: int = 0) -> tuple[Tensor, ...]:
    single = mean.to(a.torch(FLOAT)), inverse.to(a.torch(FLOAT))
    return (y, *single, total)[: wanted or max(1, len(a.outputs))]


def skip_meaning(a: Node, x: Tensor, skip: Tensor, gamma: Tensor, beta: Tensor | None = None, bias: Tensor | None = None, results: int = 0) -> Any:
    total = _summed(x, skip, bias)
    return _results(a, *_normalised(a, total, gamma, beta, True), total, results)


def _skip_simplified(a: Node, x: Tensor, skip: Tensor, gamma: Tensor, bias: Tensor | None = None) -> Any:
    total = _summed(x, skip, bias)
    return _results(a, *_normalised(a, total, gamma, None, False), total)


def skip_radii(centred: bool) -> Any:
    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        """The sum is rounded, then normalised."""
        parts = [b for b in (balls[0], balls[1], *balls[4 if centred else 3 :]) if b is not None]
        gamma, beta = balls[2], balls[3] if centred and len(balls) > 3 else None
        form = node.out_formats[0]
        total, size = add(*(b.value for b in parts)), add(*(b.value.abs() for b in parts))
        # A half may keep the sum in float32 or round it, after each addition.
        own = size * (policy.u(form) * len(parts)) + policy.eta(form)
        worst, spread = add(own, *(b.worst for b in parts)), quadrature(own, *(b.spread for b in parts))
        worst, spread = worst.expand(total.shape), spread.expand(total.shape)
        used = FLOAT if form in (FLOAT16, BFLOAT16) else form
        s = standardised(policy, used, total, (worst, spread), (-1,), node.epsilon, centred)
        results = [affine(policy, form, s.z, s.z_radii, gamma, beta)]
        for y, (w, p) in zip(ys[1:3], (s.mean_radii, s.inverse_radii), strict=False):
            rounding = y.abs() * policy.u(FLOAT) + policy.eta(FLOAT)
            results.append((settle(w + rounding), settle(p + rounding)))
        return [*results, (settle(worst), settle(spread))][: len(ys)]

    return rule


def _operands(g: Draw) -> tuple[Operand, list[Operand | None]]:
    """The operand, and with it the skip connection, which may leave the batch out, and gamma."""
    x = g.operand(rank=(2, 3))
    shape = list(x) if len(x) == 2 or g.flag(0.8) else [1, *x[1:]] if g.flag() else list(x[1:])
    return x, [x, g.operand(like=shape), g.operand(like=[x[-1]], role="weight")]


def _optional(g: Draw, x: Operand) -> Operand | None:
    if g.flag():
        return g.operand(like=[x[-1]], role="weight")
    g.skip()
    return None


@op("SkipLayerNormalization", meaning=skip_meaning, error=skip_radii(True), domain=MICROSOFT, among=[FLOAT, FLOAT16])
def skip_layer_normalization(g: Draw) -> Rule:
    """With the sum, and the mean and 1/std of its rows, as further results now and then."""
    x, operands = _operands(g)
    operands += [_optional(g, x), _optional(g, x)]
    rows = [*x[:-1], 1] if g.flag(0.25) else None
    return Rule(operands, [x, rows, rows, x if g.flag(0.4) else None], {"epsilon": g.pick([1e-5, 1e-12, 1e-3])})


@op("SkipSimplifiedLayerNormalization", meaning=_skip_simplified, error=skip_radii(False), domain=MICROSOFT, among=[FLOAT, FLOAT16])
def skip_simplified_layer_normalization(g: Draw) -> Rule:
    """The same without the mean."""
    x, operands = _operands(g)
    operands.append(_optional(g, x))
    return Rule(operands, [x, None, None, x if g.flag(0.4) else None], {"epsilon": g.pick([1e-5, 1e-12, 1e-3])})


# SimplifiedLayerNormalization --------------------------------------------------------------------------------------------
def _simplified(a: Node, x: Tensor, scale: Tensor) -> Any:
    """ONNX Runtime puts it into ONNX's own domain, where the checker refuses it, so it is not drawn."""
    wide, dims = _wide(x), tuple(range(a.axis % x.dim(), x.dim()))
    inverse = (wide.square().mean(dims, True) + a.epsilon).rsqrt()
    y = (wide * inverse).to(scale.dtype) * scale
    return (y, inverse)[: max(1, len(a.outputs))]


def _simplified_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    ball = balls[0]
    assert ball is not None
    form, rank = node.in_formats[0], ball.value.dim()
    used = FLOAT if form in (FLOAT16, BFLOAT16) else form
    s = standardised(policy, used, ball.value, (ball.worst, ball.spread), range(node.axis % rank, rank), node.epsilon, centred=False)
    results = [affine(policy, node.out_formats[0], s.z, s.z_radii, balls[1], None)]
    own = s.inverse * policy.u(used)
    return [*results, (settle(s.inverse_radii[0] + own), settle(s.inverse_radii[1] + own))][: len(ys)]


meaning_only("SimplifiedLayerNormalization", _simplified, error=_simplified_error)
