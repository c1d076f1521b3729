"""Workers: every way to misbehave ends as the outcome that says so, and the next setting is answered all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import psutil
import pytest
from onnx import helper

from oracles import plugin, pool
from oracles.plugin import Target
from oracles.pool import Worker, wait
from oracles.records import Case, Outcome
from oracles.worker import answer, same

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20


def neg_case(dtype: int = 1, value: float = 1.0) -> Case:
    info = helper.make_tensor_value_info
    graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", [info("x", dtype, [3])], [info("y", dtype, [3])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    x = (np.arange(3) + value).astype(helper.tensor_dtype_to_np_dtype(dtype))
    return Case(model.SerializeToString(), {"x": x})


def finish(worker: Worker, case: Case, settings: list[str], again: bool = True) -> list[Outcome]:
    worker.send(case, settings, again)
    outcomes: list[Outcome] = []
    while worker.busy:
        wait([worker])
        outcomes += worker.poll()
    return outcomes


@pytest.fixture(scope="module")
def liar() -> Iterator[Worker]:
    worker = Worker("liar", timeout=30.0, memory=1024 * MIB)
    yield worker
    worker.close()


@pytest.mark.parametrize(
    ("setting", "status", "stage", "message"),
    [
        ("ok", "ok", "run", ""),
        ("refuse", "error", "load", "not to my taste"),
        ("broken", "error", "run", "internal error"),
        ("unsupported", "unsupported", "load", "do not implement"),
        ("crash", "crash", "run", "SIGSEGV"),
        ("abort", "crash", "run", "SIGABRT\nliar: Check failed"),
        ("oom", "oom", "run", "Unable to allocate"),
    ],
)
def test_misbehaviour_is_named(liar: Worker, setting: str, status: str, stage: str, message: str) -> None:
    before, first, after = finish(liar, neg_case(), ["ok", setting, "ok"])
    assert (before.status, after.status) == ("ok", "ok"), "settings around the misbehaving one are answered"
    assert (first.setting, first.status, first.stage) == (setting, status, stage), first.message
    assert message in first.message
    assert (first.outputs is None) == (status != "ok")


@pytest.mark.parametrize(
    ("setting", "notice"),
    [
        ("element", lambda y: y[1] == -1.0),
        ("nan", lambda y: bool(np.isnan(y[1]))),
        ("dtype", lambda y: y.dtype == np.float64),
        ("shape", lambda y: y.shape == (1, 3)),
    ],
)
def test_lies_come_through_untouched(liar: Worker, setting: str, notice: object) -> None:
    (outcome,) = finish(liar, neg_case(), [setting])
    assert outcome.status == "ok" and outcome.outputs is not None and outcome.again is None
    assert notice(outcome.outputs["y"])  # type: ignore[operator]


def test_unstable_answers_are_kept_both(liar: Worker) -> None:
    (outcome,) = finish(liar, neg_case(), ["unstable"])
    assert outcome.again is not None and outcome.outputs is not None
    assert outcome.outputs["y"].tolist() == [-1, -2, -3] and outcome.again["y"].tolist() == [-1, -1, -3]
    (once,) = finish(liar, neg_case(), ["unstable"], again=False)
    assert once.again is None


def test_hang_is_killed_at_the_limit(liar: Worker) -> None:
    finish(liar, neg_case(), ["ok"])
    liar.timeout = 0.5
    try:
        begun = time.monotonic()
        liar.send(neg_case(), ["hang"])
        outcomes: list[Outcome] = []
        while not outcomes:
            wait([liar])
            outcomes += liar.poll()
        assert time.monotonic() - begun < 10
        assert (outcomes[0].status, outcomes[0].stage) == ("hang", "run")
    finally:
        liar.timeout = 30.0


def test_a_worker_that_a_busy_machine_holds_up_gets_more_time(liar: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slow is not hanging: as long as it works and has not had the processor for its time, it may go on, but not for ever."""
    finish(liar, neg_case(), ["ok"])
    worked = iter(range(1000))
    monkeypatch.setattr(liar, "_processor", lambda living=False: 0.12 * next(worked))
    monkeypatch.setattr(liar, "timeout", 0.6)
    begun = time.monotonic()
    (outcome,) = finish(liar, neg_case(), ["hang"])
    assert outcome.status == "hang" and time.monotonic() - begun > 1.2


def test_pages_that_no_limit_counts_are_watched() -> None:
    worker = Worker("liar", timeout=60.0, memory=64 * MIB)
    try:
        (outcome,) = finish(worker, neg_case(), ["hoard"])
        assert outcome.status == "oom", outcome
    finally:
        worker.close()


def test_low_precision_arrays_survive_the_pipe() -> None:
    worker = Worker("null")
    try:
        for dtype, expected in ((16, ml_dtypes.bfloat16), (10, np.float16), (11, np.float64), (7, np.int64)):
            (outcome,) = finish(worker, neg_case(dtype), ["default"])
            assert outcome.outputs is not None, outcome.message
            assert outcome.outputs["y"].dtype == expected and outcome.outputs["y"].astype(float).tolist() == [-1, -2, -3]
    finally:
        worker.close()


def test_a_worker_killed_while_idle_comes_back() -> None:
    worker = Worker("onnxruntime")
    try:
        assert finish(worker, neg_case(), ["off"])[0].status == "ok"
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        time.sleep(0.1)
        outcomes = finish(worker, neg_case(), ["off", "all"])
        assert [(o.setting, o.status) for o in outcomes] == [("off", "ok"), ("all", "ok")], "its death is not held against the next case"
    finally:
        worker.close()


