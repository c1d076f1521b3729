"""Rounding of sums of products, for contractions of several operands (MatMul, Einsum), scaled ones (Gemm), norms and means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from specs.formats import Format
from specs.numerics import EXACT, INF, TYPICAL, Ball, ErrorRule, Policy, Radii, exact_whole, finite, gamma, limited, outputs, settle, undecidable

if TYPE_CHECKING:
    from torch import Tensor


def summed(policy: Policy, form: Any, n: float, magnitude: Tensor, y: Tensor | None = None, extra: float = 1.0) -> tuple[Tensor, Tensor]:
    """Own rounding, worst and spread, of sums of n terms, added in any order, after or before `extra` roundings of every term.

    magnitude, y  sums of the terms' absolute values and of the terms: no partial sum is beyond (magnitude + |y|) / 2, the larger of
    the positive and the negative part, so n - 1 additions cannot be off by more than that many u of it. Without y: the magnitude.
    Where only the result is rounded to a half, y is that result.
    """
    u, acc, eta, adds = policy.u(form), policy.accumulation(form), policy.eta(form), max(0.0, n - 1)
    if acc < u and y is not None:
        size = y.abs()
        return magnitude * gamma(n + 1 + extra, acc) + size * (1.01 * u) + eta, magnitude * (TYPICAL * math.sqrt(n) * acc) + size * (TYPICAL * u) + eta
    first = (n + extra) * acc
    if form.bits <= 16 and (y is None or first > 0.2):  # n u needs no second order, unlike what is relative to partial sums
        grow = n * acc + (1 + extra) * u if n * acc < 1 else gamma(n + 1 + extra, acc)
        if grow == INF:
            return magnitude.new_full(magnitude.shape, INF), magnitude * (TYPICAL * math.sqrt(n) * acc + TYPICAL * math.sqrt(extra) * u) + eta
        return magnitude * (grow + 2 * policy.operand(form)) + eta, magnitude * (TYPICAL * math.sqrt(n) * acc + TYPICAL * math.sqrt(extra) * u) + eta
    unit = acc * (1 + gamma(n + extra, acc)) if first < 1 else INF
    part = adds if y is None else adds / 2
    worst = magnitude * (unit * (part + extra) + 2 * policy.operand(form))
    rough = magnitude * (TYPICAL * math.sqrt(adds) * acc * (0.5 if y is not None else 1.0) + TYPICAL * math.sqrt(extra) * u * several(n) + policy.operand(form))
    if y is not None and adds:
        size = y.abs()
        worst.add_(size, alpha=unit * part)
        rough.add_(size, alpha=TYPICAL * math.sqrt(adds) * acc / 2)
    return worst.add_(eta), rough.add_(eta)


def several(n: float) -> float:
    """Terms round each by itself: their roundings in quadrature are from 1 / sqrt(n) of their sum, where all are alike, to the whole, where one is large."""
    return max(1.0, n) ** -0.1


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
    return TYPICAL * math.sqrt(n) * policy.accumulation(form) + TYPICAL * math.sqrt(extra) * policy.u(form) + policy.operand(form)


def accumulated(
    policy: Policy, form: Format, magnitude: Tensor, n: float, extra: float = 1.0, total: Tensor | None = None, y: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Own rounding, worst and spread, of sums of n terms whose absolute values add up to `magnitude`.

    `total` is what a partial sum may reach when that is not the magnitude (a mean adds before it divides): where that may
    overflow, everything is undecided. `y` is the result, for `summed`.
    """
    worst, spread = summed(policy, form, n, magnitude, y, extra)
    if form.bits <= 16 and not policy.half_accumulation:
        return worst, spread
    return overflowing(policy, form, magnitude if total is None else total, worst + policy.eta(form) * n, spread)


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
            return counted(lambda a, *xs: outputs(a.op.meaning(a, *xs))[0])(node, policy, balls, ys)
        present = [b for b in balls if b is not None]
        sizes = [b.value.abs() for b in present]

        def f(parts: Sequence[Any]) -> Tensor:
            return outputs(node.op.meaning(node, *parts))[0]

        worst, spread = accumulated(policy, form, f(sizes), terms(node, sizes), extra + len(present), y=ys[0])
        moving = [i for i, b in enumerate(present) if b.worst is not None]
        if not moving:
            return [(settle(worst), settle(spread))]
        squares, variance = [s.square() for s in sizes], spread.square()
        again = 1 + 1.3 * terms(node, sizes) * policy.accumulation(form)  # what was off is rounded along with the rest
        for i in moving:
            e, v = limited(present[i])
            worst = worst + f([*sizes[:i], e, *sizes[i + 1 :]]) * again
            if present[i].together:
                variance = variance + f([*sizes[:i], v, *sizes[i + 1 :]]).square()
            else:
                variance = variance + f([*squares[:i], v.square(), *squares[i + 1 :]])
            sizes[i], squares[i] = sizes[i] + e, squares[i] + v.square()
        radii = _settled(worst, variance.sqrt(), [present[i] for i in moving])
        for i in moving:
            if (gone := unknown(present[i])) is not None:
                radii = filled(radii, f([gone if j == i else s.new_ones(s.shape) for j, s in enumerate(sizes)]) > 0)
        return [radii]

    return rule


