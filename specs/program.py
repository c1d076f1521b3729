"""ONNX models as programs over our meanings: parsed once, then evaluated by any interpreter (plain, balls, input search).

A `Program` holds the nodes of a model with attributes filled from the schema's defaults and the declared formats of every
value. `Program.run` evaluates it in the declared formats, or with every float promoted to one torch type (float64: the
reference). The interpreters differ only in the function they apply at each node.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from specs.formats import BY_NUMPY, BY_ONNX, Format
from specs.operator import Operator, find
from specs.rule import Unsupported, UsageError
from specs.schema import defaults, schema

Apply = Callable[["Node", list[Any]], Sequence[Any]]


class Node:
    """One node, ready to be evaluated. Attributes read as Python values: `a.strides`, `a.axis`; None when absent without a default."""

    __slots__ = ("attrs", "bodies", "domain", "in_formats", "inputs", "name", "op", "opset", "out_formats", "outputs", "promote", "version")

    def __init__(
        self, op: Operator, name: str, inputs: list[str], outputs: list[str], attrs: dict[str, Any], bodies: dict[str, Graph], opset: int, version: int
    ) -> None:
        self.op, self.name, self.inputs, self.outputs, self.attrs, self.bodies, self.opset, self.version = (
            op,
            name,
            inputs,
            outputs,
            attrs,
            bodies,
            opset,
            version,
        )
        self.in_formats: list[Format | None] = []
        self.out_formats: list[Format | None] = []
        self.promote: torch.dtype | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in Node.__slots__:  # copying looks for these before there is anything to ask
            raise AttributeError(name)
        return self.attrs.get(name)

    def torch(self, form: Format) -> torch.dtype:
        """The torch type that a value of this declared format has in this run."""
        return self.promote if self.promote is not None and form.is_float else form.torch

    def out(self, i: int = 0) -> torch.dtype:
        """The torch type of output i in this run."""
        form = self.out_formats[i]
        if form is None:
            raise Unsupported(f"{self.op.name}: the type of output {i} is not known")
        return self.torch(form)

    def __repr__(self) -> str:
        return f"{self.op.name}({', '.join(self.inputs)}) -> {', '.join(self.outputs)}"


class Call(Node):
    """A call of one of the model's functions, kept as a call."""

    __slots__ = ("body",)
    body: Program

    def evaluate(self, args: Sequence[Any], apply: Apply) -> list[Any]:
        """Its results by its body."""
        feeds = {name: value for name, value in zip(self.inputs, args, strict=True) if name}
        return list(self.body.run(feeds, apply).values())


def _by_body(node: Call, *args: Any) -> tuple[Any, ...]:
    return tuple(node.evaluate(args, plain))


class Graph:
    """Inputs, constants and nodes in order; sub-graphs see the values of the graphs around them."""

    __slots__ = ("constants", "inputs", "nodes", "outputs")

    def __init__(self, inputs: list[str], outputs: list[str], constants: dict[str, tuple[Format, torch.Tensor]], nodes: list[Node]) -> None:
        self.inputs, self.outputs, self.constants, self.nodes = inputs, outputs, constants, nodes


