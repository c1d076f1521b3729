"""Conversions between formats: Cast, CastLike, BitCast.

In the reference a float stays unrounded through a cast to a float of 16 bits or more, with the format's roundoff as radius,
because legal optimisers remove pairs of casts; 8- and 4-bit floats are rounded as the specification says, a step function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.formats import BOOL, BY_NAME, BY_ONNX, DOUBLE, FLOAT, FLOAT4E2M1, FLOAT8E5M2, FLOAT8E8M0, STRING, UINT64, Format
from specs.numerics import EXACT, INF, Ball, Policy, Radii, at_threshold, finite, undecidable, undecided, zeros_like
from specs.pointwise import SIGN, answer, as_float, undecided_stays
from specs.program import Node
from specs.rule import Misfit, Unsupported

EXACT_DOUBLE = 2**53
HALF_WAY = 2.0**63


# rounding to 8 and 4 bits ----------------------------------------------------------------------------------------------
def quantised(x: Tensor, form: Format, saturate: bool = True, round_mode: str = "up") -> Tensor:
    """Floats of double precision on the grid of an 8- or 4-bit format, by the tables of ONNX's Cast."""
    if form is FLOAT8E8M0:
        return _power_of_two(x, saturate, round_mode)
    _, exponent = torch.frexp(x)
    quantum = torch.ldexp(torch.full_like(x, 2 * form.u), exponent - 1).clamp(min=2 * form.u * form.tiny)
    y = torch.where(x.isfinite(), (x / quantum).round() * quantum, x)
    if saturate or form is FLOAT4E2M1:  # 4 bits have neither infinity nor NaN
        return y.clamp(form.lowest, form.largest)
    beyond = y.sign() * INF if form is FLOAT8E5M2 else torch.full_like(y, torch.nan)
    return torch.where(y.abs() > form.largest, beyond, y)


def _power_of_two(x: Tensor, saturate: bool, round_mode: str) -> Tensor:
    """The scale format: no sign, no zero. Negative numbers are unspecified; here their magnitude counts."""
    fraction, exponent = torch.frexp(x.abs())
    up = fraction > 0.5 if round_mode == "up" else fraction >= 0.75 if round_mode == "nearest" else torch.zeros_like(fraction, dtype=torch.bool)
    y = torch.ldexp(torch.ones_like(fraction), exponent - 1 + up)
    low, high = FLOAT8E8M0.tiny, FLOAT8E8M0.largest
    if saturate:
        y = torch.where(x.isinf(), high, torch.where(x == 0, low, y.clamp(low, high)))
    else:
        y = torch.where(x.isfinite() & (x != 0) & (y >= low) & (y <= high), y, torch.nan)
    return torch.where(x.isnan(), x, y)


# conversion ------------------------------------------------------------------------------------------------------------
def _target(a: Node) -> Format:
    """The format asked for; the attribute is a name in opsets before 6."""
    form = a.out_formats[0]
    if form is None and a.to is not None:
        form = BY_NAME.get(a.to.lower()) if isinstance(a.to, str) else BY_ONNX.get(a.to)
    if form is None:
        raise Unsupported(f"{a.op.name}: the target type is not known")
    return form


def _cast(a: Node, x: Any, like: Any = None) -> Any:
    saturate = a.saturate is None or bool(a.saturate)
    return convert(x, a.in_formats[0], _target(a), a.promote, saturate, a.round_mode or "up")


def convert(x: Any, source: Format | None, target: Format, promote: torch.dtype | None, saturate: bool = True, round_mode: str = "up") -> Any:
    """A value of one format as another, in the types of this run."""
    if isinstance(x, np.ndarray):
        return x if target is STRING else _parsed(x, target, promote, saturate, round_mode)
    if target is STRING:
        return _text(x, source)
    if target is BOOL:
        return (x.float() if x.dtype.itemsize == 1 and x.is_floating_point() else x) != 0
    if target.is_float:
        if target.bits > 8:
            return as_float(x, source, promote or target.torch)
        wide = as_float(x, source, torch.float64)
        return quantised(wide, target, saturate, round_mode).to(promote or target.torch)
    if x.is_floating_point():
        x = x.double()
        if target.bits < 8:  # rounded to nearest even by ONNX's page on 4-bit integers, where wider ones truncate
            x = x.round().to(torch.int64)
        elif target is UINT64:
            x = torch.where(x < HALF_WAY, x.to(torch.int64), (x - HALF_WAY).to(torch.int64) ^ SIGN)
        else:
            x = x.to(torch.int64)  # out of range is undefined; what happens then must only be harmless
    return x.to(target.torch)