def linear(terms: Callable[[Any, Sequence[Any]], float], *, weights: Sequence[int] = (1,), data: int = 0, bias: int | None = None) -> ErrorRule:
    """A contraction, linear in the input at `data` and in each of `weights` separately: Conv, MatMul, Gemm, pools, means, sums.

    `terms(node, values)` is the number n of terms of one output, bias included. With op the meaning itself:
    worst = op(|x|, e_w) + op(e_x, |w|) + op(e_x, e_w) and the rounding of `summed`, with one spare for a factor that may be folded in;
    spread in quadrature.
    Operators with no weights (ReduceSum, AveragePool) pass `weights=()`.
    """

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        import torch

        values: list[Any] = [None if b is None else b.value for b in balls]
        form = node.out_formats[0]
        if form is not None and not form.is_float:
            return exact_whole(node, policy, balls, ys)
        absolute = [v.abs() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for v in values]
        n, u_acc = terms(node, values), policy.accumulation(form)
        apply = node.op.meaning

        def at(**changed: Any) -> Tensor:
            args = list(absolute)
            for name, v in changed.items():
                args[int(name[1:])] = v
            return outputs(apply(node, *args))[0]

        def without_bias() -> dict[str, Any]:
            return {} if bias is None or bias >= len(values) or values[bias] is None else {f"_{bias}": torch.zeros_like(values[bias])}

        total = at()
        worst, spread = summed(policy, form, n, total, ys[0], 2.0)
        if (room := policy.eta(form)) and n > 1:
            worst.add_(room * n)
        movers = [i for i in (data, *weights) if i < len(balls) and balls[i] is not None and balls[i].worst is not None]  # type: ignore[union-attr]
        plain, again = without_bias(), 1 + 1.3 * n * u_acc  # what was off is rounded along with the rest
        moving = [balls[i] for i in movers]
        radii = {i: limited(balls[i]) for i in movers}  # type: ignore[arg-type]
        squares: list[Tensor] = []
        for i, (e, s) in radii.items():
            worst = worst + at(**{**plain, f"_{i}": e}) * again
            squares.append(at(**{**plain, f"_{i}": s}).square() if balls[i].together else _square(node, apply, absolute, plain, i, s))  # type: ignore[union-attr]
        if len(movers) == 2:
            worst = worst + at(**{**plain, **{f"_{i}": e for i, (e, _) in radii.items()}}) * again
        if bias is not None and bias < len(balls) and balls[bias] is not None and balls[bias].worst is not None:  # type: ignore[union-attr]
            zero = {f"_{i}": torch.zeros_like(values[i]) for i in (data,)}
            e, s = limited(balls[bias])  # type: ignore[arg-type]
            worst = worst + at(**zero, **{f"_{bias}": e})
            squares.append(at(**zero, **{f"_{bias}": s}).square())
            moving.append(balls[bias])
        if squares:
            spread = sum(squares, spread.square()).sqrt()
        settled = _settled(worst, spread, moving)
        for i in movers:
            if (gone := unknown(balls[i])) is not None:  # type: ignore[arg-type]
                ones = {f"_{j}": torch.ones_like(values[j]) for j in (data, *weights) if j != i and j < len(values) and values[j] is not None}
                settled = filled(settled, at(**{**plain, **ones, f"_{i}": gone}) > 0)
        return [settled]

    return rule


def unknown(ball: Ball) -> Tensor | None:
    """1 where nothing is known of an operand, which may be no number at all: a weight of 0 does not make it one. None if there is no such."""
    if ball.sure or ball.worst is None or not ball.worst.numel() or float(ball.worst.amax()) < INF:
        return None
    return (ball.worst == INF).to(ball.value.dtype)


def filled(radii: Radii, gone: Tensor) -> Radii:
    worst, spread = radii
    assert worst is not None and spread is not None
    return worst.masked_fill(gone, INF), spread.masked_fill(gone, INF)


def _settled(worst: Tensor, spread: Tensor, moving: Sequence[Ball | None]) -> Radii:
    """Nothing is infinite where no operand was and no product can be."""
    if all(b is not None and b.sure for b in moving):
        return worst, spread
    return settle(worst), settle(spread)


def _square(node: Any, apply: Any, absolute: Sequence[Any], plain: dict[str, Any], at: int, spread: Any) -> Any:
    """op(w^2, e^2): the variance that the input at `at` hands on through a linear operator."""
    import torch

    args = [a.square() if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in absolute]
    for name, v in plain.items():
        args[int(name[1:])] = v
    args[at] = spread.square()
    return outputs(apply(node, *args))[0].abs()


def counted(terms: Callable[..., Tensor]) -> ErrorRule:
    """An integer result that is a sum of products: undecided where an operand counts that is, or where a wrong one might make it wrap.

    `terms(node, *values)` is the meaning on the sizes of all operands, as doubles.
    """

    def rule(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        form = node.out_formats[0]
        if all(b is None or b.worst is None for b in balls):
            return [EXACT]
        if form is None or form.bits > 32 or any(f is not None and f.bits > 32 for f in node.in_formats):  # beyond what a double counts
            return undecidable(node, policy, balls, ys)
        sizes = [None if b is None else b.value.double().abs() for b in balls]
        ends = [None if b is None or s is None else s if b.worst is None else s + finite(b.worst) for b, s in zip(balls, sizes, strict=True)]
        reach = terms(node, *ends)
        worst = (reach - terms(node, *sizes)).masked_fill(~(reach <= form.largest), INF)  # whole numbers: no rounding below the limit
        return [(worst, worst)]

    return rule
