"""Cast by the tables of ONNX's text: 8-bit floats, scales, small integers, text; radii at ties and edges."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from oracles.reference import reference
from specs import run
from specs.formats import BY_NAME, BY_NUMPY, BY_ONNX
from specs.program import Program

INF, NAN = float("inf"), float("nan")
FLOAT8 = ["float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz"]


def model(x: np.ndarray, to: str, opset: int = 25, op: str = "Cast", chain: str | None = None, **attrs: Any) -> onnx.ModelProto:
    nodes = [helper.make_node(chain, ["x"], ["t"])] if chain else []
    nodes.append(helper.make_node(op, ["t" if chain else "x"], ["y"], to=BY_NAME[to].onnx, **attrs))
    source = TensorProto.STRING if x.dtype == object else BY_NUMPY[x.dtype].onnx
    y = helper.make_tensor_value_info("y", BY_NAME[to].onnx, x.shape)
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", source, x.shape)], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)


def cast(x: np.ndarray, to: str, **given: Any) -> np.ndarray:
    return run(model(x, to, **given), {"x": x})["y"]


def radius(x: np.ndarray, to: str, **given: Any) -> Any:
    worst = reference(Program(model(x, to, **given), torch.float64), {"x": x})["y"].ball.worst
    return None if worst is None else worst.tolist()


@pytest.mark.parametrize("to", FLOAT8)
def test_every_value_rounds_as_in_ml_dtypes(to: str) -> None:
    form = BY_NAME[to]
    grid = np.arange(256, dtype=np.uint8).view(form.numpy).astype(np.float32)
    grid = np.sort(grid[np.isfinite(grid)])
    between = (grid[:-1] + grid[1:]) / 2  # the ties
    x = np.concatenate([grid, between, np.nextafter(between, INF, dtype=np.float32), np.nextafter(between, -INF, dtype=np.float32)])
    assert (cast(x, to).astype(np.float32) == x.astype(form.numpy).astype(np.float32)).all()
    assert not np.any(radius(x, to) or 0), "a denormal may be flushed, which changes nothing here"


@pytest.mark.parametrize("to", FLOAT8)
def test_saturation_follows_the_table(to: str) -> None:
    largest = BY_NAME[to].largest
    x = np.array([INF, -INF, 1e9, -1e9, NAN], np.float32)
    assert np.array_equal(cast(x, to).astype(np.float32), [largest, -largest, largest, -largest, NAN], equal_nan=True)
    beyond = [INF, -INF, INF, -INF, NAN] if to == "float8e5m2" else [NAN] * 5
    assert np.array_equal(cast(x, to, saturate=0).astype(np.float32), beyond, equal_nan=True)


@pytest.mark.parametrize("mode, expected", [("up", [1, 2, 2, 4, 0.5]), ("down", [1, 1, 1, 2, 0.5]), ("nearest", [1, 1, 2, 4, 0.5])])
def test_scales(mode: str, expected: list[float]) -> None:
    x = np.array([1, 1.25, 1.5, 3, 0.5], np.float32)
    assert cast(x, "float8e8m0", round_mode=mode).astype(np.float32).tolist() == expected


def test_scales_out_of_range() -> None:
    x = np.array([0, INF, 2.0**127 * 1.5], np.float32)
    assert cast(x, "float8e8m0").astype(np.float64).tolist() == [2.0**-127, 2.0**127, 2.0**127]
    assert np.isnan(cast(x, "float8e8m0", saturate=0, round_mode="nearest").astype(np.float64)).all()


def test_floats_to_integers_truncate_and_are_undefined_out_of_range() -> None:
    assert cast(np.array([-1.9, 1.9, 3.0], np.float32), "int8").tolist() == [-1, 1, 3]
    assert radius(np.array([-1.9, 127.5, 300], np.float32), "int8") == [0, 0, INF]
    assert radius(np.array([2.0], np.float32), "int32", chain="Sqrt") is None, "as sure as an exact operand"
    assert radius(np.array([4.0], np.float32), "int32", chain="Sqrt") == [1]


def test_below_eight_bits_any_of_three_roundings_is_taken() -> None:
    x = np.array([0.3, 2.5, 3.0, -2.3, -2.7, 3.5], np.float32)
    assert cast(x, "int4").astype(int).tolist() == [0, 2, 3, -2, -3, 4]
    assert radius(x, "int4") == [0, 1, 0, 0, 1, 1], "below one half all three agree"
    assert radius(np.array([4.0, 5.0, 6.3], np.float32), "int4", chain="Sqrt") == [1, 0, 1], "2.51 is 2 or 3; 2 may be a little less"


def test_integers_drop_high_bits() -> None:
    assert cast(np.array([200, -1, 2**40 + 3], np.int64), "int8").tolist() == [-56, -1, 3]
    assert cast(np.array([-1], np.int32), "uint64").tolist() == [2**64 - 1]
    assert cast(np.array([2, 0, -3], np.int32), "bool").tolist() == [True, False, True]


def test_casts_between_wide_floats_stay_unrounded_in_the_reference() -> None:
    x = np.array([1.0, 1 / 3], np.float32)
    assert radius(x, "float16")[0] == 0
    assert 0 < radius(x, "float16")[1] < 2.0**-11
    assert radius(x, "double") is None
    value = reference(Program(model(x, "float16"), torch.float64), {"x": x})["y"].ball.value
    assert value[1] == np.float32(1 / 3)


def test_text() -> None:
    x = np.array(["3.5", "1e-5", "INF", "-inf", "NaN"], object)
    assert np.array_equal(cast(x, "float"), np.array([3.5, 1e-5, INF, -INF, NAN], np.float32), equal_nan=True)
    assert cast(np.array(["7", "-12"], object), "int64").tolist() == [7, -12]
    assert cast(np.array([7, -12], np.int64), "string").tolist() == ["7", "-12"]
    assert float(cast(np.array([314.15926], np.float32), "string")[0]) == pytest.approx(314.15926)


PAIRS = [("float", "int32"), ("double", "uint64"), ("float16", "uint16"), ("bfloat16", "int16"), ("int8", "float8e5m2"), ("float8e8m0", "uint8")]


@pytest.mark.parametrize("source, to", PAIRS)
@pytest.mark.parametrize("dtype", [None, "float64"])
def test_bit_casts_there_and_back(source: str, to: str, dtype: str | None) -> None:
    width = BY_NAME[source].bits // 8
    bits = np.array([1, 60, 100, 3], np.uint8).repeat(width).view(BY_NAME[source].numpy)
    there = run(model(bits, to, opset=26, op="BitCast"), {"x": bits})["y"]
    assert there.dtype == BY_NAME[to].numpy
    assert there.tobytes() == bits.tobytes()
    if dtype and not BY_NAME[to].is_float:
        assert run(model(bits, to, opset=26, op="BitCast"), {"x": bits}, dtype)["y"].tobytes() == bits.tobytes()
    assert BY_ONNX[BY_NAME[to].onnx].bits == BY_NAME[source].bits


def test_bit_casts_of_four_bits() -> None:
    x = np.array([0.5, 6, -1.5, -0.0], ml_dtypes.float4_e2m1fn)
    assert run(model(x, "uint4", opset=26, op="BitCast"), {"x": x})["y"].astype(int).tolist() == [1, 7, 11, 8]
