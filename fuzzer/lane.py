"""A lane: one process that makes cases, has every backend run them in its own worker, and judges what comes back.

Cheap backends get every case; a dear one takes the newest case whenever it is idle, so it never holds up the others.
The parent only listens. A lane that dies loses the case in flight and is started again behind it.
"""

from __future__ import annotations

import contextlib
import signal
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from corpus.journal import Journal
from fuzzer.coverage import DRAWN, points
from fuzzer.decided import MASKED, undecided
from fuzzer.drawing import Drawing
from fuzzer.investigation import Suspicion
from fuzzer.passes import seen
from fuzzer.process import settle
from fuzzer.settings import Settings
from fuzzer.sources import Seeded
from oracles.adjoint import Weigh, weigher
from oracles.judge import at_each_size, judge_outcomes
from oracles.pool import Worker, wait
from oracles.records import Case, Outcome, Verdict
from oracles.reference import Expected, reference
from oracles.relations import apart
from specs.rule import Unsupported
from triage.cause import cause_key

DEAR = 0.15  # mean seconds per case above which a backend does not get every case
CREW = 2  # workers of a backend that is dear but not slow: one compiles while the other does
SLOW, REST = 1.5, 9.0  # a backend whose mean case takes so many seconds leaves the machine to others thrice as long, at most so many
REPORT = 0.25  # seconds between batches to the parent
COVERAGE = 3.0  # seconds between reports of coverage, which are large
PACE = 1.0  # while a dear backend works beside it, a lane rests so many times as long as its last case took: cores are fewer than processes


@dataclass
class Pending:
    """A case that backends are still running."""

    index: int
    case: Case
    judges: tuple[tuple[dict[str, Expected], Weigh], ...]  # one for each size it is run at, the last being that of the case
    points: frozenset[str] = frozenset()
    alone: bool = False  # a single operator


def _sums() -> dict[str, float]:
    return defaultdict(float)


@dataclass
class Batch:
    """What a lane tells its parent every now and then. Everything is a sum since the last one."""

    lane: int
    index: int = -1  # the last case begun
    cases: int = 0
    rejected: Counter[str] = field(default_factory=Counter)  # cases not run, by reason
    seconds: dict[str, float] = field(default_factory=_sums)  # by stage and by backend
    verdicts: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # (backend, setting, verdict)
    tested: Counter[str] = field(default_factory=Counter)  # cases per backend
    features: Counter[str] = field(default_factory=Counter)
    suspicions: list[Suspicion] = field(default_factory=list)  # first of its cause in this lane
    repeats: Counter[str] = field(default_factory=Counter)  # further cases by cause key
    coverage: Counter[tuple[str, str]] = field(default_factory=Counter)  # points by column (see fuzzer.coverage), sent every few seconds
    defects: list[tuple[int, str]] = field(default_factory=list)  # our own: (case index, traceback)
    done: bool = False


