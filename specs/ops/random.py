"""Operators with random results, and Dropout. No two implementations agree on a sample: only what is certain of any is decided.

A sample that is merely bounded is undecided too: what follows counts its own roundings at the reference's sample, which
says nothing of theirs when the radius is as large as the value.

A meaning draws from a generator seeded by the node itself, so that the same model gives the same sample every time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.formats import BY_ONNX
from specs.numerics import EXACT, INF, Ball, Policy, Radii, undecidable, undecided
from specs.program import Node


def _generator(a: Node) -> torch.Generator:
    """Seeded by the attribute, or else by the name of the node's output."""
    seed = crc32(a.outputs[0].encode()) if a.seed is None else int(np.float64(a.seed).view(np.int64))
    return torch.Generator().manual_seed(seed)


def _uniform(a: Node, shape: Sequence[int]) -> Tensor:
    return torch.rand(tuple(shape), dtype=torch.float64, generator=_generator(a))


def _type(a: Node, like: Tensor | None = None) -> torch.dtype:
    return like.dtype if a.dtype is None and like is not None else a.torch(BY_ONNX[a.dtype or 1])


# normal and uniform ------------------------------------------------------------------------------------------------------
def _normal(a: Node, x: Tensor | None = None) -> Tensor:
    shape = a.shape if x is None else tuple(x.shape)
    sample = torch.randn(shape, dtype=torch.float64, generator=_generator(a))
    return (sample * a.scale + a.mean).to(_type(a, x))


def _uniform_between(a: Node, x: Tensor | None = None) -> Tensor:
    return (_uniform(a, a.shape if x is None else x.shape) * (a.high - a.low) + a.low).to(_type(a, x))


def _seeded(g: Draw, **attrs: Any) -> dict[str, Any]:
    return {**attrs, **({"seed": g.int(0, 99) / 1.0} if g.flag(0.3) else {})}


def _moments(g: Draw) -> dict[str, Any]:
    return {**({"mean": g.int(-4, 4) / 2} if g.flag() else {}), **({"scale": g.int(1, 8) / 4} if g.flag() else {})}


def _ends(g: Draw) -> dict[str, Any]:
    low = g.int(-4, 2) / 2
    return {"low": low, "high": low + g.int(1, 6)} if g.flag(0.7) else {}


@op("RandomNormal", meaning=_normal, error=undecidable, weight=0.2)
def random_normal(g: Draw) -> Rule:
    """Nothing is certain of its sample, but its type and shape are."""
    shape = [g.int(1, 8) for _ in range(g.int(1, 4))]
    return Rule([], [shape], _seeded(g, shape=shape, dtype=g.type("T").onnx, **_moments(g)))


@op("RandomUniform", meaning=_uniform_between, error=undecidable, weight=0.2)
def random_uniform(g: Draw) -> Rule:
    """A sample between two ends."""
    shape = [g.int(1, 8) for _ in range(g.int(1, 4))]
    return Rule([], [shape], _seeded(g, shape=shape, dtype=g.type("T").onnx, **_ends(g)))


def _like(g: Draw) -> tuple[Any, dict[str, Any]]:
    """An operand whose shape is used, and the type of the result: given, or that of the operand where it can be."""
    x = g.operand(rank=(0, 6), low=0)
    if x.format is not None and x.format.is_float and g.flag():
        g.type("T2", among=[x.format])
        return x, {}
    return x, {"dtype": g.type("T2").onnx}


@op("RandomNormalLike", meaning=_normal, error=undecidable, weight=0.2)
def random_normal_like(g: Draw) -> Rule:
    """Like RandomNormal, in the shape of another value."""
    x, attrs = _like(g)
    return Rule([x], [x], _seeded(g, **attrs, **_moments(g)))


@op("RandomUniformLike", meaning=_uniform_between, error=undecidable, weight=0.2)
def random_uniform_like(g: Draw) -> Rule:
    """Like RandomUniform, in the shape of another value."""
    x, attrs = _like(g)
    return Rule([x], [x], _seeded(g, **attrs, **_ends(g)))


# Bernoulli, Multinomial ----------------------------------------------------------------------------------------------------
def _bernoulli(a: Node, p: Tensor) -> Tensor:
    return (_uniform(a, p.shape) < p).to(_type(a, p))


