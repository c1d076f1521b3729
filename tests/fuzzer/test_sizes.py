"""Models with named dimensions at several sizes: valid ones only, one compiled model, judged at each."""

from __future__ import annotations

import importlib

import numpy as np
import onnx
import pytest
import torch

from fuzzer.generate import Generated, generate_from
from fuzzer.grow import Menu
from fuzzer.sources import Seeded
from oracles.adjoint import weigher
from oracles.backends.onnxruntime import warm
from oracles.judge import at_each_size, judge_outcomes
from oracles.plugin import backends, find
from oracles.records import Case, Outcome
from oracles.reference import reference
from oracles.worker import answer
from specs.program import Program

X = np.zeros(2, np.float32)
PLAIN = Menu(names=frozenset(("", n) for n in ("Relu", "Add", "MatMul", "Transpose", "Softmax", "Concat", "ReduceSum", "Reshape", "Gather", "Slice", "Expand")))


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> list[Generated]:
    """Cases that have further sizes."""
    wrap = importlib.import_module("fuzzer.wrap")
    generate = importlib.import_module("fuzzer.generate")
    symbolic = next(w for w in wrap.WAYS if w.__name__ == "_symbolic")

    def named(network, source):  # type: ignore[no-untyped-def]
        try:
            return symbolic(network, source)
        except wrap.Misfit:
            return network

    monkeypatch.setattr(generate, "wrap", named)
    found = [generate_from(Seeded("sizes", i), 3, PLAIN) for i in range(160)]
    return [g for g in found if g.case.before][:12]


def test_there_are_some(several: list[Generated]) -> None:
    assert len(several) >= 6
    for g in several:
        shapes = [{n: a.shape for n, a in inputs.items()} for inputs in (*g.case.before, g.case.inputs)]
        assert len({str(s) for s in shapes}) > 1
        for given in shapes:
            assert {n: len(s) for n, s in given.items()} == {n: len(s) for n, s in shapes[0].items()}


def test_equal_names_have_equal_sizes_and_onnx_accepts_them(several: list[Generated]) -> None:
    for g in several:
        proto = onnx.load_from_string(g.case.model)
        for inputs in g.case.before:
            sizes = dict[str, int]()
            fixed = onnx.ModelProto()
            fixed.CopyFrom(proto)
            for i in fixed.graph.input:
                for d, n in zip(i.type.tensor_type.shape.dim, inputs[i.name].shape, strict=True):
                    if d.dim_param:
                        assert sizes.setdefault(d.dim_param, n) == n
                        d.dim_value = n
                    assert d.dim_value == n
            onnx.shape_inference.infer_shapes(fixed, check_type=True, strict_mode=True, data_prop=True)


@pytest.mark.skipif(not backends()["onnxruntime"].available(), reason="needs onnxruntime")
def test_one_compiled_model_is_right_at_every_size(several: list[Generated]) -> None:
    warm()
    judged = 0
    for g in several:
        outcome = answer(find("onnxruntime"), g.case.model, g.case.inputs, "all", earlier=g.case.before)
        if outcome.status != "ok":
            continue
        assert len(outcome.before) == len(g.case.before)
        for case, outcomes in at_each_size(g.case, [outcome]):
            program = Program(case.model, torch.float64)
            verdicts = judge_outcomes(reference(program, case.inputs), outcomes, weigher(program, case.inputs))
            assert verdicts and not [v for v in verdicts if v.is_finding]
            judged += 1
    assert judged >= 8


def test_a_failure_belongs_to_the_size_it_happened_at() -> None:
    case = Case(b"model", {"x": X}, {}, ({"x": X + 1}, {"x": X + 2}))
    one, two, three = {"y": X}, {"y": X + 1}, {"y": X + 2}
    fine = Outcome("onnxruntime", "off", "ok", three, before=(one, two))
    late = Outcome("onnxruntime", "all", "error", stage="run", message="at the second", before=(one,))
    first, second, last = at_each_size(case, [fine, late])
    assert [o.status for o in first[1]] == ["ok", "ok"] and first[1][1].outputs is one and first[0].before == ()
    assert sorted(o.status for o in second[1]) == ["error", "ok"] and len(second[0].before) == 1
    assert [o.status for o in last[1]] == ["ok"] and last[0] is case
    for status, stage in (("crash", "run"), ("error", "load"), ("unsupported", "load"), ("hang", "run")):
        gone = Outcome("onnxruntime", "all", status, stage=stage)  # type: ignore[arg-type]
        assert [len(own) for _, own in at_each_size(case, [gone])] == [0, 0, 1]


def test_a_case_with_one_size_is_left_alone() -> None:
    case = Case(b"model", {"x": X})
    outcomes = [Outcome("onnxruntime", "off", "error"), Outcome("onnxruntime", "all", "ok", {"y": X})]
    assert at_each_size(case, outcomes) == [(case, outcomes)]
    assert case.id != Case(b"model", {"x": X}, {}, ({"x": X},)).id


def test_stored_cases_keep_their_sizes(tmp_path, several: list[Generated]) -> None:  # type: ignore[no-untyped-def]
    from corpus.folders import stored_case, write_case

    case = several[0].case
    write_case(tmp_path / "case", case)
    again = stored_case(tmp_path / "case")
    assert again.id == case.id and len(again.before) == len(case.before)
