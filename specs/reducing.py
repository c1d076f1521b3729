"""Error rules of the reductions: sums, means, extremes, norms, products, logarithms of sums, over floats and over integers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from specs.contraction import accumulated, growth, overflowing
from specs.formats import UINT64, Format
from specs.numerics import (
    COVERED,
    EXACT,
    INF,
    TYPICAL,
    Ball,
    ErrorRule,
    Policy,
    Radii,
    between,
    both,
    exact_whole,
    finite,
    gamma,
    limited,
    local,
    settle,
    undecidable,
)
from specs.pointwise import as_float, nan_free
from specs.program import Node


class Over(NamedTuple):
    """One reduction's dims, and tensors of the operand's shape reduced over them."""

    dims: tuple[int, ...]
    keep: bool
    n: int

    def view(self, t: Tensor) -> Tensor:
        """Reducing over no dim at all is reducing over a new dim of size 1."""
        return t if self.dims else t.unsqueeze(-1)

    def reduce(self, f: Callable[[Tensor, tuple[int, ...], bool], Tensor], t: Tensor) -> Tensor:
        return f(self.view(t), self.dims or (-1,), self.keep and bool(self.dims))

    def sum(self, t: Tensor) -> Tensor:
        return self.reduce(torch.sum, t)

    def prod(self, t: Tensor) -> Tensor:
        return self.reduce(products, t)


def over(a: Node, x: Tensor, axes: Tensor | None = None) -> Over:
    """Axes came as an attribute and became an input; an empty list of them means all, or none with noop_with_empty_axes."""
    chosen: list[int] = (a.axes or []) if axes is None else axes.reshape(-1).tolist()
    if chosen:
        dims = tuple(i % x.dim() for i in chosen)
    else:
        dims = () if a.noop_with_empty_axes else tuple(range(x.dim()))
    return Over(dims, bool(a.keepdims), math.prod(x.shape[i] for i in dims))


def products(x: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    for i in sorted((d % x.dim() for d in dims), reverse=True):
        x = x.prod(i, keepdim=keep, dtype=x.dtype)
    return x


def _setting(node: Node, balls: Sequence[Ball | None]) -> tuple[Ball, Over] | None:
    """The operand and what is reduced; None when the axes are not known for sure."""
    ball, axes = balls[0], balls[1] if len(balls) > 1 else None
    assert ball is not None
    if axes is not None and axes.worst is not None:
        return None
    return ball, over(node, ball.value, axes.value if axes is not None else None)


#: (node, policy, form, ball, over, y) -> radii of a float result
FloatRule = Callable[[Node, Policy, Format, Ball, Over, Tensor], Radii]


def floats(rule: FloatRule, integers: ErrorRule = exact_whole) -> ErrorRule:
    """`rule` for float operands, `integers` for the others, with the operand and the dims looked up."""

    def chosen(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        form = node.out_formats[0]
        if form is None or not form.is_float:
            return integers(node, policy, balls, ys)
        found = _setting(node, balls)
        if found is None:
            return undecidable(node, policy, balls, ys)
        worst, spread = rule(node, policy, form, *found, ys[0])
        return [(settle(worst), settle(spread))] if worst is not None else [(worst, spread)]

    return chosen


def _joined(inherited: Callable[[Tensor], Tensor], ball: Ball, own: tuple[Tensor, Tensor], quadratic: Callable[[Tensor], Tensor]) -> Radii:
    """worst: inherited(e) + own; spread: the inherited variance quadratic(e) and own in quadrature. Errors of one origin add up."""
    if ball.worst is None:
        return own
    e, s = limited(ball)
    return inherited(e) + own[0], ((inherited(s).square() if ball.together else quadratic(s)) + own[1].square()).sqrt()


def sum_error(node: Node, policy: Policy, form: Format, ball: Ball, o: Over, y: Tensor) -> Radii:
    own = accumulated(policy, form, o.sum(ball.value.abs()), o.n, y=y)
    return _joined(o.sum, ball, own, lambda e: o.sum(e.square()))


def mean_error(node: Node, policy: Policy, form: Format, ball: Ball, o: Over, y: Tensor) -> Radii:
    total, n = o.sum(ball.value.abs()), max(1, o.n)
    own = accumulated(policy, form, total / n, o.n, extra=2, total=total, y=y)
    return _joined(lambda e: o.sum(e) / n, ball, own, lambda e: o.sum(e.square()) / n**2)


def squares(o: Over, x: Tensor) -> Tensor:
    return o.sum(x.square())


def factors(o: Over, x: Tensor) -> Tensor:
    return o.prod(x.clamp(min=1.0))


def counted(reach: Callable[[Over, Tensor], Tensor], adds: bool = False, divides: bool = False) -> ErrorRule:
    """Integer reductions: exact as long as nothing on the way, `reach(|x|)`, can leave the range; beyond, backends wrap or saturate.

    adds     radii add up (ReduceSum, ReduceMean); otherwise an inexact operand makes everything undecided
    divides  a mean; a negative one that is no integer: nothing says whether it is rounded down or toward zero
    """

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        found, form, y = _setting(node, balls), node.in_formats[0], ys[0]
        if found is None or (found[0].worst is not None and (not adds or form is UINT64)):
            return undecidable(node, policy, balls, ys)
        ball, o = found
        size = as_float(ball.value, form, torch.float64).abs()
        worst = spread = None
        if ball.worst is not None:
            size = size + finite(ball.worst)
            worst, spread = o.sum(finite(ball.worst)), finite(ball.spread).clamp(max=1e150)
            spread = o.sum(spread) if ball.together else o.sum(spread.square()).sqrt()
        over_ = reach(o, size) > form.largest
        if divides:
            open_ = ((y < 0) & (o.sum(ball.value) != y * o.n)).double() if form.kind == "int" else None
            if worst is not None and spread is not None:
                either = worst > 0 if form.kind == "int" else worst < 0
                open_ = either.double() if open_ is None else open_.masked_fill(either, 1.0)
                worst, spread = ((r / max(1, o.n)).ceil() + open_ for r in (worst, 2 * spread))
                spread = spread / 2
            else:
                worst = spread = open_ if open_ is not None and bool(open_.any()) else None
        if bool(over_.any()):
            zero = torch.zeros(y.shape, dtype=torch.float64)
            worst, spread = ((zero if r is None else r).masked_fill(over_, INF) for r in (worst, spread))
        return [EXACT if worst is None or spread is None else (settle(worst), settle(spread))]

    return rule


def extreme_error(largest: bool) -> ErrorRule:
    """Monotone in every element: the result moves no further than both ends of the intervals say, and is not rounded."""

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        found = _setting(node, balls)
        if found is None or (found[0].worst is not None and node.out_formats[0] is UINT64):
            return undecidable(node, policy, balls, ys)
        ball, o = found
        if ball.worst is None or not ball.value.numel():
            return [EXACT]
        x, y = ball.value.double(), ys[0].double()

        def swing(e: Tensor) -> Tensor:
            ends = [o.reduce(torch.amax if largest else torch.amin, x + s * finite(e)) for s in (-1.0, 1.0)]
            return settle((ends[0] - y).abs().maximum((ends[1] - y).abs()))

        return [(swing(ball.worst), swing(ball.spread))]

    return nan_free(rule)


def l1_error(node: Node, policy: Policy, form: Format, ball: Ball, o: Over, y: Tensor) -> Radii:
    x = ball.value.abs()
    # Around zero an absolute value can only grow: those changes add up, however they are spread.
    return _joined(o.sum, ball, accumulated(policy, form, y, o.n), lambda e: o.sum(e.square()) + o.sum(e * (x < e)).square())


def sum_square_error(node: Node, policy: Policy, form: Format, ball: Ball, o: Over, y: Tensor) -> Radii:
    x = ball.value.abs()

    def variance(e: Tensor) -> Tensor:
        return (o.sum((2 * x * e).square()).sqrt() + o.sum(e * e)).square()

    return _joined(lambda e: o.sum((2 * x + e) * e), ball, accumulated(policy, form, y, o.n), variance)


def l2_error(node: Node, policy: Policy, form: Format, ball: Ball, o: Over, y: Tensor) -> Radii:
    """The root between its ends: squares that are flushed make a small norm absolutely uncertain."""
    squares, last = y.square(), local(policy, form, y, 2)

    def root(e: Tensor) -> Tensor:
        return torch.where(squares <= e, (squares + e).sqrt(), y - (squares - e).clamp(min=0).sqrt())

    worst, spread = (root(e) for e in accumulated(policy, form, squares, o.n))
    result = worst + last, (spread.square() + (last * COVERED).square()).sqrt()
    if ball.worst is None:
        return result
    e, s = finite(ball.worst).clamp(max=1e150), finite(ball.spread).clamp(max=1e150)
    norm = o.sum(s.square()).sqrt()
    directed = ((o.sum((ball.value * s).square()).sqrt() + norm.square() / 2) / y).nan_to_num(nan=INF, posinf=INF).minimum(norm)
    return result[0] + o.sum(e.square()).sqrt(), (result[1].square() + directed.square()).sqrt()


def log_sum_error(node: Node, policy: Policy, form: Format, ball: Ball, o: Over, y: Tensor) -> Radii:
    total = o.sum(ball.value)
    inner = sum_error(node, policy, form, ball, o, total)
    own = local(policy, form, y, 5)

    def swing(e: Tensor) -> Tensor:
        return between((total + e).log(), (total - e).log(), y)

    return both((swing(inner[0]), swing(inner[1])), own)


def log_sum_exp_error(node: Node, policy: Policy, form: Format, ball: Ball, o: Over, y: Tensor) -> Radii:
    """Absolute, for the result may be anything around zero: every distance to the largest operand is rounded, then the sum, then the log."""
    x, u = ball.value, policy.u(form)
    if not x.numel():
        return EXACT
    top = o.reduce(lambda t, d, _: t.amax(d, True), x)
    shifted = o.view(x) - top
    dims = o.dims or (-1,)
    p = shifted.exp()
    p = p / p.sum(dims, True)
    keep = o.keep and bool(o.dims)
    distance = (p * -shifted).masked_fill(p == 0, 0.0).sum(dims, keep)
    top = top.sum(dims, keep)  # of size 1 in every reduced dim
    own = (distance * 2 + y.abs() * 6 + top.abs() * 2 + 8) * u + policy.eta(form)
    worst, spread = own + growth(policy, form, o.n), own * COVERED + TYPICAL * math.sqrt(o.n) * u
    if ball.worst is None:
        return worst, spread

    def moved(e: Tensor) -> Tensor:
        return (p * finite(e).clamp(max=300).expm1()).sum(dims, keep).log1p()

    e, s = o.view(ball.worst), o.view(ball.spread)
    inherited = moved(e).masked_fill((e > 300).sum(dims, keep) > 0, INF)
    return worst + inherited, (spread.square() + (p * finite(s).clamp(max=1e150)).square().sum(dims, keep)).sqrt()


def _grown(logarithm: Tensor, size: Tensor, whole: Tensor) -> Tensor:
    """A product after growing by this factor, less the product: without cancellation unless it is zero anyway."""
    return torch.where(size > 0, size * logarithm.expm1(), whole)


def prod_error(node: Node, policy: Policy, form: Format, ball: Ball, o: Over, y: Tensor) -> Radii:
    """n factors in sequence; any partial product may have overflowed, or lost a denormal that the other factors enlarge."""
    x = ball.value.abs()
    size, u = y.abs(), policy.u(form)
    reached = o.prod(x.clamp(min=1.0))
    own = size * gamma(o.n + 1, u) + reached * (policy.eta(form) * o.n)
    rough = size * (math.sqrt(o.n) * u) + reached * policy.eta(form)
    worst, spread = overflowing(policy, form, reached, own, rough)
    if ball.worst is None:
        return worst, spread
    e, s = finite(ball.worst), finite(ball.spread)
    moved = _grown(o.sum((e / x).log1p()), size, o.prod(x + e))
    relative = o.sum((s / x).nan_to_num(nan=0.0, posinf=1e150).clamp(max=1e150).square()).sqrt()
    swing = torch.where(relative < 0.1, size * relative * 1.1, o.prod(x + s) - size)
    return worst + moved, (spread.square() + swing.square()).sqrt()
