"""Findings on disk: the page, the script that runs without us, and reading them back."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import parser

from oracles.adjoint import weigher
from oracles.confirm import Confirmed, confirm
from oracles.judge import judge_outcomes
from oracles.pool import run
from oracles.records import Case, Outcome, Verdict
from oracles.reference import reference
from specs.formats import BY_NUMPY
from specs.program import Program
from specs.rule import UsageError
from triage.finding import Finding
from triage.literals import array_text, canonical, model_text, scope
from triage.replay import replay
from triage.report import claim, readme, title
from triage.repro import repro
from triage.write import find_folders, read_finding, write_finding

ROOT = Path(__file__).parents[2]


def model(body: str = "r = Relu(x) y = Clip(r, lo, hi)", dtype: str = "double", opset: int = 14) -> bytes:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> g ({dtype}[4] x) => ({dtype}[4] y) <{dtype} lo = {{-1}}, {dtype} hi = {{1}}> {{ {body} }}'
    return parser.parse_model(text).SerializeToString()


def found(case: Case, backends: str, timeout: float = 5.0) -> Finding:
    """The first finding of a case, as the campaign makes it."""
    program = Program(case.model, torch.float64)
    expected, weigh = reference(program, case.inputs), weigher(program, case.inputs)
    outcomes = run(case, backends, timeout=timeout)
    verdict = next(v for v in judge_outcomes(expected, outcomes, weigh) if v.is_finding)
    return Finding.of(confirm(case, expected, verdict, outcomes, weigh, timeout=timeout, memory=4 << 30, repeats=2))


def executed(script: Path, *, ours: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a script where this project cannot be imported, unless `ours`."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | ({"PYTHONPATH": str(ROOT)} if ours else {})
    return subprocess.run([sys.executable, script.name], cwd=script.parent, env=environment, capture_output=True, text=True, timeout=120)


RELU_CLIP = Case(model(), {"x": np.array([-1, 0, 0.5, 2.0])}, {"seed": 1, "index": 4})


@pytest.fixture(scope="module")
def relu_clip() -> Finding:
    return found(RELU_CLIP, "onnxruntime")


def test_the_known_defect_of_onnxruntime(relu_clip: Finding, tmp_path: Path) -> None:
    assert relu_clip.verdict.verdict == "broken" and relu_clip.failing == ["basic", "extended", "all"]
    assert relu_clip.known is not None and relu_clip.known.name == "relu-clip-fusion" and relu_clip.status == "known"
    folder = write_finding(tmp_path, relu_clip)
    assert {p.name for p in folder.iterdir()} == {"README.md", "repro.py", "model.onnx", "inputs.npz", "expected.npz", "outcome.json", "original"}
    result = executed(folder / "repro.py")
    assert result.returncode == 1 and "basic      fails" in result.stdout, result.stderr
    page = (folder / "README.md").read_text()
    assert "https://github.com/microsoft/onnxruntime/issues/24158" in page and "Relu -> Clip (double)" in page
    about = json.loads((folder / "outcome.json").read_text())
    assert about["status"] == "known" and about["verdict"]["setting"] == "basic"


def test_findings_are_read_back(relu_clip: Finding, tmp_path: Path) -> None:
    back = read_finding(write_finding(tmp_path, relu_clip))
    assert (back.key, back.name, back.case.id, back.cause, back.verdict, back.known) == (
        relu_clip.key, relu_clip.name, relu_clip.case.id, relu_clip.cause, relu_clip.verdict, relu_clip.known,
    )  # fmt: skip
    assert back.settings == relu_clip.settings and back.failing == relu_clip.failing and back.original is None
    assert find_folders(tmp_path) == [tmp_path / relu_clip.name] == find_folders(tmp_path / relu_clip.name)
    with pytest.raises(UsageError, match="is not a finding"):
        read_finding(tmp_path)


def test_writing_again_replaces(relu_clip: Finding, tmp_path: Path) -> None:
    (write_finding(tmp_path, relu_clip) / "stale").write_text("x")
    folder = write_finding(tmp_path, relu_clip)
    assert not (folder / "stale").exists() and [p.name for p in tmp_path.iterdir()] == [folder.name]


def test_the_script_ends_with_0_when_the_defect_is_gone(relu_clip: Finding, tmp_path: Path) -> None:
    script = repro(relu_clip).replace("double[4]", "float[4]").replace("double lo", "float lo").replace("double hi", "float hi").replace("float64", "float32")
    (tmp_path / "repro.py").write_text(script)
    result = executed(tmp_path / "repro.py")
    assert result.returncode == 0 and "The defect is gone." in result.stdout, result.stderr


def test_the_script_ends_with_77_without_the_backend(relu_clip: Finding, tmp_path: Path) -> None:
    (tmp_path / "repro.py").write_text(repro(relu_clip))
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('not here')")
    assert executed(tmp_path / "repro.py").returncode == 77


@pytest.mark.parametrize("setting", ["element", "nan", "dtype", "unstable", "broken", "refuse", "crash", "hang"])
def test_every_kind_of_misbehaviour_gets_a_script(setting: str, tmp_path: Path) -> None:
    finding = found(Case(model(dtype="float"), {"x": np.array([-1, 0, 0.5, 2.0], np.float32)}), f"liar:ok+{setting}", timeout=2.0)
    script = repro(finding, timeout=20)
    ast.parse(script)
    assert len(script.splitlines()) <= 60
    if setting in ("element", "crash", "unstable"):  # a start of torch each
        (tmp_path / "repro.py").write_text(script)
        result = executed(tmp_path / "repro.py", ours=True)
        assert result.returncode == 1, result.stdout + result.stderr
    page = readme(finding)
    assert len(page.split("<details>")[0].splitlines()) < 45 and title(finding).startswith("[Bug][liar] Relu -> Clip")


def test_a_crash_does_not_take_the_script_along(relu_clip: Finding, tmp_path: Path) -> None:
    verdict = Verdict("onnxruntime", "all", "crash", message="killed by signal 11 (SIGSEGV)")
    finding = Finding(relu_clip.cause, Case(model(dtype="float"), {"x": np.zeros(4, np.float32)}), verdict, (), (verdict,))
    script = repro(finding, timeout=30)
    (tmp_path / "repro.py").write_text(script)
    assert executed(tmp_path / "repro.py").returncode == 0  # it runs well today
    (tmp_path / "repro.py").write_text(script.replace("    options = ort", "    import ctypes\n    ctypes.string_at(0)\n    options = ort"))
    result = executed(tmp_path / "repro.py")
    assert result.returncode == 1 and "is killed at ['all']" in result.stderr
    hang = Verdict("onnxruntime", "all", "hang")
    script = repro(Finding(relu_clip.cause, finding.case, hang, (), (hang,)), timeout=4)
    (tmp_path / "repro.py").write_text(script.replace("    options = ort", "    import time\n    time.sleep(99)\n    options = ort"))
    result = executed(tmp_path / "repro.py")
    assert result.returncode == 1 and "gives no answer" in result.stderr


def wrong(case: Case, backend: str, setting: str) -> Finding:
    """A finding that claims a value no backend gives: its script must find the claim false, that is, run and end with 0 or 1 as told."""
    program = Program(case.model, torch.float64)
    expected = reference(program, case.inputs)
    name = next(iter(expected))
    value = expected[name].ball.value
    at = (0,) * value.ndim
    verdict = Verdict(backend, setting, "wrong", "certified", name, at, 99.0, value[at].item(), 0.5, 200.0)
    return Finding.of(Confirmed(case, verdict, (verdict,), (Outcome(backend, setting, "ok", {}),), expected, 3, 3))


@pytest.mark.parametrize("backend", ["onnxruntime:basic", "tvm:fused", "tvm:random"])
def test_scripts_run_the_backend_as_we_do(backend: str, tmp_path: Path) -> None:
    if backend.startswith("tvm"):
        pytest.importorskip("tvm")
    case = Case(model("a = Exp(x) s = Softmax<axis = 0>(a) r = Relu(s) y = Clip(r, lo, hi)", "float"), {"x": np.linspace(-1, 1, 4, dtype=np.float32)})
    (tmp_path / "repro.py").write_text(repro(wrong(case, *backend.split(":"))))
    result = executed(tmp_path / "repro.py")
    assert result.returncode == 0 and "right" in result.stdout, result.stdout + result.stderr


@pytest.mark.parametrize("kind", [ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.int4, np.bool_, np.float16])
def test_types_that_numpy_lacks_reach_onnxruntime(kind: type, tmp_path: Path) -> None:
    form = BY_NUMPY[np.dtype(kind)]
    text = f'<ir_version: 10, opset_import: ["" : 21]> g ({form.name}[5] x) => ({form.name}[5] y) {{ z = Cast<to = 1>(x) y = Cast<to = {form.onnx}>(z) }}'
    case = Case(parser.parse_model(text).SerializeToString(), {"x": np.array([1, 0, 1, 1, 0]).astype(kind)})
    (tmp_path / "repro.py").write_text(repro(wrong(case, "onnxruntime", "off")))
    result = executed(tmp_path / "repro.py")
    assert result.returncode == 0, result.stdout + result.stderr


def test_large_models_and_inputs_stay_in_their_files(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    proto = onnx.load_from_string(model("r = Add(x, w) s = Relu(r) y = Clip(s, lo, hi)", "float"))
    del proto.graph.input[0].type.tensor_type.shape.dim[:]
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    for v in (proto.graph.input[0], proto.graph.output[0]):
        v.type.tensor_type.shape.dim.add().dim_value = 20_000
    proto.graph.initializer.append(onnx.numpy_helper.from_array(generator.standard_normal(20_000).astype(np.float32), "w"))
    case = Case(proto.SerializeToString(), {"x": generator.standard_normal(20_000).astype(np.float32)})
    folder = write_finding(tmp_path, wrong(case, "onnxruntime", "off"))
    assert len((folder / "repro.py").read_text()) < 10_000
    result = executed(folder / "repro.py")
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_traced_program_needs_torch_alone() -> None:
    case = Case(model("a = Exp(x) s = Softmax<axis = 0>(a) r = Relu(s) y = Clip(r, lo, hi)", "float"), {"x": np.linspace(-1, 1, 4, dtype=np.float32)})
    script = repro(wrong(case, "inductor", "default"))
    ast.parse(script)
    assert "torch.ops.aten.exp" in script and "onnx" not in script.split('"""')[2] and "specs" not in script
    deep = " ".join(f"v{i} = {'Exp' if i % 2 else 'Sigmoid'}({'x' if i == 0 else f'v{i - 1}'})" for i in range(60))
    long = repro(wrong(Case(model(f"{deep} y = Clip(v59, lo, hi)", "float"), case.inputs), "inductor", "default"))
    ast.parse(long)
    assert max(len(script.splitlines()), len(long.splitlines())) <= 60