def test_a_worker_killed_at_work_was_short_of_memory() -> None:
    """Nobody but the system, when memory runs out, kills with SIGKILL."""
    worker = Worker("liar")
    try:
        finish(worker, neg_case(), ["ok"])
        worker.send(neg_case(), ["hang", "ok"])
        time.sleep(0.3)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        outcomes: list[Outcome] = []
        while worker.busy:
            wait([worker])
            outcomes += worker.poll()
        assert [(o.status, o.message) for o in outcomes] == [("oom", "SIGKILL"), ("ok", "")]
    finally:
        worker.close()


def test_run_asks_all_backends_and_keeps_the_order() -> None:
    outcomes = pool.run(neg_case(), "null,onnxruntime:all,onnxruntime:off")
    assert [(o.backend, o.setting, o.status) for o in outcomes] == [("null", "default", "ok"), ("onnxruntime", "all", "ok"), ("onnxruntime", "off", "ok")]
    again = pool.run(neg_case(value=5), [Target("onnxruntime", ("off",))])
    assert again[0].outputs is not None and again[0].outputs["y"].tolist() == [-5, -6, -7]


def test_no_orphans_when_the_parent_is_killed(tmp_path: Path) -> None:
    """A worker that hangs in native code must die with its parent too."""
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(ROOT)!r}); sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_workers import neg_case
        from oracles.pool import Worker, wait
        w = Worker("liar", timeout=600)
        w.send(neg_case(), ["hang"])
        while not w.ready:
            wait([w], 0.2)
            w.poll()
        print(w.pid, flush=True)
        while True: wait([w])
        """)
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(100):
        if not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")


def test_the_plugin_of_a_user_runs_in_a_worker(tmp_path: Path) -> None:
    """A backend registered by a script reaches the child through the script's path."""
    script = tmp_path / "mine.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(ROOT)!r}); sys.path.insert(0, {str(Path(__file__).parent)!r})
        from oracles import backend, run

        @backend("mine", settings=["fast", "slow"])
        def mine(model, setting):
            return lambda feeds: {{"y": -feeds["x"]}}

        if __name__ == "__main__":
            from test_workers import neg_case
            print([(o.setting, o.status, o.message) for o in run(neg_case(), "mine:*")])
        """)
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[('fast', 'ok', ''), ('slow', 'ok', '')]", done.stderr


def test_same_is_bitwise_but_forgives_nan_payloads() -> None:
    nan1, nan2 = np.array([0x7FC00000, 0], np.uint32).view(np.float32), np.array([0x7FC00001, 0], np.uint32).view(np.float32)
    assert same(nan1, nan2)
    assert not same(np.array([0.0]), np.array([-0.0]))
    assert not same(np.array([1.0]), np.array([1.0], np.float32))
    assert same([np.array([1, 2])], [np.array([1, 2])]) and not same([np.array([1, 2])], [])
    low = np.array([1, np.nan], ml_dtypes.float8_e4m3fn)
    assert same(low, low.copy())


def test_what_a_plugin_may_answer() -> None:
    """A careless plugin gets a sentence; one that reuses a buffer, or writes into its input, is found out."""
    buffer = np.zeros(3, np.float32)
    ticks = iter(range(10))

    def outcome(answer_of: object) -> Outcome:
        plugin.backend("careless")(lambda model, setting: answer_of)  # type: ignore[arg-type, return-value]
        try:
            return answer(plugin.find("careless"), b"", {"x": np.ones(3, np.float32)}, "default")
        finally:
            plugin._registry.pop("careless")

    def reuse(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        buffer[:] = next(ticks)
        return {"y": buffer}

    def scribble(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        feeds["x"][0] = 7
        return {"y": feeds["x"] * 0}

    first = outcome(reuse)
    assert first.outputs is not None and first.again is not None and (first.outputs["y"][0], first.again["y"][0]) == (0, 1)
    written = outcome(scribble)
    assert (written.status, written.message) == ("error", "wrote into its input x")
    text = outcome(lambda feeds: {"y": "text"})
    assert text.status == "error" and "has to answer numpy arrays" in text.message
    assert outcome(lambda feeds: {"y": [1, 2.5], "n": None, "s": np.float32(3)}).status == "ok"


def test_folders_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead = tmp_path / "assay-1-dead"
    dead.mkdir()
    (dead / "lock").touch()
    living = pool._Scratch()
    assert not dead.exists() and living.folder.exists()
    other = pool._Scratch()
    assert living.folder.exists() and other.folder != living.folder


def test_a_start_that_fails_for_once_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker("onnxruntime")
    try:
        assert finish(worker, neg_case(), ["off"])[0].status == "ok"
        assert worker.pid is not None
        with monkeypatch.context() as m:
            m.setattr(sys, "path", ["/nowhere"])  # the child cannot even import us
            os.kill(worker.pid, signal.SIGKILL)
            time.sleep(0.1)
            lost = finish(worker, neg_case(), ["off"])
            assert [o.status for o in lost] == ["missing"] and "cannot start" in lost[0].message
        assert finish(worker, neg_case(), ["off"])[0].status == "ok"
    finally:
        worker.close()
    assert [o.status for o in finish(worker, neg_case(), ["off"])] == ["missing"], "closed is closed"
