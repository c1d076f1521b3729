"""Programs evaluated with some operators done otherwise: what the backends `legal` and `faulty` share.

Both are lists of settings that must be known without importing torch, so their files reach torch through `lazily`.
"""

from __future__ import annotations

import copy
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from specs.program import Graph, Node

#: What one setting does at one node: its results, or None for "as everybody does".
Rewrite = Callable[["Run", "Node", list[Any]], Any]


class _Lazy:
    """A module, imported when something is asked of it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


def lazily(module: str) -> Any:
    """A stand-in for a module that is expensive to import."""
    return _Lazy(module)


program = lazily("specs.program")
torch = lazily("torch")


class Run:
    """One evaluation of a program: an interpreter that knows where every value came from.

    call  how often the compiled model was called before
    base  how nodes are evaluated that `rewrite` leaves alone; as declared when it says nothing either
    """

    def __init__(self, rewrite: Rewrite, call: int = 0, memory: dict[Any, Any] | None = None, base: Rewrite | None = None) -> None:
        self.rewrite, self.call, self.memory, self.base = rewrite, call, {} if memory is None else memory, base
        self._made = dict[int, tuple[Any, list[Any], Any]]()  # the value itself is kept, or its id would be used again
        self.done = list[tuple[Any, list[Any], Any]]()

    def __call__(self, node: Node, args: list[Any]) -> Sequence[Any]:
        result = self.rewrite(self, node, args)
        values = self.honest(node, args) if result is None else listed(result)
        for v in values:
            if not isinstance(v, list) and v is not None:
                self._made[id(v)] = (node, args, v)
        self.done.append((node, args, values))
        return values

    def honest(self, node: Node, args: list[Any]) -> list[Any]:
        result = None if self.base is None else self.base(self, node, args)
        return list(program.plain(node, args)) if result is None else listed(result)

    def maker(self, value: Any) -> tuple[Any, list[Any]] | None:
        """The node that made a value, and its operands."""
        found = self._made.get(id(value))
        return found[:2] if found else None


def listed(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def compiled(model: bytes, rewrite: Rewrite, base: Rewrite | None = None) -> Callable[[Mapping[str, np.ndarray]], dict[str, Any]]:
    """A model as a callable in its declared types, with `rewrite` and then `base` asked at every node."""
    parsed = program.Program(model)
    memory, calls = dict[Any, Any](), [0]

    def call(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        with torch.no_grad():
            # Inputs and constants are copied: a rewrite may write into them, as a careless compiler would.
            values = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in parsed.feeds(feeds).items()}
            results = parsed.run(values, Run(rewrite, calls[0], memory, base))
        calls[0] += 1
        return {name: program.to_numpy(value, parsed.formats.get(name)) for name, value in results.items()}

    return call


def nodes(graph: Graph) -> Iterator[Node]:
    """All nodes, those of sub-graphs included."""
    for node in graph.nodes:
        yield node
        for body in node.bodies.values():
            yield from nodes(body)


def changed(node: Node, **attrs: Any) -> Node:
    """A node with other attributes."""
    other = copy.copy(node)
    other.attrs = {**node.attrs, **attrs}
    return other


def promoted(node: Node, args: Sequence[Any], dtype: Any) -> list[Any]:
    """A node evaluated with all floats in a wider type and rounded once to the declared formats."""
    wide = copy.copy(node)
    wide.promote = dtype
    values = program.plain(wide, [_cast(a, dtype) for a in args])
    return [v if form is None else _cast(v, form.torch) for v, form in zip(values, node.out_formats, strict=False)]


def _cast(value: Any, dtype: Any) -> Any:
    if isinstance(value, list):
        return [_cast(v, dtype) for v in value]
    return value.to(dtype) if is_float(value) else value


def is_float(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()
