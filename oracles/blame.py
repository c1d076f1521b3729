"""Which optimisation is guilty: turn off what a backend can turn off, until what is seen is seen no more.

The guilty set is minimal: with all of it off the fault is gone, with any part of it left on it is back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from oracles import plugin
from oracles.plugin import Target
from oracles.pool import GIB, run
from oracles.records import Case, Outcome
from oracles.worker import ASK


def blame(
    case: Case, backend: str, setting: str, shows: Callable[[Outcome], bool], timeout: float = 60.0, memory: int = 4 * GIB, runs: int = 64
) -> tuple[str, ...]:
    """Names of the optimisations without which the outcome no longer `shows` the fault.

    Empty when the fault is there with everything off, when it does not show at all, or when there is nothing to turn off.
    A run that fails in another way is no cure. At most about `runs` compilations.
    """
    names = switches(case, backend, setting, timeout, memory)
    left = runs

    def cured(off: Sequence[str]) -> bool:
        nonlocal left
        left -= 1
        (outcome,) = run(case, [Target(backend, ("~".join([setting, *off]),))], timeout=timeout, memory=memory)
        return outcome.status == "ok" and not shows(outcome)

    if not names or cured(()):
        return ()
    if not cured(names):  # some cannot all be off together: perhaps one of them alone is the cure
        return next(((name,) for name in names if left > 0 and cured((name,))), ())
    guilty, step = list(names), max(1, len(names) // 2)
    while left > 0:
        for start in range(0, len(guilty), step):
            fewer = guilty[:start] + guilty[start + step :]
            if fewer and left > 0 and cured(fewer):
                guilty = fewer
                break
        else:
            if step == 1:
                break
            step //= 2
    return tuple(guilty)


def switches(case: Case, backend: str, setting: str, timeout: float = 60.0, memory: int = 4 * GIB) -> list[str]:
    """What can be turned off in this compilation; asked in a worker, because it compiles the model."""
    if plugin.find(backend).switches is None:
        return []
    for asked in (case, Case(b"", {})):  # asked about nothing, when the question itself crashes: all there is
        (outcome,) = run(asked, [Target(backend, (setting + ASK,))], timeout=timeout, memory=memory)
        if outcome.status == "ok" and outcome.outputs is not None:
            return [str(name) for name in outcome.outputs["switches"]]
    return []
