"""An operator of an ONNX Runtime custom-op library, run in a session of that one node.

`library=` names one that is built already; with `source=` it is compiled like a native kernel.
"""

from __future__ import annotations

from typing import Any

from oracles.kernel import kernel


@kernel(
    "leaky-relu",
    implements="LeakyRelu",
    dtypes=("float32",),
    form="onnxruntime",
    source="onnxruntime.cpp",
    symbol="assay.example::Leaky",
    defects={"no-slope": "negative values become 0"},
)
def leaky_relu(node: Any, inputs: list[Any]) -> bool:
    """x where x > 0, else alpha * x."""
    return True
