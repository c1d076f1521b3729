"""Balls of whole models: where single rules meet, and where one did not hold."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import parser

from oracles.adjoint import weigher
from oracles.compare import compare
from oracles.reference import balls, reference
from specs.numerics import Ball
from specs.program import Program


def test_softmax_of_operands_that_nobody_knows() -> None:
    """0 and 1e4, both within 1e5: either may be the largest, although the exponential of their distance is 0."""
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[2, 2] x) => (float[2, 2] y) { y = Softmax (x) }'
    program = Program(parser.parse_model(text).SerializeToString(), torch.float64)
    x = torch.tensor([[0.0, 1e4], [3.0, 1.0]], dtype=torch.float64)
    w = torch.tensor([[1e5, 1e5], [0.1, 0.1]], dtype=torch.float64)
    worst = balls(program, {"x": Ball(x, w, w)})["y"].ball.worst
    assert worst is not None and bool((worst[0] >= 1).all()) and bool((worst[1] < 0.05).all())


def test_a_number_of_results_that_nobody_knows() -> None:
    """The middle of the window is 1 or just below: as an integer 1 or 0, so NonZero has one result or none."""
    text = """<ir_version: 9, opset_import: ["" : 20]> g () => (int64[1,n] y)
        <int64 size = {12}> { w = BlackmanWindow<output_datatype = 7>(size)  y = NonZero(w) }"""
    want = reference(Program(parser.parse_model(text).SerializeToString(), torch.float64), {})["y"]
    assert compare("b", "s", "y", want, np.zeros((1, 0), np.int64)).verdict == "ok"
    assert compare("b", "s", "y", want, np.full((1, 1), 6)).verdict == "ok"
    assert compare("b", "s", "y", want, np.zeros((2, 1), np.int64)).verdict == "mistyped"


@pytest.mark.parametrize("body", ["MatMul(x, z)", "Gemm(x, z)", 'Einsum<equation = "ij,jk->ik">(x, z)'])
def test_what_may_be_no_number_is_not_made_one_by_a_weight_of_zero(body: str) -> None:
    """A logarithm close to 0 may be NaN, and NaN times 0 is NaN."""
    text = f'<ir_version: 8, opset_import: ["" : 18]> g (float[2,2] x, float[2,3] z) => (float[2,3] y) {{ y = {body} }}'
    program = Program(parser.parse_model(text).SerializeToString(), torch.float64)
    radius = torch.tensor([[torch.inf, 0.0], [0.0, 0.0]], dtype=torch.float64)
    x, z = torch.ones(2, 2, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    worst = balls(program, {"x": Ball(x, radius, radius), "z": Ball(z)})["y"].ball.worst
    assert worst is not None and bool((worst[0] == torch.inf).all()) and bool((worst[1] < 1e-30).all())


def test_a_choice_of_neighbours_is_left_to_the_ball() -> None:
    """Whether 7 * 1.6666667 or 11 is the length leads to another neighbour; the square has no slope at 0, so to first order it could only be 0."""
    text = """<ir_version: 8, opset_import: ["" : 14]> g (float[1,1,7] x) => (float[1,1,11] y)
        <float[3] s = {1, 1, 1.6666667}>
        { r = Resize<coordinate_transformation_mode = "align_corners">(x, "", s)  y = Mul(r, r) }"""
    inputs = {"x": np.array([[[0, 0, 0, 0, 1, 0, 0]]], np.float32)}
    program = Program(parser.parse_model(text).SerializeToString(), torch.float64)
    want, weigh = reference(program, inputs)["y"], weigher(program, inputs)
    got = want.ball.value.float().numpy()
    for value, verdicts in ((0, ("ok", "noise")), (1, ("ok", "noise")), (2, ("wrong",))):
        got[0, 0, 6] = value
        assert weigh(compare("b", "s", "y", want, got)).verdict in verdicts


def test_a_contraction_may_be_summed_onto_what_is_added_to_it() -> None:
    """A fused convolution begins with the other operand of Add, then adds its products and its bias: two roundings at that operand's size."""
    text = """<ir_version: 8, opset_import: ["" : 18]> g (float[1,1,1] x, float[1,1,1] w, float[1] b, float[1,1,1] z) => (float[1,1,1] y)
        { c = Conv(x, w, b)  y = Add(c, z) }"""
    program = Program(parser.parse_model(text).SerializeToString(), torch.float64)
    for seed in range(100):
        draw = np.random.default_rng(seed)
        x, w, b = (draw.normal(0, 0.02, n).astype(np.float32) for n in ((1, 1, 1), (1, 1, 1), 1))
        z = np.ones((1, 1, 1), np.float32)
        want = reference(program, {"x": x, "w": w, "b": b, "z": z})["y"]
        assert compare("b", "s", "y", want, (z + b) + x * w).grade != "certified"
