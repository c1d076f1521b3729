"""Blocks that call an ONNX function where ONNX has no operator, for kernels to stand in: fused blocks, narrow floats, integers.

Each function's body is standard operators, and says what a kernel has to answer; sizes are those at which kernels have their edges.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from specs.blocks.layers import act, mul, reduce, reshape
from specs.blocks.parts import scale
from specs.formats import BFLOAT16, BY_NAME, FLOAT, INT8, INT32, INT64, UINT8
from specs.net import block, need

SIDES = (8, 9, 1, 5, 13, 17, 3, 29)
EXTREMES = ("drawn", "drawn", "full", "powers")


def _image(net: Any, c: int) -> Any:
    """A fresh image of c channels, at sizes around those of tiles."""
    return net.input(1 + net.choose(2), c, net.pick(SIDES), net.pick(SIDES))


def _weight(net: Any, *dims: int) -> Any:
    """Scaled like a trained one: a product with it stays about as large as what it multiplies."""
    reach = 2.0 / max(1.0, float(np.prod(dims[1:]))) ** 0.5
    return net.weight(*dims, low=-reach, high=reach)


@block(
    "convfirst-block-fusion/kernel",
    "On the Efficiency of Convolutional Neural Networks",
    seeds=["000:65", "001:351", "003:107"],
    takes="none",
    hazards="halo of a tile, order of a chunked sum, tiles at the edge",
)
def convfirst_kernel(net: Any) -> Any:
    """(Grouped) convolution, expansion, activation, projection and residual as one call."""
    k, depth, kind = net.pick((3, 1, 5)), net.pick((1, 8, 4, 3)), net.pick(("Relu", "Silu"))
    c = depth * net.pick((1, 2, 3))
    wide = net.pick((16, 33, 64, 70, 5, 100))

    def body(net: Any, x: Any, w1: Any, b1: Any, w2: Any, b2: Any, w3: Any, b3: Any) -> Any:
        t = net("Conv", x, w1, b1, kernel_shape=[k, k], pads=[k // 2] * 4, group=c // depth)
        h = act(net, net("Conv", t, w2, b2, kernel_shape=[1, 1]), kind)
        return net("Add", net("Conv", h, w3, b3, kernel_shape=[1, 1]), x)

    weights = [_weight(net, c, depth, k, k), net.weight(c), _weight(net, wide, c, 1, 1), net.weight(wide), _weight(net, c, wide, 1, 1), net.weight(c)]
    return net.function("ConvFirst", body, _image(net, c), *weights, activation=kind, stride=1, residual=1)


@block(
    "convfirst-block-fusion/mobile-kernel",
    "On the Efficiency of Convolutional Neural Networks (the MBConv block)",
    seeds=["000:65", "001:351", "003:107"],
    takes="none",
    hazards="padding behind an activation, halo computed again, tiles at the edge",
)
def mobile_kernel(net: Any) -> Any:
    """Expansion, depthwise convolution and projection as one call; the border is zero behind the first activation, not in front of it."""
    k, s, kind = net.pick((3, 5, 1)), net.pick((1, 2)), net.pick(("Relu", "Silu"))
    c, wide = net.pick((4, 8, 3, 17)), net.pick((16, 33, 64, 70, 5, 100))
    residual = int(s == 1 and net.flag())
    out = c if residual else net.pick((6, 1, 34))

    def body(net: Any, x: Any, w1: Any, b1: Any, w2: Any, b2: Any, w3: Any, b3: Any) -> Any:
        h = act(net, net("Conv", x, w1, b1, kernel_shape=[1, 1]), kind)
        h = act(net, net("Conv", h, w2, b2, kernel_shape=[k, k], pads=[k // 2] * 4, strides=[s, s], group=wide), kind)
        y = net("Conv", h, w3, b3, kernel_shape=[1, 1])
        return net("Add", y, x) if residual else y

    weights = [_weight(net, wide, c, 1, 1), net.weight(wide), _weight(net, wide, 1, k, k), net.weight(wide), _weight(net, out, wide, 1, 1), net.weight(out)]
    return net.function("MobileBlock", body, _image(net, c), *weights, activation=kind, stride=s, residual=residual)


# codes and tables ------------------------------------------------------------------------------------------------------
@block(
    "deepgemm-lut/kernel",
    "DeepGEMM: Accelerated Ultra Low-Precision Inference on CPU Architectures using Lookup Tables",
    seeds=["002:441"],
    takes="none",
    hazards="codes behind the last of a row, sums beyond 16 bits, signed shifts",
)
def lookup_kernel(net: Any) -> Any:
    """y[m, n] = sum of table[4 w + a] over two-bit codes, four weights packed in a byte, as one call."""
    terms = net.pick((64, 7, 1, 65, 3, 128, 33, 300, 600))
    rows, columns = net.pick((3, 1, 5, 4)), net.pick((4, 1, 7, 3))
    kind = net.pick(("levels", "drawn", "extreme"))
    if kind == "levels":
        table = [w * a for w in (-2, -1, 0, 1) for a in range(4)]
    else:
        table = [net.pick((127, -128)) if kind == "extreme" and i else net.int(-128, 127) for i in range(16)]
    if kind == "extreme" and net.flag():
        table = [127] * 16

    def body(net: Any, a: Any, w: Any, table: Any) -> Any:
        codes = net("Mod", net("BitShift", net("Unsqueeze", w, net.ints([2])), net.const([0, 2, 4, 6], UINT8), direction="RIGHT"), net.const(4, UINT8))
        flat = net("Slice", reshape(net, codes, [columns, 4 * w.shape[1]]), net.ints([0]), net.ints([terms]), net.ints([1]))
        high = net("Mul", net("Cast", flat, to=INT32.onnx), net.const(4, INT32))
        low = net("Cast", net("Mod", a, net.const(4, UINT8)), to=INT32.onnx)
        index = net("Add", net("Unsqueeze", low, net.ints([1])), high)
        found = net("Gather", net("Cast", table, to=INT32.onnx), index, axis=0)
        return net("ReduceSum", found, net.ints([2]), keepdims=0)

    a = net.input(rows, terms, low=0, high=net.pick((3, 255)), form=UINT8)
    w = net.weight(columns, -(-terms // 4), low=0, high=255, form=UINT8)
    return net.function("LookupMatMul", body, a, w, net.const(table, INT8))


# integers --------------------------------------------------------------------------------------------------------------
def _ratios(net: Any, n: int, reach: int) -> tuple[Any, Any]:
    """n ratios m / 2^c that bring numbers of this reach to about eight bits."""
    exponent = 31 + int(np.log2(reach)) - 5
    m = [net.pick((2**30, 3 * 2**29, 2**31 - 1)) if net.flag() else 2**30 + net.choose(2**30) for _ in range(n)]
    return net.const(m, INT64), net.const([exponent + net.int(-2, 2) for _ in range(n)], INT64)


def _dyadic(net: Any, acc: Any, m: Any, c: Any) -> Any:
    """(acc m + 2^(c-1)) >> c with an arithmetic shift: what is left after the remainder is taken off."""
    powers = net.const([1 << i for i in range(63)], INT64)
    product = net("Mul", net("Cast", acc, to=INT64.onnx), m)
    moved = net("Add", product, net("Gather", powers, net("Sub", c, net.const(1, INT64)), axis=0))
    power = net("Gather", powers, c, axis=0)
    return net("Div", net("Sub", moved, net("Mod", moved, power)), power)


def _clipped(net: Any, v: Any, low: int, high: int) -> Any:
    return net("Cast", net("Clip", v, net.const(low, INT64), net.const(high, INT64)), to=(UINT8 if low == 0 else INT8).onnx)


def _range(net: Any) -> tuple[int, int]:
    return net.pick(((-128, 127), (0, 255), (-8, 7), (0, 15)))


@block(
    "hawqv3-dyadic/kernel",
    "HAWQV3: Dyadic Neural Network Quantization",
    seeds=["002:237"],
    takes="none",
    hazards="ties, shifts of negative numbers, products beyond 32 bits",
)
def dyadic_kernel(net: Any) -> Any:
    """Requantisation of int32 sums by a dyadic ratio for each channel, as one call."""
    low, high = _range(net)
    reach = 2 ** net.pick((8, 4, 16, 20, 30))
    channels, inner = net.pick((3, 1, 8)), net.pick(((5, 7), (1, 1), (4, 4), (17,), (3, 11), ()))

    def body(net: Any, acc: Any, m: Any, c: Any) -> Any:
        wide = [channels] + [1] * len(inner)
        return _clipped(net, _dyadic(net, acc, reshape(net, m, wide), reshape(net, c, wide)), low, high)

    acc = net.input(1 + net.choose(2), channels, *inner, low=-reach, high=reach, form=INT32)
    return net.function("DyadicRequantize", body, acc, *_ratios(net, channels, reach), low=low, high=high)


@block(
    "hawqv3-dyadic/add-kernel",
    "HAWQV3: Dyadic Neural Network Quantization (the residual sum)",
    seeds=["002:237"],
    takes="none",
    hazards="two roundings, a clip too early",
)
def dyadic_add_kernel(net: Any) -> Any:
    """A residual sum: both operands brought to one scale by dyadic ratios, added, clipped, as one call."""
    low, high = _range(net)
    reach = 2 ** net.pick((8, 4, 16, 20, 30))
    shape = net.pick(((2, 3, 5, 7), (1, 1), (33,), (4, 4)))

    def body(net: Any, a: Any, b: Any, m: Any, c: Any) -> Any:
        parts = list[Any]()
        for i, acc in enumerate((a, b)):
            at = net.const(i, INT64)
            parts.append(_dyadic(net, acc, net("Gather", m, at, axis=0), net("Gather", c, at, axis=0)))
        return _clipped(net, net("Add", *parts), low, high)

    operands = [net.input(*shape, low=-reach, high=reach, form=INT32) for _ in range(2)]
    return net.function("DyadicAdd", body, *operands, *_ratios(net, 2, reach), low=low, high=high)


# narrow floats ---------------------------------------------------------------------------------------------------------
@block(
    "fp8-formats/kernel",
    "FP8 Formats for Deep Learning",
    seeds=["002:267"],
    takes="none",
    hazards="subnormal codes, operands of two formats, narrow sums",
)
def float8_kernel(net: Any) -> Any:
    """Product of 8-bit floats, summed in float32, scaled once for the left and by column for the right, as one call."""
    need(net.opset >= 19, "8-bit floats exist from opset 19 on")
    names = ("float8e4m3fn", "float8e5m2", "float8e4m3fnuz", "float8e5m2fnuz")
    left, right = BY_NAME[net.pick(names)], BY_NAME[net.pick(names)]
    m, k, n = net.pick((5, 1, 7, 6)), net.pick((16, 7, 1, 33, 65, 300)), net.pick((8, 1, 31, 33, 17))
    gain = net.pick((1.0, 2.0**-6, 16.0))

    def body(net: Any, a: Any, b: Any, scale_a: Any, scale_b: Any) -> Any:
        y = net("MatMul", net("Cast", a, to=FLOAT.onnx), net("Cast", b, to=FLOAT.onnx))
        return mul(net, mul(net, y, scale_a), scale_b)

    a = net("Cast", scale(net, net.input(m, k), gain), to=left.onnx)
    b = net("Cast", net.weight(k, n), to=right.onnx)
    return net.function("ScaledFloat8MatMul", body, a, b, net.weight(1, low=0.01, high=4.0), net.weight(n, low=0.01, high=4.0))


@block("fp8-formats/cast", "FP8 Formats for Deep Learning", seeds=["002:267"], takes="none", hazards="ties, subnormal codes, saturation, -0")
def float8_cast(net: Any) -> Any:
    """Numbers of every magnitude to an 8-bit float and back."""
    need(net.opset >= 19, "8-bit floats exist from opset 19 on")
    form = BY_NAME[net.pick(("float8e4m3fn", "float8e5m2", "float8e4m3fnuz", "float8e5m2fnuz"))]
    x = net.input(*net.pick(((17,), (3, 5), (1,), (2, 31), (33,), (9, 16))))
    x = scale(net, x, net.pick((1.0, 2.0**-8, 2.0**-14, 2.0**4, 2.0**8, 2.0**15)))
    wide = net.pick(("float", "float", "float16", "bfloat16"))
    x = net("Round", x) if net.flag() else x  # leaves ties, and zeros of both signs
    return net("Cast", net("Cast", x if wide == "float" else net("Cast", x, to=BY_NAME[wide].onnx), to=form.onnx), to=FLOAT.onnx)


@block("bfloat16-training/cast", "A Study of BFLOAT16 for Deep Learning Training", seeds=["002:411"], takes="none", hazards="carries, range")
def bfloat16_cast(net: Any) -> Any:
    """Numbers of every magnitude to bfloat16."""
    x = net.input(*net.pick(((17,), (3, 5), (1,), (2, 31), (33,))))
    return net("Cast", scale(net, x, net.pick((1.0, 2.0**20, 2.0**-30, 2.0**60, 2.0**-60))), to=BFLOAT16.onnx)


@block(
    "two-pass-softmax/kernel",
    "The Two-Pass Softmax Algorithm",
    seeds=["002:135"],
    takes="none",
    hazards="logits far from 0 and from each other, rows shorter than a vector",
)
def softmax_kernel(net: Any) -> Any:
    """Softmax of logits of every magnitude, over the last or another axis, in rows that fill no vector."""
    rank = net.pick((2, 1, 3))
    dims = [net.pick((3, 1, 17, 8)) for _ in range(rank)]
    axis = net.choose(rank)
    dims[axis] = net.pick((16, 7, 65, 1, 33, 100, 8, 1000))
    x = scale(net, net.input(*dims), net.pick((1.0, 64.0, 2.0**-8, 1024.0, 2.0**16)))
    return net("Softmax", x, axis=axis - rank if net.flag() else axis)


# integer convolutions --------------------------------------------------------------------------------------------------
def _extreme(net: Any, dims: tuple[int, ...]) -> Any:
    """A weight, or one that uses its largest number everywhere, or powers of two."""
    kind = net.pick(EXTREMES)
    if kind == "drawn":
        return net.weight(*dims)
    if kind == "full":
        return net.const(np.full(dims, net.pick((1.9999, -1.9999, 3.9999))))
    return net.const(2.0 ** -(np.arange(np.prod(dims)) % 5).reshape(dims))


def _at_least(net: Any, a: Any, b: Any) -> Any:
    return net("Not", net("Less", a, b))


def _convolved(net: Any, x: Any, w: Any, s: int, p: int, g: int) -> Any:
    k = w.shape[2]
    return net("Conv", x, w, kernel_shape=[k, k], strides=[s, s], pads=[p] * 4, group=g)


def _geometry(net: Any) -> tuple[Any, tuple[int, ...], dict[str, int]]:
    """An image, the dims of a weight, and how they meet."""
    k, s, g = net.pick((3, 1, 2)), net.pick((1, 2)), net.pick((1, 2))
    depth = net.pick((4, 1, 8, 3, 65))
    x = _image(net, g * depth)
    p = net.pick((k // 2, 0))
    need(min(x.shape[2:]) + 2 * p >= k, f"a kernel of {k} over {x.shape[2:]}")
    return x, (g * net.pick((4, 1, 17)), depth, k, k), {"stride": s, "pad": p, "group": g}


@block(
    "dfp16-integer-training/kernel",
    "Mixed Precision Training of Convolutional Neural Networks using Integer Operations",
    seeds=["000:281", "003:111"],
    takes="none",
    hazards="sums beyond 32 bits, a largest number next to a power of two, an odd number of terms",
)
def fixed_point_kernel(net: Any) -> Any:
    """Convolution of tensors with one exponent each and `bits` bits an element, as one call; the exponent by comparison with powers of two."""
    bits = net.pick((16, 15, 14, 12))
    x, dims, how = _geometry(net)
    limit = float(2 ** (bits - 1) - 1)
    exponents = range(-40, 41)

    def quantised(net: Any, v: Any) -> Any:
        top = reduce(net, "ReduceMax", net("Abs", v), list(range(4)), keepdims=0)
        reached = net("Cast", _at_least(net, top, net.const([2.0**e for e in exponents])), to=INT64.onnx)
        which = net("Clip", net("Sub", net("ReduceSum", reached, net.ints([0]), keepdims=0), net.const(1, INT64)), net.const(0, INT64))
        units, inverse = ([2.0 ** (sign * (e - bits + 2)) for e in exponents] for sign in (1, -1))
        whole = net("Round", mul(net, v, net("Gather", net.const(inverse), which, axis=0)))
        return mul(net, net("Clip", whole, net.const(-limit), net.const(limit)), net("Gather", net.const(units), which, axis=0))

    def body(net: Any, x: Any, w: Any) -> Any:
        return _convolved(net, quantised(net, x), quantised(net, w), how["stride"], how["pad"], how["group"])

    return net.function("FixedPointConv", body, x, _extreme(net, dims), bits=bits, **how)


@block("bnas/kernel", "Binarized Neural Architecture Search", seeds=["002:263"], takes="none", hazards="the sign of 0 and of -0, words that are not full")
def binary_kernel(net: Any) -> Any:
    """Convolution of signs times the mean magnitude of each filter (XNOR-Net), as one call."""
    x, dims, how = _geometry(net)

    def sign(net: Any, v: Any) -> Any:
        return net("Where", _at_least(net, v, net.const(0.0)), net.const(1.0), net.const(-1.0))

    def body(net: Any, x: Any, w: Any) -> Any:
        alpha = reshape(net, reduce(net, "ReduceMean", net("Abs", w), [1, 2, 3], keepdims=0), [1, w.shape[0], 1, 1])
        return mul(net, _convolved(net, sign(net, x), sign(net, w), how["stride"], how["pad"], how["group"]), alpha)

    kind = net.pick(("Identity", "Round", "Relu"))  # Round leaves zeros of both signs
    return net.function("BinaryConv", body, net(kind, x), net.weight(*dims), **how)
