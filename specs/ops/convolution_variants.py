"""What is built around a convolution: Col2Im, the causal convolution with a carried state, and ONNX Runtime's fused convolution."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from specs.contraction import linear
from specs.contrib import MICROSOFT, declare
from specs.draw import Draw
from specs.formats import BFLOAT16, BOOL, FLOAT, FLOAT16
from specs.numerics import EXACT, Ball, ErrorRule, Policy, Radii
from specs.operator import op
from specs.ops.convolution import convolve
from specs.ops.windows import Axis, cut, slide
from specs.program import Node
from specs.rule import Operand, Rule, Unsupported
from specs.tracked import CONSTANTS, Rounding, Tracked, monotone, steady


# Col2Im ----------------------------------------------------------------------------------------------------------------
def _blocks(a: Node, image: Sequence[int], block: Sequence[int]) -> list[Axis]:
    n = len(block)
    pads, axes = a.pads or [0] * (2 * n), list[Axis]()
    for i, (size, k, s, d) in enumerate(zip(image, block, a.strides or [1] * n, a.dilations or [1] * n, strict=True)):
        axes.append(Axis(size, k, s, d, pads[i], pads[n + i], (size + pads[i] + pads[n + i] - d * (k - 1) - 1) // s + 1))
    return axes


def _col2im(a: Node, x: Any, image_shape: Tensor, block_shape: Tensor) -> Tensor:
    """Every block is added where a window of the image would have been cut out; what falls into the padding is lost."""
    image, block = [int(d) for d in image_shape], [int(d) for d in block_shape]
    if not isinstance(x, Tensor):
        raise Unsupported("Col2Im: strings cannot be added")
    axes, cells = _blocks(a, image, block), math.prod(image)
    places = cut(torch.arange(cells).reshape(1, 1, *image), axes, -1)[0, 0]
    places = places.movedim(list(range(len(axes))), list(range(-len(axes), 0))).reshape(-1)
    n, c = x.shape[0], x.shape[1] // math.prod(block)
    values = x.reshape(n, c, -1)
    if x.dtype is torch.bool:
        values = values.to(torch.uint8)
    elif x.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    y = values.new_zeros(n, c, cells + 1).index_add(2, torch.where(places < 0, cells, places), values)
    return y[..., :cells].reshape(n, c, *image).to(x.dtype)


def _overlaps(node: Node, values: Sequence[Any]) -> float:
    """How many blocks may meet in one cell: only taps that differ by multiples of the stride."""
    n = values[2].numel()
    strides, dilations = node.strides or [1] * n, node.dilations or [1] * n
    return math.prod(-(-int(k) * math.gcd(s, d) // s) for k, s, d in zip(values[2], strides, dilations, strict=True))


@op("Col2Im", meaning=_col2im, error=linear(_overlaps, weights=()), since=18)
def col2im(g: Draw) -> Rule:
    """The blocks of an image of one to three dimensions, overlapping or with holes between them."""
    image = [g.int(2, 9) for _ in range(g.pick((2, 2, 1, 3)))]
    w = slide(g, image, automatic=False, kernels=(2, 3, 1, 4))
    c, blocks = g.int(1, 4), math.prod(w.out)
    form = g.type("T")
    g.require(form is not BOOL)  # ONNX does not say what adding truth values means
    x = g.operand(like=[None, c * math.prod(w.kernel), blocks])
    return Rule([x, g.const(image), g.const(w.kernel)], [[x[0], c, *image]], w.attrs)


# a convolution, then something elementwise ---------------------------------------------------------------------------
def _as(node: Node, meaning: Callable[..., Any]) -> Node:
    """The node with another meaning, to ask an error rule about one part of it."""
    part = Node(dataclasses.replace(node.op, meaning=meaning), node.name, node.inputs, node.outputs, node.attrs, node.bodies, node.opset, node.version)
    part.in_formats, part.out_formats, part.promote = node.in_formats, node.out_formats, node.promote
    return part


def _then(rule: ErrorRule, meaning: Callable[..., Tensor], after: Callable[[Node, Any, Sequence[Any]], Any]) -> ErrorRule:
    """`rule` for the contraction `meaning`, then the radii go through `after` like the value itself."""

    def error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        part = _as(node, meaning)
        value = meaning(part, *(None if b is None else b.value for b in balls))
        worst, spread = rule(part, policy, balls, [value])[0]
        rounding = Rounding.of(policy, node.out_formats[0])
        zero = torch.zeros_like(value)
        operands = list[Any]()
        for b in balls:
            operands.append(None if b is None else Tracked(b.value, zero if b.worst is None else b.worst, zero if b.spread is None else b.spread, rounding))
        tracked = Tracked(value, zero if worst is None else worst, zero if spread is None else spread, rounding)
        result = after(node, tracked, operands)
        return [(result.worst, result.spread)]

    return error


# CausalConvWithState ---------------------------------------------------------------------------------------------------
declare("CausalConvWithState", "input:T weight:T bias:T? past_state:T?", "output:T present_state:T",
        {"activation": "none", "ndim": 1, "dilation": 1, "channels_last": 0, "state_window": 0}, T=[FLOAT, FLOAT16, BFLOAT16])  # fmt: skip


def _reach(a: Node, w: Tensor) -> int:
    """How many positions of the past a result depends on."""
    return (w.shape[2] - 1) * (a.dilation or 1)


def _padded(a: Node, x: Tensor, w: Tensor, past: Tensor | None) -> Tensor:
    return F.pad(x, (_reach(a, w), 0)) if past is None else torch.cat([past, x], 2)


def _depthwise(a: Node, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    return F.conv1d(x, w, bias, dilation=a.dilation or 1, groups=x.shape[1])


def _silu(a: Node, y: Any, operands: Sequence[Any] = ()) -> Any:
    return y if a.activation not in ("silu", "swish") else steady(y, F.silu, 1.1, 7, 0)


def _causal_conv(a: Node, x: Tensor, w: Tensor, bias: Tensor | None = None, past: Tensor | None = None) -> Any:
    """The state carries the last positions on; without one the past was zero."""
    if a.channels_last:
        x, past = x.transpose(1, 2), None if past is None else past.transpose(1, 2)
    padded = _padded(a, x, w, past)
    y, state = _silu(a, _depthwise(a, padded, w, bias)), padded[:, :, padded.shape[2] - _reach(a, w) :]
    return (y.transpose(1, 2), state.transpose(1, 2)) if a.channels_last else (y, state)


def _causal_terms(node: Node, values: Sequence[Any]) -> float:
    return values[1].shape[2] + 1


def _transposed(parts: Sequence[Tensor | None]) -> list[Any]:
    return [None if t is None else t.transpose(1, 2) for t in parts]


def _causal_conv_error(node: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Past and input are one sequence to the convolution; the state only moves."""
    if node.channels_last:
        first, w, bias, past = [*balls, None, None][:4]
        turned = [None if b is None else Ball(*_transposed(b)) for b in (first, past)]
        found = _causal_radii(node, policy, [turned[0], w, bias, turned[1]], _transposed(ys))
        return [(None, None) if r[0] is None else (r[0].transpose(1, 2), r[1].transpose(1, 2)) for r in found]
    return _causal_radii(node, policy, balls, ys)


