"""The forms a kernel may have, each made a function (node, inputs, expected outputs, regime) -> outputs or None for "not mine"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from oracles.guard import Regime
from oracles.kernel import TEETH, Kernel
from specs.formats import BY_NUMPY

Execute = Callable[[Any, Sequence[np.ndarray | None], Sequence[np.ndarray | None], Regime], list[np.ndarray | None] | None]


def prepared(kernel: Kernel, wanted: str = "") -> Execute:
    """A kernel ready to run; `wanted` is "", "@BASELINE" or "!DEFECT". Raises Unsupported when something is missing here."""
    if kernel.problem:
        raise RuntimeError(kernel.problem)
    defect = wanted[1:] if wanted.startswith("!") and wanted[1:] not in TEETH else ""
    symbol = kernel.baselines[wanted[1:]] if wanted.startswith("@") else ""
    return FORMS[kernel.form](kernel, symbol, defect)


def _native(kernel: Kernel, symbol: str, defect: str) -> Execute:
    from oracles.native import Native

    call = Native(kernel, symbol, defect)

    def execute(node: Any, ins: Sequence[np.ndarray | None], want: Sequence[np.ndarray | None], regime: Regime) -> Any:
        inputs = [None if i is None else (_type(i, f), i) for i, f in zip(ins, node.in_formats, strict=True)]
        outputs = [None if w is None else (_type(w, f), w.shape, w.dtype) for w, f in zip(want, node.out_formats, strict=False)]
        return call(node.attrs, inputs, outputs, regime)

    return execute


def _type(array: np.ndarray, form: Any) -> int:
    return form.onnx if form is not None else BY_NUMPY[array.dtype].onnx


FORMS: dict[str, Callable[[Kernel, str, str], Execute]] = {"native": _native}
