"""The output folder: resumed with all its sums, refused when it is not ours, and not hurt by a kill or a full disk."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from corpus.database import Found
from corpus.journal import Journal, unfinished
from corpus.lock import StoreError
from corpus.store import Store
from oracles.records import Case, Outcome, Verdict

ROOT = Path(__file__).parents[2]
OUTCOMES = [Outcome("onnxruntime", s, "ok", seconds=0.5) for s in ("off", "all")]


def case(index: int = 0) -> Case:
    return Case(b"model" * 100, {"x": np.full(3, index, np.float32)}, {"seed": 7, "index": index})


def verdicts(*names: str) -> list[Verdict]:
    return [Verdict("onnxruntime", s, n, output="y") for s, n in zip(("off", "all"), names, strict=True)]  # type: ignore[arg-type]


def python(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_new_folder_has_its_files_and_resuming_restores_every_sum(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Store.open(out, argv=["fuzz", "run"], versions={"onnx": "1.2"}, seed=7) as store:
        assert not store.resumed
        store.record(case(0), OUTCOMES, verdicts("ok", "wrong"), {"generate": 0.25}, ["op Relu", "broadcast"])
        store.record(case(1), OUTCOMES, verdicts("ok", "noise"), {"generate": 0.25}, ["op Relu"])
        store.finding(Found("a1" * 8, "wrong", "onnxruntime", "all", "Relu is wrong", case_id="c0", number=0))
    run = json.loads((out / "run.json").read_text())
    assert run["seed"] == 7 and run["argv"] == ["fuzz", "run"] and run["versions"] == {"onnx": "1.2"} and run["cpu"]["count"]
    with Store.open(out) as store:
        assert store.resumed and store.next_number == 2 and store.features == {"op Relu", "broadcast"}
        assert store.again("a1" * 8, 3) and not store.again("b2" * 8)
        stats = store.stats()
    assert stats["cases"] == 2 and stats["time"] == {"generate": 0.5, "onnxruntime": 2.0} and stats["findings"] == 1
    assert stats["backends"]["onnxruntime"]["all"] == {"ok": 0, "noise": 1, "unsupported": 0, "wrong": 1}
    assert set(json.loads((out / "stats.json").read_text())) >= {"cases", "valid", "seconds", "time", "backends", "findings", "known", "flaky", "coverage"}
    assert [json.loads(line)["event"] for line in (out / "events.ndjson").read_text().splitlines()] == ["start", "finding", "stop", "resume", "stop"]


def test_counts_and_sightings_of_a_cause(tmp_path: Path) -> None:
    with Store.open(tmp_path) as store:
        found = Found("a1" * 8, "wrong", "tvm", "fused", "t", case_id=case(0).id, number=0)
        assert store.finding(found) and not store.finding(found)
        store.again(found.key, 2, case(5))
        store.change(found.key, status="known", known="https://example.org/1")
        (stored,) = store.findings()
    assert (stored.count, stored.status, stored.known) == (4, "known", "https://example.org/1")
    assert stored.first_seen <= stored.last_seen


@pytest.mark.parametrize("point", ["journal", "record"])
def test_kill_loses_at_most_the_case_in_flight(tmp_path: Path, point: str) -> None:
    child = python(f"""
        import sys, time, numpy as np
        from corpus.store import Store
        from oracles.records import Case, Outcome, Verdict
        store = Store.open({str(tmp_path / "out")!r}, seed=7)
        for i in range(50):
            c = Case(b"m", {{"x": np.full(3, i, np.float32)}}, {{"index": i}})
            store.begin(c)
            store.at("tvm", "fused")
            if i == 49 and {point!r} == "journal":
                break
            store.record(c, [], [Verdict("tvm", "fused", "ok", output="y")])
        print("ready", flush=True)
        time.sleep(60)
    """)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    with Store.open(tmp_path / "out") as store:
        assert store.resumed and store.next_number == 50
        if point == "record":
            assert store.total("cases") == 50 and store.interrupted == []
        else:
            (left,) = store.interrupted
            assert store.total("cases") == 49 and (left.backend, left.setting) == ("tvm", "fused")
            assert left.case.inputs["x"].tolist() == [49.0] * 3
            assert (tmp_path / "out" / "corpus" / left.case.id[:2] / left.case.id / "model.onnx").read_bytes() == b"m"


def test_a_live_run_is_refused_and_a_stale_lock_is_taken_over(tmp_path: Path) -> None:
    child = python(f"""
        import time
        from corpus.store import Store
        store = Store.open({str(tmp_path)!r})
        print("ready", flush=True)
        time.sleep(60)
    """)
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    with pytest.raises(StoreError, match=f"another run is using it \\(process {child.pid}\\)"):
        Store.open(tmp_path)
    child.kill()
    child.wait()
    assert (tmp_path / "lock").read_text().strip() == str(child.pid)
    with Store.open(tmp_path), pytest.raises(StoreError, match="already in use by this process"):
        Store.open(tmp_path)
    Store.open(tmp_path).close()


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    for fresh in (False, True):
        with pytest.raises(StoreError, match="not empty and was not made by fuzz"):
            Store.open(tmp_path, fresh)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    other = tmp_path / "other"
    other.mkdir()
    (other / "run.json").write_text('{"tool": "else"}')
    with pytest.raises(StoreError, match="belongs to something else"):
        Store.open(other, fresh=True)
    (other / "run.json").write_text("{")
    with pytest.raises(StoreError, match="belongs to something else"):
        Store.open(other)
    with pytest.raises(StoreError, match="is a file"):
        Store.open(tmp_path / "thesis.tex")


def test_fresh_removes_what_is_ours_and_nothing_else(tmp_path: Path) -> None:
    with Store.open(tmp_path, seed=1) as store:
        store.record(case(), [], [])
        store.keep(case(), "test")
    (tmp_path / "notes.txt").write_text("mine")
    with Store.open(tmp_path, fresh=True, seed=2) as store:
        assert store.total("cases") == 0 and store.run["seed"] == 2 and not store.resumed
    assert (tmp_path / "notes.txt").exists() and not (tmp_path / "corpus").exists()


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    Store.open(tmp_path, seed=1).close()
    with pytest.raises(StoreError, match="holds a run with seed 1"):
        Store.open(tmp_path, seed=2)
    Store.open(tmp_path, seed=1).close()


def test_unwritable_places() -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        Store.open("/proc/fuzz-out")
    with pytest.raises(StoreError, match="cannot be written"):
        Store.open("/dev/null/fuzz-out")


def test_a_damaged_or_newer_database_is_one_sentence(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    db = sqlite3.connect(tmp_path / "fuzz.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="has schema 99"):
        Store.open(tmp_path)
    (tmp_path / "fuzz.db").write_bytes(b"not a database at all, but long enough to be read as one" * 50)
    with pytest.raises(StoreError, match=r"fuzz\.db: is damaged"):
        Store.open(tmp_path)
    Store.open(tmp_path, fresh=True).close()


def test_a_full_disk_is_one_sentence_and_loses_nothing_stored(tmp_path: Path) -> None:
    child = python(f"""
        import resource, signal, numpy as np
        from corpus.store import Store, StoreError
        from oracles.records import Case
        store = Store.open({str(tmp_path)!r})
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
        n = 0
        try:
            with store:
                while True:
                    store.record(Case(b"m", {{}}, {{"index": n}}), [], [], features=["f%d" % i for i in range(n, n + 50)])
                    n += 1
        except StoreError as e:
            print(n, e, sep="|")
    """)
    assert child.stdout is not None
    n, sentence = child.stdout.read().strip().split("|")
    assert child.wait() == 0
    assert int(n) > 10 and "no space is left" in sentence and "\n" not in sentence
    with Store.open(tmp_path) as store:
        assert store.total("cases") == int(n)


def test_recording_is_cheap(tmp_path: Path) -> None:
    cases = [case(i) for i in range(300)]
    assert all(c.id for c in cases)
    with Store.open(tmp_path) as store:
        started = time.process_time()
        for c in cases:
            store.begin(c, "onnxruntime")
            store.record(c, OUTCOMES, verdicts("ok", "ok"), {"generate": 0.001}, ["op Relu", "op Add"])
        assert (time.process_time() - started) / len(cases) < 0.001  # 0.0001 when the machine is idle


def test_journal_keeps_every_type_and_ignores_a_torn_write(tmp_path: Path) -> None:
    inputs = {
        "b": np.ones((2, 3), ml_dtypes.bfloat16),
        "i": np.array([1, -2], ml_dtypes.int4),
        "s": np.array([["a", "é\0"]], object),
        "e": np.zeros((0, 2)),
        "r": np.array(3, np.int8),
    }
    made = Case(b"bytes", inputs, {"index": 3, "n": np.int64(4)})
    journal = Journal(tmp_path, 4)
    journal.begin(Case(b"longer" * 1000, {}, {}))
    journal.begin(made, "tvm", "default")
    (left,) = unfinished(tmp_path)
    assert left.case.id == made.id and left.slot == 4 and left.backend == "tvm" and left.case.origin == {"index": 3, "n": 4}
    data = journal.path.read_bytes()
    journal.path.write_bytes(data[:300])
    assert list(unfinished(tmp_path)) == []
    journal.end()
    assert list(unfinished(tmp_path)) == []
    journal.close()
    assert not journal.path.exists()


def test_kept_cases_are_read_back_with_the_same_id(tmp_path: Path) -> None:
    from corpus.folders import stored_case
    from tests.corpus.test_models import model

    made = Case(model().SerializeToString(), {"x": np.ones(4, np.float32)}, {"index": 1, "choices": [1, 2]})
    with Store.open(tmp_path) as store:
        folder = store.keep(made, "new coverage")
        assert store.keep(made, "again") == folder and store.cases() == [(made.id, 1, "new coverage")]
    assert folder.relative_to(tmp_path).parts == ("corpus", made.id[:2], made.id)
    back = stored_case(folder)
    assert back.id == made.id and back.origin == made.origin
