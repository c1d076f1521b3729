"""Convolutions whose weights are computed from the input or from positions, by window, by sample or by class."""

from __future__ import annotations

from typing import Any

import numpy as np

from specs.blocks.layers import (
    act,
    add,
    bn,
    channels,
    concat,
    conv,
    conv_bn_act,
    gap,
    group_norm,
    linear,
    mean,
    mul,
    pointwise,
    pool,
    reshape,
    slice_,
    spatial,
    transpose,
)
from specs.blocks.parts import attention, channel_norm, conv_with, dft, head, narrow, scale, squeeze_excite, sub, total, unfold
from specs.formats import INT64
from specs.net import block, need, relation


def _routed(net: Any, x: Any, experts: int) -> Any:
    """Weights of the experts for each sample, (N, M)."""
    logits = linear(net, reshape(net, gap(net, x), [x.shape[0], channels(x)]), experts)
    return net("Softmax", logits, axis=-1) if net.pick(("softmax", "sigmoid")) == "softmax" else net("Sigmoid", logits)


def _per_sample(net: Any, x: Any, w: Any) -> Any:
    """Convolution of every sample with its own kernel (N, O, I, k, k), samples as groups."""
    n, o, i, *kernel = w.shape
    one = conv_with(net, reshape(net, x, [1, n * i, *spatial(x)]), reshape(net, w, [n * o, i, *kernel]), g=n)
    return reshape(net, one, [n, o, *spatial(x)])


@block(
    "clme-condconv",
    "A-SDM: Accelerating Stable Diffusion through Redundancy Removal and Performance Optimization",
    seeds=["001:223"],
    hazards="mixing kernels and mixing outputs round differently, routing saturates",
)
def clme_condconv(net: Any, x: Any) -> Any:
    """Kernels of several experts mixed for each sample; stresses runtime weights and the sample-as-group trick. Assumed: a dense router."""
    m, k, c = net.pick((2, 3, 4)), net.pick((3, 1)), channels(x)
    r, experts = _routed(net, x, m), net.weight(m, c, c, k, k)
    if net.flag():
        return _per_sample(net, x, net("Einsum", r, experts, equation="nm,moikl->noikl"))
    mixed = net("MatMul", r, reshape(net, experts, [m, -1]))
    return _per_sample(net, x, reshape(net, mixed, [x.shape[0], c, c, k, k]))


@relation("clme-condconv/kernel-mix", of="clme-condconv")
def clme_kernel_mix(net: Any, x: Any) -> Any:
    """Mixing kernels = mixing the experts' outputs."""
    m, k, c = net.pick((2, 3, 4)), net.pick((3, 1)), channels(x)
    r, kernels = _routed(net, x, m), [net.weight(c, c, k, k) for _ in range(m)]
    parts = [slice_(net, r, i, i + 1, 1) for i in range(m)]
    mixed = total(net, [mul(net, reshape(net, p, [-1, 1, 1, 1, 1]), w) for p, w in zip(parts, kernels, strict=True)])
    apart = [mul(net, reshape(net, p, [-1, 1, 1, 1]), conv_with(net, x, w)) for p, w in zip(parts, kernels, strict=True)]
    return _per_sample(net, x, mixed), total(net, apart)


