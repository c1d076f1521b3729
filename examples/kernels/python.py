"""A Python function on torch tensors. NotImplemented as its result means "not mine": the reference runs instead."""

from __future__ import annotations

from typing import Any

from oracles.kernel import kernel


@kernel("softsign", implements="Softsign", dtypes=("float32", "float64"), form="python", where=lambda node, inputs: inputs[0].ndim >= 1)
def softsign(node: Any, x: Any) -> Any:
    """x / (1 + |x|) without a temporary for the denominator."""
    return x / x.abs().add_(1)
