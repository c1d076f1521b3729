"""Layers merged across depth or into a comparison, and the network of large kernels that is deployed merged."""

from __future__ import annotations

from typing import Any

from specs.blocks.layers import act, add, bn, channels, conv, conv_bn_act, linear, mul, reshape, transpose
from specs.blocks.parts import at_least, bn_with, channel_norm, conv_with, dirac, head, offset, per_channel, scale, squeeze_excite, statistics, sub
from specs.blocks.reparameterisation import dilated_branches, grn
from specs.formats import FLOAT
from specs.net import block, relation


def _pair(net: Any, x: Any) -> tuple[Any, Any]:
    """Two convolutions without an activation, all padding on the first; as they are, and as one."""
    c, rank, middle, out = channels(x), len(x.shape) - 2, net.pick((6, 4)), net.pick((8, 5))
    k1, k2, s1, s2 = net.pick((3, 1, 5)), net.pick((3, 1)), net.pick((1, 2)), net.pick((1, 2))
    w1, b1, w2, b2 = net.weight(middle, c, *[k1] * rank), net.weight(middle), net.weight(out, middle, *[k2] * rank), net.weight(out)
    p = k1 // 2 + s1 * (k2 // 2)
    two = conv_with(net, conv_with(net, x, w1, b1, s=s1, pads=p), w2, b2, s=s2, pads=0)
    w = net("ConvTranspose", w2, w1, strides=[s1] * rank)  # every output channel of w2 is an image of its middle channels
    weighted = reshape(net, mul(net, w2, reshape(net, b1, [middle, *[1] * rank])), [out, -1])
    b = net("Add", b2, net("ReduceSum", weighted, net.ints([1]), keepdims=0))
    return two, conv_with(net, x, w, b, s=s1 * s2, pads=p)


@block(
    "layermerge",
    "LayerMerge: Neural Network Depth Compression through Layer Pruning and Merging",
    seeds=["002:227"],
    dims=(1, 2, 3),
    hazards="products of weights are larger, sums are regrouped",
)
def layermerge(net: Any, x: Any) -> Any:
    """Convolutions whose activation was dropped, or the merged one with a large kernel and stride; stresses runtime weights and big kernels."""
    return act(net, net.pick(_pair(net, x)))


@relation("layermerge/conv-merge", of="layermerge", dims=(1, 2, 3))
def layermerge_conv(net: Any, x: Any) -> Any:
    """Convolution of a convolution is one convolution, exactly when the padding sits on the first."""
    return _pair(net, x)


