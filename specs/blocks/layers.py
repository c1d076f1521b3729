"""Layers that blocks of every family are made of, for one to three spatial dims from one definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specs.net import need


def channels(x: Any) -> int:
    return x.shape[1]


def spatial(x: Any) -> tuple[int, ...]:
    return tuple(x.shape[2:])


def conv(
    net: Any,
    x: Any,
    out: int,
    k: int | Sequence[int] = 3,
    *,
    s: int = 1,
    d: int = 1,
    g: int = 1,
    pad: int | Sequence[int] | None = None,
    bias: bool = False,
    w: Any = None,
) -> Any:
    """A convolution; `pad` None keeps the size (for s = 1 and odd k). w: a shared or folded weight."""
    rank = len(x.shape) - 2
    kernel = [k] * rank if isinstance(k, int) else list(k)
    need(channels(x) % g == 0 and out % g == 0, f"conv: {channels(x)} -> {out} channels in {g} groups")
    pads = [d * (n - 1) // 2 for n in kernel] if pad is None else [pad] * rank if isinstance(pad, int) else list(pad)
    w = net.weight(out, channels(x) // g, *kernel) if w is None else w
    b = [net.weight(out)] if bias else []
    return net("Conv", x, w, *b, kernel_shape=kernel, strides=[s] * rank, dilations=[d] * rank, group=g, pads=[*pads, *pads])


def depthwise(net: Any, x: Any, k: int = 3, *, s: int = 1, d: int = 1, bias: bool = False) -> Any:
    return conv(net, x, channels(x), k, s=s, d=d, g=channels(x), bias=bias)


def pointwise(net: Any, x: Any, out: int, *, bias: bool = False) -> Any:
    return conv(net, x, out, 1, bias=bias)


def upconv(net: Any, x: Any, out: int, k: int = 2, *, s: int = 2, bias: bool = False) -> Any:
    """A transposed convolution that multiplies the size by s when k = s."""
    rank = len(x.shape) - 2
    w = net.weight(channels(x), out, *([k] * rank))
    b = [net.weight(out)] if bias else []
    return net("ConvTranspose", x, w, *b, kernel_shape=[k] * rank, strides=[s] * rank)


def bn(net: Any, x: Any, epsilon: float = 1e-5) -> Any:
    """Batch normalisation in inference form, statistics as weights."""
    c = channels(x)
    return net("BatchNormalization", x, net.weight(c), net.weight(c), net.weight(c), net.weight(c, low=0.2, high=2.0), epsilon=epsilon)


def layer_norm(net: Any, x: Any, axis: int = -1, epsilon: float = 1e-5) -> Any:
    """Normalisation over the dims from `axis` on; written out before opset 17, as exporters did."""
    dims = x.shape[axis:]
    if net.opset >= 17:
        return net("LayerNormalization", x, net.weight(*dims), net.weight(*dims), axis=axis, epsilon=epsilon)
    axes = list(range(-len(dims), 0))
    centred = net("Sub", x, mean(net, x, axes))
    deviation = net("Sqrt", net("Add", mean(net, net("Mul", centred, centred), axes), net.const(epsilon)))
    return net("Add", net("Mul", net("Div", centred, deviation), net.weight(*dims)), net.weight(*dims))


def layer_norm_channels(net: Any, x: Any, epsilon: float = 1e-6) -> Any:
    """Layer normalisation of each position's channels, by a transpose to channels last and back."""
    rank = len(x.shape)
    back = [0, rank - 1, *range(1, rank - 1)]
    return transpose(net, layer_norm(net, transpose(net, x, [0, *range(2, rank), 1]), epsilon=epsilon), back)


def instance_norm(net: Any, x: Any, epsilon: float = 1e-5) -> Any:
    return net("InstanceNormalization", x, net.weight(channels(x)), net.weight(channels(x)), epsilon=epsilon)


def group_norm(net: Any, x: Any, groups: int, epsilon: float = 1e-5) -> Any:
    """By reshape and instance normalisation, as exporters write it at every opset."""
    c, rank = channels(x), len(x.shape)
    need(c % groups == 0, f"group norm: {c} channels in {groups} groups")
    flat = net("Reshape", x, net.ints([0, groups, -1]))
    ones, zeros = net.const([1.0] * groups), net.const([0.0] * groups)
    y = net("Reshape", net("InstanceNormalization", flat, ones, zeros, epsilon=epsilon), net.ints(x.shape))
    scale = [c] + [1] * (rank - 2)
    return net("Add", net("Mul", y, net.weight(*scale)), net.weight(*scale))


