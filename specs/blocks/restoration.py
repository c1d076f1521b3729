"""Super-resolution, deblurring and enhancement: shuffles, gated residual cells, wavelets, fused scales."""

from __future__ import annotations

from typing import Any

import numpy as np

from specs.blocks.layers import (
    act,
    add,
    channels,
    concat,
    conv,
    gap,
    linear,
    mean,
    mul,
    pointwise,
    reshape,
    resize,
    slice_,
    spatial,
    split,
    transpose,
)
from specs.blocks.parts import channel_pools, conv_with, depth_to_space, deviation, prelu, scale, total
from specs.net import block, relation


def lrelu(net: Any, x: Any, alpha: float = 0.2) -> Any:
    return act(net, x, "LeakyRelu", alpha=alpha)


def shuffle(net: Any, x: Any, r: int) -> Any:
    """Channels to space in any rank, channel-major as DepthToSpace CRD is in two."""
    n, c, rank, size = x.shape[0], channels(x) // r ** (len(x.shape) - 2), len(x.shape) - 2, spatial(x)
    y = reshape(net, x, [n, c, *[r] * rank, *size])
    order = [0, 1] + [i for d in range(rank) for i in (2 + rank + d, 2 + d)]
    return reshape(net, transpose(net, y, order), [n, c, *[s * r for s in size]])