@relation("layermerge/dirac-residual", of="layermerge", dims=(1, 2, 3))
def layermerge_residual(net: Any, x: Any) -> Any:
    """A shortcut is a Dirac kernel."""
    c, rank, k = channels(x), len(x.shape) - 2, net.pick((3, 1, 5))
    g = net.pick((1, c))
    w, b = net.weight(c, c // g, *[k] * rank), net.weight(c)
    return add(net, conv_with(net, x, w, b, g=g), x), conv_with(net, x, net("Add", w, net.const(dirac(c, k, rank, g))), b, g=g)


@relation("layermerge/depthwise-pointwise", of="layermerge", dims=(1, 2, 3))
def layermerge_separable(net: Any, x: Any) -> Any:
    """A depthwise and a pointwise convolution are one dense convolution; padding is of the first, so the borders agree too."""
    c, rank, k, out, s = channels(x), len(x.shape) - 2, net.pick((3, 5)), net.pick((8, 5)), net.pick((1, 2))
    dw, pw = net.weight(c, 1, *[k] * rank), net.weight(out, c, *[1] * rank)
    dense = mul(net, pw, reshape(net, dw, [1, c, *[k] * rank]))
    return conv_with(net, conv_with(net, x, dw, g=c, s=s), pw), conv_with(net, x, dense, s=s)


@relation("layermerge/pointwise-pad", of="layermerge", dims=(1, 2))
def layermerge_pointwise(net: Any, x: Any) -> Any:
    """A pointwise convolution without bias before a padded one merges at the borders as well."""
    c, rank, middle, out = channels(x), len(x.shape) - 2, net.pick((6, 4)), net.pick((8, 5))
    w1, w2 = net.weight(middle, c, *[1] * rank), net.weight(out, middle, *[3] * rank)
    return conv_with(net, conv_with(net, x, w1), w2), conv_with(net, x, net("ConvTranspose", w2, w1))


def _signed_statistics(net: Any, c: int) -> tuple[Any, Any, Any, Any]:
    """Norm parameters whose scale is not near zero but may be negative."""
    signs = [-1.0 if net.flag() else 1.0 for _ in range(c)]
    g, b, m, v = statistics(net, c)
    g.low, g.high = 0.2, 2.0
    return mul(net, g, net.const(signs)), b, m, v


def _fires(net: Any, u: Any, p: tuple[Any, Any, Any, Any], threshold: float, folded: bool) -> Any:
    """Where the normalised potential reaches the threshold; folded, the potential reaches a threshold per channel."""
    if not folded:
        return at_least(net, bn_with(net, u, p), net.const(threshold))
    spread = net("Sqrt", offset(net, p[3], 1e-5))
    level = net("Add", net("Div", mul(net, sub(net, net.const(threshold), p[1]), spread), p[0]), p[2])
    rank = len(u.shape) - 2
    level, positive = per_channel(net, level, rank), per_channel(net, net("Greater", p[0], net.const(0.0)), rank)
    above, below = at_least(net, u, level), at_least(net, level, u)
    return net("Or", net("And", positive, above), net("And", net("Not", positive), below))


@block(
    "mpbn-threshold-fold",
    "Membrane Potential Batch Normalization for Spiking Neural Networks",
    seeds=["002:461"],
    dims=(1, 2),
    hazards="comparison at equality flips a spike and what follows",
)
def mpbn_threshold_fold(net: Any, x: Any) -> Any:
    """A spiking neuron over several steps, the norm before the comparison or folded into a threshold per channel (sign-aware)."""
    c, tau, threshold, folded = channels(x), net.pick((0.25, 0.5)), net.pick((0.5, 1.0)), net.pick((True, False))
    current, p = conv(net, x, c, 3), _signed_statistics(net, c)
    u, spikes = current, list[Any]()
    for step in range(net.pick((2, 4))):
        if step:
            u = net("Add", mul(net, scale(net, u, tau), sub(net, net.const(1.0), spikes[-1])), current)
        spikes.append(net("Cast", _fires(net, u, p, threshold, folded), to=FLOAT.onnx))
    return net("Add", spikes[-1], spikes[0])


@relation("mpbn-threshold-fold/folded", of="mpbn-threshold-fold", dims=(1, 2))
def mpbn_folded(net: Any, x: Any) -> Any:
    """The folded threshold fires where the norm does, whatever the sign of its scale (random potentials are never at equality)."""
    p, threshold = _signed_statistics(net, channels(x)), net.pick((0.5, 1.0))
    return tuple(net("Cast", _fires(net, x, p, threshold, folded), to=FLOAT.onnx) for folded in (False, True))


def _lark(net: Any, x: Any, size: int, merged: int) -> Any:
    """Large-kernel block: depthwise, channel gate, dense layers with response normalisation in channels-last form, residual."""
    c, rank = channels(x), len(x.shape) - 2
    last, first = [0, *range(2, rank + 2), 1], [0, rank + 1, *range(1, rank + 1)]
    y = dilated_branches(net, x, size)[merged] if size > 3 else conv(net, x, c, 3, g=c)
    y = transpose(net, squeeze_excite(net, bn(net, y)), last)
    y = act(net, linear(net, y, 2 * c), "Gelu")
    y = linear(net, grn(net, y, list(range(1, rank + 1)), rank + 1, short=bool(merged)), c)
    return add(net, x, bn(net, transpose(net, y, first)))


@block(
    "unireplknet-lark-block",
    "Scaling Up Your Kernels: Large Kernel Design in ConvNets towards Universal Representations",
    seeds=["001:139"],
    dims=(1, 2),
    hazards="norm of a zero map, squares over a map, division by a mean norm",
)
def unireplknet_lark_block(net: Any, x: Any) -> Any:
    """Large- or small-kernel block with channel gate and response normalisation; stresses layout flips and norms after a dense layer."""
    return _lark(net, x, net.pick((13, 3, 7)), net.pick((1, 0)))


@relation("unireplknet-lark-block/grn-rewrite", of="unireplknet-lark-block", dims=(1, 2))
def grn_rewrite(net: Any, x: Any) -> Any:
    """x (g N) + b + x = x (g N + 1) + b."""
    shape = [channels(x), *[1] * (len(x.shape) - 2)]
    params, axes = (net.weight(*shape), net.weight(*shape)), list(range(2, len(x.shape)))
    return grn(net, x, axes, 1, False, params), grn(net, x, axes, 1, True, params)


@relation("unireplknet-lark-block/norm-into-linear", of="unireplknet-lark-block", dims=(1, 2))
def lark_norm_into_linear(net: Any, x: Any) -> Any:
    """The norm after the last dense layer folds into it as into a pointwise convolution."""
    c, rank, out, last = channels(x), len(x.shape) - 2, net.pick((8, 12)), [0, *range(2, len(x.shape)), 1]
    w, p = net.weight(c, out), statistics(net, out)
    left = bn_with(net, transpose(net, net("MatMul", transpose(net, x, last), w), [0, rank + 1, *range(1, rank + 1)]), p)
    factor = net("Div", p[0], net("Sqrt", offset(net, p[3], 1e-5)))
    kernel = reshape(net, transpose(net, mul(net, w, factor), [1, 0]), [out, c, *[1] * rank])
    return left, conv_with(net, x, kernel, sub(net, p[1], mul(net, p[2], factor)))


@block("unireplknet-lark-block/net", "Scaling Up Your Kernels: Large Kernel Design in ConvNets", seeds=["001:139"], dims=(1, 2))
def unireplknet(net: Any, x: Any) -> Any:
    """Stem of two strided convolutions, a small and a large stage, downsampling with a channel norm, global head."""
    y = conv_bn_act(net, conv_bn_act(net, x, 8, s=2, pad=1), 8, s=1)
    y = _lark(net, y, net.pick((3, 5)), 0)
    y = channel_norm(net, conv(net, y, 16, s=2, pad=1))
    return head(net, _lark(net, y, net.pick((5, 7)), 0), 10)
