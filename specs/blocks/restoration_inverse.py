"""Inverse problems and codecs: transforms and masks, adjoints, entropy models, camera pipelines, inpainting."""

from __future__ import annotations

from typing import Any

import numpy as np

from specs.blocks.layers import (
    act,
    channels,
    concat,
    conv,
    mul,
    pointwise,
    reduce,
    reshape,
    slice_,
    spatial,
    split,
    transpose,
)
from specs.blocks.parts import conv_with, dft, offset, scale, sub, total
from specs.net import block, relation

Complex = tuple[Any, Any]


def _switched(net: Any, z: Complex) -> Complex:
    order = [*range(len(z[0].shape) - 2), len(z[0].shape) - 1, len(z[0].shape) - 2]
    return transpose(net, z[0], order), transpose(net, z[1], order)


def fourier(net: Any, z: Complex, inverse: bool = False) -> Complex:
    """The two-dimensional transform of the last two axes."""
    return _switched(net, dft(net, *_switched(net, dft(net, *z, inverse=inverse)), inverse=inverse))


def _both(net: Any, f: Any, a: Complex, b: Any) -> Complex:
    return tuple(net(f, u, v) for u, v in zip(a, b, strict=True))  # type: ignore[return-value]


def _complex(net: Any, x: Any) -> Complex:
    """Two maps (N, H, W), real and imaginary, from an image."""
    y = conv(net, x, 2, 1)
    n, _, h, w = y.shape
    return tuple(reshape(net, v, [n, h, w]) for v in split(net, y, 2))  # type: ignore[return-value]


