"""Blocks that call an ONNX function: valid for everybody, and a whole for a kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch

from fuzzer.build import Builder, network
from fuzzer.emit import emit, fill
from fuzzer.grow import Growth, Menu
from fuzzer.network import Network
from fuzzer.search import search
from fuzzer.sources import Seeded
from fuzzer.wrap import _function, _if
from oracles.reference import reference
from specs.program import Call, Program, plain, run
from specs.rule import Misfit


def scaled(net: Any, x: Any, w: Any) -> tuple[Any, Any]:
    y = net("Mul", x, w)
    return net("Add", net("Softmax", y, axis=-1), net.const(1.0)), net("Relu", y)


def builder(opset: int = 18) -> Builder:
    return Builder(Growth(Seeded(1), Menu(opsets=(opset,))))


def two_calls(net: Builder) -> Network:
    """The second with the first's result, and another function of the same name."""
    x, w = net.input(3, 7), net.weight(7)
    a, b = net.function("Scaled", scaled, x, w, axis=-1, gain=0.5, mode="soft", sizes=[1, 2])
    c, _ = net.function("Scaled", scaled, a, w, axis=-1, gain=0.5, mode="soft", sizes=[1, 2])
    d = net.function("Scaled", lambda net, x: net("Neg", x), b)
    return network(net.growth, [net("Add", c, d)])


def filled(net: Network) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    proto = emit(net)
    found = search(net.leaves, Program(proto, torch.float64), Seeded(3))
    fill(proto, found.contents)
    return proto, {v.name: found.contents[v.name] for v in net.inputs}


@pytest.mark.parametrize("opset", [13, 18, 23])
def test_the_model_is_valid_and_equal_calls_share_a_function(opset: int) -> None:
    proto, _ = filled(two_calls(builder(opset)))
    onnx.checker.check_model(proto, full_check=True)
    onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    names = [n.op_type for n in proto.graph.node if n.domain == "assay.kernels"]
    assert names[0] == names[1] != names[2] and all(n.startswith("Scaled_") for n in names)
    assert sorted(f.name for f in proto.functions) == sorted(set(names))
    assert {a.name for a in proto.graph.node[0].attribute} == {"axis", "gain", "mode", "sizes"} == set(proto.functions[0].attribute)


@pytest.mark.parametrize("way", [lambda n, s: n, _function, _if], ids=["plain", "function", "if"])
def test_kept_calls_compute_what_their_bodies_do(way: Any) -> None:
    made = two_calls(builder())
    proto, inputs = filled(made)
    for seed in range(40):
        try:
            wrapped = way(made, Seeded("way", seed))
        except Misfit:
            continue
        proto = emit(wrapped)
        fill(proto, {t.name: onnx.numpy_helper.to_array(t) for t in filled(made)[0].graph.initializer} | {"if_condition": np.array(True)})
        onnx.checker.check_model(proto, full_check=True)
        kept, calls = Program(proto, keep=frozenset({"assay.kernels"})), list[str]()

        def apply(node: Any, args: list[Any], calls: list[str] = calls) -> Any:
            if isinstance(node, Call):
                calls.append(node.op.name)
                assert node.in_formats[0] is not None and node.out_formats[0] is not None
            return plain(node, args)

        feeds = {**inputs, **({"if_condition": np.array(True)} if "if_condition" in kept.inputs else {})}
        (got,) = kept.run(kept.feeds(feeds), apply).values()
        (want,) = run(proto, feeds).values()
        assert np.array_equal(got.numpy(), want) and len(calls) == 3
    assert np.allclose(next(iter(reference(Program(proto, torch.float64), feeds).values())).ball.value.numpy(), want, atol=1e-5)


def test_a_body_is_given_all_that_it_uses() -> None:
    net = builder()
    x, y = net.input(3, 7), net.input(3, 7)
    with pytest.raises(ValueError, match="the body uses x1, which is not among its inputs"):
        net.function("Sum", lambda net, x: net("Add", x, y), x)
    with pytest.raises(ValueError, match="makes the weight or input w0 itself"):
        net.function("Scale", lambda net, x: net("Mul", x, net.weight(7)), x)
    with pytest.raises(ValueError, match="letters and digits only"):
        net.function("Two_words", lambda net, x: net("Neg", x), x)
    with pytest.raises(Misfit, match="a result is an operand"):
        net.function("Nothing", lambda net, x: x, x)
    assert not net.growth.steps and [v.name for v in net.growth.values] == ["x0", "x1"]


def test_optional_operands_may_be_left_out() -> None:
    net = builder()
    x, w = net.input(3, 7), net.weight(7)

    def body(net: Any, x: Any, bias: Any, w: Any) -> Any:
        assert bias is None
        return net("Mul", x, w)

    proto, inputs = filled(network(net.growth, [net.function("Scale", body, x, None, w)]))
    onnx.checker.check_model(proto, full_check=True)
    assert list(proto.graph.node[0].input) == ["x0", "", "w0"]
    kept = Program(proto, keep=frozenset({"assay.kernels"}))
    assert np.array_equal(next(iter(kept.run(kept.feeds(inputs)).values())).numpy(), next(iter(run(proto, inputs).values())))