def _coin(a: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Tensor]) -> Sequence[Radii]:
    """Certain where the probability itself is certainly 0 or 1."""
    p = balls[0]
    assert p is not None
    chance = (p.value > 0) & (p.value < 1)
    if p.worst is not None:
        chance = chance | (p.worst > 0)
    radius = chance.double().masked_fill(chance, INF)
    return [(radius, radius)]


@op("Bernoulli", meaning=_bernoulli, error=_coin, safe=lambda a, p: [-p, p - 1], since=15, weight=0.2)
def bernoulli(g: Draw) -> Rule:
    """Coins of given probabilities, as any type."""
    p = g.operand(low=0)
    if g.flag(0.3):
        g.type("T2", among=[p.format] if p.format is not None else None)
        return Rule([p], [p], _seeded(g))
    return Rule([p], [p], _seeded(g, dtype=g.type("T2").onnx))


def _multinomial(a: Node, x: Tensor) -> Tensor:
    chances = torch.softmax(x.double(), 1)
    return torch.multinomial(chances, a.sample_size, True, generator=_generator(a)).to(BY_ONNX[a.dtype].torch)


@op("Multinomial", meaning=_multinomial, error=undecidable, weight=0.2)
def multinomial(g: Draw) -> Rule:
    """Samples of classes with given logarithms of probabilities."""
    x, n = g.operand(rank=2), g.int(1, 6)
    return Rule([x], [[x[0], n]], _seeded(g, dtype=g.type("T2").onnx, sample_size=n))


# Dropout -------------------------------------------------------------------------------------------------------------------
def _trains(a: Node, training: Tensor | None) -> bool:
    """Operators before opset 7 trained unless told not to; from 7 to 11 nothing was dropped."""
    if a.version < 7:
        return not a.is_test
    return training is not None and bool(training)


def _kept(a: Node, shape: Sequence[int], rate: float) -> Tensor:
    """With a seed, the sample of numpy's generator of this seed, as in ONNX's own tests."""
    if a.seed is None:
        return _uniform(a, shape) >= rate
    return torch.from_numpy(np.asarray(np.random.RandomState(int(a.seed)).uniform(0, 1, tuple(shape)) >= rate))


def _dropout(a: Node, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> tuple[Tensor, Tensor]:
    rate = (0.5 if a.ratio is None else a.ratio) if ratio is None else float(ratio)
    kind = torch.bool if a.version >= 10 else x.dtype
    if rate == 0 or not _trains(a, training):
        return x, torch.ones(x.shape, dtype=kind)
    keep = _kept(a, x.shape, rate)
    wide = x.float() if x.dtype.itemsize == 1 else x  # torch divides no 8-bit floats
    return torch.where(keep, (wide / (1 - rate)).to(x.dtype), torch.zeros((), dtype=x.dtype)), keep.to(kind)


def _dropped(a: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Tensor]) -> Sequence[Radii]:
    """An identity when nothing is dropped; else only zeros are certain."""
    if any(b is not None and b.worst is not None for b in balls[1:]):
        return undecidable(a, policy, balls, ys)
    x, ratio, training = (*balls, None, None)[:3]
    assert x is not None
    rate = (0.5 if a.ratio is None else a.ratio) if ratio is None else float(ratio.value)
    if rate == 0 or not _trains(a, None if training is None else training.value):
        return [(x.worst, x.spread), EXACT][: len(ys)]
    unsure = x.value != 0 if x.worst is None else (x.value != 0) | (x.worst > 0)
    radius = unsure.double().masked_fill(unsure, INF)
    return [(radius, radius), *((undecided(y), undecided(y)) for y in ys[1:])]


@op("Dropout", meaning=_dropout, error=_dropped, weight=0.5)
def dropout(g: Draw) -> Rule:
    """Mostly as deployed, where it is the identity and the mask is all true; now and then in training."""
    x = g.operand(rank=(0, 6), low=0)
    attrs: dict[str, Any] = {"seed": g.int(0, 99)} if g.flag(0.3) else {}
    inputs: list[Any] = [x]
    if g.flag(0.7):
        rate = g.pick([0.5, 0.25, 0.0, 0.9])
        inputs.append(g.const(np.array(rate, g.type("T1").numpy)))
    else:
        g.skip()
        inputs.append(None)
    if g.flag():
        inputs.append(g.const(np.array(g.flag(0.2))))
    return Rule(inputs, [x, x if g.flag() else None], attrs)
