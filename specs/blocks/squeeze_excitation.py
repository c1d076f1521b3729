"""Squeeze and excitation in its variants, over channels, positions or both."""

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
    gap,
    mean,
    mul,
    pointwise,
    reshape,
    spatial,
)
from specs.net import block, relation

SE = "Squeeze-and-Excitation Networks"
SCSE = "Recalibrating Fully Convolutional Networks with Spatial and Channel 'Squeeze & Excitation' Blocks"
SCSE_2 = "Concurrent Spatial and Channel Squeeze & Excitation in Fully Convolutional Networks"


@block("se-block", SE, seeds=["000:17", "002:217"], dims=(1, 2, 3), hazards="long means, sigmoid saturation")
def se_block(net: Any, x: Any) -> Any:
    """A residual block with a channel gate before, in, after or beside its branch; stresses reduce, two matrix-vector products, broadcast."""
    c, place = channels(x), net.pick(("standard", "pre", "post", "identity"))
    r, pooled = divisor(net, c, (4, 2, 8, 16)), net.pick(("GlobalAveragePool", "GlobalMaxPool"))

    def gate(v: Any) -> Any:
        return mul(net, v, squeeze(net, v, r, pooled))

    f = conv_bn_act(net, gate(x) if place == "pre" else x, c)
    f = bn(net, conv(net, f, c))
    if place == "standard":
        return act(net, add(net, x, gate(f)))
    if place == "identity":
        return act(net, add(net, gate(x), f))
    y = act(net, add(net, x, f))
    return gate(y) if place == "post" else y


@block("se-block/net", SE, dims=(1, 2, 3))
def se_net(net: Any, x: Any) -> Any:
    """A small SE-ResNet: stem, three gated stages, a classifier."""
    y = conv_bn_act(net, x, 8)
    for stage in range(3):
        width = (8, 16, 16)[stage]
        if stage:
            y = conv_bn_act(net, y, width, s=2)
        f = bn(net, conv(net, conv_bn_act(net, y, width), width))
        y = act(net, add(net, y, mul(net, f, squeeze(net, f, 4))))
    return classifier(net, y)


@block("se-block/se-resnext", SE, dims=(1, 2, 3))
def se_resnext(net: Any, x: Any) -> Any:
    """A bottleneck with a grouped convolution and a channel gate on its branch."""
    c, g = channels(x), net.pick((4, 8, 2))
    h = conv_bn_act(net, conv_bn_act(net, x, 16, 1), 16, g=g)
    f = bn(net, pointwise(net, h, c))
    return act(net, add(net, x, mul(net, f, squeeze(net, f, divisor(net, c, (4, 2))))))


