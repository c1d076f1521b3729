"""What the elementwise families share: old broadcasting, unsigned 64-bit integers, and error rules over several operands.

A uint64 lives in an int64 tensor as its bit pattern: order, division, right shift and conversion to float need care; flipping
the sign bit maps unsigned order onto signed order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from specs.draw import Draw
from specs.formats import DOUBLE, UINT64, Format
from specs.numerics import (
    COVERED,
    EXACT,
    INF,
    TYPICAL,
    Ball,
    ErrorRule,
    Policy,
    Radii,
    add,
    at_threshold,
    exact,
    finite,
    outputs,
    quadrature,
    settle,
    swings,
    undecidable,
)
from specs.rule import Dim
from specs.schema import defaults

if TYPE_CHECKING:
    from torch import Tensor

    from specs.program import Node

SIGN = -(2**63)


# operands --------------------------------------------------------------------------------------------------------------
def aligned(a: Node, x: Any, y: Any) -> Any:
    """The second operand as numpy broadcasting wants it: before opset 7 `axis` says where its dims start."""
    if a.version >= 7 or a.axis is None or not y.ndim:
        return y
    return y.reshape([*y.shape, *[1] * (x.ndim - a.axis % max(1, x.ndim) - y.ndim)])


def aligned_balls(node: Node, balls: Sequence[Ball | None]) -> tuple[Ball, Ball]:
    """Both operands, radii aligned like the values."""
    p, q = balls[0], balls[1]
    assert p is not None
    assert q is not None
    if node.version >= 7 or node.axis is None:
        return p, q
    value, worst, spread = (None if t is None else aligned(node, p.value, t) for t in q)
    return p, Ball(value, worst, spread)


def ordered(x: Tensor, form: Format | None) -> Tensor:
    """Values whose signed order is the order of the format; the same function leads back."""
    return x ^ SIGN if form is UINT64 else x


def as_float(x: Tensor, form: Format | None, dtype: Any) -> Tensor:
    """An integer tensor as floats; a uint64 above 2^63 stays positive."""
    import torch

    if form is not UINT64 or dtype is None or not bool((x < 0).any()):
        return x.to(dtype)
    # Halved with the lost bit kept sticky, so that the one rounding is that of the whole number.
    half = ((x >> 1) & 0x7FFFFFFFFFFFFFFF) | (x & 1)
    return torch.where(x < 0, half.to(dtype) * 2, x.to(dtype))


def trunc_divide(x: Tensor, y: Tensor, form: Format | None) -> Tensor:
    """Integer division rounded toward zero. By zero: 0; the lowest number by -1 wraps (the machine instruction would trap)."""
    import torch

    if form is UINT64:
        y = torch.where(y == 0, SIGN, y)
        whole = y.clamp(min=1)
        q = torch.div((x >> 1) & 0x7FFFFFFFFFFFFFFF, whole, rounding_mode="trunc") << 1
        q = q + ((x - q * whole) ^ SIGN).ge(whole ^ SIGN)
        return torch.where(y < 0, ((x ^ SIGN) >= (y ^ SIGN)).to(x.dtype), q)
    if form is not None and form.kind == "int":
        plain = torch.where((y == 0) | (y == -1), 1, y)
        return torch.where(y == 0, 0, torch.where(y == -1, -x, torch.div(x, plain, rounding_mode="trunc")))
    return torch.where(y == 0, 0, torch.div(x, torch.where(y == 0, 1, y), rounding_mode="trunc"))


def suffix(g: Draw, shape: Sequence[Dim]) -> list[Dim]:
    """A shape that broadcasts into `shape`: the whole, its last dims, or some dims 1."""
    kind = g.choose(4)
    if kind < 2:
        return list(shape)
    if kind == 2:
        return list(shape)[g.choose(len(shape) + 1) :]
    return [1 if g.flag(0.4) else d for d in shape]


def choose_attrs(g: Draw, **values: Sequence[Any]) -> dict[str, Any]:
    """Each attribute left out (its default) or one of its values."""
    return {name: g.pick(options) for name, options in values.items() if g.flag(0.7)}


# radii -----------------------------------------------------------------------------------------------------------------
def shaped(r: Any, y: Any) -> Any:
    """A radius broadcast to its result."""
    return r if r is None or r.shape == y.shape else r.expand(y.shape)


def answer(worst: Any, spread: Any, y: Any, own: Any = None, share: float = TYPICAL) -> Sequence[Radii]:
    """One output's radii from inherited ones and a local rounding, broadcast, NaN read as undecided."""
    worst, spread = add(worst, own), quadrature(spread, None if own is None else own * share)
    if worst is None:
        return [EXACT]
    if worst.shape == y.shape and y.is_floating_point():  # the interpreter settles these
        return [(worst, shaped(spread, y))]
    return [(settle(shaped(worst, y)), settle(shaped(spread, y)))]


