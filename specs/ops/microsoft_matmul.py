"""Matrix products of ONNX Runtime's own domain: FusedMatMul, and MatMulNBits with its packed 4- and 8-bit weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.contraction import accumulated
from specs.contrib import MICROSOFT, declare
from specs.formats import BFLOAT16, DOUBLE, FLOAT, FLOAT16, INT32, UINT8
from specs.numerics import Ball, Policy, Radii, finite, settle, undecidable
from specs.program import Node
from specs.rule import Dim, Operand
from specs.terms import broadcast

declare("FusedMatMul", "A:T B:T", "Y:T", {"alpha": 1.0, "transA": 0, "transB": 0, "transBatchA": 0, "transBatchB": 0}, T=[FLOAT, FLOAT16, DOUBLE, BFLOAT16])
declare("MatMulNBits", "A:T1 B:T2 scales:T1 zero_points:T3? g_idx:T4? bias:T1?", "Y:T1",
        {"K": int, "N": int, "bits": 4, "block_size": int, "accuracy_level": 0},
        T1=[FLOAT, FLOAT16, BFLOAT16], T2=[UINT8], T3=[UINT8, FLOAT, FLOAT16, BFLOAT16], T4=[INT32])  # fmt: skip


# FusedMatMul -----------------------------------------------------------------------------------------------------------
def _laid(x: Tensor, batch: int | None, swap: int | None) -> Tensor:
    """`transBatch`: the rows come first, before the batch; then `trans` swaps the last two dims."""
    if batch and x.dim() > 2:
        x = x.movedim(0, -2)
    return x.transpose(-1, -2) if swap and x.dim() > 1 else x


def _product(a: Node, x: Tensor, y: Tensor, alpha: float) -> Tensor:
    product = _laid(x, a.transBatchA, a.transA) @ _laid(y, a.transBatchB, a.transB)
    return product if alpha == 1 else product * alpha


def _fused(a: Node, x: Tensor, y: Tensor) -> Tensor:
    return _product(a, x, y, a.alpha)


def _fused_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Like MatMul, with |alpha| and its rounding."""
    x, y = balls[0], balls[1]
    assert x is not None and y is not None
    form, alpha = node.out_formats[0], abs(node.alpha)
    p, q = x.value.abs(), y.value.abs()
    n = _laid(p, node.transBatchA, node.transA).shape[-1]
    worst, spread = accumulated(policy, form, _product(node, p, q, alpha), n, extra=1 + 2 * (alpha != 1))
    variance = spread.square()
    if x.worst is not None:
        worst = worst + _product(node, finite(x.worst), q, alpha)
        variance = variance + _product(node, finite(x.spread).clamp(max=1e150).square(), q.square(), alpha * alpha)
    if y.worst is not None:
        worst = worst + _product(node, p if x.worst is None else p + finite(x.worst), finite(y.worst), alpha)
        sizes = p.square() if x.worst is None else p.square() + finite(x.spread).clamp(max=1e150).square()
        variance = variance + _product(node, sizes, finite(y.spread).clamp(max=1e150).square(), alpha * alpha)
    return [(settle(worst), settle(variance.sqrt()))]


def _stored(shape: Sequence[Dim | None], batch: bool, swap: bool) -> list[Dim | None]:
    """The shape of an operand that is `shape` once it is laid out."""
    dims = list(shape)
    if swap:
        dims[-2:] = dims[:-3:-1]
    return [dims[-2], *dims[:-2], dims[-1]] if batch and len(dims) > 2 else dims


def _read(dims: Sequence[Dim], batch: bool, swap: bool) -> list[Dim]:
    shape = [*dims[1:-1], dims[0], dims[-1]] if batch and len(dims) > 2 else list(dims)
    if swap:
        shape[-2:] = shape[:-3:-1]
    return shape


@op("FusedMatMul", meaning=_fused, error=_fused_error, domain=MICROSOFT, among=[FLOAT])
def fused_matmul(g: Draw) -> Rule:
    """Both transpositions on either side, scaled by a number of either sign."""
    attrs: dict[str, Any] = {name: 1 for name in ("transA", "transB") if g.flag(0.4)}
    x = g.operand(rank=(2, 4))
    first = len(x) > 2 and g.flag(0.3)
    shape = _read(x, first, "transA" in attrs)
    second = len(x) > 2 and (first or g.flag(0.2))
    y = g.operand(like=_stored([*shape[:-2], shape[-1], None], second, "transB" in attrs), role="data" if g.flag(0.4) else "weight")
    attrs |= {name: 1 for name, on in (("transBatchA", first), ("transBatchB", second)) if on}
    if g.flag():
        attrs["alpha"] = g.pick([0.5, -1.0, 0.125, 1.7, -0.3])
    other = _read(y, second, "transB" in attrs)
    return Rule([x, y], [[*broadcast(shape[:-2], other[:-2]), shape[-2], other[-1]]], attrs)


