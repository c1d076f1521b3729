"""Pools: the maximum, the mean or the p-norm of every window, or of the whole of every channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from specs.contraction import linear
from specs.draw import Draw
from specs.numerics import COVERED, EXACT, TYPICAL, Ball, Policy, Radii, add, between, finite, gamma, outputs, quadrature, settle
from specs.operator import op
from specs.ops.windows import ROOM, Axis, cut, overflow_safe, place, slide, symmetric, taps
from specs.program import Node
from specs.rule import Rule, Unsupported
from specs.terms import known, prod

_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEAN = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def lowest(x: Tensor) -> float:
    return -math.inf if x.is_floating_point() else torch.iinfo(x.dtype).min


def _native(a: Node, axes: Sequence[Axis], x: Tensor) -> bool:
    """Whether torch's own pool does it. The reference never uses it: it is what the torch backend puts to the test."""
    if a.promote is not None or not symmetric(axes) or len(axes) not in _MAX or not x.numel():
        return False
    return all(w.out > 0 and 2 * w.begin <= w.kernel and w.size + 2 * w.begin >= w.span for w in axes) and (len(axes) > 1 or x.is_floating_point())


def _parameters(axes: Sequence[Axis]) -> tuple[list[int], list[int], list[int]]:
    return [w.kernel for w in axes], [w.stride for w in axes], [w.begin for w in axes]


def window_dims(axes: Sequence[Axis]) -> list[int]:
    return list(range(-len(axes), 0))


def _half(a: Node, x: Tensor) -> bool:
    """Half precision where torch has no kernel that rounds once."""
    return a.promote is None and x.dtype in (torch.float16, torch.bfloat16)


# MaxPool ---------------------------------------------------------------------------------------------------------------
def _max_pool(a: Node, x: Tensor) -> Any:
    """Padding never wins. An index counts through the whole tensor; storage_order 1 counts the space column by column."""
    axes = place(a, x.shape[2:], a.kernel_shape)
    indices = len(a.outputs) > 1 and bool(a.outputs[1])
    if not indices and _native(a, axes, x):
        y = _MAX[len(axes)](x, *_parameters(axes), [w.dilation for w in axes], ceil_mode=any(w.reach > w.end for w in axes))
        return (y, None) if len(a.outputs) > 1 else y
    windows = cut(x, axes, lowest(x))
    y = windows.amax(window_dims(axes))
    if not indices:
        return (y, None) if len(a.outputs) > 1 else y
    places = _places(a, axes, x)
    first = ((windows == y[(..., *[None] * len(axes))]) & (places >= 0)).flatten(-len(axes)).to(torch.uint8).argmax(-1, keepdim=True)
    local = places.expand(windows.shape).flatten(-len(axes)).gather(-1, first)[..., 0]
    return y, local + _bases(x)


def _places(a: Node, axes: Sequence[Axis], x: Tensor) -> Tensor:
    """The index of every element of every window within its channel, -1 for padding."""
    space = x.shape[2:]
    index = torch.arange(math.prod(space))
    index = index.reshape(space[::-1]).permute(*reversed(range(len(space)))) if a.storage_order else index.reshape(space)
    return cut(index[None, None], axes, -1)


def _bases(x: Tensor) -> Tensor:
    n, c = x.shape[:2]
    return (torch.arange(n * c) * math.prod(x.shape[2:])).reshape(n, c, *[1] * (x.ndim - 2))


