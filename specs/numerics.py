"""How errors arise and travel: the rounding model of an operator, written beside its meaning.

Every intermediate is a `Ball`: the float64 (or integer) reference value with two radii per element.

worst   certified: no legal implementation under the policy is further away
spread  statistical: local roundings added in quadrature; flagged beyond twice this

A radius is a float64 tensor of the value's shape, or None for "exact". Infinity means undecided: nothing can be said.
An error rule gets `(node, policy, balls, values)` with one ball per input (None when omitted) and the reference outputs,
and returns one `(worst, spread)` per output, the operator's own rounding included. Rules are made by the functions below;
their formulas and constants are those of the study on telling a miscompilation from rounding, its sections 2, 5 and 6.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from specs.formats import Format

if TYPE_CHECKING:
    from torch import Tensor

INF = math.inf


class Ball(NamedTuple):
    """A reference value with its certified and its statistical radius."""

    value: Any
    worst: Any = None
    spread: Any = None

    @property
    def exact(self) -> bool:
        return self.worst is None

    @property
    def sure(self) -> bool:
        """Whether value and radii are known to be finite, and the statistical radius no larger than the certified one."""
        return False

    @property
    def together(self) -> bool:
        """Whether errors of several elements may have one origin: then they add up in a sum, and quadrature is wrong."""
        return False


class Sure(Ball):
    """A ball without anything undecided, which spares the rules the steps that watch for it."""

    __slots__ = ()

    @property
    def sure(self) -> bool:
        return True


class Together(Ball):
    """A ball whose elements may move together: one uncertain scale, zero point or maximum is in all of them."""

    __slots__ = ()

    @property
    def together(self) -> bool:
        return True


class SureTogether(Sure):
    __slots__ = ()

    @property
    def together(self) -> bool:
        return True


#: (worst, spread); (None, None) for an exact output.
Radii = tuple[Any, Any]
ErrorRule = Callable[[Any, "Policy", Sequence[Ball | None], Sequence[Any]], Sequence[Radii]]
EXACT: Radii = (None, None)
#: What a local rounding counts in quadrature: at half of it a single operator is suspect exactly where it is certified. Where a
#: constant covers the worst of several libraries, an error that is typical of any one is a smaller share; six times it, where the
#: adjoint bound calls an element likely, is still beyond the certificate of one operator.
TYPICAL = 0.5
COVERED = 1 / 3


@dataclass(frozen=True)
class Policy:
    """Which implementations are legal. The default is the loosest: every operator rounds, any association, one-pass variance.

    half_accumulation  fp16 and bf16 contractions may accumulate in their own format
    one_pass_variance  E[x^2] - E[x]^2 is legal
    reassociation      chains of sums may be regrouped across nodes
    tf32               fp32 contractions may round their operands to 10 mantissa bits
    """

    name: str = "loosest"
    half_accumulation: bool = True
    one_pass_variance: bool = True
    reassociation: bool = True
    tf32: bool = False

    def u(self, form: Format | None) -> float:
        """Unit roundoff of a format; doubled for double, whose reference rounds as well."""
        if form is None or not form.is_float:
            return 0.0
        return 2 * form.u if form.name == "double" else form.u

    def eta(self, form: Format | None) -> float:
        """The quantum that flushing denormals may lose."""
        if form is None or not form.is_float:
            return 0.0
        return 2.0**-24 if form.name == "float16" else max(form.tiny, 2.0**-126)

    def accumulation(self, form: Format | None) -> float:
        """Unit roundoff of the accumulator of a contraction over this format."""
        if form is not None and form.bits <= 16 and not self.half_accumulation:
            return 2.0**-24
        return self.u(form)

    def operand(self, form: Format | None) -> float:
        """Relative rounding of a contraction's operands before they are multiplied."""
        return 2.0**-11 if self.tf32 and form is not None and form.name == "float" else 0.0


LOOSEST = Policy()
STRICT = Policy("strict", half_accumulation=False, one_pass_variance=False, reassociation=False)


# small pieces for rules ------------------------------------------------------------------------------------------------
def add(*radii: Any) -> Any:
    """Sum of worst-case radii, None being exact."""
    total = None
    for r in radii:
        if r is not None:
            total = r if total is None else total + r
    return total


def quadrature(*radii: Any) -> Any:
    """Root of the sum of squares of statistical radii, None being exact."""
    present = [r for r in radii if r is not None]
    if len(present) < 2:
        return present[0] if present else None
    import torch

    total = present[0]
    for r in present[1:]:
        total = torch.hypot(total, r)
    return total


