"""`fuzz report`, `fuzz replay` and `fuzz run --report`: what is said, what is written, and how it ends."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from tests.cli.conftest import transcript
from tests.command import fuzz
from tests.triage.test_finding import RELU_CLIP, found, wrong
from triage.write import write_finding

pytestmark = pytest.mark.backends


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with the known defect of ONNX Runtime in it."""
    folder = tmp_path_factory.mktemp("run")
    write_finding(folder / "findings", found(RELU_CLIP, "onnxruntime"))
    return folder


def key(run: Path) -> str:
    (folder,) = (run / "findings").iterdir()
    return folder.name


def test_a_known_issue_is_not_written(run: Path, snapshot: SnapshotAssertion) -> None:
    done = fuzz("report", key(run), "--run", run, cwd=run)
    assert done.returncode == 2 and done.stdout == ""
    assert transcript(done, run).replace(key(run), "ID") == snapshot


def test_unless_it_is_forced(run: Path) -> None:
    done = fuzz("report", run, "--force", "--out", "issue.md", cwd=run)
    assert done.returncode == 0 and "rendered because of --force" in done.stderr
    text = (run / "issue.md").read_text()
    assert text.index("[!WARNING]") < text.index("### Describe the issue") and "relu-clip" not in text
    assert "| type | double |" in text and "```mermaid" in text and "sys.exit(77)" in text
    (filed,) = json.loads((run / "filed.json").read_text())
    assert (filed["project"], filed["state"], filed["finding"]) == ("microsoft/onnxruntime", "open", key(run))
    closed = fuzz("report", run, "--closed", cwd=run)
    assert closed.returncode == 0 and "0 of 15 reports to microsoft/onnxruntime are open" in closed.stdout
    assert fuzz("report", run, "--closed", cwd=run).returncode == 2


def test_json_says_why(run: Path) -> None:
    done = fuzz("report", run, "--target", "generic", "--json", cwd=run)
    about = json.loads(done.stdout)
    assert done.returncode == 2 and about["refused"] and list(about["faults"]) == ["unknown"] and about["again"]["hits"] == 5
    forced = json.loads(fuzz("report", run, "--target", "generic", "--json", "--force", "--seconds", "0", cwd=run).stdout)
    assert not forced["refused"] and forced["body"].startswith("<!-- title:") and forced["title"].startswith("[Bug]")


def test_the_wrong_project_and_folders_are_sentences(run: Path, snapshot: SnapshotAssertion) -> None:
    wrong = [
        ("report", run, "--target", "tvm"),
        ("report", run, "--out", run),
        ("report", "wrong-00000000"),
        ("report", run, "--target", "generic", "--closed"),
    ]
    said = [transcript(fuzz(*arguments, cwd=run), run).replace(key(run), "ID") for arguments in wrong]
    assert "\n\n".join(said) == snapshot
    assert all(s.startswith("exit status 2") for s in said)


def test_replay_of_all_and_in_another_environment(run: Path) -> None:
    done = fuzz("replay", "--out", run, "--repeat", "1", cwd=run)
    assert done.returncode == 1 and done.stdout.split()[:2] == ["STILL", key(run)]
    there = fuzz("replay", "--out", run, "--repeat", "1", "--python", sys.executable, "--json", cwd=run)
    (line,) = there.stdout.splitlines()
    about = json.loads(line)
    assert there.returncode == 1 and (about["status"], about["version"]) == ("STILL", about["found_in"])
    nowhere = fuzz("replay", "--out", run, "--python", "no/such/env", cwd=run)
    assert nowhere.returncode == 2 and "neither a virtual environment" in nowhere.stderr


def test_reports_of_what_is_fixed_may_be_closed(tmp_path: Path) -> None:
    finding = wrong(RELU_CLIP, "onnxruntime", "off")  # claims a value that ONNX Runtime does not give
    write_finding(tmp_path / "findings", finding)
    noted = fuzz("report", tmp_path, "--filed", "https://example.org/issues/1", cwd=tmp_path)
    assert noted.returncode == 0 and "1 of 15 reports" in noted.stdout
    done = fuzz("replay", "--out", tmp_path, "--repeat", "1", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("FIXED") and "may be closed: https://example.org/issues/1" in done.stdout
    assert json.loads((tmp_path / "filed.json").read_text())[0]["state"] == "fixed"


def test_triage_dates_and_writes_reports(run: Path) -> None:
    done = fuzz("triage", run, "--first-bad", sys.executable, "--report", "junit,sarif", "--json", cwd=run)
    told = json.loads(done.stdout)
    (cause,) = told["causes"]
    assert cause["since"]["sentence"].endswith("the oldest release given") and cause["since"]["releases"][0]["state"] == "bad"
    assert [Path(f).name for f in told["reports"]] == ["junit.xml", "report.sarif"]
    (result,) = json.loads((run / "report" / "report.sarif").read_text())["runs"][0]["results"]
    assert result["level"] == "note" and (run / result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]).exists()
    again = fuzz("report", run, "--force", "--seconds", "0", cwd=run)
    assert f"**Since:** {cause['since']['sentence']}." in again.stdout, "a report tells what triage found out"


@pytest.mark.slow
def test_a_run_writes_reports(tmp_path: Path) -> None:
    arguments = ("--budget", "60cases", "--backends", "liar:ok+element", "--specs", "relu,add", "--workers", "1", "--seed", "3", "--out", "out")
    done = fuzz("run", *arguments, "--report", "html,md,junit,sarif,json", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    files = re.findall(r"^report: (.*)$", done.stdout, re.MULTILINE)
    assert [Path(f).name for f in files] == ["report.html", "report.md", "junit.xml", "report.sarif", "report.json"]
    report = tmp_path / "out" / "report"
    content = json.loads((report / "report.json").read_text())
    assert content["findings"] and content["run"]["cases"] >= 60
    suite = ET.fromstring((report / "junit.xml").read_bytes()).find("testsuite")
    assert suite is not None and len(suite.findall("testcase")) == len(content["findings"])
    results = json.loads((report / "report.sarif").read_text())["runs"][0]["results"]
    for r in results:
        assert (tmp_path / "out" / r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]).exists()
    assert fuzz("run", *arguments, "--report", "pdf", cwd=tmp_path).returncode == 2
