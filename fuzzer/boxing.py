"""Detours of one operand through a sequence or an optional, after which it is the same tensor again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fuzzer.network import Body, Network, Step, Value
from specs import schema
from specs.draw import Source
from specs.formats import BOOL, INT64
from specs.rule import Misfit


@dataclass
class _Detour:
    """What one operand gets in its way: steps, values that are not results, further outputs of the network."""

    v: Value
    source: Source
    opset: int
    steps: list[Step] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    outputs: list[Value] = field(default_factory=list)

    def named(self, suffix: str, wrapper: str = "", shape: tuple[int | None, ...] | None = None) -> Value:
        name = f"{self.v.name}_{suffix}{len(self.steps)}"
        return replace(self.v, name=name, kind="node", wrapper=wrapper, dims=None, uses=1, content=None, shape=self.v.shape if shape is None else shape)

    def number(self, suffix: str, content: int | list[int]) -> Value:
        """An int64 initializer."""
        array = np.asarray(content, np.int64)
        made = Value(f"{self.v.name}_{suffix}{len(self.steps)}", INT64, array.shape, "initializer", content=array, uses=1)
        self.values.append(made)
        return made

    def add(self, op: str, inputs: Sequence[Value | None], output: Value, **attrs: object) -> Value:
        while inputs and inputs[-1] is None:  # "" and nothing mean the same, but not to shape inference
            inputs = inputs[:-1]
        self.steps.append(Step(op, "", list(inputs), [output], {k: a for k, a in attrs.items() if a is not None}))
        return output

    def position(self, length: int) -> Value | None:
        """A place in a sequence from either end; now and then none, which means the last one."""
        if self.source.choose(4) == 3:
            return None
        return self.number("position", self.source.choose(2 * length) - length)

    def told(self, suffix: str, op: str, box: Value, form: object) -> None:
        """A property of the box as a further output."""
        made = replace(self.named(suffix, shape=()), format=form)  # type: ignore[arg-type]
        self.outputs.append(self.add(op, [box], made))


def _same_elements(d: _Detour) -> Value:
    """A sequence of the operand only: put together, shortened, read at any place."""
    length = 1 + d.source.choose(3)
    if d.source.choose(2):
        box = d.add("SequenceConstruct", [d.v] * length, d.named("sequence", "sequence"))
    else:
        dtype = d.v.format.onnx if d.v.format.name != "float" or d.source.choose(2) else None
        box = d.add("SequenceEmpty", [], d.named("empty", "sequence"), dtype=dtype)
        for i in range(length):
            box = d.add("SequenceInsert", [box, d.v, d.position(i) if i else None], d.named("longer", "sequence"))
    if length > 1 and d.source.choose(2):
        length -= 1
        box = d.add("SequenceErase", [box, d.position(length + 1)], d.named("shorter", "sequence"))
    if d.source.choose(3) == 2:
        d.told("length", "SequenceLength", box, INT64)
    at = d.number("at", d.source.choose(2 * length) - length)
    return d.add("SequenceAt", [_mapped(d, box, d.v.shape), at], d.named("again"))


def _pieces(d: _Detour) -> Value:
    """Cut along an axis, and put together again."""
    shape, axis = d.v.shape, d.source.choose(max(1, len(d.v.shape)))
    if not shape or not shape[axis] or None in shape:
        raise Misfit("nothing to cut")
    size, kind = shape[axis] or 0, d.source.choose(4)
    keep, cut = 1, None
    if kind == 0:
        cut = d.number("step", 1 + d.source.choose(size))
    elif kind == 1:
        first = d.source.choose(size + 1)
        cut = d.number("sizes", [first, size - first])
    else:
        keep = d.source.choose(2)
    at = axis - len(shape) if d.source.choose(2) else axis if axis or d.source.choose(2) else None
    part = tuple(None if i == axis else n for i, n in enumerate(shape) if keep or i != axis)
    box = d.add("SplitToSequence", [d.v, cut], d.named("pieces", "sequence", part), axis=at, keepdims=keep if not keep or d.source.choose(2) else None)
    back = axis - len(shape) if d.source.choose(2) else axis
    new = None if keep and d.source.choose(2) else 1 - keep
    return d.add("ConcatFromSequence", [_mapped(d, box, part)], d.named("again"), axis=back, new_axis=new)


def _mapped(d: _Detour, box: Value, shape: tuple[int | None, ...]) -> Value:
    """Every element through a sub-graph that changes nothing."""
    if d.opset < 17 or d.source.choose(3) < 2:
        return box
    inside, out = d.named("element", shape=shape), d.named("mapped", shape=shape)
    inside.dims = out.dims = tuple(None for _ in shape)
    made = d.named("sequence", "sequence", shape)
    d.steps.append(Step("SequenceMap", "", [box], [made], {}, bodies={"body": Body([inside], [out], [Step("Identity", "", [inside], [out], {})])}))
    return made


def _optional(d: _Detour) -> Value:
    """An optional that holds the operand; whether it does is asked now and then."""
    box = d.add("Optional", [d.v], d.named("optional", "optional"))
    if d.source.choose(3) == 2:
        d.told("there", "OptionalHasElement", d.v if d.opset >= 18 and d.source.choose(3) == 2 else box, BOOL)
    return d.add("OptionalGetElement", [box], d.named("again"))


def _through(network: Network, source: Source, kind: str, ways: Sequence[Callable[[_Detour], Value]]) -> Network:
    """One operand of one step takes the detour."""
    at = source.choose(len(network.steps))
    step = network.steps[at]
    candidates = [i for i, v in enumerate(step.inputs) if v is not None and v.kind in ("node", "input") and not v.wrapper and v.low is None]
    if not candidates or step.bodies or step.op == "Attention":  # ONNX infers a head size of 0 where it does not know the operand's shape
        raise Misfit("no operand to wrap")
    i = candidates[source.choose(len(candidates))]
    v = step.inputs[i]
    assert v is not None
    operator, variable = ("SequenceConstruct", "T") if kind == "sequence" else ("Optional", "V")
    if v.format not in schema.formats(operator, "", network.opset, variable):
        raise Misfit(f"{kind}s do not hold {v.format}")
    detour = _Detour(v, source, network.opset)
    inputs = list(step.inputs)
    inputs[i] = ways[source.choose(len(ways))](detour)
    changed = network.spliced(at, at + 1, [*detour.steps, replace(step, inputs=inputs)], kind, detour.values)
    return replace(changed, outputs=[*network.outputs, *detour.outputs])


def sequence(network: Network, source: Source) -> Network:
    return _through(network, source, "sequence", (_same_elements, _pieces))


def optional(network: Network, source: Source) -> Network:
    if network.opset < 15:
        raise Misfit("Optional exists from opset 15 on")
    return _through(network, source, "optional", (_optional,))