def _causal_radii(node: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    x, w, bias, past = [*balls, None, None][:4]
    assert x is not None
    assert w is not None
    state, whole = EXACT, Ball(_padded(node, x.value, w.value, None if past is None else past.value))
    if x.worst is not None or (past is not None and past.worst is not None):
        radii = [
            _padded(
                node,
                torch.zeros_like(x.value) if x[i] is None else x[i],
                w.value,
                None if past is None else torch.zeros_like(past.value) if past[i] is None else past[i],
            )
            for i in (1, 2)
        ]
        whole = Ball(whole.value, *radii)
        kept = radii[0].shape[2] - _reach(node, w.value)
        state = (radii[0][:, :, kept:], radii[1][:, :, kept:])
    rule = _then(linear(_causal_terms, bias=2), _depthwise, _silu)
    return [rule(node, policy, [whole, w, bias], ys[:1])[0], state][: len(ys)]


def _causal_rule(g: Draw, x: Operand, sizes: Sequence[Any], reach: Callable[[int], int], state: Callable[[int], list[Any]]) -> tuple[list[Operand | None], int]:
    """Operands, and how many positions the state holds. `sizes`: batch, channels, length."""
    k = g.int(1, 5)
    operands: list[Operand | None] = [x, g.operand(like=[sizes[1], 1, k], role="weight")]
    biased, stateful = g.flag(), g.flag()
    if biased:
        operands.append(g.operand(like=[sizes[1]], role="weight"))
    elif stateful:
        g.skip()
        operands.append(None)
    if stateful and k > 1:
        operands.append(g.operand(like=state(reach(k))))
    return operands, reach(k)


def _activation(g: Draw) -> dict[str, Any]:
    return {"activation": g.pick(("silu", "swish", "none"))} if g.flag() else {}


@op("CausalConvWithState", meaning=_causal_conv, error=_causal_conv_error, since=27)
def causal_conv(g: Draw) -> Rule:
    """A sequence convolved channel by channel, in one go or as a step that goes on from a state."""
    x = g.operand(rank=3)
    n, c, length = x
    operands, kept = _causal_rule(g, x, x, lambda k: k - 1, lambda m: [n, c, m])
    return Rule(operands, [[n, c, length], [n, c, kept]], _activation(g))


@op("CausalConvWithState", meaning=_causal_conv, error=_causal_conv_error, domain=MICROSOFT, among=[FLOAT, FLOAT16], weight=0.5)
def wider_causal_conv(g: Draw) -> Rule:
    """ONNX Runtime's own has a dilation too, and may have the channels last."""
    x = g.operand(rank=3)
    last, dilation = g.flag(0.4), g.pick([1, 1, 2, 3])
    n, c, length = (x[0], x[2], x[1]) if last else x
    operands, kept = _causal_rule(g, x, [n, c, length], lambda k: (k - 1) * dilation, lambda m: [n, m, c] if last else [n, c, m])
    attrs = {**({"dilation": dilation} if dilation > 1 else {}), **({"channels_last": 1} if last else {}), **_activation(g)}
    return Rule(operands, [list(x), [n, kept, c] if last else [n, c, kept]], attrs)


# FusedConv of ONNX Runtime -------------------------------------------------------------------------------------------
def activated(a: Any, y: Any) -> Any:
    """The activations ONNX Runtime fuses into a convolution; their parameters come in the order of ONNX's attributes."""
    p = a.activation_params or {"LeakyRelu": [0.01], "HardSigmoid": [0.2, 0.5], "Clip": [-math.inf, math.inf]}.get(a.activation, [])
    if a.activation == "Relu":
        return monotone(y, F.relu, 0, 0)
    if a.activation == "Tanh":
        return monotone(y, torch.tanh, *CONSTANTS["tanh"])
    if a.activation == "Sigmoid":
        return monotone(y, torch.sigmoid, *CONSTANTS["sigmoid"])
    if a.activation == "LeakyRelu":
        return steady(y, lambda t: F.leaky_relu(t, p[0]), max(1.0, abs(p[0])), 1, 0)
    if a.activation == "Clip":
        return monotone(y, lambda t: t.clamp(p[0], p[1]), 0, 0)
    if a.activation == "HardSigmoid":
        return monotone(y, lambda t: (t * p[0] + p[1]).clamp(0, 1), 2, 2 * abs(p[1]))
    if a.activation:
        raise Unsupported(f"a fused activation {a.activation}")
    return y


def _sum_and_activation(a: Node, y: Any, operands: Sequence[Any]) -> Any:
    z = operands[3] if len(operands) > 3 else None
    if z is None:
        return activated(a, y)
    total = y + z
    if isinstance(total, Tracked):  # the sum may start with z: then every partial sum is rounded at its size as well
        own = z.value.abs() * ((operands[1].value[:1].numel() + 2) * total.rounding.accumulator)
        total = Tracked(total.value, total.worst + own, torch.hypot(total.spread, own), total.rounding)
    return activated(a, total)


def _convolution_alone(a: Node, x: Tensor, w: Tensor, b: Tensor | None = None, z: Tensor | None = None) -> Tensor:
    return convolve(a, x, w, b)


def fused_conv(a: Node, x: Tensor, w: Tensor, b: Tensor | None = None, z: Tensor | None = None) -> Tensor:
    """A convolution, a summand, an activation: one node of optimised models."""
    return _sum_and_activation(a, convolve(a, x, w, b), [x, w, b, z])


def _fused_terms(node: Node, values: Sequence[Any]) -> float:
    return values[1][0].numel() + 2 if len(values[1]) else 2


fused_conv_error = _then(linear(_fused_terms, bias=2), _convolution_alone, _sum_and_activation)
