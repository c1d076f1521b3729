"""Signals over time and frequency: complex masks, multidilated dense blocks, recurrent heads, brain and spectral encoders."""

from __future__ import annotations

from typing import Any

import numpy as np

from specs.blocks.layers import (
    act,
    bn,
    channels,
    concat,
    conv,
    conv_bn_act,
    group_norm,
    layer_norm,
    linear,
    mul,
    pointwise,
    pool,
    reduce,
    reshape,
    slice_,
    split,
    transpose,
    upconv,
)
from specs.blocks.parts import attention, centred, complex_mul, conv_with, dft, flatten_linear, offset, scale, sub, total
from specs.blocks.signal_1d import glu
from specs.formats import BOOL, FLOAT
from specs.net import block, relation

Complex = tuple[Any, Any]


def _channel_attention(net: Any, x: Any, d: int) -> Any:
    """For every frame, channels attend to channels over their frequencies: (N, C, T, F)."""
    frames = transpose(net, x, [0, 2, 1, 3])
    y = attention(net, linear(net, frames, d), linear(net, frames, d), linear(net, frames, x.shape[3]))
    return transpose(net, y, [0, 2, 1, 3])


@block(
    "channel-attention-dense-unet", "Channel-Attention Dense U-Net for Multichannel Speech Enhancement", seeds=["002:99"], hazards="softmax over a short axis"
)
def channel_attention_dense_unet(net: Any, x: Any) -> Any:
    """Dense cell, then attention among channels frame by frame; stresses four-dimensional attention with transposes. Assumed: added or joined."""
    y = act(net, bn(net, conv(net, x, 4)), "Elu")
    y = pointwise(net, concat(net, x, y, act(net, bn(net, conv(net, concat(net, x, y), 4)), "Elu")), 8)
    a = _channel_attention(net, y, net.pick((5, 20)))
    return concat(net, y, a) if net.flag() else net("Add", y, a)


@block("channel-attention-dense-unet/net", "Channel-Attention Dense U-Net for Multichannel Speech Enhancement", seeds=["002:99"], even=2)
def channel_attention_net(net: Any, x: Any) -> Any:
    """One level down and up with attention after every layer, a complex mask on the mixture."""
    mixed = split(net, pointwise(net, x, 2), 2)
    top = channel_attention_dense_unet(net, x)
    low = _channel_attention(net, act(net, bn(net, conv(net, top, 8, s=2, pad=1)), "Elu"), 5)
    y = conv(net, concat(net, top, upconv(net, low, 8)), 2, 3, bias=True)
    return complex_mul(net, tuple(split(net, y, 2)), tuple(mixed))  # type: ignore[arg-type]


@block("channel-attention-dense-unet/complex-ratio-mask", "Channel-Attention Dense U-Net for Multichannel Speech Enhancement", seeds=["002:99"], dims=(1, 2))
def complex_ratio_mask(net: Any, x: Any) -> Any:
    """Product of a bounded complex mask and a complex signal."""
    a, b = (tuple(split(net, pointwise(net, x, 2), 2)) for _ in range(2))
    return complex_mul(net, tuple(act(net, v, "Tanh") for v in a), b)  # type: ignore[arg-type]


