"""Help and error sentences, word for word: the text is the product."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from fuzzer.cli import COMMANDS
from tests.cli.conftest import Told
from tests.command import environment, fuzz


def test_help(told: Told, snapshot: SnapshotAssertion) -> None:
    assert told("--help") == snapshot


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command(command: str, told: Told, snapshot: SnapshotAssertion) -> None:
    text = told(command, "--help")
    assert text == snapshot
    assert "Example:" in text, "every command shows how it is used"


WRONG: dict[str, tuple[object, ...]] = {
    "no command": (),
    "unknown command": ("fly",),
    "unknown option": ("run", "--fast"),
    "unknown backend": ("run", "--backends", "onnxruntim", "--budget", "1case"),
    "unknown setting": ("run", "--backends", "onnxruntime:fast", "--budget", "1case"),
    "bad budget": ("run", "--budget", "soon"),
    "bad timeout": ("run", "--budget", "1case", "--timeout", "never"),
    "bad memory": ("run", "--budget", "1case", "--memory", "lots"),
    "bad workers": ("run", "--budget", "1case", "--workers", "many"),
    "bad user interface": ("run", "--budget", "1case", "--ui", "3d"),
    "no such operator": ("run", "--budget", "1case", "--specs", "convolve"),
    "nothing left": ("run", "--budget", "1case", "--backends", "null", "--specs", "relu,!relu"),
    "check: missing file": ("check", "absent.onnx"),
    "check: no file": ("check",),
    "check: unknown backend": ("check", "absent.onnx", "--backends", "xla"),
    "generate: no folder": ("generate",),
    "generate: opset": ("generate", "--out", "cases", "--opset", "7"),
    "generate: no such operator": ("generate", "--out", "cases", "--op", "frobnicate"),
    "generate: no nodes": ("generate", "--out", "cases", "--nodes", "0"),
    "replay: no finding": ("replay", "wrong-00000000"),
    "report: no finding": ("report", "wrong-00000000"),
    "run: unknown kind of report": ("run", "--budget", "1case", "--report", "html,pdf"),
    "replay: no environment": ("replay", "wrong-00000000", "--python", "absent"),
    "show: no finding": ("show", "wrong-00000000"),
    "specs: nothing": ("specs", "--specs", "xyz*"),
    "bench: nothing": ("bench", "everything"),
    "doctor: nothing": ("doctor", "xla"),
}


@pytest.mark.parametrize("what", WRONG)
def test_mistakes_end_with_status_2_and_a_sentence(what: str, told: Told, snapshot: SnapshotAssertion, tmp_path: Path) -> None:
    text = told(*WRONG[what])
    assert text == snapshot
    assert text.startswith("exit status 2")
    assert "Traceback" not in text and "this is a bug" not in text
    assert list(tmp_path.iterdir()) == [], "nothing is written for a request that cannot be met"


def test_help_is_quick_because_it_imports_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom fuzzer.cli import main\nsys.argv = ['fuzz', '--help']\n"
        "try: main()\nfinally: print([m for m in ('torch', 'onnx', 'onnxruntime', 'tvm', 'z3', 'hypothesis', 'numpy') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr.strip() == "[]"


def test_the_version(tmp_path: Path) -> None:
    done = fuzz("--version", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith("fuzz ") and len(done.stdout.split()) in (2, 3)


def test_a_pipe_that_closes_is_no_error(tmp_path: Path) -> None:
    command = f"{sys.executable} -c 'import sys; sys.argv[0] = \"fuzz\"; from fuzzer.cli import main; main()' specs | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr and done.stdout.count("\n") == 1
