"""Calls of ONNX functions in a network of blocks: the body is built in place, then cut out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fuzzer.network import Body, Step, Value
from specs.rule import Misfit

if TYPE_CHECKING:
    from fuzzer.build import Builder

KERNELS = "assay.kernels"


def call(net: Builder, name: str, body: Callable[..., Any], inputs: Sequence[Value | None], attrs: Mapping[str, Any]) -> Any:
    """What `net.function` answers. Raises ValueError for a body that uses a value it is not given, or makes a weight of its own."""
    if not name.isalnum():
        raise ValueError(f"function '{name}': letters and digits only; what follows an underscore is ours")
    growth = net.growth
    steps, values = len(growth.steps), len(growth.values)
    formals = [Value(f"in{i}", v.format, v.shape, "node", content=v.content) if v is not None else None for i, v in enumerate(inputs)]
    try:
        result = body(net, *formals)
        inside, made = growth.steps[steps:], growth.values[values:]
    finally:
        growth.back(steps, values)
    results: list[Value] = list(result) if isinstance(result, (tuple, list)) else [result]
    parameters = [v if v is not None else Value(f"in{i}", results[0].format, (), "node") for i, v in enumerate(formals)]
    if any(v in parameters for v in results) or len({id(v) for v in results}) < len(results):
        raise Misfit(f"function '{name}': a result is an operand, or is given twice")
    inside = _closed(name, inside, made, formals)
    digest = hashlib.blake2b(repr((_written(inside, parameters, results), sorted(attrs.items()))).encode(), digest_size=4).hexdigest()
    outputs = [growth.make("v", v.format, v.shape, "node") for v in results]
    for v in inputs:
        if v is not None:
            v.uses += 1
    growth.steps.append(Step(f"{name}_{digest}", KERNELS, list(inputs), list(outputs), dict(attrs), function=Body(parameters, results, inside)))
    growth.features.add(f"function {name}")
    return outputs[0] if not isinstance(result, (tuple, list)) else tuple(outputs)


def _closed(name: str, steps: Sequence[Step], made: Sequence[Value], formals: Sequence[Value | None]) -> list[Step]:
    """The steps with a Constant in front for every constant they use: functions have no initializers."""
    known, constants = {id(v) for v in formals if v is not None}, list[Step]()
    inside = {id(v) for v in made}
    for v in dict.fromkeys(v for s in steps for v in s.inputs if v is not None):
        if v.kind == "node" and id(v) in inside:
            continue
        if id(v) in known:
            continue
        if id(v) not in inside:
            raise ValueError(f"function '{name}': the body uses {v.name}, which is not among its inputs")
        if v.content is None:
            raise ValueError(f"function '{name}': the body makes the weight or input {v.name} itself; make it outside and give it as an input")
        constants.append(Step("Constant", "", [], [v], {"value": v.content}))
    return [*constants, *(replace(s) for s in steps)]


def _written(steps: Sequence[Step], inputs: Sequence[Value], outputs: Sequence[Value]) -> Any:
    """What the body does, whatever its values are called."""
    numbers: dict[int, int] = {id(v): i for i, v in enumerate(inputs)}
    lines = list[Any]([(v.format.name, v.shape) for v in inputs])
    for s in steps:
        for v in s.outputs:
            if v is not None:
                numbers[id(v)] = len(numbers)
        attrs = [(k, v.tolist() if hasattr(v, "tolist") else v) for k, v in sorted(s.attrs.items())]
        lines.append((s.op, s.domain, [numbers.get(id(v), -1) for v in s.inputs], [numbers.get(id(v), -1) for v in s.outputs], attrs))
    return lines, [numbers[id(v)] for v in outputs]
