"""Convolutions of other kinds: a kernel for every position, for every channel, for a finer map, and one by Fourier transforms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from oracles.kernel import kernel


def _unpadded(node: Any) -> bool:
    return node.auto_pad in (None, "NOTSET")


@kernel(
    "involution",
    implements="Involution",
    dtypes=("float32",),
    source="involution.cpp",
    symbol="involution",
    defects={
        "interleaved-groups": "channel c belongs to group c mod G instead of c / (C / G)",
        "halo": "the last tap of a row stops one output too early",
        "tail": "the last row of taps leaves out a vector's remainder",
        "stride": "inside a row, all taps but the first ignore the stride",
        "half-accumulator": "sums are kept in float16",
    },
)
def involution(node: Any, inputs: Sequence[Any]) -> bool:
    """Involution: Inverting the Inherence of Convolution for Visual Recognition. Weights of a row are used for all channels of a group."""
    x, w = inputs
    if x.ndim not in (3, 4) or not x.numel() or not w.numel():
        return False
    taps = math.prod(node.kernel_shape)
    outs = [(m - 1) // stride + 1 for m, stride in zip(x.shape[2:], node.strides, strict=True)]
    return list(w.shape) == [len(x), node.group, taps, *outs] and x.shape[1] % node.group == 0  # nothing is broadcast


@kernel(
    "subpixel-convolution",
    implements="SubpixelConvolution",
    dtypes=("float32",),
    source="subpixel.cpp",
    symbol="subpixel_convolution",
    defects={
        "mode": "channels are always taken depth first (DCR)",
        "phase": "rows and columns inside a block are exchanged",
        "bias-order": "the bias is read in the order of the finer map's channels",
        "bounds": "the padding on the right reads the first element of the next row",
        "tail": "the last columns, where their number is no multiple of 4, are not written",
    },
)
def subpixel_convolution(node: Any, inputs: Sequence[Any]) -> bool:
    """Real-Time Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network: the shuffle is where the results are written."""
    return all(i is None or i.numel() for i in inputs)


@kernel(
    "depthwise-convolution",
    implements="Conv",
    dtypes=("float32",),
    source="depthwise.cpp",
    symbol="depthwise_convolution",
    baselines={"direct": "direct_depthwise_convolution"},
    defects={
        "halo": "the first column of the right padding repeats the border",
        "tail": "the last columns, where their number is no multiple of 8, are not written",
        "dilation": "the dilation of columns is used for rows too",
        "pads-order": "pads are read as (top, bottom, left, right)",
        "dirty-padding": "rows of padding are not cleared in a workspace that was used before",
        "shared-copy": "all threads use one padded copy",
    },
)
def depthwise_convolution(node: Any, inputs: Sequence[Any]) -> bool:
    """Large depthwise kernels (RepLKNet, UniRepLKNet): a padded copy of the plane, four rows of outputs to every load."""
    x, w = inputs[0], inputs[1]
    return x.ndim == 4 and (node.group or 1) == x.shape[1] and w.shape[1] == 1 and _unpadded(node) and all(i is None or i.numel() for i in inputs)


@kernel(
    "fft-convolution",
    implements="Conv",
    dtypes=("float32",),
    source="fft_convolution.cpp",
    symbol="fft_convolution",
    baselines={"direct": "direct_convolution"},
    defects={
        "wrap": "the transform has no room for the larger padding: the far border comes round",
        "conjugate": "the kernel is read backwards",
        "small-outputs": "outputs below the error of the transform are kept",
        "single-precision": "transforms in float32",
    },
)
def fft_convolution(node: Any, inputs: Sequence[Any]) -> bool:
    """Convolution theorem, for kernels as long as their input (SGConv, CKConv): strides of 1, one or two dims, at most 2^22 points in all."""
    x, strides = inputs[0], node.strides or [1]
    if x.ndim not in (3, 4) or set(strides) != {1} or not _unpadded(node) or not all(i is None or i.numel() for i in inputs):
        return False
    rank = x.ndim - 2
    pads = node.pads or [0] * (2 * rank)
    return x.shape[0] * x.shape[1] * math.prod(2 * (n + max(pads[i], pads[i + rank])) for i, n in enumerate(x.shape[2:])) <= 1 << 22
