"""Resize in all its modes, and the old Upsample: separable interpolation, one axis after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.formats import DOUBLE, FLOAT, FLOAT16, FLOATS
from specs.numerics import COVERED, EXACT, INF, TYPICAL, Ball, Policy, Radii, finite, gamma, settle, undecidable, zeros_like
from specs.operator import meaning_only
from specs.ops.interpolation import Axis, U, Way, along, beyond, interpolate, nearest, neighbours, plan, readings, saturated, weights
from specs.ops.shape import any_type
from specs.program import Node
from specs.rule import Dim
from specs.terms import floor_div, known


# meaning ---------------------------------------------------------------------------------------------------------------
@any_type
def _resize(a: Node, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
    if a.version < 11:  # the only other input is called scales
        roi, scales = None, roi
    way, axes = plan(a, x.shape, roi, scales.tolist() if scales is not None and scales.numel() else None, sizes)
    return _resized(a, x, way, axes)


def _outside(a: Node, x: Tensor) -> Tensor:
    """The value beyond the original; the nearest one where an integer format does not hold it."""
    form = a.in_formats[0]
    if form is None or not form.is_integer:
        return torch.tensor(a.extrapolation_value, dtype=x.dtype)
    return saturated(torch.tensor(a.extrapolation_value, dtype=torch.float64), form, x.dtype)


def _resized(a: Node, x: Tensor, way: Way, axes: dict[int, Axis]) -> Tensor:
    off = beyond(way, axes, x.ndim)
    if way.mode == "nearest":
        y = interpolate(x, way, axes)
        return y if off is None else torch.where(off, _outside(a, x), y)
    wide = x if x.dtype in (torch.float32, torch.float64) or x.is_complex() else x.float() if x.is_floating_point() else x.double()
    y = interpolate(wide, way, axes)
    if off is not None:
        y = torch.where(off, a.extrapolation_value, y)
    return saturated(y, a.in_formats[0] if not x.is_floating_point() else None, x.dtype)


# error -----------------------------------------------------------------------------------------------------------------
def _nearest_step(way: Way, axis: Axis, dim: int, v: Tensor, radii: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Every neighbour that an uncertain coordinate may take."""
    at = nearest(way, axis)
    ways = [way._replace(nearest=m) for m in ("floor", "ceil")] if way.nearest == "simple" and axis.scale < 1 else [way]
    others = [o for r in readings(way, axis) for w in ways for s in (-1, 0, 1) if not torch.equal(o := nearest(w, r, s), at)]
    y, result = v.index_select(dim, at), [r.index_select(dim, at) for r in radii]
    for o in others:
        far = (v.index_select(dim, o) - y).abs().double().nan_to_num(nan=INF)
        result = [e.maximum(far + r.index_select(dim, o)) for e, r in zip(result, radii, strict=True)]
    return y, result


