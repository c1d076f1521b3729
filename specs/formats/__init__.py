"""Number formats: what each ONNX element type can hold, and how it rounds.

`u` is the unit roundoff (half an ulp at 1), `tiny` the smallest normal number, `largest` the largest finite one.
For integers `lowest` and `largest` are the ends of the range and `u` is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Format:
    """One ONNX element type: its `TensorProto.DataType` number, its numpy type and its range."""

    name: str
    onnx: int
    numpy: np.dtype
    kind: str  # "float" | "int" | "uint" | "bool" | "string" | "complex"
    bits: int
    u: float = 0.0
    tiny: float = 0.0
    lowest: float = 0.0
    largest: float = 0.0

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        """Integers without bool."""
        return self.kind in ("int", "uint")

    @cached_property
    def torch(self) -> torch.dtype:
        """The torch type that stores this format when nothing is promoted.

        torch has almost no arithmetic on unsigned types wider than 8 bits and none on sub-byte types: those live in int64 or
        int8 / uint8 and are wrapped to their width after every operator.
        """
        import torch

        wide = {"uint16": "int64", "uint32": "int64", "uint64": "int64", "int4": "int8", "uint4": "uint8", "int2": "int8", "uint2": "uint8"}
        names = {"float8e4m3fn": "float8_e4m3fn", "float8e4m3fnuz": "float8_e4m3fnuz", "float8e5m2": "float8_e5m2", "float8e5m2fnuz": "float8_e5m2fnuz",
                 "float4e2m1": "float32", "float8e8m0": "float32", "string": "uint8", "double": "float64", "float": "float32"}  # fmt: skip
        return getattr(torch, wide.get(self.name) or names.get(self.name) or self.name)

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        """One object a format, in every process: formats are compared by identity."""
        return _named, (self.name,)


def _named(name: str) -> Format:
    return BY_NAME[name]


def _float(name: str, onnx: int, numpy: object) -> Format:
    dtype = np.dtype(numpy)  # type: ignore[arg-type]
    info = ml_dtypes.finfo(dtype)
    return Format(
        name, onnx, dtype, "float", int(info.bits), u=float(info.eps) / 2, tiny=float(info.smallest_normal), lowest=float(info.min), largest=float(info.max)
    )


def _integer(name: str, onnx: int, numpy: object, kind: str, bits: int) -> Format:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if kind == "int" else (0, 2**bits - 1)
    return Format(name, onnx, np.dtype(numpy), kind, bits, lowest=low, largest=high)  # type: ignore[arg-type]


FLOAT = _float("float", 1, np.float32)
FLOAT16 = _float("float16", 10, np.float16)
DOUBLE = _float("double", 11, np.float64)
BFLOAT16 = _float("bfloat16", 16, ml_dtypes.bfloat16)
UINT8 = _integer("uint8", 2, np.uint8, "uint", 8)
INT8 = _integer("int8", 3, np.int8, "int", 8)
UINT16 = _integer("uint16", 4, np.uint16, "uint", 16)
INT16 = _integer("int16", 5, np.int16, "int", 16)
INT32 = _integer("int32", 6, np.int32, "int", 32)
INT64 = _integer("int64", 7, np.int64, "int", 64)
UINT32 = _integer("uint32", 12, np.uint32, "uint", 32)
UINT64 = _integer("uint64", 13, np.uint64, "uint", 64)
BOOL = Format("bool", 9, np.dtype(np.bool_), "bool", 1, largest=1)
STRING = Format("string", 8, np.dtype(object), "string", 0)
COMPLEX64 = Format("complex64", 14, np.dtype(np.complex64), "complex", 64)
COMPLEX128 = Format("complex128", 15, np.dtype(np.complex128), "complex", 128)
FLOAT8E4M3FN = _float("float8e4m3fn", 17, ml_dtypes.float8_e4m3fn)
FLOAT8E4M3FNUZ = _float("float8e4m3fnuz", 18, ml_dtypes.float8_e4m3fnuz)
FLOAT8E5M2 = _float("float8e5m2", 19, ml_dtypes.float8_e5m2)
FLOAT8E5M2FNUZ = _float("float8e5m2fnuz", 20, ml_dtypes.float8_e5m2fnuz)
UINT4 = _integer("uint4", 21, ml_dtypes.uint4, "uint", 4)
INT4 = _integer("int4", 22, ml_dtypes.int4, "int", 4)
FLOAT4E2M1 = _float("float4e2m1", 23, ml_dtypes.float4_e2m1fn)
FLOAT8E8M0 = _float("float8e8m0", 24, ml_dtypes.float8_e8m0fnu)
UINT2 = _integer("uint2", 25, ml_dtypes.uint2, "uint", 2)
INT2 = _integer("int2", 26, ml_dtypes.int2, "int", 2)

ALL = [FLOAT, FLOAT16, DOUBLE, BFLOAT16, UINT8, INT8, UINT16, INT16, INT32, INT64, UINT32, UINT64, BOOL, STRING, COMPLEX64, COMPLEX128,
       FLOAT8E4M3FN, FLOAT8E4M3FNUZ, FLOAT8E5M2, FLOAT8E5M2FNUZ, UINT4, INT4, FLOAT4E2M1, FLOAT8E8M0, UINT2, INT2]  # fmt: skip
BY_ONNX = {f.onnx: f for f in ALL}
BY_NAME = {f.name: f for f in ALL}
BY_NUMPY = {f.numpy: f for f in ALL}
FLOATS = [FLOAT, DOUBLE, FLOAT16, BFLOAT16]
INTEGERS = [INT64, INT32, INT16, INT8, UINT8, UINT16, UINT32, UINT64]
