"""Findings made by hand: nothing in them depends on what is installed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from onnx import parser

from oracles.records import Case, Outcome, Verdict
from triage.cause import Cause
from triage.finding import Finding
from triage.known import Known

MODEL = """<ir_version: 8, opset_import: ["" : 18]> g (float[2, 3] x) => (float[2, 3] y) <float[3] w = {1, 2, 3}> {
    s = Add (x, w)
    y = Softmax <axis: int = 0> (s)
}"""
SETTINGS = {"onnxruntime": ("off", "all"), "tvm": ("default", "fused"), "inductor": ("off", "default")}
KNOWN = Known("softmax-axis", "onnxruntime", "Softmax over axis 0 after Add", ("https://example.org/issues/7",), "open", operators=("Softmax",))


def made(backend: str = "onnxruntime", verdict: str = "wrong", **changes: Any) -> Finding:
    """A Softmax that is wrong with optimisation on; `changes` are of the finding, `v_...` of its verdict."""
    plain, failing = SETTINGS[backend]
    numbers = {"output": "y", "element": (1, 2), "got": 0.75, "expected": 0.5, "bound": 1e-6, "ratio": 250000.0, "grade": "certified"}
    if verdict in ("broken", "refused", "crash"):
        numbers = {"message": "Fail: [ONNXRuntimeError] : 1 : FAIL : softmax_fusion.cc: axis | 0 is `odd`"}
    v = Verdict(backend, failing, verdict, **{**numbers, **{k[2:]: x for k, x in changes.items() if k.startswith("v_")}})  # type: ignore[arg-type]
    fine = Verdict(backend, plain, "ok", output="y", ratio=0.25)
    case = Case(parser.parse_model(MODEL).SerializeToString(), {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}, {"seed": 7, "index": 12})
    outcomes = (Outcome(backend, plain, "ok", {"y": np.full((2, 3), 0.5, np.float32)}), Outcome(backend, failing, "ok", {"y": np.full((2, 3), 0.75)}))
    about = {backend: "1.2.3", "onnx": "1.20.0", "python": "3.11.7", "platform": "Linux-6.1-x86_64-with-glibc2.36", "machine": "x86_64"}
    why = Cause(backend, verdict, ("Softmax",), "float", "optimised")
    expected, bounds = {"y": np.full((2, 3), 0.5)}, {"y": np.full((2, 3), 1e-6)}
    finding = Finding(why, case, v, outcomes, (fine, v), expected, bounds, 3, 3, 4, 1.7e9, 1.7e9, environment=about, blame="SoftmaxFusion")
    return replace(finding, **{k: x for k, x in changes.items() if not k.startswith("v_")})
