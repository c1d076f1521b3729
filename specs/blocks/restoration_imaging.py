"""Scalable codecs, inpainting and camera pipelines: sampling at real positions, masks that are updated, fixed filters."""

from __future__ import annotations

from typing import Any

import numpy as np

from specs.blocks.layers import (
    act,
    add,
    channels,
    concat,
    conv,
    instance_norm,
    mul,
    pointwise,
    reshape,
    resize,
    spatial,
    transpose,
)
from specs.blocks.parts import conv_with, narrow, offset, scale, squeeze_excite, total, unfold
from specs.blocks.restoration_inverse import gdn
from specs.formats import FLOAT
from specs.net import block, relation


def _local_implicit(net: Any, f: Any, size: tuple[int, int]) -> Any:
    """Every target pixel from its four nearest features, each with its relative position, weighted by opposite areas."""
    n, c, h, w = f.shape
    rows, columns = np.meshgrid(*[(np.arange(m) + 0.5) * k / m - 0.5 for m, k in zip(size, (h, w), strict=True)], indexing="ij")
    flat, hidden, out = reshape(net, f, [n, c, h * w]), net.weight(c + 2, 16), net.weight(16, 3)
    parts, areas = list[Any](), list[np.ndarray]()
    for dy in (0, 1):
        for dx in (0, 1):
            y, z = np.floor(rows).astype(int) + dy, np.floor(columns).astype(int) + dx
            index = np.clip(y, 0, h - 1) * w + np.clip(z, 0, w - 1)
            taken = transpose(net, net("Gather", flat, net.ints(index.ravel().tolist()), axis=2), [0, 2, 1])
            away = np.stack([rows - y, columns - z], axis=-1).reshape(1, -1, 2)
            joined = concat(net, taken, net.const(np.broadcast_to(away, (n, *away.shape[1:]))), axis=2)
            parts.append(net("MatMul", act(net, net("MatMul", joined, hidden)), out))
            areas.append((np.abs(1 - np.abs(rows - y)) * np.abs(1 - np.abs(columns - z))).reshape(1, -1, 1))
    mixed = total(net, [mul(net, p, net.const(a)) for p, a in zip(parts, areas, strict=True)])
    return reshape(net, transpose(net, mixed, [0, 2, 1]), [n, 3, *size])


@block(
    "compass-liff",
    "COMPASS: High-Efficiency Deep Image Compression with Arbitrary-scale Spatial Scalability",
    seeds=["002:455"],
    hazards="nearest cells at borders, roots, ties of the rounding",
)
def compass_liff(net: Any, x: Any) -> Any:
    """Prediction at any scale from a feature map by a small network for each pixel, and a coded residual; stresses Gather and wide dense layers.

    Assumed: positions are constants of the scale, areas are the bilinear weights.
    """
    x, s = narrow(net, x, 8), net.pick((1.2, 2.0, 1.7))
    size = tuple(round(n * s) for n in spatial(x))
    f = add(net, x, conv(net, act(net, conv(net, x, channels(x))), channels(x)))
    predicted = _local_implicit(net, f, size)  # type: ignore[arg-type]
    y = gdn(net, conv(net, predicted, 8, 5, s=2, pad=2))
    residual = gdn(net, resize(net, net("Round", y), size), inverse=True)
    return net("Add", predicted, conv(net, residual, 3))


@relation("compass-liff/gather-is-bilinear", of="compass-liff")
def liff_bilinear(net: Any, x: Any) -> Any:
    """Four neighbours weighted by opposite areas, without the network, are a bilinear enlargement by two."""
    n, c, h, w = x.shape
    flat, parts = reshape(net, x, [n, c, h * w]), list[Any]()
    rows, columns = np.meshgrid(*[(np.arange(2 * m) + 0.5) / 2 - 0.5 for m in (h, w)], indexing="ij")
    for dy in (0, 1):
        for dx in (0, 1):
            y, z = np.floor(rows).astype(int) + dy, np.floor(columns).astype(int) + dx
            taken = net("Gather", flat, net.ints((np.clip(y, 0, h - 1) * w + np.clip(z, 0, w - 1)).ravel().tolist()), axis=2)
            area = (1 - np.abs(rows - y)) * (1 - np.abs(columns - z))
            parts.append(mul(net, taken, net.const(area.ravel())))
    return reshape(net, total(net, parts), [n, c, 2 * h, 2 * w]), resize(net, x, [2 * h, 2 * w], "linear")