@relation("se-block/gemm-or-conv", of="se-block", dims=(1, 2, 3))
def se_gemm_or_conv(net: Any, x: Any) -> Any:
    """The excitation as 1x1 convolutions and as matrix products over the flattened pool."""
    c, n, ones = channels(x), x.shape[0], [1] * (len(x.shape) - 2)
    r = divisor(net, c, (4, 2))
    w1, w2, b1, b2 = net.weight(c // r, c), net.weight(c, c // r), net.weight(c // r), net.weight(c)
    z = gap(net, x)
    flat = net("Flatten", z, axis=1)
    dense = act(net, net("Gemm", act(net, net("Gemm", flat, w1, b1, transB=1)), w2, b2, transB=1), "Sigmoid")
    h = net("Add", conv(net, z, c // r, 1, w=reshape(net, w1, [c // r, c, *ones])), reshape(net, b1, [c // r, *ones]))
    s = net("Add", conv(net, act(net, h), c, 1, w=reshape(net, w2, [c, c // r, *ones])), reshape(net, b2, [c, *ones]))
    return mul(net, x, reshape(net, dense, [n, c, *ones])), mul(net, x, act(net, s, "Sigmoid"))


@relation("se-block/pool-as-reduction", of="se-block", dims=(1, 2, 3))
def se_pool_as_reduction(net: Any, x: Any) -> Any:
    """Global average pooling is the mean over the spatial axes."""
    return gap(net, x), mean(net, x, list(range(2, len(x.shape))))


def spatial_gate(net: Any, x: Any) -> Any:
    """(N, 1, *space)."""
    return act(net, conv(net, x, 1, 1), "Sigmoid")


def concurrent(net: Any, x: Any, r: int, combine: str) -> Any:
    a, b = mul(net, x, squeeze(net, x, r)), mul(net, x, spatial_gate(net, x))
    if combine == "concat":
        return conv(net, concat(net, a, b), channels(x), 1)
    return net({"add": "Add", "max": "Max", "mul": "Mul"}[combine], a, b)


@block("scse-block", SCSE, seeds=["000:99", "001:163", "002:451"], dims=(1, 2, 3), hazards="sigmoid saturation, ties of the maximum")
def scse_block(net: Any, x: Any) -> Any:
    """A channel gate and a position gate of one tensor, combined; stresses broadcasts along different axes of a tensor read four times."""
    return concurrent(net, x, divisor(net, channels(x), (2, 4, 8, 16)), net.pick(("max", "add", "mul", "concat")))


@block("scse-block/cse", SCSE, dims=(1, 2, 3))
def cse(net: Any, x: Any) -> Any:
    """The channel gate alone, after a convolution."""
    y = conv_bn_act(net, x, 8)
    return mul(net, y, squeeze(net, y, 2))


@block("scse-block/sse", SCSE, dims=(1, 2, 3))
def sse(net: Any, x: Any) -> Any:
    """The position gate alone, after a convolution."""
    y = conv_bn_act(net, x, 8)
    return mul(net, y, spatial_gate(net, y))


@block("scse-block-2", SCSE_2, seeds=["000:259", "002:57"], dims=(1, 2, 3), hazards="ties of the maximum")
def scse_block_2(net: Any, x: Any) -> Any:
    """The same gates after both convolutions of an encoder block; the row that scse-block serves too."""
    r, merge = divisor(net, channels(x), (2, 16)), net.pick(("add", "max", "mul", "concat"))
    y = conv_bn_act(net, conv_bn_act(net, x, channels(x)), channels(x))
    return concurrent(net, y, r, merge)


@block("scse-block-2/sdnet", SCSE_2, even=2)
def sdnet(net: Any, x: Any) -> Any:
    """Encoder and decoder joined by pooling indices: MaxPool, gates, MaxUnpool, gates, scores."""
    y = concurrent(net, conv_bn_act(net, x, 8), 2, "add")
    pooled, places = net("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2], outputs=2)
    h = concurrent(net, conv_bn_act(net, pooled, 8), 2, net.pick(("max", "add")))
    up = net("MaxUnpool", h, places, kernel_shape=[2, 2], strides=[2, 2])
    return conv(net, concurrent(net, conv_bn_act(net, concat(net, up, y), 8), 2, "add"), 4, 1, bias=True)


@relation("scse-block/distribute", of="scse-block", dims=(1, 2, 3))
def scse_distribute(net: Any, x: Any) -> Any:
    """x s + x q is x (s + q)."""
    s, q = squeeze(net, x, 2), spatial_gate(net, x)
    return net("Add", mul(net, x, s), mul(net, x, q)), mul(net, x, net("Add", s, q))


@relation("scse-block/max-by-sign", of="scse-block", dims=(1, 2, 3))
def scse_max_by_sign(net: Any, x: Any) -> Any:
    """Max(x s, x q) is x Max(s, q) only where x is not negative, and x Min(s, q) elsewhere: a trap for rewriters."""
    s, q = squeeze(net, x, 2), spatial_gate(net, x)
    positive = mul(net, act(net, x), net("Max", s, q))
    negative = mul(net, net("Min", x, net.const(0.0)), net("Min", s, q))
    return net("Max", mul(net, x, s), mul(net, x, q)), net("Add", positive, negative)


@relation("scse-block-2/factored-mul", of="scse-block-2", dims=(1, 2, 3))
def scse_factored_mul(net: Any, x: Any) -> Any:
    """The product of the gated forms is the square of x under both gates."""
    s, q = squeeze(net, x, 2), spatial_gate(net, x)
    return mul(net, mul(net, x, s), mul(net, x, q)), mul(net, mul(net, x, x), mul(net, s, q))


@relation("scse-block-2/add-factored", of="scse-block-2", dims=(1, 2, 3))
def scse_add_factored(net: Any, x: Any) -> Any:
    """The additive merge after a convolution, with the gates summed first."""
    y = act(net, conv(net, x, 8))
    s, q = squeeze(net, y, 2), spatial_gate(net, y)
    return net("Add", mul(net, y, s), mul(net, y, q)), mul(net, y, net("Add", net("Expand", s, net.ints([1, 1, *spatial(x)])), q))
