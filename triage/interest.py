"""Which simpler cases count: those that fail in the same way, and not in another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx

from oracles.plugin import Target, find
from oracles.records import Case, Outcome, Verdict
from triage.cause import WROTE, cause
from triage.draft import MEANINGLESS
from triage.finding import Finding
from triage.known import match
from triage.reduce import Keeps, Reduced, reduce
from triage.replay import Judge, Run, judged

SAID = ("broken", "refused", "crash", "hang", "oom")
LESS = 4.0  # a wrong value may lose this much of its ratio of error to bound: a shrinking defect is slipping to rounding


def same_failure(finding: Finding, run: Run, judge: Judge = judged) -> Keeps:
    """A predicate for `reduce`: the verdict at the same settings, fine where it was fine, with the same message where there is one.

    The operator blamed may change: in a large model it is the one before the wrong output, in the reduced one it is the guilty one.
    """
    v = finding.verdict
    fine = [s for s in finding.settings if s not in finding.failing]
    probe = [*fine[:1], finding.failing[0]]
    if v.verdict == "broken":
        reference = find(v.backend).reference_setting
        probe = [*([reference] if reference and reference not in finding.failing else fine[:1]), finding.failing[0]]
    target = [Target(v.backend, tuple(dict.fromkeys(probe)))]
    least = min(v.ratio / LESS, 2.0) if v.ratio and np.isfinite(v.ratio) else 0.0

    def keeps(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> bool:
        case = Case(model.SerializeToString(), inputs)
        try:
            outcomes = run(case, target)
            verdicts = judge(case, outcomes)
        except MEANINGLESS:
            return False  # without a reference there is no verdict
        return _same(finding, case, outcomes, verdicts, least)

    return keeps


def _same(finding: Finding, case: Case, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict], least: float) -> bool:
    v, failing = finding.verdict, finding.failing[0]
    here = [x for x in verdicts if x.setting == failing and x.verdict == v.verdict]
    if not here or any(x.is_finding for x in verdicts if x.setting not in finding.failing):
        return False
    if any(x.is_finding and x.verdict != v.verdict for x in verdicts if x.setting == failing):
        return False
    if v.verdict in SAID:
        return any(cause(case, x, outcomes).message == finding.cause.message and _stage(outcomes, failing) == _stage(finding.outcomes, failing) for x in here)
    if v.verdict == "mistyped":
        return any(x.message.split(" ")[0] == v.message.split(" ")[0] for x in here)
    if v.message.startswith(WROTE):
        return any(x.message.startswith(WROTE) for x in here)
    return any((v.grade != "certified" or x.grade == "certified") and (x.ratio is None or x.ratio >= least) for x in here)


def _stage(outcomes: Sequence[Outcome], setting: str) -> str:
    return next((o.stage for o in outcomes if o.setting == setting), "")


def reduce_finding(finding: Finding, run: Run, judge: Judge = judged, seconds: float = 30.0) -> tuple[Finding, Reduced]:
    """The finding with its smallest case and the key that follows from it; the original case stays with it.

    Raises ValueError when the finding does not fail any more. When the smallest case fails only in part of its runs the finding
    comes back as it was.
    """
    result = reduce(finding.case, same_failure(finding, run, judge), seconds)
    backend = find(finding.verdict.backend)
    settings = tuple(s for s in finding.settings if s in (*backend.settings, *backend.planted))
    outcomes = run(result.case, [Target(finding.verdict.backend, settings)])
    verdicts = judge(result.case, outcomes)
    mine = [v for v in verdicts if v.verdict == finding.verdict.verdict]
    if not mine:
        return finding, replace(result, case=finding.case, finished=False)
    least = min(mine, key=lambda v: settings.index(v.setting))
    worst = max((v for v in mine if v.setting == least.setting), key=lambda v: v.ratio or 0.0)
    expected, bounds = _reference(result.case)
    why = cause(result.case, worst, outcomes, verdicts, reduced=True)
    made = replace(
        finding,
        case=result.case,
        verdict=worst,
        outcomes=tuple(outcomes),
        verdicts=tuple(verdicts),
        expected=expected,
        bounds=bounds,
        cause=why if why.ops else finding.cause,
        original=finding.original or finding.case,
        given_key="" if why.ops else finding.key,
        known=match(why, result.case.model, worst.message, finding.environment.get(worst.backend, "")) or finding.known,
    )
    return made, result


def reduced(
    case: Case, verdict: Verdict, outcomes: Sequence[Outcome], run: Run, judge: Judge = judged, seconds: float = 10.0
) -> tuple[Case, Verdict, Sequence[Outcome]]:
    """The smallest case that fails as this one does, with its own verdict and outcomes; the arguments when it fails only at times."""
    verdicts = judge(case, outcomes)
    finding = Finding(cause(case, verdict, outcomes, verdicts), case, verdict, tuple(outcomes), tuple(verdicts))
    try:
        small, _ = reduce_finding(finding, run, judge, seconds)
    except ValueError:
        return case, verdict, outcomes
    return small.case, small.verdict, small.outcomes


def _reference(case: Case) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    import torch

    from oracles.reference import reference
    from specs.program import Program
    from triage.finding import arrays

    return arrays(reference(Program(case.model, torch.float64), case.inputs))
