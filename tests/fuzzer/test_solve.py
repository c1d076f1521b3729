"""Backward insertion with z3: the same specs, with the result's shape known and the operands' sizes solved for."""

from __future__ import annotations

import statistics
from collections import Counter

import numpy as np
import onnx
import pytest

from fuzzer.emit import emit
from fuzzer.generate import generate_from
from fuzzer.grow import OPSETS, Growth, Menu
from fuzzer.network import Value
from fuzzer.solve import LARGEST, Symbolic
from fuzzer.sources import Seeded
from fuzzer.wiring import grow
from specs.formats import FLOAT
from specs.operator import Operator, operators
from specs.rule import Misfit, Rule

DRAWN = [o for o in sorted(operators().values(), key=lambda o: o.key) if o.draw is not None and o.since <= max(OPSETS)]
SIZES = (2, 3, 4, 6, 8, 12)


def solve(op: Operator, seed: int, shape: tuple[int, ...] | None = None) -> tuple[Rule, tuple[int, ...]] | None:
    """One application of the operator whose result has a given (or drawn) shape; None for a misfit."""
    source = Seeded("solve", op.domain, op.name, seed)
    growth = Growth(source, Menu(opsets=tuple(o for o in OPSETS if o >= op.since)), 1024)
    wanted = shape or tuple(SIZES[source.choose(len(SIZES))] for _ in range(1 + source.choose(4)))
    g = Symbolic(growth, op, (), Value("target", FLOAT, wanted, "input"))
    assert op.draw is not None
    try:
        return g.settled(op.draw(g)), wanted
    except Misfit:
        return None


@pytest.mark.parametrize("op", DRAWN, ids=lambda o: f"{o.domain}.{o.name}" if o.domain else o.name)
def test_every_drawing_works_on_terms(op: Operator) -> None:
    """A drawing either says Misfit or gives a rule that is solved: never a z3 term taken for a Python number."""
    for seed in range(12):
        found = solve(op, seed)
        if found is None:
            continue
        rule, wanted = found
        assert tuple(rule.outputs[0] or ()) == wanted
        for o in rule.inputs:
            assert o is None or all(isinstance(d, int) and d >= 0 for d in o), o
            assert o is None or o.content is None or isinstance(o.content, np.ndarray)
        assert all(isinstance(d, int) for shape in rule.outputs for d in shape or ())


@pytest.mark.parametrize("name", ["Conv", "MaxPool", "MatMul", "Gemm", "Transpose", "Flatten", "Add", "Concat", "DepthToSpace", "Gather"])
def test_the_usual_operators_are_solved_often(name: str) -> None:
    shapes: dict[str, tuple[int, ...]] = {"Conv": (2, 4, 6, 6), "MaxPool": (2, 4, 6, 6), "DepthToSpace": (1, 2, 8, 8), "Flatten": (4, 12)}
    found = [solve(operators()["", name], seed, shapes.get(name, (4, 6))) for seed in range(40)]
    assert sum(f is not None for f in found) >= 4, f"{name}: {sum(f is not None for f in found)} of 40"


def test_a_convolution_is_solved_for_its_operand() -> None:
    """The window rule read backwards: sizes that z3 finds satisfy it forwards."""
    solved = [s for seed in range(60) if (s := solve(operators()["", "Conv"], seed, (2, 4, 6, 6))) is not None]
    for rule, wanted in solved:
        x, w = rule.inputs[0], rule.inputs[1]
        assert x is not None and w is not None and x[0] == 2 and w[0] == 4
        a = rule.attrs
        if a.get("auto_pad", "NOTSET") != "NOTSET":
            continue
        kernel = w[2:]
        pads, strides, dilations = a.get("pads", [0] * 4), a.get("strides", [1, 1]), a.get("dilations", [1, 1])
        for i in range(2):
            assert (x[2 + i] + pads[i] + pads[2 + i] - (dilations[i] * (kernel[i] - 1) + 1)) // strides[i] + 1 == wanted[2 + i]


def test_sizes_are_not_all_one() -> None:
    """Plain z3 answers 1 for nine of ten dimensions."""
    free = [
        d
        for name in ("MatMul", "Gemm", "ReduceSum", "Conv")
        for seed in range(60)
        if (s := solve(operators()["", name], seed))
        for o in s[0].inputs
        if o is not None
        for d in o
    ]
    assert sum(d == 1 for d in free) < 0.25 * len(free), Counter(free).most_common(5)
    assert statistics.median(free) >= 3 and max(free) <= LARGEST


def test_networks_solved_backwards_are_valid() -> None:
    solved = 0
    for i in range(300):
        network = grow(Seeded("backward", i), 12)
        if "backward, solved by z3" in network.features:
            solved += 1
            onnx.checker.check_model(emit(network), full_check=True)
    assert solved >= 3


def test_a_backward_step_feeds_what_was_an_input() -> None:
    """The graph input becomes a node's result, and the network computes from the new one."""
    for i in range(60):
        g = generate_from(Seeded("before", i), 8, wraps=False)
        if "backward" not in g.network.features:
            continue
        names = {v.name for v in g.network.inputs}
        made = [v.name for s in g.network.steps for v in s.outputs if v is not None]
        assert not names & set(made) and len(made) == len(set(made))
        known = names | {v.name for v in g.network.values if v.kind in ("initializer", "constant")}
        for s in g.network.steps:
            assert {v.name for v in s.inputs if v is not None} <= known, "steps are in topological order"
            known |= {v.name for v in s.outputs if v is not None}
