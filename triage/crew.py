"""Several workers of each backend, for a reduction that tries several cases at once; `oracles.pool.run` has one of each."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from types import TracebackType

from oracles.plugin import Target
from oracles.pool import GIB, Worker, wait
from oracles.records import Case, Outcome


class Crew:
    """A context manager; `run` may be called by as many threads as it has places."""

    def __init__(self, places: int, timeout: float = 60.0, memory: int = 4 * GIB) -> None:
        self._limits = (timeout, memory)
        self._workers: list[dict[str, Worker]] = [{} for _ in range(places)]
        self._free: queue.SimpleQueue[dict[str, Worker]] = queue.SimpleQueue()
        for mine in self._workers:
            self._free.put(mine)

    def run(self, case: Case, targets: Sequence[Target]) -> list[Outcome]:
        """As `oracles.pool.run`, in the first place that is free."""
        mine, outcomes = self._free.get(), list[Outcome]()
        try:
            for target in targets:
                worker = mine.get(target.backend)
                if worker is None or worker.busy:  # busy: an earlier run was interrupted
                    if worker is not None:
                        worker.close()
                    worker = mine[target.backend] = Worker(target.backend, *self._limits)
                worker.send(case, target.settings)
                while worker.busy:
                    wait([worker])
                    outcomes += worker.poll()
            return outcomes
        finally:
            self._free.put(mine)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for worker in (w for mine in self._workers for w in mine.values()):
            worker.close()
