"""Signal processing: window functions, MelWeightMatrix, DFT, STFT."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from specs import Draw, Rule, op
from specs.formats import BY_ONNX, FLOAT, FLOATS, Format
from specs.numerics import INF, Ball, Policy, Radii, finite, settle, undecidable
from specs.program import Node
from specs.rule import Misfit
from specs.terms import floor_div, known


def _cosines(a: Node, size: Tensor, weights: Sequence[float]) -> Tensor:
    """A window before its cast: the alternating sum of weighted cosines of 0, 1, 2 times the angle."""
    n = int(size.reshape(()))
    angle = torch.arange(n, dtype=torch.float64) * (2 * math.pi) / torch.tensor(float(n if a.periodic else n - 1), dtype=torch.float64)
    return sum(((-1) ** i * w * (i * angle).cos() for i, w in enumerate(weights[1:], 1)), torch.full((n,), weights[0], dtype=torch.float64))


def _window(weights: Sequence[float]) -> Callable[..., Tensor]:
    def meaning(a: Node, size: Tensor) -> Tensor:
        return _cosines(a, size, weights).to(a.torch(BY_ONNX[a.output_datatype]))

    return meaning


def _window_error(weights: Sequence[float]) -> Callable[..., Sequence[Radii]]:
    """ONNX defines windows in 32-bit floats whatever the result's type: their angles, up to 4 pi, carry three roundings."""

    def rule(a: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Tensor]) -> Sequence[Radii]:
        form = a.out_formats[0]
        if any(b is not None and b.worst is not None for b in balls) or form is None:
            return undecidable(a, policy, balls, ys)
        u, y = max(policy.u(form), FLOAT.u), ys[0]
        if form.is_float:
            worst = torch.full(y.shape, 32 * u + policy.eta(form), dtype=torch.float64).masked_fill(y.isnan(), INF)
            return [(worst, worst / 4)]
        assert balls[0] is not None
        before = _cosines(a, balls[0].value, weights)
        near = ((before - before.round()).abs() <= 32 * u) | before.isnan()
        radius = torch.zeros(y.shape, dtype=torch.float64).masked_fill(near, INF)
        return [(radius, radius)]

    return rule


def _draw_window(g: Draw) -> Rule:
    n = g.size(2, 40)
    size = g.const(n)
    attrs: dict[str, Any] = {"periodic": g.int(0, 1)} if g.flag() else {}
    form = g.type("T2", among=None if g.flag(0.4) else FLOATS)
    if form is not FLOAT or g.flag(0.3):
        attrs["output_datatype"] = form.onnx
    return Rule([size], [[n]], attrs)


for _name, _weights in (("HannWindow", (0.5, 0.5)), ("HammingWindow", (25 / 46, 21 / 46)), ("BlackmanWindow", (0.42, 0.5, 0.08))):
    op(_name, meaning=_window(_weights), error=_window_error(_weights), since=17, weight=0.2)(_draw_window)


