"""`repro.py` where only the packages it names are installed: it shows the defect there, and says when the backend is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import parser

from benchmarks.clean import modules, named, run_clean, shows
from corpus.regressions import regressions
from oracles.plugin import backends
from oracles.records import Case, Verdict
from tests.triage.test_finding import RELU_CLIP, found
from triage.repro import LINES, repro

#: One seed of each kind of script and of each backend.
KINDS = ("broken", "crash", "mistyped", "nonfinite", "refused", "unstable", "wrong")


def written(folder: Path, case: Case, target: str) -> Path:
    script = folder / "repro.py"
    finding = found(case, target, timeout=30.0)
    (folder / "model.onnx").write_bytes(case.model)
    script.write_text(repro(finding))
    return script


def test_only_what_is_named_can_be_imported(tmp_path: Path) -> None:
    assert {"numpy", "onnx", "google"} <= modules(["onnx"]) and not {"torch", "pytest", "triage", "tvm"} & modules(["onnx"])
    for module, code in (("numpy", 0), ("onnx", 1), ("torch", 1), ("triage", 1), ("json", 0)):
        (tmp_path / "repro.py").write_text(f'"""Needs numpy."""\nimport {module}\n')
        done = run_clean(tmp_path / "repro.py")
        assert done.returncode == code and not shows(done) and (not code or "ModuleNotFoundError" in done.stderr)


@pytest.mark.skipif(not backends()["onnxruntime"].available(), reason="needs onnxruntime")
def test_it_shows_the_defect_or_says_what_is_missing(tmp_path: Path) -> None:
    script = written(tmp_path, RELU_CLIP, "onnxruntime")
    assert named(script.read_text()) == ["numpy", "onnx", "onnxruntime"] and len(script.read_text().splitlines()) <= LINES
    done = run_clean(script)
    assert shows(done), done.stdout + done.stderr
    assert run_clean(script, without="onnxruntime").returncode == 77
    script.write_text(script.read_text().replace("assert not bad", "assert bad"))
    assert run_clean(script).returncode == 0 and not shows(run_clean(script))


@pytest.mark.slow
@pytest.mark.backends
@pytest.mark.parametrize("name", ["onnxruntime", "tvm"])
def test_every_kind_of_script_runs(name: str, tmp_path: Path) -> None:
    """Findings of campaigns, one of each verdict, the smallest."""
    if backends()[name].missing():
        pytest.skip(backends()[name].missing())
    ran = 0
    for kind in KINDS:
        kept = [r for r in regressions() if r.seed.backend == name and r.seed.verdict == kind]
        if not kept:
            continue
        smallest = min(kept, key=lambda r: len(r.case.model))
        (folder := tmp_path / kind).mkdir()
        script = written(folder, smallest.case, f"{name}:*" if name == "onnxruntime" else name)
        done = run_clean(script)
        assert shows(done) and len(script.read_text().splitlines()) <= LINES, f"{smallest.path}: {done.stdout}{done.stderr}"
        ran += 1
    assert ran >= 3


@pytest.mark.skipif(not backends()["inductor"].available(), reason="needs torch and a C++ compiler")
@pytest.mark.slow
def test_a_traced_script_needs_torch_alone(tmp_path: Path) -> None:
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[4] x) => (float[4] y) { a = Sin(x) y = Exp(a) }'
    case = Case(parser.parse_model(text).SerializeToString(), {"x": np.linspace(0, 1, 4, dtype=np.float32)})
    finding = found(RELU_CLIP, "onnxruntime")
    wrong = Verdict("inductor", "default", "wrong", "certified", "y", (1,), 5.0, 0.0, 1e-6, 1e6)
    finding = replace(
        finding, case=case, verdict=wrong, verdicts=(wrong,), outcomes=(), expected={}, bounds={}, cause=replace(finding.cause, backend="inductor")
    )
    (tmp_path / "repro.py").write_text(repro(finding))
    done = run_clean(tmp_path / "repro.py")
    assert named((tmp_path / "repro.py").read_text()) == ["numpy", "torch"] and shows(done), done.stdout + done.stderr
