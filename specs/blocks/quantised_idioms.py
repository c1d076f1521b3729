"""Quantised layers as quantisers write them: QuantizeLinear and DequantizeLinear around a float operator, or integers throughout.

Source: "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"; the forms are those of
ONNX Runtime's static (QDQ) and dynamic quantisers.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from specs.blocks.idioms import OFTEN
from specs.blocks.layers import channels, reshape
from specs.blocks.parts import divisors
from specs.formats import FLOAT, INT4, INT8, INT32, UINT8, Format
from specs.net import block, need

PAPER = "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference"
STEPS = (2**-6, 0.02, 2**-4)


def _integers(net: Any, form: Format, *dims: int, most: int = 127) -> Any:
    """A constant of small integers without a pattern that a layer could hide."""
    n = int(np.prod(dims))
    low = 0 if form.kind == "uint" else -most
    return net.const((np.arange(n) * 37 % (most - low + 1) + low).reshape(dims), form)


def through(net: Any, x: Any, step: float, form: Format = UINT8) -> Any:
    """Quantised and back."""
    size, zero = net.const(step, FLOAT), net.const(128 if form is UINT8 else 0, form)
    return net("DequantizeLinear", net("QuantizeLinear", x, size, zero), size, zero)


def _weight(net: Any, *dims: int, axis: int | None = None) -> Any:
    """An int8 weight behind DequantizeLinear, per tensor or per channel."""
    w = _integers(net, INT8, *dims)
    if axis is None:
        return net("DequantizeLinear", w, net.const(2**-7, FLOAT), net.const(0, INT8))
    n = dims[axis]
    steps = net.const([2.0 ** -(6 + i % 3) for i in range(n)], FLOAT)
    return net("DequantizeLinear", w, steps, net.const([0] * n, INT8), axis=axis)


def _bias(net: Any, n: int, step: float) -> Any:
    return net("DequantizeLinear", _integers(net, INT32, n, most=1000), net.const(step, FLOAT), net.const(0, INT32))


def _plain(x: Any) -> Any:
    need(x.format is FLOAT, "quantisers start from float32")
    return x


@block("idiom/qdq-conv", PAPER, dims=(1, 2), hazards="ties of the quantiser, saturation", weight=OFTEN)
def qdq_conv(net: Any, x: Any) -> Any:
    """A convolution between quantised tensors, with Relu or Clip before the quantiser; stresses QDQ propagation and int8 kernels."""
    rank, out, step = len(_plain(x).shape) - 2, net.pick((8, 5)), net.pick(STEPS)
    k = net.pick((3, 1))
    w = _weight(net, out, channels(x), *[k] * rank, axis=net.pick((None, 0)))
    b = [_bias(net, out, step * 2**-7)] if net.flag() else []
    y = net("Conv", through(net, x, step), w, *b, pads=[k // 2] * 2 * rank)
    end = net.pick(("none", "relu", "clip"))
    y = net("Relu", y) if end == "relu" else net("Clip", y, net.const(0.0), net.const(6.0)) if end == "clip" else y
    return through(net, y, net.pick(STEPS), net.pick((UINT8, INT8)))


@block("idiom/qdq-dense", PAPER, takes="tokens", weight=OFTEN)
def qdq_dense(net: Any, x: Any) -> Any:
    """A matrix product, a sum and a sigmoid between quantised tensors."""
    out, step = net.pick((8, 6)), net.pick(STEPS)
    y = net("MatMul", through(net, _plain(x), step), _weight(net, x.shape[-1], out))
    y = through(net, y, 2**-4)
    kind = net.pick(("add", "mul", "sigmoid", "softmax", "reshape"))
    if kind in ("add", "mul"):
        y = net("Add" if kind == "add" else "Mul", y, through(net, net.weight(out), step))
    elif kind == "reshape":
        y = reshape(net, y, [-1, out])
    else:
        y = net("Sigmoid", y) if kind == "sigmoid" else net("Softmax", y, axis=-1)
    return through(net, y, net.pick(STEPS))


@block("idiom/qdq-shape", PAPER, dims=(1, 2, 3), weight=OFTEN)
def qdq_shape(net: Any, x: Any) -> Any:
    """What moves elements only, between quantisers with one scale: those may be moved past it, and pairs removed."""
    y = through(net, _plain(x), step := net.pick(STEPS))
    kind = net.pick(("transpose", "pool", "concat", "reshape"))
    if kind == "transpose":
        y = net("Transpose", y, perm=[0, *range(2, len(y.shape)), 1])
    elif kind == "pool":
        y = net("MaxPool", y, kernel_shape=[2] * (len(y.shape) - 2))
    elif kind == "concat":
        y = net("Concat", y, through(net, net("Neg", x), step), axis=1)
    else:
        y = reshape(net, y, [y.shape[0], -1])
    return through(net, through(net, y, step), step)


def _at(net: Any, x: Any, step: float, zero: int) -> Any:
    """Quantised to uint8 around this zero point, and back."""
    size, middle = net.const(step, FLOAT), net.const(zero, UINT8)
    return net("DequantizeLinear", net("QuantizeLinear", x, size, middle), size, middle)


@block("idiom/qdq-activation", PAPER, takes="tokens", weight=OFTEN)
def qdq_activation(net: Any, x: Any) -> Any:
    """Relu or Clip before a quantiser that cuts off the same numbers; stresses rules that leave the activation out."""
    y = net("MatMul", _plain(x), net.weight(x.shape[-1], 6)) if net.flag() else _plain(x)
    if net.flag(0.3):
        return _at(net, net("Clip", y, net.const(0.0, FLOAT), net.const(6.0, FLOAT)), 6 / 255, 0)
    return _at(net, net("Relu", y), net.pick(STEPS), 0)


@block("idiom/qdq-shared", PAPER, takes="tokens", weight=OFTEN)
def qdq_shared(net: Any, x: Any) -> Any:
    """One dequantised value with two readers, each quantised again; stresses copies of the dequantiser."""
    y = _at(net, _plain(x), net.pick(STEPS), 128)
    return _at(net, net("Sigmoid", y), 2**-8, 0), _at(net, net("Tanh", y) if net.flag() else net("Add", y, y), 2**-6, 128)


@block("idiom/qdq-moved", PAPER, takes="tokens", weight=OFTEN)
def qdq_moved(net: Any, x: Any) -> Any:
    """Transpose and Reshape on one side of a quantiser only; stresses moving it past them, forward and back."""
    n, rows, d = _plain(x).shape
    step = net.pick(STEPS)
    if net.flag():
        return _at(net, reshape(net, net("Transpose", net("Relu", x), perm=[0, 2, 1]), [n, d * rows]), step, 128)
    y = reshape(net, net("Transpose", _at(net, x, step, 128), perm=[0, 2, 1]), [n, d * rows])
    return net("MatMul", net("Relu", y), net.weight(d * rows, 4))


@block("idiom/qdq-where", PAPER, takes="tokens", weight=OFTEN)
def qdq_where(net: Any, x: Any) -> Any:
    """A choice between a dequantised value and a constant that is not quantised; stresses the dequantiser that has to be made up for it."""
    y = _at(net, _plain(x), step := net.pick(STEPS), 128)
    return _at(net, net("Where", net("Greater", x, net.const(0.0, FLOAT)), y, net.const(-1.0, FLOAT)), step, 128)


@block("idiom/qdq-float-bias", PAPER, dims=(1, 2), weight=OFTEN)
def qdq_float_bias(net: Any, x: Any) -> Any:
    """A convolution or a dense layer between quantised tensors whose bias is still a float; stresses quantising it by the scales of both."""
    rank, step = len(_plain(x).shape) - 2, net.pick(STEPS)
    if net.flag(0.3):
        y = net("Gemm", through(net, reshape(net, x, [x.shape[0], -1]), step), _weight(net, int(np.prod(x.shape[1:])), 4), net.weight(4))
    else:
        y = net("Conv", through(net, x, step), _weight(net, 6, channels(x), *[3] * rank), net.weight(6), pads=[1] * 2 * rank)
    return through(net, y, net.pick(STEPS))


@block("idiom/dynamic-dense", "Dynamic quantisation as ONNX Runtime's quantiser writes it", takes="tokens", weight=OFTEN)
def dynamic_dense(net: Any, x: Any) -> Any:
    """DynamicQuantizeLinear, MatMulInteger, and two scales multiplied back; with a bias, or without."""
    out = net.pick((8, 6))
    q, size, zero = net("DynamicQuantizeLinear", _plain(x), outputs=3)
    product = net("MatMulInteger", q, _integers(net, INT8, x.shape[-1], out), zero, net.const(0, INT8))
    y = net("Mul", net("Cast", product, to=FLOAT.onnx), net("Mul", size, net.const(2**-7, FLOAT)))
    return net("Add", y, net.weight(out)) if net.flag() else y


@block("idiom/weight-only-dense", "Weight-only quantisation: blocks of int4 with a scale each", takes="tokens", weight=OFTEN)
def weight_only_dense(net: Any, x: Any) -> Any:
    """A matrix product with int4 weights that are dequantised in blocks along their first axis; before opset 21 int8, per column."""
    d, out = _plain(x).shape[-1], net.pick((8, 6))
    if net.opset < 21:
        return net("MatMul", x, _weight(net, d, out, axis=1))
    size = net.pick(divisors(d, (16, 32, 8)))
    steps = net.const([[2.0 ** -(3 + (i + j) % 3) for j in range(out)] for i in range(d // size)], FLOAT)
    return net("MatMul", x, net("DequantizeLinear", _integers(net, INT4, d, out, most=7), steps, axis=0, block_size=size))
