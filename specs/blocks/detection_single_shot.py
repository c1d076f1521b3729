"""Detectors in one shot: convolutions over a whole pyramid, multi-box heads, CSP stages with spatial pyramid pooling."""

from __future__ import annotations

import math
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
    mean,
    mul,
    pointwise,
    pool,
    reduce,
    reshape,
    resize,
    slice_,
    softmax,
    spatial,
    split,
    transpose,
)
from specs.blocks.normalisation_activation import mish_form
from specs.blocks.pyramids import backbone, deform
from specs.blocks.u_shapes import leaky, sigmoid_head, unit
from specs.net import block

SEPC = "Scale-Equalizing Pyramid Convolution for Object Detection"
SSD = "SSD: Single Shot MultiBox Detector"
YOLO = "YOLOv4: Optimal Speed and Accuracy of Object Detection"


# Pyramid convolution --------------------------------------------------------------------------------------------------


def pyramid(net: Any, x: Any, levels: int, c: int) -> list[Any]:
    """Levels of equal width, each half the one before, rounded up."""
    made = [conv(net, x, c, 3)]
    for _ in range(levels - 1):
        made.append(conv(net, made[-1], c, 3, s=2))
    return made


def pyramid_conv(net: Any, xs: Sequence[Any], ws: Sequence[Any], bent: bool = False) -> list[Any]:
    """Each level from itself, the level below by a strided kernel, the level above resized: three kernels for all levels."""
    c, outs = channels(xs[0]), list[Any]()
    for i, x in enumerate(xs):
        y = deform(net, x, c, 3, False, w=ws[0]) if bent and i > 0 else conv(net, x, c, 3, w=ws[0])
        if i > 0:
            y = add(net, y, conv(net, xs[i - 1], c, 3, s=2, w=ws[1]))
        if i + 1 < len(xs):
            y = add(net, y, resize(net, conv(net, xs[i + 1], c, 3, w=ws[2]), spatial(x), "linear" if bent else "nearest"))
        outs.append(y)
    return outs


def integrated_norm(net: Any, xs: Sequence[Any], p: Sequence[Any], joined: bool) -> list[Any]:
    """One batch normalisation for all levels: over their flattened Concat, or the same affine map on each."""
    if not joined:
        return [net("BatchNormalization", x, *p) for x in xs]
    n, c = xs[0].shape[:2]
    sizes = [math.prod(spatial(x)) for x in xs]
    y = net("BatchNormalization", concat(net, *(reshape(net, x, [n, c, -1]) for x in xs), axis=2), *p)
    parts = net("Split", y, net.ints(sizes), axis=2, outputs=len(xs))
    return [reshape(net, v, x.shape) for v, x in zip(parts, xs, strict=True)]


def norm_weights(net: Any, c: int) -> list[Any]:
    return [net.weight(c), net.weight(c), net.weight(c), net.weight(c, low=0.2, high=2.0)]


def _stack(net: Any, xs: Sequence[Any], times: int, bent: bool) -> list[Any]:
    c, joined = channels(xs[0]), net.flag()
    for _ in range(times):
        ws = [net.weight(c, c, 3, 3) for _ in range(3)]
        xs = [act(net, v) for v in integrated_norm(net, pyramid_conv(net, xs, ws, bent), norm_weights(net, c), joined)]
    return list(xs)


@block("sepc-pyramid-conv", SEPC, seeds=["001:55", "002:275"], hazards="deformed positions outside the map, odd sizes")
def sepc_pyramid_conv(net: Any, x: Any) -> Any:
    """Kernels over scale and space, deformed above the bottom level, one norm for all levels; stresses initializers with many users."""
    return _stack(net, pyramid(net, x, 2, 4), 1, True)


@block("sepc-pyramid-conv/pyramid-conv", SEPC, seeds=["001:55", "002:275"], hazards="odd sizes")
def sepc_plain(net: Any, x: Any) -> Any:
    """Pyramid convolutions in a stack, without deformation."""
    return _stack(net, pyramid(net, x, net.pick((2, 3)), net.pick((4, 8))), net.pick((1, 2)), False)


@block("sepc-pyramid-conv/integrated-bn", SEPC, seeds=["001:55", "002:275"], dims=(2, 3))
def sepc_norm(net: Any, x: Any) -> Any:
    """Batch norm over the Concat of flattened levels, split again."""
    return integrated_norm(net, pyramid(net, x, 3, 4), norm_weights(net, 4), True)


