"""The parent's side: workers that are asked, watched, killed when they exceed time or memory, and started again.

A `Worker` never blocks: `send` a case, `wait` for any of them to have news, `poll` the outcomes. `run` is the simple way.
"""

from __future__ import annotations

import atexit
import fcntl
import itertools
import math
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import psutil

from oracles import plugin
from oracles.failures import OUT_OF_MEMORY, tidy
from oracles.plugin import Target
from oracles.records import Case, Outcome

GIB = 1 << 30
START_LIMIT = 300.0  # seconds for imports and the first compilation on a busy machine
RETRIES = 3  # starts in a row that may fail, once it has worked
WATCH = 0.1  # seconds between looks at the memory of a busy worker
TAIL = 1 << 16  # bytes of the log that may say why a child died
PATIENCE = 5  # time limits that a worker may take which a busy machine does not let work
CHECK_EVERY = 32  # requests between looks at the memory of an idle one


class Worker:
    """One backend in one child process. Not for use by two threads at once."""

    def __init__(self, backend: str, timeout: float = 30.0, memory: int = 4 * GIB) -> None:
        self.backend, self.timeout, self.memory = plugin.find(backend), timeout, memory
        self.start_seconds = 0.0  # imports and first compilation, in the child
        self.restarts = -1
        self.ready = False
        self.failure = self.backend.missing()  # why this backend cannot run at all; empty when it can
        self._retries = 0
        self._todo: list[str] = []
        self._request: tuple[int, bytes, Mapping[str, Any], bool, Sequence[Mapping[str, Any]]] | None = None
        self._ids = itertools.count()
        self._asked = False
        self._process: subprocess.Popen[bytes] | None = None
        if not self.failure:
            self._start()

    # what the campaign uses -----------------------------------------------------------------------------------------
    @property
    def busy(self) -> bool:
        return self._request is not None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def send(self, case: Case, settings: Sequence[str], again: bool = True) -> None:
        """Ask for one outcome per setting; they come from `poll`, in this order. Only when not busy."""
        assert not self.busy, f"{self.backend.name} is still at work"
        self._request = (next(self._ids), case.model, dict(case.inputs), again, case.before)
        self._todo = list(settings)
        self._asked = False
        if self.failure and self._retries > 0:  # it has worked before: the machine was short of something for a while
            self._retries -= 1
            self.failure = ""
            self._start()
        if self.ready and self._process is not None and self._process.poll() is not None:
            self._restart()  # it died while idle, which says nothing about this case
        if self.ready:
            self._ask()

    def poll(self) -> list[Outcome]:
        """Outcomes since the last poll, and everything that has to be noticed in time: death, time limit, memory limit."""
        if self.failure:
            return self._give_up()
        outcomes: list[Outcome] = []
        try:
            while not self.failure and self._news.poll(0):
                outcomes += self._heard(self.connection.recv())
        except (EOFError, OSError):
            return outcomes + self._died()
        now = time.monotonic()
        if self._deadline and now > self._deadline:
            return outcomes + self._too_long()
        if self._asked and self._todo and now > self._look:
            self._look = now + WATCH
            if self._memory() - self._resting > self.memory:
                return outcomes + self._ended("oom", f"more than {self.memory / GIB:.3g} GiB")
        return outcomes

    def next_look(self) -> float:
        """Seconds until `poll` has to be called even if nothing is heard."""
        if not self.busy or self.failure:
            return 0.0 if self.busy else 3600.0
        due = min(self._deadline or self._look, self._look) if self._asked else self._deadline
        return max(0.0, due - time.monotonic())

    def close(self) -> None:
        """Kill the child and forget the request."""
        self._kill()
        self._request, self._todo, self._retries = None, [], 0
        self.failure = self.failure or f"backend '{self.backend.name}' has been closed"

    # the child --------------------------------------------------------------------------------------------------------
    def _start(self) -> None:
        scratch = _scratch()
        self.restarts += 1
        self.ready, self._asked = False, False
        self.connection, theirs = Pipe()
        self._news = select.poll()  # Connection.poll makes a new selector each time
        self._news.register(self.connection.fileno(), select.POLLIN)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self.backend.name}-", dir=scratch.folder))
        (self.folder / "stage").write_bytes(b"l")
        module = self.backend.module
        if module == "__main__":
            module = str(getattr(sys.modules["__main__"], "__file__", ""))
        arguments = f"{theirs.fileno()}, {scratch.lifeline}, {str(self.folder)!r}, {self.backend.name!r}, {module!r}, {self.memory}"
        code = f"import sys; sys.path[:] = {[str(Path(p).resolve()) for p in sys.path]!r}; from oracles.worker import main; main({arguments})"
        one = {k: os.environ.get(k, "1") for k in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TVM_NUM_THREADS")}
        environment = {**os.environ, **one, "TMPDIR": str(self.folder), "ASSAY_CACHE": str(scratch.folder / "cache"), "PYTHONFAULTHANDLER": ""}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(theirs.fileno(), scratch.lifeline),
                env=environment,
                start_new_session=True,
            )
        theirs.close()
        self._watched = psutil.Process(self._process.pid)
        self._deadline = time.monotonic() + START_LIMIT
        self._look = 0.0
        self._fresh = self._resting = self._served = 0

    def _ask(self) -> None:
        assert self._request is not None
        number, model, inputs, again, earlier = self._request
        self._asked = True
        self._begin()
        with suppress(OSError):  # it died while idle: the next poll sees the end of the connection and starts it again
            self.connection.send((number, model, inputs, tuple(self._todo), again, earlier))

    def _begin(self) -> None:
        now = time.monotonic()
        self._since, self._deadline, self._look, self._spent_before, self._spent_at_limit = now, now + self.timeout, now + WATCH, self._processor(), 0.0

    def _heard(self, message: tuple[Any, Any]) -> list[Outcome]:
        kind, content = message
        if kind == "ready":
            self.ready, self.start_seconds, self._deadline, self._retries = True, content, 0.0, RETRIES
            self._fresh = self._resting = self._memory()
            if self.busy:
                self._ask()
            return []
        if kind == "failed":
            self.failure = f"backend '{self.backend.name}' cannot start: {content}; install with: {self.backend.install}"
            self._kill()
            return self._give_up()
        if kind == "wait":
            self._begin()
            self._deadline += max(0.0, content - self.timeout)
            return []
        if self._request is None or kind != self._request[0]:
            return []
        return [self._done(content)]

    def _done(self, outcome: Outcome) -> Outcome:
        assert self._todo and self._todo[0] == outcome.setting
        self._todo.pop(0)
        if self._todo:
            self._begin()
        else:
            self._request, self._deadline = None, 0.0
            self._served += 1
            if self._served % CHECK_EVERY == 0:
                self._resting = self._memory()
                if self._resting - self._fresh > self.memory // 2:  # caches, and libraries that are never unloaded, pile up in any compiler
                    self._restart()
        return outcome

    def _died(self) -> list[Outcome]:
        """The connection ended: say how, for the setting at work, and go on with the rest in a new child."""
        assert self._process is not None
        code = self._process.wait()
        log = self._words()
        how = _signal(-code) if code < 0 else f"exit status {code}"
        if not self.ready:
            self.failure = f"backend '{self.backend.name}' cannot start: {how} {tidy(log)}"
            self._kill()
            return self._give_up()
        if not self._asked:
            self._restart()
            return []
        starved = code == -signal.SIGKILL or OUT_OF_MEMORY.search(log) is not None  # nobody but the system, short of memory, sends SIGKILL
        return self._ended("oom" if starved else "crash", f"{how}\n{tidy(log)}".strip())

    def _too_long(self) -> list[Outcome]:
        if not self.ready:
            self.failure = f"backend '{self.backend.name}' did not start within {START_LIMIT:.0f} s"
            self._kill()
            return self._give_up()
        now = time.monotonic()
        used = self._processor(living=True) - self._spent_before
        if used < 0.8 * self.timeout and used - self._spent_at_limit > 0.1 and now < self._since + PATIENCE * self.timeout:
            self._spent_at_limit, self._deadline = used, now + max(1.0, self.timeout - used)  # it works, but others do as well
            return []
        return self._ended("hang", f"no answer within {self.timeout:g} s")

    def _ended(self, status: Any, message: str) -> list[Outcome]:
        """The setting at work ends like this; the child is replaced, and asked for the settings that are left."""
        stage = "run" if (self.folder / "stage").read_bytes() == b"r" else "load"
        outcome = Outcome(self.backend.name, self._todo[0], status, None, None, stage, message, time.monotonic() - self._since)
        self._done(outcome)
        self._restart()
        return [outcome]

    def _give_up(self) -> list[Outcome]:
        outcomes = [Outcome(self.backend.name, s, "missing", None, None, "load", self.failure) for s in self._todo]
        self._request, self._todo, self._deadline = None, [], 0.0
        return outcomes

    def _restart(self) -> None:
        self._kill()
        self._start()

    def _kill(self) -> None:
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # with the compilers it started
        self._process.wait()
        self.connection.close()
        self.ready = False
        self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _memory(self) -> int:
        try:
            return self._watched.memory_info().rss
        except psutil.Error:
            return 0

    def _processor(self, living: bool = False) -> float:
        """Processor seconds of the child and of compilers it has waited for; `living`: and of those still at work."""
        try:
            own = self._watched.cpu_times()
            others = [p.cpu_times() for p in self._watched.children(recursive=True)] if living else []
        except psutil.Error:
            return 0.0
        return sum(t.user + t.system + t.children_user + t.children_system for t in (own, *others))

    def _words(self) -> str:
        with (self.folder / "log").open("rb") as f:
            f.seek(max(0, os.fstat(f.fileno()).st_size - TAIL))
            return f.read().decode("utf-8", "replace")


