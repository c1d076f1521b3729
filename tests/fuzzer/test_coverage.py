"""Attribute classes, coverage and its pages."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from fuzzer.attributes import NOT, RULES, classes, universe
from fuzzer.coverage import DRAWN, covered, draw, fresh, html, lines, newly, points, stored, table
from fuzzer.menus import avoided
from fuzzer.sources import Seeded
from fuzzer.wiring import grow
from fuzzer.wrap import WAYS
from specs.operator import find, operators
from specs.rule import UsageError


def op(name: str, domain: str = ""):  # type: ignore[no-untyped-def]
    found = find(name, domain)
    assert found is not None
    return found


def test_values_fall_into_classes() -> None:
    found = set(classes("Conv", "", 22, {"auto_pad": "VALID", "strides": [1, 2], "group": 3, "kernel_shape": [2, 2]}))
    assert {"auto_pad=VALID", "strides=length2", "strides=1", "strides=2+", "group=2+", "pads=absent", "dilations=absent"} <= found
    assert set(classes("LeakyRelu", "", 16, {"alpha": 0.01})) == {"alpha=default"}  # 0.01 as 32 bits hold it
    assert set(classes("Softmax", "", 13, {"axis": -2})) == {"axis=negative"}
    assert "to=@int8" in classes("Cast", "", 22, {"to": 3})


def test_the_universe_follows_the_schema() -> None:
    assert {"axis=absent", "axis=negative", "axis=0", "axis=1", "axis=2+"} == universe(op("Softmax"))
    assert "axis=absent" not in universe(op("Concat"))  # required
    assert "to=@uint64" in universe(op("Cast")) and "to=@string" not in universe(op("Cast"))
    assert not universe(op("Relu"))


def test_rules_are_of_attributes_that_exist() -> None:
    from specs import schema

    names = {
        a for o in operators().values() for opset in range(13, 29) if (s := schema.schema(o.name, o.domain, opset if not o.domain else 1)) for a in s.attributes
    }
    unknown = {r.rsplit(".", 1)[-1] for r in RULES} - names
    assert not unknown
    assert all(len(reason) > 10 for reason in NOT.values())


def test_every_class_occurs_in_30000_draws_and_no_other() -> None:
    rows = table(fresh(30_000))
    assert sum(r["draws"] for r in rows) <= 31_000
    assert {f"{r['op']} {c}" for r in rows for c in r["never"]} == set()
    assert {f"{r['op']} {c}" for r in rows for c in r["unexpected"]} == set()


@pytest.mark.parametrize("name", ["If", "Loop", "Scan", "SequenceMap", "SequenceErase", "ConcatFromSequence", "OptionalHasElement"])
def test_operators_without_a_drawing_come_by_wrapping(name: str) -> None:
    found = [p for i in range(30) for p in points(draw(op(name), i))]
    assert found.count(name) >= 5


def test_points_see_sub_graphs() -> None:
    scan = next(w for w in WAYS if w.__name__ == "_scan")
    for i in range(40):
        source = Seeded("points", i)
        network = grow(source, 4)
        try:
            wrapped = scan(network, source)
        except Exception:  # does not fit: another one
            continue
        inside = next(s for s in wrapped.steps if s.op == "Scan").bodies["body"].steps[0].op
        assert {inside, "Scan", "Scan body=given"} <= points(wrapped)
        return
    pytest.fail("nothing was scanned")


def test_tables_show_what_was_never_drawn_and_who_accepted_it(tmp_path: Path) -> None:
    counts = Counter({(DRAWN, "Softmax"): 3, (DRAWN, "Softmax axis=negative"): 2, ("onnxruntime", "Softmax"): 2, ("onnxruntime", "Softmax axis=negative"): 1})
    (row,) = table(counts, frozenset([("", "Softmax")]))
    assert row["draws"] == 3 and row["accepted"] == {"onnxruntime": 2}
    assert row["attributes"]["axis=negative"] == {DRAWN: 2, "onnxruntime": 1}
    assert row["never"] == ["axis=0", "axis=1", "axis=2+", "axis=absent"]
    assert "never: axis=0" in "\n".join(lines([row]))
    page = html([row], "a <test>")
    assert "axis=2+" in page and "never" in page and "&lt;test&gt;" in page and "http" not in page
    assert json.dumps([row])


def test_what_a_backend_runs_by_now_is_noticed() -> None:
    """Drawing is steered away from it, and draws it now and then all the same."""
    old = sorted(avoided("onnxruntime"))[0]
    counts = Counter({("onnxruntime", f"+{old}"): 1, ("onnxruntime refused", f"+{old}"): 3, (DRAWN, f"+{old}"): 4, ("onnxruntime", "+Add T=float"): 9})
    assert newly(counts) == {"onnxruntime": [old]}
    assert newly(Counter({("onnxruntime refused", f"+{old}"): 3})) == {}
    relu = draw(op("Relu"), 0)
    assert {f"+{s.key}" for s in relu.steps} <= points(relu)


def test_a_folder_without_a_campaign_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"fuzz\.db"):
        stored(tmp_path)


def test_what_lanes_count_is_found_again(tmp_path: Path) -> None:
    from corpus.store import Store

    with Store.open(tmp_path / "out") as store:
        store.tally(coverage={(DRAWN, "Conv auto_pad=VALID"): 2, ("tvm", "Conv auto_pad=VALID"): 1})
        store.tally(coverage={(DRAWN, "Conv auto_pad=VALID"): 3})
    assert stored(tmp_path / "out") == {(DRAWN, "Conv auto_pad=VALID"): 5, ("tvm", "Conv auto_pad=VALID"): 1}


def test_covered_operators_have_a_drawing_or_are_wrapped() -> None:
    assert len(covered()) > 200


@pytest.mark.parametrize(("name", "least"), [("Relu", 0), ("Add", 0), ("Cast", 0), ("ReduceMean", 0), ("Softmax", 1), ("Concat", 1), ("MatMul", 2)])
def test_every_rank_up_to_six_is_drawn(name: str, least: int) -> None:
    ranks = {int(p.rpartition("=")[2]) for i in range(400) for p in points(draw(op(name), i)) if p.startswith(f"{name} rank=")}
    assert ranks >= set(range(least, 7))
