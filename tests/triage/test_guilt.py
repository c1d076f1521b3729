"""Blame in words, and as a part of the key: switches, parts of a compiler, steps that raise, single nodes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import parser

from corpus.folders import stored_case
from oracles.plugin import Target
from oracles.pool import run
from oracles.records import Case
from tests.triage.test_finding import RELU_CLIP, found
from triage.finding import Finding
from triage.guilt import Guilt, blamed, guilt
from triage.interest import Effort, reduce_finding
from triage.known import Known
from triage.replay import judged, replay
from triage.write import read_finding, write_finding


def case(body: str, inputs: str = "float[2,3] x", outputs: str = "float[2,3] y", weights: str = "", opset: int = 17, **feeds: np.ndarray) -> Case:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {weights} {{ {body} }}')
    return Case(proto.SerializeToString(), feeds or {"x": np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)})


@pytest.mark.backends
def test_a_pass_of_onnx_runtime_is_named_and_the_issue_known() -> None:
    finding = found(RELU_CLIP, "onnxruntime:off+all")
    g = guilt(finding, run)
    assert (g.how, g.names) == ("switch", ("FuseReluClip",)) and "from basic on" in g.words
    named = blamed(finding, g)
    assert named.cause.guilty == ("FuseReluClip",) and named.known is not None and named.known.name == "relu-clip-fusion"
    assert named.key != finding.key and named.cause.unblamed.key == finding.cause.key


@pytest.mark.backends
def test_another_guilty_is_another_issue() -> None:
    """What looked like a known issue is not it when another pass than that issue's is found to be guilty."""
    finding = found(RELU_CLIP, "onnxruntime:off+all")
    other = Known("other", "onnxruntime", "t", ("u",), operators=("Relu",), guilty=("SomethingElse",))
    g = guilt(finding, run)
    named = blamed(replace(finding, known=other), g)
    assert named.known is not None and named.known.name == "relu-clip-fusion"
    assert blamed(replace(finding, known=other), Guilt()).known is other


@pytest.mark.backends
def test_a_rule_of_a_set_of_rules_is_named() -> None:
    """Pad_Fusion is logged only as one of a set; what prepares the ground for it is not blamed."""
    seed = stored_case(Path(__file__).parents[2] / "corpus" / "seeds" / "onnxruntime-broken-pad-averagepool-float")
    assert guilt(found(seed, "onnxruntime:off+all"), run).names == ("Pad_Fusion",)


@pytest.mark.backends
def test_the_importer_of_tvm_is_named() -> None:
    refused = case("y = Pow(x, e)", weights="<double e = {2.0}>")
    g = guilt(found(refused, "tvm:default", 60), run)
    assert (g.how, g.names) == ("stage", ("the importer from ONNX",)) and "raises" in g.words


@pytest.mark.backends
def test_the_step_that_raises_is_named() -> None:
    refused = case("a, y = Split(x, s)", weights="<int64[2] s = {0, 2}>")
    assert guilt(found(refused, "tvm:default", 60), run).names == ("LegalizeOps",)


def test_switches_of_a_liar() -> None:
    g = guilt(found(RELU_CLIP, "liar:ok+element"), run)
    assert g.how == "switch" and g.names in (("fusion",), ("reuse",))


def test_a_node_that_is_wrong_alone_is_named() -> None:
    g = guilt(found(case("a = Tanh(x) b = Softmax(a) y = Neg(b)"), "faulty:relative-2^-11:Softmax"), run)
    assert (g.how, g.names, g.key) == ("node", ("Softmax",), ()) and "Softmax" in g.words


def test_nothing_is_blamed_without_time() -> None:
    assert guilt(found(RELU_CLIP, "liar:ok+element"), run, seconds=0.0).key == ()


def test_reduction_keeps_to_what_cures() -> None:
    """Two defects in one network: the one that is reduced stays the one that was found."""
    body = "a = Sin(x) r = Relu(a) c = Clip(r, lo, hi) y = Exp(c) z = Softmax(a)"
    text = f'<ir_version: 8, opset_import: ["" : 14]> g (double[2,3] x) => (double[2,3] y, double[2,3] z) <double lo = {{-1}}, double hi = {{1}}> {{ {body} }}'
    both = Case(parser.parse_model(text).SerializeToString(), {"x": np.linspace(-1, 1, 6).reshape(2, 3)})
    small, result = reduce_finding(found(both, "onnxruntime:off+all"), run, effort=Effort(30.0, 10.0))
    assert small.ops == ["Relu", "Clip"] and small.cause.guilty == ("FuseReluClip",) and result.finished


def test_blame_is_written_and_read_and_does_not_disturb_a_replay(tmp_path: Path) -> None:
    finding = found(RELU_CLIP, "liar:ok+element")
    named = blamed(finding, guilt(finding, run))
    folder = write_finding(tmp_path, named)
    again: Finding = read_finding(folder)
    assert again.cause == named.cause and again.blame == named.blame and named.blame in (folder / "README.md").read_text()
    assert replay(again, run, judged).status == "STILL"
    old = replace(again, cause=replace(again.cause, shape="", guilty=()))  # as it was written before there was blame
    assert replay(old, run, judged).status == "STILL"


def test_what_cannot_be_asked_is_not_blamed() -> None:
    finding = found(RELU_CLIP, "liar:refuse")
    assert guilt(finding, run).how in ("node", "")
    assert run(finding.case, [Target("liar", ("refuse",))])[0].status == "error"
