"""Convolutions: Conv and ConvTranspose over any number of spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from specs.contraction import linear
from specs.draw import Draw
from specs.operator import op
from specs.ops.windows import AUTO, ROOM, Axis, cut, give, overflow_safe, place, slide, symmetric
from specs.program import Node
from specs.rule import Dim, Rule
from specs.terms import floor_div, known, prod

_FORWARD = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_BACKWARD = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


# Conv ------------------------------------------------------------------------------------------------------------------
def convolve(a: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """Cross-correlation; torch pads both sides alike only, and has no more than three spatial axes."""
    axes, group = place(a, x.shape[2:], w.shape[2:]), a.group or 1
    if len(axes) not in _FORWARD:
        return _by_windows(x, w, b, axes, group)
    padding = [v.begin for v in axes]
    if not symmetric(axes):
        x = F.pad(x, [p for v in reversed(axes) for p in (v.begin, v.end)])
        padding = [0] * len(axes)
    rest = ([v.stride for v in axes], padding, [v.dilation for v in axes], group)
    if x.dtype == torch.float16 and w.shape[1] == 1:  # torch 2.13's own float16 kernel does not end for 31 to 39 taps on a wide image
        return _FORWARD[len(axes)](x.float(), w.float(), None if b is None else b.float(), *rest).half()
    return _FORWARD[len(axes)](x, w, b, *rest)


def _by_windows(x: Tensor, w: Tensor, b: Tensor | None, axes: Sequence[Axis], group: int) -> Tensor:
    """A convolution of any rank and type as one product of its windows with the kernels."""
    view = cut(x, axes)
    n, out = x.shape[0], [v.out for v in axes]
    view = view.reshape(n, group, x.shape[1] // group, math.prod(out), -1)
    y = torch.einsum("ngcpk,gmck->ngmp", view, w.reshape(group, w.shape[0] // group, w.shape[1], -1)).reshape(n, w.shape[0], *out)
    return y if b is None else y + b.reshape(-1, *[1] * len(axes))


def _terms(node: Node, values: Sequence[Any]) -> float:
    return values[1][0].numel() + 1 if len(values[1]) else 1


@op("Conv", meaning=convolve, error=overflow_safe(linear(_terms, bias=2)), weight=2.0)
def conv(g: Draw) -> Rule:
    """Grouped and depthwise, dilated, padded unevenly or by auto_pad, in one to three dimensions."""
    x = g.operand(rank=(3, 5), low=0)
    n, c, *space = x
    for d in (c, *space):
        g.require(d >= 1)
    w = slide(g, space)
    group, m = channels(g, c, prod([n, *w.out]), math.prod(w.kernel))
    attrs = dict(w.attrs)
    if group > 1:
        attrs["group"] = group
    if g.flag():
        attrs["kernel_shape"] = w.kernel
    operands = [x, g.operand(like=[m, floor_div(c, group), *w.kernel], role="weight")]
    if g.flag():
        operands.append(g.operand(like=[m], role="weight"))
    return Rule(operands, [[n, m, *w.out]], attrs)


def channels(g: Draw, c: Dim, pixels: Dim, kernel: int) -> tuple[int, Dim]:
    """Groups that divide the channels, and output channels: so few that result and weight stay small."""
    depthwise = known(c) and c <= 64 and g.flag(0.2)
    group = c if depthwise else g.divisor(c) if g.flag(0.4) else 1
    most = 8
    if known(c, pixels):
        most = min(ROOM // max(1, pixels), ROOM // max(1, c // group * kernel), 64) // group
    if g.flag(0.3) and (not known(c) or c <= most * group):
        return group, c
    return group, group * g.size(1, max(1, most))


# ConvTranspose ---------------------------------------------------------------------------------------------------------
def transposed(a: Node, x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
    """The gradient of a convolution by its input, cropped by the pads; whatever lies behind it is bias alone.

    Pads that make a given or SAME output shape follow the equations of version 11 on, where the odd one goes to the beginning
    unless SAME_UPPER; the equations of version 1 contradict their own description of auto_pad and nobody computes them.
    """
    n = w.ndim - 2
    strides, dilations, extra = a.strides or [1] * n, a.dilations or [1] * n, a.output_padding or [0] * n
    auto, pads, shape = a.auto_pad, a.pads or [0] * (2 * n), a.output_shape
    whole = [s * (size - 1) + d * (k - 1) + 1 for s, d, k, size in zip(strides, dilations, w.shape[2:], x.shape[2:], strict=True)]
    if shape or auto in ("SAME_UPPER", "SAME_LOWER"):
        out = list(shape)[-n:] if shape else [s * size for s, size in zip(strides, x.shape[2:], strict=True)]
        total = [f + e - o for f, e, o in zip(whole, extra, out, strict=True)]
        begin = [t // 2 if auto == "SAME_UPPER" else t - t // 2 for t in total]
    else:
        begin, end = ([0] * n, [0] * n) if auto == "VALID" else (pads[:n], pads[n:])
        out = [f + e - i - j for f, e, i, j in zip(whole, extra, begin, end, strict=True)]
    tail = [o + i - f for f, i, o in zip(whole, begin, out, strict=True)]  # what the whole lacks at the end
    if n not in _BACKWARD:
        y = _crop(_scattered(x, w, strides, dilations, a.group), begin, tail)
    elif all(0 <= t + i < max(s, d) for t, i, s, d in zip(tail, begin, strides, dilations, strict=True)) and min(begin) >= 0:
        return _BACKWARD[n](x, w, b, strides, begin, [t + i for t, i in zip(tail, begin, strict=True)], a.group, dilations)
    else:
        y = _crop(_BACKWARD[n](x, w, None, strides, 0, 0, a.group, dilations), begin, tail)
    return y if b is None else y + b.reshape(-1, *[1] * n)


def _crop(y: Tensor, begin: Sequence[int], tail: Sequence[int]) -> Tensor:
    if not any(begin) and not any(tail):
        return y
    return F.pad(y, [p for i, t in zip(reversed(begin), reversed(tail), strict=True) for p in (-i, t)])


def _scattered(x: Tensor, w: Tensor, strides: Sequence[int], dilations: Sequence[int], group: int) -> Tensor:
    """A transposed convolution of any rank: zeros between the elements, then a convolution with the mirrored kernel."""
    spread = x.new_zeros([*x.shape[:2], *(s * (size - 1) + 1 for s, size in zip(strides, x.shape[2:], strict=True))])
    spread[(..., *(slice(None, None, s) for s in strides))] = x
    axes = []
    for size, k, d in zip(spread.shape[2:], w.shape[2:], dilations, strict=True):
        pad = d * (k - 1)
        axes.append(Axis(size, k, 1, d, pad, pad, size + pad))
    c, m, *kernel = w.shape
    mirrored = w.flip(list(range(2, w.ndim))).reshape(group, c // group, m, *kernel).transpose(1, 2).reshape(group * m, c // group, *kernel)
    return _by_windows(spread, mirrored, None, axes, group)


def _transposed_terms(node: Node, values: Sequence[Any]) -> float:
    """Of the kernel only every stride-th element meets an output; with dilation the common divisor decides."""
    w = values[1]
    n = w.ndim - 2
    hits = 1
    for k, s, d in zip(w.shape[2:], node.strides or [1] * n, node.dilations or [1] * n, strict=True):
        hits *= -(-k * math.gcd(s, d) // s)
    return w.shape[0] // node.group * hits + 1


class _Step(NamedTuple):
    """One axis of a transposed convolution: `whole` is its result before the pads crop it."""

    kernel: int
    stride: int
    dilation: int
    extra: int
    whole: Dim
    begin: int
    end: int


def _step(g: Draw, size: Dim, stride: int, same: bool, padded: bool, more: bool, dilated: bool) -> _Step:
    d = g.pick((2, 3, 1)) if dilated else 1
    k = g.pick([v for v in (3, 2, 1, 4, 5) if not same or d * (v - 1) + 1 >= stride])
    extra = g.int(0, stride - 1) if more else 0
    whole = stride * (size - 1) + d * (k - 1) + 1 + extra
    begin = end = 0
    if padded:
        most = min(3, d * (k - 1) + 1, (whole - 1) // 2) if known(whole) else min(3, d * (k - 1))
        begin = g.int(0, most)
        end = begin if g.flag() else g.int(0, most)
    return _Step(k, stride, d, extra, whole, begin, end)


@op("ConvTranspose", meaning=transposed, error=overflow_safe(linear(_transposed_terms, bias=2)))
def conv_transpose(g: Draw) -> Rule:
    """Upsampling by strides; pads, output_shape and SAME each say in their own way what is cut off.

    Not drawn because shape inference and the text differ: SAME with output_padding, SAME with a kernel below the stride.
    """
    x = g.operand(rank=(3, 5), low=0)
    n, c, *space = x
    for d in (c, *space):
        g.require(d >= 1)
    auto = g.pick(AUTO)
    same, shaped = auto.startswith("SAME"), g.flag(0.2)
    padded, more = auto == "NOTSET" and not shaped and g.flag(), not same and g.flag(0.25)
    strided, dilated = g.flag(0.6), g.flag(0.2)
    room = ROOM // max(1, prod([n, *space])) if known(n, *space) else 8
    steps: list[_Step] = []
    for size in space:
        stride = g.pick([v for v in (2, 3, 1) if v <= max(1, room)]) if strided else 1
        room //= stride
        steps.append(_step(g, size, stride, same, padded, more, dilated))
    out: list[Dim] = [w.stride * size if same else w.whole - w.begin - w.end for size, w in zip(space, steps, strict=True)]
    attrs: dict[str, Any] = {} if auto == "NOTSET" else {"auto_pad": auto}
    if shaped and known(*out):  # shape inference gives up where the result would be smaller than the operand
        out = [o - g.int(0, min(3, o - size)) for o, size in zip(out, space, strict=True)]
        attrs["output_shape"] = out
    for o in out:
        g.require(o >= 1)
    give(g, attrs, "strides", [w.stride for w in steps], 1)
    give(g, attrs, "dilations", [w.dilation for w in steps], 1)
    give(g, attrs, "output_padding", [w.extra for w in steps], 0)
    if auto == "NOTSET":
        give(g, attrs, "pads", [w.begin for w in steps] + [w.end for w in steps], 0)
    kernel = [w.kernel for w in steps]
    group, m = channels(g, c, prod([n, *out]), math.prod(kernel))
    if group > 1:
        attrs["group"] = group
    if g.flag():
        attrs["kernel_shape"] = kernel
    operands = [x, g.operand(like=[c, floor_div(m, group), *kernel], role="weight")]
    if g.flag():
        operands.append(g.operand(like=[m], role="weight"))
    return Rule(operands, [[n, m, *out]], attrs)
