"""The error rules of what a formula is made of: sums, products, contractions, softmax, moves. `FUNCTIONS` is the list of what is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from specs.contraction import several
from specs.exponentials import STEPS, softmax_moved
from specs.numerics import COVERED, INF, TYPICAL, finite, gamma
from specs.tracked import CONSTANTS, STEP, Rounding, Tracked, made, monotone, roundoff


def _bounded(a: Tracked, b: Tracked) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Their radii without infinities."""
    if a.sure and b.sure:
        return a.worst, b.worst, a.spread, b.spread
    return finite(a.worst), finite(b.worst), finite(a.spread), finite(b.spread)


def _pair(a: Any, b: Any) -> tuple[Tracked, Tracked, Tracked]:
    """Both operands as tracked values, and one that says how they round."""
    if not isinstance(a, Tracked):
        a = _lift(a, b.rounding)
    elif not isinstance(b, Tracked):
        b = _lift(b, a.rounding)
    return a, b, a if b.sure else b


def _lift(x: Any, rounding: Rounding) -> Tracked:
    if isinstance(x, Tracked):
        return x
    t = x.double() if isinstance(x, Tensor) else torch.tensor(float(x), dtype=torch.float64)
    error = torch.zeros((), dtype=torch.float64).expand(t.shape)
    if isinstance(x, float) and not x.is_integer() and math.frexp(x)[0] not in (0.5, -0.5) and math.isfinite(x):
        error = error + abs(x) * rounding.u  # a constant that the format has to round
    return Tracked(t, error, error, rounding, bool(torch.isfinite(t).all()))


def _add(a: Any, b: Any) -> Tracked:
    a, b, least = _pair(a, b)
    y, rounding = a.value + b.value, a.rounding
    own = roundoff(least, a.value.abs() + b.value.abs() if rounding.policy.reassociation else y.abs())
    return made(y, a.worst + b.worst + own, torch.hypot(rounding.join(a.spread, b.spread), own * STEP), rounding)


def _sub(a: Any, b: Any) -> Tracked:
    return _add(a, -b)


def _mul(a: Any, b: Any) -> Tracked:
    if isinstance(b, (int, float)) and math.frexp(b)[0] in (0.5, -0.5, 0.0):  # an exact scaling
        return Tracked(a.value * b, a.worst * abs(b), a.spread * abs(b), a.rounding, a.sure and abs(b) <= 1)
    a, b, least = _pair(a, b)
    y, x, z, rounding = a.value * b.value, a.value.abs(), b.value.abs(), a.rounding
    ea, eb, sa, sb = _bounded(a, b)
    own = roundoff(least, y.abs())
    return made(y, x * eb + ea * (z + eb) + own, torch.hypot(rounding.join(x * sb, z * sa), own * STEP), rounding)


def _div(a: Any, b: Any) -> Tracked:
    if isinstance(b, (int, float)) and math.frexp(b)[0] in (0.5, -0.5):
        return _mul(a, 1 / b)
    a, b, least = _pair(a, b)
    y, z, rounding = a.value / b.value, b.value.abs(), a.rounding
    own = roundoff(least, y.abs() * 2.5).nan_to_num(nan=INF)
    worst = ((a.worst + y.abs() * b.worst) / (z - b.worst)).masked_fill(b.worst >= z, INF)
    spread = (rounding.join(a.spread, y.abs() * b.spread) / (z - b.spread)).masked_fill(b.spread >= z, INF)
    return made(y, worst + own, torch.hypot(spread, own * STEP), rounding)


def _matmul(a: Any, b: Any) -> Tracked:
    a, b, _ = _pair(a, b)
    n, rounding, x, z = a.value.shape[-1], a.rounding, a.value.abs(), b.value.abs()
    ea, eb, sa, sb = _bounded(a, b)
    y, eta = a.value @ b.value, rounding.eta if rounding.u else 0.0
    grow, rough = _summed(x @ z, y, n, rounding, 2.0)
    worst = (x @ eb + ea @ (z + eb)) * (1 + 1.3 * n * rounding.accumulator) + grow + (n + 1) * eta
    own = rough + eta
    if rounding.coherent:
        spread = torch.hypot(x @ sb + sa @ z, own)
    else:
        sa, sb = sa.clamp(max=1e150), sb.clamp(max=1e150)
        spread = (x.square() @ sb.square() + sa.square() @ z.square() + own.square()).sqrt()
    return made(y, worst, spread, rounding)


def _softmax(x: Tracked, dim: int = -1, dtype: Any = None) -> Tracked:
    rounding, u, n = x.rounding, x.rounding.u, x.value.shape[dim]
    p = torch.softmax(x.value, dim)
    if n == 0:
        return Tracked(p, p, p, rounding)
    gone = torch.isneginf(x.value) & (x.worst == 0)
    d = (x.value.amax(dim, keepdim=True) - x.value).masked_fill(gone, 0.0)
    own = p * (2 * u * d + (p * d).sum(dim, keepdim=True) * (2 * u) + gamma(n, u) + 12 * u) + rounding.eta
    rough = p * (u * ((2 * COVERED * d).square() + (TYPICAL**2 * n + (STEPS * COVERED) ** 2)).sqrt()) + rounding.eta
    swing, moved = softmax_moved(x.value, p, x.worst, x.spread, dim)
    worst, spread = (swing + own).clamp(max=1.0), torch.hypot(moved, rough).clamp(max=1.0)
    lost = (x.worst == INF).any(dim, keepdim=True)
    worst, spread = worst.masked_fill(lost, INF), spread.masked_fill(lost, INF)
    return Tracked(p, worst.masked_fill(gone, 0.0), spread.masked_fill(gone, 0.0), rounding)


def _clamp(x: Tracked, min: Any = None, max: Any = None) -> Tracked:
    return monotone(x, lambda t: t.clamp(min, max), 0, 0)


def _sum(x: Tracked, dim: Any = None, keepdim: bool = False) -> Tracked:
    dims = tuple(range(x.value.ndim)) if dim is None else (dim,) if isinstance(dim, int) else tuple(dim)
    n = math.prod(x.value.shape[d] for d in dims)
    y = x.value.sum(dims, keepdim)
    own, rough = (r + x.rounding.eta for r in _summed(x.value.abs().sum(dims, keepdim), y, n, x.rounding, 1.0))
    worst = x.worst.sum(dims, keepdim) * (1 + 1.3 * n * x.rounding.accumulator) + own
    inherited = x.spread.sum(dims, keepdim).square() if x.rounding.coherent else x.spread.square().sum(dims, keepdim)
    return Tracked(y, worst, (inherited + rough.square()).sqrt(), x.rounding)


def _summed(magnitude: Tensor, y: Tensor, n: int, rounding: Rounding, extra: float) -> tuple[Tensor, Tensor]:
    """`numerics.summed` for a result that is not rounded to a half where accumulators are finer."""
    acc, adds, size = rounding.accumulator, max(0, n - 1), y.abs()
    last = 2 * rounding.u if acc < rounding.u else 0.0
    serial = TYPICAL * math.sqrt(adds) * acc / 2
    rough = magnitude * (TYPICAL * math.sqrt(extra) * acc * several(n) + rounding.operand + serial) + size * (TYPICAL * last + serial)
    first = (n + extra) * acc
    if first > 0.2:
        return magnitude * ((n + extra) * acc if first < 1 else INF) + size * last, rough
    unit = acc * (1 + gamma(n + extra, acc))
    return magnitude * (unit * (adds / 2 + extra) + 2 * rounding.operand) + size * (unit * adds / 2 + last), rough


def _where(mask: Tensor, a: Any, b: Any) -> Tracked:
    a, b, _ = _pair(a, b)
    value, worst, spread = (torch.where(mask, p, q) for p, q in ((a.value, b.value), (a.worst, b.worst), (a.spread, b.spread)))
    return Tracked(value, worst, spread, a.rounding, a.sure and b.sure)


def _masked_fill(x: Tracked, mask: Tensor, value: float) -> Tracked:
    return Tracked(x.value.masked_fill(mask, value), x.worst.masked_fill(mask, 0.0), x.spread.masked_fill(mask, 0.0), x.rounding)


def _joins(name: str) -> Callable[..., Tracked]:
    def joined(parts: Sequence[Any], dim: int = 0) -> Tracked:
        rounding = next(p.rounding for p in parts if isinstance(p, Tracked))
        lifted, join = [_lift(p, rounding) for p in parts], getattr(torch, name)
        value, worst, spread = (join([getattr(p, of) for p in lifted], dim) for of in ("value", "worst", "spread"))
        return Tracked(value, worst, spread, rounding, all(p.sure for p in lifted))

    return joined


def _moved(name: str) -> Callable[..., Any]:
    def moved(x: Tracked, *args: Any, **kwargs: Any) -> Any:
        value, worst, spread = (getattr(t, name)(*args, **kwargs) for t in (x.value, x.worst, x.spread))
        if isinstance(value, (tuple, list)):
            return [Tracked(*parts, x.rounding, x.sure) for parts in zip(value, worst, spread, strict=True)]
        return Tracked(value, worst, spread, x.rounding, x.sure)

    return moved


def _function(name: str) -> Callable[..., Tracked]:
    f = getattr(torch, name, None) or getattr(torch.nn.functional, name)
    return lambda x, *args, **kwargs: monotone(x, lambda t: f(t, *args, **kwargs), *CONSTANTS[name])


def _same(x: Any, *args: Any, **kwargs: Any) -> Any:
    return x


_MOVES = ("reshape", "view", "transpose", "permute", "unsqueeze", "squeeze", "expand", "flip", "narrow", "select", "chunk", "split", "unbind",
          "repeat_interleave", "index_select", "gather", "movedim", "flatten", "contiguous", "broadcast_to", "mT", "clone", "repeat")  # fmt: skip
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: _moved(name) for name in _MOVES},
    **{name: _function(name) for name in CONSTANTS},
    "add": _add, "sub": _sub, "rsub": lambda a, b: _sub(b, a), "mul": _mul, "div": _div, "true_divide": _div, "matmul": _matmul, "softmax": _softmax,
    "clamp": _clamp, "sum": _sum, "where": _where, "masked_fill": _masked_fill, "cat": _joins("cat"), "stack": _joins("stack"), "to": _same, "type": _same,
}  # fmt: skip
