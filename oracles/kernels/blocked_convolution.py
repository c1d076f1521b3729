"""Convolutions by windows in order, and residual blocks of three convolutions computed tile by tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oracles.kernel import kernel


@kernel(
    "im2win-convolution",
    implements="Conv",
    dtypes=("float32",),
    source="convolution.cpp",
    symbol="im2win_convolution",
    baselines={"im2col": "im2col_convolution", "direct": "direct_convolution", "naive": "naive_convolution"},
    defects={
        "tail": "the last columns of a row, where their number is no multiple of 6, are not written",
        "channels": "output channels behind the last whole vector are not written",
        "overrun": "a whole tile is written at the end of a row",
        "halo": "with padding, the last column of the image is taken for padding",
        "bounds": "the row below the image is read",
        "stride": "columns are a row's stride apart",
        "dilation": "the dilation of rows is ignored",
        "group": "all groups read the channels of the first",
        "bias": "the bias of the first group is added to all",
        "workspace": "the padding at the left is not cleared in a workspace that was used before",
        "race": "windows are read while other threads still put them in order",
    },
)
def im2win_convolution(node: Any, inputs: Sequence[Any]) -> bool:
    """Im2win: An Efficient Convolution Paradigm on GPU. One or two spatial axes; any stride, dilation, padding and group."""
    return inputs[0].ndim in (3, 4)


FUSED = {
    "halo": "the border of a tile is one column too narrow",
    "tile-tail": "the corner tile that overlaps both edges is not written",
    "residual": "all tiles but the first column's add the input one column further right",
    "bias": "the last bias is added once for every chunk of the middle",
    "chunk": "channels of the middle behind the last whole chunk are missing",
    "narrow": "the middle is kept in bfloat16",
    "race": "all threads share one tile's scratch",
}


@kernel(
    "fused-conv-first",
    implements="ConvFirst",
    dtypes=("float32",),
    source="fused_block.cpp",
    symbol="conv_first_block",
    baselines={"layers": "conv_first_layers"},
    defects=FUSED,
)
def fused_conv_first(node: Any, inputs: Sequence[Any]) -> bool:
    """On the Efficiency of Convolutional Neural Networks: spatial convolution, expansion, activation, projection, residual, in one pass."""
    return _fits(inputs, inputs[1]) and node.stride == 1


@kernel(
    "fused-mobile-block",
    implements="MobileBlock",
    dtypes=("float32",),
    source="fused_block.cpp",
    symbol="mobile_block",
    baselines={"layers": "mobile_layers"},
    defects={**FUSED, "padding": "the border of a tile outside of the image holds the activation of the bias"},
)
def fused_mobile_block(node: Any, inputs: Sequence[Any]) -> bool:
    """On the Efficiency of Convolutional Neural Networks: the inverted residual block, its expansion computed again on every halo."""
    return _fits(inputs, inputs[3])


def _fits(inputs: Sequence[Any], spatial: Any) -> bool:
    """Square odd kernels of up to 15 x 15 on a padded image of the same size."""
    k = spatial.shape[2]
    return inputs[0].ndim == 4 and k == spatial.shape[3] and k % 2 == 1 and k <= 15