def act(net: Any, x: Any, kind: str = "Relu", **attrs: Any) -> Any:
    """An activation by ONNX name, or Silu (x sigmoid x), Relu6, and Gelu written out before opset 20."""
    if kind == "Silu":
        return net("Mul", x, net("Sigmoid", x))
    if kind == "Relu6":
        return net("Clip", x, net.const(0.0), net.const(6.0))
    if kind == "Gelu" and net.opset < 20:
        inner = net("Add", net("Erf", net("Mul", x, net.const(0.5**0.5))), net.const(1.0))
        return net("Mul", net("Mul", x, inner), net.const(0.5))
    return net(kind, x, **attrs)


def conv_bn_act(net: Any, x: Any, out: int, k: int = 3, kind: str = "Relu", **options: Any) -> Any:
    return act(net, bn(net, conv(net, x, out, k, **options)), kind)


def add(net: Any, a: Any, b: Any) -> Any:
    """A sum of equal shapes: a residual connection."""
    need(tuple(a.shape) == tuple(b.shape), f"add: shapes {a.shape} and {b.shape}")
    return net("Add", a, b)


def mul(net: Any, a: Any, b: Any) -> Any:
    return net("Mul", a, b)


def concat(net: Any, *values: Any, axis: int = 1) -> Any:
    return net("Concat", *values, axis=axis)


def split(net: Any, x: Any, parts: int, axis: int = 1) -> Any:
    """Equal parts along an axis."""
    need(x.shape[axis] % parts == 0, f"split: {x.shape[axis]} in {parts} parts")
    return net("Split", x, net.ints([x.shape[axis] // parts] * parts), axis=axis, outputs=parts)


def slice_(net: Any, x: Any, start: int, end: int, axis: int, step: int = 1) -> Any:
    return net("Slice", x, net.ints([start]), net.ints([end]), net.ints([axis]), net.ints([step]))


def reshape(net: Any, x: Any, shape: Sequence[int]) -> Any:
    return net("Reshape", x, net.ints(shape))


def transpose(net: Any, x: Any, perm: Sequence[int]) -> Any:
    return net("Transpose", x, perm=list(perm))


def mean(net: Any, x: Any, axes: Sequence[int], keepdims: int = 1) -> Any:
    """ReduceMean in the form of the opset: axes became an input at 18."""
    if net.opset >= 18:
        return net("ReduceMean", x, net.ints(axes), keepdims=keepdims)
    return net("ReduceMean", x, axes=list(axes), keepdims=keepdims)


def reduce(net: Any, op: str, x: Any, axes: Sequence[int], keepdims: int = 1) -> Any:
    """Any reduction in the form of the opset; ReduceSum took its axes as an input from 13 on."""
    if net.opset >= 18 or op == "ReduceSum":
        return net(op, x, net.ints(axes), keepdims=keepdims)
    return net(op, x, axes=list(axes), keepdims=keepdims)


def gap(net: Any, x: Any) -> Any:
    """Global average pooling, (N, C, 1, ...)."""
    return net("GlobalAveragePool", x)


def classifier(net: Any, x: Any, classes: int = 5) -> Any:
    """Global average pooling, flatten, a dense layer: logits (N, classes)."""
    flat = net("Flatten", gap(net, x), axis=1)
    return net("Gemm", flat, net.weight(classes, channels(x)), net.weight(classes), transB=1)


def pool(net: Any, x: Any, kind: str = "MaxPool", k: int = 2, s: int | None = None, pad: int = 0) -> Any:
    rank = len(x.shape) - 2
    need(all(n + 2 * pad >= k for n in spatial(x)), f"{kind}: window {k} over {spatial(x)}")
    return net(kind, x, kernel_shape=[k] * rank, strides=[k if s is None else s] * rank, pads=[pad] * (2 * rank))


def resize(net: Any, x: Any, size: Sequence[int], mode: str = "nearest", align_corners: bool = False) -> Any:
    """To a spatial size; linear means bilinear or trilinear."""
    how = "align_corners" if align_corners else "asymmetric" if mode == "nearest" else "half_pixel"
    extra = {"nearest_mode": "floor"} if mode == "nearest" else {}
    return net("Resize", x, None, None, net.ints([*x.shape[:2], *size]), mode=mode, coordinate_transformation_mode=how, **extra)


def linear(net: Any, x: Any, out: int, bias: bool = True) -> Any:
    """A dense layer over the last axis."""
    y = net("MatMul", x, net.weight(x.shape[-1], out))
    return net("Add", y, net.weight(out)) if bias else y


def softmax(net: Any, x: Any, axis: int = -1) -> Any:
    return net("Softmax", x, axis=axis)


def pad(net: Any, x: Any, before: Sequence[int], after: Sequence[int], mode: str = "constant") -> Any:
    """Padding of the spatial dims."""
    return net("Pad", x, net.ints([0, 0, *before, 0, 0, *after]), mode=mode)
