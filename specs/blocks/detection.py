"""Detectors over pyramids: composite backbones, shared heads, decoding of boxes, spatial pyramids. NMS has no shape to build on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
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
    pool,
    reduce,
    reshape,
    resize,
    slice_,
    softmax,
    spatial,
    split,
    transpose,
    upconv,
)
from specs.blocks.pyramids import backbone, top_down
from specs.blocks.sharing import shared
from specs.blocks.u_shapes import classes, fit, leaky, nn_double, sigmoid_head, unit
from specs.net import block

SPLIT = "Neural Compression and Filtering for Edge-assisted Real-time Object Detection in Challenged Networks"
CBNET = "CBNet: A Composite Backbone Network Architecture for Object Detection"
CHEST = "Multi-Task Lung Nodule Detection in Chest Radiographs with a Dual Head Network"
HS2 = "3DFPN-HS^2: 3D Feature Pyramid Network Based High Sensitivity and Specificity Pulmonary Nodule Detection"
NNDET = "nnDetection: A Self-configuring Method for Medical Object Detection"
SEPC = "Scale-Equalizing Pyramid Convolution for Object Detection"
SSD = "SSD: Single Shot MultiBox Detector"
YOLO = "YOLOv4: Optimal Speed and Accuracy of Object Detection"


# Split computing ------------------------------------------------------------------------------------------------------


def affine_quantised(net: Any, x: Any) -> Any:
    """Rounded to 8 bits over its own range and back, written out: scale, zero point, Round, Clip."""
    axes = list(range(len(x.shape)))
    high = net("Max", reduce(net, "ReduceMax", x, axes), net.const(0.0))
    low = net("Min", reduce(net, "ReduceMin", x, axes), net.const(0.0))
    scale = net("Add", net("Div", net("Sub", high, low), net.const(255.0)), net.const(1e-6))
    clip = lambda v: net("Clip", v, net.const(0.0), net.const(255.0))
    zero = clip(net("Round", net("Neg", net("Div", low, scale))))
    return mul(net, net("Sub", clip(net("Add", net("Round", net("Div", x, scale)), zero)), zero), scale)


def _through_bottleneck(net: Any, x: Any, out: int, quantised: bool) -> tuple[Any, Any]:
    """Encoder, narrow bottleneck, 8 bits, decoder back to the teacher's size."""
    half = unit(net, x, 8, s=2)
    narrow = conv(net, half, net.pick((3, 1, 6)), 3, s=2)
    if quantised:
        narrow = net("DequantizeLinear", *net("DynamicQuantizeLinear", narrow, outputs=3))
    else:
        narrow = affine_quantised(net, narrow)
    y = fit(net, act(net, bn(net, upconv(net, narrow, 8))), spatial(half))
    return narrow, unit(net, y, out)


@block("bottleneck-injected-detector", SPLIT, seeds=["003:387"], hazards="a constant bottleneck, ties of Round")
def bottleneck_injected_detector(net: Any, x: Any) -> Any:
    """Encoder to few channels, dynamic 8-bit quantisation, decoder; stresses quantisation inside a float graph. Assumed: strides."""
    return _through_bottleneck(net, x, 16, True)[1]


@block("bottleneck-injected-detector/dynamic-affine-quant", SPLIT, seeds=["003:387"], dims=(1, 2, 3), hazards="a constant map, ties of Round")
def bottleneck_affine(net: Any, x: Any) -> Any:
    """The quantisation written out with ReduceMin and ReduceMax, its scale kept above zero."""
    return affine_quantised(net, conv(net, x, 3, 3))


@block("bottleneck-injected-detector/exit-filter", SPLIT, seeds=["003:387"], hazards="a threshold on a probability")
def bottleneck_filter(net: Any, x: Any) -> Any:
    """A small classifier decides for each image whether the rest counts: a Where stands for the If."""
    y = unit(net, pool(net, conv(net, x, 3, 3), "AveragePool"), 8)
    p = softmax(net, net("Gemm", net("Flatten", gap(net, y)), net.weight(8, 2), net.weight(2)))
    p = reshape(net, slice_(net, p, 1, 2, 1), [x.shape[0], *[1] * (len(x.shape) - 1)])
    return net("Where", net("Greater", p, net.const(0.5)), x, net.const(0.0))


