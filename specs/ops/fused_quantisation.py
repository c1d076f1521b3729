"""ONNX Runtime's operators on quantised tensors: dequantise, compute, quantise again, in one.

Each is written as the real quotient that is rounded at the end; its error rule runs that formula on tracked values and asks
how many steps the rounding may then be off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.contrib import MICROSOFT, declare
from specs.formats import FLOAT, FLOAT16, INT8, INT16, UINT8, UINT16, Format
from specs.numerics import EXACT, INF, Ball, ErrorRule, Policy, Radii, between, undecidable, zeros_like
from specs.ops.quantisation import dequantize_error, dequantize_meaning, dynamic, dynamic_error, quantize_error, quantize_meaning
from specs.program import Node
from specs.rule import Operand
from specs.terms import broadcast
from specs.tracked import Rounding, Tracked, monotone, raw

BYTES = [UINT8, INT8]
SCALED = "{0}:T {0}_scale:tensor(float) {0}_zero:T?"

declare("QLinearAdd", " ".join([*(SCALED.format(n) for n in "AB"), "C_scale:tensor(float) C_zero:T?"]), "C:T", T=BYTES)
declare("QLinearMul", " ".join([*(SCALED.format(n) for n in "AB"), "C_scale:tensor(float) C_zero:T?"]), "C:T", T=BYTES)
declare("QLinearSigmoid", SCALED.format("X") + " Y_scale:tensor(float) Y_zero:T?", "Y:T", T=BYTES)
declare("QLinearLeakyRelu", SCALED.format("X") + " Y_scale:tensor(float) Y_zero:T?", "Y:T", {"alpha": 0.01}, T=BYTES)
declare("QLinearGlobalAveragePool", SCALED.format("X") + " Y_scale:tensor(float) Y_zero:T?", "Y:T", {"channels_last": 0}, T=BYTES)
declare("QLinearWhere", "condition:tensor(bool) X:T x_scale:tensor(float) x_zero:T Y:T y_scale:tensor(float) y_zero:T z_scale:tensor(float) z_zero:T", "Z:T",
        T=BYTES)  # fmt: skip
declare("QGemm", "A:TA a_scale:tensor(float) a_zero:TA B:TB b_scale:tensor(float) b_zero:TB C:tensor(int32)? y_scale:tensor(float)? y_zero:TY?", "Y:TY",
        {"alpha": 1.0, "transA": 0, "transB": 0}, TA=BYTES, TB=BYTES, TY=[*BYTES, FLOAT])  # fmt: skip
declare("MatMulIntegerToFloat", "A:T1 B:T2 a_scale:T3 b_scale:T3 a_zero:T1? b_zero:T2? bias:T3?", "Y:T3", T1=BYTES, T2=BYTES, T3=[FLOAT])
declare("QuantizeLinear", "x:T1 y_scale:T1 y_zero_point:T2?", "y:T2", {"axis": int}, T1=[FLOAT, FLOAT16], T2=[*BYTES, INT16, UINT16])
declare("DequantizeLinear", "x:T1 x_scale:T2 x_zero_point:T1?", "y:T2", {"axis": int}, T1=[*BYTES, INT16, UINT16], T2=[FLOAT, FLOAT16])
declare("DynamicQuantizeMatMul", "A:T1 B:T2 b_scale:T1 b_zero:T2? bias:T1?", "Y:T1", T1=[FLOAT], T2=BYTES)


# the scheme ------------------------------------------------------------------------------------------------------------
Real = Callable[..., Any]


def real(x: Any, scale: Any, zero: Any = None) -> Any:
    """What a quantised tensor stands for. The difference is exact in every implementation."""
    return times(minus(x, zero), scale)


def times(d: Any, scale: Any) -> Any:
    return d.to(scale.dtype) * scale if isinstance(d, Tensor) and isinstance(scale, Tensor) else d * scale


def minus(x: Any, zero: Any) -> Any:
    if isinstance(x, Tracked):
        return x if zero is None else Tracked(x.value - zero.double(), x.worst, x.spread, x.rounding)
    return x.to(torch.float64) if zero is None else x.to(torch.float64) - zero.to(torch.float64)


def _round(v: Tensor, zero: Any, form: Format) -> Tensor:
    y = v.double().round() + (0.0 if zero is None else zero.double())
    return y.clamp(form.lowest, form.largest)


def requantised(real: Real, scale: int) -> tuple[Real, ErrorRule]:
    """Meaning and error rule of quantise(real(...)) with the scale at that input and the zero point after it.

    Whether the zero point is added before or after rounding is not said, so that a tie is undecided even when it is exact.
    """

    def zero_of(args: Sequence[Any]) -> Any:
        return args[scale + 1] if len(args) > scale + 1 else None

    def meaning(a: Node, *args: Any) -> Tensor:
        v = real(a, *args) / args[scale]
        form = a.out_formats[0] or UINT8
        return _round(v, zero_of(args), form).to(form.torch)

    def error(a: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        args = _tracked(policy, balls)
        if args is None:
            return undecidable(a, policy, balls, ys)
        v, form, zero = real(a, *args) / args[scale], a.out_formats[0] or UINT8, zero_of(args)
        radii = [_swing(lambda t: _round(t, raw(zero), form), v.value, e, ys[0]) for e in (v.worst, v.spread)]
        return [(radii[0], radii[1]) if bool(radii[0].any()) else EXACT]

    return meaning, error


def _swing(rounded: Callable[[Tensor], Tensor], v: Tensor, e: Tensor, y: Tensor) -> Tensor:
    return between(rounded(v - e).double(), rounded(v + e).double(), y).nan_to_num(nan=INF, posinf=INF).masked_fill(torch.isinf(e) | torch.isnan(v), INF)


def _tracked(policy: Policy, balls: Sequence[Ball | None]) -> list[Any] | None:
    """Arguments with their radii, quantised ones included; None when a zero point or a mask is not exact."""
    rounding, args = Rounding.of(policy, FLOAT), list[Any]()
    for b in balls:
        if b is None:
            args.append(None)
        elif b.worst is None and not b.value.is_floating_point():
            args.append(b.value)
        elif b.value.dtype == torch.bool or (b.value.ndim == 0 and not b.value.is_floating_point()):
            if bool(b.worst.any()):  # type: ignore[union-attr]
                return None
            args.append(b.value)
        else:
            none = zeros_like(b.value)
            args.append(Tracked(b.value.double(), none if b.worst is None else b.worst, none if b.spread is None else b.spread, rounding))
    return args


def _traced(real: Real) -> ErrorRule:
    """The error rule of an operator with a float result."""

    def error(a: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        args = _tracked(policy, balls)
        if args is None:
            return undecidable(a, policy, balls, ys)
        y = real(a, *args)
        return [(y.worst, y.spread)]

    return error


# elementwise -----------------------------------------------------------------------------------------------------------
def _add(a: Node, x: Any, xs: Any, xz: Any, y: Any, ys: Any, yz: Any, *out: Any) -> Any:
    return _folded(x, xs, xz) + _folded(y, ys, yz)


def _folded(x: Any, scale: Any, zero: Any) -> Any:
    """For the bounds, the zero point is scaled by itself: it may be folded into the constant that is added at the end."""
    if not isinstance(scale, Tracked) or zero is None:
        return real(x, scale, zero)
    return minus(x, None) * scale - minus(zero, None) * scale


def _mul(a: Node, x: Any, xs: Any, xz: Any, y: Any, ys: Any, yz: Any, *out: Any) -> Any:
    return real(x, xs, xz) * real(y, ys, yz)


def _sigmoid(a: Node, x: Any, xs: Any, xz: Any, *out: Any) -> Any:
    return real(x, xs, xz).sigmoid()


def _leaky(a: Node, x: Any, xs: Any, xz: Any, *out: Any) -> Any:
    return monotone(real(x, xs, xz), lambda t: torch.where(t >= 0, t, t * a.alpha), 1, 0)


def _where(a: Node, condition: Tensor, x: Any, xs: Any, xz: Any, y: Any, ys: Any, yz: Any, *out: Any) -> Any:
    return torch.where(condition, real(x, xs, xz), real(y, ys, yz))


def _global_average(a: Node, x: Any, xs: Any, xz: Any, *out: Any) -> Any:
    d = minus(x, xz)
    dims = tuple(range(1, d.ndim - 1)) if a.channels_last else tuple(range(2, d.ndim))
    n = 1
    for k in dims:
        n *= d.shape[k]
    return times(d.sum(dims, keepdim=True), xs) / float(n)


# products --------------------------------------------------------------------------------------------------------------
def _integers(x: Any, y: Any) -> Any:
    """A product of small integers: exact however it is summed, for as long as it stays below 2^31."""
    if not isinstance(x, Tracked) and not isinstance(y, Tracked):
        return x @ y
    exact = [t if isinstance(t, Tracked) else Tracked(t, zeros_like(t), zeros_like(t), x.rounding if isinstance(x, Tracked) else y.rounding) for t in (x, y)]
    u, v = exact
    worst = u.value.abs() @ v.worst + u.worst @ (v.value.abs() + v.worst)
    return Tracked(u.value @ v.value, worst, worst, u.rounding)


def _scaled(product: Any, *scales: Any) -> Any:
    for s in scales:
        product = times(product, s)
    return product


def _gemm(a: Node, x: Any, xs: Any, xz: Any, w: Any, ws: Any, wz: Any, c: Any = None, *out: Any) -> Any:
    """C is in units of the two scales, before alpha."""
    u, v = minus(x, xz), minus(w, wz)
    u = u.transpose(0, 1) if a.transA else u
    v = v.transpose(0, 1) if a.transB else v
    product = _integers(u, v)
    if c is not None:
        product = product + c.to(torch.float64) if not isinstance(c, Tracked) else product + c
    product = _scaled(product, xs, ws)
    return product if a.alpha == 1 else product * a.alpha


def _gemm_meaning(a: Node, *args: Any) -> Tensor:
    if len(args) > 7 and args[7] is not None:
        return requantised(_gemm, 7)[0](a, *args)
    return _gemm(a, *args).to(a.out(0))


def _gemm_error(a: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    quantised = len(balls) > 7 and balls[7] is not None
    return (requantised(_gemm, 7)[1] if quantised else _traced(_gemm))(a, policy, balls, ys)


def _to_float(a: Node, x: Any, w: Any, xs: Any, ws: Any, xz: Any = None, wz: Any = None, bias: Any = None) -> Any:
    product = _scaled(_integers(minus(x, xz), minus(w, wz)), xs, ws)
    return product if bias is None else product + bias


def _dynamic_product(a: Node, x: Any, w: Any, ws: Any, wz: Any = None, bias: Any = None) -> Any:
    """x is quantised by its own range first; what that may shift passes through the product."""
    if isinstance(x, Tracked):
        parts = dynamic(a, x.value)
        radii = dynamic_error(a, x.rounding.policy, [Ball(x.value, x.worst, x.spread)], parts)
        level, scale, zero = (Tracked(y.double(), *e, x.rounding) for y, e in zip(parts, radii, strict=True))
        moved = Tracked(level.value - zero.value, level.worst + zero.worst, level.spread + zero.spread, x.rounding)
    else:
        level, scale, zero = dynamic(a, x)
        moved = minus(level, zero)
    y = _scaled(_integers(moved, minus(w, wz)), scale, ws)
    return y if bias is None else y + bias


# drawing ---------------------------------------------------------------------------------------------------------------
def _scale(g: Draw) -> Operand:
    return g.const(np.float32(2.0 ** g.int(-3, 1))) if g.flag(0.4) else g.given([], 0.02, 1.0, role="weight")


def parameters(g: Draw, form: Format | None) -> list[Operand | None]:
    """A scale and a zero point, which is left out now and then."""
    low, high = ((0, 255) if form is UINT8 else (-128, 127)) if g.flag(0.3) else ((100, 150) if form is UINT8 else (-20, 20))
    return [_scale(g), g.given([], low, high, role="weight")]


def _binary(g: Draw) -> Rule:
    x = g.operand(low=1)
    first = parameters(g, x.format)
    y = g.broadcastable(x)
    return Rule([x, *first, y, *parameters(g, x.format), *parameters(g, x.format)], [broadcast(x, y)])


def _unary(g: Draw, attrs: dict[str, Any] | None = None) -> Rule:
    x = g.operand()
    return Rule([x, *parameters(g, x.format), *parameters(g, x.format)], [x], attrs or {})


for _name, _formula in {"QLinearAdd": _add, "QLinearMul": _mul}.items():
    _meaning, _error = requantised(_formula, 6)
    op(_name, meaning=_meaning, error=_error, domain=MICROSOFT, weight=0.5)(_binary)

_meaning, _error = requantised(_sigmoid, 3)
op("QLinearSigmoid", meaning=_meaning, error=_error, domain=MICROSOFT, weight=0.5)(_unary)

_meaning, _error = requantised(_leaky, 3)


@op("QLinearLeakyRelu", meaning=_meaning, error=_error, domain=MICROSOFT, weight=0.5)
def leaky_relu(g: Draw) -> Rule:
    return _unary(g, {"alpha": g.pick([0.1, 0.01, 0.5, -0.2])})


_meaning, _error = requantised(_global_average, 3)


@op("QLinearGlobalAveragePool", meaning=_meaning, error=_error, domain=MICROSOFT, weight=0.5)
def global_average_pool(g: Draw) -> Rule:
    x = g.operand(rank=(3, 5))
    last = g.flag(0.3)
    y = [x[0], *[1] * (len(x) - 2), x[-1]] if last else [*x[:2], *[1] * (len(x) - 2)]
    return Rule([x, *parameters(g, x.format), *parameters(g, x.format)], [y], {"channels_last": 1} if last else {})


_meaning, _error = requantised(_where, 7)


@op("QLinearWhere", meaning=_meaning, error=_error, domain=MICROSOFT, weight=0.5)
def where(g: Draw) -> Rule:
    condition = g.operand()
    x = g.broadcastable(condition)
    first = parameters(g, x.format)
    y = g.broadcastable(broadcast(condition, x), within=True)
    return Rule([condition, x, *first, y, *parameters(g, x.format), *parameters(g, x.format)], [broadcast(condition, x, y)])


@op("QGemm", meaning=_gemm_meaning, error=_gemm_error, domain=MICROSOFT, weight=0.5)
def gemm(g: Draw) -> Rule:
    """The result is quantised, or a float where the output has no scale."""
    x = g.operand(rank=2)
    flip, turn = g.flag(0.3), g.flag(0.4)
    m, k = (x[1], x[0]) if flip else (x[0], x[1])
    first, n = parameters(g, x.format), g.size(1, 24)
    w = g.operand(like=[n, k] if turn else [k, n], role="weight")
    second = parameters(g, w.format)
    c = None
    if g.flag():
        c = g.given(g.pick([[n], [1, n], [m, n]]), -500, 500, role="weight")
    else:
        g.skip()
    attrs: dict[str, Any] = {**({"transA": 1} if flip else {}), **({"transB": 1} if turn else {})}
    if g.flag(0.2):
        attrs["alpha"] = 0.5
    if g.flag(0.3):
        g.type("TY", [FLOAT])
        return Rule([x, *first, w, *second, c], [[m, n]], attrs)
    form = g.type("TY", [x.format or UINT8])
    return Rule([x, *first, w, *second, c, *parameters(g, form)], [[m, n]], attrs)


@op("MatMulIntegerToFloat", meaning=_to_float, error=_traced(_to_float), domain=MICROSOFT, weight=0.5)
def to_float(g: Draw) -> Rule:
    x = g.operand(rank=(2, 4))
    n = g.size(1, 24)
    w = g.operand(like=[x[-1], n], role="weight")
    scales = [_scale(g), g.given([n], 0.02, 1.0, role="weight") if g.flag(0.4) else _scale(g)]
    zeros = [g.given([], 0, 100, role="weight"), g.given([], 0, 100, role="weight")]
    bias = g.operand(like=[n], role="weight") if g.flag(0.4) else None
    return Rule([x, w, *scales, *zeros, bias], [[*x[:-1], n]])


@op("DynamicQuantizeMatMul", meaning=_dynamic_product, error=_traced(_dynamic_product), domain=MICROSOFT, weight=0.5)
def dynamic_product(g: Draw) -> Rule:
    x = g.operand(rank=(2, 4))
    n = g.size(1, 24)
    w = g.operand(like=[x[-1], n], role="weight")
    scale = g.given([n], 0.02, 1.0, role="weight") if g.flag(0.4) else _scale(g)
    zero = g.given([], 0, 100, role="weight")
    bias = g.operand(like=[n], role="weight") if g.flag(0.4) else None
    return Rule([x, w, scale, zero, bias], [[*x[:-1], n]])


def _grained(g: Draw, x: Operand) -> tuple[list[Any], dict[str, Any]]:
    if len(x) < 2 or g.flag():
        return [], {}
    axis = g.axis(len(x))
    return [x[axis]], {"axis": axis}


@op("QuantizeLinear", meaning=quantize_meaning, error=quantize_error, domain=MICROSOFT, weight=0.5)
def quantize(g: Draw) -> Rule:
    x = g.operand(rank=(0, 4))
    shape, attrs = _grained(g, x)
    scale = g.given(shape, 0.02, 2.0, role="weight")
    form = g.type("T2")
    return Rule([x, scale, g.given(shape, max(form.lowest, -100), 100, role="weight")], [x], attrs)


@op("DequantizeLinear", meaning=dequantize_meaning, error=dequantize_error, domain=MICROSOFT, weight=0.5)
def dequantize(g: Draw) -> Rule:
    x = g.operand(rank=(0, 4))
    shape, attrs = _grained(g, x)
    form = x.format or UINT8
    return Rule([x, g.given(shape, 0.02, 2.0, role="weight"), g.given(shape, max(form.lowest, -100), 100, role="weight")], [x], attrs)
