"""Walks over ONNX protos that several rooms need: every graph, node and tensor, those inside sub-graphs and functions too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

from specs.formats import BY_ONNX, Format


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph, then its sub-graphs (If, Loop, Scan), outermost first."""
    yield graph
    for node in graph.node:
        for body in bodies(node):
            yield from graphs(body)


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The sub-graphs of a node."""
    return [a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH] + [g for a in node.attribute for g in a.graphs]


def all_nodes(nodes: Sequence[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from all_nodes(body.node)


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor stored in a model: initializers, attributes, sparse ones, in all graphs and functions."""
    for graph in graphs(model.graph):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for nodes in (model.graph.node, *(f.node for f in model.functions)):
        for node in all_nodes(nodes):
            for a in node.attribute:
                if a.type == onnx.AttributeProto.TENSOR:
                    yield a.t
                yield from a.tensors
                if a.type == onnx.AttributeProto.SPARSE_TENSOR:
                    yield from (a.sparse_tensor.values, a.sparse_tensor.indices)
    for function in model.functions:
        for node in all_nodes(function.node):
            for body in bodies(node):
                yield from body.initializer


def reads(node: onnx.NodeProto) -> set[str]:
    """The names a node needs from the graph around it, those its sub-graphs capture included."""
    names = {i for i in node.input if i}
    for body in bodies(node):
        names |= captured(body)
    return names


def captured(graph: onnx.GraphProto) -> set[str]:
    """The names a sub-graph takes from the graphs around it."""
    own = {i.name for i in graph.input} | {i.name for i in graph.initializer} | {i.values.name for i in graph.sparse_initializer}
    made, wanted = set(own), set[str]()
    for node in graph.node:
        wanted |= {n for n in reads(node) if n not in made}
        made |= set(node.output)
    return wanted | {o.name for o in graph.output if o.name not in made}


def tensor_format(type_: onnx.TypeProto) -> Format | None:
    """The format of a tensor type; None for sequences, optionals, maps and unknown element types."""
    return BY_ONNX.get(type_.tensor_type.elem_type) if type_.HasField("tensor_type") else None


def dims(type_: onnx.TypeProto) -> list[int | str | None] | None:
    """Dimensions of a tensor type: an int, a name, or None where unknown; None when even the rank is unknown."""
    if not type_.HasField("tensor_type") or not type_.tensor_type.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in type_.tensor_type.shape.dim]


def bare_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs that a caller must give: those that are no initializers."""
    given = {i.name for i in graph.initializer} | {i.values.name for i in graph.sparse_initializer}
    return [i for i in graph.input if i.name not in given]
