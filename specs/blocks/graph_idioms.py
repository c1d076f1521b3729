"""Arrangements that optimisers of whole graphs move, merge or cancel: parallel products, transposes that meet, work done twice.

Each is what tracing leaves of ordinary code; the title names who writes it. The relation beside it is the rewrite itself.
"""

from __future__ import annotations

from typing import Any

from specs.blocks.idioms import EXPORT, OFTEN
from specs.blocks.layers import add, bn, conv, mul, reshape, transpose
from specs.blocks.parts import divisors
from specs.net import block, relation

SELDOM = 3 * OFTEN  # a random sequence of passes holds the one that looks for it once in seven times


def _weights(net: Any, *sizes: tuple[int, ...]) -> list[Any]:
    """Weights of these sizes: constants, or inputs of the network, which some optimisers tell from constants."""
    given = net.flag()
    return [net.input(*dims) if given else net.weight(*dims) for dims in sizes]


def _parallel(net: Any, d: int) -> list[Any]:
    return _weights(net, *((d, n) for n in net.pick(((8, 8, 8), (8, 4, 4), (6, 6)))))


@block("idiom/parallel-dense", "Query, key and value as three dense layers, as PyTorch's exporter writes them", takes="tokens", weight=SELDOM)
def parallel_dense(net: Any, x: Any) -> Any:
    """Products of one value with several weights, some with a bias or an activation; stresses their merging into one."""
    end = net.pick(("none", "bias", "relu", "both"))
    results = [net("MatMul", x, w) for w in _parallel(net, x.shape[-1])]
    if end in ("bias", "both"):
        results = [net("Add", y, net.weight(y.shape[-1])) for y in results]
    if end in ("relu", "both"):
        results = [net("Relu", y) for y in results]
    return net("Concat", *results, axis=-1) if net.flag() else tuple(results)


@relation("idiom/parallel-dense-merged", of="idiom/parallel-dense", takes="tokens")
def parallel_dense_merged(net: Any, x: Any) -> Any:
    """Several products, and one with the weights side by side."""
    weights = _parallel(net, x.shape[-1])
    return net("Concat", *(net("MatMul", x, w) for w in weights), axis=-1), net("MatMul", x, net("Concat", *weights, axis=1))


def _turned(net: Any, x: Any) -> Any:
    """The last two dims exchanged."""
    rank = len(x.shape)
    return transpose(net, x, [*range(rank - 2), rank - 1, rank - 2])


@block("idiom/transposed-product", "Scores and tied embeddings: a product with what was computed, transposed", takes="tokens", weight=SELDOM)
def transposed_product(net: Any, x: Any) -> Any:
    """A transpose in front of either operand of a product, now and then with a scale; stresses flags of the product."""
    d = x.shape[-1]
    y = net("Tanh", net("MatMul", x, net.weight(d, d)))
    kind = net.pick(("right", "left", "both"))
    if kind == "left":
        scores = net("MatMul", _turned(net, x), y)
    elif kind == "right":
        scores = net("MatMul", x, _turned(net, y))
    else:
        scores = net("MatMul", _turned(net, y), _turned(net, net("MatMul", net.weight(x.shape[0], d, d), _turned(net, x))))
    return net("Mul", scores, net.const(0.125)) if net.flag(0.4) else scores


@relation("idiom/transposed-product-turned", of="idiom/transposed-product", takes="tokens")
def transposed_product_turned(net: Any, x: Any) -> Any:
    """x y^T and (y x^T)^T."""
    y = net("MatMul", x, net.weight(x.shape[-1], x.shape[-1]))
    return net("MatMul", x, _turned(net, y)), _turned(net, net("MatMul", y, _turned(net, x)))


def _branches(net: Any, x: Any) -> list[Any]:
    c = x.shape[1]
    return [net("Relu", conv(net, x, c, 1)), net("Sigmoid", x), *([x] if net.flag() else [])]


def _last(x: Any) -> list[int]:
    """Channels last."""
    return [0, *range(2, len(x.shape)), 1]


