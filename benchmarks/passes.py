"""Which optimisations a campaign wakes: networks from blocks against networks from operators only, in the same time."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from benchmarks import Figures, Scale, benchmark
from fuzzer.generate import generate_from
from fuzzer.grow import Menu
from fuzzer.menus import avoided
from fuzzer.sources import Seeded
from oracles.backends.onnxruntime import fired
from oracles.records import Case

PLAIN = Menu(avoid=avoided("onnxruntime") | avoided("tvm"))


@benchmark("passes", ratio_onnxruntime_transformers=(">=", 2.0), ratio_tvm_passes=(">=", 1.3))
def passes(scale: Scale) -> Figures:
    """Distinct ONNX Runtime graph transformers that changed a model, and distinct TVM passes that changed a module."""
    torch.set_num_threads(1)
    seconds = scale.count(300, 15)
    figures = Figures()
    for arm, menu in (("operators", PLAIN), ("blocks", replace(PLAIN, blocks=None))):
        ort, tvm, cases, end = set[str](), set[str](), 0, time.monotonic() + seconds
        while time.monotonic() < end:
            made = generate_from(Seeded("passes", cases), 2 + cases % 9, menu, check=False)
            cases += 1
            if made.found.safe:
                ort.update(fired(made.case.model))
                if cases % 4 == 0:
                    tvm.update(_changing(made.case))
        figures |= {f"cases_{arm}": cases, f"onnxruntime_transformers_{arm}": len(ort), f"tvm_passes_{arm}": len(tvm)}
        print(f"  {arm}: {', '.join(sorted(ort))}; {', '.join(sorted(tvm))}")
    figures["ratio_onnxruntime_transformers"] = figures["onnxruntime_transformers_blocks"] / max(1, figures["onnxruntime_transformers_operators"])
    figures["ratio_tvm_passes"] = figures["tvm_passes_blocks"] / max(1, figures["tvm_passes_operators"])
    return figures


def _changing(case: Case) -> set[str]:
    """TVM passes after which the module is another one, in the fusing pipeline and its lowering."""
    import onnx
    import tvm
    import tvm_ffi
    from tvm.relax.frontend.onnx import from_onnx

    from oracles.backends.tvm import _pipeline
    from oracles.backends.tvm import passes as names

    found = set[str]()

    @tvm.instrument.pass_instrument
    class Watch:
        def __init__(self) -> None:
            self.before: list[int] = []

        def run_before_pass(self, module: Any, info: Any) -> None:
            self.before.append(tvm_ffi.structural_hash(module))

        def run_after_pass(self, module: Any, info: Any) -> None:
            if tvm_ffi.structural_hash(module) != self.before.pop():
                found.add(str(info.name))

    target = tvm.target.Target("llvm")
    try:
        importer: Any = from_onnx
        module = importer(onnx.load_from_string(case.model), keep_params_in_input=False)
        with target, tvm.transform.PassContext(opt_level=3, instruments=[Watch()]):
            _pipeline(names(case.model, "fused"), target)(module)
    except Exception:  # what TVM refuses wakes nothing more
        pass
    return found
