"""What every process of ours that makes or judges cases does first."""

from __future__ import annotations

import gc

import torch

import specs


def settle() -> None:
    """One thread, and everything loaded so far is out of the collector's sight: it would be walked again every few cases."""
    torch.set_num_threads(1)
    specs.operators()
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
