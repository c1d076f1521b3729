"""What runs on a GPU, as far as it can be seen without one: settings that come with the device, graphs that move, code that is generated."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import helper, numpy_helper

from oracles import devices
from oracles.backends import inductor
from oracles.plugin import find
from oracles.pool import run
from oracles.records import Case
from specs.program import Program

GPU = {"kind": "cuda", "arch": "sm_80", "max_threads_per_block": 1024, "max_shared_memory_per_block": 49152, "thread_warp_size": 32}


def network() -> tuple[bytes, dict[str, np.ndarray]]:
    """With constants, a reduction, and a operator that makes a tensor of its own."""
    w = numpy_helper.from_array(np.ones((8, 16), np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Softmax", ["m"], ["s"]), helper.make_node("CumSum", ["s", "one"], ["y"])]
    ends = [helper.make_tensor_value_info(n, 1, s) for n, s in (("x", (4, 8)), ("y", (4, 16)))]
    one = numpy_helper.from_array(np.array(1), "one")
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [w, one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return model.SerializeToString(), {"x": np.linspace(-1, 1, 32, dtype=np.float32).reshape(4, 8)}


def test_a_graph_is_moved_with_its_constants() -> None:
    model, feeds = network()
    program = Program(model)
    values = program.feeds(feeds)
    with torch.no_grad():
        traced = inductor.trace(program, values)
        there = devices.moved(traced.graph, "meta")(*(v.to("meta") for v in values.values()))
    assert [(t.device.type, tuple(t.shape)) for t in there] == [("meta", (4, 16))]


def test_settings_for_a_gpu_are_there_when_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(devices, "_SIGNS", (tmp_path / "nvidia0",))
    assert not devices.gpu()
    (tmp_path / "nvidia0").touch()
    assert devices.gpu()


@pytest.mark.parametrize("name", ["inductor", "tvm"])
def test_the_setting_runs_or_says_why_not(name: str) -> None:
    backend = find(name)
    if devices.CUDA not in backend.settings:
        assert not devices.gpu()
        return
    model, feeds = network()
    (outcome,) = run(Case(model, feeds), f"{name}:cuda", timeout=120)
    assert outcome.status in ("ok", "unsupported"), outcome.message


def test_tvm_generates_code_for_a_gpu() -> None:
    pytest.importorskip("tvm")
    import tvm

    backend = importlib.import_module("oracles.backends.tvm")
    executable, inputs, outputs = backend.built_for(network()[0], tvm.target.Target(GPU))
    assert executable is not None and (inputs, outputs) == (["x"], ["y"])