def _kept(net: Any, h: int, w: int) -> Any:
    """A sampling mask (H, W) of ones and zeros: every second or third row and the middle one."""
    step = net.pick((2, 3))
    return net.const(np.array([[float(i % step == 0 or i == h // 2)] * w for i in range(h)]))


def _consistent(net: Any, z: Complex, measured: Complex, kept: Any) -> Complex:
    """Measured frequencies put back where they were sampled."""
    f, missing = fourier(net, z), sub(net, net.const(1.0), kept)
    mixed = tuple(net("Add", mul(net, missing, a), mul(net, kept, b)) for a, b in zip(f, measured, strict=True))
    return fourier(net, mixed, inverse=True)  # type: ignore[arg-type]


@block(
    "cirim",
    "Assessment of Data Consistency through Cascades of Independently Recurrent Inference Machines for fast and robust accelerated MRI reconstruction",
    seeds=["002:409"],
    hazards="scale of the inverse transform, cancellation of prediction and measurement",
)
def cirim(net: Any, x: Any) -> Any:
    """Unrolled steps of gradient, convolutions and elementwise recurrence with shared weights; stresses DFT, complex pairs and weight sharing.

    Assumed: one coil.
    """
    z, c = _complex(net, x), 8
    n, h, w = z[0].shape
    measured, kept = fourier(net, _complex(net, x)), _kept(net, h, w)
    w1, w2, w3, u1, u2 = net.weight(c, 4, 5, 5), net.weight(c, c, 3, 3), net.weight(2, c, 3, 3), net.weight(c, 1, 1), net.weight(c, 1, 1)
    h1 = h2 = None
    for _ in range(2):
        error = tuple(mul(net, kept, sub(net, a, b)) for a, b in zip(fourier(net, z), measured, strict=True))
        gradient = fourier(net, error, inverse=True)  # type: ignore[arg-type]
        planes = concat(net, *[reshape(net, v, [n, 1, h, w]) for v in (*z, *gradient)])
        h1 = _recurrent(net, act(net, conv_with(net, planes, w1)), u1, h1)
        h2 = _recurrent(net, conv_with(net, h1, w2, d=2), u2, h2)
        z = _both(net, "Add", z, [reshape(net, v, [n, h, w]) for v in split(net, conv_with(net, h2, w3), 2)])
    return z


def _recurrent(net: Any, y: Any, u: Any, state: Any) -> Any:
    """relu(y + u h), the first step without a state."""
    return act(net, y if state is None else net("Add", y, mul(net, u, state)))


@block("cirim/indrnn-cell", "Cascades of Independently Recurrent Inference Machines", seeds=["002:409"], dims=(1, 2, 3))
def indrnn_cell(net: Any, x: Any) -> Any:
    """Elementwise recurrence on convolved features, unrolled with shared weights."""
    c, state = channels(x), None
    w, u = net.weight(c, c, *[3] * (len(x.shape) - 2)), net.weight(c, *[1] * (len(x.shape) - 2), low=-0.9, high=0.9)
    for _ in range(net.pick((3, 5))):
        state = _recurrent(net, conv_with(net, x if state is None else state, w), u, state)
    return state


@block("cirim/data-consistency", "Cascades of Independently Recurrent Inference Machines", seeds=["002:409"])
def data_consistency(net: Any, x: Any) -> Any:
    """Sampled frequencies replaced by measured ones."""
    z = _complex(net, x)
    return _consistent(net, z, fourier(net, _complex(net, x)), _kept(net, *z[0].shape[1:]))


@relation("cirim/consistency-idempotent", of="cirim", since=17)
def consistency_idempotent(net: Any, x: Any) -> Any:
    """Replacing twice is replacing once (exact with the operator, opset 17 on)."""
    z = _complex(net, x)
    measured, kept = fourier(net, _complex(net, x)), _kept(net, *z[0].shape[1:])
    once = _consistent(net, z, measured, kept)
    return _consistent(net, once, measured, kept)[0], once[0]


@relation("cirim/unitary", of="cirim", since=17)
def fourier_unitary(net: Any, x: Any) -> Any:
    """The inverse transform undoes the transform."""
    z = _complex(net, x)
    return fourier(net, fourier(net, z), inverse=True)[0], z[0]


def _difference(net: Any, x: Any, axis: int) -> Any:
    n = x.shape[axis]
    return sub(net, slice_(net, x, 1, n, axis), slice_(net, x, 0, n - 1, axis))


def _adjoint(net: Any, p: Any, axis: int) -> Any:
    """The transpose of the forward difference: zeros put on either side."""
    rank, one = len(p.shape), [int(i == axis) for i in range(len(p.shape))]
    return sub(net, net("Pad", p, net.ints([*one, *[0] * rank])), net("Pad", p, net.ints([*[0] * rank, *one])))


def soft(net: Any, x: Any, threshold: float) -> Any:
    """sign(x) max(|x| - t, 0)."""
    return mul(net, net("Sign", x), act(net, offset(net, net("Abs", x), -threshold)))


@block(
    "tv-nuclear-dynamic-mri-iter",
    "Robust Depth Linear Error Decomposition with Double Total Variation and Nuclear Norm for Dynamic MRI Reconstruction",
    seeds=["000:261"],
    dims=(2, 3),
    hazards="division by magnitudes, the kink of shrinkage, scale of the transform",
)
def tv_nuclear_dynamic_mri_iter(net: Any, x: Any) -> Any:
    """Unrolled primal-dual steps of total variation, low rank and sparse error; stresses differences with their adjoints, polar iteration, Sign and Abs.

    Assumed: real values, steps 0.25, the singular values reduced by a multiple of the polar factor (Newton-Schulz) in place of an SVD.
    """
    n, axes, limit, error, y = x.shape[0], list(range(2, len(x.shape))), net.pick((0.1, 0.01)), None, x
    dual: dict[int, Any] = {}
    for _ in range(2):
        pull = None
        for axis in axes:
            p = scale(net, _difference(net, y, axis), 0.25)
            p = net("Add", dual[axis], p) if axis in dual else p
            dual[axis] = net("Div", p, net("Max", net.const(1.0), scale(net, net("Abs", p), 1 / limit)))
            back = _adjoint(net, dual[axis], axis)
            pull = back if pull is None else net("Add", pull, back)
        y = sub(net, y, scale(net, pull, 0.25))
        casorati = reshape(net, y, [n, channels(x), -1])
        size = net("Sqrt", offset(net, reduce(net, "ReduceSumSquare", casorati, [1, 2]), 1e-3))
        polar = net("Div", casorati, size)
        for _ in range(2):
            gram = net("MatMul", polar, transpose(net, polar, [0, 2, 1]))
            polar = sub(net, scale(net, polar, 1.5), scale(net, net("MatMul", gram, polar), 0.5))
        y = reshape(net, sub(net, casorati, scale(net, polar, 0.125)), x.shape)
        error = soft(net, sub(net, x, y), limit)
        y = net("Add", y, scale(net, sub(net, sub(net, x, error), y), 0.5))
    return y, error


@relation("tv-nuclear-dynamic-mri-iter/adjoint", of="tv-nuclear-dynamic-mri-iter", dims=(1, 2, 3))
def tv_adjoint(net: Any, x: Any) -> Any:
    """<D x, p> = <x, D^T p>."""
    axis = 2 + net.int(0, len(x.shape) - 3)
    d, every = _difference(net, x, axis), list(range(len(x.shape)))
    p = net.weight(*d.shape)
    return reduce(net, "ReduceSum", mul(net, d, p), every), reduce(net, "ReduceSum", mul(net, x, _adjoint(net, p, axis)), every)


@relation("tv-nuclear-dynamic-mri-iter/soft-threshold", of="tv-nuclear-dynamic-mri-iter", dims=(1, 2, 3))
def soft_threshold(net: Any, x: Any) -> Any:
    """sign(x) relu(|x| - t) = relu(x - t) - relu(-x - t)."""
    t = net.pick((0.5, 0.125))
    return soft(net, x, t), sub(net, act(net, offset(net, x, -t)), act(net, offset(net, net("Neg", x), -t)))


@relation("tv-nuclear-dynamic-mri-iter/shrink", of="tv-nuclear-dynamic-mri-iter", dims=(1, 2, 3))
def soft_is_shrink(net: Any, x: Any) -> Any:
    """The soft threshold is the operator Shrink with equal bias."""
    t = net.pick((0.5, 0.125))
    return soft(net, x, t), net("Shrink", x, lambd=t, bias=t)


@block(
    "learned-proximal-network",
    "What's in a Prior? Learned Proximal Networks for Inverse Problems",
    seeds=["003:235"],
    dims=(1, 2),
    hazards="softplus of large arguments, long sums of non-negative values",
)
def learned_proximal_network(net: Any, x: Any) -> Any:
    """The gradient of a convex potential written as a forward graph; stresses Conv and ConvTranspose on one initializer and weights made non-negative."""
    c, beta, hidden, rank = channels(x), net.pick((10.0, 100.0)), 8, len(x.shape) - 2
    shape, depth = [3] * rank, net.pick((2, 3))
    inputs = [net.weight(hidden, c, *shape) for _ in range(depth)]
    inner = [net("Relu", net.weight(hidden, hidden, *shape)) for _ in range(depth - 1)]
    z, slopes = None, list[Any]()
    for k in range(depth):
        pre = conv_with(net, x, inputs[k], net.weight(hidden))
        pre = pre if z is None else net("Add", pre, conv_with(net, z, inner[k - 1]))
        bent = scale(net, pre, beta)
        slopes.append(act(net, bent, "Sigmoid"))
        z = scale(net, act(net, bent, "Softplus"), 1 / beta)
    g = mul(net, net("Relu", net.weight(hidden, *[1] * rank)), slopes[-1])
    terms = [scale(net, x, net.pick((0.1, 0.01)))]
    for k in reversed(range(depth)):
        terms.append(_back(net, g, inputs[k]))
        g = mul(net, _back(net, g, inner[k - 1]), slopes[k - 1]) if k else g
    return total(net, terms)


def _back(net: Any, g: Any, w: Any) -> Any:
    """The transpose of a same-size convolution, by the same weight."""
    rank = len(g.shape) - 2
    return net("ConvTranspose", g, w, kernel_shape=list(w.shape[2:]), pads=[n // 2 for n in w.shape[2:]] * 2, strides=[1] * rank)


@relation("learned-proximal-network/adjoint", of="learned-proximal-network", dims=(1, 2, 3))
def proximal_adjoint(net: Any, x: Any) -> Any:
    """<H x, y> = <x, H^T y> with one weight for the convolution and its transpose."""
    w, every = net.weight(5, channels(x), *[3] * (len(x.shape) - 2)), list(range(len(x.shape)))
    y = conv(net, x, 5, 1)
    return reduce(net, "ReduceSum", mul(net, conv_with(net, x, w), y), every), reduce(net, "ReduceSum", mul(net, x, _back(net, y, w)), every)


def gdn(net: Any, x: Any, inverse: bool = False) -> Any:
    """Divisive normalisation x / sqrt(b + G x^2), or its approximate inverse."""
    c, one = channels(x), [1] * (len(x.shape) - 2)
    root = net("Sqrt", conv_with(net, mul(net, x, x), net.weight(c, c, *one, low=0.0, high=0.5), net.weight(c, low=0.1, high=1.0)))
    return mul(net, x, root) if inverse else net("Div", x, root)


def _parallax(net: Any, left: Any, right: Any) -> tuple[Any, Any]:
    """Attention along rows between two views, both ways from the same products."""
    q, k = (transpose(net, pointwise(net, v, channels(v)), [0, 2, 3, 1]) for v in (left, right))
    scores = scale(net, net("MatMul", q, transpose(net, k, [0, 1, 3, 2])), q.shape[-1] ** -0.5)
    views = [transpose(net, v, [0, 2, 3, 1]) for v in (right, left)]
    maps = net("Softmax", scores, axis=-1), net("Softmax", transpose(net, scores, [0, 1, 3, 2]), axis=-1)
    return tuple(transpose(net, net("MatMul", m, v), [0, 3, 1, 2]) for m, v in zip(maps, views, strict=True))  # type: ignore[return-value]


def _likelihood(net: Any, y: Any, mu: Any, sigma: Any) -> Any:
    """Mass of a Gaussian over the unit interval around y, by a difference of Erf."""
    spread = scale(net, offset(net, net("Softplus", sigma), 0.1), 2**0.5)
    ends = [net("Erf", net("Div", offset(net, sub(net, y, mu), by), spread)) for by in (0.5, -0.5)]
    return scale(net, sub(net, *ends), 0.5)


@block(
    "bisic-stereo-codec",
    "Bidirectional Stereo Image Compression with Cross-Dimensional Entropy Model",
    seeds=["000:337"],
    hazards="ties of the rounding, tails of Erf, roots of sums",
)
def bisic_stereo_codec(net: Any, x: Any) -> Any:
    """Two views through a 3-D convolution, exchanged by row attention, rounded around a mean; stresses Conv3D over two planes and batched row products.

    Assumed: the entropy model is a masked context and a pointwise layer.
    """
    views = concat(net, *[net("Unsqueeze", v, net.ints([2])) for v in (x, net.input(*x.shape))], axis=2)
    y = gdn(net, net("Conv", views, net.weight(8, channels(x), 3, 3, 3), pads=[1] * 6, strides=[1, 2, 2]))
    left, right = (net("Squeeze", v, net.ints([2])) for v in split(net, y, 2, axis=2))
    left = net("Add", left, conv(net, concat(net, left, _parallax(net, left, right)[0]), 8))
    mask = net.const(np.fromfunction(lambda i, j: (i + j) % 2, tuple(spatial(left))))
    context = conv(net, mul(net, concat(net, left, right), mask), 16, 5, bias=True)
    mu, sigma = split(net, context, 2)
    coded = net("Add", net("Round", sub(net, left, mu)), mu)
    return coded, _likelihood(net, coded, mu, sigma)


@block("bisic-stereo-codec/gdn", "Bidirectional Stereo Image Compression", seeds=["000:337"], dims=(1, 2, 3), hazards="root of a sum of squares")
def gdn_block(net: Any, x: Any) -> Any:
    """Divisive normalisation and its counterpart; stresses a pointwise convolution of squares under a root."""
    return gdn(net, pointwise(net, gdn(net, x), channels(x)), inverse=True)


@block("bisic-stereo-codec/parallax-attention", "Bidirectional Stereo Image Compression", seeds=["000:337"])
def parallax_attention(net: Any, x: Any) -> Any:
    """Row attention both ways from one product."""
    return _parallax(net, x, net.input(*x.shape))


@block("bisic-stereo-codec/checkerboard-context", "Bidirectional Stereo Image Compression", seeds=["000:337"])
def checkerboard_context(net: Any, x: Any) -> Any:
    """A masked 5x5 context of every second position, decoded in two passes; stresses constant masks."""
    anchors = net.const(np.fromfunction(lambda i, j: (i + j) % 2, tuple(spatial(x))))
    context = mul(net, conv(net, mul(net, x, anchors), channels(x), 5, bias=True), sub(net, net.const(1.0), anchors))
    return net("Add", mul(net, x, anchors), net("Round", context))
