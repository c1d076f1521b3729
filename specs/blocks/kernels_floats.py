"""Blocks for kernels over floats: fused blocks of convolutions, casts and products of 8-bit floats, softmax of logits of every magnitude.

Where ONNX has no operator they call a function, whose body is standard operators and says what a kernel has to answer; sizes are
those at which kernels have their edges.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from specs.blocks.layers import act, mul
from specs.blocks.parts import scale
from specs.formats import BFLOAT16, BY_NAME, FLOAT
from specs.net import block

SIDES = (8, 9, 1, 5, 13, 17, 3, 29)
WIDE = (16, 33, 64, 70, 5, 100)  # channels between the convolutions of a fused block


def image(net: Any, c: int) -> Any:
    """A fresh image of c channels, at sizes around those of tiles."""
    return net.input(1 + net.choose(2), c, net.pick(SIDES), net.pick(SIDES))


def _at_most(sizes: tuple[int, ...], x: Any) -> tuple[int, ...]:
    """Those of the channel counts at which a map of the size of x stays below 16,000 elements."""
    return tuple(c for c in sizes if c * x.shape[0] * x.shape[2] * x.shape[3] <= 16_000)


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
    x = image(net, c)
    wide = net.pick(_at_most(WIDE, x))

    def body(net: Any, x: Any, w1: Any, b1: Any, w2: Any, b2: Any, w3: Any, b3: Any) -> Any:
        t = net("Conv", x, w1, b1, kernel_shape=[k, k], pads=[k // 2] * 4, group=c // depth)
        h = act(net, net("Conv", t, w2, b2, kernel_shape=[1, 1]), kind)
        return net("Add", net("Conv", h, w3, b3, kernel_shape=[1, 1]), x)

    weights = [_weight(net, c, depth, k, k), net.weight(c), _weight(net, wide, c, 1, 1), net.weight(wide), _weight(net, c, wide, 1, 1), net.weight(c)]
    return net.function("ConvFirst", body, x, *weights, activation=kind, stride=1, residual=1)


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
    x = image(net, c := net.pick((4, 8, 3, 17)))
    wide = net.pick(_at_most(WIDE, x))
    residual = int(s == 1 and net.flag())
    out = c if residual else net.pick((6, 1, 34))

    def body(net: Any, x: Any, w1: Any, b1: Any, w2: Any, b2: Any, w3: Any, b3: Any) -> Any:
        h = act(net, net("Conv", x, w1, b1, kernel_shape=[1, 1]), kind)
        h = act(net, net("Conv", h, w2, b2, kernel_shape=[k, k], pads=[k // 2] * 4, strides=[s, s], group=wide), kind)
        y = net("Conv", h, w3, b3, kernel_shape=[1, 1])
        return net("Add", y, x) if residual else y

    weights = [_weight(net, wide, c, 1, 1), net.weight(wide), _weight(net, wide, 1, k, k), net.weight(wide), _weight(net, out, wide, 1, 1), net.weight(out)]
    return net.function("MobileBlock", body, x, *weights, activation=kind, stride=s, residual=residual)


# narrow floats ---------------------------------------------------------------------------------------------------------
@block(
    "fp8-formats/kernel",
    "FP8 Formats for Deep Learning",
    seeds=["002:267"],
    takes="none",
    hazards="subnormal codes, operands of two formats, narrow sums",
    since=19,
)
def float8_kernel(net: Any) -> Any:
    """Product of 8-bit floats, summed in float32, scaled once for the left and by column for the right, as one call."""
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


@block("fp8-formats/cast", "FP8 Formats for Deep Learning", seeds=["002:267"], takes="none", hazards="ties, subnormal codes, saturation, -0", since=19)
def float8_cast(net: Any) -> Any:
    """Numbers of every magnitude to an 8-bit float and back."""
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
