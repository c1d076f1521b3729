"""`fuzz reduce` and `fuzz triage` as their users meet them."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from onnx import parser
from syrupy.assertion import SnapshotAssertion

from corpus.folders import write_case
from oracles.records import Case
from tests.cli.conftest import Told, stable
from tests.command import fuzz, started, until

BODY = "a = Sin(x) b = Mul(a, x) c = Relu(b) d = Clip(c, lo, hi) e = Exp(d) y = Add(e, a)"


def case(folder: Path, dtype: str = "double", body: str = BODY) -> Path:
    text = f'<ir_version: 8, opset_import: ["" : 14]> g ({dtype}[2,3] x) => ({dtype}[2,3] y) <{dtype} lo = {{-1}}, {dtype} hi = {{1}}> {{ {body} }}'
    x = np.linspace(-1, 1, 6).reshape(2, 3).astype({"double": np.float64, "float": np.float32}[dtype])
    return write_case(folder, Case(parser.parse_model(text).SerializeToString(), {"x": x}))


@pytest.mark.backends
def test_a_known_defect_is_reduced_blamed_and_triaged(tmp_path: Path, told: Told, snapshot: SnapshotAssertion) -> None:
    case(tmp_path / "case")
    text = told("reduce", "case", "--backends", "onnxruntime:*")
    assert re.sub(r"\d+ cases tried in [\d.]+ s", "N cases tried in T s", re.sub(r" in \d+\.\d+\.\d+ ", " in X.Y.Z ", text)) == snapshot
    triaged = told("triage", "fuzz-reduced")
    assert re.sub(r" +", " ", re.sub(r"onnxruntime \d+\.\d+\.\d+", "onnxruntime X.Y.Z", re.sub(r"\d{4}-\d\d-\d\d", "DATE", triaged))) == snapshot
    about = json.loads(fuzz("triage", "fuzz-reduced", "--json", cwd=tmp_path).stdout)
    (cause,) = about["causes"]
    assert cause["status"] == "known" and cause["guilty"] == ["FuseReluClip"] and cause["ops"] == ["Relu", "Clip"] and about["summary"]["known"] == 1


def test_a_new_finding_has_its_status_and_its_json(tmp_path: Path) -> None:
    case(tmp_path / "case", "float")
    done = fuzz("reduce", "case", "--backends", "liar:ok+element", "--json", cwd=tmp_path)
    about = json.loads(done.stdout)
    assert done.returncode == 1 and about["nodes"] == 1 and about["nodes_before"] == 6 and about["guilty"] in (["fusion"], ["reuse"])
    assert (tmp_path / about["folder"] / "README.md").exists() and not list((tmp_path / "fuzz-reduced").glob(".reduce-*"))
    again = fuzz("reduce", about["folder"], "--json", "--out", "again", cwd=tmp_path)
    assert json.loads(again.stdout)["key"] == about["key"]
    both = fuzz("triage", "fuzz-reduced", "again", "--json", cwd=tmp_path)
    assert both.returncode == 1 and [len(c["findings"]) for c in json.loads(both.stdout)["causes"]] == [2]


def test_what_does_not_fail_is_said(tmp_path: Path) -> None:
    case(tmp_path / "case", "float")
    done = fuzz("reduce", "case", "--backends", "null", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "case: nothing fails here\n")


def test_wrong_usage(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, words in ((("reduce", "nowhere"), "no such file or folder"), (("triage", "nowhere"), "no such folder"), (("triage", "empty"), "no finding")):
        done = fuzz(*arguments, cwd=tmp_path)
        assert done.returncode == 2 and words in done.stderr and stable(done.stdout, tmp_path) == ""


def test_interrupted_and_resumed(tmp_path: Path) -> None:
    """Ctrl-C keeps the best so far; the same command goes on from there, and does not ask again what it has asked."""
    case(tmp_path / "case", "float", " ".join(f"{b} = Sin({a})" for a, b in zip("xabcdefghijkl", "abcdefghijkly", strict=True)))
    arguments = ("reduce", "case", "--backends", "liar:ok+dtype", "--json")
    process = started(*arguments, cwd=tmp_path)
    until(lambda: process.poll() is not None or bool(list((tmp_path / "fuzz-reduced").glob(".reduce-*/asked.json"))))
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    about = json.loads(out)
    assert process.returncode == 130 or about["finished"], "it was quicker than the signal"
    assert (tmp_path / about["folder"] / "model.onnx").exists()
    done = json.loads(fuzz(*arguments, cwd=tmp_path).stdout)
    assert done["finished"] and done["nodes"] == 1 and not list((tmp_path / "fuzz-reduced").glob(".reduce-*"))
