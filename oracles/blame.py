"""Which part of a compiler is guilty: turn off what it can turn off, stop it early, and ask where it fails.

The guilty set of switches is minimal: with all of it off the fault is gone, with any part of it left on it is back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import inf

from oracles import plugin
from oracles.plugin import Target
from oracles.pool import GIB, run
from oracles.records import Case, Outcome
from oracles.worker import ASK, STEPS

Shows = Callable[[Outcome], bool]


def blame(
    case: Case, backend: str, setting: str, shows: Shows, timeout: float = 60.0, memory: int = 4 * GIB, runs: int = 64, seconds: float = inf
) -> tuple[str, ...]:
    """Names of the optimisations without which the outcome no longer `shows` the fault.

    Empty when the fault is there with everything off, when it does not show at all, when there is nothing to turn off, and when
    `runs` compilations or the seconds are spent before the set is minimal. A run that fails in another way is no cure.
    """
    names = switches(case, backend, setting, timeout, memory)
    left, end = runs, time.monotonic() + seconds

    def late() -> bool:
        return left <= 0 or time.monotonic() >= end

    def cured(off: Sequence[str]) -> bool:
        nonlocal left
        left -= 1
        return cures(case, backend, setting, off, shows, timeout, memory)

    if not names:
        return ()
    whole, bare = (_off(case, backend, setting, off, timeout, memory) for off in ((), names))
    if not shows(whole):
        return ()
    if bare.status != "ok" or shows(bare):
        if (bare.status, bare.message) == (whole.status, whole.message):
            return ()  # the same with everything off
        # Some cannot all be off together: perhaps one of them alone is the cure. The first ones only prepare the ground for others.
        return next(((name,) for name in reversed(names) if not late() and cured((name,))), ())
    guilty, step = list(names), max(1, len(names) // 2)
    while len(guilty) > 1:
        for start in range(0, len(guilty), step):
            fewer = guilty[:start] + guilty[start + step :]
            if late():
                return ()
            if fewer and cured(fewer):
                guilty = fewer
                break
        else:
            if step == 1:
                break
            step //= 2
        step = min(step, max(1, len(guilty) // 2))
    return tuple(guilty)


def cures(case: Case, backend: str, setting: str, off: Sequence[str], shows: Shows, timeout: float = 60.0, memory: int = 4 * GIB) -> bool:
    """Whether a case runs, and no longer `shows` the fault, with these switches off: what is asked when a cure is transplanted."""
    outcome = _off(case, backend, setting, off, timeout, memory)
    return outcome.status == "ok" and not shows(outcome)


def _off(case: Case, backend: str, setting: str, off: Sequence[str], timeout: float, memory: int) -> Outcome:
    (outcome,) = run(case, [Target(backend, ("~".join([setting, *off]),))], timeout=timeout, memory=memory)
    return outcome


def stage(case: Case, backend: str, shows: Shows, timeout: float = 60.0, memory: int = 4 * GIB) -> str:
    """The first part of the compiler with which the fault is made, when the compiler can be stopped behind it; else empty."""
    for setting, name in plugin.find(backend).stages:
        (outcome,) = run(case, [Target(backend, (setting,))], timeout=timeout, memory=memory)
        if outcome.status not in ("unsupported", "missing") and shows(outcome):
            return name
    return ""


def switches(case: Case, backend: str, setting: str, timeout: float = 60.0, memory: int = 4 * GIB) -> list[str]:
    """What can be turned off in this compilation; asked in a worker, because it compiles the model."""
    if plugin.find(backend).switches is None:
        return []
    for asked in (case, Case(b"", {})):  # asked about nothing, when the question itself crashes: all there is
        names = _asked(asked, backend, setting + ASK, timeout, memory)
        if names is not None:
            return names
    return []


def failing_step(case: Case, backend: str, setting: str, timeout: float = 60.0, memory: int = 4 * GIB) -> str:
    """The step of a compilation that raises; empty when none does, or when the process dies with it."""
    names = _asked(case, backend, setting + STEPS, timeout, memory) if plugin.find(backend).steps is not None else None
    return names[-1] if names else ""


def _asked(case: Case, backend: str, question: str, timeout: float, memory: int) -> list[str] | None:
    (outcome,) = run(case, [Target(backend, (question,))], timeout=timeout, memory=memory)
    return [str(name) for name in outcome.outputs["names"]] if outcome.status == "ok" and outcome.outputs is not None else None
