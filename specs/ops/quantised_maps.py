"""What ONNX Runtime's optimiser makes of quantised maps: channels last; and means, softmax and joins that stay bytes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.contrib import MICROSOFT, declare
from specs.formats import INT8, INT32, UINT8, Format
from specs.numerics import Ball, Policy, Radii
from specs.ops import integer_convolution as integers
from specs.ops import pooling
from specs.ops.fused_quantisation import BYTES, SCALED, minus, parameters, real, requantised, times
from specs.ops.windows import cut, place, slide, taps
from specs.program import Node
from specs.rule import Operand, Unsupported
from specs.tracked import Tracked, raw

JOINED = 8  # operands of a QLinearConcat, at most
WINDOW = {"kernel_shape": list[int], "strides": list[int], "pads": list[int], "auto_pad": "NOTSET"}

declare("QLinearConv", "x:T1 x_scale:tensor(float) x_zero:T1 w:T2 w_scale:tensor(float) w_zero:T2 y_scale:tensor(float) y_zero:T3 B:T4?", "y:T3",
        {**WINDOW, "dilations": list[int], "group": 1, "channels_last": 0}, T1=BYTES, T2=BYTES, T3=BYTES, T4=[INT32])  # fmt: skip
declare("NhwcMaxPool", "x:T", "y:T", {**WINDOW, "dilations": list[int], "ceil_mode": 0}, T=BYTES)
declare("QLinearAveragePool", SCALED.format("X") + " Y_scale:tensor(float) Y_zero:T?", "Y:T",
        {**WINDOW, "ceil_mode": 0, "count_include_pad": 0, "channels_last": 0}, T=BYTES)  # fmt: skip
declare("QLinearSoftmax", SCALED.format("X") + " Y_scale:tensor(float) Y_zero:T", "Y:T", {"axis": -1, "opset": int}, T=BYTES)
declare("QLinearConcat", "Y_scale:tensor(float) Y_zero:T a:T a_scale:tensor(float) a_zero:T "
        + " ".join(f"x{i}:T? x{i}_scale:tensor(float)? x{i}_zero:T?" for i in range(1, JOINED)), "Y:T", {"axis": int}, T=BYTES)  # fmt: skip


def _first(x: Any) -> Any:
    """Channels behind the batch."""
    return x.part(lambda t: t.movedim(-1, 1)) if isinstance(x, Tracked) else None if x is None else x.movedim(-1, 1)


def _last(x: Any) -> Any:
    return x.part(lambda t: t.movedim(1, -1)) if isinstance(x, Tracked) else None if x is None else x.movedim(1, -1)


def _turned(shape: Sequence[Any], last: bool) -> list[Any]:
    """A shape with channels second as it is written."""
    return [shape[0], *shape[2:], shape[1]] if last else list(shape)


# QLinearConv -----------------------------------------------------------------------------------------------------------
def _conv(a: Node, x: Tensor, *rest: Any) -> Tensor:
    return _last(integers.qlinear_conv_meaning(a, _first(x), *rest)) if a.channels_last else integers.qlinear_conv_meaning(a, x, *rest)


def _conv_error(node: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    if not node.channels_last:
        return integers.qlinear_conv_error(node, policy, balls, ys)
    assert balls[0] is not None
    first = Ball(*map(_first, balls[0]))
    return [(_last(worst), _last(spread)) for worst, spread in integers.qlinear_conv_error(node, policy, [first, *balls[1:]], [_first(ys[0])])]


@op("QLinearConv", meaning=_conv, error=_conv_error, domain=MICROSOFT, weight=0.5)
def conv(g: Draw) -> Rule:
    """As ONNX's own, or with channels last; the weights are never turned."""
    x = g.operand(rank=(3, 5), low=0)
    last = g.flag(0.6)
    rule = integers.qlinear_conv_rule(g, x, [x[0], x[-1], *x[1:-1]] if last else list(x))
    assert rule.outputs[0] is not None
    return Rule(rule.inputs, [_turned(rule.outputs[0], last)], {**rule.attrs, **({"channels_last": 1} if last else {})})


# pools -----------------------------------------------------------------------------------------------------------------
def _window(g: Draw, x: Operand, last: bool, dilate: bool) -> tuple[list[Any], dict[str, Any]]:
    """The result's shape and the attributes of a pool."""
    n, c, *space = [x[0], x[-1], *x[1:-1]] if last else list(x)
    for d in (c, *space):
        g.require(d >= 1)
    w = slide(g, space, ceil=True, inside=True, dilate=dilate)
    pooling.in_room(g, n, c, *w.out)
    return _turned([n, c, *w.out], last), {"kernel_shape": w.kernel, **w.attrs}


def _max_pool(a: Node, x: Tensor) -> Tensor:
    x = _first(x)
    axes = place(a, x.shape[2:], a.kernel_shape)
    return _last(cut(x, axes, pooling.lowest(x)).amax(pooling.window_dims(axes)))


