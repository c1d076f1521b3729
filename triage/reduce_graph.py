"""Reduction steps on the graph: fewer outputs, fewer nodes, plainer nodes."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx.inliner
from onnx import numpy_helper

from corpus import walk
from triage.draft import Draft
from triage.reduce import first, step

WIDTHS = (1, 2, 3, 4, 6, 8)
#: Operators whose output is one of two equally typed things: bypassing may well keep what matters.
FREE = ("Constant",)


@first
def inline_functions(draft: Draft) -> Iterator[Draft | None]:
    """The bodies of functions in place of their calls."""
    if draft.model.functions:
        yield Draft(onnx.inliner.inline_local_functions(draft.copy()), draft.inputs)


@first
def constants_to_weights(draft: Draft) -> Iterator[Draft | None]:
    """Constant nodes are weights that count as nodes."""
    model = draft.copy()
    kept = list[onnx.NodeProto]()
    for node in model.graph.node:
        value = next((a.t for a in node.attribute if a.name == "value" and a.type == onnx.AttributeProto.TENSOR), None)
        if node.op_type == "Constant" and value is not None and not any(o.name == node.output[0] for o in model.graph.output):
            model.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(value), node.output[0]))
        else:
            kept.append(node)
    if len(kept) < len(model.graph.node):
        del model.graph.node[:]
        model.graph.node.extend(kept)
        yield Draft(model, draft.inputs)


@step
def keep_one_output(draft: Draft) -> Iterator[Draft | None]:
    """One output alone, then without one."""
    names = [o.name for o in draft.model.graph.output]
    if len(names) > 1:
        yield from (draft.part([n]) for n in names)
        yield from (draft.part([n for n in names if n != gone]) for gone in names)


@step
def drop_unneeded(draft: Draft) -> Iterator[Draft | None]:
    """Nodes, inputs and weights that no output needs."""
    yield draft.cleaned()


@step
def window(draft: Draft) -> Iterator[Draft | None]:
    """A node with its nearest ancestors, fed with the values that its surroundings have: widths from one node up."""
    working = [i for i, n in enumerate(draft.nodes) if n.op_type not in FREE]
    for width in WIDTHS:
        if width >= len(working):
            return
        for sink in reversed(working):
            inside = _nearest(draft, sink, width)
            if len(inside) == width or width == 1:
                yield from _fed(draft, [o for o in draft.nodes[sink].output if o], inside)


def _nearest(draft: Draft, sink: int, width: int) -> set[int]:
    inside, ring = {sink}, [sink]
    while ring and len(inside) < width:
        following = list[int]()
        for i in ring:
            for name in sorted(walk.reads(draft.nodes[i])):
                j = draft.maker.get(name)
                if j is not None and j not in inside and draft.nodes[j].op_type not in FREE and len(inside) < width:
                    inside.add(j)
                    following.append(j)
        ring = following
    return inside


def _fed(draft: Draft, outputs: list[str], inside: set[int]) -> Iterator[Draft | None]:
    """The nodes `inside`, everything they read from outside cut off; as inputs first, then as weights."""
    made = {o for i in inside for o in draft.nodes[i].output}
    reads = {r for i in inside for r in walk.reads(draft.nodes[i]) if r not in made and r in draft.maker}
    stop = {r for r in reads if draft.nodes[draft.maker[r]].op_type not in FREE}
    yield draft.part(outputs, stop)
    if stop:
        yield draft.part(outputs, stop, constant=True)


@step
def cut_below(draft: Draft) -> Iterator[Draft | None]:
    """An inner value as the only output: what comes after it goes. The earliest first."""
    for node in list(draft.nodes)[:-1]:
        if node.op_type not in FREE:
            yield draft.part([o for o in node.output if o])


@step
def cut_above(draft: Draft) -> Iterator[Draft | None]:
    """An inner value, as it is, as an input: what computes it goes. The cut that saves most comes first."""
    outputs = [o.name for o in draft.model.graph.output]
    parts = [p for name in draft.maker if name not in outputs for p in [draft.part(outputs, [name])] if p is not None]
    yield from sorted(parts, key=lambda p: p.size)


@step
def cut_to_weight(draft: Draft) -> Iterator[Draft | None]:
    """As `cut_above`, with the value as a weight."""
    outputs = [o.name for o in draft.model.graph.output]
    parts = [p for name in draft.maker if name not in outputs for p in [draft.part(outputs, [name], constant=True)] if p is not None]
    yield from sorted(parts, key=lambda p: p.size)


@step
def bypass(draft: Draft) -> Iterator[Draft | None]:
    """A node's reader reads, instead, what the node reads, when type and shape agree."""
    for node in reversed(draft.nodes):
        for out in node.output:
            for name in node.input:
                a, b = draft.values.get(out), draft.values.get(name)
                if a is not None and b is not None and a.dtype == b.dtype and a.shape == b.shape:
                    yield draft.rewired(out, name)


