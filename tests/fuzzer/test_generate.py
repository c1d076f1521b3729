"""Generated models are valid, of the shapes we say, reproducible from their seed or their choices, and varied."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzer import generate
from fuzzer.generate import Generated, generate_from
from fuzzer.grow import OPSETS, Growth, Menu
from fuzzer.sources import Recorded, Seeded
from fuzzer.wiring import WIRINGS, grow
from specs.operator import operators

ROOT = Path(__file__).resolve().parents[2]
CASES = 500  # networks of 10 nodes that the statistics are taken over

#: The drawn features of the design, by the names they are counted under, each with the least share of cases.
FEATURES = {
    "broadcast": 0.05, "rank 0": 0.02, "size 0": 0.02, "negative axis": 0.1, "omitted optional input": 0.05, "explicit default": 0.2,
    "same value twice": 0.03, "several outputs": 0.1, "unused output": 0.03, "intermediate output": 0.1, "operand as input": 0.5,
    "operand as initializer": 0.5, "operand as constant": 0.3, "operand as computed constant": 0.05, "symbolic dimensions": 0.01, "If": 0.01, "Loop": 0.002,
    "Scan": 0.002, "function": 0.004, "sequence": 0.01, "optional": 0.01, "backward": 0.1, "backward, solved by z3": 0.005,
}  # fmt: skip


@lru_cache(maxsize=1)
def made() -> list[Generated]:
    return [generate_from(Seeded("statistics", i), 10) for i in range(CASES)]


def valid(model: bytes) -> onnx.ModelProto:
    """The model with everything inferred anew, nothing declared but its inputs."""
    onnx.checker.check_model(model, full_check=True)
    proto = onnx.load_from_string(model)
    whole = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    if any(n.domain for n in proto.graph.node):
        return whole  # ONNX cannot infer types through these, and onnx 1.23 dies where EyeLike meets an operand without a type
    del proto.graph.value_info[:]
    for o in proto.graph.output:
        if o.type.HasField("tensor_type"):
            o.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)


def shapes(proto: onnx.ModelProto) -> dict[str, list[int | None]]:
    infos = [*proto.graph.value_info, *proto.graph.output]
    tensors = [(i.name, i.type.tensor_type) for i in infos if i.type.HasField("tensor_type") and i.type.tensor_type.HasField("shape")]
    return {name: [d.dim_value if d.HasField("dim_value") else None for d in t.shape.dim] for name, t in tensors}


def check(g: Generated) -> None:
    inferred = shapes(valid(g.case.model))
    for v in g.network.values:
        if v.name in inferred and not v.wrapper and len(inferred[v.name]) == len(v.shape):
            assert all(a is None or b is None or a == b for a, b in zip(inferred[v.name], v.shape, strict=True)), (
                f"{v.name}: {inferred[v.name]}, ours {v.shape}"
            )
        elif v.name in inferred and not v.wrapper:
            pytest.fail(f"{v.name}: rank {len(inferred[v.name])}, ours {v.shape}")
    for v in g.network.inputs:
        assert g.case.inputs[v.name].shape == v.shape and g.case.inputs[v.name].dtype == v.format.numpy


# validity ------------------------------------------------------------------------------------------------------------
@given(st.integers(0, 2**32), st.integers(1, 16))
def test_any_seed_and_size_gives_a_valid_model(seed: int, nodes: int) -> None:
    check(generate_from(Seeded(seed), nodes))


def test_hundreds_of_networks_are_valid_and_of_our_shapes() -> None:
    for g in made():
        check(g)


@pytest.mark.parametrize("opset", sorted(OPSETS))
def test_every_opset_can_be_asked_for(opset: int) -> None:
    for i in range(6):
        g = generate_from(Seeded("opset", opset, i), 8, Menu(opsets=(opset,)))
        check(g)
        assert {o.version for o in onnx.load_from_string(g.case.model).opset_import if o.domain == ""} == {opset}


@pytest.mark.slow
def test_large_networks_are_valid_too() -> None:
    for nodes in (40, 100, 400):
        check(generate_from(Seeded("large", nodes), nodes))


def test_every_wiring_reaches_its_size() -> None:
    for wiring in WIRINGS:
        sizes = [len(grow(Seeded("wiring", i), 12, wiring=wiring).steps) for i in range(20)]
        assert statistics.median(sizes) >= 11, f"{wiring.__name__}: {sizes}"


def test_only_operators_of_the_menu_are_drawn() -> None:
    names = frozenset({("", "Conv"), ("", "Relu"), ("", "Add")})
    for i in range(20):
        g = generate_from(Seeded("menu", i), 6, Menu(names=names), wraps=False)
        assert {s.op for s in g.network.steps} <= {"Conv", "Relu", "Add", "Identity"}


def test_known_refusals_are_drawn_rarely() -> None:
    """What a backend does not run is avoided by operator and formats, but never forgotten."""
    names = frozenset({("", "Add"), ("", "Relu")})
    keys = [s.key for i in range(60) for s in grow(Seeded("avoid", i), 6, Menu(names=names)).steps]
    often = Counter(keys).most_common(1)[0][0]
    again = [s.key for i in range(60) for s in grow(Seeded("avoid", i), 6, Menu(names=names, avoid=frozenset({often}))).steps]
    assert again.count(often) < 0.25 * keys.count(often)
    alone = Menu(names=frozenset({("", often.split(" ")[0])}), avoid=frozenset({often}))
    assert any(s.key == often for i in range(300) for s in grow(Seeded("probe", i), 2, alone).steps)


# reproducibility -----------------------------------------------------------------------------------------------------
@given(st.integers(0, 2**20), st.integers(0, 2**20))
def test_the_same_seed_gives_the_same_bytes_and_its_choices_replay(seed: int, index: int) -> None:
    first, again = generate(seed, index, nodes=6), generate(seed, index, nodes=6)
    replayed = generate_from(Recorded(first.origin["choices"]), 6).case
    assert first.model == again.model == replayed.model
    assert first.id == again.id == replayed.id
    for name, a in first.inputs.items():
        assert a.tobytes() == replayed.inputs[name].tobytes()


def test_neither_the_process_nor_its_hash_seed_matters() -> None:
    code = "from fuzzer import generate; print([generate(5, i).id for i in range(12)])"
    runs = [
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True).stdout
        for seed in ("1", "2")
    ]
    assert runs[0] == runs[1] == f"{[generate(5, i).id for i in range(12)]}\n"


def test_cases_of_a_run_differ_from_each_other() -> None:
    assert len({generate(0, i).id for i in range(20)} | {generate(1, i).id for i in range(20)}) == 40


@given(st.lists(st.integers(0, 1000), max_size=60))
def test_any_list_of_choices_is_a_valid_network(choices: list[int]) -> None:
    """Reduction edits recorded choices freely: what comes out must be valid, whatever it is."""
    check(generate_from(Recorded(choices), 4))


# variety -------------------------------------------------------------------------------------------------------------
def test_sizes_are_steered() -> None:
    dims = [d for g in made() for v in g.network.values for d in v.shape]
    ones = sum(d == 1 for d in dims) / len(dims)
    assert ones < 0.25, f"{ones:.0%} of all dimensions are 1"
    elements = statistics.median(v.elements for g in made() for v in g.network.values if v.content is None)  # axes and shapes are as long as ranks are
    assert 50 <= elements <= 5000, f"median elements {elements}"
    assert {8, 9, 15, 16, 17, 31, 32, 33} <= set(dims), "vector-width edges are drawn"


def test_no_tensor_is_larger_than_asked() -> None:
    for i in range(30):
        g = generate_from(Seeded("elements", i), 8, elements=256)
        assert max((v.elements for v in g.network.values), default=0) <= 256


def test_every_drawn_feature_occurs() -> None:
    counts = Counter(f for g in made() for f in g.network.features)
    rare = {f: counts[f] for f, share in FEATURES.items() if counts[f] < share * CASES}
    assert not rare, f"in {CASES} cases: {rare}"
    assert {f"wiring {w.__name__}" for w in WIRINGS} <= counts.keys()
    assert {f"opset {o}" for o in OPSETS} <= counts.keys()


def test_formats_and_operators_are_varied() -> None:
    formats = Counter(v.format.name for g in made() for v in g.network.values)
    assert {"float", "double", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "uint16", "uint32", "uint64", "bool"} <= formats.keys()
    drawn = {s.op for g in made() for s in g.network.steps}
    known = {o.name for o in operators().values() if o.draw is not None and o.since <= max(OPSETS)}
    assert len(drawn & known) > 0.8 * len(known), f"not drawn in {CASES} cases: {sorted(known - drawn)}"


def test_one_insertion_costs_the_same_in_a_large_network() -> None:
    """Counted in choices, not in seconds."""
    source = Seeded("cost", 1)
    growth, marks = Growth(source), list[int]()
    for _ in range(400):
        growth.insert()
        marks.append(len(source.trail))
    early, late = marks[49] / 50, (marks[-1] - marks[-51]) / 50
    assert late < 3 * early


def test_contents_are_safe_and_of_the_declared_type() -> None:
    safe = [g.found.safe for g in made()]
    assert sum(safe) >= 0.95 * len(safe), f"{sum(safe)} of {len(safe)} networks have safe inputs"
    for g in made()[:100]:
        for v in g.network.leaves:
            a = g.found.contents[v.name]
            assert a.dtype == v.format.numpy
            if v.low is not None and v.high is not None and a.size:
                assert v.low - 1e-3 <= np.asarray(a, np.float64).min() and np.asarray(a, np.float64).max() <= v.high + 1e-3
