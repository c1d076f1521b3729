"""Inception cells: branches of unlike shape side by side."""

from __future__ import annotations

from typing import Any

from specs.blocks.layers import act, add, bn, channels, classifier, concat, conv, conv_bn_act, mul, pool
from specs.net import block, relation

INCEPTION = "Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning"


def chain(net: Any, x: Any, *steps: tuple[int, Any]) -> Any:
    for out, k in steps:
        x = conv_bn_act(net, x, out, k)
    return x


def pooled(net: Any, x: Any, out: int) -> Any:
    return conv_bn_act(net, pool(net, x, "AveragePool", 3, 1, 1), out, 1)


def scaled_residual(net: Any, x: Any, joined: Any, a: float) -> Any:
    return act(net, add(net, x, mul(net, conv(net, joined, channels(x), 1, bias=True), net.const(a))))


def resnet_a(net: Any, x: Any, a: float) -> Any:
    joined = concat(net, chain(net, x, (4, 1)), chain(net, x, (4, 1), (4, 3)), chain(net, x, (4, 1), (6, 3), (8, 3)))
    return scaled_residual(net, x, joined, a)


def resnet_b(net: Any, x: Any, a: float) -> Any:
    return scaled_residual(net, x, concat(net, chain(net, x, (8, 1)), chain(net, x, (6, 1), (7, (1, 7)), (8, (7, 1)))), a)


def resnet_c(net: Any, x: Any, a: float) -> Any:
    return scaled_residual(net, x, concat(net, chain(net, x, (8, 1)), chain(net, x, (6, 1), (7, (1, 3)), (8, (3, 1)))), a)


def reduction_a(net: Any, x: Any, k: int, wide: int, m: int, n: int) -> Any:
    """No padding, stride 2, in a pool and two branches."""
    last = conv_bn_act(net, chain(net, x, (k, 1), (wide, 3)), m, s=2, pad=0)
    return concat(net, pool(net, x, k=3, s=2), conv_bn_act(net, x, n, s=2, pad=0), last)


@block("inception-v4-resnet", INCEPTION, seeds=["002:247", "003:359"], hazards="sums that grow when the scale is 1")
def inception_v4_resnet(net: Any, x: Any) -> Any:
    """Branches joined, projected and added with a scale; stresses merging of sibling 1x1 convolutions and folding of the scale."""
    return net.pick((resnet_a, resnet_b, resnet_c))(net, x, net.pick((0.17, 0.1, 0.2, 0.3)))


@block("inception-v4-resnet/a", INCEPTION, hazards="the divisor of average pooling at the border")
def inception_a(net: Any, x: Any) -> Any:
    """A pool branch and three of 3x3 convolutions."""
    return concat(net, pooled(net, x, 6), chain(net, x, (6, 1)), chain(net, x, (4, 1), (6, 3)), chain(net, x, (4, 1), (6, 3), (6, 3)))


@block("inception-v4-resnet/b", INCEPTION)
def inception_b(net: Any, x: Any) -> Any:
    """Branches of 7x1 and 1x7 convolutions."""
    long = chain(net, x, (4, 1), (4, (1, 7)), (5, (7, 1)), (5, (1, 7)), (6, (7, 1)))
    return concat(net, pooled(net, x, 4), chain(net, x, (8, 1)), chain(net, x, (4, 1), (5, (1, 7)), (6, (7, 1))), long)


@block("inception-v4-resnet/c", INCEPTION)
def inception_c(net: Any, x: Any) -> Any:
    """Branches that fork again into 1x3 and 3x1."""
    short, long = chain(net, x, (6, 1)), chain(net, x, (6, 1), (7, (1, 3)), (8, (3, 1)))
    forks = [chain(net, v, (4, k)) for v in (short, long) for k in ((1, 3), (3, 1))]
    return concat(net, pooled(net, x, 4), chain(net, x, (4, 1)), *forks)


@block("inception-v4-resnet/reduction-a", INCEPTION)
def reduction_a_block(net: Any, x: Any) -> Any:
    """Strided branches without padding; stresses shape agreement of pool and convolution."""
    return reduction_a(net, x, 4, 6, 6, 8)


@block("inception-v4-resnet/reduction-b", INCEPTION)
def reduction_b_block(net: Any, x: Any) -> Any:
    """The same with a factorised branch."""
    one = conv_bn_act(net, chain(net, x, (5, 1)), 6, s=2, pad=0)
    two = conv_bn_act(net, chain(net, x, (6, 1), (6, (1, 7)), (7, (7, 1))), 8, s=2, pad=0)
    return concat(net, pool(net, x, k=3, s=2), one, two)


@block("inception-v4-resnet/stem", INCEPTION, even=8)
def stem(net: Any, x: Any) -> Any:
    """Pool beside convolution, twice, with a factorised fork between; first and last steps are padded to suit small images."""
    y = conv_bn_act(net, conv_bn_act(net, conv_bn_act(net, x, 4), 4), 8)
    y = concat(net, pool(net, y, k=3, s=2), conv_bn_act(net, y, 12, s=2, pad=0))
    y = concat(net, chain(net, y, (6, 1), (8, 3)), chain(net, y, (6, 1), (6, (7, 1)), (6, (1, 7)), (8, 3)))
    return concat(net, conv_bn_act(net, y, 12, s=2, pad=0), pool(net, y, k=3, s=2))


@block("inception-v4-resnet/net", INCEPTION, even=8)
def inception_net(net: Any, x: Any) -> Any:
    """A stem, a residual cell of each kind around a reduction, a head."""
    y = conv_bn_act(net, x, 8)
    y = resnet_b(net, reduction_a(net, resnet_a(net, y, 0.17), 4, 4, 6, 6), 0.1)
    return classifier(net, resnet_c(net, y, 0.2))


@relation("inception-v4-resnet/scale-fold", of="inception-v4-resnet", dims=(1, 2, 3))
def scale_fold(net: Any, x: Any) -> Any:
    """The residual scale folds into weight and bias of the last 1x1."""
    c, rank, a = channels(x), len(x.shape) - 2, net.const(net.pick((0.17, 0.1, 0.3)))
    h = act(net, bn(net, conv(net, x, 6)))
    w, b = net.weight(c, 6, *[1] * rank), net.weight(c)
    left = add(net, x, mul(net, net("Conv", h, w, b), a))
    return act(net, left), act(net, add(net, x, net("Conv", h, mul(net, w, a), mul(net, b, a))))


@relation("inception-v4-resnet/sibling-merge", of="inception-v4-resnet", dims=(1, 2, 3))
def sibling_merge(net: Any, x: Any) -> Any:
    """1x1 convolutions of one input are one with their weights joined, and a Split."""
    c, rank, widths = channels(x), len(x.shape) - 2, [4, 6, 8]
    weights = [net.weight(n, c, *[1] * rank) for n in widths]
    apart = [act(net, conv(net, x, n, 1, w=w)) for n, w in zip(widths, weights, strict=True)]
    merged = conv(net, x, sum(widths), 1, w=net("Concat", *weights, axis=0))
    parts = net("Split", merged, net.ints(widths), axis=1, outputs=3)
    order = [2, 0, 1]
    return concat(net, *[apart[i] for i in order]), concat(net, *[act(net, parts[i]) for i in order])
