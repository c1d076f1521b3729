"""Arithmetic of several operands with numpy's broadcasting: Add, Mul, Div, Mod, Pow, Max, Mean, BitShift, BitwiseAnd ...

Integers wrap to their width; division truncates; anything divided by zero is undecided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specs import Draw, Operator, Rule, op
from specs.formats import INTEGERS, UINT64, Format
from specs.numerics import COVERED, INF, Ball, Policy, Radii, add, exact, gamma, local, quadrature, zeros_like
from specs.pointwise import aligned, aligned_balls, answer, as_float, monotone_all, ordered, suffix, trunc_divide, within_range
from specs.program import Node
from specs.terms import broadcast

ONTO = 3.0  # roundings at the size of an operand when a fused contraction is summed onto it
EXACT_DOUBLE = 2.0**53  # integers above it are not all representable in the double that integer powers go through


def _binary(g: Draw) -> Rule:
    x = g.operand(low=0)
    y = g.broadcastable(x)
    return Rule([x, y], [broadcast(x, y)])


# Add, Sub, Mul ---------------------------------------------------------------------------------------------------------
def _sum_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """e_a + e_b + u (|a| + |b|), which covers any regrouping of two sums; u |y| where that is not allowed.

    Where an operand was computed, it may be a contraction that is summed onto the other one: block by block, and its bias after that.
    """
    a, b = aligned_balls(node, balls)
    form, y, own, again = node.out_formats[0], ys[0], None, None
    if form.is_float:
        size = a.value.abs() + b.value.abs() if policy.reassociation else y.abs()
        own = size * policy.u(form) + (size != 0) * policy.eta(form)
        if policy.reassociation and (a.worst is not None or b.worst is not None):
            again = own * (ONTO - 1)
    return answer(add(a.worst, b.worst, again), quadrature(a.spread, b.spread), y, own)


def _product_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """|a| e_b + |b| e_a + e_a e_b + u |y|."""
    a, b = aligned_balls(node, balls)
    left, right, y = a.value.double().abs(), b.value.double().abs(), ys[0]
    worst = add(
        None if b.worst is None else left * b.worst,
        None if a.worst is None else right * a.worst,
        None if a.worst is None or b.worst is None else a.worst * b.worst,
    )
    spread = quadrature(None if b.spread is None else left * b.spread, None if a.spread is None else right * a.spread)
    return answer(worst, spread, y, local(policy, node.out_formats[0], y))


op("Add", meaning=lambda a, x, y: x + aligned(a, x, y), error=within_range(_sum_error))(_binary)
op("Sub", meaning=lambda a, x, y: x - aligned(a, x, y), error=within_range(_sum_error))(_binary)
op("Mul", meaning=lambda a, x, y: x * aligned(a, x, y), error=within_range(_product_error))(_binary)


# Div, Mod --------------------------------------------------------------------------------------------------------------
def _div(a: Node, x: Tensor, y: Tensor) -> Tensor:
    y = aligned(a, x, y)
    return x / y if x.is_floating_point() else trunc_divide(x, y, a.in_formats[0])


def _mod(a: Node, x: Tensor, y: Tensor) -> Tensor:
    if x.is_floating_point():
        return torch.fmod(x, y) if a.fmod else torch.remainder(x, y)
    form = a.in_formats[0]
    rest = x - trunc_divide(x, y, form) * y
    if a.fmod or form is None or form.kind == "uint":
        return rest
    return torch.where((rest != 0) & ((rest < 0) != (y < 0)), rest + y, rest)


def _integer_quotient_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Exact, but undecided by zero and where the lowest number is divided by -1."""
    a, b = aligned_balls(node, balls)
    y, form = ys[0], node.in_formats[0]
    worst, spread = exact(node, policy, [a, b], ys)[0]
    bad = b.value == 0
    if form.kind == "int":
        bad = bad | ((b.value == -1) & (a.value == int(form.lowest)))
    if not bool(bad.any()):
        return [(worst, spread)]
    return answer(zeros_like(y).masked_fill(bad, INF), zeros_like(y).masked_fill(bad, INF), y, worst)


