"""Old opset versions and types that are never drawn, but that models of users contain: checked against plain numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper

from specs import run

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def one(op: str, opset: int, *inputs: np.ndarray, outputs: int = 1, **attrs: Any) -> list[np.ndarray]:
    """Run one node on inputs and return its outputs."""
    names = [f"i{k}" for k in range(len(inputs))]
    results = [f"o{k}" for k in range(outputs)]
    node = helper.make_node(op, names, results, **attrs)
    kinds = [helper.np_dtype_to_tensor_dtype(i.dtype) if i.dtype != object else onnx.TensorProto.STRING for i in inputs]
    infos = [helper.make_tensor_value_info(n, k, i.shape) for n, k, i in zip(names, kinds, inputs, strict=True)]
    graph = helper.make_graph([node], "g", infos, [onnx.ValueInfoProto(name=r) for r in results])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    got = run(model, dict(zip(names, inputs, strict=True)))
    return [got[r] for r in results]


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


OLD: list[tuple[str, Callable[[], list[np.ndarray]], list[Any]]] = [
    ("Reshape-1", lambda: one("Reshape", 4, X, shape=[0, -1]), [X.reshape(2, 12)]),
    ("Squeeze-1", lambda: one("Squeeze", 12, X[:1, :, :1], axes=[0, -1]), [X[0, :, 0]]),
    ("Unsqueeze-11", lambda: one("Unsqueeze", 12, X, axes=[-1, 0]), [X[None, ..., None]]),
    ("Concat-1", lambda: one("Concat", 3, X, X), [np.concatenate([X, X], 1)]),
    ("Split-2", lambda: one("Split", 12, X, outputs=2, axis=2, split=[1, 3]), [X[..., :1], X[..., 1:]]),
    ("Split-13", lambda: one("Split", 13, X, outputs=3, axis=1), [X[:, :1], X[:, 1:2], X[:, 2:]]),
    ("Slice-1", lambda: one("Slice", 9, X, starts=[1, -2], ends=[9, -1], axes=[2, 1]), [X[:, 1:2, 1:]]),
    ("Pad-1", lambda: one("Pad", 1, X, paddings=[0, 0, 1, 0, 0, 2], value=3.0), [np.pad(X, [(0, 0), (0, 0), (1, 2)], constant_values=3)]),
    ("Pad-2", lambda: one("Pad", 10, X, pads=[0, 1, 0, 0, 2, 0], mode="reflect"), [np.pad(X, [(0, 0), (1, 2), (0, 0)], mode="reflect")]),
    ("Tile-1", lambda: one("Tile", 5, X, np.array(2, np.float32), np.array(1, np.float32)), [np.tile(X, (1, 2, 1))]),
    ("Shape-13", lambda: one("Shape", 13, X), [ints(2, 3, 4)]),
    ("Slice clamps a start far below", lambda: one("Slice", 21, X, ints(-100), ints(-200), ints(2), ints(-1)), [X[..., :1]]),
    ("Split beyond the end", lambda: one("Split", 21, X[0, 0], outputs=3, num_outputs=3), [ints(0, 1), ints(2, 3), ints()]),
    ("Pad removes before it repeats", lambda: one("Pad", 21, X[0, 0], ints(2, -1), mode="reflect"), [ints(2, 1, 0, 1, 2)]),
    ("Dropout-1", lambda: one("Dropout", 1, X, outputs=2, is_test=1), [X, np.ones_like(X)]),
    ("Dropout-10", lambda: one("Dropout", 10, X, outputs=2, ratio=0.3), [X, np.ones(X.shape, np.bool_)]),
]


@pytest.mark.parametrize(("compute", "expected"), [case[1:] for case in OLD], ids=[case[0] for case in OLD])
def test_old_form(compute: Callable[[], list[np.ndarray]], expected: list[Any]) -> None:
    for got, want in zip(compute(), expected, strict=True):
        np.testing.assert_array_equal(got, want)


def test_every_form_of_constant() -> None:
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("v", onnx.TensorProto.FLOAT, [2], [5.0, 7.0]), helper.make_tensor("i", onnx.TensorProto.INT64, [2, 2], [0, 2, 1, 0]), [2, 3]
    )
    forms: list[tuple[dict[str, Any], Any]] = [
        ({"sparse_value": sparse}, np.array([[0, 0, 5], [7, 0, 0]], np.float32)),
        ({"value_float": 0.1}, np.float32(0.1)),
        ({"value_floats": [1.5, 2.0]}, np.array([1.5, 2], np.float32)),
        ({"value_int": 3}, np.int64(3)),
        ({"value_ints": [3, 4]}, ints(3, 4)),
        ({"value_string": "a"}, np.array("a", dtype=object)),
        ({"value_strings": ["a", "b"]}, np.array(["a", "b"], dtype=object)),
    ]
    for attrs, want in forms:
        got = one("Constant", 21, **attrs)[0]
        assert got.dtype == np.asarray(want).dtype
        np.testing.assert_array_equal(got, want)


WORDS = np.array([["a", "bb"], ["", "d"]], dtype=object)


@pytest.mark.parametrize(
    ("got", "want"),
    [
        (lambda: one("Transpose", 21, WORDS), WORDS.T),
        (lambda: one("Concat", 21, WORDS, WORDS, axis=1), np.concatenate([WORDS, WORDS], 1)),
        (lambda: one("Reshape", 21, WORDS, ints(-1)), WORDS.reshape(-1)),
        (lambda: one("Slice", 21, WORDS, ints(0), ints(9), ints(0), ints(2)), WORDS[::2]),
        (lambda: one("Split", 21, WORDS, outputs=2, num_outputs=2, axis=1)[1:], WORDS[:, 1:]),
        (lambda: one("Pad", 23, WORDS, ints(0, 1, 0, 0)), np.array([["", "a", "bb"], ["", "", "d"]], dtype=object)),
        (lambda: one("Shape", 21, WORDS), ints(2, 2)),
    ],
)
def test_strings(got: Callable[[], list[np.ndarray]], want: np.ndarray) -> None:
    np.testing.assert_array_equal(got()[0], want)


@pytest.mark.parametrize(
    "kind", [ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2fnuz, ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.bfloat16, np.complex64, np.bool_, np.uint64]
)
@pytest.mark.parametrize("mode", ["constant", "reflect", "wrap"])
def test_every_format_is_padded(kind: Any, mode: str) -> None:
    x = np.arange(6).reshape(2, 3).astype(kind)
    got = one("Pad", 24, x, ints(0, 1, 0, 2), mode=mode)[0]
    assert got.dtype == x.dtype
    wide = np.complex64 if kind is np.complex64 else np.float64
    np.testing.assert_array_equal(got.astype(wide), np.pad(x.astype(wide), [(0, 0), (1, 2)], mode=mode))


@pytest.mark.parametrize("kind", [ml_dtypes.float8_e4m3fn, ml_dtypes.uint4, ml_dtypes.bfloat16, np.complex64])
@pytest.mark.parametrize("op", ["Transpose", "Flatten", "Squeeze", "Unsqueeze", "Reshape"])
def test_every_format_is_moved(kind: Any, op: str) -> None:
    x = np.arange(6).reshape(2, 1, 3).astype(kind)
    extra = {"Unsqueeze": [ints(0)], "Reshape": [ints(3, 2)]}.get(op, [])
    got = one(op, 24, x, *extra)[0]
    assert got.dtype == x.dtype
    assert sorted(abs(v) for v in got.reshape(-1).tolist()) == sorted(abs(v) for v in x.reshape(-1).tolist())
