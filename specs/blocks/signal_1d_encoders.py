"""Encoders of brain signals and spectra: kernels over a whole axis, even kernels, per-subject weights, uneven pooling."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from specs.blocks.layers import act, add, bn, channels, concat, conv, layer_norm, linear, mean, mul, pointwise, pool, reduce, reshape, slice_, transpose
from specs.blocks.parts import conv_with, flatten_linear, sub
from specs.blocks.signal_1d import glu
from specs.formats import INT64
from specs.net import block, relation


def _same(net: Any, x: Any, w: Any, d: int = 1, g: int = 1, by_attribute: bool = True) -> Any:
    """A convolution along the last axis that keeps its length; an even kernel pads one more at the end."""
    kernel = list(w.shape[2:])
    if by_attribute:
        return net("Conv", x, w, kernel_shape=kernel, dilations=[1, d], group=g, auto_pad="SAME_UPPER")
    whole = d * (kernel[1] - 1)
    return conv_with(net, x, w, d=d, g=g, pads=[0, whole // 2, 0, whole - whole // 2])


@block(
    "eegnex",
    "Toward reliable signals decoding for electroencephalogram: A benchmark study to EEGNeX",
    seeds=["002:297"],
    hazards="exp of negatives, side of the padding",
)
def eegnex(net: Any, x: Any) -> Any:
    """Even kernels along time, a depthwise kernel over all electrodes with two outputs a channel, dilated layers; stresses asymmetric padding and Elu."""
    y, by_attribute = pointwise(net, x, 1), net.flag()
    for out in (4, 8):
        y = act(net, bn(net, _same(net, y, net.weight(out, channels(y), 1, net.pick((4, 8))), 1, 1, by_attribute)), "Elu")
    y = act(net, bn(net, conv(net, y, 16, (y.shape[2], 1), g=8, pad=0)), "Elu")
    y = net("AveragePool", y, kernel_shape=[1, 4], strides=[1, 4]) if y.shape[3] >= 8 else y
    for out, d in ((8, 2), (4, 4)):
        y = act(net, bn(net, _same(net, y, net.weight(out, channels(y), 1, 4), d, 1, False)), "Elu")
    return act(net, flatten_linear(net, y, 4), "Softmax", axis=-1)


@relation("eegnex/same-upper", of="eegnex")
def same_upper(net: Any, x: Any) -> Any:
    """SAME_UPPER puts the odd pixel of an even kernel at the end."""
    w = net.weight(6, channels(x), 1, net.pick((4, 2, 5)))
    return _same(net, x, w), _same(net, x, w, by_attribute=False)


@relation("eegnex/channel-multiplier", of="eegnex", dims=(1, 2))
def channel_multiplier(net: Any, x: Any) -> Any:
    """Two outputs for each channel = two depthwise convolutions, interleaved."""
    c, rank = channels(x), len(x.shape) - 2
    w = net.weight(2 * c, 1, *[3] * rank)
    parts = [conv_with(net, x, net("Gather", w, net.ints(range(i, 2 * c, 2)), axis=0), g=c) for i in (0, 1)]
    joined = concat(net, *[net("Unsqueeze", p, net.ints([2])) for p in parts], axis=2)
    return conv_with(net, x, w, g=c), reshape(net, joined, [x.shape[0], 2 * c, *x.shape[2:]])


@block("ssvep-dnn", "A Deep Neural Network for SSVEP-based Brain-Computer Interfaces", seeds=["002:95"], hazards="side of the padding")
def ssvep_dnn(net: Any, x: Any) -> Any:
    """Sub-bands to one map, a kernel as high as the electrodes, a strided pair kernel, an even kernel under SAME; stresses kernels over a whole axis."""
    y = conv(net, pointwise(net, x, 1), 12, (x.shape[2], 1), pad=0, bias=True)
    y = net("Conv", y, net.weight(12, 12, 1, 2), kernel_shape=[1, 2], strides=[1, 2])
    y = _same(net, act(net, net("Dropout", y, net.const(0.1))), net.weight(12, 12, 1, net.pick((10, 4))), by_attribute=net.flag())
    return act(net, flatten_linear(net, net("Dropout", y, net.const(0.95)), 10), "Softmax", axis=-1)


@relation("ssvep-dnn/whole-axis-kernel", of="ssvep-dnn")
def whole_axis_kernel(net: Any, x: Any) -> Any:
    """A kernel as high as the map is a dense layer over channels and rows for each column."""
    n, c, h, w = x.shape
    weight = net.weight(6, c, h, 1)
    right = net("MatMul", reshape(net, weight, [6, c * h]), reshape(net, x, [n, c * h, w]))
    return conv_with(net, x, weight, pads=0), reshape(net, right, [n, 6, 1, w])


def _subject(net: Any, x: Any, weights: Any, who: list[int]) -> Any:
    """Each sample's channels through the weights of its subject."""
    return net("MatMul", net("Gather", weights, net.ints(who), axis=0), x)