def both(inherited: Radii, local: Any, share: float = TYPICAL) -> Radii:
    """Inherited radii plus a local rounding."""
    return add(inherited[0], local), quadrature(inherited[1], None if local is None else local * share)


def local(policy: Policy, form: Format | None, y: Tensor, k: float = 1.0, m: float = 0.0) -> Any:
    """The rounding k u |y| + m u + eta of one result; None for integer results. Without m an exact zero stays zero."""
    u = policy.u(form)
    if not u:
        return None
    own = y.abs().mul_(k * u).add_(m * u + policy.eta(form)) if y.is_floating_point() else y.abs() * (k * u) + (m * u + policy.eta(form))
    return own if m else own.masked_fill_(y == 0, 0.0)


def gamma(n: float, u: float) -> float:
    """n u / (1 - n u), infinite when n u reaches 1."""
    return n * u / (1 - n * u) if n * u < 1 else INF


def zeros_like(y: Tensor) -> Tensor:
    import torch

    return torch.zeros(y.shape, dtype=torch.float64)


def undecided(y: Tensor) -> Tensor:
    import torch

    return torch.full(y.shape, INF, dtype=torch.float64)


def between(one: Tensor, other: Tensor, y: Tensor) -> Tensor:
    """How far the ends of an interval lie from the value inside it. A value outside is our own mistake: it must not widen the radius."""
    y = y.double()
    low, high, slack = one.minimum(other), one.maximum(other), y.abs() * 1e-12 + 1e-300
    outside = (y < low - slack) | (y > high + slack)
    return (one - y).abs().maximum((other - y).abs()).where(~outside, high - low)


def finite(r: Tensor) -> Tensor:
    """Infinities replaced by 1e300, so that a linear map does not make NaN of them; see `settle`."""
    return r.clamp(max=1e300)


def limited(ball: Ball) -> tuple[Tensor, Tensor]:
    """Both radii without infinities, the statistical one small enough to be squared."""
    return (ball.worst, ball.spread) if ball.sure else (finite(ball.worst), ball.spread.clamp(max=1e150))


def settle(r: Tensor) -> Tensor:
    """The way back: NaN and anything huge is undecided."""
    if r.numel() and r.amax().item() <= 1e290:  # nothing to do, as almost always; a NaN compares as False
        return r
    return r.nan_to_num(nan=INF, posinf=INF).masked_fill(r > 1e290, INF)


def _inexact(balls: Sequence[Ball | None]) -> bool:
    return any(b is not None and b.worst is not None for b in balls)


def _values(balls: Sequence[Ball | None]) -> list[Any]:
    return [None if b is None else b.value for b in balls]


def outputs(result: Any) -> list[Any]:
    """A meaning's results as a list: a tuple is several outputs, a list is one sequence value."""
    return list(result) if isinstance(result, tuple) else [result]


def swings(f: Callable[[Any], Any], ball: Ball, y: Tensor) -> Radii:
    """How far f, elementwise and monotone, goes from y at the ends of both radii, the statistical one at the threshold it is judged at."""
    x, worst, spread = ball

    if ball.sure:  # all four ends at once; what is not a number there, the interpreter finds undecided
        import torch

        e = torch.stack((worst, (spread * 2).minimum(worst)))
        ends = (f(torch.stack((x - e, x + e))) - y).abs_().amax(0)
        return ends[0], ends[1].mul_(0.5)

    def swing(radius: Tensor) -> Tensor:
        e = finite(radius)
        low, high = ((f(point).double() - y).abs() for point in (x - e, x + e))
        # An undecided operand may be NaN, which no plateau bounds.
        return low.maximum(high).nan_to_num(nan=INF, posinf=INF).masked_fill(radius == INF, INF)

    return swing(worst), at_threshold(swing, spread)


def at_threshold(swing: Callable[[Any], Any], spread: Any) -> Any:
    """The set of a statistical radius where it is judged: a suspect lies beyond twice the spread, so a step within that is no suspect."""
    return swing(None) if spread is None else swing(2 * spread) / 2