@block("sepc-pyramid-conv/retina-head", SEPC, seeds=["001:55", "002:275"])
def sepc_head(net: Any, x: Any) -> Any:
    """A head shared by all levels, the degenerate pyramid convolution."""
    w, v = net.weight(4, 4, 3, 3), net.weight(6, 4, 3, 3)
    return [act(net, conv(net, act(net, conv(net, p, 4, 3, w=w)), 6, 3, w=v), "Sigmoid") for p in pyramid(net, x, net.pick((2, 3)), 4)]


@block("sepc-pyramid-conv/net", SEPC, seeds=["001:55", "002:275"], hazards="odd sizes")
def sepc_net(net: Any, x: Any) -> Any:
    """Backbone, two pyramid convolutions over three levels, the last one deformed where the operator exists, class maps."""
    fine, low = (pointwise(net, f, 4) for f in backbone(net, x, (8, 8)))
    xs = _stack(net, _stack(net, [fine, low, conv(net, low, 4, 3, s=2)], 1, False), 1, net.opset >= 19)
    return [sigmoid_head(net, p, 3) for p in xs]


# Multi-box ------------------------------------------------------------------------------------------------------------


def l2_scaled(net: Any, x: Any, how: str) -> Any:
    """Normalised over the channels to a learned length."""
    scale = net.weight(channels(x), *[1] * (len(x.shape) - 2), low=1.0, high=20.0)
    if how == "operator":
        return mul(net, net("LpNormalization", x, axis=1, p=2), scale)
    return mul(net, net("Div", x, net("Add", reduce(net, "ReduceL2", x, [1]), net.const(1e-6))), scale)


def rows_of(net: Any, maps: Sequence[Any], k: int) -> Any:
    """Heads as rows: NHWC, (N, hwA, k), all maps joined."""
    return concat(net, *(reshape(net, transpose(net, m, [0, 2, 3, 1]), [m.shape[0], -1, k]) for m in maps))


def priors(maps: Sequence[Any], a: int) -> np.ndarray:
    """Default boxes as (cx, cy, w, h) for each map, in the order of the rows."""
    found = list[list[float]]()
    for k, m in enumerate(maps):
        h, w = spatial(m)
        size = 0.2 + 0.7 * k / max(1, len(maps) - 1)
        ratios = [1.0, 2.0, 0.5, 3.0, 1 / 3, 1.0][:a]
        found += [[(j + 0.5) / w, (i + 0.5) / h, size * r**0.5, size / r**0.5] for i in range(h) for j in range(w) for r in ratios]
    return np.array(found)


def _multibox(net: Any, maps: Sequence[Any], a: int, n: int) -> tuple[Any, Any]:
    """Class probabilities and corners of all default boxes."""
    location = rows_of(net, [conv(net, m, a * 4, 3, bias=True) for m in maps], 4)
    score = rows_of(net, [conv(net, m, a * n, 3, bias=True) for m in maps], n)
    grid = priors(maps, a)
    centre, size = net.const(grid[None, :, :2]), net.const(grid[None, :, 2:])
    shift, stretch = split(net, location, 2, 2)
    middle = net("Add", centre, net("Mul", mul(net, shift, size), net.const(0.1)))
    half = net("Mul", mul(net, size, net("Exp", net("Clip", net("Mul", stretch, net.const(0.2)), None, net.const(4.0)))), net.const(0.5))
    return softmax(net, score), concat(net, net("Sub", middle, half), net("Add", middle, half), axis=2)


def _best(net: Any, score: Any, box: Any, k: int) -> tuple[Any, Any]:
    """The k best boxes of the first class: TopK and a gather, where the original suppresses overlaps."""
    values, places = net("TopK", slice_(net, score, 1, 2, 2), net.ints([k]), axis=1, outputs=2)
    return values, net("GatherElements", box, net("Expand", places, net.ints([box.shape[0], k, 4])), axis=1)


@block("ssd-multibox", SSD, seeds=["002:123"], hazards="exp of a size regressor")
def ssd_multibox(net: Any, x: Any) -> Any:
    """Heads on two maps, rows joined, boxes decoded; stresses Transpose-Reshape-Concat of many heads."""
    return _multibox(net, [x, unit(net, x, 8, s=2, norm="")], net.pick((4, 2)), net.pick((3, 2)))


