"""The Python API with a stability promise: what each room gives at its door, in whatever order things are imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.imports import violations

ROOT = Path(__file__).resolve().parents[2]


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize(
    "before",
    [
        "",
        "import fuzzer.generate, oracles.judge",
        "from fuzzer import networks",
        "from fuzzer.generate import generate_from; from oracles.judge import judge_outcomes",
    ],
)
def test_the_doors_give_functions_whatever_was_imported_before(before: str) -> None:
    code = f"{before}\nfrom fuzzer import generate, networks\nfrom oracles import judge, run, backend\nfrom specs import op, run as meaning"
    assert python(f"{code}\nprint(all(callable(f) for f in (generate, networks, judge, run, backend, op, meaning)))") == "True"


@pytest.mark.parametrize("room", ["specs", "oracles", "corpus", "triage", "fuzzer"])
def test_importing_a_room_imports_nothing_heavy_and_its_door_opens(room: str) -> None:
    heavy = "[m for m in ('torch', 'onnx', 'onnxruntime', 'tvm', 'z3', 'hypothesis') if m in sys.modules]"
    assert python(f"import sys, {room}\nprint({heavy})") == "[]"
    assert python(f"import {room}\nprint([n for n in {room}.__all__ if getattr({room}, n) is None])") == "[]"
    assert python(f"import {room}\ntry: {room}.nothing\nexcept AttributeError as e: print(e)") == f"module '{room}' has no attribute 'nothing'"


def test_rooms_import_only_what_lies_before_them() -> None:
    assert violations() == []
