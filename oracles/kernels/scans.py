"""Kernels with a state that goes from token to token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oracles.kernel import kernel


def _fits(inputs: Sequence[Any]) -> bool:
    """No operand is broadcast, as the function's body would do."""
    u, delta, rates, b, c, skip = inputs
    (batch, length, channels), states = u.shape, rates.shape[1]
    whole = delta.shape == u.shape and len(rates) == channels and b.shape == c.shape == (batch, length, states)
    return whole and (skip is None or skip.shape == (channels,)) and states <= 64 and all(i is None or i.numel() for i in inputs)


@kernel(
    "sequential-scan",
    implements="SelectiveScan",
    dtypes=("float32",),
    source="selective_scan.cpp",
    symbol="sequential_scan",
    baselines={"plain": "plain_scan"},
    defects={
        "bfloat16-state": "the state is kept in bfloat16",
        "lane-tail": "the last channels, where their number is no multiple of 4, are not written",
        "skip-scaled": "the skip connection is scaled by the step as well",
        "naive-softplus": "log(1 + exp(x)), which overflows",
    },
)
def sequential_scan(node: Any, inputs: Sequence[Any]) -> bool:
    """Mamba: Linear-Time Sequence Modeling with Selective State Spaces; token by token, sixteen channels at once, at most 64 states each."""
    return _fits(inputs)


@kernel(
    "chunked-scan",
    implements="SelectiveScan",
    dtypes=("float32",),
    source="selective_scan.cpp",
    symbol="chunked_scan",
    baselines={"sequential": "sequential_scan"},
    defects={
        "carry-decay": "the state at the end of a chunk is added to the next one's without its decay",
        "chunk-boundary": "the last token of a chunk does not reach the next one",
        "dirty-state": "later sequences of a batch go on from what the workspace holds",
        "bfloat16-state": "the state is kept in bfloat16",
    },
)
def chunked_scan(node: Any, inputs: Sequence[Any]) -> bool:
    """The same in chunks of the sequence at once, joined by their decays: twice the work, parallel along the sequence."""
    return _fits(inputs)
