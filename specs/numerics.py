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


#: (worst, spread); (None, None) for an exact output.
Radii = tuple[Any, Any]
ErrorRule = Callable[[Any, "Policy", Sequence[Ball | None], Sequence[Any]], Sequence[Radii]]
EXACT: Radii = (None, None)
#: What a local rounding counts in quadrature. It is uniform within its worst case or better (a standard deviation of u / sqrt(3)),
#: and the constants cover the worst library seen; at half of it a single operator is suspect exactly where it is certified.
TYPICAL = 0.5


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


def both(inherited: Radii, local: Any) -> Radii:
    """Inherited radii plus a local rounding."""
    return add(inherited[0], local), quadrature(inherited[1], None if local is None else local * TYPICAL)


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


def settle(r: Tensor) -> Tensor:
    """The way back: NaN and anything huge is undecided."""
    if r.numel() and bool(r.amax() <= 1e290):  # nothing to do, as almost always; a NaN compares as False
        return r
    return r.nan_to_num(nan=INF, posinf=INF).masked_fill(r > 1e290, INF)


def _inexact(balls: Sequence[Ball | None]) -> bool:
    return any(b is not None and b.worst is not None for b in balls)


def _values(balls: Sequence[Ball | None]) -> list[Any]:
    return [None if b is None else b.value for b in balls]


def outputs(result: Any) -> list[Any]:
    """A meaning's results as a list: a tuple is several outputs, a list is one sequence value."""
    return list(result) if isinstance(result, tuple) else [result]


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


def monotone(k: float = 1.0, m: float = 0.0, *, at: int = 0, rounds: bool = True) -> ErrorRule:
    """An elementwise operator that is monotone (either way) in the input at `at`: evaluated at x - e and x + e.

    Exact to all orders, never over-pessimistic on a plateau, and a discontinuity becomes a set instead of a guess. A NaN at
    an end is undecided. `rounds=False` for results that are representable without rounding (Relu, Floor, Clip).
    """

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        if any(b is not None and b.worst is not None and i != at for i, b in enumerate(balls)):
            return undecidable(node, policy, balls, ys)
        ball, y = balls[at], ys[0]
        assert ball is not None
        own = local(policy, node.out_formats[0], y, k, m) if rounds else None
        if ball.worst is None:
            return [both(EXACT, own)]
        args = _values(balls)

        def swing(radius: Tensor) -> Tensor:
            e, ends = finite(radius), []
            for x in (ball.value - e, ball.value + e):
                args[at] = x
                ends.append((outputs(node.op.meaning(node, *args))[0].double() - y).abs())
            # An undecided operand may be NaN, which no plateau bounds.
            return ends[0].maximum(ends[1]).nan_to_num(nan=INF, posinf=INF).masked_fill(radius == INF, INF)

        return [both((swing(ball.worst), at_threshold(swing, ball.spread)), own)]

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
            return [both(EXACT, own)]
        worst, spread = ((e * constant).clamp(max=cap).masked_fill(e == INF, INF) for e in (ball.worst, ball.spread))
        return [both((worst, spread), own)]

    return rule


def linear(terms: Callable[[Any, Sequence[Any]], float], *, weights: Sequence[int] = (1,), data: int = 0, bias: int | None = None) -> ErrorRule:
    """A contraction, linear in the input at `data` and in each of `weights` separately: Conv, MatMul, Gemm, pools, means, sums.

    `terms(node, values)` is the number n of terms of one output, bias included. With op the meaning itself:
    worst = op(|x|, e_w) + op(e_x, |w|) + op(e_x, e_w) + gamma_{n+2} op(|x|, |w|), spread in quadrature with sqrt(n) u.
    Operators with no weights (ReduceSum, AveragePool) pass `weights=()`.
    """

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        import torch

        values, form = _values(balls), node.out_formats[0]
        if form is not None and not form.is_float:
            return exact_whole(node, policy, balls, ys)
        absolute = [v.abs() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for v in values]
        n = terms(node, values)
        u, u_acc = policy.u(form), policy.accumulation(form)
        apply = node.op.meaning

        def at(**changed: Any) -> Tensor:
            args = list(absolute)
            for name, v in changed.items():
                args[int(name[1:])] = v
            return outputs(apply(node, *args))[0]

        def without_bias() -> dict[str, Any]:
            return {} if bias is None or bias >= len(values) or values[bias] is None else {f"_{bias}": torch.zeros_like(values[bias])}

        total = at()
        half = form is not None and form.bits <= 16
        grow = (n * u_acc + 2 * u) if half and n * u_acc < 1 else gamma(n + 2, u_acc if half else u)
        grow += 2 * policy.operand(form)
        worst = total * grow + policy.eta(form) * (n + 1)
        # In quadrature a serial sum of n terms is off by about sqrt(n) u of its magnitude, rounded once more at the end.
        spread = total * (TYPICAL * (math.sqrt(n) * u_acc + u) + policy.operand(form)) + policy.eta(form)
        if half and not policy.half_accumulation:  # only the result is rounded to the half
            size = ys[0].abs() * u
            worst = total * gamma(n + 2, u_acc) + size * 1.01 + policy.eta(form)
            spread = total * (TYPICAL * math.sqrt(n) * u_acc) + size * TYPICAL + policy.eta(form)
        movers = [i for i in (data, *weights) if i < len(balls) and balls[i] is not None and balls[i].worst is not None]  # type: ignore[union-attr]
        plain = without_bias()
        for i in movers:
            worst = worst + at(**{**plain, f"_{i}": finite(balls[i].worst)})  # type: ignore[union-attr]
        if len(movers) == 2:
            worst = worst + at(**{**plain, **{f"_{i}": finite(balls[i].worst) for i in movers}})  # type: ignore[union-attr]
        squares = [_square(node, apply, absolute, plain, i, balls[i].spread) for i in movers]  # type: ignore[union-attr]
        if bias is not None and bias < len(balls) and balls[bias] is not None and balls[bias].worst is not None:  # type: ignore[union-attr]
            zero = {f"_{i}": torch.zeros_like(values[i]) for i in (data,)}
            worst = worst + at(**zero, **{f"_{bias}": finite(balls[bias].worst)})  # type: ignore[union-attr]
            squares.append(at(**zero, **{f"_{bias}": finite(balls[bias].spread)}).square())  # type: ignore[union-attr]
        for s in squares:
            spread = (spread.square() + s).sqrt()
        return [(settle(worst), settle(spread))]

    return rule


def _square(node: Any, apply: Any, absolute: Sequence[Any], plain: dict[str, Any], at: int, spread: Any) -> Any:
    """op(w^2, e^2): the variance that the input at `at` hands on through a linear operator."""
    import torch

    args = [a.square() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in absolute]
    for name, v in plain.items():
        args[int(name[1:])] = v
    args[at] = finite(spread).clamp(max=1e150).square()
    return outputs(apply(node, *args))[0].abs()


def exact_whole(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Exact on exact operands; everything undecided as soon as one operand is not (integer contractions, data-dependent shapes)."""
    return undecidable(node, policy, balls, ys) if _inexact(balls) else [EXACT] * len(ys)


def integers_exact(rule: ErrorRule) -> ErrorRule:
    """`rule` for float outputs, `exact` for integer and bool ones: for operators defined over both."""

    def chosen(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        form = node.out_formats[0]
        return (rule if form is None or form.is_float else exact)(node, policy, balls, ys)

    return chosen
