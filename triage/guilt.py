"""Who did it, in words for a maintainer: a pass, a part of the compiler, the step that raises, or the one node that is wrong alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

import numpy as np

from oracles import blame as oracle
from oracles.plugin import Target, find
from oracles.pool import GIB
from oracles.records import Case, Outcome
from triage.cause import cause
from triage.draft import MEANINGLESS, Draft
from triage.earlier import carried
from triage.finding import Finding
from triage.known import match
from triage.message import normalise
from triage.replay import Judge, Run, judged

NOUN = {"onnxruntime": "graph transformer", "tvm": "pass", "inductor": "option", "kernels": "kernel"}
VALUES = ("wrong", "imprecise", "nonfinite", "mistyped")
NODES = 24  # of a model, at most, that are run alone


@dataclass(frozen=True)
class Guilt:
    """What was found guilty, and how.

    how    "switch": turned off it cures (with several names: each does the harm alone); "stage": the fault is there behind this part
           of the compiler; "step": it raises; "node": these operators are wrong alone; "": not found
    words  for the report
    """

    how: Literal["switch", "stage", "step", "node", ""] = ""
    names: tuple[str, ...] = ()
    words: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What it adds to the key of the cause; operators are in there already."""
        return () if self.how == "node" else self.names


def guilt(finding: Finding, run: Run, judge: Judge = judged, seconds: float = inf, timeout: float = 60.0, memory: int = 4 * GIB) -> Guilt:
    """Switches first, then how far the compiler has to go to be wrong, then its steps, then single nodes, within some seconds."""
    end = time.monotonic() + seconds
    setting = finding.failing[0]
    for ask in (_switch, _stage, _step):
        if time.monotonic() < end:
            found = ask(finding, setting, run, judge, end - time.monotonic(), (timeout, memory))
            if found.how:
                return found
    return _node(finding, setting, run, judge, end)


def blamed(finding: Finding, found: Guilt) -> Finding:
    """The finding with the guilty in its text, in its cause, and in its key when it had its cause's own."""
    why = replace(finding.cause, guilty=found.key)
    now = match(why, finding.case.model, finding.verdict.message, finding.environment.get(finding.verdict.backend, ""))
    known = now if found.key else finding.known or now  # another pass than that of a known issue makes it another defect
    return replace(finding, blame=found.words, cause=why, given_key="" if found.key else finding.given_key, known=known)


def shows(finding: Finding, judge: Judge) -> oracle.Shows:
    """Whether an outcome is still bad where the finding is: at its output, or as a whole."""
    output = finding.verdict.output

    def still(outcome: Outcome) -> bool:
        try:
            verdicts = judge(finding.case, [outcome])
        except MEANINGLESS:
            return False
        return any(v.is_finding and (not output or not v.output or v.output == output) for v in verdicts)

    return still


def guilty_switches(finding: Finding, judge: Judge = judged, seconds: float = inf, timeout: float = 60.0, memory: int = 4 * GIB) -> tuple[str, ...]:
    """The minimal set of switches that cures the finding; () when none does, or time is up before it is minimal."""
    v = finding.verdict
    if find(v.backend).switches is None or v.verdict in ("hang", "oom"):
        return ()
    return oracle.blame(finding.case, v.backend, finding.failing[0], shows(finding, judge), timeout, memory, seconds=seconds)


def _switch(finding: Finding, setting: str, run: Run, judge: Judge, seconds: float, limits: tuple[float, int]) -> Guilt:
    names = guilty_switches(finding, judge, seconds, *limits)
    if not names:
        return Guilt()
    first, *more = names
    noun = NOUN.get(finding.verdict.backend, "optimisation")
    if more:
        return Guilt("switch", names, f"the {noun}s {_listed(names)}: each does the harm alone, only without all of them the result is right")
    ladder = f", from {setting} on" if finding.verdict.backend == "onnxruntime" and len(finding.failing) > 1 else ""
    return Guilt("switch", names, f"the {noun} {first}{ladder}: without it the result is right")


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]])


