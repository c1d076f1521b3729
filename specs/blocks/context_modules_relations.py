"""What context modules state exactly: dilations regroup, far taps vanish, one position broadcasts, passes mirror each other."""

from __future__ import annotations

from typing import Any

import numpy as np

from specs.blocks.context_modules import patches
from specs.blocks.context_modules_dilated import few_rows, message_pass, message_weight, on_scales, tiles, untiled
from specs.blocks.layers import act, channels, conv, gap, mul, pad, pool, reduce, reshape, resize, slice_, softmax, spatial, transpose
from specs.blocks.parts import bn_with, conv_with, dirac, fold, narrow, statistics, total
from specs.blocks.pyramids import bins, dilated_by_batch, from_batch, to_batch
from specs.blocks.sharing import shared
from specs.blocks.u_shapes import flip
from specs.formats import INT64
from specs.net import relation


def _space_to_batch(net: Any, x: Any) -> Any:
    x, d, out = narrow(net, x, 8), net.pick((2, 3, 4)), net.pick((4, 8))
    w = net.weight(out, channels(x), *[3] * (len(x.shape) - 2))
    return conv(net, x, out, 3, d=d, w=w), dilated_by_batch(net, x, w, d)


@relation("aspp-deeplabv3/space-to-batch", of="aspp-deeplabv3", dims=(1, 2, 3))
def aspp_space_to_batch(net: Any, x: Any) -> Any:
    """A dilated convolution is space to batch, an ordinary convolution, batch to space."""
    return _space_to_batch(net, x)


@relation("dilated-context-module/space-to-batch", of="dilated-context-module", dims=(1, 2, 3))
def dilated_space_to_batch(net: Any, x: Any) -> Any:
    """The same for two layers in a row: regrouped once in between."""
    x, d = narrow(net, x, 4), net.pick((2, 4))
    ws = [net.weight(4, channels(x), *[3] * (len(x.shape) - 2)), net.weight(4, 4, *[3] * (len(x.shape) - 2))]
    left = conv(net, act(net, conv(net, x, 4, 3, d=d, w=ws[0])), 4, 3, d=d, w=ws[1])
    return left, dilated_by_batch(net, act(net, dilated_by_batch(net, x, ws[0], d)), ws[1], d)


@relation("aspp-deeplabv3/centre-tap", of="aspp-deeplabv3", dims=(1, 2, 3))
def aspp_far_taps(net: Any, x: Any) -> Any:
    """A rate of at least the size leaves the 1x1 convolution of the centre tap."""
    rate, rank, out = max(spatial(x)) + net.pick((0, 1, 12)), len(x.shape) - 2, net.pick((8, 4))
    w = net.weight(out, channels(x), *[3] * rank)
    centre = net("Slice", w, net.ints([1] * rank), net.ints([2] * rank), net.ints(range(2, 2 + rank)))
    return conv(net, x, out, 3, d=rate, w=w), conv(net, x, out, 1, w=centre)


@relation("aspp-deeplabv3/resize-one-position", of="aspp-deeplabv3", dims=(1, 2, 3))
def resize_one(net: Any, x: Any) -> Any:
    """Resize from one position is a broadcast in every mode and coordinate mode."""
    y = gap(net, x)
    mode, corners = net.pick((("linear", False), ("linear", True), ("nearest", False)))
    return resize(net, y, spatial(x), mode, corners), net("Expand", y, net.ints(x.shape))


@relation("attention-fused-dense-depth/stacked-sum", of="attention-fused-dense-depth", dims=(1, 2, 3))
def stacked_sum(net: Any, x: Any) -> Any:
    """The sum over the stacked scale axis is the sum of the weighted maps."""
    n = net.pick((3, 4, 2))
    maps, weights = [conv(net, x, 4, 1) for _ in range(n)], softmax(net, conv(net, x, n, 3), 1)
    stack = net("Concat", *(net("Unsqueeze", m, net.ints([1])) for m in maps), axis=1)
    left = reduce(net, "ReduceSum", mul(net, stack, net("Unsqueeze", weights, net.ints([2]))), [1], 0)
    return left, total(net, [mul(net, m, slice_(net, weights, i, i + 1, 1)) for i, m in enumerate(maps)])


