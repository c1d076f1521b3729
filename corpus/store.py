"""The output folder of a run. Opening it again goes on where it stopped; killing the process at any moment loses the case in flight."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from corpus.database import HIGHEST, Database, Found
from corpus.folders import plain, put_json, write_case
from corpus.journal import Journal, Started, unfinished
from corpus.lock import Lock, StoreError, storing
from oracles.records import Case, Outcome, Verdict

TOOL = "onnx-assay"
FOLD = 1.0  # seconds between foldings of the counters
STATS = 2.0  # seconds between rewrites of stats.json
#: Everything a run writes: what --fresh removes, and nothing else.
OURS = ("run.json", "fuzz.db", "fuzz.db-wal", "fuzz.db-shm", "stats.json", "events.ndjson", "corpus", "findings", "report", "lock")


class Store:
    """One run on disk; a context manager. Everything that writes raises StoreError, with one sentence, when the disk refuses."""

    def __init__(self, path: Path, lock: Lock, database: Database, run: dict[str, Any], resumed: bool) -> None:
        self.path, self.run, self.resumed = path, run, resumed
        self.extra: dict[str, Any] = {}  # merged into stats()
        self.interrupted: list[Started] = []  # in flight when the run before this one died
        self._lock, self._db = lock, database
        self._journals: dict[int, Journal] = {}
        self._opened = time.monotonic()
        self._before = self.total("elapsed")
        self._folded = self._written = 0.0
        self._events = os.open(path / "events.ndjson", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._closed = False

    @classmethod
    def open(
        cls, path: Path | str, fresh: bool = False, *, argv: Sequence[str] | None = None, versions: Mapping[str, str] | None = None, seed: int | None = None
    ) -> Store:
        """Open a new folder or resume. Raises StoreError when it belongs to something else, to a live run, or cannot be written.

        seed  what the user asked for; None takes that of the run, or 0. A run cannot go on with another seed.
        """
        path = Path(path)
        with storing(path):
            ours = _identify(path)
            path.mkdir(parents=True, exist_ok=True)
            lock = Lock(path / "lock")
        try:
            with storing(path):
                if fresh:
                    _clear(path)
                    ours = None
                if ours is not None and seed is not None and ours.get("seed") != seed:
                    raise StoreError(f"{path}: holds a run with seed {ours.get('seed')}; give that seed, another folder, or --fresh to start over")
                now = {"at": time.time(), "argv": list(argv if argv is not None else sys.argv), "versions": dict(versions or {})}
                machine = {"python": platform.python_version(), "platform": platform.platform(), "cpu": cpu()}
                run = ours or {"tool": TOOL, "seed": seed or 0, **now, **machine, "resumed": []}
                if ours is not None:
                    run["resumed"].append(now)
                put_json(path / "run.json", run)
            with storing(path / "fuzz.db"):
                database = Database(path / "fuzz.db")
            with storing(path):
                store = cls(path, lock, database, run, ours is not None)
                store._recover()
        except BaseException:
            lock.release()
            raise
        return store

    def _recover(self) -> None:
        """Name the cases that were in flight when the run died; they are kept, and their numbers are not used again."""
        self.interrupted = list(unfinished(self.path))
        for started in self.interrupted:
            self.keep(started.case, f"in flight at {started.backend or 'no backend'} when the run stopped")
            number = started.case.origin.get("index")
            if isinstance(number, int):
                self._db.add({HIGHEST: {"next": number + 1}})
        for path in self.path.glob("inflight-*.bin"):
            path.unlink()
        self.event("resume" if self.resumed else "start", seed=self.run["seed"], in_flight=[s.case.id for s in self.interrupted])

    # a case at a time ---------------------------------------------------------------------------------------------
    def begin(self, case: Case, backend: str = "", setting: str = "", slot: int = 0) -> None:
        """Note the case in flight, before it runs."""
        with storing(self.path):
            if slot not in self._journals:
                self._journals[slot] = Journal(self.path, slot)
            self._journals[slot].begin(case, backend, setting)

    def at(self, backend: str, setting: str = "", slot: int = 0) -> None:
        """Note the backend that now runs the case in flight."""
        with storing(self.path):
            self._journals[slot].at(backend, setting)

    def record(
        self,
        case: Case,
        outcomes: Sequence[Outcome],
        verdicts: Sequence[Verdict],
        times: Mapping[str, float] | None = None,
        features: Iterable[str] = (),
        slot: int = 0,
    ) -> None:
        """Count one finished case; the worst verdict of each backend and setting counts."""
        spent = dict(times or {})
        for o in outcomes:
            spent[o.backend] = spent.get(o.backend, 0.0) + o.seconds
        worst = dict[tuple[str, str], Verdict]()
        for v in verdicts:
            key = (v.backend, v.setting)
            if key not in worst or (v.is_finding, v.verdict == "noise") > (worst[key].is_finding, worst[key].verdict == "noise"):
                worst[key] = v
        number = case.origin["index"] if isinstance(case.origin.get("index"), int) else None
        tested = Counter(sorted({o.backend for o in outcomes}))
        counted = Counter((*k, v.verdict) for k, v in worst.items())
        self.tally(cases=1, seconds=spent, verdicts=counted, tested=tested, features=Counter(features), number=number)
        if slot in self._journals:
            with storing(self.path):
                self._journals[slot].end()

    # batches of cases ---------------------------------------------------------------------------------------------
    def tally(
        self,
        *,
        cases: int = 0,
        seconds: Mapping[str, float] | None = None,
        verdicts: Mapping[tuple[str, str, str], int] | None = None,
        tested: Mapping[str, int] | None = None,
        rejected: Mapping[str, int] | None = None,
        features: Mapping[str, int] | None = None,
        coverage: Mapping[tuple[str, str], int] | None = None,
        number: int | None = None,
    ) -> None:
        """Add sums. verdicts: by (backend, setting, verdict); rejected: cases that were not run, by reason; coverage: by
        (column, point); number: the highest case begun."""
        named = {"cases": {"run": cases}, "seconds": seconds, "tested": tested, "rejected": rejected, "feature": features}
        sums = {kind: dict(values) for kind, values in named.items() if values}
        if verdicts:
            sums["verdict"] = {"\t".join(k): n for k, n in verdicts.items()}
        if coverage:
            sums["coverage"] = {"\t".join(k): n for k, n in coverage.items()}
        if number is not None:
            sums[HIGHEST] = {"next": number + 1}
        with storing(self.path / "fuzz.db"):
            self._db.add(sums)
        if time.monotonic() - self._folded >= FOLD:
            self.flush(force=False)

    @property
    def next_number(self) -> int:
        """The first case number this run has not used."""
        return int(self.counter(HIGHEST).get("next", 0))

    # findings and cases -------------------------------------------------------------------------------------------
    def finding(self, found: Found) -> bool:
        """Store a cause, or count it up. True when it is new to this run."""
        with storing(self.path / "fuzz.db"):
            new = self._db.found(found)
        if new:
            self.event("finding", **{k: getattr(found, k) for k in ("key", "verdict", "backend", "setting", "title", "status", "known")})
        return new

    def again(self, key: str, count: int = 1, case: Case | None = None) -> bool:
        """Count up a stored cause. False when it is not stored."""
        with storing(self.path / "fuzz.db"):
            return self._db.again(key, count, case.id if case else "", case.origin.get("index", -1) if case else -1)

    def alias(self, key: str, finding: str) -> None:
        """From now on `again(key)` counts for this finding: its case was reduced, and the smaller case has another key."""
        with storing(self.path / "fuzz.db"):
            self._db.alias(key, finding)

    def aliases(self) -> dict[str, str]:
        """First key -> the key of the finding that it stands for."""
        with storing(self.path / "fuzz.db"):
            return self._db.aliases()

    def keys(self) -> set[str]:
        """Every key that is already accounted for: those of the findings, and those they were first met under."""
        with storing(self.path / "fuzz.db"):
            return {f.key for f in self._db.findings()} | set(self._db.aliases())

    def change(self, key: str, **values: Any) -> None:
        """Change what is known about a cause: folder, status, known, title, reproduced, repeats."""
        with storing(self.path / "fuzz.db"):
            self._db.change(key, **values)

    def findings(self) -> list[Found]:
        with storing(self.path / "fuzz.db"):
            return self._db.findings()

    def folder(self, found: Found) -> Path:
        """Where a finding's files go: findings/<verdict>-<first 8 of the key>."""
        return self.path / "findings" / f"{found.verdict}-{found.key[:8]}"

    def keep(self, case: Case, why: str) -> Path:
        """Store a case in corpus/<ab>/<id>/ unless it is there."""
        folder = self.path / "corpus" / case.id[:2] / case.id
        with storing(self.path):
            if not (folder / "case.json").exists():
                write_case(folder, case, why=why)
            self._db.keep(case.id, case.origin.get("index", -1), why)
        return folder

    def cases(self) -> list[tuple[str, int, str]]:
        """(id, number, why) of the cases in corpus/."""
        return self._db.cases()

    # what others read ---------------------------------------------------------------------------------------------
    def event(self, kind: str, **fields: Any) -> None:
        """One line of events.ndjson."""
        with storing(self.path / "events.ndjson"):
            os.write(self._events, json.dumps({"time": round(time.time(), 3), "event": kind, **fields}, default=plain).encode() + b"\n")

    def counter(self, kind: str) -> dict[str, float]:
        return self._db.counters.get(kind, {})

    def total(self, kind: str) -> float:
        return sum(self.counter(kind).values())

    @property
    def features(self) -> set[str]:
        """All coverage features seen in this run."""
        return set(self.counter("feature"))

    def stats(self) -> dict[str, Any]:
        """What stats.json holds: sums over the whole run, earlier sessions included."""
        backends: dict[str, dict[str, dict[str, int]]] = {}
        for name, n in sorted(self.counter("verdict").items()):
            backend, setting, verdict = name.split("\t")
            backends.setdefault(backend, {}).setdefault(setting, {"ok": 0, "noise": 0, "unsupported": 0})[verdict] = int(n)
        status = Counter(f.status for f in self.findings())
        cases, rejected = int(self.total("cases")), {k: int(v) for k, v in self.counter("rejected").items()}
        made = cases + sum(rejected.values())
        features = self.features
        return {
            "cases": cases,
            "valid": round(cases / made, 5) if made else 0.0,
            "seconds": round(self._before + time.monotonic() - self._opened, 3),
            "time": {k: round(v, 4) for k, v in sorted(self.counter("seconds").items())},
            "backends": backends,
            "tested": {k: int(v) for k, v in sorted(self.counter("tested").items())},
            "rejected": rejected,
            "findings": status["new"],
            "known": status["known"],
            "flaky": status["flaky"],
            "coverage": {"features": len(features), "operators": sum(f.startswith("op ") for f in features)},
            **self.extra,
        }

    def flush(self, force: bool = True) -> None:
        """Fold the counters; rewrite stats.json when it is old (or `force`)."""
        now = time.monotonic()
        with storing(self.path / "fuzz.db"):
            self._db.put("elapsed", "seconds", self._before + now - self._opened)
            self._db.fold()
        self._folded = now
        if force or now - self._written >= STATS:
            with storing(self.path / "stats.json"):
                put_json(self.path / "stats.json", self.stats())
            self._written = now

    def close(self) -> None:
        """Save everything and release the folder, also when the disk refuses the saving."""
        if self._closed:
            return
        self._closed = True
        try:
            for journal in self._journals.values():
                journal.close()
            self.event("stop", cases=int(self.total("cases")))
            self.flush()
        finally:
            self._db.close()
            os.close(self._events)
            self._lock.release()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        try:
            self.close()
        except StoreError:
            if kind is None:  # otherwise the first error is the one to tell
                raise