@block("ssd-multibox/l2norm-scale", SSD, seeds=["002:123"], dims=(1, 2, 3), hazards="a zero vector")
def ssd_l2norm(net: Any, x: Any) -> Any:
    """L2 norm over channels times a learned scale, by ReduceL2 or by the operator."""
    return l2_scaled(net, x, net.pick(("written", "operator")))


@block("ssd-multibox/hard-negative-mining", SSD, seeds=["002:123"], takes="none", hazards="ties of TopK")
def ssd_mining(net: Any) -> Any:
    """Cross entropy of background, positives masked out, the hardest by TopK, averaged."""
    n, boxes = net.pick((2, 1)), net.pick((24, 40))
    logits = net.input(n, boxes, 3)
    loss = net("Neg", reshape(net, slice_(net, net("LogSoftmax", logits, axis=-1), 0, 1, 2), [n, boxes]))
    masked = net("Where", net("Greater", net.input(n, boxes), net.const(0.5)), net.const(0.0), loss)
    hardest, _ = net("TopK", masked, net.ints([net.pick((6, 12))]), axis=1, outputs=2)
    return mean(net, hardest, [1], 0)


@block("ssd-multibox/net", SSD, seeds=["002:123"], hazards="exp of a size regressor, ties of TopK")
def ssd_net(net: Any, x: Any) -> Any:
    """VGG stage, stride-1 pool, convolution of dilation 6, an extra map, multi-box heads, the best boxes."""
    first = act(net, conv(net, x, 8, 3, bias=True))
    y = pool(net, pool(net, first, "MaxPool"), "MaxPool", 3, 1, 1)
    y = act(net, pointwise(net, act(net, conv(net, y, 8, 3, d=6, bias=True)), 8, bias=True))
    extra = act(net, conv(net, act(net, pointwise(net, y, 4, bias=True)), 8, 3, s=2, bias=True))
    score, box = _multibox(net, [l2_scaled(net, first, "written"), y, extra], 2, 3)
    return _best(net, score, box, min(20, score.shape[1]))


# YOLO -----------------------------------------------------------------------------------------------------------------


def mish_unit(net: Any, x: Any, out: int, k: int = 3, s: int = 1) -> Any:
    return mish_form(net, bn(net, conv(net, x, out, k, s=s)), "operator")


