"""Operators of ONNX's other domains (ai.onnx.ml, its training and preview operators) and ImageDecoder: run in models users bring, never drawn.

Their bounds are undecided wherever anything is computed: no campaign judges them.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specs.formats import BY_ONNX, DOUBLE, FLOAT, INT64
from specs.numerics import exact_whole
from specs.operator import meaning_only
from specs.ops.control_flow import Call, alike, give_up, value
from specs.program import Node, to_torch
from specs.rule import Unsupported

ML, TRAINING, PREVIEW = "ai.onnx.ml", "ai.onnx.preview.training", "ai.onnx.preview"


# labels and features -----------------------------------------------------------------------------------------------------
def _list(a: Node, prefix: str) -> list[Any]:
    """Keys or values from whichever attribute holds them."""
    if a.attrs.get(f"{prefix}_tensor") is not None:
        return a.attrs[f"{prefix}_tensor"][1].tolist()
    return next((v for kind in ("strings", "int64s", "floats") if (v := a.attrs.get(f"{prefix}_{kind}"))), [])


def _label(a: Node, x: Any) -> Any:
    """Of repeated keys the last counts; NaN is a key like any other."""
    known = {"nan" if isinstance(k, float) and math.isnan(k) else k: v for k, v in zip(_list(a, "keys"), _list(a, "values"), strict=True)}
    strings = a.values_strings is not None or isinstance(next(iter(known.values()), None), str)
    default = a.default_string if strings else a.default_int64 if a.values_int64s is not None else a.default_float
    form = INT64 if a.values_int64s is not None else FLOAT
    if a.values_tensor is not None:
        form = a.values_tensor[0]
        default = a.default_tensor[1].reshape(-1).tolist()[0] if a.default_tensor is not None else "_Unused" if strings else -1 if form.is_integer else -0.0
    elements = x.reshape(-1).tolist()
    found = [known.get("nan" if isinstance(e, float) and math.isnan(e) else e, default) for e in elements]
    if strings:
        return np.array(found, dtype=object).reshape(x.shape)
    return to_torch(np.array(found, form.numpy).reshape(tuple(x.shape)), form, a.promote)


def _binarize(a: Node, x: Tensor) -> Tensor:
    return (x > a.threshold).to(x.dtype)


def _features(a: Node, x: Any, at: Tensor) -> Any:
    return x[..., at.reshape(-1).long()] if isinstance(x, Tensor) else x[..., at.reshape(-1).numpy()]


_COMPARE = (torch.le, torch.lt, torch.ge, torch.gt, torch.eq, torch.ne)
_MEMBER = 6


def _leaf(a: Node, row: Tensor, root: int, members: Sequence[Sequence[float]]) -> int:
    """The leaf that one row of features ends at in one tree."""
    modes, splits = a.nodes_modes[1], to_torch(a.nodes_splits[1], a.nodes_splits[0], row.dtype)
    at = root
    while True:
        x, mode = row[a.nodes_featureids[at]], int(modes[at])
        if bool(torch.isnan(x)):
            yes = bool(a.nodes_missing_value_tracks_true[at]) if a.nodes_missing_value_tracks_true else False
        elif mode == _MEMBER:
            yes = float(x) in members[int((modes[:at] == _MEMBER).sum())]
        else:
            yes = bool(_COMPARE[mode](x, splits[at]))
        branch, leaves = (a.nodes_truenodeids, a.nodes_trueleafs) if yes else (a.nodes_falsenodeids, a.nodes_falseleafs)
        if leaves[at]:
            return branch[at]
        at = branch[at]


def _trees(a: Node, x: Tensor) -> Tensor:
    """Leaves of all trees gathered by target, then transformed."""
    if a.post_transform not in (0, None):
        raise Unsupported("TreeEnsemble: a transform of the scores")
    members: list[list[float]] = [[]]
    for m in a.membership_values[1].tolist() if a.membership_values is not None else ():
        members.append([]) if math.isnan(m) else members[-1].append(m)
    weights = to_torch(a.leaf_weights[1], a.leaf_weights[0], x.dtype)
    rows = list[Tensor]()
    for row in x:
        by_target: list[list[Tensor]] = [[] for _ in range(a.n_targets)]
        for root in a.tree_roots:
            leaf = _leaf(a, row, root, members)
            by_target[a.leaf_targetids[leaf]].append(weights[leaf])
        join = {0: lambda t: t.sum() / len(a.tree_roots), 1: torch.sum, 2: torch.amin, 3: torch.amax}[a.aggregate_function]
        rows.append(torch.stack([join(torch.stack(found)) if found else x.new_zeros(()) for found in by_target]))
    return torch.stack(rows)


# training ------------------------------------------------------------------------------------------------------------------
def _groups(inputs: Sequence[Tensor], kinds: int) -> list[tuple[Tensor, ...]]:
    """X1 X2 ... G1 G2 ... as (X1, G1, ...), (X2, G2, ...)."""
    n = len(inputs) // kinds
    return [tuple(inputs[i + k * n] for k in range(kinds)) for i in range(n)]


def _ungrouped(results: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    return tuple(r[k] for k in range(len(results[0])) for r in results)


def _adagrad(a: Node, rate: Tensor, step: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    r = rate / (1 + step * a.decay_factor)
    results = list[tuple[Tensor, ...]]()
    for x, g, h in _groups(inputs, 3):
        g = x * a.norm_coefficient + g
        h = h + g * g
        results.append((x - r * g / (h.sqrt() + a.epsilon), h))
    return _ungrouped(results)


def _momentum(a: Node, rate: Tensor, step: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    beta = a.beta if int(step) > 0 else 1.0
    results = list[tuple[Tensor, ...]]()
    for x, g, v in _groups(inputs, 3):
        g = x * a.norm_coefficient + g
        v = v * a.alpha + g * beta
        results.append((x - rate * (g + v * a.alpha if a.mode == "nesterov" else v), v))
    return _ungrouped(results)


def _adam(a: Node, rate: Tensor, step: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    t = int(step)
    rate = rate * (math.sqrt(1 - a.beta**t) / (1 - a.alpha**t)) if t > 0 else rate
    results = list[tuple[Tensor, ...]]()
    for x, g, v, h in _groups(inputs, 4):
        g = x * a.norm_coefficient + g
        v, h = v * a.alpha + g * (1 - a.alpha), h * a.beta + g * g * (1 - a.beta)
        results.append(((x - rate * v / (h.sqrt() + a.epsilon)) * (1 - a.norm_coefficient_post), v, h))
    return _ungrouped(results)


# FlexAttention ---------------------------------------------------------------------------------------------------------------
def _flex_attention(node: Node, call: Call, args: Sequence[Any]) -> list[Any]:
    """Attention whose scores and probabilities pass through sub-graphs."""
    q, k, v = (value(x) for x in args[:3])
    group = q.shape[1] // k.shape[1]
    inner = BY_ONNX[node.softmax_precision] if node.softmax_precision else DOUBLE if node.in_formats[0] is DOUBLE else FLOAT
    dtype = node.torch(inner)

    def through(body: str, x: Tensor) -> Tensor:
        return value(call(body, [alike(args, x)])[0]) if body in node.bodies else x

    scale = 1 / math.sqrt(q.shape[-1]) if node.scale is None else node.scale
    scores = (q.to(dtype) @ k.repeat_interleave(group, 1).to(dtype).transpose(-1, -2)) * scale
    p = through("prob_mod", through("score_mod", scores).softmax(-1))
    y = (p @ v.repeat_interleave(group, 1).to(dtype)).to(q.dtype)
    return [give_up(alike(args, y))]


def _by_sub_graph(a: Node, *args: Any) -> Any:
    raise Unsupported(f"{a.op.name}: needs an interpreter that evaluates sub-graphs")


# ImageDecoder ------------------------------------------------------------------------------------------------------------
def _image(a: Node, stream: Tensor) -> Tensor:
    """Height, width, channels; nothing at all for what cannot be decoded."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as e:
        raise Unsupported("ImageDecoder: needs Pillow; install with: pip install pillow") from e
    try:
        picture = Image.open(io.BytesIO(stream.numpy().tobytes()))
    except UnidentifiedImageError:
        return torch.zeros((0, 0, 0), dtype=torch.uint8)
    array = np.array(picture.convert("L" if a.pixel_format == "Grayscale" else "RGB"))
    array = array[:, :, None] if array.ndim == 2 else array[:, :, ::-1] if a.pixel_format == "BGR" else array
    return torch.from_numpy(np.ascontiguousarray(array))


meaning_only("LabelEncoder", _label, error=exact_whole, domain=ML)
meaning_only("Binarizer", _binarize, domain=ML)
meaning_only("ArrayFeatureExtractor", _features, domain=ML)
meaning_only("TreeEnsemble", _trees, domain=ML)
meaning_only("Adagrad", _adagrad, domain=TRAINING)
meaning_only("Momentum", _momentum, domain=TRAINING)
meaning_only("Adam", _adam, domain=TRAINING)
meaning_only("FlexAttention", _by_sub_graph, domain=PREVIEW, control=_flex_attention)
meaning_only("ImageDecoder", _image, error=exact_whole)
