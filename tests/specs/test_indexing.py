"""Indexing, selection and resizing where the drawn self-check does not look: uncertain indices, ties, open readings, old forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from specs import run
from specs.numerics import LOOSEST, Ball, outputs
from specs.program import Node, Program

INF = float("inf")


def model(op: str, opset: int, inputs: list[np.ndarray | None], constant: tuple[int, ...] = (), results: int = 1, **attrs: Any) -> onnx.ModelProto:
    """One node; the inputs at `constant` are initializers."""
    names = ["" if v is None else f"i{k}" for k, v in enumerate(inputs)]
    outs = [f"o{k}" for k in range(results)]
    given = [(k, n, v) for k, (n, v) in enumerate(zip(names, inputs, strict=True)) if v is not None]
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, n, v in given if k not in constant]
    held = [numpy_helper.from_array(v, n) for k, n, v in given if k in constant]
    graph = helper.make_graph([helper.make_node(op, names, outs, **attrs)], "g", infos, [onnx.ValueInfoProto(name=o) for o in outs], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])


def compute(op: str, opset: int, *inputs: np.ndarray | None, results: int = 1, **attrs: Any) -> list[np.ndarray]:
    feeds = {f"i{k}": v for k, v in enumerate(inputs) if v is not None}
    got = run(model(op, opset, list(inputs), results=results, **attrs), feeds)
    return [got[f"o{k}"] for k in range(results)]


def radii(op: str, opset: int, balls: list[tuple[Any, Any]], results: int = 1, **attrs: Any) -> list[Any]:
    """Certified radii of the outputs for inputs given as (value, radius or None)."""
    values = [np.asarray(v) for v, _ in balls]
    node: Node = Program(model(op, opset, list(values), results=results, **attrs), torch.float64).graph.nodes[0]
    tensors = [torch.from_numpy(v.astype(np.float64) if v.dtype.kind == "f" else v) for v in values]
    errors = [None if e is None else torch.as_tensor(e, dtype=torch.float64) for _, e in balls]
    given = [Ball(t, e, e) for t, e in zip(tensors, errors, strict=True)]
    found = node.op.error(node, LOOSEST, given, outputs(node.op.meaning(node, *tensors)))
    return [None if worst is None else worst.tolist() for worst, _ in found]


X = np.arange(4, dtype=np.float32)


def test_only_what_an_uncertain_index_reads_is_undecided() -> None:
    assert radii("Gather", 18, [(X, None), (np.array([0, 2]), [0.0, 1.0])]) == [[0.0, INF]]
    assert radii("GatherElements", 18, [(X, [0.1, 0.2, 0.3, 0.4]), (np.array([3, -4, 1]), [0.0, 0.0, 2.0])]) == [[0.4, 0.1, INF]]


def test_scatter_without_reduction_leaves_double_writes_open() -> None:
    assert radii("ScatterElements", 18, [(X, None), (np.array([1, 1, 2]), None), (X[:3], None)]) == [[0.0, INF, 0.0, 0.0]]


def test_scatter_into_nothing_does_not_round() -> None:
    [added] = radii("ScatterElements", 18, [(X, None), (np.array([1]), None), (X[2:3], None)], reduction="add")
    assert added[0] == added[2] == 0.0
    assert 0 < added[1] < 1e-6


@pytest.mark.parametrize(
    ("values", "errors", "index"),
    [
        ([3, 1, 2, 0], [0.1, 0.1, 0.1, 0.1], [0.0, 0.0]),
        ([3, 2, 2, 0], [0.1, 0.0, 0.0, 0.0], [0.0, 0.0]),  # exact ties: the lower index first
        ([3, 2, 2, 0], [0.1, 0.1, 0.0, 0.0], [0.0, INF]),
        ([3, 2.9, 2, 0], [0.1, 0.1, 0.0, 0.0], [INF, INF]),
    ],
)
def test_top_k_decides_what_no_other_overtakes(values: list[float], errors: list[float], index: list[float]) -> None:
    found = radii("TopK", 18, [(np.array(values, np.float32), errors), (np.array([2]), None)], results=2)
    assert found[1] == index


def test_top_k_of_unsigned_integers_beyond_int64() -> None:
    values, indices = compute("TopK", 24, np.array([1, 2**64 - 1, 2**63], np.uint64), np.array([2]), results=2)
    assert values.tolist() == [2**64 - 1, 2**63]
    assert indices.tolist() == [1, 2]


def test_unique_orders_strings() -> None:
    y, first, inverse = compute("Unique", 18, np.array(["b", "a", "b"], object), results=3, sorted=0)
    assert (y.tolist(), first.tolist(), inverse.tolist()) == (["b", "a"], [0, 1], [0, 1, 0])


def test_gather_strings() -> None:
    assert compute("Gather", 18, np.array(["a", "b", "c"], object), np.array([-1, 0]))[0].tolist() == ["c", "a"]


RESIZES = [
    ("Upsample", 7, [], {"scales": [2.0]}, [0, 0, 1, 1, 2, 2, 3, 3]),
    ("Upsample", 9, [np.array([2], np.float32)], {"mode": "linear"}, [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]),
    ("Resize", 10, [np.array([0.6], np.float32)], {}, [0, 2]),  # downsampling of that time rounds up
    ("Resize", 10, [np.array([0.5], np.float32)], {"mode": "linear"}, [0, 2]),
    ("Resize", 11, [np.zeros(0, np.float32), np.array([2], np.float32)], {"coordinate_transformation_mode": "tf_half_pixel_for_nn"}, [0, 1, 1, 2, 2, 3, 3, 3]),
    ("Resize", 18, [None, np.array([0.25], np.float32)], {"mode": "cubic", "coordinate_transformation_mode": "pytorch_half_pixel"}, [0]),
]


@pytest.mark.parametrize(("op", "opset", "more", "attrs", "expected"), RESIZES)
def test_forms_of_resize(op: str, opset: int, more: list[Any], attrs: dict[str, Any], expected: list[float]) -> None:
    np.testing.assert_allclose(compute(op, opset, X, *more, **attrs)[0], expected, atol=1e-6)


def test_resize_is_exact_for_dyadic_scales_and_open_at_ties_of_others() -> None:
    floor = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    halves = [(X, None), (np.zeros(0, np.float32), None), (np.array([2], np.float32), None)]
    thirds = [*halves[:2], (np.array([3], np.float32), None)]
    assert radii("Resize", 18, halves, **floor) == [None]
    [found] = radii("Resize", 18, thirds, **floor)
    assert [i for i, r in enumerate(found) if r] == [3, 6, 9]
    assert max(found) == 1.0


def test_a_scale_that_does_not_fit_has_two_readings() -> None:
    size = [(np.arange(10, dtype=np.float32), None), (np.zeros(0, np.float32), None), (np.array([0.45], np.float32), None)]
    [found] = radii("Resize", 18, size, mode="linear", coordinate_transformation_mode="align_corners")
    np.testing.assert_allclose(found, [0, 3 - 9 / 3.5, 6 - 18 / 3.5, 9 - 27 / 3.5], atol=1e-4)


def test_grid_sample_folds_far_positions_back() -> None:
    x, grid = X.reshape(1, 1, 4), np.array([-1.25, 1.75, 9.0], np.float32).reshape(1, 3, 1)
    assert compute("GridSample", 20, x, grid, padding_mode="reflection", mode="nearest")[0].ravel().tolist() == [0.0, 2.0, 3.0]
    assert compute("GridSample", 20, x, grid, padding_mode="border")[0].ravel().tolist() == [0.0, 3.0, 3.0]
