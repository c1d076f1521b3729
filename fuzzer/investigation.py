"""The process that looks at suspected findings, so that making and judging cases never waits for it.

A suspicion is run again in workers of its own, given a second opinion, and named by its cause; only then is it a finding.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

import torch

from fuzzer.drawing import Drawing
from fuzzer.settings import Settings
from fuzzer.shrinking import shrink
from oracles.adjoint import weigher
from oracles.confirm import Confirmed, confirm
from oracles.plugin import Target
from oracles.pool import close, run
from oracles.records import Case, Outcome, Verdict
from oracles.reference import reference
from specs.program import Program
from triage.finding import Finding
from triage.guilt import Guilt, blamed, guilt
from triage.interest import Effort, reduced
from triage.replay import judged

SLOW = ("hang", "oom")


@dataclass(frozen=True)
class Suspicion:
    """The first case of a cause, as a lane saw it."""

    key: str
    case: Case
    verdict: Verdict
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Answer:
    """What came of a suspicion: confirmed under the key of its cause (the verdict may now be `ours`), or a failure of our own.

    `original` is the case as it was found, when a smaller one shows the same. `unblamed` is the key without the guilty, under which
    another case of the cause may come whose guilty was not found in time.
    """

    suspicion: Suspicion
    confirmed: Confirmed | None
    key: str = ""
    original: Case | None = None
    failure: str = ""
    guilt: Guilt = field(default_factory=Guilt)
    unblamed: str = ""


def investigate(suspicion: Suspicion, settings: Settings, seconds: float = 8.0) -> Answer:
    """Confirm one suspicion on the smallest case found in some seconds; a defect of ours becomes an answer, not an end."""

    def again(case: Case, targets: Sequence[Target]) -> list[Outcome]:
        return run(case, targets, timeout=settings.timeout, memory=settings.memory)

    found = Guilt()
    try:
        small, verdict, outcomes = suspicion.case, suspicion.verdict, suspicion.outcomes
        if verdict.verdict not in SLOW:  # every step of theirs takes the whole time limit
            effort = Effort(seconds, 0.0, redrawn=redrawing(Drawing(settings)))
            small, verdict, outcomes = reduced(small, verdict, outcomes, again, effort=effort)
        confirmed = _confirmed(small, verdict, outcomes, settings)
        if small.id != suspicion.case.id and confirmed.verdict.verdict == "ours":  # the whole model may still convince
            small, confirmed = suspicion.case, _confirmed(suspicion.case, suspicion.verdict, suspicion.outcomes, settings)
        original = suspicion.case if small.id != suspicion.case.id else None
        finding = Finding.of(confirmed, original=original, environment={})
        if confirmed.verdict.is_finding and confirmed.verdict.verdict not in SLOW:
            found = guilt(finding, again, judged, seconds / 2, settings.timeout, settings.memory)
    except Exception:
        return Answer(suspicion, None, failure=traceback.format_exc(limit=-6))
    key = blamed(finding, found).cause.key
    return Answer(suspicion, confirmed, key, original, guilt=found, unblamed=finding.cause.key)


def redrawing(drawing: Drawing) -> Callable[[Case, Callable[[Case], bool], float], Case]:
    """What finds a smaller case by drawing again from fewer choices; a case of another kind stays as it is."""

    def redrawn(case: Case, keeps: Callable[[Case], bool], seconds: float) -> Case:
        index = case.origin.get("index")
        return shrink(case, lambda choices: drawing.again(index, choices), keeps, seconds).case if isinstance(index, int) else case

    return redrawn


def _confirmed(case: Case, verdict: Verdict, outcomes: Sequence[Outcome], settings: Settings) -> Confirmed:
    program = Program(case.model, torch.float64)
    return confirm(case, reference(program, case.inputs), verdict, outcomes, weigher(program, case.inputs), timeout=settings.timeout, memory=settings.memory)


def main(parent: Connection, settings: Settings) -> None:
    """The process: one suspicion after the other until the parent says None or goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    try:
        while (message := parent.recv()) is not None:
            suspicion, seconds = message
            parent.send(investigate(suspicion, settings, seconds))
    except (EOFError, BrokenPipeError):
        pass
    finally:
        close()
