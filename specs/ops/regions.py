"""Pools that go by indices or regions: MaxUnpool, RoiAlign and MaxRoiPool."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specs.contraction import accumulated
from specs.draw import Draw
from specs.numerics import EXACT, INF, Ball, Policy, Radii, between, finite, moves, quadrature, settle, undecidable
from specs.operator import op
from specs.ops.windows import ROOM
from specs.program import Node
from specs.rule import Misfit, Operand, Rule
from specs.terms import known


# MaxUnpool -------------------------------------------------------------------------------------------------------------
def _max_unpool(a: Node, x: Tensor, indices: Tensor, output_shape: Tensor | None = None) -> Tensor:
    """Indices count through the shape that the attributes imply; a larger output_shape adds zeros behind it."""
    n = len(a.kernel_shape)
    strides, pads = a.strides or [1] * n, a.pads or [0] * (2 * n)
    implied = [*x.shape[:2], *((d - 1) * s - pads[i] - pads[n + i] + k for i, (d, s, k) in enumerate(zip(x.shape[2:], strides, a.kernel_shape, strict=True)))]
    y = x.new_zeros(math.prod(implied)).scatter(0, indices.reshape(-1), x.reshape(-1)).reshape(implied)
    wanted = implied if output_shape is None else [int(d) for d in output_shape]
    if wanted == implied:
        return y
    return torch.nn.functional.pad(y, [p for have, want in zip(reversed(implied), reversed(wanted), strict=True) for p in (0, want - have)])


@op("MaxUnpool", meaning=_max_unpool, error=moves(0))
def max_unpool(g: Draw) -> Rule:
    """Every element goes somewhere into its own window, so that no two meet."""
    x = g.operand(rank=(3, 5))
    if not known(*x):
        raise Misfit("MaxUnpool: indices need known sizes")
    n, c, *space = x
    kernel = [g.pick((2, 3, 1) if len(space) < 3 else (1, 2)) for _ in space]
    cut = [g.choose(k) if g.flag(0.5) else 0 for k in kernel]  # what pads take from the last window
    out = [d * k - less for d, k, less in zip(space, kernel, cut, strict=True)]
    g.require(n * c * math.prod(out) <= ROOM)
    first = np.arange(n * c * math.prod(out)).reshape(n, c, *out)[(..., *(slice(None, None, k) for k in kernel))]
    step = np.zeros_like(first)
    turn = np.arange(first.size).reshape(first.shape) * 7 + g.choose(math.prod(kernel))
    for i, (k, less) in enumerate(zip(kernel, cut, strict=True)):  # a cell of the window, another one from element to element
        step += turn % (k - less) * math.prod(out[i + 1 :])
        turn = turn // k
    operands = [x, g.const((first + step).astype(np.int64))]
    if g.flag(0.3):
        operands.append(g.const([n, c, *out]))
    attrs: dict[str, Any] = {"kernel_shape": kernel}
    if any(k > 1 for k in kernel) or g.flag(0.2):
        attrs["strides"] = kernel
    if any(cut) or g.flag(0.2):
        ahead = [g.int(0, less) for less in cut]
        attrs["pads"] = [*ahead, *(less - b for less, b in zip(cut, ahead, strict=True))]
    return Rule(operands, [[n, c, *out]], attrs)


# RoiAlign --------------------------------------------------------------------------------------------------------------
def _grid(a: Node, start: Tensor, length: Tensor, out: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sampling along one axis of one region: coordinates [out, samples], whether they count, and how many there are."""
    samples = a.sampling_ratio if a.sampling_ratio > 0 else max(0, int((length / out).ceil()))
    at = start + (torch.arange(out)[:, None] + (torch.arange(samples)[None] + 0.5) / max(1, samples)) * (length / out)
    return at, (at >= -1) & (at <= size), torch.tensor(samples)


