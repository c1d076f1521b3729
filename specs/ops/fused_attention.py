"""ONNX Runtime's own attention operators: Attention, MultiHeadAttention, GroupQueryAttention and their RotaryEmbedding.

Padding is not forbidden there but filtered: `mask_filter_value` is added to the scores, so that a row without any key still
attends to all of them. What a causal mask forbids is really gone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.contrib import MICROSOFT, declare
from specs.formats import BFLOAT16, FLOAT, FLOAT16
from specs.numerics import INF, Policy, Radii, zeros_like
from specs.ops.attention import frontier, merge_heads, rotate, split_heads, weigh
from specs.program import Node
from specs.rule import Operand, Unsupported, UsageError
from specs.terms import floor_div, known
from specs.tracked import attribute, onto, raw, traced

FLOATS = [FLOAT, FLOAT16, BFLOAT16]

declare("RotaryEmbedding", "input:T position_ids:tensor(int64) cos_cache:T sin_cache:T", "output:T",
        {"num_heads": 0, "rotary_embedding_dim": 0, "interleaved": 0, "is_packed_batching": 0, "scale": 1.0}, T=FLOATS)  # fmt: skip
declare("MultiHeadAttention", "query:T key:T? value:T? bias:T? key_padding_mask:tensor(int32)? attention_bias:T? past_key:T? past_value:T? "
        "past_sequence_length:tensor(int32)? cache_indirection:tensor(int32)?", "output:T present_key:T? present_value:T? qk:T?",
        {"num_heads": int, "mask_filter_value": -10000.0, "scale": float, "unidirectional": 0}, T=FLOATS)  # fmt: skip
declare("Attention", "input:T weights:T bias:T? mask_index:tensor(int32)? past:T? attention_bias:T? past_sequence_length:tensor(int32)?", "output:T present:T?",
        {"num_heads": int, "mask_filter_value": -10000.0, "scale": float, "unidirectional": 0, "do_rotary": 0, "rotary_embedding_dim": 0,
         "past_present_share_buffer": 0}, T=FLOATS)  # fmt: skip
declare("GroupQueryAttention", "query:T key:T? value:T? past_key:T? past_value:T? seqlens_k:tensor(int32) total_sequence_length:tensor(int32) "
        "cos_cache:T? sin_cache:T? position_ids:tensor(int64)? attention_bias:T? head_sink:T?", "output:T present_key:T? present_value:T?",
        {"num_heads": int, "kv_num_heads": int, "scale": float, "softcap": 0.0, "local_window_size": -1, "do_rotary": 0, "rotary_interleaved": 0,
         "smooth_softmax": 0}, T=FLOATS)  # fmt: skip


# meanings --------------------------------------------------------------------------------------------------------------
def _scaled(a: Node, q: Any, k: Any) -> Any:
    scale = a.scale or 1 / math.sqrt(q.shape[-1])
    return (q @ k.transpose(-1, -2)) * attribute(scale, q)


def _attend(a: Node, q: Any, k: Any, v: Any, filtered: Tensor | None, bias: Any, past: int) -> tuple[Any, Any]:
    """Outputs and probabilities of split heads; `filtered` marks padding."""
    scores = _scaled(a, q, k)
    if bias is not None:
        scores = onto(bias, scores, q.shape[-1])
    if filtered is not None:
        scores = scores + filtered.to(raw(scores).dtype) * a.mask_filter_value
    scores, _ = weigh(scores, frontier(q.shape[2], k.shape[2], past, bool(a.unidirectional)))
    p = scores.softmax(-1)
    return p @ v, p


def _padding(mask: Any, batch: int, queries: int, total: int) -> Tensor | None:
    """The padding that a mask marks, in a shape that broadcasts to (batch, heads, queries, keys)."""
    if mask is None:
        return None
    keys = torch.arange(total)
    if mask.ndim == 1:
        if mask.shape[0] == batch:  # lengths of sequences padded on the right
            return (keys >= mask.reshape(-1, 1, 1, 1)).reshape(batch, 1, 1, total)
        if mask.shape[0] == 2 * batch:  # exclusive ends, then inclusive starts
            end, start = mask[:batch].reshape(-1, 1, 1, 1), mask[batch:].reshape(-1, 1, 1, 1)
            return (keys >= end) | (keys < start)
        if mask.shape[0] == 3 * batch + 2:
            return (keys >= mask[:batch].reshape(-1, 1, 1, 1)).reshape(batch, 1, 1, total)
    if mask.ndim == 2:
        return mask.reshape(batch, 1, 1, -1) == 0
    if mask.ndim == 3:
        return mask.unsqueeze(1) == 0
    return mask[:, :, total - queries : total, :total] == 0


def _multi_head(a: Node, q: Any, k: Any = None, v: Any = None, bias: Any = None, mask: Any = None, added: Any = None, *caches: Any) -> tuple[Any, ...]:
    """Query, key and value apart, packed as QKV or as Q and KV, or with a cache as key and value of cross attention."""
    past_key, past_value = (*caches, None, None)[:2]
    if any(x is not None for x in caches[2:]):
        raise Unsupported("MultiHeadAttention: caches shared between past and present")
    heads, packed = a.num_heads, q.ndim == 5
    if packed:
        q, k, v = (t.transpose(1, 2) for t in q.unbind(3))
    else:
        hidden = q.shape[2]
        q = split_heads(q if bias is None else q + bias[:hidden], heads)
        if k.ndim == 5:
            k, v = (t.transpose(1, 2) for t in k.unbind(3))
        elif k.ndim == 3:
            k = split_heads(k if bias is None else k + bias[hidden : 2 * hidden], heads)
            v = split_heads(v if bias is None else v + bias[2 * hidden :], heads)
    past = 0
    if past_key is not None and past_value is not None:
        past = past_key.shape[2]
        k, v = torch.cat([past_key, k], 2), torch.cat([past_value, v], 2)
    y, p = _attend(a, q, k, v, _padding(mask, q.shape[0], q.shape[2], k.shape[2]), added, past)
    return merge_heads(y), k, v, p


def _attention(a: Node, x: Any, w: Any, bias: Any = None, mask: Any = None, past: Any = None, added: Any = None, shared: Any = None) -> tuple[Any, Any]:
    if shared is not None or a.do_rotary or a.past_present_share_buffer:
        raise Unsupported("Attention: caches shared between past and present, and rotary embedding inside")
    third = w.shape[1] // 3
    sizes = a.qkv_hidden_sizes or [third, third, third]
    projected = x @ w
    if bias is not None:
        projected = onto(bias, projected, w.shape[0])
    q, k, v = (split_heads(t, a.num_heads) for t in projected.split(sizes, 2))
    before = 0
    if past is not None:
        before = past.shape[3]
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
    y, _ = _attend(a, q, k, v, _padding(mask, q.shape[0], q.shape[2], k.shape[2]), added, before)
    present = torch.stack([k, v]) if k.shape == v.shape and len(a.outputs) > 1 else None
    return merge_heads(y), present


def _rotary(a: Node, x: Any, positions: Tensor, cos: Any, sin: Any) -> Any:
    """One position for the first token, or one per token."""
    if a.is_packed_batching:
        raise Unsupported("RotaryEmbedding: batches packed without padding")
    width = a.rotary_embedding_dim or 2 * cos.shape[1]
    if x.ndim == 4:
        tokens = x.transpose(1, 2)
    else:
        size = x.shape[2] // a.num_heads if a.num_heads else width
        tokens = x.reshape(*x.shape[:2], -1, size)
    if positions.numel() == 1 and positions.ndim == 1:
        positions = (positions + torch.arange(tokens.shape[1])).expand(tokens.shape[0], -1)
    y = rotate(tokens, cos[positions], sin[positions], bool(a.interleaved), width)
    if a.scale is not None and a.scale != 1:
        y = y * attribute(a.scale, y)
    return y.transpose(1, 2) if x.ndim == 4 else y.reshape(x.shape)


def _grouped(a: Node, q: Any, k: Any, v: Any, past_key: Any, past_value: Any, lengths: Tensor, total: Tensor, *more: Any) -> tuple[Any, Any, Any]:
    """Every member of the batch has its own count of cached tokens: seqlens_k + 1 - new ones; the cache buffer may be longer."""
    rest: list[Any] = [*more, *[None] * 5]
    cos, sin, positions, added, sink = rest[:5]
    if k is None:
        size = q.shape[2] // (a.num_heads + 2 * a.kv_num_heads)
        q, k, v = q.split([a.num_heads * size, a.kv_num_heads * size, a.kv_num_heads * size], 2)
    q, k, v = split_heads(q, a.num_heads), split_heads(k, a.kv_num_heads), split_heads(v, a.kv_num_heads)
    batch, _, new, _ = q.shape
    if lengths.numel() != batch:
        raise UsageError(f"GroupQueryAttention: seqlens_k has {lengths.numel()} elements for a batch of {batch}")
    buffer = 0 if past_key is None else past_key.shape[2]
    prompt = int(total) == new
    held = max(buffer, int(total))
    rows, keys, values = list[Any](), list[Any](), list[Any]()
    for b in range(batch):
        ends = int(lengths.reshape(-1)[b]) + 1
        before = 0 if prompt else ends - new
        one, its_keys, its_values = (t[b : b + 1] for t in (q, k, v))
        if cos is not None and sin is not None and a.do_rotary:
            at = (positions[b] if positions is not None and not prompt else torch.arange(new) + before).unsqueeze(0)
            turn = (cos[at], sin[at], bool(a.rotary_interleaved), 2 * cos.shape[1])
            one, its_keys = (rotate(t.transpose(1, 2), *turn).transpose(1, 2) for t in (one, its_keys))
        if before and past_key is not None:
            its_keys = torch.cat([past_key[b : b + 1, :, :before], its_keys], 2)
            its_values = torch.cat([past_value[b : b + 1, :, :before], its_values], 2)
        extra = None if added is None else added[b if added.shape[0] > 1 else 0][None, ..., : before + new]
        rows.append(_grouped_one(a, one, its_keys, its_values, before, extra, sink))
        keys.append(_filled(its_keys, held))
        values.append(_filled(its_values, held))
    return merge_heads(torch.cat(rows)), torch.cat(keys), torch.cat(values)


def _filled(x: Any, length: int) -> Any:
    """Keys or values in the buffer that is handed on; what lies beyond them is not defined."""
    short = length - x.shape[2]
    return x if short <= 0 else torch.cat([x, torch.zeros((*x.shape[:2], short, x.shape[3]), dtype=raw(x).dtype)], 2)


def _grouped_one(a: Node, q: Any, k: Any, v: Any, before: int, added: Any, sink: Any) -> Any:
    group = a.num_heads // a.kv_num_heads
    if group > 1:
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = _scaled(a, q, k)
    if a.softcap:
        scores = (scores / a.softcap).tanh() * a.softcap
    if added is not None:
        scores = scores + added
    window = a.local_window_size if a.local_window_size is not None and a.local_window_size > 0 else 0
    scores, _ = weigh(scores, frontier(q.shape[2], k.shape[2], before, True, window - 1))
    if a.smooth_softmax or sink is not None:  # one more score, zero or the head's own, that takes its share and gives nothing
        shape = (*scores.shape[:-1], 1)
        more = torch.zeros(shape, dtype=raw(scores).dtype) if sink is None else sink.reshape(1, -1, 1, 1).expand(shape)
        return torch.cat([scores, more], -1).softmax(-1)[..., :-1] @ v
    return scores.softmax(-1) @ v


def _grouped_error(a: Node, policy: Policy, balls: Sequence[Any], ys: Sequence[Any]) -> Sequence[Radii]:
    """Rows of padding and the rest of the cache buffer are not defined."""
    radii = list(traced()(a, policy, balls, ys))
    ends, new, total = balls[5].value.reshape(-1).to(torch.int64) + 1, ys[0].shape[1], int(balls[6].value)
    undefined = [torch.arange(new) >= (ends if total == new else torch.full_like(ends, new)).unsqueeze(1)]
    undefined += [torch.arange(y.shape[2]) >= ends.unsqueeze(1) for y in ys[1:]]
    for i, (mask, y) in enumerate(zip(undefined, ys, strict=True)):
        mask = mask.unsqueeze(2) if i == 0 else mask[:, None, :, None]
        if bool(mask.any()):
            radii[i] = tuple((zeros_like(y) if r is None else r).masked_fill(mask, INF) for r in radii[i])  # type: ignore[assignment]
    return radii


# drawing ---------------------------------------------------------------------------------------------------------------
def _maybe(g: Draw, chance: float, draw: Any) -> Operand | None:
    if g.flag(chance):
        return draw()
    g.skip()
    return None


def _common(g: Draw) -> dict[str, Any]:
    attrs: dict[str, Any] = {}
    if g.flag(0.3):
        attrs["scale"] = g.pick([0.5, 0.1, 1.0])
    if g.flag(0.4):
        attrs["unidirectional"] = 1
    if g.flag(0.15):
        attrs["mask_filter_value"] = -1000.0
    return attrs


@op("MultiHeadAttention", meaning=_multi_head, error=traced(), domain=MICROSOFT, among=[FLOAT, FLOAT16])
def multi_head(g: Draw) -> Rule:
    q = g.operand(rank=3)
    batch, queries, hidden = q
    heads = g.divisor(hidden)
    size = floor_div(hidden, heads)
    cached = g.flag(0.3)
    past = g.size(1, 8) if cached else 0
    keys = queries if cached else g.size(1, 24)
    split = not cached and g.flag(0.15)
    k, v = (g.operand(like=[batch, heads, keys, size] if split else [batch, keys, hidden]) for _ in range(2))
    bias = None if split else _maybe(g, 0.4, lambda: g.operand(like=[3 * hidden], role="weight"))
    if split:
        g.skip()
    total = keys + past
    mask = _maybe(g, 0.4, lambda: g.given(g.pick([[batch, total], [batch, queries, total]]), 0, 1))
    added = _maybe(g, 0.3, lambda: g.operand(like=g.pick([[1, 1, queries, total], [batch, heads, queries, total], [1, heads, queries, total]])))
    inputs: list[Operand | None] = [q, k, v, bias, mask, added]
    outputs: list[Any] = [[batch, queries, hidden]]
    if cached:
        inputs += [g.operand(like=[batch, heads, past, size]) for _ in range(2)]
        outputs += [[batch, heads, total, size]] * 2
    attrs = _common(g)
    if not cached and not (known(keys, queries) and keys == queries):
        attrs.pop("unidirectional", None)  # cross attention has no order of its own
    return Rule(inputs, outputs, {"num_heads": heads, **attrs})


@op("Attention", meaning=_attention, error=traced(), domain=MICROSOFT, among=[FLOAT, FLOAT16])
def attention(g: Draw) -> Rule:
    """Projection and attention in one, the weights of query, key and value side by side."""
    x = g.operand(rank=3)
    batch, queries, width = x
    heads, size = g.int(1, 4), g.size(1, 8)
    hidden = heads * size
    w = g.operand(like=[width, 3 * hidden], role="weight")
    bias = g.operand(like=[3 * hidden], role="weight")
    cached = g.flag(0.3)
    past = g.size(1, 8) if cached else 0
    total = queries + past
    form = g.pick(["lengths", "keys", "pairs"]) if known(total) else "keys"
    shape = {"lengths": [batch], "keys": [batch, total], "pairs": [batch, queries, total]}[form]
    mask = _maybe(g, 0.4, lambda: g.given(shape, 1 if form == "lengths" else 0, total if form == "lengths" else 1))
    cache = None
    if cached:
        cache = g.operand(like=[2, batch, heads, past, size])
    else:
        g.skip()
    added = _maybe(g, 0.0 if cached else 0.3, lambda: g.operand(like=g.pick([[1, 1, queries, total], [batch, heads, queries, total]])))
    outputs: list[Any] = [[batch, queries, hidden], [2, batch, heads, total, size] if cached else None]
    return Rule([x, w, bias, mask, cache, added], outputs, {"num_heads": heads, **_common(g)})


@op("RotaryEmbedding", meaning=_rotary, error=traced(), domain=MICROSOFT, among=[FLOAT, FLOAT16])
def rotary(g: Draw) -> Rule:
    half, heads = g.size(1, 8), g.int(1, 4)
    attrs: dict[str, Any] = {"interleaved": 1} if g.flag() else {}
    rest = 0
    if g.flag(0.3):  # only the first part of every head turns
        rest = 2 * g.size(0, 4)
        attrs.update(num_heads=heads, rotary_embedding_dim=half * 2)
    x = g.operand(like=[None, None, (half * 2 + rest) * heads])
    g.require(known(*x))
    rows = x[1] + g.size(0, 8)
    positions = g.given([1], 0, rows - x[1]) if g.flag() else g.given([x[0], x[1]], 0, rows - 1)
    table = [g.operand(like=[rows, half], role="weight") for _ in range(2)]
    return Rule([x, positions, *table], [x], attrs)


@op("GroupQueryAttention", meaning=_grouped, error=_grouped_error, domain=MICROSOFT, among=[FLOAT, FLOAT16])
def grouped(g: Draw) -> Rule:
    """The first prompt, or one more token on a cache."""
    kv, group, size = g.int(1, 3), g.pick([1, 2, 3]), g.pick([16, 32])
    heads = kv * group
    x = g.operand(like=[None, None, heads * size])
    batch, new = x[0], x[1]
    g.require(known(batch, new))
    past = 0 if new > 1 else g.int(0, 8)
    total = new + past
    k, v = (g.operand(like=[batch, new, kv * size]) for _ in range(2))
    cache: list[Operand | None] = [None, None]
    if past:
        cache = [g.operand(like=[batch, kv, past, size]) for _ in range(2)]
    else:
        g.skip()
        g.skip()
    inputs: list[Operand | None] = [x, k, v, *cache, g.given([batch], total - 1, total - 1), g.given([], total, total)]
    attrs: dict[str, Any] = {"num_heads": heads, "kv_num_heads": kv}
    if g.flag(0.4):
        attrs["do_rotary"] = 1
        inputs += [g.operand(like=[total + g.int(0, 4), size // 2], role="weight")]
        inputs += [g.operand(like=list(inputs[-1]), role="weight")]  # type: ignore[arg-type]
        if g.flag():
            attrs["rotary_interleaved"] = 1
    if g.flag(0.3):
        attrs["local_window_size"] = g.int(1, 6)
    if g.flag(0.2):
        attrs["softcap"] = g.pick([1.0, 4.0, 30.0])
    if g.flag(0.2):
        attrs["scale"] = g.pick([0.5, 0.1, 1.0])
    if g.flag(0.15):
        attrs["smooth_softmax"] = 1
    cached = [batch, kv, total, size]
    return Rule(inputs, [x, cached, cached], attrs)
