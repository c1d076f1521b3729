"""Running `fuzz` as a user does: a process of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CODE = "import sys; sys.argv[0] = 'fuzz'; from fuzzer.cli import main; main()"
ENVIRONMENT = {"COLUMNS": "100", "LINES": "24", "NO_COLOR": "1", "TERM": "dumb", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def environment() -> dict[str, str]:
    return {**{k: v for k, v in os.environ.items() if not k.startswith(("FORCE_", "CLICOLOR"))}, **ENVIRONMENT}


def fuzz(*arguments: object, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run to the end; never raises for an exit status."""
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


def started(*arguments: object, cwd: Path) -> subprocess.Popen[str]:
    """Start and leave running."""
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    return subprocess.Popen(command, cwd=cwd, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)


def stats(out: Path) -> dict[str, Any]:
    """stats.json, which is replaced as a whole: it can be read at any moment once it is there."""
    return json.loads((out / "stats.json").read_text())


def until(condition: Callable[[], bool], seconds: float = 90) -> None:
    """Wait for something that a process does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except (FileNotFoundError, json.JSONDecodeError):
            pass
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds} s in vain")
