"""Rounding of sums of products, for operators whose weights are not tensors alone: Gemm's attributes, Einsum's many operands, norms."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from specs.formats import Format
from specs.numerics import INF, Policy, gamma

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
    return math.sqrt(n) * policy.accumulation(form) + math.sqrt(extra) * policy.u(form) + policy.operand(form)


def accumulated(policy: Policy, form: Format, magnitude: Tensor, n: float, extra: float = 1.0, lost: float = 1.0, total: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Own rounding, worst and spread, of sums of n terms whose absolute values add up to `magnitude`.

    lost    factor on what flushing denormal terms may lose
    total   what a partial sum may reach when that is not the magnitude (a mean adds before it divides): where it may
            overflow on the way, everything is undecided
    """
    eta = policy.eta(form) * lost
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
