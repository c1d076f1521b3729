"""Who is asked, and what is true: backends in isolated workers, verdicts against float64. Public door: `backend`, `run`, `judge`.

Names load on first use, so that importing this package imports no compiler.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oracles.judge import judge
    from oracles.plugin import backend
    from oracles.pool import run
    from oracles.records import Case, Outcome, Verdict

_HOME = {"backend": "plugin", "run": "pool", "judge": "judge", "Case": "records", "Outcome": "records", "Verdict": "records"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(f"oracles.{_HOME[name]}"), name)
    raise AttributeError(f"module 'oracles' has no attribute '{name}'")


__all__ = ["Case", "Outcome", "Verdict", "backend", "judge", "run"]
