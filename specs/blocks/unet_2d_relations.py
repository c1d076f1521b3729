"""What two-dimensional U-Net rows state exactly: sets do not have an order, pruned graphs and shuffles lose nothing."""

from __future__ import annotations

from typing import Any

from specs.blocks.layers import channels, concat, conv, mul, pointwise, pool, reshape, slice_, spatial, transpose
from specs.blocks.sharing import shared
from specs.blocks.u_shapes import pixel_shuffle, pixel_unshuffle, smooth, unit
from specs.blocks.unet_2d import nested
from specs.blocks.unet_2d_sets import cross_block, pairwise
from specs.blocks.unet_2d_streams import click_map, heatmap, slice_net, slicewise, surface, tile_probabilities
from specs.net import relation


def _order(net: Any, k: int) -> list[int]:
    """Some order of k members that is not the given one."""
    turn = net.int(1, max(1, k - 1))
    return [(i + turn) % k for i in range(k)][:: net.pick((1, -1))]


@relation("click-guided-unet/click-order", of="click-guided-unet")
def click_order(net: Any, x: Any) -> Any:
    """The order of the clicks does not matter."""
    clicks, s, how = net.input(x.shape[0], net.pick((3, 5)), 2), net.pick((2.0, 5.0)), net.pick(("ReduceMax", "ReduceSum"))
    turned = net("Gather", clicks, net.ints(_order(net, clicks.shape[1])), axis=1)
    return mul(net, x, click_map(net, x, clicks, s, how)), mul(net, x, click_map(net, x, turned, s, how))


@relation("click-guided-unet/duplicate-click", of="click-guided-unet")
def click_duplicate(net: Any, x: Any) -> Any:
    """A click given twice has no effect on a maximum."""
    clicks, s = net.input(x.shape[0], net.pick((1, 3)), 2), net.pick((2.0, 5.0))
    more = concat(net, clicks, slice_(net, clicks, 0, 1, 1))
    return mul(net, x, click_map(net, x, clicks, s)), mul(net, x, click_map(net, x, more, s))


