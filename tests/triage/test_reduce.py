"""Reduction: small results, the same failure, the same result each time, within its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import parser

from oracles.plugin import Target
from oracles.pool import run
from oracles.records import Case, Outcome, Verdict
from tests.triage.made import made
from tests.triage.test_finding import found
from triage.draft import Draft, cost
from triage.finding import Finding
from triage.interest import Effort, reduce_finding, reduced
from triage.reduce import Reduced, reduce, steps
from triage.replay import judged


def model(body: str, inputs: str = "float[2,3] x", outputs: str = "float[2,3] y", weights: str = "<float[3] w = {1, -2, 3}>", opset: int = 17) -> Case:
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> g ({inputs}) => ({outputs}) {weights} {{ {body} }}')
    given = {v.name: np.linspace(0.25, 1.75, int(np.prod([d.dim_value for d in v.type.tensor_type.shape.dim])), dtype=np.float32) for v in proto.graph.input}
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in proto.graph.input}
    return Case(proto.SerializeToString(), {n: a.reshape(shapes[n]) for n, a in given.items()}, {"seed": 1})


def has(*ops: str):
    """A predicate: these operators follow each other, each reading the one before."""
    from triage.cause import Model
    from triage.known import has_chain

    def keeps(draft: Draft) -> bool:
        return has_chain(Model(draft.data), ops)

    return keeps


LONG = model(
    "a = Sin(x) b = Add(a, w) c = Relu(b) d = Exp(c) e = Mul(d, a) f = Tanh(e) g = Sub(f, b) h = Neg(g) i = Abs(h) y = Sqrt(i) z = Cos(d)",
    outputs="float[2,3] y, float[2,3] z",
)


def ops(result: Reduced) -> list[str]:
    return [n.op_type for n in onnx.load_from_string(result.case.model).graph.node]


@pytest.mark.parametrize("chain", [["Relu"], ["Relu", "Exp"], ["Exp", "Mul", "Tanh"], ["Sin"], ["Sqrt"]])
def test_what_matters_is_left_and_nothing_else(chain: list[str]) -> None:
    result = reduce(LONG, has(*chain), seconds=60)
    assert ops(result) == chain and result.finished
    proto = onnx.load_from_string(result.case.model)
    assert len(proto.graph.output) == 1 and all(cost(a) == 0 and a.size == 1 for a in result.case.inputs.values())
    onnx.checker.check_model(proto, full_check=True)
    assert result.case.origin["reduced from"] == LONG.id


def test_the_same_result_each_time() -> None:
    assert reduce(LONG, has("Mul", "Tanh")).case.id == reduce(LONG, has("Mul", "Tanh")).case.id


def test_no_case_is_asked_twice() -> None:
    asked = list[bytes]()

    def keeps(draft: Draft) -> bool:
        asked.append(draft.id)
        return has("Mul")(draft)

    result = reduce(LONG, keeps)
    assert len(asked) == len(set(asked)) == result.probes


def test_time_is_kept() -> None:
    def slow(draft: Draft) -> bool:
        time.sleep(0.05)
        return has("Mul", "Tanh")(draft)

    started = time.monotonic()
    result = reduce(LONG, slow, seconds=0.3)
    assert time.monotonic() - started < 3 and not result.finished
    assert has("Mul", "Tanh")(Draft.of(result.case))


def test_a_predicate_that_never_holds_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not fail"):
        reduce(LONG, lambda draft: False)


def test_progress_can_be_resumed_from() -> None:
    saved = list[Draft]()
    reduce(LONG, has("Mul", "Tanh"), progress=saved.append)
    middle = saved[len(saved) // 2]
    assert ops(reduce(Case(middle.model.SerializeToString(), middle.inputs), has("Mul", "Tanh"))) == ["Mul", "Tanh"]


def test_cut_values_are_those_of_float64() -> None:
    case = model("a = Exp(x) b = Mul(a, a) y = Relu(b)")
    part = Draft(onnx.load_from_string(case.model), case.inputs).part(["y"], ["b"])
    assert part is not None
    assert np.array_equal(part.inputs["b"], np.exp(case.inputs["x"].astype(np.float64) * 2).astype(np.float32))


def test_functions_branches_and_constants_are_opened() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "f" : 1]>
    g (float[2] x, bool c) => (float[2] y) {
        k = Constant<value = float[2] {1, 2}>()
        a = f.twice(x)
        b = If(c) <then_branch = t () => (float[2] p) { p = Exp(a) }, else_branch = e () => (float[2] q) { q = Neg(a) }>
        y = Add(b, k)
    }
    <domain: "f", opset_import: ["" : 17]> twice (u) => (v) { w = Add(u, u) v = Tanh(w) }"""
    case = Case(parser.parse_model(text).SerializeToString(), {"x": np.ones(2, np.float32), "c": np.array(True)})
    assert ops(reduce(case, has("Tanh"))) == ["Tanh"]
    assert ops(reduce(case, has("Exp"))) == ["Exp"]


