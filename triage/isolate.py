"""Which few operators, run alone, already show it? The cheapest reduction, and blame at the same time.

Parts of the model become models of their own, fed with the values they get in the whole one (our meanings in the declared
formats); constants stay constants. First every node alone, then every node with what it reads from, two and more steps back:
the first part that gives the same verdict is where the cause lies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, ValueInfoProto, helper

from corpus.walk import captured
from oracles.records import Case
from specs.formats import Format
from specs.program import Program, to_numpy
from specs.rule import Unsupported

SIZE = 1 << 16  # elements of a captured value above which a part is not tried
DEPTHS = (2, 3, 4)  # steps back from a node


def isolate(case: Case, shows: Callable[[Case], bool]) -> Case | None:
    """The first part of the model for which `shows` is true, smallest parts first; None when only the whole model does."""
    return next((part for part in parts(case) if shows(part)), None)


def parts(case: Case) -> Iterator[Case]:
    """Parts of the model as cases of their own. Nothing for models whose values cannot be computed."""
    proto = onnx.load_from_string(case.model)
    nodes = [n for n in proto.graph.node if n.op_type != "Constant"]
    if len(nodes) < 2:
        return
    try:
        program = Program(case.model)
        with torch.no_grad():
            values = program.run(program.feeds(case.inputs), keep=True)
    except (Unsupported, NotImplementedError, RuntimeError):  # torch lacks a kernel for a declared format
        return
    constants = {t.name: t for t in proto.graph.initializer}
    constants |= {n.output[0]: _named(n) for n in proto.graph.node if n.op_type == "Constant" and n.attribute and n.attribute[0].name == "value"}
    seen = set[tuple[int, ...]]()
    for depth in (1, *DEPTHS):
        for last in range(len(nodes)):
            chosen = tuple(_cone(nodes, last, depth))
            if chosen in seen or len(chosen) == len(nodes):
                continue
            seen.add(chosen)
            part = _part(proto, [nodes[i] for i in chosen], nodes[last], values, program.formats, constants)
            if part is not None:
                yield Case(*part, case.origin)


def _cone(nodes: Sequence[onnx.NodeProto], last: int, depth: int) -> list[int]:
    """The node at `last` and those it reads from, up to `depth` nodes in a row, in order."""
    makers = {o: i for i, n in enumerate(nodes) for o in n.output if o}
    chosen, front = {last}, [last]
    for _ in range(depth - 1):
        front = [makers[i] for n in front for i in _reads(nodes[n]) if i in makers and makers[i] not in chosen]
        chosen.update(front)
    return sorted(chosen)


def _reads(node: onnx.NodeProto) -> list[str]:
    """Inputs, and what the bodies capture."""
    names = dict.fromkeys(i for i in node.input if i)
    for a in node.attribute:
        if a.type == onnx.AttributeProto.GRAPH:
            names.update(dict.fromkeys(captured(a.g)))
    return list(names)


def _named(node: onnx.NodeProto) -> TensorProto:
    tensor = TensorProto()
    tensor.CopyFrom(node.attribute[0].t)
    tensor.name = node.output[0]
    return tensor


def _part(
    proto: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    last: onnx.NodeProto,
    values: Mapping[str, Any],
    formats: Mapping[str, Format],
    constants: Mapping[str, TensorProto],
) -> tuple[bytes, dict[str, np.ndarray]] | None:
    """Model and inputs of some nodes whose results are those of `last`; None when a value cannot cross its border."""
    inside = {o for n in nodes for o in n.output if o}
    names = dict.fromkeys(i for n in nodes for i in _reads(n) if i not in inside)
    inputs, infos, initializers = dict[str, np.ndarray](), list[ValueInfoProto](), list[TensorProto]()
    for name in names:
        if name in constants:
            initializers.append(constants[name])
            continue
        value, form = values.get(name), formats.get(name)
        if not isinstance(value, torch.Tensor) or form is None or value.numel() > SIZE:
            return None
        inputs[name] = to_numpy(value, form)
        infos.append(helper.make_tensor_value_info(name, form.onnx, list(value.shape)))
    outputs = list[ValueInfoProto]()
    for name in (o for o in last.output if o):
        value, form = values.get(name), formats.get(name)
        if not isinstance(value, torch.Tensor) or form is None:
            return None
        outputs.append(helper.make_tensor_value_info(name, form.onnx, list(value.shape)))
    graph = helper.make_graph(list(nodes), "isolated", infos, outputs, initializers)
    used = {(n.domain, n.op_type) for n in nodes}
    functions = [f for f in proto.functions if (f.domain, f.name) in used]
    domains = {"", *(n.domain for n in nodes), *(o.domain for f in functions for o in f.opset_import), *_body_domains(nodes)}
    opsets = [o for o in proto.opset_import if o.domain in domains]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=proto.ir_version)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return None
    return model.SerializeToString(), inputs


def _body_domains(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    found = set[str]()
    for n in nodes:
        for a in n.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                found |= {m.domain for m in a.g.node} | _body_domains(a.g.node)
    return found
