"""What `fuzz gate` and `fuzz init` say, word for word."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from tests.cli.conftest import Told, transcript
from tests.command import fuzz

PLAIN = '''
from oracles.kernel import kernel


@kernel("plain-neg", implements="Neg", dtypes=("float32",), form="python")
def plain_neg(node, x):
    """Right."""
    return -x


@kernel("late-neg", implements="Neg", dtypes=("float32",), form="python", where=lambda node, inputs: inputs[0].numel() > 7)
def late_neg(node, x):
    """Wrong from the eighth element on."""
    y = -x
    y.view(-1)[7:] *= 1.5
    return y
'''

WRONG: dict[str, tuple[object, ...]] = {
    "no such kernel": ("gate", "--kernels", "soft-max"),
    "no repository": ("gate", "--base", "main"),
    "both": ("gate", "--base", "main", "--changed", "kernel.cpp"),
    "bad budget": ("gate", "--budget", "soon"),
    "no such report": ("gate", "--kernels", "relu", "--report", "pdf"),
    "pace of what": ("gate", "--perf", "5"),
    "init: no such service": ("init", "--ci", "jenkins"),
    "init: bad budget": ("init", "--budget", "soon"),
}


@pytest.mark.parametrize("what", WRONG)
def test_mistakes_end_with_status_2_and_a_sentence(what: str, told: Told, snapshot: SnapshotAssertion, tmp_path: Path) -> None:
    text = told(*WRONG[what])
    assert text == snapshot
    assert text.startswith("exit status 2") and "Traceback" not in text
    assert list(tmp_path.iterdir()) == [], "nothing is written for a request that cannot be met"


def test_init_writes_what_is_missing_and_keeps_what_is_there(tmp_path: Path, snapshot: SnapshotAssertion) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "mine"\n')
    first = transcript(fuzz("init", "--budget", "5m", cwd=tmp_path), tmp_path)
    source = tmp_path / "kernels" / "leaky_relu.cpp"
    source.write_text("// mine\n")
    second = transcript(fuzz("init", "--budget", "5m", "--ci", "gitlab", cwd=tmp_path), tmp_path)
    assert source.read_text() == "// mine\n"
    third = transcript(fuzz("init", "--budget", "5m", "--force", cwd=tmp_path), tmp_path)
    assert "leaky_relu(const Call" in source.read_text()
    assert f"{first}\n\n{second}\n\n{third}" == snapshot
    about = tomllib.loads((tmp_path / "pyproject.toml").read_text())
    assert about["project"]["name"] == "mine" and about["tool"]["fuzz"]["kernels"] == {"leaky-relu": "kernels/leaky_relu.py"}
    jobs = (tmp_path / ".github" / "workflows" / "fuzz-gate.yml").read_text(), (tmp_path / ".gitlab" / "fuzz-gate.yml").read_text()
    assert all("--budget 5m" in text for text in jobs) and "${{ github.sha }}" in jobs[0] and "{{ '" not in jobs[0]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_nothing_changed(tmp_path: Path, told: Told, snapshot: SnapshotAssertion) -> None:
    fuzz("init", "--ci", "none", cwd=tmp_path)
    for command in (["init", "-q"], ["add", "-A"], ["-c", "user.email=a@example.org", "-c", "user.name=a", "commit", "-q", "-m", "a state"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    assert "\n".join((told("gate", "--base", "HEAD"), told("gate", "--changed", "pyproject.toml", "--json"))) == snapshot


def test_the_whole_report(tmp_path: Path, snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that is right and one that is not, with the summary that a GitHub job shows."""
    (tmp_path / "negs.py").write_text(PLAIN)
    (tmp_path / "pyproject.toml").write_text('[tool.fuzz.kernels]\nnegs = "negs.py"\n')
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    done = fuzz("gate", "--kernels", "*-neg", "--seed", "5", "--budget", "60cases", "--out", "out", "--report", "md", cwd=tmp_path)
    text = steady(transcript(done, tmp_path))
    assert done.returncode == 1 and text == snapshot
    assert (tmp_path / "summary.md").read_text() == (tmp_path / "out" / "report" / "report.md").read_text()


def steady(text: str) -> str:
    """Without times, versions, and counts that move with every change of the drawing."""
    text = re.sub(r"\bin \d+ s\b", "in N s", text)
    text = re.sub(r"\b(in|kernels) (unknown|\d+\.\d+\.\d+[\w.+]*)", r"\1 VERSION", text)
    counted = re.compile(r"(shapes, ranks|networks drawn|types float|constraint covered|cases? failed|more cases|gives)")
    return "\n".join(re.sub(r"-?\d[\d,.]*(e[-+]?\d+)?", "N", line) if counted.search(line) else line for line in text.splitlines())
