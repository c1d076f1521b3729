"""Convolutions that reach far, or move space: oversized and dilated kernels, global kernels as matrices, factorised volumes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from specs.blocks.conv_variants import dilated, stuffed
from specs.blocks.layers import (
    act,
    add,
    bn,
    channels,
    classifier,
    concat,
    conv,
    conv_bn_act,
    depthwise,
    group_norm,
    instance_norm,
    linear,
    mul,
    pad,
    pointwise,
    reshape,
    resize,
    slice_,
    spatial,
    split,
    transpose,
    upconv,
)
from specs.net import block, relation

LKCA = "LKCA: Large Kernel Convolutional Attention"


def tokens(net: Any, x: Any) -> Any:
    """(N, C, H, W) as (N, L, C)."""
    n, c = x.shape[:2]
    return transpose(net, reshape(net, x, [n, c, -1]), [0, 2, 1])


def heads_that_fit(net: Any, x: Any) -> int:
    """Heads that divide the channels and keep (heads, L, L) small."""
    length = x.shape[2] * x.shape[3]
    return net.pick([h for h in (1, 2, 4) if channels(x) % h == 0 and h * length * length <= 1 << 15])


def as_convolution(net: Any, v: Any, kernel: Any, size: Sequence[int], heads: int) -> Any:
    """Tokens convolved as an image, one kernel a head."""
    n, _, c = v.shape
    image = reshape(net, transpose(net, v, [0, 2, 1]), [n * heads, c // heads, *size])
    image = reshape(net, transpose(net, image, [1, 0, 2, 3]), [c // heads * n, heads, *size])
    y = conv(net, image, heads, kernel.shape[2], g=heads, w=kernel)
    y = transpose(net, reshape(net, y, [c // heads, n * heads, *size]), [1, 0, 2, 3])
    return transpose(net, reshape(net, y, [n, c, -1]), [0, 2, 1])


def as_matrix(net: Any, v: Any, kernel: Any, size: Sequence[int], heads: int) -> Any:
    """The same as a product with a doubly Toeplitz matrix, gathered from the kernel; 0 out of its reach."""
    n, length, c = v.shape
    k, places = kernel.shape[2], list(product(range(size[0]), range(size[1])))
    table = list[int]()
    for i, j in places:
        for a, b in places:
            u, w = a - i + k // 2, b - j + k // 2
            table.append(u * k + w if 0 <= u < k and 0 <= w < k else k * k)
    taps = net("Pad", reshape(net, kernel, [heads, k * k]), net.ints([0, 0, 0, 1]))
    a = reshape(net, net("Gather", taps, net.ints(table), axis=1), [1, heads, length, length])
    values = transpose(net, reshape(net, v, [n, length, heads, c // heads]), [0, 2, 1, 3])
    return reshape(net, transpose(net, net("MatMul", a, values), [0, 2, 1, 3]), [n, length, c])


@block("large-kernel-conv-attention", LKCA, seeds=["000:307"], hazards="long sums")
def large_kernel_conv_attention(net: Any, x: Any) -> Any:
    """A token mixer that is one large kernel a head, as a convolution or as a gathered Toeplitz matrix; stresses both lowerings."""
    heads, k = heads_that_fit(net, x), net.pick((7, 11, 13))
    v, kernel = linear(net, tokens(net, x), channels(x)), net.weight(heads, 1, k, k)
    view = as_convolution if net.flag() else as_matrix
    return linear(net, view(net, v, kernel, spatial(x), heads), channels(x))


@block("large-kernel-conv-attention/toeplitz-gather", LKCA)
def toeplitz_gather(net: Any, x: Any) -> Any:
    """The matrix form alone, on the values as they are."""
    heads, k = heads_that_fit(net, x), net.pick((5, 7))
    return as_matrix(net, tokens(net, x), net.weight(heads, 1, k, k), spatial(x), heads)


@relation("large-kernel-conv-attention/toeplitz", of="large-kernel-conv-attention")
def toeplitz_is_convolution(net: Any, x: Any) -> Any:
    """The convolution of the image is the product with its Toeplitz matrix."""
    heads, k = heads_that_fit(net, x), net.pick((5, 7, 13))
    v, kernel = tokens(net, x), net.weight(heads, 1, k, k)
    return as_convolution(net, v, kernel, spatial(x), heads), as_matrix(net, v, kernel, spatial(x), heads)


LKA = "Large-kernel Attention for Efficient and Robust Brain Lesion Segmentation"


def any_norm(net: Any, x: Any, kind: str) -> Any:
    return {"instance": instance_norm, "batch": bn}[kind](net, x) if kind != "group" else group_norm(net, x, 2)


def lka(net: Any, x: Any, kind: str, k: int, k_dilated: int, d: int) -> Any:
    """The attention half, then a feed-forward half with a depthwise convolution in it."""
    c, ones = channels(x), [1] * len(spatial(x))
    p = act(net, pointwise(net, any_norm(net, x, kind), c, bias=True), "Gelu")
    a = pointwise(net, depthwise(net, depthwise(net, p, k, bias=True), k_dilated, d=d, bias=True), c, bias=True)
    y = add(net, x, mul(net, pointwise(net, mul(net, a, p), c), net.weight(c, *ones)))
    return add(net, y, mul(net, van_ffn(net, any_norm(net, y, kind)), net.weight(c, *ones)))


def van_ffn(net: Any, x: Any) -> Any:
    c, e = channels(x), 2
    return pointwise(net, act(net, depthwise(net, pointwise(net, x, e * c), bias=True), "Gelu"), c)


@block("lka-block-3d", LKA, seeds=["000:217"], dims=(3, 1, 2), hazards="products of features")
def lka_block_3d(net: Any, x: Any) -> Any:
    """Attention by a decomposed large kernel, multiplied on; stresses depthwise dilated convolution in three dims."""
    return lka(net, x, net.pick(("instance", "batch", "group")), net.pick((5, 3)), net.pick((7, 5)), net.pick((3, 2)))


@block("lka-block-3d/van-ffn", LKA, dims=(1, 2, 3))
def van_ffn_block(net: Any, x: Any) -> Any:
    """The feed-forward half with its residual."""
    return add(net, x, van_ffn(net, bn(net, x)))


@block("lka-block-3d/net", LKA, dims=(2, 3), even=2)
def lka_net(net: Any, x: Any) -> Any:
    """A U-shape of one level with an attention block on each side."""
    y = lka(net, conv_bn_act(net, x, 8), "instance", 3, 3, 2)
    low = lka(net, conv(net, y, 12, 2, s=2, pad=0), "instance", 3, 3, 2)
    return conv(net, conv_bn_act(net, concat(net, upconv(net, low, 8), y), 8), 3, 1, bias=True)


@relation("lka-block-3d/composed", of="lka-block-3d", dims=(1, 2, 3))
def lka_composed(net: Any, x: Any) -> Any:
    """A kernel and then a dilated one are one kernel, their full convolution; all padding first, as border values differ otherwise."""
    rank = len(spatial(x))
    x = slice_(net, x, 0, 4, 1) if rank == 3 else x
    c = channels(x)
    k, k2, d = net.pick(((3, 3, 2), (5, 3, 3), (5, 7, 3)) if rank == 1 else ((3, 3, 2), (3, 3, 3)))
    w1, w2 = net.weight(c, 1, *[k] * rank), net.weight(c, 1, *[k2] * rank)
    half = (k - 1) // 2 + d * (k2 - 1) // 2
    wide = pad(net, x, [half] * rank, [half] * rank)
    left = conv(net, conv(net, wide, c, k, g=c, pad=0, w=w1), c, k2, d=d, g=c, pad=0, w=w2)
    turned = reshape(net, w1, [1, c, *[k] * rank])
    kernel = net("ConvTranspose", turned, w2, kernel_shape=[k2] * rank, dilations=[d] * rank, group=c)
    size = k + d * (k2 - 1)
    return left, conv(net, wide, c, size, g=c, pad=0, w=reshape(net, kernel, [c, 1, *[size] * rank]))


PARCNET = "ParCNetV2: Oversized Kernel with Enhanced Attention"


def oversized(net: Any, x: Any, axis: int, resized: bool = False) -> Any:
    """A depthwise kernel along one axis so long that every output sees every input. resized: trained at another size."""
    c, rank, n = channels(x), len(spatial(x)), spatial(x)[axis]
    kernel = [2 * n - 1 if i == axis else 1 for i in range(rank)]
    if not resized:
        return conv(net, x, c, kernel, g=c)
    trained = net.weight(c, 1, *[9 if i == axis else 1 for i in range(rank)])
    return conv(net, x, c, kernel, g=c, w=resize(net, trained, kernel, "linear"))


def gate_unit(net: Any, x: Any, spatially: bool) -> Any:
    c = channels(x)
    a, b = split(net, pointwise(net, bn(net, x), 2 * c), 2)
    a = act(net, a, "Gelu")
    if spatially:
        for axis in range(len(spatial(x))):
            a = oversized(net, a, axis)
    return pointwise(net, mul(net, a, b), c)


@block("parcnetv2-oversized-conv", PARCNET, seeds=["000:29"], dims=(2, 1), hazards="long sums")
def parcnetv2_oversized_conv(net: Any, x: Any) -> Any:
    """Gated units over space and channels, the spatial one by kernels longer than the map; stresses kernels mostly over padding."""
    x = add(net, x, gate_unit(net, x, True))
    return add(net, x, gate_unit(net, x, False))


@block("parcnetv2-oversized-conv/uniform-local-global", PARCNET, dims=(2, 1))
def uniform_local_global(net: Any, x: Any) -> Any:
    """A 7-tap kernel beside an oversized one, whose weight may be resized to this map."""
    return add(net, depthwise(net, x, 7), oversized(net, x, len(spatial(x)) - 1, net.flag()))


@block("parcnetv2-oversized-conv/bgu", PARCNET, dims=(2, 1))
def bifurcate_gate_unit(net: Any, x: Any) -> Any:
    """The gate over channels with its residual."""
    return add(net, x, gate_unit(net, x, False))


def circular(net: Any, x: Any, w: Any, axis: int) -> Any:
    """A depthwise kernel as long as an axis, over the axis joined to itself."""
    n = x.shape[axis + 2]
    return conv(net, concat(net, x, slice_(net, x, 0, n - 1, axis + 2), axis=axis + 2), channels(x), w.shape[2:], g=channels(x), pad=0, w=w)


@block("parcnetv2-oversized-conv/circular", PARCNET, dims=(2, 1))
def parc_circular(net: Any, x: Any) -> Any:
    """The first version: circular kernels along each axis."""
    c, rank = channels(x), len(spatial(x))
    for axis in range(rank):
        x = circular(net, x, net.weight(c, 1, *[n if i == axis else 1 for i, n in enumerate(spatial(x))]), axis)
    return act(net, bn(net, x))


@relation("parcnetv2-oversized-conv/roll", of="parcnetv2-oversized-conv", dims=(2, 1))
def circular_roll(net: Any, x: Any) -> Any:
    """A circular convolution of rolled features is the rolled circular convolution."""
    axis = len(spatial(x)) - 1
    n = spatial(x)[axis]
    w, by = net.weight(channels(x), 1, *[n if i == axis else 1 for i in range(axis + 1)]), net.int(1, n - 1)

    def rolled(v: Any) -> Any:
        return concat(net, slice_(net, v, by, n, axis + 2), slice_(net, v, 0, by, axis + 2), axis=axis + 2)

    return circular(net, rolled(x), w, axis), rolled(circular(net, x, w, axis))


R2PLUS1D = "Classification of Brain Tumours in MR Images using Deep Spatiospatial Models"


def conv_3d(net: Any, x: Any, out: int, s: int, variant: str) -> Any:
    """In the plane and then across, or in the plane alone, or at once."""
    if variant == "r3d":
        return conv(net, x, out, s=s)
    c = channels(x)
    middle = max(27 * c * out // (9 * c + 3 * out), 1) if variant == "r2plus1d" else out
    w = net.weight(middle, c, 1, 3, 3)
    h = net("Conv", x, w, kernel_shape=[1, 3, 3], strides=[1, s, s], pads=[0, 1, 1] * 2)
    if variant == "mc3":
        return h
    w = net.weight(out, middle, 3, 1, 1)
    return net("Conv", act(net, bn(net, h)), w, kernel_shape=[3, 1, 1], strides=[s, 1, 1], pads=[1, 0, 0] * 2)


def spatiospatial(net: Any, x: Any, out: int, s: int, variant: str) -> Any:
    f = act(net, bn(net, conv_3d(net, x, out, s, variant)))
    f = bn(net, conv_3d(net, f, out, 1, variant))
    if s == 1 and out == channels(x):
        return act(net, add(net, f, x))
    strides = [1 if variant == "mc3" else s, s, s]
    shortcut = net("Conv", x, net.weight(out, channels(x), 1, 1, 1), kernel_shape=[1, 1, 1], strides=strides)
    return act(net, add(net, f, bn(net, shortcut)))


@block("r2plus1d-block", R2PLUS1D, seeds=["000:149"], dims=(3,), hazards="none special")
def r2plus1d_block(net: Any, x: Any) -> Any:
    """A residual block of volumes convolved in the plane and then across; stresses kernels of one tap on an axis."""
    return spatiospatial(net, x, net.pick((8, 12)), net.pick((1, 2)), net.pick(("r2plus1d", "mc3", "r3d")))


@block("r2plus1d-block/net", R2PLUS1D, dims=(3,))
def r2plus1d_net(net: Any, x: Any) -> Any:
    """A stem, a block in three dims, a block in the form drawn, a head."""
    variant = net.pick(("r2plus1d", "mc3", "r3d"))
    y = spatiospatial(net, conv_bn_act(net, x, 4), 8, 1, "r3d" if variant == "mc3" else variant)
    return classifier(net, spatiospatial(net, y, 12, 2, variant))


@relation("r2plus1d-block/merge", of="r2plus1d-block", dims=(3,))
def factors_merged(net: Any, x: Any) -> Any:
    """With nothing between, the two convolutions are one whose kernel is the product of theirs."""
    c, s = channels(x), net.pick((1, 2))
    plane, across = net.weight(5, c, 1, 3, 3), net.weight(6, 5, 3, 1, 1)
    h = net("Conv", x, plane, kernel_shape=[1, 3, 3], strides=[1, s, s], pads=[0, 1, 1] * 2)
    left = net("Conv", h, across, kernel_shape=[3, 1, 1], strides=[s, 1, 1], pads=[1, 0, 0] * 2)
    kernel = net("Einsum", reshape(net, across, [6, 5, 3]), reshape(net, plane, [5, c, 3, 3]), equation="omt,mcij->octij")
    return left, conv(net, x, 6, s=s, w=kernel)


SCALECRAFTER = "ScaleCrafter: Tuning-free Higher-Resolution Visual Generation with Diffusion Models"


def redilated(net: Any, x: Any, w: Any, d: float) -> Any:
    """The trained 3x3 kernel at dilation d; between integers, at the next one on a map that is resized to suit, and back."""
    whole = -int(-d // 1)
    if whole == d:
        return dilated(net, x, w, [whole] * 2)
    size = [-int(-n * whole / d // 1) for n in spatial(x)]
    return resize(net, dilated(net, resize(net, x, size, "linear"), w, [whole] * 2), spatial(x), "linear")


@block("scalecrafter-redilation", SCALECRAFTER, seeds=["000:61"], hazards="sizes rounded by Resize")
def scalecrafter_redilation(net: Any, x: Any) -> Any:
    """Trained kernels used at a larger, possibly fractional dilation; stresses Resize around dilated convolution."""
    d, c = net.pick((2, 1, 1.5, 3, 2.5)), channels(x)
    h = act(net, group_norm(net, redilated(net, x, net.weight(8, c, 3, 3), d), 2), "Silu")
    return redilated(net, h, net.weight(c, 8, 3, 3), d)


@block("scalecrafter-redilation/conv-dispersion", SCALECRAFTER)
def conv_dispersion(net: Any, x: Any) -> Any:
    """A 3x3 kernel enlarged to 5x5 by a constant matrix, in the graph; stresses a computed convolution weight.

    Assumed: the matrix is linear interpolation on each axis instead of the least-squares solution.
    """
    c, one = channels(x), [[1.0, 0, 0], [0.5, 0.5, 0], [0, 1.0, 0], [0, 0.5, 0.5], [0, 0, 1.0]]
    spread = [[a[i] * b[j] / 4 for a in one for b in one] for i, j in product(range(3), range(3))]
    w = net("MatMul", reshape(net, net.weight(6, c, 3, 3), [6, c, 9]), net.const(spread))
    return conv(net, x, 6, 5, w=reshape(net, w, [6, c, 5, 5]))


@block("scalecrafter-redilation/noise-damped-guidance", SCALECRAFTER, hazards="cancellation between two passes")
def noise_damped_guidance(net: Any, x: Any) -> Any:
    """Denoising by the dilated network plus guidance by the original one: three passes with the same weights."""
    c = channels(x)
    w1, w2, label = net.weight(6, c, 3, 3), net.weight(c, 6, 3, 3), net.weight(6, 1, 1)

    def denoise(d: int, given: bool) -> Any:
        h = dilated(net, x, w1, [d] * 2)
        h = act(net, net("Add", h, label) if given else h, "Silu")
        return dilated(net, h, w2, [d] * 2)

    guidance = net("Sub", denoise(1, True), denoise(1, False))
    return net("Add", denoise(net.pick((2, 3)), False), mul(net, guidance, net.const(7.5)))


@relation("scalecrafter-redilation/zero-stuffed", of="scalecrafter-redilation", dims=(1, 2, 3))
def redilation_stuffed(net: Any, x: Any) -> Any:
    """A dilated convolution is a dense one with zeros between the taps."""
    rank = len(spatial(x))
    w, d = net.weight(3, channels(x), *[3] * rank), [net.pick((2, 3, 1, 4) if rank < 3 else (2, 1))] * rank
    return dilated(net, x, w, d), dilated(net, x, stuffed(net, w, d), [1] * rank)


SPD = "No More Strided Convolutions or Pooling: A New CNN Building Block for Low-Resolution Images and Small Objects"


def space_to_depth(net: Any, x: Any, s: int) -> Any:
    """Strided slices side by side, the first spatial axis fastest."""
    rank, parts = len(spatial(x)), list[Any]()
    for reversed_phases in product(range(s), repeat=rank):
        part = x
        for axis, phase in enumerate(reversed(reversed_phases), 2):
            part = slice_(net, part, phase, x.shape[axis], axis, s)
        parts.append(part)
    return concat(net, *parts)


@block("spd-conv", SPD, seeds=["000:239"], dims=(1, 2, 3), even=4, hazards="none special")
def spd_conv(net: Any, x: Any) -> Any:
    """Space to depth by strided slices, then a convolution of stride 1; stresses Slice and Concat as data movement."""
    s = net.pick((2, 4)) if len(spatial(x)) < 3 else 2
    return conv_bn_act(net, space_to_depth(net, x, s), net.pick((8, 16)), net.pick((3, 1)), "Silu")


@block("spd-conv/focus", SPD, even=2)
def focus_stem(net: Any, x: Any) -> Any:
    """The same slices at the stem of a detector, before and after a convolution."""
    return conv_bn_act(net, space_to_depth(net, conv_bn_act(net, x, 4), 2), 12, kind="Silu")


@relation("spd-conv/strided-conv", of="spd-conv", dims=(1, 2, 3), even=4)
def spd_strided_conv(net: Any, x: Any) -> Any:
    """A 3-tap strided convolution is space to depth and a 2-tap one, its kernel padded with zeros and rearranged."""
    rank, c, s = len(spatial(x)), channels(x), net.pick((2, 4)) if len(spatial(x)) < 3 else 2
    w = net.weight(6, c, *[3] * rank)
    wide = net("Pad", w, net.ints([0, 0, *[s - 1] * rank, 0, 0, *[s - 2] * rank]))  # taps -s .. s-1 of a padded step
    wide = reshape(net, wide, [6, c, *[2, s] * rank])
    phases, taps = [3 + 2 * i for i in range(rank)], [2 + 2 * i for i in range(rank)]
    kernel = reshape(net, transpose(net, wide, [0, *reversed(phases), 1, *taps]), [6, c * s**rank, *[2] * rank])
    deep = pad(net, space_to_depth(net, x, s), [1] * rank, [0] * rank)
    return conv(net, x, 6, s=s, w=w), conv(net, deep, 6, 2, pad=0, w=kernel)


@relation("spd-conv/space-to-depth", of="spd-conv", even=4)
def spd_space_to_depth(net: Any, x: Any) -> Any:
    """The slices are SpaceToDepth with the two phases of each channel exchanged."""
    (n, c, h, w), s = x.shape, net.pick((2, 4))
    deep = reshape(net, net("SpaceToDepth", x, blocksize=s), [n, s, s, c, h // s, w // s])
    return space_to_depth(net, x, s), reshape(net, transpose(net, deep, [0, 2, 1, 3, 4, 5]), [n, s * s * c, h // s, w // s])
