"""Windows that slide over spatial axes: where they lie, how they are cut out, how they are drawn. For convolutions and pools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from specs.contraction import overflowing
from specs.draw import Draw
from specs.numerics import Ball, ErrorRule, Policy, Radii, outputs
from specs.rule import Dim, UsageError
from specs.terms import ceil_div, known, minimum, window

if TYPE_CHECKING:
    from torch import Tensor

    from specs.program import Node

#: Drawn operators keep their results below this many elements where the sizes are known.
ROOM = 4096
AUTO = ("NOTSET",) * 5 + ("SAME_UPPER", "SAME_LOWER", "VALID")
KERNELS = (3, 1, 2, 5, 4, 7)


# meaning ---------------------------------------------------------------------------------------------------------------
class Axis(NamedTuple):
    """The windows of one axis: the i-th covers i * stride - begin + [0, dilation, ..., (kernel - 1) * dilation]."""

    size: int
    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int
    out: int

    @property
    def span(self) -> int:
        return self.dilation * (self.kernel - 1) + 1

    @property
    def reach(self) -> int:
        """Elements the windows need behind the input, negative when they leave some of it unread."""
        return (self.out - 1) * self.stride + self.span - self.size - self.begin


def place(a: Node, space: Sequence[int], kernel: Sequence[int]) -> list[Axis]:
    """The windows of every axis by the attributes of a convolution or a pool.

    ceil_mode: a last window that would start behind the input and its first padding is dropped. The text says so from version
    22 on only, but without it such a window would average or maximise nothing. With VALID the formula in the text makes
    ceil_mode void; shape inference and runtimes round up, and here the inferred shape decides. SAME never pads negatively.
    """
    n = len(kernel)
    pads, auto = a.pads or [0] * (2 * n), a.auto_pad or "NOTSET"
    axes: list[Axis] = []
    for i, (size, k, s, d) in enumerate(zip(space, kernel, a.strides or [1] * n, a.dilations or [1] * n, strict=True)):
        span = d * (k - 1) + 1
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            out = -(-size // s)
            total = max((out - 1) * s + span - size, 0)
            begin = total // 2 if auto == "SAME_UPPER" else total - total // 2
            end = total - begin
        else:
            begin, end = (pads[i], pads[n + i]) if auto == "NOTSET" else (0, 0)
            out = window(size, k, s, begin + end, d, bool(a.ceil_mode))
            if a.ceil_mode:
                out = min(out, -(-(size + begin) // s))
        if out < 0:
            raise UsageError(f"{a.op.name} '{a.name}': a window of {span} is larger than axis {i + 2} with its padding, {size + begin + end}")
        axes.append(Axis(size, k, s, d, begin, end, out))
    return axes


def cut(x: Tensor, axes: Sequence[Axis], fill: float = 0) -> Tensor:
    """All windows as a view of the padded input: [n, c, *out, *kernel]."""
    import torch.nn.functional as F

    if any(w.out == 0 for w in axes):
        return x.new_zeros([*x.shape[:2], *(w.out for w in axes), *(w.kernel for w in axes)])
    if any(w.begin or w.reach for w in axes):
        x = F.pad(x, [p for w in reversed(axes) for p in (w.begin, w.reach)], value=fill)
    for i, w in enumerate(axes):
        x = x.unfold(2 + i, w.span, w.stride)
        if w.dilation > 1:
            x = x[..., :: w.dilation]
    return x


@lru_cache(maxsize=1024)
def taps(w: Axis, padding: bool) -> tuple[int, ...]:
    """How many elements each window of an axis has, inside the input or (`padding`) inside input and explicit padding."""
    low, high = (-w.begin, w.size + w.end) if padding else (0, w.size)
    return tuple(sum(low <= i * w.stride - w.begin + t * w.dilation < high for t in range(w.kernel)) for i in range(w.out))


def symmetric(axes: Sequence[Axis]) -> bool:
    return all(w.begin == w.end for w in axes)


def overflow_safe(rule: ErrorRule, terms: Any = None) -> ErrorRule:
    """`rule`, undecided where the accumulator of a half format may overflow on the way to a finite result.

    `terms`: a mean adds that many elements before it divides.
    """

    def wrapped(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
        radii, form = rule(node, policy, balls, ys), node.out_formats[0]
        if form is None or not form.is_float or form.bits > 16 or not policy.half_accumulation or radii[0][0] is None:
            return radii
        values = [None if b is None else b.value for b in balls]
        reached = outputs(node.op.meaning(node, *(v.abs() if v is not None and v.is_floating_point() else v for v in values)))[0]
        return [overflowing(policy, form, reached * (terms(node, values) if terms else 1), *radii[0]), *radii[1:]]

    return wrapped


# drawing ---------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Drawn:
    """Windows that were drawn: the kernel, the attributes that say it, and the sizes of the result."""

    kernel: list[int]
    attrs: dict[str, Any]
    out: list[Dim]


class _Step(NamedTuple):
    kernel: int
    stride: int
    dilation: int
    begin: int
    end: int

    @property
    def span(self) -> int:
        return self.dilation * (self.kernel - 1) + 1


def slide(
    g: Draw, space: Sequence[Dim], *, dilate: bool = True, ceil: bool = False, inside: bool = False, automatic: bool = True, kernels: Sequence[int] = KERNELS
) -> Drawn:
    """Kernel, strides, pads, dilations and auto_pad over `space`, whose sizes may be unknown.

    automatic, dilate, ceil   the operator has auto_pad, dilations, ceil_mode
    inside  a pool: no window may lie in the padding alone, and padding stays smaller than the kernel
    """
    auto = g.pick(AUTO) if automatic else "NOTSET"
    padded, strided = auto == "NOTSET" and g.flag(0.6), g.flag(0.4)
    dilated = dilate and g.flag(0.1 if auto.startswith("SAME") else 0.3)
    square = g.flag(0.5)
    steps: list[_Step] = []
    for size in space:
        if steps and square and _fits(size, steps[-1], auto, inside):
            steps.append(steps[-1])
        else:
            steps.append(_step(g, size, kernels, auto, padded, strided, dilated, inside))
    if not known(*space):
        for size, w in zip(space, steps, strict=True):
            if not auto.startswith("SAME"):
                g.require(size + w.begin + w.end >= w.span)
            if inside:
                g.require(size >= w.dilation)
    up = ceil and auto == "NOTSET" and g.flag(0.4) and _ceil_agreed(g, space, steps)
    attrs: dict[str, Any] = {"auto_pad": auto} if auto != "NOTSET" else {}
    give(g, attrs, "strides", [w.stride for w in steps], 1)
    if dilate:
        give(g, attrs, "dilations", [w.dilation for w in steps], 1)
    if auto == "NOTSET":
        give(g, attrs, "pads", [w.begin for w in steps] + [w.end for w in steps], 0)
    if up:
        attrs["ceil_mode"] = 1
    return Drawn([w.kernel for w in steps], attrs, [_positions(size, w, auto, up) for size, w in zip(space, steps, strict=True)])


def give(g: Draw, attrs: dict[str, Any], name: str, value: list[int], default: int) -> None:
    """Attributes at their default are left out, or sometimes given all the same."""
    if any(v != default for v in value) or g.flag(0.2):
        attrs[name] = value


def _fits(size: Dim, w: _Step, auto: str, inside: bool) -> bool:
    if not known(size):
        return True
    return (auto.startswith("SAME") or size + w.begin + w.end >= w.span) and (not inside or size >= w.dilation)


def _step(g: Draw, size: Dim, kernels: Sequence[int], auto: str, padded: bool, strided: bool, dilated: bool, inside: bool) -> _Step:
    """One axis: for a known size only what fits, for an unknown one small numbers."""
    dilation = g.pick((2, 3, 1)) if dilated else 1
    if known(size) and inside and size < dilation:
        dilation = 1
    stride = g.pick((2, 3, 1)) if strided else 1
    spare = 1 if not inside and padded and g.flag(0.1) else 0  # convolutions may even pad by a whole kernel

    def most(k: int) -> int:
        return min(k - 1, 3) + spare if padded else 0

    if known(size):
        kernels = [k for k in kernels if auto.startswith("SAME") or dilation * (k - 1) + 1 <= size + 2 * most(k)] or (1,)
    else:
        kernels = [k for k in kernels if k <= 5]
    k = g.pick(kernels)
    if auto.startswith("SAME"):
        stride = min(stride, dilation * (k - 1) + 1)  # by the text's formula the padding would be negative; shape inference says none
    need = max(0, dilation * (k - 1) + 1 - size) if known(size) and padded else 0
    begin = end = 0
    if padded and most(k):
        begin = g.int(max(0, need - most(k)), most(k))
        end = begin if 2 * begin >= need and g.flag(0.6) else g.int(max(0, need - begin), most(k))
    return _Step(k, stride, dilation, begin, end)


def _ceil_agreed(g: Draw, space: Sequence[Dim], steps: Sequence[_Step]) -> bool:
    """Whether ceil_mode may be drawn: before opset 22 shape inference keeps a last window that nobody else computes."""
    if g.opset >= 22:
        return True
    agreed = [
        window(size, w.kernel, w.stride, w.begin + w.end, w.dilation, True) <= ceil_div(size + w.begin, w.stride) for size, w in zip(space, steps, strict=True)
    ]
    if known(*space):
        return all(agreed)
    for condition in agreed:
        g.require(condition)
    return True


def _positions(size: Dim, w: _Step, auto: str, ceil: bool) -> Dim:
    if auto.startswith("SAME"):
        return ceil_div(size, w.stride)
    out = window(size, w.kernel, w.stride, w.begin + w.end, w.dilation, ceil)
    return minimum(out, ceil_div(size + w.begin, w.stride)) if ceil else out
