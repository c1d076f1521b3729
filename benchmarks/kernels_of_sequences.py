"""Shipped kernels over sequences against the ways they are usually computed: in one run, on one thread and, where chunks need them, on two."""

from __future__ import annotations

import statistics
import time
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks import Figures, Scale, benchmark
from benchmarks.kernels import MIB
from benchmarks.kernels_of_maps import against, normal
from oracles.kernel import kernels
from oracles.native import Native


@benchmark("kernels-of-sequences")
def kernels_of_sequences(scale: Scale) -> Figures:
    """Scans, Fourier transforms, attention, capsules, suppression; on one thread unless the name says two."""
    torch.set_num_threads(1)
    rounds, long = scale.count(11, 3), scale.count(2048, 256)
    found: Figures = {}
    for part in (_scan, _long_convolution, _attention, _neighbourhood, _capsules, _suppression):
        found.update(part(rounds, long))
    return found


def _scan(rounds: int, long: int) -> Figures:
    """Mamba's scan with 16 states: many channels, where channels keep every thread busy, and few, where only the sequence can be divided.

    Chunks do the work nearly twice; on the two cores measured so far that is never won back.
    """
    found: Figures = {}
    for label, channels in (("scan_wide", 256), ("scan_narrow", 16)):
        u, b, c = normal(1, long, channels), normal(1, long, 16, seed=1), normal(1, long, 16, seed=2)
        delta, rates = np.abs(normal(1, long, channels, seed=3)) / 10, -np.exp(normal(channels, 16, seed=4))
        inputs = [u, delta, rates, b, c, normal(channels, seed=5)]
        chunked = Native(kernels()["chunked-scan"])
        for threads, suffix in ((1, ""), (2, "_two_threads")):  # apart: the threads of one call spin on into the next
            call = chunked.bare({}, inputs, [np.zeros_like(u)], threads)
            rivals, mib = ["plain"] if threads == 1 else [], {"chunked": call.workspace / MIB}
            found |= against(label + suffix, "sequential-scan", {}, inputs, u.shape, {"chunked": call}, rounds, rivals, mib, threads)
    return found


