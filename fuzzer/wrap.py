"""Wrapping a part of a finished network: as a function, an If branch, a Loop or Scan body, through a sequence or an optional.

The network computes the same (but for a Loop, which repeats the part); what the compiler sees is another construct: its inliner,
its sub-graph passes, its captures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fuzzer.boxing import optional, sequence
from fuzzer.emit import FUNCTIONS
from fuzzer.iteration import carries
from fuzzer.network import Body, Function, Network, Step, Value
from specs.draw import Source
from specs.formats import BOOL, INT64, STRING
from specs.rule import Misfit

#: Operators whose shape inference refuses an input of unknown size.
SIZED = ("StringNormalizer",)


def wrap(network: Network, source: Source) -> Network:
    """The network with one part wrapped in a drawn way, or unchanged where that way does not fit."""
    if not network.steps:
        return network
    way = WAYS[min(source.choose(len(WAYS) + 2), len(WAYS) - 1)]  # named dims, the last, thrice as often
    try:
        return way(network, source)
    except Misfit:
        return network


def _part(network: Network, source: Source, most: int = 4) -> tuple[int, int, list[Value], list[Value]]:
    """A run of steps with what flows in and out: (first, after last, inputs, outputs)."""
    first = source.choose(len(network.steps))
    last = min(len(network.steps), first + 1 + source.choose(most))
    return (first, last, *_flow(network, first, last))


def _flow(network: Network, first: int, last: int) -> tuple[list[Value], list[Value]]:
    """What flows into these steps and out of them. Raises Misfit when they cannot be wrapped."""
    steps, part = network.steps, network.steps[first:last]
    made = {id(v) for s in part for v in s.outputs if v is not None}
    inputs = list({id(v): v for s in part for v in s.inputs if v is not None and id(v) not in made}.values())
    needed = {id(v) for s in (*steps[:first], *steps[last:]) for v in s.reads()} | {id(v) for v in network.outputs}
    outputs = [v for s in part for v in s.outputs if v is not None and id(v) in needed]
    if not outputs or any(s.bodies or s.function or s.domain == FUNCTIONS for s in part) or any(v.wrapper for v in (*inputs, *outputs)):
        raise Misfit("nothing to wrap")
    return inputs, outputs


def _renamed(part: Sequence[Step], suffix: str, given: dict[int, Value]) -> tuple[list[Step], dict[int, Value]]:
    """Copies of steps whose results have names of their own; `given` maps operands to what stands for them inside."""
    inside = dict(given)
    steps = list[Step]()
    for s in part:
        outputs: list[Value | None] = []
        for v in s.outputs:
            if v is not None:
                inside[id(v)] = replace(v, name=v.name + suffix)
            outputs.append(None if v is None else inside[id(v)])
        steps.append(replace(s, inputs=[None if v is None else inside.get(id(v), v) for v in s.inputs], outputs=outputs))
    return steps, inside


def _function(network: Network, source: Source) -> Network:
    first, last, _, _ = _part(network, source)
    return called(network, first, last, f"part{first}")


def called(network: Network, first: int, last: int, name: str) -> Network:
    """These steps as one call of an ONNX function of this name. Raises Misfit when they cannot be wrapped."""
    inputs, outputs = _flow(network, first, last)
    if any(v is None for s in network.steps[first:last] for v in s.outputs):
        raise Misfit("onnx-ir wants every result inside a function to have a name")
    body = Body(inputs, outputs, list(network.steps[first:last]))
    call = Step(name, FUNCTIONS, list(inputs), list(outputs), {})
    return network.spliced(first, last, [call], "function", functions=[Function(name, body)])


def _if(network: Network, source: Source) -> Network:
    first, last, _, outputs = _part(network, source)
    carries("If", network.opset, outputs)
    if any(None in v.shape or v.format is STRING for v in outputs):
        raise Misfit("an If needs known shapes, and zeros of the type, for its other branch")
    taken, inside = _renamed(network.steps[first:last], "_then", {})
    other = [replace(v, name=v.name + "_else") for v in outputs]
    zeros = [Step("Constant", "", [], [v], {"value": np.zeros([d or 0 for d in v.shape], v.format.numpy)}) for v in other]
    condition = Value("if_condition", BOOL, (), "input" if source.choose(2) else "initializer", uses=1)
    step = Step("If", "", [condition], list(outputs), {})
    step.bodies = {"then_branch": Body([], [inside[id(v)] for v in outputs], taken), "else_branch": Body([], other, zeros)}
    chosen = network.spliced(first, last, [step], "If", [condition])
    return replace(chosen, sides=None)  # the other branch gives zeros


def _loop(network: Network, source: Source) -> Network:
    first, last, inputs, outputs = _part(network, source, most=2)
    carried = [v for v in inputs if len(outputs) == 1 and v.shape == outputs[0].shape and v.format is outputs[0].format and v.kind in ("node", "input")]
    if not carried or not outputs[0].format.is_float:  # a result that becomes an index or a divisor need not be a valid one
        raise Misfit("a Loop needs a part of floats that keeps shape and type")
    start, end = carried[0], outputs[0]
    carries("Loop", network.opset, [start])
    iteration, going, inner = (
        Value("loop_i", INT64, (), "node"),
        Value("loop_going", BOOL, (), "node"),
        replace(start, name=f"{start.name}_carried", kind="node"),
    )
    on = Value("loop_on", BOOL, (), "node")
    steps, inside = _renamed(network.steps[first:last], "_body", {id(start): inner})
    body = Body([iteration, going, inner], [on, inside[id(end)]], [Step("Identity", "", [going], [on], {}), *steps])
    trips = Value("loop_trips", INT64, (), "initializer", content=np.asarray(1 + source.choose(3), np.int64), uses=1)
    step = Step("Loop", "", [trips, None, start], [end], {}, bodies={"body": body})
    looped = network.spliced(first, last, [step], "Loop", [trips])
    return replace(looped, sides=None)  # run several times, the part is another function: relations of it are no more


def _scan(network: Network, source: Source) -> Network:
    """An elementwise operator, applied slice by slice along any axis, in either direction."""
    at = source.choose(len(network.steps))
    step, y = network.steps[at], network.steps[at].outputs[0]
    scanned = [v for v in step.inputs if v is not None and y is not None and v.shape == y.shape]
    if y is None or step.operator is None or step.operator.family not in ("elementwise", "activation", "arithmetic") or not y.shape or not scanned:
        raise Misfit("a Scan needs an elementwise operator")
    if 0 in y.shape or any(v.wrapper for v in scanned) or len(step.outputs) > 1 or any(v is not None and v.shape and v not in scanned for v in step.inputs):
        raise Misfit("nothing to scan")
    carries("Scan", network.opset, [y, *scanned])
    rank, axis = len(y.shape), source.choose(len(y.shape))
    scanned = list({id(v): v for v in scanned}.values())

    def cut(v: Value) -> Value:
        return replace(v, name=f"{v.name}_slice", shape=v.shape[:axis] + v.shape[axis + 1 :], dims=None, kind="node")

    slices, out = {id(v): cut(v) for v in scanned}, cut(y)
    body = Body([slices[id(v)] for v in scanned], [out], [replace(step, inputs=[slices.get(id(v), v) for v in step.inputs], outputs=[out])])
    attrs: dict[str, Any] = {"num_scan_inputs": len(scanned)}
    if axis or source.choose(2):
        attrs["scan_input_axes"] = [axis - rank if source.choose(2) else axis for _ in scanned]
        attrs["scan_output_axes"] = [axis - rank if source.choose(2) else axis]
    if source.choose(2):
        back = source.choose(2)
        attrs["scan_input_directions"], attrs["scan_output_directions"] = [back] * len(scanned), [back]
    scan = Step("Scan", "", list(scanned), [y], attrs, bodies={"body": body})
    return network.spliced(at, at + 1, [scan], "Scan")


def _symbolic(network: Network, source: Source) -> Network:
    """Named dims for the graph inputs, and nothing declared about what follows from them."""
    inputs = [v for v in network.inputs if v.shape]
    if any(s.op in SIZED for s in network.steps):
        raise Misfit("an operator whose inference wants sizes")
    if not inputs:
        raise Misfit("no input has a dimension")
    names = dict[int | None, str]()
    for v in inputs:
        v.dims = tuple(names.setdefault(d, f"d{len(names)}") if source.choose(4) else d for d in v.shape)
    if not names:
        raise Misfit("no dimension was given a name")
    for v in network.values:
        if v.kind == "node" and v.shape:
            v.dims = tuple(None for _ in v.shape)
    return replace(network, features=network.features | {"symbolic dimensions"})


WAYS: tuple[Callable[[Network, Source], Network], ...] = (_function, _if, _loop, _scan, sequence, optional, _symbolic)