@op("NhwcMaxPool", meaning=_max_pool, error=pooling.max_error, domain=MICROSOFT, weight=0.5)
def max_pool(g: Draw) -> Rule:
    x = g.operand(rank=(3, 5), low=0)
    shape, attrs = _window(g, x, last=True, dilate=True)
    return Rule([x], [shape], attrs)


def _average(a: Node, x: Any, xs: Any, xz: Any, *out: Any) -> Any:
    """The sums are exact; how many elements they are divided by is as for AveragePool."""
    d = minus(x, xz)
    d = _first(d) if a.channels_last else d
    axes = place(a, d.shape[2:], a.kernel_shape)
    windows = d.part(lambda t: cut(t, axes)) if isinstance(d, Tracked) else cut(d, axes)
    counts = torch.ones((), dtype=torch.float64)
    for i, w in enumerate(axes):
        counts = counts * torch.tensor(taps(w, bool(a.count_include_pad)), dtype=torch.float64).reshape(-1, *[1] * (len(axes) - 1 - i))
    y = times(windows.sum(tuple(pooling.window_dims(axes))), xs) / counts
    return _last(y) if a.channels_last else y


_meaning, _error = requantised(_average, 3)


@op("QLinearAveragePool", meaning=_meaning, error=_error, domain=MICROSOFT, weight=0.5)
def average_pool(g: Draw) -> Rule:
    x = g.operand(rank=(3, 5))
    last = g.flag(0.4)
    first, second = parameters(g, x.format), parameters(g, x.format)
    shape, attrs = _window(g, x, last, dilate=False)
    if "ceil_mode" not in attrs and g.flag(0.4):  # whether what ceil_mode adds counts then, nothing says
        attrs["count_include_pad"] = 1
    return Rule([x, *first, *second], [shape], {**attrs, **({"channels_last": 1} if last else {})})


# softmax ---------------------------------------------------------------------------------------------------------------
def _softmax(a: Node, x: Any, xs: Any, xz: Any, *out: Any) -> Any:
    """`opset` says which Softmax it was: before 13 everything from the axis on is one row. The zero point cancels."""
    if bool((raw(out[0]) != 1 / 256).any()):
        raise Unsupported("QLinearSoftmax: another scale of the result than 1/256")
    v = real(x, xs, xz)
    axis = a.axis % v.ndim
    if a.attrs["opset"] >= 13:  # `a.opset` is the model's
        return v.softmax(axis)
    rows, shape = [*v.shape[:axis], math.prod(v.shape[axis:])], list(v.shape)
    return _reshaped(_reshaped(v, rows).softmax(axis), shape)


def _reshaped(x: Any, shape: list[int]) -> Any:
    return x.part(lambda t: t.reshape(shape)) if isinstance(x, Tracked) else x.reshape(shape)


_meaning, _error = requantised(_softmax, 3)


@op("QLinearSoftmax", meaning=_meaning, error=_error, domain=MICROSOFT, weight=0.5)
def softmax(g: Draw) -> Rule:
    """Results in steps of 1/256 from the lowest byte on, as quantisers write it: nothing says what other scales would mean."""
    x = g.operand(rank=(1, 6))
    form = x.format or UINT8
    first = parameters(g, form)
    scale, zero = g.const(np.float32(1 / 256)), g.const(np.array(form.lowest, form.numpy))
    axis = {} if g.flag(0.2) else {"axis": g.axis(len(x))}
    return Rule([x, *first, scale, zero], [x], {**axis, "opset": g.pick([13, 12])})


# joins -----------------------------------------------------------------------------------------------------------------
def _concat(a: Node, scale: Any, zero: Any, *parts: Any) -> Any:
    return torch.cat([real(*parts[i : i + 3]) for i in range(0, len(parts), 3)], a.axis)


_meaning, _error = requantised(_concat, 0)


@op("QLinearConcat", meaning=_meaning, error=_error, domain=MICROSOFT, weight=0.5)
def concat(g: Draw) -> Rule:
    """Of one sign, each with a scale and a zero point of its own, or with those of the result."""
    form = g.type("T")
    result = parameters(g, form)
    first = g.operand(rank=(1, 6), among=[form])
    axis = g.axis(len(first))
    at, out = axis % len(first), list(first)
    operands: list[Operand | None] = [*result, first, *_same_or_other(g, form, result)]
    for _ in range(g.pick([1, 0, 2, 3])):
        x = g.operand(like=[None if i == at else d for i, d in enumerate(first)])
        out[at] = out[at] + x[at]
        operands += [x, *_same_or_other(g, form, result)]
    return Rule(operands, [out], {"axis": axis})


def _same_or_other(g: Draw, form: Format, result: Sequence[Operand | None]) -> list[Operand | None]:
    scale = result[0]
    if scale is not None and scale.content is not None and g.flag(0.3):
        return [g.const(scale.content), g.given([], -3 if form is INT8 else 120, 3 if form is INT8 else 130, role="weight")]
    return parameters(g, form)