# MelWeightMatrix -----------------------------------------------------------------------------------------------------------
def _mel_positions(bands: Tensor, length: Tensor, rate: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Where the edges of the triangles lie, in spectrogram bins before rounding down, and how far off 32-bit floats may put them."""
    low, high = (2595 * math.log10(1 + float(edge) / 700) for edge in (lower, upper))
    count = int(bands) + 2
    mel = torch.arange(count, dtype=torch.float64) * ((high - low) / count) + low
    hertz = 700 * torch.expm1(mel * (math.log(10) / 2595))
    scale = (int(length) + 1) / int(rate)
    return hertz * scale, ((hertz + 700) * (scale * 128 * FLOAT.u)).masked_fill(mel == 0, 0)


def _mel(a: Node, bands: Tensor, length: Tensor, rate: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    edge = _mel_positions(bands, length, rate, lower, upper)[0].floor()
    left, centre, right = edge[:-2], edge[1:-1], edge[2:]
    at = torch.arange(int(length) // 2 + 1, dtype=torch.float64).unsqueeze(1)
    rising = torch.where(centre == left, 1.0, (at - left) / (centre - left).clamp(min=1))
    falling = (right - at) / (right - centre).clamp(min=1)
    y = torch.where((at >= left) & (at <= centre), rising, 0.0)
    y = torch.where((at >= centre) & (at < right), falling, y)
    return y.to(a.torch(BY_ONNX[a.output_datatype]))


def _mel_error(a: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Tensor]) -> Sequence[Radii]:
    """Quotients of small integers, where rounding down is certain for all three edges of a triangle."""
    form, y = a.out_formats[0], ys[0].double()
    if any(b is None or b.worst is not None for b in balls):
        return undecidable(a, policy, balls, ys)
    position, error = _mel_positions(*(b.value for b in balls if b is not None))
    unsure = (position - error).floor() != (position + error).floor()
    radius = y.abs() * (4 * policy.u(form))
    if form is not None and not form.is_float:  # a quotient just below a whole number may have been rounded up to it, or not
        radius = ((y > 0) & (y < 1)).double()
    columns = unsure[:-2] | unsure[1:-1] | unsure[2:]
    radius = radius.masked_fill(columns, INF)
    return [(radius, radius)]


@op("MelWeightMatrix", meaning=_mel, error=_mel_error, since=17, weight=0.1)
def mel_weight_matrix(g: Draw) -> Rule:
    """Triangles on the mel scale, over half of a spectrum, sometimes so narrow that they fall into one bin."""
    bands, length, rate = g.size(1, 16), g.size(8, 64), g.pick([8192, 16000, 22050, 44100])
    g.type("T1")
    operands = [g.const(v) for v in (bands, length, rate)]
    lower, upper = g.pick([0.0, 20.0, 300.0]), g.pick([4000.0, 3500.0, 1000.0])
    kind = g.type("T2").numpy
    operands += [g.const(np.array(lower, kind)), g.const(np.array(upper, kind))]
    form = g.type("T3", among=None if g.flag(0.7) else FLOATS)
    attrs = {} if form is FLOAT and g.flag() else {"output_datatype": form.onnx}
    return Rule(operands, [[floor_div(length, 2) + 1, bands]], attrs)


# DFT -----------------------------------------------------------------------------------------------------------------------
def _complex(x: Tensor) -> Tensor:
    """The last dim of size 1 or 2 as a real or complex number; torch has no transforms of 16-bit floats."""
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return x[..., 0] if x.shape[-1] == 1 else torch.complex(x[..., 0], x[..., 1])


def _axis(a: Node, x: Tensor, axis: Tensor | None) -> int:
    at = (a.axis if a.version < 20 else -2) if axis is None else int(axis)
    return at % x.dim()


def _length(a: Node, x: Tensor, at: int, length: Tensor | None) -> int:
    if length is not None:
        return int(length)
    return 2 * (x.shape[at] - 1) if a.inverse and a.onesided else x.shape[at]


def _dft(a: Node, x: Tensor, length: Tensor | None = None, axis: Tensor | None = None) -> Tensor:
    at = _axis(a, x, axis)
    n, signal = _length(a, x, at, length), _complex(x)
    if a.inverse and a.onesided:
        return torch.fft.irfft(signal, n, at).unsqueeze(-1).to(x.dtype)
    y = torch.fft.ifft(signal, n, at) if a.inverse else torch.fft.fft(signal, n, at)
    if a.onesided:
        y = y.narrow(at, 0, n // 2 + 1)
    return torch.view_as_real(y.resolve_conj()).to(x.dtype)


def _transformed(policy: Policy, form: Format | None, size: Tensor, energy: Tensor, n: int) -> Radii:
    """Roundings of one transform of n terms, given the sum and the root of the sum of squares of their magnitudes.

    Angles may have been computed without reducing them first, and lengths without small factors take a convolution of twice
    the length: hence the large factor of n.
    """
    u, u_acc = policy.u(form), policy.accumulation(form)
    grow = (8 * n + 32) * u_acc + 2 * u
    worst = size * (grow if grow < 1 else INF) + policy.eta(form) * (n + 1)
    spread = energy * ((6 * n + 8) * u_acc + u) + policy.eta(form)  # what convolutions in use were seen to need
    return worst, spread.minimum(worst)


def _sums(x: Tensor, at: int, n: int) -> tuple[Tensor, Tensor]:
    """Sum of magnitudes and root of the sum of squares over the first n positions and the complex parts, kept as dims of 1."""
    x = x.narrow(at, 0, min(n, x.shape[at])).abs()
    return x.sum((at, -1), keepdim=True), x.square().sum((at, -1), keepdim=True).sqrt()


def _dft_error(a: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Tensor]) -> Sequence[Radii]:
    """Every result is a sum of all terms with factors of magnitude 1."""
    if any(b is not None and b.worst is not None for b in balls[1:]):
        return undecidable(a, policy, balls, ys)
    ball, length, axis = (*balls, None, None)[:3]
    assert ball is not None
    x, y = ball.value, ys[0]
    at = _axis(a, x, None if axis is None else axis.value)
    n = _length(a, x, at, None if length is None else length.value)
    # A one-sided spectrum stands for twice as many terms.
    scale = (2 if a.onesided else 1) / n if a.inverse else 1
    size, energy = _sums(x, at, n)
    worst, spread = _transformed(policy, a.out_formats[0], size * scale, energy * scale, n)
    if ball.worst is not None:
        worst = worst + _sums(finite(ball.worst), at, n)[0] * scale
        spread = (spread.square() + (_sums(finite(ball.spread).clamp(max=1e150), at, n)[1] * scale).square()).sqrt()
    return [(settle(worst).expand(y.shape), settle(spread).expand(y.shape))]


@op("DFT", meaning=_dft, error=_dft_error, since=17, weight=0.3)
def dft(g: Draw) -> Rule:
    """Real and complex, forward and back, one-sided or not, cut short or padded."""
    inverse, onesided = g.flag(0.4), g.flag(0.4)
    parts = (2 if inverse else 1) if onesided else g.int(1, 2)
    rank = g.int(2, 5)
    x = g.operand(like=[*([None] * (rank - 1)), parts])
    at = g.int(0, rank - 2)
    n = x[at]
    inputs: list[Any] = [x]
    told = g.flag(0.4)
    if inverse and onesided:
        # How much of a spectrum that is too long for the length counts as "the first values" is anybody's guess: not drawn.
        n = 2 * (x[at] - 1) + (g.pick([0, 1, 0, 2, 3, 8]) if told else 0)
        g.require(n > 0)
    elif told:
        n = g.size(1, 24)
    if told:
        g.type("T2")
        inputs.append(g.const(n))
    else:
        g.skip()
        inputs.append(None)
    attrs: dict[str, Any] = {**({"inverse": 1} if inverse else {}), **({"onesided": 1} if onesided else {})}
    axis = at - rank if g.flag(0.4) else at
    if g.opset < 20:
        if axis != 1 or g.flag():
            attrs["axis"] = axis
    elif at != rank - 2 or g.flag():
        inputs.append(g.const(axis))
    out = list(x)
    out[at] = floor_div(n, 2) + 1 if onesided and not inverse else n
    out[-1] = 1 if onesided and inverse else 2
    return Rule(inputs, [out], attrs)


# STFT ----------------------------------------------------------------------------------------------------------------------
def _frames(x: Tensor, step: Tensor, window: Tensor | None, length: Tensor | None) -> Tensor:
    """The weighted frames of a signal: [batch, frames, length, parts]."""
    n = int(length) if length is not None else x.shape[1] if window is None else window.shape[0]
    y = x.unfold(1, n, int(step)).transpose(2, 3)
    return y if window is None else y * F.pad(window, (0, n - window.shape[0])).unsqueeze(1)


def _stft(a: Node, x: Tensor, step: Tensor, window: Tensor | None = None, length: Tensor | None = None) -> Tensor:
    y = _frames(x, step, window, length)
    n = y.shape[2]
    y = torch.view_as_real(torch.fft.fft(_complex(y), n, 2))
    return (y.narrow(2, 0, n // 2 + 1) if a.onesided else y).to(x.dtype)


def _stft_error(a: Node, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Tensor]) -> Sequence[Radii]:
    """That of the transform of each frame, with one more rounding for its weights."""
    signal, step, window, length = (*balls, None, None)[:4]
    if signal is None or step is None or step.worst is not None or (length is not None and length.worst is not None):
        return undecidable(a, policy, balls, ys)
    n_of = None if length is None else length.value

    def framed(x: Tensor, w: Tensor | None) -> Tensor:
        return _frames(x.double(), step.value, w if w is None else w.double(), n_of)

    size, weight = signal.value.abs(), None if window is None else window.value.abs()
    terms, y = framed(size, weight), ys[0]
    n = terms.shape[2]
    worst, spread = _transformed(policy, a.out_formats[0], *_sums(terms, 2, n), n + 1)
    if signal.worst is not None:
        worst = worst + _sums(framed(finite(signal.worst), weight), 2, n)[0]
        spread = (spread.square() + _sums(framed(finite(signal.spread).clamp(max=1e150), weight), 2, n)[1].square()).sqrt()
    if window is not None and window.worst is not None:
        reach = size if signal.worst is None else size + finite(signal.worst)
        worst = worst + _sums(framed(reach, finite(window.worst)), 2, n)[0]
        spread = (spread.square() + _sums(framed(size, finite(window.spread).clamp(max=1e150)), 2, n)[1].square()).sqrt()
    return [(settle(worst).expand(y.shape), settle(spread).expand(y.shape))]


@op("STFT", meaning=_stft, error=_stft_error, since=17, weight=0.3)
def stft(g: Draw) -> Rule:
    """Overlapping or gapped frames, weighted or not, of real or complex signals."""
    parts = 2 if g.flag(0.3) else 1
    x = g.operand(like=[None, None, parts])
    size, step = x[1], g.int(1, 8)
    whole, weighted, told = g.flag(0.1), g.flag(0.6), g.flag()
    n = size if whole else g.size(1, size) if known(size) else g.int(1, 8)
    if not known(size) and not whole:
        g.require(size >= n)
    if not whole and not weighted:
        told = True
    if known(n) and n < 1:
        raise Misfit("STFT: an empty signal")
    g.type("T2")
    inputs: list[Any] = [x, g.const(step)]
    if weighted:
        inputs.append(g.operand(like=[n], role="weight"))
    else:
        g.skip()
        inputs.append(None)
    if told:
        inputs.append(g.const(n))
    onesided = parts == 1 and g.flag(0.6)
    # Always written: strict shape inference takes 0 for an absent attribute, whose default is 1.
    attrs = {"onesided": int(onesided)}
    return Rule(inputs, [[x[0], floor_div(size - n, step) + 1, floor_div(n, 2) + 1 if onesided else n, 2]], attrs)
