"""Reduction steps on types and versions: what happens in float at an older opset concerns more people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import ml_dtypes
import numpy as np
import onnx
import onnx.defs
import onnx.helper
from onnx import TensorProto, numpy_helper

from corpus import walk
from triage.draft import Draft
from triage.reduce import step

#: From rare types to common ones, of the same kind.
PLAINER = {
    TensorProto.BFLOAT16: (np.dtype(ml_dtypes.bfloat16), TensorProto.FLOAT),
    TensorProto.FLOAT16: (np.dtype(np.float16), TensorProto.FLOAT),
    TensorProto.DOUBLE: (np.dtype(np.float64), TensorProto.FLOAT),
    TensorProto.INT32: (np.dtype(np.int32), TensorProto.INT64),
    TensorProto.INT16: (np.dtype(np.int16), TensorProto.INT64),
    TensorProto.INT8: (np.dtype(np.int8), TensorProto.INT64),
    TensorProto.UINT8: (np.dtype(np.uint8), TensorProto.INT64),
    TensorProto.UINT16: (np.dtype(np.uint16), TensorProto.INT64),
    TensorProto.UINT32: (np.dtype(np.uint32), TensorProto.INT64),
    TensorProto.UINT64: (np.dtype(np.uint64), TensorProto.INT64),
}
OLDEST = 13  # before that several operators took as attributes what they now take as inputs: no reader knows it by heart


@step
def plainer_type(draft: Draft) -> Iterator[Draft | None]:
    """One type everywhere in the model becomes a common one: double and halves float, integers int64."""
    for old, (numpy, new) in PLAINER.items():
        if any(t.data_type == old for t in walk.tensors(draft.model)) or any(a.dtype == numpy for a in draft.inputs.values()):
            yield _retyped(draft, old, numpy, new)


def _retyped(draft: Draft, old: int, numpy: np.dtype, new: int) -> Draft:
    model = draft.copy()
    target = onnx.helper.tensor_dtype_to_np_dtype(new)
    for t in walk.tensors(model):
        if t.data_type == old:
            t.CopyFrom(numpy_helper.from_array(_cast(numpy_helper.to_array(t), target), t.name))
    for graph in walk.graphs(model.graph):
        graph.ClearField("value_info")
        for v in (*graph.input, *graph.output):
            if v.type.tensor_type.elem_type == old:
                v.type.tensor_type.elem_type = new
    for node in walk.all_nodes(model.graph.node):
        for a in node.attribute:
            if a.name in ("to", "dtype", "output_dtype", "stash_type") and a.i == old:
                a.i = new
    return Draft(model, {n: _cast(a, target) if a.dtype == numpy else a for n, a in draft.inputs.items()})


def _cast(array: np.ndarray, target: np.dtype) -> np.ndarray:
    with np.errstate(all="ignore"):
        return array.astype(target)


@step
def older_opset(draft: Draft) -> Iterator[Draft | None]:
    """The oldest opset in which every operator of the model is the same one, and the file format that goes with it."""
    if draft.model.functions:
        return
    have = {o.domain: o.version for o in draft.model.opset_import}
    now = have.get("", 0)
    used = {n.op_type for n in walk.all_nodes(draft.nodes) if n.domain in ("", "ai.onnx")}
    lowest = max((_since(op, now) for op in used), default=OLDEST)
    for version in range(max(OLDEST, lowest), now):
        model = draft.copy()
        next(o for o in model.opset_import if o.domain == "").version = version
        model.ir_version = min(model.ir_version, _format(model))
        yield Draft(model, draft.inputs)


def _since(op: str, version: int) -> int:
    try:
        return onnx.defs.get_schema(op, version, "").since_version
    except onnx.defs.SchemaError:
        return version


def _format(model: onnx.ModelProto) -> int:
    versions: Mapping[str, int] = {o.domain: o.version for o in model.opset_import}
    try:
        return max(8, onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", versions[""])]))
    except ValueError:
        return model.ir_version
