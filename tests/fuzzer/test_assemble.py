"""Networks from blocks: one of them may be a function, which changes nothing; none is drawn before its opset."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

import specs
from fuzzer.assemble import assemble
from fuzzer.emit import emit, fill
from fuzzer.grow import Menu
from fuzzer.network import Network
from fuzzer.search import search
from fuzzer.sources import Seeded
from specs.net import blocks, relations
from specs.program import Program
from specs.rule import Misfit

IMAGES = Menu(blocks=frozenset(b.id for b in blocks().values() if b.takes == "image" and b.weight == 1), opsets=(13, 18, 21))


def made(seed: int, menu: Menu = IMAGES, elements: int = 1 << 13) -> Network | None:
    try:
        return assemble(Seeded("assemble", seed), 4, menu, elements)
    except Misfit:
        return None


def computed(network: Network) -> tuple[onnx.ModelProto, list[np.ndarray]]:
    proto = emit(network)
    found = search(network.leaves, Program(proto, torch.float64), Seeded("contents"))
    fill(proto, found.contents)
    got = specs.run(proto, {v.name: found.contents[v.name] for v in network.inputs}, "float64")
    return proto, [np.asarray(got[v.name]) for v in network.outputs]


def test_a_block_that_is_a_function_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = 0
    for seed in range(80):
        monkeypatch.setattr("fuzzer.assemble.CALLED", 1 << 40)
        plain = made(seed)
        monkeypatch.setattr("fuzzer.assemble.CALLED", 1)
        called = made(seed)
        if plain is None or called is None or not called.functions or "Dropout" in {s.op for s in plain.steps}:
            continue
        seen += 1
        assert not plain.functions
        (_, expected), (proto, got) = computed(plain), computed(called)
        onnx.checker.check_model(proto, full_check=True)
        assert len(proto.functions) > 0
        for a, b in zip(expected, got, strict=True):
            np.testing.assert_array_equal(a, b)
    assert seen > 15


def test_nothing_is_drawn_before_its_opset() -> None:
    late = {b.id: b.since for b in (*blocks().values(), *relations().values()) if b.since > 13}
    assert late["fp8-formats/cast"] == 19 and late["cirim/unitary"] == 17
    menu = Menu(blocks=frozenset(("fp8-formats", "fp8-formats/cast", "cirim")) & (blocks().keys() | {"cirim"}), opsets=(13, 19))
    drawn = [n for n in (made(seed, menu) for seed in range(60)) if n is not None]
    features = {(n.opset, f.split(" ")[1]) for n in drawn for f in n.features if f.startswith(("block ", "relation "))}
    assert (19, "fp8-formats/cast") in features and (19, "cirim/unitary") in features
    assert not [(o, f) for o, f in features if o < late.get(f, 0)]


def test_composed_networks_are_made_of_the_catalogue() -> None:
    from specs.blocks import composed

    for rank, least in ((1, 80), (2, 200), (3, 60)):
        ids = {b.id for b in composed.parts(rank, 18)}
        assert len(ids) > least and not any(i.endswith(("/net", "/kernel")) or i.startswith(("composed", "idiom")) for i in ids), len(ids)
    odd = [n for n in (made(seed, Menu(blocks=frozenset(["composed/u-shape"]), opsets=(18,)), 1 << 15) for seed in range(12)) if n is not None]
    assert any(d is not None and d % 2 for n in odd for v in n.inputs for d in v.shape[2:])
    assert len({s.op for n in odd for s in n.steps}) > 20
