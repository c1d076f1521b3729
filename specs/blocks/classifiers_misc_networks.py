"""Whole small classifiers: ensembles, several heads or inputs, detector-shaped networks, crops from computed boxes."""

from __future__ import annotations

from typing import Any

import numpy as np

from specs.blocks.classifiers_misc import ceil_pool, fitted, lrn, probabilities
from specs.blocks.layers import (
    act,
    add,
    bn,
    channels,
    concat,
    conv,
    conv_bn_act,
    depthwise,
    gap,
    linear,
    mean,
    mul,
    pad,
    pointwise,
    pool,
    reduce,
    reshape,
    resize,
    slice_,
    spatial,
    split,
)
from specs.blocks.parts import bilinear, conv_with, flatten_linear, head, offset, scale, squeeze_excite, sub, total
from specs.formats import FLOAT, INT64
from specs.net import block, relation


def _gaussian(k: int, sigma: float = 1.0) -> np.ndarray:
    line = np.exp(-((np.arange(k) - k // 2) ** 2) / (2 * sigma**2))
    return line / line.sum()


def _smoothed(net: Any, x: Any, line: Any) -> Any:
    """A separable Gaussian: one axis after the other, on one channel, edges replicated."""
    rank, k = len(x.shape) - 2, line.shape[0]
    y = pad(net, x, [k // 2] * rank, [k // 2] * rank, "edge")
    for axis in range(rank):
        y = conv_with(net, y, reshape(net, line, [1, 1, *[k if i == axis else 1 for i in range(rank)]]), pads=0)
    return y


@block(
    "deeporgan-patch-cnn",
    "DeepOrgan: Multi-level Deep Convolutional Networks for Automated Pancreas Segmentation",
    seeds=["001:327"],
    dims=(2, 3),
    hazards="tails of a Gaussian, ties of a threshold",
)
def deeporgan_patch_cnn(net: Any, x: Any) -> Any:
    """Overlapping pooling stages to a dense map of probabilities, smoothed and compared; stresses separable constant kernels.

    Assumed: the map is dense (no patches), one stage.
    """
    y = pool(net, act(net, conv(net, x, 8, net.pick((3, 5) if len(x.shape) < 5 else (3,)), bias=True)), "MaxPool", 3, 1, 1)
    p = act(net, conv(net, act(net, conv(net, y, 8, 1, bias=True)), 1, 1, bias=True), "Sigmoid")
    smooth = _smoothed(net, p, net.const(_gaussian(net.pick((3, 5)))))
    return mul(net, smooth, net("Cast", net("Greater", smooth, net.const(0.5)), to=FLOAT.onnx))


@relation("deeporgan-patch-cnn/separable-gaussian", of="deeporgan-patch-cnn", dims=(2, 3))
def separable_gaussian(net: Any, x: Any) -> Any:
    """One-dimensional kernels in turn = their product as one kernel."""
    rank, k, x = len(x.shape) - 2, net.pick((3, 5)), pointwise(net, x, 1)
    line = net.const(_gaussian(k))
    kernel = reshape(net, line, [1, 1, *[k if i == 0 else 1 for i in range(rank)]])
    for axis in range(1, rank):
        kernel = mul(net, kernel, reshape(net, line, [1, 1, *[k if i == axis else 1 for i in range(rank)]]))
    return _smoothed(net, x, line), conv_with(net, pad(net, x, [k // 2] * rank, [k // 2] * rank, "edge"), kernel, pads=0)


@block("deeporgan-patch-cnn/net", "DeepOrgan: Multi-level Deep Convolutional Networks for Automated Pancreas Segmentation", seeds=["001:327"])
def deeporgan_net(net: Any, x: Any) -> Any:
    """One patch network on several scales of the same region, a masked dense layer, probabilities averaged over the scales."""
    w1, w2, results = net.weight(8, channels(x), 3, 3), net.weight(8, 8, 3, 3), list[Any]()
    dense, mask = net.weight(72, 16), net.const(np.fromfunction(lambda i, j: (i + j) % 2, (72, 16)))
    last = net.weight(16, 2)
    for size in (13, 16, 24)[: net.pick((2, 3))]:
        y = fitted(net, resize(net, x, [size, size]), 13)
        for w in (w1, w2):
            y = net("MaxPool", act(net, conv_with(net, y, w)), kernel_shape=[3, 3], strides=[2, 2])
        y = fitted(net, y, 3)
        y = act(net, net("MatMul", net("Flatten", y), mul(net, dense, mask)))
        results.append(probabilities(net, net("MatMul", y, last)))
    return net("Mean", *results)


@block("endonet", "EndoNet: A Deep Architecture for Recognition Tasks on Laparoscopic Videos", seeds=["000:197"], hazards="powers of sums of squares")
def endonet(net: Any, x: Any) -> Any:
    """Two heads, the second on features joined with the first's logits; stresses uneven Concat and shared trunks."""
    y = ceil_pool(net, lrn(net, act(net, conv(net, x, 8, 5, g=net.pick((1, 2)), bias=True))))
    features = act(net, flatten_linear(net, gap(net, act(net, conv(net, y, 12, 3, g=2, bias=True))), 24))
    tools = flatten_linear(net, features, 7)
    return act(net, tools, "Sigmoid"), probabilities(net, flatten_linear(net, concat(net, features, tools), 7))


@block(
    "endonet/viterbi", "EndoNet: A Deep Architecture for Recognition Tasks on Laparoscopic Videos", seeds=["000:197"], dims=(1,), takes="tokens", hazards="ties"
)
def viterbi(net: Any, x: Any) -> Any:
    """Log-space maximum over the previous state, unrolled, and the best path back; stresses chains of Max, ArgMax and GatherElements."""
    states, back = 5, list[Any]()
    emitted = net("LogSoftmax", linear(net, slice_(net, x, 0, 4, 1), states), axis=-1)
    step = net("LogSoftmax", net.weight(states, states), axis=-1)
    steps = split(net, emitted, 4, axis=1)
    score = net("Squeeze", steps[0], net.ints([1]))
    for now in steps[1:]:
        ways = net("Add", net("Unsqueeze", score, net.ints([2])), step)
        back.append(net("ArgMax", ways, axis=1, keepdims=0))
        score = net("Add", reduce(net, "ReduceMax", ways, [1], keepdims=0), net("Squeeze", now, net.ints([1])))
    path = [net("ArgMax", score, axis=1, keepdims=1)]
    for pointers in reversed(back):
        path.append(net("GatherElements", pointers, path[-1], axis=1))
    return reduce(net, "ReduceMax", score, [1]), concat(net, *reversed(path), axis=1)


@block("endonet/net", "EndoNet: A Deep Architecture for Recognition Tasks on Laparoscopic Videos", seeds=["000:197"])
def endonet_net(net: Any, x: Any) -> Any:
    """Strided stem with response normalisation, grouped stages, dense layers, tool and phase heads."""
    y = ceil_pool(net, lrn(net, act(net, conv(net, fitted(net, x, 21), 8, 5, s=2, pad=0, bias=True))))
    y = ceil_pool(net, act(net, conv(net, act(net, conv(net, y, 12, 3, g=2, bias=True)), 12, 3, g=2, bias=True)))
    features = act(net, flatten_linear(net, act(net, flatten_linear(net, y, 24)), 24))
    tools = flatten_linear(net, features, 7)
    return act(net, tools, "Sigmoid"), probabilities(net, flatten_linear(net, concat(net, features, tools), 7))


def _voters(net: Any, x: Any) -> list[Any]:
    """Logits of a plain, a branched and a separable network."""
    plain = head(net, pool(net, conv_bn_act(net, fitted(net, x, 12), 8)), 4)
    y = fitted(net, x, 14)
    branched = head(net, concat(net, *[conv_bn_act(net, y, 4, k) for k in (1, 3)], pool(net, y, "AveragePool", 3, 1, 1)), 4)
    z = conv_bn_act(net, x, 8, s=1)
    separable = head(net, add(net, z, bn(net, pointwise(net, depthwise(net, act(net, z)), 8))), 4)
    return [plain, branched, separable]


@block(
    "fused-cnn-vote",
    "Adversarially robust deepfake media detection using fused convolutional neural network predictions",
    seeds=["002:173"],
    hazards="ties at the threshold",
)
def fused_cnn_vote(net: Any, x: Any) -> Any:
    """Three networks at their own sizes, fused by mean, maximum or majority; stresses parallel branches and boolean votes. Assumed: tiny backbones."""
    fusion, logits = net.pick(("mean", "majority", "max")), _voters(net, x)
    p = [act(net, v, "Sigmoid") for v in logits]
    if fusion == "max":
        return net("Max", *p)
    if fusion == "mean":
        return net("Mean", *p)
    votes = [net("Cast", net("Greater", v, net.const(0.5)), to=INT64.onnx) for v in p]
    return net("Cast", net("Greater", total(net, votes), net.const(1, INT64)), to=FLOAT.onnx)


def _mbconv_swish(net: Any, x: Any) -> Any:
    c = channels(x)
    y = act(net, bn(net, depthwise(net, conv_bn_act(net, x, 2 * c, 1, "Silu"), 3)), "Silu")
    return add(net, x, bn(net, pointwise(net, squeeze_excite(net, y, 4, "Silu"), c)))


@block(
    "soft-voting-ensemble",
    "The Mini-SiTian Array: real-bogus classification using deep learning",
    seeds=["002:363"],
    hazards="ties at the threshold, exp of swish",
)
def soft_voting_ensemble(net: Any, x: Any) -> Any:
    """Residual, densely joined and inverted-bottleneck networks on one input, mean of their softmax; stresses scheduling of branches."""
    y = conv_bn_act(net, x, 8)
    residual = act(net, add(net, y, bn(net, conv(net, conv_bn_act(net, y, 8), 8))))
    dense = concat(net, y, conv(net, act(net, bn(net, y)), 4))
    dense = concat(net, dense, conv(net, act(net, bn(net, dense)), 4))
    p = net("Mean", *[probabilities(net, head(net, v, 2)) for v in (residual, dense, _mbconv_swish(net, y))])
    return p, net("Cast", net("Greater", slice_(net, p, 1, 2, 1), net.const(0.798)), to=FLOAT.onnx)


@block("soft-voting-ensemble/mbconv-se-swish", "The Mini-SiTian Array: real-bogus classification using deep learning", seeds=["002:363"], dims=(1, 2, 3))
def mbconv_se_swish(net: Any, x: Any) -> Any:
    """Inverted bottleneck with a channel gate, Swish everywhere."""
    return _mbconv_swish(net, x)


def _convnet4(net: Any, x: Any) -> Any:
    for out in (8, 8, 12, 12):
        x = pool(net, conv_bn_act(net, x, out))
    return x


@block(
    "model-parsing-convnet4", "Can Adversarial Examples Be Parsed to Reveal Victim Model Information?", seeds=["002:193"], hazards="tiny differences of images"
)
def model_parsing_convnet4(net: Any, x: Any) -> Any:
    """The residue of a denoiser through four stages into parallel heads; stresses cancellation and several outputs."""
    x = fitted(net, x, 16)
    noise = conv(net, conv_bn_act(net, act(net, conv(net, x, 8, bias=True)), 8), channels(x))
    features = _convnet4(net, scale(net, sub(net, x, noise), 1 / 255))
    return tuple(probabilities(net, flatten_linear(net, features, n)) for n in (5, 3, 3, 3))


@block(
    "model-parsing-convnet4/pgd-step",
    "Can Adversarial Examples Be Parsed to Reveal Victim Model Information?",
    seeds=["002:193"],
    dims=(1, 2, 3),
    hazards="sign of zero",
)
def pgd_step(net: Any, x: Any) -> Any:
    """x + Clip(x + a sign(g) - x0, -e, e), kept in range; stresses Sign and nested Clip."""
    g, x0, e = conv(net, x, channels(x), 3), net.input(*x.shape), net.pick((0.03125, 0.125))
    step = sub(net, net("Add", x, scale(net, net("Sign", g), 0.0078125)), x0)
    return net("Clip", net("Add", x0, net("Clip", step, net.const(-e), net.const(e))), net.const(-1.0), net.const(1.0))


@block("muon-fpga-cnn", "Fast Muon Tracking with Machine Learning Implemented in FPGA", seeds=["002:335"], takes="none", hazards="fixed-point rounding")
def muon_fpga_cnn(net: Any) -> Any:
    """Groups of detector layers collapsed by full-height kernels, dense layers in sequence; stresses Slice and rounding. Assumed: widths."""
    n, width, k = net.pick((2, 1)), net.pick((24, 50)), net.pick((3, 5))
    hits, at, features = net.input(n, 1, 7, width), 0, list[Any]()
    for gaps in net.pick(((2, 2, 3), (3, 2, 2))):
        y = conv(net, slice_(net, hits, at, at + gaps, 2), 4, (gaps, k), pad=0, bias=True)
        features.append(net("Flatten", act(net, pool(net, reshape(net, y, [n, 4, -1]), "MaxPool", 4))))
        at += gaps
    first = act(net, flatten_linear(net, concat(net, *features[:2]), 8))
    angle = scale(net, net("Round", scale(net, flatten_linear(net, first, 2), 64.0)), 1 / 64)
    return flatten_linear(net, act(net, flatten_linear(net, concat(net, angle, features[2]), 8)), 2)


@block("olconvnet", "Cell nuclei classification in histopathological images using hybrid OLConvNet", seeds=["002:7"], hazards="features of very different size")
def olconvnet(net: Any, x: Any) -> Any:
    """Three pooled convolutions on an odd-sized patch, joined with hand-made features of another scale. Assumed: widths, k = 3."""
    y, d = fitted(net, slice_(net, x, 0, 3, 1), 27), net.pick((8, 32))
    for out in (6, 8, 12):
        y = pool(net, act(net, conv(net, y, out, net.pick((3, 5)), bias=True)))
    features = act(net, flatten_linear(net, y, 16))
    objects = scale(net, net.input(x.shape[0], d), 1000.0)
    return probabilities(net, flatten_linear(net, act(net, flatten_linear(net, concat(net, features, objects), 16)), 4))


@block(
    "simplenet-13",
    "Lets keep it simple, Using simple architectures to outperform deeper and more complex architectures",
    seeds=["002:159"],
    hazards="ties of the maximum",
)
def simplenet_13(net: Any, x: Any) -> Any:
    """Plain convolutions with norm, pooling with dropout between, a global maximum; stresses folding and GlobalMaxPool. Assumed: widths, fewer layers."""
    y = x
    for i, (out, k) in enumerate(((8, 3), (12, 3), (12, 3), (16, 3), (24, 1), (8, 1), (8, 3))):
        y = conv_bn_act(net, y, out, k, bias=True)
        y = _saf(net, y) if i in (1, 3) and min(spatial(y)) >= 2 else y
    return flatten_linear(net, net("GlobalMaxPool", y), 10)


def _saf(net: Any, x: Any) -> Any:
    return net("Dropout", pool(net, x), net.const(0.1))


@block("simplenet-13/saf-pool", "Lets keep it simple, Using simple architectures", seeds=["002:159"], dims=(1, 2, 3))
def saf_pool(net: Any, x: Any) -> Any:
    """Maximum pooling followed by dropout."""
    return _saf(net, act(net, conv(net, x, 8)))


@block(
    "three-stage-pfirrmann",
    "A Stronger Baseline For Automatic Pfirrmann Grading Of Lumbar Spine MRI Using Deep Learning",
    seeds=["002:189"],
    hazards="ties of the first non-zero row, empty masks",
)
def three_stage_pfirrmann(net: Any, x: Any) -> Any:
    """Segment, find the box of the mask, sample it at a fixed size, classify; stresses ArgMax from both ends feeding gathers. Assumed: backbones."""
    n, _, h, w = x.shape
    y = act(net, conv(net, x, 8, bias=True))
    up = resize(net, act(net, conv(net, pool(net, y), 8, bias=True)), [h, w])
    mask = act(net, conv(net, concat(net, y, up), 1, 1, bias=True), "Sigmoid")
    inside = net("Cast", net("Greater", mask, net.const(0.5)), to=FLOAT.onnx)
    positions = list[Any]()
    for axis, size in ((3, h), (2, w)):
        line = reshape(net, reduce(net, "ReduceMax", inside, [axis]), [n, size])
        back = net("Slice", line, net.ints([-1]), net.ints([-size - 1]), net.ints([1]), net.ints([-1]))
        first, last = (net("Cast", net("ArgMax", v, axis=1, keepdims=1), to=FLOAT.onnx) for v in (line, back))
        span = sub(net, sub(net, net.const(float(size - 1)), last), first)
        positions.append(net("Add", first, mul(net, span, net.const(np.linspace(0, 1, 5)))))
    rows = reshape(net, net("Expand", reshape(net, positions[0], [n, 5, 1]), net.ints([n, 5, 5])), [n, 25])
    columns = reshape(net, net("Expand", reshape(net, positions[1], [n, 1, 5]), net.ints([n, 5, 5])), [n, 25])
    crop = reshape(net, bilinear(net, x, rows, columns), [n, channels(x), 5, 5])
    return probabilities(net, head(net, conv_bn_act(net, crop, 8), 5)), mask


@block("three-stage-pfirrmann/soft-centroid", "A Stronger Baseline For Automatic Pfirrmann Grading", seeds=["002:189"], hazards="an empty mask")
def soft_centroid(net: Any, x: Any) -> Any:
    """Weighted mean of coordinates under a mask."""
    mask = act(net, conv(net, x, 1, 3, bias=True), "Sigmoid")
    weight = offset(net, reduce(net, "ReduceSum", mask, [2, 3]), 1e-3)
    grids = np.stack(np.meshgrid(*[np.arange(float(m)) for m in spatial(x)], indexing="ij"))[None]
    return net("Div", reduce(net, "ReduceSum", mul(net, mask, net.const(grids)), [2, 3]), weight)


@block(
    "tiny-vgg",
    "CNN Explainer: Learning Convolutional Neural Networks with Interactive Visualization",
    seeds=["002:145"],
    hazards="softmax of unnormalised logits",
)
def tiny_vgg(net: Any, x: Any) -> Any:
    """Valid convolutions of ten channels and pooling, twice, then a dense layer; stresses unaligned channel counts."""
    y = fitted(net, x, 16)
    for _ in range(2):
        for _ in range(2):
            y = act(net, conv(net, y, 10, 3, pad=0, bias=True))
        y = pool(net, y)
    return probabilities(net, flatten_linear(net, y, 10))


def _encoder(net: Any, c: int) -> Any:
    """A tiny encoder with weights to be used more than once."""
    w1, b1, w2 = net.weight(8, c, 3, 3), net.weight(8), net.weight(12, 8, 3, 3)
    return lambda v: net("Flatten", gap(net, act(net, conv_with(net, pool(net, act(net, conv_with(net, v, w1, b1))), w2))))


@block(
    "trio-siamese-fundus",
    "Adaptive Multiscale Retinal Diagnosis: A Hybrid Trio-Model Approach for Comprehensive Fundus Multi-Disease Detection "
    "Leveraging Transfer Learning and Siamese Networks",
    seeds=["002:47", "004:27"],
    hazards="root of a zero distance, products of probabilities",
)
def trio_siamese_fundus(net: Any, x: Any) -> Any:
    """Plain, two-stage and siamese networks joined; the references are constants, so their encoding can be folded.

    Assumed: tiny encoders, mean absolute distance to the references, logistic heads.
    """
    c, k = channels(x), net.pick((2, 1, 4))
    encode = _encoder(net, c)
    mine, theirs = encode(x), encode(net.weight(k, c, 6, 6))
    distance = net("Abs", sub(net, net("Unsqueeze", mine, net.ints([1])), theirs))
    alike = mean(net, act(net, linear(net, distance, 1), "Sigmoid"), [1], keepdims=0)
    plain = head(net, conv_bn_act(net, x, 8), 4)
    stage = act(net, flatten_linear(net, mine, 4), "Sigmoid")
    gated = mul(net, stage, act(net, flatten_linear(net, concat(net, mine, stage), 4), "Sigmoid"))
    return act(net, flatten_linear(net, concat(net, plain, gated, alike), net.pick((12, 6))), "Sigmoid")


@block("trio-siamese-fundus/contrastive-loss", "Adaptive Multiscale Retinal Diagnosis", seeds=["002:47", "004:27"], hazards="root of a zero distance")
def contrastive_loss(net: Any, x: Any) -> Any:
    """y d^2 + (1 - y) max(0, m - d)^2 on the features of a pair."""
    encode = _encoder(net, channels(x))
    d2 = reduce(net, "ReduceSumSquare", sub(net, encode(x), encode(net.input(*x.shape))), [1])
    far = act(net, sub(net, net.const(1.0), net("Sqrt", offset(net, d2, 1e-6))))
    same = act(net, net.input(x.shape[0], 1), "Sigmoid")
    return net("Add", mul(net, same, d2), mul(net, sub(net, net.const(1.0), same), mul(net, far, far)))