def test_replay_tells_fixed_still_flaky_and_changed(relu_clip: Finding, tmp_path: Path) -> None:
    folder = write_finding(tmp_path, relu_clip)
    assert replay(folder, repeats=2).status == "STILL"
    right = [Outcome("onnxruntime", s, "ok", {"y": np.array([0, 0, 0.5, 1.0])}) for s in relu_clip.settings]
    other = [
        Outcome("onnxruntime", s, "ok" if s == "off" else "error", {"y": np.array([0, 0, 0.5, 1.0])}, message="Fail: another thing") for s in relu_clip.settings
    ]
    odd = [Outcome("onnxruntime", s, "unsupported", message="NotImplemented") for s in relu_clip.settings]
    assert replay(folder, lambda c, t: right).status == "FIXED"
    assert replay(folder, lambda c, t: other).status == "CHANGED"
    assert replay(folder, lambda c, t: odd).status == "CHANGED"
    runs = iter([list(relu_clip.outcomes), right, right])
    flaky = replay(folder, lambda c, t: next(runs))
    assert (flaky.status, flaky.hits, flaky.repeats) == ("FLAKY", 1, 3)
    with pytest.raises(UsageError, match="not installed"):
        replay(folder, lambda c, t: [Outcome("onnxruntime", "off", "missing", message="backend is not installed")])


