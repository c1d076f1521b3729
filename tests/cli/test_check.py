"""`fuzz check` on models a user may bring: what is said, and the exit status scripts depend on."""

from __future__ import annotations

import json
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from tests.command import fuzz

VERDICT = {"backend", "setting", "verdict", "grade", "output", "element", "got", "expected", "bound", "ratio", "masked", "message"}
FINE = "agraph (float[3,4] x) => (float[3,2] y) <float[4,2] w = {1, -1, 2, 0.5, 0, 3, -2, 1}> { m = MatMul(x, w) y = Relu(m) }"
CLIPPED = """agraph (TYPE[4] x) => (TYPE[4] y) {
    low = Constant <value: tensor = TYPE {-1}> ()
    high = Constant <value: tensor = TYPE {1}> ()
    r = Relu(x)
    y = Clip(r, low, high)
}"""


def save(path: Path, text: str, opset: int = 18) -> Path:
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}'), path)
    return path


def check(cwd: Path, *arguments: object, backends: str = "onnxruntime:*") -> CompletedProcess[str]:
    return fuzz("check", *arguments, "--backends", backends, cwd=cwd)


def verdicts(done: CompletedProcess[str]) -> list[list[dict[str, Any]]]:
    return [json.loads(line)["verdicts"] for line in done.stdout.splitlines()]


@pytest.fixture
def fine(tmp_path: Path) -> Path:
    return save(tmp_path / "fine.onnx", FINE)


def test_a_model_that_is_compiled_right(fine: Path, tmp_path: Path) -> None:
    done = check(tmp_path, "fine.onnx")
    assert done.returncode == 0 and done.stderr == ""
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["fine.onnx"],
        *([f"onnxruntime:{level}", "ok"] for level in ("off", "basic", "extended", "all")),
    ]


@pytest.mark.parametrize("type", ["double", "int32"])
def test_a_model_that_optimisation_breaks(type: str, tmp_path: Path) -> None:
    """ONNX Runtime 1.31 rejects from level basic on what it runs without optimisation."""
    save(tmp_path / "clipped.onnx", CLIPPED.replace("TYPE", type))
    done = check(tmp_path, "clipped.onnx")
    assert done.returncode == 1
    said = {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()[1:]}
    assert said == {"onnxruntime:off": "ok", "onnxruntime:basic": "broken", "onnxruntime:extended": "broken", "onnxruntime:all": "broken"}


