"""`fuzz generate` and the lists: what is written, and that other commands can read it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.command import fuzz


def test_cases_are_complete_and_reproducible(tmp_path: Path) -> None:
    for out in ("a", "b"):
        done = fuzz("generate", "--out", out, "--nodes", 5, "--count", 3, "--seed", 11, cwd=tmp_path)
        assert done.returncode == 0 and done.stdout == f"wrote 3 cases to {out}\n" and done.stderr == ""
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["case-0", "case-1", "case-2"]
    for case in sorted((tmp_path / "a").iterdir()):
        assert sorted(p.name for p in case.iterdir()) == ["case.json", "expected.npz", "inputs.npz", "model.onnx"]
        assert (case / "model.onnx").read_bytes() == (tmp_path / "b" / case.name / "model.onnx").read_bytes()
        model = onnx.load(case / "model.onnx")
        onnx.checker.check_model(model, full_check=True)
        about = json.loads((case / "case.json").read_text())
        assert about["seed"] == 11 and about["index"] == int(case.name[5:]) and about["choices"]
        initializers = {t.name for t in model.graph.initializer}
        with np.load(case / "inputs.npz") as inputs:
            assert set(inputs.files) == {i.name for i in model.graph.input} - initializers


def test_what_is_written_can_be_checked(tmp_path: Path) -> None:
    assert fuzz("generate", "--out", "cases", "--nodes", 4, "--count", 4, "--op", "relu", cwd=tmp_path).returncode == 0
    done = fuzz("check", *[f"cases/case-{i}" for i in range(4)], "--backends", "null", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["model"] for r in rows] == [f"cases/case-{i}" for i in range(4)]
    assert {v["verdict"] for r in rows for v in r["verdicts"]} <= {"ok", "noise"}
    assert {n.op_type for i in range(4) for n in onnx.load(tmp_path / "cases" / f"case-{i}" / "model.onnx").graph.node} & {"Relu"}


def test_opset_and_operator_are_obeyed(tmp_path: Path) -> None:
    assert fuzz("generate", "--out", "g", "--op", "conv", "--nodes", 1, "--opset", 17, "--count", 2, cwd=tmp_path).returncode == 0
    for i in range(2):
        model = onnx.load(tmp_path / "g" / f"case-{i}" / "model.onnx")
        assert "Conv" in {n.op_type for n in model.graph.node} and model.opset_import[0].version == 17


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = fuzz("generate", "--out", "file", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("fuzz: cannot write to file") and "Traceback" not in done.stderr


# lists ---------------------------------------------------------------------------------------------------------------
def test_specs_as_json(tmp_path: Path) -> None:
    done = fuzz("specs", "--json", cwd=tmp_path)
    rows = json.loads(done.stdout)
    assert done.returncode == 0 and len(rows) > 190
    for r in rows:
        assert r.keys() >= {"op", "domain", "since", "dtypes"} and isinstance(r["since"], int) and isinstance(r["dtypes"], list)
    conv = next(r for r in rows if r["op"] == "Conv" and r["domain"] == "")
    assert conv["drawn"] and set(conv["dtypes"]) >= {"float", "float16", "double"}


def test_specs_as_text(tmp_path: Path) -> None:
    done = fuzz("specs", "--specs", "conv,relu", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["Conv", "Relu"] and lines[-1] == "2 operators, 2 of them drawn"


def test_backends_as_json_and_text(tmp_path: Path) -> None:
    rows = {r["name"]: r for r in json.loads(fuzz("backends", "--json", cwd=tmp_path).stdout)}
    for r in rows.values():
        assert r.keys() >= {"name", "version", "settings", "available"}
    assert rows["onnxruntime"]["settings"] == ["off", "basic", "extended", "all"] and rows["null"]["available"]
    text = fuzz("backends", cwd=tmp_path).stdout
    assert all(name in text for name in rows)


@pytest.mark.slow
def test_doctor(tmp_path: Path) -> None:
    done = fuzz("doctor", "onnxruntime", "null", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ready to test onnxruntime" in done.stdout and "works" in done.stdout
    alone = fuzz("doctor", "null", "--json", cwd=tmp_path)
    about = json.loads(alone.stdout)
    assert alone.returncode == 5 and about["ready"] is False
    assert about["libraries"]["onnx"] == onnx.__version__ and about["cpu"]["count"] >= 1
    (null,) = about["backends"]
    assert null["name"] == "null" and null["works"] and null["statuses"] == {"default": "ok"}


def test_show_prints_a_case(tmp_path: Path) -> None:
    assert fuzz("generate", "--out", "g", "--op", "add", "--nodes", 1, cwd=tmp_path).returncode == 0
    done = fuzz("show", "g/case-0", cwd=tmp_path)
    assert done.returncode == 0 and "Add" in done.stdout and '"seed": 0' in done.stdout and "choices" not in done.stdout
    model = fuzz("show", "g/case-0/model.onnx", cwd=tmp_path)
    assert model.returncode == 0 and "Add" in model.stdout
