"""The self-check of every drawn operator: solved shapes, ONNX's inference, onnx.reference, our meaning and ONNX Runtime agree.

`--draws N` looks harder. A failing seed is printed with the command that shows it again.
"""

from __future__ import annotations

import warnings
from collections import Counter

import pytest

from fuzzer.grow import opsets
from oracles.backends.onnxruntime import warm
from specs.operator import Operator, operators
from specs.schema import schema
from tests.specs.selfcheck import check_one, exceptions

DRAWN = [o for o in sorted(operators().values(), key=lambda o: o.key) if o.draw is not None]
#: Nobody else runs these, so that only shapes and bounds are checked: {operator: reason}.
UNSEEN = {"com.microsoft.QLinearWhere": "ONNX Runtime alone implements it, and dies"}
SHOWN = 5  # failing seeds in a message


def title(op: Operator) -> str:
    return f"{op.domain}.{op.name}" if op.domain else op.name


@pytest.fixture(scope="module", autouse=True)
def warmed() -> None:
    warm()


@pytest.mark.parametrize("op", DRAWN, ids=title)
def test_all_views_agree(op: Operator, draws: int) -> None:
    tally, problems = Counter[str](), list[str]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(draws):
            try:
                problems += [f"{p}\n    python -m tests.specs.selfcheck {op.name} --show {seed}" for p in check_one(op, seed, tally)]
            except Exception as e:  # a drawing or a meaning that raises: told with its seed, like a wrong value
                problems.append(f"raised {type(e).__name__}: {e}\n    python -m tests.specs.selfcheck {op.name} --show {seed}")
    more = f"\n... and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    if problems:
        pytest.fail(f"{title(op)}: {len(problems)} problems in {draws} draws\n" + "\n".join(problems[:SHOWN]) + more, pytrace=False)
    assert tally["drawn"] * 2 >= draws, f"{title(op)}: {tally['misfit']} of {draws} draws did not fit"
    seen = tally["onnx.reference ran"] + tally["onnxruntime ran"]
    assert seen or title(op) in UNSEEN, f"{title(op)}: no other implementation looked at any of {draws} draws: {dict(tally)}"
    assert tally["torch ran"], f"{title(op)}: our own meaning never ran in the declared types: {dict(tally)}"


def test_every_operator_that_can_be_drawn_is_in_the_schema_it_claims() -> None:
    for op in DRAWN:
        newest = max(opsets(op.since)) if op.domain == "" else 1
        found = schema(op.name, op.domain, newest)
        assert found is not None and found.since_version <= newest, title(op)


def test_exceptions_name_known_views_and_operators_and_give_reasons() -> None:
    names = {name for _, name in operators()}
    for view, excused in exceptions().items():
        assert view in ("torch", "onnx.reference", "onnxruntime"), view
        for key, reason in excused.items():
            assert key.split(",")[0] in names, f"{view}: no operator {key}"
            assert len(reason) > 10, f"{view} {key}: say why"
