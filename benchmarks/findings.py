"""Triage of real findings, from cases as campaigns draw them to scripts: how small, how fast, is the cause kept, do the scripts run?"""

from __future__ import annotations

import itertools
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch

from benchmarks import Figures, Scale, benchmark
from benchmarks.clean import run_clean, shows
from fuzzer.drawing import Drawing
from fuzzer.investigation import Answer, Suspicion, investigate
from fuzzer.settings import Budget, Settings
from fuzzer.sources import Seeded
from oracles.adjoint import weigher
from oracles.judge import judge_outcomes
from oracles.plugin import Target, backends, find
from oracles.pool import run
from oracles.records import Case, Verdict
from oracles.reference import reference
from triage.cause import cause_key
from triage.draft import MEANINGLESS, Draft
from triage.finding import Finding
from triage.guilt import VALUES, blamed
from triage.replay import judged
from triage.repro import LINES
from triage.write import write_finding

COUNTS = {"onnxruntime": (20, 2), "tvm": (10, 1)}  # findings looked for: all, quick
SECONDS = {"onnxruntime": 20.0, "tvm": 90.0}  # a reduction may take so long
SMALL = 3


@dataclass(frozen=True)
class Done:
    """One finding after triage. kept: whether its cause is that of the case as it was found; None when that cannot be asked."""

    finding: Finding
    seconds: float
    lines: int
    ran: bool
    kept: bool | None


@benchmark(
    "findings",
    share_reduced_to_3_nodes=(">=", 0.9),
    share_cause_kept=(">=", 0.99),
    seconds_median_onnxruntime=("<=", 20.0),
    seconds_median_tvm=("<=", 90.0),
    share_of_scripts_that_run=(">=", 1.0),
    lines_of_a_script_max=("<=", float(LINES)),
)
def findings(scale: Scale) -> Figures:
    """The first case of each cause, through the investigation of a campaign, with more time than it has there; cases at one size."""
    torch.set_num_threads(1)
    done = {b: list(_done(b, scale.count(*COUNTS[b]), scale.count(240, 30))) for b in COUNTS if not backends()[b].missing()}
    every = [d for some in done.values() for d in some]
    asked = [d.kept for d in every if d.kept is not None]
    if not every:
        return {"findings": 0.0}
    return {
        "findings": len(every),
        **{f"findings_{b}": len(some) for b, some in done.items()},
        "share_reduced_to_3_nodes": sum(len(d.finding.model.nodes) <= SMALL for d in every) / len(every),
        "share_cause_kept": sum(asked) / len(asked) if asked else 0.0,
        "causes_asked": len(asked),
        **{f"seconds_median_{b}": statistics.median(d.seconds for d in some) for b, some in done.items() if some},
        **{f"seconds_max_{b}": max(d.seconds for d in some) for b, some in done.items() if some},
        "share_of_scripts_that_run": sum(d.ran for d in every) / len(every),
        "lines_of_a_script_max": max(d.lines for d in every),
        "known_share": sum(d.finding.known is not None for d in every) / len(every),
    }


def _done(backend: str, count: int, seconds: float) -> Iterator[Done]:
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(Budget(), Path(folder), (Target(backend, find(backend).default),), seed=11)
        causes = set[str]()
        for suspicion in _suspicions(backend, settings, seconds):
            started = time.monotonic()
            answer = investigate(suspicion, settings, SECONDS[backend])
            spent = time.monotonic() - started
            c = answer.confirmed
            if c is None or not c.verdict.is_finding or c.reproduced < c.repeats or answer.key in causes:
                continue
            causes.add(answer.key)
            finding = blamed(Finding.of(c, original=answer.original), answer.guilt)
            yield _told(finding, answer, suspicion, spent, Path(folder))
            if len(causes) == count:
                return


def _told(finding: Finding, answer: Answer, suspicion: Suspicion, spent: float, folder: Path) -> Done:
    script = write_finding(folder, finding) / "repro.py"
    try:
        ran = shows(run_clean(script))
    except subprocess.TimeoutExpired:
        ran = False
    made = Done(finding, spent, len(script.read_text().splitlines()), ran, kept(finding, suspicion, answer))
    before = len(onnx.load_from_string(suspicion.case.model).graph.node)
    print(
        f"  {finding.name} {finding.verdict.backend}: {before} nodes -> {len(finding.model.nodes)} in {spent:.1f} s, "
        f"{' '.join(finding.cause.guilty or finding.cause.ops)}, kept {made.kept}, {made.lines} lines, {'runs' if ran else 'DOES NOT RUN'}"
    )
    return made


def _suspicions(backend: str, settings: Settings, seconds: float) -> Iterator[Suspicion]:
    """What a lane would suspect: the first case of each cause, drawn for so many seconds, those of looking at it apart."""
    drawing, seen, left = Drawing(settings), set[str](), seconds
    for index in itertools.count():
        if left <= 0:
            return
        started = time.monotonic()
        met = list(_met(drawing, settings, backend, index))
        left -= time.monotonic() - started
        for suspicion in met:
            if suspicion.key not in seen:
                seen.add(suspicion.key)
                yield suspicion


def _met(drawing: Drawing, settings: Settings, backend: str, index: int) -> Iterator[Suspicion]:
    try:
        made = drawing.generated(3 * index if backend == "tvm" else index, Seeded(settings.seed, index))  # every third is for dear backends
        if not made.found.safe or made.case.before:
            return
        expected, weigh = reference(made.program, made.case.inputs), weigher(made.program, made.case.inputs)
    except MEANINGLESS as e:
        print(f"  case {index} is passed over: {type(e).__name__}: {str(e).splitlines()[0][:120]}")
        return
    outcomes = run(made.case, settings.targets, timeout=settings.timeout, memory=settings.memory)
    verdicts = judge_outcomes(expected, outcomes, weigh)
    for v in {v.verdict: v for v in reversed(verdicts) if v.is_finding and v.verdict not in ("hang", "oom")}.values():
        yield Suspicion(cause_key(made.case, v, outcomes), made.case, v, tuple(outcomes))


def kept(small: Finding, suspicion: Suspicion, answer: Answer) -> bool | None:
    """Whether the case as it was found is cured by what the reduced one is blamed on: its switches turned off, or right values in
    place of what its operators make there. None when neither can be asked: a failure with a message, or a death, is the same by the
    predicate of the reduction."""
    v, whole, backend = suspicion.verdict, suspicion.case, small.verdict.backend
    if answer.guilt.how == "switch":
        return not _bad(whole, backend, "~".join([small.failing[0], *answer.guilt.names]), v)
    if v.verdict not in (*VALUES, "unstable") or not v.output:
        return None
    draft = Draft.of(whole)
    made = [o for n in draft.nodes if n.op_type in small.cause.ops for o in n.output if o]
    if not made:
        return None
    if v.output in made:
        return True
    cured = draft.part([v.output], made)
    return not _bad(cured.case(), backend, v.setting, v) if cured is not None and cured.valid else None


def _bad(case: Case, backend: str, setting: str, seen: Verdict) -> bool:
    """Whether the verdict is there still; another one at the same output is of another defect."""
    try:
        verdicts = judged(case, run(case, [Target(backend, (setting,))]))
    except MEANINGLESS:
        return True
    return any(v.verdict == seen.verdict and seen.output in ("", v.output) for v in verdicts)
