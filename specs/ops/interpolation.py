"""Separable interpolation along axes: where the positions of a resized axis lie, which neighbours they take, and how surely."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from specs.formats import Format
from specs.program import Node
from specs.rule import Unsupported

U = 2.0**-24  # coordinates and weights are computed in float, whatever the type of the data


class Way(NamedTuple):
    """How coordinates become neighbours and weights: the attributes of the operator."""

    mode: str
    coordinate: str
    nearest: str
    a: float
    exclude: bool
    antialias: bool


class Axis(NamedTuple):
    """One axis: its length before and after, its scale, the region (start, end), and the target length before rounding down.

    `width` is that target freed from the rounding of the scale (a third of 3 is 1, though not in float), `raw` is not.
    """

    size: int
    out: int
    scale: float
    start: float
    end: float
    width: float
    raw: float


class Weights(NamedTuple):
    """For each position the neighbours, their weights, how far coordinates can move a weight, and how far rounding can."""

    at: Tensor
    value: Tensor
    moved: Tensor
    rounded: Tensor


# coordinates -----------------------------------------------------------------------------------------------------------
@lru_cache(maxsize=2048)
@torch.inference_mode(False)  # what is kept must be of use to gradients as well
def coordinates(way: Way, axis: Axis) -> tuple[Tensor, Tensor]:
    """Where each position lies in the original, and how far float arithmetic may take it from there."""
    y, kind = torch.arange(axis.out, dtype=torch.float64), way.coordinate
    last, scale = axis.size - 1, axis.scale
    dyadic = math.frexp(scale)[0] == 0.5
    zero = torch.zeros_like(y)
    if kind == "align_corners":
        step = last / (axis.width - 1) if axis.width != 1 else 0.0
        terms, dyadic = [y * step], step == 0 or math.frexp(step)[0] == 0.5
    elif kind == "tf_crop_and_resize":
        regular = all((v * 1024).is_integer() for v in (axis.start, axis.end))
        if axis.width == 1:
            terms, dyadic = [zero + 0.5 * axis.start * last, zero + 0.5 * axis.end * last], regular
        else:
            terms = [zero + axis.start * last, y * (axis.end - axis.start) * last / (axis.width - 1)]
            dyadic = regular and math.frexp(axis.width - 1)[0] == 0.5
    elif kind == "asymmetric":
        terms = [y / scale]
    elif kind == "tf_half_pixel_for_nn":
        terms = [(y + 0.5) / scale]
    elif kind == "pytorch_half_pixel" and axis.width == 1:
        terms = [zero]
    elif kind in ("half_pixel", "pytorch_half_pixel", "half_pixel_symmetric"):
        terms = [(y + 0.5) / scale, zero - 0.5]
        if kind == "half_pixel_symmetric":
            terms += [zero + axis.size / 2, zero - axis.size / 2 * (axis.out / axis.width)]
            dyadic = dyadic and axis.out == axis.width
    else:
        raise Unsupported(f"Resize: coordinate_transformation_mode {kind}")
    x, size = sum(terms, zero), sum((t.abs() for t in terms), zero)
    return x, size * (0.0 if dyadic else 8 * U)


def readings(way: Way, axis: Axis) -> list[Axis]:
    """The text leaves open whether a scale that does not fit counts itself or as the ratio of the lengths: both are legal."""
    if axis.width != axis.out:
        return [axis, axis._replace(width=float(axis.out)), axis._replace(width=float(axis.out), scale=axis.out / axis.size)]
    if axis.raw != axis.out and way.coordinate in ("align_corners", "tf_crop_and_resize", "half_pixel_symmetric"):
        return [axis, axis._replace(width=axis.raw)]
    return [axis]


_ROUND: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda x: torch.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: torch.floor(x + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


@lru_cache(maxsize=2048)
@torch.inference_mode(False)  # what is kept must be of use to gradients as well
def nearest(way: Way, axis: Axis, shift: int = 0) -> Tensor:
    """The index of the neighbour each position takes, its coordinate moved by `shift` times its uncertainty."""
    x, delta = coordinates(way, axis)
    mode = way.nearest if way.nearest != "simple" else ("ceil" if axis.scale < 1 else "floor")
    return _ROUND[mode](x + shift * delta).long().clamp(0, axis.size - 1)


def linear_kernel(t: Tensor, a: float) -> tuple[Tensor, Tensor]:
    t = t.abs()
    return (1 - t).clamp(min=0), (1 + t) * (t < 1)


def cubic_kernel(t: Tensor, a: float) -> tuple[Tensor, Tensor]:
    """Keys' kernel, and the sum of the absolute terms of its polynomials, on which their rounding depends."""
    t = t.abs()
    inner, outer = ((a + 2) * t - (a + 3)) * t * t + 1, ((a * t - 5 * a) * t + 8 * a) * t - 4 * a
    rough_inner, rough_outer = (abs(a + 2) * t + abs(a + 3)) * t * t + 1, abs(a) * (((t + 5) * t + 8) * t + 4)
    return torch.where(t <= 1, inner, torch.where(t < 2, outer, 0.0)), torch.where(t <= 1, rough_inner, torch.where(t < 2, rough_outer, 0.0))


