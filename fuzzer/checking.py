"""The differential test of one model a user brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from corpus.inputs import fit, load_inputs, load_outputs
from corpus.models import load_model
from fuzzer.network import Value
from fuzzer.search import search
from fuzzer.sources import Seeded
from oracles.adjoint import weigher
from oracles.judge import judge, judge_outcomes
from oracles.plugin import Target
from oracles.pool import run
from oracles.records import Case, Outcome, Verdict
from oracles.reference import Expected, reference
from oracles.second import second_opinion
from specs.numerics import Ball, add, quadrature
from specs.program import Program
from specs.rule import Unsupported, UsageError

OPEN = 2  # what an unnamed or symbolic dimension becomes in drawn inputs


@dataclass(frozen=True)
class Request:
    """What `fuzz check` was asked."""

    targets: tuple[Target, ...]
    inputs: Path | None = None
    outputs: Path | None = None
    equivalent: Path | None = None
    timeout: float = 60.0
    memory: int = 8 * 2**30
    seed: int = 0


def check_path(path: Path, request: Request) -> dict[str, Any]:
    """{"model", "verdicts"} for one file or case folder. Raises UsageError when it cannot be a valid test."""
    file = path / "model.onnx" if path.is_dir() else path
    model = load_model(file, request.memory)
    program = _program(file, model)
    inputs = _inputs(path, file, model, program, request)
    expected = _reference(program, inputs) if program is not None else None
    stored = request.outputs or (path / "outputs.npz" if path.is_dir() and (path / "outputs.npz").exists() else None)
    if stored is not None:
        if expected is None:
            raise UsageError(f"{file}: there is no reference for this model, so outputs cannot be judged")
        verdicts = judge(model, inputs, load_outputs(stored, model, request.memory))
        if request.outputs is not None:
            return _result(path, verdicts)
    else:
        verdicts = []
    case = Case(model.SerializeToString(), inputs)
    verdicts += _judged(case, program, expected, run(case, request.targets, timeout=request.timeout, memory=request.memory))
    if request.equivalent is not None:
        verdicts += _equivalence(file, request, inputs, expected)
    return _result(path, verdicts)


def _result(path: Path, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    return {"model": str(path), "verdicts": [asdict(v) for v in verdicts]}


def _program(file: Path, model: onnx.ModelProto) -> Program | None:
    """None when some operator has no meaning: backends still run, and are compared by status only."""
    try:
        return Program(model, torch.float64)
    except Unsupported:
        return None


def _reference(program: Program, inputs: Mapping[str, np.ndarray]) -> dict[str, Expected] | None:
    try:
        return reference(program, inputs)
    except Unsupported:
        return None


def _inputs(path: Path, file: Path, model: onnx.ModelProto, program: Program | None, request: Request) -> dict[str, np.ndarray]:
    source = request.inputs or (path / "inputs.npz" if path.is_dir() and (path / "inputs.npz").exists() else None)
    if source is not None:
        return fit(model, load_inputs(source, model, request.memory), source)
    if program is None:
        raise UsageError(f"{file}: an operator of this model has no meaning here, so inputs cannot be drawn; give them with --inputs")
    return _drawn(file, program, request.seed)


def _drawn(file: Path, program: Program, seed: int) -> dict[str, np.ndarray]:
    leaves = list[Value]()
    symbols = dict[str, int]()
    for name, (form, shape) in program.inputs.items():
        if form is None or shape is None or form.kind in ("string", "complex"):
            raise UsageError(f"{file}: input '{name}' is not a tensor of known type and rank; give the inputs with --inputs")
        dims = [d if isinstance(d, int) else symbols.setdefault(d or name, OPEN) for d in shape]
        leaves.append(Value(name, form, tuple(dims), "input"))
    return dict(search(leaves, program, Seeded(seed)).contents)


def _judged(case: Case, program: Program | None, expected: Mapping[str, Expected] | None, outcomes: Sequence[Outcome]) -> list[Verdict]:
    if expected is None or program is None:
        return [_by_status(o) for o in outcomes]
    weigh = weigher(program, case.inputs)
    by_setting = {(o.backend, o.setting): o for o in outcomes}
    verdicts = judge_outcomes(expected, outcomes, weigh)
    return [second_opinion(case.model, case.inputs, expected, v, by_setting[v.backend, v.setting], weigh) if v.is_finding else v for v in verdicts]


def _by_status(outcome: Outcome) -> Verdict:
    kind: Any = {"ok": "noise", "error": "refused", "missing": "unsupported"}.get(outcome.status, outcome.status)
    message = "no reference for this model: the values were not judged" if outcome.status == "ok" else outcome.message
    return Verdict(outcome.backend, outcome.setting, kind, message=message)


def _equivalence(file: Path, request: Request, inputs: Mapping[str, np.ndarray], expected: Mapping[str, Expected] | None) -> list[Verdict]:
    """OTHER in float64 against MODEL, then OTHER on every backend against MODEL, within the bounds of both."""
    assert request.equivalent is not None
    other = load_model(request.equivalent, request.memory)
    names = [i.name for i in other.graph.input if i.name not in {t.name for t in other.graph.initializer}]
    if len(names) != len(inputs):
        raise UsageError(f"{request.equivalent} has {len(names)} inputs and {file} has {len(inputs)}: they cannot be equivalent")
    if set(names) != set(inputs):
        inputs = dict(zip(names, inputs.values(), strict=True))
    program = _program(request.equivalent, other)
    theirs = _reference(program, fit(other, inputs, request.equivalent)) if program is not None else None
    if expected is None or theirs is None or program is None:
        raise UsageError(f"{file}: there is no reference for one of the two models, so equivalence cannot be judged")
    if len(theirs) != len(expected):
        raise UsageError(f"{request.equivalent} has {len(theirs)} outputs and {file} has {len(expected)}: they cannot be equivalent")
    joint = {name: _joint(a, b) for (name, b), a in zip(theirs.items(), expected.values(), strict=True)}
    exact = {name: want.ball.value.numpy() if isinstance(want.ball.value, torch.Tensor) else want.ball.value for name, want in theirs.items()}
    from oracles.compare import compare

    loose = {name: replace(want, format=None) for name, want in joint.items()}
    verdicts = [compare("reference", "equivalent", name, want, exact[name]) for name, want in loose.items()]
    outcomes = run(Case(other.SerializeToString(), inputs), request.targets, timeout=request.timeout, memory=request.memory)
    return verdicts + [replace(v, setting=f"{v.setting}, equivalent") for v in judge_outcomes(joint, outcomes, weigher(program, inputs))]


def _joint(a: Expected, b: Expected) -> Expected:
    """MODEL's values with the radii of both: either of them may have been rounded as it is legal for it."""
    return Expected(Ball(a.ball.value, add(a.ball.worst, b.ball.worst), quadrature(a.ball.spread, b.ball.spread)), b.format)


