"""Residual cells: what stands between two sums, in the manner of ResNet and its widened, split and factorised descendants."""

from __future__ import annotations

from typing import Any

from specs.blocks.channel_spatial_gates import divisor, squeeze
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
    mul,
    pointwise,
    pool,
    reshape,
    slice_,
    softmax,
    split,
)
from specs.net import block, need, relation

RESNET = "A ResNet is All You Need? Modeling A Strong Baseline for Detecting Referable Diabetic Retinopathy in Fundus Images"


def basic(net: Any, x: Any, out: int, s: int = 1) -> Any:
    """Two 3x3 convolutions and a shortcut, a projection when the shape changes."""
    f = bn(net, conv(net, conv_bn_act(net, x, out, s=s), out))
    plain = s == 1 and channels(x) == out
    return act(net, add(net, f, x if plain else bn(net, conv(net, x, out, 1, s=s))))


@block("resnet18-referable-dr", RESNET, seeds=["000:135", "003:191", "004:19"], hazards="Relu at 0, folding of batch normalisation")
def resnet18_referable_dr(net: Any, x: Any) -> Any:
    """Stem and two basic blocks, the second of stride 2; stresses conv-bn-relu-add fusion and odd sizes on both branches."""
    y = pool(net, conv_bn_act(net, x, 8, 7, s=net.pick((1, 2))), k=3, s=net.pick((1, 2)), pad=1)
    return basic(net, basic(net, y, 8), net.pick((16, 8)), s=2)


@block("resnet18-referable-dr/net", RESNET)
def resnet18_net(net: Any, x: Any) -> Any:
    """A stem, three stages and softmax over the grades."""
    y = pool(net, conv_bn_act(net, x, 8, 7, s=1), k=3, s=2, pad=1)
    for width, s in ((8, 1), (12, 2), (16, 2)):
        y = basic(net, basic(net, y, width, s), width)
    return softmax(net, classifier(net, y, net.pick((2, 5))))


@relation("resnet18-referable-dr/normalise-into-conv", of="resnet18-referable-dr", dims=(1, 2, 3))
def normalise_into_conv(net: Any, x: Any) -> Any:
    """(x - mean) / std folded into the first convolution: exact without padding; with padding only where the pad is the mean, as here."""
    c, rank = channels(x), len(x.shape) - 2
    mu, std, w = net.weight(c, *[1] * rank), net.weight(c, *[1] * rank, low=0.5, high=2.0), net.weight(6, c, *[3] * rank)
    padded = net.flag()
    normal = net("Div", net("Sub", x, mu), std)
    folded = net("Div", w, std)
    shift = conv(net, net("Expand", mu, net.ints([1, c, *[3] * rank])), 6, w=folded, pad=0)
    if not padded:
        return conv(net, normal, 6, w=w, pad=0), net("Sub", conv(net, x, 6, w=folded, pad=0), shift)
    sides = [1] * rank
    around = net("Sub", x, mu)
    around = net("Add", net("Pad", around, net.ints([0, 0, *sides, 0, 0, *sides])), mu)  # x in a border of its mean
    return conv(net, normal, 6, w=w), net("Sub", conv(net, around, 6, w=folded, pad=0), shift)


RESNEXT = "Aggregated Residual Transformations for Deep Neural Networks"


@block("resnext-bottleneck", RESNEXT, seeds=["002:199"], dims=(1, 2, 3), hazards="the order of a sum over branches")
def resnext_bottleneck(net: Any, x: Any) -> Any:
    """A bottleneck with a grouped convolution; stresses lowering of grouped convolution and folding of batch normalisation."""
    g, d, s, out = net.pick((2, 1, 4, 8)), net.pick((4, 2)), net.pick((1, 2)), net.pick((channels(x), 12))
    h = conv_bn_act(net, conv_bn_act(net, x, g * d, 1), g * d, g=g, s=s)
    f = bn(net, pointwise(net, h, out))
    same = s == 1 and out == channels(x)
    return act(net, add(net, f, x if same else bn(net, conv(net, x, out, 1, s=s))))


@block("resnext-bottleneck/net", RESNEXT, dims=(1, 2, 3))
def resnext_net(net: Any, x: Any) -> Any:
    """A stem, three grouped bottlenecks, a classifier."""
    y = conv_bn_act(net, x, 8)
    for out, s in ((8, 1), (16, 2), (16, 1)):
        h = conv_bn_act(net, conv_bn_act(net, y, 8, 1), 8, g=4, s=s)
        shortcut = y if s == 1 and channels(y) == out else bn(net, conv(net, y, out, 1, s=s))
        y = act(net, add(net, bn(net, pointwise(net, h, out)), shortcut))
    return classifier(net, y)


