"""Known issues: matched by what they are, not by chance; a bad catalogue entry is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnx import parser

from specs.rule import UsageError
from triage.cause import Cause, Model
from triage.known import Known, catalogue, has_chain, in_range, load, match

FUSE = "Fail: [ONNXRuntimeError] : 1 : FAIL : x/relu_clip_fusion.cc:83 FuseReluClip::Apply Unexpected data type for Clip 'min' input of 11"


def model(body: str) -> bytes:
    return parser.parse_model(f'<ir_version: 8, opset_import: ["" : 14]> g (double[4] x) => (double[4] y) {{ {body} }}').SerializeToString()


def broken(backend: str = "onnxruntime", verdict: str = "broken", dtype: str = "double") -> Cause:
    return Cause(backend, verdict, ("Clip",), dtype, "optimised")


def test_public_issues_match() -> None:
    chain = model("a = Sin(x) r = Relu(a) y = Clip(r)")
    found = match(broken(), chain, FUSE, "1.31.1")
    assert found is not None and found.reference.endswith("/24158") and len(found.references) == 4
    shape = "Fail: [ONNXRuntimeError] : 1 : FAIL : Type Error: Shape of initializer v9_0 does not match. {-1} != {}"
    found = match(broken(), chain, shape, "1.31.1")
    assert found is not None and found.reference.endswith("/24160")


@pytest.mark.parametrize(
    ("cause", "body", "message"),
    [
        (broken("tvm"), "r = Relu(x) y = Clip(r)", FUSE),
        (broken(verdict="mistyped"), "r = Relu(x) y = Clip(r)", FUSE),
        (broken(), "r = Clip(x) y = Relu(r)", FUSE),
        (broken(), "r = Relu(x) s = Sin(r) y = Clip(s)", FUSE),
        (broken(), "r = Relu(x) y = Clip(r)", "Fail: something else about Clip"),
    ],
)
def test_others_do_not(cause: Cause, body: str, message: str) -> None:
    assert match(cause, model(body), message, "1.31.1") is None


def test_attributes_narrow() -> None:
    unstable = Cause("onnxruntime", "unstable", ("BatchNormalization",), "double", "always")
    norm = "y, m, v = BatchNormalization<training_mode = {mode}>(x, x, x, x, x)"
    found = match(unstable, model(norm.format(mode=1)), "two runs differ", "1.31.1")
    assert found is not None and found.name == "batchnorm-training-writes-its-inputs"
    assert match(unstable, model(norm.format(mode=0)), "two runs differ", "1.31.1") is None


def test_attributes_by_expression() -> None:
    wrong = Cause("onnxruntime", "wrong", ("GRU",), "float", "always")
    gru = 'y = GRU<hidden_size = 4, activations = ["{f}", "Tanh"]>(x, x, x)'
    found = match(wrong, model(gru.format(f="ThresholdedRelu")), "", "1.31.1")
    assert found is not None and found.name == "gru-thresholded-relu"
    assert match(wrong, model(gru.format(f="Sigmoid")), "", "1.31.1") is None
    left_out = Known("a", "onnxruntime", "t", ("u",), operators=("GRU",), attributes=("activations=",))
    assert match(wrong, model("y = GRU(x, x, x)"), "", "", [left_out]) is left_out
    assert match(wrong, model(gru.format(f="Tanh")), "", "", [left_out]) is None


def test_version_ranges() -> None:
    assert in_range("1.31.1", ">=1.10,<2") and in_range("2.13.0+cpu", "==2.13") and in_range("0.27.0.post1", "<=0.27.0")
    assert not in_range("1.9", ">=1.10") and not in_range("1.31.1", "<1.31.1") and not in_range("2", "<2")
    entry = Known("a", "onnxruntime", "t", ("u",), versions="<1.20", message="Fuse")
    assert match(broken(), model("y = Relu(x)"), FUSE, "1.19.2", [entry]) is entry
    assert match(broken(), model("y = Relu(x)"), FUSE, "1.20", [entry]) is None
    assert match(broken(), model("y = Relu(x)"), FUSE, "", [entry]) is entry


def test_chains() -> None:
    m = Model(model("a = Relu(x) b = Sin(a) c = Add(b, a) y = Clip(c)"))
    assert has_chain(m, ["Relu", "Sin", "Add"]) and has_chain(m, ["Relu", "Add", "Clip"]) and has_chain(m, ["Sin", "*", "Clip"])
    assert not has_chain(m, ["Relu", "Clip"]) and not has_chain(m, ["Sin", "Relu"])


def test_formats_narrow() -> None:
    entry = Known("a", "onnxruntime", "t", ("u",), formats=("int",), message="Fuse")
    assert not entry.matches(broken(dtype="double"), model("y = Relu(x)"), FUSE)
    assert entry.matches(broken(dtype="int"), model("y = Relu(x)"), FUSE)


@pytest.mark.parametrize(
    "text",
    [
        "[a]\nbackend = 'x'\ntitle = 't'\nreferences = ['u']",
        "[a]\nbackend = 'x'\ntitle = 't'\nreferences = []\nmessage = 'm'",
        "[a]\nbackend = 'x'\ntitle = 't'\nreferences = ['u']\nmessage = '('",
        "[a]\nbackend = 'x'\ntitle = 't'\nreferences = ['u']\nmessage = 'm'\nversions = '~1'",
        "[a]\nbackend = 'x'\ntitle = 't'\nreferences = ['u']\nmessage = 'm'\ncolour = 'red'",
        "[a]\nbackend = 'x'\ntitle = 't'\nreferences = ['u']\nmessage = 'm'\nattributes = ['k=1']",
        "[a",
    ],
)
def test_a_bad_entry_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(UsageError):
        load(tmp_path)


def test_the_shipped_catalogue_is_good() -> None:
    assert len({k.name for k in catalogue()}) == len(catalogue()) >= 2
    root = Path(__file__).resolve().parents[2]
    for r in (r for k in catalogue() for r in k.references):
        assert r.startswith("https://") or (r.startswith("corpus/seeds/") and (root / r / "seed.json").exists()), r
