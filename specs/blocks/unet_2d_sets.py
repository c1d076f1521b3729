"""Two-dimensional U-Nets over sets and sequences: context sets, support sets, prior slices, refinement passes, spectral bands."""

from __future__ import annotations

from typing import Any

from specs.blocks.layers import (
    act,
    add,
    channels,
    concat,
    conv,
    mean,
    mul,
    pointwise,
    reduce,
    reshape,
    slice_,
    spatial,
    split,
)
from specs.blocks.sharing import shared
from specs.blocks.u_shapes import classes, dice, halve, leaky, levels, sigmoid_head, smooth, transposed, u_shape, unit
from specs.blocks.unet_2d_streams import slice_net
from specs.net import block

NEURALIZER = "Neuralizer: General Neuroimage Analysis without Re-Training"
PRIOR = "Enforcing temporal consistency in Deep Learning segmentation of brain MR images"
RRW = "RRWNet: Recursive Refinement Network for effective retinal artery/vein segmentation and classification"
BHUTAN = "Comparing Deep Learning Models for Rice Mapping in Bhutan Using High Resolution Satellite Imagery"
UNIVERSEG = "UniverSeg: Universal Medical Image Segmentation"


# Sets -----------------------------------------------------------------------------------------------------------------


def pairwise(net: Any, t: Any, contexts: Any, out: int) -> tuple[Any, Any]:
    """Pairwise-Conv-Avg of a target (N, C, *S) with contexts (N, K, C, *S): the shared convolution of each pair, averaged over K."""
    n, k, c = contexts.shape[:3]
    size = spatial(t)
    wide = net("Expand", net("Unsqueeze", t, net.ints([1])), net.ints([n, k, channels(t), *size]))
    h = leaky(net, conv(net, reshape(net, concat(net, wide, contexts, axis=2), [n * k, channels(t) + c, *size]), out, 3, bias=True))
    average = mean(net, reshape(net, h, [n, k, out, *size]), [1], 0)
    target = add(net, pointwise(net, t, out), pointwise(net, average, out, bias=True))
    return target, reshape(net, pointwise(net, h, out, bias=True), [n, k, out, *size])


@block("neuralizer-pairwise-conv-avg", NEURALIZER, seeds=["002:333"], dims=(2, 3), hazards="the order of the mean over contexts")
def neuralizer_pairwise_conv_avg(net: Any, x: Any) -> Any:
    """Target and context set through shared convolutions; stresses Expand, folded batches and a mean over the set.

    Assumed: a 1x1 residual path of the target.
    """
    t = pointwise(net, x, net.pick((4, 2)))
    return pairwise(net, t, net.input(x.shape[0], net.pick((2, 1, 4)), channels(t), *spatial(x)), net.pick((4, 8)))


def _each(net: Any, contexts: Any, f: Any) -> Any:
    """A network on every member of a set."""
    n, k = contexts.shape[:2]
    y = f(reshape(net, contexts, [n * k, *contexts.shape[2:]]))
    return reshape(net, y, [n, k, *y.shape[1:]])


def _set_unet(net: Any, t: Any, contexts: Any, step: Any, width: int) -> Any:
    """A U of one halving over a target and its set, both streams pooled, resized and joined with their skips."""
    t, contexts = step(net, t, contexts, width)
    low = step(net, halve(net, t), _each(net, contexts, lambda v: halve(net, v)), width)
    t2 = concat(net, smooth(net, low[0], spatial(t), 0), t)
    c2 = concat(net, _each(net, low[1], lambda v: smooth(net, v, spatial(t), 0)), contexts, axis=2)
    return step(net, t2, c2, width)[0]


@block("neuralizer-pairwise-conv-avg/net", NEURALIZER, seeds=["002:333"], dims=(2, 3))
def neuralizer_net(net: Any, x: Any) -> Any:
    """A U of them on image and context pairs. Assumed: as in the block."""
    t = pointwise(net, x, 2)
    return sigmoid_head(net, _set_unet(net, t, net.input(x.shape[0], 2, 2, *spatial(x)), pairwise, 4))


def cross_block(net: Any, u: Any, v: Any, out: int) -> tuple[Any, Any]:
    """CrossBlock of a query (N, C1, *S) and a support (N, S, C2, *S)."""
    n, s, c = v.shape[:3]
    size = spatial(u)
    wide = net("Expand", net("Unsqueeze", u, net.ints([1])), net.ints([n, s, channels(u), *size]))
    z = conv(net, reshape(net, concat(net, wide, v, axis=2), [n * s, channels(u) + c, *size]), out, 3, bias=True)
    query = leaky(net, conv(net, mean(net, reshape(net, z, [n, s, out, *size]), [1], 0), out, 3, bias=True))
    support = leaky(net, conv(net, z, out, 3, bias=True))
    return query, reshape(net, support, [n, s, *support.shape[1:]])


@block("universeg-crossblock", UNIVERSEG, seeds=["000:325"], hazards="the order of the mean over the support")
def universeg_crossblock(net: Any, x: Any) -> Any:
    """Query against every member of the support set; stresses Expand-Concat-Reshape folds and a mean over the set."""
    u = slice_(net, x, 0, net.pick((4, 1)), 1)
    return cross_block(net, u, net.input(x.shape[0], net.pick((2, 1, 4)), net.pick((2, 4)), *spatial(x)), net.pick((4, 8)))


@block("universeg-crossblock/net", UNIVERSEG, seeds=["000:325"])
def universeg_net(net: Any, x: Any) -> Any:
    """A U of CrossBlocks over query and (image, label) support, sigmoid head."""
    u = slice_(net, x, 0, 1, 1)
    return sigmoid_head(net, _set_unet(net, u, net.input(x.shape[0], net.pick((2, 1, 3)), 2, *spatial(x)), cross_block, 4))


