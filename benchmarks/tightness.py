"""How tight the bounds are, how much is undecided, and what the screen costs."""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

from benchmarks import Figures, Scale, benchmark
from benchmarks.cases import Outputs, Prepared, answer, stream
from oracles.compare import compare
from oracles.reference import reference
from oracles.rewriting import compiled

#: Nothing is decided behind these, and nothing can be.
RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}


@benchmark(
    "tightness",
    median_ball_over_error=("<=", 12.0),
    median_spread_over_error=("<=", 6.0),
    share_undecided_floats=("<=", 0.005),
    share_undecided_integers=("<=", 0.03),
    screen_over_float64_evaluation=("<=", 3.0),
)
def tightness(scale: Scale) -> Figures:
    """Networks of 10 nodes, all formats, all operators but random ones: RMS of the bound over RMS of the error of the run as declared.

    Cost: reference with bounds and comparison of all outputs over the plain float64 evaluation, medians per network.
    """
    ball, spread, cost = list[float](), list[float](), list[float]()
    undecided, elements = {"floats": 0.0, "integers": 0.0}, {"floats": 0, "integers": 0}
    for p in stream("tightness", scale.count(1000, 40), (10,)):
        if p.ops & RANDOM:
            continue
        low = answer(compiled(p.case.model, lambda run, node, args: None), p.case)
        for name, want in p.expected.items():
            value, worst, spreads = want.ball
            if not isinstance(value, torch.Tensor) or want.format is None or want.format.kind == "string" or not value.numel():
                continue
            kind = "floats" if want.format.is_float else "integers"
            open_ = worst is not None and ~(worst < torch.inf)
            elements[kind] += value.numel()
            undecided[kind] += float(open_.sum()) if worst is not None else 0.0
            got = None if low is None else low.get(name)
            if kind == "integers" and worst is not None:
                undecided[kind] += float(((worst > 0) & (worst < torch.inf)).sum())  # a count that may be one off
            if kind != "floats" or worst is None or not isinstance(got, np.ndarray):
                continue
            decided = (worst < torch.inf) & torch.isfinite(value)
            error = torch.from_numpy(got.astype(np.float64))[decided] - value[decided]
            rms = float(error.square().mean().sqrt()) if error.numel() else 0.0
            if rms > 0:
                ball.append(float(worst[decided].square().mean().sqrt()) / rms)
                spread.append(float(spreads[decided].square().mean().sqrt()) / rms)
        if low is not None:
            cost.append(_cost(p, low))
    return {
        "outputs": len(ball),
        "median_ball_over_error": statistics.median(ball),
        "median_spread_over_error": statistics.median(spread),
        **{f"share_undecided_{k}": undecided[k] / max(1, elements[k]) for k in elements},
        "screen_over_float64_evaluation": statistics.median(cost),
    }


def _cost(p: Prepared, low: Outputs) -> float:
    """The least of three measurements of CPU time each: other processes only ever add."""

    plain, screen = list[float](), list[float]()
    for _ in range(3):
        start = time.process_time()
        with torch.no_grad():
            p.program.run(p.program.feeds(p.case.inputs))
        plain.append(time.process_time() - start)
        start = time.process_time()
        expected = reference(p.program, p.case.inputs)
        for name, want in expected.items():
            compare("", "", name, want, low.get(name))
        screen.append(time.process_time() - start)
    return min(screen) / min(plain)
