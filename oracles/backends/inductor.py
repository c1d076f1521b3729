"""PyTorch's compiler on the CPU: our meaning, traced once to ATen operators, through torch.compile.

Tracing with real inputs instead of letting Dynamo read our interpreter keeps its limits out of the test: what is compiled is a
straight line of torch operators, as an exported model would be.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from oracles.backends.torch import UNSUPPORTED as EAGER
from oracles.plugin import Compiled, backend
from specs.rule import Unsupported

#: On "TypeName: message".
UNSUPPORTED = (
    *EAGER,
    (r"Inductor does not support|inductor does not support|not supported by inductor|Unsupported (?:dtype|type)", "said in words"),
    (r"MissingOperatorWithoutDecomp|missing lowering", "an operator without a lowering"),
)
#: Beside "off" (captured, run by ATen), each varies one thing of the C++ code.
OPTIONS: dict[str, dict[str, Any]] = {
    "off": {},
    "default": {},
    "scalar": {"cpp.simdlen": 1},
    "unfused": {"max_fusion_size": 1, "epilogue_fusion": False, "pattern_matcher": False, "cpp.max_horizontal_fusion_size": 1, "inplace_buffers": False},
    "fused": {"aggressive_fusion": True, "max_fusion_size": 256, "cpp.max_horizontal_fusion_size": 64, "freezing": True},
}


def warm() -> None:
    """The first compilation probes the vector unit and precompiles a header: 15 s that no case should pay."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(os.environ.get("ASSAY_CACHE") or tempfile.mkdtemp()) / "inductor"))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    import torch

    import specs.operator

    torch.set_num_threads(1)
    specs.operator.load()
    torch.compile(lambda x: torch.relu(x) + 1, backend="inductor", dynamic=False)(torch.ones(17))


@backend(
    "inductor",
    settings=list(OPTIONS),
    default=["default"],
    reference_setting="off",
    warm=warm,
    requires=["torch"],
    unsupported=UNSUPPORTED,
    install="pip install torch, and g++",
)
def inductor(model: bytes, setting: str) -> Compiled:
    """Compiles at the sight of inputs, because torch.compile needs them; `off` stops after capture and functionalisation."""
    import torch

    from specs.program import Program, to_numpy

    program = Program(model)
    torch.compiler.reset()
    names = list[str]()
    compiled: Any = None

    def tensors(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        values: dict[str, Any] = program.feeds(feeds)  # strings stay numpy arrays
        if any(not isinstance(v, torch.Tensor) for v in values.values()):
            raise Unsupported("inductor: an input is not a tensor of numbers")
        return values

    def prepare(feeds: Mapping[str, np.ndarray]) -> None:
        nonlocal compiled
        values = tensors(feeds)
        with torch.no_grad():
            graph, names[:] = trace(program, values)
            how: dict[str, Any] = (
                {"backend": "aot_eager"} if setting == "off" else {"backend": "inductor", "options": {"fx_graph_cache": False, **OPTIONS[setting]}}
            )
            compiled = torch.compile(graph, dynamic=False, fullgraph=True, **how)
            compiled(*(v.clone() for v in values.values()))

    def call(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        if compiled is None:
            prepare(feeds)
        assert compiled is not None
        with torch.no_grad():
            results = compiled(*tensors(feeds).values())
        return {name: to_numpy(value, program.formats.get(name)) for name, value in zip(names, results, strict=True)}

    call.prepare = prepare  # type: ignore[attr-defined]
    return call


def trace(program: Any, values: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """A graph of ATen operators and the names of its outputs. Raises Unsupported where the meaning looks at values, not only shapes."""
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    names = list[str]()

    def straight(*args: torch.Tensor) -> list[torch.Tensor]:
        results = program.run(dict(zip(values, args, strict=True)))
        names[:] = list(results)
        if any(not isinstance(v, torch.Tensor) for v in results.values()):
            raise Unsupported("inductor: an output is not a tensor")
        return list(results.values())

    try:
        return make_fx(straight, tracing_mode="real", pre_dispatch=True)(*values.values()), names
    except RuntimeError as e:
        if "tracing tensor" in str(e) or "data-dependent" in str(e) or "Cannot call" in str(e):
            raise Unsupported(f"inductor: not traced, the meaning depends on values ({str(e).splitlines()[0]})") from e
        raise
