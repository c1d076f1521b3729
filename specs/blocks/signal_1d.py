"""Signals over time: dilated and multi-resolution convolutions, separable stacks, text by bytes, brain signals."""

from __future__ import annotations

from math import ceil, log2
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
    layer_norm,
    linear,
    mean,
    mul,
    pointwise,
    pool,
    reshape,
    slice_,
    spatial,
    split,
    transpose,
)
from specs.blocks.parts import bn_with, conv_with, flatten_linear, head, prelu, statistics, sub, total
from specs.formats import INT64
from specs.net import block, relation


def causal(net: Any, x: Any, w: Any, d: int = 1, g: int = 1) -> Any:
    """A dilated convolution that only sees the past."""
    return conv_with(net, x, w, d=d, g=g, pads=[d * (w.shape[2] - 1), 0])


def glu(net: Any, x: Any, axis: int = 1) -> Any:
    a, b = split(net, x, 2, axis)
    return mul(net, a, act(net, b, "Sigmoid"))


def _dual_dilated(net: Any, x: Any, step: int, layers: int, k: int) -> Any:
    """Two convolutions whose dilations grow and shrink along the stack, joined, residual."""
    c = channels(x)
    both = [conv(net, x, c, k, d=2**i, bias=True) for i in (step, layers - 1 - step)]
    return add(net, x, pointwise(net, act(net, pointwise(net, concat(net, *both), c, bias=True)), c))


@block(
    "colontcn-block",
    "A Temporal Convolutional Network-Based Approach and a Benchmark Dataset for Colonoscopy Video Temporal Segmentation",
    seeds=["000:97"],
    dims=(1,),
)
def colontcn_block(net: Any, x: Any) -> Any:
    """Parallel convolutions with opposite dilations; stresses dilations larger than the signal. Assumed: dual dilation as in the MS-TCN++ family."""
    layers = net.pick((4, 5, 3))
    return _dual_dilated(net, x, net.int(0, layers - 1), layers, net.pick((3, 5)))


@block("colontcn-block/net", "A Temporal Convolutional Network-Based Approach for Colonoscopy Video Temporal Segmentation", seeds=["000:97"], dims=(1,))
def colontcn(net: Any, x: Any) -> Any:
    """Projection, the stack of dual dilations, classes for each frame, a refinement stage on their softmax."""
    y = pointwise(net, x, 8, bias=True)
    for i in range(4):
        y = _dual_dilated(net, y, i, 4, 3)
    p = act(net, pointwise(net, y, 9, bias=True), "Softmax", axis=1)
    return p, act(net, pointwise(net, _dual_dilated(net, pointwise(net, p, 8), 1, 3, 3), 9), "Softmax", axis=1)


@block("colontcn-block/tmse-smoothing", "Colonoscopy Video Temporal Segmentation", seeds=["000:97"], dims=(1,), hazards="log of zero, the boundary of the clip")
def tmse_smoothing(net: Any, x: Any) -> Any:
    """Mean of truncated squared differences of log probabilities over time."""
    n, logs = x.shape[2], net("LogSoftmax", x, axis=1)
    d = net("Min", net("Abs", sub(net, slice_(net, logs, 1, n, 2), slice_(net, logs, 0, n - 1, 2))), net.const(4.0))
    return mean(net, mul(net, d, d), [1, 2], keepdims=0)


@block("easter-1d-ocr", "EASTER: Efficient and Scalable Text Recognizer", seeds=["002:169"], dims=(1,), hazards="log softmax")
def easter_1d_ocr(net: Any, x: Any) -> Any:
    """Repeated convolutions with a dense residual from all earlier inputs before the last activation."""
    out, k, earlier = net.pick((8, 12)), net.pick((3, 5, 7)), [x]
    for _ in range(2):
        y = conv_bn_act(net, earlier[-1], out, k)
        y = bn(net, conv(net, y, out, k))
        earlier.append(act(net, total(net, [y, *[bn(net, pointwise(net, e, out)) for e in earlier]])))
    return earlier[-1]


