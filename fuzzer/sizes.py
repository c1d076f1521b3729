"""Further sizes for a model with named dimensions, at which it is valid: run one after the other with one compiled model,
before it runs at the sizes it was drawn with.

Nothing here knows which sizes an operator accepts. A choice of sizes counts when ONNX's strict shape inference accepts the
model with them written in, our own meaning evaluates it inside every domain, and both agree on every shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import torch

from fuzzer.contents import draw_contents
from fuzzer.network import Network
from fuzzer.search import unsafe_at
from specs.draw import Source
from specs.program import Program, to_torch
from specs.rule import Unsupported, UsageError

SETS = 2  # further sizes, at most
TRIES = 3
LARGEST = 8192  # elements of an input
#: How a meaning says that sizes do not fit.
MISFITS = (RuntimeError, IndexError, ValueError, AssertionError, ZeroDivisionError, TypeError, UsageError, Unsupported)


def more_sizes(network: Network, model: onnx.ModelProto, program: Program, contents: Mapping[str, np.ndarray], source: Source) -> list[dict[str, np.ndarray]]:
    """Inputs of up to two more sizes; none for a model without named dims, or when no other size was found to be valid."""
    symbols = {d: n or 0 for v in network.inputs for d, n in zip(v.dims or (), v.shape, strict=False) if isinstance(d, str)}
    if not symbols:
        return []
    rng = np.random.default_rng(source.choose(1 << 30))
    shrinking = all(v.low is None and v.high is None for v in network.leaves)  # an index may lie outside of less
    found = list[dict[str, np.ndarray]]()
    for i in range(TRIES * SETS):
        wanted = dict(symbols)
        for name in symbols if i % TRIES == 0 else [list(symbols)[source.choose(len(symbols))]]:
            wanted[name] = _other(symbols[name], shrinking, source)
        drawn = _drawn(network, wanted, source, rng)
        if wanted != symbols and drawn is not None and _valid(network, model, program, {**contents, **drawn}, wanted):
            found.append(drawn)
            if len(found) == SETS:
                break
    return found


def _other(size: int, shrinking: bool, source: Source) -> int:
    larger = (size + 1, 2 * size, size + 7, 2 * size + 1, 33)
    smaller = (max(1, size - 1), (size + 1) // 2) if shrinking else ()
    return max(size, n) if (n := [*larger, *smaller][source.choose(len(larger) + len(smaller))]) > size or not shrinking else n


def _drawn(network: Network, sizes: Mapping[str, int], source: Source, rng: np.random.Generator) -> dict[str, np.ndarray] | None:
    """Contents for the inputs at these sizes, of the ranges they had."""
    result = dict[str, np.ndarray]()
    for v in network.inputs:
        shape = tuple(sizes.get(d, n) if isinstance(d, str) else n for d, n in zip(v.dims or v.shape, v.shape, strict=True))
        if int(np.prod([d or 0 for d in shape])) > LARGEST or (v.unique and shape != v.shape):
            return None
        result[v.name] = draw_contents(replace(v, shape=shape, dims=None), source, rng)
    return result


def _valid(network: Network, model: onnx.ModelProto, program: Program, contents: Mapping[str, np.ndarray], sizes: Mapping[str, int]) -> bool:
    shapes = _inferred(model, sizes)
    if shapes is None:
        return False
    leaves = {v.name: to_torch(contents[v.name], v.format, torch.float64) for v in network.leaves}
    try:
        if unsafe_at(program, leaves) is not None:
            return False
        with torch.no_grad():
            values = program.run(leaves, keep=True)
    except MISFITS:
        return False
    have = {name: tuple(v.shape) for name, v in values.items() if isinstance(v, torch.Tensor)}
    return all(len(have[n]) == len(s) and all(a == b or b is None for a, b in zip(have[n], s, strict=True)) for n, s in shapes.items() if n in have)


def _inferred(model: onnx.ModelProto, sizes: Mapping[str, int]) -> dict[str, tuple[int | None, ...]] | None:
    """What ONNX infers once the named dims of the inputs are numbers; None when it refuses."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for i in fixed.graph.input:
        for d in i.type.tensor_type.shape.dim:
            if d.dim_param:
                d.dim_value = sizes[d.dim_param]
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, check_type=True, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError:
        return None
    known = [v for v in (*inferred.graph.value_info, *inferred.graph.output) if v.type.tensor_type.HasField("shape")]
    return {v.name: tuple(d.dim_value if d.HasField("dim_value") else None for d in v.type.tensor_type.shape.dim) for v in known}
