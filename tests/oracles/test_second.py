"""The second opinion: who speaks up before a wrong value is believed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from onnx import parser

from oracles.adjoint import weigher
from oracles.compare import compare
from oracles.records import Outcome, Verdict
from oracles.reference import reference
from oracles.rewriting import compiled
from oracles.second import second_opinion
from oracles.variants import variants
from specs.program import Program

SUM = '<ir_version: 8, opset_import: ["" : 18]> g (float[2304] x) => (float[1] y) { y = ReduceSum (x) }'
RELU = '<ir_version: 8, opset_import: ["" : 18]> g (float[3] x) => (float[3] y) { y = Relu (x) }'


def _asked(text: str, inputs: Mapping[str, np.ndarray], got: np.ndarray) -> tuple[Verdict, Verdict]:
    """The verdict on an answer, and what is left of it."""
    model = parser.parse_model(text).SerializeToString()
    program = Program(model, torch.float64)
    expected, weigh = reference(program, inputs), weigher(program, inputs)
    first = weigh(compare("liar", "ok", "y", expected["y"], got))
    return first, second_opinion(model, inputs, expected, first, Outcome("liar", "ok", "ok", {"y": got}), weigh)


def test_a_legal_way_that_is_as_far_is_heard() -> None:
    """Equal terms added one by one: every rounding goes the same way, which the statistical radius does not foresee."""
    inputs = {"x": np.full(2304, 0.05, np.float32)}
    serial = compiled(parser.parse_model(SUM).SerializeToString(), variants()["sum-serial"].at)(inputs)["y"]
    first, second = _asked(SUM, inputs, serial)
    assert (first.verdict, first.grade) == ("wrong", "likely")
    assert second.verdict == "ours" and "sum-" in second.message


def test_what_no_legal_way_explains_stays() -> None:
    first, second = _asked(RELU, {"x": np.array([-1, 0, 2], np.float32)}, np.array([0, 0, 3], np.float32))
    assert (first.verdict, second.verdict, second.grade) == ("wrong", "wrong", "certified")
