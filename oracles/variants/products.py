"""Matrix products and convolutions by other algorithms."""

from __future__ import annotations

import math
from typing import Any

from oracles.rewriting import Run, is_float, lazily
from oracles.variants import variant

torch = lazily("torch")
windows = lazily("specs.ops.windows")


def _wide(t: Any) -> Any:
    return t.float() if t is not None and t.dtype.itemsize < 4 else t


@variant("matmul-split-k", ["MatMul", "Gemm"], policy="strict")
def split_k(run: Run, node: Any, args: list[Any]) -> Any:
    """Two halves of the inner dim multiplied apart and added, as GPU kernels do for long ones."""
    x, y = args[:2]
    if not is_float(x) or x.ndim < 2 or y.ndim < 2 or node.op.domain:
        return None
    gemm = node.op.name == "Gemm"
    a, b = _wide(x.t() if gemm and node.transA else x), _wide(y.t() if gemm and node.transB else y)
    at = a.shape[-1] // 2
    product = a[..., :at] @ b[..., :at, :] + a[..., at:] @ b[..., at:, :]
    if gemm:
        product = product * node.alpha
        if len(args) > 2 and args[2] is not None and node.beta:
            product = product + _wide(args[2]) * node.beta
    return product.to(x.dtype)


@variant("matmul-transposed", ["MatMul"], policy="strict")
def transposed(run: Run, node: Any, args: list[Any]) -> Any:
    """A B as the transpose of B' A': another loop order in the library."""
    x, y = args
    if not is_float(x) or x.ndim < 2 or y.ndim < 2 or node.op.domain:
        return None
    return (_wide(y).transpose(-1, -2).contiguous() @ _wide(x).transpose(-1, -2).contiguous()).transpose(-1, -2).to(x.dtype)


@variant("conv-im2col", ["Conv"], policy="strict")
def im2col(run: Run, node: Any, args: list[Any]) -> Any:
    """Windows copied into a matrix, then one matrix product per group."""
    x, w = args[:2]
    if not is_float(x) or not x.numel() or not w.numel():
        return None
    axes, group = windows.place(node, x.shape[2:], w.shape[2:]), node.group or 1
    view = windows.cut(_wide(x), axes)
    columns = view.reshape(x.shape[0], group, x.shape[1] // group, math.prod(v.out for v in axes), -1).permute(0, 1, 3, 2, 4).flatten(3)
    y = (columns @ _wide(w).reshape(group, w.shape[0] // group, -1).transpose(1, 2)).transpose(2, 3).reshape(x.shape[0], w.shape[0], *(v.out for v in axes))
    if len(args) > 2 and args[2] is not None:
        y = y + _wide(args[2]).reshape(-1, *[1] * len(axes))
    return y.to(x.dtype)


@variant("conv-channels-last", ["Conv"], policy="strict")
def channels_last(run: Run, node: Any, args: list[Any]) -> Any:
    """One product per tap of the kernel, over the channels, added tap by tap."""
    x, w = args[:2]
    if not is_float(x) or not x.numel() or not w.numel() or (node.group or 1) != 1:
        return None
    axes = windows.place(node, x.shape[2:], w.shape[2:])
    view = windows.cut(_wide(x), axes).flatten(-len(axes))
    view = view.movedim(1, -1)  # n, *out, taps, c
    kernel, y = _wide(w).flatten(2), None
    for t in range(kernel.shape[-1]):
        part = view[..., t, :] @ kernel[..., t].t()
        y = part if y is None else y + part
    assert y is not None
    y = y.movedim(-1, 1)
    if len(args) > 2 and args[2] is not None:
        y = y + _wide(args[2]).reshape(-1, *[1] * len(axes))
    return y.to(x.dtype)


@variant("conv-winograd", ["Conv"], policy="winograd")
def winograd(run: Run, node: Any, args: list[Any]) -> Any:
    """F(2, 3) along the last axis of kernels of 3: its error is that of the whole tile, not of the window, so it has a bound of its own."""
    x, w = args[:2]
    if not is_float(x) or not x.numel() or not w.numel() or (node.group or 1) != 1 or w.shape[-1] != 3:
        return None
    last = windows.place(node, x.shape[2:], w.shape[2:])[-1]
    if last.stride != 1 or last.dilation != 1 or last.out < 2:
        return None
    return _tiles(node, [_wide(a) for a in args], -1).to(x.dtype)


def winograd_radius(node: Any, args: list[Any], u: float) -> Any:
    """How far `winograd` may be off in a format of roundoff u: every value of a tile passes at most a sum per product and six more
    roundings, relative to the transforms' absolute values (Higham, Accuracy and Stability of Numerical Algorithms, 23.2.4).
    """
    w = args[1]
    n = w[0].numel() + 6
    return _tiles(node, [None if a is None else a.double().abs() for a in args], 1) * (n * u / (1 - n * u))


def _tiles(node: Any, args: list[Any], minus: int) -> Any:
    """The convolution by tiles of two results; `minus` 1 adds where the transforms subtract, which bounds their magnitude."""
    x, w = args[:2]
    axes = windows.place(node, x.shape[2:], w.shape[2:])
    last = axes[-1]
    tiles = -(-last.out // 2)
    view = windows.cut(x, [*axes[:-1], last._replace(kernel=4, stride=2, out=tiles)])  # n, c, *out, tiles, *kernel, 4
    d = view.flatten(-len(axes), -2) if len(axes) > 1 else view.unsqueeze(-2)  # ..., rest, 4
    g = w.reshape(w.shape[0], w.shape[1], -1, 3)
    bd = torch.stack([d[..., 0] + minus * d[..., 2], d[..., 1] + d[..., 2], d[..., 2] + minus * d[..., 1], d[..., 1] + minus * d[..., 3]], -1)
    middle = [(g[..., 0] + sign * g[..., 1] + g[..., 2]) / 2 for sign in (1, minus)]
    gg = torch.stack([g[..., 0], *middle, g[..., 2]], -1)
    flat = bd.movedim(1, -3).flatten(1, -4) if bd.ndim > 4 else bd.movedim(1, -3)  # n, pixels, c, rest, 4
    m = torch.einsum("npcrf,mcrf->npmf", flat, gg)
    pair = torch.stack([m[..., 0] + m[..., 1] + m[..., 2], m[..., 1] + minus * m[..., 2] + minus * m[..., 3]], -1)  # n, pixels, m, 2
    rows = [v.out for v in axes[:-1]]
    y = pair.reshape(x.shape[0], *rows, tiles, w.shape[0], 2).movedim(-2, 1).flatten(-2)[..., : last.out]
    if len(args) > 2 and args[2] is not None:
        y = y + args[2].reshape(-1, *[1] * len(axes))
    return y
