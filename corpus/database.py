"""fuzz.db: counters that survive a kill, findings by cause, cases kept. SQLite in WAL mode, one writer.

A batch of results is one row of JSON in `pending`, committed at once without waiting for the disk; now and then the rows are
folded into `counters` in one transaction. A killed process loses nothing that was added, a power cut only the last seconds.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from corpus.lock import StoreError

VERSION = 1
SIGHTINGS = 20
HIGHEST = "number"  # the kind of counter that keeps its maximum instead of its sum


@dataclass(frozen=True)
class Found:
    """One cause as the store knows it; its folder holds the rest.

    status      "new", "known" (then `known` is the reference), "flaky" (not reproduced every time)
    number      the campaign's index of the first case, -1 when it has none
    """

    key: str
    verdict: str
    backend: str
    setting: str
    title: str
    folder: str = ""
    status: str = "new"
    known: str = ""
    reproduced: int = 0
    repeats: int = 0
    case_id: str = ""
    number: int = -1
    count: int = 1
    first_seen: float = 0.0
    last_seen: float = 0.0


_COLUMNS = [f.name for f in fields(Found)]


class Database:
    """Everything of a run that is counted or looked up. Not for use by two threads."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._prepare(path)
        except BaseException:
            self._db.close()
            raise
        self.counters: dict[str, dict[str, float]] = {}
        self._dirty = set[tuple[str, str]]()
        for kind, name, value in self._db.execute("SELECT kind, name, value FROM counters"):
            self.counters.setdefault(kind, {})[name] = value
        for (body,) in self._db.execute("SELECT body FROM pending ORDER BY n").fetchall():
            self._apply(json.loads(body))
        self.fold()

    def _prepare(self, path: Path) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version == 0 and tables == 0:
            schema = (Path(__file__).parent / "schema.sql").read_text()
            self._db.executescript(f"BEGIN; {schema} COMMIT;")
        elif version != VERSION:
            raise StoreError(f"{path}: has schema {version}, this fuzz writes schema {VERSION}; go on with the version that made it, or choose another folder")

    # counting -----------------------------------------------------------------------------------------------------
    def add(self, sums: Mapping[str, Mapping[str, float]]) -> None:
        """Add to counters, kind -> name -> amount: one small write that a kill does not undo."""
        self._db.execute("INSERT INTO pending (body) VALUES (?)", (json.dumps(sums, separators=(",", ":")),))
        self._apply(sums)

    def _apply(self, sums: Mapping[str, Mapping[str, float]]) -> None:
        for kind, named in sums.items():
            counters = self.counters.setdefault(kind, {})
            for name, amount in named.items():
                before = counters.get(name, 0)
                counters[name] = max(before, amount) if kind == HIGHEST else before + amount
                self._dirty.add((kind, name))

    def put(self, kind: str, name: str, value: float) -> None:
        """Set a counter; it reaches the disk with the next folding."""
        self.counters.setdefault(kind, {})[name] = value
        self._dirty.add((kind, name))

    def fold(self) -> None:
        """Write the sums and forget the single rows, in one transaction."""
        if not self._dirty:
            return
        rows = [(kind, name, self.counters[kind][name]) for kind, name in self._dirty]
        with self.transaction():
            self._db.executemany("INSERT OR REPLACE INTO counters VALUES (?, ?, ?)", rows)
            self._db.execute("DELETE FROM pending")
        self._dirty.clear()

    def transaction(self) -> _Transaction:
        return _Transaction(self._db)

    # findings -----------------------------------------------------------------------------------------------------
    def find(self, key: str) -> Found | None:
        row = self._db.execute(f"SELECT {', '.join(_COLUMNS)} FROM findings WHERE key = ?", (key,)).fetchone()
        return Found(*row) if row else None

    def findings(self) -> list[Found]:
        return [Found(*row) for row in self._db.execute(f"SELECT {', '.join(_COLUMNS)} FROM findings ORDER BY first_seen, key")]

    def found(self, found: Found) -> bool:
        """Add a cause, or count it up when it is there already. True when it was added."""
        now = time.time()
        with self.transaction():
            if self._again(found.key, found.count, found.case_id, found.number, now):
                return False
            row = replace(found, first_seen=found.first_seen or now, last_seen=found.last_seen or now)
            self._db.execute(f"INSERT INTO findings ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})", astuple(row))
            self._sighting(found.key, found.case_id, found.number, now)
        return True

    def again(self, key: str, count: int = 1, case_id: str = "", number: int = -1) -> bool:
        """Count up a cause that is stored. False when it is not."""
        with self.transaction():
            return self._again(self.resolve(key), count, case_id, number, time.time())

    def resolve(self, key: str) -> str:
        """The key of the finding that a first key stands for; the key itself when it stands for none."""
        row = self._db.execute("SELECT finding FROM aliases WHERE key = ?", (key,)).fetchone()
        return row[0] if row else key

    def alias(self, key: str, finding: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO aliases VALUES (?, ?)", (key, finding))

    def aliases(self) -> dict[str, str]:
        return dict(self._db.execute("SELECT key, finding FROM aliases"))

    def _again(self, key: str, count: int, case_id: str, number: int, now: float) -> bool:
        changed = self._db.execute("UPDATE findings SET count = count + ?, last_seen = ? WHERE key = ?", (count, now, key)).rowcount
        if changed:
            self._sighting(key, case_id, number, now)
        return bool(changed)

    def _sighting(self, key: str, case_id: str, number: int, now: float) -> None:
        if case_id and self._db.execute("SELECT count(*) FROM sightings WHERE key = ?", (key,)).fetchone()[0] < SIGHTINGS:
            self._db.execute("INSERT OR IGNORE INTO sightings VALUES (?, ?, ?, ?)", (key, case_id, number, now))

    def sightings(self, key: str) -> list[tuple[str, int]]:
        """(case id, number) of the first cases of a cause."""
        return self._db.execute("SELECT case_id, number FROM sightings WHERE key = ? ORDER BY seen", (key,)).fetchall()

    def change(self, key: str, **values: Any) -> None:
        """Change columns of a finding (folder, status, title ...)."""
        assert set(values) <= set(_COLUMNS)
        self._db.execute(f"UPDATE findings SET {', '.join(f'{c} = ?' for c in values)} WHERE key = ?", (*values.values(), key))

    def drop(self, keys: Iterable[str]) -> None:
        with self.transaction():
            for key in keys:
                self._db.execute("DELETE FROM findings WHERE key = ?", (key,))
                self._db.execute("DELETE FROM sightings WHERE key = ?", (key,))

    # cases --------------------------------------------------------------------------------------------------------
    def keep(self, case_id: str, number: int, why: str) -> bool:
        """Note a case of corpus/. False when it is there already."""
        return bool(self._db.execute("INSERT OR IGNORE INTO cases VALUES (?, ?, ?, ?)", (case_id, number, why, time.time())).rowcount)

    def cases(self) -> list[tuple[str, int, str]]:
        """(id, number, why) of the cases kept."""
        return self._db.execute("SELECT id, number, why FROM cases ORDER BY seen").fetchall()

    def close(self) -> None:
        self._db.close()


def stored(path: Path) -> list[Found]:
    """The findings of a run's database, read without a lock: the run may be going on. Nothing when there is no database, or of another version."""
    if not path.exists():
        return []
    try:
        db = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, timeout=5.0)
    except sqlite3.Error:
        return []
    try:
        return [Found(*row) for row in db.execute(f"SELECT {', '.join(_COLUMNS)} FROM findings ORDER BY first_seen, key")]
    except sqlite3.Error:
        return []
    finally:
        db.close()


class _Transaction:
    """BEGIN ... COMMIT, rolled back on any error; sqlite3's own context manager does nothing in autocommit mode."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._db.execute("COMMIT")
        elif self._db.in_transaction:  # a full disk may have rolled it back already
            self._db.execute("ROLLBACK")
