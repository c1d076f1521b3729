"""Which optimisations a campaign wakes: networks from blocks against networks from operators only, in the same time.

Campaigns as `fuzz run` makes them, alike but for `--blocks`, whose workers look at every case: a third of the time with ONNX
Runtime, the rest with TVM, which is dear and beside it would get hardly any case with blocks. An ONNX Runtime graph transformer
counts when ONNX Runtime's log says that it modified a graph, a TVM pass when the module has another structural hash
behind it. TVM's lowering has to change every module, whatever it computes, and its passes on the loops of a kernel see no graph:
`tvm_passes` counts passes on graphs that could be left out, `tvm_passes_all` every pass. TVM runs its fusing pipeline and random
sequences of its passes, since the former contains few. The full run takes 21 minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import Figures, Scale, benchmark
from fuzzer import passes as changes
from fuzzer.coverage import stored
from oracles.backends.tvm import NECESSARY

ARMS = {"operators": "none", "blocks": "*"}
BACKENDS = {"onnxruntime:all": 1 / 3, "tvm:fused+random": 2 / 3}  # share of the time
COMMAND = "import sys; sys.argv[0] = 'fuzz'; from fuzzer.cli import main; main()"


@benchmark("passes", ratio_onnxruntime_transformers=(">=", 2.0), ratio_tvm_passes=(">=", 1.3))
def passes(scale: Scale) -> Figures:
    """Distinct ONNX Runtime graph transformers that changed a model, and distinct TVM passes that changed a module."""
    seconds = scale.count(600, 60)
    figures, found = Figures(), dict[str, dict[str, list[dict[str, Any]]]]()
    for arm, blocks in ARMS.items():
        rows = [r for target, share in BACKENDS.items() for r in _woken(target, blocks, round(share * seconds))]
        found[arm] = {backend: [r for r in rows if r["backend"] == backend] for backend in ("onnxruntime", "tvm")}
        transformers, every = ({str(r["pass"]) for r in found[arm][b]} for b in ("onnxruntime", "tvm"))
        for name, own in (("onnxruntime", found[arm]["onnxruntime"]), ("tvm", found[arm]["tvm"])):
            figures[f"cases_{name}_{arm}"] = int(own[0]["looked"]) if own else 0
        figures |= {f"onnxruntime_transformers_{arm}": len(transformers), f"tvm_passes_{arm}": len(on_graphs(every)), f"tvm_passes_all_{arm}": len(every)}
    _print(found)
    for what in ("onnxruntime_transformers", "tvm_passes", "tvm_passes_all"):
        figures[f"ratio_{what}"] = figures[f"{what}_blocks"] / max(1.0, figures[f"{what}_operators"])
    return figures


def _woken(target: str, blocks: str, seconds: int) -> list[dict[str, Any]]:
    """One campaign of so many seconds."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        options = ["--budget", f"{seconds}s", "--backends", target, "--blocks", blocks, "--out", str(out), "--ui", "plain", "--workers", "1"]
        subprocess.run([sys.executable, "-c", COMMAND, "run", *options], env={**os.environ, "ASSAY_LOOK": "1"}, stdout=subprocess.DEVNULL, check=False)
        return changes.rows(stored(out))


def on_graphs(names: set[str]) -> set[str]:
    """TVM passes on a graph that may be left out."""
    return {n for n in names if "." not in n} - NECESSARY


def _print(found: dict[str, dict[str, list[dict[str, Any]]]]) -> None:
    """How many cases every optimisation changed in each campaign."""
    for backend in ("onnxruntime", "tvm"):
        counts = {arm: {str(r["pass"]): int(r["cases"]) for r in own[backend]} for arm, own in found.items()}
        for name in sorted({n for c in counts.values() for n in c}, key=lambda n: (-max(c.get(n, 0) for c in counts.values()), n)):
            numbers = "  ".join(f"{arm} {c.get(name, 0):5}" for arm, c in counts.items())
            print(f"  {backend:12} {name:44} {numbers}{'' if backend != 'tvm' or on_graphs({name}) else '  (lowering)'}")
