"""What three-dimensional U-Net rows state exactly: wavelets invert, kernels fold, flips and permutations commute, tiles blend."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from specs.blocks.layers import act, add, channels, conv, mul, pointwise, pool, reduce, reshape, resize, slice_, softmax, spatial, transpose
from specs.blocks.sharing import shared
from specs.blocks.u_shapes import flip, pixel_shuffle, pixel_unshuffle
from specs.blocks.unet_3d import axes_of, blended, mirrored, subsets
from specs.blocks.unet_3d_views import marked, squared_distance, turned, weighted_dilated
from specs.blocks.unet_3d_wavelets import channel_attention, dwt, few, idwt
from specs.formats import INT64
from specs.net import relation


@relation("dual-attention-unet3d/shifted-softmax", of="dual-attention-unet3d", dims=(1, 2, 3))
def cam_shift(net: Any, x: Any) -> Any:
    """softmax(max(E) - E) is softmax(-E)."""
    return channel_attention(net, x), channel_attention(net, x, False)


def _wavelet_inverse(net: Any, x: Any) -> Any:
    rank = len(x.shape) - 2
    down = 2.0 ** -((rank + 1) // 2)
    return idwt(net, dwt(net, x, down), 2.0**-rank / down), net("Identity", x)


@relation("dwt3d-conv-unit/inverse", of="dwt3d-conv-unit", dims=(1, 2, 3), even=2)
def dwt_inverse(net: Any, x: Any) -> Any:
    """Synthesis of the analysis is the image. Corrected: powers of two shared out between both; 1/sqrt(2)^rank is rounded for odd ranks."""
    return _wavelet_inverse(net, few(net, x, 8))


@relation("neu-net-subpixel3d/inverse-wavelet", of="neu-net-subpixel3d", dims=(3,), even=2)
def neu_net_inverse(net: Any, x: Any) -> Any:
    """The same in the volume network. Corrected: scaled by powers of two instead of 1/sqrt(2)^3."""
    return _wavelet_inverse(net, few(net, x, 8))


@relation("dwt3d-conv-unit/parseval", of="dwt3d-conv-unit", dims=(1, 2, 3), even=2)
def dwt_energy(net: Any, x: Any) -> Any:
    """The energy of the bands is the energy of the image. Corrected: unscaled kernels, the factor 2^-rank afterwards."""
    x, rank = few(net, x, 8), len(x.shape) - 2
    y = dwt(net, x, 1.0)
    axes = list(range(1, rank + 2))
    return net("Mul", reduce(net, "ReduceSumSquare", y, axes), net.const(2.0**-rank)), reduce(net, "ReduceSum", mul(net, x, x), axes)


@relation("mbdres-unit/folded-dilations", of="mbdres-unit", dims=(1, 2, 3))
def dilations_folded(net: Any, x: Any) -> Any:
    """The weighted sum of three dilations equals one kernel of 7 with the zero-stuffed kernels, weighted and added."""
    x, rank, out = few(net, x, 8), len(x.shape) - 2, net.pick((4, 8))
    ws, factors = [net.weight(out, channels(x), *[3] * rank) for _ in range(3)], [net.weight(1) for _ in range(3)]
    kernel = None
    for d, (w, f) in enumerate(zip(ws, factors, strict=True), 1):
        flat = reshape(net, w, [out * channels(x), 1, *[3] * rank])
        if d > 1:
            flat = net("ConvTranspose", flat, net.const(np.ones([1, 1] + [1] * rank)), strides=[d] * rank, kernel_shape=[1] * rank)
        wide = net("Pad", flat, net.ints([0, 0, *[3 - d] * rank] * 2)) if d < 3 else flat
        term = mul(net, reshape(net, wide, [out, channels(x), *[7] * rank]), f)
        kernel = term if kernel is None else add(net, kernel, term)
    return weighted_dilated(net, x, ws, factors), conv(net, x, out, 7, w=kernel)


@relation("neu-net-subpixel3d/shuffle-inverse", of="neu-net-subpixel3d", dims=(1, 2, 3), even=2)
def shuffle_inverse_3d(net: Any, x: Any) -> Any:
    """PixelShuffle3D is a permutation: of the unshuffled volume it is the volume."""
    r = [2 if i else net.pick((2, 1)) for i in range(len(x.shape) - 2)]
    return pixel_shuffle(net, pixel_unshuffle(net, x, r), r), net("Identity", x)


@relation("neu-net-subpixel3d/shuffle-is-transposed-conv", of="neu-net-subpixel3d", dims=(1, 2, 3))
def shuffle_transposed(net: Any, x: Any) -> Any:
    """Pixel shuffle as a grouped transposed convolution with one-hot kernels."""
    rank, c = len(x.shape) - 2, 2
    r = [net.pick((2, 1)) if i == 0 and rank > 1 else 2 for i in range(rank)]
    y = conv(net, few(net, x, 8), c * math.prod(r))
    hot = np.zeros([math.prod(r), 1, *r])
    for i, place in enumerate(itertools.product(*(range(k) for k in r))):
        hot[(i, 0, *place)] = 1.0
    w = net.const(np.tile(hot, [c, 1] + [1] * rank))
    return pixel_shuffle(net, y, r), net("ConvTranspose", y, w, group=c, strides=r, kernel_shape=r)


def _mirror(net: Any, x: Any) -> Any:
    rank = len(x.shape) - 2
    w, b, axes = net.weight(4, channels(x), *[3] * rank), net.weight(4), axes_of(x)[: net.int(1, min(2, rank))]

    def tta(v: Any) -> Any:
        return mirrored(net, v, lambda y: softmax(net, net("Conv", y, w, b, pads=[1] * (2 * rank)), 1), subsets(x, axes))

    turn = [axes[0]]
    return flip(net, tta(x), turn), tta(flip(net, x, turn))


@relation("nnunet/mirror-equivariance", of="nnunet", dims=(1, 2, 3))
def mirror_equivariance(net: Any, x: Any) -> Any:
    """Test-time mirroring makes any network equivariant: reversing the input reverses the result."""
    return _mirror(net, few(net, x, 8))


@relation("resenc-nnunet-amos/mirror-equivariance", of="resenc-nnunet-amos", dims=(2, 3))
def mirror_equivariance_amos(net: Any, x: Any) -> Any:
    """The same over the flips of the ensemble."""
    return _mirror(net, few(net, x, 8))


def _pointwise_blend(net: Any, x: Any, axes: list[int]) -> Any:
    w, b = net.weight(4, channels(x), *[1] * (len(x.shape) - 2)), net.weight(4)
    f = lambda v: act(net, net("Conv", v, w, b))
    return blended(net, x, f, axes), f(x)


@relation("nnunet/blend-of-pointwise", of="nnunet", dims=(1, 2, 3))
def blend_pointwise(net: Any, x: Any) -> Any:
    """Tiles of a pointwise network, Gaussian-weighted and divided by the weights' sum, give the whole image's result."""
    return _pointwise_blend(net, few(net, x, 8), [net.int(2, len(x.shape) - 1)])


@relation("nnunet-3d/overlap-add", of="nnunet-3d", dims=(2, 3))
def overlap_add(net: Any, x: Any) -> Any:
    """The same for tiles along two axes."""
    return _pointwise_blend(net, few(net, x, 8), axes_of(x)[-2:])


@relation("nnunet/flipped-kernel", of="nnunet", dims=(1, 2, 3))
def flipped_kernel(net: Any, x: Any) -> Any:
    """Convolving the reversed image with the reversed kernel reverses the result."""
    rank, axis = len(x.shape) - 2, net.int(2, len(x.shape) - 1)
    w = net.weight(4, channels(x), *[3] * rank)
    return flip(net, conv(net, x, 4, 3, w=w), [axis]), conv(net, flip(net, x, [axis]), 4, 3, w=flip(net, w, [axis]))


@relation("nnlandmark/ravel", of="nnlandmark", dims=(2, 3))
def ravelled(net: Any, x: Any) -> Any:
    """The place of a maximum, taken apart by Div and Mod and put together again."""
    place, size = net("ArgMax", reshape(net, few(net, x, 8), [x.shape[0], min(8, channels(x)), -1]), axis=2), spatial(x)
    rebuilt = None
    for axis, n in enumerate(size):
        c = net("Mod", net("Div", place, net.const(math.prod(size[axis + 1 :]), INT64)), net.const(n, INT64))
        rebuilt = c if rebuilt is None else net("Add", net("Mul", rebuilt, net.const(n, INT64)), c)
    return net("Cast", place, to=x.format.onnx), net("Cast", rebuilt, to=x.format.onnx)


@relation("nnlandmark/soft-argmax-flip", of="nnlandmark", dims=(1, 2, 3))
def soft_argmax_flip(net: Any, x: Any) -> Any:
    """Reversing an axis reverses the expected coordinate: (n - 1) - c."""
    x, n = few(net, x, 4), x.shape[-1]

    def expected(v: Any) -> Any:
        p = softmax(net, reshape(net, v, [v.shape[0], channels(v), -1]), 2)
        grid = net.const([float(i % n) for i in range(math.prod(spatial(v)))])
        return reduce(net, "ReduceSum", mul(net, p, grid), [2])

    return expected(flip(net, x, [len(x.shape) - 1])), net("Sub", net.const(float(n - 1)), expected(x))


@relation("resenc-unet-3d/pooled-shortcut", of="resenc-unet-3d", dims=(1, 2, 3), even=2)
def pooled_shortcut(net: Any, x: Any) -> Any:
    """Average pooling and a 1x1 convolution commute."""
    w = net.weight(8, channels(x), *[1] * (len(x.shape) - 2))
    return conv(net, pool(net, x, "AveragePool"), 8, 1, w=w), pool(net, conv(net, x, 8, 1, w=w), "AveragePool")


@relation("saliency-guided-unet/separable-is-brute-force", of="saliency-guided-unet", dims=(1, 2, 3))
def edt_brute_force(net: Any, x: Any) -> Any:
    """The separable distance transform equals the minimum over all pairs of positions."""
    most = {1: 33, 2: 8, 3: 4}[len(x.shape) - 2]
    for axis in axes_of(x):
        x = slice_(net, x, 0, min(most, x.shape[axis]), axis)
    f = marked(net, few(net, x, 1))
    places = np.array(list(np.ndindex(*spatial(x))), dtype=np.float64)
    between = ((places[:, None] - places[None]) ** 2).sum(-1)
    pairs = net("Add", reshape(net, f, [x.shape[0], 1, 1, len(places)]), net.const(between))
    return squared_distance(net, f), reshape(net, reduce(net, "ReduceMin", pairs, [3]), f.shape)


@relation("saliency-guided-unet/zero-on-markers", of="saliency-guided-unet", dims=(1, 2, 3))
def edt_zero(net: Any, x: Any) -> Any:
    """The distance is exactly zero on markers."""
    f = marked(net, few(net, x, 2))
    inside = net("Where", net("Equal", f, net.const(0.0)), squared_distance(net, f), net.const(0.0))
    return inside, net("Mul", f, net.const(0.0))


@relation("stunet-block/nearest-commutes", of="stunet-block", dims=(1, 2, 3))
def nearest_commutes(net: Any, x: Any) -> Any:
    """Nearest resizing and a 1x1 convolution commute, at every size."""
    w, b = net.weight(8, channels(x), *[1] * (len(x.shape) - 2)), net.weight(8)
    size = [n * net.pick((2, 1)) + net.pick((0, 1)) for n in spatial(x)]
    x = few(net, x, 8) if len(size) == 3 else x
    w = w if channels(x) == w.shape[1] else slice_(net, w, 0, channels(x), 1)
    return resize(net, net("Conv", x, w, b), size), net("Conv", resize(net, x, size), w, b)


@relation("umct-multiview/permuted-kernel", of="umct-multiview", dims=(3,))
def permuted_kernel(net: Any, x: Any) -> Any:
    """A convolution of the permuted volume with the permuted kernel is the permuted result: flat kernels too."""
    kernel, perm = net.pick(((1, 3, 3), (3, 3, 1), (3, 3, 3))), net.pick(((1, 2, 0), (0, 2, 1), (2, 1, 0)))
    w, full = net.weight(4, channels(x), *kernel), [0, 1, *(2 + p for p in perm)]
    right = conv(net, turned(net, x, perm, []), 4, [kernel[p] for p in perm], w=transpose(net, w, full))
    return conv(net, x, 4, kernel, w=w), turned(net, right, perm, [], back=True)


@relation("umct-multiview/view-and-back", of="umct-multiview", dims=(2, 3))
def view_and_back(net: Any, x: Any) -> Any:
    """A view through a pointwise network and back is the network: permutations and rotations undo themselves."""
    rank = len(x.shape) - 2
    perm = net.pick([p for p in itertools.permutations(range(rank)) if p != tuple(range(rank))])
    f, axes = shared(net, lambda net, v: act(net, pointwise(net, v, 4, bias=True), "Tanh")), net.pick(([], [2], [2, 3]))
    return turned(net, f(turned(net, x, perm, axes)), perm, axes, back=True), f(x)
