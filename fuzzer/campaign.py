"""The campaign: lanes make and judge cases, this process stores what they tell, shows it, and stops when the budget is spent."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType

from corpus.store import Store
from fuzzer import investigation
from fuzzer import lane as lanes
from fuzzer.findings import remember
from fuzzer.investigation import Answer, Suspicion
from fuzzer.lane import Batch
from fuzzer.screen import Progress, Row, Screen, summary
from fuzzer.settings import Settings
from oracles.plugin import find

GRACE = 20.0  # seconds a lane has to finish what it is doing before it is ended
PATIENCE, LONGEST = 60.0, 180.0  # when the budget is spent: seconds that one suspicion may still be looked at, and all of them
REDUCE, HASTE, CROWD = 8.0, 2.0, 5  # seconds of reduction for a suspicion; with more than so many waiting
STARTS = 5  # how often a lane that dies at once is started again


@dataclass
class _Lane:
    """One lane process as its parent sees it."""

    number: int
    process: SpawnProcess
    connection: Connection
    index: int = -1  # the last case it began
    deaths: int = 0
    done: bool = False


@dataclass(frozen=True)
class Ended:
    """How a campaign ended."""

    progress: Progress
    folders: Sequence[str]
    interrupted: bool
    store: Store


class Campaign:
    """One session with one output folder."""

    def __init__(self, settings: Settings, store: Store, screen: Screen) -> None:
        self.settings, self.store, self.screen = settings, store, screen
        self.context = multiprocessing.get_context("spawn")
        self.first = store.next_number
        stats = store.stats()
        versions = " · ".join(f"{t.backend} {find(t.backend).version()}" for t in settings.targets)
        self.progress = Progress(settings.seed, settings.budget, versions, before=stats["seconds"], cases=stats["cases"])
        self.progress.verdicts = {(b, s, v): n for b, by in stats["backends"].items() for s, counts in by.items() for v, n in counts.items() if n}
        self.progress.tested = dict(stats["tested"])
        self.progress.rejected = dict(stats["rejected"])
        self.begun = self.progress.cases
        self.rows: dict[str, Row] = {}
        self.folders: dict[str, str] = {}
        for f in store.findings():
            self._row(f.key, Row(f"{f.verdict}-{f.key[:8]}", f.backend, f.title, f"{f.reproduced}/{f.repeats}", f.count, f.known), f.folder)
        self.alias = store.aliases()  # the key of a suspicion -> that of its cause
        self.open: list[Suspicion] = []  # not yet answered, the first of them being looked at
        self.stop = False
        self.interrupted = False

    def _row(self, key: str, row: Row, folder: str) -> None:
        self.rows[key], self.folders[key] = row, folder
        self.progress.findings = list(self.rows.values())
        self.progress.known = sum(bool(r.known) for r in self.rows.values())

    def run(self) -> Ended:
        """Until the budget is spent, the first new finding when that was asked for, or Ctrl-C."""
        previous = signal.signal(signal.SIGINT, self._interrupt)
        running = [self._start(n, self.first + n, self._quota(n)) for n in range(self.settings.workers)]
        self._hire()
        try:
            deadline = None if self.settings.budget.seconds is None else time.monotonic() + self.settings.budget.seconds
            while not self.stop and not all(x.done for x in running):
                self._listen(running, 0.2)
                self._answers()
                self._features()
                self.store.flush(force=False)
                self.screen.update(self.progress)
                if deadline is not None and time.monotonic() >= deadline:
                    break
            self._finish(running)
        finally:
            for process in (*(x.process for x in running), self.investigator):
                if process.is_alive():
                    process.kill()
            self.store.flush()
            signal.signal(signal.SIGINT, previous)
        return Ended(self.progress, [self.folders[k] for k in self.rows], self.interrupted, self.store)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.stop:
            raise KeyboardInterrupt
        self.stop = self.interrupted = True

    def _quota(self, number: int) -> int | None:
        cases = self.settings.budget.cases
        return None if cases is None else cases // self.settings.workers + (number < cases % self.settings.workers)

    # lanes --------------------------------------------------------------------------------------------------------
    def _start(self, number: int, index: int, quota: int | None) -> _Lane:
        ours, theirs = self.context.Pipe()
        process = self.context.Process(
            target=lanes.main, args=(theirs, self.settings, number, index, (*self.rows, *self.alias), quota), name=f"fuzz-lane-{number}"
        )
        process.start()
        theirs.close()
        return _Lane(number, process, ours)

    def _listen(self, running: list[_Lane], timeout: float) -> None:
        wait([x.connection for x in running if not x.done], timeout)
        for i, x in enumerate(running):
            try:
                while not x.done and x.connection.poll():
                    self._take(x, x.connection.recv(), running)
            except (EOFError, OSError):
                running[i] = self._died(x)

    def _died(self, x: _Lane) -> _Lane:
        """A lane must not die: what it was doing is reported as a defect of ours, and it goes on behind that case."""
        x.process.join(5)
        self._defect(x.index, f"the process that makes cases died with exit status {x.process.exitcode}")
        if x.deaths + 1 >= STARTS:
            x.done = True
            return x
        quota = self._quota(x.number)
        left = None if quota is None else max(0, quota - (x.index - self.first) // self.settings.workers)
        again = self._start(x.number, max(x.index, self.first + x.number) + self.settings.workers, left)
        again.deaths = x.deaths + 1
        return again

    def _finish(self, running: list[_Lane]) -> None:
        for x in running:
            try:
                x.connection.send(None)
            except OSError:
                x.done = True
        limit = time.monotonic() + GRACE
        while not all(x.done for x in running) and time.monotonic() < limit:
            self._listen(running, 0.2)
        last, left = time.monotonic(), len(self.open)
        limit = last + (LONGEST if not self.interrupted else 0)
        while self.open and time.monotonic() < min(limit, last + PATIENCE):
            wait([self.desk], 0.2)
            self._answers()
            if len(self.open) < left:
                last, left = time.monotonic(), len(self.open)
            self.screen.update(self.progress)
        self.progress.suspected = len(self.open)
        for suspicion in self.open:
            self.store.keep(suspicion.case, f"suspected: {suspicion.verdict.backend} {suspicion.verdict.verdict}")

    # suspicions ---------------------------------------------------------------------------------------------------
    def _hire(self) -> None:
        self.desk, theirs = self.context.Pipe()
        self.investigator = self.context.Process(target=investigation.main, args=(theirs, self.settings), name="fuzz-investigation")
        self.investigator.start()
        theirs.close()

    def _suspect(self, suspicion: Suspicion) -> None:
        self.open.append(suspicion)
        if len(self.open) == 1:
            self._hand_over()

    def _hand_over(self) -> None:
        """The next suspicion to the investigator; one at a time, so that its death costs one."""
        if self.open:
            self.desk.send((self.open[0], REDUCE if len(self.open) <= CROWD else HASTE))

    def _answers(self) -> None:
        try:
            while self.desk.poll():
                self._answered(self.desk.recv())
                self.open.pop(0)
                self._hand_over()
        except (EOFError, OSError):
            dead = self.open.pop(0) if self.open else None
            self._defect(
                -1, f"the process that looks at suspicions died with exit status {self.investigator.exitcode}{f' over case {dead.case.id}' if dead else ''}"
            )
            self._hire()
            self._hand_over()

    def _answered(self, answer: Answer) -> None:
        index = int(answer.suspicion.case.origin.get("index", -1))
        if answer.confirmed is None:
            self._defect(index, answer.failure)
            return
        verdict = answer.confirmed.verdict
        if verdict.verdict == "ours":
            first = answer.suspicion.verdict
            self._defect(index, f"{first.backend}:{first.setting} {first.verdict} {first.output}: {verdict.message}")
            self.store.keep(answer.suspicion.case, f"ours: {verdict.message}")
            return
        for key in {answer.suspicion.key, answer.unblamed} - {"", answer.key, *self.rows}:
            if key == answer.suspicion.key or key not in self.alias:
                self.alias[key] = answer.key
                self.store.alias(key, answer.key)
        if (known := self.alias.get(answer.key)) in self.rows:  # what has no guilty here had one before
            self._again(known or "", 1)
            return
        if answer.key in self.rows:  # another face of a cause that is known already
            self._again(answer.key, 1)
            return
        found = remember(self.store, answer.key, answer.confirmed, answer.original, answer.guilt)
        row = Row(f"{found.verdict}-{found.key[:8]}", found.backend, found.title, f"{found.reproduced}/{found.repeats}", 1, found.known)
        self.progress.flaky += found.status == "flaky"
        self._row(found.key, row, found.folder)
        self.progress.last_finding = time.monotonic()
        self.screen.finding(row)
        if self.settings.stop_on_first and found.status == "new":
            self.stop = True

    # what lanes tell ------------------------------------------------------------------------------------------------
    def _take(self, x: _Lane, batch: Batch, running: list[_Lane]) -> None:
        p, store = self.progress, self.store
        x.index, x.done = max(x.index, batch.index), batch.done
        known = len(store.features)
        store.tally(
            cases=batch.cases, seconds=batch.seconds, verdicts=batch.verdicts, tested=batch.tested, rejected=batch.rejected, features=batch.features,
            coverage=batch.coverage, number=batch.index if batch.index >= 0 else None,
        )  # fmt: skip
        if len(store.features) > known:
            p.last_feature = time.monotonic()
        p.cases += batch.cases
        for total, more in ((p.rejected, batch.rejected), (p.seconds, batch.seconds), (p.tested, batch.tested), (p.verdicts, batch.verdicts)):
            for k, n in more.items():
                total[k] = total.get(k, 0) + n  # type: ignore[index]
        for index, text in batch.defects:
            self._defect(index, text)
        for key, n in batch.repeats.items():
            self._again(self.alias.get(key, key), n)
        for suspicion in batch.suspicions:
            if any(suspicion.key == s.key for s in self.open) or suspicion.key in self.alias:
                self._again(self.alias.get(suspicion.key, suspicion.key), 1)
                continue
            self._suspect(suspicion)
            for other in running:
                if other is not x and not other.done:
                    other.connection.send([suspicion.key])

    def _again(self, key: str, n: int) -> None:
        self.store.again(key, n)
        if key in self.rows:
            self.rows[key] = replace(self.rows[key], count=self.rows[key].count + n)
            self.progress.findings = list(self.rows.values())

    def _defect(self, index: int, text: str) -> None:
        self.progress.defects += 1
        self.store.event("defect", case=index, seed=self.settings.seed, text=text)

    def _features(self) -> None:
        features = self.store.features
        self.progress.features, self.progress.operators = len(features), sum(f.startswith("op ") for f in features)


def exit_status(ended: Ended) -> int:
    """1 for a new finding that was reproduced, 130 after Ctrl-C, 5 when nothing was tested, 3 when only we failed."""
    if ended.interrupted:
        return 130
    found = ended.store.findings()
    if any(f.status == "new" for f in found):
        return 1
    judged = sum(n for (_, _, v), n in ended.progress.verdicts.items() if v not in ("unsupported", "ours"))
    if judged == 0:
        return 3 if ended.progress.defects and not ended.progress.cases else 5
    return 0


def tell(ended: Ended, out: str) -> None:
    """The summary, on standard output."""
    sys.stdout.write(summary(ended.progress, ended.folders) + f"\n\neverything is in {out}\n")
