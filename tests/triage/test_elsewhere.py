"""Cases in another environment. The one at hand is our own, asked as if it were another: isolated, and by a script."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from oracles.plugin import Target, find
from oracles.pool import run
from oracles.records import Case, Outcome
from oracles.worker import same
from specs.rule import UsageError
from tests.triage.test_finding import RELU_CLIP, found, model
from triage.elsewhere import Elsewhere, for_older, interpreter, version
from triage.filing import date, history_of
from triage.finding import Finding
from triage.first_bad import History, Release, first_bad, history, numbers
from triage.replay import replay
from triage.write import write_finding

HERE = Path(sys.executable)


@pytest.fixture(scope="module")
def relu_clip() -> Finding:
    return found(RELU_CLIP, "onnxruntime")


@pytest.mark.backends
def test_another_environment_says_the_same(relu_clip: Finding) -> None:
    there = Elsewhere(HERE)
    assert version(there.python, "onnxruntime") == find("onnxruntime").version()
    target = [Target("onnxruntime", ("off", "basic"))]
    ours, theirs = run(RELU_CLIP, target), there(RELU_CLIP, target)
    assert [(o.status, o.stage, o.message) for o in theirs] == [(o.status, o.stage, o.message) for o in ours]
    assert same(theirs[0].outputs["y"], ours[0].outputs["y"])  # type: ignore[index]
    again = replay(relu_clip, there, repeats=1)
    assert (again.status, again.hits) == ("STILL", 1)


@pytest.mark.backends
@pytest.mark.parametrize("type", ["bfloat16", "string", "float16", "int4"])
def test_every_type_comes_through(type: str) -> None:
    body = "y = Identity(x)" if type == "string" else f"z = Cast <to = 1> (x) y = Cast <to = {_code(type)}> (z)"
    text = f'<ir_version: 10, opset_import: ["" : 21]> g ({type}[3] x) => ({type}[3] y) {{ {body} }}'
    values = np.array(["a", "", "é"], object) if type == "string" else np.array([1, 0, 2]).astype(onnx.helper.tensor_dtype_to_np_dtype(_code(type)))
    case = Case(parser.parse_model(text).SerializeToString(), {"x": values})
    (outcome,) = Elsewhere(HERE)(case, [Target("onnxruntime", ("off",))])
    assert outcome.status == "ok", outcome.message
    assert outcome.outputs is not None and same(outcome.outputs["y"], values)


@pytest.mark.backends
def test_sizes_that_run_first_come_first_there_too() -> None:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[N] x) => (float[N] y) { y = Neg(x) }'
    sizes = [np.arange(n, dtype=np.float32) for n in (2, 5, 3)]
    case = Case(parser.parse_model(text).SerializeToString(), {"x": sizes[2]}, {}, ({"x": sizes[0]}, {"x": sizes[1]}))
    target = [Target("onnxruntime", ("off",))]
    (ours,), (theirs,) = run(case, target), Elsewhere(HERE)(case, target)
    assert [b["y"].tolist() for b in theirs.before] == [[-0.0, -1.0], [-0.0, -1.0, -2.0, -3.0, -4.0]] == [b["y"].tolist() for b in ours.before]
    assert theirs.outputs is not None and ours.outputs is not None and same(theirs.outputs["y"], ours.outputs["y"])


def _code(name: str) -> int:
    return onnx.TensorProto.DataType.Value(name.upper())


def environment(folder: Path, body: str) -> Path:
    """An executable that behaves like a Python whose onnxruntime does what `body` says."""
    (folder / "onnxruntime.py").write_text(body)
    script = folder / "python"
    code = f"import sys; sys.path.insert(0, '{folder}'); sys.argv = sys.argv[1:]; exec(open(sys.argv[0]).read())"
    script.write_text(f'#!/bin/sh\nshift\nexec {HERE} -c "{code}" "$@"\n')
    script.chmod(0o755)
    return script


ENDS = {
    "crash": ("def __getattr__(n):\n    import ctypes\n    ctypes.string_at(0)", "crash", "SIGSEGV"),
    "hang": ("def __getattr__(n):\n    import time\n    time.sleep(99)", "hang", "no answer within 1 s"),
    "missing": ("raise ImportError('no such library')", "missing", "cannot be imported"),
    "unsupported": ("def __getattr__(n): raise ValueError('9 : NOT_IMPLEMENTED : Relu')", "unsupported", "NOT_IMPLEMENTED"),
    "error": ("def __getattr__(n): raise ValueError('odd')", "error", "ValueError: odd"),
    "memory": ("def __getattr__(n): raise MemoryError()", "oom", "MemoryError"),
}


@pytest.mark.parametrize("how", ENDS)
def test_every_end_is_an_outcome(how: str, tmp_path: Path) -> None:
    body, status, words = ENDS[how]
    (outcome,) = Elsewhere(environment(tmp_path, body), timeout=1)(RELU_CLIP, [Target("onnxruntime", ("off",))])
    assert (outcome.status, words in outcome.message) == (status, True), outcome


def test_what_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="neither a virtual environment nor a Python executable"):
        interpreter(tmp_path)
    with pytest.raises(UsageError, match="cannot be asked in another environment"):
        Elsewhere(HERE)(RELU_CLIP, [Target("liar", ("ok",))])
    bare = tmp_path / "bare"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    with pytest.raises(UsageError, match="onnxruntime is not installed there"):
        version(bare, "onnxruntime")


def test_a_model_is_made_as_old_as_it_can_be() -> None:
    proto = onnx.load_from_string(model(opset=21))
    proto.ir_version = 13
    older = onnx.load_from_string(for_older(proto.SerializeToString()))
    assert (older.opset_import[0].version, older.ir_version) == (14, 7), "Relu is as of 14, Clip as of 13"
    assert older.graph == proto.graph
    young = parser.parse_model('<ir_version: 10, opset_import: ["" : 20]> g (float[1] x) => (float[1] y) { y = Gelu(x) }').SerializeToString()
    assert onnx.load_from_string(for_older(young)).opset_import[0].version == 20


def test_releases_are_in_order() -> None:
    mixed = ["1.31.1", "1.4.0", "0.27.0.dev3", "0.27.0", "1.31.1.post1", "0.9"]
    assert sorted(mixed, key=numbers)[:4] == ["0.9", "0.27.0.dev3", "0.27.0", "1.4.0"] and numbers("1.31.1+cpu") > numbers("1.31.1rc1")


HISTORIES: dict[str, tuple[str, tuple[str, str, str]]] = {
    "a regression": ("good good bad bad", ("3", "2", "")),
    "always": ("bad bad", ("1", "", "")),
    "fixed": ("good bad good", ("2", "1", "3")),
    "fixed, and back": ("bad good bad", ("3", "2", "")),
    "releases that cannot tell": ("good other bad other bad", ("3", "1", "")),
    "an old one that cannot tell": ("other bad", ("2", "", "")),
    "never": ("good other good", ("", "", "")),
}


@pytest.mark.parametrize("name", HISTORIES)
def test_the_first_bad_release(name: str) -> None:
    states, expected = HISTORIES[name]
    h = history("wrong-1", [Release(str(i + 1), "", s) for i, s in enumerate(states.split())])
    assert (h.first_bad, h.last_good, h.fixed_in) == expected
    assert h.sentence.startswith(f"first bad release {h.first_bad}" if h.last_good else f"as old as {h.first_bad}" if h.first_bad else "no given release")
    assert ("cannot tell" in h.sentence) == (name == "an old one that cannot tell")
    assert ("gone in" in h.sentence) == bool(h.fixed_in) and isinstance(h, History)


def test_environments_are_asked_oldest_first(relu_clip: Finding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = list[Path]()
    for name in ("c", "a", "b"):
        path = tmp_path / name
        path.write_text("")
        path.chmod(0o755)
        paths.append(path)
    monkeypatch.setattr("triage.first_bad.version", lambda python, backend: {"a": "1.9.0", "b": "1.10.0", "c": "2.0"}[python.name])
    right = [Outcome("onnxruntime", s, "ok", {"y": np.array([0, 0, 0.5, 1.0])}) for s in relu_clip.settings]
    changed = tuple(replace(o, message=o.message.replace("Fail:", "Oops:").replace("Unexpected", "Odd")) for o in relu_clip.outcomes)

    def ask(python: Path) -> Callable[[Case, Sequence[Target]], list[Outcome]]:
        return lambda case, targets: {"a": right, "b": list(changed), "c": list(relu_clip.outcomes)}[python.name]

    told = list[str]()
    h = first_bad(relu_clip, paths, ask, told.append)
    assert told == ["onnxruntime 1.9.0", "onnxruntime 1.10.0", "onnxruntime 2.0"]
    assert [r.state for r in h.releases] == ["good", "bad", "bad"], "other words for the same failure are bad too"
    assert (h.first_bad, h.last_good) == ("1.10.0", "1.9.0") and "Odd data type" in h.releases[1].now
    with pytest.raises(UsageError, match="at least one"):
        first_bad(relu_clip, [])


@pytest.mark.backends
def test_the_history_is_kept_beside_the_finding(relu_clip: Finding, tmp_path: Path) -> None:
    folder = write_finding(tmp_path, relu_clip)
    (h,) = date([folder], [HERE])
    assert h.first_bad == find("onnxruntime").version() and h.sentence.startswith("as old as")
    assert history_of(folder) == h and history_of(tmp_path) is None
    bare = tmp_path / "bare"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    with pytest.raises(UsageError, match="has onnxruntime installed"):
        date([folder], [bare])
