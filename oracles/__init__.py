"""Who is asked, and what is true: backends in isolated workers, verdicts against float64. Public door: `backend`, `kernel`, `run`, `judge`.

Names load on first use, so that importing this package imports no compiler.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oracles.judge import judge
    from oracles.kernel import kernel
    from oracles.plugin import backend
    from oracles.pool import run
    from oracles.records import Case, Outcome, Verdict

_HOME = {"backend": "plugin", "kernel": "kernel", "run": "pool", "judge": "judge", "Case": "records", "Outcome": "records", "Verdict": "records"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(f"oracles.{_HOME[name]}"), name)
    raise AttributeError(f"module 'oracles' has no attribute '{name}'")


class _Door(ModuleType):
    """Python binds a submodule to its package when it is first imported: that would hide the function of the same name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Door

__all__ = ["Case", "Outcome", "Verdict", "backend", "judge", "kernel", "run"]
