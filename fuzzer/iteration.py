"""Loop and Scan in a network of blocks: the body is built in place on values that stand for one turn, then cut out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fuzzer.network import Body, Step, Value
from specs import schema
from specs.formats import BOOL, INT64
from specs.rule import Misfit

if TYPE_CHECKING:
    from fuzzer.build import Builder


def scan(net: Builder, body: Callable[..., Any], states: Sequence[Value], sequences: Sequence[Value], axis: int, reverse: bool) -> tuple[Value, ...]:
    """What `net.scan` answers. Raises Misfit when a state changes its shape or the sequences have different lengths."""
    lengths = {v.shape[axis] for v in sequences}
    if len(lengths) != 1:
        raise Misfit(f"scan: sequences of {sorted(map(str, lengths))}")
    slices = [_formal(net, v, v.shape[:axis] + v.shape[axis + 1 :]) for v in sequences]
    carried = [_formal(net, v, v.shape) for v in states]
    results, inside = _built(net, body, (*carried, *slices), len(states), states)
    stacked = [(v.format, v.shape[:axis] + tuple(lengths) + v.shape[axis:]) for v in results[len(states) :]]
    attrs: dict[str, Any] = {"num_scan_inputs": len(sequences)}
    if axis:
        attrs["scan_input_axes"] = [axis] * len(sequences)
        attrs["scan_output_axes"] = [axis] * len(stacked)
    if reverse:
        attrs["scan_input_directions"], attrs["scan_output_directions"] = [1] * len(sequences), [1] * len(stacked)
    return _applied(net, "Scan", [*states, *sequences], attrs, Body([*carried, *slices], results, inside), states, stacked)


def loop(net: Builder, body: Callable[..., Any], trips: int, states: Sequence[Value]) -> tuple[Value, ...]:
    """What `net.loop` answers."""
    turn, going = net.growth.make("turn", INT64, (), "node", usable=False), net.growth.make("going", BOOL, (), "node", usable=False)
    carried = [_formal(net, v, v.shape) for v in states]
    results, inside = _built(net, body, carried, len(states), states)
    if len(results) != len(states):
        raise Misfit("loop: a result for every state, and nothing else")
    still = net.growth.make("still", BOOL, (), "node", usable=False)
    steps = [Step("Identity", "", [going], [still], {}), *inside]
    _forgotten(net, [turn, going, still])
    count = net.const(np.asarray(trips), INT64)
    return _applied(net, "Loop", [count, None, *states], {}, Body([turn, going, *carried], [still, *results], steps), states, [])


def carries(op: str, opset: int, values: Sequence[Value]) -> None:
    """Raises Misfit when a control-flow operator of this opset does not pass on what these hold: bfloat16 before opset 16."""
    allowed = schema.formats(op, "", opset, "V")
    if any(v.format not in allowed for v in values):
        raise Misfit(f"{op} of opset {opset} does not carry these types")


def _formal(net: Builder, v: Value, shape: tuple[int | None, ...]) -> Value:
    return net.growth.make("turn", v.format, shape, "node", usable=False)


def _built(net: Builder, body: Callable[..., Any], formals: Sequence[Value], kept: int, states: Sequence[Value]) -> tuple[list[Value], list[Step]]:
    """Results and steps of one turn, out of the network around it. Weights that it makes stay outside, as values it may see."""
    growth = net.growth
    steps, values = len(growth.steps), len(growth.values)
    try:
        answer = body(net, *formals)
        given: list[Value] = list(answer) if isinstance(answer, (tuple, list)) else [answer]
        made = {id(v) for s in growth.steps[steps:] for v in s.outputs}
        results = [v if id(v) in made and i == next(j for j, w in enumerate(given) if w is v) else net("Identity", v) for i, v in enumerate(given)]
        inside = growth.steps[steps:]
    finally:
        _forgotten(net, [*formals, *(v for v in growth.values[values:] if v.kind == "node")])
        del growth.steps[steps:]
    for before, after in zip(states, results[:kept], strict=True):
        if before.shape != after.shape or before.format is not after.format:
            raise Misfit(f"iteration: a state of {list(before.shape)} becomes one of {list(after.shape)}")
    return results, inside


def _forgotten(net: Builder, values: Sequence[Value]) -> None:
    """Values of a body cannot be read from outside."""
    growth, gone = net.growth, {id(v) for v in values}
    growth.values[:] = [v for v in growth.values if id(v) not in gone]
    growth.usable[:] = [v for v in growth.usable if id(v) not in gone]
    for v in values:
        same = growth.by_shape.get((v.format, v.shape), [])
        same[:] = [w for w in same if id(w) not in gone]


def _applied(
    net: Builder, op: str, inputs: list[Value | None], attrs: dict[str, Any], body: Body, states: Sequence[Value], stacked: Sequence[Any]
) -> tuple[Value, ...]:
    growth = net.growth
    carries(op, growth.opset, [*states, *(v for v in inputs if v is not None)])
    for form, shape in stacked:
        if Value("", form, shape, "node").elements > growth.elements:
            raise Misfit(f"{op}: too large")
    outputs = [growth.make("v", v.format, v.shape, "node") for v in states] + [growth.make("v", form, shape, "node") for form, shape in stacked]
    for v in inputs:
        if v is not None:
            v.uses += 1
    growth.steps.append(Step(op, "", inputs, list(outputs), attrs, bodies={"body": body}))
    growth.features.add(f"{op} in a block")
    return tuple(outputs)
