"""Operators that rearrange or resize the plane without computing: DepthToSpace, SpaceToDepth, CenterCropPad."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.formats import INT64
from specs.numerics import moves
from specs.ops.shape import any_type
from specs.program import Node
from specs.terms import floor_div, known


@any_type
def _depth_to_space(a: Node, x: Tensor) -> Tensor:
    (n, c, h, w), b = x.shape, a.blocksize
    if a.mode in (None, "DCR"):
        y = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, c // (b * b), b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(n, c // (b * b), h * b, w * b)


@any_type
def _space_to_depth(a: Node, x: Tensor) -> Tensor:
    (n, c, h, w), b = x.shape, a.blocksize
    y = x.reshape(n, c, h // b, b, w // b, b)
    y = y.permute(0, 3, 5, 1, 2, 4) if a.mode in (None, "DCR") else y.permute(0, 1, 3, 5, 2, 4)
    return y.reshape(n, c * b * b, h // b, w // b)


@op("DepthToSpace", meaning=_depth_to_space, error=moves())
def depth_to_space(g: Draw) -> Rule:
    """Channels into blocks of pixels, in both orders."""
    b = g.int(1, 4)
    x = g.operand(like=[None, b * b * g.int(1, 4), None, None]) if g.flag(0.7) else g.operand(rank=4)
    n, c, h, w = x
    if known(c):
        b = g.pick([k for k in range(4, 1, -1) if c % (k * k) == 0] or [1])
    else:
        g.require(c % (b * b) == 0)
    mode = g.pick(["", "CRD", "DCR"])
    return Rule([x], [[n, floor_div(c, b * b), h * b, w * b]], {"blocksize": b, **({"mode": mode} if mode else {})})


@op("SpaceToDepth", meaning=_space_to_depth, error=moves())
def space_to_depth(g: Draw) -> Rule:
    """Blocks of pixels into channels; the order became an attribute at opset 28."""
    b = g.int(1, 4)
    x = g.operand(like=[None, None, b * g.int(1, 6), b * g.int(1, 6)]) if g.flag(0.7) else g.operand(rank=4)
    n, c, h, w = x
    if known(h, w):
        b = g.pick([k for k in range(4, 1, -1) if h % k == 0 and w % k == 0] or [1])
    else:
        g.require(h % b == 0)
        g.require(w % b == 0)
    mode = g.pick(["", "CRD", "DCR"]) if g.opset >= 28 else ""
    return Rule([x], [[n, c * (b * b), floor_div(h, b), floor_div(w, b)]], {"blocksize": b, **({"mode": mode} if mode else {})})


@any_type
def _center_crop_pad(a: Node, x: Tensor, shape: Tensor) -> Tensor:
    axes = a.axes if a.axes is not None else range(x.dim())
    for axis, size in zip(axes, shape.tolist(), strict=True):
        have, axis = x.shape[axis], axis % x.dim()
        if have > size:
            x = x.narrow(axis, (have - size) // 2, size)
        elif have < size:
            left, around = (size - have) // 2, list(x.shape)
            around[axis] = left
            before = x.new_zeros(around)
            around[axis] = size - have - left
            x = torch.cat([before, x, x.new_zeros(around)], axis)
    return x


@op("CenterCropPad", meaning=_center_crop_pad, error=moves(), since=18)
def center_crop_pad(g: Draw) -> Rule:
    """Some dims cut, others padded with zeros, by even and odd amounts."""
    x = g.operand(rank=(1, 4))
    out, attrs = list(x), dict[str, Any]()
    if g.flag(0.3):
        axes = list(range(len(x)))
    else:
        axes = g.axes(len(x), least=1)
        attrs["axes"] = axes
    for i in axes:
        out[i] = g.size(1, 20) if g.flag(0.8) else out[i]
    g.type("Tind", among=None if g.flag(0.1) else [INT64])  # with int32 the function body of ONNX itself is mistyped
    shape = g.const([out[i] for i in axes])
    return Rule([x, shape], [out], attrs)
