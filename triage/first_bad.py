"""How far back a finding goes: the same case in several environments, oldest backend first."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from oracles.plugin import Target
from oracles.records import Case, Outcome
from specs.rule import Unsupported, UsageError
from triage.elsewhere import Elsewhere, interpreter, version
from triage.finding import Finding
from triage.replay import Replayed, replay

Ask = Callable[[Path], Callable[[Case, Sequence[Target]], list[Outcome]]]
#: What a replay says of a release: the defect is there, it is not, or the release cannot tell (it does something else, or lacks the operator).
_STATE = {"STILL": "bad", "FLAKY": "bad", "FIXED": "good", "CHANGED": "other"}


@dataclass(frozen=True)
class Release:
    """What one environment makes of the case. state: bad, good, other; now: what it does instead, in words."""

    version: str
    python: str
    state: str
    now: str = ""


@dataclass(frozen=True)
class History:
    """Releases, oldest first. `first_bad` is the oldest of the unbroken row of bad ones that ends with the newest bad release;
    `last_good` the good one before it. Empty when there is none among those given."""

    finding: str
    releases: tuple[Release, ...]
    first_bad: str = ""
    last_good: str = ""
    fixed_in: str = ""

    @property
    def sentence(self) -> str:
        """What it comes to."""
        if not self.first_bad:
            return "no given release shows it"
        fixed = f", gone in {self.fixed_in}" if self.fixed_in else ""
        if self.last_good:
            return f"first bad release {self.first_bad}, good in {self.last_good}{fixed}"
        older = [r.version for r in self.releases if numbers(r.version) < numbers(self.first_bad)]
        oldest = f"{', '.join(older)} cannot tell" if older else "the oldest release given"
        return f"as old as {self.first_bad}, {oldest}{fixed}"

    def json(self) -> dict[str, Any]:
        return {**asdict(self), "sentence": self.sentence}


def first_bad(finding: Finding, environments: Sequence[Path], ask: Ask = Elsewhere, tell: Callable[[str], None] = lambda _: None) -> History:
    """Run the case once in every environment, a virtual environment's folder or its Python. Raises UsageError."""
    backend = finding.verdict.backend
    pythons = [interpreter(p) for p in environments]
    if not pythons:
        raise UsageError("--first-bad: give at least one virtual environment with another version of the backend")
    dated = sorted(((version(p, backend), p) for p in pythons), key=lambda pair: numbers(pair[0]))
    releases = list[Release]()
    for release, python in dated:
        tell(f"{backend} {release}")
        try:
            again = replay(finding, run=ask(python), repeats=1)
        except Unsupported as e:
            releases.append(Release(release, str(python), "other", str(e)))
            continue
        releases.append(Release(release, str(python), state(finding, again), "" if again.status == "STILL" else again.now))
    return history(finding.name, releases)


def has(environment: Path, backend: str) -> bool:
    """Whether a backend is installed in an environment. Raises UsageError when that is no environment."""
    python = interpreter(environment)
    try:
        return bool(version(python, backend))
    except UsageError:
        return False


def state(finding: Finding, again: Replayed) -> str:
    """A release that fails at the same settings with the same verdict but other words counts as bad: messages change between releases."""
    same = any(v.verdict == finding.verdict.verdict and v.setting in finding.failing for v in again.verdicts)
    return "bad" if same else _STATE[again.status]


def history(name: str, releases: Sequence[Release]) -> History:
    """Which release broke it: releases that cannot tell do not interrupt a row."""
    known = [r for r in releases if r.state in ("bad", "good")]
    newest = max((i for i, r in enumerate(known) if r.state == "bad"), default=-1)
    if newest < 0:
        return History(name, tuple(releases))
    first = newest
    while first and known[first - 1].state == "bad":
        first -= 1
    good, fixed = known[first - 1].version if first else "", known[newest + 1].version if newest + 1 < len(known) else ""
    return History(name, tuple(releases), known[first].version, good, fixed)


def numbers(release: str) -> tuple[tuple[int, ...], str]:
    """1.20.1 before 1.31.0, and 0.27.0.dev1 before 0.27.0."""
    found = re.match(r"\d+(?:\.\d+)*", release)
    numbers = tuple(int(n) for n in found[0].split(".")) if found else ()
    rest = release[len(found[0]) :] if found else release
    return numbers, "~" if not rest or rest.startswith(("+", ".post")) else rest