class Program:
    """A model parsed for evaluation. `inputs` maps graph input names to (format, shape); unknown dims are None or a name."""

    def __init__(self, model: bytes | onnx.ModelProto, promote: torch.dtype | None = None, keep: frozenset[str] = frozenset()) -> None:
        """`keep` names domains whose functions stay calls: nodes of the class Call.

        Raises Unsupported for an operator without a meaning, UsageError for a model that cannot be parsed.
        """
        proto = parse(model)
        self._functions = {(f.domain, f.name): f for f in proto.functions if f.domain in keep}
        if proto.functions:
            import onnx.inliner

            kept = list(self._functions)
            proto = onnx.inliner.inline_selected_functions(proto, kept, exclude=True) if kept else onnx.inliner.inline_local_functions(proto)
        inferred = _with_types(proto)
        self.promote = promote
        self.opsets = {o.domain if o.domain != "ai.onnx" else "": o.version for o in proto.opset_import}
        self.formats: dict[str, Format] = {}
        self.graph = self._graph(inferred.graph)
        names = {i.name for i in inferred.graph.initializer}
        self.inputs = {i.name: (_format(i.type), _shape(i.type)) for i in inferred.graph.input if i.name not in names}
        self.outputs = [o.name for o in inferred.graph.output]

    def _graph(self, proto: onnx.GraphProto) -> Graph:
        for info in (*proto.input, *proto.value_info, *proto.output):
            form = _format(info.type)
            if form is not None:
                self.formats[info.name] = form
        constants: dict[str, tuple[Format, torch.Tensor]] = {}
        for t in proto.initializer:
            form = _element_type(t)
            self.formats[t.name] = form
            constants[t.name] = (form, to_torch(numpy_helper.to_array(t), form, self.promote))
        nodes = [self._node(n) for n in proto.node]
        return Graph([i.name for i in proto.input if i.name not in constants], [o.name for o in proto.output], constants, nodes)

    def _node(self, proto: onnx.NodeProto) -> Node:
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        if (domain, proto.op_type) in self._functions:
            return self._call(proto)
        op = find(proto.op_type, domain)
        if op is None:
            raise Unsupported(f"no meaning for operator {domain + '.' if domain else ''}{proto.op_type}")
        opset = self.opsets.get(domain, 1)
        found = schema(proto.op_type, domain, opset)
        attrs, bodies = dict(defaults(proto.op_type, domain, opset)), dict[str, Graph]()
        for a in proto.attribute:
            if a.type == onnx.AttributeProto.GRAPH:
                bodies[a.name] = self._graph(a.g)
            else:
                attrs[a.name] = attribute(a)
        node = Node(op, proto.name, list(proto.input), list(proto.output), attrs, bodies, opset, found.since_version if found else 1)
        node.promote = self.promote
        node.in_formats = [self.formats.get(i) for i in proto.input]
        node.out_formats = [self.formats.get(o) or _bound(found, k, node.in_formats) for k, o in enumerate(proto.output)]
        self.formats.update({o: f for o, f in zip(proto.output, node.out_formats, strict=True) if f is not None})
        return node

    def _call(self, proto: onnx.NodeProto) -> Node:
        """A call that stays one: its body is a program of its own, over the call's operands."""
        body = _alone(proto, self._functions, self.formats, self.opsets)
        attrs = {a.name: attribute(a) for a in proto.attribute}
        node = Call(Operator(proto.op_type, proto.domain, _by_body), proto.name, list(proto.input), list(proto.output), attrs, {}, 1, 1)
        node.body, node.promote = Program(body, self.promote), self.promote
        node.in_formats = [self.formats.get(i) for i in proto.input]
        node.out_formats = [node.body.formats.get(o) for o in proto.output]
        self.formats.update({o: f for o, f in zip(proto.output, node.out_formats, strict=True) if f is not None})
        return node

    @cached_property
    def coarsest(self) -> list[Format]:
        """The float format of 16 bits or more that rounds most; none in a model of integers."""
        return sorted((f for f in self.formats.values() if f.is_float and f.bits >= 16), key=lambda f: f.u)[-1:]

    def run(self, feeds: Mapping[str, torch.Tensor], apply: Apply | None = None, keep: bool = False) -> dict[str, Any]:
        """Evaluate on torch inputs; returns the outputs by name, or every value of the main graph when `keep`."""
        return evaluate(self.graph, dict(feeds), apply or plain, keep=keep)

    def feeds(self, arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
        """Numpy inputs as torch tensors of this run's types. Raises UsageError when they do not fit the model."""
        result = dict[str, torch.Tensor]()
        for name, (form, shape) in self.inputs.items():
            if name not in arrays:
                raise UsageError(f"input '{name}' is missing; the model needs {', '.join(self.inputs)}")
            if arrays[name] is None or isinstance(arrays[name], list):  # an empty optional, a sequence
                result[name] = _nested(arrays[name], form, self.promote)
                continue
            array = np.asarray(arrays[name])
            if form is None:
                raise Unsupported(f"input '{name}' is not a tensor")
            if array.dtype != form.numpy and form.name != "string":
                raise UsageError(f"input '{name}' has type {array.dtype}, the model declares {form.name}")
            if shape is not None and (len(shape) != array.ndim or any(isinstance(d, int) and d != s for d, s in zip(shape, array.shape, strict=False))):
                raise UsageError(f"input '{name}' has shape {list(array.shape)}, the model declares {[('?' if d is None else d) for d in shape]}")
            result[name] = to_torch(array, form, self.promote)
        return result


def plain(node: Node, args: list[Any]) -> Sequence[Any]:
    """The plain interpreter: the meaning, wrapped to the declared integer widths."""
    result = node.op.meaning(node, *args)
    values = list(result) if isinstance(result, (tuple, list)) and not _is_sequence(node, result) else [result]
    return [wrap(v, f) for v, f in zip(values, node.out_formats, strict=False)]


def _is_sequence(node: Node, result: Any) -> bool:
    return isinstance(result, list)


def evaluate(graph: Graph, env: dict[str, Any], apply: Apply, keep: bool = False) -> dict[str, Any]:
    """Evaluate a graph in an environment of already known values (constants are added here)."""
    for name, (_, value) in graph.constants.items():
        env.setdefault(name, value)
    env[""] = None
    for node in graph.nodes:
        args = [env[i] for i in node.inputs]
        if node.op.control is not None:

            def call(body: str, values: Sequence[Any], node: Node = node) -> list[Any]:
                inner = node.bodies[body]
                known = evaluate(inner, {**env, **dict(zip(inner.inputs, values, strict=False))}, apply, keep=True)
                return [known[o] for o in inner.outputs]  # not by name: a body may give one value twice

            results = node.op.control(node, call, args)
        else:
            results = apply(node, args)
        env.update({name: value for name, value in zip(node.outputs, results, strict=False) if name})
    if keep:
        env.pop("", None)
        return env
    return {o: env[o] for o in graph.outputs}


# numpy and torch -------------------------------------------------------------------------------------------------------
_VIEW = {"bfloat16": (np.int16, "bfloat16"), "float8e4m3fn": (np.uint8, "float8_e4m3fn"), "float8e4m3fnuz": (np.uint8, "float8_e4m3fnuz"),
         "float8e5m2": (np.uint8, "float8_e5m2"), "float8e5m2fnuz": (np.uint8, "float8_e5m2fnuz")}  # fmt: skip


def to_torch(array: np.ndarray, form: Format, promote: torch.dtype | None = None) -> Any:
    """A numpy array of an ONNX format as a torch tensor; floats in `promote` when given. Strings stay numpy arrays."""
    if form.kind == "string":
        return array
    array = np.asarray(array)  # keep rank 0, which ascontiguousarray would lose
    if not array.flags.c_contiguous or not array.flags.writeable or min(array.strides, default=0) < 0:  # a negative stride of a dim of 1 counts as contiguous
        array = array.copy()
    if form.name in _VIEW:
        view, name = _VIEW[form.name]
        tensor = torch.from_numpy(array.view(view)).view(getattr(torch, name))
    elif form.name == "uint64":
        tensor = torch.from_numpy(array.view(np.int64))
    elif form.bits < 8 or form.name in ("uint16", "uint32", "float8e8m0", "float4e2m1"):
        plainer = {"uint16": np.int64, "uint32": np.int64, "int4": np.int8, "int2": np.int8, "uint4": np.uint8, "uint2": np.uint8, "bool": np.bool_}
        tensor = torch.from_numpy(array.astype(plainer.get(form.name, np.float32)))
    else:
        tensor = torch.from_numpy(array)
    return tensor.to(promote) if promote is not None and form.is_float else tensor


def _nested(value: Any, form: Format | None, promote: torch.dtype | None) -> Any:
    if isinstance(value, list):
        return [_nested(v, form, promote) for v in value]
    return None if value is None else to_torch(np.asarray(value), form or BY_NUMPY[np.asarray(value).dtype], promote)


def to_numpy(value: Any, form: Format | None) -> Any:
    """The way back. A promoted float stays float64: the caller asked for more than the format holds."""
    if not isinstance(value, torch.Tensor):
        return [to_numpy(v, form) for v in value] if isinstance(value, list) else value
    value = value.detach()
    if form is None or (form.is_float and value.dtype in (torch.float64, torch.float32) and form.name not in ("float4e2m1", "float8e8m0")):
        return value.contiguous().numpy() if value.dtype != torch.bfloat16 else value.float().numpy()
    if form.name in _VIEW:
        return value.contiguous().view(getattr(torch, np.dtype(_VIEW[form.name][0]).name)).numpy().view(form.numpy)
    if form.name == "uint64":
        return value.contiguous().numpy().view(np.uint64)
    return value.contiguous().numpy().astype(form.numpy, copy=False)


def wrap(value: Any, form: Format | None) -> Any:
    """Integers that live in a wider torch type, cut to their declared width (two's complement)."""
    if form is None or form.name not in ("uint16", "uint32", "int4", "uint4", "int2", "uint2") or not isinstance(value, torch.Tensor):
        return value
    mask = (1 << form.bits) - 1
    value = value & mask
    return torch.where(value > form.largest, value - (mask + 1), value) if form.kind == "int" else value


def attribute(a: onnx.AttributeProto) -> Any:
    """An attribute as a Python value: str instead of bytes, (Format, array) for tensors."""
    value = onnx.helper.get_attribute_value(a)
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if a.type == onnx.AttributeProto.STRINGS:
        return [v.decode("utf-8", "surrogateescape") for v in value]
    if isinstance(value, onnx.TensorProto):
        return _element_type(value), numpy_helper.to_array(value)
    return list(value) if a.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS) else value


