"""The page of a run's findings: one section a cause, in one file that needs nothing else."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jinja2

from triage.finding import Finding
from triage.formats import Batch, kind, status, summary, tested
from triage.literals import shown
from triage.report import cells, claim, title
from triage.sections import SURE

FOLDER = Path(__file__).parent / "pages"
_LINES = 40  # of a model


@kind("html", "report.html")
def html(batch: Batch) -> str:
    """A filled template; everything that is not markup of our own is escaped."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    causes = [_cause(batch, f) for f in batch.findings]
    return environment.get_template("findings.html").render(summary=summary(batch), tested=tested(batch), causes=causes)


def _cause(batch: Batch, f: Finding) -> dict[str, Any]:
    head, *rows = cells(f)
    script = batch.home(f) / "repro.py"
    return {
        "name": f.name,
        "folder": batch.link(f),
        "title": title(f),
        "claim": claim(f, plain=True),
        "sure": SURE.get(f.verdict.grade or "", "") if f.verdict.verdict in ("wrong", "imprecise") else "",
        "status": f.status,
        "told": status(f),
        "link": f.known.reference if f.known and f.known.reference.startswith("http") else "",
        "blame": f.blame,
        "head": head,
        "rows": rows,
        "model": shown(f.model.proto, _LINES),
        "script": script.read_text() if script.exists() else "",
        "seen": f"seen {f.count} time{'s' if f.count != 1 else ''}, reproduced {f.reproduced}/{f.repeats}",
        "first": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(f.first_seen)) if f.first_seen else "",
        "environment": dict(f.environment),
        "key": f.key,
    }
