"""From verdicts to reports: causes, findings, known issues, replay, reduction. Names load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from triage.cause import Cause, cause_key
    from triage.finding import Finding
    from triage.known import Known, match
    from triage.write import read_finding, write_finding

_HOME = {"Cause": "cause", "cause_key": "cause", "Finding": "finding", "Known": "known", "match": "known",
         "read_finding": "write", "write_finding": "write"}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(f"triage.{_HOME[name]}"), name)
    raise AttributeError(f"module 'triage' has no attribute '{name}'")


__all__ = ["Cause", "Finding", "Known", "cause_key", "match", "read_finding", "write_finding"]
