"""Triage of planted faults: how small, how fast, one group per cause, and is the right one blamed?"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from benchmarks import Figures, Scale, benchmark
from benchmarks.planted import FAULTS, Planted, fires
from corpus.folders import write_case
from fuzzer.reducing import Limits, find_failure
from fuzzer.sources import Seeded
from oracles import pool
from oracles.plugin import parse
from oracles.records import Case
from triage.finding import Finding
from triage.group import Member, group
from triage.interest import Effort, reduce_finding

VARIANTS = 3
SHAPES = ((4, 6), (3, 8), (5, 17))
SMALL = 3
#: Operators around the pattern; no fault knows them.
AROUND = ("Sin", "Atan", "Tanh", "Sigmoid", "Add", "Sub", "Transpose")


@dataclass(frozen=True)
class Result:
    """One planted fault after triage."""

    fault: Planted
    finding: Finding
    nodes: int
    seconds: float
    kept: bool

    @property
    def right(self) -> bool:
        """A pass has to be named, with its accomplices; for a kernel, its operator and nothing else."""
        cause = self.finding.cause
        return set(cause.guilty) == set(self.fault.switches) and (bool(cause.guilty) or cause.ops == self.fault.ops)


@benchmark(
    "triage",
    share_reduced_to_3_nodes=(">=", 0.9),
    share_cause_kept=(">=", 0.99),
    seconds_median=("<=", 20.0),
    share_blamed_right=(">=", 0.95),
    groups_of_two_causes=("<=", 0.0),
    causes_split=("<=", 2.0),
)
def triage(scale: Scale) -> Figures:
    """Planted faults in networks of a dozen nodes; in every third there is a second fault on the way to another output."""
    torch.set_num_threads(1)
    results = list(_results(scale.count(VARIANTS, 1)))
    groups = group([Member(r.finding, Path(r.finding.name)) for r in results])
    planted = {id(r.finding): r.fault.name for r in results}
    inside = [{planted[id(m.finding)] for m in g.members} for g in groups]
    homes = Counter(name for names in inside for name in names)
    for r in results:
        if not r.kept or not r.right or r.nodes > SMALL:
            said = ", ".join(r.finding.cause.guilty) or r.finding.blame
            print(f"  {r.fault.name}: {r.nodes} nodes, {r.finding.cause.verdict} {r.finding.ops}, kept {r.kept}, blamed {said}")
    count = max(1, len(results))
    return {
        "faults": len(results),
        "faults_not_seen": scale.count(VARIANTS, 1) * len(FAULTS) - len(results),
        "share_reduced_to_3_nodes": sum(r.nodes <= SMALL for r in results) / count,
        "share_cause_kept": sum(r.kept for r in results) / count,
        "share_blamed_right": sum(r.right for r in results) / count,
        "seconds_median": statistics.median(r.seconds for r in results) if results else 0.0,
        "seconds_max": max((r.seconds for r in results), default=0.0),
        "groups": len(groups),
        "groups_of_two_causes": sum(len(names) > 1 for names in inside),
        "causes_split": sum(n > 1 for n in homes.values()),
    }


def _results(variants: int) -> Iterator[Result]:
    limits = Limits(timeout=30.0)
    for i, fault in enumerate(FAULTS):
        for variant in range(variants):
            decoy = FAULTS[(i + 7) % len(FAULTS)] if variant == 2 and "raises" not in FAULTS[(i + 7) % len(FAULTS)].breaks.__qualname__ else None
            with tempfile.TemporaryDirectory() as folder:
                path = write_case(Path(folder), network(fault, variant, decoy))
                finding = find_failure(path, None, tuple(parse("planted:*")), limits)
            if finding is None:
                print(f"  {fault.name}: variant {variant} shows nothing wrong")
                continue
            started = time.monotonic()
            small, result = reduce_finding(finding, pool.run, effort=Effort(60.0, 20.0))
            asked = decoy if decoy is not None and finding.verdict.output == "z" else fault
            left = fires(onnx.load_from_string(small.case.model))
            yield Result(asked, small, result.nodes, time.monotonic() - started, left == [asked.name])


def network(fault: Planted, variant: int, decoy: Planted | None = None) -> Case:
    """A network with the pattern of a fault in its middle, on the way to the output y; that of the decoy on the way to z."""
    source = Seeded("planted", fault.name, variant)
    build = _Build(source, SHAPES[variant % len(SHAPES)])
    x = build.around("x", 4)
    build.output("y", build.around(build.pattern(fault, x), 4))
    build.output("z", build.around(build.pattern(decoy, build.around(x, 2)) if decoy is not None else build.around(x, 2), 2))
    return build.case()


class _Build:
    """A graph under construction: float tensors of two dims, the second a constant of the network."""

    def __init__(self, source: Seeded, shape: tuple[int, int]) -> None:
        self.source, self.shape = source, shape
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.outputs: list[str] = []
        self._numbers = np.random.default_rng(source.choose(1 << 30))

    def weight(self, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(array, f"w{len(self.weights)}"))
        return self.weights[-1].name

    def drawn(self, *shape: int) -> str:
        return self.weight(self._numbers.uniform(0.3, 2.0, shape).astype(np.float32))

    def mixing(self, m: int) -> str:
        return self.weight((np.eye(m) + self._numbers.uniform(-0.5, 0.5, (m, m)) / m).astype(np.float32))

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [f"v{len(self.nodes)}"], **attributes))
        return self.nodes[-1].output[0]

    def around(self, x: str, count: int) -> str:
        """Operators that keep the shape and are blind to every fault."""
        for _ in range(count):
            op = AROUND[self.source.choose(len(AROUND))]
            if op == "Transpose":
                x = self.add("Transpose", self.add("Transpose", x, perm=[1, 0]), perm=[1, 0])
            else:
                x = self.add(op, x, self.drawn(self.shape[1])) if op in ("Add", "Sub") else self.add(op, x)
        both_signs = self.weight(np.linspace(-3, 3, self.shape[1], dtype=np.float32))
        return self.add("Atan", self.add("Add", x, both_signs))  # whatever comes next is no pattern with this

    def pattern(self, fault: Planted, x: str) -> str:
        """The operators of a fault, first to last, with operands on which it shows; the result has the shape of the network."""
        n, m = self.shape
        for op in reversed(fault.ops):
            if op == "Clip":
                x = self.add("Clip", x, self.weight(np.array(-0.75, np.float32)), self.weight(np.array(0.875, np.float32)))
            elif op in ("Sub", "Mul", "Max"):
                x = self.add(op, x, self.drawn(m))
            elif op == "MatMul":
                x = self.add("MatMul", x, self.mixing(m))
            elif op == "Add":
                x = self.add("Add", x, self.drawn(m))
            elif op == "Gemm":
                x = self.add("Gemm", x, self.mixing(m), alpha=0.25)
            elif op == "ReduceSum":
                x = self.add("Add", self.add("ReduceSum", x, self.weight(np.array([1], np.int64)), keepdims=1), self.drawn(n, m))
            elif op == "Concat":
                x = self.add("Slice", self.add("Concat", x, self.drawn(n, m), axis=0), *(self.weight(np.array([k], np.int64)) for k in (0, n, 0)))
            elif op == "Transpose":
                x = self.add("Transpose", x, perm=[1, 0])
            elif op == "Reshape":
                x = self.add("Reshape", x, self.weight(np.array([n, m], np.int64)))
            elif op == "Conv":
                image = self.add("Reshape", x, self.weight(np.array([1, 1, n, m], np.int64)))
                negative = self.weight(-self._numbers.uniform(0.3, 2.0, (1, 1, 1, 1)).astype(np.float32))
                x = self.add("Conv", image, negative)
            elif op == "Round":
                x = self.add("Round", self.add("Add", self.add("Sign", x), self.weight(np.array(0.75, np.float32))))
            else:
                x = self.add(op, x)
        return self.add("Reshape", x, self.weight(np.array([n, m], np.int64))) if "Conv" in fault.ops else x

    def output(self, name: str, x: str) -> None:
        self.nodes.append(helper.make_node("Sigmoid", [x], [name]))
        self.outputs.append(name)

    def case(self) -> Case:
        shape = list(self.shape)
        info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", *self.outputs)]
        graph = helper.make_graph(self.nodes, "planted", info[:1], info[1:], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        inputs = {"x": self._numbers.uniform(-2, 2, self.shape).astype(np.float32)}
        return Case(model.SerializeToString(), inputs, {"planted": True})
