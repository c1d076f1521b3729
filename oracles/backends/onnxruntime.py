"""ONNX Runtime on the CPU at every optimisation level, one thread; by name also with all optimisations and four threads, or flushing denormals."""

from __future__ import annotations

import ctypes
import math
import os
import re
import tempfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from oracles import plugin
from oracles.plugin import Compiled, backend, split
from specs.formats import BY_NAME, BY_ONNX, Format
from specs.rule import Unsupported

#: On "TypeName: message". "Could not find an implementation" is a kernel missing for these types; the rest are limits named by ORT.
UNSUPPORTED = (
    (r"^NotImplemented\b|NOT_IMPLEMENTED", "its own status code: no kernel for this operator, version or type"),
    (r"is not a registered function/op", "an operator or domain it does not have"),
    (r"under development and support for this is limited", "an opset newer than the build"),
    (r"Unsupported model IR version", "an IR version newer than the build"),
    (r"No Op registered for \w+ with domain_version of", "an operator version newer than the build"),
    (r"dimension size (?:is )?known", "EmbedLayerNormalization wants the sizes of its tables declared"),
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
    (r"Creation of OrtValues is currently only supported", "its Python interface: strings beside types numpy lacks"),
    (r"Failed to construct locale", "the machine lacks a locale: nothing about the model"),
)
_PLAIN = {"float", "double", "float16", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "bool", "string"}
#: They run at every level: types and copies between devices.
_NECESSARY = {"InsertCastTransformer", "MemcpyTransformer", "TransformerForMemcpy", "RemoveDuplicateCastTransformer", "CastFloat16Transformer"}
#: ONNX Runtime logs these sets as one optimiser, and turns their rules off one by one.
_RULES = {
    "Level1_RuleBasedTransformer": [
        "EliminateIdentity", "EliminateSlice", "UnsqueezeElimination", "EliminateDropout", "ExpandElimination", "CastElimination", "PreShapeNodeElimination",
        "NoopElimination", "DivMulFusion", "FuseReluClip", "GemmSumFusion", "GemmTransposeFusion", "NotWhereFusion", "ConvAddFusion", "ConvMulFusion",
        "ConvBNFusion", "Pad_Fusion", "MatMul_BatchNormalization_Fusion", "LabelEncoderFusion", "CastChainElimination", "ConcatSliceElimination",
        "FuseSliceConcatToSpaceToDepth",
    ],
    "Level2_RuleBasedTransformer": ["ClipQuantRewrite", "ReluQuantRewrite"],
}  # fmt: skip
#: Without these many others do not find what they look for: they come first, so that blame falls on another one where it can.
_PREPARING = {"ConstantFolding", "CommonSubexpressionElimination", "ConstantSharing"}
_LEVELS = {"off": "ORT_DISABLE_ALL", "basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL", "threads": "ORT_ENABLE_ALL",
           "flush": "ORT_ENABLE_ALL"}  # fmt: skip
THREADS = 4  # of the setting that has more than one


def warm() -> None:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)


@backend(
    "onnxruntime",
    settings=["off", "basic", "extended", "all"],
    default=["off", "all"],
    planted=["threads", "flush"],
    reference_setting="off",
    warm=warm,
    requires=["onnxruntime"],
    unsupported=UNSUPPORTED,
    switches=lambda model, setting: optimisers(model, setting),
)
def onnxruntime(model: bytes, setting: str) -> Compiled:
    session = load(model, setting)
    if plugin.changed is not None:
        plugin.changed.append(fired(model, setting))
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


def load(model: bytes, setting: str, severity: int = 4) -> Any:
    """A session at a level, without the optimisers that the setting turns off."""
    import onnxruntime as ort

    level, disabled = split(setting)
    options = ort.SessionOptions()
    options.log_severity_level = severity
    options.intra_op_num_threads = THREADS if level == "threads" else 1
    options.inter_op_num_threads = 1
    if level == "flush":
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[level])
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(disabled) or None)


def optimisers(model: bytes, setting: str) -> list[str]:
    """Those that changed this model, as ONNX Runtime itself logs; all there are when the model does not load. A set of rules stands for its rules."""
    found, loaded = _logged(model, setting, "1")
    if not loaded:
        found, _ = _logged(_PLAINEST, setting, r"\d")
    names = [name for name in found if name not in _NECESSARY]
    every = [n for name in names for n in _RULES.get(name, [name])]
    return sorted(every, key=lambda name: name not in _PREPARING)


def fired(model: bytes, setting: str = "all") -> list[str]:
    """Names of the graph transformers that changed this model; nothing for one that does not load."""
    found, loaded = _logged(model, setting, "1")
    return found if loaded else []


def _logged(model: bytes, setting: str, modified: str) -> tuple[list[str], bool]:
    loaded = True
    with tempfile.TemporaryFile() as log:
        kept = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            load(model, setting, severity=1)
        except Exception:  # this is asked about models that fail
            loaded = False
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        log.seek(0)
        text = log.read().decode("utf-8", "replace")
    return list(dict.fromkeys(re.findall(rf"GraphTransformer (\w+) modified: {modified}", text))), loaded


#: Relu(x), serialised: loads anywhere, and nothing changes it.
_PLAINEST = bytes.fromhex("08083a330a0c0a0178120179220452656c751201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a02080142040a00100d")


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
