"""Rounding edges of quantisation: ties, grids of narrow floats, and how far a result may step when its argument is not exact."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import helper

import specs
from oracles.reference import reference
from specs.formats import BY_NAME
from specs.ops.quantisation import to_grid
from specs.program import Program

NUMPY = {"float8e4m3fn": ml_dtypes.float8_e4m3fn, "float8e5m2": ml_dtypes.float8_e5m2, "float8e4m3fnuz": ml_dtypes.float8_e4m3fnuz,
         "float8e5m2fnuz": ml_dtypes.float8_e5m2fnuz, "float4e2m1": ml_dtypes.float4_e2m1fn}  # fmt: skip


def model(text: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {text}')


@pytest.mark.parametrize("name", NUMPY)
def test_grids_are_those_of_ml_dtypes(name: str) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal(2000) * 2.0 ** rng.integers(-20, 12, 2000), [0.0, 0.5, 0.25, 1.0625, 464.0, 465.0, 61440.0]])
    form = BY_NAME[name]
    inside = x[np.abs(x) <= form.largest]
    np.testing.assert_array_equal(to_grid(torch.from_numpy(inside), form).numpy(), inside.astype(NUMPY[name]).astype(np.float64))
    assert float(to_grid(torch.from_numpy(x), form).abs().max()) <= form.largest
    if name != "float4e2m1":
        np.testing.assert_array_equal(to_grid(torch.from_numpy(x), form, saturate=False).numpy(), x.astype(NUMPY[name]).astype(np.float64))


def test_ties_round_before_the_zero_point_is_added() -> None:
    m = model("""agraph (float[4] x) => (uint8[4] y) {
        s = Constant <value_float: float = 2.0> ()
        z = Constant <value: tensor = uint8 {1}> ()
        y = QuantizeLinear(x, s, z)
    }""")
    x = np.array([1, 3, 5, 1000], np.float32)
    np.testing.assert_array_equal(specs.run(m, {"x": x})["y"], [1, 3, 3, 255])
    assert reference(Program(m, torch.float64), {"x": x})["y"].ball.worst is None


def test_only_elements_at_an_edge_are_in_doubt_when_the_scale_rounds() -> None:
    m = model("agraph (float[3] x, float s, uint8 z) => (uint8[3] y) { y = QuantizeLinear(x, s, z) }")
    s = np.float32(0.1)
    x = np.array([float(s) * 10.5, float(s) * 10.2, float(s) * 9.9], np.float32)
    ball = reference(Program(m, torch.float64), {"x": x, "s": np.array(s), "z": np.array(0, np.uint8)})["y"].ball
    assert ball.worst.tolist() == [1, 0, 0]


def test_an_error_of_the_argument_becomes_whole_steps() -> None:
    m = model("agraph (float[2] x, float s, int8 z) => (int8[2] y, float[2] back) { e = Exp(x) y = QuantizeLinear(e, s, z) back = DequantizeLinear(y, s, z) }")
    feeds = {"x": np.array([0, 3], np.float32), "s": np.array(0.5, np.float32), "z": np.array(3, np.int8)}
    expected = reference(Program(m, torch.float64), feeds)
    assert expected["y"].ball.value.tolist() == [5, 43]
    assert expected["y"].ball.exact
    assert expected["back"].ball.value.tolist() == [1, 20]


@pytest.mark.parametrize(("axis", "block"), [(0, 0), (1, 0), (-1, 2), (0, 3)])
def test_granularities(axis: int, block: int) -> None:
    x = np.arange(-12, 12, dtype=np.float32).reshape(4, 6)
    shape = [-(-d // block) if i == axis % 2 else d for i, d in enumerate(x.shape)] if block else [x.shape[axis]]
    scale = (1 + np.arange(np.prod(shape), dtype=np.float32)).reshape(shape) / 4
    attrs: dict[str, Any] = {"axis": axis, "output_dtype": onnx.TensorProto.INT16, **({"block_size": block} if block else {})}
    node = helper.make_node("QuantizeLinear", ["x", "s"], ["y"], **attrs)
    infos = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, v.shape) for n, v in (("x", x), ("s", scale))]
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name="y")])
    got = specs.run(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), {"x": x, "s": scale})["y"]
    full = np.repeat(scale, block, axis)[: x.shape[0], : x.shape[1]] if block else scale.reshape([-1 if i == axis % 2 else 1 for i in range(2)])
    np.testing.assert_array_equal(got, np.rint(x / full).astype(np.int16))