def _identify(path: Path) -> dict[str, Any] | None:
    """run.json of a folder that is ours; None when there is nothing yet. Raises StoreError for anything else."""
    if not path.exists():
        return None
    if not path.is_dir():
        raise StoreError(f"{path}: is a file, not a folder")
    try:
        run = json.loads((path / "run.json").read_text())
    except FileNotFoundError:
        if {p.name for p in path.iterdir()} - {"lock", "fuzz.db", "fuzz.db-wal", "fuzz.db-shm", "events.ndjson"} - {p.name for p in path.glob(".run.json.*")}:
            raise StoreError(f"{path}: is not empty and was not made by fuzz; choose another folder with --out") from None
        return None
    except ValueError:
        run = None
    if not isinstance(run, dict) or run.get("tool") != TOOL:
        raise StoreError(f"{path}: belongs to something else (its run.json was not written by fuzz); choose another folder with --out")
    return run


def _clear(path: Path) -> None:
    for name in OURS:
        item = path / name
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        elif name != "lock":
            item.unlink(missing_ok=True)
    for item in path.glob("inflight-*"):
        item.unlink()


def cpu() -> dict[str, Any]:
    """Name and flags of the processor: results of vectorised code depend on them."""
    about: dict[str, Any] = {"count": os.cpu_count()}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {**about, "name": platform.processor()}
    fields = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    flags = fields.get("flags", fields.get("Features", "")).split()
    return {**about, "name": fields.get("model name", platform.processor()), "flags": sorted(flags)}
