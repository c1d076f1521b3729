"""Attribute values in classes: what coverage counts, and which classes an operator's schema allows.

ONNX's schemas give the type of an attribute, not its range: that stands in their prose. RULES says it once, by the
attribute's name, or by operator and name where one name means several things.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import isclose
from typing import Any

import numpy as np
from onnx.defs import OpSchema

from specs import schema
from specs.formats import BY_ONNX
from specs.operator import Operator

OLDEST, NEWEST = 13, 26
FLAG, AXIS, COUNT, NATURAL, WHOLE = "=0 =1", "negative 0 1 2+", "1 2+", "0 1 2+", "negative 0 1 2+"
LENGTHS, SPATIAL = "length1 length2 length3+", "length1 length2 length3"
WINDOWS = f"{SPATIAL} 1 2+"  # one element for every spatial axis
ENDS = "length2 length4 length6 0 1 2+"  # one at each end of every spatial axis
AXES = f"{LENGTHS} negative 0 1 2+"
POSITIVE, REAL = "default positive", "default negative 0 positive"
FLOATS = "@float @float16 @double @bfloat16"
DIRECTIONS, AUTO_PAD = "forward reverse bidirectional", "NOTSET VALID SAME_UPPER SAME_LOWER"
ACTIVATIONS = "Affine Elu HardSigmoid LeakyRelu Relu ScaledTanh Sigmoid Softplus Softsign Tanh ThresholdedRelu"

#: Classes beside `absent`. `=1` an exact int, `@float` a type, `2+` an int or element of a list, `length2` a list, `given` anything.
#: `!` first: the operator cannot do without it although its schema says that it is optional. Empty: never to be drawn, see NOT.
RULES: dict[str, str] = {
    **dict.fromkeys(
        ["align_corners", "allowzero", "antialias", "ceil_mode", "center_point_box", "count_include_pad", "detect_negative", "detect_positive", "do_rotary", "exclude_outside", "exclusive", "fmod", "input_forget", "interleaved", "inverse", "is_causal", "keepdims", "largest", "layout", "linear_before_reset", "new_axis", "noop_with_empty_axes", "onesided", "periodic", "reverse", "rotary_interleaved", "saturate", "select_last_index", "smooth_softmax", "sorted", "storage_order", "training_mode", "transA", "transB", "transBatchA", "transBatchB", "unidirectional", "upper", "batch_axis", "time_axis", "is_case_sensitive", "channels_last", ],
        FLAG,
    ),
    **dict.fromkeys(["axis", "end", "start", "k", "ignore_index", "value_int"], AXIS),
    **dict.fromkeys(["group", "offset_group", "num_groups", "blocksize", "size", "output_height", "output_width", "num_outputs", "sample_size", "num_heads", "hidden_size", "p"], COUNT),
    **dict.fromkeys(["kv_num_heads", "q_num_heads", "min_gram_length", "max_gram_length"], COUNT),
    **dict.fromkeys(["batch_dims", "sampling_ratio", "max_skip_count"], NATURAL),
    **dict.fromkeys(["kernel_shape", "strides", "dilations"], WINDOWS),
    **dict.fromkeys(["alpha", "beta", "bias", "gamma", "lambd", "mean", "low", "high", "extrapolation_value"], "default positive negative"),
    **dict.fromkeys(["LeakyRelu.alpha", "ThresholdedRelu.alpha", "Swish.alpha", "Gemm.alpha", "Gemm.beta", "RandomUniform.high", "RandomUniformLike.high"], REAL),
    **dict.fromkeys(["LRN.alpha", "LRN.beta", "LRN.bias", "Celu.alpha", "QGemm.alpha"], POSITIVE),
    "HardSigmoid.beta": "default positive 0", "Shrink.lambd": "default positive 0", "BatchNormalization.momentum": "default positive 0", "scale": "default positive",
    "mask_filter_value": "default negative", "cubic_coeff_a": "default negative", "is_packed_batching": "=0", "past_present_share_buffer": "=0", "com.microsoft.Attention.do_rotary": "=0",
    "com.microsoft.Attention.rotary_embedding_dim": "0", "com.microsoft.RotaryEmbedding.scale": "default", "com.microsoft.RotaryEmbedding.num_heads": "0 1 2+",
    **dict.fromkeys(["epsilon", "spatial_scale", "momentum", "clip"], POSITIVE),
    **dict.fromkeys(["dtype", "output_datatype"], "@output"),
    **dict.fromkeys(["GRU.direction", "LSTM.direction", "RNN.direction"], DIRECTIONS),
    **dict.fromkeys(["GRU.hidden_size", "LSTM.hidden_size", "RNN.hidden_size"], COUNT),
    **dict.fromkeys(["axes", "value_ints"], AXES),
    "seed": "given", "equation": "given", "value": "given", "sparse_value": "given", "value_float": REAL, "value_string": "given", "pattern": "given", "delimiter": "given",
    "value_floats": LENGTHS, "value_strings": "given", "activation_alpha": LENGTHS, "activation_beta": LENGTHS, "RNN.activation_alpha": "length1 length2", "RNN.activation_beta": "length1 length2", "GRU.activations": f"length2 length4 {ACTIVATIONS}", "LSTM.activations": f"length3 length6 {ACTIVATIONS}", "RNN.activations": f"length1 length2 {ACTIVATIONS}",
    "auto_pad": AUTO_PAD, "pads": ENDS, "perm": f"{LENGTHS} 0 1 2+", "shape": f"{LENGTHS} 1 2+", "to": "@output",
    "output_padding": f"{SPATIAL} 0 1 2+", "output_shape": f"{SPATIAL} 1 2+", "pooled_shape": "length2 1 2+",
    "approximate": "none tanh", "coordinate_transformation_mode": "half_pixel output_half_pixel", "BitShift.direction": "LEFT RIGHT", "activation": "none silu swish",
    "keep_aspect_ratio_policy": "stretch not_larger not_smaller", "nearest_mode": "round_prefer_floor round_prefer_ceil floor ceil", "padding_mode": "zeros border reflection",
    "DepthToSpace.mode": "DCR CRD", "SpaceToDepth.mode": "DCR CRD", "GridSample.mode": "linear nearest cubic bilinear bicubic", "Pad.mode": "constant reflect edge wrap",
    "Resize.mode": "nearest linear cubic", "RoiAlign.mode": "avg max", "BitShift.mode": "", "round_mode": "up down nearest",
    "Resize.coordinate_transformation_mode": "half_pixel half_pixel_symmetric pytorch_half_pixel align_corners asymmetric tf_crop_and_resize",
    "reduction": "none mean sum", "ScatterElements.reduction": "none add mul max min", "ScatterND.reduction": "none add mul max min",
    "precision": "default @float @float16 @bfloat16", "output_dtype": "default @output", "stash_type": FLOATS, "softmax_precision": FLOATS, "LayerNormalization.stash_type": "@float @bfloat16", "Range.stash_type": "@float",
    "block_size": "2+", "DequantizeLinear.block_size": "0 1 2+", "QuantizeLinear.block_size": "0 1 2+", "accuracy_level": "=0 =1", "bits": "=4 =8",
    "MatMulNBits.block_size": "!2+", "MatMulNBits.K": "!2+", "MatMulNBits.N": "!1 2+", "qk_matmul_output_mode": "=0 =1 =2 =3", "left_window_size": "negative 0 1 2+",
    "right_window_size": "negative 0 1 2+", "local_window_size": "negative 1 2+", "rotary_embedding_dim": "0 2+", "softcap": "default positive", "LpNormalization.p": "=1 =2",
    "Attention.num_heads": "!1 2+", "RotaryEmbedding.num_heads": "1 2+", "MultiHeadAttention.num_heads": "!1 2+", "GroupQueryAttention.num_heads": "!1 2+",
    "GroupQueryAttention.kv_num_heads": "!1 2+", "FusedConv.activation": "Relu Tanh Sigmoid LeakyRelu Clip HardSigmoid", "activation_params": "length1 length2", "mask_index_type": "0", "activation_gamma": "",
    "FusedGemm.alpha": REAL, "FusedGemm.beta": REAL, "FusedGemm.activation": "!Relu Tanh Sigmoid LeakyRelu", "FusedGemm.activation_alpha": "positive", "FusedGemm.activation_beta": "",
    "LinearAttention.q_num_heads": "!1 2+", "LinearAttention.kv_num_heads": "!1 2+", "state_window": "0",
    "update_rule": "linear gated delta gated_delta", "mode": "TF IDF TFIDF", "case_change_action": "NONE LOWER UPPER", "maxsplit": "negative 0 1 2+", "locale": "given",
    "stopwords": "given", "pool_strings": "given", "weights": LENGTHS, **dict.fromkeys(["ngram_counts", "ngram_indexes", "pool_int64s"], f"{LENGTHS} 0 1 2+"),
    "TensorScatter.mode": "linear circular", "TensorScatter.axis": "negative 1 2+", "com.microsoft.LinearAttention.chunk_size": "2+",
    "body": "given", "then_branch": "given", "else_branch": "given", "num_scan_inputs": COUNT,
    "scan_input_axes": f"length1 length2 {AXIS}", "scan_input_directions": "length1 length2 0 1", "scan_output_axes": f"length1 {AXIS}",
    "scan_output_directions": "length1 0 1", "SequenceEmpty.dtype": "@sequence", "type": "",
}  # fmt: skip
BIT_CAST = ["bool", "int2", "uint2", "int4", "uint4", "float4e2m1", "float8e4m3fn", "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz", "float8e8m0"]
#: Classes that the rules above give but an operator does not have, with the reason.
NOT: dict[str, str] = {
    "Constant sparse_value=given": "onnx-ir cannot write sparse tensors, and the campaign's models are made with it",
    "MeanVarianceNormalization axes=absent": "onnx.checker expands the function body, which has no axes then, and refuses the model",
    "STFT onesided=absent": "strict shape inference takes 0 for an absent attribute, whose default is 1",
    **{f"BitCast to=@{f}": "no backend: ONNX Runtime has no kernel for this type, TVM none at all" for f in BIT_CAST},
}


def title(op: Operator) -> str:
    """How tables and features name an operator."""
    return f"{op.domain}.{op.name}" if op.domain else op.name


@cache
def _attributes(name: str, domain: str, opset: int) -> tuple[tuple[str, Any, tuple[str, ...]], ...]:
    """(name, default, rule) of every attribute of an operator at an opset."""
    found = schema.schema(name, domain, opset)
    if found is None:
        return ()
    defaults = schema.defaults(name, domain, opset)
    return tuple((a, defaults.get(a), rule(name, domain, a)) for a, s in found.attributes.items() if s.type != OpSchema.AttrType.GRAPH)


def rule(name: str, domain: str, attribute: str) -> tuple[str, ...]:
    return tuple(_text(name, domain, attribute).removeprefix("!").split())


def _text(name: str, domain: str, attribute: str) -> str:
    """The rule for one operator of one domain, else for its name, else for the attribute."""
    keys = (f"{domain}.{name}.{attribute}", f"{name}.{attribute}", attribute)
    return next((RULES[k] for k in keys if k in RULES), "")


def classes(name: str, domain: str, opset: int, given: dict[str, Any]) -> list[str]:
    """`attribute=class` for every attribute of one application, those left out included."""
    result = list[str]()
    for attribute, default, allowed in _attributes(name, domain, opset):
        value = given.get(attribute)
        result += [f"{attribute}={c}" for c in (["absent"] if value is None else _classes(value, default, allowed))]
    return result


def _classes(value: Any, default: Any, allowed: Sequence[str]) -> list[str]:
    if "given" in allowed or isinstance(value, (np.ndarray, tuple)):
        return ["given"]
    if isinstance(value, str):
        return [value]
    if isinstance(value, list):
        return [
            "length3+" if len(value) > 2 and "length3+" in allowed else f"length{len(value)}",
            *dict.fromkeys(_element(v) for v in value if not isinstance(v, float)),
        ]
    if isinstance(value, float) or "positive" in allowed:
        return ["default" if is_default(value, default) else "negative" if value < 0 else "positive" if value else "0"]
    if any(c[0] == "@" for c in allowed):
        return [f"@{BY_ONNX[int(value)].name}" if value else "default"]
    return [f"={int(value)}"] if allowed and allowed[0][0] == "=" else [_element(value)]


def _element(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "negative" if value < 0 else "2+" if value > 1 else str(int(value))


def is_default(value: Any, default: Any) -> bool:
    """Equal as ONNX stores it: floats have 32 bits."""
    if isinstance(value, (int, float)) and isinstance(default, (int, float)):
        return isclose(value, default, rel_tol=1e-6)
    return isinstance(value, (str, list)) and value == default


def may_be_absent(op: Operator, opset: int, attribute: str) -> bool:
    """Whether an attribute can be left out, by the schema and by all that is known of the operator."""
    found = schema.schema(op.name, op.domain, opset)
    assert found is not None
    optional = not found.attributes[attribute].required and not _text(op.name, op.domain, attribute).startswith("!")
    return optional and f"{title(op)} {attribute}=absent" not in NOT


@cache
def universe(op: Operator) -> frozenset[str]:
    """Every `attribute=class` that an operator may be drawn with at the opsets drawn."""
    result = set[str]()
    for opset in range(max(OLDEST, op.since), NEWEST + 1) if op.domain == "" else [1]:
        found = schema.schema(op.name, op.domain, opset)
        if found is None:
            continue
        for name, a in found.attributes.items():
            if not a.required and not _text(op.name, op.domain, name).startswith("!"):
                result.add(f"{name}=absent")
            result |= {f"{name}={c}" for r in rule(op.name, op.domain, name) for c in _expanded(r, op, opset, a)}
    return frozenset(c for c in result if f"{title(op)} {c}" not in NOT)


def _expanded(rule: str, op: Operator, opset: int, attribute: OpSchema.Attribute) -> list[str]:
    if rule == "default" and not attribute.default_value.type:
        return []
    if rule not in ("@output", "@sequence"):
        return [rule]
    found = schema.schema(op.name, op.domain, opset)
    assert found is not None
    if rule == "@sequence":
        return [f"@{t[11:-2]}" for t in found.type_constraints[0].allowed_type_strs if "string" not in t and "complex" not in t]
    return [f"@{f.name}" for f in schema.formats(op.name, op.domain, opset, found.outputs[0].type_str) if f.kind not in ("string", "complex")]
