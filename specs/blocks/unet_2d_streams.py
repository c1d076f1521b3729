"""Two-dimensional U-Nets with several inputs or paths: guidance maps, two encoders, cascades, planes of a volume."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specs.blocks.layers import (
    add,
    channels,
    concat,
    gap,
    linear,
    mean,
    mul,
    pool,
    reduce,
    reshape,
    resize,
    slice_,
    softmax,
    spatial,
    split,
    transpose,
)
from specs.blocks.u_shapes import classes, double, halve, levels, sigmoid_head, smooth, u_shape, unit
from specs.formats import INT64
from specs.net import block

CLICKS = "Interactive segmentation of medical images through fully convolutional neural networks"
LOGISMOS = "Deep LOGISMOS: Deep Learning Graph-based 3D Segmentation of Pancreatic Tumors on CT scans"
DIAMANT = "DIAMANT: Dual Image-Attention Map Encoders For Medical Image Segmentation"
ZONES = "PI-RADS v2 Compliant Automated Segmentation of Prostate Zones Using co-training Motivated Multi-task Dual-Path CNN"
H2G = "Hybrid guiding: A multi-resolution refinement approach for semantic segmentation of gigapixel histopathological images"
IVD = "IVD-Net: Intervertebral disc localization and segmentation in MRI with a multi-modal UNet"
STROKE = "A multi-path 2.5 dimensional convolutional neural network system for segmenting stroke lesions in brain MRI images"


# Guidance -------------------------------------------------------------------------------------------------------------


def click_map(net: Any, x: Any, clicks: Any, s: float, how: str = "ReduceMax") -> Any:
    """A Gaussian around each of (N, K, 2) clicks over the positions of x, joined over K; a click above the image is missing."""
    n, k, (h, w) = clicks.shape[0], clicks.shape[1], spatial(x)

    def grid(size: int, shape: Sequence[int]) -> Any:
        places = net("Range", net.const(0, INT64), net.const(size, INT64), net.const(1, INT64))
        return reshape(net, net("Cast", places, to=x.format.onnx), shape)

    row, col = (reshape(net, v, [n, k, 1, 1]) for v in split(net, net("Mul", clicks, net.const([h / 2.0, w / 2.0])), 2, axis=2))
    down, across = net("Sub", grid(h, [1, 1, h, 1]), row), net("Sub", grid(w, [1, 1, 1, w]), col)
    bump = net("Exp", net("Mul", net("Add", mul(net, down, down), mul(net, across, across)), net.const(-0.5 / s**2)))
    seen = net("Where", net("Less", row, net.const(0.0)), net.const(0.0), bump)
    return reduce(net, how, seen, [1])


@block("click-guided-unet", CLICKS, seeds=["000:397"], hazards="exp underflow")
def click_guided_unet(net: Any, x: Any) -> Any:
    """Foreground and background click maps beside the image, one U level; stresses coordinate grids and broadcast Exp."""
    s, how = net.pick((2.0, 5.0, 10.0)), net.pick(("ReduceMax", "ReduceSum"))
    maps = [click_map(net, x, net.input(x.shape[0], net.pick((1, 5)), 2), s, how) for _ in range(2)]
    return u_shape(net, concat(net, x, *maps), [8, 16])[0]


@block("click-guided-unet/gaussian-click-map", CLICKS, seeds=["000:397"], hazards="exp underflow")
def click_guided_unet_map(net: Any, x: Any) -> Any:
    """The image multiplied with one click map."""
    return mul(net, x, click_map(net, x, net.input(x.shape[0], net.pick((2, 1, 5)), 2), net.pick((2.0, 5.0)), net.pick(("ReduceMax", "ReduceSum"))))


@block("click-guided-unet/net", CLICKS, seeds=["000:397"], hazards="exp underflow, ties of ArgMax")
def click_guided_unet_net(net: Any, x: Any) -> Any:
    """Maps, U-Net, sigmoid, and where the next click goes: the ArgMax of the distance to a given mask."""
    x = slice_(net, x, 0, 1, 1)
    maps = [click_map(net, x, net.input(x.shape[0], 2, 2), 2.0) for _ in range(2)]
    p = sigmoid_head(net, u_shape(net, concat(net, x, *maps), [8, 16, 16][: levels(net, x, 2) + 1])[0])
    error = net("Abs", net("Sub", p, net.input(*p.shape)))
    return p, net("ArgMax", reshape(net, error, [x.shape[0], -1]), axis=1, keepdims=0)


@block("contextual-unet-3slice", LOGISMOS, seeds=["000:273"], dims=(2, 3), hazards="log of a prior, division by tiny sigma")
def contextual_unet_3slice(net: Any, x: Any) -> Any:
    """Gaussian mixture posterior of each voxel: log prior - z^2/2 - log s under a softmax; stresses log-sum-exp.

    Assumed: neighbouring slices as channels, the mixture over one intensity.
    """
    k, ones = net.pick((2, 3)), [1] * (len(x.shape) - 2)
    s, prior = net.weight(1, k, *ones, low=0.2, high=2.0), net.weight(1, k, *ones, low=0.05, high=1.0)
    z = net("Div", net("Sub", slice_(net, x, 0, 1, 1), net.weight(1, k, *ones)), s)
    logit = net("Sub", net("Sub", net("Log", prior), net("Mul", mul(net, z, z), net.const(0.5))), net("Log", s))
    return softmax(net, logit, 1)


def _erode(net: Any, x: Any, k: int) -> Any:
    return net("Neg", pool(net, net("Neg", x), "MaxPool", k, 1, k // 2))


@block("contextual-unet-3slice/open-close", LOGISMOS, seeds=["000:273"], dims=(1, 2, 3), hazards="ties of the maximum")
def contextual_unet_open_close(net: Any, x: Any) -> Any:
    """Opening and closing by stride-1 max pools between negations: the negations must not be lost."""
    k = net.pick((3, 5))
    opened = pool(net, _erode(net, x, k), "MaxPool", k, 1, k // 2)
    return _erode(net, pool(net, opened, "MaxPool", k, 1, k // 2), k)


def surface(net: Any, x: Any, delta: int, pooled: bool, rows: int = 6) -> Any:
    """Costs of the cheapest surface, c_t(j) = u_t(j) + min over |i - j| <= delta of c_{t-1}(i): by max pooling or by shifted slices."""
    u = [reshape(net, slice_(net, x, t, t + 1, 2), [*x.shape[:2], x.shape[3]]) for t in range(min(rows, x.shape[2]))]
    costs, width = [u[0]], x.shape[3]
    for row in u[1:]:
        if pooled:
            least = _erode(net, costs[-1], 2 * delta + 1)
        else:
            wide = net("Pad", costs[-1], net.ints([0, 0, delta, 0, 0, delta]), mode="edge")
            least = net("Min", *(slice_(net, wide, i, i + width, 2) for i in range(2 * delta + 1)))
        costs.append(add(net, row, least))
    return net("Concat", *costs, axis=2)


@block("contextual-unet-3slice/min-plus-surface", LOGISMOS, seeds=["000:273"], hazards="ties of the minimum")
def contextual_unet_surface(net: Any, x: Any) -> Any:
    """Dynamic programming over rows, unrolled; stresses long chains of one-dimensional pools or of Slice and Min."""
    return surface(net, x, net.pick((1, 2)), net.flag())


@block("contextual-unet-3slice/net", LOGISMOS, seeds=["000:273"], dims=(2, 3))
def contextual_unet_3slice_net(net: Any, x: Any) -> Any:
    """Three slices as channels through a U-Net and a softmax; the node costs are one minus it. Assumed: adjacent slices."""
    p = classes(net, u_shape(net, slice_(net, x, 0, 3, 1), [8, 16, 16][: levels(net, x, 2) + 1], stage=lambda n, v, c: double(n, v, c, norm=""))[0], 2)
    return p, net("Sub", net.const(1.0), p)


# Two paths ------------------------------------------------------------------------------------------------------------


def _dual(net: Any, x: Any, maps: Any, widths: Sequence[int]) -> Any:
    """Two encoders whose skips meet in one decoder."""
    skips = list[Any]()
    for i, w in enumerate(widths):
        x, maps = double(net, x, w), double(net, maps, w)
        if i < len(widths) - 1:
            skips.append((x, maps))
            x, maps = halve(net, x), halve(net, maps)
    y = concat(net, x, maps)
    for (a, b), w in zip(reversed(skips), reversed(list(widths[:-1])), strict=True):
        y = double(net, concat(net, resize(net, y, spatial(a), net.pick(("nearest", "linear"))), a, b), w)
    return y


@block("dual-encoder-attention-unet", DIAMANT, seeds=["000:179"], hazards="attention values far below 1")
def dual_encoder_attention_unet(net: Any, x: Any) -> Any:
    """Encoders of an image and of attention maps, scaled for each head; stresses Concat of three and inputs of different channels."""
    heads = net.pick((6, 12))
    maps = mul(net, net.input(x.shape[0], heads, *spatial(x)), net.weight(heads, 1, 1))
    return _dual(net, x, maps, [net.pick((8, 4)), 8])


@block("dual-encoder-attention-unet/cls-attention-map", DIAMANT, seeds=["000:179"], takes="tokens", hazards="attention values of 1 / tokens")
def dual_encoder_attention_map(net: Any, x: Any) -> Any:
    """Attention of the class token over the patches, laid out as a map and resized; stresses slicing one row of a softmax."""
    n, length, width = x.shape
    heads, side = net.pick((4, 2)), next(h for h in (4, 3, 2, 1) if length % h == 0 and h * h <= length)
    x = net("Concat", net("Expand", net.weight(1, 1, width), net.ints([n, 1, width])), x, axis=1)
    q, k = (transpose(net, reshape(net, linear(net, x, width), [n, length + 1, heads, width // heads]), p) for p in ([0, 2, 1, 3], [0, 2, 3, 1]))
    a = softmax(net, net("Div", net("MatMul", q, k), net.const((width // heads) ** 0.5)))
    row = slice_(net, slice_(net, a, 0, 1, 2), 1, length + 1, 3)
    return resize(net, reshape(net, row, [n, heads, side, length // side]), [2 * side, 2 * length // side], net.pick(("nearest", "linear")))


@block("dual-encoder-attention-unet/net", DIAMANT, seeds=["000:179"])
def dual_encoder_attention_unet_net(net: Any, x: Any) -> Any:
    """Both encoders with one or two halvings and a head."""
    maps = mul(net, net.input(x.shape[0], 6, *spatial(x)), net.weight(6, 1, 1))
    return classes(net, _dual(net, x, maps, [4, 8, 8][: levels(net, x, 2) + 1]), net.pick((1, 3)))


def _dual_path(net: Any, x: Any, widths: Sequence[int]) -> list[Any]:
    """Softmax maps and auxiliary maps of two branches over the same input."""
    outs = list[Any]()
    for _ in range(2):
        y = u_shape(net, x, widths)[0]
        outs += [classes(net, y, 3), sigmoid_head(net, y)]
    p, _, q, _ = outs
    middle = net("Mul", add(net, slice_(net, p, 2, 3, 1), slice_(net, q, 2, 3, 1)), net.const(0.5))
    return [concat(net, slice_(net, p, 0, 2, 1), slice_(net, q, 0, 2, 1), middle), outs[1], outs[3]]


@block("dual-path-multitask-unet", ZONES, seeds=["000:15", "001:19"])
def dual_path_multitask_unet(net: Any, x: Any) -> Any:
    """Two U levels of equal topology and different weights; stresses common subexpressions that are none.

    Assumed: width, and the mean of the shared class.
    """
    return _dual_path(net, x, [net.pick((8, 4)), 8])


@block("dual-path-multitask-unet/consistency", ZONES, seeds=["000:15", "001:19"], dims=(1, 2, 3), hazards="softmax over few classes")
def dual_path_consistency(net: Any, x: Any) -> Any:
    """Mean squared gap of two softmax maps on the shared channels; stresses Gather along channels under a reduction."""
    p, q = classes(net, x, 3), classes(net, x, 3)
    chosen = net.ints(net.pick(([2], [1, 2])))
    gap_ = net("Sub", net("Gather", p, chosen, axis=1), net("Gather", q, chosen, axis=1))
    return mean(net, mul(net, gap_, gap_), list(range(1, len(x.shape))), 0)


@block("dual-path-multitask-unet/net", ZONES, seeds=["000:15", "001:19"])
def dual_path_multitask_unet_net(net: Any, x: Any) -> Any:
    """Both whole branches with their heads. Assumed: as in the block."""
    return _dual_path(net, x, [4, 8, 8][: levels(net, x, 2) + 1])


# Many paths -----------------------------------------------------------------------------------------------------------


def tile_probabilities(net: Any, tiles: Any) -> Any:
    """A small MobileNetV2 on (K, 3, p, p) tiles: the softmax probability of the second class, (K)."""
    y = unit(net, tiles, 4, kind="Relu6", s=2)
    inner = unit(net, unit(net, y, 24, 1, kind="Relu6"), 24, 3, g=24, kind="Relu6")
    y = add(net, y, unit(net, inner, 4, 1, kind=""))
    p = softmax(net, linear(net, net("Flatten", gap(net, y)), 2))
    return reshape(net, slice_(net, p, 1, 2, 1), [tiles.shape[0]])


def _refined(net: Any, p: Any, h: int, w: int, scattered: bool) -> Any:
    size = [net.pick((8, 9, 12)), net.pick((8, 9, 12))]
    image = net.input(1, 3, *size)
    heat = resize(net, heatmap(net, p, h, w, scattered), size, "linear")
    return classes(net, u_shape(net, concat(net, image, heat), [8, 16])[0], 2)


def heatmap(net: Any, p: Any, h: int, w: int, scattered: bool) -> Any:
    """Tile probabilities on their grid: by Reshape, or scattered to the tiles' places."""
    if scattered:
        zeros = net.const([[0.0] * w for _ in range(h)])
        p = net("ScatterND", zeros, net.const([[i // w, i % w] for i in range(p.shape[0])], INT64), p)
    return reshape(net, p, [1, 1, h, w])


@block("h2g-cascade-refinement", H2G, seeds=["000:331"], takes="none", hazards="corners of ReLU6")
def h2g_cascade_refinement(net: Any) -> Any:
    """Tiles to probabilities to a heat map beside the low-resolution slide; stresses batch to space by Reshape or ScatterND."""
    h, w = net.pick((2, 3)), net.pick((3, 2))
    return _refined(net, tile_probabilities(net, net.input(h * w, 3, 8, 8)), h, w, net.flag())


@block("h2g-cascade-refinement/net", H2G, seeds=["000:331"], takes="none", hazards="missing tiles keep their default value")
def h2g_cascade_refinement_net(net: Any) -> Any:
    """The cascade where the last tile is missing and its place keeps zero."""
    h, w = net.pick((3, 2)), net.pick((2, 3))
    return _refined(net, tile_probabilities(net, net.input(h * w - 1, 3, net.pick((8, 12)), 8)), h, w, True)


def _dilated_inception(net: Any, x: Any, n: int, out: int) -> Any:
    one = unit(net, x, n, 1)
    threes = [unit(net, unit(net, x, n, (k, 1)), n, (1, k)) for k in (3, 5)]
    spread = [unit(net, x, n, 3, d=d) for d in (2, 4)]
    return unit(net, concat(net, one, *threes, *spread, unit(net, pool(net, x, "MaxPool", 3, 1, 1), n, 1)), out, 1)


@block("ivd-net-dilated-inception", IVD, seeds=["000:53"], hazards="wide concatenations, ties of max pooling")
def ivd_net_dilated_inception(net: Any, x: Any) -> Any:
    """Asymmetric and dilated kernels side by side; stresses horizontal fusion of convolutions over one input. Assumed: the pool branch."""
    return _dilated_inception(net, x, net.pick((4, 8)), net.pick((16, 8)))


def _hyperdense(net: Any, paths: list[list[Any]], width: int) -> list[Any]:
    """One level: every path takes all earlier maps of all paths, pooled to size, from its own cyclic permutation."""
    m, outs = len(paths), list[Any]()
    for i in range(m):
        order = [(i + j) % m for j in range(m)]
        outs.append(unit(net, concat(net, *(v for j in order for v in paths[j])), width))
    return outs


@block("ivd-net-dilated-inception/hyperdense", IVD, seeds=["000:53"], dims=(2, 3))
def ivd_net_hyperdense(net: Any, x: Any) -> Any:
    """Two levels of paths that are concatenated in permuted orders; stresses Concat of shared parts and many live buffers."""
    m = net.pick((2, 4))
    first = [unit(net, x, 4) for _ in range(m)]
    down = [[halve(net, v)] for v in first]
    second = _hyperdense(net, down, 4)
    return net("Sum", *_hyperdense(net, [[*a, b] for a, b in zip(down, second, strict=True)], 4))


@block("ivd-net-dilated-inception/net", IVD, seeds=["000:53"])
def ivd_net(net: Any, x: Any) -> Any:
    """Two modality paths of inception modules, hyper-dense, summed at the bottom, one U decoder. Assumed: the order of permutations."""
    other = net.input(*x.shape)
    first = [_dilated_inception(net, v, 4, 8) for v in (x, other)]
    second = _hyperdense(net, [[halve(net, v)] for v in first], 8)
    y = unit(net, net("Sum", *second), 8)
    return classes(net, double(net, concat(net, smooth(net, y, spatial(x), 0), net("Sum", *first)), 8), 2)


def slicewise(net: Any, x: Any, axis: int, f: Any) -> Any:
    """A two-dimensional network on every slice of a volume along an axis: the axis joins the batch and comes back."""
    others = [a for a in (2, 3, 4) if a != axis]
    perm = [0, axis, 1, *others]
    n, c = x.shape[:2]
    y = f(reshape(net, transpose(net, x, perm), [n * x.shape[axis], c, *(x.shape[a] for a in others)]))
    y = reshape(net, y, [n, x.shape[axis], *y.shape[1:]])
    return transpose(net, y, [perm.index(a) for a in range(5)])


def z_score(net: Any, x: Any, axes: Sequence[int], epsilon: float = 1e-5) -> Any:
    centred = net("Sub", x, mean(net, x, axes))
    return net("Div", centred, net("Sqrt", net("Add", mean(net, mul(net, centred, centred), axes), net.const(epsilon))))


def slice_net(net: Any, x: Any) -> Any:
    """The network on slices: one U level and a sigmoid."""
    return sigmoid_head(net, u_shape(net, x, [4, 8], stage=unit)[0])


@block("multi-path-2p5d-unet", STROKE, seeds=["000:229", "002:41"], dims=(3,), hazards="z-score of a constant slice, sigmoid saturation")
def multi_path_2p5d_unet(net: Any, x: Any) -> Any:
    """Three planes through their own slice networks, joined by 3-D convolutions; stresses Transpose around folded batches."""
    x = slice_(net, x, 0, 2, 1)
    paths = [slicewise(net, x, axis, lambda v: slice_net(net, v)) for axis in (2, 3, 4)]
    return sigmoid_head(net, unit(net, concat(net, *paths), 8, norm=""))


@block("multi-path-2p5d-unet/plane-permutation", STROKE, seeds=["000:229", "002:41"], dims=(3,))
def multi_path_plane(net: Any, x: Any) -> Any:
    """One plane through a convolution: Transpose, fold, Conv, unfold, Transpose."""
    return slicewise(net, x, net.pick((2, 3, 4)), lambda v: unit(net, v, channels(x), norm=""))


@block("multi-path-2p5d-unet/net", STROKE, seeds=["000:229", "002:41"], dims=(3,), hazards="z-score of a constant slice")
def multi_path_2p5d_unet_net(net: Any, x: Any) -> Any:
    """Planes times normalisations (whole volume, slice), the 3-D network on top."""
    x = slice_(net, x, 0, 1, 1)
    maps = [z_score(net, x, [2, 3, 4])]
    paths = [slicewise(net, v, axis, lambda v: sigmoid_head(net, unit(net, v, 4))) for v in maps for axis in (2, 3, 4)]
    paths += [slicewise(net, z_score(net, x, [a for a in (2, 3, 4) if a != axis]), axis, lambda v: slice_net(net, v)) for axis in (2, 3, 4)]
    return sigmoid_head(net, unit(net, unit(net, concat(net, *paths), 8, norm=""), 8, norm=""))
