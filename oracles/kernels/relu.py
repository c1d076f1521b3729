"""Relu: the smallest kernel there is, to copy from."""

from __future__ import annotations

from typing import Any

from oracles.kernel import kernel


@kernel(
    "relu",
    implements="Relu",
    dtypes=("float32",),
    source="relu.cpp",
    symbol="relu",
    defects={"tail": "the last n % 8 elements are not written"},
)
def relu(node: Any, inputs: list[Any]) -> bool:
    """max(x, 0), vectorised."""
    return True
