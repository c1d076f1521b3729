"""Valid random networks as a Hypothesis strategy: shrinks by simplifying the choices the network was drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from hypothesis import assume
from hypothesis import strategies as st

from fuzzer.generate import generate_from
from fuzzer.grow import OPSETS, Menu
from oracles.records import Case
from specs.operator import operators
from specs.rule import UsageError


class _Hypothesis:
    """Choices drawn by Hypothesis."""

    def __init__(self, draw: Any) -> None:
        self._draw = draw
        self.trail: list[int] = []

    def choose(self, n: int) -> int:
        value = self._draw(st.integers(0, n - 1))
        self.trail.append(value)
        return value


@dataclass(frozen=True, repr=False)
class Example(Case):
    """A case that prints as the text of its model and its inputs."""

    @property
    def proto(self) -> onnx.ModelProto:
        return onnx.load_from_string(self.model)

    def __repr__(self) -> str:
        inputs = "\n".join(f"  {name} = {_short(a)}" for name, a in self.inputs.items())
        return f"\n{onnx.printer.to_text(self.proto.graph)}\n{inputs}\n"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Hypothesis prints dataclasses field by field unless they say how."""
        printer.text(repr(self))


def _short(a: np.ndarray) -> str:
    return f"{a.dtype}{list(a.shape)} " + np.array2string(a, threshold=32, max_line_width=120).replace("\n", "\n      ")


@st.composite
def networks(draw: Any, *, max_nodes: int = 6, ops: list[str] | None = None, opset: int | None = None, max_elements: int = 256) -> Example:
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
    names = None if ops is None else frozenset(("", n) for n in ops)
    menu = Menu(names=names, opsets=OPSETS if opset is None else (opset,))
    source = _Hypothesis(draw)
    nodes = 1 + source.choose(max_nodes)
    made = generate_from(source, nodes, menu, max_elements)
    assume(made.found.safe and made.network.steps)
    return Example(made.case.model, made.case.inputs, {"choices": tuple(source.trail)})
