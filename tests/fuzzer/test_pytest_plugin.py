"""Stored cases as tests of pytest."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from corpus.folders import write_case
from oracles.records import Case
from tests.command import environment

INI = "[pytest]\nfuzz_backends = liar:{}\nfuzz_corpus = cases\n"


def stored(folder: Path, n: int = 2) -> None:
    for i in range(n):
        ends = [helper.make_tensor_value_info(name, 1, [4]) for name in ("x", "y")]
        graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "g", ends[:1], ends[1:])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
        onnx.checker.check_model(model)
        write_case(folder / f"case-{i}", Case(model.SerializeToString(), {"x": np.arange(4, dtype=np.float32) + i}))


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    installed = any(e.value == "fuzzer.pytest_plugin" for e in metadata.entry_points(group="pytest11"))
    plugin = [] if installed else ["-p", "fuzzer.pytest_plugin"]  # pytest takes no plugin twice
    command = [sys.executable, "-m", "pytest", *plugin, "-p", "no:cacheprovider", "-v", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=200)


def test_every_case_folder_is_a_test(tmp_path: Path) -> None:
    stored(tmp_path / "cases")
    done = run(tmp_path, "--fuzz-corpus", "cases", "--fuzz-backends", "null")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "case-0 PASSED" in done.stdout and "case-1 PASSED" in done.stdout and "2 passed" in done.stdout


def test_a_failing_case_says_what_is_wrong_and_how_to_look_at_it(tmp_path: Path) -> None:
    stored(tmp_path / "cases", 1)
    (tmp_path / "pytest.ini").write_text(INI.format("element"))
    done = run(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "case-0 FAILED" in done.stdout and "liar:element" in done.stdout and "fuzz check " in done.stdout
    assert "Traceback" not in done.stdout


def test_a_folder_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    done = run(tmp_path, "--fuzz-corpus", "absent")
    assert done.returncode == 4 and "--fuzz-corpus" in done.stderr and "is no folder" in done.stderr
