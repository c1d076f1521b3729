"""How much memory a model declares, found before anything of that size is allocated."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.inliner
import onnx.shape_inference

from corpus import walk
from corpus.arrays import size
from corpus.external import is_external
from specs.formats import BY_ONNX, Format
from specs.rule import UsageError

#: Where the contents of a tensor are when not in raw_data (onnx.proto, TensorProto).
_FIELD = {"float": "float_data", "complex64": "float_data", "double": "double_data", "complex128": "double_data", "int64": "int64_data",
          "uint64": "uint64_data", "uint32": "uint64_data", "string": "string_data"}  # fmt: skip
PROTOBUF = 2**31 - 1


def count(dims: list[int]) -> int:
    n = 1
    for d in dims:
        n *= d
    return n


def nbytes(form: Format, elements: int) -> int:
    """Bytes in memory; types below 8 bits are packed, a string counts as one pointer."""
    bits = 64 if form.name == "string" else 8 if form.name == "bool" else form.bits
    return -(-elements * bits // 8)


def check_tensor(path: Path, tensor: onnx.TensorProto, memory: int) -> int:
    """The bytes a stored tensor needs. Raises UsageError when that is over the limit or differs from what is stored."""
    what = f"{path}: tensor '{tensor.name}'"
    form = BY_ONNX.get(tensor.data_type)
    if form is None:
        raise UsageError(f"{what} has the unknown element type {tensor.data_type}")
    dims = list(tensor.dims)
    if min(dims, default=0) < 0:
        raise UsageError(f"{what} declares the impossible shape {dims}")
    need = nbytes(form, count(dims))
    if need > memory:
        raise UsageError(f"{what} declares shape {dims} of {form.name}, {size(need)}; the memory limit is {size(memory)}")
    if is_external(tensor):
        return need
    if tensor.HasField("raw_data"):
        if len(tensor.raw_data) != need or form.name == "string":
            raise UsageError(f"{what} declares shape {dims} of {form.name} ({need} bytes) but holds {len(tensor.raw_data)} bytes")
        return need
    held = len(getattr(tensor, _FIELD.get(form.name, "int32_data")))
    wanted = count(dims) * 2 if form.kind == "complex" else need if form.bits < 8 and form.kind in ("int", "uint", "float") else count(dims)
    if held != wanted:
        raise UsageError(f"{what} declares shape {dims} of {form.name} but holds {held} value{'' if held == 1 else 's'}")
    return need


def check_declared(path: Path, model: onnx.ModelProto, memory: int) -> None:
    """Refuse values whose known shape alone is over the limit: graph inputs, and what Expand, ConstantOfShape ... would make."""
    try:
        whole = onnx.inliner.inline_local_functions(model) if model.functions else model
        inferred = onnx.shape_inference.infer_shapes(whole, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError):
        inferred = model
    for graph in walk.graphs(inferred.graph):
        maker = {o: n.op_type for n in graph.node for o in n.output}
        for value in (*graph.input, *graph.value_info, *graph.output):
            need = declared_bytes(value.type)
            if need > memory:
                source = f" (made by {maker[value.name]})" if value.name in maker else " (an input)"
                raise UsageError(f"{path}: value '{value.name}'{source} has shape {walk.dims(value.type)}, {size(need)}; the memory limit is {size(memory)}")
    total = sum(declared_bytes(i.type) for i in walk.bare_inputs(inferred.graph))
    if total > memory:
        raise UsageError(f"{path}: its inputs need {size(total)} together; the memory limit is {size(memory)}")


def declared_bytes(type_: onnx.TypeProto) -> int:
    """Bytes of a value whose type is known; unknown dimensions count as one."""
    form, dims = walk.tensor_format(type_), walk.dims(type_)
    if form is None or dims is None:
        return 0
    return nbytes(form, count([d if isinstance(d, int) and d >= 0 else 1 for d in dims]))
