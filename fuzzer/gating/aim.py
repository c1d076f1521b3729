"""Cases aimed at one kernel: its operator alone, among others, or inside the blocks that call it; kept where the kernel applies."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import torch

from fuzzer.build import Builder, build, feed
from fuzzer.build import network as cut
from fuzzer.generate import Generated, complete
from fuzzer.grow import PALETTES, Growth, Menu
from fuzzer.network import Network
from fuzzer.search import unsafe_at
from fuzzer.sources import Seeded
from fuzzer.wiring import grow, outputs
from oracles.kernel import FUNCTIONS, Kernel
from oracles.records import Case
from oracles.rewriting import Run
from oracles.variants import variants
from specs.draw import Source
from specs.formats import BFLOAT16, BOOL, BY_NAME, DOUBLE, FLOAT, FLOAT16, INT64, Format
from specs.net import Block, blocks
from specs.operator import operators
from specs.program import Call, Program, to_torch
from specs.rule import Misfit

FAMILY = "kernels"  # families of blocks that are looked at for calls of a kernel
PROBES = 8  # draws of a block to see what it calls
ATTEMPTS = 40  # draws for one case
COMPUTED = (FLOAT, FLOAT16, BFLOAT16, DOUBLE)  # what blocks are built in
#: Small enough for many cases a second; one in four is larger, for tiles, chunks and threads.
SMALL, LARGE, LARGEST = 4096, 1 << 16, 1 << 20
WIDE = (256, 384, 512, 1000, 640, 128, 200)
AWKWARD = (1, 3, 63, 64, 65, 127, 129, 100, 257)
GLUE = (("", "Add"), ("", "Mul"), ("", "Relu"), ("", "Transpose"), ("", "Reshape"), ("", "Slice"), ("", "Neg"))
#: Factors of free float contents: exponentials overflow, sums cancel, halves saturate.
SCALES = (1.0, 1.0, 1.0, 8.0, 40.0, 2.0**-20)


@dataclass(frozen=True)
class Aimed:
    """A case on which the kernel was seen to apply, and the program of its model in float64."""

    case: Case
    program: Program


@dataclass
class Aim:
    """Draws cases for one kernel. `drawn` counts networks, `applied` those on which it applies; `misses` says why others were not kept."""

    kernel: Kernel
    seed: int
    index: int = 0
    drawn: int = 0
    applied: int = 0
    misses: dict[str, int] = field(default_factory=dict)
    large: bool = False  # shapes for the clock
    luck: dict[tuple[str, str, bool], list[int]] = field(default_factory=dict)  # networks kept and drawn, by way

    @property
    def ways(self) -> Sequence[tuple[str, str]]:
        """(domain, operator) to be drawn, and blocks as ("block", id); empty when nothing we can draw contains the kernel's operator."""
        return _ways(self.kernel)

    def next(self) -> Aimed | None:
        """The next case. None when none of many draws fits: the kernel applies too seldom, or nowhere."""
        index, self.index = self.index, self.index + 1
        for attempt in range(ATTEMPTS if self.ways else 0):
            source = Seeded(self.seed, "gate", self.kernel.name, index, attempt)
            way = self._way(source)
            luck = self.luck.setdefault(way, [0, 0])
            luck[1] += 1
            try:
                network = self._network(source, way)
            except Misfit:
                continue
            self.drawn += 1
            origin = {"kernel": self.kernel.name, "seed": self.seed, "index": index, "attempt": attempt}
            made = complete(source, network, origin, check=False, started=time.perf_counter())
            if not made.found.safe:
                self._missed("no safe inputs")
                continue
            made = _scaled(made, source)
            if applies(self.kernel, made.case):
                self.applied += 1
                luck[0] += 1
                return Aimed(made.case, made.program)
            self._missed("outside the kernel's constraint")
        return None

    def _missed(self, why: str) -> None:
        self.misses[why] = self.misses.get(why, 0) + 1

    def _way(self, source: Source) -> tuple[str, str, bool]:
        """One of the ways, and whether the operator stands alone; those that were seldom of use are taken seldom."""
        bag = [(*w, alone) for w in self.ways for alone in ((True, False) if w[0] != "block" else (True,))]
        lucks = [self.luck.get(way, (0, 0)) for way in bag]
        weights = [(1.0 if way[2] else 0.35) * (kept + 1) / (tried + 2) for way, (kept, tried) in zip(bag, lucks, strict=True)]
        at = source.choose(1 << 20) / (1 << 20) * sum(weights)
        for way, weight in zip(bag, weights, strict=True):
            at -= weight
            if at < 0:
                return way
        return bag[-1]

    def _network(self, source: Source, way: tuple[str, str, bool]) -> Network:
        domain, name, alone = way
        elements, sizes = (LARGE, AWKWARD) if source.choose(4) == 3 else (SMALL, ())
        if self.large:
            elements, sizes, alone = LARGEST, WIDE, True
        menu = Menu(palettes=_palettes(self.kernel), sizes=sizes, blocks=frozenset())
        if domain == "block":
            return _of_block(source, blocks()[name], menu, 4 * elements)
        names = frozenset([(domain, name)] if alone else [(domain, name), *GLUE])
        return grow(source, 1 if alone else 2 + source.choose(3), replace(menu, names=names), elements)


