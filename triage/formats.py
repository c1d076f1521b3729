"""Findings for other programs and for people: JUnit XML, SARIF, JSON, Markdown and a page, one unit per cause."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corpus.folders import plain, put
from oracles.records import FINDINGS
from specs.rule import UsageError
from triage.finding import Finding
from triage.report import claim, title

Render = Callable[["Batch"], str]


@dataclass(frozen=True)
class Batch:
    """The findings of one or more runs.

    folder  where the output goes; root: the run, to which paths in the output are relative
    about   what else is known of the run: seed, versions, cases, seconds, cases per backend (stats.json and run.json)
    places  folders of findings that are not in `root`, by key
    """

    findings: tuple[Finding, ...]
    folder: Path
    root: Path
    about: Mapping[str, Any] = field(default_factory=dict)
    places: Mapping[str, Path] = field(default_factory=dict)

    def home(self, finding: Finding) -> Path:
        """A finding's folder."""
        return (self.places.get(finding.key) or self.root / "findings" / finding.name).resolve()

    def place(self, finding: Finding) -> str:
        """The same, relative to the run."""
        return Path(os.path.relpath(self.home(finding), self.root.resolve())).as_posix()

    def link(self, finding: Finding) -> str:
        """The same, relative to the output."""
        return Path(os.path.relpath(self.home(finding), self.folder.resolve())).as_posix()


_kinds: dict[str, tuple[str, Render]] = {}


def kind(name: str, file: str) -> Callable[[Render], Render]:
    """Register how one kind of output is written, and to which file."""

    def decorate(render: Render) -> Render:
        _kinds[name] = (file, render)
        return render

    return decorate


def kinds() -> dict[str, tuple[str, Render]]:
    """All by the name that --report takes."""
    for module in ("page", "junit", "sarif"):
        importlib.import_module(f"triage.{module}")
    return {name: _kinds[name] for name in ("html", "md", "junit", "sarif", "json")}


def parse(text: str) -> list[str]:
    """`html,junit` as a list without repetitions. Raises UsageError."""
    wanted = list(dict.fromkeys(p.strip() for p in text.split(",") if p.strip()))
    unknown = [w for w in wanted if w not in kinds()]
    if unknown:
        raise UsageError(f"--report '{unknown[0]}': choose among {', '.join(kinds())}, separated by commas")
    return wanted


def write(
    findings: Sequence[Finding],
    folder: Path,
    wanted: Sequence[str],
    about: Mapping[str, Any] | None = None,
    root: Path | None = None,
    places: Mapping[str, Path] | None = None,
) -> list[Path]:
    """Write the findings, gravest first, into `folder` in every kind that is wanted; returns the files. Raises UsageError.

    root, places  where the findings are: in root/findings, by default beside `folder`, or each in a place of its own
    """
    ordered = sorted(findings, key=lambda f: (f.status != "new", f.status == "known", FINDINGS.index(f.verdict.verdict), f.name))
    folder.mkdir(parents=True, exist_ok=True)
    batch = Batch(tuple(ordered), folder, root or folder.parent, about or {}, places or {})
    written = list[Path]()
    for name in parse(",".join(wanted)):
        file, render = kinds()[name]
        put(folder / file, render(batch))
        written.append(folder / file)
    return written


def row(batch: Batch, finding: Finding) -> dict[str, Any]:
    """One cause as JSON: what a script wants to know without opening its folder."""
    from triage.write import as_json

    about = as_json(finding)
    return {"name": finding.name, "folder": batch.place(finding), "claim": claim(finding, plain=True), **about}


@kind("json", "report.json")
def as_text(batch: Batch) -> str:
    content = {"run": dict(batch.about), "findings": [row(batch, f) for f in batch.findings]}
    return json.dumps(content, indent=1, default=plain) + "\n"


@kind("md", "report.md")
def markdown(batch: Batch) -> str:
    """A summary for a pull request or a job's page: a table, then one paragraph a cause."""
    lines = [f"# {summary(batch)}", ""]
    if batch.findings:
        lines += ["| finding | what | status | seen | reproduced |", "|---|---|---|---|---|"]
        lines += [f"| [{f.name}]({batch.link(f)}/README.md) | {title(f)} | {status(f)} | {f.count} | {f.reproduced}/{f.repeats} |" for f in batch.findings]
    for f in batch.findings:
        lines += ["", f"## {f.name}", "", claim(f), "", f"`python {batch.place(f)}/repro.py` · `fuzz replay {f.name}` · `fuzz report {f.name}`"]
        lines += [f"\nGuilty: {f.blame}"] if f.blame else []
    return "\n".join([*lines, "", tested(batch)]).rstrip() + "\n"


def summary(batch: Batch) -> str:
    """How many of which status."""
    counts = {s: sum(f.status == s for f in batch.findings) for s in ("new", "known", "flaky")}
    told = ", ".join(f"{n} {s}" for s, n in counts.items() if n)
    total = len(batch.findings)
    return f"{total} finding{'s' if total != 1 else ''}{f': {told}' if total else ''}"


def status(finding: Finding) -> str:
    return f"known: {finding.known.reference}" if finding.known else finding.status


def tested(batch: Batch) -> str:
    """What was tested, so that an empty report says something."""
    a = batch.about
    backends = ", ".join(f"{b} {v} ({a.get('tested', {}).get(b, 0):,} cases)" for b, v in a.get("versions", {}).items())
    head = f"{a['cases']:,} cases in {a['seconds']:,.0f} s, seed {a.get('seed', 0)}" if "cases" in a and "seconds" in a else ""
    return ". ".join(p for p in (head, backends) if p) + ("." if head or backends else "")
