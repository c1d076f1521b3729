"""Attention (opset 23 to 25) and RotaryEmbedding. The error rules run the same code on tracked values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.formats import BOOL, BY_ONNX
from specs.program import Node
from specs.rule import Dim, Operand
from specs.terms import floor_div, known
from specs.tracked import attribute, cast, onto, raw, traced

INF = math.inf


# attention -------------------------------------------------------------------------------------------------------------
def split_heads(x: Any, heads: int) -> Any:
    """(batch, length, heads * size) to (batch, heads, length, size)."""
    b, n, hidden = x.shape
    return x.reshape(b, n, heads, hidden // heads).transpose(1, 2)


def merge_heads(x: Any) -> Any:
    b, heads, n, size = x.shape
    return x.transpose(1, 2).reshape(b, n, heads * size)


def frontier(queries: int, keys: int, offset: Any, causal: bool, left: int = -1, right: int = -1) -> Tensor | None:
    """Which keys each query may see by its position; None for all. `offset` counts the keys before the first query, per batch or for all."""
    if not causal and left < 0 and right < 0:
        return None
    if isinstance(offset, Tensor):
        offset = offset.reshape(-1, 1, 1, 1)
    ahead = torch.arange(keys) - (torch.arange(queries).unsqueeze(1) + offset)
    bound = 0 if causal else right
    seen = ahead <= bound if causal or right >= 0 else torch.ones_like(ahead, dtype=torch.bool)
    if causal and 0 <= right < bound:
        seen = seen & (ahead <= right)
    return seen & (ahead >= -left) if left >= 0 else seen


def weigh(scores: Any, allowed: Tensor | None) -> tuple[Any, Tensor | None]:
    """Scores with forbidden keys at -inf, and the rows that are left without any key."""
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -INF)
    gone = torch.isneginf(raw(scores)).all(-1, keepdim=True) if scores.shape[-1] else None
    return scores, gone if gone is not None and bool(gone.any()) else None


def _attention(a: Node, q: Any, k: Any, v: Any, mask: Any = None, past_key: Any = None, past_value: Any = None, lengths: Any = None) -> tuple[Any, ...]:
    flat = q.ndim == 3
    if flat:
        q, k, v = split_heads(q, a.q_num_heads), split_heads(k, a.kv_num_heads), split_heads(v, a.kv_num_heads)
    if past_key is not None:
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    present_key, present_value = k, v
    queries, keys, group = q.shape[2], k.shape[2], q.shape[1] // k.shape[1]
    if group > 1:
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scale = 1 / math.sqrt(q.shape[3]) if a.scale is None else a.scale
    root = attribute(math.sqrt(abs(scale)), q)
    raw_scores = (q * root if scale >= 0 else q * -root) @ (k * root).transpose(-1, -2)
    capped = raw_scores if not a.softcap else (raw_scores / a.softcap).tanh() * a.softcap
    scores, allowed = _masked(capped, mask, keys, q.shape[-1])
    offset: Any = past_key.shape[2] if past_key is not None else 0 if lengths is None else lengths.reshape(-1) - queries
    # The windows are attributes of version 25.
    seen = frontier(queries, keys, offset, bool(a.is_causal), *(-1 if w is None else w for w in (a.left_window_size, a.right_window_size)))
    if lengths is not None:
        valid = (torch.arange(keys) < lengths.reshape(-1, 1)).reshape(-1, 1, 1, keys)
        seen = valid if seen is None else seen & valid
    if seen is not None:
        allowed = seen if allowed is None else allowed & seen
    scores, gone = weigh(scores, allowed)
    form = a.in_formats[0]
    inner = BY_ONNX[a.softmax_precision] if a.softmax_precision else form
    p = cast(a, scores if gone is None else scores.masked_fill(gone, 0.0), inner).softmax(-1)
    p = cast(a, p if gone is None else p.masked_fill(gone, 0.0), form)
    y = _product(p, v)
    detail = None
    if len(a.outputs) > 3:
        detail = (raw_scores, capped, scores, p)[a.qk_matmul_output_mode or 0]
    return merge_heads(y) if flat else y, present_key, present_value, detail


def _product(p: Any, v: Any) -> Any:
    """V may have another type than the scores, whose type is that of the result."""
    if p.dtype == v.dtype:
        return p @ v
    wide = torch.promote_types(p.dtype, v.dtype)
    return (p.to(wide) @ v.to(wide)).to(p.dtype)


def _masked(scores: Any, mask: Any, keys: int, size: int) -> tuple[Any, Tensor | None]:
    """The mask added, or kept as what is allowed when it is boolean; keys beyond its end are forbidden."""
    if mask is None:
        return scores, None
    short, allowed = keys - mask.shape[-1], None
    if short > 0:
        allowed = torch.arange(keys) < mask.shape[-1]
        mask = torch.cat([mask, torch.zeros((*mask.shape[:-1], short), dtype=mask.dtype)], -1)
    if raw(mask).dtype == torch.bool:
        return scores, mask if allowed is None else mask & allowed
    return onto(mask if raw(mask).is_floating_point() else mask.to(raw(scores).dtype), scores, size), allowed


def _heads(g: Draw) -> tuple[Operand, list[Dim], dict[str, Any], int]:
    """The query, (batch, kv heads, queries, head size), the attributes that a flat one needs, and its heads per kv head."""
    if g.flag(0.4):
        q = g.operand(rank=3)
        heads = g.divisor(q[2])
        group = g.pick([d for d in (1, 2, 3, 4, 8) if heads % d == 0])
        return q, [q[0], heads // group, q[1], floor_div(q[2], heads)], {"q_num_heads": heads, "kv_num_heads": heads // group}, group
    q = g.operand(rank=4)
    group = g.divisor(q[1], 4)
    return q, [q[0], floor_div(q[1], group), q[2], q[3]], {}, group


@op("Attention", meaning=_attention, error=traced(), since=23)
def attention(g: Draw) -> Rule:
    """Multi-head, grouped and multi-query; masks, caches, windows, soft caps; flat or split heads."""
    q, (batch, heads, queries, size), attrs, group = _heads(g)
    form, flat = q.format, len(q) == 3
    same = [form] if form else None
    keys, v_size = g.size(1, 24), size if g.flag(0.7) else g.size(1, 12)
    k = g.operand(like=[batch, keys, size * heads] if flat else [batch, heads, keys, size], among=same)
    v = g.operand(like=[batch, keys, v_size * heads] if flat else [batch, heads, keys, v_size], among=same)
    cache = g.pick(["none", "past", "lengths"]) if g.opset >= 24 and known(keys) else g.pick(["none", "past"])
    past = g.size(1, 12) if cache == "past" else 0
    total = keys + past
    mask, kind = None, g.pick(["none", "bool", "float"])
    if kind == "none":
        g.skip()
    else:
        all_heads = heads * group
        shape = g.pick([[queries, total], [1, 1, queries, total], [batch, 1, queries, total], [batch, all_heads, 1, total], [batch, all_heads, queries, total]])
        mask = g.operand(like=shape, among=[BOOL] if kind == "bool" else same)
    inputs: list[Operand | None] = [q, k, v, mask]
    if cache == "past":
        inputs += [g.operand(like=[batch, heads, past, n], among=same) for n in (size, v_size)]
    elif cache == "lengths":
        g.skip()
        g.skip()
        inputs += [None, None, g.given([batch], 1, keys)]
    if g.flag(0.3):
        attrs["is_causal"] = 1
    if g.flag(0.3):
        attrs["scale"] = g.pick([1.0, 0.5, 0.1, 2.0])
    if g.flag(0.2):
        attrs["softcap"] = g.pick([1.0, 4.0, 30.0])
    if g.flag(0.15):
        attrs["softmax_precision"] = g.pick([1, 11, 10, 16])
    if g.opset >= 25 and g.flag(0.3):
        attrs["left_window_size"] = g.int(0, 4)
    if g.opset >= 25 and g.flag(0.3):
        attrs["right_window_size"] = g.int(0, 4)
    outputs: list[Any] = [[batch, queries, v_size * heads * group] if flat else [batch, heads * group, queries, v_size]]
    if cache == "past":
        outputs += [[batch, heads, total, size], [batch, heads, total, v_size]]
    if g.flag(0.25):
        attrs["qk_matmul_output_mode"] = g.int(0, 3)
        outputs += [None, None] if cache != "past" else []
        outputs.append([batch, heads * group, queries, total])
    return Rule(inputs, outputs, attrs)


# rotary embedding ------------------------------------------------------------------------------------------------------
def rotate(x: Any, cos: Any, sin: Any, interleaved: bool, width: int) -> Any:
    """The first `width` features of (batch, length, heads, size) turned by the angles of (batch, length, width / 2)."""
    turned, rest = (x, None) if width == x.shape[-1] else (x[..., :width], x[..., width:])
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    if interleaved:
        one, two = turned[..., 0::2], turned[..., 1::2]
    else:
        one, two = turned[..., : width // 2], turned[..., width // 2 :]
    real, imaginary = cos * one - sin * two, sin * one + cos * two
    y = torch.stack([real, imaginary], -1).reshape(turned.shape) if interleaved else torch.cat([real, imaginary], -1)
    return y if rest is None else torch.cat([y, rest], -1)


def _rotary(a: Node, x: Any, cos: Any, sin: Any, positions: Any = None) -> Any:
    flat = x.ndim == 3
    tokens = x.reshape(*x.shape[:2], a.num_heads, x.shape[2] // a.num_heads) if flat else x.transpose(1, 2)
    if positions is not None:
        cos, sin = cos[positions], sin[positions]
    y = rotate(tokens, cos, sin, bool(a.interleaved), a.rotary_embedding_dim or tokens.shape[-1])
    return y.reshape(x.shape) if flat else y.transpose(1, 2)


@op("RotaryEmbedding", meaning=_rotary, error=traced(), since=23)
def rotary(g: Draw) -> Rule:
    """Angles come from tables by position, or one per token; only the first features may turn."""
    attrs: dict[str, Any] = {}
    if g.flag(0.4):
        half, heads = g.size(1, 8), g.int(1, 4)
        x = g.operand(like=[None, None, half * 2 * heads])
        (batch, length), size, attrs["num_heads"] = x[:2], half * 2, heads
    else:
        half = g.size(1, 8)
        x = g.operand(like=[None, None, None, half * 2])
        batch, length, size = x[0], x[2], half * 2
    width: Dim = size
    if known(half) and half > 1 and g.flag(0.3):
        width = 2 * g.int(1, half - 1)
        attrs["rotary_embedding_dim"] = width
    if g.flag():
        attrs["interleaved"] = 1
    if g.flag():
        rows = g.size(1, 16)
        table = [g.operand(like=[rows, floor_div(width, 2)], role="weight") for _ in range(2)]
        return Rule([x, *table, g.given([batch, length], 0, rows - 1)], [x], attrs)
    return Rule([x, *(g.operand(like=[batch, length, floor_div(width, 2)]) for _ in range(2))], [x], attrs)
