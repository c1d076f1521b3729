"""Residual cells after 2017: channels-last mixing, growing concatenations, and networks without normalisation."""

from __future__ import annotations

from typing import Any

from specs.blocks.channel_spatial_gates import divisor, squeeze
from specs.blocks.layers import (
    act,
    add,
    bn,
    channels,
    classifier,
    concat,
    conv,
    conv_bn_act,
    depthwise,
    gap,
    layer_norm,
    layer_norm_channels,
    linear,
    mean,
    mul,
    pointwise,
    pool,
    reduce,
    reshape,
    spatial,
    transpose,
)
from specs.net import block, relation

CONVNEXT = "A ConvNet for the 2020s"


def last(net: Any, x: Any) -> Any:
    """Channels last."""
    return transpose(net, x, [0, *range(2, len(x.shape)), 1])


def first(net: Any, x: Any) -> Any:
    """Channels first again."""
    rank = len(x.shape)
    return transpose(net, x, [0, rank - 1, *range(1, rank - 1)])


def fitting(net: Any, x: Any, among: tuple[int, ...] = (4, 3, 2, 1)) -> int:
    """An expansion of the channels that keeps the tensor small."""
    size = 1
    for n in x.shape:
        size *= n
    return net.pick([e for e in among if size * e <= 1 << 15] or [1])


def convnext(net: Any, x: Any, k: int = 7, scaled: bool = True) -> Any:
    c, e = channels(x), fitting(net, x)
    h = layer_norm(net, last(net, depthwise(net, x, k, bias=True)), epsilon=1e-6)
    h = linear(net, act(net, linear(net, h, e * c), "Gelu"), c)
    h = mul(net, h, net.weight(c)) if scaled else h
    return add(net, x, first(net, h))


@block("convnext-block", CONVNEXT, seeds=["001:51"], dims=(1, 2, 3), hazards="a layer scale near 0")
def convnext_block(net: Any, x: Any) -> Any:
    """Large depthwise kernel, then layer normalisation and two dense layers with channels last; stresses transposes around MatMul."""
    return convnext(net, x, net.pick((7, 3, 5, 9)), net.pick((True, False)))


@block("convnext-block/net", CONVNEXT, dims=(1, 2), even=4)
def convnext_net(net: Any, x: Any) -> Any:
    """Patch stem, two stages with a normalised 2x2 reduction between, normalised head."""
    y = layer_norm_channels(net, conv(net, x, 8, 2, s=2, pad=0, bias=True))
    y = convnext(net, y)
    y = conv(net, layer_norm_channels(net, y), 16, 2, s=2, pad=0, bias=True)
    y = net("Flatten", gap(net, convnext(net, y, 5)), axis=1)
    return linear(net, layer_norm(net, y), 5)


@relation("convnext-block/layer-scale-fold", of="convnext-block", dims=(1, 2, 3))
def layer_scale_fold(net: Any, x: Any) -> Any:
    """gamma (h W + b) is h (W gamma) + gamma b."""
    c, h = channels(x), last(net, x)
    w, b, gamma = net.weight(c, 6), net.weight(6), net.weight(6)
    return mul(net, net("Add", net("MatMul", h, w), b), gamma), net("Add", net("MatMul", h, mul(net, w, gamma)), mul(net, b, gamma))


@relation("convnext-block/patchify-stem", of="convnext-block", even=4)
def patchify_stem(net: Any, x: Any) -> Any:
    """A convolution with kernel and stride 4 is SpaceToDepth and a 1x1 convolution with its weight in that order."""
    c, k = channels(x), net.pick((4, 2))
    w = net.weight(6, c, k, k)
    flat = reshape(net, transpose(net, w, [0, 2, 3, 1]), [6, k * k * c, 1, 1])
    return conv(net, x, 6, k, s=k, pad=0, w=w), conv(net, net("SpaceToDepth", x, blocksize=k), 6, 1, w=flat)


CONVNEXT_V2 = "ConvNeXt V2: Co-designing and Scaling ConvNets with Masked Autoencoders"


def response_norm(net: Any, x: Any, gamma: Any, beta: Any) -> Any:
    """Global response normalisation, channels last: each channel by its L2 norm over space against the mean one."""
    g = reduce(net, "ReduceL2", x, list(range(1, len(x.shape) - 1)))
    scaled = net("Div", g, net("Add", mean(net, g, [-1]), net.const(1e-6)))
    return net("Add", net("Add", mul(net, gamma, mul(net, x, scaled)), beta), x)


def convnext_v2(net: Any, x: Any, mask: Any = None) -> Any:
    c, e = channels(x), fitting(net, x)
    h = depthwise(net, x if mask is None else mul(net, x, mask), 7, bias=True)
    h = h if mask is None else mul(net, h, mask)
    h = act(net, linear(net, layer_norm(net, last(net, h), epsilon=1e-6), e * c), "Gelu")
    h = linear(net, response_norm(net, h, net.weight(e * c), net.weight(e * c)), c)
    return add(net, x, first(net, h))


