"""QuantizeLinear, DequantizeLinear and DynamicQuantizeLinear: per tensor, per axis, per block, to every narrow type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specs import Draw, Rule, op, schema
from specs.formats import BY_NAME, BY_ONNX, FLOAT, INT32, UINT8, Format
from specs.numerics import EXACT, INF, Ball, Policy, Radii, add, between, quadrature, settle, undecidable, zeros_like
from specs.program import Node
from specs.rule import Dim, Operand
from specs.terms import ceil_div, known

WIDE = [BY_NAME[n] for n in ("float", "float16", "bfloat16", "int32")]
FLOATS = [BY_NAME[n] for n in ("float", "float16", "bfloat16")]
NARROW = [BY_NAME[n] for n in ("uint8", "int8", "uint16", "int16", "uint4", "int4", "float8e4m3fn", "float8e5m2", "float8e4m3fnuz",
                               "float8e5m2fnuz", "float4e2m1", "uint2", "int2")]  # fmt: skip


# meanings --------------------------------------------------------------------------------------------------------------
def _grain(a: Node, s: Tensor | None, x: Tensor) -> Any:
    """A scale or zero point laid out over x: one for all, one per index of an axis, or one per block along it."""
    if s is None or (s.numel() == 1 and s.ndim <= 1):
        return None if s is None else s.reshape(())
    axis = (1 if a.axis is None else a.axis) % x.ndim if x.ndim > 1 else 0
    if a.block_size:
        return s.repeat_interleave(a.block_size, axis).narrow(axis, 0, x.shape[axis])
    return s.reshape([-1 if i == axis else 1 for i in range(x.ndim)])


def to_grid(v: Tensor, form: Format, saturate: bool = True) -> Tensor:
    """A double rounded half-to-even to a narrow float format, as a double; beyond its range saturated, infinite or NaN."""
    _, exponent = torch.frexp(v)
    digits = round(1 / form.u).bit_length() - 1
    step = torch.ldexp(torch.ones_like(v), exponent - digits).clamp(min=form.tiny * 2 * form.u)
    y = (v / step).round() * step
    if saturate or form.name == "float4e2m1":
        return y.clamp(-form.largest, form.largest)
    beyond = torch.full_like(y, INF).copysign(y) if form.name == "float8e5m2" else torch.full_like(y, torch.nan)
    return torch.where(y.abs() > form.largest, beyond, y)


def _levels(a: Node, v: Tensor, zero: Any, form: Format) -> Tensor:
    """Real multiples of the scale to quantised values, in double or int64."""
    if form.is_float:
        v = v.double()
        return to_grid(v if zero is None else v + zero.double(), form, a.saturate is None or bool(a.saturate))
    y = v.double().round().clamp(-(2.0**20), 2.0**20).to(torch.int64)
    return (y if zero is None else y + zero).clamp(int(form.lowest), int(form.largest))


def _out_form(a: Node) -> Format:
    form = a.out_formats[0] or (BY_ONNX[a.output_dtype] if a.output_dtype else None)
    return form or (a.in_formats[2] if len(a.in_formats) > 2 else None) or UINT8


def _precision(a: Node) -> Format:
    """The type in which x is divided by its scale."""
    form = BY_ONNX[a.precision] if a.precision else a.in_formats[1]
    return form if form is not None and form.is_float and form.bits >= 16 else FLOAT


def _quotient(a: Node, x: Tensor, scale: Tensor) -> Tensor:
    dtype = a.torch(_precision(a))
    return x.to(dtype) / _grain(a, scale.to(dtype), x)


def quantize_meaning(a: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    form = _out_form(a)
    return _levels(a, _quotient(a, x, scale), _grain(a, zero, x), form).to(a.torch(form))


def dequantize_meaning(a: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    dtype = a.torch(a.out_formats[0] or BY_ONNX[a.output_dtype or 1])
    if not x.is_floating_point() and zero is not None:
        x, zero = x.to(torch.int64), zero.to(torch.int64)
    x = x.to(dtype) if zero is None else (x - _grain(a, zero, x)).to(dtype) if not x.is_floating_point() else x.to(dtype) - _grain(a, zero.to(dtype), x)
    return x * _grain(a, scale.to(dtype), x)


def dynamic(a: Node, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = (x.amin().clamp(max=0), x.amax().clamp(min=0)) if x.numel() else (x.new_zeros(()), x.new_zeros(()))
    scale = torch.where(high > low, high - low, torch.ones_like(low)) / 255
    zero = (-low / scale).clamp(0, 255).round()
    y = ((x / scale).round() + zero).clamp(0, 255)
    return y.to(torch.uint8), scale, zero.to(torch.uint8)


# numerics --------------------------------------------------------------------------------------------------------------
def _power_of_two(s: Tensor) -> Tensor:
    return torch.frexp(s)[0].abs() == 0.5


def _fits(form: Format | None, x: Tensor, into: Format) -> Tensor:
    """Where a value of one format is held by another without rounding."""
    if form is not None and form.is_float:
        exact = form.u >= into.u and form.largest <= into.largest
        return torch.full(x.shape, exact)
    return x.abs().double() * into.u <= 1


def _steps(a: Node, policy: Policy, ball: Ball, scale: Ball, form: Format) -> Any:
    """The quotient and its two radii, zero where it cannot be rounded: dividing an exact value by a power of two."""
    x, s, precision = ball.value.double(), _grain(a, scale.value.double(), ball.value), _precision(a)
    v, u = x / s, policy.u(precision)
    fits = _fits(a.in_formats[0], ball.value, precision)
    own = (v.abs() * (2.5 * u) + policy.eta(precision)).masked_fill(_power_of_two(s) & fits, 0.0)
    own = own + (v.abs() * u).masked_fill(fits, 0.0)
    radii = list[Tensor]()
    for i in (1, 2):
        e = own
        for ex, es in [(ball[i], None if scale[i] is None else _grain(a, scale[i], ball.value))]:
            if ex is not None:
                e = e + ex / s.abs() if i == 1 else torch.hypot(e, ex / s.abs())
            if es is not None:
                more = (v.abs() * es / (s.abs() - es)).masked_fill(es >= s.abs(), INF)
                e = e + more * (1 if ex is None else 1 + ex / (v.abs() * s.abs() + 1e-300)) if i == 1 else torch.hypot(e, more)
        radii.append(settle(e))
    return v, radii


def _swing(quantised: Any, y: Tensor, v: Tensor, e: Tensor) -> Tensor:
    """How far the quantised value moves when its argument moves by e: whole steps, nothing inside a step."""
    r = between(quantised(v - e).double(), quantised(v + e).double(), y)
    return r.nan_to_num(nan=INF, posinf=INF).masked_fill(v.isnan() | (e == INF), INF)


def quantize_error(a: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    ball, scale, zero = balls[0], balls[1], balls[2] if len(balls) > 2 else None
    assert ball is not None and scale is not None
    if zero is not None and zero.worst is not None and bool(zero.worst.any()):
        return undecidable(a, policy, balls, ys)
    form, offset = _out_form(a), None if zero is None else _grain(a, zero.value, ball.value)
    v, radii = _steps(a, policy, ball, scale, form)
    if not bool(radii[0].any()) and not bool(v.isnan().any()):
        return [EXACT]
    worst, spread = (_swing(lambda end: _levels(a, end, offset, form), ys[0], v, e) for e in (radii[0], 2 * radii[1]))
    return [(worst, spread / 2)]


def dequantize_error(a: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    ball, scale, zero = balls[0], balls[1], balls[2] if len(balls) > 2 else None
    assert ball is not None and scale is not None
    x, form = ball.value.double(), a.out_formats[0] or FLOAT
    s, y, u = _grain(a, scale.value.double(), x), ys[0].double(), policy.u(form)
    d = x if zero is None else x - _grain(a, zero.value.double(), x)
    exact = _power_of_two(s) & (d.abs() * form.u <= 1) if not _float(a) else _power_of_two(s) & _fits(a.in_formats[0], x, form)
    exact = exact & ((y.abs() >= policy.eta(form)) | (y == 0))
    wide = x.abs() if zero is None else x.abs() + _grain(a, zero.value.double(), x).abs()
    own = (y.abs() * u + policy.eta(form) + ((wide * s.abs()) * (2 * u)).masked_fill(wide * form.u <= 1, 0.0)).masked_fill(exact, 0.0)
    if all(b is None or b.worst is None for b in balls):
        return [EXACT if not bool(own.any()) else (own, own)]
    result = list[Tensor]()
    for i in (1, 2):
        parts = [own]
        eb = [None if b is None or b[i] is None else b[i] if k == 0 else _grain(a, b[i], x) for k, b in enumerate((ball, scale, zero))]
        parts += [e * s.abs() for e in (eb[0], eb[2]) if e is not None]
        if eb[1] is not None:
            parts.append((d.abs() + sum((e for e in (eb[0], eb[2]) if e is not None), zeros_like(x))) * eb[1])
        result.append(settle(add(*parts) if i == 1 else quadrature(*parts)).expand(y.shape))
    return [(result[0], result[1])]


def _float(a: Node) -> bool:
    form = a.in_formats[0]
    return form is not None and form.is_float


def dynamic_error(a: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    ball, (y, scale, zero) = balls[0], (t.double() for t in ys)
    assert ball is not None
    x, u = ball.value.double(), policy.u(FLOAT)
    if not x.numel():
        return undecidable(a, policy, balls, ys)
    out: list[list[Tensor]] = [[], [], []]
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    for times, e in ((1.0, ball.worst), (2.0, ball.spread)):  # a suspect lies beyond twice the spread
        e = zeros_like(x) if e is None else times * e
        el, eh = ((x + sign * e).amin().clamp(max=0) - low for sign in (-1, 1))
        hl, hh = ((x + sign * e).amax().clamp(min=0) - high for sign in (-1, 1))
        e_low, e_high = torch.maximum(el.abs(), eh.abs()), torch.maximum(hl.abs(), hh.abs())
        # Division by 255 as a product with its rounded inverse; a range of nothing has no defined scale.
        es = (e_low + e_high) / 255 + scale * (4 * u) + policy.eta(FLOAT)
        es = es.masked_fill((es >= scale) | (high <= low), INF)
        rate = es / (scale - es).clamp(min=1e-300)
        v = -low / scale
        ev = settle(v * (rate + 2.5 * u) + e_low / (scale - es).clamp(min=1e-300))
        ez = _swing(lambda end: end.clamp(0, 255).round(), zero, v, ev)
        w = x / scale
        ew = settle(w.abs() * (rate + 2.5 * u) + e / (scale - es).clamp(min=1e-300))
        ends = [((w - ew).round() + zero - ez).clamp(0, 255), ((w + ew).round() + zero + ez).clamp(0, 255)]
        ey = torch.maximum(*((end - y).abs() for end in ends)).nan_to_num(nan=INF).masked_fill(ew == INF, INF)
        for rows, r in zip(out, (ey, es, ez), strict=True):
            rows.append((r.expand(y.shape) if r is ey else r) / times)
    return [(rows[0], rows[1]) for rows in out]


# drawing ---------------------------------------------------------------------------------------------------------------
def _scales(g: Draw, x: Operand) -> tuple[list[Dim], dict[str, Any]]:
    """The shape of the scale and the attributes that say how it is laid out."""
    rank = len(x)
    kind = g.pick(["tensor", "axis", "blocked"]) if rank and not (known(*x) and 0 in x) else "tensor"
    if kind == "tensor" or rank < 2 or (kind == "blocked" and g.opset < 21):
        return [], {}
    axis = g.axis(rank)
    attrs = {} if axis == 1 and g.flag() else {"axis": axis}
    if kind == "axis":
        return [x[axis]], attrs
    block = g.int(1, 4)
    return [ceil_div(d, block) if i == axis % rank else d for i, d in enumerate(x)], {**attrs, "block_size": block}


def _scale(g: Draw, shape: Sequence[Dim], form: Format, variable: str) -> Operand:
    """Powers of two put values exactly on rounding edges and keep the results exact; others do neither."""
    form = g.type(variable, [form])
    if not shape and g.flag(0.4):
        return g.const(np.asarray(2.0 ** g.int(-3, 2)).astype(form.numpy))
    return g.given(shape, 0.02, 2.0, among=[form], role="weight")


def _zero(g: Draw, shape: Sequence[Dim], form: Format) -> Operand:
    if form.is_float:  # defined, but only zero is in use
        return g.given(shape, 0, 0, role="weight")
    low, high = max(int(form.lowest), -300), min(int(form.largest), 300)
    return g.given(shape, low // 2, high // 2 if form.kind == "int" else high, role="weight")


def _narrow(g: Draw, name: str, variable: str) -> Format:
    allowed = schema.formats(name, "", g.opset, variable)
    return g.type(variable, [g.pick([f for f in NARROW if f in allowed])])


def _positive_scale(a: Node, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> list[Tensor]:
    return [1e-3 - scale.abs()]


@op("QuantizeLinear", meaning=quantize_meaning, error=quantize_error, safe=_positive_scale, among=WIDE)
def quantize(g: Draw) -> Rule:
    """Every granularity and target; the target comes from the zero point, or from `output_dtype` (opset 21), or is uint8."""
    x = g.operand(rank=(0, 6))
    shape, attrs = _scales(g, x)
    form = x.format or FLOAT
    if g.opset < 19 or form is INT32:
        form = FLOAT if g.opset < 19 or g.opset >= 23 else form
    elif g.opset >= 23:
        form = g.pick([form, FLOAT])
    g.require(form is not INT32)
    scale = _scale(g, shape, form, "tensor(float)" if g.opset < 19 else "T1" if g.opset < 23 else "T2")
    variable = "T3" if g.opset >= 23 else "T2"
    if g.flag(0.4) and g.opset >= 21:
        out = _narrow(g, "QuantizeLinear", variable)
        g.skip()
        zero, attrs = None, {**attrs, "output_dtype": out.onnx}
    elif g.flag(0.15):
        g.type(variable, [UINT8])
        g.skip()
        zero, out = None, UINT8
    else:
        out = _narrow(g, "QuantizeLinear", variable)
        zero = _zero(g, shape, out)
    if out.is_float and g.flag(0.3):
        attrs["saturate"] = 0
    if g.opset >= 23 and g.flag(0.2):
        attrs["precision"] = g.pick(FLOATS).onnx
    return Rule([x, scale, zero], [x], attrs)


@op("DequantizeLinear", meaning=dequantize_meaning, error=dequantize_error)
def dequantize(g: Draw) -> Rule:
    variable = "T" if g.opset < 19 else "T1"
    allowed = schema.formats("DequantizeLinear", "", g.opset, variable)
    x = g.operand(rank=(0, 6), among=[f for f in (*NARROW, INT32) if f in allowed])
    shape, attrs = _scales(g, x)
    form = FLOAT if g.opset < 19 else g.pick(FLOATS)
    scale = _scale(g, shape, form, "tensor(float)" if g.opset < 19 else "T2")
    zero = None
    if x.format is INT32 or g.flag(0.3):
        g.skip()
    else:
        zero = _zero(g, shape, x.format or UINT8)
    if g.opset >= 23:
        out = g.type("T3", [form])
        if g.flag(0.3):
            attrs["output_dtype"] = out.onnx
    return Rule([x, scale, zero], [x], attrs)


def _some_range(a: Node, x: Tensor) -> list[Tensor]:
    return [1e-3 - (x.amax().clamp(min=0) - x.amin().clamp(max=0))] if x.numel() else []


@op("DynamicQuantizeLinear", meaning=dynamic, error=dynamic_error, safe=_some_range, together=True)
def dynamic_quantize(g: Draw) -> Rule:
    """Scale and zero point are chosen from the data, which makes every output depend on every input."""
    x = g.operand()
    return Rule([x], [x, [], []])