def _quotient_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """(e_a + |y| e_b) / (|b| - e_b), undecided if e_b >= |b|; a reciprocal followed by a product rounds by 2.5 u |y|."""
    if not ys[0].is_floating_point():
        return _integer_quotient_error(node, policy, balls, ys)
    a, b = aligned_balls(node, balls)
    y, size = ys[0], b.value.abs()
    own = local(policy, node.out_formats[0], y, 2.5)

    def swing(up: Any, down: Any) -> Any:
        if down is None:
            return None if up is None else up / size
        return (add(up, y.abs() * down) / (size - down)).masked_fill(down >= size, INF)

    def spreads(up: Any, down: Any) -> Any:
        if down is None:
            return None if up is None else up / size
        return (quadrature(up, y.abs() * down) / (size - down)).masked_fill(down >= size, INF)

    return answer(swing(a.worst, b.worst), spreads(a.spread, b.spread), y, own)


def _remainder_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """a - q b with the rounded quotient q: where q may be the next integer the result may be off by one whole |b|."""
    if not ys[0].is_floating_point():
        return _integer_quotient_error(node, policy, balls, ys)
    a, b = balls
    assert a is not None
    assert b is not None
    y, size = ys[0], b.value.abs()
    u = policy.u(node.out_formats[0])
    quotient = a.value / b.value
    near = (quotient - quotient.round()).abs()
    own = (a.value.abs() + y.abs()) * (2 * u) + policy.eta(node.out_formats[0])

    def swing(up: Any, down: Any, together: Callable[..., Any]) -> Tensor:
        slack = quotient.abs() * (2.5 * u)
        if up is not None or down is not None:
            moved = together(None if up is None else up, None if down is None else quotient.abs() * down)
            slack = slack + moved / (size - (0.0 if down is None else down)).clamp(min=0)
        inherited = together(up, None if down is None else (quotient.abs() + 1) * down)
        r = torch.where(near <= slack, size, 0.0) if inherited is None else inherited + torch.where(near <= slack, size, 0.0)
        return r.masked_fill(slack >= 0.5, INF)

    return answer(swing(a.worst, b.worst, add), swing(a.spread, b.spread, quadrature), y, own)


def _nonzero(a: Node, x: Tensor, y: Tensor) -> list[Tensor]:
    """How close a divisor is to zero."""
    return [1e-2 - y.abs()] if y.is_floating_point() else [(y == 0).double()]


def _divisor(g: Draw, x: Any, form: Format) -> Any:
    """Integer divisors are drawn away from zero, of either sign; floats are kept away by the loss."""
    if form.is_float:
        return g.broadcastable(x)
    low, high = (-9, -1) if form.kind == "int" and g.flag(0.3) else (1, 9)
    return g.given(suffix(g, x), low, high)


@op("Div", meaning=_div, error=_quotient_error, safe=_nonzero)
def div(g: Draw) -> Rule:
    x = g.operand(low=0)
    y = _divisor(g, x, g.type("T"))
    return Rule([x, y], [broadcast(x, y)])


@op("Mod", meaning=_mod, error=_remainder_error, safe=_nonzero)
def mod(g: Draw) -> Rule:
    x = g.operand(low=0)
    form = g.type("T")
    y = _divisor(g, x, form)
    must = form.is_float and g.opset < 28  # until then only fmod is defined for floats
    return Rule([x, y], [broadcast(x, y)], {"fmod": 1} if must or g.flag(0.3) else {})


# Pow -------------------------------------------------------------------------------------------------------------------
def _pow(a: Node, x: Tensor, p: Tensor) -> Tensor:
    p = aligned(a, x, p)
    if x.is_floating_point():
        if p.is_floating_point():
            return x.pow(p.to(x.dtype)) if p.dtype == x.dtype else x.to(torch.promote_types(x.dtype, p.dtype)).pow(p).to(x.dtype)
        # an integer exponent may not be representable in half precision
        wide = x if x.dtype.itemsize > 2 else x.float()
        return wide.pow(as_float(p, a.in_formats[1], wide.dtype)).to(x.dtype)
    if p.is_floating_point():
        return x.double().pow(p.double()).to(torch.int64).to(x.dtype)
    return x.long().pow(p.long()).to(x.dtype)


