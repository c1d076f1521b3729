"""Convolutions shaped by something else: their own norm, a family of wavelets, a mask of what is seen."""

from __future__ import annotations

from math import pi
from typing import Any

from specs.blocks.layers import (
    act,
    add,
    bn,
    channels,
    concat,
    conv,
    conv_bn_act,
    gap,
    layer_norm_channels,
    linear,
    mean,
    mul,
    pointwise,
    pool,
    reduce,
    reshape,
    spatial,
    upconv,
)
from specs.net import block, relation

B_COS = "B-cosification: Transforming Deep Neural Networks to be Inherently Interpretable"


def unit_norm(net: Any, w: Any) -> Any:
    return net("Div", w, reduce(net, "ReduceL2", w, list(range(1, len(w.shape)))))


def patch_norm(net: Any, x: Any, k: int, e: float, s: int = 1) -> Any:
    """The norm of the input under every position of the kernel, by a convolution of squares with ones."""
    ones = net("Expand", net.const([1.0]), net.ints([1, channels(x), *[k] * len(spatial(x))]))
    return net("Sqrt", net("Add", conv(net, mul(net, x, x), 1, k, s=s, w=ones), net.const(e)))


def b_cos(net: Any, x: Any, w: Any, b: float, e: float, s: int = 1) -> Any:
    """A unit-norm convolution times the power b - 1 of its cosine with the patch."""
    k = w.shape[2]
    y = conv(net, x, w.shape[0], k, s=s, w=unit_norm(net, w))
    cosine = net("Div", net("Abs", y), patch_norm(net, x, k, e, s))
    return mul(net, y, cosine if b == 2 else net("Pow", cosine, net.const(b - 1)))


@block("b-cos-transform", B_COS, seeds=["003:291"], dims=(1, 2), hazards="patches of zeros, powers of cosines near 0")
def b_cos_transform(net: Any, x: Any) -> Any:
    """A convolution that favours aligned inputs, of which pairs may compete; stresses Abs, Pow and a constant-folded norm."""
    out, pairs, rank = 8, net.flag(0.3), len(spatial(x))
    w = net.weight(out * (1 + pairs), channels(x), *[net.pick((3, 1, 5))] * rank)
    y = b_cos(net, x, w, net.pick((2, 1.25, 1.5, 2.5, 1)), net.pick((1e-2, 1e-6)), net.pick((1, 2)))
    if not pairs:
        return y
    return reduce(net, "ReduceMax", reshape(net, y, [x.shape[0], out, 2, *spatial(y)]), [2], 0)


@block("b-cos-transform/tokens", B_COS, takes="tokens", hazards="rows of zeros")
def b_cos_tokens(net: Any, x: Any) -> Any:
    """The dense form: rows of the weight of norm 1, the input's norm over its last axis."""
    w = net.weight(x.shape[2], 12)
    y = net("MatMul", x, net("Div", w, reduce(net, "ReduceL2", w, [0])))
    norm = net("Sqrt", net("Add", reduce(net, "ReduceSumSquare", x, [2]), net.const(1e-2)))
    return mul(net, y, net("Pow", net("Div", net("Abs", y), norm), net.const(net.pick((1.0, 0.5, 1.5)))))


@block("b-cos-transform/net", B_COS)
def b_cos_net(net: Any, x: Any) -> Any:
    """Six channels for three, three b-cos stages, the pool after the classifier, a bias and a temperature."""
    y = conv(net, x, 3, 1)
    y = concat(net, y, net("Sub", net.const(1.0), y))
    for out, s in ((8, 1), (12, 2), (12, 1)):
        y = b_cos(net, y, net.weight(out, channels(y), 3, 3), 2, 1e-2, s)
    logits = net("Flatten", gap(net, b_cos(net, y, net.weight(5, 12, 1, 1), 2, 1e-2)), axis=1)
    return net("Div", net("Add", logits, net.weight(5)), net.const(4.0))


@relation("b-cos-transform/b-one", of="b-cos-transform", dims=(1, 2))
def b_cos_one(net: Any, x: Any) -> Any:
    """With B = 1 it is the convolution with unit-norm kernels."""
    w = net.weight(6, channels(x), *[3] * len(spatial(x)))
    return b_cos(net, x, w, 1, 1e-2), conv(net, x, 6, w=unit_norm(net, w))


@relation("b-cos-transform/homogeneity", of="b-cos-transform", dims=(1, 2))
def b_cos_homogeneity(net: Any, x: Any) -> Any:
    """y(2x) = 2 y(x). The row says so for any e, but e has to grow by the square of the factor."""
    w, two, b = net.weight(6, channels(x), *[3] * len(spatial(x))), net.const(2.0), net.pick((2, 3))
    return b_cos(net, mul(net, x, two), w, b, 2.0**-4), mul(net, b_cos(net, x, w, b, 2.0**-6), two)