@relation("contextual-unet-3slice/erosion-duality", of="contextual-unet-3slice", dims=(1, 2, 3))
def morphology_duality(net: Any, x: Any) -> Any:
    """Closing is opening of the negative: the dilation of an erosion, by pools and negations in the other order."""
    k = net.pick((3, 5))

    def dilate(v: Any) -> Any:
        return pool(net, v, "MaxPool", k, 1, k // 2)

    def erode(v: Any) -> Any:
        return net("Neg", dilate(net("Neg", v)))

    return dilate(erode(x)), net("Neg", erode(dilate(net("Neg", x))))


@relation("contextual-unet-3slice/pooled-minimum", of="contextual-unet-3slice")
def surface_forms(net: Any, x: Any) -> Any:
    """The min-plus step by max pooling of negatives equals the minimum of shifted slices."""
    delta = net.pick((1, 2))
    return surface(net, x, delta, True), surface(net, x, delta, False)


@relation("h2g-cascade-refinement/reshape-is-scatter", of="h2g-cascade-refinement", takes="none")
def tiles_scattered(net: Any) -> Any:
    """Tiles in their order: Reshape equals ScatterND to their places."""
    h, w = net.pick((2, 3)), net.pick((3, 2))
    p = tile_probabilities(net, net.input(h * w, 3, 8, 8))
    return heatmap(net, p, h, w, False), heatmap(net, p, h, w, True)


@relation("ivd-net-dilated-inception/concat-order", of="ivd-net-dilated-inception", dims=(1, 2, 3))
def concat_order(net: Any, x: Any) -> Any:
    """A convolution over permuted paths equals the one over paths in order with its weights permuted."""
    parts = [unit(net, x, 4) for _ in range(net.pick((2, 4)))]
    order, out, ones = _order(net, len(parts)), net.pick((8, 4)), [1] * (len(x.shape) - 2)
    w = [net.weight(out, 4, *ones) for _ in parts]
    left = conv(net, concat(net, *(parts[i] for i in order)), out, 1, w=concat(net, *(w[i] for i in order)))
    return left, conv(net, concat(net, *parts), out, 1, w=concat(net, *w))


@relation("multi-path-2p5d-unet/plane-roles", of="multi-path-2p5d-unet", dims=(3,))
def plane_roles(net: Any, x: Any) -> Any:
    """Permuting the axes of the volume permutes the roles of the planes: depth slices are row slices of the volume with both swapped."""
    x, f = slice_(net, x, 0, 2, 1), shared(net, slice_net)
    swap = [0, 1, 3, 2, 4]
    return slicewise(net, x, 2, f), transpose(net, slicewise(net, transpose(net, x, swap), 3, f), swap)


@relation("neuralizer-pairwise-conv-avg/context-order", of="neuralizer-pairwise-conv-avg", dims=(2, 3))
def context_order(net: Any, x: Any) -> Any:
    """Permuting the contexts leaves the target's features unchanged."""
    return _set_forms(net, pointwise(net, x, 2), pairwise, lambda c: net("Gather", c, net.ints(_order(net, c.shape[1])), axis=1))


@relation("neuralizer-pairwise-conv-avg/context-duplicated", of="neuralizer-pairwise-conv-avg", dims=(2, 3))
def context_duplicated(net: Any, x: Any) -> Any:
    """The context set given twice leaves the target's features unchanged."""
    return _set_forms(net, pointwise(net, x, 2), pairwise, lambda c: concat(net, c, c))


def _set_forms(net: Any, t: Any, step: Any, change: Any) -> Any:
    contexts, out = net.input(t.shape[0], net.pick((2, 3)), 2, *spatial(t)), net.pick((4, 8))
    f = shared(net, lambda net, c: step(net, t, c, out)[0])
    return f(contexts), f(change(contexts))


@relation("neuralizer-pairwise-conv-avg/linear-split", of="neuralizer-pairwise-conv-avg", dims=(1, 2, 3))
def pair_split(net: Any, x: Any) -> Any:
    """Conv over [target, context] is the sum of one over each with its part of the weights."""
    other, out = net.input(x.shape[0], net.pick((2, 4)), *spatial(x)), net.pick((4, 8))
    c, rank = channels(x), len(x.shape) - 2
    w = net.weight(out, c + channels(other), *[3] * rank)
    left = conv(net, concat(net, x, other), out, 3, w=w)
    return left, net("Add", conv(net, x, out, 3, w=slice_(net, w, 0, c, 1)), conv(net, other, out, 3, w=slice_(net, w, c, c + channels(other), 1)))


@relation("universeg-crossblock/support-order", of="universeg-crossblock")
def support_order(net: Any, x: Any) -> Any:
    """The query's result does not depend on the order of the support."""
    return _set_forms(net, slice_(net, x, 0, 2, 1), cross_block, lambda c: net("Gather", c, net.ints(_order(net, c.shape[1])), axis=1))


@relation("universeg-crossblock/support-duplicated", of="universeg-crossblock")
def support_duplicated(net: Any, x: Any) -> Any:
    """The whole support given twice leaves the query's result unchanged."""
    return _set_forms(net, slice_(net, x, 0, 2, 1), cross_block, lambda c: concat(net, c, c))


@relation("universeg-crossblock/linear-split", of="universeg-crossblock")
def cross_split(net: Any, x: Any) -> Any:
    """The convolution of a broadcast query beside each support member: computed once for the query, added to each."""
    u, s, c, out = slice_(net, x, 0, 2, 1), net.pick((2, 3)), 2, net.pick((4, 8))
    v, w, n, size = net.input(x.shape[0], s, c, *spatial(x)), net.weight(out, 2 + c, 3, 3), x.shape[0], spatial(x)
    wide = net("Expand", net("Unsqueeze", u, net.ints([1])), net.ints([n, s, 2, *size]))
    left = conv(net, reshape(net, concat(net, wide, v, axis=2), [n * s, 2 + c, *size]), out, 3, w=w)
    once = net("Unsqueeze", conv(net, u, out, 3, w=slice_(net, w, 0, 2, 1)), net.ints([1]))
    each = reshape(net, conv(net, reshape(net, v, [n * s, c, *size]), out, 3, w=slice_(net, w, 2, 2 + c, 1)), [n, s, out, *size])
    return reshape(net, left, [n, s, out, *size]), net("Add", once, each)


@relation("resunet-plus-plus/centre-tap", of="resunet-plus-plus", dims=(1, 2, 3))
def aspp_centre_tap(net: Any, x: Any) -> Any:
    """A dilation of at least the size leaves the centre tap of the kernel."""
    rate, rank, out = max(spatial(x)) + net.pick((0, 1, 7)), len(x.shape) - 2, net.pick((8, 4))
    w = net.weight(out, channels(x), *[3] * rank)
    centre = net("Slice", w, net.ints([1] * rank), net.ints([2] * rank), net.ints(range(2, 2 + rank)))
    return conv(net, x, out, 3, d=rate, w=w), conv(net, x, out, 1, w=centre)


@relation("shuffle-unet/unshuffle-inverse", of="shuffle-unet", dims=(1, 2, 3), even=2)
def shuffle_inverse(net: Any, x: Any) -> Any:
    """PixelShuffle(PixelUnshuffle(x)) is x."""
    r = [2] * (len(x.shape) - 2)
    return pixel_shuffle(net, pixel_unshuffle(net, x, r), r), net("Identity", x)


@relation("shuffle-unet/depth-to-space", of="shuffle-unet")
def shuffle_operator(net: Any, x: Any) -> Any:
    """Reshape-Transpose-Reshape equals DepthToSpace in CRD order."""
    y = conv(net, x, 8)
    return pixel_shuffle(net, y, [2, 2]), net("DepthToSpace", y, blocksize=2, mode="CRD")


@relation("unet-ag-ds-multikernel/merged-kernels", of="unet-ag-ds-multikernel", dims=(1, 2, 3))
def kernels_merged(net: Any, x: Any) -> Any:
    """Parallel kernels 1, 3, 5 and 7 equal one convolution of 7 with the smaller ones padded."""
    rank, sizes = len(x.shape) - 2, net.pick(((1, 3), (1, 3, 5), (1, 3, 5, 7)))
    ws, most = [net.weight(4, channels(x), *[k] * rank) for k in sizes], max(sizes)
    left = concat(net, *(conv(net, x, 4, k, w=w) for k, w in zip(sizes, ws, strict=True)))
    wide = [net("Pad", w, net.ints([0, 0, *[(most - k) // 2] * rank] * 2)) if k < most else w for k, w in zip(sizes, ws, strict=True)]
    return left, conv(net, x, 4 * len(sizes), most, w=concat(net, *wide, axis=0))


@relation("unet-spectral-indices/pixelwise-dense", of="unet-spectral-indices")
def pixelwise_dense(net: Any, x: Any) -> Any:
    """Dense layers on pixel vectors equal 1x1 convolutions on the image."""
    n, c, (h, w) = x.shape[0], channels(x), spatial(x)
    first, second, b = net.weight(8, c), net.weight(4, 8), net.weight(8)
    rows = reshape(net, transpose(net, x, [0, 2, 3, 1]), [-1, c])
    rows = net("Gemm", net("Relu", net("Gemm", rows, first, b, transB=1)), second, transB=1)
    left = transpose(net, reshape(net, rows, [n, h, w, 4]), [0, 3, 1, 2])
    y = net("Relu", net("Conv", x, reshape(net, first, [8, c, 1, 1]), b))
    return left, net("Conv", y, reshape(net, second, [4, 8, 1, 1]))


@relation("unetpp-nested/pruned", of="unetpp-nested", dims=(2, 3))
def nested_pruned(net: Any, x: Any) -> Any:
    """X(0, l) is unchanged when the deeper nodes are removed; the full graph stays alive through a Concat."""
    if min(spatial(x)) < 4:
        x = smooth(net, x, [8] * (len(x.shape) - 2), 0)
    graph = shared(net, lambda net, depth: nested(net, x, depth, 4, lambda n, v, out: unit(n, v, out, norm=""), smooth))
    whole, keep = graph(2), net.pick((1, 0))
    return slice_(net, concat(net, whole[0, 2], whole[0, keep]), 4, 8, 1), graph(keep)[0, keep]


@relation("dual-encoder-attention-unet/scaled-maps", of="dual-encoder-attention-unet")
def scaled_maps(net: Any, x: Any) -> Any:
    """Scaling each head's map before a convolution equals scaling the kernel's channels."""
    scale, w = net.weight(channels(x), 1, 1), net.weight(8, channels(x), 3, 3)
    return conv(net, mul(net, x, scale), 8, 3, w=w), conv(net, x, 8, 3, w=mul(net, w, scale))
