"""The gate: replays, fresh cases, teeth, and only then a verdict on a change of kernels."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fuzzer.gating.aim import Aim
from fuzzer.gating.asking import BACKEND, Asking, Question, general, gravest
from fuzzer.gating.changes import Before, discard
from fuzzer.gating.perf import Pace, paces
from fuzzer.gating.stored import Keeping, replayed
from fuzzer.gating.tested import Tested
from fuzzer.process import settle
from fuzzer.settings import Budget
from oracles.kernel import Kernel
from oracles.pool import close
from oracles.records import Outcome, Verdict
from specs.rule import Unsupported
from triage.cause import Cause, cause
from triage.finding import Finding
from triage.write import write_finding

State = Literal["new", "old", "flaky", "known"]
BITES = 8  # cases on which every tooth is tried, at least
CAUSES = 3  # causes of one kernel after which no more fresh cases are drawn for it
REPEATED = 50  # or failures of one that is red already
MISSES = 3  # fresh cases in a row that could not be drawn, after which a kernel gets none
LOOKS = 6  # cases of one cause that are looked at until one is reproducible
REPLAY = 0.5  # share of the time that replays may take


@dataclass(frozen=True)
class Order:
    """What a gate was asked to do.

    kernels  those that are tested, by setting of the backend: a name, or NAME!DEFECT to see a planted defect found
    changed  which of their files changed, where that is known
    """

    kernels: Mapping[str, Kernel]
    budget: Budget
    seed: int
    out: Path
    changed: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    base: Before | None = None
    corpora: Sequence[Path] = ()
    strict: bool = False
    first: bool = False  # stop at the first cause that makes the gate red
    perf: float | None = None
    timeout: float = 30.0
    memory: int = 4 << 30


@dataclass(frozen=True)
class Found:
    """A cause, and what became of it: only "new" makes the gate red, and with `strict` "old" too."""

    kernel: str
    state: State
    finding: Finding
    folder: Path
    tested: Tested


@dataclass
class Result:
    """All that is said of a gate."""

    order: Order
    tested: dict[str, Tested]
    found: list[Found] = field(default_factory=list)
    ours: list[str] = field(default_factory=list)  # what our own second opinion does not stand by
    repeats: int = 0  # further cases of causes that had been found
    paces: list[Pace] = field(default_factory=list)
    seconds: float = 0.0
    first: dict[str, float] = field(default_factory=dict)  # seconds after which the first cause of a kernel was suspected

    @property
    def red(self) -> list[Found]:
        return [f for f in self.found if f.state == "new" or (self.order.strict and f.state == "old")]

    @property
    def slower(self) -> list[Pace]:
        return [p for p in self.paces if self.order.perf is not None and p.slower(self.order.perf)]

    @property
    def nothing(self) -> dict[str, str]:
        """Kernels of which nothing was tested, and why."""
        return {name: t.nothing for name, t in self.tested.items() if t.nothing}

    @property
    def status(self) -> int:
        """The documented exit status."""
        return 1 if self.red or self.slower else 5 if self.nothing else 0


class Gate:
    """One run."""

    def __init__(self, order: Order, say: Callable[[str], None] = lambda text: None, asking: Asking | None = None) -> None:
        """`asking`: workers that are warm already, and stay so."""
        self.order, self.say = order, say
        self.result = Result(order, {name: Tested(k) for name, k in order.kernels.items()})
        self.borrowed = asking is not None
        self.asking = asking or Asking(order.timeout, order.memory, (order.base.folder, order.base.root) if order.base else None)
        self.keep = Keeping(order.out / "corpus")
        self.aims = {name: Aim(k, order.seed) for name, k in order.kernels.items()}
        self.missed = dict.fromkeys(order.kernels, 0)
        self.sure = set[str]()  # causes that need no second look
        self.looked = Counter[str]()
        self.started = time.monotonic()

    # the way through ----------------------------------------------------------------------------------------------------
    def run(self) -> Result:
        settle()
        try:
            self._all()
            if self.order.perf is not None:
                self.result.paces = paces(self.order.kernels, self.order.base, self.order.seed, self.say)
        finally:
            if not self.borrowed:
                self.asking.close()
                close()
            if self.order.base is not None:
                discard(self.order.base)
        self.result.seconds = time.monotonic() - self.started
        return self.result

    def _all(self) -> None:
        """One case is being run while the next one is made."""
        running: tuple[Question, list[str]] | None = None
        for question in self._questions():
            outcomes = self.asking.receive() if running else []
            settings = self._settings(question)
            self.asking.send(question, settings)
            if running:
                self._judge(*running, outcomes)
            running = question, settings
        if running:
            self._judge(*running, self.asking.receive())

    def _questions(self) -> Any:
        places = [*self.order.corpora, self.order.out / "corpus", self.order.out / "findings"]
        for question in replayed(places, self.order.kernels):
            self.result.tested[question.kernel].replayed += 1
            yield question
            if self.spent > REPLAY:
                self.say("the time for replays is used up: the rest of the corpus is left out")
                break
        made, names = 0, list(self.order.kernels)
        while names and self.spent < 1.0 and not (self.order.first and self.result.red):
            for name in list(names):
                if self.order.budget.cases is not None and made >= self.order.budget.cases:
                    return
                question = self._fresh(name)
                made += 1
                if question is not None:
                    yield question
                if self.missed[name] >= MISSES or self._settled(name):
                    names.remove(name)
                if self.spent >= 1.0:
                    return

    def _fresh(self, name: str) -> Question | None:
        aim, tested = self.aims[name], self.result.tested[name]
        aimed = aim.next()
        tested.drawn, tested.outside = aim.drawn, aim.drawn - aim.applied
        if aimed is None:
            self.missed[name] += 1
            return None
        self.missed[name] = 0
        try:
            return Question.of(name, aimed.case, aimed.program)
        except Unsupported:
            return None

    @property
    def spent(self) -> float:
        """Share of the time that is over; 0 when cases are counted instead."""
        seconds = self.order.budget.seconds
        return 0.0 if seconds is None else (time.monotonic() - self.started) / seconds

    def _settled(self, name: str) -> bool:
        red = sum(f.kernel == name for f in self.result.red)
        return red >= (1 if self.order.first else CAUSES) or (red > 0 and self.result.tested[name].failures >= REPEATED)

    # one case -----------------------------------------------------------------------------------------------------------
    def _settings(self, question: Question) -> list[str]:
        """The kernel, and its teeth as long as they have not bitten often enough."""
        tested = self.result.tested[question.kernel]
        teeth = tested.teeth
        return [question.kernel, *(f"{tested.kernel.name}!{t}" for t in teeth if not teeth[t][0] or teeth[t][1] < BITES)]

    def _judge(self, question: Question, settings: Sequence[str], outcomes: Sequence[Outcome]) -> None:
        tested = self.result.tested[question.kernel]
        verdicts = question.judge(outcomes)
        mine = [v for v in verdicts if v.setting == question.kernel]
        (outcome,) = (o for o in outcomes if o.setting == question.kernel)
        if tested.note(outcome, mine) and question.fresh:
            self.keep(question)
        if outcome.status == "unsupported":
            return
        if (verdict := gravest(mine)) is not None:
            self._suspect(question, verdict, [outcome])
            return  # a case that fails anyway proves nothing about teeth
        for setting in settings[1:]:
            bite = tested.teeth[setting.rpartition("!")[2]]
            bite[0] += any(v.is_finding for v in verdicts if v.setting == setting)
            bite[1] += 1

    def _suspect(self, question: Question, verdict: Verdict, outcomes: Sequence[Outcome]) -> None:
        """Old when base shows it on this case, else one cause more, or one case more of a cause."""
        state: State = "old" if self.order.base is not None and self.asking.failed_before(question, verdict) else "new"
        key = f"{state} {_key(question.kernel, cause(question.case, verdict, outcomes))}"
        if key in self.sure or self.looked[key] >= LOOKS:
            self.result.repeats += 1
            return
        self.looked[key] += 1
        self.result.first.setdefault(question.kernel, time.monotonic() - self.started)
        self.say(f"{question.kernel}: {verdict.verdict}; looking closer")
        found = self._investigated(question, verdict, outcomes, state)
        if found is None:
            self.result.ours.append(f"{question.kernel}: {verdict.verdict} on case {question.case.id}: our own references disagree")
            return
        if found.state != "flaky":
            self.sure.add(key)
        same = next((f for f in self.result.found if f.finding.key == found.finding.key), None)
        if same is not None and (same.state != "flaky" or found.state == "flaky"):
            self.result.repeats += 1
            return
        self.result.found = [*(f for f in self.result.found if f is not same), found]
        self.say(f"{question.kernel}: {found.state} {found.finding.name}")

    def _investigated(self, question: Question, verdict: Verdict, outcomes: Sequence[Outcome], state: State) -> Found | None:
        """Reduced, run again k times, shown to a second reference and to base; the whole case speaks when the small one does not convince."""
        small = self.asking.smaller(question, verdict, outcomes)
        confirmed = self.asking.confirmed(*small)
        is_small = small[0] is not question
        if is_small and (confirmed.reproduced < confirmed.repeats or confirmed.verdict.verdict == "ours"):
            small, is_small = (question, verdict, outcomes), False
            confirmed = self.asking.confirmed(*small)
        if confirmed.verdict.verdict == "ours":
            return None
        if is_small and state == "new" and self.order.base is not None and self.asking.failed_before(small[0], confirmed.verdict):
            small, is_small = (question, verdict, outcomes), False  # reduced into something that had always been wrong
            confirmed = self.asking.confirmed(*small)
        why = cause(confirmed.case, confirmed.verdict, confirmed.outcomes, confirmed.verdicts)
        finding = Finding.of(confirmed, _key(question.kernel, why), original=question.case if is_small else None)
        if confirmed.reproduced < confirmed.repeats:
            state = "flaky"
        elif finding.known is not None and state == "new":
            state = "known"
        folder = write_finding(self.order.out / "findings", finding)
        return Found(question.kernel, state, finding, folder, self.result.tested[question.kernel])


def _key(kernel: str, why: Cause) -> str:
    """One cause is one sort of failure of one kernel in one class of types: the operators around it, and the body it stands for, say nothing more."""
    parts = why.backend, why.verdict, kernel, why.dtype, why.stage, general(why.message)
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


__all__ = ["BACKEND", "Found", "Gate", "Order", "Result"]
