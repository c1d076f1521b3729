"""Shipped kernels over maps against the ways they are usually computed: one thread, everything in one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import Figures, Scale, benchmark
from benchmarks.kernels import MIB, Contest, measured, shown
from oracles.kernel import kernels
from oracles.native import Native


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def against(
    label: str,
    kernel: str,
    attrs: Mapping[str, Any],
    inputs: Sequence[np.ndarray | None],
    shape: Sequence[int],
    others: Mapping[str, Callable[[], Any]],
    rounds: int,
    rivals: Sequence[str] = (),
    mib: Mapping[str, float] | None = None,
    threads: int = 1,
) -> Figures:
    """How many times as fast as each rival a kernel is, its milliseconds, and MiB held on the way; `mib` tells what others hold."""
    m = measured(Contest(kernel, attrs, inputs, np.zeros(shape, np.float32), rivals, threads, others), rounds)
    shown(label, m)
    held = {name: size for name, size in {**m.mib, **(mib or {})}.items() if size}
    figures = {f"{label}_over_{r}_x": m.gain(kernel, r) for r in m.seconds if r != kernel} | {f"ms_{label}": m.best(kernel) * 1e3}
    return figures | {f"mib_{label}" + ("" if name == kernel else f"_{name}"): size for name, size in held.items()}


@benchmark("kernels-of-maps")
def kernels_of_maps(scale: Scale) -> Figures:
    """Depthwise, involution, deformable, sub-pixel; `mib_` is what is held on the way, in the scratch of a kernel or the intermediates of a composition."""
    torch.set_num_threads(1)
    rounds, side = scale.count(15, 3), scale.count(56, 14)
    found: Figures = {}
    for part in (_depthwise, _involution, _deformable, _aggregation, _subpixel):
        found.update(part(rounds, side))
    return found


def _depthwise(rounds: int, side: int) -> Figures:
    """Kernels of RepLKNet and UniRepLKNet on 64 channels."""
    found: Figures = {}
    for k in (3, 7, 13, 31):
        x, w = normal(1, 64, side, side), normal(64, 1, k, k, seed=1)
        attrs = {"group": 64, "strides": [1, 1], "dilations": [1, 1], "pads": [k // 2] * 4}
        tensors = torch.from_numpy(x), torch.from_numpy(w)
        others = {
            "torch": lambda t=tensors, k=k: F.conv2d(*t, padding=k // 2, groups=64),
            "fft": Native(kernels()["fft-convolution"]).bare(attrs, [x, w], [np.zeros_like(x)]),
        }
        found |= against(f"depthwise{k}", "depthwise-convolution", attrs, [x, w], x.shape, others, rounds, ["direct"])
    return found


def _involution(rounds: int, side: int) -> Figures:
    """RedNet's 7 x 7 kernels, 64 channels in 4 groups, against unfolding as the authors' code does it."""
    x, w = normal(1, 64, side, side), normal(1, 4, 49, side, side, seed=1)
    maps, kernels = torch.from_numpy(x), torch.from_numpy(w)

    def unfolded() -> torch.Tensor:
        taps = F.unfold(maps, 7, padding=3).view(1, 4, 16, 49, side, side)
        return (kernels.unsqueeze(2) * taps).sum(3).view(1, 64, side, side)

    attrs = {"kernel_shape": [7, 7], "strides": [1, 1], "dilations": [1, 1], "pads": [3] * 4}
    return against("involution7", "involution", attrs, [x, w], x.shape, {"unfold": unfolded}, rounds, mib={"unfold": 2 * 49 * x.nbytes / MIB})


def _deformable(rounds: int, side: int) -> Figures:
    """3 x 3 with a mask, 64 to 64 channels, against four gathers and a product of matrices."""
    x, w, offset, mask = normal(1, 64, side, side), normal(64, 64, 3, 3, seed=1), normal(1, 18, side, side, seed=2), np.abs(normal(1, 9, side, side, seed=3))
    maps, kernels, moves, factors = (torch.from_numpy(t) for t in (x, w, offset, mask))
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    taps = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2))

    def gathered() -> torch.Tensor:
        at = moves.view(9, 2, side, side)
        y, z = at[:, 0] + rows + taps[:, 0, None, None], at[:, 1] + columns + taps[:, 1, None, None]
        y0, z0, flat, total = y.floor(), z.floor(), maps.view(64, -1), torch.zeros(())
        for row, a in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
            for column, b in ((z0, 1 - (z - z0)), (z0 + 1, z - z0)):
                inside = (row >= 0) & (row < side) & (column >= 0) & (column < side)
                index = row.clamp(0, side - 1).long() * side + column.clamp(0, side - 1).long()
                total = total + flat[:, index.view(-1)].view(64, 9, -1) * (a * b * inside).view(9, -1)
        return kernels.view(64, -1) @ (total * factors.view(9, -1)).view(64 * 9, -1)

    attrs = {"pads": [1] * 4, "strides": [1, 1], "dilations": [1, 1], "group": 1, "offset_group": 1}
    inputs = [x, w, offset, None, mask]
    return against("deformable3", "deformable-convolution", attrs, inputs, x.shape, {"gathers": gathered}, rounds, mib={"gathers": 9 * x.nbytes / MIB})


def _aggregation(rounds: int, side: int) -> Figures:
    """Version 4 with 4 groups of 16 channels, against one GridSample for all points of a group."""
    groups, c = 4, 16
    x, offset, weight = normal(1, side, side, 64), normal(1, side, side, groups * 18, seed=1), normal(1, side, side, groups * 9, seed=2)
    maps = torch.from_numpy(x).permute(0, 3, 1, 2).reshape(groups, c, side, side).contiguous()
    moves, factors = (
        torch.from_numpy(offset).view(side, side, groups, 9, 2).permute(2, 3, 0, 1, 4),
        torch.from_numpy(weight).view(side, side, groups, 9).permute(2, 3, 0, 1),
    )
    taps = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2)).view(1, 9, 1, 1, 2)
    base = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1) + taps

    def sampled() -> torch.Tensor:
        grid = ((moves + base) * (2 / (side - 1)) - 1).flip(-1).reshape(groups, 9 * side, side, 2)
        taken = F.grid_sample(maps, grid, align_corners=True).view(groups, c, 9, side, side)
        return (taken * factors.unsqueeze(1)).sum(2)

    attrs = {"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1] * 4, "dilations": [1, 1], "group": groups, "softmax": 0, "offset_scale": 1.0}
    inputs, mib = [x, offset, weight], {"gridsample": 9 * x.nbytes / MIB}
    return against("aggregation3", "deformable-aggregation", attrs, inputs, x.shape, {"gridsample": sampled}, rounds, mib=mib)


def _subpixel(rounds: int, side: int) -> Figures:
    """The last layer of ESPCN for three channels, three times larger, against a convolution and a shuffle."""
    x, w, bias = normal(1, 32, side, side), normal(27, 32, 3, 3, seed=1), normal(27, seed=2)
    tensors = torch.from_numpy(x), torch.from_numpy(w), torch.from_numpy(bias)
    attrs = {"blocksize": 3, "mode": "CRD", "pads": [1] * 4, "strides": [1, 1]}
    others = {"torch": lambda: F.pixel_shuffle(F.conv2d(*tensors, padding=1), 3)}
    return against(
        "subpixel3", "subpixel-convolution", attrs, [x, w, bias], (1, 3, 3 * side, 3 * side), others, rounds, mib={"torch": 27 * side * side * 4 / MIB}
    )
