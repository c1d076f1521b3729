"""Reduction steps on control flow: a body by itself, at its first iteration, in place of the loop around it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx

from corpus import walk
from triage.draft import Draft, info
from triage.reduce import step


@step
def body_alone(draft: Draft) -> Iterator[Draft | None]:
    """The body of a Loop or Scan as the whole model, on what it is given the first time."""
    for node in draft.nodes:
        if node.op_type in ("Loop", "Scan"):
            body = next(a.g for a in node.attribute if a.name == "body")
            first = _loop(draft, node) if node.op_type == "Loop" else _scan(draft, node, len(body.input))
            if first is not None and len(first) >= len(body.input):
                yield _alone(draft, body, dict(zip((i.name for i in body.input), first, strict=False)))


def _loop(draft: Draft, node: onnx.NodeProto) -> list[np.ndarray] | None:
    state = [_value(draft, name) for name in node.input[2:]]
    return None if any(v is None for v in state) else [np.array(0, np.int64), np.array(True), *(v for v in state if v is not None)]


def _scan(draft: Draft, node: onnx.NodeProto, wanted: int) -> list[np.ndarray] | None:
    """States as they are, of the scanned inputs the first slice; of one that is scanned backwards that is the last."""
    values, scanned = [_value(draft, name) for name in node.input], next(a.i for a in node.attribute if a.name == "num_scan_inputs")
    given = {a.name: list(a.ints) for a in node.attribute}
    axes, directions = (given.get(n, [0] * scanned) for n in ("scan_input_axes", "scan_input_directions"))
    if any(v is None for v in values) or len(values) != wanted:
        return None
    known = [v for v in values if v is not None]
    states, slices = known[: len(known) - scanned], known[len(known) - scanned :]
    if any(not s.shape[a] for s, a in zip(slices, axes, strict=True)):
        return None
    return [*states, *(s.take(-1 if d else 0, a) for s, a, d in zip(slices, axes, directions, strict=True))]


def _value(draft: Draft, name: str) -> np.ndarray | None:
    return draft.inputs.get(name, draft.values.get(name))


def _alone(draft: Draft, body: onnx.GraphProto, given: dict[str, np.ndarray]) -> Draft | None:
    given |= {n: v for n in walk.captured(body) if n not in given and n not in draft.weights and (v := _value(draft, n)) is not None}
    if any(n not in given and n not in draft.weights for n in walk.captured(body)):
        return None
    model = draft.copy()
    graph = model.graph
    for field in ("node", "input", "output", "initializer", "value_info"):
        graph.ClearField(field)  # type: ignore[arg-type]
    graph.node.extend(body.node)
    graph.initializer.extend([*body.initializer, *(t for n, t in draft.weights.items() if n in walk.captured(body))])
    graph.input.extend(info(n, a) for n, a in given.items())
    passed = {i.name for i in body.input}
    graph.output.extend(o for o in body.output if o.name not in passed)
    whole = Draft(model, given)
    for o in graph.output:
        if o.name in whole.values:
            o.CopyFrom(info(o.name, whole.values[o.name]))
    return Draft(model, given).cleaned() if graph.output else None
