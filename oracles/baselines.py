"""Evidence over whole arrays: is a backend's error larger than that of every low-precision run we can make ourselves?

A bound asks of one element whether rounding could do this, so an error of 2^-17 in every element hides inside the bounds of a
long sum. The root mean square of all errors does not hide: several independent runs in the declared precision say how
large it has to be. After the rules by which compilers and attention kernels are tested (PyTorch's `same`, flash attention's
tests), which compare with one run; with one run alone a few in a thousand clean outputs are accused.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from oracles.rewriting import Run
from oracles.variants import variants
from specs.formats import Format
from specs.program import Graph, Program, to_numpy, to_torch

#: Runs that differ in what matters: as declared, sums added one after the other, and a mixture of other formulas.
RUNS = ("", "sum-serial-in-half", "mixed-1", "mixed-2", "sum-by-size", "sum-reversed")
FEWEST = 8  # decided elements that an array must have


def lowered(program: Program) -> Program:
    """A promoted program in its declared types."""
    low = copy.copy(program)
    low.promote = None
    low.graph = _lowered(program.graph)
    return low


def _lowered(graph: Graph) -> Graph:
    constants = {k: (form, t.to(form.torch) if form.is_float else t) for k, (form, t) in graph.constants.items()}
    nodes = list[Any]()
    for node in graph.nodes:
        other = copy.copy(node)
        other.promote = None
        other.bodies = {k: _lowered(b) for k, b in node.bodies.items()}
        nodes.append(other)
    return Graph(graph.inputs, graph.outputs, constants, nodes)


class Baselines:
    """Low-precision runs of one case, made when they are first asked for."""

    def __init__(self, program: Program, inputs: Mapping[str, np.ndarray]) -> None:
        self._program, self._inputs = program, inputs
        self._runs: list[Mapping[str, Any]] | None = None

    def runs(self) -> list[Mapping[str, Any]]:
        if self._runs is None:
            low = lowered(self._program)
            self._runs = [r for name in RUNS if (r := _run(low, self._inputs, name)) is not None]
        return self._runs

    def error(self, name: str, element: tuple[int, ...], exact: float) -> float:
        """The largest error of the runs at one element."""
        found = [float(r[name][element]) for r in self.runs() if isinstance(r.get(name), np.ndarray)]
        return max((abs(x - exact) for x in found), default=0.0)

    def ratio(self, name: str, got: np.ndarray, value: torch.Tensor, decided: torch.Tensor, form: Format) -> float | None:
        """The error of `got` over the largest error of the runs; None when there is nothing to compare with.

        The smaller of two ratios: of root mean squares, and of the errors that three elements in four do not exceed, which a
        single element behind a Round or a comparison does not move. The error of a run counts as half a rounding at least: it
        may be exact by luck.
        """
        exact = value[decided].double()
        if exact.numel() < FEWEST:
            return None
        least, runs = [0.5 * form.u * _rms(exact), 0.5 * form.u * _most(exact)], list[tuple[float, float]]()
        for run in self.runs():
            other = run.get(name)
            if isinstance(other, np.ndarray) and other.shape == got.shape and other.tobytes() != got.tobytes():
                error = (to_torch(other, form, torch.float64)[decided] - exact).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
                runs.append((_rms(error), _most(error)))
        if len(runs) < 2:
            return None
        error = to_torch(got, form, torch.float64)[decided] - exact
        return min(size / max(floor, *theirs, 1e-300) for size, floor, theirs in zip((_rms(error), _most(error)), least, zip(*runs, strict=True), strict=True))


def _rms(t: torch.Tensor) -> float:
    return float(t.square().mean().sqrt())


def _most(t: torch.Tensor) -> float:
    return float(t.abs().flatten().kthvalue(max(1, 3 * t.numel() // 4)).values)


def _run(low: Program, inputs: Mapping[str, np.ndarray], name: str) -> Mapping[str, Any] | None:
    """None where torch has no kernel for a type, or a variant no form for this network: then it says nothing."""
    rewrite = variants()[name].at if name else lambda run, node, args: None
    try:
        with torch.no_grad():
            results = low.run(low.feeds(inputs), Run(rewrite))
    except (RuntimeError, NotImplementedError, TypeError):
        return None
    return {k: to_numpy(v, low.formats.get(k)) for k, v in results.items()}
