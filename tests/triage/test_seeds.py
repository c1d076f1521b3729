"""Real defects, found once and kept: each must still be there in the version it was found in, and be judged in the same way."""

from __future__ import annotations

import pytest

from corpus.regressions import Regression, regressions
from oracles.plugin import Target, find
from oracles.pool import run
from triage.replay import judged


@pytest.mark.backends
@pytest.mark.parametrize("kept", regressions(), ids=lambda r: r.path.name)
def test_seed(kept: Regression) -> None:
    seed, backend = kept.seed, find(kept.seed.backend)
    if backend.missing():
        pytest.skip(backend.missing())
    settings = tuple(dict.fromkeys([*([backend.reference_setting] if backend.reference_setting else []), seed.setting]))
    outcomes = run(kept.case, [Target(seed.backend, settings)], timeout=8.0 if seed.verdict == "hang" else 30.0)
    found = {v.verdict for v in judged(kept.case, outcomes) if v.setting == seed.setting}
    if not kept.shows & found and backend.version() != seed.version:
        pytest.skip(f"gone in {seed.backend} {backend.version()}: {sorted(found)}")
    assert kept.shows & found, f"{seed.title}: now {sorted(found)}; replay with: fuzz check {kept.path} --backends {seed.backend}:{seed.setting}"
