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

from specs.numerics import COVERED, INF, TYPICAL, Ball, ErrorRule, Policy, Radii, finite, outputs, settle, undecidable, zeros_like

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

    @property
    def share(self) -> float:
        """What a function's own rounding counts: in a recurrence the same function meets nearly the same argument step by step."""
        return TYPICAL if self.coherent else COVERED

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
        function = _step(name)
        if function is None:
            raise AttributeError(f"no error rule for '{name}' inside a formula")
        return lambda *args, **kwargs: function(self, *args, **kwargs)

    def __getitem__(self, key: Any) -> Tracked:
        return self.part(lambda t: t[key])

    def part(self, move: Callable[[Tensor], Tensor]) -> Tracked:
        """The same rearrangement of the value and both radii."""
        return Tracked(move(self.value), move(self.worst), move(self.spread), self.rounding, self.sure)

    def __add__(self, other: Any) -> Tracked:
        return _step("add")(self, other)

    def __sub__(self, other: Any) -> Tracked:
        return _step("sub")(self, other)

    def __rsub__(self, other: Any) -> Tracked:
        return _step("rsub")(self, other)

    def __mul__(self, other: Any) -> Tracked:
        return _step("mul")(self, other)

    def __truediv__(self, other: Any) -> Tracked:
        return _step("div")(self, other)

    def __matmul__(self, other: Any) -> Tracked:
        return _step("matmul")(self, other)

    def __rmatmul__(self, other: Any) -> Tracked:
        return _step("matmul")(other, self)

    def __neg__(self) -> Tracked:
        return Tracked(-self.value, self.worst, self.spread, self.rounding, self.sure)

    __radd__, __rmul__ = __add__, __mul__

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        function = _step(func.__name__.strip("_"))
        if function is None:
            raise AttributeError(f"no error rule for 'torch.{func.__name__}' inside a formula")
        return function(*args, **(kwargs or {}))


def _step(name: str) -> Any:
    """The rule of one torch function; looked up late, for the rules are made of tracked values themselves."""
    from specs.steps import FUNCTIONS

    return FUNCTIONS.get(name)


def raw(x: Any) -> Any:
    """The value alone: for decisions that a meaning takes on exact parts (masks)."""
    return x.value if isinstance(x, Tracked) else x


def cast(node: Any, x: Any, form: Any) -> Any:
    """x in another format for some steps. Only a coarser one changes the radii: a finer intermediate is legal, not required."""
    if not isinstance(x, Tracked):
        return x.to(node.torch(form))
    rounding = Rounding.of(x.rounding.policy, form, x.rounding.coherent)
    if rounding.u <= x.rounding.u:
        lost = rounding.eta if rounding.eta > x.rounding.eta else 0.0  # float16 has the finer steps but the coarser quantum than bfloat16
        return x if not lost else made(x.value, x.worst + lost, torch.hypot(x.spread, torch.full_like(x.spread, lost * STEP)), rounding)
    same = Tracked(x.value, x.worst, x.spread, rounding, x.sure)
    own = roundoff(same, x.value.abs())
    return made(x.value, x.worst + own, torch.hypot(x.spread, own * STEP), rounding)


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
    own = roundoff(x, y.abs() * k + m)

    def swing(e: Tensor) -> Tensor:
        if x.sure:
            return torch.maximum((f(x.value - e) - y).abs(), (f(x.value + e) - y).abs())
        e = finite(e)
        r = torch.maximum((f(x.value - e) - y).abs(), (f(x.value + e) - y).abs())
        return r.nan_to_num(nan=INF, posinf=INF).masked_fill(x.worst == INF, INF)

    return made(y, swing(x.worst) + own, torch.hypot(swing(x.spread), own * x.rounding.share), x.rounding)


def steady(x: Any, f: Callable[[Tensor], Tensor], constant: float, k: float = 4, m: float = 4, jump: Callable[[Tensor, Tensor], Tensor] | None = None) -> Any:
    """A function with a Lipschitz constant, tracked or not; `jump(x, e)` adds what a discontinuity inside the interval may."""
    if not isinstance(x, Tracked):
        return f(x)
    y = f(x.value)
    own = roundoff(x, y.abs() * k + m)
    worst, spread = x.worst * constant, x.spread * constant
    if jump is not None:
        worst, spread = worst + jump(x.value, x.worst), spread + jump(x.value, x.spread)
    return made(y, worst + own, torch.hypot(spread, own * x.rounding.share), x.rounding)


def onto(start: Any, total: Any, n: int) -> Any:
    """start + total, the total of n products, as one sum: it may begin with `start`, and then each product added rounds at its size."""
    y = start + total
    if not isinstance(y, Tracked):
        return y
    own = roundoff(y, raw(start).abs().expand(y.shape) * n)
    return made(y.value, y.worst + own, torch.hypot(y.spread, own * (TYPICAL / max(n, 1) ** 0.5)), y.rounding)


def roundoff(of: Tracked, units: Tensor) -> Tensor:
    """A local rounding of so many u, nothing where the value is infinite (then it is exactly so)."""
    rounding = of.rounding
    own = units * rounding.u + rounding.eta if rounding.u else units * 0.0
    return own if of.sure else own.masked_fill(~torch.isfinite(units), 0.0)


def made(y: Tensor, worst: Tensor, spread: Tensor, rounding: Rounding) -> Tracked:
    """A result, undecided where it may have overflowed on the way although the end of the formula is finite."""
    if not y.numel() or float((y.abs() + worst).amax()) <= rounding.largest:
        return Tracked(y, worst, spread, rounding, True)
    over = torch.isfinite(y) & (y.abs() + worst > rounding.largest)
    return Tracked(y, settle(worst).masked_fill(over, INF), settle(spread).masked_fill(over, INF), rounding)


def traced(form_of: int = 0, coherent: bool = False) -> ErrorRule:
    """An error rule that runs the operator's meaning on tracked values, rounding every step to the format of output `form_of`.

    Integer and bool inputs (lengths, positions, masks) must be exact, else everything is undecided.
    """

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        shared = coherent or any(b is not None and not isinstance(b, list) and b.together for b in balls)
        rounding = Rounding.of(policy, node.out_formats[form_of], shared)
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
