"""Pyramids: dilated and pooled context at one scale, features of several scales fused into each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from specs.blocks.layers import act, add, bn, channels, concat, conv, depthwise, gap, pad, pointwise, reshape, resize, spatial, split
from specs.blocks.parts import sampled
from specs.blocks.u_shapes import unit


def image_level(net: Any, x: Any, out: int, align_corners: bool = False) -> Any:
    """Global average, 1x1 unit, linear Resize from one position: a broadcast in every coordinate mode."""
    return resize(net, unit(net, gap(net, x), out, 1), spatial(x), "linear", align_corners)


def atrous(net: Any, x: Any, out: int, rate: int) -> Any:
    return unit(net, x, out, 3, d=rate)


def separable(net: Any, x: Any, out: int, rate: int) -> Any:
    """A dilated depthwise unit, then a 1x1 unit."""
    return unit(net, act(net, bn(net, depthwise(net, x, 3, d=rate))), out, 1)


def aspp(net: Any, x: Any, out: int, rates: Sequence[int], branch: Callable[..., Any] = atrous, align_corners: bool = False) -> Any:
    """Atrous spatial pyramid pooling: 1x1, one branch for each rate, the image level; concatenated and projected."""
    maps = [unit(net, x, out, 1), *(branch(net, x, out, r) for r in rates), image_level(net, x, out, align_corners)]
    return unit(net, concat(net, *maps), out, 1)


def side_outputs(net: Any, features: Sequence[Any], size: Sequence[int], n: int, fused: bool = True) -> Any:
    """A head on every map, resized to one size; concatenated under a 1x1 convolution, or added."""
    maps = [conv(net, f, n, 3, bias=True) for f in features]
    maps = [m if spatial(m) == tuple(size) else resize(net, m, size, "linear") for m in maps]
    if fused:
        return pointwise(net, concat(net, *maps), n, bias=True)
    total = maps[0]
    for m in maps[1:]:
        total = add(net, total, m)
    return total


def top_down(net: Any, features: Sequence[Any], c: int, smooth: bool = True) -> list[Any]:
    """A feature pyramid: 1x1 laterals, nearest upsampling added from above, a 3x3 convolution on each level. Finest first."""
    laterals = [pointwise(net, f, c, bias=True) for f in features]
    made = [laterals[-1]]
    for lateral in reversed(laterals[:-1]):
        made.insert(0, add(net, lateral, resize(net, made[0], spatial(lateral))))
    return [conv(net, m, c, 3, bias=True) for m in made] if smooth else made


def backbone(net: Any, x: Any, widths: Sequence[int], residual: bool = True) -> list[Any]:
    """Strided stages, finest first; sizes are rounded up, so that any size goes."""
    features = list[Any]()
    for width in widths:
        x = unit(net, x, width, s=2)
        if residual:
            x = act(net, add(net, x, unit(net, unit(net, x, width), width, kind="")))
        features.append(x)
    return features


def bins(net: Any, x: Any, n: int) -> Any:
    """Adaptive average pooling to n per axis, uneven windows as products with averaging matrices: any size, any n."""
    for axis, size in enumerate(spatial(x), 2):
        rows = [[0.0] * n for _ in range(size)]
        for i in range(n):
            low, high = i * size // n, -(-(i + 1) * size // n)
            for j in range(low, high):
                rows[j][i] = 1.0 / (high - low)
        rank = len(x.shape)
        perm = [a for a in range(rank) if a != axis] + [axis]
        back = [perm.index(a) for a in range(rank)]
        x = net("Transpose", net("MatMul", net("Transpose", x, perm=perm), net.const(rows)), perm=back)
    return x


def deform(net: Any, x: Any, out: int, k: int, masked: bool = True, w: Any = None) -> Any:
    """Deformable convolution with offsets (and a modulation) computed from x: the operator from opset 19 on, or sampled."""
    n, c, (h, wide) = x.shape[0], channels(x), spatial(x)
    offsets = conv(net, x, 2 * k * k, 3, bias=True)
    mask = act(net, conv(net, x, k * k, 3, bias=True), "Sigmoid") if masked else None
    w = net.weight(out, c, k, k) if w is None else w
    if net.opset >= 19:
        return net("DeformConv", x, w, offsets, None, mask, kernel_shape=[k, k], pads=[k // 2] * 4)
    row, column = (reshape(net, v, [n, k * k * h * wide]) for v in split(net, reshape(net, offsets, [n, k * k, 2, h * wide]), 2, axis=2))
    taps = [(a - k // 2, b - k // 2, i, j) for a in range(k) for b in range(k) for i in range(h) for j in range(wide)]
    rows, columns = net.const([float(i + a) for a, _, i, _ in taps]), net.const([float(j + b) for _, b, _, j in taps])
    form = "grid" if net.opset >= 16 and min(h, wide) > 1 else "gather"
    read = reshape(net, sampled(net, x, net("Add", row, rows), net("Add", column, columns), form), [n, c, k * k, h, wide])
    if mask is not None:
        read = net("Mul", read, net("Unsqueeze", mask, net.ints([1])))
    return conv(net, reshape(net, read, [n, c * k * k, h, wide]), out, 1, w=reshape(net, w, [out, c * k * k, 1, 1]))


def to_batch(net: Any, x: Any, d: int) -> Any:
    """Space to batch: every d-th position in each axis is an image of its own; sizes are multiples of d."""
    n, c, rank = x.shape[0], channels(x), len(x.shape) - 2
    y = reshape(net, x, [n, c, *(v for s in spatial(x) for v in (s // d, d))])
    y = net("Transpose", y, perm=[*range(3, 3 + 2 * rank, 2), 0, 1, *range(2, 2 + 2 * rank, 2)])
    return reshape(net, y, [n * d**rank, c, *(s // d for s in spatial(x))])


def from_batch(net: Any, y: Any, d: int) -> Any:
    """The inverse of to_batch."""
    c, rank = channels(y), len(y.shape) - 2
    n = y.shape[0] // d**rank
    x = reshape(net, y, [*[d] * rank, n, c, *spatial(y)])
    x = net("Transpose", x, perm=[rank, rank + 1, *(v for i in range(rank) for v in (rank + 2 + i, i))])
    return reshape(net, x, [n, c, *(s * d for s in spatial(y))])


def dilated_by_batch(net: Any, x: Any, w: Any, d: int) -> Any:
    """A dilated 3x3 convolution that keeps the size, as space to batch, an ordinary convolution without padding, batch to space."""
    rank, size = len(x.shape) - 2, spatial(x)
    wide = pad(net, x, [d] * rank, [d + -s % d for s in size])
    y = conv(net, to_batch(net, wide, d), w.shape[0], 3, w=w, pad=0)
    y = from_batch(net, y, d)
    return net("Slice", y, net.ints([0] * rank), net.ints(size), net.ints(range(2, 2 + rank)))
