"""Reports: what a maintainer reads, and what is not given to one."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import helper, parser
from syrupy.assertion import SnapshotAssertion

from oracles.records import Case, Outcome, Verdict
from specs.rule import UsageError
from tests.triage.made import KNOWN, made
from tests.triage.test_finding import RELU_CLIP
from triage import filed
from triage.cause import Cause
from triage.finding import Finding
from triage.first_bad import History, Release
from triage.lint import Plan, banner, faults
from triage.matters import Fact, Matters
from triage.mermaid import picture
from triage.replay import Replayed
from triage.sections import Report, conclusions
from triage.targets import choose, projects, rendered

FACTS = (
    Fact("attribute", "attribute axis of Softmax", "0", ("-2",), ("1",)),
    Fact("type", "type", "float", ("double",)),
    Fact("size", "axis 0 of w, axis 1 of x", "3", ("1", "8")),
    Fact("size", "axis 0 of w", "3", ("1", "8")),
    Fact("size", "axis 1 of x", "3", ("1", "8")),
    Fact("values", "values of w", "[1., 2., 3.]", ("zeros", "a | b")),
    Fact("operator set", "operator set version", "18", (), (), (), ("28",)),
)
HISTORY = History("wrong-1", (Release("1.1.0", "a", "good"), Release("1.2.0", "b", "bad", "wrong at all")), "1.2.0", "1.1.0")


def report(finding: Finding, warning: str = "") -> Report:
    again = Replayed(finding, "STILL", 5, 5)
    return Report(finding, "import sys\nsys.exit(1)\n", Matters(FACTS, 9, True), again, HISTORY, "", warning)


TARGETS = [("onnxruntime", "onnxruntime", "wrong"), ("tvm", "tvm", "refused"), ("pytorch", "inductor", "wrong")]


@pytest.mark.parametrize(("target", "backend", "verdict"), TARGETS)
def test_the_template_of_each_project(target: str, backend: str, verdict: str, snapshot: SnapshotAssertion) -> None:
    finding = made(backend, verdict)
    project = choose("", finding)
    assert project.name == target
    assert rendered(project, report(finding)) == snapshot


def test_a_generic_report_with_a_banner(snapshot: SnapshotAssertion) -> None:
    finding = made(verdict="broken", known=KNOWN)
    assert rendered(choose("generic", finding), report(finding, banner(["It is known.", "It is large."]))) == snapshot


def test_tables_survive_what_is_in_messages() -> None:
    text = rendered(choose("", made(verdict="broken")), report(made(verdict="broken")))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.split(r"(?<!\\)\|", row)) == len(re.split(r"(?<!\\)\|", rows[0])) for row in rows[:4]), rows[:4]
    assert text.count("```") % 2 == 0 and text.count("<details>") == text.count("</details>")


def test_a_finding_goes_to_its_own_project_only() -> None:
    assert set(projects()) == {"onnxruntime", "tvm", "pytorch", "generic"}
    with pytest.raises(UsageError, match="give --target tvm"):
        choose("onnxruntime", made("tvm"))
    with pytest.raises(UsageError, match="there are"):
        choose("xla", made())
    assert choose("", replace(made(), verdict=replace(made().verdict, backend="liar"))).name == "generic"


def test_conclusions_are_said_once() -> None:
    text = conclusions(report(made()))
    matter, rest = text.split("**What does not**")
    assert "| attribute axis of Softmax | 0 | 1 | -2 |" in matter
    assert "- axis 0 of w, axis 1 of x: 3, and just so with 1, 8" in rest and rest.count("axis 0 of w") == 1
    assert "operator set" not in text, "a type that is not implemented is no evidence"


# what is refused -------------------------------------------------------------------------------------------------------
def plan(finding: Finding, status: str = "STILL", hits: int = 5, project: str = "microsoft/onnxruntime", ledger: Path | None = None) -> Plan:
    return Plan(finding, project, Replayed(finding, status, hits, 5, "refused at all: no"), ledger)  # type: ignore[arg-type]


def test_a_good_finding_breaks_no_rule() -> None:
    assert faults(plan(made())) == {}


def indexed(op: str, output: int, through: str = "") -> Finding:
    names = ["", ""]
    names[output] = "i"
    if op == "TopK":
        node = helper.make_node("TopK", ["x", "k"], ["v", "i"] if output else ["i", "p"])
    else:
        node = helper.make_node(op, ["x"], ["i"] if output == 0 else ["m", "i"], **({"kernel_shape": [1, 1]} if op == "MaxPool" else {}))
    last = helper.make_node(through or "Identity", ["i"], ["y"], **({"to": 1} if through == "Cast" else {}))
    graph = helper.make_graph([node, last], "g", [helper.make_tensor_value_info("x", 1, [2, 3])], [helper.make_tensor_value_info("y", 7, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    return made(case=Case(model.SerializeToString(), {"x": np.zeros((2, 3), np.float32)}))


@pytest.mark.parametrize(("op", "output", "through"), [("ArgMax", 0, ""), ("ArgMin", 0, "Cast"), ("TopK", 1, ""), ("MaxPool", 1, "Cast")])
def test_positions_are_not_compared(op: str, output: int, through: str) -> None:
    assert f"positions from {op}" in faults(plan(indexed(op, output, through)))["indices"]


def test_values_beside_positions_are(tmp_path: Path) -> None:
    assert "indices" not in faults(plan(indexed("TopK", 0)))
    shape = replace(indexed("ArgMax", 0), verdict=Verdict("onnxruntime", "all", "mistyped", output="y", message="shape [1], expected [2]"))
    assert "indices" not in faults(plan(shape)), "a wrong shape has nothing to do with ties"


LARGE = "\n".join(f"    v{i} = Relu ({'x' if i == 0 else f'v{i - 1}'})" for i in range(11))


def large(nodes: int) -> Case:
    body = "\n".join(LARGE.splitlines()[: nodes - 1])
    text = f'<ir_version: 8, opset_import: ["" : 18]> g (float[2] x) => (float[2] y) {{\n{body}\n y = Neg (v{nodes - 2}) }}'
    return Case(parser.parse_model(text).SerializeToString(), {"x": np.zeros(2, np.float32)})


RULES = {
    "deterministic": [plan(made(), "FLAKY", 4), plan(made(), "FIXED", 0), plan(made(), "CHANGED", 0)],
    "reduced": [plan(made(case=large(5))), plan(made(case=large(11), original=large(12)))],
    "unknown": [plan(made(known=KNOWN))],
    "proven": [plan(made(v_grade="likely")), plan(made(v_grade=None))],
    "tolerance": [plan(made("inductor", v_got=0.5000001, v_bound=1e-9), project="pytorch/pytorch")],
}


@pytest.mark.parametrize("name", RULES)
def test_each_rule_refuses_with_one_sentence(name: str) -> None:
    for broken in RULES[name]:
        found = faults(broken)
        assert list(found) == [name]
        assert found[name].endswith(".") and "\n" not in found[name] and len(found[name]) < 250


def test_what_only_looks_like_a_fault_passes() -> None:
    seeds = replace(KNOWN, references=("corpus/seeds/onnxruntime-wrong-softmax",))
    assert faults(plan(made(known=seeds))) == {}, "our own catalogue is not the maintainer's"
    assert faults(plan(made(case=large(5), original=large(8)))) == {}
    assert faults(plan(made("inductor", v_got=0.5000001, v_bound=1e-9), project="apache/tvm")) == {}
    assert faults(plan(made(verdict="broken"))) == {}


def test_the_catalogue_of_today_counts() -> None:
    """A finding stored before its issue became known."""
    old = made(verdict="broken", v_message="Fail: relu_clip_fusion.cc: Unexpected data type for Clip 'min' input of 11", case=RELU_CLIP)
    assert old.known is None and "issues/24158" in faults(plan(replace(old, cause=replace(old.cause, ops=("Clip",), dtype="double"))))["unknown"]


def test_the_budget_of_open_reports(tmp_path: Path) -> None:
    book = tmp_path / "filed.json"
    for i in range(15):
        filed.record(book, filed.Filed(f"wrong-{i}", f"{i:016x}", "microsoft/onnxruntime"))
    finding = made()
    assert "15 reports to microsoft/onnxruntime are open" in faults(plan(finding, ledger=book))["budget"]
    assert faults(plan(finding, project="apache/tvm", ledger=book)) == {}
    filed.record(book, filed.Filed("wrong-3", f"{3:016x}", "microsoft/onnxruntime", url="https://example.org/1"))
    assert len(filed.open_in(book, "microsoft/onnxruntime")) == 15, "rendering again counts once"
    assert filed.settle(book, f"{3:016x}", "closed")[0].url == "https://example.org/1"
    assert faults(plan(finding, ledger=book)) == {}
    assert faults(plan(replace(finding, given_key=f"{4:016x}"), ledger=book)) == {}, "a report does not stand in its own way"
    book.write_text("{}[")
    with pytest.raises(UsageError, match="is not the list of reports"):
        filed.read(book)


# pictures --------------------------------------------------------------------------------------------------------------
def test_a_picture_of_the_graph(snapshot: SnapshotAssertion) -> None:
    finding = made()
    assert picture(finding.model.proto, ["Softmax"]) == snapshot


def test_a_picture_of_awkward_names() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]> g (bool c, float[N] x) => (float[N] y) {
        y = If (c) <then_branch = a () => (float[N] p) { p = Neg (x) }, else_branch = b () => (float[N] q) { q = Clip (x, , x) }>
    }"""
    proto = parser.parse_model(text)
    proto.graph.node[0].output[0] = proto.graph.output[0].name = 'a"b<c>|#'
    drawn = picture(proto)
    assert "a#quot;b#lt;c#gt;#124;#35;" in drawn and "then_branch = a body of 1 nodes" in drawn
    assert "i1 --> n0" in drawn, "what a body reads from outside is an edge"
    quoted = [line for line in drawn.splitlines() if '"' in line]
    assert all(line.count('"') == 2 for line in quoted), quoted
    assert picture(parser.parse_model(_wide(50))) == "", "a graph of 50 nodes is not a picture"


def _wide(nodes: int) -> str:
    body = " ".join(f"v{i} = Relu (x)" for i in range(nodes))
    return f'<ir_version: 8, opset_import: ["" : 18]> g (float[2] x) => (float[2] v0) {{ {body} }}'


def test_the_cause_of_a_made_finding_is_a_cause() -> None:
    assert isinstance(made().cause, Cause) and made().failing == ["all"] and isinstance(made().outcomes[0], Outcome)
