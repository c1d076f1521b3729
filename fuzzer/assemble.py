"""Networks from building blocks: a stack of blocks on one input with random operators as glue, or both sides of a relation."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache

from fuzzer.build import Builder, build, feed, related
from fuzzer.grow import Growth, Menu
from fuzzer.network import Network, Step, Value
from fuzzer.wiring import outputs
from fuzzer.wrap import called
from specs import schema
from specs.draw import Source
from specs.formats import FLOAT, Format
from specs.net import Block, Relation, blocks, need, relations
from specs.rule import Misfit

TRIES = 6
STACK = 3  # most blocks on top of each other
CALLED = 5  # one network of so many calls one of its blocks as a function
ROOM = 5  # a block, and a stack, may have this many times the nodes that were asked for
SMALL = 3  # so many draws must not be larger than that, those after them may


def assemble(source: Source, nodes: int, menu: Menu, elements: int) -> Network:
    """A network of the menu's blocks. Raises Misfit when none fitted."""
    growth, parts = Growth(source, menu, elements), list[tuple[str, Sequence[Step]]]()
    convolved = schema.formats("Conv", "", growth.opset, "T")  # what most blocks are made of: bfloat16 came late
    form = next((f for f in growth.palette if f.is_float and f in convolved), FLOAT)
    among = _relations(menu.blocks, growth.opset)
    paired = bool(among) and growth.source.choose(6) == 5
    ends = _relation(growth, among, form) if paired else _stack(growth, nodes, menu.blocks, form, parts)
    growth.recount()
    chosen = list({id(v): v for v in (*outputs(growth), *ends)}.values())
    growth.features.update(("wiring blocks", f"opset {growth.opset}"))
    sides = (ends[0].name, ends[1].name) if paired else None
    network = Network(growth.opset, growth.values, growth.steps, chosen, (), frozenset(growth.features), sides)
    return _with_function(network, *parts[source.choose(len(parts))]) if parts and source.choose(CALLED) == CALLED - 1 else network


def _with_function(network: Network, block: str, steps: Sequence[Step]) -> Network:
    """The block of these steps as an ONNX function; inline where it cannot be one."""
    first = next((i for i, s in enumerate(network.steps) if s is steps[0]), 0)
    found = network.steps[first : first + len(steps)]
    if len(found) < len(steps) or any(a is not b for a, b in zip(found, steps, strict=True)):
        return network
    with suppress(Misfit):
        return called(network, first, first + len(steps), "".join(c if c.isalnum() else "_" for c in block))
    return network


def _relation(growth: Growth, among: tuple[Relation, ...], form: Format) -> list[Value]:
    for _ in range(TRIES):
        mark = len(growth.steps), len(growth.values)
        try:
            return list(related(growth, among[growth.source.choose(len(among))], form))
        except Misfit:
            growth.back(*mark)
    raise Misfit("no relation fits")


def _stack(growth: Growth, nodes: int, names: frozenset[str] | None, form: Format, parts: list[tuple[str, Sequence[Step]]]) -> list[Value]:
    """Blocks on one another; `parts` gets the id and the steps of each."""
    last: list[Value] = []
    for _ in range(1 + growth.source.choose(STACK)):
        grown = _block(growth, names, last, form, parts, nodes)
        if not grown:
            break
        last = grown
        if len(growth.steps) > ROOM * nodes:
            break
        if growth.source.choose(2):
            last = growth.insert(last) or last
    if not last:
        raise Misfit("no block fits")
    for _ in range(growth.source.choose(1 + nodes // 3)):
        growth.insert(last)
    return last


def _block(growth: Growth, names: frozenset[str] | None, last: list[Value], form: Format, parts: list[tuple[str, Sequence[Step]]], nodes: int) -> list[Value]:
    for attempt in range(TRIES):
        image = [v for v in last if len(v.shape) in (3, 4, 5) and v.format is form and None not in v.shape]
        bag = _blocks(names, len(image[0].shape) - 2 if image else 0, growth.opset)
        if not bag:
            return []
        block = bag[growth.source.choose(len(bag))]
        mark = len(growth.steps), len(growth.values)
        try:
            x = image[0] if image and block.takes == "image" else feed(Builder(growth, form), block.takes, block.dims, block.even)
            grown = build(growth, block, x, form)
            need(attempt >= SMALL or len(growth.steps) - mark[0] <= ROOM * nodes, f"{block.id}: too many nodes")
            parts.append((block.id, growth.steps[mark[0] :]))
            return grown
        except Misfit:
            growth.back(*mark)
    return []


@lru_cache(maxsize=64)
def _blocks(names: frozenset[str] | None, rank: int, opset: int) -> tuple[Block, ...]:
    """Blocks of these names, as often as their weight says; for `rank` spatial dims of an existing value, those that can take it."""
    known = [b for b in blocks().values() if (names is None or b.id in names) and b.since <= opset]
    fitting = [b for b in known if rank == 0 or (b.takes == "image" and rank in b.dims)]
    return tuple(b for b in fitting for _ in range(b.weight))


@lru_cache(maxsize=64)
def _relations(names: frozenset[str] | None, opset: int) -> tuple[Relation, ...]:
    return tuple(r for r in relations().values() if (names is None or r.block in names) and r.since <= opset)