# parsing ---------------------------------------------------------------------------------------------------------------
def parse(model: bytes | onnx.ModelProto) -> onnx.ModelProto:
    if isinstance(model, onnx.ModelProto):
        return model
    try:
        return onnx.load_from_string(model)
    except Exception as e:  # protobuf raises its own DecodeError, which is not importable without its private modules
        raise UsageError(f"not an ONNX model: {e}") from e


def _alone(call: onnx.NodeProto, functions: Mapping[Any, onnx.FunctionProto], formats: Mapping[str, Format], opsets: Mapping[str, int]) -> onnx.ModelProto:
    """A model of one call: its operands, of unknown shapes, are the inputs."""
    names = list(dict.fromkeys(i for i in call.input if i))
    inputs = list[onnx.ValueInfoProto]()
    for name in names:
        if name not in formats:
            raise Unsupported(f"{call.op_type}: the type of '{name}' is not known")
        inputs.append(onnx.helper.make_tensor_value_info(name, formats[name].onnx, None))
    outputs = [onnx.helper.make_empty_tensor_value_info(o) for o in call.output if o]
    graph = onnx.helper.make_graph([call], "call", inputs, outputs)
    imports = [onnx.helper.make_opsetid(d, v) for d, v in opsets.items()]
    return onnx.helper.make_model(graph, functions=list(functions.values()), opset_imports=imports, ir_version=10)


