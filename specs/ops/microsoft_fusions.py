"""What ONNX Runtime's optimisers fuse into one node: FusedConv, FusedGemm, EmbedLayerNormalization; and MatMulInteger16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.contrib import MICROSOFT, declare
from specs.formats import DOUBLE, FLOAT, FLOAT16, INT16, INT32, UINT16
from specs.numerics import EXACT, Ball, Policy, Radii, exact_whole, undecidable
from specs.ops.convolution import conv
from specs.ops.convolution_variants import activated, fused_conv, fused_conv_error
from specs.ops.matmul import gemm
from specs.ops.microsoft_normalisation import skip_meaning, skip_radii
from specs.program import Node
from specs.rule import Operand
from specs.tracked import attribute, traced

HALVES = [FLOAT, FLOAT16]
WINDOW = {"auto_pad": "NOTSET", "dilations": list[int], "group": 1, "kernel_shape": list[int], "pads": list[int], "strides": list[int]}
declare("FusedConv", "X:T W:T B:T? Z:T?", "Y:T", {**WINDOW, "activation": str, "activation_params": list[float]}, T=[FLOAT16, FLOAT, DOUBLE])
declare("FusedGemm", "A:T B:T C:T?", "Y:T",
        {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0, "activation": str}
        | {"activation_alpha": float, "activation_beta": float, "activation_gamma": float},
        T=HALVES)  # fmt: skip
declare("EmbedLayerNormalization",
        "input_ids:T1 segment_ids:T1? word_embedding:T position_embedding:T segment_embedding:T? gamma:T beta:T mask:T1? position_ids:T1?",
        "output:T mask_index:T1? embedding_sum:T?", {"epsilon": 1e-12, "mask_index_type": 0}, T=HALVES, T1=[INT32])  # fmt: skip
declare("MatMulInteger16", "A:T1 B:T2", "Y:T3", T1=[INT16, UINT16], T2=[INT16, UINT16], T3=[INT32])

PARAMETERS = {"LeakyRelu": [0.1], "HardSigmoid": [0.25, 0.5], "Clip": [-1.0, 1.5]}
ACTIVATIONS = ["Relu", "Tanh", "Sigmoid", "LeakyRelu", "Clip", "HardSigmoid"]


@op("FusedConv", meaning=fused_conv, error=fused_conv_error, domain=MICROSOFT, among=[FLOAT], weight=0.7)
def fused_convolution(g: Draw) -> Rule:
    """A convolution of any kind, a summand now and then, and an activation with its parameters."""
    assert conv.draw is not None
    rule = conv.draw(g)
    operands, y = list(rule.inputs), rule.outputs[0]
    if g.flag(0.4):
        if len(operands) < 3:
            g.skip()
            operands.append(None)
        operands.append(g.operand(like=y))
    return Rule(operands, [y], {**rule.attrs, **_activation(g)})


def _activation(g: Draw) -> dict[str, Any]:
    name = g.pick(ACTIVATIONS)
    return {"activation": name, **({"activation_params": PARAMETERS[name]} if name in PARAMETERS else {})} if g.flag(0.9) else {}


# FusedGemm ---------------------------------------------------------------------------------------------------------------
class _Parameters:
    """FusedGemm gives its activation's parameters one by one, FusedConv as a list."""

    def __init__(self, a: Node) -> None:
        self.activation = a.activation
        self.activation_params = [p for p in (a.activation_alpha, a.activation_beta, a.activation_gamma) if p is not None]


def _fused_gemm(a: Node, x: Any, w: Any, c: Any = None) -> Any:
    y = (x.transpose(0, 1) if a.transA else x) @ (w.transpose(0, 1) if a.transB else w)
    y = y if a.alpha == 1 else y * attribute(a.alpha, y)
    if c is not None:
        y = y + (c if a.beta == 1 else c * attribute(a.beta, c))
    return activated(_Parameters(a), y)


@op("FusedGemm", meaning=_fused_gemm, error=traced(), domain=MICROSOFT, among=[FLOAT], weight=0.5)
def fused_gemm(g: Draw) -> Rule:
    """A Gemm and an activation; its parameters have names here."""
    assert gemm.draw is not None
    rule = gemm.draw(g)
    name = g.pick(["Relu", "Tanh", "Sigmoid", "LeakyRelu"])
    attrs = {**rule.attrs, "activation": name, **({"activation_alpha": 0.1} if name == "LeakyRelu" else {})}
    return Rule(rule.inputs, rule.outputs, attrs)


