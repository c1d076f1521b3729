"""What a campaign shows while it runs: a live screen on a terminal, plain lines or JSON lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from fuzzer.settings import Budget, clock

PLAIN_EVERY = 30.0


@dataclass
class Row:
    """One finding as the screen shows it."""

    name: str
    backend: str
    what: str
    reproduced: str
    count: int = 1
    known: str = ""


@dataclass
class Progress:
    """A snapshot of a campaign."""

    seed: int
    budget: Budget
    versions: str
    started: float = field(default_factory=time.monotonic)
    before: float = 0.0  # seconds of earlier sessions with the same folder
    cases: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    tested: dict[str, int] = field(default_factory=dict)
    verdicts: dict[tuple[str, str, str], int] = field(default_factory=dict)
    features: int = 0
    operators: int = 0
    findings: list[Row] = field(default_factory=list)
    known: int = 0
    flaky: int = 0
    defects: int = 0
    suspected: int = 0  # at the end: suspicions for which no time was left
    last_finding: float = 0.0
    last_feature: float = 0.0

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def rate(self) -> float:
        return self.cases / max(1e-9, self.elapsed + self.before)

    @property
    def valid(self) -> float:
        total = self.cases + sum(self.rejected.values())
        return self.cases / total if total else 1.0


class Screen(Protocol):
    """Where progress is shown."""

    def update(self, progress: Progress) -> None: ...
    def finding(self, row: Row) -> None: ...
    def close(self) -> None: ...


def screen(kind: str) -> Screen:
    """`auto`: live on a terminal of at least 60 columns, plain elsewhere."""
    if kind == "auto":
        kind = "screen" if sys.stdout.isatty() else "plain"
    return {"screen": Live, "json": JsonLines}.get(kind, Plain)()


class Plain:
    """One line every half minute and one per finding; no colour."""

    def __init__(self) -> None:
        self._due = time.monotonic() + 5

    def update(self, progress: Progress) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + PLAIN_EVERY
            print(line(progress), flush=True)

    def finding(self, row: Row) -> None:
        print(f"finding {row.name}: {row.what}{f' (known: {row.known})' if row.known else ''}", flush=True)

    def close(self) -> None:
        pass


class JsonLines:
    """The same as Plain, for scripts."""

    def __init__(self) -> None:
        self._due = time.monotonic() + 1

    def update(self, progress: Progress) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + 5
            print(json.dumps(as_json(progress)), flush=True)

    def finding(self, row: Row) -> None:
        print(json.dumps({"finding": row.name, "backend": row.backend, "what": row.what, "reproduced": row.reproduced, "known": row.known}), flush=True)

    def close(self) -> None:
        pass


class Live:
    """A screen of 24 lines, redrawn twice a second."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._live = RichLive(console=Console(), refresh_per_second=2, transient=True)
        self._live.start()
        self._due = 0.0

    def update(self, progress: Progress) -> None:
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + 0.5
            self._live.update(panel(progress))

    def finding(self, row: Row) -> None:
        pass  # the screen has a list of them

    def close(self) -> None:
        self._live.stop()


def line(p: Progress) -> str:
    """Progress as one line."""
    tested = " ".join(f"{b} {n}" for b, n in sorted(p.tested.items(), key=lambda x: -x[1]))
    found = f"findings {len(p.findings)} (known {p.known}, flaky {p.flaky})"
    return f"{clock(p.elapsed)} of {p.budget}  cases {p.cases} ({p.rate:.1f}/s)  valid {p.valid:.1%}  {tested}  {found}"


def as_json(p: Progress) -> dict[str, Any]:
    return {
        "seconds": round(p.elapsed, 1),
        "cases": p.cases,
        "valid": round(p.valid, 4),
        "tested": p.tested,
        "findings": len(p.findings),
        "known": p.known,
        "flaky": p.flaky,
    }


def panel(p: Progress) -> Any:
    """The live screen. Red asks somebody to act: invalid cases, a defect of ours, a backend that runs nothing."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="ellipsis", no_wrap=True)
    grid.add_row("fuzz", f"seed {p.seed}   {p.versions}")
    grid.add_row("time", f"{clock(p.elapsed)} of {p.budget}   last new feature {ago(p.last_feature)}   last finding {ago(p.last_finding)}")
    grid.add_row("cases", f"{p.cases:,}   {p.rate:.1f}/s   coverage {p.operators} operators, {p.features} features")
    style = "red" if p.valid < 0.9 else ""
    grid.add_row("valid", Text(f"{p.valid:.1%}   " + "   ".join(f"{k} {n}" for k, n in sorted(p.rejected.items(), key=lambda x: -x[1])[:3]), style=style))
    total = sum(p.seconds.values()) or 1.0
    grid.add_row("spent", "   ".join(f"{k} {v / total:.0%}" for k, v in sorted(p.seconds.items(), key=lambda x: -x[1])))
    for backend in sorted(p.tested):
        grid.add_row(backend, Text(_counts(p, backend), style="red" if _runs_nothing(p, backend) else ""))
    defects = Text(f"   our own defects {p.defects}", style="red") if p.defects else Text("")
    grid.add_row("findings", Text(f"{len(p.findings)}   (known {p.known}, flaky {p.flaky})").append(defects))
    for row in p.findings[-8:]:
        grid.add_row("", f"{row.name}  {row.what}  {row.reproduced}  x{row.count}{f'  known: {row.known}' if row.known else ''}")
    return grid


def _counts(p: Progress, backend: str) -> str:
    counts: dict[str, int] = {}
    for (b, _, verdict), n in p.verdicts.items():
        if b == backend:
            counts[verdict] = counts.get(verdict, 0) + n
    return f"{p.tested[backend]:,} cases   " + "   ".join(f"{v} {n:,}" for v, n in sorted(counts.items(), key=lambda x: -x[1]))


def _runs_nothing(p: Progress, backend: str) -> bool:
    return p.tested[backend] > 20 and not any(n for (b, _, v), n in p.verdicts.items() if b == backend and v in ("ok", "noise"))


def ago(moment: float) -> str:
    return f"{clock(time.monotonic() - moment)} ago" if moment else "-"


def summary(p: Progress, folders: Sequence[str]) -> str:
    """The last words of a campaign: what was tested, for each new finding where it lies and how to see it again, a line for each known one."""
    lines = [line(p)]
    for backend in sorted(p.tested):
        lines.append(f"  {backend:12} {_counts(p, backend)}")
    if p.defects:
        lines.append(f"  {p.defects} case(s) failed in fuzz itself: see events.ndjson")
    if p.suspected:
        lines.append(f"  {p.suspected} suspicion(s) not looked at in time: their cases are in corpus/ of the output folder, for fuzz check")
    found = list(zip(p.findings, folders, strict=True))
    for row, folder in found:
        if not row.known:
            lines += ["", f"{row.name}  {row.what}  (seen {row.count} times, reproduced {row.reproduced})"]
            lines += [f"  {folder}/README.md", f"  python {folder}/repro.py", f"  fuzz replay {folder}"]
    known = [row for row, _ in found if row.known]
    if known:
        lines += ["", f"known already ({len(known)}), nothing to file:"]
        lines += [f"  {row.name}  {row.what}  {row.known}" for row in known]
    if not p.findings:
        lines.append("no findings" if not p.suspected else "no finding confirmed")
    return "\n".join(lines)