def summary_lines(verdicts: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line per backend and setting: the gravest verdict and where."""
    grouped: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for v in verdicts:
        grouped.setdefault((v["backend"], v["setting"]), []).append(v)
    lines = list[str]()
    for (backend, setting), found in grouped.items():
        worst = max(found, key=lambda v: (v["verdict"] not in ("ok", "noise"), v["verdict"] != "ok", v["ratio"] or 0.0))
        label = f"{backend}:{setting}" if backend else "outputs given"
        lines.append(f"  {label:24} {worst['verdict']:12}{_detail(worst)}")
    return lines


def _detail(v: Mapping[str, Any]) -> str:
    parts = list[str]()
    if v["element"] is not None:
        parts.append(f"{v['output']}{list(v['element'])} = {v['got']!r}, expected {v['expected']!r}, bound {v['bound']:.3g}")
    if v["ratio"] is not None and v["verdict"] not in ("ok",):
        parts.append(f"{v['ratio']:.3g} times the bound")
    if v["masked"]:
        parts.append(f"{v['masked']:.1%} undecided")
    if v["message"]:
        parts.append(": ".join(v["message"].splitlines()[: 2 if v["verdict"] == "crash" else 1])[:200])
    return " ".join(["", *[p + ("," if i < len(parts) - 1 else "") for i, p in enumerate(parts)]])
