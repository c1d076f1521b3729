"""Parts of several convolutional families: windows as tensors, computed weights, folded norms, sampling, Fourier transforms."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from specs.blocks.layers import act, channels, concat, conv, gap, mean, mul, pad, reduce, reshape, spatial, transpose
from specs.formats import INT64


def scale(net: Any, x: Any, by: float) -> Any:
    return net("Mul", x, net.const(by))


def offset(net: Any, x: Any, by: float) -> Any:
    return net("Add", x, net.const(by))


def sub(net: Any, a: Any, b: Any) -> Any:
    return net("Sub", a, b)


def at_least(net: Any, a: Any, b: Any) -> Any:
    """a >= b; before opset 16 ONNX does not infer the shape of GreaterOrEqual."""
    return net("GreaterOrEqual", a, b) if net.opset >= 16 else net("Not", net("Less", a, b))


def total(net: Any, values: Sequence[Any]) -> Any:
    """A left to right sum."""
    result = values[0]
    for v in values[1:]:
        result = net("Add", result, v)
    return result


def narrow(net: Any, x: Any, most: int) -> Any:
    """At most so many channels, by a pointwise convolution: windows multiply the size of a map."""
    return x if channels(x) <= most else conv(net, x, most, 1)


def divisors(n: int, among: Sequence[int]) -> tuple[int, ...]:
    return tuple(d for d in among if n % d == 0) or (1,)


def per_channel(net: Any, v: Any, rank: int, axis: int = 1) -> Any:
    """A vector (C) as (1, C, 1, ...) or, with axis 0, (C, 1, ...) with `rank` dims after the channels."""
    return reshape(net, v, [1] * axis + [v.shape[0]] + [1] * rank)


def conv_with(net: Any, x: Any, w: Any, b: Any = None, *, s: int = 1, d: int = 1, g: int = 1, pads: int | Sequence[int] | None = None) -> Any:
    """A convolution with a weight (and bias) that the network computes; pads as for layers.conv, or the ONNX list."""
    kernel = list(w.shape[2:])
    rank = len(kernel)
    edges = [d * (n - 1) // 2 for n in kernel] * 2 if pads is None else [pads] * (2 * rank) if isinstance(pads, int) else list(pads)
    return net("Conv", x, w, b, kernel_shape=kernel, strides=[s] * rank, dilations=[d] * rank, group=g, pads=edges)


def statistics(net: Any, c: int) -> tuple[Any, Any, Any, Any]:
    """Scale, shift, mean and variance of a batch normalisation, to be used once as a layer and once folded."""
    return net.weight(c), net.weight(c), net.weight(c), net.weight(c, low=0.2, high=2.0)


def bn_with(net: Any, x: Any, p: tuple[Any, Any, Any, Any], epsilon: float = 1e-5) -> Any:
    return net("BatchNormalization", x, *p, epsilon=epsilon)


def fold(net: Any, w: Any, p: tuple[Any, Any, Any, Any], epsilon: float = 1e-5, axis: int = 0) -> tuple[Any, Any]:
    """The weight and bias of convolution and batch normalisation in one; axis is where the weight has its output channels."""
    scales = net("Div", p[0], net("Sqrt", offset(net, p[3], epsilon)))
    factor = reshape(net, scales, [1] * axis + [scales.shape[0]] + [1] * (len(w.shape) - axis - 1))
    return mul(net, w, factor), sub(net, p[1], mul(net, p[2], scales))


def centred(net: Any, w: Any, k: int) -> Any:
    """A kernel padded with zeros to size k in every dim."""
    before = [(k - n) // 2 for n in w.shape[2:]]
    return w if not any(before) else pad(net, w, before, before)


def dirac(c: int, k: int, rank: int, groups: int = 1) -> np.ndarray:
    """The kernel of the identity: (C, C / groups, k, ...)."""
    w = np.zeros((c, c // groups, *[k] * rank))
    for i in range(c):
        w[(i, i % (c // groups), *[k // 2] * rank)] = 1
    return w


def unfold(net: Any, x: Any, k: int, *, s: int = 1, d: int = 1, mode: str = "constant") -> Any:
    """The taps of every window, (N, taps, C, *out), by padding and strided slices; k is odd."""
    rank, p = len(x.shape) - 2, d * (k - 1) // 2
    out = [(n - 1) // s + 1 for n in spatial(x)]
    y = pad(net, x, [p] * rank, [p] * rank, mode) if p else x
    axes, steps = net.ints(range(2, 2 + rank)), net.ints([s] * rank)
    taps = [
        net("Slice", y, net.ints([t * d for t in tap]), net.ints([t * d + (n - 1) * s + 1 for t, n in zip(tap, out, strict=True)]), axes, steps)
        for tap in product(range(k), repeat=rank)
    ]
    return reshape(net, concat(net, *taps) if len(taps) > 1 else taps[0], [x.shape[0], len(taps), channels(x), *out])


def channel_norm(net: Any, x: Any, epsilon: float = 1e-6) -> Any:
    """Layer normalisation over the channels of (N, C, ...), written out."""
    centre = sub(net, x, mean(net, x, [1]))
    y = net("Div", centre, net("Sqrt", offset(net, mean(net, mul(net, centre, centre), [1]), epsilon)))
    shape = [channels(x)] + [1] * (len(x.shape) - 2)
    return net("Add", mul(net, y, net.weight(*shape)), net.weight(*shape))


def channel_gate(net: Any, x: Any, inner: int, kind: str = "Relu", bias: bool = True, pooled: str = "GlobalAveragePool") -> Any:
    """A number between 0 and 1 for each channel, from its global value through a bottleneck, (N, C, 1, ...)."""
    hidden = act(net, conv(net, net(pooled, x), max(1, inner), 1, bias=bias), kind)
    return act(net, conv(net, hidden, channels(x), 1, bias=bias), "Sigmoid")


def squeeze_excite(net: Any, x: Any, r: int = 4, kind: str = "Relu", *, inner: int = 0, bias: bool = False) -> Any:
    """x under its channel gate; the bottleneck is an r-th of the channels, or `inner`."""
    return mul(net, x, channel_gate(net, x, inner or channels(x) // r, kind, bias))


def prelu(net: Any, x: Any) -> Any:
    return net("PRelu", x, net.weight(channels(x), *[1] * (len(x.shape) - 2), low=0.0, high=0.5))


def flatten_linear(net: Any, x: Any, out: int) -> Any:
    """Flatten and a dense layer as Gemm."""
    flat = net("Flatten", x, axis=1)
    return net("Gemm", flat, net.weight(out, flat.shape[1]), net.weight(out), transB=1)


def head(net: Any, x: Any, classes: int) -> Any:
    """Global mean and a dense layer: logits (N, classes)."""
    return flatten_linear(net, gap(net, x), classes)


def depth_to_space(net: Any, x: Any, r: int, mode: str = "CRD") -> Any:
    return net("DepthToSpace", x, blocksize=r, mode=mode)


def bilinear(net: Any, x: Any, y: Any, z: Any) -> Any:
    """x (N, C, H, W) at rows y and columns z, both (N, P): (N, C, P), zero outside; four gathered corners.

    Corners are integers from the floor on: a whole number in float that was added to is a rounded one, and every comparison undecided.
    """
    n, c, h, w = x.shape
    flat, one = reshape(net, x, [n, c, h * w]), net.const(1, INT64)
    (y0, fy), (z0, fz) = (_whole(net, v, m) for v, m in ((y, h), (z, w)))
    rows = [(y0, sub(net, net.const(1.0), fy)), (net("Add", y0, one), fy)]
    columns = [(z0, sub(net, net.const(1.0), fz)), (net("Add", z0, one), fz)]
    corners = list[Any]()
    for (row, a), (column, b) in product(rows, columns):
        kept_row, kept_column = (net("Clip", v, net.const(0, INT64), net.const(m - 1, INT64)) for v, m in ((row, h), (column, w)))
        inside = net("And", net("Equal", kept_row, row), net("Equal", kept_column, column))
        weight = net("Where", inside, mul(net, a, b), net.const(0.0))
        index = net("Add", mul(net, kept_row, net.const(w, INT64)), kept_column)
        corners.append(mul(net, gather_flat(net, flat, index), net("Unsqueeze", weight, net.ints([1]))))
    return total(net, corners)


def _whole(net: Any, v: Any, size: int) -> tuple[Any, Any]:
    """The floor of a coordinate as int64, no farther out than matters, and the rest of it."""
    low = net("Floor", v)
    return net("Cast", net("Clip", low, net.const(-2.0), net.const(size + 1.0)), to=INT64.onnx), sub(net, v, low)


def gather_flat(net: Any, flat: Any, index: Any) -> Any:
    """flat (N, C, M) at whole numbers index (N, P), the same for every channel: (N, C, P)."""
    inside = net("Clip", net("Cast", index, to=INT64.onnx), net.const(0, INT64), net.const(flat.shape[2] - 1, INT64))
    whole = net("Unsqueeze", inside, net.ints([1]))
    return net("GatherElements", flat, net("Expand", whole, net.ints([flat.shape[0], flat.shape[1], index.shape[1]])), axis=2)


def sampled(net: Any, x: Any, y: Any, z: Any, form: str) -> Any:
    """`bilinear` by gathers, or by GridSample on normalised coordinates (H, W > 1, opset 16 on)."""
    if form == "gather":
        return bilinear(net, x, y, z)
    grid = [offset(net, net("Div", scale(net, v, 2.0), net.const(float(m - 1))), -1.0) for v, m in ((z, x.shape[3]), (y, x.shape[2]))]
    pairs = concat(net, *[reshape(net, v, [y.shape[0], 1, y.shape[1], 1]) for v in grid], axis=3)
    kind = "linear" if net.opset >= 20 else "bilinear"
    return reshape(net, net("GridSample", x, pairs, mode=kind, padding_mode="zeros", align_corners=1), [x.shape[0], x.shape[1], y.shape[1]])


def dft(net: Any, re: Any, im: Any | None, inverse: bool = False, op: bool | None = None) -> tuple[Any, Any]:
    """The transform of the last axis as (real, imaginary), by the operator from opset 17 on or by products with cosines and sines."""
    n = re.shape[-1]
    if net.opset >= 17 if op is None else op:
        last = len(re.shape)
        parts = [net("Unsqueeze", re, net.ints([last]))] + ([] if im is None else [net("Unsqueeze", im, net.ints([last]))])
        joined = concat(net, *parts, axis=last) if len(parts) > 1 else parts[0]
        axis = {"axis": last - 1} if net.opset < 20 else {}
        y = net("DFT", joined, None, *([] if axis else [net.const(last - 1, INT64)]), inverse=int(inverse), **axis)
        return tuple(net("Gather", y, net.const(i, INT64), axis=last) for i in (0, 1))  # type: ignore[return-value]
    angle = 2 * np.pi * np.outer(np.arange(n), np.arange(n)) / n * (1 if inverse else -1)
    cos, sin = (net.const(f(angle) / (n if inverse else 1)) for f in (np.cos, np.sin))
    a, b = net("MatMul", re, cos), net("MatMul", re, sin)
    if im is None:
        return a, b
    return sub(net, a, net("MatMul", im, sin)), net("Add", b, net("MatMul", im, cos))


def complex_mul(net: Any, a: tuple[Any, Any], b: tuple[Any, Any]) -> tuple[Any, Any]:
    return (
        sub(net, mul(net, a[0], b[0]), mul(net, a[1], b[1])),
        net("Add", mul(net, a[0], b[1]), mul(net, a[1], b[0])),
    )


def attention(net: Any, q: Any, k: Any, v: Any) -> Any:
    """Scaled dot products over the last two dims."""
    swap = [*range(len(k.shape) - 2), len(k.shape) - 1, len(k.shape) - 2]
    scores = scale(net, net("MatMul", q, transpose(net, k, swap)), q.shape[-1] ** -0.5)
    return net("MatMul", net("Softmax", scores, axis=-1), v)


def flat_size(x: Any) -> int:
    return prod(spatial(x))


def deviation(net: Any, x: Any, epsilon: float = 1e-5) -> Any:
    """Standard deviation over the spatial dims, kept as ones."""
    axes = list(range(2, len(x.shape)))
    centre = sub(net, x, mean(net, x, axes))
    return net("Sqrt", offset(net, mean(net, mul(net, centre, centre), axes), epsilon))


def channel_pools(net: Any, x: Any) -> Any:
    """Mean and maximum over the channels, as two maps."""
    return concat(net, reduce(net, "ReduceMean", x, [1]), reduce(net, "ReduceMax", x, [1]))
