"""Make a failing case small: steps propose simpler cases, a predicate says which of them still fail in the same way.

A step is one decorated function from a draft to the simpler drafts it proposes, the boldest first. The engine takes the first
one that is valid, simpler and keeps the failure, and asks again; it stops when no step has anything left, or time is up. It is
deterministic: same case, same predicate, same result, however many proposals are tried at once. The predicate is asked once for
each case.
"""

from __future__ import annotations

import importlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from oracles.records import Case
from triage.draft import Draft
from triage.earlier import carried

Keeps = Callable[[Draft], bool]
Step = Callable[[Draft], Iterator[Draft | None]]


@dataclass(frozen=True)
class Reduced:
    """The smallest case found. `finished` is False when time ran out; `log` names the steps that helped, in order."""

    case: Case
    nodes: int
    probes: int
    seconds: float
    finished: bool
    log: tuple[str, ...] = ()


@dataclass
class Search:
    """The state of one reduction."""

    keeps: Keeps
    best: Draft
    deadline: float
    progress: Callable[[Draft], None]
    asked: dict[bytes, bool]
    stop: Callable[[], bool]
    together: int
    ask_all: Callable[[Iterable[Draft]], Iterable[bool]] = field(init=False)
    probes: int = 0
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ask_all = lambda drafts: map(self.ask, drafts)

    @property
    def late(self) -> bool:
        return time.monotonic() >= self.deadline or self.stop()

    def ask(self, draft: Draft) -> bool:
        """Whether a draft is valid and fails in the same way; from memory when it was asked before."""
        if draft.id not in self.asked:
            self.asked[draft.id] = draft.valid and self._probe(draft)
        return self.asked[draft.id]

    def _probe(self, draft: Draft) -> bool:
        self.probes += 1
        return self.keeps(draft)

    def run(self, step: Step, name: str, anyway: bool = False) -> bool:
        """Take proposals of one step until none is left. `anyway`: once, and also when it is not simpler by our measure."""
        improved = False
        while not self.late:
            found = self._first(d for p in step(self.best) if (d := carried(self.best, p)) is not None and (anyway or d.size < self.best.size))
            if found is None:
                break
            self.best, improved = found, True
            self.log.append(name)
            self.progress(found)
            if anyway:
                break
        return improved

    def _first(self, drafts: Iterator[Draft]) -> Draft | None:
        """The first proposal that keeps the failure. Several are tried at once; the first of them in order counts, so the result is the same."""
        while not self.late and (some := list(itertools.islice(drafts, self.together))):
            for draft, kept in zip(some, self.ask_all(some), strict=True):
                if kept:
                    return draft
        return None


_steps: dict[str, Step] = {}
_first: dict[str, Step] = {}


FILES = ("triage.reduce_earlier", "triage.reduce_bodies", "triage.reduce_graph", "triage.reduce_values", "triage.reduce_types")


def step(f: Step) -> Step:
    """Register a reduction step; they run in the order of `FILES` and of their definition, again and again until none helps."""
    _steps[f.__name__] = f
    return f


def first(f: Step) -> Step:
    """Register a step that runs once, before the others, and may make the case look larger: it opens it up for them."""
    _first[f.__name__] = f
    return f


def steps() -> dict[str, Step]:
    """All steps by name, in the same order whatever was imported first."""
    for name in FILES:
        importlib.import_module(name)
    return dict(sorted(_steps.items(), key=lambda s: FILES.index(s[1].__module__) if s[1].__module__ in FILES else len(FILES)))


def reduce(
    case: Case,
    keeps: Keeps,
    seconds: float = 30.0,
    only: Sequence[str] | None = None,
    progress: Callable[[Draft], None] = lambda draft: None,
    *,
    asked: dict[bytes, bool] | None = None,
    stop: Callable[[], bool] = lambda: False,
    together: int = 1,
) -> Reduced:
    """The smallest case that still `keeps`, within the time given.

    only      names of the steps to use; all by default
    progress  is told each better case, for a screen, or to save it: starting again from a saved one resumes the reduction
    asked     answers of the predicate by case, to begin with; those found are added to it
    stop      asked between two cases: True ends the reduction with the best case so far
    together  proposals tried at once, in threads; the predicate has to be safe for that
    Raises ValueError when the case itself does not keep: a predicate that is wrong must not end in an empty model.
    """
    started = time.monotonic()
    known = steps()
    chosen = known if only is None else {name: known[name] for name in only}
    asked = {} if asked is None else asked
    search = Search(keeps, Draft.of(case), started + seconds, progress, asked, stop, together)
    if not search.ask(search.best):
        raise ValueError("the case to be reduced does not fail in the way it should")
    with ThreadPoolExecutor(together) as pool:
        if together > 1:
            search.ask_all = lambda drafts: pool.map(search.ask, drafts)
        if only is None:
            for name, opening in _first.items():
                search.run(opening, name, anyway=True)
        improved = True
        while improved and not search.late:
            improved = False
            for name, f in chosen.items():
                improved = search.run(f, name) or improved
    best = search.best
    origin = {"reduced from": case.id, **{k: v for k, v in case.origin.items() if k != "choices"}}
    return Reduced(best.case(origin), len(best.nodes), search.probes, time.monotonic() - started, not search.late, tuple(search.log))