def test_claims_are_one_sentence(relu_clip: Finding) -> None:
    text = claim(relu_clip)
    assert "\n" not in text and text.endswith(".") and len(text) < 400


@pytest.mark.parametrize("kind", ["float32", "float16", "int64", "bool", "bfloat16", "int4", "float8_e5m2"])
@pytest.mark.parametrize("size", [0, 1, 7, 300])
def test_arrays_as_text(kind: str, size: int) -> None:
    array = (np.random.default_rng(size).standard_normal(size) * 3).astype(getattr(ml_dtypes, kind, None) or kind)
    back = eval(array_text(array), scope())
    assert back.dtype == array.dtype and back.tobytes() == array.tobytes()


def test_special_values_as_text() -> None:
    for array in (
        np.array([np.nan, -np.inf, -0.0, 1e-45], np.float32),
        np.frombuffer(b"\x01\x00\xc0\x7f", np.float32),
        np.full(99, -0.0),
        np.array(["a\0", '"'], object),
    ):
        back = eval(array_text(array), scope())
        assert back.dtype == array.dtype and (back.tolist() == array.tolist() if array.dtype == object else back.tobytes() == array.tobytes())


def test_models_as_text_come_back_equal() -> None:
    proto = onnx.load_from_string(model())
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array([np.nan, 0.1], np.float32), "odd"))
    text = model_text(proto)
    assert text is not None and list(text[1]) == ["odd"]
    back = parser.parse_model(text[0])
    back.graph.initializer.append(onnx.numpy_helper.from_array(text[1]["odd"], "odd"))
    assert canonical(back) == canonical(proto)