# Passes ---------------------------------------------------------------------------------------------------------------


@block("prior-slice-unet-2d", PRIOR, seeds=["002:27"], hazards="rounding fed back through the masks")
def prior_slice_unet_2d(net: Any, x: Any) -> Any:
    """Slices in turn through one network that also sees the last masks; stresses weights shared by an unrolled recurrence.

    Assumed: the previous masks (not slices) are the prior, zero before the first.
    """
    p, steps = net.pick((1, 2, 3)), net.pick((3, 4))
    step = shared(net, slice_net)
    masks = [net("Mul", slice_(net, x, 0, 1, 1), net.const(0.0))] * p
    for z in range(steps):
        masks.append(step(concat(net, slice_(net, x, z, z + 1, 1), *masks[-p:])))
    return concat(net, *masks[p:])


@block("prior-slice-unet-2d/dice-rms-atrophy", PRIOR, seeds=["002:27"], dims=(2, 3), hazards="division by an empty volume")
def prior_slice_metrics(net: Any, x: Any) -> Any:
    """Dice, relative change of volume and root mean square between two soft masks."""
    a, b = sigmoid_head(net, x), sigmoid_head(net, x)
    axes = list(range(1, len(x.shape)))
    change, volume = (reduce(net, "ReduceSum", v, axes, 0) for v in (net("Sub", a, b), b))
    d = net("Sub", a, b)
    return dice(net, a, b, axes), net("Div", change, net("Add", volume, net.const(1e-5))), net("Sqrt", mean(net, mul(net, d, d), axes, 0))


@block("prior-slice-unet-2d/net", PRIOR, seeds=["002:27"])
def prior_slice_unet_2d_net(net: Any, x: Any) -> Any:
    """The U-Net on the current slice and the channels before it. Assumed: as in the block."""
    x = slice_(net, x, 0, 1 + net.pick((1, 2, 3)), 1)
    return sigmoid_head(net, u_shape(net, x, [8, 16, 16][: levels(net, x, 2) + 1])[0])


def refiner(net: Any, y: Any) -> Any:
    """The refinement network: maps in, logits of as many maps out."""
    return pointwise(net, u_shape(net, act(net, y, "Sigmoid"), [4, 8], stage=lambda n, v, c: unit(n, v, c, norm=""))[0], channels(y), bias=True)


@block("rrwnet", RRW, seeds=["004:31"], hazards="repeated sigmoid saturation")
def rrwnet(net: Any, x: Any) -> Any:
    """Maps refined again and again by one network, all passes are outputs; stresses weights shared by repeated subgraphs."""
    y, refine = pointwise(net, x, 3, bias=True), shared(net, refiner)
    outs = [y]
    for _ in range(net.pick((2, 1, 3))):
        outs.append(refine(outs[-1]))
    return outs


@block("rrwnet/net", RRW, seeds=["004:31"], hazards="repeated sigmoid saturation")
def rrwnet_net(net: Any, x: Any) -> Any:
    """The base U-Net and refinement, with or without the image beside the maps."""
    y = pointwise(net, u_shape(net, x, [8, 16, 16][: levels(net, x, 2) + 1])[0], 3, bias=True)
    refine = shared(net, refiner)
    for _ in range(net.pick((1, 2))):
        y = refine(y)
    return act(net, y, "Sigmoid")


def ratio(net: Any, a: Any, b: Any, e: float) -> Any:
    return net("Div", net("Sub", a, b), net("Add", net("Add", a, b), net.const(e)))


def _indices(net: Any, x: Any) -> Any:
    """NDVI, EVI and NDWI of the first four channels, read as red, green, blue, near infrared."""
    r, g, b, n = (slice_(net, x, i, i + 1, 1) for i in range(4))
    e = net.pick((1e-6, 0.0))
    below = net("Add", net("Sub", net("Add", n, net("Mul", r, net.const(6.0))), net("Mul", b, net.const(7.5))), net.const(1.0))
    evi = net("Div", net("Mul", net("Sub", n, r), net.const(2.5)), below)
    return concat(net, x, ratio(net, n, r, e), evi, ratio(net, g, n, e))


@block("unet-spectral-indices", BHUTAN, seeds=["004:67"], hazards="0/0 on black pixels, a denominator that changes sign")
def unet_spectral_indices(net: Any, x: Any) -> Any:
    """Band ratios beside the bands, one convolution unit; stresses division of slices and Concat."""
    return unit(net, _indices(net, slice_(net, x, 0, 4, 1)), net.pick((8, 16)))


@block("unet-spectral-indices/ndvi-ratio", BHUTAN, seeds=["004:67"], dims=(1, 2, 3), hazards="0/0 on black pixels")
def unet_spectral_ratio(net: Any, x: Any) -> Any:
    """(a - b) / (a + b + e) of the two halves of the channels."""
    a, b = split(net, x, 2)
    return ratio(net, a, b, net.pick((1e-6, 0.0)))


@block("unet-spectral-indices/net", BHUTAN, seeds=["004:67"], hazards="0/0 on black pixels")
def unet_spectral_indices_net(net: Any, x: Any) -> Any:
    """Indices, U-Net, head."""
    y = u_shape(net, _indices(net, slice_(net, x, 0, 4, 1)), [8, 16, 16][: levels(net, x, 2) + 1], rise=net.pick((transposed, smooth)))[0]
    return classes(net, y, net.pick((2, 1)))
