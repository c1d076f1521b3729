"""Which simpler cases count: those that fail in the same way, and not in another."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from corpus import walk
from oracles.plugin import Target, find
from oracles.records import Case, Outcome, Verdict
from triage.cause import SMALL, WROTE, cause, named
from triage.draft import MEANINGLESS, Draft
from triage.earlier import carried
from triage.finding import Finding
from triage.guilt import VALUES, blamed, guilt, guilty_switches, single, working
from triage.known import match
from triage.reduce import Keeps, Reduced, reduce
from triage.replay import Judge, Run, judged

SAID = ("broken", "refused", "crash", "hang", "oom")
REDRAWING = 0.15  # of the time, at most
LESS = 4.0  # a wrong value may lose this much of its ratio of error to bound: a shrinking defect is slipping to rounding


def same_failure(finding: Finding, run: Run, judge: Judge = judged, guilty: Sequence[str] = ()) -> Keeps:
    """A predicate for `reduce`: the verdict at the same settings, fine where it was fine, with the same message where there is one.

    The operator blamed may change: in a large model it is the one before the wrong output, in the reduced one it is the guilty one.
    guilty  switches that cure the finding: they have to cure the smaller case too, or it would be another defect
    """
    v = finding.verdict
    fine = [s for s in finding.settings if s not in finding.failing]
    failing = finding.failing[0]
    probe = [*fine[:1], failing]
    if v.verdict == "broken":
        reference = find(v.backend).reference_setting
        probe = [*([reference] if reference and reference not in finding.failing else fine[:1]), failing]
    target = [Target(v.backend, tuple(dict.fromkeys(probe)))]
    cure = [Target(v.backend, ("~".join([failing, *guilty]),))]
    least = min(v.ratio / LESS, 2.0) if v.ratio and np.isfinite(v.ratio) else 0.0

    def keeps(draft: Draft) -> bool:
        case = draft.case()
        try:
            outcomes = run(case, target)
            verdicts = judge(case, outcomes)
            if not _same(finding, case, outcomes, verdicts, least):
                return False
            cured = run(case, cure) if guilty else []
            return all(o.status == "ok" for o in cured) and not any(x.is_finding for x in judge(case, cured))
        except MEANINGLESS:
            return False  # without a reference there is no verdict

    return keeps


def _same(finding: Finding, case: Case, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict], least: float) -> bool:
    v, failing = finding.verdict, finding.failing[0]
    here = [x for x in verdicts if x.setting == failing and x.verdict == v.verdict]
    others = {x.setting for x in finding.verdicts if x.is_finding}  # of another defect, where it is not this one
    if not here or any(x.is_finding and (x.verdict == v.verdict or x.setting not in others) for x in verdicts if x.setting not in finding.failing):
        return False
    beside = VALUES if v.verdict == "unstable" else ()  # what differs from run to run is wrong in one of them
    if any(x.is_finding and x.verdict != v.verdict and x.verdict not in beside for x in verdicts if x.setting == failing):
        return False
    if v.verdict in SAID:
        said = set(named(finding.case, v))
        return any(
            cause(case, x, outcomes).message == finding.cause.message
            and _stage(outcomes, failing) == _stage(finding.outcomes, failing)
            and (not said or not (now := set(named(case, x))) or bool(said & now))
            for x in here
        )
    if v.verdict == "mistyped":
        return any(x.message.split(" ")[0] == v.message.split(" ")[0] for x in here)
    if v.message.startswith(WROTE):
        return any(x.message.startswith(WROTE) for x in here)
    return any((v.grade != "certified" or x.grade == "certified") and (x.ratio is None or x.ratio >= least) for x in here)


def _stage(outcomes: Sequence[Outcome], setting: str) -> str:
    return next((o.stage for o in outcomes if o.setting == setting), "")


@dataclass(frozen=True)
class Effort:
    """How much to spend, and what to tell on the way. For `asked`, `stop`, `progress` and `together` see `reduce`.

    redrawn  a smaller case that is drawn again, from the case, the predicate, and seconds; asked only where the steps on the graph
             leave more than a few nodes, because it is slower than they are wherever they get further
    """

    seconds: float = 30.0
    blame: float = 10.0
    progress: Callable[[Draft], None] = lambda draft: None
    asked: dict[bytes, bool] | None = None
    stop: Callable[[], bool] = lambda: False
    together: int = 1
    resume: Case | None = None
    redrawn: Callable[[Case, Callable[[Case], bool], float], Case] | None = None


def reduce_finding(finding: Finding, run: Run, judge: Judge = judged, seconds: float = 30.0, effort: Effort | None = None) -> tuple[Finding, Reduced]:
    """The finding with its smallest case, the guilty, and the key that follows from both; the original case stays with it.

    Raises ValueError when the finding does not fail any more. When the smallest case fails only in part of its runs the finding
    comes back as it was.
    """
    effort = effort or Effort(seconds, seconds / 3)
    began = time.monotonic()
    finding = _unsteady(_twice(finding, run, judge) if finding.case.before else finding)
    guilty = guilty_switches(finding, judge, max(effort.blame, effort.seconds / 3) / 2) if len(finding.failing) < len(finding.settings) else ()
    asked: dict[bytes, bool] = {} if effort.asked is None else effort.asked
    keeps = _remembering(same_failure(finding, run, judge, guilty), asked)
    start = effort.resume or _entry(finding, keeps, began + effort.seconds / 3)
    end = began + effort.seconds
    share = REDRAWING if effort.redrawn is not None else 0.0
    result = _reduced(start, keeps, end - share * effort.seconds, effort, asked)
    if effort.redrawn is not None and result.nodes > SMALL and not effort.stop():
        smaller = effort.redrawn(finding.case, lambda case: keeps(Draft.of(case)), min(share * effort.seconds, end - time.monotonic()))
        other = _reduced(smaller, keeps, end, effort, asked) if smaller.id != finding.case.id else result
        result = replace(other if other.nodes < result.nodes else result, probes=result.probes + (other.probes if other is not result else 0))
    result = replace(result, case=replace(result.case, origin={**result.case.origin, "reduced from": finding.case.id}), seconds=time.monotonic() - began)
    settings = tuple(s for s in finding.settings if find(finding.verdict.backend).has(s))
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
        cause=why if why.ops else finding.cause.unblamed,
        original=finding.original or finding.case,
        given_key="" if why.ops else finding.key,
    )
    made = blamed(made, guilt(made, run, judge, effort.blame / 2)) if effort.blame > 0 else made
    known = match(made.cause, made.case.model, worst.message, finding.environment.get(worst.backend, ""))
    return replace(made, known=known if made.cause.guilty else known or finding.known), result


def _twice(finding: Finding, run: Run, judge: Judge) -> Finding:
    """What a campaign saw at one of several sizes it saw once: here that size is the last, which runs twice."""
    outcomes = run(finding.case, [Target(finding.verdict.backend, tuple(s for s in finding.settings if find(finding.verdict.backend).has(s)))])
    verdicts = judge(finding.case, outcomes)
    if not any(v.verdict == finding.verdict.verdict for v in verdicts):
        return finding
    return replace(finding, outcomes=tuple(outcomes), verdicts=tuple(verdicts))


def _unsteady(finding: Finding) -> Finding:
    """A wrong value that another run of the same compiled model gives otherwise is a matter of runs, not of values."""
    v = finding.verdict
    other = next((x for x in finding.verdicts if x.verdict == "unstable" and (x.setting, x.output) == (v.setting, v.output)), None)
    if other is None or v.verdict not in VALUES:
        return finding
    return replace(finding, verdict=other, cause=cause(finding.case, other, finding.outcomes, finding.verdicts), given_key="")


def _reduced(start: Case, keeps: Keeps, end: float, effort: Effort, asked: dict[bytes, bool]) -> Reduced:
    return reduce(start, keeps, end - time.monotonic(), progress=effort.progress, asked=asked, stop=effort.stop, together=effort.together)


def _remembering(keeps: Keeps, asked: dict[bytes, bool]) -> Keeps:
    """Asks about no draft twice, and about none that is no model."""

    def remembered(draft: Draft) -> bool:
        if draft.id not in asked:
            asked[draft.id] = draft.valid and keeps(draft)
        return asked[draft.id]

    return remembered


def _entry(finding: Finding, keeps: Keeps, end: float) -> Case:
    """Where to start, so that no other defect of the network is taken for this one.

    The one node that fails alone, on right operands; of a wrong value also the one with which right operands still spoil the output
    that is wrong. When no single node does, the wrong output alone, or the case as it is.
    """
    output, draft, value = finding.verdict.output, Draft.of(finding.case), finding.verdict.verdict in VALUES
    mine = carried(draft, draft.part([output])) if output and value else draft
    if mine is None:
        return finding.case
    for i in reversed(working(mine)) if len(mine.nodes) > 1 and not mine.model.functions else ():
        if time.monotonic() >= end:
            break
        alone = single(mine, i)
        if alone is None or not keeps(alone):
            continue
        whole = carried(mine, mine.part([output], [r for r in walk.reads(mine.nodes[i]) if r in mine.maker])) if value else alone
        if whole is not None and keeps(whole):
            return alone.case(finding.case.origin)
    return mine.case(finding.case.origin) if mine is not draft and keeps(mine) else finding.case


def reduced(
    case: Case, verdict: Verdict, outcomes: Sequence[Outcome], run: Run, judge: Judge = judged, seconds: float = 10.0, effort: Effort | None = None
) -> tuple[Case, Verdict, Sequence[Outcome]]:
    """The smallest case that fails as this one does, with its own verdict and outcomes; the arguments when it fails only at times."""
    verdicts = judge(case, outcomes)
    finding = Finding(cause(case, verdict, outcomes, verdicts), case, verdict, tuple(outcomes), tuple(verdicts))
    try:
        small, _ = reduce_finding(finding, run, judge, effort=effort or Effort(seconds, 0.0))
    except ValueError:
        return case, verdict, outcomes
    return small.case, small.verdict, small.outcomes


def _reference(case: Case) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    import torch

    from oracles.reference import reference
    from specs.program import Program
    from triage.finding import arrays

    return arrays(reference(Program(case.model, torch.float64), case.inputs))
