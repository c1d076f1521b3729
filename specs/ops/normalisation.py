"""Normalisations over axes of one sample: Layer-, RMS-, Instance-, Group-, MeanVariance- and LpNormalization, and LRN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from specs import Draw, Rule, op
from specs.contraction import accumulated
from specs.formats import BY_ONNX, FLOAT, Format
from specs.moments import ATTRIBUTE, affine, narrowed, shaped, standardised
from specs.numerics import COVERED, INF, Ball, Policy, Radii, finite, quadrature, settle
from specs.program import Node
from specs.terms import known, prod


def _stash(a: Node) -> Format:
    """The format of the first stage; `stash_type` is a tensor type, float unless given."""
    return BY_ONNX.get(a.stash_type or 1, FLOAT)


def _staged(a: Node, x: Tensor) -> Tensor:
    return x if a.promote is not None else x.to(_stash(a).torch)


def _own_stage(a: Node, x: Tensor) -> Tensor:
    """Operators that say nothing about their precision: halves in float32, as every library does."""
    return x.float() if x.dtype.itemsize < 4 else x


def _channels(rank: int, count: int = -1) -> list[int]:
    return [count, *[1] * (rank - 2)]


# LayerNormalization, RMSNormalization ------------------------------------------------------------------------------------
def _last(a: Node, x: Tensor) -> tuple[int, ...]:
    return tuple(range(a.axis % x.dim(), x.dim()))


def _layer(a: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Any:
    """Y, and when asked for the mean and 1/std in the stash type."""
    dims, wide = _last(a, x), _staged(a, x)
    mean = wide.mean(dims, True)
    c = wide - mean
    inverse = (c.square().mean(dims, True) + a.epsilon).rsqrt()
    y = (c * inverse).to(x.dtype) * scale
    return y if bias is None else y + bias, mean, inverse


def _layer_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    ball, declared, used = balls[0], node.in_formats[0], _stash(node)
    assert ball is not None
    s = standardised(policy, used, ball.value, narrowed(ball, policy, declared, used), _last(node, ball.value), node.epsilon)
    results = [affine(policy, declared, s.z, s.z_radii, balls[1], balls[2] if len(balls) > 2 else None)]
    for y, (worst, spread) in zip(ys[1:], (s.mean_radii, s.inverse_radii), strict=False):
        own = y.abs() * policy.u(used) + policy.eta(used)
        results.append((settle(worst + own), settle(spread + own)))
    return results


def _scale_shape(g: Draw, normalised: Sequence[Any]) -> list[Any]:
    """The shape that is normalised, or one that broadcasts to it."""
    if g.flag(0.8):
        return list(normalised)
    return [1 if g.flag(0.3) else d for d in normalised][g.choose(len(normalised)) :]


@op("LayerNormalization", meaning=_layer, error=_layer_error, since=17, weight=2)
def layer_normalization(g: Draw) -> Rule:
    """Any trailing axes, all three outputs, either stash type."""
    x = g.operand(rank=(1, 6))
    attrs: dict[str, Any] = {}
    axis = -1
    if g.flag(0.7):
        axis = attrs["axis"] = g.axis(len(x))
    if g.flag(0.4):
        attrs["epsilon"] = g.pick([1e-5, 1e-3, 1e-6, 0.1, 1e-12])
    if g.flag(0.2):
        attrs["stash_type"] = 16 if g.flag(0.2) else 1
    g.type("U", among=[BY_ONNX[attrs.get("stash_type", 1)]])
    scale = g.operand(like=_scale_shape(g, x[axis:]), role="weight")
    bias = None
    if g.flag(0.7):
        bias = g.operand(like=_scale_shape(g, x[axis:]), role="weight")
    else:
        g.skip()
    at = axis % len(x)
    kept = [*x[:at], *[1] * (len(x) - at)]
    more = g.pick([0, 0, 3, 2, 1])
    return Rule([x, scale, bias], [x, kept if more & 1 else None, kept if more & 2 else None], attrs)


def _rms(a: Node, x: Tensor, scale: Tensor) -> Tensor:
    wide = _staged(a, x)
    z = wide * (wide.square().mean(_last(a, x), True) + a.epsilon).rsqrt()
    return z.to(a.out(0)) * scale


def _rms_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    ball, declared, used = balls[0], node.in_formats[0], _stash(node)
    assert ball is not None
    s = standardised(policy, used, ball.value, narrowed(ball, policy, declared, used), _last(node, ball.value), node.epsilon, centred=False)
    worst, spread = s.z_radii
    if declared is not None and declared.u > node.out_formats[0].u:  # cast back to the type of X on the way
        worst, spread = worst + s.z.abs() * policy.u(declared), spread + s.z.abs() * policy.u(declared)
    return [affine(policy, node.out_formats[0], s.z, (worst, spread), balls[1], None)]


@op("RMSNormalization", meaning=_rms, error=_rms_error, since=23)
def rms_normalization(g: Draw) -> Rule:
    """Any trailing axes. The schema lets the scale have another type than the operand, but then its function body is invalid."""
    x = g.operand(rank=(1, 6))
    attrs: dict[str, Any] = {}
    axis = -1
    if g.flag(0.7):
        axis = attrs["axis"] = g.axis(len(x))
    if g.flag(0.4):
        attrs["epsilon"] = g.pick([1e-5, 1e-3, 1e-6, 0.1])
    if g.flag(0.2):
        attrs["stash_type"] = g.pick([1, 10, 11, 16])
    if x.format is not None:
        g.type("V", among=[x.format])
    scale = g.operand(like=_scale_shape(g, x[axis:]), role="weight")
    return Rule([x, scale], [x], attrs)


# InstanceNormalization, GroupNormalization ---------------------------------------------------------------------------------
def _instance(a: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    wide, shape = _own_stage(a, x), _channels(x.dim())
    dims = tuple(range(2, x.dim()))
    c = wide - wide.mean(dims, True) if dims else wide * 0
    z = c * (c.square().mean(dims, True) + a.epsilon).rsqrt() if dims else c
    return (z * scale.reshape(shape) + bias.reshape(shape)).to(x.dtype)


def _instance_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    ball, form = balls[0], node.out_formats[0]
    assert ball is not None
    x, shape = ball.value, _channels(ball.value.dim())
    s = standardised(policy, form, x, (ball.worst, ball.spread), range(2, x.dim()), node.epsilon)
    return [affine(policy, form, s.z, s.z_radii, shaped(balls[1], shape), shaped(balls[2], shape), k=6)]


@op("InstanceNormalization", meaning=_instance, error=_instance_error)
def instance_normalization(g: Draw) -> Rule:
    """Every channel of every sample by itself."""
    x = g.operand(rank=(3, 5))
    scale = g.operand(like=[x[1]], role="weight")
    bias = g.operand(like=[x[1]], role="weight")
    return Rule([x, scale, bias], [x], {"epsilon": g.pick([1e-5, 1e-3, 1e-2, 1e-7])} if g.flag() else {})


def _group(a: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Scale and bias per group until version 21, per channel since."""
    wide = (_own_stage(a, x) if a.version < 21 else _staged(a, x)).reshape(x.shape[0], a.num_groups, -1)
    c = wide - wide.mean(2, True)
    z = (c * (c.square().mean(2, True) + a.epsilon).rsqrt()).to(x.dtype).reshape(x.shape)
    shape = _channels(x.dim())
    return z * _per_channel(a, x, scale).reshape(shape) + _per_channel(a, x, bias).reshape(shape)


