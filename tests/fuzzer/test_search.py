"""Safe inputs: found where they exist, told where they do not, and never a NaN or an overflow on the way."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fuzzer.contents import HAZARDS, REGIMES, draw_contents, regime
from fuzzer.generate import generate_from
from fuzzer.network import Value
from fuzzer.search import HEADROOM, Found, search
from fuzzer.sources import Recorded, Seeded
from specs.formats import BFLOAT16, BOOL, DOUBLE, FLOAT, FLOAT16, INT8, INT64, Format
from specs.program import Program, to_torch


def leaf(name: str, form: Format = FLOAT, shape: tuple[int, ...] = (4, 5), **known: object) -> Value:
    return Value(name, form, shape, "input", **known)  # type: ignore[arg-type]


def found(text: str, *leaves: Value, seed: int = 0) -> tuple[Found, Program]:
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {text}')
    program = Program(proto, torch.float64)
    return search(leaves, program, Seeded("search", seed)), program


def finite(program: Program, contents: dict[str, np.ndarray]) -> bool:
    with torch.no_grad():
        values = program.run({n: to_torch(a, program.inputs[n][0], torch.float64) for n, a in contents.items()}, keep=True)  # type: ignore[arg-type]
    floats = [v for v in values.values() if isinstance(v, torch.Tensor) and v.is_floating_point()]
    return all(bool(torch.isfinite(v).all()) for v in floats)


HARD = {
    "a domain": "agraph (float[4,5] x) => (float[4,5] y) { y = Log(x) }",
    "a domain behind another operator": "agraph (float[4,5] x) => (float[4,5] y) { a = Neg(x) b = Sub(a, x) y = Sqrt(b) }",
    "two domains at once": "agraph (float[4,5] x) => (float[4,5] y, float[4,5] z) { y = Acosh(x) z = Log(x) }",
    "a narrow domain": "agraph (float[4,5] x) => (float[4,5] y) { a = Mul(x, x) y = Acos(a) }",
    "a divisor": "agraph (float[4,5] x) => (float[4,5] y) { a = Sub(x, x) one = Constant <value_float = 1.0> () b = Add(a, one) y = Div(x, b) }",
    "an overflow": "agraph (float[4,5] x) => (float[4,5] y) { a = Exp(x) b = Exp(a) y = Exp(b) }",
    "an overflow of half floats": "agraph (float16[4,5] x) => (float16[4,5] y) { a = Exp(x) b = Mul(a, a) c = Mul(b, b) y = Mul(c, c) }",
    "a domain after a matrix product": "agraph (float[4,5] x, float[5,3] w) => (float[4,3] y) { a = MatMul(x, w) y = Log(a) }",
}


@pytest.mark.parametrize("text", HARD.values(), ids=HARD.keys())
def test_inputs_are_found_by_gradients_where_drawing_fails(text: str) -> None:
    half = FLOAT16 if "float16" in text else FLOAT
    leaves = [leaf("x", half), *([leaf("w", shape=(5, 3))] if " w)" in text else [])]
    for seed in range(5):
        f, program = found(text, *leaves, seed=seed)
        assert f.safe, f"seed {seed}: {f.why}"
        assert finite(program, dict(f.contents))
        assert all(f.contents[v.name].dtype == v.format.numpy for v in leaves)


def test_gradients_are_what_finds_them() -> None:
    steps = [found(HARD["a narrow domain"], leaf("x"), seed=s)[0].steps + found(HARD["two domains at once"], leaf("x"), seed=s)[0].steps for s in range(5)]
    assert any(steps)


def test_what_is_impossible_is_told_with_the_operator() -> None:
    f, _ = found("agraph (float[4,5] x) => (float[4,5] y) { t = Tanh(x) y = Acosh(t) }", leaf("x"))
    assert not f.safe and f.at == "y" and f.why.startswith("Acosh")
    f, _ = found("agraph (float[4,5] x) => (float[4,5] y) { a = Abs(x) b = Neg(a) y = Log(b) }", leaf("x"))
    assert not f.safe and f.why == "Log outside its domain"


def test_the_same_choices_find_the_same_contents() -> None:
    a, b = (found(HARD["a domain after a matrix product"], leaf("x"), leaf("w", shape=(5, 3)), seed=3)[0] for _ in range(2))
    assert all(a.contents[n].tobytes() == b.contents[n].tobytes() for n in a.contents) and a.steps == b.steps


def test_values_stay_far_from_the_largest() -> None:
    for i in range(40):
        g = generate_from(Seeded("headroom", i), 10)
        if not g.found.safe:
            continue
        with torch.no_grad():
            kept = g.program.run(g.program.feeds(g.case.inputs), keep=True)
        for name, v in kept.items():
            form = g.program.formats.get(name)
            if (
                form is not None
                and form.is_float
                and isinstance(v, torch.Tensor)
                and v.numel()
                and name in {n for x in g.program.graph.nodes for n in x.outputs}
            ):
                assert float(v.abs().amax()) <= (HEADROOM if form.bits > 8 else 1.0) * form.largest  # nothing is computed in 8 bits


@pytest.mark.slow
def test_98_of_100_networks_have_safe_inputs() -> None:
    made = [generate_from(Seeded("safe", i), 10) for i in range(1000)]
    unsafe = [g.found.why for g in made if not g.found.safe]
    assert len(unsafe) <= 0.02 * len(made), unsafe


# contents ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("form", [FLOAT, FLOAT16, BFLOAT16, DOUBLE], ids=str)
@pytest.mark.parametrize("name", [*REGIMES, *HAZARDS])
def test_every_regime_is_finite_in_every_format(name: str, form: Format) -> None:
    x = regime(name, [64, 8], form, np.random.default_rng(0))
    assert x.dtype == form.numpy and x.shape == (64, 8) and bool(np.isfinite(x.astype(np.float64)).all())


@given(st.integers(-50, 50), st.integers(0, 40), st.booleans(), st.lists(st.integers(0, 50), max_size=5))
def test_ranges_are_kept(low: int, span: int, unique: bool, choices: list[int]) -> None:
    shape = (3, min(4, span + 1))
    v = leaf("i", INT64, shape, low=low, high=low + span, unique=unique)
    a = draw_contents(v, Recorded(choices), np.random.default_rng(1))
    assert a.dtype == np.int64 and a.shape == shape and a.min() >= low and a.max() <= low + span
    assert not unique or all(len(set(row)) == len(row) for row in a.tolist())
    f = draw_contents(leaf("f", FLOAT, shape, low=low, high=low + span), Recorded(choices), np.random.default_rng(1))
    assert f.dtype == np.float32 and f.min() >= low - 1e-3 and f.max() <= low + span + 1e-3


def test_integers_and_flags_fit_their_format() -> None:
    rng = np.random.default_rng(2)
    assert set(draw_contents(leaf("b", BOOL), Seeded(1), rng).ravel().tolist()) == {True, False}
    a = draw_contents(leaf("i", INT8), Recorded([3]), rng)
    assert a.dtype == np.int8 and abs(a.astype(int)).max() <= 100
    assert draw_contents(leaf("s", FLOAT, ()), Seeded(1), rng).shape == ()
    assert draw_contents(leaf("e", INT64, (0, 3)), Seeded(1), rng).shape == (0, 3)


def test_hazards_are_aimed_at_now_and_then_and_the_reference_stays_finite() -> None:
    rng = np.random.default_rng(3)
    drawn = [draw_contents(leaf("x", FLOAT16, (40,)), Seeded("hazards", i), rng).astype(np.float64) for i in range(600)]
    far, level, large = (
        [x for x in drawn if f(x)]
        for f in (
            lambda x: 40 < abs(x).max() < 81,  # type: ignore[var-annotated]
            lambda x: 0 < np.ptp(x) < 2.0**-4 and x.min() > 0.9,
            lambda x: abs(x).max() > 4000,
        )
    )
    assert all(2 <= len(kind) <= 40 for kind in (far, level, large))
    text = "agraph (float16[4,5] x) => (float16[4,1] y) { s = Softmax(x) axes = Constant<value_ints = [1]>() y = ReduceSum(x, axes) }"
    for seed in range(60):
        f, program = found(text, leaf("x", FLOAT16), seed=seed)
        assert f.safe and finite(program, dict(f.contents))
