"""Three-dimensional U-Nets around dilations, prior masks, distances to markers and several views of a volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specs.blocks.channel_spatial_gates import cbam
from specs.blocks.layers import (
    act,
    add,
    bn,
    channels,
    concat,
    conv,
    depthwise,
    mean,
    mul,
    pointwise,
    reduce,
    reshape,
    resize,
    spatial,
    split,
    transpose,
)
from specs.blocks.parts import squeeze_excite
from specs.blocks.sharing import shared
from specs.blocks.u_shapes import classes, flip, halve, levels, sigmoid_head, smooth, transposed, u_shape, unit
from specs.blocks.unet_3d_wavelets import few
from specs.net import block

DISGAN = "DISGAN: Wavelet-informed Discriminator Guides GAN to MRI Super-resolution with Noise Cleaning"
MBDRES = "MBDRes-U-Net: Multi-Scale Lightweight Brain Tumor Segmentation Network"
PLS = "Mediastinal lymph nodes segmentation using 3D convolutional neural network ensembles and anatomical priors guiding"
SALIENCY = "Saliency-Guided Deep Learning Network for Automatic Tumor Bed Volume Delineation in Post-operative Breast Irradiation"
UMCT = "3D Semi-Supervised Learning with Uncertainty-Aware Multi-View Co-Training"


# Dilations ------------------------------------------------------------------------------------------------------------


def weighted_dilated(net: Any, x: Any, ws: Sequence[Any], factors: Sequence[Any], g: int = 1) -> Any:
    """Sum of w_i Conv(dilation i), i = 1, 2, 3."""
    y = None
    for i, (w, f) in enumerate(zip(ws, factors, strict=True), 1):
        term = mul(net, conv(net, x, w.shape[0], 3, d=i, g=g, w=w), f)
        y = term if y is None else add(net, y, term)
    return y


@block("mbdres-unit", MBDRES, seeds=["000:49", "002:141"], dims=(2, 3), hazards="products of sigmoids")
def mbdres_unit(net: Any, x: Any) -> Any:
    """Branches of weighted grouped dilations between 1x1 convolutions, fused gates, skip. Assumed: branch details of DMFNet."""
    c, rank = channels(x), len(x.shape) - 2
    g = 2 if c >= 8 else 1
    y, branches = pointwise(net, act(net, bn(net, x)), c), list[Any]()
    for part in split(net, y, 2):
        ws = [net.weight(c // 2, c // 2 // g, *[3] * rank) for _ in range(3)]
        branches.append(act(net, weighted_dilated(net, part, ws, [net.weight(1) for _ in range(3)], g)))
    y = pointwise(net, concat(net, *branches), c)
    return add(net, cbam(net, y) if net.flag() and c >= 16 else squeeze_excite(net, y, inner=c // 4, bias=True), x)


@block("mbdres-unit/weighted-dilated-conv3d", MBDRES, seeds=["000:49", "002:141"], dims=(2, 3))
def mbdres_weighted(net: Any, x: Any) -> Any:
    """Three dilations under learned scalars; stresses a scalar that may be folded into a kernel."""
    return weighted_dilated(net, x, [net.weight(8, channels(x), *[3] * (len(x.shape) - 2)) for _ in range(3)], [net.weight(1) for _ in range(3)])


@block("mbdres-unit/net", MBDRES, seeds=["000:49", "002:141"], dims=(3, 2))
def mbdres_net(net: Any, x: Any) -> Any:
    """Stem, unit at two scales, linear Resize, four classes. Assumed: as in the block."""
    skip = mbdres_unit(net, unit(net, x, 8))
    low = mbdres_unit(net, conv(net, skip, 8, 3, s=2))
    return classes(net, unit(net, concat(net, smooth(net, low, spatial(skip), 0), skip), 8), 4)


def _separable(net: Any, x: Any, out: int, s: int = 1, d: int = 1) -> Any:
    return unit(net, depthwise(net, x, 3, s=s, d=d), out, 1)


def residual_dense(net: Any, x: Any, growth: int, rates: Sequence[int] = (1, 2, 3, 4)) -> Any:
    """Depthwise separable dilated convolutions, all concatenated, projected and added."""
    seen = x
    for d in rates:
        seen = concat(net, seen, _separable(net, seen, growth, d=d))
    return add(net, x, pointwise(net, seen, channels(x)))


@block("pls-net-prior-channels", PLS, seeds=["002:249"], dims=(3,), hazards="masks beside intensities")
def pls_net_prior_channels(net: Any, x: Any) -> Any:
    """Prior masks as channels, separable strided stem, dense dilations, the resized input again. Assumed: the authors' line of work."""
    k = net.pick((1, 0, 4))
    priors = [net("Cast", net("Greater", net.input(x.shape[0], k, *spatial(x)), net.const(0.0)), to=x.format.onnx)] if k else []
    x = concat(net, few(net, x, 4), *priors) if priors else few(net, x, 4)
    y = residual_dense(net, _separable(net, x, 8, 2), net.pick((4, 12)), (1, 2))
    return concat(net, y, resize(net, x, spatial(y), "linear"))


