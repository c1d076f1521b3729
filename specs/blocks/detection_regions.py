"""Detectors by region: pooled and aligned regions, heads over them, recursion on boxes, attention between proposals."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from specs.blocks.detection import decode
from specs.blocks.layers import (
    act,
    add,
    channels,
    concat,
    conv,
    layer_norm,
    linear,
    mul,
    pointwise,
    reduce,
    reshape,
    slice_,
    softmax,
    spatial,
    split,
    transpose,
    upconv,
)
from specs.blocks.pyramids import backbone, top_down
from specs.blocks.sharing import shared
from specs.blocks.u_shapes import unit
from specs.formats import INT64
from specs.net import block

DNTR = "A DeNoising FPN With Transformer R-CNN for Tiny Object Detection"
FAST = "Fast R-CNN"
MULAN = "MULAN: Multitask Universal Lesion Analysis Network for Joint Lesion Detection, Tagging, and Segmentation"
RECURSIVE = "RecursiveDet: End-to-End Region-based Recursive Object Detection"


def regions(net: Any, x: Any, count: int, scale: int = 1) -> np.ndarray:
    """Drawn boxes (count, 4) as x1, y1, x2, y2 in input coordinates, some reaching over the border."""
    h, w = spatial(x)
    rows = list[list[float]]()
    for _ in range(count):
        left, top = net.int(0, w - 1), net.int(0, h - 1)
        rows.append([left * scale + 0.25, top * scale + 0.25, (left + net.int(1, w)) * scale + 0.5, (top + net.int(1, h)) * scale + 0.5])
    return np.array(rows)


def aligned(net: Any, x: Any, boxes: Any, k: int, scale: float = 1.0) -> Any:
    """RoiAlign with two samples a bin; the regions are dealt to the images in turn."""
    batch = net.const([i % x.shape[0] for i in range(boxes.shape[0])], INT64)
    return net("RoiAlign", x, boxes, batch, output_height=k, output_width=k, sampling_ratio=2, spatial_scale=scale)


def dense(net: Any, x: Any, out: int) -> Any:
    return net("Gemm", x, net.weight(x.shape[1], out), net.weight(out))


# Fast R-CNN -----------------------------------------------------------------------------------------------------------


def _pooled(net: Any, x: Any, count: int, k: int, scale: float) -> Any:
    boxes = regions(net, x, count, round(1 / scale))
    rois = np.concatenate([np.arange(count)[:, None] % x.shape[0], np.round(boxes)], 1)
    return net("MaxRoiPool", x, net.const(rois), pooled_shape=[k, k], spatial_scale=scale)


def _box_heads(net: Any, y: Any, n: int) -> tuple[Any, Any]:
    """Two dense layers, classes and one box for each class."""
    y = act(net, dense(net, act(net, dense(net, net("Flatten", y), 16)), 16))
    return softmax(net, dense(net, y, n + 1)), dense(net, y, 4 * n)


@block("fast-rcnn", FAST, seeds=["002:447"], hazards="rounded coordinates, empty bins")
def fast_rcnn(net: Any, x: Any) -> Any:
    """Maximum over the bins of regions, two dense layers, classes and deltas; stresses MaxRoiPool and Flatten under Gemm."""
    return _box_heads(net, _pooled(net, x, net.int(1, 5), net.pick((3, 7)) if channels(x) <= 16 else 3, net.pick((1.0, 0.5, 0.0625))), 3)


@block("fast-rcnn/smooth-l1", FAST, seeds=["002:447"], takes="tokens", hazards="the seam of both branches")
def fast_smooth_l1(net: Any, x: Any) -> Any:
    """0.5 x^2 below one, |x| - 0.5 from there on, only where the label is not background."""
    d = net("Abs", net("Sub", x, net.input(*x.shape)))
    loss = net("Where", net("Less", d, net.const(1.0)), net("Mul", mul(net, d, d), net.const(0.5)), net("Sub", d, net.const(0.5)))
    on = net("Cast", net("Greater", net.input(*x.shape[:2], 1), net.const(0.0)), to=x.format.onnx)
    return reduce(net, "ReduceSum", mul(net, loss, on), [2], 0)


@block("fast-rcnn/truncated-svd-fc", FAST, seeds=["002:447"], takes="tokens")
def fast_svd(net: Any, x: Any) -> Any:
    """A dense layer as two thin ones, the first without a bias: a compiler may join them."""
    rank = net.pick((4, 2, 8))
    return linear(net, linear(net, x, rank, False), net.pick((16, 8)))


@block("fast-rcnn/box-decode", FAST, seeds=["002:447"], takes="none", hazards="exp of size deltas")
def fast_decode(net: Any) -> Any:
    """Deltas on boxes with the exponent clipped, corners clipped to the image."""
    m = net.int(3, 12)
    proposals = concat(net, net.input(m, 2), net("Add", act(net, net.input(m, 2), "Sigmoid"), net.const(0.5)))
    centre, size = split(net, decode(net, proposals, net.input(m, 4), 2), 2, 1)
    half = net("Mul", size, net.const(0.5))
    return net("Clip", concat(net, net("Sub", centre, half), net("Add", centre, half)), net.const(-8.0), net.const(8.0))


@block("fast-rcnn/net", FAST, seeds=["002:447"], hazards="rounded coordinates, empty bins")
def fast_net(net: Any, x: Any) -> Any:
    """Backbone, pooled regions, heads, boxes decoded for each class."""
    y = act(net, conv(net, act(net, conv(net, x, 8, 3, bias=True)), 8, 3, s=2, bias=True))
    score, deltas = _box_heads(net, _pooled(net, y, 4, 3, 0.5), 2)
    proposals = net.const([[[4.0, 4.0, 3.0 + i, 5.0]] for i in range(4)])
    return score, decode(net, proposals, reshape(net, deltas, [4, 2, 4]), 2)


# Transformer R-CNN ----------------------------------------------------------------------------------------------------


def attend(net: Any, x: Any, heads: int, mask: Any = None) -> Any:
    """Self attention over (M, T, C)."""
    m, t, c = x.shape
    q, k, v = (transpose(net, reshape(net, linear(net, x, c), [m, t, heads, c // heads]), p) for p in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]))
    scores = net("Mul", net("MatMul", q, k), net.const((c // heads) ** -0.5))
    scores = scores if mask is None else net("Add", scores, mask)
    return linear(net, reshape(net, transpose(net, net("MatMul", softmax(net, scores), v), [0, 2, 1, 3]), [m, t, c]), c)


def _task_encoder(net: Any, roi: Any, heads: int) -> tuple[Any, Any]:
    """Shuffled patches of a region and two task tokens through a masked encoder; a class and a box from the tokens."""
    m, c, k, _ = roi.shape
    shuffled = reshape(net, transpose(net, reshape(net, roi, [m, 2, c // 2, k * k]), [0, 2, 1, 3]), [m, c, k * k])
    tokens = net("Expand", net.weight(1, 2, c), net.ints([m, 2, c]))
    x = concat(net, tokens, transpose(net, shuffled, [0, 2, 1]))
    hidden = np.zeros((k * k + 2, k * k + 2))
    hidden[2:, :2] = -1e4  # patches do not look at the task tokens
    x = add(net, x, attend(net, layer_norm(net, x), heads, net.const(hidden)))
    x = add(net, x, linear(net, act(net, linear(net, layer_norm(net, x), 2 * c)), c))
    first, second = (reshape(net, slice_(net, x, i, i + 1, 1), [m, c]) for i in (0, 1))
    return dense(net, first, 4), dense(net, second, 4)


@block("dntr", DNTR, seeds=["002:289"], hazards="masked rows, sampling at the edges of regions")
def dntr(net: Any, x: Any) -> Any:
    """Regions unfolded to tokens, masked encoder, class and box tokens; stresses RoiAlign under attention. Assumed: details."""
    x = pointwise(net, x, 8)
    return _task_encoder(net, aligned(net, x, net.const(regions(net, x, net.int(1, 3))), net.pick((5, 7))), net.pick((2, 4)))


@block("dntr/infonce", DNTR, seeds=["002:289"], takes="tokens", hazards="exp overflow at a small temperature")
def dntr_infonce(net: Any, x: Any) -> Any:
    """Cosine similarities of two views over a temperature, minus the log softmax of the positives."""
    unit_length = lambda v: net("Div", v, net("Add", reduce(net, "ReduceL2", v, [2]), net.const(1e-6)))
    a, b = unit_length(linear(net, x, 8)), unit_length(linear(net, x, 8))
    similar = net("Div", net("MatMul", a, transpose(net, b, [0, 2, 1])), net.const(net.pick((0.1, 0.07))))
    diagonal = mul(net, net("LogSoftmax", similar, axis=-1), net.const(np.eye(x.shape[1])))
    return net("Neg", reduce(net, "ReduceSum", diagonal, [2], 0))


@block("dntr/fpn-topdown", DNTR, seeds=["002:289"], dims=(2, 3))
def dntr_fpn(net: Any, x: Any) -> Any:
    """Lateral 1x1, nearest top-down additions, 3x3."""
    return top_down(net, backbone(net, x, (8, 16)), 8)


@block("dntr/net", DNTR, seeds=["002:289"], hazards="masked rows, sampling at the edges of regions")
def dntr_net(net: Any, x: Any) -> Any:
    """Backbone, pyramid, regions of the finest level, encoder with task tokens. Assumed: as in the block."""
    p = top_down(net, backbone(net, x, (8, 16), False), 8)[0]
    return _task_encoder(net, aligned(net, p, net.const(regions(net, p, 2, 2)), 5, 0.5), 2)


# MULAN ----------------------------------------------------------------------------------------------------------------


def fuse_groups(net: Any, x: Any, g: int, w: Any = None) -> Any:
    """Images of one volume joined over channels, a 1x1 convolution back to one image, which takes the middle one's place."""
    n, c = x.shape[0] // g, channels(x)
    size = list(spatial(x))
    fused = conv(net, reshape(net, x, [n, g * c, *size]), c, 1, w=w)
    groups = reshape(net, x, [n, g, c, *size])
    middle = reshape(net, fused, [n, 1, c, *size])
    parts = [slice_(net, groups, 0, g // 2, 1), middle, slice_(net, groups, g // 2 + 1, g, 1)]
    return reshape(net, concat(net, *parts), [n * g, c, *size])


@block("mulan-3d-fusion", MULAN, seeds=["002:219"], takes="none")
def mulan_3d_fusion(net: Any) -> Any:
    """Neighbouring images exchange features between two convolutions; stresses batch to channel Reshape and back."""
    g = net.pick((3, 7))
    x = net.input(net.pick((1, 2)) * g, 3, net.pick((8, 9)), net.pick((8, 6)))
    return unit(net, fuse_groups(net, unit(net, x, 4), g), 8)


@block("mulan-3d-fusion/score-refinement", MULAN, seeds=["002:219"], takes="tokens")
def mulan_refinement(net: Any, x: Any) -> Any:
    """Detection score, tag scores and patient features, joined under dense layers and a sigmoid."""
    score, tags = act(net, linear(net, x, 1), "Sigmoid"), act(net, linear(net, x, net.pick((12, 24))), "Sigmoid")
    patient = net("Expand", net.input(x.shape[0], 1, 3), net.ints([x.shape[0], x.shape[1], 3]))
    return act(net, linear(net, act(net, linear(net, concat(net, score, tags, patient, axis=2), 8)), 1), "Sigmoid")


def _mask_head(net: Any, roi: Any) -> Any:
    for _ in range(4):
        roi = act(net, conv(net, roi, 4, 3, bias=True))
    return act(net, pointwise(net, act(net, upconv(net, roi, 4, bias=True)), 1, bias=True), "Sigmoid")


@block("mulan-3d-fusion/mask-head", MULAN, seeds=["002:219"], hazards="sampling at the edges of regions")
def mulan_mask(net: Any, x: Any) -> Any:
    """Aligned regions through four convolutions, a transposed one and a 1x1."""
    x = pointwise(net, x, 4)
    return _mask_head(net, aligned(net, x, net.const(regions(net, x, net.int(1, 4))), net.pick((5, 7))))


@block("mulan-3d-fusion/net", MULAN, seeds=["002:219"], takes="none", hazards="sampling at the edges of regions")
def mulan_net(net: Any) -> Any:
    """Fused trunk, regions of the middle image, detection, tags and masks."""
    x = fuse_groups(net, unit(net, net.input(3, 3, 12, net.pick((12, 9))), 8), 3)
    y = unit(net, slice_(net, x, 1, 2, 0), 8, s=2)
    roi = aligned(net, y, net.const(regions(net, y, 3, 2)), 5, 0.5)
    flat = act(net, dense(net, net("Flatten", roi), 16))
    return softmax(net, dense(net, flat, 2)), dense(net, flat, 4), act(net, dense(net, flat, 12), "Sigmoid"), _mask_head(net, roi)


# Recursion ------------------------------------------------------------------------------------------------------------


def dynamic_conv(net: Any, roi: Any, q: Any, d: int) -> Any:
    """Region features (M, K, C) through two kernels made from their proposal (M, C), each normalised."""
    m, _, c = roi.shape
    w1, w2 = net("Split", dense(net, q, 2 * c * d), net.ints([c * d, c * d]), axis=1, outputs=2)
    f = act(net, layer_norm(net, net("MatMul", roi, reshape(net, w1, [m, c, d]))))
    return act(net, layer_norm(net, net("MatMul", f, reshape(net, w2, [m, d, c]))))


def _stage(net: Any, x: Any, q: Any, boxes: Any, k: int, d: int) -> tuple[Any, Any]:
    """One pass: regions, attention between proposals, dynamic convolution, feed-forward, new boxes."""
    m, c = q.shape
    low, high = split(net, boxes, 2, 1)
    roi = aligned(net, x, boxes, k)
    roi = transpose(net, reshape(net, roi, [m, c, k * k]), [0, 2, 1])
    q = layer_norm(net, add(net, q, reshape(net, attend(net, reshape(net, q, [1, m, c]), 2), [m, c])))
    f = dynamic_conv(net, roi, q, d)
    q = layer_norm(net, add(net, q, act(net, layer_norm(net, dense(net, net("Flatten", f), c)))))
    q = layer_norm(net, add(net, q, dense(net, act(net, dense(net, q, 2 * c)), c)))
    shift, stretch = split(net, dense(net, q, 4), 2, 1)
    size = net("Sub", high, low)
    centre = net("Add", net("Mul", net("Add", low, high), net.const(0.5)), net("Mul", mul(net, shift, size), net.const(0.5)))
    size = mul(net, size, net("Exp", net("Clip", net("Mul", stretch, net.const(0.5)), net.const(-2.0), net.const(1.0))))
    half = net("Mul", size, net.const(0.5))
    return q, concat(net, net("Sub", centre, half), net("Add", centre, half))


@block("recursive-dynamic-head", RECURSIVE, seeds=["002:195"], hazards="exp of size deltas, sampling outside the map")
def recursive_dynamic_head(net: Any, x: Any) -> Any:
    """A pass over proposals with kernels made from them; stresses batched products of generated weights and RoiAlign of computed boxes."""
    x, m = pointwise(net, x, 8), net.int(2, 5)
    return _stage(net, x, net.weight(m, 8), net.const(regions(net, x, m)), net.pick((3, 7)), net.pick((4, 2)))


@block("recursive-dynamic-head/dynamic-conv", RECURSIVE, seeds=["002:195"], takes="tokens")
def recursive_dynamic_conv(net: Any, x: Any) -> Any:
    """Two products with weights that a dense layer makes from each proposal."""
    return dynamic_conv(net, x, net.input(x.shape[0], x.shape[2]), net.pick((4, 8)))


@block("recursive-dynamic-head/level-assign", RECURSIVE, seeds=["002:195"], hazards="ties of floor, log of an empty area")
def recursive_levels(net: Any, x: Any) -> Any:
    """Regions of the level that their area asks for: all levels aligned, all but one masked."""
    levels = [pointwise(net, x, 4), conv(net, x, 4, 3, s=2)]
    m = net.int(2, 5)
    boxes = net.const(regions(net, x, m))
    low, high = split(net, boxes, 2, 1)
    w, h = split(net, net("Sub", high, low), 2, 1)
    wanted = net("Floor", net("Div", net("Log", net("Div", net("Sqrt", mul(net, w, h)), net.const(3.0))), net.const(math.log(2))))
    wanted = reshape(net, net("Clip", wanted, net.const(0.0), net.const(1.0)), [m, 1, 1, 1])
    return net(
        "Sum", *(net("Where", net("Equal", wanted, net.const(float(i))), aligned(net, v, boxes, 3, 0.5**i), net.const(0.0)) for i, v in enumerate(levels))
    )


@block("recursive-dynamic-head/centerness-pe", RECURSIVE, seeds=["002:195"])
def recursive_centerness(net: Any, x: Any) -> Any:
    """Region features plus an encoding of how central each cell is: sqrt of the products of side ratios."""
    x, k = pointwise(net, x, 8), net.pick((7, 3))
    roi = aligned(net, x, net.const(regions(net, x, net.int(1, 3))), k)
    near = np.array([[(min(i, k - 1 - i) + 0.5) / (max(i, k - 1 - i) + 0.5) for i in range(k)]])
    central = net("Sqrt", net("MatMul", net.const(near.T), net.const(near)))
    return net("Add", roi, pointwise(net, reshape(net, central, [1, 1, k, k]), 8, bias=True))


@block("recursive-dynamic-head/net", RECURSIVE, seeds=["002:195"], hazards="exp over recursions, sampling outside the map")
def recursive_net(net: Any, x: Any) -> Any:
    """Backbone and two passes with the same weights, classes and boxes at the end."""
    x, m = unit(net, unit(net, x, 8), 8), net.int(2, 4)
    q, boxes = net.weight(m, 8), net.const(regions(net, x, m))
    step = shared(net, lambda net, q, b: _stage(net, x, q, b, 3, 2))
    for _ in range(2):
        q, boxes = step(q, boxes)
    return dense(net, q, 3), boxes
