"""PyTorch, eager: our meaning run in the declared types. It cannot tell a mistake of torch from one of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from oracles.backends.reference import warm
from oracles.plugin import Compiled, backend

#: On "TypeName: message".
UNSUPPORTED = (
    (r"not implemented for '?[A-Za-z0-9_]+'?", 'a kernel without this type: "add_stub" not implemented for ...'),
    (r"is not supported for (?:complex|the type|[A-Z]\w+ (?:tensors|type))", "a type refused by name"),
    (r"(?:Promotion for Float8 Types|Float8_\w+) .*not supported", "no arithmetic on float8"),
    (r"(?:does not support|not supported (?:on|for)|unsupported) (?:dtype|scalar type|data type|type)", "a type refused by name"),
    (r"Could not run '[^']+' with arguments from the '[^']+' backend", "an operator without a kernel for this device"),
)


@backend("torch", settings=["eager"], warm=warm, requires=["torch"], unsupported=UNSUPPORTED)
def torch(model: bytes, setting: str) -> Compiled:
    import torch

    from specs.program import Program, to_numpy

    program = Program(model)

    def call(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        with torch.no_grad():
            results = program.run(program.feeds(feeds))
        return {name: to_numpy(value, program.formats.get(name)) for name, value in results.items()}

    return call
