"""A confirmed finding on its way into the store: written as a folder, then counted."""

from __future__ import annotations

from corpus.database import Found
from corpus.store import Store
from oracles.confirm import Confirmed
from oracles.records import Case
from triage.finding import Finding
from triage.guilt import Guilt, blamed
from triage.write import write_finding


def remember(store: Store, key: str, confirmed: Confirmed, original: Case | None = None, found: Guilt | None = None) -> Found:
    """Store the first case of a cause, with the guilty; returns what is now known about it."""
    finding = blamed(Finding.of(confirmed, key, original=original), found or Guilt())
    folder = write_finding(store.path / "findings", finding)
    row = finding.found(str(folder))
    store.finding(row)
    return row
