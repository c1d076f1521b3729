"""The planted faults of the benchmark: each is where it should be, shows itself, and triage says the right thing of it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from benchmarks.planted import FAULTS, fires
from benchmarks.triage import VARIANTS, network
from corpus.folders import write_case
from fuzzer.reducing import Limits, find_failure
from oracles.plugin import parse
from oracles.pool import run
from triage.interest import Effort, reduce_finding

BY_NAME = {f.name: f for f in FAULTS}


def test_every_network_has_its_fault_and_no_other() -> None:
    assert len(FAULTS) == 20 and len(BY_NAME) == 20
    for fault in FAULTS:
        for variant in range(VARIANTS):
            model = onnx.load_from_string(network(fault, variant).model)
            onnx.checker.check_model(model, full_check=True)
            assert fires(model) == [fault.name] and len(model.graph.node) > 10
    two = onnx.load_from_string(network(FAULTS[0], 2, FAULTS[7]).model)
    assert fires(two) == sorted([FAULTS[0].name, FAULTS[7].name])


@pytest.mark.backends
@pytest.mark.parametrize("name", ["relu-lost", "sine-lost", "sqrt-of-exp", "erf"])
def test_a_planted_fault_is_reduced_and_blamed(name: str, tmp_path: Path) -> None:
    """A pass, two accomplices, a pass that raises, and a kernel."""
    fault = BY_NAME[name]
    finding = find_failure(write_case(tmp_path, network(fault, 0)), None, tuple(parse("planted:*")), Limits())
    assert finding is not None
    small, result = reduce_finding(finding, run, effort=Effort(60.0, 20.0))
    assert result.nodes == len(fault.ops) and fires(onnx.load_from_string(small.case.model)) == [name]
    assert set(small.cause.guilty) == set(fault.switches)
    assert ("each does the harm alone" in small.blame) is (len(fault.switches) > 1)