@relation("birefnet-biref-decoder/patches-back", of="birefnet-biref-decoder", even=2)
def patches_back(net: Any, x: Any) -> Any:
    """The patches hold the whole image: put side by side they are it."""
    n, c, (h, w) = x.shape[0], channels(x), spatial(x)
    y = reshape(net, patches(net, x, [h // 2, w // 2]), [n, c, 2, 2, h // 2, w // 2])
    return reshape(net, transpose(net, y, [0, 1, 2, 4, 3, 5]), x.shape), net("Identity", x)


@relation("dappm-ddrnet/count-include-pad", of="dappm-ddrnet", dims=(1, 2, 3))
def pad_included(net: Any, x: Any) -> Any:
    """Average pooling that counts its padding is pooling of the padded map."""
    x, rank, i = narrow(net, x, 8), len(x.shape) - 2, net.pick((1, 2))
    k, p = 2 ** (i + 1) + 1, 2**i
    left = net("AveragePool", x, kernel_shape=[k] * rank, strides=[p] * rank, pads=[p] * (2 * rank), count_include_pad=1)
    return left, pool(net, pad(net, x, [p] * rank, [p] * rank), "AveragePool", k, p)


@relation("dappm-ddrnet/excluded-padding", of="dappm-ddrnet", dims=(1, 2, 3))
def pad_excluded(net: Any, x: Any) -> Any:
    """Pooling that does not count its padding divides by how many positions were inside."""
    rank, i = len(x.shape) - 2, net.pick((1, 2))
    shape = {"kernel_shape": [2 ** (i + 1) + 1] * rank, "strides": [2**i] * rank, "pads": [2**i] * (2 * rank)}
    ones = net.const(np.ones([1, 1, *spatial(x)]))
    inside = net("AveragePool", ones, count_include_pad=1, **shape)
    return net("AveragePool", x, count_include_pad=0, **shape), net("Div", net("AveragePool", x, count_include_pad=1, **shape), inside)


@relation("dappm-ddrnet/norm-folded-forward", of="dappm-ddrnet", dims=(1, 2, 3))
def folded_forward(net: Any, x: Any) -> Any:
    """Batch norm folds into the convolution behind it where that has no padding: scales into the kernel, shifts into a bias."""
    c, rank, k = channels(x), len(x.shape) - 2, net.pick((1, 3))
    p, w = statistics(net, c), net.weight(8, c, *[k] * rank)
    scales = net("Div", p[0], net("Sqrt", net("Add", p[3], net.const(1e-5))))
    shifts = net("Sub", p[1], mul(net, p[2], scales))
    kernel = mul(net, w, reshape(net, scales, [1, c, *[1] * rank]))
    bias = reduce(net, "ReduceSum", mul(net, w, reshape(net, shifts, [1, c, *[1] * rank])), list(range(1, 2 + rank)), 0)
    return conv_with(net, bn_with(net, x, p), w, pads=0), conv_with(net, x, kernel, bias, pads=0)


@relation("deeplabv3plus-decoder/merged-separable", of="deeplabv3plus-decoder", dims=(1, 2, 3))
def separable_merged(net: Any, x: Any) -> Any:
    """Dilated depthwise and 1x1 convolutions without norms are one dense dilated convolution."""
    x = narrow(net, x, 16)
    c, rank, d = channels(x), len(x.shape) - 2, net.pick((1, 2, 6))
    depth, point = net.weight(c, 1, *[3] * rank), net.weight(8, c, *[1] * rank)
    left = conv(net, conv(net, x, c, 3, d=d, g=c, w=depth), 8, 1, w=point)
    return left, conv(net, x, 8, 3, d=d, w=mul(net, point, transpose(net, depth, [1, 0, *range(2, 2 + rank)])))


@relation("deeplabv3plus-decoder/folded-norm", of="deeplabv3plus-decoder", dims=(1, 2, 3))
def separable_folded(net: Any, x: Any) -> Any:
    """The norm behind the dilated depthwise convolution folds into it."""
    c, rank, d = channels(x), len(x.shape) - 2, net.pick((1, 2, 6))
    p, w = statistics(net, c), net.weight(c, 1, *[3] * rank)
    return bn_with(net, conv_with(net, x, w, d=d, g=c), p), conv_with(net, x, *fold(net, w, p), d=d, g=c)


@relation("dilated-context-module/identity-init", of="dilated-context-module", dims=(1, 2, 3))
def identity_init(net: Any, x: Any) -> Any:
    """With centre taps of the identity the module passes what is not negative unchanged."""
    x = act(net, x)
    c, rank = channels(x), len(x.shape) - 2
    y = x
    for d in net.pick(((1, 1, 2), (1, 1, 2, 4, 8, 16, 1))):
        y = act(net, conv(net, y, c, 3, d=d, w=net.const(dirac(c, 3, rank))))
    return conv(net, y, c, 1, w=net.const(dirac(c, 1, rank))), net("Identity", x)


@relation("dilated-context-module/pad-fused", of="dilated-context-module", dims=(1, 2, 3))
def pad_fused(net: Any, x: Any) -> Any:
    """A zero Pad before a dilated convolution without padding is its padding."""
    d, rank = net.pick((1, 2, 4, 16)), len(x.shape) - 2
    x = narrow(net, x, 4) if d == 16 else narrow(net, x, 8)
    w = net.weight(4, channels(x), *[3] * rank)
    d = min(d, 4) if rank == 3 else d
    return conv(net, pad(net, x, [d] * rank, [d] * rank), 4, 3, d=d, pad=0, w=w), conv(net, x, 4, 3, d=d, w=w)


@relation("mixnet-dilated-residual/even-bins", of="mixnet-dilated-residual", dims=(1, 2, 3))
def even_bins(net: Any, x: Any) -> Any:
    """Bins that divide the size are average pooling."""
    for axis in range(2, len(x.shape)):
        x = slice_(net, x, 0, 4, axis)
    n = net.pick((2, 1, 4))
    return bins(net, x, n), pool(net, x, "AveragePool", 4 // n)


@relation("s2-scaling-on-scales/tiles-back", of="s2-scaling-on-scales", even=4)
def tiles_back(net: Any, x: Any) -> Any:
    """Cut in pieces and merged is the image; with a pointwise backbone in between it is the backbone."""
    k, f = net.pick((2, 4)), shared(net, lambda net, v: act(net, conv(net, v, 4, 1, bias=True), "Tanh"))
    return untiled(net, f(tiles(net, x, k)), k), f(x)


@relation("s2-scaling-on-scales/plain-scale", of="s2-scaling-on-scales")
def plain_scale(net: Any, x: Any) -> Any:
    """The channels of scale one are the plain backbone's."""
    f = shared(net, lambda net, v: act(net, conv(net, v, 4, 3, bias=True), "Relu"))
    return slice_(net, on_scales(net, x, (1, 2) if channels(x) <= 16 else (1,), f), 0, 4, 1), f(net("Identity", x))


@relation("s2-scaling-on-scales/interior", of="s2-scaling-on-scales", even=4)
def tile_interior(net: Any, x: Any) -> Any:
    """Away from the pieces' borders a convolution of pieces is the convolution of the whole image."""
    f = shared(net, lambda net, v: conv(net, v, 4, 3, bias=True))
    size = [n // 2 for n in spatial(x)]
    inner = lambda v: net("Slice", v, net.ints([0, 0]), net.ints([n - 1 for n in size]), net.ints([2, 3]))
    return inner(untiled(net, f(tiles(net, x, 2)), 2)), inner(f(x))


@relation("s2-scaling-on-scales/batch-round-trip", of="s2-scaling-on-scales", dims=(1, 2, 3), even=2)
def batch_round_trip(net: Any, x: Any) -> Any:
    """Interleaved pieces to the batch and back."""
    return from_batch(net, to_batch(net, x, 2), 2), net("Identity", x)


@relation("scnn-slice-message-passing/flipped", of="scnn-slice-message-passing")
def passes_flipped(net: Any, x: Any) -> Any:
    """The upward pass is the downward one between two flips; the same for columns."""
    x, axis = few_rows(net, x, 6), net.pick((2, 3))
    w = message_weight(net, channels(x), net.pick((3, 5)), axis)
    return message_pass(net, x, w, axis, True), flip(net, message_pass(net, flip(net, x, [axis]), w, axis), [axis])


@relation("scnn-slice-message-passing/transposed", of="scnn-slice-message-passing")
def passes_transposed(net: Any, x: Any) -> Any:
    """The pass to the right is the downward one of the transposed map with the transposed kernel."""
    x, swap = few_rows(net, x, 6), [0, 1, 3, 2]
    w = message_weight(net, channels(x), net.pick((3, 5)), 3)
    return message_pass(net, x, w, 3), transpose(net, message_pass(net, transpose(net, x, swap), transpose(net, w, swap), 2), swap)


@relation("scnn-slice-message-passing/zero-kernel", of="scnn-slice-message-passing")
def passes_zero(net: Any, x: Any) -> Any:
    """A zero kernel is the identity, and so is a pass over a single row."""
    x, axis = few_rows(net, x, 6), net.pick((2, 3))
    y = message_pass(net, x, net.const(np.zeros((4, 4, *((1, 3) if axis == 2 else (3, 1))))), axis)
    return y, net("Identity", x)


@relation("scnn-slice-message-passing/scattered", of="scnn-slice-message-passing")
def passes_scattered(net: Any, x: Any) -> Any:
    """Rows scattered back into the map in turn are the rows joined at the end."""
    x = few_rows(net, x, 6)
    n, c, h, wide = x.shape
    w, y = message_weight(net, c, 3, 2), x
    for i in range(1, h):
        row = conv(net, slice_(net, y, i - 1, i, 2), c, (1, 3), w=w)
        row = net("Add", slice_(net, y, i, i + 1, 2), act(net, row))
        y = net("ScatterElements", y, net.const(np.full((n, c, 1, wide), i), INT64), row, axis=2)
    return message_pass(net, x, w, 2), y
