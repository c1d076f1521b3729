"""Grouping: one row per cause, and no two causes in one row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import parser

from oracles.records import Case, Verdict
from triage.cause import Cause
from triage.finding import Finding
from triage.group import Member, group
from triage.known import Known, newer
from triage.shape import alike, digest, shape


def graph(body: str, dims: str = "2,3", dtype: str = "float") -> bytes:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({dtype}[{dims}] x) => ({dtype}[{dims}] y) {{ {body} }}'
    return parser.parse_model(text).SerializeToString()


def member(model: bytes, verdict: str = "wrong", guilty: tuple[str, ...] = (), dtype: str = "float", message: str = "", **about: object) -> Member:
    case = Case(model, {"x": np.zeros(1, np.float32)})
    v = Verdict("onnxruntime", "all", verdict, message=message)  # type: ignore[arg-type]
    pattern = "optimised" if guilty else "always"
    cause = Cause("onnxruntime", verdict, ("A",), dtype, pattern, message=message, guilty=guilty, shape=case.id)
    finding = Finding(cause, case, v, reproduced=3, repeats=3)
    return Member(replace(finding, **about), Path(finding.name))  # type: ignore[arg-type]


RELU_CLIP = "r = Relu(x) y = Clip(r)"


def sizes(*members: Member, transplant: bool | None = None) -> list[int]:
    answer = None if transplant is None else lambda a, b: transplant
    return [len(g.members) for g in group(members, answer)]


def test_one_switch_and_one_shape_is_one_cause() -> None:
    a = member(graph(RELU_CLIP), guilty=("Fuse",))
    assert sizes(a, member(graph(RELU_CLIP, "7,1", "double"), "nonfinite", ("Fuse",), "double")) == [2]
    assert sizes(a, member(graph("c = Clip(x) y = Relu(c)"), guilty=("Fuse",))) == [1, 1]
    assert sizes(a, member(graph(RELU_CLIP), "broken", ("Fuse",), "double")) == [1, 1]


def test_a_cure_is_transplanted_where_the_graphs_agree() -> None:
    a, b = member(graph(RELU_CLIP), guilty=("Fuse",)), member(graph(RELU_CLIP, "5,5"), guilty=("Other",))
    assert sizes(a, b) == [1, 1] and sizes(a, b, transplant=False) == [1, 1] and sizes(a, b, transplant=True) == [2]


def test_without_a_switch_types_or_messages_decide() -> None:
    a = member(graph("y = Sin(x)"))
    assert sizes(a, member(graph("y = Sin(x)", "9,9"))) == [2]
    assert sizes(a, member(graph("y = Sin(x)", dtype="double"), dtype="double")) == [1, 1]
    refused = [member(graph("y = Sin(x)", "2,3", t), "refused", dtype=t, message="no such thing") for t in ("float", "double")]
    assert sizes(*refused) == [2]
    assert sizes(a, member(graph("y = Sin(x)"), guilty=("Fuse",))) == [1, 1]


def test_a_known_issue_is_one_row_and_status_follows() -> None:
    issue = Known("k", "onnxruntime", "t", ("u",))
    two = [member(graph(b), known=issue) for b in ("y = Sin(x)", "y = Cos(x)")]
    (g,) = group(two)
    assert g.status == "known" and len(g.members) == 2
    flaky = member(graph("y = Tan(x)"), reproduced=1)
    assert [g.status for g in group([flaky, member(graph("y = Exp(x)"))])].count("flaky") == 1
    assert group([replace(m, fixed_in="2.0") for m in two])[0].status == "fixed"


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("s = Sin(x) c = Cos(x) y = Add(s, c)", "q = Cos(x) r = Sin(x) y = Add(r, q)", True),
        ("s = Sin(x) c = Cos(x) y = Add(s, c)", "s = Sin(x) c = Cos(x) y = Add(c, s)", False),
        ("y = Mul(x, x)", "y = Mul(x, x)", True),
        ("s = Sin(x) y = Softmax<axis = 0>(s)", "s = Sin(x) y = Softmax<axis = 1>(s)", True),
        ("y = Softmax<axis = 0>(x)", "y = Softmax(x)", False),
        ("i = Identity(x) y = Sin(i)", "y = Sin(x)", True),
    ],
)
def test_shapes(a: str, b: str, same: bool) -> None:
    one, other = (shape(member(graph(body, "2,2")).finding.model.proto) for body in (a, b))
    assert alike(one, other) is same and (digest(one) == digest(other)) is same


def test_versions_in_order() -> None:
    assert newer("1.32.0", "1.31.1") and newer("2.13.0+cpu", "2.9") and not newer("1.31.1", "1.31.1") and not newer("", "1.0") and not newer("2.0", "unknown")
