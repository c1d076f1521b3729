"""`generate(seed)`: from choices to a Case, a checked model with safe inputs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
import torch

from fuzzer.assemble import assemble
from fuzzer.decided import decided
from fuzzer.emit import emit, fill
from fuzzer.grow import EVERYTHING, Menu
from fuzzer.network import Network
from fuzzer.regimes import both_sides
from fuzzer.repair import tame
from fuzzer.search import RESTARTS, Found, search
from fuzzer.sizes import more_sizes
from fuzzer.sources import Seeded
from fuzzer.wiring import grow
from fuzzer.wrap import wrap
from oracles.records import Case
from oracles.reference import Expected
from specs.draw import Source
from specs.program import Program, to_torch
from specs.rule import Misfit

REPAIRS = 4  # operators replaced, at most, in a network that has no safe inputs as drawn


@dataclass(frozen=True)
class Generated:
    """A case with what the campaign wants to know about how it came about. `seconds` by stage.

    expected  the reference at the case's inputs, which was needed to see what it decides; None without safe inputs
    """

    case: Case
    network: Network
    program: Program
    found: Found
    seconds: Mapping[str, float] = field(default_factory=dict)
    repairs: int = 0
    expected: dict[str, Expected] | None = None


def generate_from(
    source: Source,
    nodes: int,
    menu: Menu = EVERYTHING,
    elements: int = 4096,
    origin: Mapping[str, object] | None = None,
    check: bool = True,
    wraps: bool = True,
) -> Generated:
    """One case from any source of choices. Raises onnx's checker error if the model is not valid: that is our bug."""
    started = time.perf_counter()
    network = _network(source, nodes, menu, elements)
    if wraps and source.choose(4) == 3:
        network = wrap(network, source)
    return complete(source, network, origin, check, started)


def complete(source: Source, network: Network, origin: Mapping[str, object] | None = None, check: bool = True, started: float = 0.0) -> Generated:
    """A network written as a model, with safe inputs. `started`: when its drawing began. Raises onnx's checker error as `generate_from` does."""
    times = [started or time.perf_counter(), time.perf_counter()]
    proto = emit(network)
    program = Program(proto, torch.float64)
    times.append(time.perf_counter())
    found = _searched(network, program, source)
    repairs = 0
    while not found.safe and repairs < REPAIRS and tame(network, found.at, source):
        repairs += 1
        proto = emit(network)
        program = Program(proto, torch.float64)
        found = _searched(network, program, source)
    times.append(time.perf_counter())
    expected = None
    if found.safe:
        found, expected = decided(program, found, lambda c: _refill(program, network, c), lambda: _searched(network, program, source, 1))
    times.append(time.perf_counter())
    fill(proto, found.contents)
    inputs = _refill(program, network, found.contents)
    model = proto.SerializeToString()
    if check:
        onnx.checker.check_model(model, full_check=True)
    times.append(time.perf_counter())
    named = found.safe and "symbolic dimensions" in network.features
    others = more_sizes(network, proto, program, found.contents, source) if named else []
    seconds = {stage: float(t) for stage, t in zip(("grow", "emit", "search", "reference", "check"), np.diff(times), strict=True)}
    return Generated(Case(model, inputs, dict(origin or {}), tuple(others)), network, program, found, seconds, repairs, expected)


def _searched(network: Network, program: Program, source: Source, restarts: int = RESTARTS) -> Found:
    """Safe contents, moved to both sides of what has two."""
    found = search(network.leaves, program, source, restarts)
    return both_sides(network.leaves, program, found) if found.safe else found


def _network(source: Source, nodes: int, menu: Menu, elements: int) -> Network:
    """From operators, or now and then from building blocks."""
    share = 1 if menu.blocks is None else 3  # of four networks; most when blocks were asked for by name
    if menu.blocks != frozenset() and nodes > 1 and source.choose(4) >= 4 - share:
        with contextlib.suppress(Misfit):
            return assemble(source, nodes, menu, 4 * elements)
    return grow(source, nodes, menu, elements)


def _refill(program: Program, network: Network, contents: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give the program that was searched the contents that were found, instead of parsing the finished model again; the inputs of a run."""
    constants = program.graph.constants
    for v in network.leaves:
        if v.kind == "initializer":
            constants[v.name] = (v.format, to_torch(contents[v.name], v.format, program.promote))
    for node in program.graph.nodes:
        if node.op.name == "Constant" and node.outputs[0] in contents:
            node.attrs["value"] = (node.attrs["value"][0], contents[node.outputs[0]])
    return {v.name: contents[v.name] for v in network.inputs}


def generate(seed: int, index: int = 0, *, nodes: int = 10, menu: Menu = EVERYTHING, elements: int = 4096) -> Case:
    """Case `index` of the run with this seed. The same arguments give the same bytes."""
    source = Seeded(seed, index)
    made = generate_from(source, nodes, menu, elements)
    return replace(made.case, origin={"seed": seed, "index": index, "nodes": nodes, "choices": source.trail})
