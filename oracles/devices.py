"""GPUs: whether there is one, and graphs of torch moved to it. What needs one is a setting of its own, there only where one is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CUDA = "cuda"
_SIGNS = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidia0"), Path("/dev/nvidiactl"))


def gpu() -> bool:
    """Whether a driver for CUDA is loaded, without importing anything that would take seconds to say so."""
    return any(p.exists() for p in _SIGNS)


def moved(graph: Any, device: str) -> Any:
    """A graph module that was traced elsewhere, on a device: its constants, and the device that its calls name."""
    import torch
    from torch.fx.node import map_aggregate

    there = torch.device(device)
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            value = getattr(graph, node.target)
            if isinstance(value, torch.Tensor):
                setattr(graph, node.target, value.to(there))
        node.args = map_aggregate(node.args, lambda a: there if isinstance(a, torch.device) else a)
        node.kwargs = map_aggregate(node.kwargs, lambda a: there if isinstance(a, torch.device) else a)
    graph.recompile()
    return graph