def _parsed(x: np.ndarray, target: Format, promote: torch.dtype | None, saturate: bool, round_mode: str) -> Tensor:
    """Numbers from text. Integers are read exactly where they are written as such."""
    if target.is_integer:
        numbers = [int(s) if s.strip().lstrip("+-").isdigit() else int(float(s)) for s in x.reshape(-1)]
        wrapped = [(n + 2**63) % 2**64 - 2**63 for n in numbers]
        return torch.tensor(wrapped, dtype=torch.int64).reshape(x.shape).to(target.torch)
    wide = torch.tensor([float(s) for s in x.reshape(-1)], dtype=torch.float64).reshape(x.shape)
    return convert(wide, DOUBLE, target, promote, saturate, round_mode)


def _text(x: Tensor, source: Format | None) -> np.ndarray:
    """Plain representation: integers in full, floats as the shortest text that reads back."""
    if x.is_floating_point():
        native = np.float16 if source is not None and source.name == "float16" else np.float64 if source in (None, DOUBLE) else np.float32
        texts = [np.format_float_positional(native(v), unique=True, trim="0") for v in x.double().reshape(-1).tolist()]
    else:
        texts = [str(v % 2**64 if source is UINT64 else v) for v in x.reshape(-1).tolist()]
    return np.array(texts, dtype=object).reshape(tuple(x.shape))


# radii -----------------------------------------------------------------------------------------------------------------
def _cast_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    ball, y = balls[0], ys[0]
    assert ball is not None
    source, target = node.in_formats[0], _target(node)
    if not isinstance(y, Tensor):  # texts of floats differ between implementations
        return [EXACT] if ball.worst is None and source is not None and not source.is_float else undecidable(node, policy, balls, ys)
    if not isinstance(ball.value, Tensor):
        return answer(None, None, y, y.abs() * policy.u(target) + policy.eta(target) if target.is_float else None)
    if source is None:
        return undecidable(node, policy, balls, ys)
    if target.is_float:
        return (_to_wide if target.bits > 8 else _to_grid)(node, policy, ball, y, source, target)
    if target is BOOL:
        return _to_bool(ball, y)
    return _float_to_integer(ball, y, target) if source.is_float else _integer_to_integer(ball, y, source, target)


def _to_wide(node: Any, policy: Policy, ball: Ball, y: Tensor, source: Format, target: Format) -> Sequence[Radii]:
    """u |x| where precision is lost, eta where range is lost; a representable exact operand stays exact."""
    own = None
    if source.kind == "bool":
        return answer(ball.worst, ball.spread, y)
    if target.u > source.u or source.is_integer:
        own = y.abs() * policy.u(target) + (y != 0) * policy.eta(target)
    elif target.tiny > source.tiny:
        own = (y != 0) * policy.eta(target)
    if own is not None and ball.worst is None:
        fits = (y.to(target.torch).double() == y) & ((y.abs() <= EXACT_DOUBLE) | source.is_float)
        own = None if bool(fits.all()) else own.masked_fill(fits, 0.0)
    return answer(ball.worst, ball.spread, y, own)


def _to_grid(node: Any, policy: Policy, ball: Ball, y: Tensor, source: Format, target: Format) -> Sequence[Radii]:
    """A monotone step function at x - e and x + e. A double may pass through float32 on its way, which decides ties."""
    x = as_float(ball.value, source, torch.float64)
    slack = x.abs() * FLOAT.u if source is DOUBLE or source.bits > 32 else None
    bad = _unspecified(node, x, target)
    if ball.worst is None and slack is None:
        return answer(None, None, y, zeros_like(y).masked_fill(bad, INF) if bool(bad.any()) else None)
    saturate = node.saturate is None or bool(node.saturate)

    def swing(e: Any) -> Tensor:
        reach: Any = slack if e is None else e if slack is None else e + slack
        reach = finite(reach)
        low, high = (quantised(v, target, saturate, node.round_mode or "up") for v in (x - reach, x + reach))
        worst = (low - y).abs().maximum((high - y).abs()).nan_to_num(nan=INF)
        if target is FLOAT8E8M0:
            bad.logical_or_(x - reach < 0)
        return undecided_stays(worst.masked_fill(bad, INF), e)

    return answer(swing(ball.worst), at_threshold(swing, ball.spread), y)


def _unspecified(node: Any, x: Tensor, target: Format) -> Tensor:
    """Scales of negative or very small numbers, and NaN in 4 bits."""
    if target is FLOAT8E8M0:
        return (x < FLOAT.tiny) | x.isnan()
    return x.isnan() if target is FLOAT4E2M1 else torch.zeros_like(x, dtype=torch.bool)


def _to_bool(ball: Ball, y: Tensor) -> Sequence[Radii]:
    """Undecided where the operand may be zero or not."""
    if ball.worst is None:
        return [EXACT]
    size = ball.value.double().abs()
    worst, spread = (zeros_like(y).masked_fill((size <= e) & (e > 0), INF) for e in (ball.worst, 2 * ball.spread))
    return [(worst, spread)]