def resnext_weights(net: Any, x: Any, g: int, d: int) -> tuple[Any, Any, Any]:
    rank = len(x.shape) - 2
    return net.weight(g * d, channels(x), *[1] * rank), net.weight(g * d, d, *[3] * rank), net.weight(channels(x), g * d, *[1] * rank)


def branch_maps(net: Any, x: Any, weights: tuple[Any, Any, Any], g: int, d: int) -> list[Any]:
    """What each branch has before the last 1x1, from slices of the weights."""
    w1, w2, maps = weights[0], weights[1], list[Any]()
    for i in range(g):
        h = act(net, conv(net, x, d, 1, w=slice_(net, w1, i * d, i * d + d, 0)))
        maps.append(act(net, conv(net, h, d, w=slice_(net, w2, i * d, i * d + d, 0))))
    return maps


def grouped_form(net: Any, x: Any, weights: tuple[Any, Any, Any], g: int, d: int) -> Any:
    h = act(net, conv(net, x, g * d, 1, w=weights[0]))
    return conv(net, act(net, conv(net, h, g * d, g=g, w=weights[1])), channels(x), 1, w=weights[2])


@relation("resnext-bottleneck/branches-summed", of="resnext-bottleneck", dims=(1, 2, 3))
def resnext_branches_summed(net: Any, x: Any) -> Any:
    """Form (c), one grouped convolution, is form (a): branches with their own last 1x1, summed."""
    g, d = net.pick((2, 4)), net.pick((4, 2))
    weights, total = resnext_weights(net, x, g, d), None
    for i, h in enumerate(branch_maps(net, x, weights, g, d)):
        part = conv(net, h, channels(x), 1, w=slice_(net, weights[2], i * d, i * d + d, 1))
        total = part if total is None else add(net, total, part)
    return grouped_form(net, x, weights, g, d), total


@relation("resnext-bottleneck/branches-joined", of="resnext-bottleneck", dims=(1, 2, 3))
def resnext_branches_joined(net: Any, x: Any) -> Any:
    """Form (c) is form (b): branches joined before one last 1x1."""
    g, d = net.pick((2, 4)), net.pick((4, 2))
    weights = resnext_weights(net, x, g, d)
    joined = concat(net, *branch_maps(net, x, weights, g, d))
    return grouped_form(net, x, weights, g, d), conv(net, joined, channels(x), 1, w=weights[2])


RES2NET = "Res2Net: A New Multi-scale Backbone Architecture"


def res2net(net: Any, x: Any, out: int, groups: int, width: int, *, stride: int = 1, first: bool = False, c: int = 1, gated: bool = False) -> Any:
    h = conv_bn_act(net, x, groups * width, 1)
    parts = [h] if groups == 1 else list(split(net, h, groups))
    made, last = list[Any](), None
    for i, part in enumerate(parts):
        if i == groups - 1 and groups > 1:  # the last group passes through, as published weights have it
            made.append(pool(net, part, "AveragePool", 3, stride, 1) if first and stride > 1 else part)
            continue
        last = conv_bn_act(net, part if last is None or first else add(net, part, last), width, s=stride, g=c)
        made.append(last)
    f = bn(net, pointwise(net, made[0] if len(made) == 1 else concat(net, *made), out))
    f = mul(net, f, squeeze(net, f, divisor(net, out, (4, 2)))) if gated else f
    same = stride == 1 and out == channels(x)
    return act(net, add(net, f, x if same else bn(net, conv(net, x, out, 1, s=stride))))


@block("res2net-block", RES2NET, seeds=["000:205"], dims=(1, 2, 3), hazards="a chain of sums")
def res2net_block(net: Any, x: Any) -> Any:
    """A convolution split in a chain of groups, each fed the last; stresses Split and Concat elimination and odd channel counts."""
    first = net.flag(0.3)
    return res2net(net, x, channels(x), net.pick((4, 2, 3, 1)), net.pick((4, 6, 7)), stride=2 if first and net.flag() else 1, first=first)


@block("res2net-block/res2next-se", RES2NET, dims=(1, 2, 3))
def res2next_se(net: Any, x: Any) -> Any:
    """Grouped convolutions in the chain, a channel gate after it."""
    return res2net(net, x, channels(x), net.pick((4, 3)), 8, c=net.pick((4, 8)), gated=True)


@block("res2net-block/net", RES2NET, dims=(1, 2, 3))
def res2net_net(net: Any, x: Any) -> Any:
    """A stem, a plain and a strided cell, a classifier."""
    y = res2net(net, conv_bn_act(net, x, 8), 8, 4, 4)
    return classifier(net, res2net(net, res2net(net, y, 16, 3, 6, stride=2, first=True), 16, 3, 6))


PYRAMID = "Deep Pyramidal Residual Networks"


