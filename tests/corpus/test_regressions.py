"""Keeping a case and running it again, as `fuzz corpus` does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx.parser
import pytest

from corpus.regressions import Seed, keep, regressions
from oracles.records import Case
from specs.rule import UsageError
from tests.command import fuzz

MODEL = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 18]> agraph (float[2] x) => (float[2] y) { y = Relu(x) }').SerializeToString()


def _case(first: float) -> Case:
    return Case(MODEL, {"x": np.array([first, -1], np.float32)})


def _seed(setting: str, verdict: str, **more: object) -> Seed:
    return Seed("liar", setting, verdict, "a lie", "0", **more)  # type: ignore[arg-type]


def test_a_case_is_kept_once(tmp_path: Path) -> None:
    first = keep(_case(1), _seed("element", "wrong"), ["Relu"], "float", tmp_path)
    assert first.name == "liar-wrong-relu-float"
    assert keep(_case(1), _seed("element", "wrong"), ["Relu"], "float", tmp_path) == first
    assert keep(_case(2), _seed("element", "wrong"), ["Relu"], "float", tmp_path).name == "liar-wrong-relu-float-2"
    assert [r.case.id for r in regressions(tmp_path)] == [_case(1).id, _case(2).id]


def test_a_folder_without_cases_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no regression cases"):
        regressions(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "seed.json").write_text("{")
    with pytest.raises(UsageError, match="not readable"):
        regressions(tmp_path)


def test_running_says_what_is_there_still(tmp_path: Path) -> None:
    keep(_case(1), _seed("element", "wrong"), ["Relu"], "float", tmp_path)
    keep(_case(1), _seed("ok", "wrong"), ["Abs"], "float", tmp_path)
    done = fuzz("corpus", tmp_path, "--run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [r["status"] for r in json.loads(done.stdout)] == ["GONE", "STILL"]
    keep(_case(1), _seed("nan", "crash"), ["Neg"], "float", tmp_path)
    changed = fuzz("corpus", tmp_path, "--run", cwd=tmp_path)
    assert changed.returncode == 1 and "CHANGED liar-crash-neg-float: a lie (now nonfinite)" in changed.stdout