@block(
    "meg-conv-encoder", "Brain decoding: toward real-time reconstruction of visual perception", seeds=["000:279"], dims=(1,), hazards="softmax across sensors"
)
def meg_conv_encoder(net: Any, x: Any) -> Any:
    """Attention over sensors by position, weights by subject, dilated residual layers, a gate; stresses Gather of weight matrices and dilations in one dim.

    Assumed: two blocks, dilations from the formula.
    """
    n, sensors, _ = x.shape
    places, out = np.random.default_rng(0).random((sensors, 2)), 8
    waves = np.arange(1, 4)[:, None, None] * places.T[None]  # (3, 2, sensors)
    basis = np.concatenate([np.cos(2 * np.pi * waves), np.sin(2 * np.pi * waves)]).reshape(-1, sensors)
    y = net("MatMul", net("Softmax", net("MatMul", net.weight(out, 12), net.const(basis)), axis=-1), x)
    y = _subject(net, conv(net, y, out, 1, bias=True), net.weight(3, out, out), [net.int(0, 2) for _ in range(n)])
    for k in (0, 1):
        for d in (2 ** (2 * k % 5), 2 ** ((2 * k + 1) % 5)):
            y = add(net, y, act(net, bn(net, conv(net, y, out, 3, d=d)), "Gelu"))
        y = glu(net, conv(net, y, 2 * out, 3, bias=True))
    y = conv(net, act(net, conv(net, y, 2 * out, 1, bias=True), "Gelu"), out, 1, bias=True)
    y = reshape(net, linear(net, y, 1), [n, out])
    return linear(net, act(net, linear(net, y, 12), "Gelu"), 10), linear(net, act(net, linear(net, y, 12), "Gelu"), 6)


@block(
    "meg-conv-encoder/clip-loss",
    "Brain decoding: toward real-time reconstruction of visual perception",
    seeds=["000:279"],
    dims=(1,),
    takes="tokens",
    hazards="norm of zero",
)
def clip_loss(net: Any, x: Any) -> Any:
    """Cross entropy of normalised products against the diagonal, rows as samples."""
    x = slice_(net, x, 0, 4, 1)
    z, y = (net("LpNormalization", linear(net, v, 8), axis=-1, p=2) for v in (x, x))
    logits = mul(net, net("MatMul", z, transpose(net, y, [0, 2, 1])), net("Exp", net.weight(1, low=-1.0, high=2.0)))
    diagonal = mul(net, net("LogSoftmax", logits, axis=-1), net.const(np.eye(4)))
    return net("Neg", mean(net, net("ReduceSum", diagonal, net.ints([2]), keepdims=0), [1], keepdims=0)), logits


@relation("meg-conv-encoder/subject-layer", of="meg-conv-encoder", dims=(1,))
def subject_layer(net: Any, x: Any) -> Any:
    """Gathered matrices in one batched product = each sample through its own matrix."""
    n, c, t = x.shape
    weights, who = net.weight(3, 6, c), [net.int(0, 2) for _ in range(n)]
    alone = [net("MatMul", net("Gather", weights, net.const(w, INT64), axis=0), reshape(net, slice_(net, x, i, i + 1, 0), [c, t])) for i, w in enumerate(who)]
    return _subject(net, x, weights, who), concat(net, *[net("Unsqueeze", v, net.ints([0])) for v in alone], axis=0)