@block("easter-1d-ocr/net", "EASTER: Efficient and Scalable Text Recognizer", seeds=["002:169"])
def easter_net(net: Any, x: Any) -> Any:
    """A line image with its height as channels, strided stem, dense residual block, dilated and pointwise layers, log softmax over characters."""
    x = pointwise(net, x, 1)
    y = reshape(net, x, [x.shape[0], x.shape[2], x.shape[3]])
    y = easter_1d_ocr(net, conv_bn_act(net, y, 8, s=2, pad=1))
    y = conv_bn_act(net, conv_bn_act(net, y, 12, 11, d=2), 12, 1)
    return net("LogSoftmax", conv(net, y, 11, 1, bias=True), axis=1)


@block("easter-1d-ocr/ctc-greedy-collapse", "EASTER: Efficient and Scalable Text Recognizer", seeds=["002:169"], dims=(1,), hazards="ties of the maximum")
def ctc_greedy_collapse(net: Any, x: Any) -> Any:
    """Best class of each frame, repeats and blanks marked by a shifted comparison (a mask in place of the dynamic Compress); stresses integer Pad."""
    best = net("ArgMax", x, axis=1, keepdims=0)
    before = net("Pad", slice_(net, best, 0, best.shape[1] - 1, 1), net.ints([0, 1, 0, 0]), net.const(-1, INT64))
    kept = net("And", net("Not", net("Equal", best, before)), net("Not", net("Equal", best, net.const(0, INT64))))
    return net("Where", kept, best, net.const(-1, INT64))


@block(
    "eeg-simpleconv",
    "A Strong and Simple Deep Learning Baseline for BCI MI Decoding",
    seeds=["002:241"],
    dims=(1,),
    hazards="long means, maximum under a negative scale",
)
def eeg_simpleconv(net: Any, x: Any) -> Any:
    """Convolution, norm, maximum, activation, convolution, norm, activation; stresses folding across a pooling layer and unaligned widths."""
    out, k = net.pick((11, 15, 8)), net.pick((5, 7))
    y = act(net, pool(net, bn(net, conv(net, x, out, k)), "MaxPool", net.pick((2, 1))))
    return conv_bn_act(net, y, out, k)


@block("eeg-simpleconv/net", "A Strong and Simple Deep Learning Baseline for BCI MI Decoding", seeds=["002:241"], dims=(1,))
def eeg_simpleconv_net(net: Any, x: Any) -> Any:
    """Widths grow by 1.414, truncated; the mean over time, a dense layer."""
    width, y = 8, conv_bn_act(net, x, 8, 5)
    for i in range(net.pick((2, 3))):
        width = width if i == 0 else int(1.414 * width)
        y = act(net, pool(net, bn(net, conv(net, y, width, 5))))
        y = conv_bn_act(net, y, width, 5)
    return flatten_linear(net, mean(net, y, [2], keepdims=0), 4)


@relation("eeg-simpleconv/pool-relu-order", of="eeg-simpleconv", dims=(1, 2, 3))
def pool_relu_order(net: Any, x: Any) -> Any:
    """Norm, maximum, activation = norm, activation, maximum, whatever the sign of the scale."""
    y = bn(net, conv(net, x, 6, 3))
    return act(net, pool(net, y)), pool(net, act(net, y))


@relation("eeg-simpleconv/pool-norm-positive", of="eeg-simpleconv", dims=(1, 2))
def pool_norm_positive(net: Any, x: Any) -> Any:
    """Maximum then norm = norm then maximum where the scale is positive (and only there)."""
    p = statistics(net, channels(x))
    p[0].low, p[0].high = 0.25, 2.0
    return bn_with(net, pool(net, x), p), pool(net, bn_with(net, x, p))


def _tcs(net: Any, x: Any, out: int, k: int, d: int = 1) -> Any:
    """Time-channel separable convolution with its norm."""
    return bn(net, pointwise(net, depthwise(net, x, k, d=d), out))


