"""ONNX's own node tests: our meanings in the declared types, at each test's own tolerance, compared as ONNX's runner does.

`node_test_exceptions.json` lists the tests that fail, with the reason; one that starts to pass has to leave the list.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests

import specs
from specs.operator import find
from specs.rule import Unsupported

EXCEPTIONS: dict[str, str] = json.loads((Path(__file__).parent / "node_test_exceptions.json").read_text())
LEAST = 1700  # tests covered, at least: a spec that disappears must not go unnoticed


def operators_of(graph: onnx.GraphProto) -> Iterator[tuple[str, str]]:
    for n in graph.node:
        yield n.op_type, n.domain
        for a in n.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                yield from operators_of(a.g)


@lru_cache(maxsize=1)
def covered() -> list[TestCase]:
    with warnings.catch_warnings():  # numpy's, on the infinities among the inputs
        warnings.simplefilter("ignore")
        tests = load_model_tests(kind="node")
    return [c for c in tests if c.model is not None and all(find(*key) is not None for key in operators_of(c.model.graph))]


def params() -> list[Any]:
    return [pytest.param(c, id=c.name, marks=[pytest.mark.xfail(reason=EXCEPTIONS[c.name], strict=True)] if c.name in EXCEPTIONS else []) for c in covered()]


@pytest.mark.parametrize("case", params())
def test_node(case: TestCase) -> None:
    assert case.model is not None and case.data_sets is not None
    for given, wanted in case.data_sets:
        feeds = {i.name: array(v) for i, v in zip(case.model.graph.input, given, strict=False)}
        try:
            got = specs.run(case.model, feeds)
        except Unsupported as e:
            pytest.fail(f"a covered operator is not covered: {e}")
        for o, want in zip(case.model.graph.output, wanted, strict=True):
            similar(got[o.name], array(want), case.rtol, case.atol)


def array(value: Any) -> Any:
    """Types that numpy lacks are kept as protos."""
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    return [array(v) for v in value] if isinstance(value, (list, tuple)) else value


def similar(got: Any, want: Any, rtol: float, atol: float) -> None:
    """`assert_similar_outputs` of onnx.backend.test.runner; types that numpy cannot compare are widened."""
    if want is None or isinstance(want, list):
        assert type(got) is type(want), f"got {got!r}, wanted {want!r}"
        assert want is None or len(got) == len(want), f"{len(got)} elements, wanted {len(want)}"
        for g, w in zip(got or [], want or [], strict=True):
            similar(g, w, rtol, atol)
        return
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"shape {got.shape}, wanted {want.shape}"
    if want.dtype.kind in "OUS":
        np.testing.assert_array_equal(got.astype(object), want.astype(object))
        return
    assert got.dtype == want.dtype, f"type {got.dtype}, wanted {want.dtype}"
    if want.dtype.kind not in "fiubc" or want.dtype.isbuiltin == 2:
        rtol = max(rtol, 2**-6) if want.dtype.name == "bfloat16" else rtol
        got, want = got.astype(np.float32), want.astype(np.float32)
    np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)


def test_99_of_100_pass() -> None:
    tests = {c.name for c in covered()}
    assert len(tests) >= LEAST, f"only {len(tests)} of {len(load_model_tests(kind='node'))} tests are of operators with a meaning"
    assert len(tests & EXCEPTIONS.keys()) <= 0.01 * len(tests)


def test_exceptions_are_of_tests_that_exist_and_say_why() -> None:
    assert EXCEPTIONS.keys() <= {c.name for c in covered()}
    assert all(len(reason) > 20 for reason in EXCEPTIONS.values())
