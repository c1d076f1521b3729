"""Reduction steps on what the same compiled model runs on before: fewer runs, the same inputs again, smaller and plainer ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from triage.draft import Draft, cost
from triage.earlier import fitted
from triage.reduce import step
from triage.reduce_values import smaller


@step
def fewer_runs(draft: Draft) -> Iterator[Draft | None]:
    """The last run alone; an earlier one as the last; one earlier run alone before it; without one of them."""
    before = draft.before or ()
    if not before:
        return
    yield Draft(draft.model, draft.inputs, ())
    for k, inputs in enumerate(before):
        yield fitted(Draft(draft.model, inputs, before[:k]))
    for k in range(len(before)) if len(before) > 1 else ():
        yield fitted(Draft(draft.model, draft.inputs, (before[k],)))
        yield fitted(Draft(draft.model, draft.inputs, (*before[:k], *before[k + 1 :])))


@step
def same_run_twice(draft: Draft) -> Iterator[Draft | None]:
    """The inputs of the case in an earlier run, too, or those of an earlier run in the last one: no size has a name then."""
    before = draft.before or ()
    for k, inputs in enumerate(before):
        yield fitted(Draft(draft.model, draft.inputs, (*before[:k], draft.inputs, *before[k + 1 :])))
        yield fitted(Draft(draft.model, inputs, (*before[:k], inputs, *before[k + 1 :])))


@step
def shrink_earlier(draft: Draft) -> Iterator[Draft | None]:
    """One named size of an earlier run smaller."""
    before = draft.before or ()
    axes = {(v.name, axis): d.dim_param for v in draft.model.graph.input for axis, d in enumerate(v.type.tensor_type.shape.dim) if d.dim_param}
    for k, inputs in enumerate(before):
        for name in dict.fromkeys(axes.values()):
            mine = [at for at, n in axes.items() if n == name]
            for size in smaller(inputs[mine[0][0]].shape[mine[0][1]]):
                cut = dict(inputs)
                for other, axis in mine:
                    cut[other] = cut[other].take(range(min(size, cut[other].shape[axis])), axis)
                yield fitted(Draft(draft.model, draft.inputs, (*before[:k], cut, *before[k + 1 :])))


@step
def plain_earlier(draft: Draft) -> Iterator[Draft | None]:
    """An input of an earlier run as zeros, or as ones."""
    before = draft.before or ()
    for k, inputs in enumerate(before):
        for name, array in inputs.items():
            for value in (0, 1) if array.dtype != object and cost(array) else ():
                filled = {**inputs, name: np.full(array.shape, value).astype(array.dtype)}
                yield Draft(draft.model, draft.inputs, (*before[:k], filled, *before[k + 1 :]))
