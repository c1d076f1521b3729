"""LinearAttention: attention with a recurrent state instead of a score for every pair (ONNX 27, and ONNX Runtime's own)."""

from __future__ import annotations

import math
from typing import Any

import torch

from specs import Draw, Rule, op
from specs.contrib import MICROSOFT, declare
from specs.formats import BFLOAT16, FLOAT, FLOAT16
from specs.ops.attention import merge_heads, split_heads
from specs.program import Node
from specs.rule import Operand, Unsupported
from specs.terms import floor_div
from specs.tracked import attribute, traced

FLOATS = [FLOAT, FLOAT16, BFLOAT16]

declare("LinearAttention", "query:T key:T value:T past_state:S? decay:T? beta:T?", "output:T present_state:S",
        {"chunk_size": 64, "q_num_heads": int, "kv_num_heads": int, "scale": 0.0, "update_rule": "gated_delta", "state_window": 0},
        T=FLOATS, S=FLOATS)  # fmt: skip


def _linear_attention(a: Node, q: Any, k: Any, v: Any, state: Any = None, decay: Any = None, beta: Any = None) -> tuple[Any, Any]:
    """S = exp(g) S + beta k (v - S'k)', y = scale S'q, token by token; the update rule says which parts there are."""
    if a.state_window:
        raise Unsupported("LinearAttention: a window of states")
    group, form = a.q_num_heads // a.kv_num_heads, a.out_formats[1]
    dtype, kept = q.dtype, q.dtype if form is None else a.torch(form)
    if dtype in (torch.float16, torch.bfloat16):  # ONNX's own body works in float32 and rounds once
        wide = [None if x is None else x.float() for x in (q, k, v, state, decay, beta)]
        y, last = _linear_attention(a, *wide)
        return y.to(dtype), last.to(kept)
    q, k, v = split_heads(q, a.q_num_heads), split_heads(k, a.kv_num_heads), split_heads(v, a.kv_num_heads)
    batch, heads, length, size = k.shape
    scale = attribute(a.scale or 1 / math.sqrt(size), q)
    if state is None:
        state = torch.zeros((batch, heads, size, v.shape[-1]), dtype=dtype)
    state = state.to(dtype)
    factors = None if decay is None else split_heads(decay, heads).exp()
    rates = None if beta is None else beta.unsqueeze(1).transpose(1, 3)  # (batch, heads or 1, length, 1)
    rows = list[Any]()
    for t in range(length):
        key, new = k[:, :, t], v[:, :, t]
        if factors is not None:
            state = state * factors[:, :, t].unsqueeze(-1)
        if rates is not None:
            new = (new - (key.unsqueeze(2) @ state).squeeze(2)) * rates[:, :, t]
        state = state + key.unsqueeze(3) * new.unsqueeze(2)
        shared = state if group == 1 else state.repeat_interleave(group, 1)
        rows.append((q[:, :, t].unsqueeze(2) @ shared).squeeze(2) * scale)
    return merge_heads(torch.stack(rows, 2)), state.to(kept)


def _draw(g: Draw) -> Rule:
    """Every update rule, with a decay per head or per feature, with or without an earlier state."""
    rule = g.pick(["linear", "gated", "delta", "gated_delta"])
    heads, group = g.int(1, 3), g.pick([1, 1, 2, 3])
    q = g.operand(rank=3)
    batch, length, width = q
    g.require(width % (heads * group) == 0)
    g.require(length <= 16)
    size, form = floor_div(width, heads * group), q.format
    v_size = g.size(1, 8)
    inputs: list[Operand | None] = [q, g.operand(like=[batch, length, heads * size]), g.operand(like=[batch, length, heads * v_size])]
    state = [batch, heads, size, v_size]
    if g.flag(0.4):
        inputs.append(g.operand(like=state, among=[form] if form else None))
    else:
        g.type("S", [form] if form else None)
        g.skip()
        inputs.append(None)
    if "gated" in rule:
        inputs.append(g.given([batch, length, heads * g.pick([1, size])], -2, 0))
    else:
        g.skip()
        inputs.append(None)
    if "delta" in rule:
        inputs.append(g.given([batch, length, g.pick([heads, 1])], 0, 1))
    attrs: dict[str, Any] = {"q_num_heads": heads * group, "kv_num_heads": heads, "update_rule": rule}
    if g.flag(0.3):
        attrs["scale"] = g.pick([1.0, 0.5, 0.1])
    return Rule(inputs, [[batch, length, heads * group * v_size], state], attrs)


op("LinearAttention", meaning=_linear_attention, error=traced(coherent=True), since=27)(_draw)
op("LinearAttention", meaning=_linear_attention, error=traced(coherent=True), domain=MICROSOFT, among=[FLOAT, FLOAT16])(_draw)
