"""Sub-graphs in the plain and in the bounds interpreter: outer values, undecided conditions, zero iterations, directions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
import torch

import specs
from oracles.reference import reference
from specs.program import Program

LOOP = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (int64 n, float[2] x) => (float[2] y, float[k, 2] rows) {
    y, rows = Loop <body = step (int64 i, bool go, float[2] state) => (bool go_on, float[2] next, float[2] row) {
        go_on = Identity(go)
        next = Add(state, x)
        row = Mul(next, x)
    }> (n, , x)
}
"""


def parsed(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(text)


def balls(model: onnx.ModelProto, inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: e.ball for name, e in reference(Program(model, torch.float64), inputs).items()}


def test_loop_sees_outer_values_and_stacks_scan_outputs() -> None:
    feeds = {"n": np.array(3), "x": np.array([1, 2], np.float32)}
    got = specs.run(parsed(LOOP), feeds)
    np.testing.assert_array_equal(got["y"], [4, 8])
    np.testing.assert_array_equal(got["rows"], [[2, 8], [3, 12], [4, 16]])


def test_loop_hands_radii_on() -> None:
    ball = balls(parsed(LOOP), {"n": np.array(3), "x": np.array([1, 2], np.float32)})["rows"]
    assert ball.worst.shape == (3, 2)
    assert bool((ball.worst[2] > ball.worst[0]).all())
    assert float(ball.worst.max()) < 1e-4


def test_errors_of_one_origin_add_up_in_a_loop() -> None:
    """n times the same rounded x: n times its error, where quadrature would make sqrt(n) times of it."""
    text = LOOP.replace("(float[2] y, float[k, 2] rows) {", "(float[2] y, float[k, 2] rows, float[2] third) {\n    third = Div(x, x0)").replace(
        "float[2] x)", "float[2] x, float[2] x0)", 1
    )
    text = text.replace("Add(state, x)", "Add(state, third)").replace("(n, , x)", "(n, , third)")
    found = balls(parsed(text), {"n": np.array(24), "x": np.array([1, 2], np.float32), "x0": np.array([3, 7], np.float32)})
    y, third = found["y"], found["third"]
    assert bool((y.spread >= 24 * third.spread).all()) and bool((y.spread <= y.worst).all())


def test_a_loop_without_iterations_knows_the_shape_of_its_rows() -> None:
    got = specs.run(parsed(LOOP), {"n": np.array(0), "x": np.array([1, 2], np.float32)})
    assert got["rows"].shape == (0, 2)
    np.testing.assert_array_equal(got["y"], [1, 2])


@pytest.mark.parametrize(("x", "decided"), [(0.75, True), (1.0, False)])
def test_if_on_an_undecided_condition_gives_up(x: float, decided: bool) -> None:
    # 3 * (x / 3) need not be x, so comparing it with 1 is undecided at x = 1.
    model = parsed("""
    <ir_version: 8, opset_import: ["" : 17]>
    agraph (float x) => (float y) {
        three = Constant <value_float: float = 3.0> ()
        one = Constant <value_float: float = 1.0> ()
        part = Div(x, three)
        back = Mul(part, three)
        test = Less(back, one)
        y = If (test) <
            then_branch = low () => (float a) { a = Identity(x) },
            else_branch = high () => (float b) { b = Neg(x) }
        >
    }
    """)
    ball = balls(model, {"x": np.array(x, np.float32)})["y"]
    assert (ball.worst is None or not bool(torch.isinf(ball.worst).any())) == decided


def test_scan_directions_and_axes() -> None:
    model = parsed("""
    <ir_version: 8, opset_import: ["" : 17]>
    agraph (float start, float[2, 3] x) => (float end, float[2, 3] sums) {
        zeros = Constant <value: tensor = float[2] {0, 0}> ()
        end, sums = Scan <num_scan_inputs: int = 1, scan_input_axes: ints = [-1], scan_input_directions: ints = [1], scan_output_axes: ints = [1],
            scan_output_directions: ints = [1], body = step (float s, float[2] e) => (float t, float[2] row) {
                total = ReduceSum <keepdims: int = 0> (e)
                t = Add(s, total)
                row = Add(e, t)
            }> (start, x)
    }
    """)
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    got = specs.run(model, {"start": np.array(0, np.float32), "x": x})
    running = np.cumsum(x.sum(0)[::-1])[::-1]
    assert got["end"] == 15
    np.testing.assert_array_equal(got["sums"], x + running)


def test_sequences_carry_the_radii_of_their_elements() -> None:
    model = parsed("""
    <ir_version: 8, opset_import: ["" : 17]>
    agraph (float[3] x, float[2] z) => (float[5] y, float[2] last, int64 n) {
        e = Exp(x)
        two = Constant <value_int: int = 1> ()
        s = SequenceConstruct(e, z)
        t = SequenceInsert(s, z)
        u = SequenceErase(t, two)
        y = ConcatFromSequence <axis: int = 0> (u)
        last = SequenceAt(u, two)
        n = SequenceLength(u)
    }
    """)
    got = balls(model, {"x": np.ones(3, np.float32), "z": np.ones(2, np.float32)})
    assert bool((got["y"].worst[:3] > 0).all())
    assert not bool(got["y"].worst[3:].any())
    assert got["last"].worst is None
    assert int(got["n"].value) == 2


def test_sequence_map_and_split_in_both_interpreters() -> None:
    model = parsed("""
    <ir_version: 8, opset_import: ["" : 17]>
    agraph (float[4] x) => (seq(float[1]) s) {
        parts = SplitToSequence(x)
        s = SequenceMap <body = each (float[1] e) => (float[1] f) { f = Exp(e) }> (parts)
    }
    """)
    x = np.arange(4, dtype=np.float32)
    assert len(specs.run(model, {"x": x})["s"]) == 4
    ball = balls(model, {"x": x})["s"]
    assert len(ball.worst) == 4
    assert float(ball.worst[0]) == 0  # exp 0 is 1 in every formula
    assert float(ball.worst[1]) > 0
