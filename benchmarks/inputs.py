"""Safe inputs: how often they are found, how fast, and how far the gradient path reaches."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from benchmarks import Figures, Scale, benchmark
from fuzzer.generate import Generated, generate_from
from fuzzer.process import settle
from fuzzer.regimes import reached
from fuzzer.sources import Seeded
from specs.numerics import outputs
from specs.program import Node, Program, plain

#: Results that no value of an input moves: drawn at random, or (MaxRoiPool) of regions without a pixel.
VALUELESS = ("Bernoulli", "EyeLike", "MaxRoiPool", "Multinomial", "RandomNormalLike", "RandomUniformLike")


@benchmark("inputs", share_safe_10=(">=", 0.98), ms_search_10=("<=", 5.0), share_gradient_path_10=(">=", 1.0))
def inputs(scale: Scale) -> Figures:
    """Networks of 10, 20 and 30 nodes, all dtypes, hazardous operators in.

    share_safe          safe inputs found for the network that is run
    share_safe_as_drawn the same without replacing an operator of a network that has none (Acosh of a Tanh)
    share_both_sides    two-sided nodes (Relu, Clip, Max, comparisons ...) with data on both; of those left many cannot (Relu of a Sigmoid)
    share_gradient_path networks in which gradients pass every operator on the way from the float inputs to a float result
    """
    settle()
    figures = Figures()
    for nodes in (10, 20, 30):
        made = [generate_from(Seeded("inputs", nodes, i), nodes, check=False) for i in range(scale.count(600, 30))]
        made = made[3:]
        figures[f"share_safe_{nodes}"] = sum(m.found.safe for m in made) / len(made)
        figures[f"share_safe_as_drawn_{nodes}"] = sum(m.found.safe and not m.repairs for m in made) / len(made)
        figures[f"ms_search_{nodes}"] = statistics.median(m.seconds["search"] for m in made) * 1e3
        figures[f"share_searched_by_gradient_{nodes}"] = sum(m.found.steps > 0 for m in made) / len(made)
        sides = [reached(m.program, m.program.feeds(m.case.inputs)) for m in made if m.found.safe]
        figures[f"share_both_sides_{nodes}"] = sum(r.both for r in sides) / max(1, sum(r.nodes for r in sides))
        figures[f"share_gradient_path_{nodes}"] = sum(_differentiable(m) for m in made) / len(made)
    return figures


def _differentiable(made: Generated) -> bool:
    """Whether gradients pass every operator on the way from the float leaves: evaluated with autograd on, none may lose the path."""
    program = Program(made.case.model, torch.float64)

    def node(at: Node, args: list[Any]) -> list[Any]:
        results = list(plain(at, args))
        eased = results if at.op.proxy is None or not _carries(args[0]) else outputs(at.op.proxy(at, *args))
        nearest = at.op.name == "GridSample" and at.mode == "nearest"  # positions choose a neighbour: there is no slope to follow
        read = args[:1] if at.op.name == "CastLike" or nearest else args  # of the other operand of CastLike only the type counts
        lost = at.op.name not in VALUELESS and any(_carries(a) for a in read) and not any(_carries(r) for r in eased)
        if lost and any(f is not None and f.is_float for f in at.out_formats):
            broken.append(at.op.name)
        return list(eased)

    broken = list[str]()
    given: dict[str, Any] = {**program.feeds(made.case.inputs)}
    feeds = {k: v.requires_grad_(True) if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in given.items()}
    program.run(feeds, node)
    return not broken


def _carries(value: Any) -> bool:
    return any(_carries(v) for v in value) if isinstance(value, list) else isinstance(value, torch.Tensor) and value.requires_grad
