"""Which single operator, run alone, already shows it? The cheapest reduction, and blame at the same time.

Every node becomes a model of its own, fed with the values it gets in the whole model (our meanings in the declared formats);
constants stay constants. The first node that gives the same verdict is the cause; a defect of a fusion shows in none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
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

SIZE = 1 << 16  # elements of a captured value above which a node is not tried alone


def isolate(case: Case, shows: Callable[[Case], bool]) -> Case | None:
    """The first single-node case for which `shows` is true; None when no node alone does."""
    return next((single for single in singles(case) if shows(single)), None)


def singles(case: Case) -> Iterator[Case]:
    """Each node of the model as a case of its own, in order. Nothing for models whose values cannot be computed."""
    proto = onnx.load_from_string(case.model)
    if len(proto.graph.node) < 2:
        return
    try:
        program = Program(case.model)
        with torch.no_grad():
            values = program.run(program.feeds(case.inputs), keep=True)
    except (Unsupported, NotImplementedError, RuntimeError):  # torch lacks a kernel for a declared format
        return
    constants = {t.name: t for t in proto.graph.initializer}
    constants |= {n.output[0]: _named(n) for n in proto.graph.node if n.op_type == "Constant" and n.attribute and n.attribute[0].name == "value"}
    for node in proto.graph.node:
        if node.op_type not in ("Constant",) and (single := _single(proto, node, values, program.formats, constants)) is not None:
            yield Case(single[0], single[1], case.origin)


def _named(node: onnx.NodeProto) -> TensorProto:
    tensor = TensorProto()
    tensor.CopyFrom(node.attribute[0].t)
    tensor.name = node.output[0]
    return tensor


def _single(
    proto: onnx.ModelProto, node: onnx.NodeProto, values: Mapping[str, Any], formats: Mapping[str, Format], constants: Mapping[str, TensorProto]
) -> tuple[bytes, dict[str, np.ndarray]] | None:
    names = dict.fromkeys(i for i in node.input if i)
    for a in node.attribute:
        if a.type == onnx.AttributeProto.GRAPH:
            names.update(dict.fromkeys(captured(a.g)))
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
    for name in (o for o in node.output if o):
        value, form = values.get(name), formats.get(name)
        if not isinstance(value, torch.Tensor) or form is None:
            return None
        outputs.append(helper.make_tensor_value_info(name, form.onnx, list(value.shape)))
    graph = helper.make_graph([node], "isolated", infos, outputs, initializers)
    model = helper.make_model(graph, opset_imports=list(proto.opset_import), functions=list(proto.functions), ir_version=proto.ir_version)
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return None
    return model.SerializeToString(), inputs


