"""Contents on edges are drawn again, those that decide are left alone."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
import torch

from benchmarks.cases import prepared
from fuzzer.decided import ENOUGH, TRIES, Contents, decided, undecided
from fuzzer.generate import generate_from
from fuzzer.search import Found
from fuzzer.sources import Seeded
from oracles.reference import reference
from specs.program import Program

#: A range around zero has its zero point half-way between 127 and 128, so every element may be one off.
QUANTISED = "agraph (float[4] x) => (uint8[4] y, float s, uint8 z) { y, s, z = DynamicQuantizeLinear(x) }"
TIED = np.array([-2, -1, 1, 2], np.float32)
CLEAR = np.array([-2, -1, 1, 2.7], np.float32)


def program(text: str = QUANTISED) -> Program:
    return Program(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}'), torch.float64)


def found(x: np.ndarray, safe: bool = True) -> Found:
    return Found({"x": x}, safe, 0, 0.0)


def test_a_tie_is_drawn_again() -> None:
    drawn, written = [CLEAR, TIED], list[Contents]()

    def inputs(contents: Contents) -> Contents:
        written.append(contents)
        return contents

    best, expected = decided(program(), found(TIED), inputs, lambda: found(drawn.pop(0)))
    assert best.contents["x"] is CLEAR and len(drawn) == 1
    assert undecided(expected) <= ENOUGH and bool((expected["y"].ball.value == reference(program(), {"x": CLEAR})["y"].ball.value).all())
    assert written[-1] is best.contents  # the program is left with the weights of what was returned


def test_what_cannot_be_decided_keeps_the_first_contents() -> None:
    tries = list[Found]()

    def again() -> Found:
        tries.append(found(TIED * 4, safe=len(tries) > 0))
        return tries[-1]

    best, expected = decided(program(), found(TIED), lambda c: c, again)
    assert best.contents["x"] is TIED and len(tries) == TRIES
    assert undecided(expected) > 0.5 and undecided(expected, steps=False) == 0.0  # one off, not anything


def test_contents_that_decide_are_left_alone() -> None:
    best, expected = decided(program(), found(CLEAR), lambda c: c, never)
    assert best.contents["x"] is CLEAR and undecided(expected) == 0.0


def never() -> Found:
    raise AssertionError("drawn again")


def test_a_case_comes_with_the_reference_at_its_inputs() -> None:
    for i in range(20):
        made = generate_from(Seeded("expected", i), 6)
        if made.expected is None:
            assert not made.found.safe
            continue
        again = reference(Program(made.case.model, torch.float64), made.case.inputs)
        for name, want in again.items():
            if isinstance(want.ball.value, torch.Tensor):
                have = made.expected[name].ball
                assert torch.equal(have.value.double().nan_to_num(), want.ball.value.double().nan_to_num())


@pytest.mark.slow
def test_few_elements_stay_undecided() -> None:
    cases = [p for i in range(200) if (p := prepared(("decided", i), 10)) is not None]
    assert sum(undecided(p.expected) for p in cases) / len(cases) < 0.03