def test_sizes_attributes_and_shape_weights_shrink_together() -> None:
    case = model("r = Reshape(x, s) y = LeakyRelu<alpha = 0.3>(r)", "float[4,6] x", "float[8,3] y", "<int64[2] s = {8, 3}>")
    result = reduce(case, has("Reshape"))
    assert ops(result) == ["Reshape"] and result.case.inputs["x"].size <= 1
    result = reduce(case, has("LeakyRelu"))
    assert not onnx.load_from_string(result.case.model).graph.node[0].attribute


def test_values_become_plain_as_far_as_they_may() -> None:
    case = model("y = Relu(x)")

    def one_large(draft: Draft) -> bool:
        return all(np.sum(a > 0.9) >= 2 and a.size == 6 for a in draft.inputs.values()) and bool(draft.inputs)

    result = reduce(case, one_large)
    assert sorted(result.case.inputs["x"].ravel().tolist()) in ([0, 0, 0, 0, 1, 1], [1] * 6)


def test_every_step_is_documented() -> None:
    assert all(f.__doc__ for f in steps().values()) and len(steps()) > 12


def test_a_real_defect_is_reduced_with_its_cause() -> None:
    body = "a = Sin(x) b = Mul(a, x) c = Relu(b) d = Clip(c, lo, hi) e = Exp(d) y = Add(e, a)"
    text = f'<ir_version: 8, opset_import: ["" : 14]> g (double[2,3] x) => (double[2,3] y) <double lo = {{-1}}, double hi = {{1}}> {{ {body} }}'
    case = Case(parser.parse_model(text).SerializeToString(), {"x": np.linspace(-1, 1, 6).reshape(2, 3)}, {"index": 3})
    finding: Finding = found(case, "onnxruntime")
    small, result = reduce_finding(finding, run)
    assert ops(result) == ["Relu", "Clip"] and small.known is not None and small.cause.ops == ("Relu", "Clip")
    assert small.original is not None and small.original.id == case.id and small.failing == ["basic", "extended", "all"]
    assert small.cause.message == finding.cause.message


def test_a_suspicion_is_reduced_before_it_is_confirmed() -> None:
    body = "a = Sin(x) b = Mul(a, x) c = Relu(b) d = Clip(c, lo, hi) e = Exp(d) y = Add(e, a)"
    text = f'<ir_version: 8, opset_import: ["" : 14]> g (double[2,3] x) => (double[2,3] y) <double lo = {{-1}}, double hi = {{1}}> {{ {body} }}'
    case = Case(parser.parse_model(text).SerializeToString(), {"x": np.linspace(-1, 1, 6).reshape(2, 3)}, {"index": 3})
    outcomes = run(case, "onnxruntime:off+all")
    verdict = next(v for v in judged(case, outcomes) if v.is_finding)
    small, again, settings = reduced(case, verdict, outcomes, run)
    assert [n.op_type for n in onnx.load_from_string(small.model).graph.node] == ["Relu", "Clip"]
    assert again.verdict == "broken" and [o.setting for o in settings] == ["off", "all"]
    assert reduced(Case(small.model, small.inputs), replace(again, verdict="wrong"), settings, run)[0].id == small.id


