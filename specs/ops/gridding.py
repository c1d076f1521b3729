"""Sampling at positions that are data: GridSample, and AffineGrid that computes such positions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from specs import Draw, Rule, op
from specs.formats import FLOATS
from specs.numerics import INF, TYPICAL, Ball, Policy, Radii, finite, gamma, settle, undecided, zeros_like
from specs.ops.interpolation import U, cubic_kernel, linear_kernel
from specs.ops.shape import any_type
from specs.program import Node
from specs.rule import Dim

CUBIC = -0.75  # the coefficient of Keys' kernel, fixed for this operator


class Taps(NamedTuple):
    """Along one axis: neighbours, whether they are inside, weights, and how far coordinates and rounding can move a weight."""

    at: Tensor
    inside: Tensor
    value: Tensor
    moved: Tensor
    rounded: Tensor


def _mode(a: Node) -> str:
    mode: str = a.mode
    return {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)


def _reflect(x: Tensor, low: float, high: float) -> Tensor:
    span = high - low
    if span <= 0:
        return torch.zeros_like(x)
    turn = torch.remainder(x - low, 2 * span)
    return low + torch.where(turn > span, 2 * span - turn, turn)


def _borders(a: Node, size: int) -> tuple[float, float]:
    return (0.0, size - 1.0) if a.align_corners else (-0.5, size - 0.5)


def _position(a: Node, n: Tensor, size: int) -> Tensor:
    """From [-1, 1] to indices."""
    return (n + 1) / 2 * (size - 1) if a.align_corners else ((n + 1) * size - 1) / 2


def _folded(a: Node, x: Tensor, size: int) -> Tensor:
    """A position outside, brought back as the padding mode says; zeros leaves it."""
    low, high = _borders(a, size)
    off = (x < low) | (x > high)
    if a.padding_mode == "border":
        return torch.where(off, x.clamp(0, size - 1), x)
    return torch.where(off, _reflect(x, low, high), x) if a.padding_mode == "reflection" else x


def _pixel(a: Node, i: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Neighbours as valid indices, and which of them count."""
    inside = (i >= 0) & (i < size) if a.padding_mode == "zeros" else torch.ones_like(i, dtype=torch.bool)
    i = _reflect(i, *_borders(a, size)) if a.padding_mode == "reflection" else i
    return i.nan_to_num(0.0).clamp(0, size - 1).long(), inside


def _taps(a: Node, x: Tensor, size: int, delta: Tensor | None = None, unit: float = 0.0) -> Taps:
    """Neighbours of folded positions; with `delta` those that a moved position could reach as well."""
    cubic = _mode(a) == "cubic"
    reach = (2 if cubic else 1) + (delta is not None)
    i = torch.floor(x)[..., None] + torch.arange(1 - reach, reach + 1, dtype=x.dtype)
    kernel = cubic_kernel if cubic else linear_kernel
    w, rough = kernel(i - x[..., None], CUBIC)
    moved = torch.zeros_like(w)
    if delta is not None:
        ends = [(kernel(i - (x + s * delta)[..., None], CUBIC)[0] - w).abs() for s in (-1, 1)]
        moved = ends[0].maximum(ends[1]) + (20 * delta * delta)[..., None]
    at, inside = _pixel(a, i, size)
    return Taps(at, inside, w, moved, rough * (6 * unit if cubic else unit))


def _joined(parts: Sequence[Tensor], sizes: Sequence[int] | None = None) -> Tensor:
    """Products of the axes' weights (or, with sizes, flat indices): (batch, points, every combination of neighbours)."""
    total = parts[0]
    for k, part in enumerate(parts[1:], 1):
        one, two = total[..., :, None], part[..., None, :]
        total = (one * sizes[k] + two if sizes is not None else one & two if part.dtype == torch.bool else one * two).flatten(-2)
    return total


def _taken(x: Tensor, index: Tensor) -> Tensor:
    """(batch, channels, points, combinations) of a flattened image at (batch, points, combinations)."""
    n, c = x.shape[:2]
    flat = index.reshape(n, 1, -1).expand(n, c, -1)
    return x.reshape(n, c, math.prod(x.shape[2:])).gather(2, flat).reshape([n, c, *index.shape[1:]])


