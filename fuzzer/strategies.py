"""Valid random networks as a Hypothesis strategy: shrinks by simplifying the choices the network was drawn from."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import onnx
from hypothesis import assume
from hypothesis import strategies as st

from fuzzer.generate import generate_from
from fuzzer.grow import LATER, OPSETS, Menu
from fuzzer.sources import Seeded
from oracles.records import Case
from specs.net import blocks
from specs.operator import operators
from specs.rule import UsageError

T = TypeVar("T")


class _Hypothesis:
    """Choices drawn by Hypothesis."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw
        self.trail: list[int] = []

    def choose(self, n: int) -> int:
        value = self._draw(st.integers(0, n - 1))
        self.trail.append(value)
        return value

    def together(self, choosing: Callable[[], T]) -> T:
        """Choices that Hypothesis may delete only as a whole: those of one operator."""

        @st.composite
        def grouped(draw: Any) -> T:
            outer, self._draw = self._draw, draw
            try:
                return choosing()
            finally:
                self._draw = outer

        return self._draw(grouped())


@dataclass(frozen=True, repr=False)
class Example(Case):
    """A case that prints as the text of its model and its inputs."""

    @property
    def proto(self) -> onnx.ModelProto:
        return onnx.load_from_string(self.model)

    def __repr__(self) -> str:
        inputs = "\n".join(f"  {name} = {_short(a)}" for name, a in self.inputs.items())
        text = "\n".join(onnx.printer.to_text(part) for part in (self.proto.graph, *self.proto.functions))
        return f"\n{text}\n{inputs}\n"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Hypothesis prints dataclasses field by field unless they say how."""
        printer.text(repr(self))


def _short(a: np.ndarray) -> str:
    return f"{a.dtype}{list(a.shape)} " + np.array2string(a, threshold=32, max_line_width=120).replace("\n", "\n      ")


def networks(*, max_nodes: int = 6, ops: list[str] | None = None, opset: int | None = None, max_elements: int = 256) -> st.SearchStrategy[Example]:
    """Checked ONNX models with safe inputs.

    max_nodes     most operators in a network
    ops           names of the operators to draw from; default: all
    opset         a fixed opset; default: drawn
    max_elements  most elements in any tensor

    Example::

        @given(networks(max_nodes=6))
        def test_my_compiler(case):
            outputs = my_compiler(case.model)(case.inputs)
    """
    if max_nodes < 1:
        raise UsageError(f"networks(max_nodes={max_nodes}): at least one node is needed")
    known = {name for _, name in operators()}
    if ops is not None and (unknown := sorted(set(ops) - known)):
        raise UsageError(f"networks(ops=...): no spec for {', '.join(unknown)}; `fuzz specs` lists them")
    if opset is not None and opset not in (*OPSETS, *LATER):
        raise UsageError(f"networks(opset={opset}): drawn opsets are {min(OPSETS)} to {max(LATER)}")
    _warm()
    names = None if ops is None else frozenset(("", n) for n in ops)
    return _networks(max_nodes, Menu(names=names, opsets=OPSETS if opset is None else (opset,)), max_elements)


@cache
def _warm() -> None:
    """First-time costs, paid where the strategy is made: in the first example Hypothesis would take them for a slow strategy."""
    importlib.import_module("fuzzer.solve")  # and with it z3
    blocks()
    for i in range(4):
        generate_from(Seeded("warm", i), 4)


@st.composite
def _networks(draw: Any, max_nodes: int, menu: Menu, max_elements: int) -> Example:
    source = _Hypothesis(draw)
    nodes = 1 + source.choose(max_nodes)
    made = generate_from(source, nodes, menu, max_elements)
    assume(made.found.safe and made.network.steps)
    return Example(made.case.model, made.case.inputs, {"choices": tuple(source.trail)}, made.case.before)