def test_types_and_opsets_become_common() -> None:
    text = '<ir_version: 10, opset_import: ["" : 21]> g (double[2] x) => (double[2] y) <double w = {2}> { s = Sin(x) y = Mul(s, w) }'
    case = Case(parser.parse_model(text).SerializeToString(), {"x": np.ones(2)})
    proto = onnx.load_from_string(reduce(case, has("Sin", "Mul")).case.model)
    assert proto.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert proto.opset_import[0].version == 14 and proto.ir_version == 8  # Mul was last changed in 14


def test_bodies_of_loops_are_opened() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[2] x, int64 n, bool c) => (float[2] y) <float[2] k = {1, 2}> {
        a = Neg(x)
        y = Loop(n, c, a) <body = b (int64 i, bool p, float[2] u) => (bool q, float[2] v) { q = Identity(p) t = Sin(u) v = Mul(t, k) }>
    }"""
    case = Case(parser.parse_model(text).SerializeToString(), {"x": np.ones(2, np.float32), "n": np.array(3), "c": np.array(True)})
    assert ops(reduce(case, has("Sin", "Mul"))) == ["Sin", "Mul"]


def test_sizes_stop_at_the_edge_that_matters() -> None:
    case = model("y = Relu(x)", "float[4,40] x", "float[4,40] y")

    def wide(draft: Draft) -> bool:
        return all(a.ndim and a.shape[-1] > 16 for a in draft.inputs.values()) and bool(draft.inputs)

    assert [a.shape[-1] for a in reduce(case, wide).case.inputs.values()] == [17]


def test_several_at_once_end_in_the_same_case() -> None:
    assert reduce(LONG, has("Mul", "Tanh"), together=3).case.id == reduce(LONG, has("Mul", "Tanh")).case.id


def test_it_can_be_stopped_and_remembers_what_it_asked() -> None:
    asked = dict[bytes, bool]()
    stopped = reduce(LONG, has("Mul", "Tanh"), asked=asked, stop=lambda: len(asked) > 4)
    assert not stopped.finished and has("Mul", "Tanh")(Draft.of(stopped.case))
    before = len(asked)
    again = reduce(LONG, has("Mul", "Tanh"), asked=asked)
    assert ops(again) == ["Mul", "Tanh"] and again.probes <= len(asked) - before
    assert again.probes < reduce(LONG, has("Mul", "Tanh")).probes


def answered(case: Case, targets: Sequence[Target]) -> list[Outcome]:
    return [Outcome(t.backend, s, "ok", {}) for t in targets for s in t.settings]


def test_a_case_is_drawn_again_only_where_the_graph_stays_large() -> None:
    """A reduction that leaves more than three nodes begins again from what is drawn; a small one is not disturbed."""
    asked = list[str]()

    def redrawn(case: Case, keeps: Callable[[Case], bool], seconds: float) -> Case:
        asked.append(case.id)
        assert 0 < seconds <= 6 and keeps(LONG)
        return LONG

    large = model("a = Sin(x) b = Add(a, w) c = Relu(b) d = Exp(c) e = Mul(d, a) f = Tanh(e) y = Sub(f, b)")
    for case, chain, times in ((large, ("Sin", "Add", "Relu", "Exp"), 1), (large, ("Mul", "Tanh"), 0)):
        asked.clear()
        plain = made("onnxruntime", "wrong", case=case)
        finding = replace(plain, verdicts=tuple(replace(plain.verdict, setting=s) for s in ("off", "all")))  # whatever is turned off

        def judge(case: Case, outcomes: Sequence[Outcome], chain: tuple[str, ...] = chain) -> list[Verdict]:
            bad = has(*chain)(Draft.of(case))
            return [Verdict("onnxruntime", s, "wrong" if bad else "ok", output="y", ratio=1e6, grade="certified") for s in (o.setting for o in outcomes)]

        small, result = reduce_finding(finding, answered, judge, effort=Effort(30.0, 0.0, redrawn=redrawn))
        assert len(asked) == times and ops(result) == list(chain) and small.original is case
