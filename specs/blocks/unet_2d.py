"""Two-dimensional U-Nets: gates on skips, residual and nested stages, dilations at the bottom."""

from __future__ import annotations

from typing import Any

from specs.blocks.layers import act, add, bn, channels, concat, conv, depthwise, mean, mul, pad, pointwise, pool, resize, softmax, spatial
from specs.blocks.parts import squeeze_excite
from specs.blocks.pyramids import aspp, side_outputs
from specs.blocks.u_shapes import (
    attention_gate,
    classes,
    double,
    fit,
    gated,
    halve,
    levels,
    nearest,
    pixel_shuffle,
    pixel_unshuffle,
    smooth,
    transposed,
    u_shape,
    unit,
)
from specs.net import block, need

AGU = "Immunohistochemistry guided segmentation of benign epithelial cells, in situ lesions, and invasive epithelial cells in breast cancer slides"
VARIANTS = "Performance Analysis of UNet and Variants for Medical Image Segmentation"
EFFNET = "Enhancing Brain Tumor Segmentation Using Channel Attention and Transfer learning"
RESUNETPP = "ResUNet++: An Advanced Architecture for Medical Image Segmentation"
U2NET = "U^2-Net: Going Deeper with Nested U-Structure for Salient Object Detection"
SHUFFLE = "ShuffleUNet: Super resolution of diffusion-weighted MRIs using deep learning"
LUMBAR = "Automatic Semantic Segmentation of the Lumbar Spine: Clinical Applicability in a Multi-parametric and Multi-centre Study on Magnetic Resonance Images"
UNETPP = "UNet++: A Nested U-Net Architecture for Medical Image Segmentation"


def _pyramid(net: Any, x: Any, depth: int) -> Any:
    """What enters each level besides the features: the image averaged down, through a convolution."""
    images = [x]
    for _ in range(depth):
        images.append(pool(net, images[-1], "AveragePool"))
    return lambda net, v, level: v if level == 0 else concat(net, unit(net, images[level], 8, norm=""), v)


@block("agu-net", AGU, seeds=["004:111"], hazards="sigmoid gate")
def agu_net(net: Any, x: Any) -> Any:
    """One level of a U-Net whose encoder also takes the averaged image; stresses pooled inputs and outputs of two sizes.

    Assumed: the attention-gated U-Net of the same group.
    """
    fine, coarse = u_shape(net, x, [8, 16], join=gated, enter=_pyramid(net, x, 1))
    return fine, classes(net, coarse, net.pick((2, 4)))


@block("agu-net/attention-gate", AGU, seeds=["004:111"], dims=(1, 2, 3), hazards="sigmoid saturation")
def agu_attention_gate(net: Any, x: Any) -> Any:
    """An additive gate from the level below on a skip; stresses the broadcast of one channel over all."""
    g = unit(net, halve(net, x), channels(x))
    return attention_gate(net, x, transposed(net, g, spatial(x), channels(x)), net.pick((4, 8, 1)))


@block("agu-net/net", AGU, seeds=["004:111"], hazards="sigmoid gate")
def agu_net_net(net: Any, x: Any) -> Any:
    """The whole with deep supervision: a softmax at every level, all resized. Assumed: the group's attention-gated U-Net."""
    depth, n, base = levels(net, x, 2), net.pick((2, 4)), net.pick((8, 4))
    outs = u_shape(net, x, [base << i for i in range(depth + 1)], join=gated, rise=net.pick((transposed, nearest)), enter=_pyramid(net, x, depth))
    return [resize(net, classes(net, y, n), spatial(x)) for y in outs]


def _res_block(net: Any, x: Any, out: int) -> Any:
    y = unit(net, unit(net, x, out), out, kind="")
    return act(net, add(net, y, unit(net, x, out, 1, kind="")))


def _grid_gate(net: Any, skip: Any, up: Any, coarse: Any) -> Any:
    """Gate computed on the coarse grid, repeated over positions and channels."""
    g = unit(net, coarse, channels(skip), 1)
    theta = conv(net, skip, channels(skip), 2, s=2, pad=0)
    a = act(net, pointwise(net, act(net, add(net, theta, fit(net, g, spatial(theta)))), 1, bias=True), "Sigmoid")
    a = net("Expand", resize(net, a, spatial(skip)), net.ints(skip.shape))
    return concat(net, bn(net, pointwise(net, mul(net, a, skip), channels(skip))), up)