def max_error(node: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """A maximum grows with every element: it lies between the maxima of the lower and of the upper ends, unrounded."""
    ball = balls[0]
    assert ball is not None
    if ball.worst is None:
        return [EXACT]

    def swing(e: Tensor) -> Tensor:
        ends = [(outputs(node.op.meaning(node, x))[0].double() - ys[0]).abs() for x in (ball.value - finite(e), ball.value + finite(e))]
        return settle(ends[0].maximum(ends[1]))

    return [(swing(ball.worst), swing(ball.spread))]


def _max_pool_error(node: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Values by their ends. An index may be that of any element that can be the maximum: ties are not decided by ONNX."""
    values = max_error(node, policy, balls, ys)[0]
    if len(ys) < 2 or ys[1] is None:
        return [values, EXACT][: len(ys)]
    ball = balls[0]
    assert ball is not None
    x, axes = ball.value, place(node, ball.value.shape[2:], node.kernel_shape)
    dims, places, local = window_dims(axes), _places(node, axes, x), (ys[1] - _bases(x))[(..., *[None] * len(axes))]

    def radius(e: Tensor | None) -> Tensor | None:
        low, high = (x, x) if e is None else (x - finite(e), x + finite(e))
        beaten = cut(low, axes, lowest(low)).amax(dims, keepdim=True)
        can = (cut(high, axes, lowest(high)) >= beaten) & (places >= 0)
        far = ((places - local).abs() * can).amax(dims).double()
        return far if bool(far.any()) else None

    worst = radius(ball.worst)
    rough = worst if ball.worst is None else radius(ball.spread)
    return [values, EXACT if worst is None else (worst, worst if rough is None else rough)]


@op("MaxPool", meaning=_max_pool, error=_max_pool_error)
def max_pool(g: Draw) -> Rule:
    """Of floats and bytes, with or without the indices."""
    x = g.operand(rank=(3, 5), low=0)
    n, c, *space = x
    for d in (c, *space):
        g.require(d >= 1)
    w = slide(g, space, ceil=True, inside=True)
    in_room(g, n, c, *w.out)
    attrs = {"kernel_shape": w.kernel, **w.attrs}
    indices = g.flag(0.3)
    if g.flag(0.5 if indices else 0.05):
        attrs["storage_order"] = 1
    shape = [n, c, *w.out]
    return Rule([x], [shape, shape if indices else None], attrs)


def in_room(g: Draw, *shape: Any) -> None:
    """Padding makes a result larger than its operand, which had just room."""
    if known(*shape):
        g.require(prod(shape) <= ROOM)


# AveragePool -----------------------------------------------------------------------------------------------------------
def _average_pool(a: Node, x: Tensor) -> Tensor:
    """The mean over the elements inside the input, or inside input and pads; what ceil_mode adds behind them never counts."""
    axes = place(a, x.shape[2:], a.kernel_shape)
    refused = len(axes) == 3 and (_half(a, x) or any(w.kernel > w.size for w in axes))  # avg_pool3d, unlike the others, ignores the padding here
    if _native(a, axes, x) and all(w.dilation == 1 for w in axes) and not refused:
        return _MEAN[len(axes)](x, *_parameters(axes), any(w.reach > w.end for w in axes), bool(a.count_include_pad))
    y = (cut(x.float(), axes) if _half(a, x) else cut(x, axes)).sum(window_dims(axes))
    for i, w in enumerate(axes):
        counts = taps(w, bool(a.count_include_pad))
        if len(set(counts)) == 1:
            y = y / counts[0]
        else:
            y = y / torch.tensor(counts, dtype=y.dtype).reshape(-1, *[1] * (len(axes) - 1 - i))
    return y.to(x.dtype)


def _kernel_terms(node: Node, values: Sequence[Any]) -> float:
    return math.prod(node.kernel_shape)


_window_sums = overflow_safe(linear(_kernel_terms, weights=()), _kernel_terms)


def running(policy: Policy, node: Node, axes: Sequence[Axis], magnitude: Tensor) -> Tensor | None:
    """What windows that are updated along an axis, not summed anew, carry along: two roundings of every window passed."""
    sliding = [i for i, w in enumerate(axes) if w.stride < w.span and w.out > 1]
    if not policy.reassociation or not sliding or not magnitude.numel():
        return None
    passed = [magnitude.sum(2 + i, keepdim=True).expand(magnitude.shape) for i in sliding]
    return torch.stack(passed).amax(0) * (2 * policy.accumulation(node.out_formats[0]))


def _average_pool_error(node: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    (worst, spread), x = _window_sums(node, policy, balls, ys)[0], balls[0]
    assert x is not None
    return [(add(worst, running(policy, node, place(node, x.value.shape[2:], node.kernel_shape), _average_pool(node, x.value.abs()))), spread)]


@op("AveragePool", meaning=_average_pool, error=_average_pool_error)
def average_pool(g: Draw) -> Rule:
    """Whether padding counts matters only where there is some, but is drawn everywhere."""
    x = g.operand(rank=(3, 5), low=0)
    n, c, *space = x
    for d in (c, *space):
        g.require(d >= 1)
    w = slide(g, space, ceil=True, inside=True, dilate=g.opset >= 19)
    in_room(g, n, c, *w.out)
    attrs = {"kernel_shape": w.kernel, **w.attrs}
    if g.flag(0.4):
        attrs["count_include_pad"] = 1
    return Rule([x], [[n, c, *w.out]], attrs)


# LpPool ----------------------------------------------------------------------------------------------------------------
def _root(s: Tensor, p: float) -> Tensor:
    """s ** (1 / p); its infinite slope at 0 would make NaN gradients of empty windows."""
    if p == 1:
        return s
    if not s.requires_grad:
        return s.sqrt() if p == 2 else s ** (1 / p)
    return torch.where(s > 0, s.clamp(min=torch.finfo(s.dtype).tiny) ** (1 / p), s)


def _power(x: Tensor, p: float) -> Tensor:
    return x.abs() if p == 1 else x * x if p == 2 else x.abs() ** p


def _lp_pool(a: Node, x: Tensor) -> Tensor:
    if a.kernel_shape is None:
        raise Unsupported("LpPool: version 1 does not say what a missing kernel_shape means")
    axes = place(a, x.shape[2:], a.kernel_shape)
    windows = cut(_power(x.float() if _half(a, x) else x, a.p), axes)
    return _root(windows.sum(window_dims(axes)), a.p).to(x.dtype)


def _global_lp_pool(a: Node, x: Tensor) -> Tensor:
    s = _power(x.float() if _half(a, x) else x, a.p)
    return _root(s.sum(_space(x), keepdim=True) if x.ndim > 2 else s, a.p).to(x.dtype)


def _norm_error(node: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """A norm of the radii bounds how far a norm moves. Own roundings enter the sum of powers and leave through the root.

    Powers: a logarithm and an exponential, or products; the flush of a small power is magnified by the root, hence the ends.
    """
    ball, y, p, form = balls[0], ys[0], float(node.p), node.out_formats[0]
    assert ball is not None
    windowed = node.kernel_shape is not None
    axes = place(node, ball.value.shape[2:], node.kernel_shape) if windowed else []

    def total(t: Tensor) -> Tensor:
        return cut(t, axes).sum(window_dims(axes)) if windowed else t.sum(_space(t), keepdim=True) if t.ndim > 2 else t

    n = math.prod(node.kernel_shape) if windowed else math.prod(ball.value.shape[2:])
    u, u_acc, eta = policy.u(form), policy.accumulation(form), policy.eta(form)
    t = _power(ball.value, p)
    s = total(t)
    powers = total(4 * t + 2 * torch.xlogy(t, t).abs()) * u if p > 2 else s * u
    off = powers + s * gamma(n + 2, u_acc) + n * eta
    if windowed and (passed := running(policy, node, axes, s)) is not None:
        off = off + passed
    off_spread = (powers + s * (math.sqrt(n) * u_acc)) * TYPICAL + eta
    root = y * (u * (4 + 2 * torch.log(y.clamp(min=1e-300)).abs())) if p > 2 else y * (2 * u)

    def ends(d: Tensor) -> Tensor:
        d = finite(d)
        return between(_root(s + d, p), _root((s - d).clamp(min=0), p), y)

    def moved(e: Tensor, q: float) -> Tensor:
        r = _root(total(_power(e.clamp(max=1e60), q)), q)
        return r.masked_fill(r > 1e59, math.inf)

    own, own_spread = ends(off) + root + eta, quadrature(ends(off_spread), root * COVERED) + eta
    if ball.worst is None:
        return [(settle(own), settle(own_spread))]
    return [(settle(own + moved(ball.worst, p)), settle(quadrature(own_spread, moved(ball.spread, max(p, 2.0)))))]


def _norm_safe(a: Node, x: Tensor) -> Sequence[Tensor]:
    """The sum of powers must not overflow although the norm itself would not."""
    form = a.in_formats[0]
    n = math.prod(a.kernel_shape or x.shape[2:])
    return [] if form is None or a.p == 1 else [x.abs() - (form.largest / 4 / max(1, n)) ** (1 / a.p)]


@op("LpPool", meaning=_lp_pool, error=_norm_error, safe=_norm_safe)
def lp_pool(g: Draw) -> Rule:
    """The p-norm of the elements of a window; padding adds nothing."""
    x = g.operand(rank=(3, 5), low=0)
    n, c, *space = x
    for d in (c, *space):
        g.require(d >= 1)
    w = slide(g, space, ceil=g.opset >= 18, inside=True, dilate=g.opset >= 18)
    in_room(g, n, c, *w.out)
    attrs = {"kernel_shape": w.kernel, **w.attrs}
    if g.flag(0.7):
        attrs["p"] = g.pick((1, 2, 3, 4))
    return Rule([x], [[n, c, *w.out]], attrs)


# over the whole space --------------------------------------------------------------------------------------------------
def _space(x: Tensor) -> list[int]:
    return list(range(2, x.ndim))


def _global_average(a: Node, x: Tensor) -> Tensor:
    return x.mean(_space(x), keepdim=True) if x.ndim > 2 else x.clone()


def _global_max(a: Node, x: Tensor) -> Tensor:
    return x.amax(_space(x), keepdim=True) if x.ndim > 2 else x.clone()


def _space_terms(node: Node, values: Sequence[Any]) -> float:
    return math.prod(values[0].shape[2:])


def _global(g: Draw) -> tuple[Any, list[Any]]:
    x = g.operand(rank=(3, 5), low=0)
    n, c, *space = x
    for d in (c, *space):
        g.require(d >= 1)
    return x, [n, c, *[1] * len(space)]


@op("GlobalAveragePool", meaning=_global_average, error=overflow_safe(linear(_space_terms, weights=()), _space_terms))
def global_average_pool(g: Draw) -> Rule:
    """One mean a channel."""
    x, shape = _global(g)
    return Rule([x], [shape])


@op("GlobalMaxPool", meaning=_global_max, error=max_error)
def global_max_pool(g: Draw) -> Rule:
    """One maximum a channel."""
    x, shape = _global(g)
    return Rule([x], [shape])


@op("GlobalLpPool", meaning=_global_lp_pool, error=_norm_error, safe=_norm_safe)
def global_lp_pool(g: Draw) -> Rule:
    """One norm a channel."""
    x, shape = _global(g)
    return Rule([x], [shape], {"p": g.pick((1, 2, 3, 4))} if g.flag(0.7) else {})
