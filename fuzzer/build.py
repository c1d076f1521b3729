"""Building networks from blocks: every operator is applied on concrete shapes, its results inferred by ONNX itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.shape_inference
from onnx import TypeProto, helper

from fuzzer.emit import float_attributes
from fuzzer.functions import call
from fuzzer.grow import Growth
from fuzzer.iteration import loop, scan
from fuzzer.network import Network, Step, Value
from specs import schema
from specs.draw import Choices
from specs.formats import BY_ONNX, FLOAT, INT64, Format
from specs.net import Block, Relation, need
from specs.operator import find
from specs.rule import Misfit, Unsupported


class Builder(Choices):
    """The engine's answers to a block: choices, weights and operators on a growing network."""

    def __init__(self, growth: Growth, form: Format = FLOAT) -> None:
        super().__init__(growth.source)
        self.growth, self.form, self.opset = growth, form, growth.opset

    def __call__(self, op: str, *inputs: Value | None, outputs: int = 1, domain: str = "", **attrs: Any) -> Any:
        operator = find(op, domain)
        if operator is None:
            raise Unsupported(f"no spec for operator {op}")
        found = schema.schema(op, domain, self.growth.opset_of(domain))
        if found is None or found.deprecated:
            raise Misfit(f"{op} does not exist at opset {self.opset}")
        given = list(inputs)
        while given and given[-1] is None:
            given.pop()
        types = _inferred(found, op, domain, given, attrs, outputs, self.opset)
        made = list[Value]()
        for form, shape in types:
            value = self.growth.make("v", form, shape, "node")
            if value.elements > self.growth.elements:
                raise Misfit(f"{op}: {value.elements} elements")
            made.append(value)
        _unchecked(op, given, attrs, made[0])
        for v in given:
            if v is not None:
                v.uses += 1
        self.growth.steps.append(Step(op, domain, given, list(made), dict(attrs), operator, op))
        return made[0] if outputs == 1 else tuple(made)

    def function(self, name: str, body: Callable[..., Any], *inputs: Value | None, **attrs: Any) -> Any:
        return call(self, name, body, inputs, attrs)

    def scan(self, body: Callable[..., Any], states: Sequence[Value], sequences: Sequence[Value], axis: int = 0, reverse: bool = False) -> tuple[Value, ...]:
        return scan(self, body, states, sequences, axis, reverse)

    def loop(self, body: Callable[..., Any], trips: int, *states: Value) -> tuple[Value, ...]:
        return loop(self, body, trips, states)

    def weight(self, *dims: int, low: float | None = None, high: float | None = None, form: Format | None = None) -> Value:
        v = self.growth.make("w", form or self.form, tuple(dims), "initializer", usable=False)
        v.low, v.high = low, high
        return v

    def const(self, content: Any, form: Format | None = None) -> Value:
        array = np.asarray(content).astype((form or self.form).numpy)
        v = self.growth.make("c", form or self.form, array.shape, "constant" if self.choose(3) == 2 else "initializer", usable=False)
        v.content = array
        return v

    def ints(self, content: Sequence[int]) -> Value:
        return self.const(list(content), INT64)

    def input(self, *dims: int, low: float | None = None, high: float | None = None, form: Format | None = None) -> Value:
        v = self.growth.make("x", form or self.form, tuple(dims), "input")
        v.low, v.high = low, high
        return v


def _unchecked(op: str, inputs: Sequence[Value | None], attrs: Mapping[str, Any], y: Value) -> None:
    """What ONNX's inference lets pass: channels of a convolution, a window larger than its image, the elements of a Reshape. Raises Misfit."""
    x, w = inputs[0] if inputs else None, inputs[1] if len(inputs) > 1 else None
    if op == "Reshape" and x is not None and x.elements != y.elements:
        raise Misfit(f"Reshape: {x.elements} elements into {y.elements}")
    if op in ("Conv", "AveragePool", "LpPool", "MaxPool") and x is not None and not _covers(attrs, x, w):
        raise Misfit(f"{op}: the window is larger than the image")
    if op in ("Conv", "ConvTranspose") and x is not None and w is not None:
        wanted = (w.shape[1] or 0) * attrs.get("group", 1) if op == "Conv" else w.shape[0]
        if x.shape[1] != wanted:
            raise Misfit(f"{op}: {x.shape[1]} channels where the weight wants {wanted}")


def _covers(attrs: Mapping[str, Any], x: Value, w: Value | None) -> bool:
    """Whether a window fits into the padded image; inference divides a negative room by the stride, and may find a place for it."""
    sizes = [d or 0 for d in x.shape[2:]]
    kernel = attrs.get("kernel_shape") or [d or 0 for d in (w.shape[2:] if w is not None else ())]
    pads, dilations = attrs.get("pads") or [0] * (2 * len(sizes)), attrs.get("dilations") or [1] * len(sizes)
    rooms = [n + pads[i] + pads[i + len(sizes)] - d * (k - 1) - 1 for i, (n, k, d) in enumerate(zip(sizes, kernel, dilations, strict=True))]
    return str(attrs.get("auto_pad", "NOTSET")).startswith("SAME") or min(rooms, default=0) >= 0