@step
def bypass_output(draft: Draft) -> Iterator[Draft | None]:
    """The last node's input as the output in its place."""
    for o in draft.model.graph.output:
        i = draft.maker.get(o.name)
        for name in draft.nodes[i].input if i is not None else ():
            if name in draft.maker:
                yield draft.part([name])


@step
def branch_taken(draft: Draft) -> Iterator[Draft | None]:
    """The branch that an If takes, in place of the If."""
    for i, node in enumerate(draft.nodes):
        condition = draft.values.get(node.input[0]) if node.op_type == "If" else None
        if condition is None:
            continue
        body = next(a.g for a in node.attribute if a.name == ("then_branch" if bool(condition.item()) else "else_branch"))
        model = draft.copy()
        nodes = [*draft.nodes[:i], *body.node]
        for inner, outer in zip(body.output, node.output, strict=True):
            nodes.append(onnx.helper.make_node("Identity", [inner.name], [outer]))
        del model.graph.node[:]
        model.graph.node.extend([*nodes, *draft.nodes[i + 1 :]])
        model.graph.initializer.extend(body.initializer)
        yield Draft(model, draft.inputs).cleaned()


@step
def drop_input(draft: Draft) -> Iterator[Draft | None]:
    """Nodes with fewer inputs: the last ones of a variadic or optional list, or an optional one in the middle."""
    for i, node in enumerate(draft.nodes):
        for k in reversed(range(len(node.input))):
            if not node.input[k]:
                continue
            model = draft.copy()
            changed = model.graph.node[i]
            if k == len(node.input) - 1:
                del changed.input[k]
                while changed.input and not changed.input[-1]:
                    del changed.input[-1]
            else:
                changed.input[k] = ""
            yield Draft(model, draft.inputs).cleaned()


@step
def drop_output(draft: Draft) -> Iterator[Draft | None]:
    """Outputs of nodes that nobody reads."""
    read = {r for n in draft.nodes for r in walk.reads(n)} | {o.name for o in draft.model.graph.output}
    for i, node in enumerate(draft.nodes):
        for k in reversed(range(1, len(node.output))):
            if node.output[k] and node.output[k] not in read:
                model = draft.copy()
                changed = model.graph.node[i]
                changed.output[k] = ""
                while not changed.output[-1]:
                    del changed.output[-1]
                yield Draft(model, draft.inputs)


@step
def drop_attribute(draft: Draft) -> Iterator[Draft | None]:
    """Attributes at their defaults."""
    for i, node in enumerate(draft.nodes):
        for k, a in enumerate(node.attribute):
            if a.type not in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                model = draft.copy()
                del model.graph.node[i].attribute[k]
                yield outputs_inferred(model, draft)


def outputs_inferred(model: onnx.ModelProto, draft: Draft) -> Draft:
    """A change of attributes changes shapes: outputs are declared by type alone, then by what inference finds."""
    for o in model.graph.output:
        if o.type.HasField("tensor_type"):
            o.type.tensor_type.ClearField("shape")
    model.graph.ClearField("value_info")
    inferred = Draft(model, draft.inputs)
    for o in model.graph.output:
        if o.name in inferred.values and o.type.HasField("tensor_type"):
            for d in inferred.values[o.name].shape:
                o.type.tensor_type.shape.dim.add().dim_value = d
            o.type.tensor_type.shape.SetInParent()
    return Draft(model, draft.inputs)


@step
def plain_names(draft: Draft) -> Iterator[Draft | None]:
    """Nodes without names, no comments, no stored shapes of inner values."""
    model = draft.copy()
    for field in ("producer_name", "producer_version", "doc_string", "metadata_props", "domain", "model_version"):
        model.ClearField(field)  # type: ignore[arg-type]
    model.graph.ClearField("value_info")
    for node in walk.all_nodes(model.graph.node):
        node.ClearField("name")
        node.ClearField("doc_string")
    used = {walk_domain(n.domain) for n in walk.all_nodes(model.graph.node)} | {""}
    kept = [o for o in model.opset_import if walk_domain(o.domain) in used]
    if not model.functions and len(kept) < len(model.opset_import):
        del model.opset_import[:]
        model.opset_import.extend(kept)
    yield Draft(model, draft.inputs)


def walk_domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain
