"""Tensors that carry their radii through a formula, so that an operator made of many steps needs no error rule of its own.

`traced` runs an operator's own meaning on `Tracked` values: every product, sum, softmax or activation inside adds its
rounding and hands on what it inherited. The meaning may use tensor methods and torch functions that are listed here;
anything else fails loudly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from specs.numerics import COVERED, INF, TYPICAL, Ball, ErrorRule, Policy, Radii, finite, gamma, outputs, settle, undecidable, zeros_like

#: As numerics.TYPICAL, for the steps of one formula: a few meet in every element, and some elements see nearly all of each.
STEP = 0.7
#: k and m of the rounding k u |y| + m u of the functions a formula may use.
CONSTANTS: dict[str, tuple[float, float]] = {
    "tanh": (5, 2),
    "sigmoid": (2, 3.5),
    "exp": (4, 0),
    "softplus": (4, 2),
    "erf": (-4, 8),
    "relu": (0, 0),
    "sqrt": (2, 0),
    "log": (5, 0),
}


@dataclass(frozen=True)
class Rounding:
    """How one formula rounds: unit roundoff of results and of accumulators, and what flushing may lose."""

    u: float
    accumulator: float
    operand: float
    eta: float
    largest: float
    policy: Policy
    coherent: bool = False  # inherited statistical radii add up: a recurrence returns errors of one origin again and again

    @classmethod
    def of(cls, policy: Policy, form: Any, coherent: bool = False) -> Rounding:
        return cls(policy.u(form), policy.accumulation(form), policy.operand(form), policy.eta(form), form.largest, policy, coherent)

    def join(self, a: Tensor, b: Tensor) -> Tensor:
        """Statistical radii inherited from two operands."""
        return a + b if self.coherent else torch.hypot(a, b)


class Tracked:
    """A value with its certified and statistical radius and the rounding in force.

    sure: neither value nor radius is infinite or NaN anywhere, which spares the steps that watch for them
    """

    __slots__ = ("rounding", "spread", "sure", "value", "worst")

    def __init__(self, value: Tensor, worst: Tensor, spread: Tensor, rounding: Rounding, sure: bool = False) -> None:
        self.value, self.worst, self.spread, self.rounding, self.sure = value, worst, spread, rounding, sure

    # what a meaning asks of a tensor ------------------------------------------------------------------------------
    @property
    def shape(self) -> torch.Size:
        return self.value.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.value.dtype

    @property
    def ndim(self) -> int:
        return self.value.ndim

    def dim(self) -> int:
        return self.value.dim()

    def size(self, at: int) -> int:
        return self.value.size(at)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = FUNCTIONS.get(name)
        if function is None:
            raise AttributeError(f"no error rule for '{name}' inside a formula")
        return lambda *args, **kwargs: function(self, *args, **kwargs)

    def __getitem__(self, key: Any) -> Tracked:
        return self.part(lambda t: t[key])

    def part(self, move: Callable[[Tensor], Tensor]) -> Tracked:
        """The same rearrangement of the value and both radii."""
        return Tracked(move(self.value), move(self.worst), move(self.spread), self.rounding, self.sure)

    def __add__(self, other: Any) -> Tracked:
        return _add(self, other)

    def __sub__(self, other: Any) -> Tracked:
        return _sub(self, other)

    def __rsub__(self, other: Any) -> Tracked:
        return _sub(other, self)

    def __mul__(self, other: Any) -> Tracked:
        return _mul(self, other)

    def __truediv__(self, other: Any) -> Tracked:
        return _div(self, other)

    def __matmul__(self, other: Any) -> Tracked:
        return _matmul(self, other)

    def __rmatmul__(self, other: Any) -> Tracked:
        return _matmul(other, self)

    def __neg__(self) -> Tracked:
        return Tracked(-self.value, self.worst, self.spread, self.rounding, self.sure)

    __radd__, __rmul__ = __add__, __mul__

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        function = FUNCTIONS.get(func.__name__.strip("_"))
        if function is None:
            raise AttributeError(f"no error rule for 'torch.{func.__name__}' inside a formula")
        return function(*args, **(kwargs or {}))


def raw(x: Any) -> Any:
    """The value alone: for decisions that a meaning takes on exact parts (masks)."""
    return x.value if isinstance(x, Tracked) else x


def cast(node: Any, x: Any, form: Any) -> Any:
    """x in another format for some steps. Only a coarser one changes the radii: a finer intermediate is legal, not required."""
    if not isinstance(x, Tracked):
        return x.to(node.torch(form))
    rounding = Rounding.of(x.rounding.policy, form, x.rounding.coherent)
    if rounding.u <= x.rounding.u:
        return x
    same = Tracked(x.value, x.worst, x.spread, rounding, x.sure)
    own = _own(same, x.value.abs())
    return _made(x.value, x.worst + own, torch.hypot(x.spread, own * STEP), rounding)


def attribute(c: float, x: Any) -> Any:
    """A number computed from a float attribute, for use with x: ONNX computes such numbers in float32, whatever the type of x."""
    if not isinstance(x, Tracked) or math.frexp(c)[0] in (0.5, -0.5, 0.0):
        return c
    error = torch.tensor(abs(c) * max(2.0**-23, x.rounding.u), dtype=torch.float64)
    return Tracked(torch.tensor(c, dtype=torch.float64), error, error, x.rounding)


def monotone(x: Any, f: Callable[[Tensor], Tensor], k: float = 4, m: float = 4) -> Any:
    """A monotone function of one tensor, tracked or not, evaluated at the ends of the interval.

    What is undecided stays so even if the function is bounded: the argument may have overflowed and met another infinity.
    """
    if not isinstance(x, Tracked):
        return f(x)
    y = f(x.value)
    own = _own(x, y.abs() * k + m)

    def swing(e: Tensor) -> Tensor:
        if x.sure:
            return torch.maximum((f(x.value - e) - y).abs(), (f(x.value + e) - y).abs())
        e = finite(e)
        r = torch.maximum((f(x.value - e) - y).abs(), (f(x.value + e) - y).abs())
        return r.nan_to_num(nan=INF, posinf=INF).masked_fill(x.worst == INF, INF)

    return _made(y, swing(x.worst) + own, torch.hypot(swing(x.spread), own * COVERED), x.rounding)


def steady(x: Any, f: Callable[[Tensor], Tensor], constant: float, k: float = 4, m: float = 4, jump: Callable[[Tensor, Tensor], Tensor] | None = None) -> Any:
    """A function with a Lipschitz constant, tracked or not; `jump(x, e)` adds what a discontinuity inside the interval may."""
    if not isinstance(x, Tracked):
        return f(x)
    y = f(x.value)
    own = _own(x, y.abs() * k + m)
    worst, spread = x.worst * constant, x.spread * constant
    if jump is not None:
        worst, spread = worst + jump(x.value, x.worst), spread + jump(x.value, x.spread)
    return _made(y, worst + own, torch.hypot(spread, own * COVERED), x.rounding)


def _own(of: Tracked, units: Tensor) -> Tensor:
    """A local rounding of so many u, nothing where the value is infinite (then it is exactly so)."""
    rounding = of.rounding
    own = units * rounding.u + rounding.eta if rounding.u else units * 0.0
    return own if of.sure else own.masked_fill(~torch.isfinite(units), 0.0)


def _made(y: Tensor, worst: Tensor, spread: Tensor, rounding: Rounding) -> Tracked:
    """A result, undecided where it may have overflowed on the way although the end of the formula is finite."""
    if not y.numel() or float((y.abs() + worst).amax()) <= rounding.largest:
        return Tracked(y, worst, spread, rounding, True)
    over = torch.isfinite(y) & (y.abs() + worst > rounding.largest)
    return Tracked(y, settle(worst).masked_fill(over, INF), settle(spread).masked_fill(over, INF), rounding)


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
    own = _own(least, a.value.abs() + b.value.abs() if rounding.policy.reassociation else y.abs())
    return _made(y, a.worst + b.worst + own, torch.hypot(rounding.join(a.spread, b.spread), own * STEP), rounding)


def _sub(a: Any, b: Any) -> Tracked:
    return _add(a, -b)


def _mul(a: Any, b: Any) -> Tracked:
    if isinstance(b, (int, float)) and math.frexp(b)[0] in (0.5, -0.5, 0.0):  # an exact scaling
        return Tracked(a.value * b, a.worst * abs(b), a.spread * abs(b), a.rounding, a.sure and abs(b) <= 1)
    a, b, least = _pair(a, b)
    y, x, z, rounding = a.value * b.value, a.value.abs(), b.value.abs(), a.rounding
    ea, eb, sa, sb = _bounded(a, b)
    own = _own(least, y.abs())
    return _made(y, x * eb + ea * (z + eb) + own, torch.hypot(rounding.join(x * sb, z * sa), own * STEP), rounding)


def _div(a: Any, b: Any) -> Tracked:
    if isinstance(b, (int, float)) and math.frexp(b)[0] in (0.5, -0.5):
        return _mul(a, 1 / b)
    a, b, least = _pair(a, b)
    y, z, rounding = a.value / b.value, b.value.abs(), a.rounding
    own = _own(least, y.abs() * 2.5).nan_to_num(nan=INF)
    worst = ((a.worst + y.abs() * b.worst) / (z - b.worst)).masked_fill(b.worst >= z, INF)
    spread = (rounding.join(a.spread, y.abs() * b.spread) / (z - b.spread)).masked_fill(b.spread >= z, INF)
    return _made(y, worst + own, torch.hypot(spread, own * STEP), rounding)


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
    return _made(y, worst, spread, rounding)


def _softmax(x: Tracked, dim: int = -1, dtype: Any = None) -> Tracked:
    rounding, u, n = x.rounding, x.rounding.u, x.value.shape[dim]
    p = torch.softmax(x.value, dim)
    if n == 0:
        return Tracked(p, p, p, rounding)
    gone = torch.isneginf(x.value) & (x.worst == 0)
    d = (x.value.amax(dim, keepdim=True) - x.value).masked_fill(gone, 0.0)
    # Both ends: with unequal radii the lower one may be the farther.
    e = x.worst.clamp(max=700)
    up = e.exp() / (p * (-e).exp()).sum(dim, keepdim=True) - 1
    down = 1 - (-e).exp() / (p * e.exp()).sum(dim, keepdim=True)
    own = p * (2 * u * d + (p * d).sum(dim, keepdim=True) * (2 * u) + gamma(n, u) + 12 * u) + rounding.eta
    worst = (p * torch.maximum(up, down) + own).clamp(max=1.0)
    s = x.spread.clamp(max=700)
    swing = (s.square() + (p * s).square().sum(dim, keepdim=True)).sqrt().expm1()
    rough = p * (u * (2 * COVERED * d + TYPICAL * math.sqrt(n) + 12 * COVERED)) + rounding.eta
    spread = torch.hypot(p * swing, rough).clamp(max=1.0)
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
    return Tracked(y, worst, (x.spread.square().sum(dims, keepdim) + rough.square()).sqrt(), x.rounding)


def _summed(magnitude: Tensor, y: Tensor, n: int, rounding: Rounding, extra: float) -> tuple[Tensor, Tensor]:
    """`numerics.summed` for a result that is not rounded to a half where accumulators are finer."""
    acc, adds, size = rounding.accumulator, max(0, n - 1), y.abs()
    last = 2 * rounding.u if acc < rounding.u else 0.0
    serial = TYPICAL * math.sqrt(adds) * acc / 2
    rough = magnitude * (TYPICAL * math.sqrt(extra) * acc + rounding.operand + serial) + size * (TYPICAL * last + serial)
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


def traced(form_of: int = 0, coherent: bool = False) -> ErrorRule:
    """An error rule that runs the operator's meaning on tracked values, rounding every step to the format of output `form_of`.

    Integer and bool inputs (lengths, positions, masks) must be exact, else everything is undecided.
    """

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        rounding = Rounding.of(policy, node.out_formats[form_of], coherent)
        args = list[Any]()
        for b in balls:
            if b is None or not isinstance(b.value, Tensor) or not b.value.is_floating_point():
                if b is not None and b.worst is not None and bool(b.worst.any()):
                    return undecidable(node, policy, balls, ys)
                args.append(None if b is None else b.value)
            else:
                worst = zeros_like(b.value) if b.worst is None else b.worst
                sure = bool(torch.isfinite(b.value).all()) and (b.worst is None or bool(torch.isfinite(b.worst + b.spread).all()))
                args.append(Tracked(b.value, worst, worst if b.worst is None else b.spread, rounding, sure))
        results = outputs(node.op.meaning(node, *args))
        return [_radii(r) for r in results[: len(ys)]]

    return rule


def _radii(x: Any) -> Radii:
    if not isinstance(x, Tracked):
        return None, None
    return x.worst.nan_to_num(nan=INF, posinf=INF), x.spread.nan_to_num(nan=INF, posinf=INF)
