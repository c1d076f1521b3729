"""Reductions: ReduceSum, ReduceMean, ReduceMax ... ReduceLogSumExp. Their error rules are in specs.reducing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.formats import FLOATS, UINT64
from specs.numerics import INF
from specs.pointwise import ordered, trunc_divide
from specs.program import Node, wrap
from specs.reducing import (
    Over,
    counted,
    extreme_error,
    factors,
    floats,
    l1_error,
    l2_error,
    log_sum_error,
    log_sum_exp_error,
    mean_error,
    over,
    prod_error,
    products,
    squares,
    sum_error,
    sum_square_error,
)

#: (node, x, dims, keep): a reduction over at least one dim.
Reducer = Callable[[Node, Tensor, tuple[int, ...], bool], Tensor]


def reduced(f: Reducer) -> Callable[..., Tensor]:
    """The meaning of a reduction from what it does over given dims."""

    def meaning(a: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        o = over(a, x, axes)
        return o.reduce(lambda t, dims, keep: f(a, t, dims, keep), x)

    return meaning


# what each does over its dims --------------------------------------------------------------------------------------------
def _prod(a: Node, x: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    return products(x, dims, keep)


def _sum(a: Node, x: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    return x.sum(dims, keep, dtype=x.dtype)


def _mean(a: Node, x: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    """Over integers the wrapped sum divided toward zero, as numpy and C do."""
    if x.is_floating_point():
        return x.mean(dims, keep)
    form = a.in_formats[0]
    total = wrap(x.sum(dims, keep, dtype=x.dtype), form)
    n = math.prod(x.shape[i] for i in dims)
    return trunc_divide(total, torch.full_like(total, n), form)


def _extreme(largest: bool) -> Reducer:
    def f(a: Node, x: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
        form = a.in_formats[0]
        if 0 in (x.shape[i] for i in dims):  # the neutral element; torch refuses
            shape = x.sum(dims, keep).shape
            if x.is_floating_point():
                return x.new_full(shape, -INF if largest else INF)
            if form is UINT64:
                return x.new_full(shape, 0 if largest else -1)
            assert form is not None
            return x.new_full(shape, int(form.lowest if largest else form.largest))
        x = ordered(x, form)
        return ordered(x.amax(dims, keep) if largest else x.amin(dims, keep), form)

    return f


def _l1(a: Node, x: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    return (x if a.in_formats[0] is UINT64 else x.abs()).sum(dims, keep, dtype=x.dtype)


def _sum_square(a: Node, x: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    return (x * x).sum(dims, keep, dtype=x.dtype)


def _l2(a: Node, x: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    """vector_norm accumulates halves in float32, and has a derivative at zero."""
    if x.is_floating_point():
        return torch.linalg.vector_norm(x, 2, dims, keep)
    total = wrap(_sum_square(a, x, dims, keep), a.in_formats[0])
    return total.double().sqrt().to(x.dtype)


def _log_sum(a: Node, x: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    if x.is_floating_point():
        return x.sum(dims, keep).log()
    return wrap(x.sum(dims, keep, dtype=x.dtype), a.in_formats[0]).double().log().to(x.dtype)


def _log_sum_exp(a: Node, x: Tensor, dims: tuple[int, ...], keep: bool) -> Tensor:
    if not x.is_floating_point():
        return torch.logsumexp(x.double(), dims, keep).to(x.dtype)
    if 0 in (x.shape[i] for i in dims):
        return x.exp().sum(dims, keep).log()
    return torch.logsumexp(x, dims, keep)


# drawing -------------------------------------------------------------------------------------------------------------
def _draw(input_since: int = 18, low: int = 1, few: bool = False) -> Callable[[Draw], Rule]:
    """One axis, several, all by leaving them out, or none; `few`: one axis at most times, so that few factors meet."""

    def draw(g: Draw) -> Rule:
        x = g.operand(rank=(0, 6), low=low)
        rank, attrs = len(x), dict[str, Any]()
        if g.flag():
            attrs["keepdims"] = 0 if g.flag(0.8) else 1
        as_input = g.opset >= input_since
        if rank == 0 or g.flag(0.2):
            axes = list(range(rank))
            given: list[int] | None = [] if as_input and g.flag(0.3) else None
            if as_input and g.flag():
                attrs["noop_with_empty_axes"] = 1
                axes = []
        else:
            axes = [g.axis(rank)] if few and g.flag(0.8) else g.axes(rank, least=1)
            given = axes
            if as_input and g.flag(0.1):
                attrs["noop_with_empty_axes"] = 1
        inputs: list[Any] = [x]
        if as_input and given is not None:
            inputs.append(g.const(given))
        elif as_input:
            g.skip()
            inputs.append(None)
        elif given is not None:
            attrs["axes"] = given
        gone = {i % rank for i in axes}
        keep = attrs.get("keepdims", 1) == 1
        return Rule(inputs, [[1 if i in gone else d for i, d in enumerate(x) if keep or i not in gone]], attrs)

    return draw


def _positive_sum(a: Node, x: Tensor, axes: Tensor | None = None) -> list[Tensor]:
    return [1e-3 - over(a, x, axes).sum(x)]


op("ReduceSum", meaning=reduced(_sum), error=floats(sum_error, counted(Over.sum, adds=True)), weight=2)(_draw(13, low=0))
op("ReduceMean", meaning=reduced(_mean), error=floats(mean_error, counted(Over.sum, adds=True, divides=True)), weight=2)(_draw())
op("ReduceMax", meaning=reduced(_extreme(True)), error=extreme_error(True))(_draw())
op("ReduceMin", meaning=reduced(_extreme(False)), error=extreme_error(False))(_draw())
op("ReduceProd", meaning=reduced(_prod), error=floats(prod_error, counted(factors)))(_draw(low=0, few=True))
op("ReduceL1", meaning=reduced(_l1), error=floats(l1_error, counted(Over.sum)))(_draw(low=0))
op("ReduceL2", meaning=reduced(_l2), error=floats(l2_error, counted(squares)))(_draw(low=0))
op("ReduceSumSquare", meaning=reduced(_sum_square), error=floats(sum_square_error, counted(squares)))(_draw(low=0))
# Newer schemas took the integers out of these two, where a logarithm means nothing.
op("ReduceLogSum", meaning=reduced(_log_sum), error=floats(log_sum_error), safe=_positive_sum, among=FLOATS)(_draw())
op("ReduceLogSumExp", meaning=reduced(_log_sum_exp), error=floats(log_sum_exp_error), among=FLOATS)(_draw())
