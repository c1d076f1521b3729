"""Weights that are transformed before they are used: branches merged, norms folded, kernels expanded, weights convolved."""

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
    depthwise,
    gap,
    linear,
    mean,
    mul,
    pad,
    pointwise,
    pool,
    reduce,
    reshape,
    resize,
    slice_,
    spatial,
    transpose,
)
from specs.blocks.parts import (
    bn_with,
    centred,
    channel_pools,
    conv_with,
    dirac,
    divisors,
    fold,
    offset,
    scale,
    statistics,
    sub,
    total,
)
from specs.net import block, relation


def _convolved(net: Any, heads: int, d: int, kernel: Any) -> Any:
    """Projection weights (heads, D, D / heads), convolved as images."""
    w = conv_with(net, net.weight(heads, 1, d, d // heads), kernel)
    return reshape(net, w, [heads, d, d // heads])


def _heads(net: Any, x: Any, weights: list[Any]) -> Any:
    """Self-attention whose projections are given per head."""
    n, length, d = x.shape
    q, k, v = (net("MatMul", net("Unsqueeze", x, net.ints([1])), w) for w in weights)
    scores = scale(net, net("MatMul", q, transpose(net, k, [0, 1, 3, 2])), q.shape[-1] ** -0.5)
    mixed = net("MatMul", net("Softmax", scores, axis=-1), v)
    return reshape(net, transpose(net, mixed, [0, 2, 1, 3]), [n, length, d])


@block(
    "contracon-conv-weights",
    "Exemplar-Free Continual Transformer with Convolutions",
    seeds=["001:315"],
    dims=(1,),
    takes="tokens",
    hazards="sums over the plane of a weight",
)
def contracon_conv_weights(net: Any, x: Any) -> Any:
    """Attention whose projection weights are images convolved by a small kernel; stresses folding of Conv over initializers and runtime MatMul weights.

    Assumed: one kernel per projection, the output projection left as it is, a sigmoid gate on the residual.
    """
    d = x.shape[2]
    heads = net.pick((2, 1))
    k = net.pick(tuple(k for k in (3, 7, 15) if k <= d // heads))
    weights = [_convolved(net, heads, d, net.weight(1, 1, k, k)) for _ in range(3)]
    y = linear(net, _heads(net, x, weights), d)
    return add(net, x, mul(net, act(net, net.weight(1), "Sigmoid"), y))


@relation("contracon-conv-weights/dirac", of="contracon-conv-weights", takes="tokens")
def contracon_dirac(net: Any, x: Any) -> Any:
    """A Dirac kernel gives the original layer."""
    d, heads = x.shape[2], net.pick((2, 1))
    kept = [net.weight(heads, 1, d, d // heads) for _ in range(3)]
    turned = [conv_with(net, w, net.const(dirac(1, net.pick((3, 7)), 2))) for w in kept]
    left, right = ([reshape(net, w, [heads, d, d // heads]) for w in ws] for ws in (turned, kept))
    return _heads(net, x, left), _heads(net, x, right)


@relation("contracon-conv-weights/linear-in-kernel", of="contracon-conv-weights", takes="tokens")
def contracon_linear(net: Any, x: Any) -> Any:
    """W(k1 + k2) = W(k1) + W(k2), seen through the projection."""
    d = x.shape[2]
    w, k1, k2 = net.weight(1, 1, d, d), net.weight(1, 1, 3, 3), net.weight(1, 1, 3, 3)

    def project(weight: Any) -> Any:
        return net("MatMul", x, reshape(net, weight, [d, d]))

    return project(conv_with(net, w, net("Add", k1, k2))), project(net("Add", conv_with(net, w, k1), conv_with(net, w, k2)))


@block("contracon-conv-weights/entropy-router", "Exemplar-Free Continual Transformer with Convolutions", seeds=["001:315"], dims=(1,), takes="tokens")
def contracon_entropy_router(net: Any, x: Any) -> Any:
    """Task by least entropy of the mean prediction over augmented copies; stresses ArgMin feeding a selection. Assumed: the tokens are the copies."""
    tasks, classes = net.pick((5, 3)), net.pick((4, 10))
    means = [mean(net, net("Softmax", linear(net, x, classes), axis=-1), [1]) for _ in range(tasks)]
    stacked = concat(net, *means, axis=1)
    entropy = net("Neg", reduce(net, "ReduceSum", mul(net, stacked, net("Log", offset(net, stacked, 1e-6))), [2]))
    index = net("Expand", net("ArgMin", entropy, axis=1, keepdims=1), net.ints([x.shape[0], 1, classes]))
    return net("GatherElements", stacked, index, axis=1)


@block(
    "convbn-tune-mode",
    "Efficient ConvBN Blocks for Transfer Learning and Beyond",
    seeds=["001:143"],
    dims=(1, 2, 3),
    hazards="small variance makes folded weights large, cancellation of bias and mean",
)
def convbn_tune_mode(net: Any, x: Any) -> Any:
    """Convolution and norm in Eval form or Tune form (the folded weight is a runtime product); stresses folding and runtime Conv weights."""
    c, rank, k, e = channels(x), len(x.shape) - 2, net.pick((3, 1)), net.pick((1e-5, 1e-3))
    g = net.pick((1, *divisors(c, (4,)), c))
    w, b, p = net.weight(c, c // g, *[k] * rank), net.weight(c), statistics(net, c)
    if net.pick(("tune", "eval")) == "eval":
        return act(net, bn_with(net, conv_with(net, x, w, b, g=g), p, e))
    return act(net, conv_with(net, x, *_tuned(net, w, b, p, e), g=g))


def _tuned(net: Any, w: Any, b: Any, p: tuple[Any, Any, Any, Any], e: float, axis: int = 0) -> tuple[Any, Any]:
    """Folded weight and bias of a layer that has a bias of its own."""
    return fold(net, w, (p[0], p[1], sub(net, p[2], b), p[3]), e, axis)


@relation("convbn-tune-mode/tune-equals-eval", of="convbn-tune-mode", dims=(1, 2, 3))
def convbn_tune_equals_eval(net: Any, x: Any) -> Any:
    """The folded convolution computed in the graph is convolution and norm."""
    c, rank, k, e = channels(x), len(x.shape) - 2, net.pick((3, 1)), net.pick((1e-5, 1e-3))
    g = net.pick((1, *divisors(c, (4,)), c))
    w, b, p = net.weight(c, c // g, *[k] * rank), net.weight(c), statistics(net, c)
    return bn_with(net, conv_with(net, x, w, b, g=g), p, e), conv_with(net, x, *_tuned(net, w, b, p, e), g=g)


@relation("convbn-tune-mode/transposed", of="convbn-tune-mode", dims=(1, 2, 3))
def convbn_transposed(net: Any, x: Any) -> Any:
    """The output channels of a transposed convolution stand on axis 1 of its weight, group by group."""
    c, rank, g = channels(x), len(x.shape) - 2, net.pick((1, 2, 4))
    w, b, p = net.weight(c, c // g, *[2] * rank), net.weight(c), statistics(net, c)
    options = {"kernel_shape": [2] * rank, "strides": [2] * rank, "group": g}
    grouped = reshape(net, w, [g, c // g, c // g, *[2] * rank])
    scales = net("Div", p[0], net("Sqrt", offset(net, p[3], 1e-5)))
    folded = reshape(net, mul(net, grouped, reshape(net, scales, [g, 1, c // g, *[1] * rank])), w.shape)
    shift = net("Add", mul(net, sub(net, b, p[2]), scales), p[1])
    return bn_with(net, net("ConvTranspose", x, w, b, **options), p), net("ConvTranspose", x, folded, shift, **options)


@relation("convbn-tune-mode/linear", of="convbn-tune-mode", takes="tokens")
def convbn_linear(net: Any, x: Any) -> Any:
    """A dense layer and a batch norm of its features are one dense layer."""
    rows, d, out = reshape(net, x, [-1, x.shape[2]]), x.shape[2], net.pick((8, 12))
    w, b, p = net.weight(d, out), net.weight(out), statistics(net, out)
    return bn_with(net, net("Gemm", rows, w, b), p), net("Gemm", rows, *_tuned(net, w, b, p, 1e-5, axis=1))


@block("convbn-tune-mode/fold-guard", "Efficient ConvBN Blocks for Transfer Learning and Beyond", seeds=["001:143"], dims=(1, 2, 3))
def convbn_fold_guard(net: Any, x: Any) -> Any:
    """The convolution's result is used by the norm and by a sum: folding the norm into it would be wrong."""
    y = conv(net, x, net.pick((8, 16)), net.pick((3, 1)), bias=True)
    return act(net, net("Add", bn(net, y), y))


def _detail_kernels(net: Any, out: int, c: int, rank: int) -> list[Any]:
    """The kernels of detail-enhanced convolution; in one dim those that exist there."""
    taps, shape = 3**rank, [out, c, *[3] * rank]
    centre = np.zeros(taps)
    centre[taps // 2] = 1
    w1 = net.weight(out, c, taps)
    central = sub(net, w1, mul(net, reduce(net, "ReduceSum", w1, [2]), net.const(centre)))
    v = net.weight(out, c, *[3] * (rank - 1), 1)
    zeros = net.const(np.zeros(v.shape))
    kernels = [net.weight(*shape), reshape(net, central, shape), concat(net, v, zeros, net("Neg", v), axis=-1)]
    if rank == 2:
        w2, u = net.weight(out, c, taps), net.weight(out, c, 1, 3)
        turned = net("Gather", w2, net.ints([3, 0, 1, 6, 4, 2, 7, 8, 5]), axis=2)
        kernels += [reshape(net, sub(net, w2, turned), shape), concat(net, u, net.const(np.zeros(u.shape)), net("Neg", u), axis=2)]
    return kernels


@block(
    "detail-enhanced-conv",
    "DEA-Net: Single image dehazing based on detail-enhanced convolution and content-guided attention",
    seeds=["000:319"],
    dims=(1, 2),
    hazards="difference kernels cancel on flat images",
)
def detail_enhanced_conv(net: Any, x: Any) -> Any:
    """Parallel vanilla and difference convolutions, summed; stresses merging of parallel convolutions and weights built by Gather and Concat."""
    c, rank = channels(x), len(x.shape) - 2
    return act(net, total(net, [conv_with(net, x, w, net.weight(c)) for w in _detail_kernels(net, c, c, rank)]))


@relation("detail-enhanced-conv/merged", of="detail-enhanced-conv", dims=(1, 2))
def detail_merged(net: Any, x: Any) -> Any:
    """The sum of the convolutions is one convolution with the summed kernel and bias."""
    c, rank = channels(x), len(x.shape) - 2
    pairs = [(w, net.weight(c)) for w in _detail_kernels(net, c, c, rank)]
    return total(net, [conv_with(net, x, w, b) for w, b in pairs]), conv_with(net, x, total(net, [w for w, _ in pairs]), total(net, [b for _, b in pairs]))


@relation("detail-enhanced-conv/flat-image", of="detail-enhanced-conv", dims=(1, 2))
def detail_flat(net: Any, x: Any) -> Any:
    """Difference kernels give nothing on a flat image away from the border."""
    c, rank = channels(x), len(x.shape) - 2
    flat = net("Expand", gap(net, x), net.ints([x.shape[0], c, *[5] * rank]))
    kernel = net.pick(_detail_kernels(net, 4, c, rank)[1:])
    y = conv_with(net, flat, kernel, pads=0)
    return y, scale(net, y, 0.0)


def _content_guided(net: Any, x: Any, r: int) -> Any:
    """A spatial map for every channel: coarse channel and position maps, interleaved with the features."""
    n, c, h, w = x.shape
    coarse = net("Add", conv(net, channel_pools(net, x), 1, 7, bias=True), conv(net, act(net, conv(net, gap(net, x), max(1, c // r), 1)), c, 1))
    pairs = concat(net, net("Unsqueeze", x, net.ints([2])), net("Unsqueeze", coarse, net.ints([2])), axis=2)
    wide = pad(net, reshape(net, pairs, [n, 2 * c, h, w]), [3, 3], [3, 3], "reflect")
    return act(net, conv(net, wide, c, 7, g=c, pad=0, bias=True), "Sigmoid")


@block("detail-enhanced-conv/content-guided-attention", "DEA-Net: detail-enhanced convolution and content-guided attention", seeds=["000:319"])
def content_guided_attention(net: Any, x: Any) -> Any:
    """Channel interleave and a grouped convolution under reflected padding."""
    return mul(net, x, _content_guided(net, x, net.pick((8, 4, 2))))


@block("detail-enhanced-conv/cga-mixup-fusion", "DEA-Net: detail-enhanced convolution and content-guided attention", seeds=["000:319"])
def cga_mixup_fusion(net: Any, x: Any) -> Any:
    """Two feature maps mixed by a map and its complement."""
    low, high = conv(net, x, channels(x), 3), pointwise(net, x, channels(x))
    t = net("Add", low, high)
    w = _content_guided(net, t, net.pick((8, 4, 2)))
    mixed = net("Add", mul(net, w, low), mul(net, sub(net, net.const(1.0), w), high))
    return pointwise(net, net("Add", t, mixed), channels(x), bias=True)


_BRANCHES = {5: ((3, 1), (3, 2)), 7: ((5, 1), (3, 2), (3, 3)), 9: ((5, 1), (5, 2), (3, 3), (3, 4)), 13: ((5, 1), (7, 2), (3, 3), (3, 4), (3, 5))}


def dilated_branches(net: Any, x: Any, size: int) -> tuple[Any, Any]:
    """Large-kernel depthwise convolution with dilated branches: as branches, and as the single merged convolution."""
    c, rank = channels(x), len(x.shape) - 2
    parts = [(net.weight(c, 1, *[k] * rank), statistics(net, c), r) for k, r in ((size, 1), *_BRANCHES[size])]
    left = total(net, [bn_with(net, conv_with(net, x, w, g=c, d=r), p) for w, p, r in parts])
    folded = list[tuple[Any, Any]]()
    for w, p, r in parts:
        w_, b_ = fold(net, w, p)
        spread = net("ConvTranspose", w_, net.const(np.ones((1, 1, *[1] * rank))), strides=[r] * rank) if r > 1 else w_
        folded.append((centred(net, spread, size), b_))
    return left, conv_with(net, x, total(net, [w for w, _ in folded]), total(net, [b for _, b in folded]), g=c)


@block(
    "dilated-reparam-block",
    "UniRepLKNet: A Universal Perception Large-Kernel ConvNet for Audio, Video, Point Cloud, Time-Series and Image Recognition",
    seeds=["001:115"],
    dims=(1, 2),
    hazards="small variance makes folded weights large, branches cancel",
)
def dilated_reparam_block(net: Any, x: Any) -> Any:
    """A large depthwise kernel beside dilated ones, or merged with them inside the graph; stresses dilated depthwise kernels and sums of convolutions."""
    return act(net, net.pick(dilated_branches(net, x, net.pick((5, 7, 9, 13)))))


@relation("dilated-reparam-block/merged", of="dilated-reparam-block", dims=(1, 2))
def dilated_merged(net: Any, x: Any) -> Any:
    """The branches are one large depthwise convolution."""
    return dilated_branches(net, x, net.pick((5, 7, 9, 13)))


@relation("dilated-reparam-block/dilated-as-dense", of="dilated-reparam-block", dims=(1, 2, 3))
def dilated_as_dense(net: Any, x: Any) -> Any:
    """A dilated convolution is a dense one whose kernel has zeros between the taps."""
    c, rank, r = channels(x), len(x.shape) - 2, net.pick((2, 3))
    w = net.weight(c, 1, *[3] * rank)
    spread = net("ConvTranspose", w, net.const(np.ones((1, 1, *[1] * rank))), strides=[r] * rank)
    return conv_with(net, x, w, g=c, d=r), conv_with(net, x, spread, g=c)


def grn(net: Any, x: Any, axes: list[int], channel: int, short: bool = False, params: tuple[Any, Any] | None = None) -> Any:
    """Global response normalisation; the short form has its residual in the scale."""
    shape = [x.shape[i] if i == channel else 1 for i in range(1, len(x.shape))]
    gamma, beta = params or (net.weight(*shape), net.weight(*shape))
    norm = reduce(net, "ReduceL2", x, axes)
    ratio = net("Div", norm, offset(net, mean(net, norm, [channel]), 1e-6))
    if short:
        return net("Add", mul(net, x, offset(net, mul(net, gamma, ratio), 1.0)), beta)
    return net("Add", net("Add", mul(net, mul(net, x, ratio), gamma), beta), x)


@block("dilated-reparam-block/grn", "UniRepLKNet: A Universal Perception Large-Kernel ConvNet", seeds=["001:115"], dims=(1, 2))
def grn_block(net: Any, x: Any) -> Any:
    """Global response normalisation in channels-first form; stresses ReduceL2 and division by a mean of norms."""
    return grn(net, x, list(range(2, len(x.shape))), 1)


def _reparameterised(net: Any, x: Any, n: int, depthwise_: bool) -> tuple[Any, Any]:
    """GhostNetV3's training branches (n of size k, one pointwise, the identity, each with its norm) and their merged form."""
    c, rank = channels(x), len(x.shape) - 2
    k, g = (net.pick((3, 5)), c) if depthwise_ else (1, 1)
    kernels = [net.weight(c, c // g, *[k] * rank) for _ in range(n)] + ([net.weight(c, 1, *[1] * rank)] if depthwise_ else [])
    left, folded = list[Any](), list[tuple[Any, Any]]()
    for w in [*kernels, None]:
        p = statistics(net, c)
        left.append(bn_with(net, x if w is None else conv_with(net, x, w, g=g), p))
        w_, b_ = fold(net, net.const(dirac(c, k, rank, g)) if w is None else w, p)
        folded.append((centred(net, w_, k), b_))
    return total(net, left), conv_with(net, x, total(net, [w for w, _ in folded]), total(net, [b for _, b in folded]), g=g)


@block(
    "ghostnetv3-repdw",
    "GhostNetV3: Exploring the Training Strategies for Compact Models",
    seeds=["002:433"],
    hazards="small variance amplifies, sum of branches cancels",
)
def ghostnetv3_repdw(net: Any, x: Any) -> Any:
    """Ghost module with re-parameterised branches: half of the maps by a pointwise convolution, the other half cheaply from those."""
    form = net.pick((0, 1))
    first = act(net, _reparameterised(net, conv_bn_act(net, x, net.pick((8, 4)), 1), net.pick((1, 3)), False)[form])
    return concat(net, first, act(net, _reparameterised(net, first, net.pick((1, 3)), True)[form]))


@relation("ghostnetv3-repdw/depthwise-merge", of="ghostnetv3-repdw", dims=(1, 2))
def repdw_merge(net: Any, x: Any) -> Any:
    """Training form = deployed form of the depthwise part."""
    return _reparameterised(net, x, net.pick((1, 3)), True)


@relation("ghostnetv3-repdw/pointwise-merge", of="ghostnetv3-repdw", dims=(1, 2))
def reppw_merge(net: Any, x: Any) -> Any:
    """Training form = deployed form of the pointwise part."""
    return _reparameterised(net, x, net.pick((1, 3)), False)


@block("ghostnetv3-repdw/ghost-module", "GhostNetV3: Exploring the Training Strategies for Compact Models", seeds=["002:433"])
def ghost_module(net: Any, x: Any) -> Any:
    """The deployed module, its concatenation cut to the wanted number of channels."""
    out = net.pick((8, 7, 12))
    first = conv_bn_act(net, x, (out + 1) // 2, 1)
    cheap = act(net, bn(net, depthwise(net, first, net.pick((3, 5)))))
    return slice_(net, concat(net, first, cheap), 0, out, 1)


@block("ghostnetv3-repdw/dfc-attention", "GhostNetV3: Exploring the Training Strategies for Compact Models", seeds=["002:433"])
def dfc_attention(net: Any, x: Any) -> Any:
    """A gate from a halved map through row and column depthwise kernels, enlarged by nearest neighbours."""
    c = channels(x)
    y = pointwise(net, pool(net, x, "AveragePool"), c)
    for kernel in ((1, 5), (5, 1)):
        y = bn(net, conv(net, y, c, kernel, g=c))
    return mul(net, x, resize(net, act(net, y, "Sigmoid"), spatial(x)))
