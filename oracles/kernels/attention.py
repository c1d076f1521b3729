"""Kernels of attention: tiled with a running maximum, and over neighbourhoods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from oracles.kernel import kernel


@kernel(
    "flash-attention",
    implements="Attention",
    domain="",
    dtypes=("float32",),
    source="flash_attention.cpp",
    symbol="flash_attention",
    baselines={"plain": "plain_attention"},
    defects={
        "rescale": "what was summed under an earlier maximum is not scaled down when the maximum grows",
        "first-maximum": "the running maximum begins at 0",
        "key-tail": "keys that fill up the last tile take their share",
        "causal-offset": "the causal frontier forgets the keys of the cache",
        "head-order": "query head h reads key head h mod their number",
        "mask-broadcast": "a mask for all heads is taken as one for the whole batch too",
        "empty-row": "a query without any key divides 0 by 0",
        "bfloat16-weights": "weights are rounded to bfloat16 before they meet the values",
    },
)
def flash_attention(node: Any, inputs: Sequence[Any]) -> bool:
    """FlashAttention: Fast and Memory-Efficient Exact Attention. Masks, causal, caches and grouped heads; no windows, lengths or scores as an output."""
    mask = inputs[3] if len(inputs) > 3 else None
    windows = [w for w in (node.left_window_size, node.right_window_size) if w is not None and w >= 0]
    if windows or len(inputs) > 6 or len(node.outputs) > 3 or node.softmax_precision not in (None, 0, 1):
        return False
    if any(f is not None and f.name != "float" for f in (node.in_formats[1], node.in_formats[2])) or not all(i is None or i.numel() for i in inputs):
        return False
    return mask is None or (2 <= mask.ndim <= 4 and node.in_formats[3].name in ("float", "bool"))


@kernel(
    "neighbourhood-attention",
    implements="NeighbourhoodAttention",
    dtypes=("float32",),
    source="neighbourhood.cpp",
    symbol="neighbourhood_attention",
    defects={
        "border": "windows stop one key before the far border",
        "residue": "with a dilation, all residue classes are taken to be as long as the shortest",
        "centred-bias": "the table of biases is read as if no window were pushed inside",
        "softmax-max": "the largest score is not subtracted before exp",
        "head-tail": "the remainder of a head beyond a multiple of 4 is left out of the scores",
    },
)
def neighbourhood_attention(node: Any, inputs: Sequence[Any]) -> bool:
    """Dilated Neighborhood Attention Transformer, in one or two dims: at most 256 keys to a query."""
    rank = inputs[0].ndim - 3
    return rank in (1, 2) and node.kernel_size**rank <= 256 and bool(np.all([i is None or i.numel() for i in inputs]))
