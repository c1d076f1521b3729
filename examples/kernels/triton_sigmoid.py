"""A Triton kernel: compiled where there is a GPU, in Triton's interpreter elsewhere. `import triton` belongs inside the function."""

from __future__ import annotations

import functools
from typing import Any

from oracles.kernel import kernel


@functools.cache
def _compiled() -> Any:
    import triton
    import triton.language as tl

    @triton.jit
    def sigmoid(x, y, n, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
        at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        inside = at < n
        v = tl.load(x + at, mask=inside)
        tl.store(y + at, 1 / (1 + tl.exp(-v)), mask=inside)

    return sigmoid


@kernel("triton-sigmoid", implements="Sigmoid", dtypes=("float32",), form="triton", where=lambda node, inputs: inputs[0].numel() > 0)
def triton_sigmoid(node: Any, inputs: list[Any], outputs: list[Any]) -> None:
    """Blocks of 128, the last one masked."""
    n = inputs[0].numel()
    _compiled()[(-(-n // 128),)](inputs[0], outputs[0], n, BLOCK=128)
