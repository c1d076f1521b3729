"""Three-dimensional U-Nets with attention at the bottom, wavelets or subpixels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from specs.blocks.layers import (
    add,
    channels,
    concat,
    conv,
    mul,
    pointwise,
    pool,
    reduce,
    reshape,
    resize,
    slice_,
    softmax,
    spatial,
    transpose,
)
from specs.blocks.u_shapes import (
    attention_gate,
    classes,
    dice,
    fit,
    gated,
    halve,
    leaky,
    levels,
    nn_double,
    pixel_shuffle,
    smooth,
    u_shape,
    unit,
)
from specs.net import block

MENINGIOMA = "Meningioma segmentation in T1-weighted MRI leveraging global context and attention mechanisms"
DISGAN = "DISGAN: Wavelet-informed Discriminator Guides GAN to MRI Super-resolution with Noise Cleaning"
NEUNET = "More complex encoder is not all you need"


def few(net: Any, x: Any, most: int) -> Any:
    """At most so many channels."""
    return x if channels(x) <= most else slice_(net, x, 0, most, 1)


# Attention at the bottom ----------------------------------------------------------------------------------------------


def bottom(net: Any, x: Any, most: int = 100) -> Any:
    """Halved until all positions may attend to each other."""
    while math.prod(spatial(x)) > most:
        x = halve(net, x)
    return x


def position_attention(net: Any, x: Any) -> Any:
    """Every position from every other one, softmax over positions, added under a learned factor."""
    n, c, size = x.shape[0], channels(x), math.prod(spatial(x))
    q = transpose(net, reshape(net, pointwise(net, x, max(1, c // 8), bias=True), [n, -1, size]), [0, 2, 1])
    k = reshape(net, pointwise(net, x, max(1, c // 8), bias=True), [n, -1, size])
    a = softmax(net, net("MatMul", q, k))
    y = net("MatMul", reshape(net, pointwise(net, x, c, bias=True), [n, c, size]), transpose(net, a, [0, 2, 1]))
    return add(net, mul(net, reshape(net, y, x.shape), net.weight(1)), x)


def channel_attention(net: Any, x: Any, reversed_: bool = True) -> Any:
    """Softmax of the Gram matrix of channels, subtracted from its row maximum first, as DANet writes it."""
    flat = reshape(net, x, [x.shape[0], channels(x), -1])
    e = net("MatMul", flat, transpose(net, flat, [0, 2, 1]))
    a = softmax(net, net("Sub", reduce(net, "ReduceMax", e, [2]), e) if reversed_ else net("Neg", e))
    return reshape(net, net("MatMul", a, flat), x.shape)


@block("dual-attention-unet3d", MENINGIOMA, seeds=["000:201", "002:235"], dims=(3,), hazards="Gram matrix overflow")
def dual_attention_unet3d(net: Any, x: Any) -> Any:
    """Position and channel attention at the bottom, joined by a convolution; stresses attention over folded volumes."""
    x = bottom(net, x)
    cam = add(net, mul(net, channel_attention(net, x), net.weight(1)), x)
    pam = position_attention(net, x)
    return unit(net, add(net, pam, cam) if net.flag() else concat(net, pam, cam), net.pick((8, 16)))


@block("dual-attention-unet3d/attention-gate", MENINGIOMA, seeds=["000:201", "002:235"], dims=(3,), hazards="sigmoid saturation")
def dual_attention_gate(net: Any, x: Any) -> Any:
    """The additive gate where the coarse map is resized trilinearly."""
    return attention_gate(net, x, unit(net, halve(net, x), 8), net.pick((4, 8)))


@block("dual-attention-unet3d/danet-pam", MENINGIOMA, seeds=["000:201", "002:235"], dims=(1, 2, 3))
def dual_attention_pam(net: Any, x: Any) -> Any:
    """Position attention alone."""
    return position_attention(net, bottom(net, x))


@block("dual-attention-unet3d/danet-cam", MENINGIOMA, seeds=["000:201", "002:235"], dims=(1, 2, 3), hazards="Gram matrix overflow")
def dual_attention_cam(net: Any, x: Any) -> Any:
    """Channel attention alone: softmax(max(E) - E)."""
    return add(net, mul(net, channel_attention(net, x), net.weight(1)), x)


@block("dual-attention-unet3d/dice-loss", MENINGIOMA, seeds=["000:201", "002:235"], dims=(2, 3), hazards="0/0 without smoothing")
def dual_attention_dice(net: Any, x: Any) -> Any:
    """Dice with squared denominators for each class, summed over batch and volume."""
    p, g = classes(net, x, 3), classes(net, net.input(*x.shape), 3)
    return dice(net, p, g, [0, *range(2, len(x.shape))], squared=True)


@block("dual-attention-unet3d/net", MENINGIOMA, seeds=["000:201", "002:235"], dims=(3,))
def dual_attention_unet3d_net(net: Any, x: Any) -> Any:
    """Gated U-Net with averaged inputs at each level and attention at the bottom, heads resized."""
    images, depth = [x, pool(net, x, "AveragePool")], 1
    outs = u_shape(
        net, x, [4, 8][: depth + 1], join=gated, enter=lambda n, v, i: v if i == 0 else concat(n, position_attention(n, v), unit(n, images[i], 4, norm=""))
    )
    return [resize(net, classes(net, y, 2), spatial(x), "linear") for y in outs]


# Wavelets and subpixels -----------------------------------------------------------------------------------------------


def haar(rank: int, scale: float) -> np.ndarray:
    """The 2^rank separable sum and difference kernels of one channel: (2^rank, 1, 2, ...)."""
    kernels = []
    for signs in itertools.product(([1.0, 1.0], [1.0, -1.0]), repeat=rank):
        kernel = np.array(1.0)
        for s in signs:
            kernel = np.multiply.outer(kernel, np.array(s))
        kernels.append(kernel)
    return np.stack(kernels)[:, None] * scale


def dwt(net: Any, x: Any, scale: float | None = None) -> Any:
    """Haar analysis, one grouped strided convolution: (N, 2^rank C, S/2); odd sizes are padded first."""
    x, c, rank = fit(net, x, [n + n % 2 for n in spatial(x)]), channels(x), len(x.shape) - 2
    w = net.const(np.tile(haar(rank, 2 ** (-rank / 2) if scale is None else scale), [c, 1] + [1] * rank))
    return net("Conv", x, w, group=c, strides=[2] * rank, kernel_shape=[2] * rank)


def idwt(net: Any, y: Any, scale: float | None = None) -> Any:
    """Haar synthesis: the transposed convolution with the same kernels."""
    rank = len(y.shape) - 2
    c = channels(y) >> rank
    w = net.const(np.tile(haar(rank, 2 ** (-rank / 2) if scale is None else scale), [c, 1] + [1] * rank))
    return net("ConvTranspose", y, w, group=c, strides=[2] * rank, kernel_shape=[2] * rank)


@block("dwt3d-conv-unit", DISGAN, seeds=["000:23"], dims=(1, 2, 3), hazards="cancellation in the difference bands")
def dwt3d_conv_unit(net: Any, x: Any) -> Any:
    """Haar bands by a grouped convolution with fixed kernels, 1x1 convolution, leaky ReLU, in place of pooling."""
    return leaky(net, pointwise(net, dwt(net, few(net, x, 16)), net.pick((8, 16)), bias=True), 0.2)


def rrdb(net: Any, x: Any, growth: int, depth: int = 5) -> Any:
    """Three dense blocks of 3x3 convolutions with residuals scaled by 0.2, inside another one."""
    beta = net.const(0.2)

    def dense(v: Any) -> Any:
        seen = v
        for _ in range(depth - 1):
            seen = concat(net, seen, leaky(net, conv(net, seen, growth, 3, bias=True), 0.2))
        return add(net, v, net("Mul", conv(net, seen, channels(v), 3, bias=True), beta))

    return add(net, x, net("Mul", dense(dense(dense(x))), beta))


@block("dwt3d-conv-unit/rrdb3d", DISGAN, seeds=["000:23"], dims=(2, 3))
def dwt3d_rrdb(net: Any, x: Any) -> Any:
    """Residual in residual dense block; stresses growing Concats and scaled additions."""
    return rrdb(net, few(net, x, 8), net.pick((4, 8)), net.pick((5, 3)))


@block("dwt3d-conv-unit/haar-dwt-idwt", DISGAN, seeds=["000:23"], dims=(1, 2, 3))
def dwt3d_round_trip(net: Any, x: Any) -> Any:
    """Analysis, a factor for each band, synthesis: a wavelet shrinkage."""
    bands = dwt(net, few(net, x, 16))
    return idwt(net, mul(net, bands, net.weight(channels(bands), *[1] * (len(x.shape) - 2))))


@block("dwt3d-conv-unit/net", DISGAN, seeds=["000:23"], dims=(2, 3))
def dwt3d_net(net: Any, x: Any) -> Any:
    """The discriminator: a U with wavelets down, linear Resize up, logits for each voxel."""
    down = lambda n, v: leaky(n, pointwise(n, dwt(n, v), channels(v), bias=True), 0.2)
    stage = lambda n, v, c: leaky(n, conv(n, v, c, 3, bias=True), 0.2)
    return pointwise(net, u_shape(net, x, [4, 8, 8][: levels(net, x, 2) + 1], stage=stage, down=down, rise=smooth)[0], 1, bias=True)


@block("neu-net-subpixel3d", NEUNET, seeds=["000:145", "003:155"], dims=(3,), hazards="instance norm of a constant band")
def neu_net_subpixel3d(net: Any, x: Any) -> Any:
    """Decoder stage by 3-D pixel shuffle, also anisotropic, beside a skip; stresses 8-D Reshape and Transpose."""
    r, skip = net.pick(([2, 2, 2], [1, 2, 2])), few(net, x, 8)
    w = net.weight(8, channels(skip), 3, 3, 3)
    low = leaky(net, net("Conv", skip, w, strides=r, pads=[1] * 6))
    up = pixel_shuffle(net, conv(net, low, 4 * math.prod(r), 3), r)
    return nn_double(net, concat(net, skip, fit(net, up, spatial(skip))), net.pick((8, 4)))


@block("neu-net-subpixel3d/haar-dwt3d", NEUNET, seeds=["000:145", "003:155"], dims=(3,))
def neu_net_haar(net: Any, x: Any) -> Any:
    """Eight bands of a volume by one grouped convolution with constant kernels."""
    return dwt(net, few(net, x, 16))


@block("neu-net-subpixel3d/pixel-shuffle-3d", NEUNET, seeds=["000:145", "003:155"], dims=(3,))
def neu_net_shuffle(net: Any, x: Any) -> Any:
    """Convolution to r^3 times the channels, Reshape, Transpose over 8 dims, Reshape."""
    r = net.pick(([2, 2, 2], [1, 2, 2], [2, 1, 3]))
    return pixel_shuffle(net, conv(net, few(net, x, 16), math.prod(r), 3), r)


def _wavelet_inputs(net: Any, x: Any, depth: int) -> Callable[..., Any]:
    """Bands of the image at each level of the encoder, through a convolution, beside the features."""
    images = [few(net, x, 2)]
    for _ in range(depth):
        images.append(dwt(net, few(net, images[-1], 2)))
    return lambda net, v, i: v if i == 0 else concat(net, fit(net, v, spatial(images[i])), leaky(net, conv(net, images[i], 4, 3)))


@block("neu-net-subpixel3d/multi-scale-wavelet-input", NEUNET, seeds=["000:145", "003:155"], dims=(2, 3))
def neu_net_wavelet_input(net: Any, x: Any) -> Any:
    """Wavelet bands of the image join the pooled features of the next level."""
    return nn_double(net, _wavelet_inputs(net, x, 1)(net, halve(net, x), 1), 8)


@block("neu-net-subpixel3d/net", NEUNET, seeds=["000:145", "003:155"], dims=(3,))
def neu_net_net(net: Any, x: Any) -> Any:
    """Wavelet inputs, strided encoder, subpixel decoder, a head at every level."""
    depth = levels(net, x, 2)
    down = lambda n, v: leaky(n, conv(n, v, channels(v), 3, s=2))
    rise = lambda n, v, size, c: fit(n, pixel_shuffle(n, conv(n, v, 8 * 4, 3), [2, 2, 2]), size)
    outs = u_shape(net, x, [4, 8, 8][: depth + 1], stage=nn_double, down=down, rise=rise, enter=_wavelet_inputs(net, x, depth))
    return [classes(net, y, 2) for y in outs]