@relation("b-cos-transform/six-channels", of="b-cos-transform", dims=(1, 2, 3))
def six_channels(net: Any, x: Any) -> Any:
    """Halves of the old weight, one negated, over [x, 1 - x] are the old weight over x - 1/2."""
    half = net.const(0.5)
    w = net.weight(6, channels(x), *[3] * len(spatial(x)))
    halved = mul(net, w, half)
    encoded = concat(net, x, net("Sub", net.const(1.0), x))
    return conv(net, encoded, 6, w=net("Concat", halved, net("Neg", halved), axis=1)), conv(net, net("Sub", x, half), 6, w=w)


@relation("b-cos-transform/patch-norm", of="b-cos-transform", dims=(1, 2, 3))
def patch_norm_as_pool(net: Any, x: Any) -> Any:
    """The squared patch norm is the channel sum of squares under an average pool that counts its padding, times the window."""
    rank = len(spatial(x))
    ones = net("Expand", net.const([1.0]), net.ints([1, channels(x), *[3] * rank]))
    squares = reduce(net, "ReduceSumSquare", x, [1])
    pooled = net("AveragePool", squares, kernel_shape=[3] * rank, pads=[1] * (2 * rank), count_include_pad=1)
    return conv(net, mul(net, x, x), 1, w=ones), mul(net, pooled, net.const(float(3**rank)))


GABOR = "Learning Gabor Texture Features for Fine-Grained Recognition"


def gabor(net: Any, out: int, k: int) -> Any:
    """Kernels (out, 1, k, k) from bounded trained parameters on a constant grid."""
    half = (k - 1) / 2
    u = net.const([[[float(j) - half for j in range(k)]] * k])
    v = net.const([[[float(i) - half] * k for i in range(k)]])

    def parameter(low: float, high: float) -> Any:
        return net("Add", mul(net, act(net, net.weight(out, 1, 1), "Sigmoid"), net.const(high - low)), net.const(low))

    angle, s, wave, ratio, phase = parameter(0, pi), parameter(1, k / 2), parameter(2, k), parameter(0.5, 1), parameter(0, pi)
    cos, sin = net("Cos", angle), net("Sin", angle)
    along = add(net, mul(net, u, cos), mul(net, v, sin))
    across = mul(net, net("Sub", mul(net, v, cos), mul(net, u, sin)), ratio)
    spread = net("Div", add(net, mul(net, along, along), mul(net, across, across)), mul(net, mul(net, s, s), net.const(-2.0)))
    ripple = net("Cos", net("Add", net("Div", mul(net, along, net.const(2 * pi)), wave), phase))
    return reshape(net, mul(net, net("Exp", spread), ripple), [out, 1, k, k])


