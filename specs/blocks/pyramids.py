"""Pyramids: dilated and pooled context at one scale, features of several scales fused into each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from specs.blocks.layers import act, add, bn, concat, conv, depthwise, gap, pointwise, resize, spatial
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
