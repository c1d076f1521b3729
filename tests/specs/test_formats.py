"""Number formats against ml_dtypes and ONNX: range, rounding, and the torch type that stores them."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch

from specs.formats import ALL, BY_NAME, BY_NUMPY, BY_ONNX, FLOATS, INTEGERS, Format
from specs.program import to_numpy, to_torch, wrap

floats = [f for f in ALL if f.is_float]
integers = [f for f in ALL if f.is_integer]
name = {"ids": lambda f: f.name}


def test_every_element_type_of_onnx_is_here() -> None:
    """The 6-bit floats of opset 28 are those that no operator outside Cast has yet."""
    numbers = {v for k, v in onnx.TensorProto.DataType.items() if k not in ("UNDEFINED", "FLOAT6E2M3", "FLOAT6E3M2")}
    assert set(BY_ONNX) == numbers
    assert len(BY_NAME) == len(BY_NUMPY) == len(ALL)


@pytest.mark.parametrize("form", ALL, **name)
def test_names_and_types_are_onnxs(form: Format) -> None:
    assert onnx.helper.tensor_dtype_to_np_dtype(form.onnx) == form.numpy
    assert form.name in {"float": "float32", "double": "float64"}.get(form.name, form.name) or form.is_float
    assert onnx.TensorProto.DataType.Name(form.onnx).lower() == form.name


@pytest.mark.parametrize("form", floats, **name)
def test_a_unit_roundoff_is_what_rounding_does(form: Format) -> None:
    """1 + u is a tie or rounds, 1 + 2 u is the next number: by the format itself."""
    one = np.asarray(1.0).astype(form.numpy)
    info = ml_dtypes.finfo(form.numpy)
    assert form.u == float(info.eps) / 2
    assert float(np.asarray(1.0 + 2 * form.u).astype(form.numpy)) == 1.0 + 2 * form.u
    assert float(np.asarray(1.0 + 0.9 * form.u).astype(form.numpy)) == float(one)
    assert float(np.asarray(form.largest).astype(form.numpy)) == form.largest and np.isfinite(form.largest)
    assert float(np.asarray(form.tiny).astype(form.numpy)) == form.tiny > 0


@pytest.mark.parametrize("form", integers, **name)
def test_integer_ranges_are_their_ends(form: Format) -> None:
    assert form.u == 0
    ends = [int(form.lowest), int(form.largest)]
    assert np.asarray(ends).astype(form.numpy).astype(object).tolist() == ends if form.bits < 64 else True
    assert ends == ([0, 2**form.bits - 1] if form.kind == "uint" else [-(2 ** (form.bits - 1)), 2 ** (form.bits - 1) - 1])


@pytest.mark.parametrize("form", [f for f in ALL if f.kind != "string"], **name)
def test_to_torch_and_back(form: Format) -> None:
    values = np.array([2, 1, 1, 2, 1] if form.name == "float8e8m0" else [0, 1, 1, 0, 1]).astype(form.numpy)
    tensor = to_torch(values, form)
    assert tensor.dtype == form.torch
    back = to_numpy(tensor, form)
    assert back.dtype == form.numpy and back.tolist() == values.tolist()
    assert to_numpy(to_torch(values[::2][::-1], form), form).tolist() == values[::2][::-1].tolist()
    assert to_torch(values[0], form).shape == ()


@pytest.mark.parametrize("form", [f for f in floats if f.name != "float8e8m0"], **name)
def test_promotion_keeps_every_value(form: Format) -> None:
    codes = np.arange(1 << min(form.bits, 8), dtype=np.uint8)
    every = codes.view(form.numpy) if form.bits == 8 else np.array([0, 0.5, -1, 1.5, 3]).astype(form.numpy)
    tensor = to_torch(every, form, torch.float64)
    assert tensor.dtype == torch.float64
    np.testing.assert_array_equal(tensor.numpy(), every.astype(np.float64))


@pytest.mark.parametrize(
    ("form", "value", "wrapped"),
    [
        ("uint16", -1, 65535),
        ("uint16", 65536 + 7, 7),
        ("uint32", -1, 2**32 - 1),
        ("int4", 8, -8),
        ("int4", -9, 7),
        ("uint4", 17, 1),
        ("int2", 2, -2),
        ("uint2", 5, 1),
        ("int8", -128, -128),
    ],
)
def test_integers_in_wider_types_wrap_at_their_width(form: str, value: int, wrapped: int) -> None:
    assert wrap(torch.tensor(value), BY_NAME[form]).item() == wrapped


def test_the_lists_are_of_what_they_say() -> None:
    assert all(f.is_float and not f.is_integer for f in FLOATS) and FLOATS[0].name == "float"
    assert all(f.is_integer and not f.is_float for f in INTEGERS) and len(INTEGERS) == 8