def zero_padded_shortcut(net: Any, x: Any, out: int, s: int) -> Any:
    """No weights: average pooling with ceil_mode, then zero channels."""
    rank = len(x.shape) - 2
    if s > 1:
        x = net("AveragePool", x, kernel_shape=[2] * rank, strides=[s] * rank, ceil_mode=1)
    extra = out - channels(x)
    need(extra >= 0, "pyramidnet: the width does not shrink")
    return net("Pad", x, net.ints([0] * (rank + 2) + [0, extra] + [0] * rank)) if extra else x


def pyramid(net: Any, x: Any, out: int, s: int, bottleneck: bool) -> Any:
    if bottleneck:
        width = max(out // 4, 1)
        h = act(net, bn(net, pointwise(net, bn(net, x), width)))
        f = bn(net, pointwise(net, act(net, bn(net, conv(net, h, width, s=s))), out))
    else:
        h = act(net, bn(net, conv(net, bn(net, x), out, s=s)))
        f = bn(net, conv(net, h, out))
    return add(net, f, zero_padded_shortcut(net, x, out, s))


@block("pyramidnet-unit", PYRAMID, seeds=["002:5"], dims=(1, 2, 3), hazards="sums that grow, channels of zeros")
def pyramidnet_unit(net: Any, x: Any) -> Any:
    """A unit a little wider than its input, normalised first and last; stresses odd channel counts, Pad before Add, ceil_mode."""
    return pyramid(net, x, channels(x) + net.pick((3, 0, 5, 1)), net.pick((1, 2)), net.flag())


@block("pyramidnet-unit/zero-pad-shortcut", PYRAMID, dims=(1, 2, 3))
def zero_pad_shortcut(net: Any, x: Any) -> Any:
    """The shortcut alone beside one strided convolution."""
    out = channels(x) + net.pick((3, 5, 1))
    return add(net, conv(net, x, out, s=2), zero_padded_shortcut(net, x, out, 2))


@block("pyramidnet-unit/net", PYRAMID, dims=(1, 2, 3))
def pyramidnet(net: Any, x: Any) -> Any:
    """Four units of growing width and a normalised tail. Assumed: additive widths."""
    y = conv_bn_act(net, x, 8)
    for k, s in enumerate((1, 1, 2, 1)):
        y = pyramid(net, y, 8 + 11 * (k + 1) // 4, s, False)
    return classifier(net, act(net, bn(net, y)))


XCEPTION = "Xception: Deep Learning with Depthwise Separable Convolutions"


def separable(net: Any, x: Any, out: int) -> Any:
    return bn(net, pointwise(net, depthwise(net, x), out))


def xception_entry(net: Any, x: Any, out: int, relu_first: bool = True) -> Any:
    h = separable(net, act(net, x) if relu_first else x, out)
    h = pool(net, separable(net, act(net, h), out), k=3, s=2, pad=1)
    return add(net, h, bn(net, conv(net, x, out, 1, s=2)))


def xception_middle(net: Any, x: Any) -> Any:
    h = x
    for _ in range(3):
        h = separable(net, act(net, h), channels(x))
    return add(net, h, x)


@block("xception-block", XCEPTION, seeds=["002:29"], dims=(1, 2, 3), hazards="an activation in place changes the shortcut")
def xception_block(net: Any, x: Any) -> Any:
    """Separable convolutions, activation first, with a strided or an identity shortcut; stresses depthwise and pointwise fusion."""
    return xception_middle(net, x) if net.flag() else xception_entry(net, x, net.pick((12, 16)), net.flag())


@block("xception-block/net", XCEPTION, dims=(1, 2, 3))
def xception_net(net: Any, x: Any) -> Any:
    """Entry, middle and exit flow."""
    y = conv_bn_act(net, x, 8)
    y = xception_middle(net, xception_entry(net, y, 12, False))
    return classifier(net, act(net, separable(net, xception_entry(net, y, 16), 20)))


@relation("xception-block/separable-as-dense", of="xception-block", dims=(1, 2, 3))
def separable_as_dense(net: Any, x: Any) -> Any:
    """Depthwise and then 1x1 is one dense convolution whose kernel is their product."""
    c, rank = channels(x), len(x.shape) - 2
    dw, pw = net.weight(c, 1, *[3] * rank), net.weight(6, c, *[1] * rank)
    dense = mul(net, transpose_first(net, dw), pw)
    return conv(net, conv(net, x, c, g=c, w=dw), 6, 1, w=pw), conv(net, x, 6, w=dense)


def transpose_first(net: Any, w: Any) -> Any:
    """(C, 1, *k) as (1, C, *k)."""
    return reshape(net, w, [1, w.shape[0], *w.shape[2:]])
