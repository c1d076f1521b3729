"""The block language: a block composes ONNX operators and other blocks on concrete shapes, with no shape code of its own.

`net("Conv", x, w, pads=[1, 1, 1, 1])` applies an operator; its result shapes come from ONNX's own shape inference, so a block
states what it is and nothing twice. Parameters are drawn from `net` like an operator's structure; what does not fit raises
Misfit and is drawn again. A relation builds two values that must agree on every backend alone.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from specs.formats import Format
from specs.rule import Misfit

T = TypeVar("T")


class Tensor(Protocol):
    """A value of the network being built."""

    @property
    def shape(self) -> tuple[Any, ...]: ...
    @property
    def format(self) -> Format: ...


class Net(Protocol):
    """What a block may ask. Answered by fuzzer.build."""

    opset: int

    def __call__(self, op: str, *inputs: Tensor | None, outputs: int = 1, domain: str = "", **attrs: Any) -> Any:
        """Apply an operator; a Tensor, or a tuple of them when `outputs` is more than 1. Raises Misfit when it does not fit.

        Attributes keep their ONNX names; `axes` and the like that are inputs at this opset are given as `net.ints([...])`.
        """
        ...

    def function(self, name: str, body: Callable[..., Any], *inputs: Tensor | None, **attrs: Any) -> Any:
        """A call of an ONNX function in the domain assay.kernels, for a kernel to stand in for as a whole.

        `body(net, *inputs)` composes it from standard operators, and is how everybody else runs it. Weights are made outside and
        are inputs; what is no tensor is drawn outside, used in the body, and told to the kernel as attributes of the call.
        Returns what the body returns. The name gets a suffix that tells bodies apart.
        """
        ...

    def scan(self, body: Callable[..., Any], states: Sequence[Tensor], sequences: Sequence[Tensor], axis: int = 0, reverse: bool = False) -> tuple[Any, ...]:
        """Scan: body(net, *states, *slices) -> (*new states, *results) for every index along `axis`.

        Returns the last states, then the results stacked along `axis`. The body sees every value made before it.
        """
        ...

    def loop(self, body: Callable[..., Any], trips: int, *states: Tensor) -> tuple[Any, ...]:
        """Loop with a fixed trip count: body(net, *states) -> new states of the same shapes. Returns the last ones."""
        ...

    def weight(self, *dims: int, low: float | None = None, high: float | None = None, form: Format | None = None) -> Any:
        """A trained parameter of this shape, contents in [low, high] when given; in the block's float format unless another is given."""
        ...

    def const(self, content: Any, form: Format | None = None) -> Any:
        """A constant with exactly this content, in the block's float format unless another is given."""
        ...

    def ints(self, content: Sequence[int]) -> Any:
        """A constant int64 vector: a shape, axes, pads."""
        ...

    def input(self, *dims: int, low: float | None = None, high: float | None = None, form: Format | None = None) -> Any:
        """A fresh graph input, contents in [low, high] when given; in the block's float format unless another is given."""
        ...

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, drawn; the plainest first."""
        ...

    def int(self, low: int, high: int) -> int: ...
    def flag(self, chance: float = 0.5) -> bool: ...


@dataclass(frozen=True, eq=False)
class Block:
    """One documented building block under its catalogue id.

    build   (net, x) -> y or several values; x has shape (N, C, *space) with `rank` spatial dims unless the row says otherwise
    dims    spatial ranks it can be built for
    takes   "image" (N, C, *space), "tokens" (N, L, D) or "none" (the block makes its own inputs)
    weight  how often it is drawn, against 1 for most
    """

    id: str
    family: str
    title: str
    seeds: tuple[str, ...]
    dims: tuple[int, ...]
    build: Callable[..., Any]
    takes: str = "image"
    hazards: str = ""
    even: int = 1  # every spatial size is a multiple of this
    weight: int = 1
    since: int = 0  # the first opset that has its operators


@dataclass(frozen=True, eq=False)
class Relation:
    """Two ways to compute the same. `build(net, x) -> (left, right)`; each backend alone must agree within the certified bound."""

    id: str
    block: str
    build: Callable[..., Any]
    dims: tuple[int, ...]
    takes: str
    even: int = 1
    since: int = 0


_blocks: dict[str, Block] = {}
_relations: dict[str, Relation] = {}
_loaded = False


def block(
    id: str,
    title: str,
    *,
    seeds: Sequence[str] = (),
    dims: Sequence[int] = (2,),
    takes: str = "image",
    hazards: str = "",
    even: int = 1,
    weight: int = 1,
    since: int = 0,
) -> Callable[[T], T]:
    """Register a block. `id` is the catalogue row (an architecture's whole network is `id/net`); `title` the paper."""

    def decorate(build: Any) -> Any:
        if id in _blocks:
            raise ValueError(f"block {id}: already defined in {_blocks[id].family}")
        family = build.__module__.rsplit(".", 1)[-1]
        _blocks[id] = Block(id, family, title, tuple(seeds), tuple(dims), build, takes, hazards, even, weight, since)
        return build

    return decorate


def relation(id: str, *, of: str, dims: Sequence[int] = (2,), takes: str = "image", even: int = 1, since: int = 0) -> Callable[[T], T]:
    """Register an exact relation that a catalogue row states; `of` is the row."""

    def decorate(build: Any) -> Any:
        if id in _relations:
            raise ValueError(f"relation {id}: already defined")
        _relations[id] = Relation(id, of, build, tuple(dims), takes, even, since)
        return build

    return decorate


def load() -> None:
    """Import every family once."""
    global _loaded
    if not _loaded:
        import specs.blocks

        for module in sorted(m.name for m in pkgutil.iter_modules(specs.blocks.__path__)):
            importlib.import_module(f"specs.blocks.{module}")
        _loaded = True


def blocks() -> Mapping[str, Block]:
    load()
    return _blocks


def relations() -> Mapping[str, Relation]:
    load()
    return _relations


def catalogue() -> list[dict[str, Any]]:
    """Every system of the block catalogue: id, part, family, kind, title, seeds, same_as."""
    return json.loads((Path(__file__).parent / "catalogue.json").read_text())


def need(condition: bool, why: str) -> None:
    """Raise Misfit unless the condition holds: a constraint of the row (`C % r == 0`)."""
    if not condition:
        raise Misfit(why)


__all__ = ["Block", "Net", "Relation", "Tensor", "block", "blocks", "catalogue", "need", "relation", "relations"]
