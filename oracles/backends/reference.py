"""Our torch meaning in float64: what every other backend is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from oracles.plugin import Compiled, backend


def warm() -> None:
    import torch

    from specs.operator import load

    torch.set_num_threads(1)
    load()


@backend("reference", settings=["float64"], under_test=False, warm=warm, requires=["torch"])
def reference(model: bytes, setting: str) -> Compiled:
    """Every float is promoted, so float outputs come back as float64 whatever the model declares."""
    import torch

    from specs.program import Program, to_numpy

    program = Program(model, torch.float64)

    def call(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        with torch.no_grad():
            results = program.run(program.feeds(feeds))
        return {name: to_numpy(value, program.formats.get(name)) for name, value in results.items()}

    return call
