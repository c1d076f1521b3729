"""PyTorch's compiler on the CPU, and on a GPU where there is one: our meaning, traced once to ATen operators, through torch.compile.

Tracing with real inputs instead of letting Dynamo read our interpreter keeps its limits out of the test: what is compiled is a
straight line of torch operators, as an exported model would be.
"""

from __future__ import annotations

import getpass
import itertools
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from oracles.backends.torch import UNSUPPORTED as EAGER
from oracles.devices import CUDA, gpu, moved
from oracles.plugin import Compiled, backend, split
from oracles.worker import same
from specs.rule import Unsupported

#: On "TypeName: message".
UNSUPPORTED = (
    *EAGER,
    (r"Inductor does not support|inductor does not support|not supported by inductor|Unsupported (?:dtype|type)", "said in words"),
    (r"^Unsupported: ", "Dynamo's own type: it cannot capture this operator"),
    (r"MissingOperatorWithoutDecomp|missing lowering", "an operator without a lowering"),
)
TIDY_EVERY = 64
_models = itertools.count(1)
_cache: Path | None = None
#: Beside "off" (captured, run by ATen), each varies one thing of the C++ code.
OPTIONS: dict[str, dict[str, Any]] = {
    "off": {},
    "default": {},
    "scalar": {"cpp.simdlen": 1},
    "unfused": {"max_fusion_size": 1, "epilogue_fusion": False, "pattern_matcher": False, "cpp.max_horizontal_fusion_size": 1, "inplace_buffers": False},
    "fused": {"aggressive_fusion": True, "max_fusion_size": 256, "cpp.max_horizontal_fusion_size": 64, "freezing": True},
    **({CUDA: {}} if gpu() else {}),
}
DECOMPOSED = "decomposed"  # to ATen's core operators, and run by ATen
#: What turns one part of the compiler off.
SWITCHES: dict[str, dict[str, Any]] = {
    "vectorisation": {"cpp.simdlen": 1},
    "fusion": {"max_fusion_size": 1, "cpp.max_horizontal_fusion_size": 1},
    "epilogue_fusion": {"epilogue_fusion": False},
    "pattern_matcher": {"pattern_matcher": False},
    "inplace_buffers": {"inplace_buffers": False},
    "buffer_reuse": {"allow_buffer_reuse": False},
    "loop_tail_vectorisation": {"cpp.enable_loop_tail_vec": False},
    "tiling_heuristics": {"cpp.enable_tiling_heuristics": False},
    "weight_prepack": {"cpp.weight_prepack": False},
    "split_reductions": {"split_reductions": False},
    "reorder_for_locality": {"reorder_for_locality": False},
    "freezing": {"freezing": False},
}


def switches(model: bytes, setting: str) -> list[str]:
    """Those that are not off already; all the same for every model, inductor does not say what it used."""
    base, off = split(setting)
    done = {**OPTIONS[base], **{k: v for name in off for k, v in SWITCHES[name].items()}}
    on = [name for name, options in SWITCHES.items() if any(k not in done or done[k] != v for k, v in options.items())]
    if base == CUDA:
        on = [name for name in on if not any(k.startswith("cpp.") for k in SWITCHES[name])]
    return [] if base == "off" else [name for name in on if name != "freezing" or done.get("freezing")]


def warm() -> None:
    """The first compilations precompile headers; probing the vector unit as well would take ten more seconds, so the flags of the processor are believed."""
    global _cache
    _cache = Path(os.environ.get("ASSAY_CACHE") or tempfile.mkdtemp()) / "inductor"
    _cache.mkdir(parents=True, exist_ok=True)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(_cache)  # never the user's own: ours is cleared
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
    tempfile.tempdir = str(_cache)  # inductor asks once, when it is imported, where to keep that header: not in a folder that dies with this worker
    import torch
    import torch._inductor.codecache  # pyright: ignore[reportUnusedImport]

    import specs.operator

    tempfile.tempdir = None
    torch.set_num_threads(1)
    specs.operator.load()
    for believed in (True, None):
        torch._inductor.config.cpp.vec_isa_ok = believed
        try:
            for options in ({}, OPTIONS["scalar"]):  # one header each
                torch.compile(lambda x: torch.relu(x) + 1, backend="inductor", dynamic=False, options={"fx_graph_cache": False, **options})(torch.ones(97))
                torch.compiler.reset()
            return
        except RuntimeError:  # what the processor can do the compiler cannot: let inductor find out what both can
            if believed is None:
                raise
            torch.compiler.reset()
            torch._inductor.cpu_vec_isa.valid_vec_isa_list.cache_clear()