@block("clme-condconv/gri-attention", "A-SDM: Accelerating Stable Diffusion", seeds=["001:223"], even=2)
def gri_attention(net: Any, x: Any) -> Any:
    """Attention inside windows plus attention to the pooled windows, summed. Assumed: shared projections."""
    n, c, h, w = x.shape
    ratios = tuple(r for r in (2, 4) if h % r == 0 and w % r == 0)
    need(bool(ratios), f"gri attention: {h} x {w} is not divided by 2")
    r = net.pick(ratios)

    def windows(v: Any) -> Any:
        return reshape(net, transpose(net, reshape(net, v, [n, c, h // r, r, w // r, r]), [0, 2, 4, 3, 5, 1]), [-1, r * r, c])

    q, k, v = (pointwise(net, x, c) for _ in range(3))
    local = reshape(net, attention(net, windows(q), windows(k), windows(v)), [n, h // r, w // r, r, r, c])
    local = reshape(net, transpose(net, local, [0, 5, 1, 3, 2, 4]), [n, c, h, w])
    tokens, pooled = (transpose(net, reshape(net, y, [n, c, -1]), [0, 2, 1]) for y in (q, pool(net, k, "AveragePool", r)))
    values = transpose(net, reshape(net, pool(net, v, "AveragePool", r), [n, c, -1]), [0, 2, 1])
    distant = reshape(net, transpose(net, attention(net, tokens, pooled, values), [0, 2, 1]), [n, c, h, w])
    return add(net, x, net("Add", local, distant))


def _shifted(net: Any, w: Any, axis: int, cos: Any, sin: Any) -> Any:
    """A kernel shifted circularly along an axis: transform, phases, inverse transform."""
    rank = len(w.shape)
    perm = [i for i in range(rank) if i != axis] + [axis]
    re, im = dft(net, transpose(net, w, perm), None, op=False)
    turned = net("Add", mul(net, re, cos), mul(net, im, sin)), sub(net, mul(net, im, cos), mul(net, re, sin))
    back = dft(net, *turned, inverse=True, op=False)[0]
    return transpose(net, back, [perm.index(i) for i in range(rank)])


def _angles(k: int) -> np.ndarray:
    return np.fft.fftfreq(k, 1.0 / k) * 2 * np.pi / k


@block(
    "cross-d-conv",
    "Cross-D Conv: Cross-Dimensional Transferable Knowledge Base via Fourier Shifting Operation",
    seeds=["000:221", "003:55"],
    dims=(2, 3),
    hazards="rounding of the transform round trip, the dropped imaginary part",
)
def cross_d_conv(net: Any, x: Any) -> Any:
    """One 3-D kernel, shifted in the Fourier domain, for 3-D maps or collapsed for 2-D ones; stresses weights that are computed.

    Assumed: shifts axis by axis, bounded by tanh, odd k (so the imaginary part is zero).
    """
    k, rank, out = net.pick((3, 5)), len(x.shape) - 2, net.pick((4, 8))
    x = narrow(net, x, 4)
    w = net.weight(out, channels(x), k, k, k)
    predicted = mean(net, gap(net, x), list(range(rank + 2)), keepdims=0) if net.flag() else None
    for axis in (2, 3, 4):
        raw = net.weight(1) if predicted is None else mul(net, predicted, net.weight(1))
        angle = mul(net, net.const(_angles(k)), scale(net, net("Tanh", raw), k / 2))
        w = _shifted(net, w, axis, net("Cos", angle), net("Sin", angle))
    if rank == 3:
        return conv_with(net, x, w)
    flat = net("ReduceSum", w, net.ints([2]), keepdims=0) if net.flag() else net("Gather", w, net.const(k // 2, INT64), axis=2)
    return conv_with(net, x, flat)


@relation("cross-d-conv/phase-is-roll", of="cross-d-conv", dims=(2, 3))
def cross_d_roll(net: Any, x: Any) -> Any:
    """A whole shift in the Fourier domain is a circular roll of the kernel; with four taps every phase is a whole number, so it is exact."""
    k, rank, by, x = 4, len(x.shape) - 2, net.pick((1, 2, 3)), narrow(net, x, 4)
    w, axis, pads = net.weight(4, channels(x), *[k] * rank), 2 + net.int(0, rank - 1), [1] * rank + [2] * rank
    rolled = concat(net, slice_(net, w, k - by, k, axis), slice_(net, w, 0, k - by, axis), axis=axis)
    cos, sin = (net.const(np.round(f(_angles(k) * by))) for f in (np.cos, np.sin))
    return conv_with(net, x, _shifted(net, w, axis, cos, sin), pads=pads), conv_with(net, x, rolled, pads=pads)


def involved(net: Any, x: Any, w: Any, groups: int, k: int, s: int, d: int = 1) -> Any:
    """Every window (N, taps, C) weighted by its own kernel (N, G, taps, *out), shared inside a group of channels."""
    n, c = x.shape[:2]
    out = list(w.shape[3:])
    taps = reshape(net, unfold(net, x, k, s=s, d=d), [n, w.shape[2], groups, c // groups, *out])
    kernels = net("Unsqueeze", transpose(net, w, [0, 2, 1, *range(3, len(w.shape))]), net.ints([3]))
    return reshape(net, net("ReduceSum", mul(net, taps, kernels), net.ints([1]), keepdims=0), [n, c, *out])


def _involution(net: Any, x: Any, last: Any = None, bias: Any = None) -> Any:
    """Kernels from a bottleneck on the (pooled) features; last and bias: the generator's last layer."""
    c, rank = channels(x), len(x.shape) - 2
    k, groups = net.pick((3, 5)) if rank == 1 else 3, net.pick((1, 2))
    s = net.pick((1, 2)) if all(n % 2 == 0 for n in spatial(x)) else 1
    y = conv_bn_act(net, pool(net, x, "AveragePool", s) if s > 1 else x, max(1, c // 2), 1)
    y = conv(net, y, groups * k**rank, 1, bias=True)
    return involved(net, x, reshape(net, y, [x.shape[0], groups, k**rank, *spatial(y)]), groups, k, s)


@block(
    "involution",
    "Involution: Inverting the Inherence of Convolution for Visual Recognition",
    seeds=["000:219"],
    dims=(1, 2),
    hazards="kernels are products of activations, unnormalised",
)
def involution(net: Any, x: Any) -> Any:
    """A kernel for every position, shared by the channels of a group; stresses unfolding, a six-dimensional product and its sum."""
    return _involution(net, narrow(net, x, 8))


@block("involution/bottleneck", "Involution: Inverting the Inherence of Convolution for Visual Recognition", seeds=["000:219"], dims=(1, 2))
def involution_bottleneck(net: Any, x: Any) -> Any:
    """RedNet's residual cell: pointwise, involution, pointwise."""
    c, middle = channels(x), net.pick((4, 8))
    y = conv_bn_act(net, x, middle, 1)
    groups, k = net.pick((1, 2)), 3
    kernels = conv(net, conv_bn_act(net, y, 4, 1), groups * k ** (len(x.shape) - 2), 1)
    y = involved(net, y, reshape(net, kernels, [x.shape[0], groups, -1, *spatial(x)]), groups, k, 1)
    return act(net, add(net, x, bn(net, pointwise(net, act(net, bn(net, y)), c))))


@relation("involution/constant-generator", of="involution", dims=(1, 2))
def involution_constant(net: Any, x: Any) -> Any:
    """A generator with zero weights and a bias gives a depthwise convolution with the group's shared kernel."""
    x, rank = narrow(net, x, 8), len(x.shape) - 2
    n, c, groups, k = x.shape[0], channels(x), net.pick((1, 2, 4)), 3
    shared = net.weight(groups, k**rank)
    still = conv_with(net, x, net.const(np.zeros((groups * k**rank, c, *[1] * rank))), reshape(net, shared, [-1]))
    left = involved(net, x, reshape(net, still, [n, groups, -1, *spatial(x)]), groups, k, 1)
    spread = net("Expand", reshape(net, shared, [groups, 1, k**rank]), net.ints([groups, c // groups, k**rank]))
    return left, conv_with(net, x, reshape(net, spread, [c, 1, *[k] * rank]), g=c)


def _aggregated(net: Any, x: Any, w: Any, k: int) -> Any:
    """Weight maps (N, M, taps, H, W): channel c is served by map c mod M."""
    n, c, h, wide = x.shape
    maps = w.shape[1]
    taps = reshape(net, unfold(net, x, k), [n, k * k, c // maps, maps, h, wide])
    weights = net("Unsqueeze", transpose(net, w, [0, 2, 1, 3, 4]), net.ints([2]))
    return reshape(net, net("ReduceSum", mul(net, taps, weights), net.ints([1]), keepdims=0), [n, c, h, wide])


@block("ls-conv", "LSNet: See Large, Focus Small", seeds=["003:243"], hazards="unnormalised dynamic weights cancel in sums of nine")
def ls_conv(net: Any, x: Any) -> Any:
    """Large-kernel perception makes small kernels for every position, which aggregate; stresses grouped norms and dynamic windows."""
    x = narrow(net, x, 8)
    n, c, h, w = x.shape
    maps = net.pick((c // 2, c // 4))
    a = conv_bn_act(net, x, c // 2, 1)
    a = bn(net, conv(net, a, c // 2, net.pick((7, 3)), g=c // 2))
    a = conv(net, conv_bn_act(net, a, c // 2, 1), 9 * maps, 1)
    y = _aggregated(net, x, reshape(net, group_norm(net, a, maps), [n, maps, 9, h, w]), 3)
    return add(net, x, bn(net, y))


@block("ls-conv/net", "LSNet: See Large, Focus Small", seeds=["003:243"])
def ls_net(net: Any, x: Any) -> Any:
    """Strided stem, the large-small block with a depthwise layer, channel gate and dense mixing, global head."""
    y = conv_bn_act(net, conv_bn_act(net, x, 8, s=1), 8, s=2, pad=1)
    y = ls_conv(net, squeeze_excite(net, add(net, y, bn(net, conv(net, y, 8, 3, g=8)))))
    y = add(net, y, pointwise(net, act(net, pointwise(net, y, 16)), 8))
    y = ls_conv(net, y) if net.flag() else y
    return head(net, y, 10)


@relation("ls-conv/constant-weights", of="ls-conv")
def ls_constant(net: Any, x: Any) -> Any:
    """Weights that do not change over positions make a depthwise convolution; channel c reads map c mod M."""
    x = narrow(net, x, 8)
    n, c, h, w = x.shape
    maps = net.pick((c // 2, c // 4, 1))
    kernel = net.weight(maps, 9)
    left = _aggregated(net, x, net("Expand", reshape(net, kernel, [1, maps, 9, 1, 1]), net.ints([n, maps, 9, h, w])), 3)
    return left, conv_with(net, x, reshape(net, net("Tile", kernel, net.ints([c // maps, 1])), [c, 1, 3, 3]), g=c)


def _controlled(net: Any, f: Any, theta: Any, batched: bool) -> Any:
    """Three pointwise layers (8 -> 8 -> 8 -> 1) with parameters (N, K, 153), as grouped convolutions or batched products."""
    n, k, size = f.shape[0], theta.shape[1], list(spatial(f))
    cuts, at = list[Any](), 0
    for length in (64, 8, 64, 8, 8, 1):
        cuts.append(slice_(net, theta, at, at + length, 2))
        at += length
    y = net("Expand", net("Unsqueeze", f, net.ints([1])), net.ints([n, k, 8, *size]))
    y = reshape(net, y, [n, k, 8, -1] if batched else [1, n * k * 8, *size])
    for layer, out in enumerate((8, 8, 1)):
        w, b = cuts[2 * layer], cuts[2 * layer + 1]
        if batched:
            y = net("Add", net("MatMul", reshape(net, w, [n, k, out, 8]), y), reshape(net, b, [n, k, out, 1]))
        else:
            y = conv_with(net, y, reshape(net, w, [n * k * out, 8, *[1] * len(size)]), reshape(net, b, [-1]), g=n * k)
        y = act(net, y) if layer < 2 else y
    return reshape(net, y, [n, k, *size])


def _controller(net: Any, f: Any) -> Any:
    """Parameters of every class from the mean of the features and the class's text embedding in a modality."""
    n, k, c, d = f.shape[0], net.pick((3, 2)), channels(f), 16
    text = net("Gather", net.weight(2, k, d), net.const(net.pick((0, 1)), INT64), axis=0)
    both = [net("Expand", reshape(net, gap(net, f), [n, 1, c]), net.ints([n, k, c])), net("Expand", net("Unsqueeze", text, net.ints([0])), net.ints([n, k, d]))]
    return linear(net, act(net, linear(net, concat(net, *both, axis=2), 16)), 153)


@block(
    "text-conditioned-dynamic-head",
    "MulModSeg: Enhancing Unpaired Multi-Modal Medical Image Segmentation with Modality-Conditioned Text Embedding and Alternating Training",
    seeds=["000:129"],
    dims=(2, 3),
    hazards="data-dependent weights are unbounded, sigmoid saturation",
)
def text_conditioned_dynamic_head(net: Any, x: Any) -> Any:
    """A small head for every sample and class whose weights come from text; stresses runtime weights with many groups. Assumed: no scaling."""
    f = pointwise(net, act(net, group_norm(net, x, 4)), 8)
    return act(net, _controlled(net, f, _controller(net, x), net.pick((False, True))), "Sigmoid")


@relation("text-conditioned-dynamic-head/batched-matmul", of="text-conditioned-dynamic-head", dims=(2, 3))
def dynamic_head_matmul(net: Any, x: Any) -> Any:
    """Grouped pointwise convolutions with runtime weights are batched products."""
    f, theta = pointwise(net, x, 8), _controller(net, x)
    return _controlled(net, f, theta, False), _controlled(net, f, theta, True)


def _translation_variant(net: Any, x: Any, affinity: Any, first: Any, k: int, s: int, norm: bool = True) -> Any:
    """Weights (1, C taps, *out) from an affinity map alone, applied window by window."""
    rank, c = len(x.shape) - 2, channels(x)
    hidden = conv_with(net, affinity, first)
    hidden = act(net, channel_norm(net, hidden)) if norm else act(net, hidden)
    w = conv(net, hidden, c * k**rank, 1 if not norm else 3)
    kernels = reshape(net, w, [1, k**rank, c, *spatial(w)])
    return net("ReduceSum", mul(net, unfold(net, x, k, s=s), kernels), net.ints([1]), keepdims=0)


@block(
    "tvconv",
    "TVConv: Efficient Translation Variant Convolution for Layout-aware Visual Processing",
    seeds=["000:215"],
    dims=(1, 2),
    hazards="norm of a constant map, sums of products",
)
def tvconv(net: Any, x: Any) -> Any:
    """A depthwise kernel for every position, made by a network on a learned map only; stresses folding of a whole constant subnetwork."""
    x, rank, s = narrow(net, x, 8), len(x.shape) - 2, net.pick((1, 2))
    k = net.pick((3, 5)) if rank == 1 else 3
    affinity = net.weight(1, 4, *[(n - 1) // s + 1 for n in spatial(x)])
    return act(net, bn(net, _translation_variant(net, x, affinity, net.weight(8, 4, *[3] * rank), k, s)))


@relation("tvconv/constant-map", of="tvconv", dims=(1, 2))
def tvconv_constant(net: Any, x: Any) -> Any:
    """A flat affinity map under pointwise weight layers gives a depthwise convolution, borders included."""
    x, rank = narrow(net, x, 8), len(x.shape) - 2
    c, k, one = channels(x), 3, [1] * rank
    value, first, last = net.weight(1, 4, *one), net.weight(8, 4, *one), net.weight(c * k**rank, 8, *one)

    def kernels(affinity: Any) -> Any:
        return conv_with(net, act(net, conv_with(net, affinity, first)), last)

    wide = kernels(net("Expand", value, net.ints([1, 4, *spatial(x)])))
    left = net("ReduceSum", mul(net, unfold(net, x, k), reshape(net, wide, [1, k**rank, c, *spatial(x)])), net.ints([1]), keepdims=0)
    flat = transpose(net, reshape(net, kernels(value), [k**rank, c]), [1, 0])
    return left, conv_with(net, x, reshape(net, flat, [c, 1, *[k] * rank]), g=c)
