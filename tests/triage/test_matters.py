"""What matters and what does not: found out by running, remembered, and never guessed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from oracles.plugin import Target
from oracles.records import Case, Outcome
from tests.triage.made import made
from tests.triage.test_finding import RELU_CLIP, found
from triage.draft import Draft
from triage.finding import Finding
from triage.matters import Fact, matters
from triage.replay import judged
from triage.variations import variations


class Faulty:
    """An onnxruntime whose optimised Softmax is wrong over axis 0, unless its weight is zero; it counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, case: Case, targets: Sequence[Target]) -> list[Outcome]:
        self.runs += 1
        proto = onnx.load_from_string(case.model)
        softmax = next(n for n in proto.graph.node if n.op_type == "Softmax")
        axis = next((a.i for a in softmax.attribute if a.name == "axis"), -1)
        weights = [numpy_helper.to_array(t) for t in proto.graph.initializer]
        right = _softmax(proto, case)
        wrong = axis == 0 and any(w.any() for w in weights if w.dtype != np.int64)
        return [Outcome("onnxruntime", s, "ok", {"y": right + (1 if wrong and s == "all" else 0)}) for t in targets for s in t.settings]


def _softmax(proto: onnx.ModelProto, case: Case) -> np.ndarray:
    import specs

    return specs.run(proto, case.inputs)["y"]


@pytest.fixture(scope="module")
def finding() -> Finding:
    return made()


def by_subject(facts: Sequence[Fact]) -> dict[str, Fact]:
    return {f.subject: f for f in facts}


def test_one_thing_is_changed_at_a_time(finding: Finding, tmp_path: Path) -> None:
    faulty, told = Faulty(), list[str]()
    allowed = {"axis": ("negative", "0", "1", "2+")}
    result = matters(finding, tmp_path, faulty, judged, progress=told.append, allowed=lambda op, domain, name: allowed.get(name, ()))
    assert result.finished and result.runs == faulty.runs > 15 and len(told) > result.runs / 2
    facts = by_subject(result.facts)
    axis = facts["attribute axis of Softmax"]
    assert axis.matters and axis.was == "0" and set(axis.right) == {"1", "-1"} and not axis.same
    assert facts["values of w"].matters and facts["values of w"].right == ("zeros",) and "ones" in facts["values of w"].same
    assert facts["values of x"].indifferent and facts["type"].indifferent and facts["type"].same == ("float16", "bfloat16", "double")
    assert facts["how x is given"].indifferent
    assert facts["how w is given"].matters and facts["how w is given"].right == ("an input",)
    assert facts["axis 0 of w, axis 1 of x"].indifferent and facts["axis 0 of x"].same == ("1", "3", "8", "17")


def test_answers_are_remembered_beside_the_finding(finding: Finding, tmp_path: Path) -> None:
    first = matters(finding, tmp_path, Faulty(), judged)
    stored = json.loads((tmp_path / "matters.json").read_text())
    assert stored["case"] == finding.case.id and len(stored["asked"]) >= first.runs
    faulty = Faulty()
    again = matters(finding, tmp_path, faulty, judged)
    assert faulty.runs == again.runs == 0 and again.facts == first.facts
    (tmp_path / "matters.json").write_text(json.dumps({**stored, "version": "0.0"}))
    assert matters(finding, tmp_path, Faulty(), judged).runs == first.runs, "another version may answer otherwise"


def test_when_time_runs_out_that_is_said_and_the_rest_is_asked_next_time(finding: Finding, tmp_path: Path) -> None:
    short = matters(finding, tmp_path, Faulty(), judged, seconds=0.0)
    assert not short.finished and "time ran out" in short.reason
    rest, whole = matters(finding, tmp_path, Faulty(), judged), matters(finding, None, Faulty(), judged)
    assert short.runs + rest.runs == whole.runs and rest.facts == whole.facts


def test_a_hang_is_not_varied() -> None:
    result = matters(made(verdict="hang"), None, Faulty(), judged)
    assert (result.facts, result.runs, result.finished) == ((), 0, False) and "whole limit" in result.reason


def test_variations_differ_in_one_thing_and_are_mostly_valid(finding: Finding) -> None:
    draft = Draft(onnx.load_from_string(finding.case.model), dict(finding.case.inputs))
    every = variations(draft)
    assert all(d.id != draft.id for v in every for d in v.drafts)
    assert {v.kind for v in every} == {"type", "size", "values", "operand", "operator set"}, "without the table of attributes none that is a number is varied"
    valid = Counter(v.kind for v in every if any(d.valid for d in v.drafts))
    assert all(valid[k] for k in ("type", "size", "values", "operand", "operator set")), valid


def test_sizes_follow_the_attribute_that_names_them() -> None:
    """An RNN whose hidden size changes in its weights has it changed in the attribute; the number of outputs of a Split never changes."""
    text = """<ir_version: 8, opset_import: ["" : 14]> g (float[1, 1, 3] x, float[1, 4, 3] w, float[1, 4, 4] r) => (float[1, 1, 1, 4] y) {
        y = RNN <hidden_size: int = 4> (x, w, r)
    }"""
    proto = parser.parse_model(text)
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in proto.graph.input}
    draft = Draft(proto, {n: np.zeros(s, np.float32) for n, s in shapes.items()})
    (eight,) = [v for v in variations(draft) if v.kind == "size" and v.was == "4" and v.now == "8" and ", " in v.subject]
    (valid,) = [d for d in eight.drafts if d.valid and d.values]
    assert valid.inputs["r"].shape == (1, 8, 8) and valid.nodes[0].attribute[0].i == 8
    split = """<ir_version: 8, opset_import: ["" : 18]> g (float[2, 2] x) => (float[1, 2] a, float[1, 2] b) { a, b = Split <num_outputs: int = 2> (x) }"""
    every = variations(Draft(parser.parse_model(split), {"x": np.zeros((2, 2), np.float32)}), lambda *_: ("0", "1", "2+"))
    assert {a.i for v in every for d in v.drafts for a in d.nodes[0].attribute if a.name == "num_outputs"} == {2}


@pytest.mark.backends
def test_the_known_defect_of_onnxruntime_is_about_types_and_constants(tmp_path: Path) -> None:
    facts = by_subject(matters(found(RELU_CLIP, "onnxruntime"), tmp_path).facts)
    assert facts["type"].matters and {"float", "float16"} <= set(facts["type"].right)
    assert facts["how lo is given"].matters and facts["how x is given"].indifferent and facts["values of x"].indifferent