@block("attention-res-unet", VARIANTS, seeds=["000:125"], hazards="batch norm and sigmoid")
def attention_res_unet(net: Any, x: Any) -> Any:
    """A gate of a strided 2x2 convolution on the coarse grid; stresses Expand along channels against broadcasting."""
    coarse = _res_block(net, halve(net, x), 2 * channels(x))
    return _res_block(net, _grid_gate(net, x, nearest(net, coarse, spatial(x), 0), coarse), channels(x))


@block("attention-res-unet/res-block", VARIANTS, seeds=["000:125"], dims=(1, 2, 3))
def attention_res_unet_res_block(net: Any, x: Any) -> Any:
    """Conv-BN-ReLU-Conv-BN with a normalised 1x1 shortcut; stresses conv-bn-add-relu fusion."""
    return _res_block(net, x, net.pick((16, 8, 32)))


@block("attention-res-unet/net", VARIANTS, seeds=["000:125"], hazards="batch norm and sigmoid")
def attention_res_unet_net(net: Any, x: Any) -> Any:
    """Residual stages, gates on every skip, nearest upsampling."""
    base = net.pick((8, 4))
    widths = [base << i for i in range(levels(net, x, 2) + 1)]
    return classes(net, u_shape(net, x, widths, stage=_res_block, rise=nearest, join=_grid_gate)[0], net.pick((1, 3)))


