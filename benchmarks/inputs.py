"""Safe inputs: how often they are found, how fast, and how far the gradient path reaches."""

from __future__ import annotations

import statistics

import torch

from benchmarks import Figures, Scale, benchmark
from fuzzer.generate import generate_from
from fuzzer.network import Network
from fuzzer.sources import Seeded


@benchmark("inputs", share_safe_10=(">=", 0.98), ms_search_10=("<=", 5.0), share_gradient_path_10=(">=", 1.0))
def inputs(scale: Scale) -> Figures:
    """Networks of 10, 20 and 30 nodes, all dtypes, hazardous operators in.

    share_safe          safe inputs found for the network that is run
    share_safe_as_drawn the same without replacing an operator of a network that has none (Acosh of a Tanh)
    share_gradient_path networks with floats whose search can use gradients: every operator has a meaning autograd runs through
    """
    torch.set_num_threads(1)
    figures = Figures()
    for nodes in (10, 20, 30):
        made = [generate_from(Seeded("inputs", nodes, i), nodes, check=False) for i in range(scale.count(600, 30))]
        made = made[3:]
        figures[f"share_safe_{nodes}"] = sum(m.found.safe for m in made) / len(made)
        figures[f"share_safe_as_drawn_{nodes}"] = sum(m.found.safe and not m.repairs for m in made) / len(made)
        figures[f"ms_search_{nodes}"] = statistics.median(m.seconds["search"] for m in made) * 1e3
        figures[f"share_searched_by_gradient_{nodes}"] = sum(m.found.steps > 0 for m in made) / len(made)
        figures[f"share_gradient_path_{nodes}"] = sum(_differentiable(m.network) for m in made) / len(made)
    return figures


def _differentiable(network: Network) -> bool:
    """Every operator of the network is evaluated by torch, so losses reach each float leaf that they depend on."""
    return all(
        s.operator is not None or s.bodies or s.domain or s.op in ("Identity", "Constant", "Optional", "OptionalGetElement", "SequenceConstruct", "SequenceAt")
        for s in network.steps
    )
