"""Reduction steps on numbers: smaller tensors, then plainer contents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from triage.draft import Draft, cost, info
from triage.reduce import step
from triage.reduce_graph import outputs_inferred

#: Sizes around the widths of vector units, where loops have tails.
EDGES = (3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)
CHUNKS = 64  # pieces into which a tensor is cut, at most, when single elements are tried


def arrays(draft: Draft) -> dict[str, np.ndarray]:
    """Inputs and weights by name, the most costly first."""
    both = {**draft.inputs, **{name: numpy_helper.to_array(t) for name, t in draft.weights.items()}}
    return dict(sorted(both.items(), key=lambda item: (-cost(item[1]), item[0])))


def replaced(draft: Draft, new: dict[str, np.ndarray]) -> Draft:
    """The draft with other contents, and shapes, of some inputs and weights."""
    model = draft.copy()
    for t in model.graph.initializer:
        if t.name in new:
            t.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(new[t.name]).reshape(new[t.name].shape), t.name))
    for v in model.graph.input:
        if v.name in new:
            v.CopyFrom(info(v.name, new[v.name]))
    return Draft(model, {n: new.get(n, a) for n, a in draft.inputs.items()})


def refilled(draft: Draft, name: str, array: np.ndarray) -> Draft:
    """Other contents of one tensor; of an integer weight, which may be a shape, with other outputs too."""
    return reshaped(draft, {name: array}) if name in draft.weights and array.dtype.kind in "iu" else replaced(draft, {name: array})


def reshaped(draft: Draft, new: dict[str, np.ndarray]) -> Draft:
    """As `replaced`, with the outputs declared as they come out."""
    made = replaced(draft, new)
    return outputs_inferred(made.copy(), made)


@step
def shrink_size(draft: Draft) -> Iterator[Draft | None]:
    """One size everywhere: all axes of inputs and weights that have it, and the numbers in shape weights that name it, become 1, 2 or half."""
    both = arrays(draft)
    sizes = sorted({d for a in both.values() for d in a.shape if d > 1}, reverse=True)
    for old in sizes:
        for size in smaller(old):
            cut = {n: a[tuple(slice(0, size) if d == old else slice(None) for d in a.shape)] for n, a in both.items() if old in a.shape}
            yield reshaped(draft, cut)
            named = {
                n: np.where(a == old, size, a).astype(a.dtype) for n, a in both.items() if n not in cut and n in draft.weights and _is_shape(a) and old in a
            }
            if named:
                yield reshaped(draft, {**cut, **named})
            yield _renamed_attributes(reshaped(draft, cut), old, size)


def _renamed_attributes(draft: Draft, old: int, size: int) -> Draft | None:
    """Integer attributes that name the size, too: hidden_size, kernel_shape."""
    model, found = draft.copy(), False
    for node in model.graph.node:
        for a in node.attribute:
            if a.type == onnx.AttributeProto.INT and a.i == old:
                a.i, found = size, True
            for j, value in enumerate(a.ints):
                if value == old:
                    a.ints[j], found = size, True
    return outputs_inferred(model, draft) if found else None


def _is_shape(array: np.ndarray) -> bool:
    return array.dtype == np.int64 and array.ndim == 1 and array.size <= 8


@step
def shrink_axis(draft: Draft) -> Iterator[Draft | None]:
    """One axis of one tensor, for what broadcasts."""
    for name, array in arrays(draft).items():
        for axis, old in enumerate(array.shape):
            for size in smaller(old):
                yield reshaped(draft, {name: array.take(range(size), axis)})


def smaller(old: int) -> list[int]:
    """Sizes to try in place of one: 1, 2, half, and what lies between half and all: the edges, and one less."""
    return sorted(s for s in {1, 2, old // 2, old - 1, *(e for e in EDGES if e > old // 2)} if 0 < s < old)


@step
def drop_axis(draft: Draft) -> Iterator[Draft | None]:
    """An axis of length 1 in every tensor that has one there; then in one tensor."""
    both = {n: a for n, a in arrays(draft).items() if a.ndim}
    for axis in range(max((a.ndim for a in both.values()), default=0)):
        thin = {n: a.squeeze(axis) for n, a in both.items() if a.ndim > axis and a.shape[axis] == 1}
        if thin:
            yield reshaped(draft, thin)
            yield from (reshaped(draft, {n: a}) for n, a in thin.items())


@step
def plain_tensor(draft: Draft) -> Iterator[Draft | None]:
    """A whole tensor of zeros, of ones, or rounded to integers, halves, sixteenths."""
    for name, array in arrays(draft).items():
        if array.dtype == object:
            yield replaced(draft, {name: np.full(array.shape, "", object)})
            continue
        for value in (0, 1):
            yield refilled(draft, name, np.full(array.shape, value).astype(array.dtype))
        if not _whole(array):
            wide = array.astype(np.float64)
            for grid in (1.0, 2.0, 16.0):
                with np.errstate(all="ignore"):
                    yield replaced(draft, {name: (np.round(wide * grid) / grid).astype(array.dtype)})


def _whole(array: np.ndarray) -> bool:
    return array.dtype.kind in "iubc" or array.dtype.name in ("int4", "uint4", "int2", "uint2")


@step
def few_nonzeros(draft: Draft) -> Iterator[Draft | None]:
    """All but the one, two, four ... largest elements of a tensor zero."""
    for name, array in arrays(draft).items():
        if array.dtype == object or array.size < 3 or array.dtype.kind == "c":
            continue
        with np.errstate(all="ignore"):
            order = np.argsort(-np.abs(array.astype(np.float64)).ravel(), kind="stable")
        count, present = 1, int(np.count_nonzero(array))
        while count < present:
            yield refilled(draft, name, _with(array, order[count:], 0))
            count *= 4


@step
def plain_elements(draft: Draft) -> Iterator[Draft | None]:
    """Parts of a tensor zero, halves before quarters before single elements; then single elements as small integers."""
    for name, array in arrays(draft).items():
        if array.dtype == object or not array.size:
            continue
        flat = array.ravel()
        pieces = 2
        while pieces <= min(CHUNKS, max(2, flat.size)):
            for part in np.array_split(np.arange(flat.size), pieces):
                if part.size and cost(flat[part]):
                    yield refilled(draft, name, _with(array, part, 0))
            pieces *= 2
        for i in range(flat.size if flat.size <= CHUNKS else 0):
            for value in (1, 2, round(float(flat[i].real)) if np.isfinite(float(flat[i].real)) else 1):
                if cost(np.asarray(flat[i])) > min(value, 2):
                    yield refilled(draft, name, _with(array, np.array([i]), value))


def _with(array: np.ndarray, where: np.ndarray, value: float) -> np.ndarray:
    changed = array.ravel().copy()
    with np.errstate(all="ignore"):
        changed[where] = np.asarray(value, np.float64).astype(array.dtype)
    return changed.reshape(array.shape)


@step
def plain_attributes(draft: Draft) -> Iterator[Draft | None]:
    """Integer attributes nearer to 1 and 0: strides, pads, dilations, groups."""
    for i, node in enumerate(draft.nodes):
        for k, a in enumerate(node.attribute):
            if a.type == onnx.AttributeProto.INTS:
                for j, value in enumerate(a.ints):
                    for plain in (0, 1):
                        if value > plain:
                            model = draft.copy()
                            model.graph.node[i].attribute[k].ints[j] = plain
                            yield outputs_inferred(model, draft)
