"""Writing a network as ONNX, directly with onnx-ir; contents drawn later are filled into the finished proto."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from fuzzer.network import Body, Network, Step, Value
from specs import schema

#: The oldest that may carry an opset: a backend that knows the opset must know it.
IR_VERSION = {**dict.fromkeys((13, 14), 7), **dict.fromkeys((15, 16, 17, 18), 8), 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12, 25: 12, 26: 13, 27: 13, 28: 14}
FUNCTIONS = "assay.functions"


def emit(network: Network) -> onnx.ModelProto:
    """The network as a ModelProto. Leaves without exact content hold zeros until `fill`."""
    values: dict[int, ir.Value] = {}
    inputs = [_value(values, v) for v in network.inputs]
    initializers = [_value(values, v) for v in network.values if v.kind == "initializer" and v.uses]
    for v, made in ((v, values[id(v)]) for v in network.values if v.kind == "initializer" and v.uses):
        made.const_value = _tensor(v)
    constants = [_constant(values, v) for v in network.values if v.kind == "constant" and v.uses]
    nodes = [*constants, *_nodes(values, network.steps)]
    opsets = {"": network.opset, **dict.fromkeys(_domains(network.steps), 1)}
    graph = ir.Graph(inputs, [values[id(v)] for v in network.outputs], nodes=nodes, initializers=initializers, opset_imports=opsets, name="assay")
    functions = [_function(FUNCTIONS, f.name, f.body, network.opset) for f in network.functions]
    if functions:
        opsets[FUNCTIONS] = 1
    calls = _calls([*network.steps, *(s for f in network.functions for s in f.body.steps)])
    functions += [_function(s.domain, name, s.function, network.opset, tuple(s.attrs)) for name, s in calls.items() if s.function is not None]
    return ir.to_proto(ir.Model(graph, ir_version=IR_VERSION[network.opset], producer_name="onnx-assay", functions=functions))


def _calls(steps: Sequence[Step]) -> dict[str, Step]:
    """One call of every function that steps bring along, by name."""
    found = dict[str, Step]()
    for s in steps:
        inner = [b.steps for b in s.bodies.values()]
        if s.function is not None:
            found[s.op] = s
            inner.append(s.function.steps)
        for part in inner:
            found.update(_calls(part))
    return found


def _domains(steps: Sequence[Step]) -> set[str]:
    """Domains other than ONNX's own, in sub-graphs too."""
    found = {s.domain for s in steps if s.domain}
    return found.union(*[_domains(b.steps) for s in steps for b in s.bodies.values()])


def fill(proto: onnx.ModelProto, contents: Mapping[str, np.ndarray]) -> None:
    """Put drawn contents into initializers and Constant nodes."""
    for t in proto.graph.initializer:
        if t.name in contents:
            _store(t, contents[t.name])
    for n in proto.graph.node:
        if n.op_type == "Constant" and n.output[0] in contents:
            _store(n.attribute[0].t, contents[n.output[0]])


def _store(t: onnx.TensorProto, array: np.ndarray) -> None:
    if array.dtype == object:
        t.string_data[:] = [str(s).encode() for s in array.reshape(-1).tolist()]
    elif array.dtype.kind in "fiub" or array.dtype.itemsize >= 2:
        t.raw_data = array.tobytes()
    else:
        name = t.name
        t.CopyFrom(onnx.numpy_helper.from_array(array, name))


def _content(v: Value) -> np.ndarray:
    if v.format.kind == "string" and v.content is None:
        return np.full([d or 0 for d in v.shape], "", dtype=object)
    return v.content if v.content is not None else np.zeros([d or 0 for d in v.shape], v.format.numpy)


def _tensor(v: Value) -> ir.TensorProtocol:
    content = _content(v)
    if v.format.kind == "string":
        return ir.StringTensor([str(s).encode() for s in content.reshape(-1).tolist()], shape=ir.Shape(content.shape), name=v.name)
    return ir.Tensor(content, dtype=ir.DataType(v.format.onnx), name=v.name)


def _type(v: Value) -> ir.TypeProtocol:
    tensor = ir.TensorType(ir.DataType(v.format.onnx))
    return ir.SequenceType(tensor) if v.wrapper == "sequence" else ir.OptionalType(tensor) if v.wrapper else tensor


def _value(values: dict[int, ir.Value], v: Value) -> ir.Value:
    made = values.get(id(v))
    if made is None:
        shape = None if v.wrapper else ir.Shape(v.shape if v.dims is None else v.dims)
        made = values[id(v)] = ir.Value(name=v.name, type=_type(v), shape=shape)
    return made


def _constant(values: dict[int, ir.Value], v: Value) -> ir.Node:
    return ir.Node("", "Constant", [], [ir.AttrTensor("value", _tensor(v))], outputs=[_value(values, v)], name=f"n_{v.name}")


def _nodes(values: dict[int, ir.Value], steps: Sequence[Step]) -> list[ir.Node]:
    nodes = list[ir.Node]()
    for step in steps:
        floats = float_attributes(step.op, step.domain)
        attrs = [_attribute(name, float(value) if name in floats else value) for name, value in step.attrs.items() if value is not None]
        attrs += [ir.AttrGraph(name, _body(values, name, body)) for name, body in step.bodies.items()]
        inputs = [None if v is None else _value(values, v) for v in step.inputs]
        outputs = [ir.Value(name="") if v is None else _value(values, v) for v in step.outputs]
        first = next((v.name for v in step.outputs if v is not None), str(len(nodes)))
        nodes.append(ir.Node(step.domain, step.op, inputs, attrs, outputs=outputs, name=f"n_{first}"))
    return nodes


def _body(values: dict[int, ir.Value], name: str, body: Body) -> ir.Graph:
    inputs = [_value(values, v) for v in body.inputs]
    nodes = _nodes(values, body.steps)
    return ir.Graph(inputs, [values[id(v)] for v in body.outputs], nodes=nodes, name=name)


def _function(domain: str, name: str, body: Body, opset: int, attributes: Sequence[str] = ()) -> ir.Function:
    values: dict[int, ir.Value] = {}
    inputs = [_value(values, v) for v in body.inputs]
    nodes = _nodes(values, body.steps)
    graph = ir.Graph(inputs, [values[id(v)] for v in body.outputs], nodes=nodes, opset_imports={"": opset, **dict.fromkeys(_domains(body.steps), 1)}, name=name)
    names = [ir.Attr(a, ir.AttributeType.UNDEFINED, None) for a in attributes]
    return ir.Function(domain, name, "", graph=graph, attributes=names)


@cache
def float_attributes(op: str, domain: str) -> frozenset[str]:
    """Attributes the schema declares as one float: an int drawn for them must not become an int attribute."""
    found = schema.schema(op, domain)
    return frozenset(n for n, a in found.attributes.items() if a.type == onnx.defs.OpSchema.AttrType.FLOAT) if found else frozenset()


def _attribute(name: str, value: Any) -> ir.Attr:
    if isinstance(value, (bool, int, np.integer)):
        return ir.AttrInt64(name, int(value))
    if isinstance(value, (float, np.floating)):
        return ir.AttrFloat32(name, float(value))
    if isinstance(value, str):
        return ir.AttrString(name, value)
    if isinstance(value, np.ndarray):
        return ir.AttrTensor(name, ir.tensor(value))
    if all(isinstance(v, (int, np.integer)) for v in value):
        return ir.AttrInt64s(name, [int(v) for v in value])
    if all(isinstance(v, str) for v in value):
        return ir.AttrStrings(name, list(value))
    return ir.AttrFloat32s(name, [float(v) for v in value])