@block("idiom/transposes-concat", "Detection heads: every branch brought to channels last, then joined", dims=(1, 2), weight=SELDOM)
def transposes_concat(net: Any, x: Any) -> Any:
    """The same transpose on every operand of a concat; stresses moving it behind."""
    return net("Concat", *(transpose(net, v, _last(x)) for v in _branches(net, x)), axis=net.pick((1, -1)))


@relation("idiom/transposes-concat-behind", of="idiom/transposes-concat", dims=(1, 2))
def transposes_concat_behind(net: Any, x: Any) -> Any:
    """Transposed and joined, and joined and transposed."""
    parts = _branches(net, x)
    return net("Concat", *(transpose(net, v, _last(x)) for v in parts), axis=-1), transpose(net, net("Concat", *parts, axis=1), _last(x))


def _chosen(net: Any, n: int) -> Any:
    return net.ints([(5 * i + 1) % n for i in range(net.pick((2, 3)))])


@block("idiom/chosen-columns", "Sampled softmax and adapters: some columns of a weight are taken, then multiplied by", takes="tokens", weight=SELDOM)
def chosen_columns(net: Any, x: Any) -> Any:
    """A Gather of a weight's columns in front of a product; stresses moving it behind."""
    return net("MatMul", x, net("Gather", *_weights(net, (x.shape[-1], 6)), _chosen(net, 6), axis=1))


@relation("idiom/chosen-columns-behind", of="idiom/chosen-columns", takes="tokens")
def chosen_columns_behind(net: Any, x: Any) -> Any:
    """Columns of the weight, and columns of the product."""
    (w,), chosen = _weights(net, (x.shape[-1], 6)), _chosen(net, 6)
    return net("MatMul", x, net("Gather", w, chosen, axis=1)), net("Gather", net("MatMul", x, w), chosen, axis=-1)


@block("idiom/reshapes", EXPORT, takes="tokens", weight=SELDOM)
def reshapes(net: Any, x: Any) -> Any:
    """Reshape behind Reshape, Flatten, Squeeze or Unsqueeze; some change nothing, some only together."""
    n, rows, d = x.shape
    heads = net.pick(divisors(d, (2, 4, 1)))
    y = reshape(net, net("Relu", x), [n, rows, heads, d // heads])
    for _ in range(net.int(1, 3)):
        kind = net.pick(("there and back", "flat", "unsqueeze", "same"))
        if kind == "there and back":
            y = reshape(net, reshape(net, y, [n * rows, heads, d // heads]), [n, rows, heads, d // heads])
        elif kind == "flat":
            y = reshape(net, net("Flatten", y, axis=2), [n, rows, heads, d // heads])
        elif kind == "unsqueeze":
            y = net("Squeeze", net("Unsqueeze", y, net.ints([1])), net.ints([1]))
        else:
            y = reshape(net, y, list(y.shape))
    return net("Sigmoid", reshape(net, y, [n, rows, d]))


@block("idiom/twice", "A layer called twice on the same value, as tracing writes it", takes="tokens", weight=SELDOM)
def twice(net: Any, x: Any) -> Any:
    """The same product, activation and sum computed twice; stresses common subexpressions and what depends on them."""
    w, b = net.weight(x.shape[-1], 6), net.weight(6)
    once, again = (net("Tanh", net("Add", net("MatMul", x, w), b)) for _ in range(2))
    return mul(net, once, net("Exp", again)) if net.flag() else net("Sub", add(net, once, net("Sigmoid", once)), again)


@block("idiom/conv-chain", EXPORT, dims=(2,), weight=SELDOM)
def conv_chain(net: Any, x: Any) -> Any:
    """Convolution after convolution with elementwise steps between and a pool at the end; stresses layouts that are kept over several operators."""
    y = x
    for _ in range(net.int(2, 3)):
        y = conv(net, y, net.pick((8, 16)), net.pick((3, 1)), bias=net.flag(0.3))
        kind = net.pick(("bn", "relu", "sum", "sigmoid"))
        y = net("Relu", bn(net, y)) if kind == "bn" else add(net, y, net("Relu", y)) if kind == "sum" else net("Relu" if kind == "relu" else "Sigmoid", y)
    return net("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2]) if net.flag() else net("GlobalAveragePool", y)
