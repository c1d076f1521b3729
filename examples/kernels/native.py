"""C or C++ behind the interface of kernel.h: compiled when it is first needed, and again when the source changes."""

from __future__ import annotations

from typing import Any

from oracles.kernel import kernel


@kernel(
    "hard-swish",
    implements="HardSwish",
    dtypes=("float32",),
    source="native.cpp",
    symbol="hard_swish",
    baselines={"plain": "hard_swish_plain"},
    defects={"tail": "the last n % 8 elements are not written"},
)
def hard_swish(node: Any, inputs: list[Any]) -> bool:
    """x * max(0, min(1, x / 6 + 0.5)), eight at a time."""
    return inputs[0].numel() > 0
