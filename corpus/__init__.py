"""Everything that lives on disk: models and inputs users bring, case folders, the output folder of a run.

Public door; names load on first use, so that importing this package stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corpus.arrays import load_arrays, save_arrays
    from corpus.folders import CaseFolder, read_case, write_case
    from corpus.inputs import fit, load_inputs
    from corpus.journal import Journal, Started
    from corpus.lock import StoreError
    from corpus.models import load_model
    from corpus.store import Store

_HOME = {"load_arrays": "arrays", "save_arrays": "arrays", "CaseFolder": "folders", "read_case": "folders", "write_case": "folders",
         "fit": "inputs", "load_inputs": "inputs", "Journal": "journal", "Started": "journal", "load_model": "models",
         "Store": "store", "StoreError": "lock"}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(f"corpus.{_HOME[name]}"), name)
    raise AttributeError(f"module 'corpus' has no attribute '{name}'")


__all__ = [
    "CaseFolder", "Journal", "Started", "Store", "StoreError", "fit", "load_arrays", "load_inputs", "load_model", "read_case", "save_arrays", "write_case",
]  # fmt: skip
