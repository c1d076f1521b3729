"""Which findings were reported where: a small file beside the findings, and the budget it keeps.

Maintainers close what floods them: no more than 15 reports may be open in a project at a time. A report counts as open from the moment
it is rendered for a project until it is said to be closed or a replay finds it fixed.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from corpus.folders import put_json
from specs.rule import UsageError

BUDGET = 15
FILE = "filed.json"


@dataclass(frozen=True)
class Filed:
    """One report. url: where it is, once that was told; state: open, closed or fixed."""

    finding: str
    key: str
    project: str
    state: str = "open"
    url: str = ""
    at: float = field(default_factory=time.time)


def ledger(folder: Path) -> Path:
    """The file for a finding's folder: in the run's folder, where it outlives the findings; else beside the finding."""
    parent = folder.resolve().parent
    return (parent.parent if parent.name == "findings" else parent) / FILE


def read(path: Path) -> list[Filed]:
    """All reports. Raises UsageError for a file that cannot be understood: a budget that is not known is not kept."""
    if not path.exists():
        return []
    try:
        return [Filed(**entry) for entry in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError) as e:
        raise UsageError(f"{path}: is not the list of reports that `fuzz report` writes ({e})") from None


def record(path: Path, filed: Filed) -> None:
    """Note a report; one of the same finding to the same project is replaced, its address stays unless a new one is given."""
    known = read(path)
    old = next((f for f in known if _same(f, filed)), None)
    if old is not None:
        filed = replace(filed, url=filed.url or old.url, at=old.at)
    put_json(path, [asdict(f) for f in [*(f for f in known if not _same(f, filed)), filed]])


def settle(path: Path, key: str, state: str) -> list[Filed]:
    """Say of all open reports of a finding that they are closed or fixed; returns those."""
    known = read(path)
    mine = [f for f in known if f.key == key and f.state == "open"]
    if mine:
        put_json(path, [asdict(replace(f, state=state) if f in mine else f) for f in known])
    return mine


def open_in(path: Path, project: str, but: str = "") -> list[Filed]:
    """Open reports in a project, without those of the finding `but`."""
    return [f for f in read(path) if f.project == project and f.state == "open" and f.key != but]


def _same(a: Filed, b: Filed) -> bool:
    return (a.key, a.project) == (b.key, b.project)
