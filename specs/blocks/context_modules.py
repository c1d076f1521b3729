"""Context at one scale: atrous pyramids, pooled pyramids, references to the image, gates of three levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from specs.blocks.layers import (
    act,
    add,
    bn,
    channels,
    concat,
    conv,
    gap,
    mul,
    pointwise,
    reduce,
    reshape,
    resize,
    slice_,
    softmax,
    spatial,
    transpose,
)
from specs.blocks.parts import channel_pools, squeeze_excite
from specs.blocks.pyramids import aspp, backbone, deform, separable
from specs.blocks.u_shapes import classes, sigmoid_head, unit
from specs.net import block, need

DEEPLAB3 = "Rethinking Atrous Convolution for Semantic Image Segmentation"
DEPTH = "Detail Preserving Depth Estimation from a Single Image Using Attention Guided Networks"
BIREF = "Bilateral Reference for High-Resolution Dichotomous Image Segmentation"
DDR = "Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road Scenes"
DEEPLAB3P = "Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation"
TRINET = "DeepTriNet: A Tri-Level Attention Based DeepLabv3+ Architecture for Semantic Segmentation of Satellite Images"
RATES = ((1, 2, 3), (6, 12, 18), (12, 24, 36))


@block("aspp-deeplabv3", DEEPLAB3, seeds=["000:417", "002:43"], dims=(2, 3), hazards="mostly padding, resize from one position")
def aspp_deeplabv3(net: Any, x: Any) -> Any:
    """1x1, three dilations and the image level, concatenated; stresses dilations beyond the map and Resize from 1x1."""
    return aspp(net, x, net.pick((8, 4)), net.pick(RATES), align_corners=net.flag(0.3))


def _bottleneck(net: Any, x: Any, inner: int, d: int) -> Any:
    y = unit(net, unit(net, x, inner, 1), inner, 3, d=d)
    return act(net, add(net, unit(net, y, channels(x), 1, kind=""), x))


@block("aspp-deeplabv3/multi-grid", DEEPLAB3, seeds=["000:417", "002:43"], dims=(1, 2, 3))
def aspp_multi_grid(net: Any, x: Any) -> Any:
    """Three bottlenecks with dilations rate times 1, 2, 4 instead of strides."""
    rate = net.pick((1, 2, 4))
    for d in net.pick(((1, 2, 4), (1, 1, 1))):
        x = _bottleneck(net, x, 4, rate * d)
    return x


@block("aspp-deeplabv3/net", DEEPLAB3, seeds=["000:417", "002:43"], dims=(2, 3))
def aspp_deeplabv3_net(net: Any, x: Any) -> Any:
    """Strided stem, multi-grid, ASPP, classes resized to the input."""
    y = _bottleneck(net, _bottleneck(net, backbone(net, x, (8, 8))[-1], 4, 2), 4, 4)
    y = pointwise(net, aspp(net, y, 8, net.pick(RATES)), net.pick((3, 21)), bias=True)
    return resize(net, y, spatial(x), "linear", net.flag(0.3))


def fuse_scales(net: Any, features: Sequence[Any], c: int, how: str) -> Any:
    """Maps projected, resized to the first one's size and summed under weights: a softmax over scales, or channel gates."""
    maps = [unit(net, f, c, 1) for f in features]
    maps = [m if spatial(m) == spatial(maps[0]) else resize(net, m, spatial(maps[0]), "linear") for m in maps]
    if how == "gates":
        return net("Sum", *(squeeze_excite(net, m, inner=c // 2, bias=True) for m in maps))
    weights = net("Unsqueeze", softmax(net, conv(net, concat(net, *maps), len(maps), 3, bias=True), 1), net.ints([2]))
    stack = net("Concat", *(net("Unsqueeze", m, net.ints([1])) for m in maps), axis=1)
    return reduce(net, "ReduceSum", mul(net, stack, weights), [1], 0)


@block("attention-fused-dense-depth", DEPTH, seeds=["002:211"], hazards="softmax over few scales")
def attention_fused_dense_depth(net: Any, x: Any) -> Any:
    """Taps of a dilated trunk fused by a softmax over scales; stresses stacks of rank 5. Assumed: the form of the gate."""
    taps = [unit(net, x, 8)]
    for d in (2, 4, 8)[: net.pick((2, 3))]:
        taps.append(unit(net, taps[-1], 8, d=d))
    return fuse_scales(net, taps, net.pick((8, 4)), net.pick(("softmax", "gates")))


@block("attention-fused-dense-depth/berhu", DEPTH, seeds=["002:211"], dims=(1, 2, 3), hazards="the seam of both branches, division by the largest error")
def attention_berhu(net: Any, x: Any) -> Any:
    """Reverse Huber loss: |d| up to a fifth of the largest error, quadratic beyond."""
    d = net("Abs", net("Sub", x, net.input(*x.shape)))
    c = net("Add", net("Mul", reduce(net, "ReduceMax", d, list(range(len(x.shape)))), net.const(0.2)), net.const(1e-3))
    far = net("Div", net("Add", mul(net, d, d), mul(net, c, c)), net("Mul", c, net.const(2.0)))
    return net("Where", net("Greater", d, c), far, d)


@block("attention-fused-dense-depth/net", DEPTH, seeds=["002:211"])
def attention_depth_net(net: Any, x: Any) -> Any:
    """Stem, taps at two sizes, fusion, two doublings, a positive depth. Assumed: as in the block."""
    fine, coarse = backbone(net, x, (8, 16))
    y = unit(net, fuse_scales(net, [fine, unit(net, coarse, 8, d=2), coarse], 8, "softmax"), 8)
    return act(net, conv(net, unit(net, resize(net, y, spatial(x), "linear"), 8), 1, 3, bias=True), net.pick(("Relu", "Softplus")))


def patches(net: Any, image: Any, size: Sequence[int]) -> Any:
    """The image cut in pieces of a size, stacked as channels: no position is averaged away."""
    n, c, (h, w) = image.shape[0], channels(image), size
    need(image.shape[2] % h == 0 and image.shape[3] % w == 0, f"patches of {size} from {spatial(image)}")
    a, b = image.shape[2] // h, image.shape[3] // w
    y = transpose(net, reshape(net, image, [n, c, a, h, b, w]), [0, 1, 2, 4, 3, 5])
    return reshape(net, y, [n, c * a * b, h, w])


def _reconstruction(net: Any, x: Any, kernels: Sequence[int]) -> Any:
    """Parallel deformable convolutions and the image level."""
    y = unit(net, x, 4)
    maps = [act(net, bn(net, deform(net, y, 4, k))) for k in kernels]
    pooled = net("Expand", unit(net, gap(net, y), 4, 1), net.ints([x.shape[0], 4, *spatial(x)]))
    return unit(net, concat(net, *maps, pooled), 8, 1)


@block("birefnet-biref-decoder", BIREF, seeds=["000:173"], hazards="sampling outside the map")
def birefnet_biref_decoder(net: Any, x: Any) -> Any:
    """Patches of the image beside the features, deformable kernels, an attention map; stresses sampling and 6-D transposes."""
    scale = net.pick((1, 2))
    image = net.input(x.shape[0], 3, *(n * scale for n in spatial(x)))
    y = _reconstruction(net, concat(net, pointwise(net, x, 4), patches(net, image, spatial(x))), (1, 3) if net.opset >= 16 else (3,))
    return mul(net, y, sigmoid_head(net, y))


@block("birefnet-biref-decoder/dcnv2", BIREF, seeds=["000:173"], hazards="sampling outside the map")
def birefnet_dcnv2(net: Any, x: Any) -> Any:
    """Modulated deformable convolution: the operator, or gathered corners before opset 19."""
    return deform(net, pointwise(net, x, 4), 4, net.pick((3, 1, 7)) if net.opset >= 19 else net.pick((3, 1)))


@block("birefnet-biref-decoder/iou-loss", BIREF, seeds=["000:173"], dims=(2, 3))
def birefnet_iou(net: Any, x: Any) -> Any:
    """1 - (intersection + 1) / (union + 1) of two soft masks."""
    p, g, axes = sigmoid_head(net, x), act(net, net.input(x.shape[0], 1, *spatial(x)), "Sigmoid"), list(range(1, len(x.shape)))
    both = reduce(net, "ReduceSum", mul(net, p, g), axes, 0)
    union = net("Sub", reduce(net, "ReduceSum", add(net, p, g), axes, 0), both)
    return net("Sub", net.const(1.0), net("Div", net("Add", both, net.const(1.0)), net("Add", union, net.const(1.0))))


@block("birefnet-biref-decoder/ssim-loss", BIREF, seeds=["000:173"], hazards="cancellation in the variances")
def birefnet_ssim(net: Any, x: Any) -> Any:
    """1 - SSIM by a Gaussian depthwise kernel; variances as E[x^2] - E[x]^2."""
    c, k = channels(x), net.pick((5, 3))
    bell = np.exp(-0.5 * ((np.arange(k) - k // 2) / 1.5) ** 2)
    w = net.const(np.tile((np.outer(bell, bell) / np.outer(bell, bell).sum())[None, None], [c, 1, 1, 1]))
    blur = lambda v: conv(net, v, c, k, g=c, w=w)
    x, y = act(net, x, "Sigmoid"), act(net, net.input(*x.shape), "Sigmoid")
    a, b = blur(x), blur(y)
    ab, aa, bb = mul(net, a, b), mul(net, a, a), mul(net, b, b)
    cross = net("Sub", blur(mul(net, x, y)), ab)
    spread = net("Sub", add(net, blur(mul(net, x, x)), blur(mul(net, y, y))), add(net, aa, bb))
    twice = lambda v, e: net("Add", net("Mul", v, net.const(2.0)), net.const(e))
    below = mul(net, net("Add", add(net, aa, bb), net.const(1e-4)), net("Add", spread, net.const(9e-4)))
    return net("Sub", net.const(1.0), net("Div", mul(net, twice(ab, 1e-4), twice(cross, 9e-4)), below))


@block("birefnet-biref-decoder/net", BIREF, seeds=["000:173"], even=4, hazards="sampling outside the map")
def birefnet_net(net: Any, x: Any) -> Any:
    """Two encoder scales, ASPP, two decoder stages with references to the image, gradient attention, a mask."""
    x = slice_(net, x, 0, 3, 1)
    fine, coarse = backbone(net, x, (4, 8), False)
    y = aspp(net, coarse, 4, (1, 2))
    y = _reconstruction(net, concat(net, y, patches(net, x, spatial(y))), (1, 3) if net.opset >= 19 else (3,))
    y = add(net, pointwise(net, resize(net, y, spatial(fine), "linear"), 4), pointwise(net, fine, 4))
    y = _reconstruction(net, concat(net, y, patches(net, x, spatial(y))), (1,) if net.opset >= 19 else ())
    y = mul(net, y, sigmoid_head(net, y))
    return sigmoid_head(net, resize(net, y, spatial(x), "linear"))


def pre_act(net: Any, x: Any, out: int, k: int = 1) -> Any:
    """BN-ReLU-Conv: the normalisation cannot move into the convolution before it."""
    return conv(net, act(net, bn(net, x)), out, k)


def dappm(net: Any, x: Any, m: int, out: int, include: int) -> Any:
    """Average pools of 5, 9, 17 and the whole map, each refined on top of the one before."""
    maps = [pre_act(net, x, m)]
    for i in (1, 2, 3):
        k, p = 2 ** (i + 1) + 1, 2**i
        small = net("AveragePool", x, kernel_shape=[k, k], strides=[p, p], pads=[p] * 4, count_include_pad=include)
        maps.append(pre_act(net, add(net, resize(net, pre_act(net, small, m), spatial(x), "linear"), maps[-1]), m, 3))
    maps.append(pre_act(net, add(net, resize(net, pre_act(net, gap(net, x), m), spatial(x), "linear"), maps[-1]), m, 3))
    return add(net, pre_act(net, concat(net, *maps), out), pre_act(net, x, out))


@block("dappm-ddrnet", DDR, seeds=["000:35"], hazards="borders of average pooling, resize from 1x1")
def dappm_ddrnet(net: Any, x: Any) -> Any:
    """Pooled context in a cascade; stresses count_include_pad, windows larger than the map, BN before convolutions."""
    return dappm(net, x, net.pick((4, 8)), net.pick((8, 16)), net.pick((1, 0)))


def bilateral(net: Any, high: Any, low: Any) -> tuple[Any, Any]:
    """Two resolutions exchange: high + up(1x1 low), low + strided 3x3 high."""
    up = resize(net, unit(net, low, channels(high), 1, kind=""), spatial(high), "linear")
    return act(net, add(net, high, up)), act(net, add(net, low, unit(net, high, channels(low), s=2, kind="")))


@block("dappm-ddrnet/bilateral-fusion", DDR, seeds=["000:35"], dims=(2, 3))
def dappm_bilateral(net: Any, x: Any) -> Any:
    """Exchange between a map and its half."""
    return bilateral(net, x, unit(net, x, 8, s=2))


@block("dappm-ddrnet/net", DDR, seeds=["000:35"], hazards="borders of average pooling")
def dappm_net(net: Any, x: Any) -> Any:
    """Two resolutions, an exchange, the pooled context on the low one, classes."""
    high = unit(net, x, 8)
    high, low = bilateral(net, high, unit(net, high, 8, s=2))
    low = resize(net, dappm(net, low, 4, 8, net.pick((1, 0))), spatial(x), "linear")
    return classes(net, unit(net, add(net, unit(net, high, 8), low), 8), 3)


@block("deeplabv3plus-decoder", DEEPLAB3P, seeds=["002:9"], hazards="only the centre tap inside the map, resize from 1x1")
def deeplabv3plus_decoder(net: Any, x: Any) -> Any:
    """Separable ASPP resized beside a narrow low-level map; stresses dilated depthwise kernels and explicit sizes."""
    corners = net.flag(0.3)
    deep = aspp(net, unit(net, x, 8, s=2), 8, net.pick(RATES), separable, corners)
    y = concat(net, resize(net, deep, spatial(x), "linear", corners), unit(net, x, net.pick((6, 4)), 1))
    return separable(net, y, 8, 1)


@block("deeplabv3plus-decoder/atrous-separable-conv", DEEPLAB3P, seeds=["002:9"], dims=(1, 2, 3), hazards="only the centre tap inside the map")
def deeplabv3plus_separable(net: Any, x: Any) -> Any:
    """Dilated depthwise convolution and a 1x1 one, each normalised."""
    return separable(net, x, net.pick((8, 16)), net.pick((2, 1, 6, 12)))


@block("deeplabv3plus-decoder/xception", DEEPLAB3P, seeds=["002:9"], dims=(2, 3))
def deeplabv3plus_xception(net: Any, x: Any) -> Any:
    """Three separable convolutions, the last one strided instead of a pool, beside a strided 1x1 shortcut."""
    y = separable(net, separable(net, x, 8, 1), 8, 1)
    y = unit(net, act(net, bn(net, conv(net, y, 8, 3, s=2, g=8))), 16, 1, kind="")
    return add(net, y, unit(net, x, 16, 1, s=2, kind=""))


@block("deeplabv3plus-decoder/net", DEEPLAB3P, seeds=["002:9"])
def deeplabv3plus_net(net: Any, x: Any) -> Any:
    """Backbone of two strides, separable ASPP, decoder, classes at the input's size."""
    fine, deep = backbone(net, x, (8, 16))
    y = resize(net, aspp(net, deep, 8, net.pick(RATES), separable), spatial(fine), "linear")
    y = separable(net, concat(net, y, unit(net, fine, 4, 1)), 8, 1)
    return resize(net, classes(net, y, 3), spatial(x), "linear", net.flag(0.3))


def tri_level(net: Any, x: Any, r: int, series: bool) -> Any:
    """Channel, spatial and pixel gates, one after the other or summed."""
    gates = [
        lambda v: squeeze_excite(net, v, inner=channels(v) // r, bias=True),
        lambda v: mul(net, v, act(net, conv(net, channel_pools(net, v), 1, 7), "Sigmoid")),
        lambda v: mul(net, v, sigmoid_head(net, v, channels(v))),
    ]
    if series:
        return pointwise(net, gates[2](gates[1](gates[0](x))), channels(x))
    return pointwise(net, net("Sum", *(g(x) for g in gates)), channels(x))


@block("deeptrinet-tau", TRINET, seeds=["002:233"], dims=(1, 2, 3), hazards="products of three sigmoids")
def deeptrinet_tau(net: Any, x: Any) -> Any:
    """Three gates of three broadcast shapes. Assumed: in series or summed."""
    return tri_level(net, x, net.pick((4, 2, 8)), not net.flag(0.4))


@block("deeptrinet-tau/net", TRINET, seeds=["002:233"], hazards="products of three sigmoids")
def deeptrinet_net(net: Any, x: Any) -> Any:
    """DeepLabv3+ with a channel gate behind ASPP and the three gates on the encoder. Assumed: as in the block."""
    fine, deep = backbone(net, x, (8, 16), False)
    y = squeeze_excite(net, aspp(net, tri_level(net, deep, 8, True), 8, net.pick(((1, 2), (6, 12)))), inner=2, bias=True)
    y = unit(net, concat(net, resize(net, y, spatial(fine), "linear"), unit(net, fine, 4, 1)), 8)
    return resize(net, classes(net, y, 3), spatial(x), "linear")
