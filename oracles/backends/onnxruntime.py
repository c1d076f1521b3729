"""ONNX Runtime on the CPU at every optimisation level, one thread."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from oracles.plugin import Compiled, backend
from specs.formats import BY_NAME, BY_ONNX, Format
from specs.rule import Unsupported

#: On "TypeName: message". "Could not find an implementation" is a kernel missing for these types; the rest are limits named by ORT.
UNSUPPORTED = (
    (r"^NotImplemented\b|NOT_IMPLEMENTED", "its own status code: no kernel for this operator, version or type"),
    (r"is not a registered function/op", "an operator or domain it does not have"),
    (r"under development and support for this is limited", "an opset newer than the build"),
    (r"Unsupported model IR version", "an IR version newer than the build"),
    (r"No Op registered for \w+ with domain_version of", "an operator version newer than the build"),
    (r"No opset import for domain", "a domain it does not have"),
    (r"Unrecognized attribute: ", "an attribute newer than its schema of the operator"),
    (r"MLDataType for: \S+ is not currently registered or supported", "a type it does not have"),
    (r"Type Error: Type '[^']+' of (?:input|output) parameter .* is invalid", "its schema of the operator lacks this type"),
    (r"\b(?:is|are) not (?:currently |yet )?(?:supported|implemented)\b", "said in words: 'Batchwise recurrent operations (layout == 1) are not supported'"),
    (r"is not defined for empty set with bool type", "said in words"),
    (r"(?:only|currently) supports?\b|not support", "said in words: 'Currently only supports ...'"),
    (r"Unsupported (?:data ?type|type|tensor|input|output|element|mode)", "said in words"),
    (r"shall be a multiple of|must be a multiple of", "a limit of its kernel, said in words"),
    (r"must be [1-5]D\b", "one rank of several: 'Input X must be 4D (N, C, H, W)' of DeformConv"),
    (r"zero point must be a scalar", "per-row zero points of MatMulInteger"),
    (r"Failed to construct locale", "the machine lacks a locale: nothing about the model"),
)
_PLAIN = {"float", "double", "float16", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "bool", "string"}
_LEVELS = {"off": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"}


def warm() -> None:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)


@backend(
    "onnxruntime",
    settings=["off", "basic", "extended", "all"],
    default=["off", "all"],
    reference_setting="off",
    warm=warm,
    requires=["onnxruntime"],
    unsupported=UNSUPPORTED,
)
def onnxruntime(model: bytes, setting: str) -> Compiled:
    session = load(model, setting)
    outputs = [o.name for o in session.get_outputs()]
    kinds = [v.type for v in (*session.get_inputs(), *session.get_outputs())]
    if all(_element(k) in _PLAIN for k in kinds):
        return lambda feeds: dict(zip(outputs, session.run(outputs, _plain(feeds)), strict=True))
    if any("(" in _element(k) for k in kinds):
        raise Unsupported(f"onnxruntime's Python interface has no value for {', '.join(sorted(set(kinds)))}")
    inputs = {i.name: BY_NAME[_element(i.type)] for i in session.get_inputs()}

    def call(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        values = {name: _value(feeds[name], form) for name, form in inputs.items() if name in feeds}
        results = session.run_with_ort_values(outputs, values)
        return {name: _array(v) for name, v in zip(outputs, results, strict=True)}

    return call


def load(model: bytes, setting: str, disabled: list[str] | None = None) -> Any:
    """A session at a level; `disabled` names optimisers to leave out, which is how a pass is blamed."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[setting])
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled)


def _element(kind: str) -> str:
    """'float' of 'tensor(float)', 'seq(tensor(float))', 'optional(tensor(float))'; left with a bracket when it is something else."""
    for wrap in ("optional", "seq", "tensor"):
        if kind.startswith(f"{wrap}("):
            kind = kind[len(wrap) + 1 : -1]
    return kind


def _plain(feeds: Mapping[str, Any]) -> dict[str, Any]:
    return {name: np.asarray(v) if isinstance(v, np.generic) else v for name, v in feeds.items()}  # 'Unable to handle object of type numpy.int32'


def _value(array: np.ndarray, form: Format) -> Any:
    """An OrtValue of any element type: numpy knows no bfloat16, float8 or int4, so the bytes are copied in."""
    import onnxruntime as ort

    array = np.asarray(array)
    if form.name in _PLAIN:
        return ort.OrtValue.ortvalue_from_numpy(array)
    value = ort.OrtValue.ortvalue_from_shape_and_type(list(array.shape), form.onnx, "cpu", 0)
    raw = packed(array, form.bits)
    if raw:
        ctypes.memmove(value.data_ptr(), raw, len(raw))
    return value


def _array(value: Any) -> Any:
    if not value.has_value():
        return None
    if not value.is_tensor():
        raise Unsupported("onnxruntime's Python interface cannot read a sequence beside values of a type numpy lacks")
    form = BY_ONNX[value.element_type()]
    if form.name in _PLAIN:
        return value.numpy()
    shape = tuple(value.shape())
    count = math.prod(shape)
    raw = ctypes.string_at(value.data_ptr(), (count * form.bits + 7) // 8) if count else b""
    return unpacked(raw, form, shape)


def packed(array: np.ndarray, bits: int) -> bytes:
    """Bytes as ONNX stores them: elements narrower than a byte share one, the first in the low bits."""
    if bits >= 8:
        return np.ascontiguousarray(array).tobytes()
    per = 8 // bits
    codes = array.reshape(-1).view(np.uint8) & ((1 << bits) - 1)
    codes = np.concatenate([codes, np.zeros(-len(codes) % per, np.uint8)]).reshape(-1, per)
    return np.bitwise_or.reduce(codes << (np.arange(per, dtype=np.uint8) * bits), axis=1).astype(np.uint8).tobytes()


def unpacked(raw: bytes, form: Format, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `packed`."""
    data = np.frombuffer(raw, np.uint8)
    if form.bits >= 8:
        return data.view(form.numpy).reshape(shape).copy()
    per = 8 // form.bits
    codes = ((data[:, None] >> (np.arange(per, dtype=np.uint8) * form.bits)) & ((1 << form.bits) - 1)).reshape(-1)[: math.prod(shape)]
    if form.kind == "int":
        codes = ((codes ^ (1 << (form.bits - 1))).astype(np.int16) - (1 << (form.bits - 1))).astype(np.int8)
    return codes.astype(form.numpy).reshape(shape) if form.is_integer else codes.astype(np.uint8).view(ml_dtypes.float4_e2m1fn).reshape(shape)
