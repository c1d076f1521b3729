"""Whole networks of operators: in which order they are inserted, and on which values each is asked to work."""

from __future__ import annotations

from collections.abc import Callable

import networkx

from fuzzer.grow import EVERYTHING, Growth, Menu
from fuzzer.network import Network, Value
from specs.draw import Source


def chain(growth: Growth, nodes: int) -> None:
    """Every operator works on the result before it."""
    last: list[Value] = []
    while len(growth.steps) < nodes:
        made = growth.insert(last[:1])
        last = made or growth.usable[-1:]
        if not made and not growth.usable:
            return


def residual(growth: Growth, nodes: int) -> None:
    """A chain whose further operands come from a few results earlier."""
    recent: list[Value] = []
    while len(growth.steps) < nodes:
        made = growth.insert([*recent[-1:], *recent[-4:-1]])
        recent += made
        if not made and not growth.usable:
            return


def dense(growth: Growth, nodes: int) -> None:
    """Every operator works on any earlier value."""
    while len(growth.steps) < nodes:
        usable = growth.usable
        prefer = [usable[growth.source.choose(len(usable))]] if usable else []
        if not growth.insert(prefer) and not usable:
            return


def random_graph(growth: Growth, nodes: int) -> None:
    """A random directed acyclic graph of networkx: node i prefers the results of its predecessors."""
    kind, seed = growth.source.choose(3), growth.source.choose(1 << 16)
    if kind == 0:
        graph = networkx.gnp_random_graph(nodes, min(1.0, 2.0 / max(1, nodes)), seed=seed)
    elif kind == 1:
        graph = networkx.barabasi_albert_graph(max(nodes, 3), 2, seed=seed)
    else:
        graph = networkx.watts_strogatz_graph(max(nodes, 5), 4, 0.4, seed=seed)
    made: dict[int, list[Value]] = {}
    for i in range(nodes):
        before = [made[j][0] for j in sorted(graph.neighbors(i)) if j < i and made.get(j)]
        made[i] = growth.insert(before)
        if len(growth.steps) >= nodes:
            return


WIRINGS: tuple[Callable[[Growth, int], None], ...] = (chain, residual, dense, random_graph)


def grow(source: Source, nodes: int, menu: Menu = EVERYTHING, elements: int = 4096, wiring: Callable[[Growth, int], None] | None = None) -> Network:
    """Draw a network of about `nodes` nodes with at most `elements` elements in any tensor."""
    growth = Growth(source, menu, elements)
    wiring = wiring or WIRINGS[source.choose(len(WIRINGS))]
    backward = source.choose(1 + nodes // 4)
    wiring(growth, max(1, nodes - backward))
    for _ in range(backward):
        inputs = [v for v in growth.usable if v.kind == "input"]
        if inputs:
            growth.insert_before(inputs[source.choose(len(inputs))])
    growth.features.update((f"wiring {wiring.__name__}", f"opset {growth.opset}"))
    return Network(growth.opset, growth.values, growth.steps, outputs(growth), (), frozenset(growth.features))


def outputs(growth: Growth) -> list[Value]:
    """Every unused result, and now and then an intermediate one."""
    chosen = list[Value]()
    for step in growth.steps:
        for i, v in enumerate(step.outputs):
            if v is None:
                continue
            if v.uses == 0:
                if i > 0 and growth.source.choose(4) == 3:
                    growth.features.add("unused output")
                    continue
                chosen.append(v)
            elif growth.source.choose(24) == 23:
                chosen.append(v)
                growth.features.add("intermediate output")
    return chosen or [v for s in growth.steps[-1:] for v in s.outputs if v is not None]
