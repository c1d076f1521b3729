"""Operators over maps that have kernels of their own: sampled, involved, shuffled, with long kernels; at sizes that leave remainders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from specs.blocks.conv_dynamic import involved
from specs.blocks.layers import mul, reshape, softmax, transpose
from specs.blocks.parts import bilinear, conv_with, depth_to_space, scale
from specs.formats import INT64
from specs.net import block, need

SIDES = (8, 5, 9, 16, 1, 7, 17, 3, 12, 19)  # around the widths of vectors and tiles
LONG = (8, 17, 5, 31, 16, 1, 33, 40, 23)


def any_size(net: Any, usual: Sequence[int], most: int) -> int:
    """One of the sizes at which remainders differ, or any."""
    return net.pick(usual) if net.flag() else net.int(1, most)


def grid(starts: Sequence[int], outs: Sequence[int], strides: Sequence[int], taps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Coordinates that a plain kernel reads, one array (taps, outputs) for every axis."""
    points = np.meshgrid(*taps, indexing="ij")
    places = np.meshgrid(*[np.arange(o) * s + b for o, s, b in zip(outs, strides, starts, strict=True)], indexing="ij")
    return [t.reshape(-1, 1) + p.reshape(1, -1) for t, p in zip(points, places, strict=True)]


@block(
    "dcnv4/kernel",
    "Efficient Deformable ConvNets: Rethinking Dynamic and Sparse Operator for Vision Applications",
    seeds=["002:21"],
    takes="none",
    hazards="floor of a position, halves of rounded offsets, corners partly outside, weights far above 0 under the softmax",
)
def deformable_aggregation(net: Any) -> Any:
    """Versions 3 (softmax over the points) and 4 of deformable convolution as one function, channels last; offsets rounded now and then."""
    n, h, w, groups, k = net.int(1, 2), any_size(net, SIDES, 14), any_size(net, SIDES, 14), net.pick((2, 1, 3)), net.pick((3, 1, 2))
    c = groups * any_size(net, (4, 8, 5, 7, 1), 10)
    stride, dilation = net.pick((1, 2)), net.pick((1, 2))
    window = dilation * (k - 1) + 1
    pad = max(net.pick((1, 0, 2)), -((min(h, w) - window) // 2))
    outs = [(m + 2 * pad - window) // stride + 1 for m in (h, w)]
    normalised, reach, rounded = net.flag(), net.pick((1.0, 0.5, 2.0)), net.flag(0.25)
    points = groups * k * k
    values, moves, weights = net.input(n, h, w, c), net.input(n, *outs, points * 2), net.input(n, *outs, points)
    if normalised and net.flag():
        weights = scale(net, weights, 60.0)
    if rounded and net.flag():  # exact halves: the only ones whose rounding is decided
        moves, reach = net.const((np.arange(np.prod(moves.shape)).reshape(moves.shape) * 7 % 17 - 8) / 2), 1.0

    def body(net: Any, v: Any, o: Any, m: Any) -> Any:
        maps = reshape(net, transpose(net, v, [0, 3, 1, 2]), [n * groups, c // groups, h, w])
        parts = transpose(net, reshape(net, o, [n, *outs, groups, k * k, 2]), [5, 0, 3, 4, 1, 2])
        steps = np.arange(k) * dilation
        at = list[Any]()
        for i, base in enumerate(grid([-pad, -pad], outs, [stride, stride], [steps, steps])):
            moved = reshape(net, net("Gather", parts, net.const(i, INT64), axis=0), [n * groups, base.size])
            moved = scale(net, moved, reach) if reach != 1.0 else moved
            if rounded:  # added as integers, which keeps them whole
                whole = net("Add", net("Cast", net("Round", moved), to=INT64.onnx), net.const(base.reshape(1, -1), INT64))
                at.append(net("Cast", whole, to=o.format.onnx))
            else:
                at.append(net("Add", moved, net.const(base.reshape(1, -1))))
        shares = transpose(net, reshape(net, m, [n, *outs, groups, k * k]), [0, 3, 4, 1, 2])
        if normalised:
            shares = softmax(net, shares, axis=2)
        taken = mul(net, bilinear(net, maps, *at), reshape(net, shares, [n * groups, 1, -1]))
        y = net("ReduceSum", reshape(net, taken, [n, c, k * k, *outs]), net.ints([2]), keepdims=0)
        return transpose(net, y, [0, 2, 3, 1])

    return net.function(
        "DeformableAggregation", body, values, moves, weights, kernel_shape=[k, k], strides=[stride] * 2, pads=[pad] * 4, dilations=[dilation] * 2,
        group=groups, softmax=int(normalised), offset_scale=reach, rounded=int(rounded),
    )  # fmt: skip


@block(
    "involution/kernel",
    "Involution: Inverting the Inherence of Convolution for Visual Recognition",
    seeds=["000:219"],
    takes="none",
    dims=(1, 2),
    hazards="unnormalised kernels of every position cancel",
)
def involution(net: Any) -> Any:
    """The aggregation of an involution as one function, in one or two dims, with strides and dilations."""
    rank, groups, k = net.pick((2, 1)), net.pick((2, 1, 3)), net.pick((3, 5, 1))
    space = [any_size(net, SIDES, 20) if rank == 2 else any_size(net, LONG, 60) for _ in range(rank)]
    n, c, stride, dilation = net.int(1, 2), groups * net.pick((2, 1, 3)), net.pick((1, 2)), net.pick((1, 1, 2))
    outs = [(m - 1) // stride + 1 for m in space]
    x, w = net.input(n, c, *space), net.input(n, groups, k**rank, *outs)

    def body(net: Any, x: Any, w: Any) -> Any:
        return involved(net, x, w, groups, k, stride, dilation)

    pads = [dilation * (k - 1) // 2] * (2 * rank)
    return net.function("Involution", body, x, w, kernel_shape=[k] * rank, strides=[stride] * rank, dilations=[dilation] * rank, pads=pads, group=groups)


@block(
    "espcn-subpixel-conv/kernel",
    "Real-Time Single Image and Video Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network",
    seeds=["000:183"],
    takes="none",
)
def subpixel_convolution(net: Any) -> Any:
    """A convolution and the shuffle of its channels into a finer map as one function, in both orders of channels."""
    n, c, h, w = net.int(1, 2), net.pick((3, 4, 1, 5)), net.pick((5, 8, 3, 1, 9)), any_size(net, LONG, 40)
    r, k, stride, makes = net.pick((2, 3, 1)), net.pick((3, 1, 5)), net.pick((1, 1, 2)), net.pick((1, 2, 3))
    pads = [net.int(0, k // 2) for _ in range(4)] if net.flag(0.4) else [k // 2] * 4
    need(h + pads[0] + pads[2] >= k and w + pads[1] + pads[3] >= k, "subpixel convolution: the kernel is larger than the map")
    mode, biased = net.pick(("CRD", "DCR")), net.flag()
    x, weight = net.input(n, c, h, w), net.weight(makes * r * r, c, k, k)
    bias = net.weight(makes * r * r) if biased else None

    def body(net: Any, x: Any, w: Any, b: Any) -> Any:
        return depth_to_space(net, conv_with(net, x, w, b, s=stride, pads=pads), r, mode)

    return net.function("SubpixelConvolution", body, x, weight, bias, blocksize=r, mode=mode, strides=[stride] * 2, pads=pads)


@block(
    "unireplknet-lark-block/kernel",
    "Scaling Up Your Kernels: Large Kernel Design in ConvNets towards Universal Representations",
    seeds=["001:139"],
    takes="none",
    hazards="reductions over hundreds of taps, kernels larger than the map",
)
def large_depthwise(net: Any) -> Any:
    """A depthwise convolution with a large kernel, padded unevenly, strided or dilated now and then, with one or more outputs a channel."""
    n, c, h, w = net.int(1, 2), net.pick((4, 3, 1, 8)), any_size(net, (9, 16, 5, 1, 13), 20), any_size(net, LONG, 40)
    kh, kw = net.pick((7, 5, 13, 3, 1)), net.pick((7, 13, 5, 3, 31))
    strides, dilations = [net.pick((1, 1, 2)), net.pick((1, 1, 2, 3))], [net.pick((1, 1, 2)), net.pick((1, 1, 2, 3))]
    pads = [dilations[0] * (kh // 2), dilations[1] * (kw // 2)] * 2
    if net.flag(0.4):
        pads = [net.int(0, kh), net.int(0, kw), net.int(0, kh), net.int(0, kw)]
    for i, (size, k) in enumerate(((h, kh), (w, kw))):  # the padded map holds the kernel
        pads[i + 2] += max(0, dilations[i] * (k - 1) + 1 - size - pads[i] - pads[i + 2])
    multiple = net.pick((1, 1, 2))
    x, w, bias = net.input(n, c, h, w), net.weight(c * multiple, 1, kh, kw), net.weight(c * multiple) if net.flag() else None
    return net("Conv", x, w, bias, kernel_shape=[kh, kw], group=c, strides=strides, dilations=dilations, pads=pads)


@block(
    "sgconv/kernel",
    "What Makes Convolutional Models Great on Long Sequence Modeling?",
    seeds=["001:87"],
    takes="none",
    dims=(1, 2),
    hazards="the error of a transform hides small outputs",
)
def long_convolution(net: Any) -> Any:
    """A convolution whose kernel is about as long as its input, causal or centred, grouped or not; a quiet channel beside a loud one."""
    rank = net.pick((1, 2))
    space = [any_size(net, (48, 33, 100, 17, 1, 81), 128) if rank == 1 else any_size(net, (9, 16, 7, 12), 20) for _ in range(rank)]
    kernel = [max(1, min(m, net.pick((m, m // 2 + 1, 5)))) for m in space]
    group = net.pick((1, 2, 3))
    n, c, makes = net.int(1, 2), group * net.int(1, 2), group * net.int(1, 2)
    centred = net.flag()
    pads = [k // 2 for k in kernel] * 2 if centred else [k - 1 for k in kernel] + [0] * rank
    x = net.input(n, c, *space)
    if net.flag(0.3):
        loud = 2.0 ** (12.0 * np.arange(c)).clip(max=36 if x.format.bits > 16 else 6).reshape(1, c, *[1] * rank)
        x = mul(net, x, net.const(loud))
    bias = net.weight(makes) if net.flag() else None
    return net("Conv", x, net.weight(makes, c // group, *kernel), bias, kernel_shape=kernel, group=group, pads=pads)
