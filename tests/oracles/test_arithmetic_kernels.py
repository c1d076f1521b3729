"""Softmax, convolutions, fused blocks and narrow arithmetic: right in every drawn case, and every planted defect is found in a few."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from onnx import helper

from benchmarks.kernels import Contest, measured
from oracles.kernel import kernels
from oracles.native import Native
from oracles.records import Case
from specs.formats import BY_NAME
from specs.ops.casting import quantised
from tests.oracles.kernel_cases import Bench, cases, caught, planted

#: What is drawn for a kernel: blocks by id, ONNX operators by name.
DRAWN = {
    "two-pass-softmax": ("two-pass-softmax/kernel", "Softmax"),
    "im2win-convolution": ("Conv",),
    "fused-conv-first": ("convfirst-block-fusion/kernel",),
    "fused-mobile-block": ("convfirst-block-fusion/mobile-kernel",),
    "float8-encode": ("fp8-formats/cast",),
    "float8-decode": ("fp8-formats/cast",),
    "bfloat16-round": ("bfloat16-training/cast",),
    "float8-matmul": ("fp8-formats/kernel",),
    "lookup-matmul": ("deepgemm-lut/kernel",),
    "dyadic-requantize": ("hawqv3-dyadic/kernel",),
    "dyadic-add": ("hawqv3-dyadic/add-kernel",),
    "fixed-point-convolution": ("dfp16-integer-training/kernel",),
    "binary-convolution": ("bnas/kernel",),
}
#: One defect of each kind a kernel author makes, for every run of the tests; the others are marked slow.
FEW = {
    "two-pass-softmax": "merge",
    "im2win-convolution": "overrun",
    "fused-conv-first": "race",
    "fused-mobile-block": "padding",
    "float8-encode": "ties",
    "bfloat16-round": "carry",
    "float8-matmul": "accumulator",
    "lookup-matmul": "overflow",
    "dyadic-requantize": "rounding",
    "fixed-point-convolution": "odd",
    "binary-convolution": "sign-bit",
}
CASES = 12
MOST = 120  # cases in which a defect has to be found


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with Bench() as made:
        yield made


@pytest.mark.parametrize("name", DRAWN)
def test_a_kernel_and_its_baselines_stay_inside_the_bound(bench: Bench, name: str) -> None:
    settings = [name, *(f"{name}@{b}" for b in kernels()[name].baselines)]
    ran = 0
    for case in cases(DRAWN[name]):
        for setting in settings:
            found = bench.verdicts(case, setting)
            assert {v.verdict for v in found} <= {"ok", "noise"}, (setting, found)
            ran += setting == name and bool(found)
        if ran == CASES:
            break


def found_in(bench: Bench, kernel: str, defect: str) -> None:
    tried = caught(bench, kernel, defect, DRAWN[kernel], MOST)
    print(f"{kernel}!{defect}: found in case {tried}")
    assert tried, f"{kernel}!{defect} was not found in {MOST} cases"


@pytest.mark.parametrize(("kernel", "defect"), FEW.items())
def test_a_planted_defect_is_found(bench: Bench, kernel: str, defect: str) -> None:
    found_in(bench, kernel, defect)


@pytest.mark.parametrize("kernel", ["float8-encode", "float8-decode", "bfloat16-round"])
def test_a_cast_that_copies_its_input_is_found(bench: Bench, kernel: str) -> None:
    """The tooth `identity` copies bytes: a converted input would be the right answer of a cast."""
    assert caught(bench, kernel, "identity", DRAWN[kernel], 5)


@pytest.mark.slow
@pytest.mark.parametrize(("kernel", "defect"), [p for p in planted(tuple(DRAWN)) if FEW.get(p[0]) != p[1]])
def test_every_other_planted_defect_is_found(bench: Bench, kernel: str, defect: str) -> None:
    found_in(bench, kernel, defect)


def test_there_are_enough_defects() -> None:
    assert len(planted(tuple(DRAWN))) >= 80
    assert all(len(kernels()[name].defects) >= 3 for name in DRAWN)


# softmax: the range it is stated for -----------------------------------------------------------------------------------
def softmax_case(x: np.ndarray) -> Case:
    ends = [helper.make_tensor_value_info(name, 1, x.shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"], axis=-1)], "g", ends[:1], ends[1:])
    return Case(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString(), {"x": x})


@pytest.mark.parametrize("height", [0.0, 100.0, -1e4, 1e6, -1e6, 2.8e6])
def test_softmax_is_right_over_its_range(bench: Bench, height: float) -> None:
    x = (np.random.default_rng(1).standard_normal((3, 41)) * 4 + height).astype(np.float32)
    assert [v.verdict for v in bench.verdicts(softmax_case(x), "two-pass-softmax")] == ["ok"]


def test_softmax_takes_masked_elements(bench: Bench) -> None:
    x = np.array([[-np.inf, 0.0, 1.0, -np.inf], [3.0, -np.inf, -np.inf, -np.inf]], np.float32)
    outcome = bench.run(softmax_case(x), "two-pass-softmax")
    assert outcome.outputs is not None
    np.testing.assert_allclose(outcome.outputs["y"], torch.softmax(torch.from_numpy(x), 1).numpy(), rtol=1e-6)


@pytest.mark.parametrize("height", [3e7, 1e8])
def test_softmax_outside_its_range_is_a_finding(bench: Bench, height: float) -> None:
    x = (np.random.default_rng(1).standard_normal((3, 41)) * 40 + height).astype(np.float32)
    assert [v.verdict for v in bench.verdicts(softmax_case(x), "two-pass-softmax")] == ["wrong"]
    assert [v.verdict for v in bench.verdicts(softmax_case(x), "two-pass-softmax@three-pass-reload")] == ["ok"]


# against definitions, called directly ----------------------------------------------------------------------------------
def called(name: str, attrs: dict[str, Any], inputs: list[np.ndarray], like: np.ndarray, baseline: str = "") -> np.ndarray:
    kernel = kernels()[name]
    results = Native(kernel, kernel.baselines.get(baseline, ""))(attrs, inputs, [like])
    assert results is not None
    assert results[0] is not None
    return results[0]


FLOAT8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")


@pytest.mark.parametrize("name", FLOAT8)
@pytest.mark.parametrize("saturate", [1, 0])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_every_float16_becomes_the_8_bit_float_that_onnx_says(name: str, saturate: int) -> None:
    x, dtype = np.arange(1 << 16, dtype=np.uint16).view(np.float16), np.dtype(getattr(ml_dtypes, name))
    want = quantised(torch.from_numpy(x.astype(np.float64)), BY_NAME[name.replace("_", "")], bool(saturate)).numpy()
    for wide in (x, x.astype(np.float32)):
        got = called("float8-encode", {"saturate": saturate}, [wide], np.zeros(x.shape, dtype))
        np.testing.assert_array_equal(got.astype(np.float64), want)
    got = called("float8-encode", {"saturate": saturate}, [x.astype(np.float32)], np.zeros(x.shape, dtype), "by-definition")
    np.testing.assert_array_equal(got.astype(np.float64), want)


@pytest.mark.parametrize("name", FLOAT8)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_all_256_codes_are_read(name: str) -> None:
    codes = np.arange(256, dtype=np.uint8).view(getattr(ml_dtypes, name))
    got = called("float8-decode", {}, [codes], np.zeros(256, np.float32))
    np.testing.assert_array_equal(got, codes.astype(np.float32))


@pytest.mark.filterwarnings("ignore:invalid value")
def test_bfloat16_is_rounded_to_even_and_a_nan_stays_one() -> None:
    hard = np.array([0x7F7FFFFF, 0x7F7F7FFF, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0x3F808000, 0x3F818000, 0x80000001, 0], np.uint32)
    x = np.concatenate([hard, np.arange(0, 1 << 32, 65521, dtype=np.uint64).astype(np.uint32)]).view(np.float32)
    got = called("bfloat16-round", {}, [x], np.zeros(x.shape, ml_dtypes.bfloat16))
    np.testing.assert_array_equal(got.astype(np.float32), x.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_dyadic_ratios_are_exact_for_the_largest_sums() -> None:
    acc = np.array([[2**31 - 1, -(2**31), -1, 0, 1, -3, 5]], np.int32).T.reshape(7, 1)
    for m, c in ((2**31, 62), (2**31 - 1, 54), (2**30, 31), (3, 1)):
        got = called("dyadic-requantize", {"low": -128, "high": 127}, [acc, np.array([m]), np.array([c])], np.zeros(acc.shape, np.int8))
        want = [max(-128, min(127, math.floor(Fraction(int(a) * m, 2**c) + Fraction(1, 2)))) for a in acc.ravel()]
        assert got.ravel().tolist() == want


@pytest.mark.parametrize(("m", "k", "n"), [(0, 4, 3), (3, 4, 0), (1, 1, 1), (5, 257, 9)])
def test_look_ups_are_the_sum_of_the_table(m: int, k: int, n: int) -> None:
    rng = np.random.default_rng(2)
    a, w = (rng.integers(0, 256, d).astype(np.uint8) for d in ((m, k), (n, -(-k // 4))))
    table = rng.integers(-128, 128, 16).astype(np.int8)
    codes = np.stack([w >> s & 3 for s in (0, 2, 4, 6)], -1).reshape(n, 4 * w.shape[1])[:, :k]
    want = table.astype(np.int32)[4 * codes[None].astype(int) + (a & 3)[:, None]].sum(-1)
    for baseline in ("", "plain"):
        assert (called("lookup-matmul", {}, [a, w, table], np.zeros((m, n), np.int32), baseline) == want).all()


@pytest.mark.parametrize(("name", "inputs", "out"), [
    ("two-pass-softmax", [(0, 5)], (0, 5)), ("two-pass-softmax", [(3, 0)], (3, 0)),
    ("im2win-convolution", [(0, 2, 5, 5), (3, 2, 3, 3)], (0, 3, 3, 3)), ("float8-encode", [(0,)], (0,)),
])  # fmt: skip
def test_empty_tensors(name: str, inputs: list[tuple[int, ...]], out: tuple[int, ...]) -> None:
    like = np.zeros(out, ml_dtypes.float8_e5m2 if name == "float8-encode" else np.float32)
    got = called(name, {"axis": -1}, [np.zeros(d, np.float32) for d in inputs], like)
    assert got.shape == out


# where they apply, and how they are measured ---------------------------------------------------------------------------
def test_a_cast_elsewhere_is_not_taken(bench: Bench) -> None:
    ends = [helper.make_tensor_value_info("x", 1, [3]), helper.make_tensor_value_info("y", 10, [3])]
    graph = helper.make_graph([helper.make_node("Cast", ["x"], ["y"], to=10)], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9).SerializeToString()
    outcome = bench.run(Case(model, {"x": np.ones(3, np.float32)}), "float8-encode")
    assert outcome.status == "unsupported"
    assert outcome.message


def test_a_contest_takes_turns_and_a_rival_may_decline() -> None:
    x = np.ones((4, 40), np.float32)
    rivals = ("three-pass-recompute", "three-pass-reload")
    m = measured(Contest("two-pass-softmax", {"axis": 1}, [x], np.zeros_like(x), rivals), 3)
    assert [len(s) for s in m.seconds.values()] == [3, 3, 3]
    assert m.gain("two-pass-softmax", "three-pass-reload") > 0
    with pytest.raises(RuntimeError, match="three-pass-recompute does not take"):
        measured(Contest("two-pass-softmax", {"axis": 0}, [x], np.zeros_like(x), rivals), 1)