def wait(workers: Iterable[Worker], timeout: float | None = None) -> None:
    """Return as soon as one of the workers has something to `poll`, or after `timeout` seconds."""
    workers = list(workers)
    alive = [w for w in workers if not w.failure]
    if any(w.failure and w.busy for w in workers):
        return
    limit = min((w.next_look() for w in alive), default=0.0)
    news = select.poll()
    for w in alive:
        news.register(w.connection.fileno(), select.POLLIN)
    news.poll(math.ceil(1000 * (limit if timeout is None else min(limit, timeout))))


class _Scratch:
    """A temporary folder for all workers of this process, and the pipe whose closing tells them that it is gone."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._sweep()
        self.folder = Path(tempfile.mkdtemp(prefix=f"assay-{self.owner}-"))
        (self.folder / "cache").mkdir()
        self._lock = (self.folder / "lock").open("w")  # held while we live, whatever kills us
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.lifeline, self._ours = os.pipe()

    @staticmethod
    def _sweep() -> None:
        """Remove what processes that were killed have left behind: folders whose lock nobody holds."""
        for folder in Path(tempfile.gettempdir()).glob("assay-[0-9]*-*"):
            with suppress(OSError), (folder / "lock").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


_shared: dict[str, Worker] = {}
_lock = threading.RLock()
_the_scratch: _Scratch | None = None


def _scratch() -> _Scratch:
    global _the_scratch
    if _the_scratch is None or _the_scratch.owner != os.getpid():
        _the_scratch = _Scratch()
    return _the_scratch


def run(case: Case, backends: str | Sequence[Target], timeout: float = 30.0, memory: int = 4 * GIB) -> list[Outcome]:
    """Every setting of every backend on one case, backends side by side, in workers that stay warm for the next call.

    Never raises for what a backend does; an uninstalled backend gives outcomes of status "missing".
    """
    targets = plugin.parse(backends) if isinstance(backends, str) else list(backends)
    with _lock:
        workers = [_worker(t.backend, timeout, memory) for t in targets]
        outcomes: dict[str, list[Outcome]] = {t.backend: [] for t in targets}
        for target, worker in zip(targets, workers, strict=True):
            worker.send(case, target.settings)
        while any(w.busy for w in workers):
            wait([w for w in workers if w.busy])
            for w in workers:
                outcomes[w.backend.name] += w.poll()
        return [o for found in outcomes.values() for o in found]


def _worker(name: str, timeout: float, memory: int) -> Worker:
    worker = _shared.get(name)
    if worker is not None and (worker.memory != memory or worker.busy):  # busy: an earlier run was interrupted
        worker.close()
        worker = None
    if worker is None:
        worker = _shared[name] = Worker(name, timeout, memory)
    worker.timeout = timeout
    return worker


def close() -> None:
    """End the shared workers and remove their temporary files; also done at exit."""
    global _the_scratch
    with _lock:
        for worker in _shared.values():
            worker.close()
        _shared.clear()
        if _the_scratch is not None and _the_scratch.owner == os.getpid():
            shutil.rmtree(_the_scratch.folder, ignore_errors=True)
            _the_scratch = None  # the next worker gets another


def _forget() -> None:
    """A forked child of ours shares no worker with us: two processes on one connection would garble it."""
    global _lock
    _shared.clear()
    _lock = threading.RLock()


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


atexit.register(close)
os.register_at_fork(after_in_child=_forget)
