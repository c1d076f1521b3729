"""What matters and what does not: everything of the reduced case is changed, one thing at a time, and run again.

A thing matters when a valid case that differs in nothing else is right; it does not when such cases fail just so. What was asked
once is remembered beside the finding, so that a report is cheap the second time and goes on where time ran out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from corpus.folders import put_json
from oracles.plugin import Target, find
from oracles.records import Case, Verdict
from triage.cause import Model
from triage.draft import MEANINGLESS, Draft
from triage.earlier import carried
from triage.finding import Finding
from triage.message import normalise
from triage.replay import Judge, Run, judged, runner
from triage.variations import Allowed, Variation, variations

MEMORY = "matters.json"
SLOW = ("hang", "oom")  # each run takes the whole time limit
End = Literal["same", "right", "other", "refused", "invalid"]


@dataclass(frozen=True)
class Fact:
    """One thing of the case: its value, values with which it fails just so, with which it is right, with which it does something else,
    and those that the backend does not implement."""

    kind: str
    subject: str
    was: str
    same: tuple[str, ...] = ()
    right: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    @property
    def matters(self) -> bool:
        return bool(self.right)

    @property
    def indifferent(self) -> bool:
        return bool(self.same) and not self.right


@dataclass(frozen=True)
class Matters:
    """All that was found out. `finished` is False when time ran out, or when nothing could be tried."""

    facts: tuple[Fact, ...]
    runs: int
    finished: bool
    reason: str = ""

    def json(self) -> dict[str, Any]:
        return asdict(self)


def matters(
    finding: Finding,
    folder: Path | None = None,
    run: Run | None = None,
    judge: Judge = judged,
    seconds: float = 60.0,
    progress: Callable[[str], None] = lambda _: None,
    allowed: Allowed = lambda op, domain, attribute: (),
) -> Matters:
    """Try every variation for at most so long; `folder` keeps the answers; `allowed` tells the values of attributes (see triage.variations)."""
    if finding.verdict.verdict in SLOW:
        return Matters((), 0, False, "each run takes the whole limit, so nothing was varied")
    inspector = _Inspector(finding, run or runner(), judge, folder)
    every = variations(inspector.draft, allowed)
    end, found = time.monotonic() + seconds, list[tuple[Variation, End]]()
    try:
        for i, v in enumerate(every):
            if time.monotonic() > end:
                break
            progress(f"{i + 1} of {len(every)}: {v.subject}, {v.now} instead of {v.was}")
            found.append((v, inspector.ask(v)))
    finally:
        inspector.keep()
    return Matters(_facts(found), inspector.runs, len(found) == len(every), "" if len(found) == len(every) else "time ran out before everything was varied")


def _facts(found: Sequence[tuple[Variation, End]]) -> tuple[Fact, ...]:
    facts = dict[tuple[str, str], Fact]()
    for v, end in found:
        fact = facts.setdefault((v.kind, v.subject), Fact(v.kind, v.subject, v.was))
        if end != "invalid":
            facts[v.kind, v.subject] = replace(fact, **{end: (*getattr(fact, end), v.now)})
    return tuple(f for f in facts.values() if f.same or f.right or f.other or f.refused)


class _Inspector:
    """Asks the backend about variations, each once in its life."""

    def __init__(self, finding: Finding, run: Run, judge: Judge, folder: Path | None) -> None:
        self.finding, self.run, self.judge, self.folder, self.draft = finding, run, judge, folder, Draft.of(finding.case)
        v = finding.verdict
        reference = find(v.backend).reference_setting
        self.target = [Target(v.backend, tuple(dict.fromkeys([*([reference] if reference else []), finding.failing[0]])))]
        self.about = {"case": finding.case.id, "backend": v.backend, "version": find(v.backend).version(), "setting": finding.failing[0]}
        self.asked: dict[str, str] = self._remembered()
        self.runs = 0

    def _remembered(self) -> dict[str, str]:
        """Answers of an earlier report about this very case and version."""
        try:
            stored: Mapping[str, Any] = json.loads((self.folder / MEMORY).read_text()) if self.folder else {}
        except (OSError, ValueError):
            return {}
        return dict(stored.get("asked", {})) if {k: stored.get(k) for k in self.about} == self.about else {}

    def keep(self) -> None:
        if self.folder is not None and self.runs:
            put_json(self.folder / MEMORY, {**self.about, "asked": self.asked})

    def ask(self, variation: Variation) -> End:
        """How the first valid way to make the change ends."""
        for changed in variation.drafts:
            draft = carried(self.draft, changed)
            if draft is None:
                continue
            key = draft.id.hex()
            if key not in self.asked:
                self.asked[key] = self._end(draft)
            if self.asked[key] != "invalid":
                return self.asked[key]  # type: ignore[return-value]
        return "invalid"

    def _end(self, draft: Draft) -> End:
        if not draft.valid:
            return "invalid"
        case = draft.case()
        self.runs += 1
        try:
            verdicts = self.judge(case, self.run(case, self.target))
        except MEANINGLESS:
            return "invalid"  # without a reference there is no right and no wrong
        return self._ended(case, [v for v in verdicts if v.setting == self.finding.failing[0]])

    def _ended(self, case: Case, here: Sequence[Verdict]) -> End:
        v = self.finding.verdict
        if any(x.verdict == v.verdict and self._alike(case, x) for x in here):
            return "same"
        if any(x.verdict == "unsupported" for x in here):
            return "refused"
        if not here or any(x.verdict == "ours" or x.masked >= 1.0 for x in here):
            return "invalid"
        return "other" if any(x.is_finding for x in here) else "right"

    def _alike(self, case: Case, x: Verdict) -> bool:
        """Failures that say something say the same."""
        if self.finding.verdict.verdict not in ("broken", "refused"):
            return True
        mine, theirs = (normalise(verdict.message, Model(model).names) for verdict, model in ((self.finding.verdict, self.finding.case.model), (x, case.model)))
        return mine == theirs