@block(
    "marblenet",
    "MarbleNet: Deep 1D Time-Channel Separable Convolutional Neural Network for Voice Activity Detection",
    seeds=["002:191"],
    dims=(1,),
    hazards="mean over padding",
)
def marblenet(net: Any, x: Any) -> Any:
    """Separable convolutions with wide kernels, a projected residual before the last activation; stresses depthwise kernels in one dim."""
    out, k, y = net.pick((8, 16)), net.pick((13, 15, 17)), x
    for i in range(net.pick((2, 1, 3))):
        y = _tcs(net, act(net, y) if i else y, out, k)
    return act(net, add(net, y, bn(net, pointwise(net, x, out))))


@block("marblenet/time-channel-separable-conv", "MarbleNet: Deep 1D Time-Channel Separable Convolutional Neural Network", seeds=["002:191"], dims=(1, 2))
def time_channel_separable_conv(net: Any, x: Any) -> Any:
    """Depthwise over time, pointwise over channels, under a mask of the frames that exist."""
    kept = np.ones(spatial(x)[-1:])
    kept[-3:] = 0
    return act(net, _tcs(net, mul(net, x, net.const(kept)), net.pick((8, 16)), net.pick((11, 5)), net.pick((1, 2))))


@block("marblenet/net", "MarbleNet: Deep 1D Time-Channel Separable Convolutional Neural Network for Voice Activity Detection", seeds=["002:191"], dims=(1,))
def marblenet_net(net: Any, x: Any) -> Any:
    """Prologue, two residual blocks, dilated epilogue, mean over time of two classes."""
    y = marblenet(net, marblenet(net, act(net, _tcs(net, x, 12, 11))))
    y = conv_bn_act(net, act(net, _tcs(net, y, 12, 15, 2)), 12, 1)
    return act(net, mean(net, pointwise(net, y, 2, bias=True), [2], keepdims=0), "Softmax", axis=-1)


@block(
    "micro-tcn",
    "Efficient neural networks for real-time modeling of analog dynamic range compression",
    seeds=["000:207"],
    dims=(1,),
    hazards="tanh saturation, dilations far beyond the signal",
)
def micro_tcn(net: Any, x: Any) -> Any:
    """Causal convolution of large dilation, norm, scale and shift from conditions, PReLU, grouped residual; stresses sparse dilated kernels."""
    c, k, d = channels(x), net.pick((5, 13)), net.pick((1, 10, 2, 100))
    y = _film(net, causal(net, x, net.weight(c, c, k), d), net.input(x.shape[0], 2))
    return add(net, prelu(net, y), conv(net, x, c, 1, g=c))


def _film(net: Any, x: Any, condition: Any) -> Any:
    """Norm without affine part, then scale and shift from a condition."""
    c, n = channels(x), x.shape[0]
    zeros, ones = net.const([0.0] * c), net.const([1.0] * c)
    y = net("BatchNormalization", x, ones, zeros, net.weight(c), net.weight(c, low=0.2, high=2.0), epsilon=1e-5)
    g, b = split(net, linear(net, act(net, linear(net, condition, 8)), 2 * c), 2)
    return net("Add", mul(net, y, reshape(net, g, [n, c, 1])), reshape(net, b, [n, c, 1]))


@block("micro-tcn/net", "Efficient neural networks for real-time modeling of analog dynamic range compression", seeds=["000:207"], dims=(1,))
def micro_tcn_net(net: Any, x: Any) -> Any:
    """Valid convolutions of growing dilation, the residual cropped to the tail, tanh output."""
    y, condition = pointwise(net, x, 1), net.input(x.shape[0], 2)
    for d in (1, 2) if spatial(x)[0] < 20 else (1, 4):
        z = net("Conv", y, net.weight(8, channels(y), 3), dilations=[d])
        z = prelu(net, _film(net, z, condition))
        y = add(net, z, slice_(net, conv(net, y, 8, 1, g=channels(y)), -z.shape[2], 1 << 30, 2))
    return act(net, pointwise(net, y, 1, bias=True), "Tanh")


