"""Contents that decide: drawn again while much of a network's results sits on edges that rounding alone may cross.

An equality of two roundings, a zero point half-way between two integers, a variance lost in cancellation: the reference then
says nothing about what follows, whatever a backend returns. Few networks are concerned, and for most of these other contents
of the same network are not on an edge.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from fuzzer.search import Found
from oracles.reference import Expected, reference
from specs.formats import Format
from specs.numerics import Ball
from specs.program import Program

ENOUGH = 0.002  # share of undecided elements that is not worth another try
TRIES = 1  # a second one costs as much and decides a tenth of what the first does
MASKED = 0.5  # a case of which more is undecided is drawn again

Contents = Mapping[str, np.ndarray]


def decided(program: Program, found: Found, inputs: Callable[[Contents], Contents], again: Callable[[], Found]) -> tuple[Found, dict[str, Expected]]:
    """The more decided of the contents found and others, and the reference at these.

    inputs  writes weights into the program and returns the inputs of a run; called last for the contents returned
    again   other contents of the same network
    """
    best, expected, share = found, reference(program, inputs(found.contents)), 1.0
    share = undecided(expected)
    for _ in range(TRIES):
        if share <= ENOUGH:
            return best, expected
        other = again()
        if not other.safe:
            continue
        values = reference(program, inputs(other.contents))
        if (less := undecided(values)) < share:
            best, expected, share = other, values, less
    inputs(best.contents)
    return best, expected


def undecided(expected: Mapping[str, Expected], steps: bool = True) -> float:
    """Share of all output elements of which nothing can be said, or with `steps` for integers not everything."""
    open_ = total = 0
    for want in expected.values():
        for value, worst in _parts(want.ball):
            if isinstance(value, torch.Tensor):
                total += value.numel()
                open_ += int(_open(value, worst, want.format if steps else None).sum()) if worst is not None else 0
    return open_ / total if total else 0.0


def _parts(ball: Ball) -> list[tuple[Any, Any]]:
    if not isinstance(ball.value, list):
        return [(ball.value, ball.worst)]
    return list(zip(ball.value, ball.worst or [None] * len(ball.value), strict=True))


def _open(value: torch.Tensor, worst: torch.Tensor, form: Format | None) -> torch.Tensor:
    return ~(worst < torch.inf) if form is None or form.is_float else worst > 0
