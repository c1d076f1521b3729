"""Kernels that do what none may do, for tests of the guards: one a sort, and three that are right."""

from __future__ import annotations

import os
import signal
from typing import Any

from oracles.kernel import kernel

SYMBOLS = (
    "right",
    "past_the_end",
    "before_the_start",
    "reads_past_the_end",
    "reads_before_the_start",
    "skips_the_tail",
    "changes_its_input",
    "assumes_alignment",
    "takes_zeros_for_granted",
    "workspace_too_small",
    "drops_the_last_chunk",
    "races",
    "shares_its_scratch",
    "fails",
    "is_never_mine",
    "crashes",
    "hangs",
    "no_such_symbol",
)


def _always(node: Any, inputs: list[Any]) -> bool:
    """-x."""
    return True


for symbol in SYMBOLS:
    kernel(symbol.replace("_", "-"), implements="Neg", dtypes=("float32",), source="bad.cpp", symbol=symbol)(_always)
kernel("ignores-strides", implements="Neg", dtypes=("float32",), source="bad.cpp", symbol="ignores_strides", strided=True)(_always)
kernel("follows-strides", implements="Neg", dtypes=("float32",), source="bad.cpp", symbol="follows_strides", strided=True)(_always)
kernel("needs-a-line", implements="Neg", dtypes=("float32",), source="bad.cpp", symbol="needs_a_line", aligned=True)(_always)
kernel("needs-a-line-and-does-not-say-so", implements="Neg", dtypes=("float32",), source="bad.cpp", symbol="needs_a_line")(_always)
kernel("does-not-compile", implements="Neg", dtypes=("float32",), source="wrong.cpp", symbol="neg")(_always)
kernel("has-no-source", implements="Neg", dtypes=("float32",), source="nowhere.cpp", symbol="neg")(_always)
kernel("has-no-library", implements="Neg", dtypes=("float32",), library="nowhere.so", symbol="neg")(_always)
kernel("only-small", implements="Neg", dtypes=("float32",), source="bad.cpp", symbol="right")(lambda node, inputs: inputs[0].numel() < 8)


@kernel("python-raises", implements="Neg", form="python")
def python_raises(node: Any, x: Any) -> Any:
    raise ArithmeticError("no luck")


@kernel("python-in-place", implements="Neg", form="python")
def python_in_place(node: Any, x: Any) -> Any:
    return x.neg_()


@kernel("python-flat", implements="Neg", form="python")
def python_flat(node: Any, x: Any) -> Any:
    return -x.reshape(-1)


@kernel("python-wide", implements="Neg", form="python")
def python_wide(node: Any, x: Any) -> Any:
    return -x.double()


@kernel("python-list", implements="Neg", form="python")
def python_list(node: Any, x: Any) -> Any:
    return [x.tolist()]


@kernel("python-not-mine", implements="Neg", form="python")
def python_not_mine(node: Any, x: Any) -> Any:
    return NotImplemented


@kernel("python-killed", implements="Neg", form="python")
def python_killed(node: Any, x: Any) -> Any:
    os.kill(os.getpid(), signal.SIGSEGV)


def _rough(node: Any, a: Any, b: Any) -> Any:
    """A product that is summed in float16, one term after the other."""
    total = a[:, :1] * b[:1]
    for k in range(1, a.shape[1]):
        total = total + a[:, k : k + 1] * b[k : k + 1]
    return total


kernel("rough", implements="MatMul", dtypes=("float16",), form="python")(_rough)
kernel("rough-and-says-so", implements="MatMul", dtypes=("float16",), form="python", strict=False)(_rough)


@kernel("same", implements="Identity", form="python")
def same(node: Any, x: Any) -> Any:
    return x.clone()


@kernel("predicate-raises", implements="Neg", form="python", where=lambda node, inputs: inputs[7] is None)
def predicate_raises(node: Any, x: Any) -> Any:
    return -x
