"""`networks()`: checked models with safe inputs for anyone's tests, which shrink to something a person can read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import specs
from fuzzer import networks
from fuzzer.generate import generate_from
from fuzzer.sources import Recorded
from fuzzer.strategies import Example
from oracles import judge
from specs.rule import UsageError


def smallest(found: Callable[[Example], bool], strategy: st.SearchStrategy[Example], examples: int = 200) -> Example:
    """What Hypothesis shrinks a failing example to."""
    kept = list[Example]()

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def fails(case: Example) -> None:
        if found(case):
            kept.append(case)
            raise AssertionError

    with pytest.raises(AssertionError):
        fails()
    return kept[-1]


def ops(case: Example) -> list[str]:
    return [n.op_type for part in (case.proto.graph, *case.proto.functions) for n in part.node if n.domain != "assay.functions"]


@settings(max_examples=60)
@given(networks(max_nodes=6))
def test_examples_are_checked_models_with_inputs_that_fit(case: Example) -> None:
    onnx.checker.check_model(case.model, full_check=True)
    outputs = specs.run(case.model, case.inputs)
    assert outputs.keys() == {o.name for o in case.proto.graph.output}
    assert all(v.verdict in ("ok", "noise") for v in judge(case.model, case.inputs, outputs)), "our own run in the declared types is inside the bound"


@settings(max_examples=30)
@given(networks(max_nodes=4, ops=["Conv", "Relu"], opset=17))
def test_operators_and_opset_can_be_chosen(case: Example) -> None:
    (opset,) = [o.version for o in case.proto.opset_import if o.domain == ""]
    assert opset == 17 and ("Conv" in repr(case) or "Relu" in repr(case))  # maybe in a branch or a function


@settings(max_examples=30)
@given(networks(max_nodes=3, max_elements=32))
def test_tensors_are_as_small_as_asked(case: Example) -> None:
    assert all(a.size <= 32 for a in case.inputs.values())


@settings(max_examples=15)
@given(networks(max_nodes=4))
def test_an_example_carries_the_choices_that_make_it_again(case: Example) -> None:
    nodes, *rest = case.origin["choices"]
    again = generate_from(Recorded(rest), 1 + nodes, elements=256)
    assert again.case.model == case.model and again.case.id == case.id


def test_a_failure_shrinks_to_the_one_operator_that_matters() -> None:
    case = smallest(lambda c: "Softmax" in ops(c), networks(max_nodes=6, ops=["Softmax", "Relu", "Add", "MatMul", "Transpose", "Concat"]))
    assert "Softmax" in ops(case) and len(ops(case)) <= 2, repr(case)
    assert len(repr(case)) < 600, "an example that fits a screen"


def test_a_failure_of_two_operators_keeps_both_and_little_else() -> None:
    case = smallest(lambda c: {"MatMul", "Relu"} <= set(ops(c)), networks(max_nodes=6, ops=["MatMul", "Relu", "Add", "Transpose"]))
    assert {"MatMul", "Relu"} <= set(ops(case)) and len(ops(case)) <= 4 and len(repr(case)) < 900, repr(case)


def test_a_failing_value_shrinks_too() -> None:
    """A backend that is wrong for every negative number."""

    def wrong(c: Example) -> bool:
        return any((a < 0).any() for a in specs.run(c.model, c.inputs).values() if np.asarray(a).dtype.kind == "f")

    case = smallest(wrong, networks(max_nodes=5, ops=["Neg", "Add", "Mul", "Sub"]))
    assert len(ops(case)) == 1, repr(case)


def test_an_example_prints_as_text() -> None:
    case = smallest(lambda c: True, networks(max_nodes=3, ops=["Relu"]))
    text = repr(case)
    assert "Relu" in text and all(f"{name} = {a.dtype}{list(a.shape)}" in text for name, a in case.inputs.items())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"max_nodes": 0}, r"networks\(max_nodes=0\): at least one node is needed"),
        ({"opset": 7}, r"networks\(opset=7\): drawn opsets are 13 to 28"),
        ({"ops": ["Relu", "Frobnicate"]}, r"networks\(ops=\.\.\.\): no spec for Frobnicate; `fuzz specs` lists them"),
    ],
)
def test_mistakes_are_answered_with_a_sentence(arguments: dict[str, object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        networks(**arguments)  # type: ignore[arg-type]