class Lane:
    """The state of one lane."""

    def __init__(self, parent: Connection, settings: Settings, lane: int, start: int, known: Sequence[str], quota: int | None) -> None:
        self.parent, self.settings, self.lane, self.quota = parent, settings, lane, quota
        self.index = start
        self.seen = set(known)
        self.batch = Batch(lane)
        self.sent = self.covered = time.monotonic()
        self.coverage = Counter[tuple[str, str]]()
        self.changes = set[str]()  # optimisations met
        self.targets = {t.backend: t.settings for t in settings.targets}
        self.crews = {backend: [self.hired(backend)] for backend in self.targets}
        self.running: dict[Worker, Pending] = {}
        self.outcomes: dict[Worker, list[Outcome]] = {}  # of the cases running
        self.mean: dict[str, float] = {}
        self.rests: dict[str, float] = {}  # until when a slow backend gets nothing
        self.journal = Journal(settings.out, lane)
        self.drawing = Drawing(settings)

    # making -------------------------------------------------------------------------------------------------------
    def make(self) -> Pending | None:
        """The next case with its reference; None when it has to be drawn again (counted) or we failed (reported)."""
        index = self.index
        self.index += self.settings.workers
        self.batch.index = index
        started = time.perf_counter()
        try:
            made = self.drawing.generated(index, Seeded(self.settings.seed, index))
            self.journal.begin(made.case)
            reference_started = time.perf_counter()
            last = made.expected if made.expected is not None else reference(made.program, made.case.inputs)
            expected = [*(reference(made.program, inputs) for inputs in made.case.before), last]
        except Unsupported as e:
            self.batch.rejected[f"no reference: {e}"[:80]] += 1
            return None
        except Exception:  # a defect of ours must not end the campaign: it is reported with its seed
            self.batch.defects.append((index, traceback.format_exc(limit=-6)))
            self.batch.rejected["our own defect"] += 1
            return None
        now = time.perf_counter()
        self.batch.seconds["generate"] += reference_started - started - made.seconds["search"] - made.seconds["reference"]
        self.batch.seconds["search"] += made.seconds["search"]
        self.batch.seconds["reference"] += now - reference_started + made.seconds["reference"]
        if not made.found.safe:
            self.batch.rejected["no safe inputs"] += 1
            return None
        if undecided(expected[-1], steps=False) > MASKED:
            self.batch.rejected["mostly undecided"] += 1
            return None
        if made.network.sides and (why := apart(*(expected[-1][name] for name in made.network.sides))):
            relation = next((f for f in made.network.features if f.startswith("relation ")), "relation")
            self.batch.defects.append((index, f"{relation} does not hold: {why}"))
            self.batch.rejected["our own defect"] += 1
            return None
        self.batch.features.update(made.network.features)
        self.batch.features.update(f"op {s.op}" for s in made.network.steps)
        found = frozenset(points(made.network))
        self.coverage.update((DRAWN, p) for p in found)
        if made.case.before:
            self.batch.features["several sizes"] += 1
        weighers = [weigher(made.program, inputs) for inputs in (*made.case.before, made.case.inputs)]
        return Pending(index, made.case, tuple(zip(expected, weighers, strict=True)), found, len(made.network.steps) == 1)

    def hired(self, backend: str) -> Worker:
        return Worker(backend, self.settings.timeout, self.settings.memory)

    # running ------------------------------------------------------------------------------------------------------
    def dear(self, backend: str) -> bool:
        """Every backend counts as dear until its first case: that one may compile for half a minute."""
        return self.mean.get(backend, 1.0) > DEAR

    def wants(self, backend: str, index: int) -> bool:
        """Dear backends take cases drawn for all of them, and now and then another one, to notice what became supported."""
        if len(self.targets) == 1 or not self.dear(backend):
            return True
        return time.monotonic() >= self.rests.get(backend, 0.0) and (index % 3 == 0 or index % 48 == 1)

    def idle(self, backend: str) -> Worker | None:
        return next((w for w in self.crews[backend] if w not in self.running), None)

    def dispatch(self, pending: Pending) -> None:
        for backend in self.crews:
            if (worker := self.idle(backend)) and self.wants(backend, pending.index):
                worker.send(pending.case, self.targets[backend], again=True)
                self.running[worker] = pending

    def collect(self, timeout: float) -> None:
        """Wait for whatever comes first, and judge all that is finished."""
        wait(self.running, timeout)
        for worker in list(self.running):
            self.outcomes.setdefault(worker, []).extend(worker.poll())
            if not worker.busy:
                self.judge(worker.backend.name, self.running.pop(worker), self.outcomes.pop(worker))

    def judge(self, backend: str, pending: Pending, outcomes: Sequence[Outcome]) -> None:
        spent = sum(o.seconds for o in outcomes)
        self.mean[backend] = 0.8 * self.mean.get(backend, spent) + 0.2 * spent
        self.batch.seconds[backend] += spent
        if self.mean[backend] > SLOW:
            self.rests[backend] = time.monotonic() + min(REST, 3 * spent)
        elif self.dear(backend) and len(self.crews[backend]) < CREW:
            self.crews[backend].append(self.hired(backend))
        self.batch.tested[backend] += 1
        self.coverage.update(seen(backend, pending.index, outcomes, self.changes))
        if any(o.status == "ok" for o in outcomes):
            self.coverage.update((backend, p) for p in pending.points)
        elif pending.alone and any(o.status == "unsupported" for o in outcomes):
            self.coverage.update((f"{backend} refused", p) for p in pending.points)
        started = time.perf_counter()
        try:
            verdicts = list[Verdict]()
            for (expected, weigh), (case, own) in zip(pending.judges, at_each_size(pending.case, outcomes), strict=True):
                verdicts += (judged := judge_outcomes(expected, own, weigh))
                # At a further size a backend may know better than we do that it is not valid, unless it runs there at another setting.
                findings = [v for v in judged if v.is_finding and not (case is not pending.case and v.verdict == "refused")]
                if findings:
                    self._found(case, own, findings)
            self.batch.verdicts.update((v.backend, v.setting, v.verdict) for v in _worst(verdicts))
        except Exception:  # as in make
            self.batch.defects.append((pending.index, traceback.format_exc(limit=-6)))
        self.batch.seconds["judge"] += time.perf_counter() - started

    def _found(self, case: Case, outcomes: Sequence[Outcome], findings: Sequence[Verdict]) -> None:
        """The first case of every cause is a suspicion to be looked at; the others are counted."""
        for verdict in {v.verdict: v for v in reversed(findings)}.values():
            key = cause_key(case, verdict, outcomes)
            if key in self.seen:
                self.batch.repeats[key] += 1
            else:
                self.seen.add(key)
                self.batch.suspicions.append(Suspicion(key, case, verdict, tuple(outcomes)))

    # telling ------------------------------------------------------------------------------------------------------
    def report(self, force: bool = False) -> None:
        now = time.monotonic()
        if force or now - self.sent >= REPORT or self.batch.suspicions:
            if force or now - self.covered >= COVERAGE:
                self.batch.coverage, self.coverage, self.covered = self.coverage, Counter(), now
            self.parent.send(self.batch)
            self.batch, self.sent = Batch(self.lane), now

    def told(self) -> bool:
        """Read what the parent says: keys found by other lanes, or stop. True when asked to stop."""
        while self.parent.poll():
            message = self.parent.recv()
            if message is None:
                return True
            self.seen.update(message)
        return False

    def loop(self) -> None:
        made = 0
        ready: Pending | None = None
        begun = time.monotonic()
        while not self.told():
            if ready is None and (self.quota is None or made < self.quota):
                self.rest(PACE * (time.monotonic() - begun))
                begun = time.monotonic()
                ready = self.make()
                if ready is not None:
                    made += 1
                    self.batch.cases += 1
            if ready is not None and not self.quick and self._someone_free(ready):
                self.dispatch(ready)
                ready = None
                self.collect(0)
            elif self.running:
                self.collect(0.05)
            if ready is None and self.quota is not None and made >= self.quota and not self.running:
                break
            self.report()

    @property
    def quick(self) -> list[Worker]:
        """Workers of cheap backends that are at work: the next case waits for them."""
        return [w for w in self.running if not self.dear(w.backend.name)]

    def rest(self, seconds: float) -> None:
        """Leave the machine to the dear backends that are running, until one of them has finished."""
        until = time.monotonic() + seconds
        while (busy := self.running.keys() - self.quick) and (left := until - time.monotonic()) > 0:
            self.collect(left)
            if busy - self.running.keys():
                break

    def _someone_free(self, pending: Pending) -> bool:
        return any(self.idle(b) and self.wants(b, pending.index) for b in self.crews) or not self.running

    def close(self) -> None:
        for crew in self.crews.values():
            for worker in crew:
                worker.close()
        self.batch.done = True
        self.journal.close()
        self.report(force=True)


def _worst(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """One verdict per backend and setting: a finding if there is one, else noise before ok."""
    rank = {"ok": 0, "noise": 1}
    best: dict[tuple[str, str], Verdict] = {}
    for v in verdicts:
        key = (v.backend, v.setting)
        if key not in best or rank.get(v.verdict, 2) > rank.get(best[key].verdict, 2):
            best[key] = v
    return list(best.values())


def main(parent: Connection, settings: Settings, lane: int, start: int, known: Sequence[str], quota: int | None) -> None:
    """The process: runs until told to stop or its quota of cases is used up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which tells us to finish
    settle()
    state: Any = None
    try:
        state = Lane(parent, settings, lane, start, known, quota)
        state.loop()
    except (BrokenPipeError, EOFError):  # the parent is gone: nothing to tell
        return
    finally:
        if state is not None:
            with contextlib.suppress(BrokenPipeError, OSError):
                state.close()
