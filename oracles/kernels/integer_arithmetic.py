"""Products of two-bit codes by table, requantisation without floats, convolutions in fixed point and of signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oracles.kernel import kernel


@kernel(
    "lookup-matmul",
    implements="LookupMatMul",
    dtypes=("uint8",),
    source="lookup_matmul.cpp",
    symbol="lookup_matmul",
    baselines={"plain": "plain_lookup_matmul", "eight-bit": "eight_bit_matmul"},
    defects={
        "padding": "what the codes behind the last one add is not taken back",
        "overflow": "sums are kept in 16 bits",
        "sign": "packed codes are shifted down with their sign",
        "order": "the first code of a byte is taken from its high bits",
        "mask": "activations are not cut to two bits",
    },
)
def lookup_matmul(node: Any, inputs: Sequence[Any]) -> bool:
    """DeepGEMM: Ultra Low-Precision Inference on CPU Architectures using Lookup Tables. 16 products in a register, any table of bytes."""
    return -(-inputs[0].shape[1] // 4) == inputs[1].shape[1]  # the function's body would broadcast


ROUNDING = {
    "truncation": "the remainder is cut off",
    "division": "the shift is a division, which rounds negative numbers up",
    "rounding": "ties go away from zero",
    "overflow": "the product is kept in 32 bits",
    "float": "the ratio and the product are float32",
    "clip": "results are cut to eight bits before they are clipped",
}


@kernel(
    "dyadic-requantize",
    implements="DyadicRequantize",
    dtypes=("int32",),
    source="dyadic.cpp",
    symbol="dyadic_requantize",
    baselines={"simulated": "simulated_requantize"},
    defects={
        **ROUNDING,
        "channel": "the first channel's ratio is used for all",
        "tail": "positions behind the last multiple of 8 of a channel are not written",
    },
)
def dyadic_requantize(node: Any, inputs: Sequence[Any]) -> bool:
    """HAWQV3: Dyadic Neural Network Quantization. (acc m + 2^(c-1)) >> c in 64 bits, a ratio m / 2^c for each channel."""
    return inputs[0].ndim >= 2


@kernel(
    "dyadic-add",
    implements="DyadicAdd",
    dtypes=("int32",),
    source="dyadic.cpp",
    symbol="dyadic_add",
    defects={**ROUNDING, "shared-shift": "the first operand's shift is used for both", "early-clip": "the first operand is clipped before the sum"},
)
def dyadic_add(node: Any, inputs: Sequence[Any]) -> bool:
    """HAWQV3: Dyadic Neural Network Quantization. A residual sum of two scales that never leaves the integers."""
    return inputs[0].shape == inputs[1].shape  # the function's body would broadcast


@kernel(
    "fixed-point-convolution",
    implements="FixedPointConv",
    dtypes=("float32",),
    source="integer_convolution.cpp",
    symbol="fixed_point_convolution",
    baselines={"simulated": "simulated_fixed_point_convolution"},
    defects={
        "overflow": "whole sums are kept in 32 bits",
        "exponent": "the exponent is rounded up",
        "rounding": "digits are cut off, not rounded",
        "clip": "the largest number wraps around where it is rounded up to a power of two",
        "odd": "a last term without a partner is missing",
        "bounds": "the column behind the image is read",
    },
)
def fixed_point_convolution(node: Any, inputs: Sequence[Any]) -> bool:
    """Mixed Precision Training of Convolutional Neural Networks using Integer Operations. Pairs of int16, chains short enough for int32."""
    return inputs[0].ndim == 4


@kernel(
    "binary-convolution",
    implements="BinaryConv",
    dtypes=("float32",),
    source="integer_convolution.cpp",
    symbol="binary_convolution",
    baselines={"simulated": "simulated_binary_convolution"},
    defects={
        "zero-sign": "the sign of 0 is -1",
        "sign-bit": "the sign of -0 is -1",
        "mean": "the scale is the mean over whole words of channels",
        "padding": "what lies outside of the image counts as -1",
        "bounds": "the column behind the image is read",
    },
)
def binary_convolution(node: Any, inputs: Sequence[Any]) -> bool:
    """XNOR-Net: products of signs as exclusive or and population count, 64 channels to a word."""
    return inputs[0].ndim == 4
