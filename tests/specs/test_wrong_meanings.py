"""Mistakes seeded into specs, the kind people make: the self-check of the operator has to notice every one of them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fuzzer import grow
from oracles.backends.onnxruntime import warm
from specs import operator
from specs.draw import Draw
from specs.numerics import exact, lipschitz, monotone
from specs.operator import Meaning, Operator, operators
from specs.program import Node
from specs.rule import Rule
from specs.schema import defaults
from tests.specs.selfcheck import check_one
from tests.specs.test_operators import DRAWN, title

DRAWS = 40

Mistake = Callable[[Operator], Operator]


class Misread:
    """A node of which one attribute reads otherwise."""

    def __init__(self, node: Node, name: str, value: Any) -> None:
        self._node, self._name, self._value = node, name, value

    def __getattr__(self, name: str) -> Any:
        return self._value if name == self._name else getattr(self._node, name)


def attribute(name: str, wrong: Callable[[Any], Any]) -> Mistake:
    """The meaning reads one attribute otherwise."""

    def seeded(right: Operator) -> Operator:
        def meaning(a: Node, *xs: Any) -> Any:
            return right.meaning(Misread(a, name, wrong(getattr(a, name))), *xs)

        return replace(right, meaning=meaning)

    return seeded


def default(name: str, value: Any) -> Mistake:
    """A default copied wrongly: only models that leave the attribute out show it."""

    def seeded(right: Operator) -> Operator:
        usual = defaults(right.name, right.domain, 18)[name]
        return attribute(name, lambda v: value if v == usual else v)(right)

    return seeded


def operand(at: int, wrong: Callable[[Any], Any]) -> Mistake:
    """The meaning takes one operand for something else."""

    def seeded(right: Operator) -> Operator:
        def meaning(a: Node, *xs: Any) -> Any:
            return right.meaning(a, *[wrong(x) if i == at and x is not None else x for i, x in enumerate(xs)])

        return replace(right, meaning=meaning)

    return seeded


def means(meaning: Meaning) -> Mistake:
    return lambda right: replace(right, meaning=meaning)


def drawn(wrong: Callable[[Draw, Rule], Rule]) -> Mistake:
    """The shape rule is wrong, not the meaning."""

    def seeded(right: Operator) -> Operator:
        assert right.draw is not None
        draw = right.draw
        return replace(right, draw=lambda g: wrong(g, draw(g)))

    return seeded


def swapped(pads: list[int] | None) -> list[int] | None:
    return pads and [*pads[len(pads) // 2 :], *pads[: len(pads) // 2]]


def larger(g: Draw, rule: Rule) -> Rule:
    shape = list(rule.outputs[0] or [])
    return replace(rule, outputs=[[*shape[:-1], shape[-1] + 1] if shape else shape])


MISTAKES: list[tuple[str, str, Mistake]] = [
    ("Softmax", "the axis is always the last one", attribute("axis", lambda axis: -1)),
    ("CumSum", "the axis counts from the other end", operand(1, lambda axis: -axis - 1)),
    ("Conv", "dilations are dropped", attribute("dilations", lambda d: None)),
    ("Conv", "pads at begin and end are swapped", attribute("pads", swapped)),
    ("MaxPool", "pads at begin and end are swapped", attribute("pads", swapped)),
    ("LeakyRelu", "a wrong default for alpha", default("alpha", 0.02)),
    ("HardSigmoid", "a wrong default for alpha", default("alpha", 1 / 6)),
    ("ReduceMean", "keepdims is read the wrong way round", attribute("keepdims", lambda keep: 1 - keep)),
    ("ReduceMax", "keepdims is always taken as given", attribute("keepdims", lambda keep: 1)),
    ("AveragePool", "padding counts when it must not", attribute("count_include_pad", lambda count: 1 - (count or 0))),
    ("Transpose", "the permutation is inverted", attribute("perm", lambda perm: perm and np.argsort(perm).tolist())),
    ("DepthToSpace", "the two modes are swapped", attribute("mode", lambda mode: "CRD" if mode == "DCR" else "DCR")),
    ("CumSum", "exclusive is ignored", attribute("exclusive", lambda exclusive: 0)),
    ("TopK", "the smallest instead of the largest", attribute("largest", lambda largest: 1 - largest)),
    ("Gemm", "beta is forgotten", attribute("beta", lambda beta: 1.0)),
    ("Slice", "steps lose their sign", operand(4, torch.abs)),
    ("Gather", "negative indices are clamped", operand(1, lambda i: i.clamp(min=0))),
    ("Where", "the branches are swapped", means(lambda a, c, x, y: torch.where(c, y, x))),
    ("Mod", "fmod is ignored", attribute("fmod", lambda fmod: 0)),
    ("LayerNormalization", "epsilon is forgotten", attribute("epsilon", lambda epsilon: 0.5)),
    ("Concat", "the solved shape is one too large", drawn(larger)),
    ("Flatten", "the solved shape is one too large", drawn(larger)),
    ("Reshape", "the solved shape has another number of elements", drawn(larger)),
    ("Sqrt", "a bound without any rounding", lambda right: replace(right, error=monotone(rounds=False))),
    ("Exp", "a bound that does not grow with the value", lambda right: replace(right, error=lipschitz(1.0))),
    ("Tanh", "a bound that forgets the radius of its operand", lambda right: replace(right, error=lipschitz(1e-3))),
    ("Mul", "a bound for exact results only", lambda right: replace(right, error=exact_always)),
]  # fmt: skip


def exact_always(node: Any, policy: Any, balls: Any, ys: Any) -> Any:
    return [(None, None)] * len(exact(node, policy, [], ys))


def bent(y: Any) -> Any:
    """A hundredth off."""
    if isinstance(y, list):
        return [bent(e) for e in y]
    if not isinstance(y, torch.Tensor) or y.is_complex():
        return y
    return y * (1 + 2.0**-6) + 2.0**-6 if y.is_floating_point() else ~y if y.dtype == torch.bool else y + 1


#: Where a meaning may be a hundredth off and nobody can tell: {operator: reason}.
BLIND = {
    **dict.fromkeys(["Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"], "a sample is undecided"),
    **dict.fromkeys(["StringConcat", "StringNormalizer"], "text is not off by a hundredth"),
    "com.microsoft.QLinearWhere": "ONNX Runtime alone implements it, and dies",
}


@pytest.fixture(autouse=True)
def fresh_menus() -> Iterator[None]:
    """The menu of the engine keeps the operators it has seen."""
    warm()
    grow._bag.cache_clear()
    yield
    grow._bag.cache_clear()


def noticed(op: Operator) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for seed in range(DRAWS):
            try:
                if check_one(op, seed, Counter()):
                    return True
            except (RuntimeError, ValueError, IndexError) as e:  # torch refuses what no longer fits
                assert not isinstance(e, RecursionError)
                return True
    return False


@pytest.mark.parametrize(("name", "what", "mistake"), MISTAKES, ids=[f"{name}: {what}" for name, what, _ in MISTAKES])
def test_the_self_check_notices(name: str, what: str, mistake: Mistake, monkeypatch: pytest.MonkeyPatch) -> None:
    right = operators()["", name]
    monkeypatch.setitem(operator._registry, ("", name), mistake(right))
    assert noticed(operators()["", name]), f"{name}: {DRAWS} draws, and nobody noticed that {what}"


@pytest.mark.parametrize("op", [o for o in DRAWN if title(o) not in BLIND], ids=title)
def test_a_meaning_a_hundredth_off_is_noticed(op: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error rule that measures from the meaning's own value would hide it."""

    def meaning(a: Node, *xs: Any) -> Any:
        y = op.meaning(a, *xs)
        return tuple(bent(e) for e in y) if isinstance(y, tuple) else bent(y)

    wrong = replace(op, meaning=meaning)
    monkeypatch.setitem(operator._registry, op.key, wrong)
    assert noticed(wrong), f"{title(op)}: {DRAWS} draws, and nobody noticed"