def _partial(net: Any, x: Any, mask: Any, out: int, k: int) -> tuple[Any, Any]:
    """Convolution renormalised by the valid part of each window, and the updated mask."""
    count = conv_with(net, mask, net.const(np.ones((1, 1, k, k))))
    valid = net("Greater", count, net.const(0.5))
    y = conv(net, mul(net, x, mask), out, k)
    ratio = net("Div", net.const(float(k * k)), net("Max", count, net.const(1.0)))
    return net("Where", valid, net("Add", mul(net, y, ratio), net.weight(out, 1, 1)), net.const(0.0)), net("Cast", valid, to=FLOAT.onnx)


def _local_attention(net: Any, x: Any) -> Any:
    """A softmax over the 3x3 neighbours by their products with the centre."""
    taps = unfold(net, x, 3)
    scores = net("ReduceSum", mul(net, taps, net("Unsqueeze", x, net.ints([1]))), net.ints([2]), keepdims=1)
    return net("ReduceSum", mul(net, taps, net("Softmax", scores, axis=1)), net.ints([1]), keepdims=0)


@block(
    "bilateral-propagation-activation",
    "Rethinking Image Inpainting via a Mutual Encoder-Decoder with Feature Equalizations",
    seeds=["001:83"],
    hazards="unscaled products under a softmax, tails of a Gaussian",
)
def bilateral_propagation_activation(net: Any, x: Any) -> Any:
    """Channel gate, a Gaussian neighbourhood and a neighbourhood weighted by similarity, joined; stresses unfolding and constant depthwise kernels."""
    x = squeeze_excite(net, narrow(net, x, 8), 4)
    k, c = net.pick((3, 5, 11)), channels(x)
    line = np.exp(-((np.arange(k) - k // 2) ** 2) / (2 * 1.5**2))
    kernel = np.outer(line, line) / np.outer(line, line).sum()
    near = conv_with(net, x, net.const(np.tile(kernel, (c, 1, 1, 1))), g=c)
    return pointwise(net, concat(net, near, _local_attention(net, x)), c)


@block(
    "bilateral-propagation-activation/partial-conv", "Mutual Encoder-Decoder with Feature Equalizations", seeds=["001:83"], hazards="division by an empty mask"
)
def partial_conv(net: Any, x: Any) -> Any:
    """Three streams of mask-renormalised convolutions, joined; stresses comparisons, casts and guarded division.

    Assumed: pixels are valid where a projection is positive.
    """
    mask, streams = net("Cast", net("Greater", pointwise(net, x, 1), net.const(0.0)), to=FLOAT.onnx), list[Any]()
    for k in (3, 5, 7):
        y, updated = _partial(net, x, mask, 4, k)
        streams.append(_partial(net, act(net, y), updated, 4, k)[0])
    return conv(net, concat(net, *streams), channels(x))


@block("bilateral-propagation-activation/unfold-local-attention", "Mutual Encoder-Decoder with Feature Equalizations", seeds=["001:83"], dims=(1, 2))
def unfold_local_attention(net: Any, x: Any) -> Any:
    """Attention to the direct neighbours by unfolded windows."""
    return _local_attention(net, narrow(net, x, 8))


@relation("bilateral-propagation-activation/full-mask", of="bilateral-propagation-activation")
def partial_full(net: Any, x: Any) -> Any:
    """Where everything is valid the renormalisation is by one: windows that do not touch the border are plain convolutions."""
    k = 3
    inner, w, b = [0, 0, 1, 1], net.weight(4, channels(x), k, k), net.weight(4, 1, 1)
    count = conv_with(net, net.const(np.ones((1, 1, *spatial(x)))), net.const(np.ones((1, 1, k, k))))
    whole = net("Add", mul(net, conv_with(net, x, w), net("Div", net.const(float(k * k)), count)), b)
    ends = [1 + n - 2 for n in spatial(x)]
    return net("Slice", whole, net.ints(inner[2:]), net.ints(ends), net.ints([2, 3])), net("Add", conv_with(net, x, w, pads=0), b)


_PATTERNS = {"RGGB": ((0, 1), (1, 2)), "BGGR": ((2, 1), (1, 0)), "GRBG": ((1, 0), (2, 1))}


def _bayer(pattern: str, h: int, w: int) -> np.ndarray:
    """One mask for each colour, (1, 3, H, W)."""
    colour = np.array(_PATTERNS[pattern])[np.arange(h)[:, None] % 2, np.arange(w)[None] % 2]
    return np.stack([colour == i for i in range(3)])[None].astype(float)


def _demosaic(net: Any, raw: Any, masks: np.ndarray) -> Any:
    """Missing colours between samples, by a fixed depthwise kernel on planes filled with zeros."""
    cross, box = np.array([[0.0, 1, 0], [1, 4, 1], [0, 1, 0]]) / 4, np.array([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 4
    return conv_with(net, mul(net, raw, net.const(masks)), net.const(np.stack([box, cross, box])[:, None]), g=3)


def _fixed_isp(net: Any, raw: Any, masks: np.ndarray) -> Any:
    """Black level, gains, demosaic, colour matrix, gamma."""
    y = net("Clip", offset(net, raw, -0.0625), net.const(0.0), net.const(1.0))
    rgb = mul(net, _demosaic(net, y, masks), net.weight(3, 1, 1, low=0.5, high=2.0))
    rgb = conv_with(net, rgb, net.const(np.array([[1.5, -0.375, -0.125], [-0.25, 1.5, -0.25], [0.0, -0.5, 1.5]])[:, :, None, None]))
    return net("Pow", net("Clip", rgb, net.const(0.0078125), net.const(1.0)), net.const(1 / net.pick((2.2, 2.4))))


@block(
    "rgb-raw-isp-defense",
    "All You Need is RAW: Defending Against Adversarial Attacks with Camera Image Pipelines",
    seeds=["003:27"],
    even=2,
    hazards="powers near zero, clipping, cancellation in the colour matrix",
)
def rgb_raw_isp_defense(net: Any, x: Any) -> Any:
    """Colours to a mosaic, back by a learned and by a fixed pipeline, mixed; stresses constant masks, SpaceToDepth, fixed kernels and Pow.

    Assumed: a learned pipeline of two levels, gamma on values above 1/128.
    """
    rgb, pattern, w = act(net, conv(net, x, 3, 3), "Sigmoid"), net.pick(("RGGB", "BGGR", "GRBG")), net.pick((0.5, 0.0, 0.7))
    masks = _bayer(pattern, *spatial(x))
    raw = net("ReduceSum", mul(net, rgb, net.const(masks)), net.ints([1]), keepdims=1)
    y = net("SpaceToDepth", raw, blocksize=2)
    wide = [lrelu_norm(net, conv(net, y, 4, k)) for k in (3, 5)]
    learned = act(net, conv(net, resize(net, concat(net, *wide), spatial(x)), 3), "Sigmoid")
    return net("Add", scale(net, learned, w), scale(net, _fixed_isp(net, raw, masks), 1 - w))


def lrelu_norm(net: Any, x: Any) -> Any:
    return act(net, instance_norm(net, x), "LeakyRelu", alpha=0.2)


@relation("rgb-raw-isp-defense/mosaic-forms", of="rgb-raw-isp-defense", even=2)
def mosaic_forms(net: Any, x: Any) -> Any:
    """Masks and a sum over colours = strided slices interleaved by DepthToSpace."""
    rgb, pattern = conv(net, x, 3, 1), net.pick(("RGGB", "BGGR", "GRBG"))
    left = net("ReduceSum", mul(net, rgb, net.const(_bayer(pattern, *spatial(x)))), net.ints([1]), keepdims=1)
    size, planes = spatial(x), list[Any]()
    for i in (0, 1):
        for j in (0, 1):
            colour = _PATTERNS[pattern][i][j]
            planes.append(net("Slice", rgb, net.ints([colour, i, j]), net.ints([colour + 1, *size]), net.ints([1, 2, 3]), net.ints([1, 2, 2])))
    return left, net("DepthToSpace", concat(net, *planes), blocksize=2)


@block("rgb-raw-isp-defense/bilinear-demosaic", "All You Need is RAW", seeds=["003:27"], even=2)
def bilinear_demosaic(net: Any, x: Any) -> Any:
    """A mosaic back to colours by fixed depthwise kernels."""
    return _demosaic(net, act(net, conv(net, x, 1, 3), "Sigmoid"), _bayer(net.pick(("RGGB", "BGGR", "GRBG")), *spatial(x)))


@block("rgb-raw-isp-defense/fixed-isp", "All You Need is RAW", seeds=["003:27"], even=2, hazards="powers near zero")
def fixed_isp(net: Any, x: Any) -> Any:
    """Black level, demosaic, gains, colour matrix and gamma as constants."""
    return _fixed_isp(net, act(net, conv(net, x, 1, 3), "Sigmoid"), _bayer(net.pick(("RGGB", "BGGR", "GRBG")), *spatial(x)))
