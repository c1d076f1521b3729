"""How fast networks are made, and whether all of them are valid."""

from __future__ import annotations

import statistics
import time

import onnx

from benchmarks import Figures, Scale, benchmark
from fuzzer.emit import emit
from fuzzer.generate import generate_from
from fuzzer.sources import Seeded
from fuzzer.wiring import grow


def _milliseconds(nodes: int, models: int) -> float:
    """Median time to draw one model of this size, write it as bytes and check it once."""
    times = list[float]()
    for i in range(models + 3):
        start = time.perf_counter()
        network = grow(Seeded("bench", nodes, i), nodes)
        onnx.checker.check_model(emit(network).SerializeToString(), full_check=True)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[3:])


@benchmark("generation", ms_per_model_10=("<=", 5.0), ratio_ms_per_node_400_to_40=("<=", 2.0))
def generation(scale: Scale) -> Figures:
    """Milliseconds per checked model of 1 to 400 nodes, without contents; cost per node must not grow with the network."""
    counts = {1: scale.count(400, 20), 10: scale.count(400, 20), 40: scale.count(100, 5), 100: scale.count(40, 3), 400: scale.count(12, 2)}
    figures = {f"ms_per_model_{n}": _milliseconds(n, models) for n, models in counts.items()}
    figures["ratio_ms_per_node_400_to_40"] = (figures["ms_per_model_400"] / 400) / (figures["ms_per_model_40"] / 40)
    return figures


@benchmark("validity", share_valid=(">=", 1.0), share_dims_one=("<=", 0.25), median_elements=(">=", 50.0))
def validity(scale: Scale) -> Figures:
    """The full checker and strict shape inference on many models, with our shapes declared; and the sizes drawn.

    median_elements is of the tensors that carry data (inputs and results); constants (axes, pads, scales, weights) beside it.
    """
    models, valid, ones, dims, elements, parameters = scale.count(5000, 100), 0, 0, 0, list[int](), list[int]()
    for i in range(models):
        made = generate_from(Seeded("validity", i), 1 + i % 20, check=False)
        try:
            onnx.checker.check_model(made.case.model, full_check=True)
            onnx.shape_inference.infer_shapes(made.case.model, check_type=True, strict_mode=True, data_prop=True)
            valid += 1
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
            print(f"  model {i}: {' '.join(str(e).split())[:200]}")
        for v in made.network.values:
            dims += len(v.shape)
            ones += sum(d == 1 for d in v.shape)
            (elements if v.kind in ("input", "node") else parameters).append(v.elements)
    return {
        "models": models,
        "share_valid": valid / models,
        "share_dims_one": ones / dims,
        "median_elements": statistics.median(elements),
        "median_elements_constants": statistics.median(parameters),
    }
