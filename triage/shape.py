"""The shape of a graph: its operators and how they are joined, whatever the sizes, names, numbers and types."""

from __future__ import annotations

import hashlib
from typing import Any

import networkx
import onnx

from corpus import walk

Shape = networkx.DiGraph  # of node numbers, and of names of values that nothing makes


def shape(model: onnx.ModelProto) -> Shape:
    """Nodes with the names of their attributes and the words among their values; values that nothing makes; edges with both positions."""
    graph: Shape = networkx.DiGraph()
    nodes = [n for n in walk.all_nodes(model.graph.node) if n.op_type not in ("Identity",)]
    maker = {o: (i, k) for i, n in enumerate(nodes) for k, o in enumerate(n.output) if o}
    same_as = {n.output[0]: n.input[0] for n in walk.all_nodes(model.graph.node) if n.op_type == "Identity"}
    for i, node in enumerate(nodes):
        graph.add_node(i, label=_label(node))
        for k, name in enumerate(node.input):
            while name in same_as:
                name = same_as[name]
            if not name:
                continue
            if name in maker:
                _join(graph, maker[name][0], i, f"{maker[name][1]}-{k}")
            else:
                graph.add_node(f"value {name}", label="value")
                _join(graph, f"value {name}", i, f"-{k}")
    return graph


def _join(graph: Shape, source: int | str, sink: int, label: str) -> None:
    """A node may read one value in several places: that is one edge with all of them."""
    before = [graph.edges[source, sink]["label"]] if graph.has_edge(source, sink) else []
    graph.add_edge(source, sink, label=" ".join(sorted([*before, label])))


def _label(node: onnx.NodeProto) -> str:
    said = [f"{a.name}={a.s.decode(errors='replace')}" if a.type == onnx.AttributeProto.STRING else a.name for a in node.attribute]
    return " ".join(["Constant"] if node.op_type == "Constant" else [node.domain, node.op_type, *sorted(said)])


def digest(graph: Shape, rounds: int = 4) -> str:
    """The same for graphs of the same shape; now and then for others, too.

    Weisfeiler and Lehman's colours. Our own, because keys on disk depend on it and networkx has changed its hash between versions.
    """
    colours: dict[Any, str] = {node: _hashed(str(label)) for node, label in graph.nodes(data="label")}
    for _ in range(rounds):
        colours = {
            node: _hashed(
                colours[node],
                *sorted(f"<{label}{colours[before]}" for before, _, label in graph.in_edges(node, data="label")),
                *sorted(f">{label}{colours[after]}" for _, after, label in graph.out_edges(node, data="label")),
            )
            for node in graph
        }
    return _hashed(*sorted(colours.values()))


def _hashed(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=8).hexdigest()


def alike(a: Shape, b: Shape) -> bool:
    """Whether two graphs are isomorphic."""
    return networkx.is_isomorphic(a, b, node_match=_labelled, edge_match=_labelled)


def _labelled(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a["label"] == b["label"]
