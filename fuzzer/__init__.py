"""Drawing, solving, growing networks, safe inputs, the campaign, the command line. Public door: `networks`, `generate`.

Names load on first use, so that `fuzz --help` does not import torch.
"""

from __future__ import annotations

import sys
from types import ModuleType
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


class _Door(ModuleType):
    """Python binds a submodule to its package when it is first imported: that would hide the function of the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Door

__all__ = ["generate", "networks"]