def _per_channel(a: Node, x: Tensor, parameter: Tensor) -> Tensor:
    return parameter.repeat_interleave(x.shape[1] // a.num_groups) if a.version < 21 else parameter


def _group_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    ball, declared = balls[0], node.in_formats[0]
    assert ball is not None
    used = declared if node.version < 21 else _stash(node)
    x, groups, shape = ball.value, (ball.value.shape[0], node.num_groups, -1), _channels(ball.value.dim())
    radii = tuple(None if r is None else r.reshape(groups) for r in narrowed(ball, policy, declared, used))
    s = standardised(policy, used, x.reshape(groups), radii, (2,), node.epsilon)  # type: ignore[arg-type]
    spread = (s.z_radii[0].reshape(x.shape), s.z_radii[1].reshape(x.shape))
    scale, bias = (None if b is None else shaped(Ball(*(None if t is None else _per_channel(node, x, t) for t in b)), shape) for b in balls[1:3])
    return [affine(policy, declared, s.z.reshape(x.shape), spread, scale, bias)]


@op("GroupNormalization", meaning=_group, error=_group_error, since=21)
def group_normalization(g: Draw) -> Rule:
    """From one group to one per channel."""
    x = g.operand(rank=(3, 5))
    attrs: dict[str, Any] = {"num_groups": g.divisor(x[1])}
    g.require(x[1] % attrs["num_groups"] == 0)
    if known(x[1]) and g.flag(0.15):
        attrs["num_groups"] = x[1]
    if g.flag(0.4):
        attrs["epsilon"] = g.pick([1e-5, 1e-3, 1e-6, 0.1])
    if g.flag(0.2):
        attrs["stash_type"] = g.pick([1, 10, 11, 16])
    scale = g.operand(like=[x[1]], role="weight")
    bias = g.operand(like=[x[1]], role="weight")
    return Rule([x, scale, bias], [x], attrs)


# MeanVarianceNormalization -------------------------------------------------------------------------------------------
def _mean_variance(a: Node, x: Tensor) -> Tensor:
    """The epsilon of the operator's function body, added to the standard deviation."""
    wide, dims = _own_stage(a, x), tuple(a.axes)
    c = wide - wide.mean(dims, True)
    return (c / (c.square().mean(dims, True).sqrt() + 1e-9)).to(x.dtype)


def _mean_variance_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """The function body itself takes E[x^2] - E[x]^2."""
    ball, form = balls[0], node.out_formats[0]
    assert ball is not None
    s = standardised(policy, form, ball.value, (ball.worst, ball.spread), node.axes, 0.0, always_one_pass=True)
    return [affine(policy, form, s.z, s.z_radii, None, None)]


def _varies(a: Node, x: Tensor) -> list[Tensor]:
    return [1e-2 - x.var(tuple(a.axes), correction=0)]


@op("MeanVarianceNormalization", meaning=_mean_variance, error=_mean_variance_error, safe=_varies, weight=0.7, among=[FLOAT])
def mean_variance_normalization(g: Draw) -> Rule:
    """Float32 with axes given: the checker expands the function body, which holds for nothing else."""
    x = g.operand(rank=(1, 6))
    axes = [0, 2, 3] if len(x) == 4 and g.flag(0.4) else g.axes(len(x), least=1)
    g.require(prod(x[i] for i in axes) >= 2)
    return Rule([x], [x], {"axes": axes})


# LpNormalization -----------------------------------------------------------------------------------------------------
def _norm(a: Node, x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, a.p, a.axis, keepdim=True)


def _lp(a: Node, x: Tensor) -> Tensor:
    """A row of zeros stays zero."""
    wide = _own_stage(a, x)
    n = _norm(a, wide)
    return (wide / n.masked_fill(n == 0, 1.0)).to(x.dtype)


def _lp_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """A quotient by a norm between its ends; a row of exact zeros is 0 where the schema says so."""
    ball, form, y = balls[0], node.out_formats[0], ys[0]
    assert ball is not None
    x, axis, u = ball.value, node.axis, policy.u(form)
    n, size = x.shape[axis], _norm(node, x)
    magnitude = size if node.p == 1 else size.square()
    results = []
    for which, own in enumerate(accumulated(policy, form, magnitude, n)):
        share = COVERED if which else 1.0
        off = own if node.p == 1 else size - (magnitude - own).clamp(min=0).sqrt() + 2 * u * share * size
        e = ball[1 + which]
        rounding = y.abs() * (3 * u * share) + policy.eta(form)
        if e is None and which:
            r = quadrature(y * off / (size - off), rounding)
        elif e is None:
            r = y.abs() * off / (size - off) + rounding
        elif which == 0:
            off = off + _norm(node, finite(e).clamp(max=1e150))
            r = (finite(e) + y.abs() * off) / (size - off) + rounding
        else:
            e = finite(e).clamp(max=1e150)
            moved = e if node.p == 1 else y * e
            # Around zero a size can only grow: those changes add up.
            grown = (e * (x.abs() < e)).sum(axis, keepdim=True) if node.p == 1 else e.square().sum(axis, keepdim=True) / (2 * size)
            off = (off.square() + moved.square().sum(axis, keepdim=True)).sqrt() + grown
            r = ((e.square() + (y * off).square()).sqrt() / (size - off)).square().add(rounding.square()).sqrt()
        r = r.masked_fill(off >= size, INF)
        zeros = (size == 0) & (ball.worst is None) & (node.version >= 22)
        results.append(settle(r.masked_fill(zeros, 0.0)))
    return [(results[0], results[1])]


def _not_zero(a: Node, x: Tensor) -> list[Tensor]:
    return [] if a.version >= 22 else [1e-3 - _norm(a, x)]


@op("LpNormalization", meaning=_lp, error=_lp_error, safe=_not_zero)
def lp_normalization(g: Draw) -> Rule:
    """Norm 1 or 2 along one axis."""
    x = g.operand(rank=(1, 6))
    attrs: dict[str, Any] = {} if g.flag(0.3) else {"axis": g.axis(len(x))}
    if g.flag():
        attrs["p"] = g.pick([1, 2])
    return Rule([x], [x], attrs)


# LRN -----------------------------------------------------------------------------------------------------------------
def _window(a: Node, squares: Tensor) -> Tensor:
    before, after = (a.size - 1) // 2, a.size // 2
    padded = functional.pad(squares, [*[0, 0] * (squares.dim() - 2), before, after])
    return padded.unfold(1, a.size, 1).sum(-1)


def _lrn(a: Node, x: Tensor) -> Tensor:
    wide = _own_stage(a, x)
    return (wide / (a.bias + a.alpha / a.size * _window(a, wide.square())) ** a.beta).to(x.dtype)


def _lrn_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """A running sum over the channels is legal, so the squares of all of them count, not only those in the window."""
    ball, form, y = balls[0], node.out_formats[0], ys[0]
    assert ball is not None
    x, u = ball.value, policy.u(form)
    squares, share = x.square(), abs(node.alpha) / node.size
    base = node.bias + node.alpha / node.size * _window(node, squares)
    passed, n = squares.sum(1, keepdim=True), x.shape[1] + node.size
    own = accumulated(policy, form, passed, n, extra=2)
    results = []
    for which in (0, 1):
        e = ball[1 + which]
        off = own[which] * share + (abs(node.bias) + base.abs()) * (4 * u * (COVERED if which else 1)) + (base - node.bias).abs() * ATTRIBUTE
        rounding = y.abs() * (u * (6 + 2 * abs(node.beta) * base.abs().log().abs()) * (COVERED if which else 1)) + policy.eta(form)
        if e is not None:
            e = finite(e).clamp(max=1e150)
            moved = (2 * x.abs() + e) * e
            off = off + share * _window(node, moved) if which == 0 else (off.square() + (share * share) * _window(node, moved.square())).sqrt()
        low, high = base - off, base + off
        factor = base ** (-node.beta)
        swing = ((low ** (-node.beta) - factor).abs()).maximum((high ** (-node.beta) - factor).abs())
        r = x.abs() * swing + rounding
        if e is not None:
            r = r + e * (factor.abs() + swing)
        results.append(settle(r.masked_fill(low <= 0, INF)))
    return [(results[0], results[1])]


@op("LRN", meaning=_lrn, error=_lrn_error)
def lrn(g: Draw) -> Rule:
    """Windows of even and odd size, some wider than the channels."""
    x = g.operand(rank=4) if g.flag(0.9) else g.operand(rank=(3, 5))
    attrs: dict[str, Any] = {"size": g.pick([3, 1, 5, 7, 11]) if g.flag(0.8) else g.pick([2, 4, 8])}
    for name, values in (("alpha", [1e-4, 0.5, 1.0, 2.0]), ("beta", [0.75, 0.5, 1.0, 2.0]), ("bias", [1.0, 2.0, 0.5])):
        if g.flag():
            attrs[name] = g.pick(values)
    return Rule([x], [x], attrs)