@block("bottleneck-injected-detector/net", SPLIT, seeds=["003:387"], hazards="a constant bottleneck, ties of Round")
def bottleneck_net(net: Any, x: Any) -> Any:
    """Injected head, one body stage, class and box maps. Assumed: as in the block."""
    y = backbone(net, _through_bottleneck(net, x, 16, net.flag())[1], (16,))[-1]
    return sigmoid_head(net, y, 3), conv(net, y, 4, 3, bias=True)


# Composite backbones --------------------------------------------------------------------------------------------------


def _composite(net: Any, x: Any, widths: Sequence[int], rows: int) -> list[Any]:
    """Backbones in a row: each stage of the next one also takes all higher stages of the one before, 1x1, normalised, resized."""
    features = backbone(net, x, widths, False)
    for _ in range(rows - 1):
        y, made = x, list[Any]()
        for i, width in enumerate(widths):
            for f in features[i:]:
                y = add(net, y, resize(net, bn(net, pointwise(net, f, channels(y))), spatial(y)))
            y = unit(net, y, width, s=2)
            made.append(y)
        features = made
    return features


@block("cbnetv2-dhlc", CBNET, seeds=["000:241"], hazards="sums of many resized maps")
def cbnetv2_dhlc(net: Any, x: Any) -> Any:
    """Two backbones of equal topology, dense higher-level composition; stresses subgraphs that only look common."""
    return _composite(net, x, (8, 16)[: net.pick((2, 1))], 2)


@block("cbnetv2-dhlc/fpn", CBNET, seeds=["000:241"], dims=(2, 3))
def cbnetv2_fpn(net: Any, x: Any) -> Any:
    """Laterals, nearest top-down additions, a convolution on every level."""
    return top_down(net, [x, *backbone(net, x, (8, 16)[: net.pick((2, 1))], False)], 8)


@block("cbnetv2-dhlc/net", CBNET, seeds=["000:241"])
def cbnetv2_net(net: Any, x: Any) -> Any:
    """Two or three backbones, a pyramid, a shared head."""
    head = shared(net, lambda net, v: sigmoid_head(net, v, 3))
    return [head(p) for p in top_down(net, _composite(net, x, (8, 8, 16), net.pick((2, 3))), 8)]


# Two heads ------------------------------------------------------------------------------------------------------------


def dual_heads(net: Any, y: Any, n: int) -> tuple[Any, Any, Any]:
    """Image score, local class map under it, box map."""
    p = act(net, net("Gemm", net("Flatten", gap(net, y)), net.weight(channels(y), 1), net.weight(1)), "Sigmoid")
    local = y
    for _ in range(n):
        local = act(net, conv(net, local, channels(y), 3, bias=True))
    score = mul(net, act(net, conv(net, local, 1, 3, bias=True), "Sigmoid"), reshape(net, p, [y.shape[0], *[1] * (len(y.shape) - 1)]))
    return p, score, conv(net, local, 4, 3, bias=True)


@block("dual-head-detector", CHEST, seeds=["000:159"], dims=(2, 3), hazards="products of sigmoids")
def dual_head_detector(net: Any, x: Any) -> Any:
    """Global and local head over the same map; stresses two schedules from one trunk. Assumed: RetinaNet style."""
    return dual_heads(net, x, net.pick((1, 2, 4)))


@block("dual-head-detector/global-gated-detection", CHEST, seeds=["000:159"], dims=(2, 3), hazards="a threshold on the image score")
def dual_head_gated(net: Any, x: Any) -> Any:
    """Local scores kept only where the image score passes a threshold."""
    p, score, _ = dual_heads(net, x, 1)
    return net("Where", net("Greater", reshape(net, p, [x.shape[0], *[1] * (len(x.shape) - 1)]), net.const(0.5)), score, net.const(0.0))


@block("dual-head-detector/net", CHEST, seeds=["000:159"])
def dual_head_net(net: Any, x: Any) -> Any:
    """Backbone, pyramid, both heads on the finest level. Assumed: as in the block."""
    return dual_heads(net, top_down(net, backbone(net, x, (8, 16)), 8)[0], 2)


# All to all -----------------------------------------------------------------------------------------------------------