def _gates(net: Any, x: Any, r: int) -> Any:
    """Two weights (N, 2, 1, 1) that sum to one."""
    y = act(net, linear(net, reshape(net, gap(net, x), [x.shape[0], channels(x)]), max(1, channels(x) // r)))
    return reshape(net, net("Softmax", scale(net, linear(net, y, 2), 1 / net.pick((1, 30))), axis=1), [x.shape[0], 2, 1, 1])


def _mixed(net: Any, pi: Any, a: Any, b: Any) -> Any:
    return net("Add", mul(net, slice_(net, pi, 0, 1, 1), a), mul(net, slice_(net, pi, 1, 2, 1), b))


@block(
    "attention-in-attention-block",
    "Attention in Attention Network for Image Super-Resolution",
    seeds=["000:247"],
    hazards="softmax of two logits under a temperature",
)
def attention_in_attention_block(net: Any, x: Any) -> Any:
    """An attentive and a plain branch under dynamic weights; stresses small dense layers between convolutions and scalar broadcasts."""
    c = channels(x)
    u = lrelu(net, pointwise(net, x, c))
    attended = conv(net, mul(net, conv(net, u, c), act(net, pointwise(net, u, c, bias=True), "Sigmoid")), c)
    return add(net, x, pointwise(net, lrelu(net, _mixed(net, _gates(net, u, net.pick((4, 2))), attended, conv(net, u, c))), c))


@relation("attention-in-attention-block/same-branches", of="attention-in-attention-block")
def attention_same_branches(net: Any, x: Any) -> Any:
    """The two weights sum to one, so equal branches are one branch."""
    y = conv(net, x, channels(x))
    return _mixed(net, _gates(net, x, 4), y, y), y


@block("attention-in-attention-block/net", "Attention in Attention Network for Image Super-Resolution", seeds=["000:247"])
def attention_in_attention_net(net: Any, x: Any) -> Any:
    """Head, blocks with a long skip, nearest enlargement, and the enlarged input added."""
    r, y = 2, conv(net, x, 8)
    z = attention_in_attention_block(net, attention_in_attention_block(net, y))
    size = [n * r for n in spatial(x)]
    y = conv(net, resize(net, add(net, y, conv(net, z, 8)), size), 3)
    return add(net, y, resize(net, pointwise(net, x, 3), size, "linear"))


@block(
    "espcn-subpixel-conv",
    "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network",
    seeds=["000:183", "001:299", "003:79"],
    dims=(1, 2, 3),
    hazards="tanh saturation",
)
def espcn_subpixel_conv(net: Any, x: Any) -> Any:
    """Convolutions and a shuffle of channels into space, by operator or by reshape and transpose; stresses both orders of DepthToSpace."""
    rank, r, kind = len(x.shape) - 2, net.pick((2, 3, 4) if len(x.shape) < 5 else (2,)), net.pick(("Tanh", "Relu"))
    y = act(net, conv(net, act(net, conv(net, x, 8, 5, bias=True), kind), 8, 3, bias=True), kind)
    y = conv(net, y, net.pick((1, 3)) * r**rank, 3, bias=True)
    if rank != 2 or net.flag():
        return shuffle(net, y, r)
    return depth_to_space(net, y, r, net.pick(("CRD", "DCR")))


@relation("espcn-subpixel-conv/operator", of="espcn-subpixel-conv")
def espcn_operator(net: Any, x: Any) -> Any:
    """DepthToSpace CRD = reshape, transpose, reshape."""
    r = net.pick((2, 4) if channels(x) % 16 == 0 else (2,))
    return depth_to_space(net, x, r), shuffle(net, x, r)


@relation("espcn-subpixel-conv/dcr-permuted", of="espcn-subpixel-conv")
def espcn_dcr(net: Any, x: Any) -> Any:
    """DCR after a permutation of the convolution's output channels = CRD."""
    r, c = net.pick((2, 3)), net.pick((3, 1))
    w = net.weight(c * r * r, channels(x), 3, 3)
    order = [k * r * r + q for q in range(r * r) for k in range(c)]
    return depth_to_space(net, conv_with(net, x, net("Gather", w, net.ints(order), axis=0)), r, "DCR"), depth_to_space(net, conv_with(net, x, w), r)


@relation("espcn-subpixel-conv/one-hot-transposed", of="espcn-subpixel-conv", dims=(1, 2, 3))
def espcn_one_hot(net: Any, x: Any) -> Any:
    """A shuffle is a transposed convolution with one-hot kernels."""
    rank, r = len(x.shape) - 2, 2
    y = conv(net, x, 2 * r**rank, 1)
    w = np.zeros((2 * r**rank, 2, r**rank))
    for i in range(2 * r**rank):
        w[i, i // r**rank, i % r**rank] = 1
    kernel = net.const(w.reshape(2 * r**rank, 2, *[r] * rank))
    return shuffle(net, y, r), net("ConvTranspose", y, kernel, kernel_shape=[r] * rank, strides=[r] * rank)


@relation("espcn-subpixel-conv/transposed", of="espcn-subpixel-conv", dims=(1, 2))
def espcn_transposed(net: Any, x: Any) -> Any:
    """Convolution and shuffle = one transposed convolution with a kernel of 3 r, from the same weights rearranged."""
    rank, r, c, m = len(x.shape) - 2, net.pick((2, 3)), net.pick((3, 1)), channels(x)
    w = net.weight(c * r**rank, m, *[3] * rank)
    axes = list(range(1 + rank + 1, 1 + rank + 1 + rank))
    y = reshape(net, w, [c, *[r] * rank, m, *[3] * rank])
    y = net("Slice", y, net.ints([-1] * rank), net.ints([-4] * rank), net.ints(axes), net.ints([-1] * rank))
    y = transpose(net, y, [1 + rank, 0, *[i for d in range(rank) for i in (axes[d], 1 + d)]])
    kernel = reshape(net, y, [m, c, *[3 * r] * rank])
    options = {"kernel_shape": [3 * r] * rank, "strides": [r] * rank, "pads": [r] * (2 * rank)}
    return shuffle(net, conv_with(net, x, w), r), net("ConvTranspose", x, kernel, **options)


@relation("espcn-subpixel-conv/icnr", of="espcn-subpixel-conv", dims=(1, 2, 3))
def espcn_icnr(net: Any, x: Any) -> Any:
    """Repeated kernels make the shuffle a nearest enlargement."""
    rank, r, c = len(x.shape) - 2, 2, net.pick((3, 2))
    w = net.weight(c, channels(x), *[3] * rank)
    repeated = net("Expand", net("Unsqueeze", w, net.ints([1])), net.ints([c, r**rank, channels(x), *[3] * rank]))
    kernel = reshape(net, repeated, [c * r**rank, channels(x), *[3] * rank])
    return shuffle(net, conv_with(net, x, kernel), r), resize(net, conv_with(net, x, w), [n * r for n in spatial(x)])


@relation("espcn-subpixel-conv/roundtrip", of="espcn-subpixel-conv")
def espcn_roundtrip(net: Any, x: Any) -> Any:
    """SpaceToDepth undoes DepthToSpace in DCR order."""
    return net("SpaceToDepth", depth_to_space(net, x, 2, "DCR"), blocksize=2), x


def _haar(net: Any, x: Any) -> list[Any]:
    """The four bands, by strided slices."""
    rows = [net("Slice", x, net.ints([i, j]), net.ints(spatial(x)), net.ints([2, 3]), net.ints([2, 2])) for i in (0, 1) for j in (0, 1)]
    signs = ((1, 1, 1, 1), (-1, 1, -1, 1), (-1, -1, 1, 1), (1, -1, -1, 1))
    return [scale(net, total(net, [net("Neg", v) if s < 0 else v for s, v in zip(ss, rows, strict=True)]), 0.5) for ss in signs]


def _unhaar(net: Any, bands: list[Any]) -> Any:
    """Back, interleaved by a reshape."""
    n, c, h, w = bands[0].shape
    columns = ((1, -1, -1, 1), (1, 1, -1, -1), (1, -1, 1, -1), (1, 1, 1, 1))
    parts = [scale(net, total(net, [net("Neg", v) if s < 0 else v for s, v in zip(ss, bands, strict=True)]), 0.5) for ss in columns]
    return depth_to_space(net, reshape(net, concat(net, *[net("Unsqueeze", p, net.ints([2])) for p in parts], axis=2), [n, 4 * c, h, w]), 2)


def _haar_kernel(c: int) -> np.ndarray:
    base = np.array([[[1, 1], [1, 1]], [[-1, 1], [-1, 1]], [[-1, -1], [1, 1]], [[1, -1], [-1, 1]]], float) / 2
    return np.tile(base[:, None], (c, 1, 1, 1))


@block(
    "half-wavelet-attention-block",
    "Half Wavelet Attention on M-Net+ for Low-Light Image Enhancement",
    seeds=["000:303"],
    even=2,
    hazards="sums of large activations, ties of the maximum",
)
def half_wavelet_attention_block(net: Any, x: Any) -> Any:
    """Half of the channels attended in the wavelet domain; stresses strided slices, interleaving and mixed gates."""
    c = channels(x)
    kept, waved = split(net, x, 2)
    bands = concat(net, *_haar(net, waved))
    d = channels(bands)
    y = conv(net, prelu(net, conv(net, bands, d)), d)
    spatial_gate = mul(net, y, act(net, conv(net, channel_pools(net, y), 1, 5), "Sigmoid"))
    channel_gate = mul(net, y, act(net, conv(net, act(net, conv(net, gap(net, y), max(1, d // 8), 1)), d, 1), "Sigmoid"))
    y = prelu(net, add(net, bands, pointwise(net, concat(net, spatial_gate, channel_gate), d)))
    back = _unhaar(net, list(split(net, y, 4)))
    return add(net, prelu(net, conv(net, concat(net, kept, back), c)), pointwise(net, x, c))


@relation("half-wavelet-attention-block/roundtrip", of="half-wavelet-attention-block", even=2)
def haar_roundtrip(net: Any, x: Any) -> Any:
    """The inverse of the Haar transform gives the image back."""
    return _unhaar(net, _haar(net, x)), x


@relation("half-wavelet-attention-block/forms", of="half-wavelet-attention-block", even=2)
def haar_forms(net: Any, x: Any) -> Any:
    """Strided slices = a strided depthwise convolution with fixed kernels, channels reordered."""
    n, c, h, w = x.shape
    y = conv_with(net, x, net.const(_haar_kernel(c)), s=2, g=c, pads=0)
    bands = transpose(net, reshape(net, y, [n, c, 4, h // 2, w // 2]), [0, 2, 1, 3, 4])
    return concat(net, *_haar(net, x)), reshape(net, bands, [n, 4 * c, h // 2, w // 2])


@relation("half-wavelet-attention-block/inverse-forms", of="half-wavelet-attention-block", even=2)
def haar_inverse_forms(net: Any, x: Any) -> Any:
    """Interleaving = a transposed convolution with the same kernels."""
    bands = _haar(net, x)
    n, c, h, w = bands[0].shape
    stacked = concat(net, *[net("Unsqueeze", b, net.ints([2])) for b in bands], axis=2)
    options = {"kernel_shape": [2, 2], "strides": [2, 2], "group": c}
    return _unhaar(net, bands), net("ConvTranspose", reshape(net, stacked, [n, 4 * c, h, w]), net.const(_haar_kernel(c)), **options)


def skff_fuse(net: Any, maps: list[Any], r: int = 8) -> Any:
    """Selective kernel feature fusion: a softmax across branches of their descriptors."""
    c, n = channels(maps[0]), maps[0].shape[0]
    z = prelu(net, conv(net, gap(net, total(net, maps)), max(1, c // r), 1))
    logits = concat(net, *[net("Unsqueeze", conv(net, z, c, 1), net.ints([1])) for _ in maps], axis=1)
    weights = split(net, net("Softmax", logits, axis=1), len(maps))
    return total(net, [mul(net, reshape(net, w, [n, c, 1, 1]), m) for w, m in zip(weights, maps, strict=True)])


@block("half-wavelet-attention-block/skff", "Half Wavelet Attention on M-Net+ for Low-Light Image Enhancement", seeds=["000:303"])
def skff(net: Any, x: Any) -> Any:
    """Fusion of branches by a softmax across them."""
    c = channels(x)
    return skff_fuse(net, [conv(net, x, c, k) for k in (3, 1, 5)[: net.pick((3, 2))]], net.pick((8, 4)))


@relation("half-wavelet-attention-block/skff-same", of="half-wavelet-attention-block")
def skff_same(net: Any, x: Any) -> Any:
    """Equal branches are fused to themselves."""
    return skff_fuse(net, [x, x, x]), x


def contrast_attention(net: Any, x: Any) -> Any:
    """Channel gate from the standard deviation plus the mean."""
    c = channels(x)
    z = net("Add", deviation(net, x), mean(net, x, list(range(2, len(x.shape)))))
    return mul(net, x, act(net, conv(net, act(net, conv(net, z, max(1, c // 4), 1)), c, 1), "Sigmoid"))


@block(
    "imdn", "Lightweight Image Super-Resolution with Information Multi-distillation Network", seeds=["002:291"], hazards="root of a zero variance, cancellation"
)
def imdn(net: Any, x: Any) -> Any:
    """Channels split off at every step and joined at the end under a contrast gate; stresses unequal Split and dead parts."""
    c, slope = channels(x), 0.05
    d, kept, rest = c // 4, list[Any](), x
    for _ in range(3):
        part, rest = net("Split", lrelu(net, conv(net, rest, c), slope), net.ints([d, c - d]), axis=1, outputs=2)
        kept.append(part)
    return add(net, x, pointwise(net, contrast_attention(net, concat(net, *kept, conv(net, rest, d))), c))


@block("imdn/contrast-channel-attention", "Lightweight Image Super-Resolution with Information Multi-distillation Network", seeds=["002:291"], dims=(1, 2, 3))
def contrast_channel_attention(net: Any, x: Any) -> Any:
    """A channel gate from standard deviation and mean; stresses the root of a variance."""
    return contrast_attention(net, x)


@block("imdn/net", "Lightweight Image Super-Resolution with Information Multi-distillation Network", seeds=["002:291"])
def imdn_net(net: Any, x: Any) -> Any:
    """Head, distillation blocks all joined, long skip, shuffle."""
    r, y = net.pick((2, 3, 4)), conv(net, x, 8)
    first = imdn(net, y)
    joined = lrelu(net, pointwise(net, concat(net, first, imdn(net, first)), 8), 0.05)
    return depth_to_space(net, conv(net, add(net, y, conv(net, joined, 8)), 3 * r * r), r)
