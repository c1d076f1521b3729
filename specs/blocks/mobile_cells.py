"""Residual cells for small machines: channel shuffles, inverted bottlenecks and their gates."""

from __future__ import annotations

from typing import Any

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
    gap,
    instance_norm,
    mean,
    mul,
    pointwise,
    pool,
    reshape,
    resize,
    slice_,
    softmax,
    spatial,
)
from specs.net import block, need, relation

SHUFFLE = "RTSeg: Real-time Semantic Segmentation Comparative Study"


def shuffle(net: Any, x: Any, g: int) -> Any:
    """Channels of g groups, dealt out."""
    n, c, size = x.shape[0], channels(x), spatial(x)
    need(c % g == 0, f"channel shuffle: {c} channels in {g} groups")
    rank = len(size)
    dealt = net("Transpose", reshape(net, x, [n, g, c // g, *size]), perm=[0, 2, 1, *range(3, 3 + rank)])
    return reshape(net, dealt, [n, c, *size])


def shuffle_unit(net: Any, x: Any, out: int, g: int, s: int) -> Any:
    """Grouped 1x1, shuffle, depthwise, grouped 1x1; Concat with a pool at stride 2."""
    made, inner = out - channels(x) if s == 2 else out, out // 2
    h = shuffle(net, act(net, bn(net, conv(net, x, inner, 1, g=g))), g)
    f = bn(net, conv(net, bn(net, depthwise(net, h, s=s)), made, 1, g=g))
    return act(net, add(net, f, x) if s == 1 else concat(net, pool(net, x, "AveragePool", 3, 2, 1), f))


@block("decoupled-shufflenet-skipnet", SHUFFLE, seeds=["000:225"], hazards="the divisor of average pooling at the border")
def decoupled_shufflenet_skipnet(net: Any, x: Any) -> Any:
    """A shuffle unit at stride 1 or 2; stresses recognition of the shuffle, grouped 1x1 and pool-concat."""
    c, s = channels(x), net.pick((1, 2))
    g = net.pick([g for g in (2, 4) if c * s // 2 % g == 0])
    return shuffle_unit(net, x, c * s, g, s)


@block("decoupled-shufflenet-skipnet/net", SHUFFLE, even=8)
def shufflenet_skipnet(net: Any, x: Any) -> Any:
    """A shuffle encoder with scores at three strides, summed by transposed convolutions; the last one multiplies by 8 in the paper, 2 here."""
    y, scores = conv_bn_act(net, x, 8, s=2), list[Any]()
    scores.append(conv(net, y, 3, 1, bias=True))
    for out in (16, 32):
        y = shuffle_unit(net, shuffle_unit(net, y, out, 4, 2), out, 4, 1)
        scores.append(conv(net, y, 3, 1, bias=True))
    total = scores.pop()
    for score in reversed(scores):
        total = add(net, doubled(net, total), score)
    return doubled(net, total)


def doubled(net: Any, x: Any) -> Any:
    return net("ConvTranspose", x, net.weight(channels(x), channels(x), 4, 4), kernel_shape=[4, 4], strides=[2, 2], pads=[1, 1, 1, 1])


@relation("decoupled-shufflenet-skipnet/shuffle-inverse", of="decoupled-shufflenet-skipnet", dims=(1, 2, 3))
def shuffle_inverse(net: Any, x: Any) -> Any:
    """Shuffles by g and by C / g undo each other."""
    g = net.pick((2, 4))
    return shuffle(net, shuffle(net, x, g), channels(x) // g), x


@relation("decoupled-shufflenet-skipnet/dilation-front-end", of="decoupled-shufflenet-skipnet", dims=(1, 2, 3))
def dilation_front_end(net: Any, x: Any) -> Any:
    """Stride 2 and then a convolution is stride 1 and then one of dilation 2, looked at in every other position."""
    c, rank = channels(x), len(x.shape) - 2
    w1, w2 = net.weight(6, c, *[3] * rank), net.weight(6, 6, *[3] * rank)
    strided = conv(net, act(net, conv(net, x, 6, s=2, w=w1)), 6, w=w2)
    dense = conv(net, act(net, conv(net, x, 6, w=w1)), 6, d=2, w=w2)
    for axis in range(2, rank + 2):
        dense = slice_(net, dense, 0, x.shape[axis], axis, 2)
    return strided, dense


MOBILENET_V3 = "Searching for MobileNetV3"


def hswish(net: Any, x: Any, form: str) -> Any:
    """x * relu6(x + 3) / 6 as exporters of different ages write it."""
    if form == "HardSwish" and net.opset >= 14:
        return net("HardSwish", x)
    if form == "HardSigmoid":
        return mul(net, x, net("HardSigmoid", x, alpha=1 / 6, beta=0.5))
    return net("Div", mul(net, x, act(net, net("Add", x, net.const(3.0)), "Relu6")), net.const(6.0))


def bneck(net: Any, x: Any, t: int, out: int, k: int, s: int, se: bool, kind: str) -> Any:
    def activate(v: Any) -> Any:
        return act(net, v) if kind == "Relu" else hswish(net, v, kind)

    h = activate(bn(net, pointwise(net, x, t)))
    h = activate(bn(net, depthwise(net, h, k, s=s)))
    if se:
        z = act(net, conv(net, gap(net, h), 8, 1, bias=True))
        h = mul(net, h, net("HardSigmoid", conv(net, z, t, 1, bias=True), alpha=1 / 6, beta=0.5))
    y = bn(net, pointwise(net, h, out))
    return add(net, y, x) if s == 1 and channels(x) == out else y


@block("mobilenetv3", MOBILENET_V3, seeds=["002:369"], hazards="the corners of relu6 at -3 and 3; 1/6 against 0.2")
def mobilenetv3(net: Any, x: Any) -> Any:
    """An inverted bottleneck with an optional channel gate; stresses hard swish and hard sigmoid patterns and depthwise scheduling."""
    kind, k, s = net.pick(("Relu", "HardSwish", "HardSigmoid", "relu6")), net.pick((3, 5)), net.pick((1, 2))
    return bneck(net, x, net.pick((16, 24)), net.pick((channels(x), 12)), k, s, net.flag(), kind)


@block("mobilenetv3/lraspp", MOBILENET_V3, even=4)
def lraspp(net: Any, x: Any) -> Any:
    """A segmentation head: features under a coarsely pooled gate, resized and joined to finer features by sums."""
    low, y = conv_bn_act(net, x, 8), conv_bn_act(net, x, 12, s=2)
    k = min(*spatial(y), 4)
    z = net("AveragePool", y, kernel_shape=[k, k], strides=[2, 2])
    gate = act(net, conv(net, z, 8, 1), "Sigmoid")
    gate = net("Resize", gate, None, None, net.ints([x.shape[0], 8, *spatial(y)]), mode="linear", coordinate_transformation_mode="align_corners")
    h = mul(net, conv_bn_act(net, y, 8, 1), gate)
    h = net("Resize", h, None, None, net.ints([x.shape[0], 8, *spatial(x)]), mode="linear", coordinate_transformation_mode="align_corners")
    return add(net, conv(net, h, 4, 1, bias=True), conv(net, low, 4, 1, bias=True))


@block("mobilenetv3/net", MOBILENET_V3)
def mobilenetv3_net(net: Any, x: Any) -> Any:
    """A hard swish stem, three bottlenecks, and the tail whose pool stands before the wide 1x1."""
    y = hswish(net, bn(net, conv(net, x, 8, s=2)), "HardSwish")
    y = bneck(net, bneck(net, y, 16, 8, 3, 1, True, "Relu"), 24, 12, 5, 2, True, "HardSwish")
    y = hswish(net, bn(net, pointwise(net, bneck(net, y, 24, 12, 3, 1, False, "HardSwish"), 32)), "HardSwish")
    y = net("Flatten", hswish(net, conv(net, gap(net, y), 32, 1, bias=True), "HardSwish"), axis=1)
    return net("Gemm", y, net.weight(5, 32), net.weight(5), transB=1)


@relation("mobilenetv3/hswish-forms", of="mobilenetv3", dims=(1, 2, 3))
def hswish_forms(net: Any, x: Any) -> Any:
    """The operator is the form with relu6; the form with HardSigmoid is not exactly, as its alpha of 1/6 is rounded."""
    return hswish(net, x, "HardSwish"), hswish(net, x, "relu6")


@relation("mobilenetv3/pool-before-conv", of="mobilenetv3", dims=(1, 2, 3))
def pool_before_conv(net: Any, x: Any) -> Any:
    """A global average commutes with a linear 1x1 convolution."""
    w = net.weight(6, channels(x), *[1] * (len(x.shape) - 2))
    axes = list(range(2, len(x.shape)))
    return conv(net, mean(net, x, axes), 6, 1, w=w), gap(net, conv(net, x, 6, 1, w=w))


EFFICIENTNET = (
    "Boosting EfficientNets Ensemble Performance via Pseudo-Labels and Synthetic Images by pix2pixHD "
    "for Infection and Ischaemia Classification in Diabetic Foot Ulcers"
)


def mbconv(net: Any, x: Any, e: int, out: int, k: int, s: int, same: bool = False) -> Any:
    """Expand, depthwise, gate, project. same: TensorFlow's padding, one more behind than before at stride 2."""
    t = channels(x) * e
    h = act(net, bn(net, pointwise(net, x, t)), "Silu") if e > 1 else x
    if same and s == 2:
        before = [max((-(-n // 2) - 1) * 2 + k - n, 0) // 2 for n in spatial(h)]
        after = [max((-(-n // 2) - 1) * 2 + k - n, 0) - b for n, b in zip(spatial(h), before, strict=True)]
        w = net.weight(t, 1, *[k] * len(before))
        h = net("Conv", h, w, kernel_shape=[k] * len(before), strides=[2] * len(before), group=t, pads=[*before, *after])
    else:
        h = depthwise(net, h, k, s=s)
    h = act(net, bn(net, h), "Silu")
    z = act(net, conv(net, gap(net, h), max(channels(x) // 4, 1), 1, bias=True), "Silu")
    h = mul(net, h, act(net, conv(net, z, t, 1, bias=True), "Sigmoid"))
    y = bn(net, pointwise(net, h, out))
    return add(net, y, x) if s == 1 and channels(x) == out else y


def expansion(net: Any, x: Any) -> int:
    """The largest of the row's expansions that stays small."""
    size = 1
    for n in x.shape:
        size *= n
    return net.pick([e for e in (6, 3, 2, 1) if size * e <= 1 << 15])


@block("efficientnet-ensemble", EFFICIENTNET, seeds=["003:279", "004:23"], hazards="sigmoid saturation of the gate")
def efficientnet_ensemble(net: Any, x: Any) -> Any:
    """An inverted bottleneck with a channel gate; stresses depthwise 5x5, fusion of the gate, uneven padding at stride 2."""
    return mbconv(net, x, expansion(net, x), net.pick((channels(x), 12)), net.pick((3, 5)), net.pick((1, 2)), net.flag())


@block("efficientnet-ensemble/net", EFFICIENTNET)
def efficientnet_net(net: Any, x: Any) -> Any:
    """A stem, three bottlenecks, a wide head, logits of two tasks' pairs."""
    y = act(net, bn(net, conv(net, x, 8, s=2)), "Silu")
    for e, k, out, s in ((1, 3, 8, 1), (4, 3, 12, 2), (2, 5, 12, 1)):
        y = mbconv(net, y, e, out, k, s)
    return classifier(net, act(net, bn(net, pointwise(net, y, 24)), "Silu"), 4)


@block("efficientnet-ensemble/prob-ensemble", EFFICIENTNET, hazards="the mean of softmax is not the softmax of the mean")
def prob_ensemble(net: Any, x: Any) -> Any:
    """Models at their own input sizes, their probabilities averaged; stresses parallel subnetworks in one module."""
    members = net.pick((2, 3))
    total = None
    for i in range(members):
        view = x if i == 0 else resize(net, x, [n + 2 * i for n in spatial(x)], "linear")
        p = softmax(net, classifier(net, mbconv(net, conv_bn_act(net, view, 8, s=2), 2, 8, 3, 1), 4))
        total = p if total is None else add(net, total, p)
    best = net("ArgMax", total, axis=1, keepdims=0)
    return net("Div", total, net.const(float(members))), best


@block("efficientnet-ensemble/pix2pixhd-gen", EFFICIENTNET, even=4)
def pix2pixhd_gen(net: Any, x: Any) -> Any:
    """A generator: wide stem, strided convolutions, residual blocks, transposed convolutions, Tanh; all instance-normalised."""

    def unit(v: Any, out: int, k: int = 3, s: int = 1) -> Any:
        return act(net, instance_norm(net, conv(net, v, out, k, s=s)))

    y = unit(unit(unit(x, 4, 7), 8, 3, 2), 16, 3, 2)
    for _ in range(2):
        y = add(net, y, instance_norm(net, conv(net, unit(y, 16), 16)))
    for width in (8, 4):
        w = net.weight(channels(y), width, 3, 3)
        up = net("ConvTranspose", y, w, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], output_padding=[1, 1])
        y = act(net, instance_norm(net, up))
    return act(net, conv(net, y, 3, 7, bias=True), "Tanh")
