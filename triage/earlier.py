"""Cases in which one compiled model runs on other inputs first: what a reduction step makes of the case, made of those inputs too.

Steps change a model and the inputs of its last run; the runs before it, which may be of other sizes, follow here. A value that is
cut off has its own value at each of those sizes, and dims that differ between runs are named.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from triage.draft import Draft


def carried(parent: Draft, child: Draft | None) -> Draft | None:
    """The child with what its parent runs first. None when that has no meaning for the child; the child itself when it says what runs first."""
    if child is None or child.before is not None or not parent.before:
        return child
    runs = list[Mapping[str, np.ndarray]]()
    for k in range(len(parent.before)):
        run = {name: _followed(parent, k, name, array) for name, array in child.inputs.items()}
        if any(a is None for a in run.values()):
            return None
        runs.append({name: a for name, a in run.items() if a is not None})
    return fitted(Draft(child.model, child.inputs, tuple(runs)))


def _followed(parent: Draft, k: int, name: str, now: np.ndarray) -> np.ndarray | None:
    """What an input of the child is in an earlier run: what the parent has there, cut and filled as the last one was."""
    was = parent.inputs[name] if name in parent.inputs else parent.values.get(name)
    source = parent.earlier[k].inputs[name] if name in parent.inputs else parent.earlier[k].values.get(name)
    if was is None or source is None:
        return now
    if was is now or (was.shape == now.shape and was.dtype == now.dtype and was.tobytes() == now.tobytes()):
        return source
    found = _cut(source, was.shape, now.shape)
    if found is None:
        return None
    if now.dtype == object or now.size == 0:
        return found
    with np.errstate(all="ignore"):
        found = found.astype(now.dtype)
    return np.full(found.shape, now.flat[0], now.dtype) if bool((now == now.flat[0]).all()) else found


def _cut(source: np.ndarray, was: Sequence[int], now: Sequence[int]) -> np.ndarray | None:
    """Axes on which both runs agree shrink, or go, together; the others keep the size they have there."""
    if source.ndim != len(was):
        return None
    if len(now) == len(was) - 1:
        gone = next((i for i in range(len(was)) if [*was[:i], *was[i + 1 :]] == list(now) and source.shape[i] == 1), None)
        return None if gone is None else source.squeeze(gone)
    if len(now) != len(was):
        return None
    return source[tuple(slice(0, n) if a == b else slice(None) for a, b, n in zip(source.shape, was, now, strict=True))]


def fitted(draft: Draft) -> Draft | None:
    """The draft with inputs and outputs declared as they are in all its runs. None when one of the runs has no meaning, or another rank."""
    model, named = draft.copy(), dict[str, tuple[int, ...]]()
    model.graph.ClearField("value_info")
    if not all(_agreed(v, [run.get(v.name) for run in (draft.inputs, *(draft.before or ()))], named) for v in model.graph.input):
        return None
    whole = Draft(model, draft.inputs, draft.before)  # its values depend on what is declared
    runs = [run.values for run in (whole, *whole.earlier)]
    if not all(runs) or not all(_agreed(v, [run.get(v.name) for run in runs], named) for v in model.graph.output):
        return None
    return Draft(model, draft.inputs, draft.before)


def _agreed(v: onnx.ValueInfoProto, runs: Sequence[np.ndarray | None], named: dict[str, tuple[int, ...]]) -> bool:
    """Declare a value as it is in all runs; False where its rank differs. What is no tensor stays as it is."""
    known = [a.shape for a in runs if a is not None]
    if len({len(shape) for shape in known}) > 1:
        return False
    if known and v.type.HasField("tensor_type") and v.type.tensor_type.HasField("shape"):
        dims = v.type.tensor_type.shape.dim
        if len(dims) != len(known[0]):
            del dims[:]
            for n in known[0]:
                dims.add().dim_value = n
        _declare(v.type.tensor_type.shape, known, named)
    return True


def _declare(shape: onnx.TensorShapeProto, runs: Sequence[tuple[int, ...]], named: dict[str, tuple[int, ...]]) -> None:
    for axis, dim in enumerate(shape.dim):
        sizes = tuple(run[axis] for run in runs)
        if dim.dim_param and named.setdefault(dim.dim_param, sizes) == sizes:
            continue
        if len(set(sizes)) == 1:
            dim.dim_value = sizes[0]
        elif dim.HasField("dim_value") or dim.dim_param:
            same = next((name for name, others in named.items() if others == sizes), None)
            dim.dim_param = same or next(n for i in range(len(named) + 1) if (n := f"n{i}") not in named)
            named[dim.dim_param] = sizes