@lru_cache(maxsize=2048)
@torch.inference_mode(False)  # what is kept must be of use to gradients as well
def weights(way: Way, axis: Axis, margin: int = 0) -> Weights:
    """Neighbours and weights of linear and cubic modes; `margin` adds neighbours that a moved coordinate could reach."""
    x, delta = coordinates(way, axis)
    kernel, support = (cubic_kernel, 2) if way.mode == "cubic" else (linear_kernel, 1)
    squeeze = min(axis.scale, 1.0) if way.antialias else 1.0
    reach = math.ceil(support / squeeze) + margin
    i = torch.floor(x)[:, None] + torch.arange(1 - reach, reach + 1, dtype=torch.float64)
    inside = (i >= 0) & (i < axis.size)

    def at(c: Tensor) -> tuple[Tensor, Tensor]:
        w, rough = kernel((i - c[:, None]) * squeeze, way.a)
        if way.exclude:
            w, rough = w * inside, rough * inside
        if way.antialias or way.exclude:
            total = w.sum(1, keepdim=True)
            total = torch.where(total == 0, 1.0, total)
            rough = (rough + w.abs() * rough.sum(1, keepdim=True) / total.abs()) / total.abs()
            w = w / total
        return w, rough

    w, rough = at(x)
    moved = torch.zeros_like(w)
    if margin:
        ends = [(at(x + s * delta)[0] - w).abs() for s in (-1, 1)]
        moved = ends[0].maximum(ends[1]) + (20 * squeeze * delta * (squeeze * delta))[:, None]
    rounded = rough * (6 * U if way.mode == "cubic" else 4 * U if way.antialias or way.exclude else 0.0) + w.abs() * U * (delta > 0)[:, None]
    return Weights(i.long().clamp(0, axis.size - 1), w, moved, rounded)


# axes -------------------------------------------------------------------------------------------------------------------
def plan(a: Node, shape: Sequence[int], roi: Tensor | None, scales: Sequence[float] | None, sizes: Tensor | None) -> tuple[Way, dict[int, Axis]]:
    """The way, and the axes that change (or are cropped)."""
    old, rank = a.coordinate_transformation_mode is None, len(shape)
    mode: str = a.mode
    mode = {"bilinear": "linear", "trilinear": "linear"}.get(mode, mode)
    way = Way(mode, a.coordinate_transformation_mode or "asymmetric", "simple" if old else a.nearest_mode,
              a.cubic_coeff_a if a.cubic_coeff_a is not None else -0.75, bool(a.exclude_outside), bool(a.antialias))  # fmt: skip
    axes = [i % rank for i in a.axes] if a.axes is not None else list(range(rank))
    crop = way.coordinate == "tf_crop_and_resize" and roi is not None and roi.numel() > 0
    corners = roi.tolist() if crop and roi is not None else [0.0] * len(axes) + [1.0] * len(axes)
    targets = sizes.tolist() if sizes is not None and sizes.numel() else None
    factors = list(scales) if scales is not None else []
    if targets is not None:
        factors = [out / shape[i] if shape[i] else 1.0 for i, out in zip(axes, targets, strict=True)]
        if a.keep_aspect_ratio_policy in ("not_larger", "not_smaller"):
            factors = [(min if a.keep_aspect_ratio_policy == "not_larger" else max)(factors)] * len(axes)
            targets = [math.floor(f * shape[i] + 0.5) for i, f in zip(axes, factors, strict=True)]
    result = dict[int, Axis]()
    for k, (i, scale) in enumerate(zip(axes, factors, strict=True)):
        out = targets[k] if targets is not None else math.floor(shape[i] * scale)
        raw = float(out) if targets is not None and a.keep_aspect_ratio_policy in (None, "stretch") else shape[i] * scale
        width = float(out) if abs(raw - out) <= 1e-6 * raw else raw
        start, end = corners[k], corners[k + len(axes)]
        if (shape[i], scale, start, end) != (out, 1.0, 0.0, 1.0):
            result[i] = Axis(shape[i], out, scale, start, end, width, raw)
    return way, result


def along(v: Tensor, dim: int, at: Tensor, w: Tensor) -> Tensor:
    """Weighted sums of neighbours along one axis."""
    shape = [*w.shape, *[1] * (v.ndim - dim - 1)]
    return (neighbours(v, dim, at) * w.to(v.dtype).reshape(shape)).sum(dim + 1)


def neighbours(v: Tensor, dim: int, at: Tensor) -> Tensor:
    return v.index_select(dim, at.reshape(-1)).reshape([*v.shape[:dim], *at.shape, *v.shape[dim + 1 :]])


def interpolate(x: Tensor, way: Way, axes: dict[int, Axis]) -> Tensor:
    """Every axis in turn."""
    for dim, axis in axes.items():
        if way.mode == "nearest":
            x = x.index_select(dim, nearest(way, axis))
        else:
            taps = weights(way, axis)
            x = along(x, dim, taps.at, taps.value)
    return x


def beyond(way: Way, axes: dict[int, Axis], rank: int, shift: int = 0) -> Tensor | None:
    """Positions outside the original on some axis: tf_crop_and_resize gives them the extrapolation value.

    With shift 1 those that may be outside, with -1 those that are in every reading and wherever their coordinate really is.
    """
    if way.coordinate != "tf_crop_and_resize":
        return None
    result = torch.zeros([1] * rank, dtype=torch.bool)
    for dim, axis in axes.items():
        offs = []
        for r in readings(way, axis) if shift else [axis]:
            x, delta = coordinates(way, r)
            offs.append((x - shift * delta < 0) | (x + shift * delta > axis.size - 1))
        off = torch.stack(offs).all(0) if shift < 0 else torch.stack(offs).any(0)
        result = result | off.reshape([-1 if i == dim else 1 for i in range(rank)])
    return result


def saturated(v: Tensor, form: Format | None, dtype: torch.dtype) -> Tensor:
    """Integers are rounded to even and cut to their range, as in ONNX's own reference."""
    if form is None or form.is_float or form.kind == "complex":
        return v.to(dtype)
    if form.kind == "bool":
        return v != 0
    return v.round().clamp(form.lowest, min(form.largest, 2.0**63 - 1024)).to(dtype)