def _tidy_up() -> None:
    """Compiled kernels stay on disk for ever; those of earlier models are loaded already and of no further use."""
    for folder in _cache.iterdir() if _cache is not None else ():
        if folder.is_dir() and folder.name not in ("locks", "torchinductor_" + getpass.getuser()):
            shutil.rmtree(folder, ignore_errors=True)


@backend(
    "inductor",
    settings=list(OPTIONS),
    default=["default"],
    reference_setting="off",
    warm=warm,
    requires=["torch"],
    unsupported=UNSUPPORTED,
    switches=switches,
    stages=[("off", "capture and functionalisation"), (DECOMPOSED, "decompositions")],
    tools=["g++", "clang++"],
    install="pip install torch, and the system's g++",
)
def inductor(model: bytes, setting: str) -> Compiled:
    """Compiles at the sight of inputs, because torch.compile needs them; `off` stops after capture and functionalisation."""
    import torch

    from specs.program import Program, to_numpy

    program = Program(model)
    base, off = split(setting)
    if base == CUDA:
        if not torch.cuda.is_available():
            raise Unsupported("inductor: this build of torch sees no GPU")
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # its digits are not those of float32
    options = {**OPTIONS.get(base, {}), **{k: v for name in off for k, v in SWITCHES[name].items()}, "fx_graph_cache": False}
    if next(_models) % TIDY_EVERY == 0:
        _tidy_up()
    torch.compiler.reset()
    compiled: Traced | None = None

    def prepare(feeds: Mapping[str, np.ndarray]) -> None:
        nonlocal compiled
        values = _tensors(program, feeds)
        with torch.no_grad():
            traced = trace(program, values)
            if base == CUDA:
                moved(traced.graph, CUDA)
            how: dict[str, Any] = {"backend": _EAGER[base]} if base in _EAGER else {"backend": "inductor", "options": options}
            traced.graph = torch.compile(traced.graph, dynamic=False, fullgraph=True, **how)
            traced.graph(*(v.to(CUDA) if base == CUDA else v.clone() for v in values.values()))
        if traced.looked:
            traced.looked_at = {name: np.array(feeds[name]) for name in values}
        traced.shapes = [v.shape for v in values.values()]
        compiled = traced

    def call(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        values = _tensors(program, feeds)
        other = compiled is None or compiled.shapes != [v.shape for v in values.values()]
        if compiled is None or other or any(not same(a, feeds[name]) for name, a in compiled.looked_at.items()):
            prepare(feeds)
        assert compiled is not None
        with torch.no_grad():
            results = compiled.graph(*(v.to(CUDA) if base == CUDA else v for v in values.values()))
        return {name: to_numpy(value.cpu(), program.formats.get(name)) for name, value in zip(compiled.outputs, results, strict=True)}

    call.prepare = prepare  # type: ignore[attr-defined]
    return call


@dataclass
class Traced:
    """A straight line of ATen operators, for inputs of these shapes. When the meaning has `looked` at values of tensors it is right for these inputs alone."""

    graph: Any
    outputs: list[str]
    looked: bool
    looked_at: dict[str, np.ndarray] = field(default_factory=dict)
    shapes: list[Any] = field(default_factory=list)


def _tensors(program: Any, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
    import torch

    values: dict[str, Any] = program.feeds(feeds)
    if any(not isinstance(v, torch.Tensor) for v in values.values()):
        raise Unsupported("inductor: an input is not a tensor of numbers")
    return values


def trace(program: Any, values: Mapping[str, Any]) -> Traced:
    """Record the operators that the meaning runs on these inputs; where it reads a value (an axis, a size, a condition), it gets it."""
    import torch
    from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing, make_fx

    names = list[str]()
    looked = False

    class Look(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal looked
            if getattr(func, "__name__", "") not in _LOOKS:
                return func(*args, **(kwargs or {}))
            looked = True
            with disable_proxy_modes_tracing():
                return func(*args, **(kwargs or {}))

    def straight(*args: torch.Tensor) -> list[torch.Tensor]:
        with Look():
            results: dict[str, Any] = program.run(dict(zip(values, args, strict=True)))
        names[:] = list(results)
        if any(not isinstance(v, torch.Tensor) for v in results.values()):
            raise Unsupported("inductor: an output is not a tensor")
        return list(results.values())

    graph = make_fx(straight, tracing_mode="real", pre_dispatch=True)(*values.values())  # keeps conv2d, softmax ... whole, as torch.export does
    graph.graph.eliminate_dead_code()  # calls that only asked for a type
    graph.recompile()
    return Traced(graph, names, looked)


_EAGER = {"off": "aot_eager", DECOMPOSED: "aot_eager_decomp_partition"}
_LOOKS = {"item", "tolist", "__int__", "__float__", "__bool__", "__index__", "numpy"}
