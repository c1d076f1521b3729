"""Writing generated cases as folders that `fuzz check` and any other tool can read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from corpus.arrays import save_arrays
from corpus.lock import StoreError
from fuzzer.generate import Generated, generate_from
from fuzzer.grow import LATER, OPSETS, Menu, opsets
from fuzzer.settings import select
from fuzzer.sources import Seeded
from oracles.reference import reference
from specs.operator import operators
from specs.program import to_numpy
from specs.rule import UsageError

ATTEMPTS = 20  # draws looked at for one case before the request counts as impossible


def write_cases(out: Path, *, count: int, seed: int, nodes: int, op: str = "", opset: int = 0, progress: Callable[[str], None] = lambda _: None) -> int:
    """Write `count` case folders. Raises UsageError for what cannot be drawn, StoreError when the disk refuses."""
    if opset and opset not in (*OPSETS, *LATER):
        raise UsageError(f"--opset {opset}: drawn opsets are {min(OPSETS)} to {max(LATER)}")
    names = select(op, {k: o for k, o in operators().items() if o.draw is not None}) if op else None
    since = min(operators()[key].since for key in names) if names else min(OPSETS)
    menu = Menu(names, opsets=(opset,) if opset else opsets(since) if since > max(OPSETS) else OPSETS)
    for i in range(count):
        progress(f"case {i + 1} of {count}")
        made = _one(seed, i, nodes, menu)
        if made is None:
            raise UsageError(f"no valid network of {nodes} nodes found for {op or 'these options'}{f' at opset {opset}' if opset else ''}")
        try:
            _write(out / f"case-{i}", made)
        except OSError as e:
            raise StoreError(f"cannot write to {out}: {e.strerror or e}") from e
    return count


def _one(seed: int, index: int, nodes: int, menu: Menu) -> Generated | None:
    for attempt in range(ATTEMPTS):
        source = Seeded(seed, index) if attempt == 0 else Seeded(seed, index, attempt)
        origin = {"seed": seed, "index": index, "attempt": attempt, "nodes": nodes, "choices": source.trail}
        made = generate_from(source, nodes, menu, origin=origin)
        if made.found.safe and made.network.steps:
            return made
    return None


def _write(folder: Path, made: Generated) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(made.case.model)
    save_arrays(folder / "inputs.npz", made.case.inputs)
    expected = reference(made.program, made.case.inputs)
    arrays = {name: to_numpy(want.ball.value, want.format) for name, want in expected.items()}
    save_arrays(folder / "expected.npz", {n: a for n, a in arrays.items() if isinstance(a, np.ndarray)})
    (folder / "case.json").write_text(json.dumps({"id": made.case.id, **made.case.origin}) + "\n")