def _complex_conv(net: Any, z: Complex, wr: Any, wi: Any, d: int, merged: bool) -> Complex:
    """Complex convolution, causal along the last axis: four real ones, or one with a block weight."""
    rank = len(wr.shape) - 2
    side, whole = d * (wr.shape[2] // 2), d * (wr.shape[-1] - 1)
    pads = [side] * (rank - 1) + [whole] + [side] * (rank - 1) + [0]
    if merged:
        top, bottom = concat(net, wr, net("Neg", wi)), concat(net, wi, wr)
        y = conv_with(net, concat(net, *z), concat(net, top, bottom, axis=0), d=d, pads=pads)
        return tuple(split(net, y, 2))  # type: ignore[return-value]
    rr, ii, ri, ir = (conv_with(net, v, w, d=d, pads=pads) for v, w in ((z[0], wr), (z[1], wi), (z[0], wi), (z[1], wr)))
    return sub(net, rr, ii), net("Add", ri, ir)


@block(
    "complex-multidilated-dual-mask",
    "End-to-End Complex-Valued Multidilated Convolutional Neural Network for Joint Acoustic Echo Cancellation and Noise Suppression",
    seeds=["002:177"],
    hazards="cancellation in the real part, unbounded masks",
)
def complex_multidilated_dual_mask(net: Any, x: Any) -> Any:
    """Complex dense layers with a dilation for each skip, then two complex masks; stresses shared inputs of convolutions and asymmetric pads."""
    g, merged, signals = 4, net.flag(), [tuple(split(net, pointwise(net, x, 4), 2)) for _ in range(2)]
    skips: list[Any] = [tuple(concat(net, a, b) for a, b in zip(*signals, strict=True))]
    for layer in range(2):
        parts = list[Any]()
        for i in range(layer + 1):
            shape = [g, channels(skips[i][0]), 3, 3]
            parts.append(_complex_conv(net, skips[i], net.weight(*shape), net.weight(*shape), 2**i, merged))
        summed = [total(net, [p[j] for p in parts]) for j in (0, 1)]
        skips.append(tuple(act(net, bn(net, v)) for v in summed))
    masks = [split(net, pointwise(net, v, 4), 2) for v in skips[-1]]
    first, second = ((masks[0][i], masks[1][i]) for i in (0, 1))
    out = [complex_mul(net, m, s) for m, s in zip((first, second), signals, strict=True)]  # type: ignore[arg-type]
    return tuple(net("Add", out[0][j], out[1][j]) for j in (0, 1))


@relation("complex-multidilated-dual-mask/block-real", of="complex-multidilated-dual-mask", dims=(1, 2, 3))
def complex_block_real(net: Any, x: Any) -> Any:
    """A complex convolution is one real convolution with the block weight [[Wr, -Wi], [Wi, Wr]]."""
    z, d = tuple(split(net, x, 2)), net.pick((1, 2))
    shape = [3, channels(x) // 2, *[3] * (len(x.shape) - 2)]
    wr, wi = net.weight(*shape), net.weight(*shape)
    return tuple(concat(net, *_complex_conv(net, z, wr, wi, d, merged)) for merged in (False, True))  # type: ignore[arg-type]


def _gru(net: Any, x: Any, hidden: int) -> Any:
    """(N, T, I) through a bidirectional layer: (N, T, 2 hidden)."""
    n, t, size = x.shape
    weights = net.weight(2, 3 * hidden, size), net.weight(2, 3 * hidden, hidden), net.weight(2, 6 * hidden)
    attrs = {"hidden_size": hidden, "direction": "bidirectional", "linear_before_reset": net.pick((0, 1))}
    y = net("GRU", transpose(net, x, [1, 0, 2]), *weights, **attrs)
    return reshape(net, transpose(net, y, [2, 0, 1, 3]), [n, t, 2 * hidden])


@block(
    "conv3d-crnn-sed",
    "Multichannel Sound Event Detection Using 3D Convolutional Neural Networks for Learning Inter-channel Features",
    seeds=["002:119"],
    dims=(3,),
    hazards="a recurrence accumulates over time",
)
def conv3d_crnn_sed(net: Any, x: Any) -> Any:
    """A kernel as deep as the microphones, pooling over frequency only, a bidirectional GRU; stresses Squeeze, anisotropic windows and GRU layouts."""
    m = x.shape[2]
    y = net("Conv", x, net.weight(8, channels(x), m, 3, 3), pads=[0, 1, 1, 0, 1, 1])
    y = net("MaxPool", act(net, bn(net, y)), kernel_shape=[1, 1, 2], strides=[1, 1, 2])
    y = conv_bn_act(net, net("Squeeze", y, net.ints([2])), 8)
    n, c, t, f = y.shape
    y = _gru(net, reshape(net, transpose(net, y, [0, 2, 1, 3]), [n, t, c * f]), 6)
    return act(net, linear(net, act(net, linear(net, y, 8)), 6), "Sigmoid")


@block("conv3d-crnn-sed/crnn", "Multichannel Sound Event Detection Using 3D Convolutional Neural Networks", seeds=["002:119"])
def crnn(net: Any, x: Any) -> Any:
    """Convolution and pooling over frequency, reshape to frames, recurrent layer, dense layer for each frame."""
    y = net("MaxPool", conv_bn_act(net, x, 8), kernel_shape=[1, 2], strides=[1, 2])
    n, c, t, f = y.shape
    return linear(net, _gru(net, reshape(net, transpose(net, y, [0, 2, 1, 3]), [n, t, c * f]), 6), 5)


def _multidilated(net: Any, skips: list[Any], weights: list[Any]) -> Any:
    """Each skip convolved with its own dilation, summed."""
    return total(net, [conv_with(net, z, w, d=2**i) for i, (z, w) in enumerate(zip(skips, weights, strict=True))])


def _d2(net: Any, x: Any, layers: int, g: int) -> Any:
    rank, skips = len(x.shape) - 2, [x]
    for _ in range(layers):
        active = [act(net, bn(net, z)) for z in skips]
        skips.append(_multidilated(net, active, [net.weight(g, channels(z), *[3] * rank) for z in active]))
    return concat(net, *skips[1:])


@block(
    "d2-multidilated-dense",
    "D3Net: Densely connected multidilated DenseNet for music source separation",
    seeds=["000:87", "002:13"],
    dims=(1, 2),
    hazards="order of sums of convolutions",
)
def d2_multidilated_dense(net: Any, x: Any) -> Any:
    """Dense layers whose skips have their own dilations; stresses sums of convolutions and long Concat chains."""
    return _d2(net, x, net.pick((3, 4)), net.pick((4, 6)))


@relation("d2-multidilated-dense/zero-stuffed", of="d2-multidilated-dense", dims=(1, 2))
def multidilated_dense(net: Any, x: Any) -> Any:
    """The multidilated convolution is one convolution of the joined skips with zeros between the taps."""
    rank, count, g = len(x.shape) - 2, net.pick((2, 3)), 4
    skips = [x, *[conv(net, x, 3, 1) for _ in range(count - 1)]]
    weights, ones, size = [net.weight(g, channels(z), *[3] * rank) for z in skips], net.const(np.ones((1, 1, *[1] * rank))), 2**count + 1
    wide = list[Any]()
    for i, w in enumerate(weights):
        flat = reshape(net, w, [g * w.shape[1], 1, *[3] * rank])
        spread = net("ConvTranspose", flat, ones, strides=[2**i] * rank)
        wide.append(reshape(net, centred(net, spread, size), [g, w.shape[1], *[size] * rank]))
    return _multidilated(net, skips, weights), conv_with(net, concat(net, *skips), concat(net, *wide))


@block("d2-multidilated-dense/d3-block", "D3Net: Densely connected multidilated DenseNet", seeds=["000:87", "002:13"], dims=(1, 2))
def d3_block(net: Any, x: Any) -> Any:
    """Dense nesting of multidilated blocks, compressed by a pointwise convolution."""
    first = _d2(net, x, 2, 4)
    return pointwise(net, concat(net, first, _d2(net, concat(net, x, first), 2, 4)), 8)


@block("d2-multidilated-dense/multi-band", "D3Net: Densely connected multidilated DenseNet", seeds=["000:87", "002:13"], dims=(1, 2), even=2)
def multi_band(net: Any, x: Any) -> Any:
    """The frequency axis split, a block for each band, joined."""
    return concat(net, *[_d2(net, band, 2, 4) for band in split(net, x, 2, axis=2)], axis=2)


@block("d2-multidilated-dense/net", "D3Net: Densely connected multidilated DenseNet", seeds=["000:87", "002:13"], even=2)
def d3_net(net: Any, x: Any) -> Any:
    """Stem, a level down and up around multidilated blocks, a mask on the mixture."""
    top = _d2(net, conv(net, x, 8), 2, 4)
    low = pointwise(net, _d2(net, pool(net, top, "AveragePool"), 2, 4), 8)
    y = _d2(net, concat(net, top, upconv(net, low, 8)), 2, 4)
    return mul(net, x, act(net, glu(net, pointwise(net, y, 2 * channels(x))), "Sigmoid"))


_DB4 = (0.48296291, 0.83651630, 0.22414387, -0.12940952)


def _wavelet(net: Any, x: Any, taps: tuple[float, ...]) -> Any:
    """Low pass of a wavelet as a strided depthwise convolution."""
    w = net.const(np.tile(np.array(taps), (channels(x), 1, 1)))
    return conv_with(net, x, w, s=2, g=channels(x), pads=[0, len(taps) - 2])


@block(
    "dt-ddnn-dwt", "Over-The-Air Double-Threshold Deep Learner for Jamming Detection in 5G RF domain", seeds=["000:21"], dims=(1,), hazards="root of zero, ties"
)
def dt_ddnn_dwt(net: Any, x: Any) -> Any:
    """Matched filter, energy of empty subcarriers, wavelet levels, two networks in cascade by thresholds; stresses DFT, constant Gather and nested Where.

    Assumed: widths, a short synchronisation sequence.
    """
    iq = pointwise(net, x, 2)
    re, im = net.weight(3, 1, 5), net.weight(3, 1, 5)
    both = concat(net, concat(net, re, im), concat(net, net("Neg", im), re), axis=0)
    a, b = split(net, conv_with(net, iq, both, pads=0), 2)
    peak = reduce(net, "ReduceMax", net("Sqrt", offset(net, net("Add", mul(net, a, a), mul(net, b, b)), 1e-6)), [2], keepdims=0)
    fr, fi = dft(net, *(reshape(net, v, [x.shape[0], -1]) for v in split(net, iq, 2)))
    empty = [net("Gather", v, net.ints([0, 1, x.shape[2] - 1]), axis=1) for v in (fr, fi)]
    energy = net("ReduceSum", net("Add", *[mul(net, v, v) for v in empty]), net.ints([1]), keepdims=1)
    y, taps = iq, net.pick(((0.70710678, 0.70710678), _DB4))
    for _ in range(net.pick((1, 2))):
        y = _wavelet(net, y, taps)
    features = concat(net, peak, scale(net, energy, 1 / 3), net("Flatten", y))
    p1 = act(net, flatten_linear(net, act(net, flatten_linear(net, features, 16)), 1), "Sigmoid")
    p2 = act(net, flatten_linear(net, act(net, flatten_linear(net, concat(net, features, p1), 16)), 1), "Sigmoid")
    second = net("Cast", net("Greater", p2, net.const(0.5)), to=FLOAT.onnx)
    unsure = net("Where", net("Less", p1, net.const(0.25)), net.const(0.0), second)
    return net("Where", net("Greater", p1, net.const(0.75)), net.const(1.0), unsure)


@relation("dt-ddnn-dwt/haar-slices", of="dt-ddnn-dwt", dims=(1,))
def haar_slices(net: Any, x: Any) -> Any:
    """The Haar low pass as a strided convolution = scaled sums of neighbours."""
    x = slice_(net, x, 0, x.shape[2] // 2 * 2, 2)
    even, odd = (slice_(net, x, i, x.shape[2], 2, 2) for i in (0, 1))
    return _wavelet(net, x, (0.70710678, 0.70710678)), scale(net, net("Add", even, odd), 0.70710678)


def _unit(net: Any, x: Any) -> Any:
    """Rows of length one."""
    return net("Div", x, net("Max", reduce(net, "ReduceL2", x, [-1]), net.const(1e-6)))


def _codes(net: Any, z: Any, book: Any, by_distance: bool) -> Any:
    """Nearest entries of a codebook of unit vectors to unit vectors, by products or by squared distances."""
    products = net("MatMul", z, transpose(net, book, [1, 0]))
    if not by_distance:
        return net("Gather", book, net("ArgMax", products, axis=-1, keepdims=0), axis=0)
    squares = [reduce(net, "ReduceSumSquare", v, [-1], keepdims=k) for v, k in ((z, 1), (book, 0))]
    distance = net("Add", sub(net, squares[0], scale(net, products, 2.0)), squares[1])
    return net("Gather", book, net("ArgMin", distance, axis=-1, keepdims=0), axis=0)


@block(
    "du-in-vq-seeg",
    "Du-IN: Discrete units-guided mask modeling for decoding speech from Intracranial Neural signals",
    seeds=["000:101"],
    dims=(1,),
    hazards="ties of the maximum, norm of a zero token",
)
def du_in_vq_seeg(net: Any, x: Any) -> Any:
    """Patches of a signal as tokens, mixed by attention, replaced by their nearest code; stresses ArgMax and Gather and norms of constants.

    Assumed: one attention layer, a linear decoder.
    """
    n, c, length = x.shape
    p, d = net.pick(tuple(p for p in (4, 3) if length % p == 0)), 8
    y = act(net, group_norm(net, conv(net, pointwise(net, x, d), d), 2), "Gelu")
    tokens = reshape(net, transpose(net, reshape(net, y, [n, d, length // p, p]), [0, 2, 1, 3]), [n, length // p, d * p])
    t = net("Add", linear(net, tokens, 16), net.weight(length // p, 16))
    t = layer_norm(net, net("Add", t, attention(net, *(linear(net, t, 16) for _ in range(3)))))
    z = _unit(net, linear(net, t, d))
    q = _codes(net, z, _unit(net, net.weight(net.pick((16, 32)), d)), False)
    straight = net("Add", z, sub(net, q, z))
    out = transpose(net, reshape(net, linear(net, straight, c * p), [n, length // p, c, p]), [0, 2, 1, 3])
    return reshape(net, out, [n, c, length])


@block("du-in-vq-seeg/masked", "Du-IN: Discrete units-guided mask modeling", seeds=["000:101"], dims=(1,), takes="tokens")
def masked_tokens(net: Any, x: Any) -> Any:
    """Masked tokens replaced by a learned one, logits over the codes."""
    mask = net.const([[i % 3 == 1] for i in range(x.shape[1])], BOOL)
    t = net("Where", mask, net.weight(x.shape[2]), x)
    t = layer_norm(net, net("Add", t, attention(net, *(linear(net, t, 8) for _ in range(2)), linear(net, t, x.shape[2]))))
    return net("LogSoftmax", linear(net, t, 32), axis=-1)


@relation("du-in-vq-seeg/nearest-code", of="du-in-vq-seeg", takes="tokens")
def nearest_code(net: Any, x: Any) -> Any:
    """Largest product = least distance for unit vectors (random tokens have no ties)."""
    z, book = _unit(net, linear(net, x, 8)), _unit(net, net.weight(16, 8))
    return _codes(net, z, book, False), _codes(net, z, book, True)


@relation("du-in-vq-seeg/straight-through", of="du-in-vq-seeg", takes="tokens")
def straight_through(net: Any, x: Any) -> Any:
    """z + (q - z) is q."""
    z = _unit(net, linear(net, x, 8))
    q = _codes(net, z, _unit(net, net.weight(16, 8)), False)
    return net("Add", z, sub(net, q, z)), q
