"""What may be generated and what it means. Public door: `run`, `op`, `Draw`, `Rule`, the three errors.

Names load on first use, so that importing this package does not import torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specs.draw import Draw
    from specs.operator import Operator, find, op, operators, unary
    from specs.program import Program, run
    from specs.rule import Misfit, Operand, Rule, Unsupported, UsageError

_HOME = {"Draw": "draw", "Operator": "operator", "find": "operator", "op": "operator", "operators": "operator", "unary": "operator",
         "Program": "program", "run": "program", "Misfit": "rule", "Operand": "rule", "Rule": "rule", "Unsupported": "rule", "UsageError": "rule"}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(f"specs.{_HOME[name]}"), name)
    raise AttributeError(f"module 'specs' has no attribute '{name}'")


__all__ = ["Draw", "Misfit", "Operand", "Operator", "Program", "Rule", "Unsupported", "UsageError", "find", "op", "operators", "run", "unary"]
