"""Convolutions with unusual kernels: banded, oversized, dilated in parallel, restricted to groups or to a topology, weighted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
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
    layer_norm,
    linear,
    mul,
    pointwise,
    reduce,
    reshape,
    slice_,
    spatial,
    split,
)
from specs.net import block, relation


def dilated(net: Any, x: Any, w: Any, dilations: Sequence[int], *, s: int = 1, g: int = 1) -> Any:
    """A convolution with its own dilation on every axis, of the same size at stride 1."""
    rank = len(dilations)
    pads = [d * (k - 1) // 2 for d, k in zip(dilations, w.shape[2:], strict=True)]
    return net("Conv", x, w, kernel_shape=list(w.shape[2:]), strides=[s] * rank, dilations=list(dilations), group=g, pads=[*pads, *pads])


def stuffed(net: Any, w: Any, dilations: Sequence[int]) -> Any:
    """The kernel with d - 1 zeros between its taps: what a dilated convolution computes with."""
    for axis, d in enumerate(dilations, 2):
        if d > 1:
            shape, rank = list(w.shape), len(w.shape)
            wide = net("Unsqueeze", w, net.ints([axis + 1]))
            wide = net("Pad", wide, net.ints([0] * (rank + 1) + [(d - 1) * (i == axis + 1) for i in range(rank + 1)]))
            shape[axis] *= d
            w = slice_(net, reshape(net, wide, shape), 0, shape[axis] - d + 1, axis)
    return w


def embedded(net: Any, w: Any, size: int) -> Any:
    """The kernel in the middle of zeros, `size` on every axis."""
    sides = [(size - k) // 2 for k in w.shape[2:]]
    return net("Pad", w, net.ints([0, 0, *sides, 0, 0, *sides])) if any(sides) else w


INCEPTION = "Inception Convolution with Efficient Dilation Search"


def dilations(net: Any, rank: int, most: int = 4) -> list[int]:
    return [net.int(1, most) for _ in range(rank)]


@block("inception-conv", INCEPTION, seeds=["000:3"], dims=(1, 2, 3), hazards="none special")
def inception_conv(net: Any, x: Any) -> Any:
    """Output channels in groups with their own dilation on each axis, in a bottleneck; stresses dilated convolution and Concat."""
    rank, s, h = len(spatial(x)), net.pick((1, 2)), conv_bn_act(net, x, 8, 1)
    separate = net.flag(0.3)
    parts = split(net, h, 2) if separate else [h] * net.pick((2, 3))
    made = list[Any]()
    for part in parts:
        out = channels(part) if separate else net.pick((4, 2, 5))
        g = out if separate else 1
        made.append(dilated(net, part, net.weight(out, channels(part) // g, *[3] * rank), dilations(net, rank), s=s, g=g))
    y = bn(net, pointwise(net, act(net, bn(net, concat(net, *made))), channels(x)))
    return act(net, add(net, y, x if s == 1 else bn(net, conv(net, x, channels(x), 1, s=2))))


@block("inception-conv/edo-supernet", INCEPTION, dims=(1, 2), hazards="ties of the minimum")
def edo_supernet(net: Any, x: Any) -> Any:
    """One wide kernel and masks of its taps: which dilation loses least, by channel."""
    rank, most, errors = len(spatial(x)), 3, list[Any]()
    w = net.weight(6, channels(x), *[2 * most + 1] * rank)
    full = conv(net, x, 6, 2 * most + 1, w=w)
    for pattern in ([1] * rank, [2] * rank, [1, 3][:rank]):
        ones = reshape(net, net.const([1.0] * 3**rank), [1, 1, *[3] * rank])
        mask = embedded(net, stuffed(net, ones, pattern), 2 * most + 1)
        lost = net("Sub", conv(net, x, 6, 2 * most + 1, w=mul(net, w, mask)), full)
        errors.append(reduce(net, "ReduceL1", lost, [0, *range(2, rank + 2)], 0))
    best = net("ArgMin", net("Concat", *[net("Unsqueeze", e, net.ints([0])) for e in errors], axis=0), axis=0, keepdims=0)
    return full, best


@relation("inception-conv/zero-stuffed", of="inception-conv", dims=(1, 2, 3))
def inception_zero_stuffed(net: Any, x: Any) -> Any:
    """The branches are one dense convolution whose taps are stuffed with zeros, channel by channel."""
    rank, s, left, kernels = len(spatial(x)), net.pick((1, 2)), list[Any](), list[Any]()
    most = 4 if rank < 3 else 2
    for _ in range(net.pick((2, 3))):
        w, d = net.weight(net.pick((3, 2, 4)) if rank < 3 else 2, channels(x), *[3] * rank), dilations(net, rank, most)
        left.append(dilated(net, x, w, d, s=s))
        kernels.append(embedded(net, stuffed(net, w, d), 2 * most + 1))
    return concat(net, *left), dilated(net, x, net("Concat", *kernels, axis=0), [1] * rank, s=s)


E2GC = "E2GC: Energy-efficient Group Convolution in Deep Neural Networks"


@block("constant-group-size-gconv", E2GC, seeds=["000:345"], dims=(1, 2, 3), hazards="none special")
def constant_group_size_gconv(net: Any, x: Any) -> Any:
    """Groups of a constant size however many channels there are; stresses grouped lowering between depthwise and dense."""
    c = channels(x)
    size = net.pick([n for n in (4, 1, 2, 8, 16) if c % n == 0])
    if net.flag():
        h = conv_bn_act(net, conv_bn_act(net, x, c, 1), c, g=c // size)
        return act(net, add(net, x, bn(net, pointwise(net, h, c))))
    return conv_bn_act(net, conv_bn_act(net, x, c, g=c // size, s=net.pick((1, 2))), net.pick((8, 24)), 1)


def grouped(net: Any, x: Any) -> tuple[int, Any, int]:
    """Groups, a weight for them, and how many outputs a group has."""
    c, size, out = channels(x), net.pick((4, 2, 1)), net.pick((2, 1, 3))
    return c // size, net.weight(c // size * out, size, *[3] * len(spatial(x))), out


@relation("constant-group-size-gconv/as-dense", of="constant-group-size-gconv", dims=(1, 2, 3))
def grouped_as_dense(net: Any, x: Any) -> Any:
    """A grouped convolution is a dense one with a block-diagonal kernel."""
    g, w, out = grouped(net, x)
    size, rank, rows = w.shape[1], len(w.shape), list[Any]()
    for i in range(g):
        row = slice_(net, w, i * out, i * out + out, 0)
        rows.append(net("Pad", row, net.ints([0, i * size, *[0] * (rank - 2), 0, (g - 1 - i) * size, *[0] * (rank - 2)])))
    dense = rows[0] if g == 1 else net("Concat", *rows, axis=0)
    return conv(net, x, g * out, g=g, w=w), conv(net, x, g * out, w=dense)


@relation("constant-group-size-gconv/as-split", of="constant-group-size-gconv", dims=(1, 2, 3))
def grouped_as_split(net: Any, x: Any) -> Any:
    """A grouped convolution is Split, a convolution of each part, and Concat."""
    g, w, out = grouped(net, x)
    parts = [x] if g == 1 else split(net, x, g)
    made = [conv(net, part, out, w=slice_(net, w, i * out, i * out + out, 0)) for i, part in enumerate(parts)]
    return conv(net, x, g * out, g=g, w=w), made[0] if g == 1 else concat(net, *made)


INCEPTIONNEXT = "InceptionNeXt: When Inception Meets ConvNeXt"


def inception_mix(net: Any, x: Any, gc: int, b: int) -> Any:
    """Most channels as they are, and three small groups with square, row and column kernels."""
    c = channels(x)
    keep, square, row, column = net("Split", x, net.ints([c - 3 * gc, gc, gc, gc]), axis=1, outputs=4)
    return concat(net, keep, conv(net, square, gc, 3, g=gc), conv(net, row, gc, (1, b), g=gc), conv(net, column, gc, (b, 1), g=gc))


def inceptionnext_block(net: Any, x: Any, ratio: float, b: int) -> Any:
    c = channels(x)
    wide = 2 * c
    h = bn(net, inception_mix(net, x, max(int(c * ratio), 1), b))
    h = pointwise(net, act(net, pointwise(net, h, wide, bias=True), "Gelu"), c, bias=True)
    return add(net, x, mul(net, h, net.weight(c, 1, 1)))


@block("inceptionnext", INCEPTIONNEXT, seeds=["001:263", "002:39", "003:59"], hazards="a layer scale near 0")
def inceptionnext(net: Any, x: Any) -> Any:
    """Depthwise kernels of three shapes on small groups of channels, then two 1x1; stresses Split with a large part passed through."""
    return inceptionnext_block(net, x, net.pick((0.125, 0.25)), net.pick((7, 5, 9)))


@block("inceptionnext/inception-dwconv", INCEPTIONNEXT)
def inception_dwconv(net: Any, x: Any) -> Any:
    """The token mixer alone."""
    return inception_mix(net, x, max(channels(x) // 8, 1), net.pick((11, 7, 9)))


@block("inceptionnext/net", INCEPTIONNEXT, even=4)
def inceptionnext_net(net: Any, x: Any) -> Any:
    """Patch stem, two stages, a head with an inner layer."""
    y = inceptionnext_block(net, bn(net, conv(net, x, 8, 2, s=2, pad=0)), 0.125, 7)
    y = inceptionnext_block(net, conv(net, bn(net, y), 16, 2, s=2, pad=0, bias=True), 0.125, 5)
    return linear(net, layer_norm(net, act(net, classifier(net, y, 12), "Gelu")), 5)


@relation("inceptionnext/kernel-embedding", of="inceptionnext")
def kernel_embedding(net: Any, x: Any) -> Any:
    """Square, row and column kernels, and no kernel at all, are one depthwise convolution with kernels in zeros."""
    c, b = channels(x), net.pick((5, 7))
    gc = max(c // 8, 1)
    w1, w2, w3 = net.weight(gc, 1, 3, 3), net.weight(gc, 1, 1, b), net.weight(gc, 1, b, 1)
    keep, square, row, column = net("Split", x, net.ints([c - 3 * gc, gc, gc, gc]), axis=1, outputs=4)
    made = [conv(net, v, gc, w.shape[2:], g=gc, w=w) for v, w in ((square, w1), (row, w2), (column, w3))]
    centre = net("Expand", embedded(net, net.const([[[[1.0]]]]), b), net.ints([c - 3 * gc, 1, b, b]))
    kernel = net("Concat", centre, *[embedded(net, w, b) for w in (w1, w2, w3)], axis=0)
    return concat(net, keep, *made), conv(net, x, c, b, g=c, w=kernel)


@relation("inceptionnext/bands-as-square", of="inceptionnext")
def bands_as_square(net: Any, x: Any) -> Any:
    """A row and then a column kernel are one square kernel of rank 1."""
    c, b = channels(x), net.pick((5, 3, 7))
    row, column = net.weight(c, 1, 1, b), net.weight(c, 1, b, 1)
    return conv(net, conv(net, x, c, (1, b), g=c, w=row), c, (b, 1), g=c, w=column), conv(net, x, c, b, g=c, w=mul(net, row, column))


@relation("inceptionnext/passthrough", of="inceptionnext")
def passthrough(net: Any, x: Any) -> Any:
    """The channels that are not mixed come out as they went in."""
    keep = channels(x) - 3 * max(channels(x) // 8, 1)
    return slice_(net, inception_mix(net, x, max(channels(x) // 8, 1), 5), 0, keep, 1), slice_(net, x, 0, keep, 1)


RAPIDNET = "RapidNet: Multi-Level Dilated Convolution Based Mobile Backbone"


def mldc(net: Any, x: Any, levels: Sequence[int]) -> Any:
    c = channels(x)
    x = add(net, x, depthwise(net, x, 7, bias=True))
    u, total = act(net, bn(net, pointwise(net, x, c)), "Gelu"), None
    for d in levels:
        part = bn(net, depthwise(net, u, 3, d=d))
        total = part if total is None else add(net, total, part)
    x = add(net, x, bn(net, pointwise(net, act(net, total, "Gelu"), c)))
    h = act(net, bn(net, pointwise(net, depthwise(net, x, 7), 2 * c)), "Gelu")
    return add(net, x, mul(net, pointwise(net, h, c), net.weight(c, 1, 1)))


@block("rapidnet-mldc", RAPIDNET, seeds=["000:25"], hazards="a layer scale near 0")
def rapidnet_mldc(net: Any, x: Any) -> Any:
    """Parallel depthwise convolutions of unlike dilation, summed, and a large-kernel feed-forward; stresses parallel dilated kernels.

    Assumed: 7x7 kernels of the position encoding and the feed-forward; its expansion is 2 here, to stay small.
    """
    return mldc(net, x, net.pick(((2, 3), (1, 2, 3))))


@block("rapidnet-mldc/net", RAPIDNET, even=4)
def rapidnet_net(net: Any, x: Any) -> Any:
    """Two strided convolutions, an inverted residual, a reduction, a dilated block, a head. Assumed as for the block."""
    y = conv_bn_act(net, conv_bn_act(net, x, 8, s=2), 8, kind="Gelu")
    h = bn(net, pointwise(net, conv_bn_act(net, conv_bn_act(net, y, 16, 1, "Gelu"), 16, 3, "Gelu", g=16), 8))
    return classifier(net, mldc(net, bn(net, conv(net, add(net, y, h), 12, s=2)), (2, 3)))


@relation("rapidnet-mldc/merge", of="rapidnet-mldc", dims=(1, 2, 3))
def dilated_merge(net: Any, x: Any) -> Any:
    """A sum of dilated depthwise convolutions is one whose kernel is the sum of their stuffed kernels."""
    c, rank, levels = channels(x), len(spatial(x)), net.pick(((2, 3), (1, 2, 3), (1, 2)))
    weights = [net.weight(c, 1, *[3] * rank) for _ in levels]
    parts = [dilated(net, x, w, [d] * rank, g=c) for w, d in zip(weights, levels, strict=True)]
    kernels = [embedded(net, stuffed(net, w, [d] * rank), 2 * max(levels) + 1) for w, d in zip(weights, levels, strict=True)]
    return net("Sum", *parts), dilated(net, x, net("Sum", *kernels), [1] * rank, g=c)


SIC = 'Design of Efficient Convolutional Layers using Single Intra-channel Convolution, Topological Subdivisioning and Spatial "Bottleneck" Structure'


@block("single-intra-channel-conv", SIC, seeds=["002:109"], dims=(1, 2, 3), hazards="none special")
def single_intra_channel_conv(net: Any, x: Any) -> Any:
    """One kernel a channel and a linear projection, each pair under a residual; stresses depthwise-pointwise chains."""
    for _ in range(net.pick((2, 1, 3))):
        x = act(net, bn(net, add(net, x, pointwise(net, depthwise(net, x), channels(x)))))
    return x


@block("single-intra-channel-conv/spatial-bottleneck", SIC, dims=(1, 2, 3), even=2)
def spatial_bottleneck(net: Any, x: Any) -> Any:
    """Reduce by a strided kernel, project at low resolution, bring back by a depthwise transposed convolution."""
    c, rank = channels(x), len(spatial(x))
    w = net.weight(c, 1, *[2] * rank)
    low = pointwise(net, net("Conv", x, w, kernel_shape=[2] * rank, strides=[2] * rank, group=c), c)
    up = net("ConvTranspose", low, net.weight(c, 1, *[2] * rank), kernel_shape=[2] * rank, strides=[2] * rank, group=c)
    return act(net, bn(net, add(net, x, up)))


def torus(c: int) -> list[list[int]]:
    """For every offset, which channel each channel reads, on a torus of two axes."""
    rows = 4 if c % 4 == 0 else 2 if c % 2 == 0 else 1
    columns = c // rows
    near = product(range(min(2, rows)), range(min(2, columns)))
    return [[(i // columns + a) % rows * columns + (i % columns + b) % columns for i in range(c)] for a, b in near]


def topological(net: Any, c: int, rank: int) -> tuple[list[Any], Any]:
    """Weights by offset, (C, 1, ...), and the dense 1x1 weight that they make."""
    weights, dense = list[Any](), None
    for reads in torus(c):
        weights.append(net.weight(c, *[1] * rank))
        ones = net.const([[float(j == reads[i]) for j in range(c)] for i in range(c)])
        part = mul(net, reshape(net, ones, [c, c, *[1] * rank]), reshape(net, weights[-1], [c, 1, *[1] * rank]))
        dense = part if dense is None else add(net, dense, part)
    return weights, dense


@block("single-intra-channel-conv/topological", SIC, dims=(1, 2, 3))
def topological_channel_conv(net: Any, x: Any) -> Any:
    """Channels on a torus, each reading its neighbours: a 1x1 convolution with a masked weight."""
    c, rank = channels(x), len(spatial(x))
    mask = net.const([[float(any(reads[i] == j for reads in torus(c))) for j in range(c)] for i in range(c)])
    w = mul(net, net.weight(c, c, *[1] * rank), reshape(net, mask, [c, c, *[1] * rank]))
    return act(net, bn(net, conv(net, depthwise(net, x), c, 1, w=w)))


@relation("single-intra-channel-conv/topological-as-dense", of="single-intra-channel-conv", dims=(1, 2, 3))
def topological_as_dense(net: Any, x: Any) -> Any:
    """Gathered neighbours, weighted and summed, are a dense 1x1 convolution with zeros."""
    c, total = channels(x), None
    weights, dense = topological(net, c, len(spatial(x)))
    for w, reads in zip(weights, torus(c), strict=True):
        part = mul(net, net("Gather", x, net.ints(reads), axis=1), w)
        total = part if total is None else add(net, total, part)
    return total, conv(net, x, c, 1, w=dense)


WEIGHTED = "Optimal Weighted Convolution for Classification and Denosing"


def density(net: Any, a: float, k: int, rank: int, b: float = 0.5) -> list[Any]:
    """The profile as a vector along each axis: their product is the density."""
    profile = [a, 1.0, a] if k == 3 else [b, a, 1.0, a, b]
    return [reshape(net, net.const(profile), [k if i == axis else 1 for i in range(rank)]) for axis in range(rank)]


@block("weighted-convolution", WEIGHTED, seeds=["002:181"], dims=(1, 2, 3), hazards="none special")
def weighted_convolution(net: Any, x: Any) -> Any:
    """A kernel under a fixed, symmetric density; stresses constant folding of a product of weights."""
    c, rank, k = channels(x), len(spatial(x)), net.pick((3, 5))
    g = net.pick((1, c))
    w, phi = net.weight(c, c // g, *[k] * rank), None
    for f in density(net, net.pick((0.8, 0.5, 0.65, 1.2, 1.5)), k, rank):
        phi = f if phi is None else mul(net, phi, f)
    return act(net, bn(net, conv(net, x, c, k, g=g, w=mul(net, w, phi))))


@relation("weighted-convolution/density-fold", of="weighted-convolution", dims=(1, 2, 3))
def density_fold(net: Any, x: Any) -> Any:
    """The density as one factor of the weight, and axis by axis."""
    rank, k = len(spatial(x)), net.pick((3, 5))
    w, phi = net.weight(6, channels(x), *[k] * rank), None
    by_axis = w
    for f in density(net, net.pick((0.8, 1.5)), k, rank):
        phi = f if phi is None else mul(net, phi, f)
        by_axis = mul(net, by_axis, f)
    return conv(net, x, 6, k, w=mul(net, w, phi)), conv(net, x, 6, k, w=by_axis)


@relation("weighted-convolution/plain", of="weighted-convolution", dims=(1, 2, 3))
def density_of_ones(net: Any, x: Any) -> Any:
    """A density of ones is the plain convolution."""
    rank, k = len(spatial(x)), net.pick((3, 5))
    w = net.weight(6, channels(x), *[k] * rank)
    left = w
    for f in density(net, 1.0, k, rank, 1.0):
        left = mul(net, left, f)
    return conv(net, x, 6, k, w=left), conv(net, x, 6, k, w=w)
