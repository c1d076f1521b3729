"""A network: values with concrete shapes, nodes in topological order. Grown by fuzzer.grow, written by fuzzer.emit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from specs.formats import Format
from specs.operator import Operator


@dataclass(eq=False, slots=True)
class Value:
    """A tensor of the network.

    kind     "input" | "initializer" | "constant" (a Constant node) | "node"
    content  exact content, for shapes, axes and other parameters; contents of weights are drawn later
    low/high range that drawn contents must keep (indices, divisors, positive variances), None: anything safe
    source   for a computed constant: the value it is an Identity of
    """

    name: str
    format: Format
    shape: tuple[int | None, ...]
    kind: str
    content: np.ndarray | None = None
    low: float | None = None
    high: float | None = None
    unique: bool = False
    uses: int = 0
    dims: tuple[int | str | None, ...] | None = None  # declared dims where some are symbolic or left open
    wrapper: str = ""  # "sequence" or "optional" of such tensors

    @property
    def elements(self) -> int:
        n = 1
        for d in self.shape:
            n *= d or 0
        return n


@dataclass(eq=False, slots=True)
class Step:
    """One application of an operator. `inputs` and `outputs` hold None where an optional one is left out.

    bodies    sub-graphs by attribute name; they see the values of the network around them
    function  the meaning of a call in the domain assay.kernels
    """

    op: str
    domain: str
    inputs: list[Value | None]
    outputs: list[Value | None]
    attrs: dict[str, Any]
    operator: Operator | None = None
    key: str = ""  # operator and formats, as the support matrix names them
    bodies: dict[str, Body] = field(default_factory=dict)
    function: Body | None = None

    def reads(self) -> Iterator[Value]:
        """Every value it needs, those that its sub-graphs capture included."""
        yield from (v for v in self.inputs if v is not None)
        for body in self.bodies.values():
            for step in body.steps:
                yield from step.reads()


@dataclass(eq=False, slots=True)
class Body:
    """A sub-graph or the body of a function."""

    inputs: list[Value]
    outputs: list[Value]
    steps: list[Step]


@dataclass(frozen=True)
class Function:
    """A part of the network that is written as an ONNX function, to test the inliner."""

    name: str
    body: Body


@dataclass(frozen=True)
class Network:
    """A finished network. Features are the drawn peculiarities, counted for coverage.

    sides  names of the two results that a relation says are equal
    """

    opset: int
    values: Sequence[Value]
    steps: Sequence[Step]
    outputs: Sequence[Value]
    functions: Sequence[Function] = ()
    features: frozenset[str] = frozenset()
    sides: tuple[str, str] | None = None

    def spliced(self, first: int, last: int, new: Sequence[Step], feature: str, values: Sequence[Value] = (), functions: Sequence[Function] = ()) -> Network:
        """Steps from `first` up to `last` replaced by others."""
        steps = [*self.steps[:first], *new, *self.steps[last:]]
        return replace(self, steps=steps, values=[*self.values, *values], functions=[*self.functions, *functions], features=self.features | {feature})

    @property
    def inputs(self) -> list[Value]:
        return [v for v in self.values if v.kind == "input"]

    @property
    def leaves(self) -> list[Value]:
        """Values whose contents are to be drawn: inputs, weights and constants without exact content."""
        return [v for v in self.values if v.kind != "node" and v.content is None and (v.uses or v.kind == "input")]
