"""BatchNormalization in all its versions: with given statistics, and in training mode with those of the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.formats import BFLOAT16, FLOAT, FLOAT16, Format
from specs.moments import ATTRIBUTE, affine, inverse_root, shaped, standardised, widest
from specs.numerics import Ball, Policy, Radii, add, finite, quadrature, settle
from specs.program import Node

SHARED = 0.6  # of each part in quadrature: more than is typical of a rounding, for the factor's is the same in all elements of a channel


def _training(a: Node) -> bool:
    """An attribute since 14; until 6 another one, its opposite; in between training is asking for more outputs."""
    if a.version >= 14:
        return bool(a.training_mode)
    if a.version < 7:
        return not a.is_test
    return sum(bool(o) for o in a.outputs) > 1


def _flat(a: Node, x: Tensor) -> Tensor:
    """Not spatial: every element of a sample has statistics of its own. Rank 1: one channel."""
    if a.version < 9 and a.spatial == 0:
        return x.reshape(x.shape[0], -1)
    return x.unsqueeze(1) if x.dim() == 1 else x


def _wide(a: Node, t: Tensor) -> Tensor:
    """Statistics and scaling in float32 at least, as the operator's text asks for."""
    return t.float() if t.dtype.itemsize < 4 else t


def _batch(a: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Any:
    flat = _flat(a, x)
    column = [-1, *[1] * (flat.dim() - 2)]
    wide, given_mean, given_var = _wide(a, flat), _wide(a, mean), _wide(a, var)
    if _training(a):
        dims = [0, *range(2, flat.dim())]
        used_mean, used_var = wide.mean(dims), wide.var(dims, correction=0)
    else:
        used_mean, used_var = given_mean.reshape(-1), given_var.reshape(-1)
    inverse = (used_var + a.epsilon).rsqrt()
    kind = torch.promote_types(wide.dtype, inverse.dtype)
    y = (wide.to(kind) - used_mean.reshape(column)) * (inverse * _wide(a, scale).reshape(-1)).reshape(column) + _wide(a, bias).reshape(column)
    y = y.to(x.dtype).reshape(x.shape)
    if not _training(a):
        return y
    kept = [r.reshape(mean.shape) for r in (used_mean, used_var)]
    running = [given * a.momentum + now * (1 - a.momentum) for given, now in zip((given_mean, given_var), kept, strict=True)]
    results = running if a.version >= 14 else [*running, *kept]
    return y, *(r.to(t) for r, t in zip(results, [mean.dtype, var.dtype] * 2, strict=False))


# errors --------------------------------------------------------------------------------------------------------------
def _batch_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    ball = balls[0]
    assert ball is not None
    x = _flat(node, ball.value)
    data = shaped(ball, x.shape)
    column = [-1, *[1] * (x.dim() - 2)]
    scale, bias, mean, var = (shaped(b, column) for b in balls[1:5])
    assert data is not None and scale is not None and bias is not None and mean is not None and var is not None
    # Even a strict backend computes with statistics in the format they are given in, those in halves in float32.
    wide = [f if f.bits >= 32 else FLOAT for f in node.in_formats if f is not None]
    used = widest(*node.in_formats) if policy.half_accumulation else widest(node.out_formats[0], *wide)
    if _training(node):
        return _trained(node, policy, used, data, scale, bias, mean, var, ys)
    total = var.value + node.epsilon
    inverse, size = total.rsqrt(), scale.value.abs()
    f, c, u = inverse * size, (x - mean.value).abs(), policy.u(used)
    # The folded form x f + (b - mean f) is legal, and the looser one: f, off by 4 u, is the same in both places, and every step rounds.
    edge = (mean.value.abs() * f + bias.value.abs()) * (2 * u)
    own = (c * 5 + x.abs()) * (f * u) + (edge + policy.eta(used))
    rough = ((c.square() * 25 + x.square()) * (f * (u * SHARED)).square() + (edge * SHARED).square()).sqrt() + policy.eta(used)
    off = node.epsilon * ATTRIBUTE
    known = None if var.worst is not None else inverse_root(total, torch.full_like(total, off), 0.0)
    found = []
    for which in (0, 1):
        ex, es, eb, em, ev = (None if b[1 + which] is None else finite(b[1 + which]).clamp(max=1e150) for b in (data, scale, bias, mean, var))
        relative = known if known is not None else inverse_root(total, ev + off, 0.0)  # type: ignore[operator]
        if which == 0:
            change = add(f * relative, None if es is None else es * inverse * (1 + relative))
            moved = [e * (f + change) for e in (ex, em) if e is not None]
            r = add(own, c * change, eb, *moved)
        else:
            change = quadrature(f * relative, None if es is None else es * inverse)
            r = quadrature(rough, c * change, eb, *(e * f for e in (ex, em) if e is not None))
        found.append(settle(r).reshape(ys[0].shape))
    return [(found[0], found[1])]


def _trained(node: Any, policy: Policy, used: Format, data: Ball, scale: Ball, bias: Ball, mean: Ball, var: Ball, ys: Sequence[Any]) -> Sequence[Radii]:
    """Statistics of a half are taken in float32, which the operator's text demands."""
    x = data.value
    dims = [0, *range(2, x.dim())]
    inner = FLOAT if node.in_formats[0] in (FLOAT16, BFLOAT16) else node.in_formats[0]
    s = standardised(policy, inner, x, (data.worst, data.spread), dims, node.epsilon)
    worst, spread = affine(policy, used, s.z, s.z_radii, scale, bias, k=6)
    results: list[Radii] = [(worst.reshape(ys[0].shape), spread.reshape(ys[0].shape))]
    kept: list[Radii] = []
    m = node.momentum
    for i, (given, current, radii) in enumerate(zip((mean, var), (s.mean, s.var), (s.mean_radii, s.var_radii), strict=True)):
        form = node.out_formats[1 + i] if len(node.out_formats) > 1 + i and node.out_formats[1 + i] is not None else used
        u = policy.u(form)
        rounding = ((given.value * m).abs() + (current * (1 - m)).abs()) * (4 * u) + (given.value - current).abs() * (abs(m) * ATTRIBUTE) + policy.eta(form)
        w, p = radii[0] * (1 - m) + rounding, radii[1] * (1 - m) + rounding
        if given.worst is not None:
            w, p = w + given.worst * abs(m), (p.square() + (given.spread * m).square()).sqrt()
        results.append((settle(w), settle(p)))
        own = current.abs() * u + policy.eta(form)
        kept.append((settle(radii[0] + own), settle(radii[1] + own)))
    everything = results if node.version >= 14 else [*results, *kept]
    return [(w.reshape(y.shape), p.reshape(y.shape)) for (w, p), y in zip(everything, ys, strict=False)]


# drawing -------------------------------------------------------------------------------------------------------------
@op("BatchNormalization", meaning=_batch, error=_batch_error, weight=2)
def batch_normalization(g: Draw) -> Rule:
    """Inference most of the time; the types of the parameters part from that of the data at 14 and 15."""
    x = g.operand(rank=(2, 5))
    c = x[1]
    for variable in ("U",) if g.opset == 14 else ("T1", "T2") if g.opset >= 15 else ():
        if x.format is not None and g.flag(0.7):
            g.type(variable, among=[x.format])
    scale, bias, mean = (g.operand(like=[c], role="weight") for _ in range(3))
    var = g.given([c], 0.1, 2.0, role="weight")
    attrs: dict[str, Any] = {}
    if g.flag():
        attrs["epsilon"] = g.pick([1e-5, 1e-3, 1e-2, 1e-7])
    if g.flag(0.3):
        attrs["momentum"] = g.pick([0.9, 0.1, 0.5, 0.0, 1.0])
    inputs = [x, scale, bias, mean, var]
    if g.opset >= 14 and g.flag(0.25):
        attrs["training_mode"] = 1
        return Rule(inputs, [x, [c], [c]], attrs)
    return Rule(inputs, [x], attrs)
