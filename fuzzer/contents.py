"""First contents of inputs and weights: regimes of magnitude, ties, exact powers of two and zeros, placed on purpose."""

from __future__ import annotations

import numpy as np

from fuzzer.network import Value
from specs.draw import Source
from specs.formats import Format

WORDS = ("a", "Tea", "tea", "", "two words", "x-y-z", " lead", "straße", "A")
REGIMES = ("uniform", "normal", "grid", "positive", "small", "sparse", "powers", "placed")
#: What operators name as hazards: logits far apart, rows that hardly vary, sums near the largest number of a half.
HAZARDS = ("far", "level", "large")
RARE = 24  # one leaf in so many


def draw_contents(v: Value, source: Source, rng: np.random.Generator) -> np.ndarray:
    """Contents for one leaf, inside its range if it has one; the regime is a choice, the numbers come from `rng`."""
    shape = [d or 0 for d in v.shape]
    if v.low is not None or v.high is not None:
        return _ranged(v, shape, rng)
    form = v.format
    if form.kind == "string":
        return rng.choice(np.array(WORDS, dtype=object), shape) if shape else np.array(rng.choice(WORDS), dtype=object)
    if form.kind == "bool":
        return np.asarray(rng.random(shape) < 0.5)
    if form.is_integer:
        span = 6 if source.choose(4) < 3 else min(100, int(form.largest))
        return np.asarray(rng.integers(max(-span, int(form.lowest)), span + 1, shape)).astype(form.numpy)
    drawn = source.choose(RARE * len(REGIMES))
    name = HAZARDS[drawn % len(HAZARDS)] if drawn >= (RARE - 1) * len(REGIMES) else REGIMES[drawn % len(REGIMES)]
    return regime(name, shape, form, rng, denormal=v.kind == "input")


def regime(name: str, shape: list[int], form: Format, rng: np.random.Generator, denormal: bool = True) -> np.ndarray:
    """Floats of one regime, rounded to the format. Denormal ones only where the reference asks for them: of inputs, not of weights."""
    if name == "uniform":
        x = rng.uniform(-2, 2, shape)
    elif name == "normal":
        x = rng.standard_normal(shape)
    elif name == "grid":  # exact ties, and halves for the rounding operators
        x = rng.integers(-8, 9, shape) / 2.0
    elif name == "positive":
        x = rng.uniform(0.1, 2.5, shape)
    elif name == "small":
        x = rng.uniform(-1, 1, shape) * 2.0**-6
    elif name == "sparse":
        x = rng.standard_normal(shape) * (rng.random(shape) < 0.4)
    elif name == "powers":
        x = rng.choice([-1.0, 1.0], shape) * 2.0 ** rng.integers(-4, 4, shape)
    elif name == "far":
        x = rng.uniform(-80, 80, shape)
    elif name == "level":
        x = rng.uniform(1, 4) + rng.uniform(-1, 1, shape) * 2.0**-6
    elif name == "large":
        x = rng.uniform(-1, 1, shape) * min(float(form.largest), 65504.0) / 8
    else:
        x = np.where(rng.random(shape) < 0.3, rng.choice(_special(form, denormal), shape), rng.standard_normal(shape))
    return np.asarray(x).astype(form.numpy)


def _special(form: Format, denormal: bool) -> np.ndarray:
    """Both zeros, the smallest normal number and what lies below it, the neighbours of 1."""
    values = [0.0, -0.0, form.tiny, -form.tiny, 1.0, 1.0 + 2 * form.u, 1.0 - form.u, -1.0]
    return np.array([*values, *([form.tiny / 2, -form.tiny / 4] if denormal and form.bits >= 16 else [])])


def _ranged(v: Value, shape: list[int], rng: np.random.Generator) -> np.ndarray:
    low = v.low if v.low is not None else v.format.lowest
    high = v.high if v.high is not None else v.format.largest
    if v.format.is_float:
        return np.asarray(rng.uniform(low, high, shape)).astype(v.format.numpy)
    if not v.unique or not shape:
        return np.asarray(rng.integers(int(low), int(high) + 1, shape)).astype(v.format.numpy)
    rows = [rng.choice(np.arange(int(low), int(high) + 1), shape[-1], replace=False) for _ in range(int(np.prod(shape[:-1])))]
    return np.asarray(rows).reshape(shape).astype(v.format.numpy)