def _float_to_integer(ball: Ball, y: Tensor, target: Format) -> Sequence[Radii]:
    """Truncation at both ends; undefined as soon as one of them is out of range.

    Below 8 bits ONNX's text rounds to nearest even, its reference truncates, ONNX Runtime rounds halves away: all are taken,
    which agree below one half.
    """
    x, narrow = ball.value, target.bits < 8

    def all_ways(v: Tensor) -> Tensor:
        away = (v.abs() + 0.5).floor().copysign(v)
        return (v.trunc() - y).abs().maximum((v.round() - y).abs()).maximum((away - y).abs())

    def inside(v: Tensor) -> Tensor:
        if narrow:
            return (v >= target.lowest) & (v <= target.largest)
        return (v > float(target.lowest) - 1) & (v < float(target.largest) + 1)

    if ball.worst is None:
        bad, own = ~inside(x), None
        if narrow and bool((x != x.round()).any()):
            own = all_ways(x.double())
        if bool(bad.any()):
            own = zeros_like(y).masked_fill(bad, INF) if own is None else own.masked_fill(bad, INF)
        return answer(None, None, y, own)

    def swing(e: Tensor) -> Tensor:
        e = finite(e)
        low, high = x - e, x + e
        if narrow:
            reach = all_ways(low).maximum(all_ways(high))
        else:
            reach = (low.trunc() - x.trunc()).abs().maximum((high.trunc() - x.trunc()).abs())
        return reach.masked_fill(~(inside(low) & inside(high)), INF)

    return answer(swing(ball.worst), at_threshold(swing, ball.spread), y)


def _integer_to_integer(ball: Ball, y: Tensor, source: Format, target: Format) -> Sequence[Radii]:
    """High bits are dropped; an operand that is not exact keeps its radius where nothing can be dropped."""
    if ball.worst is None:
        return [EXACT]
    if source is UINT64 or target is UINT64 or source is BOOL:
        worst, spread = (zeros_like(y).masked_fill(~(e == 0), INF) for e in (ball.worst, ball.spread))
        return [(worst, spread)]
    x = ball.value.double()
    wraps = ((x + ball.worst > target.largest) | (x - ball.worst < target.lowest)) & ~(ball.worst == 0)
    return [(ball.worst.masked_fill(wraps, INF), ball.spread.masked_fill(wraps, INF))]


# domain, derivatives, drawing ------------------------------------------------------------------------------------------
def _cast_domain(a: Node, x: Any, like: Any = None) -> list[Tensor]:
    """Floats inside the range of an integer or non-saturating target, positive for scales."""
    target = _target(a)
    if not isinstance(x, Tensor) or not x.is_floating_point() or target is BOOL:
        return []
    if target.is_integer:
        share = 1.0 if target.bits <= 16 else 0.5  # the ends of wide integers are not floats
        return [x - target.largest * share, target.lowest * share - x]
    if target is FLOAT8E8M0:
        return [2.0**-100 - x]
    return [x.abs() - target.largest] if target.is_float and target.bits <= 8 and a.saturate == 0 else []


def _cast_proxy(a: Node, x: Any, like: Any = None) -> Any:
    """The identity between floats; integers stop the gradient."""
    target = _target(a)
    return x.to(a.torch(target)) if isinstance(x, Tensor) and x.is_floating_point() and target.is_float else _cast(a, x, like)


def _numeric(g: Draw, variable: str) -> list[Format]:
    from specs.schema import formats

    return [f for f in formats(g.op.name, "", g.opset, variable) if f.kind not in ("string", "complex")]


def _small(g: Draw, variable: str) -> list[Format]:
    """Formats that only casts and moves know."""
    return [f for f in _numeric(g, variable) if (f.is_float and f.bits <= 8) or (f.is_integer and f.bits < 8)]


def _source(g: Draw) -> Any:
    small = g.opset >= 19 and g.flag(0.2)
    x = g.operand(low=0, among=_small(g, "T1") if small else _numeric(g, "T1"), role="weight" if small and g.flag(0.3) else "data")
    if x.format is FLOAT8E8M0 and x.ref is None:  # fresh scales would hold negative numbers
        raise Misfit(f"{g.op.name}: scales come from other nodes only")
    return x


def _options(g: Draw, target: Format) -> dict[str, Any]:
    """saturate matters for 8-bit floats only, round_mode for scales only; elsewhere they are given now and then all the same."""
    attrs: dict[str, Any] = {}
    small = target.is_float and target.bits <= 8
    if g.opset >= 19 and g.flag(0.6 if small else 0.04):
        attrs["saturate"] = g.pick([1, 0])
    if g.opset >= 24 and g.flag(0.8 if target is FLOAT8E8M0 else 0.2):
        attrs["round_mode"] = g.pick(["up", "down", "nearest"])
    return attrs


