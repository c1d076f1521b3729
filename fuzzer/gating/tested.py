"""What was tested, and what that is worth: shapes, types and attributes met, teeth, and an upper bound on how often cases fail."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from oracles.kernel import TEETH, Kernel, applied
from oracles.records import Outcome, Verdict

CONFIDENCE = 0.95
LANES = 16  # remainders of the last dimension by which vectorised loops differ
SHOWN = 6
CONVERSIONS = ("Cast", "CastLike")  # of which the input in the other type is the right result


@dataclass
class Tested:
    """Counts for one kernel. A case counts when the kernel was at work in it and was judged."""

    kernel: Kernel
    cases: int = 0
    replayed: int = 0
    drawn: int = 0
    outside: int = 0
    declined: int = 0  # the kernel itself said "not mine"
    undecided: float = 0.0  # share of elements that nothing can be said about, summed over cases
    failures: int = 0  # cases that failed, whatever became of them
    ended: int = 0  # cases in which the kernel gave a result, right or wrong
    shapes: set[str] = field(default_factory=set)
    dtypes: Counter[str] = field(default_factory=Counter)
    remainders: set[int] = field(default_factory=set)
    ranks: set[int] = field(default_factory=set)
    attributes: dict[str, set[str]] = field(default_factory=dict)
    omitted: set[str] = field(default_factory=set)
    teeth: dict[str, list[int]] = field(default_factory=dict)  # rejected, tried
    problem: str = ""

    def __post_init__(self) -> None:
        moot = {"identity"} if self.kernel.implements in CONVERSIONS else set[str]()
        self.teeth = self.teeth or {t: [0, 0] for t in TEETH if t not in moot}

    def note(self, outcome: Outcome, verdicts: Sequence[Verdict]) -> bool:
        """Count a run of the kernel; returns whether it shows a form that was not met before, which is worth keeping."""
        if outcome.status == "unsupported":
            self.declined += 1
            self.problem = self.problem or outcome.message
            return False
        self.cases += 1
        self.failures += any(v.is_finding for v in verdicts)
        self.ended += outcome.status == "ok"
        self.problem = self.problem or outcome.message.partition("\n")[0] * (outcome.status != "ok")
        self.undecided += max((v.masked for v in verdicts), default=0.0)
        before = self._breadth()
        for place in applied(outcome).get(self.kernel.name, ()):
            self._met(place)
        return self._breadth() > before

    def _met(self, place: Mapping[str, Any]) -> None:
        self.shapes.add(json.dumps(place["shapes"]))
        first = next((s for s in place["shapes"] if s is not None), [])
        self.dtypes[next((d for d, s in zip(place["dtypes"], place["shapes"], strict=False) if s is not None), "")] += 1
        self.ranks.add(len(first))
        if first:
            self.remainders.add(first[-1] % LANES)
        self.omitted.add("".join("-" if s is None else "x" for s in place["shapes"]))
        for name, value in place["attrs"].items():
            self.attributes.setdefault(name, set()).add(json.dumps(value))

    def _breadth(self) -> int:
        parts = len(self.dtypes) + len(self.remainders) + len(self.ranks) + len(self.omitted)
        return parts + sum(min(len(v), LANES) for v in self.attributes.values())

    # what it is worth ---------------------------------------------------------------------------------------------------
    @property
    def bound(self) -> float:
        """With 95 % confidence, cases like these fail less often than this."""
        return at_most(self.failures, self.cases)

    @property
    def coverage(self) -> float:
        """Share of the constraint that was seen: declared types, and remainders of the last dimension, that some case had."""
        wanted = set(self.kernel.dtypes) or set(self.dtypes)
        return (len(wanted & set(self.dtypes)) + len(self.remainders)) / (len(wanted) + LANES)

    @property
    def blunt(self) -> list[str]:
        """Teeth that no case rejected."""
        return [name for name, (rejected, _) in self.teeth.items() if not rejected]

    @property
    def nothing(self) -> str:
        """Why a pass of this kernel would say nothing; empty when it says something."""
        if not self.cases:
            why = f": {self.problem}" if self.problem else ""
            return f"in none of {self.drawn} networks drawn and {self.replayed} replayed was it at work{why}"
        if not self.ended:
            return f"it gave no result in any case: {self.problem}"
        blunt = self.blunt if not self.failures else []
        return f"its cases would not notice a kernel that gives {' or '.join(_WORDS[b] for b in blunt)}" if blunt else ""

    def lines(self) -> list[str]:
        """The constraint, as far as it was covered, in words."""
        types = ", ".join(f"{d} {n:,}" for d, n in self.dtypes.most_common())
        told = [f"{len(self.shapes):,} shapes, ranks {_span(self.ranks)}, last dimension mod {LANES}: {len(self.remainders)} of {LANES}", f"types {types}"]
        several = {n: v for n, v in self.attributes.items() if len(v) > 1}
        attributes = [f"{n} {_values(v)}" for n, v in sorted(several.items())]
        if attributes:
            told.append("attributes " + "; ".join(attributes))
        if len(self.omitted) > 1:
            told.append(f"{len(self.omitted)} patterns of omitted inputs")
        return told

    def as_json(self) -> dict[str, Any]:
        return {
            "kernel": self.kernel.name,
            "implements": self.kernel.implements,
            "cases": self.cases,
            "replayed": self.replayed,
            "drawn": self.drawn,
            "outside_constraint": self.outside,
            "declined": self.declined,
            "failures": self.failures,
            "shapes": len(self.shapes),
            "dtypes": dict(self.dtypes),
            "coverage": round(self.coverage, 4),
            "undecided": round(self.undecided / self.cases, 6) if self.cases else 0.0,
            "teeth": {name: {"rejected": r, "tried": n} for name, (r, n) in self.teeth.items()},
            "failure_probability_below": self.bound,
            "tested_nothing": self.nothing,
        }


_WORDS = {"zero": "zeros", "identity": "its input", "truncated": "zeros in the last eighth"}


def at_most(failures: int, cases: int, confidence: float = CONFIDENCE) -> float:
    """Upper Clopper-Pearson bound on a probability of which `failures` in `cases` were seen; 3 / n for none in n, about."""
    if failures >= cases:
        return 1.0
    low, high = failures / cases, 1.0
    while high - low > 1e-9 * high:
        p = (low + high) / 2
        low, high = (p, high) if _cumulative(failures, cases, p) > 1 - confidence else (low, p)
    return high


def _cumulative(k: int, n: int, p: float) -> float:
    """P(at most k of n)."""
    logs = [math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * math.log(p) + (n - i) * math.log1p(-p) for i in range(k + 1)]
    most = max(logs)
    return math.exp(most) * sum(math.exp(x - most) for x in logs)


def _span(numbers: set[int]) -> str:
    return f"{min(numbers)} to {max(numbers)}" if len(numbers) > 1 else str(next(iter(numbers), 0))


def _values(values: set[str]) -> str:
    shown = sorted(values, key=lambda v: (len(v), v))
    return ", ".join(shown[:SHOWN]) + (f" and {len(shown) - SHOWN} more" if len(shown) > SHOWN else "")
