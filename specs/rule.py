"""What a drawing returns: the shape of one operator's application, and the three errors a drawing may raise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specs.formats import Format

#: A dimension: a plain int when it is known, a z3 integer term when it is still to be solved.
Dim = Any


class Misfit(Exception):
    """This draw does not fit here (wrong rank, no such divisor): draw again. Never a finding."""


class Unsupported(Exception):
    """A backend or a meaning does not implement this. Counted in the support matrix, never a finding."""


class UsageError(Exception):
    """Something the user gave cannot be used; the text is one sentence that says what and where. Exit status 2."""


class Operand(tuple):
    """The shape of one input of a drawn operator, with what the engine knows about it.

    Unpacks like the tuple of its dimensions: `n, c, *space = g.operand(rank=(3, 5))`.
    """

    ref: Any = None  # the existing network value, None when a fresh one is to be made
    format: Format | None = None
    content: np.ndarray | list | None = None  # exact content: a shape, axes, pads ... (dims may still be terms)
    low: float | None = None  # fresh content is drawn from [low, high]; such an operand never comes from another node
    high: float | None = None
    unique: bool = False  # contents along the last axis differ from each other
    role: str = "data"  # "weight" prefers an initializer; "parameter" must be an initializer or Constant

    def __new__(cls, shape: Sequence[Dim], **known: Any) -> Operand:
        self = super().__new__(cls, shape)
        self.__dict__.update(known)
        return self

    @property
    def rank(self) -> int:
        return len(self)


@dataclass(frozen=True)
class Rule:
    """One operator applied once: operands, output shapes, attributes, and what must hold of the sizes.

    inputs   operands in schema order; None for an optional input that is left out
    outputs  shapes in schema order; None for an optional output that is left out
    attrs    attribute values by ONNX name (int, float, str, lists of them, numpy arrays for tensors)
    where    conditions on the sizes: bools when the sizes are ints, z3 terms otherwise
    """

    inputs: Sequence[Operand | None]
    outputs: Sequence[Sequence[Dim] | None]
    attrs: Mapping[str, Any] = field(default_factory=dict)
    where: Sequence[Any] = ()
