"""Three-dimensional U-Nets of the nnU-Net family: anisotropic stages, residual encoders, tiles, flips, ensembles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from specs.blocks.layers import (
    act,
    add,
    channels,
    concat,
    depthwise,
    group_norm,
    instance_norm,
    mean,
    mul,
    pad,
    pointwise,
    pool,
    reduce,
    reshape,
    resize,
    slice_,
    softmax,
    spatial,
)
from specs.blocks.pyramids import side_outputs
from specs.blocks.u_shapes import classes, dice, fit, flip, leaky, levels, nn_double, nn_unit, u_shape
from specs.formats import INT64, UINT8
from specs.net import block

NNUNET = "nnU-Net: Self-adapting Framework for U-Net-Based Medical Image Segmentation"
TOTAL = "TotalSegmentator: robust segmentation of 104 anatomical structures in CT images"
MRSEG = "MRSegmentator: Robust Multi-Modality Segmentation of 40 Classes in MRI and CT Sequences"
LANDMARK = "nnLandmark: A Self-Configuring Method for 3D Medical Landmark Detection"
AMOS = "Extending nnU-Net is all you need"
REVISITED = "nnU-Net Revisited: A Call for Rigorous Validation in 3D Medical Image Segmentation"
STUNET = "STU-Net: Scalable and Transferable Medical Image Segmentation Models Empowered by Large-Scale Supervised Pre-training"


def shape_of(net: Any, rank: int) -> tuple[list[int], list[int]]:
    """Kernel and strides of a stage: equal in all axes, or flat along the first one."""
    flat = rank > 1 and net.flag()
    return [1 if flat and a == 0 else 3 for a in range(rank)], [1 if flat and a == 0 else 2 for a in range(rank)]


def strided(net: Any, x: Any, out: int, kernel: Sequence[int], strides: Sequence[int]) -> Any:
    """A convolution with a stride for each axis, no bias."""
    pads = [k // 2 for k in kernel]
    return net("Conv", x, net.weight(out, channels(x), *kernel), kernel_shape=list(kernel), strides=list(strides), pads=[*pads, *pads])


def raised(net: Any, x: Any, out: int, strides: Sequence[int], size: Sequence[int]) -> Any:
    """A transposed convolution whose kernel is its stride, fitted to the skip."""
    return fit(net, net("ConvTranspose", x, net.weight(channels(x), out, *strides), kernel_shape=list(strides), strides=list(strides)), size)


def stage(net: Any, x: Any, out: int, kernel: Sequence[int]) -> Any:
    return nn_double(net, x, out, kernel)


def plain(net: Any, x: Any, widths: Sequence[int], kernel: Sequence[int], strides: Sequence[int]) -> list[Any]:
    """nnU-Net: strided convolutions down, transposed ones up; the decoder's features, finest first."""
    return u_shape(
        net,
        x,
        widths,
        stage=lambda n, v, c: stage(n, v, c, kernel),
        down=lambda n, v: leaky(n, instance_norm(n, strided(n, v, channels(v), kernel, strides))),
        rise=lambda n, v, size, c: raised(n, v, c, strides, size),
    )


@block("nnunet", NNUNET, seeds=["002:285"], dims=(2, 3), hazards="instance norm over one or two voxels")
def nnunet(net: Any, x: Any) -> Any:
    """One level with kernels and strides for each axis; stresses anisotropic convolutions and instance norm with leaky ReLU."""
    kernel, strides = shape_of(net, len(x.shape) - 2)
    return plain(net, x, [net.pick((8, 6)), net.pick((8, 12))], kernel, strides)[0]


@block("nnunet/net", NNUNET, seeds=["002:285"], dims=(2, 3), hazards="instance norm over one voxel")
def nnunet_net(net: Any, x: Any) -> Any:
    """Two or three levels, features doubled up to a cap, deep supervision off, softmax."""
    kernel, strides = shape_of(net, len(x.shape) - 2)
    base = net.pick((4, 6))
    return classes(net, plain(net, x, [min(base << i, 16) for i in range(levels(net, x, 2) + 1)], kernel, strides)[0], net.pick((2, 4)))


def mirrored(net: Any, x: Any, f: Callable[[Any], Any], axes: Sequence[Sequence[int]]) -> Any:
    """The mean of unflip(f(flip x)) over sets of axes."""
    views = [flip(net, f(flip(net, x, a)), a) if a else f(x) for a in axes]
    return net("Mul", net("Sum", *views), net.const(1.0 / len(views)))


