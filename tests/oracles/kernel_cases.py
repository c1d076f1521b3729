"""Drawn cases of one shipped kernel, and what the judge says of it: as it is, and broken on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from fuzzer.build import build, network
from fuzzer.emit import emit, fill
from fuzzer.generate import generate_from
from fuzzer.grow import Growth, Menu
from fuzzer.network import Network
from fuzzer.search import search
from fuzzer.sources import Seeded
from oracles.adjoint import weigher
from oracles.judge import judge_outcomes
from oracles.kernel import kernels
from oracles.pool import Worker, wait
from oracles.records import Case, Outcome, Verdict
from oracles.reference import reference
from specs.net import blocks
from specs.program import Program
from specs.rule import Misfit

OPSETS = (20, 18, 21, 13, 23)
ELEMENTS = 1 << 14
DRAWS = 400  # at most, for one case in which the kernel applies


def drawn(what: str, seed: object) -> Case | None:
    """A case of a block, or of one ONNX operator; None when the draw does not fit or has no safe inputs."""
    source = Seeded("kernel cases", what, str(seed))
    if what not in blocks():
        return _operator(what, source)
    growth = Growth(source, Menu(opsets=OPSETS), elements=ELEMENTS)
    try:
        made = network(growth, build(growth, blocks()[what]))
    except Misfit:
        return None
    return _filled(made, source)


def _operator(name: str, source: Seeded) -> Case | None:
    made = generate_from(source, 1, Menu(frozenset({("", name)}), blocks=frozenset()), ELEMENTS, wraps=False)
    return made.case if made.found.safe else None


def _filled(made: Network, source: Seeded) -> Case | None:
    proto = emit(made)
    found = search(made.leaves, Program(proto, torch.float64), source)
    if not found.safe:
        return None
    fill(proto, found.contents)
    return Case(proto.SerializeToString(), {v.name: found.contents[v.name] for v in made.inputs})


def cases(what: tuple[str, ...], start: int = 0) -> Iterator[Case]:
    """Cases of these blocks and operators in turn, without end."""
    seed = start
    while True:
        case = drawn(what[seed % len(what)], seed)
        seed += 1
        if case is not None:
            yield case


class Bench:
    """A warm worker of the backend `kernels`: native code that crashes takes only the worker along."""

    def __init__(self) -> None:
        self.worker = Worker("kernels", timeout=60.0)

    def run(self, case: Case, setting: str) -> Outcome:
        """Twice, the second time in hostile memory and with threads."""
        self.worker.send(case, [setting])
        while True:
            wait([self.worker], 1.0)
            if outcomes := self.worker.poll():
                return outcomes[0]

    def verdicts(self, case: Case, setting: str) -> list[Verdict]:
        """Of a kernel where it applies; empty where it does not."""
        outcome = self.run(case, setting)
        if outcome.status == "unsupported":
            return []
        program = Program(case.model, torch.float64)
        return judge_outcomes(reference(program, case.inputs), [outcome], weigher(program, case.inputs))

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: Any) -> None:
        self.worker.close()


def caught(bench: Bench, kernel: str, defect: str, what: tuple[str, ...], most: int) -> int:
    """In how many cases to which the kernel applies a planted defect is found; 0 when not within `most`."""
    tried = 0
    for case in cases(what):
        found = bench.verdicts(case, f"{kernel}!{defect}")
        tried += bool(found)
        if any(v.is_finding for v in found):
            return tried
        if tried >= most:
            return 0
    raise AssertionError


def planted(names: tuple[str, ...]) -> list[tuple[str, str]]:
    """(kernel, defect) of these kernels."""
    return [(name, defect) for name in names for defect in kernels()[name].defects]
