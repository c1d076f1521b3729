"""Whole campaigns with backends that tell the truth or lie on demand: what is found, what is saved, how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import onnx
import psutil
import pytest

from tests.command import environment, fuzz, started, stats, until

SMALL = ("--max-nodes", 3, "--specs", "relu,add,mul,matmul,transpose,sub")

pytestmark = pytest.mark.slow


def run(cwd: Path, *arguments: object, out: str = "out", timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return fuzz("run", "--out", out, "--workers", 1, *arguments, cwd=cwd, timeout=timeout)


def findings(out: Path) -> list[dict[str, Any]]:
    """What the folders of findings say of themselves."""
    folder = out / "findings"
    return [json.loads((f / "outcome.json").read_text()) | {"folder": f} for f in sorted(folder.iterdir())] if folder.is_dir() else []


def verdicts(out: Path) -> Counter[str]:
    return Counter(f["folder"].name.rsplit("-", 1)[0] for f in findings(out))


# truth and lies ------------------------------------------------------------------------------------------------------
def test_a_perfect_backend_is_never_accused(tmp_path: Path) -> None:
    done = run(tmp_path, "--backends", "null", "--budget", "40cases")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no findings" in done.stdout
    s = stats(tmp_path / "out")
    counts = s["backends"]["null"]["default"]
    assert s["cases"] == 40 == counts["ok"] + counts["noise"] and s["tested"] == {"null": 40}
    assert s["findings"] == s["known"] == s["flaky"] == 0 and findings(tmp_path / "out") == []
    assert s["coverage"]["operators"] > 30 and 0 < s["valid"] <= 1 and s["seconds"] > 0
    assert {"generate", "search", "reference", "judge", "null"} <= s["time"].keys()
    about = json.loads((tmp_path / "out" / "run.json").read_text())
    assert about["seed"] == 0 and about["argv"][0] == "fuzz" and "null" in about["versions"]


def test_every_lie_is_found_and_called_by_its_name(tmp_path: Path) -> None:
    """Seven lies about every case of one operator: a cause for each lie and class of types, with the verdict it deserves."""
    lies = "liar:ok+element+nan+dtype+shape+unstable+refuse+broken"
    done = run(tmp_path, "--backends", lies, "--budget", "10cases", "--max-nodes", 2, "--specs", "relu")
    out = tmp_path / "out"
    assert done.returncode == 1, done.stdout + done.stderr
    by = stats(out)["backends"]["liar"]
    assert set(by["ok"]) >= {"ok"} and not any(n for v, n in by["ok"].items() if v not in ("ok", "noise")), "the honest setting is not accused"
    expected = {
        "element": {"wrong"},
        "nan": {"nonfinite"},
        "dtype": {"mistyped"},
        "shape": {"mistyped"},
        "unstable": {"unstable", "wrong"},
        "refuse": {"broken"},
        "broken": {"broken"},
    }
    for setting, names in expected.items():
        told = {v for v, n in by[setting].items() if n and v not in ("ok", "noise")}
        assert told and told <= names, f"{setting}: {by[setting]}"
    found = verdicts(out)
    assert {"wrong", "nonfinite", "mistyped", "broken"} <= found.keys(), found
    accused = sum(n for s in expected for v, n in by[s].items() if v not in ("ok", "noise"))
    assert sum(found.values()) <= 16 and accused >= 3 * sum(found.values()), f"{accused} accusations grouped into {found}"
    for f in findings(out):
        folder = f["folder"]
        assert {"README.md", "repro.py", "model.onnx", "inputs.npz", "outcome.json"} <= {p.name for p in folder.iterdir()}
        onnx.checker.check_model(onnx.load(folder / "model.onnx"), full_check=True)
        assert folder.name in done.stdout and str(folder.relative_to(tmp_path)) in done.stdout


@pytest.mark.parametrize(
    ("setting", "verdict", "limits"),
    [
        ("crash", "crash", ()),
        ("abort", "crash", ()),
        ("hang", "hang", ("--timeout", "1s")),
        ("oom", "oom", ("--memory", "500M")),
    ],
)
def test_a_backend_that_dies_is_a_finding_and_not_the_end(setting: str, verdict: str, limits: tuple[object, ...], tmp_path: Path) -> None:
    done = run(tmp_path, "--backends", f"liar:{setting}", "--budget", "2cases", *SMALL, *limits)
    assert done.returncode == 1, done.stdout + done.stderr
    assert set(verdicts(tmp_path / "out")) == {verdict}
    s = stats(tmp_path / "out")
    assert s["cases"] == 2 and s["backends"]["liar"][setting][verdict] == 2
    assert len(findings(tmp_path / "out")) <= 2


def test_a_failure_at_the_only_setting_asked_for_is_compared_with_the_unoptimised_one(tmp_path: Path) -> None:
    """The lane sees a model refused; confirming it runs the other settings too, and calls it broken."""
    done = run(tmp_path, "--backends", "liar:refuse", "--budget", "2cases", "--max-nodes", 1, "--specs", "relu")
    assert done.returncode == 1, done.stdout + done.stderr
    assert set(verdicts(tmp_path / "out")) == {"broken"}
    assert all(f["reproduced"] == f["repeats"] == 3 for f in findings(tmp_path / "out"))


def test_a_finding_can_be_replayed_and_shown(tmp_path: Path) -> None:
    done = run(tmp_path, "--backends", "liar:ok+nan", "--budget", "30m", "--stop-on-first", *SMALL)
    assert done.returncode == 1, "it stops at the first new finding\n" + done.stdout + done.stderr
    folder = findings(tmp_path / "out")[0]["folder"]
    again = fuzz("replay", folder, cwd=tmp_path)
    assert again.returncode == 1 and again.stdout.startswith("STILL"), again.stdout + again.stderr
    shown = fuzz("show", folder.name, "--out", "out", cwd=tmp_path)
    assert shown.returncode == 0 and "nonfinite" in shown.stdout and "assay" in shown.stdout, shown.stdout + shown.stderr
    repro = subprocess.run([sys.executable, folder / "repro.py"], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert repro.returncode in (1, 2), repro.stdout + repro.stderr


def test_a_run_that_tested_nothing_is_not_green(tmp_path: Path) -> None:
    done = run(tmp_path, "--backends", "liar:unsupported", "--budget", "3cases", *SMALL)
    assert done.returncode == 5, done.stdout + done.stderr
    assert stats(tmp_path / "out")["backends"]["liar"]["unsupported"]["unsupported"] == 3


# resuming ------------------------------------------------------------------------------------------------------------
def test_two_sessions_make_the_cases_of_one(tmp_path: Path) -> None:
    """Numbering goes on: 8 cases and 8 more cover what 16 cover, and no case is made twice."""
    for _ in range(2):
        assert run(tmp_path, "--backends", "null", "--budget", "8cases", "--seed", 7, "--max-nodes", 4, out="two").returncode == 0
    assert run(tmp_path, "--backends", "null", "--budget", "16cases", "--seed", 7, "--max-nodes", 4, out="one").returncode == 0
    two, one = stats(tmp_path / "two"), stats(tmp_path / "one")
    assert two["cases"] == one["cases"] == 16
    assert two["coverage"] == one["coverage"] and two["backends"] == one["backends"] and two["rejected"] == one["rejected"]


def test_several_workers_share_the_budget(tmp_path: Path) -> None:
    done = fuzz("run", "--out", "out", "--backends", "null", "--budget", "9cases", "--workers", 2, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    s = stats(tmp_path / "out")
    assert s["cases"] == 9 and s["tested"] == {"null": 9}


def test_another_seed_is_another_run(tmp_path: Path) -> None:
    assert run(tmp_path, "--backends", "null", "--budget", "1case", "--seed", 1, *SMALL).returncode == 0
    other = run(tmp_path, "--backends", "null", "--budget", "1case", "--seed", 2, *SMALL)
    assert other.returncode == 2 and "seed" in other.stderr and "Traceback" not in other.stderr
    assert stats(tmp_path / "out")["cases"] == 1, "nothing of the run that is there is touched"


def test_ctrl_c_saves_and_sums_up(tmp_path: Path) -> None:
    process, out = started("run", "--out", "out", "--backends", "null", "--budget", "10m", "--workers", 1, *SMALL, cwd=tmp_path), tmp_path / "out"
    try:
        until(lambda: stats(out)["cases"] > 3)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said + errors
    assert "no findings" in said and "everything is in out" in said and "Traceback" not in errors
    before = stats(out)["cases"]
    assert run(tmp_path, "--backends", "null", "--budget", "2cases", *SMALL).returncode == 0
    assert stats(out)["cases"] == before + 2


def test_kill_9_loses_at_most_the_case_in_flight(tmp_path: Path) -> None:
    process, out = started("run", "--out", "out", "--backends", "null", "--budget", "10m", "--workers", 1, *SMALL, cwd=tmp_path), tmp_path / "out"
    try:
        until(lambda: stats(out)["cases"] > 5)
        family = [process.pid, *(p.pid for p in psutil.Process(process.pid).children(recursive=True))]
        known = stats(out)["cases"]
    finally:
        process.kill()
        process.communicate()
    until(lambda: not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in family), 30)
    done = run(tmp_path, "--backends", "null", "--budget", "2cases", *SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stats(out)["cases"] >= known + 2


def test_a_lane_that_dies_is_reported_and_replaced(tmp_path: Path) -> None:
    process, out = started("run", "--out", "out", "--backends", "null", "--budget", "10m", "--workers", 1, *SMALL, cwd=tmp_path), tmp_path / "out"
    try:
        until(lambda: stats(out)["cases"] > 3)
        lane = next(p for p in psutil.Process(process.pid).children() if p.children())  # the one that has a backend worker
        lane.kill()
        until(lambda: '"defect"' in (out / "events.ndjson").read_text())
        before = stats(out)["cases"]
        until(lambda: stats(out)["cases"] > before + 3)
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, said + errors
    assert "failed in fuzz itself" in said