@block("convnextv2-grn", CONVNEXT_V2, seeds=["002:479"], dims=(1, 2, 3), hazards="a norm over space of all-zero channels")
def convnextv2_grn(net: Any, x: Any) -> Any:
    """A ConvNeXt cell with global response normalisation; stresses a reduction over space between two matrix products."""
    return convnext_v2(net, x)


@block("convnextv2-grn/grn", CONVNEXT_V2, dims=(1, 2, 3), hazards="division by the mean norm")
def grn(net: Any, x: Any) -> Any:
    """The normalisation alone."""
    h = last(net, x)
    return first(net, response_norm(net, h, net.weight(channels(x)), net.weight(channels(x))))


@block("convnextv2-grn/sparse-emulation", CONVNEXT_V2, dims=(1, 2, 3), even=2)
def sparse_emulation(net: Any, x: Any) -> Any:
    """A mask of coarse cells, brought to this scale, before and after the depthwise convolution."""
    coarse = net("Greater", net.input(x.shape[0], 1, *[n // 2 for n in spatial(x)]), net.const(0.0))
    cells = net("Cast", coarse, to=x.format.onnx)
    up = [1.0, 1.0] + [2.0] * len(spatial(x))
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return convnext_v2(net, x, net("Resize", cells, None, net.const(up), **how))


@block("convnextv2-grn/net", CONVNEXT_V2, dims=(1, 2), even=4)
def convnextv2_net(net: Any, x: Any) -> Any:
    """Patch stem, two stages, head."""
    y = convnext_v2(net, layer_norm_channels(net, conv(net, x, 8, 2, s=2, pad=0, bias=True)))
    y = convnext_v2(net, conv(net, layer_norm_channels(net, y), 12, 2, s=2, pad=0, bias=True))
    return linear(net, layer_norm(net, net("Flatten", gap(net, y), axis=1)), 5)


@relation("convnextv2-grn/identity", of="convnextv2-grn", dims=(1, 2, 3))
def grn_identity(net: Any, x: Any) -> Any:
    """With gamma and beta 0 the normalisation is the identity."""
    zeros = net.const([0.0] * channels(x))
    return first(net, response_norm(net, last(net, x), zeros, zeros)), x


DENSENET = "3D-QCNet -- A Pipeline for Automated Artifact Detection in Diffusion MRI images"


def dense_stage(net: Any, x: Any, growth: int, layers: int) -> Any:
    """Every layer reads the concatenation of all before it."""
    for _ in range(layers):
        h = pointwise(net, act(net, bn(net, x)), 4 * growth)
        x = concat(net, x, conv(net, act(net, bn(net, h)), growth))
    return x


def transition(net: Any, x: Any) -> Any:
    return pool(net, pointwise(net, act(net, bn(net, x)), channels(x) // 2), "AveragePool")


@block("densenet3d", DENSENET, seeds=["002:303"], dims=(3,), hazards="many scales in sum")
def densenet3d(net: Any, x: Any) -> Any:
    """Dense layers and a transition; stresses chains of Concat and normalisation that cannot be folded backwards."""
    return transition(net, dense_stage(net, x, net.pick((4, 6)), net.pick((2, 3, 4))))


@block("densenet3d/net", DENSENET, dims=(3,), even=2)
def densenet3d_net(net: Any, x: Any) -> Any:
    """A stem, two dense stages, a verdict. Assumed: a stem of stride 1, as small volumes need."""
    y = pool(net, conv_bn_act(net, x, 8, 5), k=3, s=2, pad=1)
    y = dense_stage(net, transition(net, dense_stage(net, y, 4, 2)), 4, 2)
    return act(net, classifier(net, act(net, bn(net, y)), 1), "Sigmoid")


DUAL_PATH = "Dual Path Networks"


def dual_path(net: Any, r: Any, d: Any, k: int, p: int, groups: int) -> tuple[Any, Any]:
    """One unit: a sum on the first path, a concatenation on the second."""
    h = act(net, bn(net, concat(net, r, d)))
    h = act(net, bn(net, pointwise(net, h, p)))
    h = pointwise(net, act(net, bn(net, conv(net, h, p, g=groups))), channels(r) + k)
    plus, more = net("Split", h, net.ints([channels(r), k]), axis=1, outputs=2)
    return add(net, r, plus), concat(net, d, more)


def dual_stage(net: Any, x: Any, R: int, k: int, p: int, groups: int, units: int, s: int = 1) -> Any:
    """The first unit projects to (r, d); after n units d has (n + 2) k channels."""
    start = conv(net, act(net, bn(net, x)), R + 2 * k, 1, s=s)
    r, d = net("Split", start, net.ints([R, 2 * k]), axis=1, outputs=2)
    for _ in range(units):
        r, d = dual_path(net, r, d, k, p, groups)
    return concat(net, r, d)


@block("dual-path-block", DUAL_PATH, seeds=["002:127"], dims=(1, 2, 3), hazards="long chains of Concat")
def dual_path_block(net: Any, x: Any) -> Any:
    """A residual and a dense path in one bottleneck; stresses Split into Add and Concat, and group widths that are no power of 2."""
    groups = net.pick((4, 5, 2))
    return dual_stage(net, x, net.pick((8, 16)), net.pick((3, 2, 4)), groups * net.pick((2, 3)), groups, net.pick((1, 2)), net.pick((1, 2)))


@block("dual-path-block/net", DUAL_PATH, dims=(1, 2, 3))
def dual_path_net(net: Any, x: Any) -> Any:
    """A stem, two stages of two units, a normalised head."""
    y = dual_stage(net, conv_bn_act(net, x, 8), 8, 3, 8, 4, 2)
    return classifier(net, act(net, bn(net, dual_stage(net, y, 12, 4, 8, 2, 2, 2))))


NFNET = "High-Performance Large-Scale Image Recognition Without Normalization"
GAINS = {"Relu": 1.7139, "Gelu": 1.7015, "Silu": 1.7881}


def standardised(net: Any, w: Any, gain: Any) -> Any:
    """gain (w - mean) / sqrt(max(var * fan_in, 1e-4)) over all but the output channels."""
    axes, fan = list(range(1, len(w.shape))), 1
    for n in w.shape[1:]:
        fan *= n
    centred = net("Sub", w, mean(net, w, axes))
    spread = net("Max", mul(net, mean(net, mul(net, centred, centred), axes), net.const(float(fan))), net.const(1e-4))
    return mul(net, gain, net("Div", centred, net("Sqrt", spread)))


def ws_conv(net: Any, x: Any, out: int, k: int = 3, **options: Any) -> Any:
    rank = len(x.shape) - 2
    w = net.weight(out, channels(x) // options.get("g", 1), *[k] * rank)
    return conv(net, x, out, k, w=standardised(net, w, net.weight(out, *[1] * (rank + 1))), bias=True, **options)


def nf_block(net: Any, x: Any, out: int, beta: float, kind: str, s: int, gain: Any) -> Any:
    def activate(v: Any) -> Any:
        return mul(net, act(net, v, kind), net.const(GAINS[kind]))

    b, width = activate(mul(net, x, net.const(1 / beta))), 8
    shortcut = x
    if s > 1 or out != channels(x):
        shortcut = ws_conv(net, net("AveragePool", b, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1) if s > 1 else b, out, 1)
    h = activate(ws_conv(net, activate(ws_conv(net, b, width, 1)), width, s=s, g=2))
    h = ws_conv(net, activate(ws_conv(net, h, width, g=2)), out, 1)
    h = mul(net, mul(net, h, squeeze(net, h, divisor(net, out, (2,)))), net.const(2.0))
    return add(net, shortcut, mul(net, mul(net, h, gain), net.const(0.2)))


@block("nfnet-block", NFNET, seeds=["002:19"], hazards="variance that grows, weights of variance near the floor")
def nfnet_block(net: Any, x: Any) -> Any:
    """A residual block that standardises weights, not features; stresses constant folding of the weights and folding of scalars."""
    kind, s, beta = net.pick(("Relu", "Gelu", "Silu")), net.pick((1, 2)), net.pick((1.0, 1.04**0.5, 1.08**0.5))
    return nf_block(net, x, net.pick((channels(x), 12)), beta, kind, s, net.weight(1))


@block("nfnet-block/net", NFNET)
def nfnet(net: Any, x: Any) -> Any:
    """A stem, a transition and a plain block, a head."""
    y = conv(net, x, 8, bias=True)
    y = nf_block(net, nf_block(net, y, 12, 1.0, "Relu", 2, net.weight(1)), 12, 1.04**0.5, "Relu", 1, net.weight(1))
    return classifier(net, act(net, y))


@block("nfnet-block/adaptive-gradient-clipping", NFNET, hazards="norms near 0")
def adaptive_gradient_clipping(net: Any, x: Any) -> Any:
    """A gradient clipped by the ratio of its unit-wise norm to the weight's; here the features are the gradient."""
    axes, w = [1, 2, 3], net.weight(*x.shape)
    limit = mul(net, net("Max", reduce(net, "ReduceL2", w, axes), net.const(1e-3)), net.const(net.pick((0.01, 0.16, 1.0))))
    norm = reduce(net, "ReduceL2", x, axes)
    clipped = mul(net, x, net("Div", limit, net("Max", norm, net.const(1e-6))))
    return net("Where", net("Greater", norm, limit), clipped, x)


@relation("nfnet-block/zero-gain", of="nfnet-block")
def nf_zero_gain(net: Any, x: Any) -> Any:
    """With a skip gain of 0 the block is its shortcut."""
    return nf_block(net, x, channels(x), 1.0, net.pick(("Relu", "Gelu", "Silu")), 1, net.const([0.0])), x