def region_statistics(net: Any, x: Any, parts: int) -> Any:
    """Mean, variance and maximum over a grid of regions: (N, regions, 3 C)."""
    n, c, h, w = x.shape
    grid = reshape(net, x, [n, c, parts, h // parts, parts, w // parts])
    mu = mean(net, grid, [3, 5])
    centred = net("Sub", grid, mu)
    stats = [mu, mean(net, mul(net, centred, centred), [3, 5]), reduce(net, "ReduceMax", grid, [3, 5])]
    flat = reshape(net, concat(net, *stats), [n, 3 * c, parts * parts])
    return net("Transpose", flat, perm=[0, 2, 1])


def textures(net: Any, x: Any) -> Any:
    out, k = net.pick((8, 6)), net.pick((7, 5, 11))
    return net("Abs", conv(net, conv(net, x, 1, 1), out, k, w=gabor(net, out, k)))


@block("learnable-gabor-conv", GABOR, seeds=["001:67"], even=2, hazards="scores next to the threshold, variance by cancellation")
def learnable_gabor_conv(net: Any, x: Any) -> Any:
    """Wavelet kernels made in the graph, statistics of their responses by region, a gate of regions; stresses folding of Sin, Cos, Exp.

    Assumed: regions that score low are multiplied by 0, not gathered away; the gate reads plain features.
    """
    stats = region_statistics(net, textures(net, x), 2)
    score = act(net, linear(net, region_statistics(net, conv(net, x, 4), 2), 1), "Sigmoid")
    kept = net("Cast", net("Greater", score, net.const(0.5)), to=x.format.onnx)
    both = concat(net, net("Flatten", mul(net, stats, kept), axis=1), net("Flatten", gap(net, conv_bn_act(net, x, 8)), axis=1))
    return linear(net, both, 5)


@block("learnable-gabor-conv/kernels", GABOR, hazards="exp and cos of large arguments")
def gabor_features(net: Any, x: Any) -> Any:
    """The responses alone."""
    return textures(net, x)


@block("learnable-gabor-conv/stat-pool", GABOR, even=2, hazards="variance by cancellation")
def stat_pool(net: Any, x: Any) -> Any:
    """Mean, variance and maximum over a grid of regions."""
    return region_statistics(net, conv(net, x, 6), 2)


SPARK = "Self-Supervised Pre-Training with Contrastive and Masked Autoencoder Methods for Dealing with Small Datasets in Deep Learning for Medical Imaging"


def visible(net: Any, x: Any, step: int) -> Any:
    """A mask of coarse cells at this scale."""
    coarse = net("Greater", net.input(x.shape[0], 1, *[n // step for n in spatial(x)]), net.const(0.0))
    return at_scale(net, net("Cast", coarse, to=x.format.onnx), step)


def at_scale(net: Any, m: Any, times: int) -> Any:
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return net("Resize", m, None, net.const([1.0, 1.0, float(times), float(times)]), **how)


def masked_stage(net: Any, x: Any, m: Any, out: int) -> Any:
    """Every result is masked again: a sparse convolution written densely."""
    y = mul(net, conv(net, mul(net, x, m), out), m)
    return mul(net, act(net, bn(net, y)), m)


@block("spark-masked-conv", SPARK, seeds=["000:161", "003:299"], even=4, hazards="0 times infinity behind the mask")
def spark_masked_conv(net: Any, x: Any) -> Any:
    """Masked convolutions, and a token where nothing was seen; stresses nearest Resize of masks and Where.

    Assumed: normalisation in inference form and then the mask, instead of statistics over what is visible.
    """
    m = visible(net, x, 4)
    y = masked_stage(net, masked_stage(net, x, m, 8), m, 12)
    normal = layer_norm_channels(net, y) if net.flag() else bn(net, y)
    return net("Where", net("Cast", m, to=9), pointwise(net, mul(net, normal, m), 8), net.weight(8, 1, 1))


@block("spark-masked-conv/net", SPARK, even=4)
def spark_net(net: Any, x: Any) -> Any:
    """A masked encoder of two scales, tokens at each, and a light decoder. Assumed as for the block."""
    m, scales = visible(net, x, 4), list[Any]()
    y = x
    for out in (6, 8):
        y = masked_stage(net, y, m, out)
        scales.append(net("Where", net("Cast", m, to=9), pointwise(net, bn(net, y), out), net.weight(out, 1, 1)))
        y, m = pool(net, y), pool(net, m)
    low = conv(net, pool(net, scales[1]), 8, 1)
    y = add(net, bn(net, conv(net, conv_bn_act(net, upconv(net, low, 8), 8, kind="Relu6"), 8)), scales[1])
    y = add(net, bn(net, conv(net, conv_bn_act(net, upconv(net, y, 6), 6, kind="Relu6"), 6)), scales[0])
    return conv(net, y, 3, 1, bias=True)


@block("spark-masked-conv/per-patch-norm-mse", SPARK, even=4, hazards="patches of one value")
def per_patch_norm_mse(net: Any, x: Any) -> Any:
    """Squared error against patches normalised one by one, over the masked ones."""
    n, c, h, w = x.shape
    patches = reshape(net, x, [n, c, h // 4, 4, w // 4, 4])
    flat = reshape(net, net("Transpose", patches, perm=[0, 2, 4, 1, 3, 5]), [n, h * w // 16, 16 * c])
    centred = net("Sub", flat, mean(net, flat, [2]))
    target = net("Div", centred, net("Sqrt", net("Add", mean(net, mul(net, centred, centred), [2]), net.const(1e-6))))
    error = net("Sub", linear(net, flat, 16 * c), target)
    masked = net("Cast", net("Less", net.input(n, h * w // 16, 1), net.const(0.0)), to=x.format.onnx)
    total = reduce(net, "ReduceSum", mul(net, mean(net, mul(net, error, error), [2]), masked), [1], 0)
    return net("Div", total, net("Max", reduce(net, "ReduceSum", masked, [1], 0), net.const(1.0)))


@relation("spark-masked-conv/all-visible", of="spark-masked-conv", even=2)
def spark_all_visible(net: Any, x: Any) -> Any:
    """With everything visible, a masked convolution is the plain one."""
    m = at_scale(net, net("Expand", net.const([1.0]), net.ints([x.shape[0], 1, *[n // 2 for n in spatial(x)]])), 2)
    w = net.weight(6, channels(x), 3, 3)
    return mul(net, act(net, mul(net, conv(net, mul(net, x, m), 6, w=w), m)), m), act(net, conv(net, x, 6, w=w))


@relation("spark-masked-conv/non-interference", of="spark-masked-conv", even=2)
def spark_non_interference(net: Any, x: Any) -> Any:
    """What is behind the mask does not matter, as long as it is finite."""
    m, w = visible(net, x, 2), net.weight(6, channels(x), 3, 3)
    hidden = mul(net, net.input(*x.shape), net("Sub", net.const(1.0), m))

    def masked(v: Any) -> Any:
        return mul(net, conv(net, mul(net, v, m), 6, w=w), m)

    return masked(x), masked(add(net, x, hidden))
