"""A lane: it makes the same case for an index wherever that is made, tells causes apart, and reports its own mistakes."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

import fuzzer.drawing
from fuzzer.lane import Batch, Lane, Pending
from fuzzer.settings import Budget, Settings
from oracles.plugin import Target
from oracles.pool import wait
from oracles.records import Outcome

NULL = (Target("null", ("default",)),)


@pytest.fixture
def lane(tmp_path: Path) -> Iterator[tuple[Lane, Connection]]:
    made, parent = _lane(tmp_path)
    yield made, parent
    made.close()


def _lane(out: Path, number: int = 0, start: int = 0, workers: int = 1, quota: int | None = None, seed: int = 3) -> tuple[Lane, Connection]:
    ours, theirs = Pipe()
    settings = Settings(Budget(cases=1), out, NULL, seed=seed, max_nodes=4, workers=workers)
    return Lane(theirs, settings, number, start, (), quota), ours


def _pending(lane: Lane) -> Pending:
    for _ in range(20):
        pending = lane.make()
        if pending is not None and any(a.size and a.dtype.kind == "f" for a in _answer(lane, pending).values()):
            return pending
    raise AssertionError("no case with a float output in 20 draws")


def _answer(lane: Lane, pending: Pending) -> dict[str, np.ndarray]:
    worker = lane.crews["null"][0]
    worker.send(pending.case, ["default"], again=False)
    outcomes = list[Outcome]()
    while worker.busy:
        wait([worker])
        outcomes += worker.poll()
    assert outcomes[-1].outputs is not None, outcomes[-1].message
    return {n: a for n, a in outcomes[-1].outputs.items() if isinstance(a, np.ndarray)}


def _wrong(pending: Pending, outputs: dict[str, np.ndarray]) -> list[Outcome]:
    """A NaN at the end of every float output."""
    lie = {n: a.copy() for n, a in outputs.items()}
    for a in lie.values():
        if a.size and a.dtype.kind == "f":
            a.reshape(-1)[-1] = np.nan
    return [Outcome("null", "default", "ok", lie, seconds=0.5)]


def test_a_case_depends_on_the_seed_and_its_index_alone(tmp_path: Path) -> None:
    """Two lanes of a pair make between them what a lone one makes."""
    ids = dict[int, str]()
    for number, start, workers in ((0, 0, 1), (0, 0, 2), (1, 1, 2)):
        lane, parent = _lane(tmp_path, number, start, workers)
        try:
            for _ in range(4):
                pending = lane.make()
                if pending is not None:
                    assert ids.setdefault(pending.index, pending.case.id) == pending.case.id
                    assert pending.index % workers == start and pending.case.origin["index"] == pending.index
        finally:
            lane.close()
        assert parent.recv().done
    assert len(ids) > 4


def test_the_first_of_a_cause_is_a_suspicion_and_the_others_are_counted(lane: tuple[Lane, Connection]) -> None:
    state, _ = lane
    pending = _pending(state)
    lie = _wrong(pending, _answer(state, pending))
    for _ in range(3):
        state.judge("null", pending, lie)
    assert [s.verdict.verdict for s in state.batch.suspicions] == ["nonfinite"]
    (key,) = {s.key for s in state.batch.suspicions}
    assert state.batch.repeats == {key: 2} and state.batch.verdicts == {("null", "default", "nonfinite"): 3}
    assert state.batch.tested == {"null": 3} and state.batch.seconds["null"] == pytest.approx(1.5)


def test_what_another_lane_found_is_no_suspicion_here(lane: tuple[Lane, Connection]) -> None:
    state, parent = lane
    pending = _pending(state)
    lie = _wrong(pending, _answer(state, pending))
    state.judge("null", pending, lie)
    (key,) = {s.key for s in state.batch.suspicions}
    state.seen.clear()
    state.batch = Batch(0)
    parent.send([key])
    assert not state.told()
    state.judge("null", pending, lie)
    assert state.batch.suspicions == [] and state.batch.repeats == {key: 1}


def test_it_stops_when_told_to(lane: tuple[Lane, Connection]) -> None:
    state, parent = lane
    parent.send(None)
    assert state.told()


def test_a_batch_is_a_sum_since_the_last_one(lane: tuple[Lane, Connection]) -> None:
    state, parent = lane
    pending = _pending(state)
    state.judge("null", pending, [Outcome("null", "default", "ok", _answer(state, pending))])
    state.report(force=True)
    batch = parent.recv()
    assert batch.tested == {"null": 1} and set(batch.verdicts) <= {("null", "default", "ok"), ("null", "default", "noise")} and not batch.done
    state.report(force=True)
    assert parent.recv().tested == {}
    state.report()
    assert not parent.poll(), "nothing new within a quarter of a second"


def test_a_defect_of_ours_does_not_end_it(lane: tuple[Lane, Connection], monkeypatch: pytest.MonkeyPatch) -> None:
    state, _ = lane

    def broken(*arguments: object, **more: object) -> None:
        raise ZeroDivisionError("a drawing that divides by zero")

    monkeypatch.setattr(fuzzer.drawing, "generate_from", broken)
    assert state.make() is None
    ((index, text),) = state.batch.defects
    assert index == 0 and "ZeroDivisionError: a drawing that divides by zero" in text
    assert state.batch.rejected == {"our own defect": 1}


def test_a_dear_backend_does_not_get_every_case(lane: tuple[Lane, Connection]) -> None:
    state, _ = lane
    assert state.dear("null"), "every backend is dear until its first case"
    state.mean["null"] = 0.01
    assert not state.dear("null")
    state.targets["other"] = ("default",)
    state.mean["null"] = 1.0
    assert 0 < sum(state.wants("null", i) for i in range(300)) < 150
    state.mean["null"] = 0.01
    assert all(state.wants("null", i) for i in range(300))


def test_everything_is_cleaned_up(tmp_path: Path) -> None:
    state, parent = _lane(tmp_path)
    pids = [w.pid for crew in state.crews.values() for w in crew]
    state.close()
    assert parent.recv().done and all(pids)
    assert all(not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3] for pid in pids)
