"""Contents reach both sides of what has two, as long as they stay safe; special values are placed, and judged."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
import torch

from fuzzer.contents import regime
from fuzzer.network import Value
from fuzzer.regimes import both_sides, reached
from fuzzer.search import Found, unsafe_at
from fuzzer.sources import Seeded
from oracles.judge import judge
from oracles.plugin import parse
from oracles.pool import run
from oracles.records import Case
from oracles.reference import reference
from specs.formats import DOUBLE, FLOAT, FLOAT16, Format
from specs.program import Program, to_torch

ONES = np.full(6, 0.5, np.float32)
TWO_SIDED = {
    "a Relu": "y = Relu(x)",
    "behind another operator": "a = Exp(x) one = Constant<value_float = 1.0>() b = Sub(a, one) y = LeakyRelu(b)",
    "a comparison": "n = Neg(x) c = Less(n, x) y = Cast<to: int = 1>(c)",
    "a Clip": "low = Constant<value_float = -1.0>() high = Constant<value_float = 1.0>() y = Clip(x, low, high)",
    "a Max": "n = Neg(x) y = Max(n, x)",
}


def program(body: str) -> Program:
    return Program(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> agraph (float[6] x) => (float[6] y) {{ {body} }}'), torch.float64)


def leaf() -> Value:
    return Value("x", FLOAT, (6,), "input")


@pytest.mark.parametrize("body", TWO_SIDED.values(), ids=TWO_SIDED.keys())
def test_one_element_is_moved_across(body: str) -> None:
    p = program(body)
    before = reached(p, {"x": to_torch(ONES, FLOAT, torch.float64)})
    assert (before.nodes, before.both) == (1, 0)
    f = both_sides([leaf()], p, Found({"x": ONES}, True, 0, 0.0))
    x = to_torch(f.contents["x"], FLOAT, torch.float64)
    assert f.steps > 0 and reached(p, {"x": x}).both == 1
    assert unsafe_at(p, {"x": x}) is None and f.contents["x"].dtype == np.float32


def test_what_cannot_be_reached_or_is_not_safe_is_left() -> None:
    for body in ("a = Sigmoid(x) y = Relu(a)", "a = Log(x) b = Relu(x) y = Add(a, b)"):
        given = Found({"x": ONES}, True, 0, 0.0)
        assert both_sides([leaf()], program(body), given) is given


@pytest.mark.parametrize("form", [FLOAT, DOUBLE, FLOAT16], ids=str)
def test_special_values_are_placed(form: Format) -> None:
    x = regime("placed", [400], form, np.random.default_rng(0))
    wide = x.astype(np.float64)
    assert (wide == 0).any() and np.signbit(x[wide == 0]).any() and (wide == 1 + 2 * form.u).any()
    assert ((wide != 0) & (abs(wide) < form.tiny)).any()
    plain = regime("placed", [400], form, np.random.default_rng(0), denormal=False).astype(np.float64)
    assert not ((plain != 0) & (abs(plain) < form.tiny)).any()


def test_who_flushes_denormals_is_not_wrong() -> None:
    model = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 18]> agraph (float[4] x) => (float[4] y) { y = Relu(x) }').SerializeToString()
    x = np.array([1e-40, 1.0, -2.0, 3e-39], np.float32)
    ball = reference(Program(model, torch.float64), {"x": x})["y"].ball
    assert ball.worst is not None and ball.worst[1] == ball.worst[2] == 0 < ball.worst[0]
    flushed = np.array([0, 1, 0, 0], np.float32)
    assert [v.verdict for v in judge(model, {"x": x}, {"y": flushed})] == ["ok"]
    assert [v.verdict for v in judge(model, {"x": x}, {"y": flushed + np.array([1e-30, 0, 0, 0], np.float32)})] == ["wrong"]


def test_onnxruntime_with_threads_and_without_denormals_answers_alike() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> agraph (float[64,64] x) => (float[64,64] y) { a = MatMul(x, x) y = Softmax(a) }'
    ).SerializeToString()
    x = regime("placed", [64, 64], FLOAT, np.random.default_rng(1))
    outcomes = run(Case(model, {"x": x}, {}), parse("onnxruntime:all+threads+flush"))
    assert [o.setting for o in outcomes] == ["all", "threads", "flush"]
    for o in outcomes:
        assert o.outputs is not None and {v.verdict for v in judge(model, {"x": x}, o.outputs)} <= {"ok", "noise"}


def test_the_same_choices_reach_the_same() -> None:
    from fuzzer.generate import generate_from

    one, two = (generate_from(Seeded("sides", 5), 8, check=False).case for _ in range(2))
    assert one.model == two.model and all(one.inputs[k].tobytes() == two.inputs[k].tobytes() for k in one.inputs)


def test_contents_that_leave_a_domain_on_the_way_are_left_alone() -> None:
    """Below 0 the logarithm is NaN, and torch raises for chances that are."""
    p = program("l = Log(x) s = Constant<value_ints = [2, 3]>() t = Reshape(l, s) m = Multinomial<sample_size = 2, seed = 1.0>(t) n = Neg(x) y = Max(n, x)")
    contents = {"x": np.full(6, 0.01, np.float32)}
    with pytest.raises(RuntimeError):
        reached(p, {"x": torch.full((6,), -0.01, dtype=torch.float64)})
    f = both_sides([leaf()], p, Found(contents, True, 0, 0.0))
    assert unsafe_at(p, {"x": to_torch(f.contents["x"], FLOAT, torch.float64)}) is None
