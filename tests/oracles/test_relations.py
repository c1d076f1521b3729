"""Relations are looked at as hard as backends: one that does not hold is our mistake, and is noticed before anything runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fuzzer.assemble import assemble
from fuzzer.emit import emit, fill
from fuzzer.grow import Menu
from fuzzer.search import search
from fuzzer.sources import Seeded
from oracles.reference import reference
from oracles.relations import apart
from specs.net import Relation
from specs.program import Program
from specs.rule import Misfit


def _residual(mistake: bool) -> Any:
    """A shortcut is a Dirac kernel, or half of one."""

    def sides(net: Any, x: Any) -> Any:
        c = x.shape[1]
        w = net.weight(c, c, 1, 1)
        dirac = net.const((torch.eye(c) * (0.5 if mistake else 1.0)).reshape(c, c, 1, 1).numpy())
        return net("Add", net("Conv", x, w), x), net("Conv", x, net("Add", w, dirac))

    return sides


def _told(relation: Relation, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `apart` says of networks of this relation."""
    monkeypatch.setattr("fuzzer.assemble._relations", lambda names, opset: (relation,))
    said = list[str]()
    for seed in range(200):
        try:
            network = assemble(Seeded("relation", seed), 4, Menu(), 1 << 14)
        except Misfit:
            continue
        if network.sides is None:
            continue
        proto = emit(network)
        program = Program(proto, torch.float64)
        found = search(network.leaves, program, Seeded("contents", seed))
        fill(proto, found.contents)
        expected = reference(Program(proto, torch.float64), {v.name: found.contents[v.name] for v in network.inputs})
        said.append(apart(*(expected[name] for name in network.sides)))
    assert len(said) > 5
    return said


def test_one_that_holds_is_never_doubted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(_told(Relation("test/right", "test", _residual(mistake=False), (2,), "image"), monkeypatch))


def test_one_with_a_mistake_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    said = _told(Relation("test/wrong", "test", _residual(mistake=True), (2,), "image"), monkeypatch)
    assert sum("differ" in s for s in said) > 0.9 * len(said), said
