"""Layers as exporters and quantisers write them: a handful of small nodes that a compiler has to recognise and fuse.

These have no paper of their own; the title names who writes the form. Where ONNX has an operator for the layer, a relation says
that both are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from specs.blocks.layers import act, add, bn, channels, conv, mean, mul, pad, reshape, slice_, transpose
from specs.blocks.parts import divisors, offset, scale, sub
from specs.formats import BOOL, FLOAT
from specs.net import block, relation

OFTEN = 6  # these are what pattern matchers look for
EXPORT = "Layers as PyTorch's exporter writes them, node by node"


def written_norm(net: Any, x: Any, w: Any, b: Any, epsilon: float = 1e-5) -> Any:
    """Layer normalisation over the last axis in nine nodes."""
    last = net.ints([-1])
    centre = net("ReduceMean", x, last) if net.opset >= 18 else net("ReduceMean", x, axes=[-1])
    d = net("Sub", x, centre)
    square = net("Pow", d, net.const(2.0))
    variance = net("ReduceMean", square, last) if net.opset >= 18 else net("ReduceMean", square, axes=[-1])
    return net("Add", net("Mul", net("Div", d, net("Sqrt", offset(net, variance, epsilon))), w), b)


def written_rms(net: Any, x: Any, w: Any, epsilon: float = 1e-5) -> Any:
    """Root-mean-square normalisation over the last axis in six nodes."""
    square = net("Pow", x, net.const(2.0))
    size = net("ReduceMean", square, net.ints([-1])) if net.opset >= 18 else net("ReduceMean", square, axes=[-1])
    return net("Mul", net("Div", x, net("Sqrt", offset(net, size, epsilon))), w)


def written_gelu(net: Any, x: Any) -> Any:
    """x/2 (1 + erf(x/sqrt 2)), dividing first, as tracing writes it."""
    inner = offset(net, net("Erf", net("Div", x, net.const(2**0.5))), 1.0)
    return scale(net, net("Mul", x, inner), 0.5)


def written_tanh_gelu(net: Any, x: Any) -> Any:
    cube = net("Pow", x, net.const(3.0))
    inner = net("Tanh", scale(net, add(net, x, scale(net, cube, 0.044715)), (2 / np.pi) ** 0.5))
    return net("Mul", scale(net, x, 0.5), offset(net, inner, 1.0))


def _norm(net: Any, x: Any) -> Any:
    """Layer normalisation written out, or now and then the operator, where there is one."""
    w, b = net.weight(x.shape[-1]), net.weight(x.shape[-1])
    if net.opset >= 17 and net.flag(0.3):
        return net("LayerNormalization", x, w, b, axis=-1, epsilon=1e-5)
    return written_norm(net, x, w, b)


@block("idiom/layer-norm", EXPORT, takes="tokens", hazards="variance of a nearly constant row", weight=OFTEN)
def layer_norm(net: Any, x: Any) -> Any:
    """Layer normalisation written out, after a skip connection or on its own."""
    d = x.shape[-1]
    skip = net.pick((0, 1, 2))
    if skip:
        x = add(net, x, net("MatMul", x, net.weight(d, d)))
    if skip == 2:
        x = net("Add", x, net.weight(d))
    return _norm(net, x)


@block("idiom/biased-batch", EXPORT, takes="tokens", weight=OFTEN)
def biased_batch(net: Any, x: Any) -> Any:
    """A product with a matrix for each image and its bias, before GELU or a skip connection that is normalised; stresses fused biases."""
    n, _, d = x.shape
    y = net("Add", net.weight(d), net("MatMul", x, net.weight(n, d, d)))
    if net.flag():
        return written_gelu(net, y)
    return _norm(net, net("Add", x, y))


@relation("idiom/layer-norm-operator", of="idiom/layer-norm", takes="tokens")
def layer_norm_operator(net: Any, x: Any) -> Any:
    """Nine nodes and LayerNormalization; before opset 17, variance as a difference of rows that are centred twice."""
    w, b = net.weight(x.shape[-1]), net.weight(x.shape[-1])
    if net.opset < 17:
        return written_norm(net, x, w, b), written_norm(net, sub(net, x, mean(net, x, [-1])), w, b)
    return written_norm(net, x, w, b), net("LayerNormalization", x, w, b, axis=-1, epsilon=1e-5)


@block("idiom/rms-norm", EXPORT, takes="tokens", hazards="rows near zero", weight=OFTEN)
def rms_norm(net: Any, x: Any) -> Any:
    return written_rms(net, x, net.weight(x.shape[-1]))


@relation("idiom/rms-norm-operator", of="idiom/rms-norm", takes="tokens")
def rms_norm_operator(net: Any, x: Any) -> Any:
    """Six nodes and RMSNormalization; before opset 23, the sum of squares as a matrix product."""
    d = x.shape[-1]
    w = net.weight(d)
    if net.opset >= 23:
        return written_rms(net, x, w), net("RMSNormalization", x, w, axis=-1, epsilon=1e-5)
    size = net("MatMul", mul(net, x, x), net.const(np.full((d, 1), 1 / d)))
    return written_rms(net, x, w), net("Mul", mul(net, x, net("Reciprocal", net("Sqrt", offset(net, size, 1e-5)))), w)


@block("idiom/gelu", EXPORT, takes="tokens", weight=OFTEN)
def gelu(net: Any, x: Any) -> Any:
    """A dense layer and GELU, exact or by tanh, written out."""
    wide = net("MatMul", x, net.weight(x.shape[-1], net.pick((16, 8))))
    wide = net("Add", wide, net.weight(wide.shape[-1])) if net.flag() else wide
    return written_gelu(net, wide) if net.flag(0.6) else written_tanh_gelu(net, wide)


@relation("idiom/gelu-operator", of="idiom/gelu", takes="tokens")
def gelu_operator(net: Any, x: Any) -> Any:
    """The formula and Gelu, in both of its approximations; before opset 20, the formula that multiplies first."""
    if net.opset < 20:
        return written_gelu(net, x), act(net, x, "Gelu")
    if net.flag():
        return written_tanh_gelu(net, x), net("Gelu", x, approximate="tanh")
    return written_gelu(net, x), net("Gelu", x)


@block("idiom/bias-softmax", EXPORT, takes="tokens", hazards="a masked row", weight=OFTEN)
def bias_softmax(net: Any, x: Any) -> Any:
    """Scores scaled, a mask that is broadcast added, softmax."""
    n, rows, d = x.shape
    heads = net.pick(divisors(d, (2, 4, 1)))
    q = transpose(net, reshape(net, x, [n, rows, heads, d // heads]), [0, 2, 1, 3])
    scores = net("Div", net("MatMul", q, transpose(net, q, [0, 1, 3, 2])), net.const((d // heads) ** 0.5))
    mask = net.input(n, 1, 1, rows) if net.flag() else net.weight(1, 1, rows, rows)
    return net("MatMul", net("Softmax", net("Add", scores, mask), axis=-1), q)


@block("idiom/self-attention", EXPORT, takes="tokens", weight=OFTEN)
def self_attention(net: Any, x: Any) -> Any:
    """Projections, heads by reshape and transpose, scores, softmax, and back, as traced from BERT."""
    rows, d = x.shape[1:]
    heads = net.pick(divisors(d, (2, 4, 1)))

    def split(perm: list[int]) -> Any:
        y = net("Add", net("MatMul", x, net.weight(d, d)), net.weight(d))
        return transpose(net, reshape(net, y, [0, 0, heads, d // heads]), perm)

    q, k, v = split([0, 2, 1, 3]), split([0, 2, 3, 1]), split([0, 2, 1, 3])
    scores = net("Div", net("MatMul", q, k), net.const((d // heads) ** 0.5))
    if net.flag():
        seen = net.const(np.tri(rows)[None, None], BOOL)
        scores = net("Where", net("Not", seen) if net.flag() else seen, scores, net.const(-100.0))
    y = transpose(net, net("MatMul", net("Softmax", scores, axis=-1), v), [0, 2, 1, 3])
    y = net("Add", net("MatMul", reshape(net, y, [0, 0, d]), net.weight(d, d)), net.weight(d))
    return written_norm(net, add(net, y, x), net.weight(d), net.weight(d)) if net.flag() else y


@block("idiom/folded-affine", EXPORT, dims=(1, 2, 3), weight=OFTEN)
def folded_affine(net: Any, x: Any) -> Any:
    """A convolution with what may be folded into it: padding before; batch norm, a scale, a sum, an activation after."""
    rank = len(x.shape) - 2
    if net.flag():
        x = pad(net, x, [1] * rank, [net.pick((1, 2, 0))] * rank)
    y = conv(net, x, net.pick((8, 5)), net.pick((3, 1)), bias=net.flag())
    one = [1, channels(y), *[1] * rank]
    kind = net.pick(("bn", "Mul", "Add", "sum"))
    y = bn(net, y) if kind == "bn" else add(net, y, y) if kind == "sum" else net(kind, y, net.weight(*one))
    ends = {"relu": lambda v: net("Relu", v), "clip": lambda v: net("Clip", net("Relu", v), net.const(0.0), net.const(6.0)),
            "leaky": lambda v: net("LeakyRelu", v, alpha=0.1), "silu": lambda v: mul(net, v, net("Sigmoid", v))}  # fmt: skip
    return ends[net.pick(tuple(ends))](y)


@block("idiom/dense-affine", EXPORT, takes="tokens", weight=OFTEN)
def dense_affine(net: Any, x: Any) -> Any:
    """A matrix product with what may be folded into it: a transpose or a scale before, batch norm, a sum or an activation after."""
    d, out = x.shape[-1], net.pick((8, 6))
    if net.flag():
        x = scale(net, x, 0.125)
    y = net("MatMul", x, transpose(net, net.weight(out, d), [1, 0])) if net.flag() else net("MatMul", x, net.weight(d, out))
    flat = reshape(net, y, [-1, out])
    kind = net.pick(("bn", "gemm", "sum", "relu"))
    if kind == "bn":
        return bn(net, flat)
    if kind == "gemm":
        return net("Relu", net("Gemm", transpose(net, flat, [1, 0]), net.weight(flat.shape[0], 4), net.weight(4), transA=0))
    return net("Relu", net("Add", y, net.weight(out))) if kind == "relu" else net("Sum", net("Gemm", flat, net.weight(out, 4)), net.weight(4))


@block("idiom/focus", "YOLOv5's first layer as it is exported: every other pixel, four times", even=2, weight=OFTEN)
def focus(net: Any, x: Any) -> Any:
    """SpaceToDepth by strided slices, of two axes at once or one behind the other, and a concat."""
    h, w = x.shape[2:]
    if net.flag():
        cuts = [(net.ints([i, j]), net.ints([h, w]), net.ints([2, 3]), net.ints([2, 2])) for j in (0, 1) for i in (0, 1)]
        parts = [net("Slice", x, *cut) for cut in cuts]
    else:
        parts = [slice_(net, slice_(net, x, i, h, 2, 2), j, w, 3, 2) for j in (0, 1) for i in (0, 1)]
    return conv(net, net("Concat", *parts, axis=1), net.pick((8, 5)), 3)


@block("idiom/consecutive-gather", EXPORT, takes="tokens", weight=OFTEN)
def consecutive_gather(net: Any, x: Any) -> Any:
    """Indices 0, 1, 2 ... of a constant, which are a slice; the parts go different ways, which is a split."""
    rows = x.shape[1]
    first = net.int(1, rows)
    head = net("Gather", x, net.ints(list(range(first))), axis=1)
    tail = slice_(net, x, first, rows, 1) if first < rows else x
    return net("Concat", net("Relu", head), net("Neg", tail), axis=1)


@block("idiom/nothing", EXPORT, dims=(1, 2, 3), weight=OFTEN)
def nothing(net: Any, x: Any) -> Any:
    """Steps that change nothing, between steps that do: times 1, plus 0, a cast there and back, a slice of everything."""
    y = net("Relu", x)
    for _ in range(net.int(1, 4)):
        kind = net.pick(("mul", "add", "cast", "slice", "expand", "dropout", "transpose"))
        if kind in ("mul", "add"):
            y = net("Mul", y, net.const(1.0)) if kind == "mul" else net("Add", y, net.const(0.0))
        elif kind == "cast":
            y = net("Cast", net("Cast", y, to=FLOAT.onnx), to=y.format.onnx)
        elif kind == "slice":
            y = slice_(net, y, 0, y.shape[1], 1)
        elif kind == "expand":
            y = net("Expand", y, net.ints([1] * len(y.shape)))
        elif kind == "dropout":
            y = net("Dropout", y)
        else:
            perm = [0, *range(2, len(y.shape)), 1]
            y = transpose(net, transpose(net, y, perm), [perm.index(i) for i in range(len(perm))])
    return net("Sigmoid", y)
