"""Every committed case gets a script that is short, stands alone and shows the defect."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from corpus.folders import stored_case
from oracles.adjoint import weigher
from oracles.judge import judge_outcomes
from oracles.plugin import Target, find
from oracles.pool import run
from oracles.records import Case, Verdict
from oracles.reference import reference
from specs.program import Program
from tests.triage.test_finding import executed, model
from triage.cause import cause
from triage.finding import Finding, arrays
from triage.forms import form_for
from triage.repro import LINES, repro

SEEDS = sorted((Path(__file__).resolve().parents[2] / "corpus" / "seeds").glob("*/seed.json"))


def seeded(path: Path) -> Finding | None:
    """A committed case as a finding; None when its backend is missing or it is gone in the installed version."""
    seed = json.loads(path.read_text())
    backend = find(seed["backend"])
    if backend.missing():
        return None
    case = stored_case(path.parent)
    program = Program(case.model, torch.float64)
    expected = reference(program, case.inputs)
    settings = tuple(dict.fromkeys([*([backend.reference_setting] if backend.reference_setting else []), seed["setting"]]))
    outcomes = run(case, [Target(backend.name, settings)])
    verdicts = judge_outcomes(expected, outcomes, weigher(program, case.inputs))
    mine = next((v for v in verdicts if v.verdict == seed["verdict"]), None)
    if mine is None:
        return None
    values, bounds = arrays(expected)
    return Finding(cause(case, mine, outcomes, verdicts), case, mine, tuple(outcomes), tuple(verdicts), values, bounds)


@pytest.mark.backends
@pytest.mark.slow
@pytest.mark.parametrize("path", SEEDS, ids=lambda p: p.parent.name)
def test_a_script_for_every_seed(path: Path, tmp_path: Path) -> None:
    finding = seeded(path)
    if finding is None:
        pytest.skip("not installed, or gone in this version")
    script = repro(finding)
    ast.parse(script)
    assert len(script.splitlines()) <= LINES and form_for(finding).alone
    if finding.verdict.backend == "onnxruntime":  # TVM needs seconds for each
        (tmp_path / "repro.py").write_text(script)
        done = executed(tmp_path / "repro.py")
        assert done.returncode == 1 and "AssertionError" in done.stderr, done.stdout + done.stderr


def test_text_that_is_wrong_is_looked_at(tmp_path: Path) -> None:
    """Strings have no error and no worst element: the whole output is compared."""
    from onnx import parser

    text = '<ir_version: 10, opset_import: ["" : 20]> g (string[2] x) => (string[2] y) { y = StringConcat(x, x) }'
    case = Case(parser.parse_model(text).SerializeToString(), {"x": np.array(["a", "b"], object)})
    for expected, status in ((["aa", "bb"], 0), (["aa", "xx"], 1)):
        verdict = Verdict("onnxruntime", "off", "wrong", "certified", "y")
        finding = Finding(cause(case, verdict), case, verdict, (), (verdict,), {"y": np.array(expected, object)})
        (tmp_path / "repro.py").write_text(repro(finding))
        done = executed(tmp_path / "repro.py")
        assert done.returncode == status, done.stdout + done.stderr


def test_sizes_that_run_first_come_first(tmp_path: Path) -> None:
    wide = model(dtype="float")
    case = Case(wide, {"x": np.zeros(4, np.float32)}, before=({"x": np.ones(4, np.float32)},))
    verdict = Verdict("onnxruntime", "off", "wrong", "certified", "y", (0,), 1.0, 0.0, 0.0)
    finding = Finding(cause(case, verdict), case, verdict, (), (verdict,))
    script = repro(finding)
    (tmp_path / "repro.py").write_text(script)
    assert "run(others)" in script and executed(tmp_path / "repro.py").returncode == 0
    (tmp_path / "repro.py").write_text(script.replace("run(others)", "(run(others), sys.exit(9))"))
    assert executed(tmp_path / "repro.py").returncode == 9


def test_a_large_graph_is_packed() -> None:
    nodes = " ".join(f"v{i} = Relu({'x' if i == 0 else f'v{i - 1}'})" for i in range(80))
    case = Case(model(f"{nodes} y = Clip(v79, lo, hi)", "float"), {"x": np.zeros(4, np.float32)})
    verdict = Verdict("onnxruntime", "off", "wrong", "certified", "y", (0,), 1.0, 0.0, 0.0)
    script = repro(Finding(cause(case, verdict), case, verdict, (), (verdict,)))
    assert len(script.splitlines()) <= LINES and "b64decode" in script