def _stage(finding: Finding, setting: str, run: Run, judge: Judge, seconds: float, limits: tuple[float, int]) -> Guilt:
    """A part of the compiler that gives the same wrong answer when nothing behind it runs: the same, because what runs the rest may be wrong itself."""
    v = finding.verdict
    if not find(v.backend).stages:
        return Guilt()
    (wrong,) = run(finding.case, [Target(v.backend, (setting,))])

    def same(outcome: Outcome) -> bool:
        if wrong.status != "ok" or outcome.status != "ok":
            return wrong.status == outcome.status == "error" and normalise(outcome.message) == normalise(wrong.message)
        return v.verdict in VALUES and _agree((wrong.outputs or {}).get(v.output), (outcome.outputs or {}).get(v.output))

    name = oracle.stage(finding.case, v.backend, same, *limits)
    if not name:
        return Guilt()
    return Guilt("stage", (name,), f"{name}: {'it raises' if wrong.status == 'error' else 'the result is the same when nothing behind it runs'}")


def _agree(a: object, b: object) -> bool:
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray) or a.shape != b.shape or a.dtype != b.dtype:
        return False
    if a.dtype.kind not in "fcV":
        return bool(np.array_equal(a, b))
    return bool(np.allclose(a.astype(np.float64), b.astype(np.float64), rtol=1e-2, atol=1e-6, equal_nan=True))


def _step(finding: Finding, setting: str, run: Run, judge: Judge, seconds: float, limits: tuple[float, int]) -> Guilt:
    if finding.verdict.verdict not in ("refused", "broken"):
        return Guilt()
    name = oracle.failing_step(finding.case, finding.verdict.backend, setting, *limits)
    return Guilt("step", (name,), f"{name}: it raises") if name else Guilt()


def _node(finding: Finding, setting: str, run: Run, judge: Judge, end: float) -> Guilt:
    names, every = alone(finding, setting, run, judge, end), working(Draft.of(finding.case))
    if names:
        what = f"{_listed(names)}, each of which is wrong alone" if names[1:] else f"{''.join(names)}, which is wrong alone"
        return Guilt("node", names, f"the implementation of {what}" + ("" if len(finding.failing) < len(finding.settings) else ", whatever is turned off"))
    if 1 < len(every) <= NODES and time.monotonic() < end:
        return Guilt("", (), "no node is wrong alone, and no switch cures it: it takes the nodes together")
    return Guilt()


def working(draft: Draft) -> list[int]:
    """The nodes that compute something."""
    return [i for i, n in enumerate(draft.nodes) if n.op_type not in ("Constant", "Identity")]


def alone(finding: Finding, setting: str, run: Run, judge: Judge, end: float = inf) -> tuple[str, ...]:
    """Operators of the nodes that fail in the same way when they are run alone on right values; the one nearest to the output first."""
    draft, found = Draft.of(finding.case), list[str]()
    nodes = working(draft)
    if len(nodes) == 1:
        return (draft.nodes[nodes[0]].op_type,)
    for i in reversed(nodes if len(nodes) <= NODES else []):
        if time.monotonic() >= end:
            break
        one = single(draft, i)
        if one is not None and one.valid and draft.nodes[i].op_type not in found and _fails(finding, one.case(), setting, run, judge):
            found.append(draft.nodes[i].op_type)
    return tuple(found)


def single(draft: Draft, i: int) -> Draft | None:
    """A node of the graph by itself, on the values that it has in float64."""
    part = draft.part([o for o in draft.nodes[i].output if o], [o for n in draft.nodes for o in n.output if o not in draft.nodes[i].output])
    return carried(draft, part)


def _fails(finding: Finding, case: Case, setting: str, run: Run, judge: Judge) -> bool:
    try:
        outcomes = run(case, [Target(finding.verdict.backend, (setting,))])
        verdicts = judge(case, outcomes)
    except MEANINGLESS:
        return False
    mine = [v for v in verdicts if v.verdict == finding.verdict.verdict or {v.verdict, finding.verdict.verdict} <= {"broken", "refused"}]
    return any(not v.message or v.output or cause(case, v, outcomes).message == finding.cause.message for v in mine)
