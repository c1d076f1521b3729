"""What works here: for every backend its version, whether its worker starts, and whether a small model comes out right (`fuzz doctor`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from oracles import plugin
from oracles.pool import Worker, wait
from oracles.records import Case, Outcome

#: Backends that misbehave on purpose are asked only for this.
HONEST = {"liar": ("ok",), "kernels": ("off", "all")}


@dataclass(frozen=True)
class Health:
    """One backend. `works` when every setting asked gave the right answer; `advice` is a sentence when it did not.

    start  seconds until its worker was ready (imports, first compilation)
    """

    name: str
    version: str | None
    available: bool
    works: bool
    start: float
    statuses: dict[str, str]
    advice: str


def examine(names: Sequence[str] | None = None, timeout: float = 120.0) -> Iterator[Health]:
    """Look at each backend in its own worker, one after the other; yields as they are done."""
    for name in plugin.backends() if names is None else names:
        yield _examine(plugin.find(name), timeout)


X = (np.arange(8, dtype=np.float32) - 4).reshape(2, 4)
W, B = np.eye(4, 3, k=1, dtype=np.float32), np.array([1, -2, 0], np.float32)
Y = np.maximum(X @ W + B, 0)


def smoke() -> Case:
    """Relu(x @ w + b) on small integers: exact in every float type, and something to fuse."""
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("Add", ["a", "b"], ["c"]), helper.make_node("Relu", ["c"], ["y"])]
    weights = [numpy_helper.from_array(W, "w"), numpy_helper.from_array(B, "b")]
    graph = helper.make_graph(nodes, "smoke", [info("x", onnx.TensorProto.FLOAT, X.shape)], [info("y", onnx.TensorProto.FLOAT, Y.shape)], weights)
    return Case(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString(), {"x": X})


def _examine(backend: plugin.Backend, timeout: float) -> Health:
    version, missing = backend.version(), backend.missing()
    if missing:
        return Health(backend.name, version, False, False, 0.0, {}, missing)
    worker = Worker(backend.name, timeout)
    outcomes: list[Outcome] = []
    try:
        worker.send(smoke(), HONEST.get(backend.name, backend.settings))
        while worker.busy:
            wait([worker])
            outcomes += worker.poll()
        start = worker.start_seconds
    finally:
        worker.close()
    statuses = {o.setting: _status(o) for o in outcomes}
    bad = next((o for o in outcomes if _status(o) != "ok"), None)
    advice = "" if bad is None else f"backend '{backend.name}' at {bad.setting}: {_status(bad)} {bad.message}".rstrip()
    return Health(backend.name, version, True, bad is None, start, statuses, advice)


def _status(outcome: Outcome) -> str:
    if outcome.status != "ok" or outcome.outputs is None:
        return outcome.status
    y = outcome.outputs.get("y")
    return "ok" if isinstance(y, np.ndarray) and np.array_equal(y, Y) else "wrong"
