"""Findings of one cause together: the switch that cures one cures the other, and their smallest graphs have the same shape.

Two findings nobody found a switch for are one when the same thing was found guilty of both, the messages are the same (where
there are none, the types are of one class), and the graphs have the same shape. What one known issue explains is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from corpus.database import Found
from triage.finding import Finding
from triage.shape import Shape, alike, digest, shape

#: Verdicts that are faces of one defect: a wrong value may as well be an infinity.
FACES = {"wrong": "value", "imprecise": "value", "nonfinite": "value", "broken": "error", "refused": "error", "crash": "death", "hang": "hang", "oom": "death"}
#: Whether the switches that cure the first finding cure the second.
Transplant = Callable[[Finding, Finding], bool]


@dataclass(frozen=True, eq=False)
class Member:
    """A stored finding: its folder, and the row of its run's database, which knows how often it was met since."""

    finding: Finding
    folder: Path
    row: Found | None = None
    fixed_in: str = ""

    @property
    def count(self) -> int:
        return self.row.count if self.row else self.finding.count

    @property
    def first_seen(self) -> float:
        return self.row.first_seen if self.row else self.finding.first_seen

    @property
    def last_seen(self) -> float:
        return self.row.last_seen if self.row else self.finding.last_seen

    @cached_property
    def shape(self) -> Shape:
        return shape(self.finding.model.proto)

    @cached_property
    def digest(self) -> str:
        return digest(self.shape)


@dataclass(eq=False)
class Group:
    """One cause: the finding that shows it best comes first."""

    members: list[Member] = field(default_factory=list)

    @property
    def best(self) -> Finding:
        return self.members[0].finding

    @property
    def status(self) -> str:
        """ "fixed" when no member shows in the installed version, "known" when one matches a public issue, "new" when one is reproducible."""
        if all(m.fixed_in for m in self.members):
            return "fixed"
        told = {m.finding.status for m in self.members if not m.fixed_in}
        return next(s for s in ("known", "new", "flaky") if s in told)


def group(members: Sequence[Member], transplant: Transplant | None = None) -> list[Group]:
    """One group per cause, those met most often first. `transplant` is asked only where the graphs agree and the guilty do not."""
    groups = list[Group]()
    for member in sorted(members, key=_order):
        home = next((g for g in groups if any(same(member, other, transplant) for other in g.members)), None)
        if home is None:
            groups.append(home := Group())
        home.members.append(member)
    return sorted(groups, key=lambda g: (-sum(m.count for m in g.members), g.best.name))


def _order(member: Member) -> tuple[Any, ...]:
    """Reproducible ones first, then the smallest, then those with the guilty, then the earliest."""
    f = member.finding
    return (f.status == "flaky", len(f.model.nodes), not f.blame, len(f.case.model), member.first_seen, f.key)


def same(a: Member, b: Member, transplant: Transplant | None = None) -> bool:
    """Whether two findings have one cause."""
    x, y = a.finding.cause, b.finding.cause
    if x.backend != y.backend or FACES.get(x.verdict, x.verdict) != FACES.get(y.verdict, y.verdict):
        return False
    if x.key == y.key or _known(a, b):
        return True
    if bool(x.guilty) != bool(y.guilty) or a.digest != b.digest or not alike(a.shape, b.shape):
        return False
    if not x.guilty or x.pattern == y.pattern == "always":
        return (x.guilty, x.message) == (y.guilty, y.message) and (bool(x.message) or x.dtype == y.dtype)
    if set(x.guilty) & set(y.guilty):
        return True
    return transplant is not None and transplant(a.finding, b.finding) and transplant(b.finding, a.finding)


def _known(a: Member, b: Member) -> bool:
    return a.finding.known is not None and b.finding.known is not None and a.finding.known.name == b.finding.known.name
