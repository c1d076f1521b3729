"""The first judge of the judge: whatever is legal must not be accused, and every variant must really do something else."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from benchmarks.cases import answer, bits, prepared, stream
from benchmarks.noise import VALUES, accusations, implementations, strict
from fuzzer.grow import Menu
from oracles.judge import judge
from oracles.plugin import find
from oracles.rewriting import compiled
from oracles.variants import variants
from oracles.variants.orders import ORDERS
from oracles.variants.products import winograd, winograd_radius
from specs.operator import operators

INFO = helper.make_tensor_value_info


def test_there_are_many_ways() -> None:
    assert len(variants()) >= 15
    assert find("legal").settings == tuple(variants())


@pytest.mark.parametrize("name", [n for n, v in variants().items() if v.ops])
def test_every_variant_computes_something_else_and_nothing_wrong(name: str) -> None:
    """Over small networks of its own operators: other bits at least once, never an accusation. Winograd has a bound of its own."""
    v, differs, judged = variants()[name], 0, 0
    beside = {"Relu", "Mul", "Conv"} if name in ("fma", "batchnorm-into-conv") else {"Relu"}
    menu = Menu(frozenset(k for k in operators() if not k[0] and k[1] in v.ops | beside))
    for i in range(60):
        p = prepared(("legal", name, i), 3, menu, 512)
        if p is None or not v.ops & p.ops or (healthy := answer(compiled(p.case.model, lambda run, node, args: None), p.case)) is None:
            continue
        outputs = answer(compiled(p.case.model, v.at), p.case)
        assert outputs is not None
        differs += {k: bits(a) for k, a in outputs.items()} != {k: bits(a) for k, a in healthy.items()}
        judged += 1
        if v.policy != "winograd":
            assert not list(accusations(p, outputs, strict(name, p), {}, Counter())), (name, i)
        if differs and judged >= 12:
            return
    assert judged and (differs or name == "operands-flipped"), f"{name}: the same bits in {judged} networks"


def test_winograd_keeps_to_a_bound_of_its_own() -> None:
    """Large neighbours that cancel in the window show in the tile: beyond the bound of a convolution, within that of the transform."""
    node: Any = SimpleNamespace(group=1, strides=[1, 1], dilations=[1, 1], pads=[0, 1, 0, 1], auto_pad="NOTSET", ceil_mode=0)
    run: Any = None
    random, beyond = torch.Generator().manual_seed(1), False
    for i in range(20):
        x, w = torch.randn(2, 3, 4, 9, generator=random), torch.randn(4, 3, 2, 3, generator=random)
        x[..., ::4] *= 1e4 * (i % 2)
        bias = torch.randn(4, generator=random)
        y = winograd(run, node, [x, w, bias])
        exact = torch.nn.functional.conv2d(x.double(), w.double(), bias.double(), padding=(0, 1))
        off = (y.double() - exact).abs()
        assert bool((off <= winograd_radius(node, [x, w, bias], 2.0**-24)).all())
        size = torch.nn.functional.conv2d(x.double().abs(), w.double().abs(), bias.double().abs(), padding=(0, 1))
        beyond |= bool((off > size * 20 * 2.0**-24).any())
    assert beyond


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 33])
def test_orders_add_everything_once(order: str, n: int) -> None:
    """Powers of two: the sum says which terms were in it."""
    terms = 2.0 ** torch.arange(n, dtype=torch.float64).repeat(2, 1)
    assert ORDERS[order](terms).tolist() == [2.0**n - 1] * 2


def test_clean_networks_of_all_sizes_are_not_accused() -> None:
    """No certified accusation in some hundred networks; a likely one only if the second opinion takes it back."""
    counts, accused = Counter[str](), list[str]()
    for p in stream("test", 120, (1, 3, 6, 10, 20)):
        seen: dict[str, set[object]] = {}
        for name, call in implementations(p):
            if (outputs := answer(call, p.case)) is not None:
                accused += [f"{name}: {before}" for before, after in accusations(p, outputs, strict(name, p), seen, counts) if after.verdict in VALUES]
    assert counts["judged"] > 2000
    assert not accused, accused[:3]


def _chain(*nodes: onnx.NodeProto, shape: list[int], inputs: str = "x") -> onnx.ModelProto:
    infos = [INFO(n, TensorProto.FLOAT, shape) for n in inputs.split()]
    graph = helper.make_graph(list(nodes), "g", infos, [INFO(nodes[-1].output[0], TensorProto.FLOAT, None)])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_certificate_needs_a_gradient_that_sees_every_step() -> None:
    """Floor has no derivative: a result on the other side of an edge that the bound allows is not certified by it."""
    model = _chain(helper.make_node("Exp", ["x"], ["e"]), helper.make_node("Floor", ["e"], ["y"]), shape=[1])
    x = np.array([np.log(3.0)], np.float32)
    exact = float(np.floor(np.exp(np.float64(x[0]))))
    for got in (2.0, 3.0):
        found = judge(model, {"x": x}, {"y": np.array([got], np.float32)})
        assert got == exact or found[0].grade != "certified", found
