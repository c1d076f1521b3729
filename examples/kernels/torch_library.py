"""An operator in torch's dispatcher. Here it is built from C++; one that is registered elsewhere needs neither source nor library.

A symbol "namespace::name" is looked for there; one without a namespace in TORCH_EXTENSION_NAME, which differs from build to build.
Tensors are given in the order of the operator's schema, other arguments by name from the node's attributes.
"""

from __future__ import annotations

from typing import Any

from oracles.kernel import kernel


@kernel("elu", implements="Elu", dtypes=("float32",), form="torch", source="torch_library.cpp", symbol="elu", defects={"sign": "alpha is negated"})
def elu(node: Any, inputs: list[Any]) -> bool:
    """x where x > 0, else alpha * (exp(x) - 1)."""
    return True
