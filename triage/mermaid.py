"""The graph of a model as a Mermaid flowchart, which GitHub draws inside an issue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
import onnx.helper
import onnx.shape_inference

from corpus import walk
from specs.formats import BY_ONNX

MOST = 40  # nodes of a graph that is still readable
_SHORT = 24  # characters of an attribute's value


def picture(model: onnx.ModelProto, guilty: Iterable[str] = ()) -> str:
    """A flowchart: inputs rounded, weights slanted, nodes square, the operators in `guilty` marked; empty for a model too large to draw."""
    try:
        proto = onnx.shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, ValueError):
        proto = model
    graph = proto.graph
    if len(graph.node) > MOST:
        return ""
    types = {v.name: _type(v.type) for v in (*graph.input, *graph.value_info, *graph.output)}
    types |= {t.name: _tensor(t.data_type, t.dims) for t in graph.initializer}
    weights = {t.name for t in graph.initializer}
    ids = dict[str, str]()
    lines = ["flowchart TD"]
    for i, v in enumerate(v for v in graph.input if v.name not in weights):
        ids[v.name] = f"i{i}"
        lines.append(f'    i{i}(["{_safe(v.name)}<br/>{_safe(types[v.name])}"])')
    used = {name for n in graph.node for name in walk.reads(n)}
    for i, t in enumerate(t for t in graph.initializer if t.name in used):
        ids[t.name] = f"w{i}"
        lines.append(f'    w{i}[/"{_safe(t.name)}<br/>{_safe(types[t.name])}"/]')
    marked = list[str]()
    for i, node in enumerate(graph.node):
        lines.append(f'    n{i}["{_label(node)}"]')
        ids |= {o: f"n{i}" for o in node.output if o}
        marked += [f"n{i}"] if node.op_type in set(guilty) else []
    for i, node in enumerate(graph.node):
        lines += [_edge(ids[name], f"n{i}", types.get(name, "") if ids[name].startswith("n") else "") for name in _inputs(node) if name in ids]
    for i, v in enumerate(graph.output):
        lines.append(f'    o{i}(["{_safe(v.name)}<br/>{_safe(types[v.name])}"])')
        if v.name in ids:
            lines.append(_edge(ids[v.name], f"o{i}", ""))
    if marked:
        lines += ["    classDef guilty stroke:#c00,stroke-width:3px", f"    class {','.join(marked)} guilty"]
    return "\n".join(lines)


def _inputs(node: onnx.NodeProto) -> Sequence[str]:
    """In order, then what its bodies read from outside."""
    return [*(n for n in node.input if n), *sorted(walk.reads(node) - set(node.input))]


def _edge(start: str, end: str, label: str) -> str:
    return f'    {start} -->|"{_safe(label)}"| {end}' if label else f"    {start} --> {end}"


def _label(node: onnx.NodeProto) -> str:
    given = [f"{a.name} = {_value(a)}" for a in node.attribute]
    missing = [f"input {i} left out" for i, name in enumerate(node.input) if not name]
    name = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
    return "<br/>".join(_safe(part) for part in (name, *given, *missing))


def _value(a: onnx.AttributeProto) -> str:
    if a.type == onnx.AttributeProto.GRAPH:
        return f"a body of {len(a.g.node)} nodes"
    if a.type == onnx.AttributeProto.TENSOR:
        return _tensor(a.t.data_type, a.t.dims)
    text = _plain(onnx.helper.get_attribute_value(a))
    return text if len(text) <= _SHORT else f"{text[: _SHORT - 4]} ..."


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(_plain(v) for v in value)}]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _type(type_: onnx.TypeProto) -> str:
    if not type_.HasField("tensor_type"):
        return (type_.WhichOneof("value") or "").removesuffix("_type")
    dims = walk.dims(type_)
    return _tensor(type_.tensor_type.elem_type, ["?" if d is None else d for d in dims] if dims is not None else None)


def _tensor(element: int, dims: Iterable[object] | None) -> str:
    form = BY_ONNX.get(element)
    return (form.name if form else str(element)) + ("" if dims is None else f"[{', '.join(map(str, dims))}]")


def _safe(text: str) -> str:
    """Inside quotes Mermaid reads entities, written with # instead of &."""
    return text.replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;").replace("\n", " ").replace("|", "#124;")