@relation("micro-tcn/norm-film-merge", of="micro-tcn", dims=(1, 2))
def norm_film_merge(net: Any, x: Any) -> Any:
    """The affine part of a norm merges with the scale and shift that follow."""
    c, n, one = channels(x), x.shape[0], [1] * (len(x.shape) - 2)
    p, (g, b) = statistics(net, c), split(net, linear(net, net.input(n, 3), 2 * c), 2)
    left = net("Add", mul(net, bn_with(net, x, p), reshape(net, g, [n, c, *one])), reshape(net, b, [n, c, *one]))
    plain = bn_with(net, x, (net.const([1.0] * c), net.const([0.0] * c), p[2], p[3]))
    gain, shift = mul(net, p[0], g), net("Add", mul(net, p[1], g), b)
    return left, net("Add", mul(net, plain, reshape(net, gain, [n, c, *one])), reshape(net, shift, [n, c, *one]))


def _column(net: Any, weights: Any, i: int) -> Any:
    """One weight for each channel, (C, 1)."""
    return slice_(net, weights, i, i + 1, 1)


def _multires(net: Any, x: Any, h0: Any, h1: Any, levels: int, weights: Any) -> Any:
    """Cascaded causal filters shared by every level, their details weighted by channel."""
    c, a, result = channels(x), x, mul(net, x, _column(net, weights, 0))
    for j in range(levels):
        result = net("Add", result, mul(net, causal(net, a, h1, 2**j, c), _column(net, weights, j + 1)))
        a = causal(net, a, h0, 2**j, c)
    return net("Add", result, mul(net, a, _column(net, weights, levels + 1)))


def _filters(net: Any, x: Any) -> tuple[Any, Any, int, Any]:
    c, k = channels(x), net.pick((2, 4))
    levels = min(3, ceil(log2((x.shape[2] - 1) / (k - 1) + 1)))
    return net.weight(c, 1, k), net.weight(c, 1, k), levels, net.weight(c, levels + 2)


@block(
    "multires-conv",
    "Sequence Modeling with Multiresolution Convolutional Memory",
    seeds=["000:85"],
    dims=(1,),
    hazards="products of filters through the levels",
)
def multires_conv(net: Any, x: Any) -> Any:
    """Two filters used at every dilation, then a gated pointwise layer with residual and norm; stresses shared weights and large left pads."""
    c = channels(x)
    h0, h1, levels, weights = _filters(net, x)
    y = _multires(net, x, h0, h1, levels, weights)
    z = add(net, x, glu(net, pointwise(net, act(net, y, "Gelu"), 2 * c, bias=True)))
    return transpose(net, layer_norm(net, transpose(net, z, [0, 2, 1])), [0, 2, 1]) if net.flag() else bn(net, z)


@relation("multires-conv/single-kernel", of="multires-conv", dims=(1,))
def multires_single(net: Any, x: Any) -> Any:
    """The cascade is linear and time-invariant: one causal depthwise convolution with its impulse response."""
    c = channels(x)
    h0, h1, levels, weights = _filters(net, x)
    length = (2**levels - 1) * (h0.shape[2] - 1) + 1
    impulse = np.zeros((1, c, length))
    impulse[:, :, 0] = 1
    response = _multires(net, net.const(impulse), h0, h1, levels, weights)
    kernel = net("Slice", response, net.ints([-1]), net.ints([-length - 1]), net.ints([2]), net.ints([-1]))
    return _multires(net, x, h0, h1, levels, weights), causal(net, x, reshape(net, kernel, [c, 1, length]), 1, c)


