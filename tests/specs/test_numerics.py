"""The combinators that make error rules: an input moved inside its radius, or computed in less precision, stays inside the result's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from specs import numerics
from specs.contraction import counted, linear, multilinear, summed
from specs.formats import BFLOAT16, DOUBLE, FLOAT, FLOAT16, INT32, Format
from specs.numerics import EXACT, INF, LOOSEST, STRICT, Ball, ErrorRule, Policy, Sure

SHAPE = (3, 4)
values = arrays.arrays(np.float64, SHAPE, elements=st.floats(-8, 8, width=32).map(lambda v: v if abs(v) > 1e-6 else 0.0)).map(torch.from_numpy)
radii = arrays.arrays(np.float64, SHAPE, elements=st.sampled_from([0.0, 1e-6, 1e-3, 0.1, 2.0])).map(torch.from_numpy)
steps = arrays.arrays(np.float64, SHAPE, elements=st.sampled_from([-1.0, -0.7, 0.0, 0.3, 1.0])).map(torch.from_numpy)
formats = st.sampled_from([FLOAT, DOUBLE, FLOAT16, BFLOAT16])


def node(meaning: Callable[..., Any], form: Format = FLOAT, outputs: int = 1, **attrs: Any) -> Any:
    return SimpleNamespace(op=SimpleNamespace(meaning=meaning, name="Test"), in_formats=[form] * 8, out_formats=[form] * outputs, **attrs)


def ball(value: Tensor, radius: Tensor | None = None) -> Ball:
    return Ball(value, radius, None if radius is None else radius / 2)


def contains(worst: Tensor | None, y: Tensor, moved: Tensor) -> None:
    away = (moved.double() - y.double()).abs()
    bound = torch.zeros_like(away) if worst is None else worst
    assert bool(((away <= bound * (1 + 1e-9) + y.double().abs() * 1e-14) | (bound == INF)).all()), (away, bound)


def check_moved(rule: ErrorRule, meaning: Callable[..., Any], xs: Sequence[Tensor], es: Sequence[Tensor], ds: Sequence[Tensor], form: Format = FLOAT) -> None:
    """Every output of operands moved by d times their radii lies inside the radii that the rule gives."""
    n = node(meaning, form)
    ys = numerics.outputs(meaning(n, *xs))
    got = rule(n, LOOSEST, [ball(x, e) for x, e in zip(xs, es, strict=True)], ys)
    moved = numerics.outputs(meaning(n, *[x + e * d for x, e, d in zip(xs, es, ds, strict=True)]))
    for (worst, spread), y, m in zip(got, ys, moved, strict=True):
        contains(worst, y, m)
        assert worst.shape == spread.shape == y.shape and worst.dtype == spread.dtype == torch.float64
        assert not bool(torch.isnan(worst).any()) and bool((worst >= 0).all()) and bool((spread >= 0).all())


# pieces --------------------------------------------------------------------------------------------------------------
def test_none_is_exact_in_sums() -> None:
    one = torch.ones(2, dtype=torch.float64)
    assert numerics.add(None, None) is None and numerics.quadrature(None, None) is None
    assert numerics.add(None, one, one).tolist() == [2, 2]
    assert numerics.quadrature(None, one) is one and numerics.quadrature(3 * one, 4 * one).tolist() == [5, 5]
    assert numerics.both(EXACT, None) == EXACT
    worst, spread = numerics.both((3 * one, 3 * one), 4 * one)
    assert worst.tolist() == [7, 7] and spread.tolist() == [math.hypot(3, 4 * numerics.TYPICAL)] * 2


@given(values, radii, steps)
def test_an_interval_reaches_as_far_as_its_ends_and_no_mistake_of_ours_widens_it(y: Tensor, e: Tensor, d: Tensor) -> None:
    inside = y + e * d * 0.9
    r = numerics.between(y - e, y + e, inside)
    torch.testing.assert_close(r, (inside - (y - e)).abs().maximum((inside - (y + e)).abs()), rtol=0, atol=0)
    far = numerics.between(y + e, y - e, y + 100)
    torch.testing.assert_close(far, (y + e) - (y - e), rtol=0, atol=0)


@given(st.floats(1, 1e6), st.sampled_from([2.0**-24, 2.0**-11, 2.0**-8, 0.5]))
def test_gamma_bounds_the_product_of_roundings(n: float, u: float) -> None:
    """(1 + u)^n - 1 <= gamma_n, infinite where nothing can be said."""
    g = numerics.gamma(n, u)
    assert g == INF if n * u >= 1 else g >= math.expm1(n * math.log1p(u)) * (1 - 1e-12)


def test_infinite_radii_survive_a_linear_map() -> None:
    e = torch.tensor([INF, 1.0, 0.0], dtype=torch.float64)
    back = numerics.settle(numerics.finite(e) * 0.5)
    assert back.tolist() == [INF, 0.5, 0.0]
    assert numerics.settle(torch.tensor([math.nan, -0.0, 1e295], dtype=torch.float64)).tolist() == [INF, 0.0, INF]


def test_a_policy_says_how_results_and_accumulators_round() -> None:
    assert LOOSEST.u(FLOAT) == 2.0**-24 and LOOSEST.u(FLOAT16) == 2.0**-11 and LOOSEST.u(BFLOAT16) == 2.0**-8 and LOOSEST.u(DOUBLE) == 2.0**-52
    assert LOOSEST.u(INT32) == LOOSEST.eta(INT32) == 0 and LOOSEST.u(None) == 0
    assert LOOSEST.accumulation(FLOAT16) == 2.0**-11 and STRICT.accumulation(FLOAT16) == 2.0**-24 and STRICT.accumulation(FLOAT) == 2.0**-24
    assert Policy(tf32=True).operand(FLOAT) == 2.0**-11 and LOOSEST.operand(FLOAT) == 0 and Policy(tf32=True).operand(DOUBLE) == 0
    assert all(LOOSEST.eta(f) > 0 for f in (FLOAT, DOUBLE, FLOAT16, BFLOAT16))
    assert numerics.local(LOOSEST, INT32, torch.ones(1)) is None


# rules that carry an operand's radius ----------------------------------------------------------------------------------
MONOTONE: list[tuple[str, Callable[[Tensor], Tensor]]] = [
    ("tanh", torch.tanh),
    ("exp", torch.exp),
    ("minus a cube", lambda x: -(x**3)),
    ("floor", torch.floor),
    ("relu", torch.relu),
    ("sign", torch.sign),
    ("sqrt above 0", lambda x: x.clamp(min=0).sqrt()),
]


@pytest.mark.parametrize("f", [f for _, f in MONOTONE], ids=[name for name, _ in MONOTONE])
@given(x=values, e=radii, d=steps)
def test_monotone(f: Callable[[Tensor], Tensor], x: Tensor, e: Tensor, d: Tensor) -> None:
    check_moved(numerics.monotone(), lambda a, t: f(t), [x], [e], [d])


@given(values, radii)
def test_monotone_is_tight_and_a_plateau_is_exact(x: Tensor, e: Tensor) -> None:
    n = node(lambda a, t: t.clamp(-1, 1))
    ((worst, _),) = numerics.monotone(rounds=False)(n, LOOSEST, [ball(x, e)], [x.clamp(-1, 1)])
    best = ((x + e).clamp(-1, 1) - x.clamp(-1, 1)).abs().maximum(((x - e).clamp(-1, 1) - x.clamp(-1, 1)).abs())
    torch.testing.assert_close(worst, best, rtol=0, atol=0)
    assert numerics.monotone(rounds=False)(n, LOOSEST, [ball(x)], [x.clamp(-1, 1)]) == [EXACT]


def test_undecided_operands_stay_undecided_even_on_a_plateau() -> None:
    """An undecided operand may be NaN."""
    x, e = torch.tensor([9.0, 9.0], dtype=torch.float64), torch.tensor([INF, 0.0], dtype=torch.float64)
    n = node(lambda a, t: t.clamp(-1, 1))
    ((worst, spread),) = numerics.monotone(rounds=False)(n, LOOSEST, [ball(x, e)], [x.clamp(-1, 1)])
    assert worst.tolist() == spread.tolist() == [INF, 0.0]
    ((worst, _),) = numerics.lipschitz(1.0, cap=0.5)(n, LOOSEST, [ball(x, e)], [x.clamp(-1, 1)])
    assert worst[0] == INF


@given(values, radii, steps)
def test_lipschitz(x: Tensor, e: Tensor, d: Tensor) -> None:
    check_moved(numerics.lipschitz(1.0), lambda a, t: torch.sin(t), [x], [e], [d])
    check_moved(numerics.lipschitz(1.0, cap=2.0), lambda a, t: torch.cos(t), [x], [e], [d])
    check_moved(numerics.lipschitz(1.13, relative_to_input=True), lambda a, t: torch.nn.functional.gelu(t), [x], [e], [d])


@given(values, radii, steps)
def test_moves_moves_the_radii_like_the_values(x: Tensor, e: Tensor, d: Tensor) -> None:
    check_moved(numerics.moves(), lambda a, t: t.T.flip(0), [x], [e], [d])
    check_moved(numerics.moves_all, lambda a, *ts: torch.cat(ts, 1), [x, x + 1], [e, e * 2], [d, -d])
    check_moved(numerics.moves(), lambda a, t: tuple(t.split([1, 3], 1)), [x], [e], [d])


def test_moves_is_exact_on_exact_operands_and_undecided_on_inexact_indices() -> None:
    x, i = torch.eye(2, dtype=torch.float64), torch.tensor([1, 0])
    n = node(lambda a, t, at: t[at])
    assert numerics.moves()(n, LOOSEST, [ball(x), ball(i)], [x[i]]) == [EXACT]
    ((worst, _),) = numerics.moves()(n, LOOSEST, [ball(x), ball(i, torch.ones(2, dtype=torch.float64))], [x[i]])
    assert bool((worst == INF).all())


@given(values, values, radii, radii, steps, steps)
def test_linear_in_both_operands(x: Tensor, w: Tensor, e: Tensor, f: Tensor, d: Tensor, g: Tensor) -> None:
    def product(a: Any, p: Tensor, q: Tensor) -> Tensor:
        return p @ q.T

    check_moved(linear(lambda a, v: 4), product, [x, w], [e, f], [d, g])
    check_moved(multilinear(lambda a, v: 4), product, [x, w], [e, f], [d, g])


@given(values, values, radii, radii, steps)
def test_linear_with_a_bias(x: Tensor, w: Tensor, e: Tensor, f: Tensor, d: Tensor) -> None:
    b, c = x[0, :3], e[0, :3]
    check_moved(linear(lambda a, v: 5, bias=2), lambda a, p, q, r: p @ q.T + r, [x, w, b], [e, f, c], [d, -d, d[0, :3]])


@given(values, radii, steps)
def test_linear_without_weights(x: Tensor, e: Tensor, d: Tensor) -> None:
    check_moved(linear(lambda a, v: 4, weights=()), lambda a, t: t.mean(1), [x], [e], [d])


# rules that add a rounding -----------------------------------------------------------------------------------------------
@given(values, values, formats, st.booleans())
def test_a_sum_in_any_order_and_in_the_format_itself_is_inside(x: Tensor, w: Tensor, form: Format, backwards: bool) -> None:
    """A serial sum, rounded to the format after every step: the least accurate of the legal implementations."""
    p, q = (t.to(form.torch).double() for t in (x, w))
    order = range(3, -1, -1) if backwards else range(4)
    total = torch.zeros(3, 3, dtype=form.torch)
    for k in order:
        total = total + (p[:, k, None].to(form.torch) * q[None, :, k].to(form.torch))
    n, y = node(lambda a, s, t: s @ t.T, form), p @ q.T
    for rule in (linear(lambda a, v: 4), multilinear(lambda a, v: 4)):
        ((worst, spread),) = rule(n, LOOSEST, [ball(p), ball(q)], [y])
        contains(worst, y, total)
        assert bool((spread <= worst * (1 + 1e-9)).all())


@given(arrays.arrays(np.float64, (40,), elements=st.floats(-8, 8, width=32)).map(torch.from_numpy), formats, st.randoms(use_true_random=False))
def test_partial_sums_bound_every_order(x: Tensor, form: Format, random: Any) -> None:
    """Terms joined two by two in any order, every sum rounded: within (n - 1) u of the larger of the positive and the negative part."""
    terms = [t.to(form.torch) for t in x]
    kept = torch.stack(terms).double()
    while len(terms) > 1:
        a, b = (terms.pop(random.randrange(len(terms))) for _ in range(2))
        terms.append(a + b)
    y = kept.sum()
    worst, spread = summed(LOOSEST, form, 40, kept.abs().sum(), y, 0.0)
    contains(worst, y, terms[0])
    assert float(spread) <= float(worst) * (1 + 1e-9)
    if form is FLOAT:
        assert float(worst) <= 1.001 * 39 * form.u * float(kept.abs().sum() + y.abs()) / 2 + 1e-37


@given(values, radii)
def test_ends_at_once_and_one_by_one_are_the_same(x: Tensor, e: Tensor) -> None:
    """The short way for balls without anything undecided gives the radii of the long one."""
    f, y = torch.atan, torch.atan(x)
    slow, fast = (numerics.swings(f, kind(x, e, e / 4), y) for kind in (Ball, Sure))
    assert all(torch.allclose(a, b, rtol=1e-12, atol=0) for a, b in zip(slow, fast, strict=True))


def test_integer_products_are_undecided_where_they_meet_what_is() -> None:
    x, w = torch.tensor([[1, 2], [3, 4]], dtype=torch.int32), torch.tensor([[5], [0]], dtype=torch.int32)
    e = torch.tensor([[0.0, INF], [0.0, 1.0]], dtype=torch.float64)
    rule = counted(lambda a, p, q: p @ q)
    ((worst, _),) = rule(node(lambda a, p, q: p @ q, INT32), LOOSEST, [ball(x, e.masked_fill(e == INF, 2.0)), ball(w)], [x @ w])
    assert worst.tolist() == [[0], [0]], "what is multiplied by an exact zero does not count"
    ((worst, _),) = rule(node(lambda a, p, q: p @ q, INT32), LOOSEST, [ball(x), ball(w, torch.tensor([[2.0], [INF]]).double())], [x @ w])
    assert worst.tolist() == [[INF], [INF]]


@given(values, formats)
def test_one_rounding_is_inside(x: Tensor, form: Format) -> None:
    p = x.to(form.torch).double()
    y = torch.tanh(p)
    ((worst, _),) = numerics.monotone()(node(lambda a, t: torch.tanh(t), form), LOOSEST, [ball(p)], [y])
    contains(worst, y, y.to(form.torch))
    assert bool((worst <= y.abs() * 2.1 * form.u + LOOSEST.eta(form)).all()), "one rounding, not many"


# integers ----------------------------------------------------------------------------------------------------------------
def test_integers_are_exact_or_undecided() -> None:
    x = torch.arange(4)
    e = torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    n = node(lambda a, t: t + 1, INT32)
    assert numerics.exact(n, LOOSEST, [ball(x)], [x + 1]) == [EXACT]
    ((worst, _),) = numerics.exact(n, LOOSEST, [ball(x, e)], [x + 1])
    assert worst.tolist() == [0, 0, INF, 0]
    ((worst, _),) = numerics.exact_whole(n, LOOSEST, [ball(x, e)], [x + 1])
    assert bool((worst == INF).all())
    assert numerics.integers_exact(numerics.monotone())(n, LOOSEST, [ball(x)], [x + 1]) == [EXACT]
    assert numerics.integers_exact(numerics.monotone())(node(lambda a, t: t, FLOAT), LOOSEST, [ball(x.double())], [x.double()])[0][0] is not None


def test_exact_broadcasts_what_is_not() -> None:
    a, b = torch.zeros(2, 3), torch.zeros(3)
    ((worst, _),) = numerics.exact(node(lambda n, p, q: p + q), LOOSEST, [ball(a), ball(b, torch.tensor([0.0, 1.0, 0.0]).double())], [a + b])
    assert worst.tolist() == [[0, INF, 0], [0, INF, 0]]
    ((worst, _),) = numerics.exact(node(lambda n, p: p.sum()), LOOSEST, [ball(a, torch.ones(2, 3).double())], [a.sum()])
    assert worst.item() == INF


def test_no_model_is_undecided() -> None:
    ((worst, spread),) = numerics.undecidable(node(lambda a: None), LOOSEST, [], [torch.zeros(2)])
    assert worst.tolist() == spread.tolist() == [INF, INF]