def test_json_is_one_object_a_line(fine: Path, tmp_path: Path) -> None:
    save(tmp_path / "clipped.onnx", CLIPPED.replace("TYPE", "double"))
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    done = check(tmp_path, "fine.onnx", "clipped.onnx", "broken.onnx", "--json")
    assert done.returncode == 1, "a finding is graver than a file that cannot be tested"
    first, second, third = (json.loads(line) for line in done.stdout.splitlines())
    assert first.keys() == second.keys() == {"model", "verdicts"} and first["model"] == "fine.onnx"
    for v in (*first["verdicts"], *second["verdicts"]):
        assert v.keys() == VERDICT
    assert [v["verdict"] for v in second["verdicts"]] == ["ok", "broken", "broken", "broken"]
    assert third["verdicts"] == [] and "broken.onnx" in third["error"]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "empty.onnx"),
        (b"not a model", "empty.onnx"),
        (onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {FINE}').SerializeToString()[:-20], "empty.onnx"),
        (onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 99]> agraph (float[1] x) => (float[1] y) { y = Relu(x) }').SerializeToString(), "opset"),
        (
            onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 18]> agraph (float[1] x) => (float[1] y) { y = Frobnicate(x) }').SerializeToString(),
            "Frobnicate",
        ),
        (onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 18]> agraph (float[1] x) => (float[1] y) { y = Relu(z) }').SerializeToString(), "z"),
    ],
    ids=["empty", "text", "truncated", "future opset", "unknown operator", "undefined value"],
)
def test_a_file_that_cannot_be_a_test(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").write_bytes(content)
    done = check(tmp_path, "empty.onnx")
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("fuzz: ") and sentence in done.stderr and "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["empty.onnx"], "nothing is written"


# inputs and outputs --------------------------------------------------------------------------------------------------
X = np.array([[1, 2, 3, 4], [0, -1, 2, -2], [0.5, 0.25, -4, 8]], np.float32)
W = np.array([1, -1, 2, 0.5, 0, 3, -2, 1], np.float32).reshape(4, 2)


def test_inputs_by_name(fine: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=X)
    assert check(tmp_path, "fine.onnx", "--inputs", "x.npz").returncode == 0
    np.savez(tmp_path / "wrong.npz", x=X.astype(np.float64))
    done = check(tmp_path, "fine.onnx", "--inputs", "wrong.npz")
    assert done.returncode == 2 and "float64" in done.stderr and "x" in done.stderr
    np.savez(tmp_path / "other.npz", z=X)
    done = check(tmp_path, "fine.onnx", "--inputs", "other.npz")
    assert done.returncode == 2 and "'x'" in done.stderr


def test_outputs_of_another_system_are_judged_without_running_anything(fine: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=X)
    y = np.maximum(X @ W, 0)
    np.savez(tmp_path / "right.npz", y=y)
    y = y.copy()
    y[1, 0] += 0.01
    np.savez(tmp_path / "wrong.npz", y=y)
    right = check(tmp_path, "fine.onnx", "--inputs", "x.npz", "--outputs", "right.npz", "--json")
    wrong = check(tmp_path, "fine.onnx", "--inputs", "x.npz", "--outputs", "wrong.npz", "--json")
    assert right.returncode == 0 and [v["verdict"] for v in verdicts(right)[0]] == ["ok"]
    (v,) = verdicts(wrong)[0]
    assert wrong.returncode == 1 and v["verdict"] == "wrong" and v["grade"] == "certified" and v["element"] == [1, 0] and v["backend"] == ""
    assert v["ratio"] > 100 and abs(v["got"] - v["expected"] - 0.01) < 1e-6 and 0 < v["bound"] < 1e-4
    text = check(tmp_path, "fine.onnx", "--inputs", "x.npz", "--outputs", "wrong.npz")
    assert "outputs given" in text.stdout and "wrong" in text.stdout and "y[1, 0]" in text.stdout


def test_a_case_folder(fine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "case"
    folder.mkdir()
    fine.rename(folder / "model.onnx")
    np.savez(folder / "inputs.npz", x=X)
    assert check(tmp_path, "case").returncode == 0
    (folder / "model.onnx").unlink()
    assert check(tmp_path, "case").returncode == 2


# equivalence ---------------------------------------------------------------------------------------------------------
def test_two_models_that_compute_the_same(tmp_path: Path) -> None:
    save(tmp_path / "a.onnx", "agraph (float[4] x) => (float[4] y) { y = Add(x, x) }")
    save(tmp_path / "b.onnx", "agraph (float[4] v) => (float[4] w) <float two = {2}> { w = Mul(v, two) }")
    save(tmp_path / "c.onnx", "agraph (float[4] v) => (float[4] w) <float three = {3}> { w = Mul(v, three) }")
    same = check(tmp_path, "a.onnx", "--equivalent", "b.onnx", "--json")
    assert same.returncode == 0, same.stdout + same.stderr
    assert any(v["setting"].endswith("equivalent") for v in verdicts(same)[0])
    other = check(tmp_path, "a.onnx", "--equivalent", "c.onnx", "--json")
    assert other.returncode == 1 and any(v["verdict"] == "wrong" and v["setting"] == "equivalent" for v in verdicts(other)[0])


def test_two_models_that_cannot_be_compared(tmp_path: Path) -> None:
    save(tmp_path / "a.onnx", "agraph (float[4] x) => (float[4] y) { y = Neg(x) }")
    save(tmp_path / "b.onnx", "agraph (float[4] x, float[4] z) => (float[4] y) { y = Add(x, z) }")
    done = check(tmp_path, "a.onnx", "--equivalent", "b.onnx")
    assert done.returncode == 2 and "2 inputs" in done.stderr


# exit statuses -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("setting", "status", "verdict"),
    [
        ("ok", 0, "ok"),
        ("element", 1, "wrong"),
        ("nan", 1, "nonfinite"),
        ("dtype", 1, "mistyped"),
        ("crash", 1, "crash"),
        ("refuse", 1, "refused"),
        ("unsupported", 5, "unsupported"),
    ],
)
def test_every_way_a_backend_behaves_has_its_status(setting: str, status: int, verdict: str, fine: Path, tmp_path: Path) -> None:
    done = check(tmp_path, "fine.onnx", "--json", backends=f"liar:{setting}")
    assert done.returncode == status, done.stdout + done.stderr
    assert verdict in [v["verdict"] for v in verdicts(done)[0]]


def test_onnx_dies_of_an_eyelike_of_no_known_type_and_we_do_not(tmp_path: Path) -> None:
    """onnx 1.23's shape inference ends in a segmentation fault; the model is valid, and runs once the type is declared."""
    text = "agraph (float[2,2] x) => (float[2,2] y) { v = com.microsoft.QuickGelu(x) y = EyeLike <dtype = 1> (v) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18, "com.microsoft" : 1]> {text}')
    onnx.save(model, tmp_path / "eye.onnx")
    done = check(tmp_path, "eye.onnx", backends="onnxruntime:off")
    assert done.returncode == 2 and "cannot infer the type of 'v'" in done.stderr and "EyeLike" in done.stderr, done.stderr
    model.graph.value_info.append(onnx.helper.make_tensor_value_info("v", onnx.TensorProto.FLOAT, [2, 2]))
    onnx.save(model, tmp_path / "eye.onnx")
    assert check(tmp_path, "eye.onnx", backends="onnxruntime:off").returncode == 0


def test_defaults_of_operators_outside_onnx_are_known_in_a_fresh_process(tmp_path: Path) -> None:
    """The model is looked at before any operator is: what is not declared yet must not be remembered as unknown."""
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18, "com.microsoft" : 1]> agraph (float[2,4] x) => (float[2,4] y) { y = com.microsoft.QuickGelu(x) }'
    )
    onnx.save(model, tmp_path / "gelu.onnx")
    done = check(tmp_path, "gelu.onnx")
    assert done.returncode == 0, done.stdout + done.stderr
