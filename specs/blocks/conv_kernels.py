"""Convolution algorithms written as graphs: bit planes, look-up tables, windows in order, tiles with halos, Fourier transforms."""

from __future__ import annotations

from math import ceil, log2
from typing import Any

import numpy as np

from specs.blocks.layers import (
    act,
    channels,
    concat,
    conv,
    linear,
    mul,
    pad,
    reshape,
    slice_,
    spatial,
    split,
    transpose,
)
from specs.blocks.parts import complex_mul, conv_with, dft, narrow, offset, scale, sub, total, unfold
from specs.formats import FLOAT, INT32, INT64, UINT8
from specs.net import block, relation


def codes(net: Any, v: Any, bits: int, gain: float = 1.0) -> Any:
    """Unsigned codes of so many bits, as uint8."""
    whole = net("Round", scale(net, v, gain))
    return net("Cast", net("Clip", whole, net.const(0.0), net.const(float(2**bits - 1))), to=UINT8.onnx)


def _plane(net: Any, code: Any, bit: int) -> Any:
    """One bit of uint8 codes, as 0 or 1."""
    shifted = net("BitShift", code, net.const(bit, UINT8), direction="RIGHT") if bit else code
    return net("Mod", shifted, net.const(2, UINT8))


def _integer_conv(net: Any, a: Any, w: Any) -> Any:
    k = w.shape[2]
    return net("ConvInteger", a, w, kernel_shape=[k, k], pads=[k // 2] * 4)


def _bitserial(net: Any, a: Any, w: Any, bits_a: int, bits_w: int) -> Any:
    """The product of codes as a sum over pairs of bit planes."""
    parts = list[Any]()
    for i in range(bits_a):
        for j in range(bits_w):
            parts.append(net("Mul", _integer_conv(net, _plane(net, a, i), _plane(net, w, j)), net.const(2 ** (i + j), INT32)))
    return total(net, parts)


@block(
    "bitserial-ultra-low-bit-conv",
    "Accelerating Deep Learning Model Inference on Arm CPUs with Ultra-Low Bit Quantization and Runtime",
    seeds=["002:35"],
    hazards="accumulator overflow, ties of the requantisation",
)
def bitserial_ultra_low_bit_conv(net: Any, x: Any) -> Any:
    """Convolution of one- or two-bit codes by bit planes, scaled and quantised again; stresses ConvInteger, shifts and integer sums.

    Assumed: planes stay one byte an element (the packing is a kernel's matter), zero is the code of the padding.
    """
    bits_a, bits_w, c = net.pick((2, 1)), net.pick((1, 2)), channels(x)
    w = codes(net, net.weight(8, c, 3, 3), bits_w)
    y = net("Cast", _bitserial(net, codes(net, x, bits_a), w, bits_a, bits_w), to=FLOAT.onnx)
    y = net("Add", scale(net, y, 0.0625), net.weight(8, 1, 1))
    return net("Clip", net("Round", y), net.const(0.0), net.const(float(2**bits_a - 1)))


@relation("bitserial-ultra-low-bit-conv/planes", of="bitserial-ultra-low-bit-conv")
def bitserial_planes(net: Any, x: Any) -> Any:
    """Bit planes = the integer convolution of the codes, bit for bit."""
    bits_a, bits_w = net.pick((2, 1)), net.pick((1, 2))
    a, w = codes(net, x, bits_a), codes(net, net.weight(8, channels(x), 3, 3), bits_w)
    return tuple(net("Cast", y, to=FLOAT.onnx) for y in (_bitserial(net, a, w, bits_a, bits_w), _integer_conv(net, a, w)))


@relation("bitserial-ultra-low-bit-conv/bipolar", of="bitserial-ultra-low-bit-conv")
def bitserial_bipolar(net: Any, x: Any) -> Any:
    """Weights of -1 and 1: popcount(a and w) - popcount(a and not w) = the product with 2 w - 1 (without padding, which has no code)."""
    a, bit = codes(net, x, 2), codes(net, net.weight(6, channels(x), 1, 1), 1)
    opposite = net("BitShift", net.const(1, UINT8), bit, direction="RIGHT")  # 1 - bit: there is no uint8 Sub before opset 14
    left = sub(net, _bitserial(net, a, bit, 2, 1), _bitserial(net, a, opposite, 2, 1))
    signed = offset(net, scale(net, net("Cast", bit, to=FLOAT.onnx), 2.0), -1.0)
    return net("Cast", left, to=FLOAT.onnx), conv_with(net, net("Cast", a, to=FLOAT.onnx), signed)


@relation("bitserial-ultra-low-bit-conv/popcount", of="bitserial-ultra-low-bit-conv", takes="tokens", since=18)
def bitserial_popcount(net: Any, x: Any) -> Any:
    """Bits packed in bytes, AND and a table of popcounts = the product of the bits (opset 18 on)."""
    a, w = codes(net, x, 1), codes(net, net.weight(5, x.shape[2]), 1)

    def packed(v: Any) -> Any:
        grouped = net("Cast", reshape(net, v, [*v.shape[:-1], -1, 8]), to=INT32.onnx)
        places = net("Mul", grouped, net.const([1, 2, 4, 8, 16, 32, 64, 128], INT32))
        return net("Cast", net("ReduceSum", places, net.ints([-1]), keepdims=0), to=UINT8.onnx)

    both = net("BitwiseAnd", net("Unsqueeze", packed(a), net.ints([2])), packed(w))
    table = net.const([bin(i).count("1") for i in range(256)], INT32)
    counts = net("ReduceSum", net("Gather", table, net("Cast", both, to=INT32.onnx), axis=0), net.ints([-1]), keepdims=0)
    right = net("MatMulInteger", a, transpose(net, w, [1, 0]))
    return net("Cast", counts, to=FLOAT.onnx), net("Cast", right, to=FLOAT.onnx)


def _looked_up(net: Any, a: Any, w: Any, bits: int) -> Any:
    """Dot products by a table of all products: a (N, L, K), w (O, K), both uint8 codes."""
    table = net.const([i * j for i in range(2**bits) for j in range(2**bits)], INT32)
    wide, narrow_ = net("Cast", net("Unsqueeze", a, net.ints([2])), to=INT32.onnx), net("Cast", w, to=INT32.onnx)
    index = net("Add", net("Mul", narrow_, net.const(2**bits, INT32)), wide)
    return net("ReduceSum", net("Gather", table, index, axis=0), net.ints([-1]), keepdims=0)


@block(
    "deepgemm-lut",
    "DeepGEMM: Accelerated Ultra Low-Precision Inference on CPU Architectures using Lookup Tables",
    seeds=["002:441"],
    dims=(1,),
    takes="tokens",
    hazards="accumulator width, padding codes, rounding of the quantiser",
)
def deepgemm_lut(net: Any, x: Any) -> Any:
    """A dense layer on codes by table look-up, scaled back; stresses Gather with computed indices and integer sums."""
    bits, out = net.pick((2, 1, 3)), net.pick((6, 8))
    y = _looked_up(net, codes(net, x, bits), codes(net, net.weight(out, x.shape[2]), bits), bits)
    return net("Add", scale(net, net("Cast", y, to=FLOAT.onnx), 0.125), net.weight(out))


@relation("deepgemm-lut/integer", of="deepgemm-lut", takes="tokens")
def deepgemm_integer(net: Any, x: Any) -> Any:
    """Look-ups = MatMulInteger of the codes."""
    bits = net.pick((2, 1, 3, 4))
    a, w = codes(net, x, bits), codes(net, net.weight(6, x.shape[2]), bits)
    right = net("MatMulInteger", a, transpose(net, w, [1, 0]))
    return net("Cast", _looked_up(net, a, w, bits), to=FLOAT.onnx), net("Cast", right, to=FLOAT.onnx)


@relation("deepgemm-lut/pack-unpack", of="deepgemm-lut", takes="tokens")
def deepgemm_pack(net: Any, x: Any) -> Any:
    """Four two-bit codes in a byte and back."""
    a = codes(net, x, 2)
    quads = net("Cast", reshape(net, a, [*a.shape[:-1], -1, 4]), to=INT32.onnx)
    byte = net("Cast", net("ReduceSum", net("Mul", quads, net.const([1, 4, 16, 64], INT32)), net.ints([-1]), keepdims=1), to=UINT8.onnx)
    digits = net("Mod", net("BitShift", byte, net.const([0, 2, 4, 6], UINT8), direction="RIGHT"), net.const(4, UINT8))
    return net("Cast", reshape(net, digits, a.shape), to=FLOAT.onnx), net("Cast", a, to=FLOAT.onnx)


@block("deepgemm-lut/lsq-quant", "DeepGEMM: lookup tables (the learned-step quantiser)", seeds=["002:441"], dims=(1, 2, 3), hazards="ties")
def lsq_quant(net: Any, x: Any) -> Any:
    """Round(Clip(x / s)) s with a learned step."""
    step, bits = net.weight(1, low=0.1, high=0.5), net.pick((2, 3, 4))
    low, high = net.const(float(-(2 ** (bits - 1)))), net.const(float(2 ** (bits - 1) - 1))
    return mul(net, net("Round", net("Clip", net("Div", x, step), low, high)), step)


def _im2win(net: Any, x: Any, w: Any, s: int) -> Any:
    """Valid convolution by windows in order: rows interleaved column by column, then a convolution along the last axis."""
    n, c, h = x.shape[:3]
    o, kh, rank = w.shape[0], w.shape[2], len(w.shape) - 2
    rows = (h - kh) // s + 1
    taken = [net("Slice", x, net.ints([u]), net.ints([u + (rows - 1) * s + 1]), net.ints([2]), net.ints([s])) for u in range(kh)]
    windows = concat(net, *[net("Unsqueeze", t, net.ints([rank + 2])) for t in taken], axis=rank + 2)
    if rank == 1:
        return net("Conv", reshape(net, windows, [n, c, rows * kh]), w, kernel_shape=[kh], strides=[kh])
    kw = w.shape[3]
    flat = reshape(net, transpose(net, w, [0, 1, 3, 2]), [o, c, 1, kw * kh])
    return net("Conv", reshape(net, windows, [n, c, rows, x.shape[3] * kh]), flat, kernel_shape=[1, kw * kh], strides=[1, s * kh])


def _im2col(net: Any, x: Any, w: Any) -> Any:
    """Same-size convolution as one product of matrices."""
    taps = unfold(net, x, w.shape[2])
    columns = reshape(net, transpose(net, taps, [0, 2, 1, *range(3, len(taps.shape))]), [x.shape[0], channels(x) * taps.shape[1], -1])
    return reshape(net, net("MatMul", reshape(net, w, [w.shape[0], -1]), columns), [x.shape[0], w.shape[0], *spatial(x)])


@block("im2win-conv", "Im2win: An Efficient Convolution Paradigm on GPU", seeds=["003:127"], dims=(1, 2), hazards="order of a long reduction")
def im2win_conv(net: Any, x: Any) -> Any:
    """Convolution as strided slices, a reshape and a convolution along one axis with a long kernel and a large stride."""
    x, s = narrow(net, x, 8), net.pick((1, 2))
    return act(net, _im2win(net, x, net.weight(8, channels(x), *[net.pick((3, 1, 5)) for _ in x.shape[2:]]), s))


@relation("im2win-conv/direct", of="im2win-conv", dims=(1, 2))
def im2win_direct(net: Any, x: Any) -> Any:
    """Windows in order = the convolution."""
    x, s = narrow(net, x, 8), net.pick((1, 2))
    w = net.weight(8, channels(x), *[net.pick((3, 1, 5)) for _ in x.shape[2:]])
    return _im2win(net, x, w, s), conv_with(net, x, w, s=s, pads=0)


@block("im2win-conv/im2col-gemm", "Im2win: An Efficient Convolution Paradigm on GPU", seeds=["003:127"], dims=(1, 2, 3))
def im2col_gemm(net: Any, x: Any) -> Any:
    """Convolution as unfolded windows and a product of matrices."""
    x = narrow(net, x, 8 if len(x.shape) < 5 else 4)
    return act(net, _im2col(net, x, net.weight(6, channels(x), *[3] * (len(x.shape) - 2))))


@relation("im2win-conv/im2col", of="im2win-conv", dims=(1, 2, 3))
def im2col_direct(net: Any, x: Any) -> Any:
    """Unfolded windows times a matrix = the convolution."""
    x = narrow(net, x, 8 if len(x.shape) < 5 else 4)
    w = net.weight(6, channels(x), *[3] * (len(x.shape) - 2))
    return _im2col(net, x, w), conv_with(net, x, w)


def _shifted_codes(net: Any, x: Any, n: int) -> Any:
    """Windows of codes (N, 1, H, W) that start at each pixel, edge replicated: (N, n n, H, W)."""
    h, w = spatial(x)
    y = pad(net, x, [0, 0], [n - 1, n - 1], "edge")
    cut = [(i, j) for i in range(n) for j in range(n)]
    return concat(net, *[net("Slice", y, net.ints([i, j]), net.ints([i + h, j + w]), net.ints([2, 3])) for i, j in cut])


def _pixel_network(net: Any, taps: Any, weights: tuple[Any, Any, Any]) -> Any:
    """A tiny network for each tap, as grouped pointwise convolutions: (N, taps, H, W) to (N, taps r r, H, W)."""
    first, shift, last = weights
    g = taps.shape[1]
    hidden = act(net, conv_with(net, scale(net, taps, 1 / 256), first, shift, g=g))
    return act(net, conv_with(net, hidden, last, g=g), "Tanh")


def _tables(net: Any, n: int, r: int, levels: int) -> tuple[tuple[Any, Any, Any], Any]:
    """Weights of the tap networks, and their values at every level as a table (taps, levels, r r)."""
    g = n * n
    weights = net.weight(4 * g, 1, 1, 1), net.weight(4 * g), net.weight(g * r * r, 4, 1, 1)
    every = net.const(np.broadcast_to(np.arange(levels, dtype=float), (1, g, 1, levels)))
    table = _pixel_network(net, every, weights)
    return weights, transpose(net, reshape(net, table, [g, r * r, levels]), [0, 2, 1])


def _rc(net: Any, x: Any, by_table: bool) -> tuple[Any, Any]:
    """Reconstructed convolution on codes, by networks and by tables."""
    n, r = net.pick((3, 2)), net.pick((2, 1, 3))
    levels = net.pick((16, 64))
    whole = net("Clip", net("Round", scale(net, conv(net, x, 1, 1), 8.0)), net.const(0.0), net.const(levels - 1.0))
    taps = _shifted_codes(net, whole, n)
    weights, table = _tables(net, n, r, levels)
    batch, (h, w) = x.shape[0], spatial(x)
    left = _pixel_network(net, taps, weights)
    left = net("ReduceSum", reshape(net, left, [batch, n * n, r * r, h, w]), net.ints([1]), keepdims=0)
    left = scale(net, left, 1 / (n * n))
    parts = [
        net("Gather", net("Gather", table, net.const(i, INT64), axis=0), net("Cast", slice_(net, taps, i, i + 1, 1), to=INT64.onnx), axis=0)
        for i in range(n * n if by_table else 1)
    ]
    right = scale(net, total(net, parts), 1 / (n * n))  # (N, 1, H, W, r r)
    right = transpose(net, reshape(net, right, [batch, h, w, r * r]), [0, 3, 1, 2])
    return tuple(net("DepthToSpace", y, blocksize=r) if r > 1 else y for y in (left, right))  # type: ignore[return-value]


@block(
    "rc-lut",
    "Reconstructed Convolution Module Based Look-Up Tables for Efficient Image Super-Resolution",
    seeds=["000:59"],
    hazards="rounding at level boundaries, integer saturation",
)
def rc_lut(net: Any, x: Any) -> Any:
    """A function of each tap of a window, averaged; as grouped pointwise networks or as constant tables, then quantised; stresses Gather in tables."""
    by_table = net.flag()
    y = _rc(net, x, by_table)[by_table]
    return net("Clip", net("Round", scale(net, y, 127.0)), net.const(-128.0), net.const(127.0))


@relation("rc-lut/table", of="rc-lut")
def rc_table(net: Any, x: Any) -> Any:
    """The table = the network on every code."""
    return _rc(net, x, True)


def rotated(net: Any, x: Any, turns: int) -> Any:
    """A quarter turn so many times, as transpose and reversal."""
    for _ in range(turns % 4):
        x = transpose(net, x, [0, 1, 3, 2])
        x = net("Slice", x, net.ints([-1]), net.ints([-x.shape[2] - 1]), net.ints([2]), net.ints([-1]))
    return x


def _ensemble(net: Any, x: Any, w: Any) -> Any:
    """Mean of a convolution over the four rotations of its input."""
    turned = [rotated(net, conv_with(net, rotated(net, x, t), w), 4 - t) for t in range(4)]
    return scale(net, total(net, turned), 0.25)


@block("rc-lut/rotation-ensemble", "Reconstructed Convolution Module Based Look-Up Tables", seeds=["000:59"])
def rotation_ensemble(net: Any, x: Any) -> Any:
    """Averaging over four rotations; stresses transposes and reversing slices."""
    return act(net, _ensemble(net, x, net.weight(4, channels(x), 3, 3)))


@relation("rc-lut/rotation-equivariance", of="rc-lut")
def rotation_equivariance(net: Any, x: Any) -> Any:
    """The ensemble of a rotated image is the rotated ensemble."""
    w = net.weight(4, channels(x), 3, 3)
    return _ensemble(net, rotated(net, x, 1), w), rotated(net, _ensemble(net, x, w), 1)


@block("rc-lut/simplex", "Reconstructed Convolution Module Based Look-Up Tables (the 4-D table)", seeds=["000:59"], hazards="equal fractions, floor at levels")
def sr_lut_simplex(net: Any, x: Any) -> Any:
    """A 4-D table over 2x2 windows, interpolated in the simplex given by sorting the fractions; stresses TopK feeding index sums."""
    levels, (h, w) = 5, spatial(x)
    taps = scale(net, act(net, _shifted_codes(net, conv(net, x, 1, 1), 2), "Sigmoid"), levels - 1.001)
    base = net("Floor", taps)
    fractions, order = net("TopK", sub(net, taps, base), net.ints([4]), axis=1, outputs=2)
    strides, table = [levels**3, levels**2, levels, 1], net.weight(levels**4)
    at = net("ReduceSum", mul(net, base, net.const(np.reshape(strides, (4, 1, 1)))), net.ints([1]), keepdims=1)
    steps = net("Gather", net.const(strides, INT64), order, axis=0)
    index, corners = net("Cast", at, to=INT64.onnx), list[Any]()
    for i in range(5):
        safe = net("Clip", index, net.const(0, INT64), net.const(levels**4 - 1, INT64))
        above = net.const(np.ones((1, 1, h, w))) if i == 0 else slice_(net, fractions, i - 1, i, 1)
        weight = sub(net, above, slice_(net, fractions, i, i + 1, 1)) if i < 4 else above
        corners.append(mul(net, weight, net("Gather", table, safe, axis=0)))
        index = net("Add", index, slice_(net, steps, i, i + 1, 1)) if i < 4 else index
    return total(net, corners)


def _multiscale(net: Any, c: int, length: int, d: int, decay: float, mode: str) -> Any:
    """A kernel (C, L) of pieces that double in length and decay, divided by a constant."""
    count = ceil(log2(length / d)) + 1
    pieces = list[Any]()
    for i in range(count):
        size, piece = d * 2 ** max(i - 1, 0), net.weight(1, c, d)
        how = {"nearest": "asymmetric", "linear": "half_pixel"}[mode]
        extra = {"nearest_mode": "floor"} if mode == "nearest" else {}
        wide = net("Resize", piece, None, None, net.ints([1, c, size]), mode=mode, coordinate_transformation_mode=how, **extra) if size > d else piece
        pieces.append(scale(net, wide, decay**i))
    kernel = slice_(net, concat(net, *pieces, axis=2), 0, length, 2)
    return net("Div", reshape(net, kernel, [c, length]), net.weight(c, 1, low=0.5, high=4.0))


def _causal(net: Any, u: Any, kernel: Any, fourier: bool) -> Any:
    """Causal depthwise convolution of (N, C, L) with (C, L), directly or by transforms of length 2 L."""
    c, length = u.shape[1:]
    if not fourier:
        backwards = net("Slice", kernel, net.ints([-1]), net.ints([-length - 1]), net.ints([1]), net.ints([-1]))
        return conv_with(net, u, reshape(net, backwards, [c, 1, length]), g=c, pads=[length - 1, 0])
    u2, k2 = net("Pad", u, net.ints([0, 0, 0, 0, 0, length])), net("Pad", kernel, net.ints([0, 0, 0, length]))
    y = dft(net, *complex_mul(net, dft(net, u2, None), dft(net, k2, None)), inverse=True)[0]
    return slice_(net, y, 0, length, 2)


@block(
    "sgconv",
    "What Makes Convolutional Models Great on Long Sequence Modeling?",
    seeds=["001:87"],
    dims=(1,),
    hazards="errors of a transform are absolute, decay, division by a small norm",
)
def sgconv(net: Any, x: Any) -> Any:
    """A global causal convolution whose kernel is built from resized pieces, through transforms or directly, then a gated dense layer."""
    x = narrow(net, x, 16)
    c, length = channels(x), x.shape[2]
    kernel = _multiscale(net, c, length, net.pick((4, 8)), net.pick((0.5, 0.7, 1.0)), net.pick(("linear", "nearest")))
    y = net("Add", _causal(net, x, kernel, net.flag()), mul(net, x, net.weight(c, 1)))
    a, b = split(net, linear(net, transpose(net, act(net, y, "Gelu"), [0, 2, 1]), 2 * c), 2, axis=2)
    return transpose(net, mul(net, a, act(net, b, "Sigmoid")), [0, 2, 1])


@relation("sgconv/fourier", of="sgconv", dims=(1,), since=17)
def sgconv_fourier(net: Any, x: Any) -> Any:
    """Transforms of twice the length = the direct causal convolution (exact with the operator, opset 17 on)."""
    x = narrow(net, x, 8)
    kernel = _multiscale(net, channels(x), x.shape[2], net.pick((4, 8)), net.pick((0.5, 1.0)), net.pick(("linear", "nearest")))
    return _causal(net, x, kernel, True), _causal(net, x, kernel, False)