@cache
def _ways(kernel: Kernel) -> tuple[tuple[str, str], ...]:
    found = [key for key, op in operators().items() if op.draw is not None and kernel.implements_node(op.name, op.domain)]
    calls = [("block", b.id) for b in blocks().values() if b.family.startswith(FAMILY) and any(kernel.implements_node(*c) for c in _calls(b))]
    return (*found, *calls)


@cache
def _calls(block: Block) -> frozenset[tuple[str, str]]:
    """(name, domain) of all that a block was seen to call."""
    found = set[tuple[str, str]]()
    for i in range(PROBES):
        with suppress(Misfit):
            network = _of_block(Seeded("calls", block.id, i), block, Menu(palettes=((FLOAT,),)), LARGEST)
            found.update((s.op, s.domain) for s in network.steps)
    return frozenset(found)


def _of_block(source: Source, block: Block, menu: Menu, elements: int) -> Network:
    """One block on an input of its own, now and then with an operator behind it."""
    growth = Growth(source, menu, elements)
    form = next((f for f in growth.palette if f in COMPUTED), FLOAT)
    ends = build(growth, block, feed(Builder(growth, form), block.takes, block.dims, block.even), form)
    growth.recount()
    if menu.names and source.choose(8) == 7:
        growth.insert(ends)
    return cut(growth, list({id(v): v for v in (*outputs(growth), *ends)}.values()))


@cache
def _palettes(kernel: Kernel) -> tuple[tuple[Format, ...], ...]:
    """Mostly the formats the kernel is declared for."""
    own = [BY_NAME[d] for d in kernel.dtypes if d in BY_NAME]
    return (*((f, FLOAT, INT64, BOOL) for f in own), tuple(own)) if own else PALETTES


def _scaled(made: Generated, source: Source) -> Generated:
    """Inputs of another magnitude, where that keeps the network safe; and now and then one element that is much larger than its row."""
    factor, spike = SCALES[source.choose(len(SCALES))], source.choose(6) == 5
    if factor == 1.0 and not spike:
        return made
    free = {v.name: v for v in made.network.inputs if v.format.is_float and v.low is None and v.high is None}
    inputs = dict(made.case.inputs)
    for name, v in free.items():
        array = inputs[name].astype(np.float64) * factor
        if spike and array.size:
            array.flat[source.choose(array.size)] *= 64.0
        with np.errstate(over="ignore"):
            inputs[name] = array.astype(v.format.numpy)
    leaves = {n: to_torch(inputs.get(n, a), _format(made, n), torch.float64) for n, a in made.found.contents.items()}
    if not free or unsafe_at(made.program, leaves) is not None:
        return made
    return replace(made, case=replace(made.case, inputs=inputs, before=()))


def _format(made: Generated, name: str) -> Format:
    return next(v.format for v in made.network.leaves if v.name == name)


class _Found(Exception):
    """A node at which the kernel applies: nothing more has to be evaluated."""


def applies(kernel: Kernel, case: Case) -> bool:
    """Whether the kernel may stand in at some node of the model with these inputs, as the backend will decide."""

    def look(run: Run, node: Any, args: list[Any]) -> Any:
        try:
            if kernel.applies(node, args):
                raise _Found
        except _Found:
            raise
        except Exception:  # whatever a stranger's predicate raises: the worker will say it
            raise _Found from None
        return node.evaluate(args, run) if isinstance(node, Call) else None

    program = Program(case.model, keep=frozenset({FUNCTIONS}))
    try:
        with torch.no_grad():
            program.run(program.feeds(case.inputs), Run(look, base=variants()["halves-in-float"].at))
    except _Found:
        return True
    return False
