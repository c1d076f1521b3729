"""A finding: one cause, the case that shows it best, and everything a report needs to say about it."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from typing import TYPE_CHECKING, Any

import numpy as np

from corpus.database import Found
from oracles import plugin
from oracles.records import Case, Outcome, Verdict
from triage.cause import Cause, Model, cause
from triage.known import Known, match

if TYPE_CHECKING:
    from oracles.confirm import Confirmed


@dataclass(frozen=True)
class Finding:
    """One cause with its best case.

    verdict    the judgement that is reported: the least optimised failing setting, its worst element
    outcomes   of every setting of the backend, and the verdicts on them
    expected   float64 outputs of the reference; `bounds` beside them, the largest error that rounding can explain
    original   the case as it was found, when `case` is a reduced one
    blame      the switch, pass or kernel found guilty, in words; empty when not searched for
    """

    cause: Cause
    case: Case
    verdict: Verdict
    outcomes: tuple[Outcome, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    expected: Mapping[str, np.ndarray] = field(default_factory=dict)
    bounds: Mapping[str, np.ndarray] = field(default_factory=dict)
    reproduced: int = 0
    repeats: int = 0
    count: int = 1
    first_seen: float = 0.0
    last_seen: float = 0.0
    known: Known | None = None
    original: Case | None = None
    blame: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    given_key: str = ""

    @property
    def key(self) -> str:
        """16 hex digits: the key under which the campaign met it, which stays when the case is reduced."""
        return self.given_key or self.cause.key

    @property
    def name(self) -> str:
        """The folder: <verdict>-<first 8 digits of the key>."""
        return f"{self.verdict.verdict}-{self.key[:8]}"

    @property
    def status(self) -> str:
        """ "known" when a public issue matches, "flaky" when a repetition did not show it, else "new"."""
        return "known" if self.known else "flaky" if self.reproduced < self.repeats else "new"

    @cached_property
    def model(self) -> Model:
        return Model(self.case.model)

    @cached_property
    def settings(self) -> list[str]:
        """All settings that were run, least optimised first."""
        return list(dict.fromkeys([*(o.setting for o in self.outcomes), *(v.setting for v in self.verdicts), self.verdict.setting]))

    @cached_property
    def failing(self) -> list[str]:
        """The settings that show this verdict."""
        return [s for s in self.settings if s == self.verdict.setting or any(v.setting == s and v.verdict == self.verdict.verdict for v in self.verdicts)]

    @property
    def ops(self) -> list[str]:
        """The operators of the model in order, when they are few enough to be a description; else those blamed."""
        names = [n.op_type for n in self.model.nodes if n.op_type not in ("Constant", "Identity")] or [n.op_type for n in self.model.nodes]
        return names if len(names) <= 4 else list(self.cause.ops)

    @classmethod
    def of(cls, confirmed: Confirmed, key: str = "", *, original: Case | None = None, environment: Mapping[str, str] | None = None) -> Finding:
        """From what the oracle confirmed. `key` is the one the campaign already counts it under."""
        c = confirmed
        about = dict(environment) if environment is not None else surroundings(c.verdict.backend)
        why = cause(c.case, c.verdict, c.outcomes, c.verdicts, original is not None)
        expected, bounds = arrays(c.expected)
        now = time.time()
        known = match(why, c.case.model, c.verdict.message, about.get(c.verdict.backend, ""))
        return cls(
            why, c.case, c.verdict, c.outcomes, c.verdicts, expected, bounds, c.reproduced, c.repeats, 1, now, now, known, original, "", about, key
        )  # fmt: skip

    def found(self, folder: str = "") -> Found:
        """The row of the store."""
        from triage.report import title

        v, known = self.verdict, self.known.reference if self.known else ""
        seen = (self.count, self.first_seen, self.last_seen)
        case = (self.case.id, self.case.origin.get("index", -1))
        return Found(self.key, v.verdict, v.backend, v.setting, title(self), folder, self.status, known, self.reproduced, self.repeats, *case, *seen)


def arrays(expected: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Values and bounds of the reference as numpy arrays; sequences have no place in an .npz and are left out."""
    from specs.program import to_numpy

    values, bounds = dict[str, np.ndarray](), dict[str, np.ndarray]()
    for name, want in expected.items():
        value, worst = want.ball.value, want.ball.worst
        if isinstance(value, (list, tuple)) or value is None:
            continue
        values[name] = np.asarray(to_numpy(value, want.format))
        if worst is not None:
            bounds[name] = np.asarray(worst.numpy())
    return values, bounds


def surroundings(backend: str) -> dict[str, str]:
    """Versions that matter for a report: the backend's under its own name, then ours."""
    found = plugin.backends().get(backend)
    versions = {backend: (found.version() if found else None) or "unknown"}
    for package in ("onnx", "numpy", "onnx-assay"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {**versions, "python": platform.python_version(), "platform": platform.platform(), "machine": platform.machine()}