def within_range(rule: ErrorRule) -> ErrorRule:
    """For integers, `rule` (made for exact arithmetic) gives finite radii as long as nothing can wrap; beyond: undecided."""

    def chosen(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        form, y = node.out_formats[0], ys[0]
        if form is not None and form.is_float:
            return rule(node, policy, balls, ys)
        if form is None or form is UINT64 or all(b is None or b.worst is None for b in balls):
            return exact(node, policy, balls, ys)
        worst, spread = rule(node, policy, balls, ys)[0]
        wide = y.double()
        wraps = (wide + worst > form.largest) | (wide - worst < form.lowest)
        return [(worst.masked_fill(wraps, INF), spread.masked_fill(wraps, INF))]

    return chosen


def all_ends(ball: Ball, rank: int) -> Tensor:
    """Both ends of both radii, the statistical one at the threshold it is judged at, in two new dims before those of the result."""
    import torch

    e = torch.stack((ball.worst, (ball.spread * 2).minimum(ball.worst)))
    ends = torch.stack((ball.value - e, ball.value + e))
    return ends.reshape(2, 2, *[1] * (rank - ball.value.ndim), *ball.value.shape)


def monotone_all(k: float = 1.0, *, rounds: bool = False) -> ErrorRule:
    """Monotone non-decreasing in every operand (Max, Min, Clip): all at x - e, then all at x + e. NaN results are undecided."""

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        from specs.numerics import local

        y = ys[0]
        own = local(policy, node.out_formats[0], y, k) if rounds else None
        if all(b is None or b.worst is None for b in balls):
            return without_nan(answer(None, None, y, own), y)
        if node.out_formats[0] is UINT64:
            return undecidable(node, policy, balls, ys)

        moving = [b for b in balls if b is not None and b.worst is not None]
        if y.is_floating_point() and all(b.sure for b in moving) and (node.op.name != "Clip" or (len(moving) == 1 and moving[0] is balls[0])):
            stacked = [None if b is None else b.value if b.worst is None else all_ends(b, y.ndim) for b in balls]
            ends = (outputs(node.op.meaning(node, *stacked))[0] - y).abs_().amax(0)
            return without_nan(answer(ends[0], ends[1].mul_(0.5), y, own), y)

        def swing(which: int) -> Tensor:
            ends = []
            for sign in (-1.0, 1.0):
                args = [None if b is None else b.value if b.worst is None else b.value + sign * finite(b[which]) for b in balls]
                ends.append((outputs(node.op.meaning(node, *args))[0].double() - y).abs())
            reach = ends[0].maximum(ends[1])
            for b in balls:
                reach = reach if b is None else undecided_stays(reach, b[which])
            return reach

        return without_nan(answer(swing(1), swing(2), y, own), y)

    return rule


def undecided_stays(r: Tensor, e: Any) -> Tensor:
    """A radius that a plateau made finite is undecided all the same where the operand was: it may be NaN."""
    return r if e is None else r.masked_fill(e.isinf(), INF)


def coefficient(node: Any, *names: str) -> float:
    """How far float attributes may be off, in units of u: narrow formats round them.

    In double models a schema's default that is no dyadic number (0.01, 0.2) is read as the decimal by some and as the float32
    by others.
    """
    form: Format = node.out_formats[0]
    given = defaults(node.op.name, node.op.domain, node.opset)
    return 2.0**27 if form is DOUBLE and any(node.attrs[n] == given[n] for n in names) else 1.0


def unless_zero(own: Tensor, ball: Ball) -> Tensor:
    """Nothing is rounded where the operand is exactly zero: implementations are exact there (0 -> 0, cos 0 -> 1)."""
    zero = ball.value == 0
    return own.masked_fill(zero if ball.worst is None else zero & (ball.worst == 0), 0.0)


def without_nan(radii: Sequence[Radii], y: Any) -> Sequence[Radii]:
    """Operators whose legal implementations treat NaN differently: a NaN result is undecided."""
    if not y.is_floating_point():
        return radii
    nan = y.isnan()
    if not bool(nan.any()):
        return radii
    import torch

    worst, spread = radii[0]
    zero = torch.zeros(y.shape, dtype=torch.float64)
    return [((zero if worst is None else worst).masked_fill(nan, INF), (zero if spread is None else spread).masked_fill(nan, INF))]


def nan_free(rule: ErrorRule) -> ErrorRule:
    """`rule`, a NaN result being undecided."""

    def chosen(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        return without_nan(rule(node, policy, balls, ys), ys[0])

    return chosen


Edges = Callable[["Node"], Sequence[float]]


def piecewise(edges: Edges, k: float = 1.0, *, rounds: bool = True) -> ErrorRule:
    """Monotone between the edges, with a jump at each (Shrink, ThresholdedRelu): both ends and both sides of the edges within.

    Formats of 16 bits and fewer may round an edge given as a float attribute, so an exact operand that close to it is
    undecided too.
    """

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        import torch

        from specs.numerics import local

        ball, y, form = balls[0], ys[0], node.out_formats[0]
        assert ball is not None
        own = local(policy, form, y, k) if rounds else None
        slack = policy.u(form) if form is not None and form.is_float and form.bits <= 16 else 0.0
        cuts = edges(node)
        x = ball.value.double()
        if ball.worst is None and not (slack and any(bool(((x - c).abs() <= slack * abs(c)).any()) for c in cuts)):
            return answer(None, None, y, own)

        def at(points: Tensor) -> Tensor:
            return (outputs(node.op.meaning(node, points))[0].double() - y).abs()

        def swing(e: Any) -> Tensor:
            reach = torch.zeros_like(x) if e is None else finite(e)
            worst = at(x - reach).maximum(at(x + reach))
            for c in cuts:
                near = (x - c).abs() <= reach + slack * abs(c)
                if bool(near.any()):
                    cut = torch.full_like(x, c)
                    for side in (cut, cut.nextafter(cut - 1), cut.nextafter(cut + 1)):
                        worst = torch.where(near, worst.maximum(at(side)), worst)
            return undecided_stays(worst, e)

        return answer(swing(ball.worst), at_threshold(swing, ball.spread), y, own)

    return rule


def sloped(slope: Callable[[Any], float], rounding: Callable[[Any, Any, Any], Any], monotone: Callable[[Any], bool] = lambda node: False) -> ErrorRule:
    """A function of largest slope `slope(node)`, by its ends where it is monotone; rounding(node, x, y) is in units of u.

    Where x may be negative as well as positive, rounding gets the lower end: functions that are exact on one side round on the other.
    """

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        ball, y, form = balls[0], ys[0], node.out_formats[0]
        assert ball is not None
        x, e = ball.value, ball.worst
        own = unless_zero(rounding(node, x if e is None else x.where(x >= e, x - e), y) * policy.u(form) + policy.eta(form), ball)
        if e is None:
            return answer(None, None, y, own, COVERED)
        if monotone(node):
            return answer(*swings(lambda t: node.op.meaning(node, t), ball, y), y, own, COVERED)
        steep = slope(node)
        return answer(e * steep, ball.spread * steep, y, own, COVERED)

    return rule
