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
from oracles.pool import close
from oracles.records import Case, Outcome, Verdict
from oracles.reference import reference
from specs.program import Program


@dataclass(frozen=True)
class Suspicion:
    """The first case of a cause, as a lane saw it."""

    key: str
    case: Case
    verdict: Verdict
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True)
class Answer:
    """What came of a suspicion: confirmed (the verdict may now be `ours`), or a failure of our own."""

    suspicion: Suspicion
    confirmed: Confirmed | None
    failure: str = ""


def investigate(suspicion: Suspicion, settings: Settings) -> Answer:
    """Confirm one suspicion; a defect of ours becomes an answer, not an end."""
    try:
        case, program = suspicion.case, Program(suspicion.case.model, torch.float64)
        expected, weigh = reference(program, case.inputs), weigher(program, case.inputs)
        confirmed = confirm(case, expected, suspicion.verdict, suspicion.outcomes, weigh, timeout=settings.timeout, memory=settings.memory)
    except Exception:
        return Answer(suspicion, None, traceback.format_exc(limit=-6))
    return Answer(suspicion, confirmed)


def main(parent: Connection, settings: Settings) -> None:
    """The process: one suspicion after the other until the parent says None or goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    try:
        while (suspicion := parent.recv()) is not None:
            parent.send(investigate(suspicion, settings))
    except (EOFError, BrokenPipeError):
        pass
    finally:
        close()


__all__: Sequence[str] = ["Answer", "Suspicion", "investigate", "main"]
