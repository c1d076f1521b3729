"""Convolutions and pools where onnx.reference or shape inference cannot be the judge: worked out by hand or by plain loops."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper

from oracles.judge import reference
from specs import Program, run
from tests.specs.test_old_forms import ints, one

RAMP = np.arange(1, 8, dtype=np.float32).reshape(1, 1, 7)


def line(op: str, opset: int, x: np.ndarray, **attrs: Any) -> list[float]:
    return one(op, opset, x, **attrs)[0].ravel().tolist()


@pytest.mark.parametrize("opset", [10, 11, 19, 22])
def test_ceil_mode_does_not_move_the_other_windows(opset: int) -> None:
    assert line("AveragePool", opset, RAMP, kernel_shape=[3], strides=[3], ceil_mode=1) == [2, 5, 7]


@pytest.mark.parametrize("opset", [10, 12, 22])
def test_a_window_that_starts_in_the_padding_is_dropped(opset: int) -> None:
    assert line("MaxPool", opset, RAMP[..., :2], kernel_shape=[3], strides=[3], pads=[1, 1], ceil_mode=1) == [2]


def test_padding_counts_but_what_ceil_mode_adds_does_not() -> None:
    attrs = {"kernel_shape": [3], "strides": [2], "pads": [1, 1], "ceil_mode": 1, "count_include_pad": 1}
    assert line("AveragePool", 22, RAMP[..., :4], **attrs) == [1, 3, 2]
    assert line("AveragePool", 22, RAMP[..., :4], **{**attrs, "count_include_pad": 0}) == [1.5, 3, 4]


@pytest.mark.parametrize(("auto", "expected"), [("SAME_UPPER", [3, 5, 6]), ("SAME_LOWER", [2, 4, 6])])
def test_same_pads_unevenly(auto: str, expected: list[float]) -> None:
    assert line("MaxPool", 22, RAMP[..., :6], kernel_shape=[3], strides=[2], auto_pad=auto) == expected


def test_same_sees_dilation() -> None:
    assert line("MaxPool", 22, RAMP[..., :6], kernel_shape=[2], dilations=[2], auto_pad="SAME_UPPER") == [2, 3, 4, 5, 6, 5]


def test_padding_adds_nothing_to_a_norm() -> None:
    assert line("LpPool", 22, RAMP[..., :4], kernel_shape=[3], pads=[1, 1], p=1, strides=[2], ceil_mode=1) == [3, 9, 4]


def test_padding_never_wins() -> None:
    x = np.array([-5, -7, -128], np.int8).reshape(1, 1, 3)
    assert line("MaxPool", 12, x, kernel_shape=[2], pads=[1, 1]) == [-5, -5, -7, -128]
    assert line("MaxPool", 12, np.full((1, 1, 2), -np.inf, np.float32), kernel_shape=[2], pads=[1, 0]) == [-np.inf, -np.inf]


def test_indices_count_the_whole_tensor_and_columns_of_a_channel() -> None:
    x = np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4)
    assert one("MaxPool", 12, x, outputs=2, kernel_shape=[2, 2], strides=[2, 2])[1].ravel().tolist() == [5, 7, 17, 19]
    assert one("MaxPool", 12, x, outputs=2, kernel_shape=[2, 2], strides=[2, 2], storage_order=1)[1].ravel().tolist() == [4, 10, 16, 22]


def test_the_index_of_a_tie_is_not_decided() -> None:
    node = helper.make_node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2])
    infos = [helper.make_tensor_value_info("x", 1, [1, 1, 4])], [helper.make_tensor_value_info("y", 1, None), helper.make_tensor_value_info("i", 7, None)]
    model = helper.make_model(helper.make_graph([node], "g", *infos), opset_imports=[helper.make_opsetid("", 12)])
    known = reference(Program(model, torch.float64), {"x": np.array([[[3, 3, 1, 2]]], np.float32)})
    assert known["y"].ball.exact
    assert known["i"].ball.worst.ravel().tolist() == [1, 0, 0]


GEOMETRY = list(itertools.product([1, 2, 3], [1, 2], [1, 2], [0, 1], ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"], [0, 1]))


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_the_reference_agrees_with_torch_pools(op: str) -> None:
    """The reference pools by windows of its own, the torch backend by torch's kernels."""
    x = np.random.default_rng(0).integers(-8, 8, (2, 3, 7, 6)).astype(np.float32)
    for kernel, stride, dilation, pad, auto, ceil in GEOMETRY:
        if pad >= kernel or (pad and auto != "NOTSET"):
            continue
        pads = {"pads": [pad] * 4} if auto == "NOTSET" else {}
        node = helper.make_node(
            op, ["x"], ["y"], kernel_shape=[kernel] * 2, strides=[stride] * 2, dilations=[dilation] * 2, auto_pad=auto, ceil_mode=ceil, **pads
        )
        info = [helper.make_tensor_value_info("x", 1, x.shape)], [helper.make_tensor_value_info("y", 1, None)]
        model = helper.make_model(helper.make_graph([node], "g", *info), opset_imports=[helper.make_opsetid("", 22)])
        np.testing.assert_allclose(run(model, {"x": x})["y"], run(model, {"x": x}, "float64")["y"], rtol=1e-6, atol=1e-6, err_msg=str(node))


