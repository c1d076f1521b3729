"""Convolutions that read at computed positions, and kernels that come from coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np

from specs.blocks.layers import (
    act,
    add,
    bn,
    channels,
    concat,
    conv,
    conv_bn_act,
    depthwise,
    instance_norm,
    layer_norm,
    linear,
    mul,
    pointwise,
    pool,
    reduce,
    reshape,
    resize,
    slice_,
    spatial,
    transpose,
)
from specs.blocks.parts import channel_norm, complex_mul, conv_with, dft, narrow, sampled, scale, sub
from specs.formats import FLOAT, INT64
from specs.net import block, relation


def _taps(h: int, w: int, k: int, dilation: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns (taps, H, W) that a plain kernel reads."""
    steps = (np.arange(k) - k // 2) * dilation
    dy, dx = (v.reshape(-1, 1, 1) for v in np.meshgrid(steps, steps, indexing="ij"))
    rows, columns = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    return rows + dy, columns + dx


def _form(net: Any) -> str:
    return net.pick(("gather", "grid")) if net.opset >= 16 else "gather"


def _read(net: Any, x: Any, dy: Any, dx: Any, k: int, form: str) -> Any:
    """x at the taps moved by dy and dx, each (N, taps, H, W): (N, C, taps, H, W)."""
    n, c, h, w = x.shape
    rows, columns = (net("Add", net.const(base), move) for base, move in zip(_taps(h, w, k), (dy, dx), strict=True))
    flat = [net("Expand", v, net.ints([n, k * k, h, w])) if tuple(v.shape) != (n, k * k, h, w) else v for v in (rows, columns)]
    y, z = (reshape(net, v, [n, k * k * h * w]) for v in flat)
    taken = sampled(net, x, y, z, form)
    return reshape(net, taken, [n, c, k * k, h, w])


def _mix(net: Any, v: Any, w: Any) -> Any:
    """Sampled taps (N, C, taps, H, W) times a kernel (O, C, k, k), as a product of matrices."""
    n, c, taps, h, wide = v.shape
    return reshape(net, net("MatMul", reshape(net, w, [w.shape[0], c * taps]), reshape(net, v, [n, c * taps, h * wide])), [n, w.shape[0], h, wide])


def _moves(net: Any, o: Any) -> tuple[Any, Any]:
    """Offsets (N, 2 taps, H, W), row and column for each tap, as two tensors."""
    taps = o.shape[1] // 2
    return tuple(net("Gather", o, net.ints(range(first, 2 * taps, 2)), axis=1) for first in (0, 1))  # type: ignore[return-value]


def deformable(net: Any, x: Any, o: Any, w: Any, form: str) -> Any:
    """Deformable convolution by gathers, by GridSample or by the operator (opset 19 on)."""
    k = w.shape[2]
    if form == "operator":
        return net("DeformConv", x, w, o, kernel_shape=[k, k], pads=[k // 2] * 4)
    return _mix(net, _read(net, x, *_moves(net, o), k, form), w)


@block(
    "codenet-deformable-conv",
    "Algorithm-hardware Co-design for Deformable Convolution",
    seeds=["003:271"],
    hazards="floor at whole positions, positions on the border, ties of rounded offsets",
)
def codenet_deformable_conv(net: Any, x: Any) -> Any:
    """Deformable convolution in its co-design variants (bounded, rounded, one dilation, depthwise, 8-bit weights); stresses gathers at computed positions."""
    x, variant, out = narrow(net, x, 4), net.pick(("full", "bounded", "rounded", "square", "depthwise", "modulated", "quantised")), net.pick((8, 4))
    c = channels(x)
    if variant == "square":
        d = net("Relu", conv(net, x, 1, 3, bias=True))
        dy, dx = (mul(net, d, net.const(base)) for base in (np.repeat([-1.0, 0, 1], 3).reshape(9, 1, 1), np.tile([-1.0, 0, 1], 3).reshape(9, 1, 1)))
    else:
        o = conv(net, x, 18, 3, bias=True)
        o = net("Clip", o, net.const(-2.0), net.const(2.0)) if variant == "bounded" else net("Round", o) if variant == "rounded" else o
        if variant == "full" and net.opset >= 19 and net.flag():
            return act(net, bn(net, deformable(net, x, o, net.weight(out, c, 3, 3), "operator")))
        dy, dx = _moves(net, o)
    v = _read(net, x, dy, dx, 3, _form(net))
    if variant == "modulated":
        v = mul(net, v, net("Unsqueeze", act(net, conv(net, x, 9, 3, bias=True), "Sigmoid"), net.ints([1])))
    if variant == "depthwise":
        v = net("ReduceSum", mul(net, v, net.weight(c, 9, 1, 1)), net.ints([2]), keepdims=0)
        return act(net, bn(net, pointwise(net, v, out)))
    w = net.weight(out, c, 3, 3)
    if variant == "quantised":  # symmetric, one step for each output channel
        step = net("Max", scale(net, reduce(net, "ReduceMax", net("Abs", w), [1, 2, 3]), 1 / 127), net.const(1e-6))
        w = mul(net, net("Round", net("Div", w, step)), step)
    return act(net, bn(net, _mix(net, v, w)))


@relation("codenet-deformable-conv/zero-offset", of="codenet-deformable-conv")
def deformable_zero(net: Any, x: Any) -> Any:
    """No offset: a plain convolution."""
    x = narrow(net, x, 4)
    w, o = net.weight(6, channels(x), 3, 3), net.const(np.zeros((x.shape[0], 18, *spatial(x))))
    return deformable(net, x, o, w, "gather"), conv_with(net, x, w)


@relation("codenet-deformable-conv/whole-offset", of="codenet-deformable-conv")
def deformable_whole(net: Any, x: Any) -> Any:
    """The same whole offset everywhere: a plain convolution of the shifted map, read by gathers with integer indices."""
    x, dy, dx = narrow(net, x, 4), net.int(-2, 2), net.int(-2, 2)
    w = net.weight(6, channels(x), 3, 3)
    o = net.const(np.broadcast_to(np.array([dy, dx] * 9, float).reshape(1, 18, 1, 1), (x.shape[0], 18, *spatial(x))))
    return deformable(net, x, o, w, "gather"), _offset_conv(net, x, w, dy, dx)


def _offset_conv(net: Any, x: Any, w: Any, dy: int, dx: int) -> Any:
    """A convolution whose window stands (dy, dx) further on, zeros outside: wide padding, then a slice of the input."""
    edge, (h, wide) = 4, spatial(x)
    y = net("Pad", x, net.ints([0, 0, edge, edge, 0, 0, edge, edge]))
    starts = [edge - 1 + dy, edge - 1 + dx]
    return conv_with(net, net("Slice", y, net.ints(starts), net.ints([starts[0] + h + 2, starts[1] + wide + 2]), net.ints([2, 3])), w, pads=0)


@relation("codenet-deformable-conv/whole-dilation", of="codenet-deformable-conv")
def deformable_dilation(net: Any, x: Any) -> Any:
    """A constant whole dilation for every pixel is a dilated convolution."""
    x, d = narrow(net, x, 4), net.pick((1, 2, 3))
    n, c, h, w = x.shape
    kernel, grid = net.weight(6, c, 3, 3), net.const(np.full((n, 1, h, w), float(d - 1)))
    moves = [mul(net, grid, net.const(np.array(v, float).reshape(9, 1, 1))) for v in (np.repeat([-1, 0, 1], 3), np.tile([-1, 0, 1], 3))]
    return _mix(net, _read(net, x, moves[0], moves[1], 3, "gather"), kernel), conv_with(net, x, kernel, d=d)


@relation("codenet-deformable-conv/operator", of="codenet-deformable-conv", since=19)
def deformable_operator(net: Any, x: Any) -> Any:
    """The operator (opset 19 on) = the gather form."""
    x = narrow(net, x, 4)
    o, w = conv(net, x, 18, 3), net.weight(6, channels(x), 3, 3)
    return deformable(net, x, o, w, "operator"), deformable(net, x, o, w, "gather")


@relation("codenet-deformable-conv/grid-sample", of="codenet-deformable-conv", since=16)
def deformable_grid(net: Any, x: Any) -> Any:
    """GridSample on normalised positions (opset 16 on) = the gather form."""
    x = narrow(net, x, 4)
    o, w = conv(net, x, 18, 3), net.weight(6, channels(x), 3, 3)
    return deformable(net, x, o, w, "grid"), deformable(net, x, o, w, "gather")


@relation("codenet-deformable-conv/clip-inactive", of="codenet-deformable-conv")
def deformable_clip(net: Any, x: Any) -> Any:
    """Bounding offsets that are within the bound changes nothing."""
    x = narrow(net, x, 4)
    o, w = act(net, conv(net, x, 18, 3), "Tanh"), net.weight(6, channels(x), 3, 3)
    bounded = net("Clip", o, net.const(-2.0), net.const(2.0))
    return deformable(net, x, bounded, w, "gather"), deformable(net, x, o, w, "gather")


@relation("codenet-deformable-conv/delta-taps", of="codenet-deformable-conv")
def deformable_delta(net: Any, x: Any) -> Any:
    """Depthwise taps that only read the centre, with no offset: the identity."""
    x = narrow(net, x, 4)
    centre, none = np.zeros((1, 9, 1, 1)), net.const(np.zeros((x.shape[0], 9, *spatial(x))))
    centre[0, 4] = 1
    return net("ReduceSum", mul(net, _read(net, x, none, none, 3, "gather"), net.const(centre)), net.ints([2]), keepdims=0), x


@block(
    "codenet-deformable-conv/centernet-peak", "Algorithm-hardware Co-design for Deformable Convolution", seeds=["003:271"], hazards="equality with the maximum"
)
def centernet_peak(net: Any, x: Any) -> Any:
    """Peaks of a heat map: values equal to their window's maximum, the largest of them."""
    h = act(net, conv(net, x, 3, 3, bias=True), "Sigmoid")
    peak = mul(net, h, net("Cast", net("Equal", pool(net, h, "MaxPool", 3, 1, 1), h), to=FLOAT.onnx))
    flat = reshape(net, peak, [x.shape[0], -1])
    return net("TopK", flat, net.ints([net.pick((10, 5))]), outputs=2)[0]


@block("codenet-deformable-conv/net", "Algorithm-hardware Co-design for Deformable Convolution", seeds=["003:271"])
def codenet(net: Any, x: Any) -> Any:
    """Depthwise-separable stem, a deformable layer enlarged by nearest neighbours, heads for heat map, size and offset."""
    y = conv_bn_act(net, bn(net, depthwise(net, conv_bn_act(net, x, 4, s=1), s=1)), 4, 1)
    y = resize(net, codenet_deformable_conv(net, pool(net, y)), spatial(x))
    return act(net, conv(net, y, 3, 1, bias=True), "Sigmoid"), conv(net, y, 2, 1, bias=True), conv(net, y, 2, 1, bias=True)


@block(
    "das-attention",
    "DAS: A Deformable Attention to Capture Salient Information in CNNs",
    seeds=["002:309"],
    hazards="positions at whole numbers and borders, no variance, sigmoid saturation",
)
def das_attention(net: Any, x: Any) -> Any:
    """A gate from a deformable convolution on a thin separable map; stresses sampling lowered to gathers and channel norms."""
    c, thin = channels(x), net.pick((2, 4))
    y = act(net, instance_norm(net, pointwise(net, depthwise(net, x), thin)), "Gelu")
    gate = deformable(net, y, conv(net, y, 18, 3, bias=True), net.weight(c, thin, 3, 3), _form(net))
    return mul(net, x, act(net, channel_norm(net, gate), "Sigmoid"))


def _dcn(net: Any, tokens: Any, groups: int, softmax: bool) -> Any:
    """tokens (N, H, W, C): values sampled by groups at learned points, weighted without (v4) or with (v3) a softmax."""
    n, h, w, c = tokens.shape
    v = transpose(net, reshape(net, linear(net, tokens, c), [n, h, w, groups, c // groups]), [0, 3, 4, 1, 2])
    parts = transpose(net, reshape(net, linear(net, tokens, groups * 27), [n, h, w, groups, 9, 3]), [5, 0, 3, 4, 1, 2])
    dy, dx, m = (reshape(net, net("Gather", parts, net.const(i, INT64), axis=0), [n * groups, 9, h, w]) for i in range(3))
    m = net("Softmax", m, axis=1) if softmax else m
    taken = _read(net, reshape(net, v, [n * groups, c // groups, h, w]), dy, dx, 3, _form(net))
    y = net("ReduceSum", mul(net, taken, net("Unsqueeze", m, net.ints([1]))), net.ints([2]), keepdims=0)
    return linear(net, transpose(net, reshape(net, y, [n, c, h, w]), [0, 2, 3, 1]), c)


@block(
    "dcnv4",
    "Efficient Deformable ConvNets: Rethinking Dynamic and Sparse Operator for Vision Applications",
    seeds=["002:21"],
    hazards="floor of a position, unbounded weights, corners partly outside",
)
def dcnv4(net: Any, x: Any) -> Any:
    """Deformable aggregation by groups in channels-last form, weights without softmax; stresses dynamic gathers and layout flips."""
    tokens = transpose(net, narrow(net, x, 8), [0, 2, 3, 1])
    return transpose(net, _dcn(net, tokens, net.pick((2, 4, 1)), False), [0, 3, 1, 2])


@block("dcnv4/dcnv3", "Efficient Deformable ConvNets (the third version)", seeds=["002:21"])
def dcnv3(net: Any, x: Any) -> Any:
    """The same with the weights of the points under a softmax."""
    tokens = transpose(net, narrow(net, x, 8), [0, 2, 3, 1])
    return transpose(net, _dcn(net, tokens, net.pick((2, 4, 1)), True), [0, 3, 1, 2])


@block("dcnv4/flashinternimage", "Efficient Deformable ConvNets (FlashInternImage)", seeds=["002:21"])
def flashinternimage(net: Any, x: Any) -> Any:
    """Pre-norm residual block: deformable aggregation, then a dense mixer."""
    t = transpose(net, narrow(net, x, 8), [0, 2, 3, 1])
    t = add(net, t, _dcn(net, layer_norm(net, t), 2, False))
    c = t.shape[3]
    t = add(net, t, linear(net, act(net, linear(net, layer_norm(net, t), 2 * c), "Gelu"), c))
    return transpose(net, t, [0, 3, 1, 2])


@relation("dcnv4/tied-depthwise", of="dcnv4")
def dcnv4_tied(net: Any, x: Any) -> Any:
    """No offsets and constant weights: a depthwise convolution whose kernel is shared inside a group."""
    x = narrow(net, x, 8)
    (n, c, h, w), groups = x.shape, net.pick((2, 4, 1))
    kernel, none = net.weight(groups, 9), net.const(np.zeros((n * groups, 9, h, w)))
    taken = _read(net, reshape(net, x, [n * groups, c // groups, h, w]), none, none, 3, "gather")
    m = reshape(net, net("Expand", reshape(net, kernel, [1, groups, 1, 9, 1, 1]), net.ints([n, groups, 1, 9, 1, 1])), [n * groups, 1, 9, 1, 1])
    left = reshape(net, net("ReduceSum", mul(net, taken, m), net.ints([2]), keepdims=0), [n, c, h, w])
    spread = net("Expand", net("Unsqueeze", kernel, net.ints([1])), net.ints([groups, c // groups, 9]))
    return left, conv_with(net, x, reshape(net, spread, [c, 1, 3, 3]), g=c)


def _implicit(net: Any, c: int, sizes: tuple[int, ...]) -> Any:
    """A kernel (C, *sizes) from coordinates through two sine layers."""
    grids = np.meshgrid(*[np.linspace(-1, 1, n) for n in sizes], indexing="ij")
    p = net.const(np.stack([g.ravel() for g in grids], axis=1))
    y = net("Sin", scale(net, linear(net, p, 8), net.pick((10.0, 30.0))))
    y = linear(net, mul(net, net("Sin", linear(net, y, 8)), linear(net, p, 8)), c)
    return reshape(net, transpose(net, y, [1, 0]), [c, *sizes])


def _own_kernels(net: Any, z: Any, w: Any) -> Any:
    """Depthwise convolution with a kernel for every sample and channel, same size."""
    n, c, kernel = z.shape[0], channels(z), list(w.shape[2:])
    pads = [(k - 1) // 2 for k in kernel] + [k // 2 for k in kernel]
    flat = conv_with(net, reshape(net, z, [1, n * c, *spatial(z)]), reshape(net, w, [n * c, 1, *kernel]), g=n * c, pads=pads)
    return reshape(net, flat, z.shape)


@block(
    "hyperzzw-terminator",
    "HyperZcdotZcdotW Operator Connects Slow-Fast Networks for Full Context Interaction",
    seeds=["003:67"],
    dims=(1, 2),
    hazards="grows with the square of the input, long reductions, sines of large angles",
)
def hyperzzw_terminator(net: Any, x: Any) -> Any:
    """Kernels as large as the map, from coordinates times the map itself, beside local ones; stresses runtime weights and as many groups as channels.

    Assumed: the pooled map of the local branch is its global mean, instance norm after the branches.
    """
    x = narrow(net, x, 8)
    c, rank = channels(x), len(x.shape) - 2
    whole = _own_kernels(net, x, mul(net, _implicit(net, c, spatial(x)), x))
    local = _own_kernels(net, x, mul(net, net.weight(c, *[net.pick((3, 5))] * rank), net("GlobalAveragePool", x)))
    y = instance_norm(net, concat(net, whole, local, pointwise(net, x, c)))
    return act(net, pointwise(net, y, c), "Gelu")


@block("hyperzzw-terminator/implicit-kernel", "HyperZcdotZcdotW Operator Connects Slow-Fast Networks", seeds=["003:67"], dims=(1, 2))
def implicit_kernel(net: Any, x: Any) -> Any:
    """A depthwise kernel that is a function of coordinates alone, so it can be folded."""
    c, k = channels(x), net.pick((3, 7))
    kernel = _implicit(net, c, (k,) * (len(x.shape) - 2))
    return conv_with(net, x, net("Unsqueeze", kernel, net.ints([1])), g=c)


@block("hyperzzw-terminator/g-ibn", "HyperZcdotZcdotW Operator Connects Slow-Fast Networks", seeds=["003:67"], dims=(1, 2, 3))
def g_ibn(net: Any, x: Any) -> Any:
    """A learned mix of batch and instance statistics."""
    gate = act(net, net.weight(channels(x), *[1] * (len(x.shape) - 2)), "Sigmoid")
    return net("Add", mul(net, gate, bn(net, x)), mul(net, sub(net, net.const(1.0), gate), instance_norm(net, x)))


@relation("hyperzzw-terminator/fourier", of="hyperzzw-terminator", dims=(1,), since=17)
def hyperzzw_fourier(net: Any, x: Any) -> Any:
    """A circular convolution with the map's own kernel is a product of transforms (exact with the operator, opset 17 on)."""
    x = narrow(net, x, 4)
    n, c, length = x.shape
    w = mul(net, net.weight(c, length), x)
    product = complex_mul(net, dft(net, x, None), dft(net, w, None))
    right = dft(net, *product, inverse=True)[0]
    twice = slice_(net, concat(net, x, x, axis=2), 1, 2 * length, 2)
    backwards = net("Slice", w, net.ints([-1]), net.ints([-length - 1]), net.ints([2]), net.ints([-1]))
    flat = conv_with(net, reshape(net, twice, [1, n * c, 2 * length - 1]), reshape(net, backwards, [n * c, 1, length]), g=n * c, pads=0)
    return reshape(net, flat, x.shape), right
