"""A backend that misbehaves on demand, to prove that each kind of misbehaviour is noticed."""

from __future__ import annotations

import ctypes
import itertools
import mmap
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from oracles.backends.null import answers
from oracles.backends.reference import warm
from oracles.plugin import Compiled, backend, split
from specs.rule import Unsupported

SETTINGS = ["ok", "element", "nan", "dtype", "shape", "crash", "abort", "hang", "oom", "hoard", "unstable", "stale", "refuse", "broken", "unsupported"]


#: What can be turned off in it; the lies told by "element" and "broken" need both of the guilty.
SWITCHES, GUILTY = ["folding", "fusion", "layout", "sharing", "reuse"], {"fusion", "reuse"}


@backend(
    "liar", settings=SETTINGS, default=["ok"], reference_setting="ok", under_test=False, warm=warm, requires=["torch"], switches=lambda model, setting: SWITCHES
)
def liar(model: bytes, setting: str) -> Compiled:
    """`refuse` fails at load, `broken` at run; `crash` and `abort` die, `oom` asks for memory
    until it is refused, `hoard` takes pages that no limit of the system counts; `stale` is wrong about a Tanh at any other size than
    that of its first run."""
    setting, off = split(setting)
    if setting in ("element", "broken") and GUILTY & set(off):
        setting = "ok"
    if setting == "refuse":
        raise RuntimeError("liar: this model is not to my taste")
    if setting == "unsupported":
        raise Unsupported("liar: I do not implement this operator")
    honest = answers(model)
    count, sizes = itertools.count(), set[str]()

    def call(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        _misbehave(setting)
        outputs = dict(honest(feeds))
        if setting == "stale" and b"Tanh" in model:
            sizes.add(str([a.shape for a in feeds.values()]))
            return _stale(outputs) if len(sizes) > 1 else outputs
        name = _victim(outputs)
        if name is not None:
            outputs[name] = _distort(outputs[name], setting, next(count))
        return outputs

    return call


def _stale(outputs: dict[str, Any]) -> dict[str, Any]:
    return {name: _distort(a, "element", 0) for name, a in outputs.items()}


def _misbehave(setting: str) -> None:
    if setting == "crash":
        ctypes.string_at(0)
    elif setting == "abort":
        ctypes.CDLL(None).write(2, b"liar: Check failed: false\n", 26)
        ctypes.CDLL(None).abort()
    elif setting == "hang":
        while True:
            time.sleep(3600)
    elif setting == "oom":
        kept = list[np.ndarray]()
        while True:
            kept.append(np.empty(1 << 24))
    elif setting == "hoard":
        pages = list[mmap.mmap]()
        while True:
            pages.append(mmap.mmap(-1, 1 << 23))
            pages[-1].write(b"x" * (1 << 23))
    elif setting == "broken":
        raise RuntimeError("liar: internal error in the pass of lies")


def _victim(outputs: Mapping[str, Any]) -> str | None:
    """A float output with elements, else any array: the lie has to be one that can be told."""
    arrays = {name: a for name, a in outputs.items() if isinstance(a, np.ndarray)}
    floats = [name for name, a in arrays.items() if a.size and a.dtype.kind in "fV"]
    return next(iter(floats or arrays), None)


def _distort(a: np.ndarray, setting: str, call: int) -> np.ndarray:
    if setting == "dtype":
        return a.astype(np.float64 if a.dtype != np.float64 else np.float32)
    if setting == "shape":
        return a[None]
    if a.size == 0 or setting not in ("element", "nan", "unstable"):
        return a
    b = a.copy()
    at = np.unravel_index(a.size // 2, a.shape)
    if setting == "element" or (setting == "unstable" and call % 2):
        b[at] = (not b[at]) if b.dtype == bool else np.asarray(b[at], dtype=np.float64) * 2 + 3
    elif setting == "nan" and "float" in b.dtype.name:  # numpy calls narrow integers "V", like narrow floats
        b[at] = np.nan
    return b
