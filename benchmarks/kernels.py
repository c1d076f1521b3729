"""Shipped kernels against their baselines, interleaved in one run: time and scratch memory, and what the papers claim of them."""

from __future__ import annotations

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks import Figures, Scale, benchmark
from oracles.kernel import kernels
from oracles.native import Bare, Native

MIB = 1 << 20


@dataclass(frozen=True)
class Contest:
    """One kernel and its rivals on the same arrays.

    rivals  names of its baselines
    others  anything else to time beside them, on the same arrays: (name, call)
    """

    kernel: str
    attrs: Mapping[str, Any]
    inputs: Sequence[np.ndarray | None]
    output: np.ndarray
    rivals: Sequence[str]
    threads: int = 1
    others: Mapping[str, Callable[[], Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """Seconds of every round by name, and MiB of scratch."""

    seconds: Mapping[str, list[float]]
    mib: Mapping[str, float]

    def best(self, name: str) -> float:
        return min(self.seconds[name])

    def gain(self, ours: str, rival: str) -> float:
        """How many times as fast as a rival, by the least of each: other processes only ever add."""
        return self.best(rival) / self.best(ours)


def measured(contest: Contest, rounds: int) -> Measured:
    """Every participant once a round, in an order that turns; one run before that does not count. Raises RuntimeError for one that declines.

    With one thread it is the thread's processor time that counts: on a busy machine the wall clock tells of others.
    """
    kernel = kernels()[contest.kernel]
    calls: dict[str, Callable[[], Any]] = {}
    mib = dict[str, float]()
    for name, symbol in ((contest.kernel, kernel.symbol), *((r, kernel.baselines[r]) for r in contest.rivals)):
        bare: Bare = Native(kernel, symbol).bare(contest.attrs, contest.inputs, [contest.output], contest.threads)
        if bare():
            raise RuntimeError(f"{name} does not take these arguments")
        calls[name], mib[name] = bare, bare.workspace / MIB
    for name, call in contest.others.items():
        call()
        calls[name] = call
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names, clock = list(calls), time.thread_time if contest.threads == 1 else time.perf_counter
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = clock()
            calls[name]()
            seconds[name].append(clock() - start)
    return Measured(seconds, mib)


def shown(title: str, m: Measured) -> None:
    """A line for the reader."""
    parts = [f"{name} {m.best(name) * 1e3:.3g} ms" + (f" {m.mib[name]:.3g} MiB" if m.mib.get(name) else "") for name in m.seconds]
    print(f"  {title:34} " + ", ".join(parts))


def last_level_cache() -> int:
    """Bytes, as the system tells; 32 MiB where it does not."""
    units, found = {"K": 1 << 10, "M": MIB, "G": 1 << 30}, list[int]()
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        found.append(int(text[:-1]) * units[text[-1]] if text[-1] in units else int(text))
    return max(found, default=32 * MIB)


def _floats(rng: np.random.Generator, *dims: int) -> np.ndarray:
    return rng.standard_normal(dims, dtype=np.float32)


def softmax(scale: Scale) -> Figures:
    """One row, four times the last-level cache in reads and writes together; the paper has 1.18 (AVX2) and 1.28 (AVX-512).

    Less where memory is short: the figure `data_over_cache` says how much it was.
    """
    cache = last_level_cache()
    size = min(4 * cache, psutil.virtual_memory().available // 2) if not scale.quick else 8 * MIB
    n = size // 8
    x = np.resize(_floats(np.random.default_rng(0), 1 << 20), n)
    y = np.zeros_like(x)
    rivals = ("three-pass-recompute", "three-pass-reload", "online")
    m = measured(Contest("two-pass-softmax", {"axis": 0}, [x], y, rivals), scale.count(9, 3))
    shown(f"softmax of {n} floats", m)
    per = {f"ns_per_element_{name.replace('-', '_')}": min(s) / n * 1e9 for name, s in m.seconds.items()}
    gains = {f"two_pass_over_{r.replace('-', '_')}_x": m.gain("two-pass-softmax", r) for r in rivals}
    better = min(m.gain("two-pass-softmax", r) for r in rivals[:2])
    del x, y
    gc.collect()
    return {"two_pass_over_better_three_pass_x": better, **gains, **per, "data_over_cache": size / cache, "data_mib": size / MIB}


#: Layers of AlexNet, VGG and ResNet, of which the paper's twelve are made: channels, size, outputs, kernel, stride.
LAYERS = ((3, 224, 64, 7, 2), (64, 56, 64, 3, 1), (96, 27, 256, 5, 1), (128, 28, 128, 3, 1), (128, 56, 128, 3, 2), (256, 14, 256, 3, 1), (512, 7, 512, 3, 1))


def im2win(scale: Scale) -> Figures:
    """Windows in order against im2col and a direct convolution with the same register tile, and against seven plain loops.

    The paper claims 3.5 times cuBLAS's im2col and 23 % less memory on a GPU.
    """
    rng, torch = np.random.default_rng(0), _torch()
    gains: dict[str, list[float]] = {}
    memory: dict[str, list[float]] = {}
    for c, size, out, k, s in LAYERS[: scale.count(len(LAYERS), 1)]:
        x, w = _floats(rng, 1, c, size, size), _floats(rng, out, c, k, k)
        side = (size + 2 * (k // 2) - k) // s + 1
        y = np.zeros((1, out, side, side), np.float32)
        tx, tw = torch.from_numpy(x), torch.from_numpy(w)

        def library(tx: Any = tx, tw: Any = tw, s: int = s, k: int = k) -> Any:
            return torch.nn.functional.conv2d(tx, tw, stride=s, padding=k // 2)

        attrs = {"strides": [s, s], "pads": [k // 2] * 4, "dilations": [1, 1], "group": 1}
        m = measured(Contest("im2win-convolution", attrs, [x, w], y, ("im2col", "direct"), others={"torch": library}), scale.count(15, 3))
        slow = measured(Contest("im2win-convolution", attrs, [x, w], y, ("naive",)), 1)
        shown(f"{c} x {size} x {size} -> {out}, {k} x {k} / {s}", m)
        for rival in ("im2col", "direct", "torch"):
            gains.setdefault(rival, []).append(m.gain("im2win-convolution", rival))
        gains.setdefault("naive", []).append(slow.gain("im2win-convolution", "naive"))
        for rival in ("im2col", "direct"):
            memory.setdefault(rival, []).append(m.mib["im2win-convolution"] / m.mib[rival])
    return {f"im2win_over_{r}_x": _mean(v) for r, v in gains.items()} | {f"im2win_scratch_over_{r}_x": _mean(v) for r, v in memory.items()}


#: kind, channels, size, kernel, group width, channels of the middle
BLOCKS = (("first", 64, 56, 3, 1, 256), ("first", 64, 56, 3, 8, 384), ("first", 128, 28, 5, 1, 512), ("first", 32, 224, 3, 1, 128),
          ("mobile", 64, 56, 3, 1, 384), ("mobile", 128, 28, 3, 1, 512), ("mobile", 24, 224, 3, 1, 144))  # fmt: skip


def fused(scale: Scale) -> Figures:
    """Residual blocks tile by tile against the same code layer by layer. The paper claims about 4 times ConvNeXt, model and kernels together, on a GPU."""
    rng = np.random.default_rng(0)
    gains, memory = list[float](), list[float]()
    for kind, c, size, k, depth, e in BLOCKS[:: scale.count(1, 6)]:
        spatial = _floats(rng, c, depth, k, k) if kind == "first" else _floats(rng, e, 1, k, k)
        b, wide = _floats(rng, c), _floats(rng, e)
        up, down = _floats(rng, e, c, 1, 1), _floats(rng, c, e, 1, 1)
        weights = [spatial, b, up, wide, down, b] if kind == "first" else [up, wide, spatial, wide, down, b]
        x = _floats(rng, 1, c, size, size)
        name = "fused-conv-first" if kind == "first" else "fused-mobile-block"
        contest = Contest(name, {"activation": "Relu", "stride": 1, "residual": 1}, [x, *weights], np.zeros_like(x), ("layers",))
        m = measured(contest, scale.count(11, 3))
        shown(f"{kind}, {c} x {size} x {size}, middle {e}", m)
        gains.append(m.gain(name, "layers"))
        memory.append(m.mib[name] / m.mib["layers"])
    return {"fused_over_layers_x": _mean(gains), "fused_over_layers_best_x": max(gains), "fused_over_layers_worst_x": min(gains),
            "fused_scratch_over_layers_x": _mean(memory)}  # fmt: skip


def lookup(scale: Scale) -> Figures:
    """Two-bit codes by look-up against eight-bit products and plain look-ups. The paper claims up to 1.74 times QNNPACK's eight bits."""
    rng = np.random.default_rng(0)
    table = np.array([(w - 2) * a for w in range(4) for a in range(4)], np.int8)
    gains: dict[str, list[float]] = {}
    packed = codes = 0
    for m, n, k in ((196, 256, 2304), (784, 128, 1152), (49, 512, 4608), (1, 1024, 4096))[: scale.count(4, 1)]:
        a = rng.integers(0, 4, (m, k)).astype(np.uint8)
        w = rng.integers(0, 256, (n, k // 4)).astype(np.uint8)
        packed, codes = packed + w.nbytes, codes + n * k
        contest = Contest("lookup-matmul", {}, [a, w, table], np.zeros((m, n), np.int32), ("eight-bit", "plain"))
        found = measured(contest, scale.count(7, 2))
        shown(f"{m} x {k} x {n}", found)
        for rival in contest.rivals:
            gains.setdefault(f"{rival.replace('-', '_')}{'_vector' if m == 1 else ''}", []).append(found.gain("lookup-matmul", rival))
    return {f"lookup_over_{r}_x": _mean(v) for r, v in gains.items()} | {"lookup_weights_over_eight_bit_x": packed / codes}


def narrow(scale: Scale) -> Figures:
    """Casts, requantisation and integer convolutions against the same by definition, in floats."""
    rng = np.random.default_rng(0)
    n = scale.count(1 << 20, 1 << 14)
    figures = Figures()
    x, acc = _floats(rng, n), rng.integers(-(2**20), 2**20, (1, 16, n // 16)).astype(np.int32)
    ratio, shift = rng.integers(2**30, 2**31, 16), np.full(16, 45)
    image, filters = _floats(rng, 1, 128, 28, 28), _floats(rng, 128, 128, 3, 3)
    a, b = (_floats(rng, *d).astype(_float8()) for d in ((128, 512), (512, 256)))
    how = {"stride": 1, "pad": 1, "group": 1}
    contests = {
        "float8_encode": Contest("float8-encode", {"saturate": 1}, [x], np.zeros(n, _float8()), ("by-definition",)),
        "dyadic": Contest("dyadic-requantize", {"low": -128, "high": 127}, [acc, ratio, shift], np.zeros(acc.shape, np.int8), ("simulated",)),
        "float8_matmul": Contest("float8-matmul", {}, [a, b, _floats(rng, 1), _floats(rng, 256)], np.zeros((128, 256), np.float32), ("plain",)),
        "fixed_point": Contest("fixed-point-convolution", {**how, "bits": 14}, [image, filters], np.zeros(image.shape, np.float32), ("simulated",)),
        "binary": Contest("binary-convolution", how, [image, filters], np.zeros(image.shape, np.float32), ("simulated",)),
    }
    for name, contest in contests.items():
        m = measured(contest, scale.count(3, 1))
        shown(name, m)
        rival = contest.rivals[0]
        figures[f"{name}_over_{rival.replace('-', '_')}_x"] = m.gain(contest.kernel, rival)
        figures[f"ms_{name}"] = m.best(contest.kernel) * 1e3
    return figures


@benchmark("kernels", two_pass_over_better_three_pass_x=(">=", 1.15))
def everything(scale: Scale) -> Figures:
    """Shipped kernels against their baselines."""
    figures = Figures()
    for part in (softmax, im2win, fused, lookup, narrow):
        figures |= part(scale)
    return figures


def _mean(values: Sequence[float]) -> float:
    """Geometric: of ratios."""
    return math.exp(statistics.fmean(math.log(v) for v in values))


def _torch() -> Any:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    return torch


def _float8() -> Any:
    import ml_dtypes

    return ml_dtypes.float8_e4m3fn
