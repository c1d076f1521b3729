"""Cases that need an earlier run of the same compiled model: reduced with it, and rid of it where it does not matter."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import parser

from corpus.folders import stored_case, write_case
from oracles.backends.onnxruntime import warm
from oracles.plugin import backends
from oracles.pool import run
from oracles.records import Case
from tests.triage.test_finding import found
from triage.cause import LATER, cause
from triage.draft import Draft
from triage.earlier import carried
from triage.finding import Finding
from triage.interest import reduce_finding
from triage.matters import matters
from triage.reduce import reduce
from triage.replay import judged
from triage.report import claim, readme
from triage.repro import repro

NETWORK = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,3] x, float[n,3] u) => (float[n,3] y, float[n] z) <float[3] w = {1, -2, 3}> {
    a = Sin(x) b = Add(a, w) c = Mul(b, u) d = Tanh(c) e = Exp(d) y = Sub(e, u) f = Abs(b)
    i = Constant<value_ints = [1]>() z = ReduceSum<keepdims = 0>(f, i)
}"""


def case(*sizes: int) -> Case:
    """The last of the sizes is that of the case."""
    proto = parser.parse_model(NETWORK)
    runs = [{i.name: np.linspace(0.25, 1.75, 3 * n, dtype=np.float32).reshape(n, 3) for i in proto.graph.input} for n in sizes]
    return Case(proto.SerializeToString(), runs[-1], {"seed": 1}, tuple(runs[:-1]))


def ops(case: Case) -> list[str]:
    return [n.op_type for n in onnx.load_from_string(case.model).graph.node]


@pytest.fixture(scope="module")
def stale() -> Finding:
    """Right at the size of the first run, wrong at any other."""
    return found(case(2, 5, 4), "liar:ok+stale")


def test_one_earlier_run_and_the_guilty_operator_are_left(stale: Finding) -> None:
    small, result = reduce_finding(stale, run)
    assert ops(small.case) == ["Tanh"] and result.finished and small.cause.stage == LATER and small.cause.ops == ("Tanh",)
    (first,) = small.case.before
    assert {n: a.shape for n, a in first.items()} != {n: a.shape for n, a in small.case.inputs.items()}
    assert all(np.count_nonzero(a) <= 1 and a.size <= 2 for a in (*first.values(), *small.case.inputs.values()))
    assert small.verdict.verdict == "wrong" and "after a run of the same compiled model on inputs of other sizes" in claim(small)
    page = readme(small)
    assert "One compiled model runs on" in page and page.index("One compiled model") > page.index("Tanh")


def test_earlier_runs_that_do_not_matter_go() -> None:
    small, _ = reduce_finding(found(case(2, 5, 4), "liar:ok+element"), run)
    assert not small.case.before and len(ops(small.case)) == 1 and small.cause.stage == ""


def test_earlier_runs_follow_every_step() -> None:
    """A predicate that looks at nothing but what is valid: each draft it is shown has runs that its model accepts, of float64 values."""
    shown = list[Draft]()

    def keeps(draft: Draft) -> bool:
        shown.append(draft)
        runs = (draft.inputs, *(draft.before or ()))
        return len(runs) == 2 and b"Tanh" in draft.data and len({str([a.shape for a in r.values()]) for r in runs}) == 2

    result = reduce(case(2, 5), keeps)
    assert ops(result.case) == ["Tanh"] and len(result.case.before) == 1 and len(shown) > 10
    for draft in shown:
        for k, given in enumerate((draft.inputs, *(draft.before or ()))):
            assert set(given) == {i.name for i in draft.model.graph.input}
            sizes = dict[str, int]()
            for i in (*draft.model.graph.input, *draft.model.graph.output):
                array = given[i.name] if i.name in given else (draft, *draft.earlier)[k].values[i.name]
                for d, n in zip(i.type.tensor_type.shape.dim, array.shape, strict=True):
                    assert d.dim_value == n if d.HasField("dim_value") else sizes.setdefault(d.dim_param, n) == n


def test_a_value_that_is_cut_has_its_value_of_each_run() -> None:
    whole = Draft.of(case(2, 5))
    part = carried(whole, whole.part(["y"], ["d"]))
    assert part is not None and part.before is not None
    assert np.array_equal(part.before[0]["d"], whole.earlier[0].values["d"]) and part.before[0]["d"].shape == (2, 3)
    assert np.array_equal(part.inputs["d"], whole.values["d"]) and part.inputs["d"].shape == (5, 3)
    assert all(i.type.tensor_type.shape.dim[0].dim_param == "n" for i in (*part.model.graph.input, *part.model.graph.output))