def csp(net: Any, x: Any, out: int, n: int) -> Any:
    """Cross stage partial: two 1x1 halves, one through residual units, joined."""
    x = mish_unit(net, x, out, 3, 2)
    y, side = mish_unit(net, x, out // 2, 1), mish_unit(net, x, out // 2, 1)
    for _ in range(n):
        y = add(net, y, mish_unit(net, mish_unit(net, y, out // 2, 1), out // 2))
    return mish_unit(net, concat(net, mish_unit(net, y, out // 2, 1), side), out, 1)


def spp(net: Any, x: Any, sizes: Sequence[int] = (5, 9, 13)) -> Any:
    """Stride-1 max pools of growing windows beside the map."""
    return concat(net, x, *(pool(net, x, "MaxPool", k, 1, k // 2) for k in sizes))


def _leaky_unit(net: Any, x: Any, out: int, k: int = 3, s: int = 1) -> Any:
    return leaky(net, bn(net, conv(net, x, out, k, s=s)), 0.1)


def decoded(net: Any, x: Any, a: int, n: int, stretch: float) -> Any:
    """Decoded boxes (N, A, H, W, 5 + classes): grid-sensitive centres, exponential sizes, sigmoid scores."""
    (h, w), batch = spatial(x), x.shape[0]
    y = transpose(net, reshape(net, pointwise(net, x, a * (5 + n), bias=True), [batch, a, 5 + n, h, w]), [0, 1, 3, 4, 2])
    xy, wh, rest = net("Split", y, net.ints([2, 2, 1 + n]), axis=4, outputs=3)
    grid = np.stack(np.meshgrid(np.arange(w), np.arange(h)), -1)[None, None].astype(np.float64)
    centre = net("Add", net("Mul", act(net, xy, "Sigmoid"), net.const(stretch)), net.const(grid - (stretch - 1) / 2))
    size = mul(net, net("Exp", net("Clip", wh, None, net.const(6.0))), net.weight(1, a, 1, 1, 2, low=0.5, high=4.0))
    return concat(net, centre, size, act(net, rest, "Sigmoid"), axis=4)


@block("yolov4-csp-spp-pan", YOLO, seeds=["002:315"], hazards="overflow of softplus in Mish")
def yolov4_csp_spp_pan(net: Any, x: Any) -> Any:
    """A CSP stage with Mish and spatial pyramid pooling; stresses Softplus-Tanh-Mul and large stride-1 pools."""
    return unit(net, spp(net, csp(net, x, net.pick((8, 16)), net.pick((1, 2))), net.pick(((5, 9, 13), (3, 5)))), 8, 1)


@block("yolov4-csp-spp-pan/spp", YOLO, seeds=["002:315"], dims=(1, 2))
def yolov4_spp(net: Any, x: Any) -> Any:
    """Three stride-1 max pools beside the map, also larger than it."""
    return spp(net, x)


@block("yolov4-csp-spp-pan/sam-pointwise", YOLO, seeds=["002:315"], dims=(1, 2, 3), hazards="sigmoid saturation")
def yolov4_sam(net: Any, x: Any) -> Any:
    """Every element under the sigmoid of a 1x1 convolution."""
    return mul(net, x, sigmoid_head(net, x, channels(x)))


@block("yolov4-csp-spp-pan/head", YOLO, seeds=["002:315"], hazards="exp of sizes, sigmoid saturation")
def yolov4_head(net: Any, x: Any) -> Any:
    """Reshape, Transpose, grid-sensitive decoding."""
    return decoded(net, x, 3, net.pick((2, 5)), net.pick((1.05, 1.1, 1.2)))


@block("yolov4-csp-spp-pan/ciou-loss", YOLO, seeds=["002:315"], takes="none", hazards="atan of a ratio of sizes, division by a diagonal")
def yolov4_ciou(net: Any) -> Any:
    """1 - IoU + centre distance over diagonal + aspect term, of pairs of boxes given as centre and size."""
    m = net.pick((6, 12))
    (ca, sa), (cb, sb) = ((c, net("Add", act(net, s, "Sigmoid"), net.const(0.1))) for c, s in (split(net, net.input(m, 4), 2, 1) for _ in range(2)))
    half = net.const(0.5)
    low_a, low_b, high_a, high_b = (net(op, c, net("Mul", s, half)) for op in ("Sub", "Add") for c, s in ((ca, sa), (cb, sb)))
    area = lambda v: mul(net, slice_(net, v, 0, 1, 1), slice_(net, v, 1, 2, 1))
    both = area(act(net, net("Sub", net("Min", high_a, high_b), net("Max", low_a, low_b))))
    overlap = net("Div", both, net("Sub", net("Add", area(sa), area(sb)), both))
    square = lambda v: reduce(net, "ReduceSumSquare", v, [1])
    far = net("Div", square(net("Sub", ca, cb)), square(net("Sub", net("Max", high_a, high_b), net("Min", low_a, low_b))))
    angle = lambda s: net("Atan", net("Div", slice_(net, s, 0, 1, 1), slice_(net, s, 1, 2, 1)))
    bend = net("Sub", angle(sb), angle(sa))
    v = net("Mul", mul(net, bend, bend), net.const(4 / math.pi**2))
    a = net("Div", v, net("Add", net("Add", net("Sub", net.const(1.0), overlap), v), net.const(1e-3)))
    return net("Add", net("Add", net("Sub", net.const(1.0), overlap), far), mul(net, a, v))


@block("yolov4-csp-spp-pan/net", YOLO, seeds=["002:315"], hazards="exp of sizes, overflow of softplus in Mish")
def yolov4_net(net: Any, x: Any) -> Any:
    """Stem, a CSP stage, a strided one, SPP, path aggregation down and up again, a head on both levels."""
    fine = mish_unit(net, x, 8)
    low = csp(net, fine, 8, 1)
    top = _leaky_unit(net, spp(net, low, (3, 5)), 8, 1)
    up = resize(net, _leaky_unit(net, top, 8, 1), spatial(fine))
    p = _leaky_unit(net, concat(net, _leaky_unit(net, fine, 8, 1), up), 8, 1)
    q = _leaky_unit(net, concat(net, _leaky_unit(net, p, 8, 3, 2), top), 8, 1)
    return decoded(net, p, 1, 2, 1.1), decoded(net, q, 1, 2, 1.1)
