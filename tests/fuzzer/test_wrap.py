"""Wrapping a part of a network: another construct for the compiler, the same function."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch

import specs
from fuzzer.emit import emit, fill
from fuzzer.grow import Menu
from fuzzer.network import Network
from fuzzer.search import search
from fuzzer.sources import Seeded
from fuzzer.wiring import grow
from fuzzer.wrap import WAYS, wrap
from oracles.compare import compare
from oracles.reference import reference
from specs.formats import FLOATS
from specs.program import Program
from specs.rule import Misfit

WRAPPED = 6  # networks of each kind that have to be seen
DETERMINISTIC = Menu(names=frozenset(("", n) for n in ("Relu", "Add", "Mul", "MatMul", "Transpose", "Tanh", "Sub", "Concat", "ReduceSum", "Neg", "Softmax")))


def name(way: Callable[..., Network]) -> str:
    return way.__name__.strip("_")


def evaluated(network: Network, contents: dict[str, np.ndarray]) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    proto = emit(network)
    fill(proto, contents)
    return proto, {v.name: contents[v.name] for v in network.inputs}


@pytest.mark.parametrize("way", WAYS, ids=name)
def test_the_wrapped_network_computes_the_same(way: Callable[..., Network]) -> None:
    seen = 0
    for i in range(200):
        source = Seeded("wrap", name(way), i)
        network = grow(source, 6, DETERMINISTIC)
        plain = copy.deepcopy(network)
        try:
            wrapped = way(network, source)
        except Misfit:
            continue
        seen += 1
        proto = emit(wrapped)
        found = search(wrapped.leaves, Program(proto, torch.float64), source)
        model, inputs = evaluated(wrapped, dict(found.contents))
        onnx.checker.check_model(model, full_check=True)
        got = specs.run(model, inputs, "float64")
        if name(way) != "loop":  # whose body may run more than once
            taken = bool(found.contents.get("if_condition", np.asarray(True)))
            first, others = evaluated(plain, dict(found.contents))
            for output, value in specs.run(first, others, "float64").items() if taken else ():
                np.testing.assert_allclose(got[output], value, rtol=1e-12, err_msg=f"{name(way)} {i} {output}")
        if seen >= WRAPPED:
            return
    pytest.fail(f"{name(way)}: wrapped {seen} of 200 networks")


def test_the_construct_is_there() -> None:
    kinds = Counter[str]()
    for i in range(300):
        source = Seeded("construct", i)
        network = wrap(grow(source, 8), source)
        proto = emit(network)
        nodes = Counter(n.op_type for n in proto.graph.node)
        for kind in ("If", "Loop", "Scan"):
            if kind in network.features:
                assert nodes[kind] == 1
                kinds[kind] += 1
        if "function" in network.features:
            assert len(proto.functions) == 1 and any(n.domain == "assay.functions" for n in proto.graph.node)
            kinds["function"] += 1
        if "sequence" in network.features:
            assert any(n.startswith(("Sequence", "SplitToSequence", "ConcatFromSequence")) for n in nodes)
            kinds["sequence"] += 1
        if "optional" in network.features:
            assert any(n.startswith("Optional") for n in nodes)
            kinds["optional"] += 1
        if "symbolic dimensions" in network.features:
            assert any(d.dim_param for v in proto.graph.input for d in v.type.tensor_type.shape.dim)
            kinds["symbolic"] += 1
    assert min(kinds[k] for k in ("If", "Loop", "Scan", "function", "sequence", "optional", "symbolic")) >= 1, kinds


def test_bounds_go_through_sub_graphs() -> None:
    """The reference of a wrapped network has bounds, not just undecided elements: low precision runs are inside them."""
    for i in range(80):
        source = Seeded("bounds", i)
        network = wrap(grow(source, 5, DETERMINISTIC), source)
        if not network.features & {"If", "Loop", "Scan", "function"} or not all(v.format in FLOATS for v in network.outputs):
            continue
        program = Program(emit(network), torch.float64)
        found = search(network.leaves, program, source)
        model, inputs = evaluated(network, dict(found.contents))
        expected = reference(Program(model, torch.float64), inputs)
        got = specs.run(model, inputs)
        for output, want in expected.items():
            verdict = compare("torch", "", output, want, got[output])
            assert verdict.verdict in ("ok", "noise"), f"{i} {sorted(network.features)} {verdict}"