@op("Cast", meaning=_cast, error=_cast_error, safe=_cast_domain, proxy=_cast_proxy, weight=2.0)
def cast(g: Draw) -> Rule:
    x = _source(g)
    target = g.type("T2", among=_small(g, "T2") if g.opset >= 19 and g.flag(0.45) else _numeric(g, "T2"))
    return Rule([x], [x], {"to": target.onnx, **_options(g, target)})


@op("CastLike", meaning=_cast, error=_cast_error, safe=_cast_domain, proxy=_cast_proxy, since=15)
def cast_like(g: Draw) -> Rule:
    x = _source(g)
    like = g.operand(among=_numeric(g, "T2"))
    if like.format is FLOAT8E8M0 and like.ref is None:
        raise Misfit("CastLike: scales come from other nodes only")
    return Rule([x, like], [x], _options(g, g.type("T2")))


# BitCast ---------------------------------------------------------------------------------------------------------------
_VIEWS = {4: torch.uint8, 8: torch.uint8, 16: torch.int16, 32: torch.int32, 64: torch.int64}
_FOUR_BITS = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


def _width(form: Format) -> int:
    return 8 if form is BOOL else form.bits


def _bits(x: Tensor, form: Format) -> Tensor:
    """The bit pattern in an int64."""
    if form is FLOAT4E2M1:
        table = torch.tensor([0, 1, 2, 3, 4, 4, 5, 5, 6, 6, 6, 6, 7])
        return table[(x.abs() * 2).long()] | (torch.signbit(x).long() << 3)
    if form is FLOAT8E8M0:
        return torch.where(x.isnan(), 255, torch.frexp(x)[1].long() + 126)
    if form.is_float or form.kind == "complex":
        x = x.to(form.torch).contiguous().view(_VIEWS[form.bits])
    return x.long() & ((1 << form.bits) - 1) if form.bits < 64 and form is not BOOL else x.long()


def _from_bits(bits: Tensor, form: Format, promote: torch.dtype | None) -> Tensor:
    if form is BOOL:
        return bits != 0
    if form is FLOAT4E2M1:
        value = torch.tensor(_FOUR_BITS)[bits]
    elif form is FLOAT8E8M0:
        value = torch.where(bits == 255, torch.nan, torch.ldexp(torch.ones(bits.shape, dtype=torch.float32), (bits - 127).int()))
    elif form.is_float or form.kind == "complex":
        value = bits.to(_VIEWS[form.bits]).view(form.torch)
    else:
        sign = 1 << (form.bits - 1)
        value = (bits ^ sign) - sign if form.kind == "int" and form.bits < 64 else bits
        return value.to(form.torch)
    return value.to(promote) if promote is not None and form.is_float else value.to(form.torch)


def _bit_cast(a: Node, x: Tensor) -> Tensor:
    source, target = a.in_formats[0], _target(a)
    if source is None or _width(source) != _width(target):
        raise Unsupported(f"BitCast: {source} and {target} differ in width")
    return x if source is target else _from_bits(_bits(x, source), target, a.promote)


def _bit_cast_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Bits of a rounded number are anybody's."""
    ball, y = balls[0], ys[0]
    assert ball is not None
    if ball.worst is None:
        return [EXACT]
    if node.in_formats[0] is _target(node):
        return [(ball.worst, ball.spread)]
    decided = (ball.worst == 0) & (ball.value != 0)  # a computed zero may have either sign
    r = undecided(y).masked_fill(decided, 0.0)
    return [(r, r)]


@op("BitCast", meaning=_bit_cast, error=_bit_cast_error, since=26)
def bit_cast(g: Draw) -> Rule:
    """Integers become floats only from patterns of ordinary numbers; everything else from any value."""
    width = g.pick([32, 64, 16, 8])
    same = [f for f in _numeric(g, "T1") if _width(f) == width and f not in (BOOL, FLOAT8E8M0)]
    if width > 8 and g.flag(0.4):
        target = g.type("T2", among=[f for f in same if f.is_float])
        one = int(np.asarray(1.0, target.numpy).view(f"u{width // 8}"))
        step = int(np.asarray(2.0, target.numpy).view(f"u{width // 8}")) - one
        x = g.given(g.sizes(g.int(0, 4)), one - 2 * step, one + 2 * step, among=[f for f in same if f.is_integer])
    else:
        x = g.operand(low=0, among=same)
        target = g.type("T2", among=[f for f in same if f.is_integer])
    return Rule([x], [x], {"to": target.onnx})