# rules -----------------------------------------------------------------------------------------------------------------
def undecidable(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """No model: every element is undecided."""
    return [(undecided(y), undecided(y)) for y in ys]


def exact(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Exact on exact operands (integers, logic, shapes); undecided wherever an operand is not exact.

    Elementwise with broadcasting when every inexact operand broadcasts to the output; all undecided otherwise.
    """
    if not _inexact(balls):
        return [EXACT] * len(ys)
    result: list[Radii] = []
    for y in ys:
        r = zeros_like(y)
        for b in balls:
            if b is None or b.worst is None:
                continue
            try:
                r = r + finite(b.worst)
            except RuntimeError:
                r = undecided(y)
            if r.shape != y.shape:
                r = undecided(y)
        r = r.masked_fill(r > 0, INF)
        result.append((r, r))
    return result


def moves(*data: int, also: Callable[[Any, Any], Any] | None = None) -> ErrorRule:
    """An operator that only moves elements of the inputs at `data` (default: the first): its meaning moves the radii too.

    The other inputs (indices, shapes) must be exact, else everything is undecided. New elements (padding) are exact zeros.
    """
    positions = data or (0,)

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        if any(b is not None and b.worst is not None and i not in positions for i, b in enumerate(balls)):
            return undecidable(node, policy, balls, ys)
        if not _inexact(balls):
            return [EXACT] * len(ys)

        def moved(which: int) -> list[Any]:
            args = _values(balls)
            for i in positions:
                b = balls[i] if i < len(balls) else None
                if b is not None:
                    args[i] = b[which] if b[which] is not None else zeros_like(b.value)
            return outputs(node.op.meaning(node, *args))

        return list(zip(moved(1), moved(2), strict=True))

    return rule


def moves_all(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """`moves` for variadic operators: every input is data (Concat)."""
    return moves(*range(len(balls)))(node, policy, balls, ys)


def monotone(k: float = 1.0, m: float = 0.0, *, at: int = 0, rounds: bool = True, rooted: bool = False) -> ErrorRule:
    """An elementwise operator that is monotone (either way) in the input at `at`: evaluated at x - e and x + e.

    Exact to all orders, never over-pessimistic on a plateau, and a discontinuity becomes a set instead of a guess. A NaN at
    an end is undecided. `rounds=False` for results that are representable without rounding (Relu, Floor, Clip), `rooted=True` where
    every formula gives an exact result for zero (tanh 0 = 0, exp 0 = 1).
    """

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        if any(b is not None and b.worst is not None and i != at for i, b in enumerate(balls)):
            return undecidable(node, policy, balls, ys)
        ball, y = balls[at], ys[0]
        assert ball is not None
        own = local(policy, node.out_formats[0], y, k, m) if rounds else None
        if rooted and own is not None:
            zero = ball.value == 0
            own.masked_fill_(zero if ball.worst is None else zero.logical_and_(ball.worst == 0), 0.0)
        share = COVERED if k > 1 or m else TYPICAL
        if ball.worst is None:
            return [both(EXACT, own, share)]
        args = _values(balls)

        def f(x: Tensor) -> Tensor:
            args[at] = x
            return outputs(node.op.meaning(node, *args))[0]

        if len(balls) > 1 or not y.is_floating_point():  # other operands may not broadcast with stacked ends
            ball = Ball(*ball)
        return [both(swings(f, ball, y), own, share)]

    return rule


def lipschitz(constant: float = 1.0, k: float = 1.0, m: float = 0.0, *, relative_to_input: bool = False, cap: float = INF) -> ErrorRule:
    """An elementwise operator with |f(a) - f(b)| <= constant |a - b|.

    relative_to_input: the rounding is k u |x| instead of k u |y| (Gelu, Mish, HardSwish). cap: the largest possible change.
    """

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        if any(b is not None and b.worst is not None for b in balls[1:]):
            return undecidable(node, policy, balls, ys)
        ball = balls[0]
        assert ball is not None
        own = local(policy, node.out_formats[0], ball.value.double() if relative_to_input else ys[0], k, m)
        if ball.worst is None:
            return [both(EXACT, own, COVERED)]
        worst, spread = ((e * constant).clamp(max=cap).masked_fill(e == INF, INF) for e in (ball.worst, ball.spread))
        return [both((worst, spread), own, COVERED)]

    return rule


def exact_whole(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Exact on exact operands; everything undecided as soon as one operand is not (integer contractions, data-dependent shapes)."""
    return undecidable(node, policy, balls, ys) if _inexact(balls) else [EXACT] * len(ys)


def integers_exact(rule: ErrorRule) -> ErrorRule:
    """`rule` for float outputs, `exact` for integer and bool ones: for operators defined over both."""

    def chosen(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        form = node.out_formats[0]
        return (rule if form is None or form.is_float else exact)(node, policy, balls, ys)

    return chosen
