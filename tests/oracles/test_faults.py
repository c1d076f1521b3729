"""The second judge of the judge: seeded faults must be found, and what is legal among them must not."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from benchmarks.seeded import flagged, peers, visible
from oracles.backends.faulty import with_fault
from oracles.faults import faults
from oracles.judge import judge_outcomes
from oracles.plugin import find
from oracles.records import Outcome

#: Kernels of which each is found in the first 20 cases that reach it.
GROSS = [
    f"{kind}:{op}"
    for kind, ops in {"zero": ("MatMul", "Conv", "Softmax", "LayerNormalization", "Relu", "Add"), "identity": ("Relu", "Softmax", "Sigmoid")}.items()
    for op in ops
]
TRUNCATED = ["tail-4:MatMul", "tail-16:Conv", "tail-4:Add", "tail-4:Softmax", "truncated-sum-4", "truncated-sum-8"]
#: Visible only under conditions that safe inputs do not meet.
HIDDEN = {"nan-lost"}


def test_there_are_many_faults_of_all_severities() -> None:
    counts = Counter(f.severity for f in faults().values())
    assert len(faults()) >= 100 and all(counts[s] >= 20 for s in ("gross", "subtle", "precision"))
    assert set(find("faulty").settings) == {"ok", *faults()}


@pytest.mark.parametrize("name", [*GROSS, *TRUNCATED])
def test_found_in_the_first_twenty_cases_that_reach_it(name: str) -> None:
    reached = list(visible([name], 20, 80, seed="twenty"))
    assert reached, f"{name}: no network had a place for it"
    assert any(flagged(s.verdicts()) for s in reached)
    # A tail is only sometimes long; a kernel of zeros is seen at once.
    assert flagged(reached[0].verdicts()) or name in TRUNCATED


def test_most_faults_are_found_at_their_first_visible_case() -> None:
    """By severity, over every kind of fault. The shares are those of `fuzz bench detection`, with room for few cases."""
    wanted = [n for n, f in faults().items() if f.kind not in HIDDEN]
    cases, hits, peer = Counter[str](), Counter[str](), Counter[str]()
    for s in visible(wanted, 1, 6, seed="first"):
        severity = s.fault.severity if s.p.kind in ("float", "double", "integer") else "low"
        cases[severity] += 1
        hits[severity] += flagged(s.verdicts())
        peer[severity] += peers(s.p, s.outputs, s.healthy)["1e-2 1e-3"]
    assert cases["gross"] > 60 and cases["subtle"] > 40 and cases["precision"] > 40
    assert hits["gross"] >= 0.98 * cases["gross"] and hits["subtle"] >= 0.95 * cases["subtle"] and hits["precision"] >= 0.9 * cases["precision"]
    assert peer["precision"] < 0.3 * cases["precision"]  # what a fixed tolerance sees of the same faults
    assert hits["legal"] == 0


def test_without_its_fault_the_backend_is_clean() -> None:
    for s in visible(["relative-2^-8:MatMul", "zero:Conv"], 6, 24, seed="clean"):
        call = with_fault(s.p.case.model, None)
        verdicts = judge_outcomes(s.p.expected, [Outcome("faulty", "ok", "ok", call(s.p.case.inputs))], s.p.weigh)
        assert not flagged(verdicts), verdicts


def test_inputs_of_the_caller_stay_as_they_are() -> None:
    """A fault that writes over its operand must not write over the inputs of the benchmark."""
    for s in visible(["in-place:Relu"], 3, 24, seed="place"):
        before = {k: np.array(v, copy=True) for k, v in s.p.case.inputs.items()}
        with_fault(s.p.case.model, faults()["in-place:Relu"].at)(s.p.case.inputs)
        assert all(np.array_equal(before[k], v, equal_nan=v.dtype.kind == "f") for k, v in s.p.case.inputs.items())


def test_a_second_run_that_differs_is_unstable() -> None:
    for s in visible(["stale-second-run:MatMul"], 3, 24, seed="stale"):
        assert any(v.verdict == "unstable" for v in s.verdicts())
