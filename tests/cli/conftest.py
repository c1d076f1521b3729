"""Snapshots of what a user reads, without what differs between machines."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.command import fuzz

Told = Callable[..., str]


@pytest.fixture
def told(tmp_path: Path) -> Told:
    """Run a command in a fresh folder; what it said, how it ended, and on which stream."""

    def run(*arguments: object) -> str:
        return transcript(fuzz(*arguments, cwd=tmp_path), tmp_path)

    return run


def transcript(done: CompletedProcess[str], folder: Path) -> str:
    parts = [f"exit status {done.returncode}"]
    parts += [f"--- {name}\n{stable(text, folder)}" for name, text in (("stdout", done.stdout), ("stderr", done.stderr)) if text]
    return "\n".join(parts)


def stable(text: str, folder: Path) -> str:
    text = text.replace(str(folder), "FOLDER")
    text = re.sub(r"\b\d{2}:\d{2}:\d{2}\b", "HH:MM:SS", text)
    text = re.sub(r"; there are .*", "; there are ...", text)
    text = re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE)
    return text.rstrip("\n")
