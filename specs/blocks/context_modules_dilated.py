"""Context without pooling: dilated stacks and residuals, one backbone on several scales, messages between rows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from specs.blocks.context_modules import pre_act
from specs.blocks.layers import (
    act,
    add,
    bn,
    channels,
    concat,
    conv,
    gap,
    mean,
    pad,
    pointwise,
    pool,
    reshape,
    resize,
    slice_,
    softmax,
    spatial,
    transpose,
)
from specs.blocks.pyramids import backbone, bins
from specs.blocks.sharing import shared
from specs.blocks.u_shapes import classes, flip, unit
from specs.formats import INT64
from specs.net import block, need

DILATED = "Multi-Scale Context Aggregation by Dilated Convolutions"
MIXNET = "MixNet: Multi-modality Mix Network for Brain Segmentation"
S2 = "When Do We Not Need Larger Vision Models?"
SCNN = "Spatial As Deep: Spatial CNN for Traffic Scene Understanding"


def dilated_stack(net: Any, x: Any, rates: Sequence[int], widths: Sequence[int]) -> Any:
    for d, w in zip(rates, widths, strict=True):
        x = act(net, conv(net, x, w, 3, d=d, bias=True))
    return x


@block("dilated-context-module", DILATED, seeds=["000:51"], dims=(1, 2, 3), hazards="most taps in the padding")
def dilated_context_module(net: Any, x: Any) -> Any:
    """Dilations 1, 1, 2, 4, 8, 16, 1 with padding, then 1x1; stresses pads larger than the map."""
    wide = net.pick(([4] * 7, [4, 4, 8, 16, 16, 16, 4]))
    return pointwise(net, dilated_stack(net, pointwise(net, x, 4), (1, 1, 2, 4, 8, 16, 1), wide), 4, bias=True)


@block("dilated-context-module/net", DILATED, seeds=["000:51"], dims=(2, 3), hazards="most taps in the padding")
def dilated_context_net(net: Any, x: Any) -> Any:
    """A front end of one pooling and dilations in place of further ones, the context module on its class maps, resized."""
    y = act(net, conv(net, act(net, conv(net, x, 8, 3, bias=True)), 8, 3, bias=True))
    y = pool(net, y, "MaxPool") if min(spatial(y)) > 1 else y
    y = pointwise(net, dilated_stack(net, y, (2, 4), (8, 8)), 4, bias=True)
    y = pointwise(net, dilated_stack(net, y, (1, 1, 2, 4, 8, 16, 1), [4] * 7), 4, bias=True)
    return softmax(net, resize(net, y, spatial(x), "linear"), 1)


@block("dilated-context-module/reflected", DILATED, seeds=["000:51"], dims=(1, 2), hazards="reflection by nearly the size")
def dilated_reflected(net: Any, x: Any) -> Any:
    """Reflected once by the sum of the dilations, then convolutions without padding: this Pad must not be fused."""
    rates = net.pick(((1, 1, 2, 1), (1, 1), (1, 2, 2)))
    need(min(spatial(x)) > sum(rates), "reflection needs more positions than it adds")
    rank = len(x.shape) - 2
    x = pad(net, pointwise(net, x, 4), [sum(rates)] * rank, [sum(rates)] * rank, "reflect")
    for d in rates:
        x = act(net, conv(net, x, 4, 3, d=d, pad=0, bias=True))
    return pointwise(net, x, 4, bias=True)


def dilated_residual(net: Any, x: Any, out: int, d: int) -> Any:
    """Pre-activation bottleneck with a dilated middle."""
    y = pre_act(net, pre_act(net, x, out // 2), out // 2, 1)
    y = conv(net, act(net, bn(net, y)), out // 2, 3, d=d)
    y = pre_act(net, y, out)
    return add(net, y, x if channels(x) == out else pointwise(net, x, out))


def pyramid_pooling(net: Any, x: Any, sizes: Sequence[int], c: int) -> Any:
    """Adaptive bins, 1x1, linear Resize, beside the input."""
    return concat(net, x, *(resize(net, pointwise(net, bins(net, x, b), c), spatial(x), "linear") for b in sizes))


@block("mixnet-dilated-residual", MIXNET, seeds=["000:91", "002:395"], dims=(1, 2, 3))
def mixnet_dilated_residual(net: Any, x: Any) -> Any:
    """Two bottlenecks with growing dilation in place of pooling. Assumed: the order of norms."""
    y = dilated_residual(net, x, net.pick((8, 16)), net.pick((1, 2)))
    return dilated_residual(net, y, channels(y), net.pick((2, 4)))


@block("mixnet-dilated-residual/pyramid-pooling", MIXNET, seeds=["000:91", "002:395"], dims=(2, 3), hazards="uneven bins, resize from 1x1")
def mixnet_pyramid_pooling(net: Any, x: Any) -> Any:
    """Bins of 1, 2, 3, 6 as products with averaging matrices: any size, also smaller than the bins."""
    return unit(net, pyramid_pooling(net, x, net.pick(((1, 2, 3, 6), (1, 2))), 4), 8)


@block("mixnet-dilated-residual/net", MIXNET, seeds=["000:91", "002:395"])
def mixnet_net(net: Any, x: Any) -> Any:
    """Two modalities joined before, in the middle or at the scores; pooled pyramid, softmax. Assumed: as in the block."""
    when, other = net.pick(("early", "middle", "late")), net.input(*x.shape)
    trunk = lambda v: dilated_residual(net, dilated_residual(net, conv(net, v, 8), 8, 1), 8, 2)
    scores = lambda v: conv(net, pyramid_pooling(net, v, (1, 2, 3), 2), 4, 3, bias=True)
    if when == "early":
        return softmax(net, scores(trunk(concat(net, x, other))), 1)
    a, b = trunk(x), trunk(other)
    return softmax(net, scores(concat(net, a, b)) if when == "middle" else add(net, scores(a), scores(b)), 1)


def tiles(net: Any, x: Any, k: int) -> Any:
    """k by k neighbouring pieces, moved to the batch."""
    n, c, h, w = x.shape
    y = transpose(net, reshape(net, x, [n, c, k, h // k, k, w // k]), [0, 2, 4, 1, 3, 5])
    return reshape(net, y, [n * k * k, c, h // k, w // k])


def untiled(net: Any, y: Any, k: int) -> Any:
    """The inverse of tiles."""
    n, c, h, w = y.shape[0] // (k * k), *y.shape[1:]
    x = transpose(net, reshape(net, y, [n, k, k, c, h, w]), [0, 3, 1, 4, 2, 5])
    return reshape(net, x, [n, c, k * h, k * w])


def on_scales(net: Any, x: Any, scales: Sequence[int], f: Any) -> Any:
    """The same backbone on pieces of enlarged images, merged, averaged back and concatenated."""
    outs = list[Any]()
    for k in scales:
        big = x if k == 1 else resize(net, x, [k * n for n in spatial(x)], "cubic")
        y = f(big if k == 1 else tiles(net, big, k))
        outs.append(y if k == 1 else pool(net, untiled(net, y, k), "AveragePool", k))
    return concat(net, *outs)


@block("s2-scaling-on-scales", S2, seeds=["004:143"], hazards="overshoot of cubic interpolation")
def s2_scaling_on_scales(net: Any, x: Any) -> Any:
    """One backbone at several scales in pieces of equal size; stresses 6-D transposes, cubic Resize, area averages."""
    f = shared(net, lambda net, v: act(net, conv(net, v, 8, 3, s=1, bias=True), "Gelu"))
    return on_scales(net, slice_(net, x, 0, 3, 1), net.pick(((1, 2), (1, 2, 3), (1,))), f)


@block("s2-scaling-on-scales/space-to-batch-tiles", S2, seeds=["004:143"], even=4)
def s2_tiles(net: Any, x: Any) -> Any:
    """Pieces to the batch, a convolution that does not see across their borders, and back."""
    k = net.pick((2, 4))
    return untiled(net, unit(net, tiles(net, x, k), 8), k)


@block("s2-scaling-on-scales/net", S2, seeds=["004:143"])
def s2_net(net: Any, x: Any) -> Any:
    """Patch embedding and a residual stage as the backbone, a global head on all scales."""

    def body(net: Any, v: Any) -> Any:
        y = unit(net, v, 8, 3, norm="", kind="Gelu")
        return add(net, y, conv(net, y, 8, 3, bias=True))

    y = on_scales(net, slice_(net, x, 0, 3, 1), net.pick(((1, 2), (1, 2, 3))), shared(net, body))
    return net("Gemm", net("Flatten", gap(net, y)), net.weight(channels(y), 5), net.weight(5))


def message_pass(net: Any, x: Any, w: Any, axis: int, back: bool = False) -> Any:
    """Rows (or columns) in turn: each adds ReLU of a convolution of the one before, which is already updated."""
    n = x.shape[axis]
    order = list(range(n))[:: -1 if back else 1]
    rows = {i: slice_(net, x, i, i + 1, axis) for i in order}
    for before, i in itertools.pairwise(order):
        rows[i] = add(net, rows[i], act(net, conv(net, rows[before], channels(x), w.shape[2:], w=w)))
    return net("Concat", *(rows[i] for i in range(n)), axis=axis)


def message_weight(net: Any, c: int, k: int, axis: int) -> Any:
    """Small weights: nothing normalises what grows from row to row."""
    bound = 1.0 / math.sqrt(5 * c)
    return net.weight(c, c, *((1, k) if axis == 2 else (k, 1)), low=-bound, high=bound)


def few_rows(net: Any, x: Any, most: int = 5, width: int = 4) -> Any:
    """A corner of the map, narrowed: the passes are unrolled."""
    for axis in (2, 3):
        x = slice_(net, x, 0, min(most, x.shape[axis]), axis)
    return pointwise(net, x, width)


@block("scnn-slice-message-passing", SCNN, seeds=["001:211"], hazards="growth from row to row without a norm")
def scnn_slice_message_passing(net: Any, x: Any) -> Any:
    """Down, up, right and left through a small map, unrolled; stresses Slice-Conv-Concat chains and shared kernels."""
    x, k = few_rows(net, x), net.pick((3, 5, 7))
    for axis, back in ((2, False), (2, True), (3, False), (3, True)):
        x = message_pass(net, x, message_weight(net, 4, k, axis), axis, back)
    return x


@block("scnn-slice-message-passing/scan-reverse", SCNN, seeds=["001:211"], hazards="growth from row to row without a norm")
def scnn_reverse(net: Any, x: Any) -> Any:
    """The upward pass between two reverse Slices."""
    x = few_rows(net, x, 8)
    return flip(net, message_pass(net, flip(net, x, [2]), message_weight(net, 4, net.pick((3, 5, 9)), 2), 2), [2])


@block("scnn-slice-message-passing/in-place-row-update", SCNN, seeds=["001:211"], hazards="growth from row to row without a norm")
def scnn_scatter(net: Any, x: Any) -> Any:
    """The downward pass where every row is scattered back into the map: buffers may be reused, older ones must not change."""
    x = few_rows(net, x, 6)
    n, c, h, w = x.shape
    kernel = message_weight(net, c, 3, 2)
    for i in range(1, h):
        row = act(net, conv(net, slice_(net, x, i - 1, i, 2), c, (1, 3), w=kernel))
        row = add(net, slice_(net, x, i, i + 1, 2), row)
        x = net("ScatterElements", x, net.const(np.full((n, c, 1, w), i), INT64), row, axis=2)
    return x


@block("scnn-slice-message-passing/net", SCNN, seeds=["001:211"])
def scnn_net(net: Any, x: Any) -> Any:
    """Backbone, the four passes, lane probabilities at the input's size and one existence score for each."""
    y = few_rows(net, backbone(net, x, (8,))[-1], 4)
    for axis, back in ((2, False), (2, True), (3, False), (3, True)):
        y = message_pass(net, y, message_weight(net, 4, 3, axis), axis, back)
    p = classes(net, y, 5)
    lanes = net("Sigmoid", net("Gemm", mean(net, p, [2, 3], 0), net.weight(5, 4), net.weight(4)))
    return resize(net, p, spatial(x), "linear"), lanes