def _long_convolution(rounds: int, long: int) -> Figures:
    """Causal kernels as long as the sequence (SGConv) on 16 channels: ours in double with small outputs done again, torch's transforms in float32.

    Torch's are two to three times as fast, and outside the bound where outputs are small; below about a thousand taps direct sums win.
    """
    found: Figures = {}
    for n in (long // 8, long // 2, 2 * long):
        x, w = normal(1, 16, n), normal(16, 1, n, seed=1)
        attrs = {"group": 16, "strides": [1], "dilations": [1], "pads": [n - 1, 0]}
        tensors = torch.from_numpy(x), torch.from_numpy(w)
        others = {"torch": partial(_torch_convolution, *tensors), "torch_fft": partial(_torch_fft, *tensors)}
        found |= against(f"long{n}", "fft-convolution", attrs, [x, w], x.shape, others, rounds, ["direct"])
    return found


def _torch_convolution(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return F.conv1d(F.pad(x, (x.shape[2] - 1, 0)), w, groups=x.shape[1])


def _torch_fft(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    n = x.shape[2]
    return torch.fft.irfft(torch.fft.rfft(x, 2 * n) * torch.fft.rfft(w[:, 0].flip(-1), 2 * n), 2 * n)[..., :n]


def _attention(rounds: int, long: int) -> Figures:
    """Eight heads of 64: tiles with a running maximum against whole matrices of scores, and against torch's own tiles."""
    found: Figures = {}
    for n in (long // 8, long):
        for causal in (0, 1):
            q, k, v = (normal(1, 8, n, 64, seed=s) for s in range(3))
            tensors = tuple(torch.from_numpy(t) for t in (q, k, v))
            others = {"torch": partial(F.scaled_dot_product_attention, *tensors, is_causal=bool(causal))}
            found |= against(
                f"attention{n}{'_causal' if causal else ''}", "flash-attention", {"is_causal": causal}, [q, k, v], q.shape, others, rounds, ["plain"]
            )
    return found


def _neighbourhood(rounds: int, long: int) -> Figures:
    """7 x 7 neighbours on a map, four heads of 32, against windows gathered and multiplied."""
    side, k, heads, size = (28 if long > 1000 else 14), 7, 4, 32
    q, keys, v = (normal(1, heads, side, side, size, seed=s) for s in range(3))
    start = (torch.arange(side) - k // 2).clamp(0, side - k)[:, None] + torch.arange(k)
    index = (start[:, None, :, None] * side + start[None, :, None, :]).reshape(-1)
    query, key, value = (torch.from_numpy(t).view(heads, side * side, size) for t in (q, keys, v))

    def gathered() -> torch.Tensor:
        near, far = (t[:, index].view(heads, side * side, k * k, size) for t in (key, value))
        scores = (query.unsqueeze(2) @ near.transpose(2, 3)) * size**-0.5
        return scores.softmax(-1) @ far

    attrs, mib = {"kernel_size": k, "dilation": 1, "scale": size**-0.5}, {"gather": 2 * k * k * q.nbytes / MIB}
    return against("neighbourhood7", "neighbourhood-attention", attrs, [q, keys, v, None], q.shape, {"gather": gathered}, rounds, mib=mib)


def _capsules(rounds: int, long: int) -> Figures:
    """The layer of the paper: 1152 capsules of 8 to 10 of 16, three rounds."""
    low = 1152 if long > 1000 else 128
    u, w = normal(4, low, 8), normal(low, 10, 16, 8, seed=1) / 10
    capsules, matrices = torch.from_numpy(u), torch.from_numpy(w)

    def composed() -> torch.Tensor:
        votes = torch.einsum("ijkl,nil->nijk", matrices, capsules)
        logits, v = torch.zeros(4, low, 10), torch.zeros(())
        for _ in range(3):
            s = (logits.softmax(2).unsqueeze(3) * votes).sum(1)
            length = s.norm(dim=2, keepdim=True)
            v = s * length / (1 + length * length)
            logits = logits + (votes * v.unsqueeze(1)).sum(3)
        return v

    mib = {"torch": 2 * 4 * low * 160 * 4 / MIB}
    return against("capsules", "capsule-routing", {"iterations": 3}, [u, w], (4, 10, 16), {"torch": composed}, rounds, mib=mib)


def _suppression(rounds: int, long: int) -> Figures:
    """300 boxes by the Gaussian, against the loop over arrays that the authors' code is."""
    rng = np.random.default_rng(0)
    corner, side, scores = rng.uniform(0, 100, (300, 2)), rng.uniform(1, 30, (300, 2)), rng.uniform(0, 1, 300).astype(np.float32)
    boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)

    def loop() -> None:
        left, area = scores.copy(), (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        for _ in range(len(left)):
            best = int(left.argmax())
            wide, tall = (np.minimum(boxes[best, k + 2], boxes[:, k + 2]) - np.maximum(boxes[best, k], boxes[:, k]) for k in (0, 1))
            inter = np.maximum(wide, 0) * np.maximum(tall, 0)
            left *= np.exp(-((inter / (area + area[best] - inter)) ** 2) / 0.5)
            left[best] = -1

    outputs = [np.zeros((300, 4), np.float32), np.zeros(300, np.float32), np.zeros(300, np.int64)]
    call = Native(kernels()["soft-nms"]).bare({"method": "gaussian", "sigma": 0.5, "score_threshold": 0.001}, [boxes, scores], outputs)
    ours, numpy = list[float](), list[float]()
    for _ in range(rounds):
        for f, spent in ((call, ours), (loop, numpy)):
            started = time.perf_counter()
            f()
            spent.append(time.perf_counter() - started)
    return {"soft_nms_over_numpy_x": statistics.median(b / a for a, b in zip(ours, numpy, strict=True)), "ms_soft_nms": min(ours) * 1e3}