def subsets(x: Any, axes: Sequence[int]) -> list[list[int]]:
    return [[a for i, a in enumerate(axes) if m >> i & 1] for m in range(1 << len(axes))]


@block("nnunet/flip-tta", NNUNET, seeds=["002:285"], dims=(2, 3))
def nnunet_flip_tta(net: Any, x: Any) -> Any:
    """One convolution unit under mirroring; stresses Slice with negative steps on both sides of shared weights."""
    w, axes = net.weight(4, channels(x), *[3] * (len(x.shape) - 2)), list(range(2, 2 + net.int(1, 2)))
    return mirrored(net, x, lambda v: softmax(net, net("Conv", v, w, pads=[1] * (2 * len(axes_of(x)))), 1), subsets(x, axes))


def axes_of(x: Any) -> list[int]:
    return list(range(2, len(x.shape)))


def blended(net: Any, x: Any, f: Callable[[Any], Any], axes: Sequence[int], divide: bool = True) -> Any:
    """Overlapping tiles along axes: f of each, weighted by a Gaussian, padded to its place, added, divided by the weights' sum."""
    tiles = [[0] * len(axes)]
    size = [max(2, x.shape[a] * 2 // 3) for a in axes]
    for i, a in enumerate(axes):
        starts = sorted({*range(0, x.shape[a] - size[i] + 1, max(1, size[i] // 2)), x.shape[a] - size[i]})
        tiles = [[*t[:i], s, *t[i + 1 :]] for t in tiles for s in starts]
    shape = [1] * len(x.shape)
    for a, n in zip(axes, size, strict=True):
        shape[a] = n
    bell = [1.0]
    for n in size:
        bell = [b * math.exp(-0.5 * ((i - (n - 1) / 2) / (n / 4)) ** 2) for b in bell for i in range(n)]
    weight = reshape(net, net.const(bell), shape)
    values, weights = list[Any](), list[Any]()
    for t in tiles:
        piece = net("Slice", x, net.ints(t), net.ints([s + n for s, n in zip(t, size, strict=True)]), net.ints(axes))
        before, after = [0] * (len(x.shape) - 2), [0] * (len(x.shape) - 2)
        for a, s, n in zip(axes, t, size, strict=True):
            before[a - 2], after[a - 2] = s, x.shape[a] - s - n
        values.append(pad(net, mul(net, f(piece), weight), before, after))
        weights.append(pad(net, weight, before, after))
    return net("Div", net("Sum", *values), net("Sum", *weights))


@block("nnunet/sliding-window", NNUNET, seeds=["002:285"], dims=(2, 3), hazards="small Gaussian weights at the borders, then a division")
def nnunet_sliding_window(net: Any, x: Any) -> Any:
    """Half-overlapping tiles along one axis, blended by a Gaussian; stresses Slice, Pad and many live buffers."""
    w, b = net.weight(4, channels(x), *[3] * len(axes_of(x))), net.weight(4)
    return blended(net, x, lambda v: softmax(net, net("Conv", v, w, b, pads=[1] * (2 * len(axes_of(x)))), 1), [net.int(2, len(x.shape) - 1)])


@block("nnunet/cascade-input", NNUNET, seeds=["002:285"], dims=(2, 3), hazards="ties of ArgMax")
def nnunet_cascade(net: Any, x: Any) -> Any:
    """The low-resolution result as one-hot channels, resized beside the image; stresses OneHot along channels and Resize."""
    k = net.pick((3, 4))
    p = pointwise(net, resize(net, x, [max(1, n // 2) for n in spatial(x)], "linear"), k, bias=True)
    hot = net("OneHot", net("ArgMax", p, axis=1, keepdims=0), net.const(k, INT64), net.const([0.0, 1.0]), axis=1)
    return nn_unit(net, concat(net, x, resize(net, hot, spatial(x))), 8)


def labels(net: Any, x: Any, n: int) -> Any:
    """Integer labels: where a projection is largest."""
    return net("ArgMax", pointwise(net, x, n), axis=1, keepdims=0)


@block("nnunet/dice-ce", NNUNET, seeds=["002:285"], dims=(2, 3), hazards="0/0 of Dice without smoothing, log of a small softmax")
def nnunet_dice_ce(net: Any, x: Any) -> Any:
    """Soft Dice over softmax and one-hot labels, plus cross entropy of the same logits."""
    n = net.pick((2, 4))
    logits, target = pointwise(net, x, n, bias=True), labels(net, net.input(*x.shape), n)
    hot = net("OneHot", target, net.const(n, INT64), net.const([0.0, 1.0]), axis=1)
    soft = mean(net, dice(net, softmax(net, logits, 1), hot, [0, *axes_of(x)]), [0], 0)
    return net("Add", soft, net("SoftmaxCrossEntropyLoss", logits, target, reduction="mean"))


@block("nnunet-3d", TOTAL, seeds=["002:203"], dims=(3,), hazards="instance norm on constant tiles")
def nnunet_3d(net: Any, x: Any) -> Any:
    """Two nets for different classes, their label maps merged; stresses ArgMax, integer Where and 3-D transposed convolutions."""
    merged = None
    for i in range(2):
        label = net("ArgMax", pointwise(net, nn_unit(net, x, 8), 4, bias=True), axis=1)
        shifted = net("Add", label, net.const(3 * i, INT64))
        merged = label if merged is None else net("Where", net("Greater", label, net.const(0, INT64)), shifted, merged)
    return merged


@block("nnunet-3d/gaussian-overlap-add", TOTAL, seeds=["002:203"], dims=(3, 2), hazards="division by small Gaussian weights")
def nnunet_3d_overlap(net: Any, x: Any) -> Any:
    """Logits of tiles along two axes, weighted, padded to their places, added and divided by the sum of weights."""
    w, b = net.weight(2, channels(x), *[1] * len(axes_of(x))), net.weight(2)
    return blended(net, x, lambda v: net("Conv", v, w, b), axes_of(x)[-2:])


@block("nnunet-3d/net", TOTAL, seeds=["002:203"], dims=(3,), hazards="instance norm on constant tiles")
def nnunet_3d_net(net: Any, x: Any) -> Any:
    """The plain 3-D net up to the label map."""
    kernel, strides = shape_of(net, 3)
    return net("ArgMax", classes(net, plain(net, x, [8, 8, 16][: levels(net, x, 2) + 1], kernel, strides)[0], 4), axis=1)


@block("mrsegmentator-nnunet", MRSEG, seeds=["002:459"], dims=(3,), hazards="ties of ArgMax over averaged classes")
def mrsegmentator_nnunet(net: Any, x: Any) -> Any:
    """Folds averaged after a wide softmax, ArgMax, cast to uint8. Assumed: two or three folds stand for five."""
    n, folds = net.pick((12, 41)), net.pick((2, 3))
    maps = [classes(net, nn_unit(net, x, 8), n) for _ in range(folds)]
    p = net("Mul", net("Sum", *maps), net.const(1.0 / folds))
    return p, net("Cast", net("ArgMax", p, axis=1), to=UINT8.onnx)


@block("mrsegmentator-nnunet/net", MRSEG, seeds=["002:459"], dims=(3,))
def mrsegmentator_net(net: Any, x: Any) -> Any:
    """Two whole folds and the mean of their softmaxes. Assumed: as in the block."""
    n = net.pick((12, 41))
    maps = [classes(net, plain(net, x, [4, 8], [3, 3, 3], [2, 2, 2])[0], n) for _ in range(2)]
    return net("Mean", *maps)


def _grid(net: Any, x: Any, axis: int) -> Any:
    """Positions along one axis, flattened over all positions, in the float format."""
    size, after = spatial(x), math.prod(spatial(x)[axis + 1 :])
    return net.const([float(i // after % size[axis]) for i in range(math.prod(size))])


@block("nnlandmark", LANDMARK, seeds=["002:301"], dims=(3, 2), hazards="ties of ArgMax on flat maps, saturated sigmoids")
def nnlandmark(net: Any, x: Any) -> Any:
    """Heatmaps, ArgMax of the flattened map, coordinates by integer Div and Mod, times the spacing."""
    k, size = net.pick((3, 14)), spatial(x)
    heat = act(net, pointwise(net, x, k, bias=True), "Sigmoid")
    place, found = net("ArgMax", reshape(net, heat, [x.shape[0], k, -1]), axis=2), list[Any]()
    for axis in range(len(size)):
        along = net("Div", place, net.const(math.prod(size[axis + 1 :]), INT64))
        found.append(net("Mod", along, net.const(size[axis], INT64)))
    return heat, mul(net, net("Cast", concat(net, *found, axis=2), to=x.format.onnx), net.weight(len(size), low=0.5, high=2.0))


@block("nnlandmark/soft-argmax", LANDMARK, seeds=["002:301"], dims=(1, 2, 3))
def nnlandmark_soft(net: Any, x: Any) -> Any:
    """Expected coordinates under a softmax over all positions."""
    p = softmax(net, reshape(net, pointwise(net, x, net.pick((3, 8)), bias=True), [x.shape[0], -1, math.prod(spatial(x))]), 2)
    return concat(net, *(reduce(net, "ReduceSum", mul(net, p, _grid(net, x, a)), [2]) for a in range(len(spatial(x)))), axis=2)


@block("nnlandmark/topk-bce", LANDMARK, seeds=["002:301"], dims=(2, 3), hazards="log of a saturated sigmoid")
def nnlandmark_topk_bce(net: Any, x: Any) -> Any:
    """Cross entropy from logits, averaged over the hardest fifth of each channel's positions; stresses TopK on a long axis."""
    z, n = pointwise(net, x, 4, bias=True), math.prod(spatial(x))
    t = act(net, net.input(*z.shape), "Sigmoid")
    tail = net("Log", net("Add", net("Exp", net("Neg", net("Abs", z))), net.const(1.0)))
    loss = net("Add", net("Sub", act(net, z), mul(net, z, t)), tail)
    hardest, _ = net("TopK", reshape(net, loss, [x.shape[0], 4, n]), net.ints([max(1, n // 5)]), axis=2, outputs=2)
    return mean(net, hardest, [2], 0)


@block("nnlandmark/net", LANDMARK, seeds=["002:301"], dims=(3,), hazards="saturated sigmoids")
def nnlandmark_net(net: Any, x: Any) -> Any:
    """The 3-D net, heatmaps and the flat places of their maxima."""
    y = plain(net, x, [8, 8, 16][: levels(net, x, 2) + 1], *shape_of(net, 3))[0]
    heat = act(net, pointwise(net, y, 4, bias=True), "Sigmoid")
    return heat, net("ArgMax", reshape(net, heat, [x.shape[0], 4, -1]), axis=2)


def residual(net: Any, x: Any, out: int, kernel: Sequence[int], strides: Sequence[int], pooled: bool) -> Any:
    """Conv-IN-LReLU-Conv-IN plus a shortcut, averaged first where strided (nnU-Net) or strided itself (STU-Net)."""
    y = leaky(net, instance_norm(net, strided(net, x, out, kernel, strides)))
    y = instance_norm(net, strided(net, y, out, kernel, [1] * len(kernel)))
    if max(strides) > 1 and pooled:
        odd = [n % s for n, s in zip(spatial(x), strides, strict=True)]
        x = pad(net, x, [0] * len(odd), odd) if any(odd) else x  # to the size that the strided convolution rounds up to
        x = net("AveragePool", x, kernel_shape=list(strides), strides=list(strides))
    if channels(x) != out or (max(strides) > 1 and not pooled):
        x = instance_norm(net, strided(net, x, out, [1] * len(kernel), [1] * len(kernel) if pooled else strides))
    return leaky(net, add(net, y, x))


@block("resenc-unet-3d", REVISITED, seeds=["000:335", "002:37"], dims=(2, 3), hazards="instance norm on few voxels")
def resenc_unet_3d(net: Any, x: Any) -> Any:
    """Residual block with an averaged shortcut where strided; stresses anisotropic strides and two paths of different rounding."""
    kernel, strides = shape_of(net, len(x.shape) - 2)
    y = residual(net, x, net.pick((16, 8)), kernel, strides if net.flag() else [1] * len(kernel), True)
    return residual(net, y, channels(y), kernel, [1] * len(kernel), True)


@block("resenc-unet-3d/mednext-block", REVISITED, seeds=["000:335", "002:37"], dims=(2, 3))
def resenc_mednext(net: Any, x: Any) -> Any:
    """Depthwise convolution, channel-wise group norm, expansion, GELU, projection, residual."""
    y = group_norm(net, depthwise(net, x, net.pick((3, 5)), bias=True), channels(x))
    return add(net, x, pointwise(net, act(net, pointwise(net, y, 2 * channels(x), bias=True), "Gelu"), channels(x), bias=True))


def resenc(net: Any, x: Any, depth: int, pooled: bool = True) -> list[Any]:
    """Residual encoder, one convolution unit for each decoder level; finest first."""
    kernel, strides = shape_of(net, len(x.shape) - 2)
    skips, one = [residual(net, nn_unit(net, x, 8), 8, kernel, [1] * len(kernel), pooled)], [1] * len(kernel)
    for i in range(depth):
        skips.append(residual(net, skips[-1], min(8 << (i + 1), 16), kernel, strides, pooled))
    y = skips.pop()
    outs = list[Any]()
    for skip in reversed(skips):
        if pooled:
            y = nn_unit(net, concat(net, raised(net, y, channels(skip), strides, spatial(skip)), skip), channels(skip), kernel)
        else:
            y = pointwise(net, resize(net, y, spatial(skip)), channels(skip), bias=True)
            y = residual(net, concat(net, y, skip), channels(skip), kernel, one, False)
        outs.insert(0, y)
    return outs


@block("resenc-unet-3d/net", REVISITED, seeds=["000:335", "002:37"], dims=(2, 3), hazards="instance norm on few voxels")
def resenc_unet_3d_net(net: Any, x: Any) -> Any:
    """Stem, residual encoder, plain decoder, a softmax at every level."""
    return [classes(net, y, 3) for y in resenc(net, x, levels(net, x, 2))]


@block("resenc-nnunet-amos", AMOS, seeds=["002:183"], dims=(3, 2), hazards="instance norm on few voxels")
def resenc_nnunet_amos(net: Any, x: Any) -> Any:
    """One level of residual encoder and plain decoder with supervision at both sizes."""
    kernel, strides = shape_of(net, len(x.shape) - 2)
    skip = residual(net, x, 8, kernel, [1] * len(kernel), True)
    low = residual(net, skip, 16, kernel, strides, True)
    y = nn_double(net, concat(net, raised(net, low, 8, strides, spatial(skip)), skip), 8)
    return y, classes(net, low, net.pick((4, 16)))


@block("resenc-nnunet-amos/mirror-tta", AMOS, seeds=["002:183"], dims=(2, 3))
def resenc_mirror_tta(net: Any, x: Any) -> Any:
    """Mean of softmaxes over none to all flips of a residual unit without norm; stresses reverse Slices around shared weights."""
    rank = len(x.shape) - 2
    w, v = net.weight(8, channels(x), *[3] * rank), net.weight(4, 8, *[1] * rank)
    f = lambda y: softmax(net, net("Conv", leaky(net, net("Conv", y, w, pads=[1] * (2 * rank))), v), 1)
    return mirrored(net, x, f, subsets(x, axes_of(x)[: net.int(0, rank)]))


@block("resenc-nnunet-amos/component-labelling", AMOS, seeds=["002:183"], dims=(2, 3), hazards="threshold edges")
def resenc_components(net: Any, x: Any) -> Any:
    """Connected components by repeated masked max pooling of numbered voxels, a few rounds unrolled."""
    first = slice_(net, x, 0, 1, 1)
    mask = net("Cast", net("Greater", first, net.const(0.0)), to=x.format.onnx)
    n = math.prod(spatial(x))
    label = mul(net, mask, reshape(net, net.const([float(i + 1) for i in range(n)]), [1, 1, *spatial(x)]))
    for _ in range(net.int(2, 5)):
        label = mul(net, mask, pool(net, label, "MaxPool", 3, 1, 1))
    return label


@block("resenc-nnunet-amos/net", AMOS, seeds=["002:183"], dims=(3,))
def resenc_nnunet_amos_net(net: Any, x: Any) -> Any:
    """Residual encoder, heads resized to the input and added, softmax."""
    return softmax(net, side_outputs(net, resenc(net, x, levels(net, x, 2)), spatial(x), net.pick((4, 16)), False), 1)


@block("stunet-block", STUNET, seeds=["000:109", "001:207", "002:373"], dims=(2, 3), hazards="instance norm over one voxel")
def stunet_block(net: Any, x: Any) -> Any:
    """Strided residual block, then nearest Resize, 1x1 convolution, skip and another block; stresses orders that commute."""
    kernel, strides = shape_of(net, len(x.shape) - 2)
    low = residual(net, x, 16, kernel, strides, False)
    up = pointwise(net, resize(net, low, spatial(x)), 8, bias=True)
    return residual(net, concat(net, up, x), net.pick((8, 16)), kernel, [1] * len(kernel), False)


@block("stunet-block/anisotropic-stride", STUNET, seeds=["000:109", "001:207", "002:373"], dims=(2, 3))
def stunet_anisotropic(net: Any, x: Any) -> Any:
    """The block with strides in some axes only."""
    rank = len(x.shape) - 2
    strides = [1, *[2] * (rank - 1)] if net.flag() else [*[2] * (rank - 1), 1]
    return residual(net, x, net.pick((8, 16)), [1 if s == 1 else 3 for s in strides], strides, False)


@block("stunet-block/net", STUNET, seeds=["000:109", "001:207", "002:373"], dims=(2, 3))
def stunet_net(net: Any, x: Any) -> Any:
    """The whole with heads at every decoder level."""
    return [pointwise(net, y, 3, bias=True) for y in resenc(net, x, levels(net, x, 2), False)]
