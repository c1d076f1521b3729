"""From a stored finding to a report: run it again, look for what a maintainer would send back, vary it, render it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from corpus.folders import put_json
from oracles.plugin import Target, find
from specs.rule import UsageError
from triage import filed
from triage.finding import Finding
from triage.first_bad import History, Release, first_bad, has
from triage.lint import REPEATS, Plan, banner, faults
from triage.matters import SLOW, Matters, matters
from triage.replay import Judge, Replayed, Run, judged, replay, runner
from triage.repro import repro
from triage.sections import Report
from triage.targets import Project, rendered
from triage.variations import Allowed
from triage.write import read_finding

AGAIN, HISTORY = "again.json", "releases.json"


@dataclass(frozen=True)
class Filing:
    """What came of it: `text` is empty when the report was refused, `faults` says why (or what was forced)."""

    finding: Finding
    project: Project
    text: str
    faults: dict[str, str]
    again: Replayed
    matters: Matters | None = None

    def json(self) -> dict[str, Any]:
        again = {"status": self.again.status, "hits": self.again.hits, "repeats": self.again.repeats, "now": self.again.now}
        about = {"finding": self.finding.name, "key": self.finding.key, "target": self.project.name, "project": self.project.project}
        body = {"title": self.project.title(self.finding), "labels": list(self.project.labels), "body": self.text}
        return {**about, "refused": not self.text, "faults": self.faults, "again": again, **body, "matters": self.matters.json() if self.matters else None}


def file(
    folder: Path,
    project: Project,
    *,
    force: bool = False,
    seconds: float = 60.0,
    run: Run | None = None,
    judge: Judge = judged,
    allowed: Allowed = lambda op, domain, attribute: (),
    progress: Callable[[str], None] = lambda _: None,
) -> Filing:
    """Report one finding to a project. Everything that is asked of the backend is remembered in the folder.

    seconds  for varying the case; 0 leaves that out
    Raises UsageError for a folder that is no finding and a backend that is not installed.
    """
    finding = read_finding(folder)
    progress(f"running it {REPEATS} times")
    again = _again(finding, folder, run or runner(), judge)
    book = filed.ledger(folder) if project.project else None
    broken = faults(Plan(finding, project.project, again, book))
    if broken and not force:
        return Filing(finding, project, "", broken, again)
    finding = _shown(finding, run or runner(), judge)
    varied = matters(finding, folder, run, judge, seconds, progress, allowed) if seconds else None
    progress("writing")
    warning = banner(list(broken.values())) if broken else ""
    report = Report(finding, repro(finding), varied, again, history_of(folder), project.versions(), warning)
    text = rendered(project, report)
    if book is not None:
        filed.record(book, filed.Filed(finding.name, finding.key, project.project))
    return Filing(finding, project, text, broken, again, varied)


def _again(finding: Finding, folder: Path, run: Run, judge: Judge) -> Replayed:
    """Five runs, or what five runs with the same version said before."""
    about = {"case": finding.case.id, "version": find(finding.verdict.backend).version(), "repeats": REPEATS}
    try:
        stored = json.loads((folder / AGAIN).read_text())
        if {k: stored[k] for k in about} == about and stored["status"] == "STILL":
            return Replayed(finding, stored["status"], stored["hits"], stored["repeats"], stored["now"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not asked yet, or not by this version of fuzz
    again = replay(finding, run, judge, REPEATS)
    put_json(folder / AGAIN, {**about, "status": again.status, "hits": again.hits, "now": again.now})
    return again


def _shown(finding: Finding, run: Run, judge: Judge) -> Finding:
    """With the outputs of all settings, which are not stored: the table shows what those that are right give."""
    if finding.verdict.verdict in SLOW:
        return finding
    settings = tuple(s for s in finding.settings if find(finding.verdict.backend).has(s))
    outcomes = run(finding.case, [Target(finding.verdict.backend, settings)])
    verdicts = judge(finding.case, outcomes)
    mine = any(v.setting == finding.verdict.setting and v.verdict == finding.verdict.verdict for v in verdicts)
    return replace(finding, outcomes=tuple(outcomes), verdicts=tuple(verdicts)) if mine else finding


def date(folders: Sequence[Path], environments: Sequence[Path], progress: Callable[[str], None] = lambda _: None) -> list[History]:
    """The first bad release of each finding among the environments that have its backend; kept beside the finding, for its reports.

    Findings of a backend that no environment has are left out. Raises UsageError when that is all of them.
    """
    histories, installed = list[History](), dict[str, list[Path]]()
    for folder in folders:
        finding = read_finding(folder)
        backend = finding.verdict.backend
        if backend not in installed:
            installed[backend] = [e for e in environments if has(e, backend)]
        if installed[backend]:
            found = first_bad(finding, installed[backend], tell=lambda what, name=finding.name: progress(f"{name} with {what}"))
            put_json(folder / HISTORY, found.json())
            histories.append(found)
    if not histories:
        wanted = ", ".join(installed) or "any backend"
        raise UsageError(f"--first-bad: none of {', '.join(map(str, environments))} has {wanted} installed")
    return histories


def history_of(folder: Path) -> History | None:
    """What `fuzz triage --first-bad` found out; None when it was not asked."""
    try:
        stored = json.loads((folder / HISTORY).read_text())
        releases = tuple(Release(**r) for r in stored["releases"])
        return History(stored["finding"], releases, stored["first_bad"], stored["last_good"], stored["fixed_in"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