@block("pls-net-prior-channels/input-reinforcement", PLS, seeds=["002:249"], dims=(2, 3))
def pls_net_reinforcement(net: Any, x: Any) -> Any:
    """The raw input resized beside the features after each of two downsamplings."""
    y = x
    for _ in range(2):
        y = _separable(net, y, 8, 2)
        y = concat(net, y, resize(net, x, spatial(y), "linear"))
    return y


@block("pls-net-prior-channels/dilated-residual-dense", PLS, seeds=["002:249"], dims=(2, 3))
def pls_net_dense(net: Any, x: Any) -> Any:
    """Dense block of separable convolutions with dilations 1 to 4."""
    return residual_dense(net, x, net.pick((4, 12)))


@block("pls-net-prior-channels/net", PLS, seeds=["002:249"], dims=(3,), hazards="ties at the threshold of an even ensemble")
def pls_net(net: Any, x: Any) -> Any:
    """A slab U-Net pooled in-plane and the light net, joined by mean or maximum. Assumed: as in the block."""
    x = few(net, x, 4)
    flat = lambda n, v: n("MaxPool", v, kernel_shape=[1, 2, 2], strides=[1, 2, 2])
    slab = sigmoid_head(net, u_shape(net, x, [4, 8], down=flat, rise=smooth)[0])
    y = residual_dense(net, _separable(net, x, 8, 2), 4, (1, 2))
    y = concat(net, smooth(net, concat(net, y, resize(net, x, spatial(y), "linear")), spatial(x), 0), x)
    light = sigmoid_head(net, _separable(net, y, 8))
    return net(net.pick(("Mean", "Max")), slab, light)


# Distances ------------------------------------------------------------------------------------------------------------

FAR = 1e4  # stands for infinity in a mask without markers


def marked(net: Any, mask: Any) -> Any:
    """Zero on markers, far elsewhere."""
    return net("Where", net("Greater", mask, net.const(0.0)), net.const(0.0), net.const(FAR))


def squared_distance(net: Any, f: Any) -> Any:
    """Squared Euclidean distance transform, one axis after the other: min over j of f(j) + (i - j)^2."""
    rank = len(f.shape)
    for axis in range(2, rank):
        n = f.shape[axis]
        rows = net("Unsqueeze", transpose(net, f, [*(a for a in range(rank) if a != axis), axis]), net.ints([rank - 1]))
        near = reduce(net, "ReduceMin", net("Add", rows, net.const([[float((i - j) ** 2) for j in range(n)] for i in range(n)])), [rank], 0)
        f = transpose(net, near, [*range(axis), rank - 1, *range(axis, rank - 1)])
    return f


def saliency(net: Any, mask: Any) -> Any:
    """Nearness to markers: a Gaussian of the distance, or 1 / (1 + d), over its maximum."""
    d2 = squared_distance(net, marked(net, mask))
    if net.flag():
        s = net("Reciprocal", net("Add", net("Sqrt", d2), net.const(1.0)))
    else:
        s = net("Exp", net("Mul", d2, net.const(-0.5 / net.pick((3.0, 10.0)) ** 2)))
    most = reduce(net, "ReduceMax", s, list(range(1, len(mask.shape))))
    return net("Div", s, net("Add", most, net.const(1e-6)))


@block("saliency-guided-unet", SALIENCY, seeds=["000:419"], dims=(2, 3), hazards="square root at 0, exp underflow, a mask without markers")
def saliency_guided_unet(net: Any, x: Any) -> Any:
    """Distance transform of markers, saliency, a gated U level; stresses ReduceMin over broadcast sums."""
    s = saliency(net, net.input(x.shape[0], 1, *spatial(x)))
    skip = unit(net, concat(net, few(net, x, 8), s), 8)
    y = transposed(net, unit(net, halve(net, skip), 8), spatial(skip), 8)
    return unit(net, concat(net, mul(net, skip, sigmoid_head(net, s)), y), 8)


@block("saliency-guided-unet/separable-edt", SALIENCY, seeds=["000:419"], dims=(1, 2, 3), hazards="square root at 0, a mask without markers")
def saliency_edt(net: Any, x: Any) -> Any:
    """Euclidean distance transform by min-plus passes over each axis."""
    return net("Sqrt", squared_distance(net, marked(net, few(net, x, 2))))


@block("saliency-guided-unet/soft-saliency-gate", SALIENCY, seeds=["000:419"], dims=(2, 3))
def saliency_gate(net: Any, x: Any) -> Any:
    """Features under a sigmoid of the resized saliency."""
    s = saliency(net, net.input(x.shape[0], 1, *(2 * n for n in spatial(x)[:1]), *spatial(x)[1:]))
    return mul(net, x, sigmoid_head(net, resize(net, s, spatial(x), "linear")))