def test_what_matters_is_asked_with_the_earlier_run(stale: Finding) -> None:
    small, _ = reduce_finding(stale, run)
    asked = list[Case]()
    facts = matters(small, run=lambda c, t: asked.append(c) or run(c, t), seconds=20)
    assert facts.facts and asked and all(len(c.before) == 1 for c in asked)
    assert any(f.kind == "values" and f.indifferent for f in facts.facts)


def test_a_folder_forgets_runs_that_went(tmp_path: Path) -> None:
    write_case(tmp_path / "case", case(2, 5, 4))
    write_case(tmp_path / "case", case(3, 4))
    again = stored_case(tmp_path / "case")
    assert again.id == case(3, 4).id and len(again.before) == 1


TRAINING = """<ir_version: 8, opset_import: ["" : 17]> g (float[n,2,k] x) => (float[2] y, float[n,2,k] z)
    <float[2] s = {1, 2}, float[2] b = {0, 1}, float[2] m = {1, 1}, float[2] v = {3, 1}> {
    t, rm, rv = BatchNormalization<training_mode = 1>(x, s, b, m, v) q = Squeeze(rm) r = Abs(q) y = Exp(r) z = Neg(t)
}"""


@pytest.mark.skipif(not backends()["onnxruntime"].available(), reason="needs onnxruntime")
def test_running_statistics_that_stay_behind_are_known(tmp_path: Path) -> None:
    """Public issue 29790, met by what reads the statistics at the second of several sizes."""
    warm()
    inputs = [{"x": np.linspace(-2, 3, n * 2 * k, dtype=np.float32).reshape(n, 2, k)} for n, k in ((3, 4), (2, 5))]
    finding = found(Case(parser.parse_model(TRAINING).SerializeToString(), inputs[1], {}, (inputs[0],)), "onnxruntime:off+all")
    assert finding.verdict.verdict == "wrong"
    small, _ = reduce_finding(finding, run)
    assert small.verdict.verdict == "unstable" and not small.case.before and "BatchNormalization" in small.cause.ops
    assert small.known is not None and "29790" in small.known.reference
    once = replace(
        finding, outcomes=tuple(replace(o, again=None) for o in finding.outcomes), verdicts=finding.verdicts[:1]
    )  # as a campaign sees an earlier size
    assert reduce_finding(once, run)[0].verdict.verdict == "unstable"
    kept = replace(finding, verdicts=tuple(v for v in finding.verdicts if v.verdict == "wrong"))
    assert finding.cause.stage == LATER and finding.known is not None and "29790" in finding.known.reference
    (tmp_path / "repro.py").write_text(repro(kept))
    done = subprocess.run([sys.executable, "repro.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1 and "wrong values at ['off'" in done.stderr, done.stdout + done.stderr


@pytest.mark.skipif(not backends()["onnxruntime"].available(), reason="needs onnxruntime")
def test_another_defect_at_another_level_is_in_nobodys_way() -> None:
    """Statistics that stay behind differ without optimisation; the Shrink of a double, behind them, is wrong at every level."""
    text = """<ir_version: 8, opset_import: ["" : 17]> g () => (double[2] y)
        <double[3,2] x = {0.1, -2.3, 1.7, 0.9, 3.1, -0.7}, double[2] s = {1, 2}, double[2] b = {0, 1}, double[2] m = {1, 1}, double[2] v = {3.3, 1.7}> {
        t, rm, rv = BatchNormalization<training_mode = 1>(x, s, b, m, v) y = Shrink<lambd = 0.5, bias = 0.1>(rv)
    }"""
    case = Case(parser.parse_model(text).SerializeToString(), {})
    outcomes = run(case, "onnxruntime:off+all")
    verdicts = judged(case, outcomes)
    assert {(v.setting, v.verdict) for v in verdicts if v.is_finding} == {("off", "unstable"), ("off", "wrong"), ("all", "wrong")}
    verdict = next(v for v in verdicts if v.verdict == "unstable")
    small, result = reduce_finding(Finding(cause(case, verdict, outcomes, verdicts), case, verdict, tuple(outcomes), tuple(verdicts)), run)
    assert result.finished and len(ops(small.case)) <= 2 and "BatchNormalization" in ops(small.case) and small.known is not None
