"""What `fuzz triage` tells: the findings of several runs, one row per cause, and what became of them since."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from corpus.database import stored
from corpus.lock import storing
from oracles import blame
from oracles.plugin import backends
from specs.rule import UsageError
from triage.filing import date, history_of
from triage.finding import Finding
from triage.formats import write
from triage.group import Group, Member, Transplant
from triage.guilt import shows
from triage.known import match, newer
from triage.replay import Judge, Run, judged, replay, runner
from triage.write import find_folders, read_finding


def members(outs: Sequence[Path]) -> list[Member]:
    """Every finding in these folders: runs, folders of findings, single findings. Raises UsageError for a folder that is none of these."""
    found = list[Member]()
    for out in outs:
        if not out.is_dir():
            raise UsageError(f"{out}: there is no such folder")
        folders, rows = find_folders(out), {r.key: r for r in stored(out / "fuzz.db")}
        if not folders and not (out / "run.json").exists():
            raise UsageError(f"{out}: holds no finding, and is not the folder of a run")
        for folder in folders:
            finding = read_finding(folder)
            version = finding.environment.get(finding.verdict.backend, "")
            known = match(finding.cause, finding.case.model, finding.verdict.message, version)  # the catalogue may know more by now
            found.append(Member(replace(finding, known=known or finding.known), folder, rows.get(finding.key)))
    return found


def updated(found: Sequence[Member], tell: Callable[[str], None], run: Run | None = None, judge: Judge | None = None) -> list[Member]:
    """Those found in an older version than the one that is installed are run again: what does not show any more is fixed."""
    now, checked = {name: b.version() or "" for name, b in backends().items() if b.available()}, list[Member]()
    for m in found:
        backend = m.finding.verdict.backend
        before, after = m.finding.environment.get(backend, ""), now.get(backend, "")
        if after and newer(after, before):
            tell(m.finding.name)
            gone = replay(m.finding, run, judge).status == "FIXED"
            checked.append(replace(m, fixed_in=after if gone else ""))
        else:
            checked.append(m)
    return checked


def transplanted(timeout: float, memory: int) -> Transplant:
    """Run the second finding with what cures the first one turned off."""

    def cures(first: Finding, second: Finding) -> bool:
        b = backends().get(second.verdict.backend)
        if b is None or b.missing() or b.switches is None:
            return False
        setting, still = second.failing[0], shows(second, judged)
        (whole,) = runner(timeout, memory)(second.case, [blame.Target(b.name, (setting,))])
        return still(whole) and blame.cures(second.case, b.name, setting, first.cause.guilty, still, timeout, memory)

    return cures


def dated(groups: Sequence[Group], environments: Sequence[Path], tell: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """How far back each cause goes, by key: asked of these environments, or what was asked before. Raises UsageError."""
    if environments and groups:
        date([g.members[0].folder for g in groups], environments, tell)
    known = {g.best.key: history_of(g.members[0].folder) for g in groups}
    return {key: history.json() for key, history in known.items() if history is not None}


def reported(groups: Sequence[Group], out: Path, kinds: Sequence[str]) -> list[Path]:
    """Write OUT/report/ in these kinds, one unit per cause that is still there; returns the files. Raises StoreError."""
    if not kinds:
        return []
    there = [g for g in groups if g.status != "fixed"]
    findings = [replace(g.best, count=sum(m.count for m in g.members)) for g in there]
    with storing(out / "report"):
        return write(findings, out / "report", kinds, root=out, places={g.best.key: g.members[0].folder for g in there})


def row(g: Group) -> dict[str, Any]:
    """Everything about one cause, for --json and for the table."""
    f, backend = g.best, g.best.verdict.backend
    return {
        "cause": f.name,
        "key": f.key,
        "status": g.status,
        "count": sum(m.count for m in g.members),
        "first_seen": min(m.first_seen for m in g.members),
        "last_seen": max(m.last_seen for m in g.members),
        "backend": backend,
        "versions": sorted({v for m in g.members if (v := m.finding.environment.get(backend))}),
        "fixed_in": next((m.fixed_in for m in g.members if m.fixed_in), "") if g.status == "fixed" else "",
        "verdict": f.verdict.verdict,
        "setting": f.verdict.setting,
        "ratio": f.verdict.ratio if f.verdict.ratio and f.verdict.ratio < 1e300 else None,
        "ops": f.ops,
        "dtype": f.cause.dtype,
        "nodes": len(f.model.proto.graph.node),
        "guilty": list(f.cause.guilty),
        "blame": f.blame,
        "known": next((m.finding.known.reference for m in g.members if m.finding.known), None),
        "reproduced": f"{f.reproduced}/{f.repeats}",
        "message": f.verdict.message.splitlines()[0] if f.verdict.message else "",
        "findings": [{"name": m.finding.name, "key": m.finding.key, "count": m.count, "folder": str(m.folder)} for m in g.members],
    }