def _taps(at: Tensor, counts: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The two neighbours of every sample and their weights: [out, samples, 2]. Behind the borders the border itself counts."""
    at = at.clamp(0, size - 1)
    low = at.detach().floor().clamp(max=max(0, size - 2))
    share = at - low
    index = torch.stack([low, low + (1 if size > 1 else 0)], -1).to(torch.int64)
    return index, torch.stack([1 - share, share], -1) * counts[..., None]


def _box(a: Node, roi: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Start and length of a region along y and x, in pixels of the feature map."""
    half = a.coordinate_transformation_mode == "half_pixel"
    x1, y1, x2, y2 = (v * a.spatial_scale - (0.5 if half else 0) for v in roi)
    height, width = y2 - y1, x2 - x1
    return (y1, height, x1, width) if half else (y1, height.clamp(min=1), x1, width.clamp(min=1))


def _roi_align(a: Node, x: Tensor, rois: Tensor, batch: Tensor) -> Tensor:
    """Mode "max" takes the largest weighted neighbour of all samples, not the largest sample, as the node tests have it."""
    return _aligned(a, x, rois, batch, a.mode == "max")


def _aligned(a: Node, x: Tensor, rois: Tensor, batch: Tensor, neighbours: bool) -> Tensor:
    form = x.dtype
    if form in (torch.float16, torch.bfloat16):
        x, rois = x.float(), rois.float()
    rows, columns = a.output_height, a.output_width
    results: list[Tensor] = []
    for roi, image in zip(rois, x[batch], strict=True):
        y0, height, x0, width = _box(a, roi)
        (at_y, in_y, n_y), (at_x, in_x, n_x) = _grid(a, y0, height, rows, x.shape[2]), _grid(a, x0, width, columns, x.shape[3])
        (index_y, weight_y), (index_x, weight_x) = _taps(at_y, in_y, x.shape[2]), _taps(at_x, in_x, x.shape[3])
        if not n_y * n_x:
            results.append(image.new_zeros(image.shape[0], rows, columns))
            continue
        near = image[:, index_y.reshape(-1)][:, :, index_x.reshape(-1)].reshape(image.shape[0], *index_y.shape, *index_x.shape)
        terms = near * weight_y[..., None, None, None] * weight_x
        if a.mode == "avg":
            results.append(terms.sum((2, 3, 5, 6)) / (n_y * n_x))
        else:
            results.append(terms.amax((2, 3, 5, 6)) if neighbours else terms.sum((3, 6)).amax((2, 4)))
    return torch.stack(results).to(form) if results else x.new_zeros(0, x.shape[1], rows, columns).to(form)


def _roi_align_error(node: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Coordinates are off by a few roundings: a sample moves along the slope, or may fall out where a border is that near.

    In mode "max" the text has the maximum of interpolated samples and the tests that of weighted neighbours: both are legal.
    """
    x, rois, batch = balls
    form = node.out_formats[0]
    if x is None or rois is None or batch is None or batch.worst is not None or form is None:
        return undecidable(node, policy, balls, ys)
    u = max(policy.u(form), 2.0**-24)  # of coordinates, which runtimes keep in float32 for doubles as well
    value, size = x.value, x.value.shape[2:]
    largest = value.abs().flatten(2).amax(-1)
    steep = [value.diff(dim=i).abs().flatten(2).amax(-1) if value.shape[i] > 1 else torch.zeros_like(largest) for i in (2, 3)]
    results: list[tuple[Tensor, Tensor]] = []
    for which in (1, 2):
        off: list[Tensor] = []
        for r, (roi, image) in enumerate(zip(rois.value, batch.value.tolist(), strict=True)):
            e_roi = 0.0 if rois[which] is None else float(finite(rois[which][r]).amax()) * abs(node.spatial_scale)
            y0, height, x0, width = _box(node, roi)
            total, lost = torch.zeros_like(largest[image]), torch.zeros(node.output_height, node.output_width, dtype=torch.float64)
            ends = []
            for axis, (start, length, out) in enumerate(((y0, height, node.output_height), (x0, width, node.output_width))):
                reach = float(start.abs() + length.abs()) + 1
                exact = e_roi == 0.0 and float(reach * 2**8).is_integer() and float(start * 2**8).is_integer() and reach < 4 / u * 2**-8
                e = 2 * e_roi + (0.0 if exact else 4 * u * reach)
                if node.sampling_ratio <= 0 and math.ceil(float(length - e) / out) != math.ceil(float(length + e) / out):
                    total = total + INF
                at, _, _ = _grid(node, start, length, out, size[axis])
                e = 2 * e_roi + 8 * u * reach
                ends.append((((at + 1).abs() <= e) | ((at - size[axis]).abs() <= e)).double().mean(1).nan_to_num(nan=0.0))
                total = total + steep[axis][image] * e if node.mode == "avg" else total + largest[image] * (2 * e)
            lost = ends[0][:, None] + ends[1][None]
            lost = lost if node.mode == "avg" else (lost > 0).double()
            off.append(total[:, None, None] + largest[image][:, None, None] * lost)
        moved = torch.stack(off) if off else torch.zeros_like(ys[0])
        inherited = None if x[which] is None else finite(x[which]).flatten(2).amax(-1)[batch.value][..., None, None]
        results.append((moved, moved if inherited is None else moved + inherited))
    magnitude = _roi_align(node, value.abs(), rois.value, batch.value)
    count = node.sampling_ratio**2 if node.sampling_ratio > 0 else max([1.0, *(float(_area(node, roi)) for roi in rois.value)])
    worst, spread = accumulated(policy, form, magnitude, 4 * count if node.mode == "avg" else 1, extra=5)
    if node.mode == "max":
        either = (_aligned(node, value, rois.value, batch.value, False) - ys[0]).abs()
        worst, spread = worst + either, spread + either
    return [(settle(results[0][1].clamp(max=1e300) + worst), settle(quadrature(results[1][1].clamp(max=1e150), spread)))]


def _area(node: Node, roi: Tensor) -> float:
    """Samples in a cell of a region when their number follows its size."""
    _, height, _, width = _box(node, roi)
    return math.ceil(abs(float(height)) / node.output_height + 1) * math.ceil(abs(float(width)) / node.output_width + 1)


def _boxes(g: Draw, count: int, scale: float) -> list[list[float]]:
    """Regions in quarter pixels of the feature map, some partly outside: exact in every format after scaling."""
    boxes = list[list[float]]()
    for _ in range(count):
        x1, y1 = g.int(-2, 16) / 4, g.int(-2, 16) / 4
        boxes.append([v / scale for v in (x1, y1, x1 + g.int(1, 24) / 4, y1 + g.int(1, 24) / 4)])
    return boxes


@op("RoiAlign", meaning=_roi_align, error=_roi_align_error)
def roi_align(g: Draw) -> Rule:
    """Regions of exact coordinates, in both modes, with fixed and adaptive sampling."""
    x = g.operand(rank=4)
    n, c, *_ = x
    scale, count = g.pick((1.0, 0.5, 0.25, 2.0)), g.int(1, 4)
    rows, columns = g.int(1, 4), g.int(1, 4)
    if known(c):
        g.require(count * c * rows * columns <= ROOM)
    rois = g.const(np.array(_boxes(g, count, scale)))
    batch = g.given([count], 0, n - 1 if known(n) else 0)
    attrs: dict[str, Any] = {"output_height": rows, "output_width": columns, "spatial_scale": scale}
    if g.flag(0.7):
        attrs["sampling_ratio"] = g.pick((2, 1, 3, 0))
    if g.flag(0.3):
        attrs["mode"] = "max"
    if g.opset >= 16 and g.flag():
        attrs["coordinate_transformation_mode"] = g.pick(("output_half_pixel", "half_pixel"))
    return Rule([x, rois, batch], [[count, c, rows, columns]], attrs)


# MaxRoiPool ------------------------------------------------------------------------------------------------------------
def _bins(start: Tensor, end: Tensor, scale: float, out: int, size: int) -> list[tuple[int, int, bool, bool]]:
    """First and last pixel of every cell of a region, and whether a rounded cell size could add one at either end."""
    first, last = (int(torch.floor(v * scale + 0.5)) for v in (start, end))
    length = max(last - first + 1, 1)
    dyadic = length * 2**20 % out == 0
    cells: list[tuple[int, int, bool, bool]] = []
    for i in range(out):
        low, high = i * length // out + first, -(-(i + 1) * length // out) + first
        loose = (not dyadic and i > 0 and i * length % out == 0, not dyadic and (i + 1) * length % out == 0)
        cells.append((min(max(low, 0), size), min(max(high, 0), size), *loose))
    return cells


def _max_roi_pool(a: Node, x: Tensor, rois: Tensor) -> Tensor:
    return _pooled(a, x, rois, loose=False)


def _pooled(a: Node, x: Tensor, rois: Tensor, loose: bool) -> Tensor:
    """The largest element of every cell, 0 in an empty one; cells overlap where the region is not a multiple of them."""
    rows, columns = a.pooled_shape
    results: list[Tensor] = []
    for roi in rois:
        image = x[int(roi[0])]
        ys, xs = _bins(roi[2], roi[4], a.spatial_scale, rows, x.shape[2]), _bins(roi[1], roi[3], a.spatial_scale, columns, x.shape[3])
        cells: list[Tensor] = []
        for y0, y1, y_low, y_high in ys:
            for x0, x1, x_low, x_high in xs:
                if loose:
                    part = image[:, max(0, y0 - y_low) : y1 + y_high, max(0, x0 - x_low) : x1 + x_high]
                else:
                    part = image[:, y0:y1, x0:x1]
                cells.append(part.amax((1, 2)) if part.shape[1] * part.shape[2] else image.new_zeros(image.shape[0]))
        results.append(torch.stack(cells, -1).reshape(-1, rows, columns))
    return torch.stack(results) if results else x.new_zeros(0, x.shape[1], rows, columns)


def _max_roi_pool_error(node: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Cells end between pixels; where an end falls on one, a cell size rounded the other way takes the next pixel in."""
    x, rois = balls
    if x is None or rois is None or rois.worst is not None:
        return undecidable(node, policy, balls, ys)

    def radius(e: Tensor | None) -> Tensor:
        loose, exact = (_pooled(node, x.value, rois.value, wider).double() for wider in (True, False))
        r = between(loose, exact, ys[0])
        return r if e is None else settle(r + finite(e).flatten(2).amax(-1)[rois.value[:, 0].to(torch.int64)][..., None, None])

    worst = radius(x.worst)
    return [(worst, radius(x.spread)) if x.worst is not None or bool(worst.any()) else EXACT]


@op("MaxRoiPool", meaning=_max_roi_pool, error=_max_roi_pool_error)
def max_roi_pool(g: Draw) -> Rule:
    """Regions of whole pixels: ONNX does not say how a coordinate is rounded."""
    x = g.operand(rank=4)
    n, c, *_ = x
    scale, count = g.pick((1.0, 0.5, 0.25)), g.int(1, 4)
    pooled = [g.int(1, 4), g.int(1, 4)]
    if known(c):
        g.require(count * c * math.prod(pooled) <= ROOM)
    images = n if known(n) else 1
    boxes = list[list[float]]()
    for _ in range(count):
        x1, y1 = g.int(0, 5), g.int(0, 5)
        boxes.append([g.choose(images), x1 / scale, y1 / scale, (x1 + g.int(0, 7)) / scale, (y1 + g.int(0, 7)) / scale])
    rois: Operand = g.const(np.array(boxes, dtype=np.float64))
    attrs: dict[str, Any] = {"pooled_shape": pooled, "spatial_scale": scale}
    return Rule([x, rois], [[count, c, *pooled]], attrs)
