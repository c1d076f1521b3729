"""Drawing, solving, growing networks, safe inputs, the campaign, the command line. Public door: `networks`, `generate`.

Names load on first use, so that `fuzz --help` does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fuzzer.generate import generate
    from fuzzer.strategies import networks

_HOME = {"generate": "generate", "networks": "strategies"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(f"fuzzer.{_HOME[name]}"), name)
    raise AttributeError(f"module 'fuzzer' has no attribute '{name}'")


__all__ = ["generate", "networks"]