def _integer_power_error(node: Any, policy: Policy, a: Ball, b: Ball, y: Any) -> Sequence[Radii]:
    """Exact while a double holds the power; where one overflows or falls between integers by a hair it is undecided."""
    p = as_float(b.value, node.in_formats[1], torch.float64)
    power = a.value.double().pow(p)
    limit = min(EXACT_DOUBLE, float(node.out_formats[0].largest))
    fine = (power.abs() <= limit) & ((power == power.round()) | ((power - power.round()).abs() > power.abs() * 1e-6 + 1e-6))
    bad = ~fine
    for e in (a.worst, b.worst):
        bad = bad if e is None else bad | ~(e == 0)
    return answer(None, None, y, zeros_like(y).masked_fill(bad, INF) if bool(bad.any()) else None)


def _power_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Monotone in base and exponent over positive bases: the four corners. A base that may be zero needs a sure exponent.

    Rounding u |y| (4 + 2 |y ln x|); multiples of 1/2 up to 4 may be products and roots, within 6 u.
    """
    a, b = aligned_balls(node, balls)
    y, form = ys[0], node.out_formats[0]
    if not y.is_floating_point():
        return _integer_power_error(node, policy, a, b, y)
    x, p = a.value, as_float(b.value, node.in_formats[1], torch.float64)
    u = policy.u(form)
    steps = (p * x.abs().clamp(min=1e-300).log()).abs()
    short = ((2 * p) == (2 * p).round()) & (p.abs() <= 4)
    own = y.abs() * u * torch.where(short, 6.0, 4 + 2 * steps) + policy.eta(form)
    if a.worst is None and b.worst is None:
        return answer(None, None, y, own, COVERED)
    whole = p == p.round()

    def swing(e: Any, d: Any) -> Tensor:
        worst = zeros_like(y)
        for base in [x] if e is None else [x - e, x + e]:
            for exponent in [p] if d is None else [p - d, p + d]:
                worst = worst.maximum((base.pow(exponent) - y).abs())
        crosses = x <= 0 if e is None else x <= e
        unsure = ~whole if d is None else torch.ones_like(whole)
        if e is not None:
            unsure = unsure | ((p < 0) & (x.abs() <= e))
        return worst.masked_fill(crosses & unsure, INF).nan_to_num(nan=INF)

    return answer(swing(a.worst, b.worst), swing(a.spread, b.spread), y, own, COVERED)


def _power_domain(a: Node, x: Tensor, p: Tensor) -> list[Tensor]:
    """Positive bases for exponents that are not whole, bases away from zero for negative ones, and moderate exponents."""
    if not x.is_floating_point():
        return [((p < 0) & (x == 0)).double()]
    p = aligned(a, x, p).to(x.dtype)
    root, pole = p != p.round(), p < 0
    inside = torch.where(root, 1e-2 - x, torch.where(pole, 1e-2 - x.abs(), -torch.ones_like(x)))
    limit = log(0.25 * a.out_formats[0].largest) if a.out_formats[0] is not None else 16.0
    return [inside, p.abs() - 16, p * x.abs().clamp(min=1e-6).log() - limit]


@op("Pow", meaning=_pow, error=_power_error, safe=_power_domain)
def power(g: Draw) -> Rule:
    x = g.operand(low=0)
    base, kind = g.type("T"), g.choose(4)
    if kind < 2:  # the exponents that optimisers rewrite
        form = g.type("T1")
        options = [2, 3, 1, 0] if not (form.is_float and base.is_float) else [2.0, 0.5, 3.0, 1.0, -1.0, 0.0, 1.5, -0.5, 4.0]
        y = g.const(np.full([1] * g.pick([0, 0, 1]), g.pick(options)).astype(form.numpy))
    elif not base.is_float:
        y = g.given(suffix(g, x), 0, 3, among=INTEGERS)
    elif kind == 2:
        y = g.given(suffix(g, x), 0, 3)
    else:
        y = g.broadcastable(x)
    return Rule([x, y], [broadcast(x, y)])


# variadic --------------------------------------------------------------------------------------------------------------
def _extreme(pick: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def meaning(a: Node, *xs: Tensor) -> Tensor:
        form = a.in_formats[0]
        if form is UINT64:
            return ordered(reduce(pick, [ordered(x, form) for x in xs]), form)
        return reduce(pick, xs)

    return meaning


def _total_error(mean: bool) -> Any:
    """gamma_n times the sum of magnitudes, which any order of summation keeps to."""

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        present = [b for b in balls if b is not None]
        n, y, form = len(present), ys[0], node.out_formats[0]
        own = None
        if n > 1:
            own = add(*[b.value.abs() for b in present]) * (gamma(n + 2 if mean else n, policy.u(form)) / (n if mean else 1)) + policy.eta(form)
        share = 1 / n if mean else 1.0
        scaled = [tuple(None if r is None else r * share for r in b[1:]) for b in present]
        return answer(add(*[s[0] for s in scaled]), quadrature(*[s[1] for s in scaled]), y, own)

    return rule


def _variadic(g: Draw) -> Rule:
    xs = [g.operand(low=0)]
    shape: Sequence[Any] = xs[0]
    for _ in range(g.pick([1, 2, 0, 3, 4])):
        xs.append(g.broadcastable(shape))
        shape = broadcast(shape, xs[-1])
    return Rule(xs, [shape])


op("Max", meaning=_extreme(torch.maximum), error=monotone_all())(_variadic)
op("Min", meaning=_extreme(torch.minimum), error=monotone_all())(_variadic)
op("Sum", meaning=lambda a, *xs: reduce(torch.add, xs), error=_total_error(mean=False))(_variadic)
op("Mean", meaning=lambda a, *xs: reduce(torch.add, xs) / len(xs), error=_total_error(mean=True))(_variadic)


# bits ------------------------------------------------------------------------------------------------------------------
def _bit_shift(a: Node, x: Tensor, y: Tensor) -> Tensor:
    """Shifts by the width or more leave only copies of the sign bit; torch leaves some of them undefined."""
    form = a.in_formats[0]
    bits = 8 * x.dtype.itemsize if form is None else form.bits
    over = (y < 0) | (y >= bits)
    by = torch.where(over, torch.zeros_like(y), y)
    if a.direction == "LEFT":
        return torch.where(over, torch.zeros_like(x), x << by)
    if form is UINT64:
        shifted = torch.where(by > 0, ((x >> 1) & 0x7FFFFFFFFFFFFFFF) >> (by - 1).clamp(min=0), x)
        return torch.where(over, torch.zeros_like(x), shifted)
    signs = torch.zeros_like(x) if form is None or form.kind == "uint" else x >> torch.full_like(y, bits - 1)
    return torch.where(over, signs, x >> by)


def _shift_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Exact; shifts by the width or more are undefined until opset 28."""
    by, y = balls[1], ys[0]
    assert by is not None
    worst, spread = exact(node, policy, balls, ys)[0]
    over = (by.value < 0) | (by.value >= node.in_formats[0].bits)
    if node.version >= 28 or not bool(over.any()):
        return [(worst, spread)]
    bad = zeros_like(y).masked_fill(over, INF)
    return answer(bad, bad, y, worst)


@op("BitShift", meaning=_bit_shift, error=_shift_error)
def bit_shift(g: Draw) -> Rule:
    x = g.operand(low=0)
    y = g.given(suffix(g, x), 0, g.type("T").bits - 1)
    return Rule([x, y], [broadcast(x, y)], {"direction": g.pick(["RIGHT", "LEFT"])})


def _bitwise(name: str, meaning: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return op(name, meaning=lambda a, x, y: meaning(x, y), error=exact, since=18)(_binary)


_bitwise("BitwiseAnd", torch.bitwise_and)
_bitwise("BitwiseOr", torch.bitwise_or)
_bitwise("BitwiseXor", torch.bitwise_xor)