@block("multires-conv/glu-1x1", "Sequence Modeling with Multiresolution Convolutional Memory", seeds=["000:85"], dims=(1, 2))
def glu_1x1(net: Any, x: Any) -> Any:
    """Pointwise doubling, split, gate."""
    return glu(net, pointwise(net, x, 2 * channels(x), bias=True))


@block("multires-conv/net", "Sequence Modeling with Multiresolution Convolutional Memory", seeds=["000:85"], dims=(1,))
def multires_net(net: Any, x: Any) -> Any:
    """Projection, two layers, mean over time, classes."""
    return head(net, multires_conv(net, multires_conv(net, pointwise(net, x, 8, bias=True))), 10)


@block(
    "recursive-byte-autoencoder",
    "Byte-Level Recursive Convolutional Auto-Encoder for Text",
    seeds=["002:375"],
    dims=(1,),
    hazards="a block repeated shrinks or blows up its values",
)
def recursive_byte_autoencoder(net: Any, x: Any) -> Any:
    """A shared group of convolutions and pooling repeated down to four positions and back up by shuffles; stresses shared weights on shrinking shapes."""
    c, n, rounds = 8, x.shape[0], net.pick((2, 1) if x.shape[2] >= 16 else (1,))
    y = slice_(net, pointwise(net, x, c), 0, 4 * 2**rounds, 2)
    w1, w2, up, w3 = net.weight(c, c, 3), net.weight(c, c, 3), net.weight(2 * c, c, 3), net.weight(c, c, 3)
    for _ in range(rounds):
        y = pool(net, act(net, add(net, y, conv_with(net, act(net, conv_with(net, y, w1)), w2))))
    code = act(net, linear(net, reshape(net, y, [n, 4 * c]), 4 * c))
    y = reshape(net, code, [n, c, 4])
    for i in range(rounds):
        y = act(net, conv_with(net, y, up))
        y = reshape(net, transpose(net, reshape(net, y, [n, c, 2, 4 * 2**i]), [0, 1, 3, 2]), [n, c, 8 * 2**i])
        y = act(net, add(net, y, conv_with(net, y, w3)))
    return net("Softmax", pointwise(net, y, 32), axis=1)


@block(
    "skeleton-res1d-ensemble",
    "Ensemble One-dimensional Convolution Neural Networks for Skeleton-based Action Recognition",
    seeds=["001:95"],
    dims=(1,),
    hazards="cancelling differences",
)
def skeleton_res1d_ensemble(net: Any, x: Any) -> Any:
    """Pre-activation residual cell over time, strided or not. Assumed: odd kernels so that both paths keep their length."""
    c, s, k = channels(x), net.pick((1, 2)), net.pick((3, 5))
    out = c if s == 1 else 2 * c
    y = conv(net, act(net, bn(net, x)), out, k, s=s, pad=k // 2)
    y = conv(net, act(net, bn(net, y)), out, k)
    return add(net, y, x if s == 1 else conv(net, x, out, 1, s=2))


def _stream(net: Any, x: Any) -> Any:
    y = skeleton_res1d_ensemble(net, conv(net, x, 8, 5))
    return act(net, head(net, y, 6), "Softmax", axis=-1)


@block(
    "skeleton-res1d-ensemble/net",
    "Ensemble One-dimensional Convolution Neural Networks for Skeleton-based Action Recognition",
    seeds=["001:95"],
    dims=(1,),
    hazards="underflow",
)
def skeleton_net(net: Any, x: Any) -> Any:
    """Plain, transposed, part-wise and frame-difference streams, fused by mean or product of their softmax."""
    n = x.shape[2]
    parts = net("Gather", x, net.ints([i for i in range(channels(x)) if i % 2 == 0]), axis=1)
    moved = sub(net, slice_(net, x, 1, n, 2), slice_(net, x, 0, n - 1, 2))
    p = [_stream(net, v) for v in (x, transpose(net, x, [0, 2, 1]), parts, moved)]
    if net.flag():
        return net("Mean", *p)
    return mul(net, mul(net, p[0], p[1]), mul(net, p[2], p[3]))
