"""Kernels that read at computed positions: deformable convolution in its four versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oracles.kernel import kernel


@kernel(
    "deformable-convolution",
    implements="DeformConv",
    dtypes=("float32",),
    source="deformable.cpp",
    symbol="deformable_conv",
    defects={
        "tail": "the last positions of a tile, where their number is no multiple of 8, are not written",
        "truncation": "positions are cut towards zero instead of rounded down: wrong between -1 and 0",
        "corner-clamp": "a neighbour one row or column beyond the map counts with the value at the border",
        "offset-order": "offsets are read as (x, y)",
        "offset-group": "all channels take the offsets of the first group",
        "mask-batch": "the mask of the first sample serves the whole batch",
        "stride": "the stride of rows is used for columns too",
    },
)
def deformable_convolution(node: Any, inputs: Sequence[Any]) -> bool:
    """Deformable Convolutional Networks (v1) and Deformable ConvNets v2 (with a mask), in two dims: tiles of samples, then a small product."""
    return inputs[0].ndim == 4 and all(i is None or i.numel() for i in inputs)


@kernel(
    "deformable-aggregation",
    implements="DeformableAggregation",
    dtypes=("float32",),
    source="deformable.cpp",
    symbol="deformable_aggregation",
    defects={
        "truncation": "positions are cut towards zero instead of rounded down",
        "corner-clamp": "a neighbour one row or column beyond the map counts with the value at the border",
        "softmax-max": "the largest weight is not subtracted before exp",
        "offset-scale": "the scale of offsets is applied to the window's own rows as well",
        "half-away": "halves of rounded offsets go away from 0 instead of to the even number",
        "channel-tail": "channels of a group beyond a multiple of 4 are left out",
    },
)
def deformable_aggregation(node: Any, inputs: Sequence[Any]) -> bool:
    """Efficient Deformable ConvNets (v4; v3 with a softmax over the points): channels last, every corner read as a vector of channels."""
    return all(i.numel() for i in inputs) and node.kernel_shape[0] * node.kernel_shape[1] <= 128
