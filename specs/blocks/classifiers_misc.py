"""Plain classifiers: stacks of convolution and pooling, response normalisation, dense heads and what commutes with them."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from specs.blocks.layers import act, channels, concat, conv, conv_bn_act, gap, mul, pointwise, pool, reshape, resize, spatial, transpose
from specs.blocks.parts import bn_with, conv_with, flatten_linear, scale, squeeze_excite, statistics, sub
from specs.net import block, need, relation


def fitted(net: Any, x: Any, size: int) -> Any:
    """An image brought to the fixed size a classifier expects."""
    return resize(net, x, [size] * (len(x.shape) - 2))


def probabilities(net: Any, logits: Any) -> Any:
    return net("Softmax", logits, axis=-1)


def lrn(net: Any, x: Any, size: int = 5, bias: float = 1.0) -> Any:
    return net("LRN", x, size=size, alpha=1e-4, beta=0.75, bias=bias)


def ceil_pool(net: Any, x: Any, k: int = 3, s: int = 2, kind: str = "MaxPool") -> Any:
    """Overlapping pooling with the last window partly outside, where it does not start outside."""
    rank = len(x.shape) - 2
    need(all(n >= k for n in spatial(x)), "pooling window over a smaller map")
    return net(kind, x, kernel_shape=[k] * rank, strides=[s] * rank, ceil_mode=int(net.flag(0.6)))


def _bra(net: Any, x: Any, p: tuple[Any, Any, Any, Any]) -> Any:
    return pool(net, act(net, bn_with(net, x, p)), "AveragePool")


@block("c3ae", "C3AE: Exploring the Limits of Compact Model for Age Estimation", seeds=["002:299"], hazards="floor of odd sizes, softmax")
def c3ae(net: Any, x: Any) -> Any:
    """Valid convolution, norm, activation, average pooling and a channel gate; stresses pooling of odd sizes."""
    y = _bra(net, conv(net, x, 8, 3, pad=0, bias=True), statistics(net, 8))
    return conv(net, squeeze_excite(net, y, 4), 8, 1, bias=True)


def _crop_features(net: Any, crops: list[Any]) -> list[Any]:
    """The same network on every crop, by shared weights."""
    c = channels(crops[0])
    w1, w2, p1, p2 = net.weight(8, c, 3, 3), net.weight(8, 8, 3, 3), statistics(net, 8), statistics(net, 8)
    return [_bra(net, conv_with(net, _bra(net, conv_with(net, x, w1, pads=0), p1), w2), p2) for x in crops]


@block("c3ae/net", "C3AE: Exploring the Limits of Compact Model for Age Estimation", seeds=["002:299"])
def c3ae_net(net: Any, x: Any) -> Any:
    """Three crops through one network, a distribution over age bins and the age from it."""
    features = _crop_features(net, [fitted(net, v, 12) for v in (x, net.input(*x.shape), net.input(*x.shape))])
    bins = probabilities(net, flatten_linear(net, concat(net, *[net("Flatten", f) for f in features]), net.pick((12, 21))))
    return flatten_linear(net, bins, 1), bins


@relation("c3ae/batched-crops", of="c3ae")
def c3ae_batched(net: Any, x: Any) -> Any:
    """Crops one by one = crops stacked in the batch."""
    x, other = fitted(net, x, 12), fitted(net, net.input(*x.shape), 12)
    w, p = net.weight(8, channels(x), 3, 3), statistics(net, 8)

    def features(v: Any) -> Any:
        return _bra(net, conv_with(net, v, w, pads=0), p)

    return concat(net, features(x), features(other), axis=0), features(concat(net, x, other, axis=0))


@block("c3ae/two-point-encoding", "C3AE: Exploring the Limits of Compact Model for Age Estimation", seeds=["002:299"], hazards="values on a bin")
def two_point_encoding(net: Any, x: Any) -> Any:
    """A value shared linearly between the two bins beside it, by hat functions; stresses broadcast of bins."""
    age = scale(net, act(net, flatten_linear(net, gap(net, x), 1), "Sigmoid"), 11.0)
    return act(net, sub(net, net.const(1.0), net("Abs", sub(net, age, net.const(np.arange(12.0))))))


@block(
    "caffenet",
    "Land Use Classification in Remote Sensing Images by Convolutional Neural Networks",
    seeds=["002:445"],
    hazards="squares, windows partly outside",
)
def caffenet(net: Any, x: Any) -> Any:
    """Grouped convolution, overlapping pooling, then response normalisation; stresses LRN across channel edges and ceil mode."""
    y = ceil_pool(net, act(net, conv(net, x, 8, net.pick((3, 5)), g=net.pick((1, 2)), bias=True)))
    return lrn(net, y, net.pick((5, 3)))


@block("caffenet/inception", "Land Use Classification in Remote Sensing Images (GoogLeNet's cell)", seeds=["002:445"], dims=(1, 2, 3))
def inception(net: Any, x: Any) -> Any:
    """Four branches joined: pointwise, two larger kernels behind pointwise ones, pooling."""
    branches = [conv(net, x, 4, 1, bias=True)]
    branches += [conv(net, act(net, conv(net, x, 4, 1, bias=True)), 4, k, bias=True) for k in (3, 5)]
    branches.append(conv(net, pool(net, x, "MaxPool", 3, 1, 1), 4, 1, bias=True))
    return act(net, concat(net, *branches))


@block("caffenet/net", "Land Use Classification in Remote Sensing Images by Convolutional Neural Networks", seeds=["002:445"])
def caffenet_net(net: Any, x: Any) -> Any:
    """Strided stem, two grouped stages, dense layers."""
    y = act(net, conv(net, fitted(net, x, 23), 8, 5, s=2, pad=0, bias=True))
    y = lrn(net, ceil_pool(net, y))
    y = lrn(net, ceil_pool(net, act(net, conv(net, y, 12, 3, g=2, bias=True))))
    y = act(net, conv(net, act(net, conv(net, y, 12, 3, bias=True)), 12, 3, g=2, bias=True))
    return probabilities(net, flatten_linear(net, act(net, flatten_linear(net, y, 24)), 10))


@relation("caffenet/flatten-order", of="caffenet", dims=(1, 2, 3))
def flatten_order(net: Any, x: Any) -> Any:
    """A dense layer on channels-first features = one on channels-last features with its rows permuted."""
    c, rank, size = channels(x), len(x.shape) - 2, list(spatial(x))
    small = net("GlobalMaxPool", x) if prod(size) * c > 1500 else x
    size = list(spatial(small))
    w = net.weight(c * prod(size), 6)
    left = net("MatMul", net("Flatten", small), w)
    last = transpose(net, small, [0, *range(2, rank + 2), 1])
    moved = transpose(net, reshape(net, w, [c, *size, 6]), [*range(1, rank + 1), 0, rank + 1])
    return left, net("MatMul", net("Flatten", last), reshape(net, moved, [-1, 6]))


@block("ciresan-skip-conv-tanh", "High-Performance Neural Networks for Visual Object Classification", seeds=["002:53"], hazards="tanh saturation, masked sums")
def ciresan_skip_conv_tanh(net: Any, x: Any) -> Any:
    """Valid strided convolution with a fixed partial connectivity and a scaled tanh; stresses masked weights and exact division of sizes."""
    s, out, c = net.pick((1, 2)), net.pick((8, 6)), channels(x)
    fits = [k for k in (3, 4, 5, 2) if all((n - k) % s == 0 for n in spatial(x))]
    k, s = (net.pick(tuple(fits)), s) if fits else (3, 1)
    mask = np.array([[float((i + j) % 3 != 0 or i % c == j) for j in range(c)] for i in range(out)])[:, :, None, None]
    y = conv_with(net, x, mul(net, net.weight(out, c, k, k), net.const(mask)), net.weight(out), s=s, pads=0)
    return scale(net, act(net, scale(net, y, 0.6666), "Tanh"), 1.7159)


@relation("ciresan-skip-conv-tanh/grouped", of="ciresan-skip-conv-tanh")
def ciresan_grouped(net: Any, x: Any) -> Any:
    """A mask in blocks is a grouped convolution."""
    c, g, out = channels(x), net.pick((2, 4)), 8
    w = net.weight(out, c // g, 3, 3)
    wide = net("Tile", w, net.ints([1, g, 1, 1]))
    mask = np.kron(np.eye(g), np.ones((out // g, c // g)))[:, :, None, None]
    return conv_with(net, x, mul(net, wide, net.const(mask))), conv_with(net, x, w, g=g)


@block("ciresan-skip-conv-tanh/mexican-hat", "High-Performance Neural Networks for Visual Object Classification", seeds=["002:53"])
def mexican_hat(net: Any, x: Any) -> Any:
    """Fixed centre-surround filters of growing sizes, both polarities; stresses constant kernels and Neg after Conv."""
    y, maps = pointwise(net, x, 1), list[Any]()
    for k in (3, 5, 7):
        r = ((np.arange(k) - k // 2)[:, None] ** 2 + (np.arange(k) - k // 2)[None] ** 2) / (k / 3) ** 2
        hat = (1 - r) * np.exp(-r)
        z = conv_with(net, y, net.const((hat - hat.mean())[None, None]))
        maps += [act(net, z), act(net, net("Neg", z))]
    return concat(net, *maps)


@block("ciresan-skip-conv-tanh/net", "High-Performance Neural Networks for Visual Object Classification", seeds=["002:53"])
def ciresan_net(net: Any, x: Any) -> Any:
    """Alternating scaled-tanh convolutions and pooling down to one pixel, dense output."""
    y = pool(net, ciresan_skip_conv_tanh(net, fitted(net, x, 16)))
    y = conv(net, y, 12, spatial(y), pad=0, bias=True)
    return flatten_linear(net, act(net, flatten_linear(net, act(net, y, "Tanh"), 12), "Tanh"), 10)


def _dropout(net: Any, x: Any) -> Any:
    """Dropout as it stands in an inference graph."""
    return net("Dropout", x, net.const(net.pick((0.5, 0.25))))


@block(
    "deep-cnn-bn-dropout",
    "Enhanced Convolutional Neural Networks for Improved Image Classification",
    seeds=["000:389"],
    dims=(1, 2, 3),
    hazards="small variance",
)
def deep_cnn_bn_dropout(net: Any, x: Any) -> Any:
    """Two convolutions with norm, pooling and inference dropout; stresses folding and removal of Dropout."""
    out = net.pick((8, 12))
    return _dropout(net, pool(net, conv_bn_act(net, conv_bn_act(net, x, out, bias=True), out, bias=True)))


@block("deep-cnn-bn-dropout/net", "Enhanced Convolutional Neural Networks for Improved Image Classification", seeds=["000:389"])
def deep_cnn(net: Any, x: Any) -> Any:
    """Two stages, flatten, a dense layer with norm and dropout."""
    y = deep_cnn_bn_dropout(net, deep_cnn_bn_dropout(net, fitted(net, x, 12)))
    y = bn_with(net, flatten_linear(net, y, 16), statistics(net, 16))
    return probabilities(net, flatten_linear(net, _dropout(net, act(net, y)), 10))


@relation("deep-cnn-bn-dropout/relu-maxpool", of="deep-cnn-bn-dropout", dims=(1, 2, 3))
def relu_maxpool(net: Any, x: Any) -> Any:
    """Maximum and ReLU commute."""
    k, s = net.pick((2, 3)), net.pick((2, 1))
    y = conv(net, x, 6, 3)
    return pool(net, act(net, y), "MaxPool", k, s), act(net, pool(net, y, "MaxPool", k, s))


@relation("deep-cnn-bn-dropout/inference-dropout", of="deep-cnn-bn-dropout", dims=(1, 2, 3))
def inference_dropout(net: Any, x: Any) -> Any:
    """Dropout outside training is the identity."""
    y = conv(net, x, 6, 3)
    return act(net, _dropout(net, y)), act(net, y)


@block("mlpconv-nin", "Network In Network", seeds=["002:129"], dims=(1, 2, 3), hazards="mean of a map")
def mlpconv_nin(net: Any, x: Any) -> Any:
    """A convolution and two pointwise ones, pooling with ceil mode; stresses pointwise chains."""
    y = act(net, conv(net, x, 8, net.pick((3, 5)), bias=True))
    for out in (8, 6):
        y = act(net, conv(net, y, out, 1, bias=True))
    return ceil_pool(net, y)


@relation("mlpconv-nin/gap-linear", of="mlpconv-nin", dims=(1, 2, 3))
def gap_linear(net: Any, x: Any) -> Any:
    """The mean of a pointwise convolution = the dense layer of the mean."""
    w, b = net.weight(10, channels(x), *[1] * (len(x.shape) - 2)), net.weight(10)
    return gap(net, conv_with(net, x, w, b)), conv_with(net, gap(net, x), w, b)


@block("mlpconv-nin/net", "Network In Network", seeds=["002:129"], dims=(1, 2))
def nin_net(net: Any, x: Any) -> Any:
    """Two stages, one map for each class, global mean, softmax."""
    y = mlpconv_nin(net, fitted(net, x, 14))
    y = act(net, conv(net, act(net, conv(net, y, 8, 3, bias=True)), 10, 1, bias=True))
    return probabilities(net, net("Flatten", gap(net, y)))


@block(
    "vgg-block",
    "Very Deep Convolutional Networks for Large-Scale Image Recognition",
    seeds=["002:67"],
    dims=(1, 2, 3),
    hazards="activations grow, long dense sums",
)
def vgg_block(net: Any, x: Any) -> Any:
    """Convolutions of size 3 (now and then a pointwise one), then pooling; stresses Winograd kernels."""
    out, y, norm = net.pick((8, 16)), x, net.flag()
    for _ in range(net.pick((2, 1, 3))):
        y = conv_bn_act(net, y, out) if norm else act(net, conv(net, y, out, bias=True))
    y = act(net, conv(net, y, out, 1, bias=True)) if net.flag(0.3) else y
    return pool(net, y)


@block("vgg-block/net", "Very Deep Convolutional Networks for Large-Scale Image Recognition", seeds=["002:67"], dims=(1, 2))
def vgg_net(net: Any, x: Any) -> Any:
    """Three stages, two dense layers with dropout, softmax; one configuration normalises responses."""
    y = vgg_block(net, fitted(net, x, 16))
    y = lrn(net, y) if len(y.shape) == 4 and net.flag(0.3) else y
    y = vgg_block(net, vgg_block(net, y))
    for _ in range(2):
        y = _dropout(net, act(net, flatten_linear(net, y, 24)))
    return probabilities(net, flatten_linear(net, y, 10))


@relation("vgg-block/fc-to-conv", of="vgg-block", dims=(1, 2, 3))
def fc_to_conv(net: Any, x: Any) -> Any:
    """A dense layer on the flattened map = a valid convolution with a kernel as large as the map."""
    x = fitted(net, x, 3)
    w, b = net.weight(12, channels(x), *spatial(x)), net.weight(12)
    left = net("Gemm", net("Flatten", x), reshape(net, w, [12, -1]), b, transB=1)
    return left, reshape(net, conv_with(net, x, w, b, pads=0), [x.shape[0], 12])


@relation("vgg-block/dense-evaluation", of="vgg-block")
def dense_evaluation(net: Any, x: Any) -> Any:
    """Dense layers as convolutions, slid over a larger map: each output is the classifier on its own window."""
    x = fitted(net, x, 6)
    w, v, b = net.weight(8, channels(x), 3, 3), net.weight(5, 8, 1, 1), net.weight(8)
    at = net.int(0, 3), net.int(0, 3)
    slid = conv_with(net, act(net, conv_with(net, x, w, b, pads=0)), v)
    left = reshape(net, net("Slice", slid, net.ints(at), net.ints([at[0] + 1, at[1] + 1]), net.ints([2, 3])), [x.shape[0], 5])
    window = net("Slice", x, net.ints(at), net.ints([at[0] + 3, at[1] + 3]), net.ints([2, 3]))
    hidden = act(net, net("Gemm", net("Flatten", window), reshape(net, w, [8, -1]), b, transB=1))
    return left, net("MatMul", hidden, transpose(net, reshape(net, v, [5, 8]), [1, 0]))
