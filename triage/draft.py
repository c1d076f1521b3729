"""What a reduction works on: a model with inputs, the values inside it, and the surgery that all reduction steps share."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.shape_inference
from onnx import helper, numpy_helper

from corpus import walk
from oracles.records import Case
from specs.formats import BY_NUMPY, Format
from specs.rule import Unsupported, UsageError

#: What our meanings may raise on a model that is valid by its types but means nothing (a stride of 0, an index that is out of range now).
MEANINGLESS = (Unsupported, UsageError, ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, eq=False)
class Draft:
    """A model and its inputs. Never changed in place: steps make new ones with `copy` and `part`.

    before  inputs on which the same compiled model runs first; None from a step that does not say (see `triage.earlier`)
    """

    model: onnx.ModelProto
    inputs: Mapping[str, np.ndarray]
    before: tuple[Mapping[str, np.ndarray], ...] | None = None

    @classmethod
    def of(cls, case: Case) -> Draft:
        return cls(onnx.load_from_string(case.model), dict(case.inputs), case.before)

    def case(self, origin: Mapping[str, Any] | None = None) -> Case:
        return Case(self.data, dict(self.inputs), origin or {}, self.before or ())

    @property
    def nodes(self) -> Sequence[onnx.NodeProto]:
        return self.model.graph.node

    @cached_property
    def data(self) -> bytes:
        return self.model.SerializeToString(deterministic=True)

    @cached_property
    def id(self) -> bytes:
        digest = hashlib.blake2b(self.data, digest_size=16)
        for inputs in (self.inputs, *(self.before or ())):
            for name in sorted(inputs):
                a = inputs[name]
                digest.update(f"{name}:{a.dtype}:{a.shape}".encode())
                digest.update(repr(a.tolist()).encode() if a.dtype == object else np.ascontiguousarray(a).tobytes())
        return digest.digest()

    @cached_property
    def earlier(self) -> tuple[Draft, ...]:
        """The runs before the last one, each by itself."""
        return tuple(Draft(self.model, inputs, ()) for inputs in self.before or ())

    @cached_property
    def maker(self) -> dict[str, int]:
        """The node that makes a value."""
        return {o: i for i, n in enumerate(self.nodes) for o in n.output if o}

    @cached_property
    def weights(self) -> dict[str, onnx.TensorProto]:
        return {t.name: t for t in self.model.graph.initializer}

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        """Every tensor of the main graph: computed in float64 and then rounded once to its declared type, so that a value that becomes an
        input is a right one. Values that are no tensors are missing; empty when there is no meaning for an operator."""
        import torch

        from specs.program import Program, to_numpy

        try:
            program = Program(self.model, torch.float64)
            with torch.no_grad():
                env = program.run(program.feeds(self.inputs), keep=True)
        except MEANINGLESS:
            return {}
        found = dict[str, np.ndarray]()
        for name, value in env.items():
            form = program.formats.get(name)
            if form is None or value is None or isinstance(value, (list, tuple)):
                continue
            array = np.asarray(to_numpy(value, form))
            with np.errstate(all="ignore"):
                found[name] = array if form.kind == "string" else array.astype(form.numpy)
        return found

    @cached_property
    def size(self) -> tuple[int, ...]:
        """The order of simplicity: nodes, outputs, runs, tensors, elements and ranks, how common types are, how plain attributes and numbers, opset, bytes."""
        tensors = [*self.inputs.values(), *(numpy_helper.to_array(t) for t in self.weights.values())]
        tensors += [a for run in self.before or () for n, a in run.items() if a is not self.inputs.get(n)]
        nodes = list(walk.all_nodes(self.nodes))
        return (
            len(nodes) + sum(len(f.node) for f in self.model.functions),
            len(self.model.graph.output),
            len(self.before or ()),
            len(tensors),
            sum(t.size for t in tensors),
            sum(t.ndim for t in tensors),
            sum(rarity(t) for t in tensors),
            sum(len(n.input) + len(n.output) for n in nodes),
            sum(len(n.attribute) for n in nodes),
            sum(map(cost, tensors)),
            sum(o.version for o in self.model.opset_import),
            len(self.data),
        )

    @cached_property
    def valid(self) -> bool:
        """Whether it is a model at all; most wrong steps end here, cheaply."""
        try:
            onnx.checker.check_model(self.model, full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError, TypeError, RuntimeError):
            return False
        return True

    # surgery ------------------------------------------------------------------------------------------------------
    def copy(self) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        return model

    def part(self, outputs: Sequence[str], stop: Iterable[str] = (), constant: bool = False) -> Draft | None:
        """The part of the graph that makes `outputs`, cut at the values in `stop`: those become inputs (weights when `constant`).

        None when a cut value is not a tensor we know.
        """
        stop, graph = set(stop), self.model.graph
        wanted, todo, used = set[int](), list(outputs), set[str]()
        while todo:
            name = todo.pop()
            if name in used or not name:
                continue
            used.add(name)
            if name not in stop and name in self.maker and self.maker[name] not in wanted:
                wanted.add(self.maker[name])
                todo += walk.reads(graph.node[self.maker[name]])
        cut = sorted(n for n in used & stop if n in self.maker)
        if any(n not in self.values for n in cut):
            return None
        infos = [self._declared(n) for n in outputs]
        if any(i is None for i in infos):
            return None
        model = self.copy()
        for field in ("node", "input", "output", "initializer", "value_info"):
            model.graph.ClearField(field)  # type: ignore[arg-type]
        model.graph.node.extend(n for i, n in enumerate(graph.node) if i in wanted)
        model.graph.input.extend(i for i in graph.input if i.name in used)
        model.graph.initializer.extend(t for t in graph.initializer if t.name in used)
        model.graph.output.extend(i for i in infos if i is not None)
        inputs = {n: a for n, a in self.inputs.items() if n in used}
        for name in cut:
            if constant:
                model.graph.initializer.append(numpy_helper.from_array(self.values[name], name))
            else:
                model.graph.input.append(info(name, self.values[name]))
                inputs[name] = self.values[name]
        return Draft(_used_functions(model), inputs)

    def _declared(self, name: str) -> onnx.ValueInfoProto | None:
        """The declaration of a value that becomes an output."""
        known = next((o for o in self.model.graph.output if o.name == name), None)
        return known if known is not None else info(name, self.values[name]) if name in self.values else None

    def rewired(self, old: str, new: str) -> Draft | None:
        """Every reader of `old` reads `new`; what is not needed any more goes. None when `old` is an output."""
        if any(o.name == old for o in self.model.graph.output):
            return None
        model = self.copy()
        _rename(model.graph, old, new)
        return Draft(model, self.inputs).part([o.name for o in model.graph.output])

    def cleaned(self) -> Draft:
        """Without nodes, inputs and weights that no output needs."""
        return self.part([o.name for o in self.model.graph.output]) or self


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in walk.all_nodes(graph.node):
        for i, name in enumerate(node.input):
            if name == old:
                node.input[i] = new


def _used_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Without the functions that nothing calls any more."""
    while True:
        called = {(n.domain, n.op_type) for nodes in (model.graph.node, *(f.node for f in model.functions)) for n in walk.all_nodes(nodes)}
        kept = [f for f in model.functions if (f.domain, f.name) in called]
        if len(kept) == len(model.functions):
            return model
        model.ClearField("functions")
        model.functions.extend(kept)