def _inferred(
    found: Any, op: str, domain: str, inputs: list[Value | None], attrs: dict[str, Any], outputs: int, opset: int
) -> list[tuple[Format, tuple[int | None, ...]]]:
    """Formats and shapes of the results, by ONNX's inference for this one node; blocks repeat themselves, so it remembers.

    Raises Misfit when ONNX refuses or cannot tell.
    """
    seen = tuple(None if v is None else (v.format, v.shape, v.content.tobytes() if v.content is not None and v.content.size < 64 else b"") for v in inputs)
    key = (op, domain, opset, outputs, seen, repr(sorted(attrs.items())))
    answer = _memory.get(key)
    if answer is None:
        if len(_memory) > 1 << 14:
            _memory.clear()
        answer = _memory[key] = _ask(found, op, domain, inputs, attrs, outputs, opset)
    if isinstance(answer, str):
        raise Misfit(answer)
    return answer


_memory: dict[Any, list[tuple[Format, tuple[int | None, ...]]] | str] = {}


def _ask(
    found: Any, op: str, domain: str, inputs: list[Value | None], attrs: dict[str, Any], outputs: int, opset: int
) -> list[tuple[Format, tuple[int | None, ...]]] | str:
    """What ONNX says, or in words why it does not."""
    names = [f"o{i}" for i in range(outputs)]
    floats = float_attributes(op, domain)
    plain: dict[str, Any] = {k: float(v) if k in floats else v for k, v in attrs.items() if v is not None}
    node = helper.make_node(op, ["" if v is None else v.name for v in inputs], names, domain=domain, **plain)
    types = {v.name: _tensor_type(v.format.onnx, v.shape) for v in inputs if v is not None}
    data = {v.name: onnx.numpy_helper.from_array(v.content, v.name) for v in inputs if v is not None and v.content is not None and v.content.size < 64}
    imports = [helper.make_opsetid(domain, opset if domain == "" else 1)]
    try:
        result = onnx.shape_inference.infer_node_outputs(found, node, types, data, opset_imports=imports)
        return [_read(op, result.get(n)) for n in names]
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, Misfit) as e:
        return f"{op}: {' '.join(str(e).split())[:160]}"


@lru_cache(maxsize=4096)
def _tensor_type(form: int, shape: tuple[int | None, ...]) -> TypeProto:
    return helper.make_tensor_type_proto(form, list(shape))


def _read(op: str, t: TypeProto | None) -> tuple[Format, tuple[int | None, ...]]:
    if t is None or not t.HasField("tensor_type") or not t.tensor_type.HasField("shape"):
        raise Misfit(f"{op}: the shape of a result is not known")
    dims = t.tensor_type.shape.dim
    if not all(d.HasField("dim_value") for d in dims):
        raise Misfit(f"{op}: a dimension of a result is not known")
    return BY_ONNX[t.tensor_type.elem_type], tuple(d.dim_value for d in dims)


def feed(net: Builder, takes: str, dims: Sequence[int], even: int = 1) -> Value | None:
    """An input of the kind a block takes, at sizes that are not trivial."""
    if takes == "none":
        return None
    if takes == "tokens":
        return net.input(1 + net.choose(2), net.pick((4, 9, 16, 7)), net.pick((8, 16, 32)))
    rank = net.pick(tuple(dims))
    size = [even * net.pick({1: (16, 9, 24, 33), 2: (8, 6, 9, 12), 3: (4, 5, 6, 4)}[rank]) // (1 if even == 1 else min(even, 4)) for _ in range(rank)]
    size = [max(even, n - n % even) for n in size]
    return net.input(1 + net.choose(2), net.pick((8, 16, 4, 12, 32)), *size)


def build(growth: Growth, block: Block, x: Value | None = None, form: Format = FLOAT) -> list[Value]:
    """One block on a value, or on a fresh input. Raises Misfit when its parameters do not fit."""
    net = Builder(growth, form)
    need(growth.opset >= block.since, f"{block.id} needs opset {block.since}")
    if x is None:
        x = feed(net, block.takes, block.dims, block.even)
    result = block.build(net, x) if block.takes != "none" else block.build(net)
    growth.features.add(f"block {block.id}")
    return list(result) if isinstance(result, (list, tuple)) else [result]


def related(growth: Growth, relation: Relation, form: Format = FLOAT) -> tuple[Value, Value]:
    """Both sides of a relation, over the same inputs and weights."""
    net = Builder(growth, form)
    need(growth.opset >= relation.since, f"{relation.id} needs opset {relation.since}")
    x = feed(net, relation.takes, relation.dims, relation.even)
    left, right = relation.build(net, x) if relation.takes != "none" else relation.build(net)
    growth.features.add(f"relation {relation.id}")
    return left, right


def network(growth: Growth, outputs: Sequence[Value]) -> Network:
    """What has been built, with these outputs; steps that none of them needs are left out."""
    needed, steps = {id(v) for v in outputs}, list[Step]()
    for step in reversed(growth.steps):
        if any(v is not None and id(v) in needed for v in step.outputs):
            steps.append(step)
            needed.update(id(v) for v in step.reads())
    values = [v for v in growth.values if id(v) in needed or (v.kind == "node" and v.uses)]
    return Network(growth.opset, values, steps[::-1], list(outputs), (), frozenset(growth.features))
