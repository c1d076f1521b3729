"""The process that looks at suspected findings, so that making and judging cases never waits for it.

A suspicion is run again in workers of its own, given a second opinion, and named by its cause; only then is it a finding.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch

from fuzzer.settings import Settings
from oracles.adjoint import weigher
from oracles.confirm import Confirmed, confirm
from oracles.plugin import Target
from oracles.pool import close, run
from oracles.records import Case, Outcome, Verdict
from oracles.reference import reference
from specs.program import Program
from triage.cause import cause_key
from triage.interest import reduced

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

    `original` is the case as it was found, when a smaller one shows the same.
    """

    suspicion: Suspicion
    confirmed: Confirmed | None
    key: str = ""
    original: Case | None = None
    failure: str = ""


def investigate(suspicion: Suspicion, settings: Settings, seconds: float = 8.0) -> Answer:
    """Confirm one suspicion on the smallest case found in some seconds; a defect of ours becomes an answer, not an end."""

    def again(case: Case, targets: Sequence[Target]) -> list[Outcome]:
        return run(case, targets, timeout=settings.timeout, memory=settings.memory)

    try:
        small, verdict, outcomes = suspicion.case, suspicion.verdict, suspicion.outcomes
        if verdict.verdict not in SLOW:  # every step of theirs takes the whole time limit
            small, verdict, outcomes = reduced(small, verdict, outcomes, again, seconds=seconds)
        confirmed = _confirmed(small, verdict, outcomes, settings)
        if small.id != suspicion.case.id and confirmed.verdict.verdict == "ours":  # the whole model may still convince
            small, confirmed = suspicion.case, _confirmed(suspicion.case, suspicion.verdict, suspicion.outcomes, settings)
    except Exception:
        return Answer(suspicion, None, failure=traceback.format_exc(limit=-6))
    smaller = small.id != suspicion.case.id
    key = cause_key(small, confirmed.verdict, confirmed.outcomes, confirmed.verdicts, reduced=smaller)
    return Answer(suspicion, confirmed, key, suspicion.case if smaller else None)


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
