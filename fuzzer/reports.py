"""The reports of a run: what its findings are, written for people and for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from corpus.lock import storing
from corpus.store import Store
from triage.finding import Finding
from triage.formats import write
from triage.write import find_folders, read_finding


def write_reports(store: Store, kinds: Sequence[str]) -> list[Path]:
    """Write OUT/report/ in these kinds; returns the files. Raises StoreError when the disk refuses."""
    if not kinds:
        return []
    versions = (store.run["resumed"] or [store.run])[-1]["versions"]
    about = {**store.stats(), "seed": store.run["seed"], "versions": versions}
    with storing(store.path / "report"):
        return write(counted(store), store.path / "report", kinds, about)


def counted(store: Store) -> list[Finding]:
    """The stored findings, with the counts of the store, which are newer than those in their folders."""
    rows = {f.key: f for f in store.findings()}
    found = [read_finding(folder) for folder in find_folders(store.path / "findings")]
    return [replace(f, count=row.count, last_seen=row.last_seen) if (row := rows.get(f.key)) else f for f in found]