def _adaptive_max(net: Any, v: Any, bins: int) -> Any:
    """Maximum over uneven bins of the last axis, by a padded table of indices."""
    length = v.shape[-1]
    spans = [(i * length // bins, ceil((i + 1) * length / bins)) for i in range(bins)]
    width = max(b - a for a, b in spans)
    table = [[min(a + j, b - 1) for j in range(width)] for a, b in spans]
    return reduce(net, "ReduceMax", net("Gather", v, net.const(table, INT64), axis=len(v.shape) - 1), [len(v.shape)], keepdims=0)


def _mlp(net: Any, x: Any, h: int) -> Any:
    return act(net, layer_norm(net, linear(net, x, h)), "Gelu")


@block("mindbridge", "MindBridge: A Cross-Subject Brain Decoding Framework", seeds=["003:303"], dims=(1,), hazards="ties of the maximum, wide sums")
def mindbridge(net: Any, x: Any) -> Any:
    """A vector of any length pooled to a fixed one, embedded, translated, two wide heads; stresses index tables and large Gemm outputs. Assumed: sizes."""
    n, h = x.shape[0], 16
    e = _mlp(net, _adaptive_max(net, reshape(net, x, [n, -1]), net.pick((20, 32, 25))), h)
    e = add(net, e, _mlp(net, e, h))
    for _ in range(net.pick((2, 1))):
        e = add(net, e, _mlp(net, e, h))
    return reshape(net, linear(net, e, 9 * 12), [n, 9, 12]), reshape(net, linear(net, e, 5 * 12), [n, 5, 12])


@block("mindbridge/cycle", "MindBridge: A Cross-Subject Brain Decoding Framework", seeds=["003:303"], dims=(1,))
def mindbridge_cycle(net: Any, x: Any) -> Any:
    """Embedding, reconstruction by another subject's builder, embedding again, and the distance of both."""
    v = _adaptive_max(net, reshape(net, x, [x.shape[0], -1]), 24)
    e = _mlp(net, v, 12)
    again = _mlp(net, linear(net, _mlp(net, e, 12), 24), 12)
    d = sub(net, e, again)
    return mean(net, mul(net, d, d), [1]), e


@relation("mindbridge/even-bins", of="mindbridge", dims=(1,))
def adaptive_even(net: Any, x: Any) -> Any:
    """Bins of equal size are MaxPool."""
    bins = 3 if x.shape[2] % 3 == 0 else 4
    return _adaptive_max(net, x, bins), pool(net, x, "MaxPool", x.shape[2] // bins)


@block("mindbridge/softclip", "MindBridge: A Cross-Subject Brain Decoding Framework", seeds=["003:303"], dims=(1,), takes="tokens")
def softclip(net: Any, x: Any) -> Any:
    """Cross entropy between the softmax of teacher products and of student products."""
    teacher, student = linear(net, x, 8), linear(net, x, 8)
    rows = net("Softmax", net("MatMul", teacher, transpose(net, teacher, [0, 2, 1])), axis=-1)
    logs = net("LogSoftmax", net("MatMul", student, transpose(net, teacher, [0, 2, 1])), axis=-1)
    return net("Neg", net("ReduceSum", mul(net, rows, logs), net.ints([2]), keepdims=0))


@block(
    "multibranch-edos-cnn",
    "Convolutional Neural Networks and Volcano Plots: Screening and Prediction of Two-Dimensional Single-Atom Catalysts",
    seeds=["001:15"],
    dims=(1, 2),
    hazards="long means of spiky data",
)
def multibranch_edos_cnn(net: Any, x: Any) -> Any:
    """One input for each site through a shared branch, joined into a regression; stresses shared initializers and average pooling.

    Assumed: branch weights are shared.
    """
    rank, k, count = len(x.shape) - 2, net.pick((3, 5)), net.pick((2, 3))
    w1, b1, w2, b2 = net.weight(8, channels(x), *[k] * rank), net.weight(8), net.weight(8, 8, *[3] * rank), net.weight(8)
    branches = list[Any]()
    for i in range(count):
        y = pool(net, net("Abs", net.input(*x.shape) if i else x), "AveragePool", 2)
        y = act(net, conv_with(net, act(net, conv_with(net, y, w1, b1)), w2, b2))
        branches.append(net("Flatten", pool(net, y, "AveragePool", 3, 2, 1)))
    y = act(net, flatten_linear(net, concat(net, *branches), 16))
    return flatten_linear(net, act(net, flatten_linear(net, y, 8)), net.pick((3, 1)))


@block("multibranch-edos-cnn/occlusion-mask", "Convolutional Neural Networks and Volcano Plots", seeds=["001:15"], dims=(1, 2), hazards="cancellation")
def occlusion_mask(net: Any, x: Any) -> Any:
    """The change of a network's output when one row of its input is masked, weights used twice."""
    c, rank = channels(x), len(x.shape) - 2
    w, row = net.weight(6, c, *[3] * rank), net.int(0, c - 1)
    mask = net.const(np.array([0.0 if i == row else 1.0 for i in range(c)]).reshape(c, *[1] * rank))
    return sub(net, *[act(net, conv_with(net, v, w)) for v in (mul(net, x, mask), x)])


@relation("multibranch-edos-cnn/shift", of="multibranch-edos-cnn", dims=(1,))
def axis_shift(net: Any, x: Any) -> Any:
    """A convolution of a shifted signal is the shifted convolution, away from what left and entered."""
    w, by, n = net.weight(6, channels(x), 3), net.pick((1, 2)), x.shape[2]
    moved = net("Pad", slice_(net, x, 0, n - by, 2), net.ints([0, 0, by, 0, 0, 0]))
    left, right = (act(net, conv_with(net, v, w)) for v in (moved, x))
    return slice_(net, left, by + 1, n - 1, 2), slice_(net, right, 1, n - 1 - by, 2)