def _nearest(a: Node, positions: Sequence[Tensor], sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Flat index and presence of the neighbour each position takes; halves go to even."""
    pixels = [_pixel(a, _folded(a, p.round(), s), s) for p, s in zip(positions, sizes, strict=True)]
    return _joined([i[..., None] for i, _ in pixels], sizes), _joined([k[..., None] for _, k in pixels])


def _positions(a: Node, x: Tensor, grid: Tensor) -> list[Tensor]:
    """Where each point lies on each axis: (batch, points) an axis; the grid lists the innermost axis first."""
    rank = x.ndim - 2
    points = grid.reshape(grid.shape[0], math.prod(grid.shape[1:-1]), rank)
    return [_position(a, points[..., rank - 1 - k], x.shape[2 + k]) for k in range(rank)]


@any_type
def _grid_sample(a: Node, x: Tensor, grid: Tensor) -> Tensor:
    sizes, out = x.shape[2:], [*x.shape[:2], *grid.shape[1:-1]]
    if grid.dtype in (torch.float16, torch.bfloat16):
        grid = grid.float()
    positions = _positions(a, x, grid)
    if _mode(a) == "nearest":
        at, inside = _nearest(a, positions, sizes)
        y = _taken(x, at)
        return torch.where(inside[:, None], y, torch.zeros_like(y)).reshape(out)
    wide = x if x.dtype in (torch.float32, torch.float64) or x.is_complex() else x.float() if x.is_floating_point() else x.double()
    taps = [_taps(a, _folded(a, p, s), s) for p, s in zip(positions, sizes, strict=True)]
    w = _joined([t.value * t.inside for t in taps])
    y = (_taken(wide, _joined([t.at for t in taps], sizes)) * w[:, None].to(wide.dtype)).sum(-1).reshape(out)
    return y.trunc().to(x.dtype) if not (x.is_floating_point() or x.is_complex()) else y.to(x.dtype)


def _grid_sample_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """Positions are uncertain by the grid's radii and a few roundings; see Resize, but here no axis is separable."""
    x, grid = balls[0], balls[1]
    assert x is not None and grid is not None
    form, [y] = node.out_formats[0], ys
    if form is None or not (form.is_float or _mode(node) == "nearest") or not isinstance(x.value, torch.Tensor):
        return [(undecided(y), undecided(y))]
    sizes, out = x.value.shape[2:], y.shape
    unit = max(policy.u(node.in_formats[1]), U)  # ONNX's own reference computes positions in float, whatever the type
    image, radius = x.value.double(), [finite(r) if r is not None else zeros_like(x.value) for r in (x.worst, x.spread)]
    positions = _positions(node, x.value, grid.value.double())
    shape = [out[0], out[1], math.prod(out[2:])]
    slack = [(p.abs() + (s + 1)) * (4 * unit) for p, s in zip(positions, sizes, strict=True)]
    weighted = _weighted_size(node, image, positions) if _mode(node) != "nearest" else None
    n, u, acc, eta = (4 if _mode(node) == "cubic" else 2) ** len(sizes) + 2, policy.u(form), policy.accumulation(form), policy.eta(form)
    r, result = None, []
    for which, e in ((1, radius[0]), (2, radius[1])):
        off = grid[which] if grid[which] is not None else zeros_like(grid.value)
        points = finite(off).reshape(grid.value.shape[0], math.prod(out[2:]), len(sizes))
        delta = [d + points[..., len(sizes) - 1 - k] * (s / 2) for k, (d, s) in enumerate(zip(slack, sizes, strict=True))]
        far = torch.stack(delta).amax(0)[:, None] > 0.4  # the bounds below are for less than half a pixel
        if weighted is None:
            r = _nearest_radius(node, image, e, positions, delta, y.double().reshape(shape))
            result.append(settle(r.masked_fill(far, INF)).reshape(out))
            continue
        if r is None or x.worst is not None or grid.worst is not None:  # else both radii are the same but for rounding
            r = _weighted_radius(node, image, e, positions, delta, y.double().reshape(shape), unit, which == 2)
        own = weighted * (gamma(n, acc) + u) + eta * n if which == 1 else weighted * (TYPICAL * (math.sqrt(n) * acc + u)) + eta
        total = r + own if which == 1 else (r.square() + own.square()).sqrt()
        result.append(settle(total.masked_fill(far, INF)).reshape(out))
    return [(result[0], result[1])]


def _nearest_radius(a: Any, image: Tensor, e: Tensor, positions: Sequence[Tensor], delta: Sequence[Tensor], y: Tensor) -> Tensor:
    """The farthest of the neighbours that positions within their uncertainty take."""
    at, inside = _nearest(a, positions, image.shape[2:])
    r = (_taken(e, at) * inside[:, None])[..., 0]
    for signs in range(2 ** len(positions)):
        moved = [p + d * (1 if signs >> k & 1 else -1) for k, (p, d) in enumerate(zip(positions, delta, strict=True))]
        other, there = _nearest(a, moved, image.shape[2:])
        far = ((_taken(image, other) * there[:, None])[..., 0] - y).abs() + (_taken(e, other) * there[:, None])[..., 0]
        r = torch.where(((other != at) | (there != inside))[:, None, :, 0], r.maximum(far), r)
    return r


def _weighted_size(a: Any, image: Tensor, positions: Sequence[Tensor]) -> Tensor:
    taps = [_taps(a, _folded(a, p, s), s) for p, s in zip(positions, image.shape[2:], strict=True)]
    return (_taken(image.abs(), _joined([t.at for t in taps], image.shape[2:])) * _joined([t.value.abs() * t.inside for t in taps])[:, None]).sum(-1)


def _near_border(a: Any, x: Tensor, size: int, delta: Tensor) -> Tensor:
    """Where a moved position may lie on the other side of the border, behind which it is brought back to the last pixel."""
    low, high = _borders(a, size)
    return ((x - low).abs() <= delta) | ((x - high).abs() <= delta)


def _weighted_radius(a: Any, image: Tensor, e: Tensor, positions: Sequence[Tensor], delta: Sequence[Tensor], y: Tensor, unit: float, likely: bool) -> Tensor:
    """Inherited radii through the weights, plus weights that a moved position changes, on the distance to the result."""
    sizes = image.shape[2:]
    ways = [[_folded(a, p, s) for p, s in zip(positions, sizes, strict=True)]]
    if _mode(a) == "cubic" and a.padding_mode == "border":
        # Whether the position or only its neighbours are brought back is open, and axis by axis on which side of the border it is.
        options = [
            (_folded(a, p, s), p, torch.where(_near_border(a, p, s, d), p.clamp(0, s - 1), _folded(a, p, s)))
            for p, s, d in zip(positions, sizes, delta, strict=True)
        ]
        ways = [list(way) for way in itertools.product(*options)]
    total = None
    for way in ways:
        taps = [_taps(a, p, s, d, unit) for p, s, d in zip(way, sizes, delta, strict=True)]
        index, inside = _joined([t.at for t in taps], sizes), _joined([t.inside for t in taps])[:, None]
        w, moved, most = (
            _joined([f(t) for t in taps])[:, None]
            for f in (lambda t: t.value, lambda t: t.value.abs() + t.moved, lambda t: t.value.abs() + t.moved + t.rounded)
        )
        taken, carried = _taken(image, index) * inside, _taken(e, index) * inside
        there = (taken * w).sum(-1)
        # A moved position changes weights whose sum stays 1, so only differences count; rounding does not keep the sum.
        own = ((taken - there[..., None]).abs() * (moved - w.abs()) + taken.abs() * (most - moved)).sum(-1)
        own = own + (there - y).abs() * (len(ways) > 1)
        r = (own.square() + (carried * w).square().sum(-1)).sqrt() if likely else own + (carried * most).sum(-1)
        total = r if total is None else total.maximum(r)
    assert total is not None
    return total


@op("GridSample", meaning=_grid_sample, error=_grid_sample_error, since=16)
def grid_sample(g: Draw) -> Rule:
    """Values between pixels, at positions given by a grid."""
    modes = ["linear", "nearest", "cubic"] if g.opset >= 20 else ["bilinear", "nearest", "bicubic"]
    mode = g.pick(modes)
    rank = 2 if g.opset < 20 or mode == modes[2] else g.pick([2, 2, 2, 3, 3, 1])
    x = g.operand(rank=rank + 2, among=None if mode == "nearest" else FLOATS)
    space: list[Dim] = g.sizes(rank, 1, 6)
    reach = g.pick([1.0, 1.3, 2.5])
    grid = g.given([x[0], *space, rank], -reach, reach) if g.flag(0.8) else g.operand(like=[x[0], *space, rank])
    attrs: dict[str, Any] = {} if mode == modes[0] else {"mode": mode}
    padding = g.pick(["zeros", "border", "reflection"])
    if padding != "zeros":
        attrs["padding_mode"] = padding
    if g.flag():
        attrs["align_corners"] = 1
    return Rule([x, grid], [[x[0], x[1], *space]], attrs)


# AffineGrid ------------------------------------------------------------------------------------------------------------
def _steps(n: int, corners: bool) -> Tensor:
    """Positions of n pixels in [-1, 1]; a single one is in the middle."""
    i = torch.arange(n, dtype=torch.float64)
    if corners:
        return i * 2 / (n - 1) - 1 if n > 1 else torch.zeros(n, dtype=torch.float64)
    return (2 * i + 1) / n - 1


def _base(a: Node, space: Sequence[int]) -> Tensor:
    """Homogeneous positions (points, rank + 1), innermost axis first."""
    axes = torch.meshgrid(*[_steps(n, bool(a.align_corners)) for n in space], indexing="ij")
    return torch.stack([*[axis.reshape(-1) for axis in reversed(axes)], torch.ones(math.prod(space), dtype=torch.float64)], -1)


def _affine_grid(a: Node, theta: Tensor, size: Tensor) -> Tensor:
    space = size.tolist()[2:]
    wide = theta if theta.dtype in (torch.float32, torch.float64) else theta.float()
    y = torch.einsum("pk,nik->npi", _base(a, space).to(wide.dtype), wide)
    return y.reshape([theta.shape[0], *space, len(space)]).to(theta.dtype)


def _affine_grid_error(node: Any, policy: Policy, balls: Sequence[Ball | None], ys: Sequence[Any]) -> Sequence[Radii]:
    """A contraction of rank + 1 terms whose positions are themselves off by a few roundings."""
    theta, size = balls[0], balls[1]
    assert theta is not None and size is not None
    alone = bool(node.align_corners) and 1 in size.value.tolist()[2:]  # where its centre lies is open: -1, 0, 1 and NaN are seen
    if size.worst is not None or alone:
        return [(undecided(ys[0]), undecided(ys[0]))]
    base, form, n = _base(node, size.value.tolist()[2:]).abs(), node.out_formats[0], theta.value.shape[-1]
    u, acc = policy.u(form), policy.accumulation(form)

    def through(one: Tensor, two: Tensor) -> Tensor:
        return torch.einsum("pk,nik->npi", one, two).reshape(ys[0].shape)

    off = torch.full_like(base, 4 * u) * (torch.arange(n) < n - 1)
    shifted, total = through(off, theta.value.abs()), through(base, theta.value.abs())
    worst, spread = total * (gamma(n + 2, acc) + u) + shifted + policy.eta(form), total * (TYPICAL * (math.sqrt(n) * acc + u)) + shifted + policy.eta(form)
    if theta.worst is not None:
        worst = worst + through(base + off, finite(theta.worst))
        spread = (spread.square() + through(base.square(), finite(theta.spread).clamp(max=1e150).square())).sqrt()
    return [(settle(worst), settle(spread))]


@op("AffineGrid", meaning=_affine_grid, error=_affine_grid_error, since=20)
def affine_grid(g: Draw) -> Rule:
    """A sampling grid from affine matrices."""
    rank = g.int(2, 3)
    theta = g.operand(like=[None, rank, rank + 1])
    corners = g.flag()
    space = g.sizes(rank, 2 if corners else 1, 12)
    size = g.const([theta[0], g.size(1, 4), *space])
    return Rule([theta, size], [[theta[0], *space, rank]], {"align_corners": 1} if corners else {})