@block("saliency-guided-unet/net", SALIENCY, seeds=["000:419"], dims=(2, 3))
def saliency_net(net: Any, x: Any) -> Any:
    """The whole: the saliency channel, gates on every skip, a sigmoid."""
    s = saliency(net, net.input(x.shape[0], 1, *spatial(x)))
    join = lambda n, skip, up, coarse: concat(n, mul(n, skip, sigmoid_head(n, resize(n, s, spatial(skip), "linear"))), up)
    return sigmoid_head(net, u_shape(net, concat(net, few(net, x, 4), s), [4, 8, 8][: levels(net, x, 2) + 1], join=join)[0])


# Views ----------------------------------------------------------------------------------------------------------------


def turned(net: Any, x: Any, perm: Sequence[int], axes: Sequence[int], back: bool = False) -> Any:
    """Spatial axes permuted, then some of them reversed (a rotation by 90 degrees is both); or that undone."""
    full = [0, 1, *(2 + p for p in perm)]
    if not back:
        y = transpose(net, x, full)
        return flip(net, y, axes) if axes else y
    y = flip(net, x, axes) if axes else x
    return transpose(net, y, [full.index(i) for i in range(len(full))])


def fused(net: Any, maps: Sequence[Any], confidences: Sequence[Any]) -> Any:
    """Maps under their confidences, over the sum of the confidences."""
    top = net("Sum", *(mul(net, p, c) for p, c in zip(maps, confidences, strict=True)))
    return net("Div", top, net("Sum", *confidences))


def _flat_net(net: Any, x: Any) -> Any:
    """Encoder with kernels flat along one axis, residual, cubic decoder, linear Resize, two classes."""
    y = conv(net, x, 4, (1, 3, 3) if net.flag() else (3, 3, 1))
    y = add(net, y, act(net, conv(net, y, 4, (1, 3, 3))))
    return classes(net, smooth(net, conv(net, y, 4, 3, s=2), spatial(x), 0), 2)


@block("umct-multiview", UMCT, seeds=["003:339"], dims=(3,))
def umct_multiview(net: Any, x: Any) -> Any:
    """Permuted or rotated views through nets with flat kernels and back; stresses 5-D Transpose around Conv."""
    x, outs = few(net, x, 4), list[Any]()
    for perm, axes in (((0, 1, 2), []), ((1, 2, 0), []), ((0, 2, 1), [3]))[: net.pick((2, 3))]:
        outs.append(turned(net, _flat_net(net, turned(net, x, perm, axes)), perm, axes, back=True))
    return outs


def uncertain(net: Any, samples: Sequence[Any]) -> tuple[Any, Any]:
    """Mean and confidence of a view: one over the mean variance of its passes plus a little."""
    stack = net("Concat", *(net("Unsqueeze", s, net.ints([0])) for s in samples), axis=0)
    middle = mean(net, stack, [0])
    d = net("Sub", stack, middle)
    variance = mean(net, mul(net, d, d), [0, *range(2, len(stack.shape))])
    certainty = net("Reciprocal", net("Add", variance, net.const(1e-2)))
    rank = len(stack.shape) - 1
    return net("Squeeze", middle, net.ints([0])), reshape(net, certainty, [samples[0].shape[0], *[1] * (rank - 1)])


@block("umct-multiview/uncertainty-fusion", UMCT, seeds=["003:339"], dims=(2, 3), hazards="one over a variance that vanishes")
def umct_fusion(net: Any, x: Any) -> Any:
    """Views with dropout masks as inputs: mean, variance, and a mean under confidences."""
    x, views = few(net, x, 8), list[tuple[Any, Any]]()
    for _ in range(2):
        view = shared(net, lambda net, v: classes(net, v, 2))
        views.append(uncertain(net, [view(mul(net, x, net("Cast", net("Greater", net.input(*x.shape), net.const(0.0)), to=x.format.onnx))) for _ in range(2)]))
    return fused(net, [p for p, _ in views], [c for _, c in views])


@block("umct-multiview/net", UMCT, seeds=["003:339"], dims=(3,), hazards="one over a variance that vanishes")
def umct_net(net: Any, x: Any) -> Any:
    """Three views with two passes each; what the others say of the first one."""
    x, views = few(net, x, 2), list[tuple[Any, Any]]()
    for perm in ((1, 2, 0), (2, 0, 1)):
        view = shared(net, lambda net, v, perm=perm: turned(net, _flat_net(net, turned(net, v, perm, [])), perm, [], back=True))
        views.append(uncertain(net, [view(mul(net, x, net.input(1, channels(x), 1, 1, 1))) for _ in range(2)]))
    return _flat_net(net, x), fused(net, [p for p, _ in views], [c for _, c in views])