def mbconv(net: Any, x: Any, out: int, k: int = 3, s: int = 1, expand: int = 6) -> Any:
    """Inverted residual with squeeze-excitation; stride 2 pads after more than before, as ports from TensorFlow do."""
    y, rank = unit(net, x, channels(x) * expand, 1, kind="Silu"), len(x.shape) - 2
    if s == 1:
        y = depthwise(net, y, k)
    else:
        total = [max(0, (-(-n // s) - 1) * s + k - n) for n in spatial(x)]
        y = pad(net, y, [t // 2 for t in total], [t - t // 2 for t in total])
        y = conv(net, y, channels(y), k, s=s, g=channels(y), pad=[0] * rank)
    y = squeeze_excite(net, act(net, bn(net, y), "Silu"), inner=channels(x) // 4, kind="Silu", bias=True)
    y = unit(net, y, out, 1, kind="")
    return add(net, x, y) if s == 1 and out == channels(x) else y


def _pre_act(net: Any, x: Any, out: int, s: int = 1) -> Any:
    """BN-ReLU-Conv twice, plus a 1x1 shortcut."""
    y = conv(net, act(net, bn(net, x)), out, 3, s=s)
    y = conv(net, act(net, bn(net, y)), out, 3)
    return add(net, y, bn(net, conv(net, x, out, 1, s=s)))


def _se_stage(net: Any, x: Any, out: int) -> Any:
    return squeeze_excite(net, _pre_act(net, x, out), inner=out // net.pick((8, 4)), bias=True)


@block("effnet-ca-aspp-resunet", EFFNET, seeds=["002:229"], hazards="SiLU and gate saturation, dilation larger than the map")
def effnet_ca_aspp_resunet(net: Any, x: Any) -> Any:
    """ASPP under one decoder stage of residual unit and channel gate; stresses SiLU patterns, dilations, asymmetric pads."""
    low = aspp(net, mbconv(net, x, 16, net.pick((3, 5)), 2, net.pick((1, 2))), 8, net.pick(((1, 2, 3), (6, 12, 18))))
    up = net.pick((smooth, transposed))(net, low, spatial(x), 8)
    return _se_stage(net, concat(net, x, up), net.pick((16, 8)))


@block("effnet-ca-aspp-resunet/mbconv", EFFNET, seeds=["002:229"], dims=(1, 2, 3), hazards="SiLU and gate saturation")
def effnet_mbconv(net: Any, x: Any) -> Any:
    """Inverted residual of EfficientNet; stresses depthwise convolution with pads drawn out of it and SiLU fusion."""
    return mbconv(net, x, channels(x) if net.flag() else 16, net.pick((3, 5)), net.pick((1, 2)), net.pick((2, 1, 6)) if channels(x) <= 8 else 2)


@block("effnet-ca-aspp-resunet/resunet-block", EFFNET, seeds=["002:229"], dims=(1, 2, 3))
def effnet_resunet_block(net: Any, x: Any) -> Any:
    """Pre-activation residual unit: the normalisations cannot be folded into the convolution before them."""
    return _pre_act(net, x, net.pick((16, 8)), net.pick((1, 2)))


@block("effnet-ca-aspp-resunet/net", EFFNET, seeds=["002:229"], hazards="SiLU and gate saturation, dilation larger than the map")
def effnet_ca_aspp_resunet_net(net: Any, x: Any) -> Any:
    """Two strided MBConv taps, ASPP, two decoder stages, a sigmoid."""
    stem = unit(net, x, 8, kind="Silu")
    tap = mbconv(net, stem, 8, 3, 2, 2)
    y = aspp(net, mbconv(net, tap, 16, 5, 2, 2), 8, net.pick(((1, 2), (6, 12))))
    y = _se_stage(net, concat(net, tap, smooth(net, y, spatial(tap), 8)), 16)
    y = _se_stage(net, concat(net, stem, transposed(net, y, spatial(stem), 8)), 8)
    return classes(net, y, 1)


def _product_gate(net: Any, skip: Any, coarse: Any) -> Any:
    """The attention of ResUNet++: no sigmoid, the sum of both paths through ReLU multiplies the decoder's features."""
    c = channels(coarse)
    a = pool(net, conv(net, act(net, bn(net, skip)), c), "MaxPool")
    b = conv(net, act(net, bn(net, coarse)), c)
    return mul(net, pointwise(net, act(net, bn(net, add(net, fit(net, a, spatial(coarse)), b))), c, bias=True), coarse)


def _sum_aspp(net: Any, x: Any, out: int, rates: tuple[int, ...]) -> Any:
    """The variant that adds its branches."""
    y = bn(net, conv(net, x, out, 3, d=rates[0]))
    for r in rates[1:]:
        y = add(net, y, bn(net, conv(net, x, out, 3, d=r)))
    return pointwise(net, y, out, bias=True)


@block("resunet-plus-plus", RESUNETPP, seeds=["000:365"], hazards="batch norm before convolution, sigmoid saturation")
def resunet_plus_plus(net: Any, x: Any) -> Any:
    """Gate, strided pre-activation unit and channel gate of one level; stresses BN-ReLU-Conv and max pooling inside a gate."""
    c, r = channels(x), net.pick((8, 4))
    coarse = _pre_act(net, squeeze_excite(net, x, inner=c // r, bias=True), 16, 2)
    return _pre_act(net, concat(net, nearest(net, _product_gate(net, x, coarse), spatial(x), 0), x), c)


@block("resunet-plus-plus/additive-gate", RESUNETPP, seeds=["000:365"], dims=(1, 2, 3))
def resunet_plus_plus_gate(net: Any, x: Any) -> Any:
    """The additive gate without a sigmoid: a ReLU path multiplied with the decoder's features."""
    return _product_gate(net, x, _pre_act(net, x, 16, 2))


@block("resunet-plus-plus/sum-aspp", RESUNETPP, seeds=["000:365"], dims=(1, 2, 3), hazards="dilation larger than the map")
def resunet_plus_plus_aspp(net: Any, x: Any) -> Any:
    """Parallel dilated convolutions added; stresses dilations beyond the map, where only the centre tap is left."""
    return _sum_aspp(net, x, net.pick((8, 16)), net.pick(((1, 2, 3), (1, 6, 12, 18))))


@block("resunet-plus-plus/net", RESUNETPP, seeds=["000:365"], hazards="batch norm before convolution, sigmoid saturation")
def resunet_plus_plus_net(net: Any, x: Any) -> Any:
    """Stem, two strided units, ASPP bridge, two gated decoder stages, ASPP head."""
    rates, skips = net.pick(((1, 2), (1, 6, 12))), list[Any]()
    y = add(net, conv(net, unit(net, x, 8), 8), pointwise(net, x, 8))
    for width in (16, 32):
        skips.append(y)
        y = _pre_act(net, squeeze_excite(net, y, inner=channels(y) // 8, bias=True), width, 2)
    y = _sum_aspp(net, y, 16, rates)
    for skip in reversed(skips):
        y = _pre_act(net, concat(net, nearest(net, _product_gate(net, skip, y), spatial(skip), 0), skip), channels(skip))
    return classes(net, _sum_aspp(net, y, 8, rates), 1)


def rsu(net: Any, x: Any, depth: int, inner: int, out: int) -> Any:
    """A U of single convolutions with rounded-up pooling inside a residual unit; any size from 1 on."""
    rank = len(x.shape) - 2
    start = unit(net, x, out)
    encoded = [unit(net, start, inner)]
    for _ in range(depth - 2):
        small = net("MaxPool", encoded[-1], kernel_shape=[2] * rank, strides=[2] * rank, ceil_mode=1) if min(spatial(encoded[-1])) > 1 else encoded[-1]
        encoded.append(unit(net, small, inner))
    y = unit(net, encoded[-1], inner, d=2)
    for i in range(depth - 2, -1, -1):
        y = y if spatial(y) == spatial(encoded[i]) else resize(net, y, spatial(encoded[i]), "linear")
        y = unit(net, concat(net, y, encoded[i]), out if i == 0 else inner)
    return add(net, y, start)


def rsu_dilated(net: Any, x: Any, inner: int, out: int) -> Any:
    """RSU-4F: dilations instead of pooling."""
    start = unit(net, x, out)
    encoded = [unit(net, start, inner)]
    for d in (2, 4):
        encoded.append(unit(net, encoded[-1], inner, d=d))
    y = unit(net, encoded[-1], inner, d=8)
    for d, e in ((4, encoded[2]), (2, encoded[1]), (1, encoded[0])):
        y = unit(net, concat(net, y, e), out if d == 1 else inner, d=d)
    return add(net, y, start)


@block("rsu-u2net", U2NET, seeds=["000:157"], dims=(1, 2), hazards="linear resize of odd sizes")
def rsu_u2net(net: Any, x: Any) -> Any:
    """Residual U-block with pooling that rounds up; stresses ceil_mode and Resize to the size of another map."""
    return rsu(net, x, net.int(3, 5), net.pick((4, 8)), net.pick((8, 16)))


@block("rsu-u2net/rsu-4f", U2NET, seeds=["000:157"], dims=(1, 2))
def rsu_u2net_4f(net: Any, x: Any) -> Any:
    """The dilated residual U-block: rates 1, 2, 4, 8 and back; stresses pads larger than the map."""
    return rsu_dilated(net, x, net.pick((4, 8)), net.pick((8, 16)))


@block("rsu-u2net/net", U2NET, seeds=["000:157"], hazards="linear resize of odd sizes")
def rsu_u2net_net(net: Any, x: Any) -> Any:
    """A U of two residual U-blocks and the dilated one, with side outputs fused by a 1x1 convolution."""
    a = rsu(net, x, 4, 4, 8)
    b = rsu_dilated(net, net("MaxPool", a, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), 4, 8)
    c = rsu(net, concat(net, smooth(net, b, spatial(a), 0), a), 3, 4, 8)
    return act(net, side_outputs(net, [c, b], spatial(x), 1), "Sigmoid")


def _shuffle_down(net: Any, x: Any) -> Any:
    """Odd sizes are padded to even ones before positions become channels."""
    x, r = fit(net, x, [n + n % 2 for n in spatial(x)]), len(x.shape) - 2
    if r == 2 and net.flag():
        return pointwise(net, net("SpaceToDepth", x, blocksize=2), channels(x))
    return pointwise(net, pixel_unshuffle(net, x, [2] * r), channels(x))


def _shuffle_up(net: Any, x: Any, size: Any, out: int) -> Any:
    r = len(size)
    y = conv(net, x, (out // 2) << r)
    y = net("DepthToSpace", y, blocksize=2, mode=net.pick(("CRD", "DCR"))) if r == 2 and net.flag() else pixel_shuffle(net, y, [2] * r)
    return fit(net, y, size)


@block("shuffle-unet", SHUFFLE, seeds=["000:339"], dims=(2, 3))
def shuffle_unet(net: Any, x: Any) -> Any:
    """One level between SpaceToDepth and PixelShuffle instead of pooling and upsampling; stresses 6-D and 8-D transposes.

    Assumed: 1x1 convolution after unshuffling, odd sizes padded and cropped.
    """
    return u_shape(net, x, [net.pick((8, 4)), 8], down=_shuffle_down, rise=_shuffle_up)[0]


@block("shuffle-unet/pixel-shuffle-nd", SHUFFLE, seeds=["000:339"], dims=(1, 2, 3))
def shuffle_unet_pixel_shuffle(net: Any, x: Any) -> Any:
    """Pixel shuffle for any rank by Reshape, Transpose, Reshape, after a convolution that makes the channels."""
    r = [net.pick((2, 1, 3)) for _ in spatial(x)]
    c = 1
    for k in r:
        c *= k
    return pixel_shuffle(net, conv(net, x, 2 * c), r)


@block("shuffle-unet/net", SHUFFLE, seeds=["000:339"], dims=(2, 3))
def shuffle_unet_net(net: Any, x: Any) -> Any:
    """Two levels and a last shuffle to the factor of the super-resolution. Assumed: as in the block."""
    y = u_shape(net, x, [4, 8, 8][: levels(net, x, 2) + 1], down=_shuffle_down, rise=_shuffle_up)[0]
    return pixel_shuffle(net, conv(net, y, 1 << (len(x.shape) - 2)), [2] * (len(x.shape) - 2))


def _kernels(net: Any, x: Any, out: int) -> Any:
    """Front end of parallel kernel sizes over the same input."""
    return concat(net, *(conv(net, x, out, k, bias=True) for k in net.pick(((1, 3), (1, 3, 5, 7)))))


def _any_unit(net: Any, x: Any, out: int, kind: str) -> Any:
    if kind == "residual":
        return _res_block(net, x, out)
    return unit(net, unit(net, x, out), out, d=2) if kind == "dilated" else double(net, x, out)


@block("unet-ag-ds-multikernel", LUMBAR, seeds=["000:235"], hazards="softmax over few channels")
def unet_ag_ds_multikernel(net: Any, x: Any) -> Any:
    """Kernels of four sizes over the input, then one gated level; stresses horizontal fusion of convolutions.

    Assumed: the gate of Oktay and the place of the front end.
    """
    kind = net.pick(("plain", "residual", "dilated"))
    return u_shape(net, _kernels(net, x, 4), [8, 16], stage=lambda n, v, c: _any_unit(n, v, c, kind), join=gated)[0]


@block("unet-ag-ds-multikernel/ensemble", LUMBAR, seeds=["000:235"], dims=(1, 2, 3), hazards="log of 0 in the geometric mean, ties of ArgMax")
def unet_ensemble(net: Any, x: Any) -> Any:
    """Three softmax maps joined by an arithmetic mean, a geometric one or a learned 1x1 stack, then ArgMax."""
    maps = [softmax(net, conv(net, x, 4, 3, bias=True), 1) for _ in range(3)]
    rule = net.pick(("mean", "geometric", "stack"))
    if rule == "stack":
        return softmax(net, pointwise(net, concat(net, *maps), 4, bias=True), 1)
    stacked = net("Concat", *(net("Unsqueeze", m if rule == "mean" else net("Log", m), net.ints([0])) for m in maps), axis=0)
    joint = mean(net, stacked, [0], 0)
    return joint if rule == "mean" else net("Exp", joint)


@block("unet-ag-ds-multikernel/net", LUMBAR, seeds=["000:235"], hazards="softmax over few channels")
def unet_ag_ds_multikernel_net(net: Any, x: Any) -> Any:
    """Front end, gated levels, heads at every level resized and added. Assumed: as in the block."""
    outs = u_shape(net, _kernels(net, x, 4), [8, 16, 16][: levels(net, x, 2) + 1], join=gated)
    return softmax(net, side_outputs(net, outs, spatial(x), net.pick((3, 12)), net.flag()), 1)


def nested(net: Any, x: Any, depth: int, base: int, stage: Any, rise: Any) -> dict[tuple[int, int], Any]:
    """All nodes X(i, j) of UNet++ with i + j <= depth."""
    made = dict[tuple[int, int], Any]()
    for i in range(depth + 1):
        made[i, 0] = stage(net, x if i == 0 else halve(net, made[i - 1, 0]), base << i)
        for j in range(1, i + 1):
            row = i - j
            up = rise(net, made[row + 1, j - 1], spatial(made[row, 0]), base << row)
            made[row, j] = stage(net, concat(net, *(made[row, k] for k in range(j)), up), base << row)
    return made


@block("unetpp-nested", UNETPP, seeds=["000:175"], dims=(2, 3))
def unetpp_nested(net: Any, x: Any) -> Any:
    """Nested dense skips; stresses long live ranges and Concats of growing width."""
    depth, rise = levels(net, x, 2), net.pick((smooth, transposed))
    return nested(net, x, depth, net.pick((4, 8)), unit, rise)[0, depth]


@block("unetpp-nested/net", UNETPP, seeds=["000:175"], dims=(2, 3), hazards="mean of sigmoids")
def unetpp_nested_net(net: Any, x: Any) -> Any:
    """With deep supervision: the mean of the heads on the top row."""
    depth = levels(net, x, 2)
    made = nested(net, x, depth, 4, double, smooth)
    heads = [act(net, pointwise(net, made[0, j], 1, bias=True), "Sigmoid") for j in range(1, depth + 1)]
    need(len(heads) > 0, "no head")
    return net("Mean", *heads)
