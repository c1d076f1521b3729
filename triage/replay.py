"""Run a stored finding again: is it still there, gone, sometimes there, or something else now?"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from oracles.plugin import Target, find
from oracles.records import FINDINGS, Case, Outcome, Verdict
from specs.rule import UsageError
from triage.cause import Cause, cause
from triage.finding import Finding
from triage.write import read_finding

Status = Literal["FIXED", "STILL", "FLAKY", "CHANGED"]
Run = Callable[[Case, Sequence[Target]], list[Outcome]]
Judge = Callable[[Case, Sequence[Outcome]], list[Verdict]]


@dataclass(frozen=True)
class Replayed:
    """What came of it. `hits` of `repeats` runs showed the same cause; `now` is what the last run gave instead, in words."""

    finding: Finding
    status: Status
    hits: int
    repeats: int
    now: str = ""
    verdicts: tuple[Verdict, ...] = ()


def replay(finding: Finding | Path, run: Run | None = None, judge: Judge | None = None, repeats: int = 3) -> Replayed:
    """Run a finding `repeats` times at the settings it was found with.

    run, judge  by default the isolated workers of oracles.pool, and the float64 reference; triage.elsewhere asks another environment
    Raises UsageError for a folder that is no finding, and for a backend that is not installed.
    """
    found = read_finding(finding) if isinstance(finding, Path) else finding
    run, judge = run or runner(), judge or judged
    target = [Target(found.verdict.backend, tuple(s for s in found.settings if find(found.verdict.backend).has(s)))]
    if not target[0].settings:
        raise UsageError(f"{found.name}: backend '{found.verdict.backend}' has none of the settings {', '.join(found.settings)} any more")
    hits, others, verdicts = 0, list[Verdict](), list[Verdict]()
    for _ in range(repeats):
        outcomes = run(found.case, target)
        missing = next((o for o in outcomes if o.status == "missing"), None)
        if missing is not None:
            raise UsageError(f"{found.name}: {missing.message}")
        verdicts = judge(found.case, outcomes)
        same, different = _compare(found, outcomes, verdicts)
        hits += same
        others += different
    return Replayed(found, _status(found, hits, repeats, others, verdicts), hits, repeats, _now(others, verdicts), tuple(verdicts))


def _compare(found: Finding, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]) -> tuple[bool, list[Verdict]]:
    """Whether the same cause showed, and the findings that are of another cause."""
    bad = [v for v in verdicts if v.is_finding and v.backend == found.verdict.backend]
    alike = [v for v in bad if v.verdict == found.verdict.verdict]
    same = any(_same(found.cause.unblamed, cause(found.case, v, outcomes, verdicts, found.original is not None)) for v in alike)
    return same, [v for v in bad if v.verdict != found.verdict.verdict] if same else bad


def _same(a: Cause, b: Cause) -> bool:
    """One key; or keys that differ only in the class of the error, which backends change between releases (FAIL, RUNTIME_EXCEPTION)."""
    b = b if a.shape else replace(b, shape="")  # findings of before had none
    return a.key == b.key or (bool(a.message) and replace(a, message=_essence(a.message)) == replace(b, message=_essence(b.message)))


def _essence(message: str) -> str:
    return re.sub(r"^\w+: (?:[A-Z_]+: ?)?", "", message)


def _status(found: Finding, hits: int, repeats: int, others: Sequence[Verdict], verdicts: Sequence[Verdict]) -> Status:
    if hits == repeats:
        return "STILL"
    if hits:
        return "FLAKY"
    failing = [v for v in verdicts if v.setting in found.failing]
    if others or any(v.verdict not in ("ok", "noise") for v in failing):
        return "CHANGED"
    return "FIXED"


def _now(others: Sequence[Verdict], verdicts: Sequence[Verdict]) -> str:
    order = [*FINDINGS, "ours", "unsupported"]
    told = sorted([*others, *(v for v in verdicts if v.verdict in order)], key=lambda v: order.index(v.verdict))
    if not told:
        return "right"
    first = told[0]
    return f"{first.verdict} at {first.setting}" + (f": {first.message.splitlines()[0][:160]}" if first.message else "")


def runner(timeout: float = 30.0, memory: int = 4 << 30) -> Run:
    """Runs in the isolated workers, within these limits."""
    from oracles.pool import run

    return lambda case, targets: run(case, targets, timeout=timeout, memory=memory)


def judged(case: Case, outcomes: Sequence[Outcome]) -> list[Verdict]:
    """Verdicts against the float64 reference. Raises Unsupported when there is no reference for the model."""
    import torch

    from oracles.adjoint import weigher
    from oracles.judge import judge_outcomes
    from oracles.reference import reference
    from specs.program import Program

    program = Program(case.model, torch.float64)
    return judge_outcomes(reference(program, case.inputs), outcomes, weigher(program, case.inputs))