def _weighted_step(way: Way, axis: Axis, dim: int, v: Tensor, radii: list[Tensor], size: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    """Inherited radii through the weights, plus what moved and rounded weights change."""
    results = []
    for r in readings(way, axis):
        taps = weights(way, r, 1)
        y = along(v, dim, taps.at, taps.value)
        apart = (neighbours(v, dim, taps.at) - y.unsqueeze(dim + 1)).abs()
        moved = (apart * taps.moved.reshape([*taps.moved.shape, *[1] * (v.ndim - dim - 1)])).sum(dim + 1)
        own = moved + along(size, dim, taps.at, taps.rounded)
        worst = along(radii[0], dim, taps.at, taps.value.abs() + taps.moved + taps.rounded) + own
        spread = (along(radii[1].square(), dim, taps.at, taps.value.square()) + (own * COVERED).square()).sqrt()
        results.append((y, [worst, spread], along(size, dim, taps.at, taps.value.abs())))
    y, radii, size = results[0]
    for other, more, larger in results[1:]:
        size = size.maximum(larger)
        radii = [e.maximum(f + (other - y).abs()) for e, f in zip(radii, more, strict=True)]
    return y, radii, size


def _resize_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Coordinates are uncertain by a few float roundings unless the scale is dyadic; see the steps."""
    values = [None if b is None else b.value for b in balls]
    x, form = balls[0], node.out_formats[0]
    assert x is not None
    if any(b is not None and b.worst is not None for b in balls[1:]) or (form is not None and form.kind in ("string", "complex")):
        return [EXACT] if form is not None and form.kind == "string" else undecidable(node, policy, balls, ys)
    way, axes = _planned(node, values)
    if way.mode != "nearest" and (form is None or form.kind == "bool"):
        return undecidable(node, policy, balls, ys)
    off = [beyond(way, axes, x.value.ndim, s) for s in (-1, 0, 1)]
    if way.mode == "nearest" and x.worst is None and off[0] is None and _certain(way, axes):
        return [EXACT]
    v = x.value.double()
    radii = [finite(r) if r is not None else zeros_like(v) for r in (x.worst, x.spread)]
    size, terms = v.abs(), 0
    for dim, axis in axes.items():
        if way.mode == "nearest":
            v, radii = _nearest_step(way, axis, dim, v, radii)
        else:
            v, radii, size = _weighted_step(way, axis, dim, v, radii, size)
            terms += weights(way, axis).at.shape[1] + 2
    if way.mode != "nearest" and axes and form is not None:
        u, acc, eta = (policy.u(form), policy.accumulation(form), policy.eta(form)) if form.is_float else (U, U, 0.0)
        radii[0] = radii[0] + size * (gamma(terms, acc) + u) + eta * terms
        radii[1] = (radii[1].square() + (size * (TYPICAL * (math.sqrt(terms) * acc + u)) + eta).square()).sqrt()
    less, now, more = off
    if less is not None and now is not None and more is not None:
        value = float(node.extrapolation_value)
        rounding = policy.u(form) if way.mode == "nearest" else gamma(terms, policy.accumulation(form))  # axis by axis it is averaged with itself
        radii = [torch.where(more & ~less, e + (v - value).abs(), torch.where(now, abs(value) * rounding, e)) for e in radii]
        v = torch.where(now, value, v)
    if form is not None and form.is_integer and way.mode != "nearest":
        fits = [(v - e >= form.lowest) & (v + e <= form.largest) for e in radii]
        ends = [((v + e).ceil() - ys[0]).maximum(ys[0] - (v - e).floor()) for e in radii]  # any rounding of the cast is legal
        radii = [e.masked_fill(~ok, INF) for e, ok in zip(ends, fits, strict=True)]
    return [(settle(radii[0]), settle(radii[1]))]


def _certain(way: Way, axes: dict[int, Axis]) -> bool:
    """Whether every coordinate has one nearest neighbour."""
    return all(
        len(readings(way, axis)) == 1 and way.nearest != "simple" and all(torch.equal(nearest(way, axis, s), nearest(way, axis)) for s in (-1, 1))
        for axis in axes.values()
    )


def _planned(node: Any, values: Sequence[Any]) -> tuple[Way, dict[int, Axis]]:
    if node.op.name == "Upsample":
        return plan(node, values[0].shape, None, _upsample_scales(node, *values), None)
    args = [*values, None, None, None][1:4]
    roi, scales, sizes = args if node.version >= 11 else (None, args[0], None)
    return plan(node, values[0].shape, roi, scales.tolist() if scales is not None and scales.numel() else None, sizes)


# drawing ---------------------------------------------------------------------------------------------------------------
RATIOS = [(2, 1), (1, 2), (3, 1), (3, 2), (1, 1), (3, 4), (2, 3), (1, 3), (5, 4), (4, 1), (5, 3), (7, 5)]


def _scale(p: int, q: int) -> np.float32:
    """p / q in float, rounded up so that size * scale reaches every whole number it should."""
    scale = np.float32(p / q)
    return np.nextafter(scale, np.float32(np.inf)) if float(scale) < p / q else scale


def _resized_axes(g: Draw, rank: int) -> list[int]:
    """The spatial axes most of the time."""
    if rank >= 3 and g.flag(0.75):
        return list(range(2, rank)) if g.flag(0.8) else list(range(1, rank - 1))
    return list(range(rank)) if rank < 3 else sorted(i % rank for i in g.axes(rank, 1))


@op("Resize", meaning=_resize, error=_resize_error, weight=1.5)
def resize(g: Draw) -> Rule:
    """Interpolation to given sizes or by given scales."""
    mode = g.pick(["nearest", "linear", "cubic", "linear"])
    kinds = ["half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel", "tf_crop_and_resize"] + (["half_pixel_symmetric"] if g.opset >= 19 else [])
    kind = g.pick(kinds)
    attrs: dict[str, Any] = {} if mode == "nearest" else {"mode": mode}
    if kind != "half_pixel":
        attrs["coordinate_transformation_mode"] = kind
    if mode == "nearest" and g.flag(0.7):
        attrs["nearest_mode"] = g.pick(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
    if mode != "nearest" and kind != "tf_crop_and_resize" and g.opset >= 18 and g.flag(0.25):
        attrs["antialias"] = 1
    if mode == "cubic" and g.flag(0.4):
        attrs["cubic_coeff_a"] = g.pick([-0.5, -0.75, -1.0, -0.25])
    if (mode == "cubic" or "antialias" in attrs) and g.flag(0.25):
        attrs["exclude_outside"] = 1
    x = g.operand(rank=(1, 5), among=None if mode == "nearest" else FLOATS)
    changed = _resized_axes(g, x.rank)
    listed = g.permutation(len(changed)) if g.opset >= 18 and g.flag(0.4) else None
    axes = list(range(x.rank)) if listed is None else [changed[i] for i in listed]
    if listed is not None:
        attrs["axes"] = [i - x.rank if g.flag(0.3) else i for i in axes]
    roi = None
    if kind == "tf_crop_and_resize":
        form = g.type("T2", [FLOAT] if g.flag(0.9) else [FLOAT16, DOUBLE])
        odd = form is not FLOAT16  # coordinates computed in half precision would only show that
        regions = [
            (g.pick([0.0, 0.25, 0.1 if odd else 0.125, -0.25]), g.pick([1.0, 0.75, 0.9 if odd else 0.875, 1.25])) if i in changed else (0.0, 1.0) for i in axes
        ]
        roi = g.const(np.array([s for s, _ in regions] + [e for _, e in regions], dtype=form.numpy))
        if g.flag():
            attrs["extrapolation_value"] = g.pick([0.5, 10.0] if x.format is not None and x.format.kind == "uint" else [0.5, -1.0, 10.0])
    else:
        g.skip()
    ratios = [g.pick(RATIOS) if i in changed else (1, 1) for i in axes]
    outs = [floor_div(x[i] * p, q) for i, (p, q) in zip(axes, ratios, strict=True)]
    scales = sizes = None
    if kind != "tf_crop_and_resize" and g.flag():
        scales = g.const(np.array([_scale(p, q) for p, q in ratios], dtype=np.float32))
    else:
        g.skip()
        outs = [g.size(1, 2 * x[i] + 2) if i in changed and g.flag() else out for i, out in zip(axes, outs, strict=True)]
        sizes = g.const(outs)
        if g.opset >= 18 and known(*x) and g.flag(0.25):
            policy = g.pick(["not_larger", "not_smaller"])
            attrs["keep_aspect_ratio_policy"] = policy
            outs = _kept_aspect(g, policy, [x[i] for i in axes], outs)
    result: list[Dim] = list(x)
    for i, out in zip(axes, outs, strict=True):
        g.require(out >= 1)
        result[i] = out
    return Rule([x, roi, scales, sizes], [result], attrs)


def _kept_aspect(g: Draw, policy: str, lengths: Sequence[int], targets: Sequence[int]) -> list[int]:
    """The sizes a policy really gives; half-way cases, where float and double would part, are drawn again."""
    pairs = list(zip(targets, lengths, strict=True))
    p, q = (min if policy == "not_larger" else max)(pairs, key=lambda pair: pair[0] / pair[1])
    g.require(all((2 * p * n + q) % (2 * q) for n in lengths))
    return [(2 * p * n + q) // (2 * q) for n in lengths]


# Upsample --------------------------------------------------------------------------------------------------------------
def _upsample_scales(a: Any, x: Tensor, scales: Tensor | None = None) -> list[float]:
    if scales is not None:
        return scales.tolist()
    return a.scales if a.scales is not None else [1.0, 1.0, a.height_scale, a.width_scale]


@any_type
def _upsample(a: Node, x: Tensor, scales: Tensor | None = None) -> Tensor:
    return _resized(a, x, *plan(a, x.shape, None, _upsample_scales(a, x, scales), None))


meaning_only("Upsample", _upsample, error=_resize_error)
