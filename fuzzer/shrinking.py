"""A smaller case by fewer and lower choices: what is drawn from them is valid like every drawn case, so nothing has to be mended.

For defects on which the steps on the graph stop early: it takes whole operators out of a network, with the functions, branches and
loops around them, and those steps begin again from there. Where they get on by themselves they are much faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import onnx

from corpus import walk
from oracles.records import Case
from triage.draft import MEANINGLESS

COUNT = 1  # the choice that says how many operators there are, one less by one (see fuzzer.drawing)
CHUNKS = (32, 16, 8, 4)


@dataclass(frozen=True)
class Drawn:
    """A case, the choices it was drawn from, and which of them belong to one operator."""

    case: Case
    choices: tuple[int, ...]
    spans: tuple[tuple[int, int], ...] = ()


#: What a list of choices gives; None when there is no case.
Redraw = Callable[[Sequence[int]], Drawn | None]


@dataclass(frozen=True)
class Shrunk:
    """The smallest case found, how many were drawn, and how many of these were asked about."""

    case: Case
    drawn: int
    asked: int


def shrink(case: Case, redraw: Redraw, keeps: Callable[[Case], bool], seconds: float) -> Shrunk:
    """The smallest case with shorter or lower choices that still `keeps`; the case itself when it is not what its choices give."""
    end = time.monotonic() + seconds
    best = _drawn(tuple(case.origin.get("choices", ())), redraw) if case.origin.get("choices") else None
    if best is None or best.case.id != case.id:
        return Shrunk(case, int(bool(case.origin.get("choices"))), 0)
    size, drawn, asked, known = _size(case), 1, 0, {best.choices}
    improved = True
    while improved:
        improved = False
        for shorter in _shorter(best):
            if time.monotonic() >= end:
                return Shrunk(best.case, drawn, asked)
            if shorter in known:
                continue
            known.add(shorter)
            drawn += 1
            smaller = _drawn(shorter, redraw)
            if smaller is None or smaller.choices in known or _size(smaller.case) >= size:
                continue
            known.add(smaller.choices)
            asked += 1
            if keeps(smaller.case):
                best, size, improved = smaller, _size(smaller.case), True
                break
    return Shrunk(best.case, drawn, asked)


def _drawn(choices: tuple[int, ...], redraw: Redraw) -> Drawn | None:
    """Choices that were changed may end in a network without a meaning; as rarely as in a campaign, and as little a finding."""
    try:
        return redraw(choices)
    except MEANINGLESS:
        return None


def _size(case: Case) -> tuple[int, int, int]:
    proto = onnx.load_from_string(case.model)
    nodes = sum(1 for _ in walk.all_nodes(proto.graph.node)) + sum(len(f.node) for f in proto.functions)
    return nodes, sum(a.size for run in (case.inputs, *case.before) for a in run.values()), len(case.model)


def _shorter(drawn: Drawn) -> Iterator[tuple[int, ...]]:
    """One operator alone; without half of the operators, a quarter, one; without a chunk of choices; a chunk of zeros. The boldest first."""
    choices, spans = drawn.choices, drawn.spans
    for some in _parts(len(spans)):
        count = len(spans) - len(some)
        left = list(choices)
        if count > 0 and len(left) > COUNT:
            left[COUNT] = max(0, left[COUNT] - len(some))
        for begin, end in sorted((spans[i] for i in some), reverse=True):
            del left[begin:end]
        yield tuple(left)
    for chunk in CHUNKS:
        for at in range(len(choices) - chunk, COUNT, -chunk):
            yield (*choices[:at], *choices[at + chunk :])
    for chunk in CHUNKS:
        for at in range(COUNT + 1, len(choices), chunk):
            if any(choices[at : at + chunk]):
                yield (*choices[:at], *[0] * len(choices[at : at + chunk]), *choices[at + chunk :])


def _parts(n: int) -> Iterator[frozenset[int]]:
    """Numbers below n to be left out, fewer and fewer."""
    every = frozenset(range(n))
    if n > 2:
        yield from (every - {i} for i in reversed(range(n)))
    size = n // 2
    while size:
        yield from (frozenset(range(at, min(n, at + size))) for at in range(0, n, size))
        size //= 2
