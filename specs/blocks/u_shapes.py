"""Parts of U-shaped networks: units of convolutions, gates on skips, and one encoder-decoder for any size, odd ones too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from specs.blocks.layers import (
    act,
    add,
    bn,
    channels,
    concat,
    conv,
    instance_norm,
    mul,
    pad,
    pointwise,
    pool,
    reshape,
    resize,
    softmax,
    spatial,
    transpose,
    upconv,
)
from specs.net import need


def levels(net: Any, x: Any, most: int, least: int = 1) -> int:
    """A drawn number of halvings that leaves at least one position in every spatial dim."""
    room = min(spatial(x)).bit_length() - 1
    need(room >= least, f"{least} halvings of {spatial(x)}")
    return net.int(least, max(least, min(most, room)))


def unit(net: Any, x: Any, out: int, k: Any = 3, *, norm: str = "bn", kind: str = "Relu", **options: Any) -> Any:
    """Conv-norm-activation; norm "bn", "in" (instance) or "" (a bias instead), kind "" for none."""
    y = conv(net, x, out, k, bias=not norm, **options)
    y = bn(net, y) if norm == "bn" else instance_norm(net, y) if norm == "in" else y
    return act(net, y, kind) if kind else y


def leaky(net: Any, x: Any, slope: float = 0.01) -> Any:
    return net("LeakyRelu", x, alpha=slope)


def double(net: Any, x: Any, out: int, **options: Any) -> Any:
    return unit(net, unit(net, x, out, **options), out, **options)


def nn_unit(net: Any, x: Any, out: int, k: Any = 3, **options: Any) -> Any:
    """Conv-instance norm-leaky ReLU, the unit of nnU-Net."""
    return leaky(net, unit(net, x, out, k, norm="in", kind="", **options))


def nn_double(net: Any, x: Any, out: int, k: Any = 3) -> Any:
    return nn_unit(net, nn_unit(net, x, out, k), out, k)


def fit(net: Any, x: Any, size: Sequence[int]) -> Any:
    """Cropped or zero-padded at the end to a spatial size: what odd sizes need after doubling."""
    axes = range(2, 2 + len(size))
    cut = [(a, n) for a, n in zip(axes, size, strict=True) if x.shape[a] > n]
    if cut:
        x = net("Slice", x, net.ints([0] * len(cut)), net.ints([n for _, n in cut]), net.ints([a for a, _ in cut]))
    short = [n - have for n, have in zip(size, spatial(x), strict=True)]
    return pad(net, x, [0] * len(size), short) if any(short) else x


def halve(net: Any, x: Any) -> Any:
    return pool(net, x, "MaxPool")


def transposed(net: Any, x: Any, size: Sequence[int], out: int) -> Any:
    """Up by a transposed convolution, then cropped or padded to the size of the skip."""
    return fit(net, upconv(net, x, out, bias=True), size)


def nearest(net: Any, x: Any, size: Sequence[int], out: int) -> Any:
    """Up by nearest neighbours to the size of the skip; the channels stay."""
    return resize(net, x, size)


def smooth(net: Any, x: Any, size: Sequence[int], out: int) -> Any:
    """Up by linear interpolation to the size of the skip; the channels stay."""
    return resize(net, x, size, "linear")


def joined(net: Any, skip: Any, up: Any, coarse: Any) -> Any:
    return concat(net, skip, up)


def attention_gate(net: Any, skip: Any, g: Any, inner: int) -> Any:
    """The additive gate on a skip: sigmoid(psi(relu(theta(skip) + phi(g)))), g brought to the size of the skip."""
    if spatial(g) != spatial(skip):
        g = resize(net, g, spatial(skip), "linear")
    both = act(net, add(net, pointwise(net, skip, inner), pointwise(net, g, inner, bias=True)))
    return mul(net, skip, act(net, pointwise(net, both, 1, bias=True), "Sigmoid"))


def gated(net: Any, skip: Any, up: Any, coarse: Any) -> Any:
    return concat(net, attention_gate(net, skip, up, max(1, channels(skip) // 2)), up)


def u_shape(
    net: Any,
    x: Any,
    widths: Sequence[int],
    stage: Callable[..., Any] = double,
    down: Callable[..., Any] = halve,
    rise: Callable[..., Any] = transposed,
    join: Callable[..., Any] = joined,
    enter: Callable[..., Any] | None = None,
) -> list[Any]:
    """Encoder and decoder with skips; the decoder's features, finest first.

    stage (net, x, out); down (net, x); rise (net, x, size, out); join (net, skip, up, coarse); enter (net, x, level) before a stage
    """
    skips = list[Any]()
    for i, width in enumerate(widths):
        x = stage(net, x if enter is None else enter(net, x, i), width)
        if i < len(widths) - 1:
            skips.append(x)
            x = down(net, x)
    features = [x]
    for skip in reversed(skips):
        x = stage(net, join(net, skip, rise(net, x, spatial(skip), channels(skip)), x), channels(skip))
        features.insert(0, x)
    return features


def classes(net: Any, x: Any, n: int) -> Any:
    """A 1x1 head and a softmax over its channels; a sigmoid for one class."""
    y = pointwise(net, x, n, bias=True)
    return act(net, y, "Sigmoid") if n == 1 else softmax(net, y, 1)


def pixel_shuffle(net: Any, x: Any, r: Sequence[int]) -> Any:
    """Channels to positions for any rank: (N, C prod(r), *S) to (N, C, *(S r)), channel-major like CRD."""
    n, c, size, rank = x.shape[0], channels(x), spatial(x), len(r)
    blocks = 1
    for k in r:
        blocks *= k
    need(c % blocks == 0, f"pixel shuffle: {c} channels by {blocks}")
    y = reshape(net, x, [n, c // blocks, *r, *size])
    y = transpose(net, y, [0, 1, *(v for i in range(rank) for v in (2 + rank + i, 2 + i))])
    return reshape(net, y, [n, c // blocks, *(s * k for s, k in zip(size, r, strict=True))])


def pixel_unshuffle(net: Any, x: Any, r: Sequence[int]) -> Any:
    """The inverse of pixel_shuffle."""
    n, c, size, rank = x.shape[0], channels(x), spatial(x), len(r)
    need(all(s % k == 0 for s, k in zip(size, r, strict=True)), f"pixel unshuffle: {size} by {tuple(r)}")
    blocks = 1
    for k in r:
        blocks *= k
    y = reshape(net, x, [n, c, *(v for s, k in zip(size, r, strict=True) for v in (s // k, k))])
    y = transpose(net, y, [0, 1, *range(3, 3 + 2 * rank, 2), *range(2, 2 + 2 * rank, 2)])
    return reshape(net, y, [n, c * blocks, *(s // k for s, k in zip(size, r, strict=True))])


def dice(net: Any, p: Any, g: Any, axes: Sequence[int], squared: bool = False, epsilon: float = 1e-5) -> Any:
    """1 - (2 sum pg + e) / (sum p + sum g + e) over the axes; the denominators with squares where asked for."""

    def total(v: Any) -> Any:
        return net("ReduceSum", v, net.ints(axes), keepdims=0)

    weights = net("Add", total(mul(net, p, p) if squared else p), total(mul(net, g, g) if squared else g))
    top = net("Add", net("Mul", total(mul(net, p, g)), net.const(2.0)), net.const(epsilon))
    return net("Sub", net.const(1.0), net("Div", top, net("Add", weights, net.const(epsilon))))


def flip(net: Any, x: Any, axes: Sequence[int]) -> Any:
    """Reversed along axes, as a Slice with negative steps."""
    n = len(axes)
    return net("Slice", x, net.ints([-1] * n), net.ints([-(1 << 31)] * n), net.ints(axes), net.ints([-1] * n))


def sigmoid_head(net: Any, x: Any, n: int = 1) -> Any:
    return act(net, pointwise(net, x, n, bias=True), "Sigmoid")