def info(name: str, array: np.ndarray) -> onnx.ValueInfoProto:
    form = BY_NUMPY.get(array.dtype)
    return helper.make_tensor_value_info(name, form.onnx if isinstance(form, Format) else onnx.TensorProto.STRING, list(array.shape))


def rarity(array: np.ndarray) -> int:
    """0 for float, 1 for the types that come with it, 2 for double and the other integers, 3 for the rest."""
    name = array.dtype.name
    return 0 if name == "float32" else 1 if name in ("int64", "bool") else 2 if name in ("float64", "int32", "int8", "uint8") else 3


def cost(array: np.ndarray) -> int:
    """How far an array is from zeros: 0 for a zero, 1 for a one, 2 for a small integer, 3 for an integer, 4 for the rest."""
    if array.dtype == object or array.dtype.kind in "US":
        return sum(len(str(s)) for s in array.ravel())
    with np.errstate(all="ignore"):
        a = np.abs(array.astype(np.complex128 if array.dtype.kind == "c" else np.float64))
        whole = np.isfinite(a) & (a == np.floor(a))
        negative = np.signbit(array.astype(np.float64)) if array.dtype.kind != "c" else np.zeros(array.shape)
    return int(np.sum(np.where(a == 0, 0, np.where(a == 1, 1, np.where(whole & (a <= 8), 2, np.where(whole, 3, 4)))) + negative))
