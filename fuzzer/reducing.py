"""`fuzz reduce`: from a case of any kind to a finding with the smallest case; what is reached is on disk at every moment."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import torch

from corpus.folders import put_json, stored_case, write_case
from corpus.inputs import fit, load_inputs
from corpus.models import load_model
from fuzzer.drawing import Drawing
from fuzzer.investigation import redrawing
from fuzzer.network import Value
from fuzzer.search import search
from fuzzer.settings import Budget, Settings
from fuzzer.sources import Seeded
from oracles.adjoint import weigher
from oracles.confirm import confirm
from oracles.judge import judge_outcomes
from oracles.plugin import Target, find, installed
from oracles.pool import GIB, run
from oracles.records import FINDINGS, Case
from oracles.reference import reference
from specs.program import Program
from specs.rule import UsageError
from triage.crew import Crew
from triage.draft import MEANINGLESS, Draft
from triage.finding import Finding
from triage.interest import Effort, reduce_finding
from triage.reduce import Reduced
from triage.replay import judged
from triage.write import read_finding, write_finding

DEAR = ("tvm", "inductor")  # compilers that take longer than judging: worth two workers
SAVE = 64  # answers of the predicate between two writings of them


@dataclass(frozen=True)
class Limits:
    """What a reduction may use."""

    seconds: float = 300.0
    timeout: float = 60.0
    memory: int = 4 * GIB
    together: int = 0  # cases tried at once; 0: as many as pay


@dataclass(frozen=True)
class Done:
    """What came of it."""

    finding: Finding
    folder: Path
    before: int
    result: Reduced
    interrupted: bool = False

    def about(self) -> dict[str, Any]:
        """For --json."""
        f, r = self.finding, self.result
        return {
            "finding": self.folder.name, "folder": str(self.folder), "key": f.key,
            "status": f.status, "backend": f.verdict.backend, "setting": f.verdict.setting,
            "verdict": f.verdict.verdict,
            "ops": f.ops, "blame": f.blame, "guilty": list(f.cause.guilty), "known": f.known.reference if f.known else None,
            "nodes_before": self.before, "nodes": r.nodes, "probes": r.probes, "seconds": round(r.seconds, 3), "finished": r.finished,
            "interrupted": self.interrupted, "steps": list(r.log),
        }  # fmt: skip


def find_failure(path: Path, inputs: Path | None, targets: tuple[Target, ...], limits: Limits) -> Finding | None:
    """The finding in a folder, or the gravest thing that goes wrong with a case; None when nothing does. Raises UsageError."""
    if (path / "outcome.json").exists():
        return read_finding(path)
    case = _case(path, inputs, limits)
    try:
        program = Program(case.model, torch.float64)
        expected, weigh = reference(program, case.inputs), weigher(program, case.inputs)
    except MEANINGLESS as e:
        raise UsageError(f"{path}: there is no reference for this model ({e}), so what is wrong with it cannot be told") from None
    outcomes = run(case, targets, timeout=limits.timeout, memory=limits.memory)
    bad = [v for v in judge_outcomes(expected, outcomes, weigh) if v.is_finding]
    if not bad:
        return None
    worst = min(bad, key=lambda v: FINDINGS.index(v.verdict))
    mine = [o for o in outcomes if o.backend == worst.backend]
    return Finding.of(confirm(case, expected, worst, mine, weigh, timeout=limits.timeout, memory=limits.memory))


def _case(path: Path, inputs: Path | None, limits: Limits) -> Case:
    if path.is_dir() and inputs is None and (path / "inputs.npz").exists():
        return stored_case(path)
    file = path / "model.onnx" if path.is_dir() else path
    model = load_model(file, limits.memory)
    if inputs is not None:
        return Case(model.SerializeToString(), fit(model, load_inputs(inputs, model, limits.memory), inputs))
    program = Program(model, torch.float64)
    if any(form is None or shape is None or not all(isinstance(d, int) for d in shape) for form, shape in program.inputs.values()):
        raise UsageError(f"{file}: has an input of unknown type or size; give the inputs with --inputs")
    leaves = [Value(n, form, tuple(d for d in shape or () if isinstance(d, int)), "input") for n, (form, shape) in program.inputs.items() if form is not None]
    return Case(model.SerializeToString(), dict(search(leaves, program, Seeded(0)).contents))


def reduce_to(out: Path, finding: Finding, limits: Limits, stop: Callable[[], bool], tell: Callable[[str], None]) -> Done:
    """Reduce, and write the finding below `out`. Raises ValueError when it does not fail any more.

    What is reached, and what was asked already, is kept in out/.reduce-<id> until the reduction is finished: the next call goes on there.
    """
    state = _State(out / f".reduce-{finding.case.id}")
    resume, asked = state.read()
    together = limits.together or (2 if finding.verdict.backend in DEAR else 1)
    before = len(onnx.load_from_string((finding.original or finding.case).model).graph.node)

    def progress(draft: Draft) -> None:
        state.write(draft, asked)
        tell(f"{len(draft.nodes)} nodes, {sum(a.size for a in draft.inputs.values())} input elements, {len(asked)} cases tried")

    with Crew(together, limits.timeout, limits.memory) as crew:
        with contextlib.suppress(*MEANINGLESS):
            judged(finding.case, crew.run(finding.case, [Target(finding.verdict.backend, tuple(finding.failing[:1]))]))  # imports are not timed
        drawing = Drawing(Settings(Budget(), out, tuple(Target(n, find(n).default) for n in installed())))
        effort = Effort(limits.seconds, limits.seconds / 3, progress, asked, stop, together, resume, redrawing(drawing))
        try:
            small, result = reduce_finding(finding, crew.run, judged, effort=effort)
        except ValueError:
            if resume is None:
                raise
            small, result = reduce_finding(finding, crew.run, judged, effort=replace(effort, resume=None))  # what was kept is of another version
    folder = write_finding(out, small, limits.timeout, limits.memory)
    if result.finished:
        state.remove()
    else:
        state.write(Draft.of(result.case), asked)
    return Done(small, folder, before, result, stop())


class _State:
    """The best case and the answers so far, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._saved = 0

    def read(self) -> tuple[Case | None, dict[bytes, bool]]:
        try:
            about: Mapping[str, Any] = json.loads((self.folder / "asked.json").read_text())
            return stored_case(self.folder), {bytes.fromhex(k): bool(v) for k, v in about.items()}
        except (OSError, ValueError, AttributeError, UsageError):
            return None, {}

    def write(self, draft: Draft, asked: Mapping[bytes, bool]) -> None:
        write_case(self.folder, draft.case())
        if len(asked) >= self._saved + SAVE or not self._saved:
            put_json(self.folder / "asked.json", {k.hex(): v for k, v in dict(asked).items()})
            self._saved = len(asked)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def targets_of(text: str, names: list[str]) -> tuple[Target, ...]:
    """The targets that were asked for, or every backend that is installed at all its settings without those on purpose broken."""
    from oracles.plugin import parse

    return tuple(parse(text)) if text else tuple(Target(n, find(n).settings if n == "onnxruntime" else find(n).default) for n in names)
