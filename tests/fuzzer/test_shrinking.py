"""Cases drawn again from fewer choices: smaller, valid, of the same kind, and within their time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest

from corpus import walk
from fuzzer.drawing import Drawing
from fuzzer.investigation import redrawing
from fuzzer.settings import Budget, Settings
from fuzzer.shrinking import Drawn, shrink
from fuzzer.sources import Recorded, Seeded
from oracles.plugin import Target
from oracles.records import Case
from specs.program import Program
from triage.cause import Model
from triage.known import has_chain

DRAWING = Drawing(Settings(Budget(cases=1), Path("out"), (Target("null", ("default",)),), seed=5))


def drawn(index: int) -> Case:
    return DRAWING.generated(index, Seeded(5, index)).case


def nodes(case: Case) -> int:
    proto = onnx.load_from_string(case.model)
    return sum(1 for _ in walk.all_nodes(proto.graph.node)) + sum(len(f.node) for f in proto.functions)


def pair(case: Case) -> tuple[str, str] | None:
    """Two operators of which one reads the other, nearest to the end."""
    every = Model(case.model).nodes
    maker = {o: n for n in every for o in n.output}
    return next(((maker[i].op_type, n.op_type) for n in reversed(every) for i in n.input if i in maker), None)


@pytest.fixture(scope="module")
def large() -> list[Case]:
    made = [drawn(i) for i in range(1, 60, 2)]
    return [c for c in made if nodes(c) >= 7 and pair(c)][:4]


def test_the_choices_give_the_case_again(large: list[Case]) -> None:
    assert len(large) == 4
    for case in large:
        again = DRAWING.again(case.origin["index"], case.origin["choices"])
        assert again is not None and again.case.id == case.id and list(again.choices) == case.origin["choices"]
        assert again.spans and all(a < b <= len(again.choices) for a, b in again.spans)


def test_what_is_left_still_has_what_mattered(large: list[Case]) -> None:
    smaller = 0
    for case in large:
        chain = pair(case)
        assert chain is not None

        def keeps(other: Case, chain: tuple[str, str] = chain) -> bool:
            return has_chain(Model(other.model), chain)

        found = shrink(case, lambda choices, index=case.origin["index"]: DRAWING.again(index, choices), keeps, 4.0)
        assert keeps(found.case) and nodes(found.case) <= nodes(case) and found.asked <= found.drawn
        onnx.checker.check_model(onnx.load_from_string(found.case.model), full_check=True)
        assert set(Program(found.case.model).inputs) == set(found.case.inputs)
        smaller += nodes(found.case) < nodes(case)
    assert smaller >= 2


def test_nothing_is_asked_when_the_case_is_not_what_its_choices_give(large: list[Case]) -> None:
    stranger = Case(large[0].model, large[0].inputs, {**large[1].origin})
    for case in (stranger, Case(large[0].model, large[0].inputs)):
        assert redrawing(DRAWING)(case, lambda other: pytest.fail("asked"), 5.0) is case


def test_it_ends_in_time(large: list[Case]) -> None:
    begun = time.monotonic()
    found = redrawing(DRAWING)(large[0], lambda other: False, 0.2)
    assert found.id == large[0].id and time.monotonic() - begun < 3


def test_a_recorded_source_tells_what_belongs_together() -> None:
    source = Recorded([3, 1, 4, 1, 5])
    source.choose(9)
    source.together(lambda: [source.choose(9) for _ in range(3)])
    source.together(lambda: source.choose(2))
    assert source.spans == [(1, 4), (4, 5)] and source.trail == [3, 1, 4, 1, 1]


def test_a_drawing_that_does_not_end_is_no_case(large: list[Case]) -> None:
    """Where the simplest operator never fits, the simplest choices ask for it again and again."""
    source = Recorded([1], most=40)
    with pytest.raises(RuntimeError, match="does not end after 40"):
        while source.choose(7) < 7:
            pass

    def never(choices: Sequence[int]) -> Drawn | None:
        if len(choices) < len(large[0].origin["choices"]):
            raise RuntimeError("a drawing does not end after 40 choices")
        return DRAWING.again(large[0].origin["index"], choices)

    assert shrink(large[0], never, lambda case: False, 1.0).case.id == large[0].id