def all_to_all(net: Any, features: Sequence[Any], c: int, joined: bool) -> list[Any]:
    """Every level takes all others, resized or max-pooled to it."""
    laterals, outs = [pointwise(net, f, c) for f in features], list[Any]()
    for i, own in enumerate(laterals):
        others = list[Any]()
        for j, v in enumerate(laterals):
            for _ in range(max(0, i - j)):
                v = fit(net, pool(net, v, "MaxPool", 2), [-(-n // 2) for n in spatial(v)]) if min(spatial(v)) > 1 else v
            others.append(v if j <= i and spatial(v) == spatial(own) else resize(net, v, spatial(own)))
        outs.append(conv(net, concat(net, *others) if joined else net("Sum", *others), c, 3))
    return outs


@block("fpn3d-hs2", HS2, seeds=["002:75"], dims=(3, 2))
def fpn3d_hs2(net: Any, x: Any) -> Any:
    """Volume pyramid where every level is fused with all others; stresses 3-D Resize and pooling to sizes of other maps."""
    return all_to_all(net, [x, *backbone(net, x, (8, 8)[: net.pick((1, 2))], False)], net.pick((4, 8)), net.flag())


def history(net: Any, moved: Sequence[Any], start: Any, tau: float) -> Any:
    """M_t = tau where something moved, else one less than before, not below zero."""
    m = start
    for t in moved:
        m = net("Where", t, net.const(tau), net("Max", net("Sub", m, net.const(1.0)), net.const(0.0)))
    return m


def motion(net: Any, x: Any) -> list[Any]:
    """Where neighbouring channels, read as slices, differ by more than a threshold."""
    slices = split(net, slice_(net, x, 0, 4, 1), 4)
    return [net("Greater", net("Abs", net("Sub", b, a)), net.const(0.1)) for a, b in pairwise(slices)]


@block("fpn3d-hs2/location-history", HS2, seeds=["002:75"], dims=(2, 3), hazards="a threshold on differences")
def fpn3d_history(net: Any, x: Any) -> Any:
    """Location history image over slices, unrolled, into a small classifier."""
    m = history(net, motion(net, x), net("Mul", slice_(net, x, 0, 1, 1), net.const(0.0)), net.pick((11.0, 2.0)))
    return softmax(net, net("Gemm", net("Flatten", gap(net, unit(net, m, 4))), net.weight(4, 2), net.weight(2)))


@block("fpn3d-hs2/net", HS2, seeds=["002:75"], dims=(3,))
def fpn3d_net(net: Any, x: Any) -> Any:
    """Residual backbone, fused levels, objectness and box heads on each."""
    levels = all_to_all(net, backbone(net, x, (8, 8)), 8, net.flag())
    return [v for p in levels for v in (sigmoid_head(net, p), pointwise(net, p, 4, bias=True))]


# nnDetection ----------------------------------------------------------------------------------------------------------


def iou(net: Any, a: Any, b: Any, epsilon: float = 1e-6) -> Any:
    """Pairwise overlap of boxes (M, 2 D) and (K, 2 D), low corners first: intersection over union, (M, K)."""
    d = a.shape[1] // 2

    def volume(sizes: Any) -> Any:
        y = slice_(net, sizes, 0, 1, -1)
        for i in range(1, d):
            y = mul(net, y, slice_(net, sizes, i, i + 1, -1))
        return y

    rows, columns = net("Unsqueeze", a, net.ints([1])), net("Unsqueeze", b, net.ints([0]))
    (la, ha), (lb, hb) = split(net, rows, 2, 2), split(net, columns, 2, 2)
    both = volume(act(net, net("Sub", net("Min", ha, hb), net("Max", la, lb))))
    union = net("Sub", net("Add", volume(net("Sub", ha, la)), volume(net("Sub", hb, lb))), both)
    return net("Squeeze", net("Div", both, net("Add", union, net.const(epsilon))), net.ints([2]))


def boxes(net: Any, m: int, d: int) -> Any:
    """Boxes (M, 2 D) from an input: a low corner, and a positive size above it."""
    low, size = split(net, net.input(m, 2 * d), 2, 1)
    return concat(net, low, net("Add", low, net("Add", act(net, size, "Sigmoid"), net.const(0.1))))


def decode(net: Any, anchors: Any, deltas: Any, d: int) -> Any:
    """Centres moved in units of the anchor's size, sizes times a clipped exponential."""
    (centre, size), (shift, stretch) = split(net, anchors, 2, -1), split(net, deltas, 2, -1)
    stretch = net("Exp", net("Min", stretch, net.const(math.log(1000 / 16))))
    return concat(net, net("Add", centre, mul(net, shift, size)), mul(net, size, stretch), axis=-1)


def _anchors(net: Any, p: Any, a: int) -> Any:
    """Centres and sizes of anchors at every position, (1, positions, A, 2 D)."""
    d = len(p.shape) - 2
    places = np.array(list(np.ndindex(*spatial(p))), dtype=np.float64)[:, None].repeat(a, 1)
    sizes = np.broadcast_to(2.0 ** np.arange(a)[None, :, None], (len(places), a, d))
    return net.const(np.concatenate([places + 0.5, sizes], -1)[None])


def _detect(net: Any, p: Any, a: int) -> tuple[Any, Any]:
    """Scores and decoded boxes of one level."""
    d, n = len(p.shape) - 2, p.shape[0]
    last = lambda v, k: reshape(net, transpose(net, v, [0, *range(2, 2 + d), 1]), [n, -1, a, k])
    y = act(net, conv(net, p, channels(p), 3, bias=True))
    return act(net, last(conv(net, y, a, 3, bias=True), 1), "Sigmoid"), decode(net, _anchors(net, p, a), last(conv(net, y, a * 2 * d, 3, bias=True), 2 * d), d)


@block("retina-unet-3d-wbc", NNDET, seeds=["000:293"], dims=(3, 2), hazards="exp of box deltas")
def retina_unet_3d_wbc(net: Any, x: Any) -> Any:
    """Class and box head of one level with decoded anchors; stresses Transpose-Reshape of heads and clipped Exp."""
    return _detect(net, x if channels(x) <= 16 else pointwise(net, x, 8), net.pick((3, 1, 2)))


@block("retina-unet-3d-wbc/iou-3d", NNDET, seeds=["000:293"], takes="none", hazards="0/0 of empty boxes")
def retina_iou(net: Any) -> Any:
    """Pairwise overlap of boxes as a product over axes."""
    d = net.pick((3, 2))
    return iou(net, boxes(net, net.int(3, 7), d), boxes(net, net.int(2, 6), d))


@block("retina-unet-3d-wbc/weighted-box-clustering", NNDET, seeds=["000:293"], takes="none", hazards="a threshold on overlaps, division by weights")
def retina_clustering(net: Any) -> Any:
    """Boxes within reach of each box, averaged under score times overlap; scores with a penalty for missing ones."""
    d, m, models = net.pick((3, 2)), net.int(3, 8), net.pick((4.0, 8.0))
    b, s = boxes(net, m, d), act(net, net.input(1, m), "Sigmoid")
    overlap = iou(net, b, b)
    w = net("Where", net("Greater", overlap, net.const(net.pick((1e-5, 0.5)))), overlap, net.const(0.0))
    sw = mul(net, w, s)
    total, found = reduce(net, "ReduceSum", w, [1]), reduce(net, "ReduceSum", net("Sign", w), [1])
    missing = mul(net, act(net, net("Sub", net.const(models), found)), net("Div", total, net("Add", found, net.const(1e-3))))
    score = net("Div", reduce(net, "ReduceSum", sw, [1]), net("Add", net("Add", total, missing), net.const(1e-3)))
    return score, net("Div", net("MatMul", sw, b), net("Add", reduce(net, "ReduceSum", sw, [1]), net.const(1e-3)))


@block("retina-unet-3d-wbc/net", NNDET, seeds=["000:293"], dims=(3, 2), hazards="exp of box deltas")
def retina_net(net: Any, x: Any) -> Any:
    """U-Net encoder, pyramid with transposed convolutions, a shared head on two levels, a segmentation head."""
    fine = nn_double(net, x, 8)
    low = nn_double(net, leaky(net, conv(net, fine, 8, 3, s=2)), 8)
    top = pointwise(net, low, 8)
    p = conv(net, add(net, pointwise(net, fine, 8), fit(net, upconv(net, top, 8), spatial(fine))), 8, 3, bias=True)
    head = shared(net, lambda net, v: _detect(net, v, 2))
    (s1, b1), (s2, b2) = head(p), head(conv(net, top, 8, 3, bias=True))
    return concat(net, s1, s2), concat(net, b1, b2), classes(net, p, 2)
