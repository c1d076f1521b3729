"""Rounding of sums of products, for contractions of several operands (MatMul, Einsum), scaled ones (Gemm), norms and means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from specs.formats import Format
from specs.numerics import INF, TYPICAL, Ball, ErrorRule, Policy, Radii, exact_whole, finite, gamma, outputs, settle

if TYPE_CHECKING:
    from torch import Tensor


def growth(policy: Policy, form: Format, n: float, extra: float = 1.0) -> float:
    """How much the magnitude of n terms, added in any order, may be off, after `extra` roundings of each term or of the result."""
    u, accumulator = policy.u(form), policy.accumulation(form)
    if form.bits <= 16 and n * accumulator < 1:
        grow = n * accumulator + (1 + extra) * u
    else:
        grow = gamma(n + 1 + extra, accumulator if form.bits <= 16 else u)
    return grow + 2 * policy.operand(form)


def drift(policy: Policy, form: Format, n: float, extra: float = 1.0) -> float:
    """The same in quadrature: a serial sum of n terms is off by about sqrt(n) u of its magnitude."""
    return TYPICAL * (math.sqrt(n) * policy.accumulation(form) + math.sqrt(extra) * policy.u(form)) + policy.operand(form)


def accumulated(
    policy: Policy, form: Format, magnitude: Tensor, n: float, extra: float = 1.0, total: Tensor | None = None, y: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Own rounding, worst and spread, of sums of n terms whose absolute values add up to `magnitude`.

    `total` is what a partial sum may reach when that is not the magnitude (a mean adds before it divides): where that may
    overflow, everything is undecided. `y` is the result where it alone is rounded to a half by an accumulator in float32.
    """
    eta = policy.eta(form)
    if y is not None and form.bits <= 16 and not policy.half_accumulation:
        acc, size = policy.accumulation(form), y.abs() * policy.u(form)
        return magnitude * gamma(n + 1 + extra, acc) + size * 1.01 + eta, magnitude * (TYPICAL * math.sqrt(n) * acc) + size * TYPICAL + eta
    grow = growth(policy, form, n, extra)
    worst = magnitude * grow + eta * (n + 1) if grow < INF else magnitude.new_full(magnitude.shape, INF)
    spread = magnitude * drift(policy, form, n, extra) + eta
    return overflowing(policy, form, magnitude if total is None else total, worst, spread)


def overflowing(policy: Policy, form: Format, reached: Tensor, worst: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Undecided where an intermediate of this size would overflow although the result does not."""
    if form.bits <= 16 and not policy.half_accumulation:
        return worst, spread
    over = ~(reached <= form.largest * (1 - 2 * form.u))
    if bool(over.any()):
        return worst.masked_fill(over, INF), spread.masked_fill(over, INF)
    return worst, spread


def multilinear(terms: Callable[[Any, Sequence[Any]], float], extra: float = 0.0) -> ErrorRule:
    """A contraction that is linear in every operand, whatever their number; attributes must not make magnitudes negative.

    `terms(node, values)` is the number of products one result adds up. A change of all operands is the sum over i of
    f(|x_1| + e_1, ..., e_i, ..., |x_k|), which needs no difference of nearly equal numbers.
    """

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        form = node.out_formats[0]
        if form is None or not form.is_float:
            return exact_whole(node, policy, balls, ys)
        present = [b for b in balls if b is not None]
        sizes = [b.value.abs() for b in present]

        def f(parts: Sequence[Any]) -> Tensor:
            return outputs(node.op.meaning(node, *parts))[0]

        worst, spread = accumulated(policy, form, f(sizes), terms(node, sizes), extra + len(present) - 1, y=ys[0])
        moving = [i for i, b in enumerate(present) if b.worst is not None]
        if not moving:
            return [(settle(worst), settle(spread))]
        squares, variance = [s.square() for s in sizes], spread.square()
        for i in moving:
            e, v = finite(present[i].worst), finite(present[i].spread).clamp(max=1e150).square()
            worst = worst + f([*sizes[:i], e, *sizes[i + 1 :]])
            variance = variance + f([*squares[:i], v, *squares[i + 1 :]])
            sizes[i], squares[i] = sizes[i] + e, squares[i] + v
        return [(settle(worst), settle(variance.sqrt()))]

    return rule
