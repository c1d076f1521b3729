"""Blocks for kernels over integers: look-ups of codes, dyadic ratios, convolutions in fixed point and of signs.

Each calls a function that ONNX has no operator for; its body is standard operators, and says what a kernel has to answer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from specs.blocks.kernels_floats import image
from specs.blocks.layers import mul, reduce, reshape
from specs.formats import INT8, INT32, INT64, UINT8
from specs.net import block

EXTREMES = ("drawn", "drawn", "full", "powers")


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
    depth = net.pick((4, 1, 8, 3, 65 // g))
    x = image(net, g * depth)
    p = net.pick((k // 2, 0)) if min(x.shape[2:]) >= k else k // 2
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