# convolutions ----------------------------------------------------------------------------------------------------------
def test_what_an_output_shape_cuts_off() -> None:
    x, w = RAMP[..., :3], np.ones((1, 1, 3), np.float32)
    whole = [1, 1, 3, 2, 5, 3, 3]
    for attrs, expected in [
        ({}, whole),
        ({"output_shape": [6]}, whole[1:]),
        ({"output_shape": [6], "auto_pad": "SAME_UPPER"}, whole[:6]),
        ({"output_shape": [6], "auto_pad": "SAME_LOWER"}, whole[1:]),
        ({"auto_pad": "SAME_UPPER"}, whole[:6]),
        ({"output_shape": [5]}, whole[1:6]),
        ({"output_padding": [1]}, [*whole, 0]),
        ({"pads": [3, 0]}, whole[3:]),
    ]:
        assert one("ConvTranspose", 22, x, w, strides=[2], **attrs)[0].ravel().tolist() == expected, attrs  # type: ignore[arg-type]


def test_bias_reaches_what_no_kernel_touches() -> None:
    x, w, b = RAMP[..., :2], np.ones((1, 1, 1), np.float32), np.array([10], np.float32)
    assert one("ConvTranspose", 22, x, w, b, strides=[3], output_padding=[2])[0].ravel().tolist() == [11, 10, 10, 12, 10, 10]


def _slow(x: np.ndarray, w: np.ndarray, pads: list[int], strides: list[int], dilations: list[int], group: int) -> np.ndarray:
    n = w.ndim - 2
    padded = np.pad(x, [(0, 0), (0, 0), *[(pads[i], pads[n + i]) for i in range(n)]])
    out = [(padded.shape[2 + i] - dilations[i] * (w.shape[2 + i] - 1) - 1) // strides[i] + 1 for i in range(n)]
    y = np.zeros((x.shape[0], w.shape[0], *out))
    each = w.shape[0] // group
    for at in itertools.product(*map(range, out)):
        window = padded[
            (slice(None), slice(None), *(slice(p * s, p * s + d * (k - 1) + 1, d) for p, s, d, k in zip(at, strides, dilations, w.shape[2:], strict=True)))
        ]
        for m in range(w.shape[0]):
            first = m // each * w.shape[1]
            y[(slice(None), m, *at)] = (window[:, first : first + w.shape[1]] * w[m]).reshape(x.shape[0], -1).sum(1)
    return y


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_conv_of_any_rank_and_its_transpose(rank: int) -> None:
    rng = np.random.default_rng(rank)
    x = rng.integers(-4, 4, (2, 4, *[4] * rank)).astype(np.float32)
    w = rng.integers(-4, 4, (6, 2, *[2] * rank)).astype(np.float32)
    pads, strides, dilations = [1] * rank + [0] * rank, [2] + [1] * (rank - 1), [1] * (rank - 1) + [2]
    attrs = {"group": 2, "pads": pads, "strides": strides, "dilations": dilations}
    y = one("Conv", 22, x, w, **attrs)[0]
    np.testing.assert_array_equal(y, _slow(x, w, pads, strides, dilations, 2))
    # <conv(x), z> = <x, conv_transpose(z)> for every z defines the transpose.
    z = rng.integers(-4, 4, y.shape).astype(np.float32)
    back = one("ConvTranspose", 22, z, w, **attrs, output_padding=[1] + [0] * (rank - 1))[0]
    cells = tuple(slice(0, min(a, b)) for a, b in zip(x.shape, back.shape, strict=True))
    assert (y * z).sum() == (x[cells] * back[cells]).sum()


def test_zero_points_of_channels_and_padding_at_zero() -> None:
    x, w = np.full((1, 1, 3), 130, np.uint8), np.array([[[3]], [[5]]], np.uint8)
    y = one("ConvInteger", 10, x, w, np.array(128, np.uint8), np.array([1, 2], np.uint8), pads=[1, 0])[0]
    assert y.ravel().tolist() == [0, 4, 4, 4, 0, 6, 6, 6]


def test_blocks_are_added_where_they_overlap() -> None:
    ones = np.ones((1, 4, 6), np.int32)
    assert one("Col2Im", 18, ones, ints(3, 4), ints(2, 2))[0].ravel().tolist() == [1, 2, 2, 1, 2, 4, 4, 2, 1, 2, 2, 1]


def test_old_versions() -> None:
    assert one("GlobalLpPool", 1, np.array([[[3, -4]]], np.float32), p=2.0)[0].ravel().tolist() == [5]
    assert line("LpPool", 1, RAMP[..., :2] * np.float32(-1), kernel_shape=[2], p=1.0) == [3]
    assert line("AveragePool", 1, RAMP, kernel_shape=[2], pads=[1, 0]) == [1, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5]
    assert one("MaxPool", 8, RAMP, outputs=2, kernel_shape=[7])[1].ravel().tolist() == [6]