def _with_types(proto: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(proto)
    except onnx.shape_inference.InferenceError:
        return proto
    except ValueError:  # above protobuf's 2 GiB: run without inferred types
        return proto


def _format(t: onnx.TypeProto) -> Format | None:
    if t.HasField("optional_type"):
        return _format(t.optional_type.elem_type)
    if t.HasField("sequence_type"):
        return _format(t.sequence_type.elem_type)
    return BY_ONNX.get(t.tensor_type.elem_type) if t.HasField("tensor_type") else None


def _element_type(t: onnx.TensorProto) -> Format:
    if t.data_type not in BY_ONNX:  # ONNX adds types faster than anyone computes in them
        raise Unsupported(f"tensor '{t.name}' has ONNX's element type {t.data_type}, which has no meaning here")
    return BY_ONNX[t.data_type]


def _shape(t: onnx.TypeProto) -> list[int | str | None] | None:
    if not t.HasField("tensor_type") or not t.tensor_type.HasField("shape"):
        return None
    return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in t.tensor_type.shape.dim]


def _bound(found: onnx.defs.OpSchema | None, output: int, formats: list[Format | None]) -> Format | None:
    """The format of an output that shape inference left open: that of the first input with the same type variable."""
    if found is None or not found.outputs:
        return formats[0] if formats else None
    variable = found.outputs[min(output, len(found.outputs) - 1)].type_str
    for i, form in enumerate(formats):
        if form is not None and found.inputs[min(i, len(found.inputs) - 1)].type_str == variable:
            return form
    return None


@lru_cache(maxsize=256)
def compiled(model: bytes, promote: torch.dtype | None = None) -> Program:
    """A Program, kept for the models seen last."""
    return Program(model, promote)


def run(model: bytes | onnx.ModelProto, inputs: Mapping[str, np.ndarray], dtype: torch.dtype | str | None = None) -> dict[str, np.ndarray]:
    """Our torch meaning of any ONNX model: outputs by name.

    dtype promotes every float (torch.float64 or "float64": the reference); None runs each node in its declared type.
    Raises Unsupported for an operator without a meaning, UsageError for inputs that do not fit.
    """
    promote = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    program = Program(model, promote)
    with torch.no_grad():
        results = program.run(program.feeds(inputs))
    return {name: to_numpy(value, program.formats.get(name)) for name, value in results.items()}


__all__ = ["BY_NUMPY", "Graph", "Node", "Program", "compiled", "evaluate", "plain", "run", "to_numpy", "to_torch", "wrap"]
