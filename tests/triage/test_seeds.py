"""Real defects, found once and kept: each must still be there in the version it was found in, and be judged in the same way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corpus.folders import stored_case
from oracles.plugin import Target, find
from oracles.pool import run
from triage.replay import judged

SEEDS = sorted((Path(__file__).resolve().parents[2] / "corpus" / "seeds").glob("*/seed.json"))


@pytest.mark.backends
@pytest.mark.parametrize("path", SEEDS, ids=lambda p: p.parent.name)
def test_seed(path: Path) -> None:
    seed = json.loads(path.read_text())
    backend = find(seed["backend"])
    if backend.missing():
        pytest.skip(backend.missing())
    case = stored_case(path.parent)
    settings = tuple(dict.fromkeys([*([backend.reference_setting] if backend.reference_setting else []), seed["setting"]]))
    found = {v.verdict for v in judged(case, run(case, [Target(seed["backend"], settings)])) if v.setting == seed["setting"]}
    wanted = {seed["verdict"], *seed.get("also", ())}  # what is read from memory nobody wrote may look like several things
    if not wanted & found and backend.version() != seed["version"]:
        pytest.skip(f"gone in {seed['backend']} {backend.version()}: {sorted(found)}")
    assert wanted & found, (
        f"{seed['title']}: now {sorted(found)}; replay with: fuzz check {path.parent} --backends {seed['backend']}:{seed['setting']}"
    )
