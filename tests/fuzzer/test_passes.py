"""Which optimisations changed a model: looked at in workers, kept with the coverage of a campaign."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx import TensorProto, helper

from corpus.store import Store
from fuzzer.coverage import stored, table
from fuzzer.passes import lines, rows, seen
from oracles import plugin
from oracles.backends import onnxruntime as ort
from oracles.records import Outcome
from tests.command import fuzz


def outcome(changed: tuple[str, ...] | None) -> Outcome:
    return Outcome("tvm", "fused", "ok", changed=changed)


def test_a_case_counts_once_and_the_first_is_remembered(tmp_path: Path) -> None:
    known = set[str]()
    with Store.open(tmp_path / "out") as store:
        store.tally(coverage=seen("tvm", 7, [outcome(("FuseOps",)), outcome(("FuseOps", "FuseTIR"))], known))
        store.tally(coverage=seen("tvm", 9, [outcome(("FuseOps",))], known))
        store.tally(coverage=seen("tvm", 10, [outcome(()), outcome(None)], known))
        store.tally(coverage=seen("tvm", 11, [outcome(None)], known))
        store.tally(coverage=seen("tvm", 4, [outcome(("FuseTIR",))], set()))  # another lane meets it too
    counts = stored(tmp_path / "out")
    assert rows(counts) == [
        {"backend": "tvm", "pass": "FuseOps", "cases": 2, "looked": 4, "first": 7},
        {"backend": "tvm", "pass": "FuseTIR", "cases": 2, "looked": 4, "first": 4},
    ]
    assert next(lines(rows(counts))) == "tvm: 2 optimisations changed a model, in 4 cases looked at"
    assert all(not r["draws"] and not r["accepted"] for r in table(counts)), "they are no points of operators"


def test_onnxruntime_tells_only_when_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "b"], ["y"])]
    weights = [helper.make_tensor(n, TensorProto.FLOAT, s, [0.5] * k) for n, s, k in (("w", [3, 2], 6), ("b", [2], 2))]
    graph = helper.make_graph(nodes, "g", [info("x", 1, [4, 3])], [info("y", 1, [4, 2])], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10).SerializeToString()
    ort.onnxruntime(model, "all")
    assert plugin.changed is None
    for setting, names in (("off", []), ("all", ["MatMulAddFusion"])):
        monkeypatch.setattr(plugin, "changed", told := [])
        ort.onnxruntime(model, setting)
        assert [set(t) >= set(names) for t in told] == [True] and bool(told[0]) == bool(names)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "cases", "expected"),
    [("onnxruntime:all", 40, {"ConstantFolding", "Level1_RuleBasedTransformer", "MatMulAddFusion"}), ("tvm:fused", 8, {"FuseOps", "LegalizeOps"})],
)
def test_a_campaign_says_which_optimisations_it_woke(backend: str, cases: int, expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = backend.split(":")[0]
    if plugin.find(name).missing():
        pytest.skip(plugin.find(name).missing())
    monkeypatch.setenv("ASSAY_LOOK", "1")
    options = ("--backends", backend, "--blocks", "idiom/*", "--out", tmp_path / "out", "--ui", "plain", "--workers", "1")
    ran = fuzz("run", "--budget", f"{cases}cases", *options, cwd=tmp_path)
    assert ran.returncode in (0, 1), ran.stderr
    told = json.loads(fuzz("coverage", "--out", tmp_path / "out", "--json", cwd=tmp_path).stdout)["passes"]
    assert expected <= {r["pass"] for r in told if r["backend"] == name}
    assert all(0 < r["cases"] <= r["looked"] <= cases and 0 <= r["first"] < 2 * cases for r in told)