# MatMulNBits -----------------------------------------------------------------------------------------------------------
def _unpacked(q: Tensor, bits: int) -> Tensor:
    """Numbers of few bits out of bytes, the lowest bits first."""
    parts = [(q >> (bits * i)) & ((1 << bits) - 1) for i in range(8 // bits)]
    return torch.stack(parts, -1).reshape(*q.shape[:-1], -1)


def _levels(a: Node, q: Tensor, zeros: Tensor | None, groups: Tensor | None) -> Tensor:
    """The weights from their zero points on, N by K, as doubles."""
    levels = _unpacked(q.reshape(a.N, -1), a.bits)[:, : a.K].double()
    if zeros is None:
        return levels - 2 ** (a.bits - 1)
    packed = not zeros.is_floating_point()
    by_block = (_unpacked(zeros.reshape(a.N, -1), a.bits) if packed else zeros.reshape(a.N, -1)).double()
    return levels - _by_column(a, by_block, groups)


def _by_column(a: Node, by_block: Tensor, groups: Tensor | None) -> Tensor:
    """What is given per block of columns, or per group of columns in any order, given per column."""
    if groups is not None:
        return by_block[:, groups.long()]
    return by_block.repeat_interleave(a.block_size, 1)[:, : a.K]


def _few_bits(a: Node, x: Tensor, q: Tensor, scales: Tensor, zeros: Tensor | None = None, groups: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    weights = _levels(a, q, zeros, groups).to(x.dtype) * _by_column(a, scales.reshape(a.N, -1), groups)
    y = x @ weights.t()
    return y if bias is None else y + bias


def _few_bits_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """A contraction whose weights are rounded once; accuracy level 4 may quantise the left operand as well: undecided."""
    x, q, scales, zeros, groups, bias = (*balls, None, None, None, None)[:6]
    assert x is not None and q is not None and scales is not None
    if node.accuracy_level == 4 or any(b is not None and b.worst is not None for b in (q, zeros, groups)):
        return undecidable(node, policy, balls, ys)
    columns = None if groups is None else groups.value
    levels = _levels(node, q.value, None if zeros is None else zeros.value, columns).abs().t()
    w = levels * _by_column(node, scales.value.reshape(node.N, -1), columns).abs().t()
    size, form = x.value.abs(), node.out_formats[0]
    total = size @ w if bias is None else size @ w + bias.value.abs()
    worst, spread = accumulated(policy, form, total, node.K + (bias is not None), extra=4)
    variance = spread.square()
    if x.worst is not None:
        worst = worst + finite(x.worst) @ w
        variance = variance + finite(x.spread).clamp(max=1e150).square() @ w.square()
        size = size + finite(x.worst)
    if scales.worst is not None:
        ew, sw = (levels * _by_column(node, finite(r).reshape(node.N, -1), columns).t() for r in (scales.worst, scales.spread))
        worst, variance = worst + size @ ew, variance + size.square() @ sw.clamp(max=1e150).square()
    if bias is not None and bias.worst is not None:
        worst, variance = worst + finite(bias.worst), variance + finite(bias.spread).clamp(max=1e150).square()
    return [(settle(worst), settle(variance.sqrt()))]


@op("MatMulNBits", meaning=_few_bits, error=_few_bits_error, domain=MICROSOFT, among=[FLOAT])
def matmul_few_bits(g: Draw) -> Rule:
    """Weights in blocks along K, the last one not always full; zero points packed like the weights, or left out."""
    bits, block, k, n = g.pick([4, 4, 8]), g.pick([16, 32, 64]), g.pick([32, 16, 64, 48, 40, 96]), g.int(1, 16)
    x = g.operand(like=[*[None] * g.int(1, 2), k])
    blocks = -(-k // block)
    operands: list[Operand | None] = [x, g.given([n, blocks, block * bits // 8], 0, 255, role="parameter")]
    operands.append(g.given([n, blocks], 0.01, 0.2, role="parameter"))
    if g.flag():
        g.type("T3", among=[UINT8])
        operands.append(g.given([n, -(-blocks * bits // 8)], 0, 255, role="parameter"))
    attrs: dict[str, Any] = {"K": k, "N": n, "block_size": block, "bits": bits}
    if g.flag(0.3):
        attrs["accuracy_level"] = g.pick([0, 1])
    return Rule(operands, [[*x[:-1], n]], attrs)
