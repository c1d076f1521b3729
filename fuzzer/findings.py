"""A confirmed finding on its way into the store: matched with known issues, titled, written as a folder."""

from __future__ import annotations

from corpus.database import Found
from corpus.store import Store
from oracles.confirm import Confirmed


def remember(store: Store, key: str, confirmed: Confirmed) -> Found:
    """Store the first case of a cause; returns what is now known about it."""
    v = confirmed.verdict
    status = "flaky" if confirmed.reproduced < confirmed.repeats else "new"
    title = f"[{v.backend}:{v.setting}] {v.verdict} {v.message.splitlines()[0][:80] if v.message else v.output}"
    found = Found(key, v.verdict, v.backend, v.setting, title, "", status, "", confirmed.reproduced, confirmed.repeats, confirmed.case.id, int(confirmed.case.origin.get("index", -1)))
    store.finding(found)
    return found
