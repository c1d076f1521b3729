"""Casts to and from 8-bit floats and bfloat16, and the scaled product of 8-bit floats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oracles.kernel import kernel

EIGHT = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


def _to(node: Any, *names: str) -> bool:
    form = node.out_formats[0]
    return form is not None and form.name in names


@kernel(
    "float8-encode",
    implements="Cast",
    dtypes=("float32", "float16", "bfloat16"),
    source="casts.cpp",
    symbol="float8_encode",
    baselines={"by-definition": "float8_encode_by_definition"},
    defects={
        "truncation": "digits are cut off, not rounded",
        "ties": "ties go up, not to even",
        "flush": "subnormal results are zero",
        "overflow": "what exceeds the format but not the byte becomes a code of its own",
        "saturate": "saturation is ignored",
        "negative-zero": "-0 becomes NaN in the formats without a negative zero",
        "format": "the formats without infinities are taken for their cousins with another bias",
        "tail": "elements behind the last multiple of 16 are not written",
    },
)
def float8_encode(node: Any, inputs: Sequence[Any]) -> bool:
    """FP8 Formats for Deep Learning. To nearest even in one rounding, all four formats, saturating or not."""
    return _to(node, *(n.replace("_", "") for n in EIGHT))


@kernel(
    "float8-decode",
    implements="Cast",
    dtypes=EIGHT,
    source="casts.cpp",
    symbol="float8_decode",
    defects={
        "subnormal": "subnormal codes are read as zero",
        "sign": "large negative numbers lose their sign",
        "tail": "elements behind the last multiple of 8 are not written",
    },
)
def float8_decode(node: Any, inputs: Sequence[Any]) -> bool:
    """FP8 Formats for Deep Learning. By a table of 256 numbers."""
    return _to(node, "float")


@kernel(
    "bfloat16-round",
    implements="Cast",
    dtypes=("float32",),
    source="casts.cpp",
    symbol="bfloat16_round",
    defects={
        "truncation": "the lower half is cut off, not rounded",
        "carry": "a carry out of the digits does not reach the exponent",
        "up": "everything is rounded up in magnitude",
        "detour": "numbers pass through the range of float16",
    },
)
def bfloat16_round(node: Any, inputs: Sequence[Any]) -> bool:
    """A Study of BFLOAT16 for Deep Learning Training. To nearest even; a NaN stays one."""
    return _to(node, "bfloat16")


@kernel(
    "float8-matmul",
    implements="ScaledFloat8MatMul",
    dtypes=EIGHT,
    source="float8_matmul.cpp",
    symbol="float8_matmul",
    baselines={"plain": "plain_float8_matmul"},
    defects={
        "accumulator": "sums are kept in bfloat16",
        "tail": "terms behind the last multiple of 8 are missing",
        "scale": "the first column's scale is used for all",
        "format": "both operands are read in the format of the first",
        "saturation": "sums are clipped to the largest E4M3 number",
        "subnormal": "subnormal codes are read as zero",
    },
)
def float8_matmul(node: Any, inputs: Sequence[Any]) -> bool:
    """FP8 Formats for Deep Learning: products of codes in float32, scaled once for the left operand and once for each column."""
    return inputs[0].ndim == 2 and inputs[1].ndim == 2
