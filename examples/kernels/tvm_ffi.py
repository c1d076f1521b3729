"""A TVM-FFI module, compiled from C++: the function gets inputs, then outputs to write to, then the attributes named here."""

from __future__ import annotations

from typing import Any

from oracles.kernel import kernel


@kernel(
    "thresholded-relu",
    implements="ThresholdedRelu",
    dtypes=("float32",),
    form="tvm-ffi",
    source="tvm_ffi.cpp",
    symbol="thresholded_relu",
    arguments=("alpha",),
    defects={"tail": "the last n % 4 elements are not written"},
)
def thresholded_relu(node: Any, inputs: list[Any]) -> bool:
    """x where x > alpha, else 0."""
    return True
