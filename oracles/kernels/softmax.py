"""Softmax in two passes over memory, beside the algorithms with three passes and the online one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oracles.kernel import kernel


@kernel(
    "two-pass-softmax",
    implements="Softmax",
    dtypes=("float32",),
    source="softmax.cpp",
    symbol="two_pass_softmax",
    baselines={"three-pass-recompute": "three_pass_recompute", "three-pass-reload": "three_pass_reload", "online": "online_softmax"},
    defects={
        "tail": "elements behind the last whole vector of a row are missing in the sum",
        "merge": "lanes are summed without bringing them to one exponent",
        "alignment": "rows are read as if each began at a vector's alignment",
        "stride": "over an axis that is not the last, elements are taken one vector apart",
        "clamp": "exponents below -127 wrap around",
        "polynomial": "two terms of the exponential are missing: an error of 1e-4",
        "overflow": "e^x is built before it is divided",
        "reduction": "the exponent is rounded down, which leaves the range of the polynomial",
    },
)
def two_pass_softmax(node: Any, inputs: Sequence[Any]) -> bool:
    """The Two-Pass Softmax Algorithm. For |x| < 2.9e6 (4.5e4 without fused multiply-add), and -inf.

    Larger numbers are answered wrongly, which nothing here prevents. Before opset 13 the axis began a matrix; only where it was
    the last is that the same.
    """
    x = inputs[0]
    return x.ndim > 0 and (node.version >= 13 or node.axis % x.ndim == x.ndim - 1)
