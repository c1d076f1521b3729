"""Asking head and base about one case: judged outcomes of a kernel, and whether a failure is reproducible, and new."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch

from oracles import before
from oracles.adjoint import Weigh, weigher
from oracles.confirm import Confirmed
from oracles.judge import judge_outcomes
from oracles.plugin import Target
from oracles.pool import Worker, run, wait
from oracles.records import FINDINGS, Case, Outcome, Verdict
from oracles.reference import Expected, reference
from oracles.second import second_opinion
from specs.program import Program
from triage.interest import reduced

BACKEND = "kernels"
REPEATS = 3
RACES = 8  # runs that make one repetition of what happens only now and then
REDUCE = 8.0  # seconds for one cause
VALUES = ("wrong", "nonfinite", "unstable")
SLOW = ("hang", "oom")


@dataclass(frozen=True)
class Question:
    """A case with what decides about it. `fresh` False: it was replayed from a corpus."""

    kernel: str
    case: Case
    program: Program
    fresh: bool = True
    expected: Mapping[str, Expected] = field(default_factory=dict)

    @classmethod
    def of(cls, kernel: str, case: Case, program: Program | None = None, fresh: bool = True) -> Question:
        """Raises Unsupported when the reference has no meaning for an operator, UsageError for inputs that do not fit."""
        program = program or Program(case.model, torch.float64)
        return cls(kernel, case, program, fresh, reference(program, case.inputs))

    @cached_property
    def weigh(self) -> Weigh:
        return weigher(self.program, self.case.inputs)

    def judge(self, outcomes: Sequence[Outcome]) -> list[Verdict]:
        return judge_outcomes(self.expected, outcomes, self.weigh)


class Asking:
    """The workers: one for head that is kept busy, one for base that is started when it is first needed."""

    def __init__(self, timeout: float, memory: int, copy: tuple[Path, Path] | None = None) -> None:
        """`copy`: a folder with the files of base, and the root of the repository it is a copy of."""
        self.timeout, self.memory = timeout, memory
        self.head = Worker(BACKEND, timeout, memory)
        self.copy, self._base = copy, None

    def send(self, question: Question, settings: Sequence[str]) -> None:
        self.head.send(question.case, settings, again=True)

    def receive(self) -> list[Outcome]:
        return _finished(self.head)

    def base(self, question: Question) -> list[Verdict]:
        """Verdicts on the kernel as it was before."""
        if self._base is None:
            assert self.copy is not None
            os.environ[before.VARIABLE] = os.pathsep.join(map(str, self.copy))
            try:
                self._base = Worker(before.NAME, self.timeout, self.memory)
            finally:
                del os.environ[before.VARIABLE]
        self._base.send(question.case, [question.kernel], again=True)
        return question.judge([replace(o, backend=BACKEND) for o in _finished(self._base)])

    def failed_before(self, question: Question, verdict: Verdict) -> bool:
        """Whether base shows the same on this case, in any of as many runs as head was given."""
        times = 1 if verdict.verdict in SLOW else REPEATS * (RACES if verdict.verdict == "unstable" else 1)
        return any(alike(v, verdict) for _ in range(times) for v in self.base(question))

    def close(self) -> None:
        self.head.close()
        if self._base is not None:
            self._base.close()

    # looking twice ------------------------------------------------------------------------------------------------------
    def confirmed(self, question: Question, verdict: Verdict, outcomes: Sequence[Outcome]) -> Confirmed:
        """The failure k times in another worker, and the second opinion on its values."""
        outcome = next(o for o in outcomes if o.setting == verdict.setting)
        judged = second_opinion(question.case.model, question.case.inputs, question.expected, verdict, outcome, question.weigh)
        if judged.verdict == "ours":
            return Confirmed(question.case, judged, (judged,), tuple(outcomes), question.expected, 0, 0)
        repeats, hits, last = 1 if verdict.verdict in SLOW else REPEATS, 0, (list(outcomes), [judged])
        for _ in range(repeats):
            for _ in range(RACES if verdict.verdict == "unstable" else 1):
                again = run(question.case, [Target(BACKEND, (verdict.setting,))], timeout=self.timeout, memory=self.memory)
                verdicts = question.judge(again)
                if any(v.verdict == verdict.verdict for v in verdicts):
                    hits, last = hits + 1, (again, verdicts)
                    said = next(v.message for v in verdicts if v.verdict == verdict.verdict)
                    judged = replace(judged, message=said or judged.message)
                    break
        return Confirmed(question.case, judged, tuple(last[1]), tuple(last[0]), question.expected, hits, repeats)

    def smaller(
        self, question: Question, verdict: Verdict, outcomes: Sequence[Outcome], seconds: float = REDUCE
    ) -> tuple[Question, Verdict, Sequence[Outcome]]:
        """The smallest case found in some seconds that fails in the same way."""
        if verdict.verdict in SLOW:  # every step takes the whole time limit
            return question, verdict, outcomes

        def again(case: Case, targets: Sequence[Target]) -> list[Outcome]:
            return [_general(o) for o in run(case, [t for t in targets if t.settings], timeout=self.timeout, memory=self.memory)]

        first = replace(verdict, message=general(verdict.message))
        case, small, theirs = reduced(question.case, first, [_general(o) for o in outcomes], again, seconds=REDUCE)
        if case.id == question.case.id:
            return question, verdict, outcomes
        return Question.of(question.kernel, case, fresh=question.fresh), small, theirs


_NUMBERS = re.compile(r"\[[\d, ]*\]|_[0-9a-f]{8}\b|\d+")


def general(message: str) -> str:
    """Without elements, counts and the suffixes of functions, which are others in a smaller case."""
    return _NUMBERS.sub("#", message)


def _general(outcome: Outcome) -> Outcome:
    return outcome if outcome.status == "ok" else replace(outcome, message=general(outcome.message))


def _finished(worker: Worker) -> list[Outcome]:
    outcomes = list[Outcome]()
    while worker.busy:
        wait([worker])
        outcomes += worker.poll()
    return outcomes


def alike(a: Verdict, b: Verdict) -> bool:
    """Whether two failures of one case are the same for a reader: a wrong value is a wrong value, NaN or not."""
    return a.is_finding and (a.verdict == b.verdict or (a.verdict in VALUES and b.verdict in VALUES))


def gravest(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The finding that is to be reported; None when there is none."""
    found = [v for v in verdicts if v.is_finding]
    return min(found, key=lambda v: (FINDINGS.index(v.verdict), -(v.ratio or 0.0)), default=None)