# EmbedLayerNormalization -------------------------------------------------------------------------------------------------
def _rows(ids: Tensor, segments: Any, positions: Any) -> list[Any]:
    at = torch.arange(ids.shape[1]).expand(ids.shape) if positions is None else positions.expand(ids.shape)
    return [ids, at, segments]


def _embed(
    a: Node, ids: Tensor, segments: Any, words: Tensor, places: Tensor, kinds: Any, gamma: Tensor, beta: Tensor, mask: Any = None, positions: Any = None
) -> Any:
    """Words, places and segments are looked up, summed and normalised; the second result counts the ones of each mask."""
    found: list[Any] = [None if i is None else t[i.long()] for t, i in zip((words, places, kinds), _rows(ids, segments, positions), strict=True)]
    y, _, _, total = skip_meaning(a, found[0], found[1], gamma, beta, found[2], results=4)
    count = torch.zeros(ids.shape[0], dtype=torch.int32) if mask is None else (mask == 1).sum(1).to(torch.int32)
    return (y, count, total)[: max(1, len(a.outputs))]


def _embed_error(a: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    ids, segments, words, places, kinds, gamma, beta, mask, positions = (*balls, None, None)[:9]
    if any(b is not None and b.worst is not None for b in (ids, segments, mask, positions)):
        return undecidable(a, policy, balls, ys)
    assert ids is not None
    values = _rows(ids.value, None if segments is None else segments.value, None if positions is None else positions.value)
    parts = [None if b is None else Ball(*(None if t is None else t[i.long()] for t in b)) for b, i in zip((words, places, kinds), values, strict=True)]
    radii = skip_radii(True)(a, policy, [parts[0], parts[1], gamma, beta, parts[2]], [ys[0], *[torch.zeros(())] * 2, ys[0]])
    return [radii[0], EXACT, radii[3]][: len(ys)]


@op("EmbedLayerNormalization", meaning=_embed, error=_embed_error, domain=MICROSOFT, among=[INT32], weight=0.5)
def embed_layer_normalization(g: Draw) -> Rule:
    """With or without segments, a mask, positions of their own, and the sum as a further result."""
    batch, length, hidden = g.size(1, 6), g.size(1, 12), g.size(2, 32)
    vocabulary, places = g.size(2, 16), length + g.size(0, 4)
    shape, segmented = [batch, length], g.flag()
    ids = g.given(shape, 0, vocabulary - 1)
    segments = g.given(shape, 0, 1) if segmented else g.skip()
    words, where = g.operand(like=[vocabulary, hidden], role="weight"), g.operand(like=[places, hidden], role="weight")
    kinds = g.operand(like=[2, hidden], role="weight") if segmented else g.skip()
    gamma, beta = (g.operand(like=[hidden], role="weight") for _ in range(2))
    inputs: list[Operand | None] = [ids, segments, words, where, kinds, gamma, beta]
    inputs.append(g.given(shape, 0, 1) if g.flag(0.4) else g.skip())
    inputs.append(g.given(g.pick([shape, [1, length]]), 0, places - 1) if g.flag(0.3) else g.skip())
    return Rule(inputs, [[*shape, hidden], [batch], [*shape, hidden] if g.flag(0.4) else None], {"epsilon": g.pick([1e-5, 1e-12, 1e-3])})


# MatMulInteger16 -----------------------------------------------------------------------------------------------------------
def _product(a: Node, x: Tensor, y: Tensor) -> Tensor:
    """In 64 bits; the result is the low 32 of them."""
    return (x.to(torch.int64) @ y.to(torch.int64)).to(torch.int32)


@op("MatMulInteger16", meaning=_product, error=exact_whole, domain=MICROSOFT, among=[INT16], weight=0.3)
def matmul_integer_16(g: Draw) -> Rule:
    """Small numbers: what a sum beyond 32 bits means is not said."""
    n, k, m = g.size(1, 12), g.size(1, 24), g.size(1, 12)
    batch = g.sizes(g.int(0, 2), 1, 4)
    x = g.given([*batch, n, k], -180, 180)
    g.type("T2", among=[INT16])
    y = g.given([*batch, k, m], -180, 180)
    return Rule([x, y], [[*batch, n, m]])
