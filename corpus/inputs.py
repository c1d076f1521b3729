"""Inputs and outputs that users bring, checked against what the model declares."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx

from corpus import walk
from corpus.arrays import MEMORY, decode, load_arrays
from corpus.sentences import one_sentence
from specs.formats import Format
from specs.rule import UsageError


@one_sentence
def load_inputs(path: Path | str, model: onnx.ModelProto | None = None, memory: int = MEMORY) -> dict[str, np.ndarray]:
    """Inputs from a .npz, or from the inputs.npz of a folder; with a model they are decoded to its types and must fit it."""
    path = _file(Path(path), "inputs.npz")
    arrays = load_arrays(path, declared(model.graph.input) if model else None, memory)
    return fit(model, arrays, path) if model else arrays


@one_sentence
def load_outputs(path: Path | str, model: onnx.ModelProto, memory: int = MEMORY) -> dict[str, np.ndarray]:
    """Outputs that another system computed. Their types and shapes are for the judge; their names must be the model's."""
    path = _file(Path(path), "outputs.npz")
    forms = declared(model.graph.output)
    arrays = load_arrays(path, forms, memory)
    _names(str(path), "output", arrays, list(forms))
    return {name: arrays[name] for name in forms}


def _file(path: Path, name: str) -> Path:
    if not path.is_dir():
        return path
    if not (path / name).is_file():
        raise UsageError(f"{path}: has no {name}")
    return path / name


def declared(values: object) -> dict[str, Format | None]:
    """Formats by name of graph inputs or outputs."""
    return {v.name: walk.tensor_format(v.type) for v in values}  # type: ignore[attr-defined]


@one_sentence
def fit(model: onnx.ModelProto, arrays: Mapping[str, np.ndarray], source: Path | str = "inputs") -> dict[str, np.ndarray]:
    """The arrays in the model's order and types. Raises UsageError when one is missing, unknown, or of the wrong type or shape."""
    wanted = walk.bare_inputs(model.graph)
    _names(str(source), "input", arrays, [v.name for v in wanted], {i.name for i in model.graph.initializer})
    symbols = dict[str, tuple[int, str]]()
    result = dict[str, np.ndarray]()
    for value in wanted:
        form, dims = walk.tensor_format(value.type), walk.dims(value.type)
        if form is None:
            raise UsageError(f"{source}: input '{value.name}' of the model is not a tensor, and only tensors can be given")
        array = decode(np.asarray(arrays[value.name]), None, form)
        if array.dtype != form.numpy:
            raise UsageError(f"{source}: input '{value.name}' has type {_type(array)}, the model declares {form.name}")
        if dims is not None:
            _shape(f"{source}: input '{value.name}'", value.name, array.shape, dims, symbols)
        result[value.name] = array
    return result


def _shape(what: str, name: str, shape: tuple[int, ...], dims: list[int | str | None], symbols: dict[str, tuple[int, str]]) -> None:
    fits = len(shape) == len(dims) and all(not isinstance(d, int) or d == s for d, s in zip(dims, shape, strict=True))
    if not fits:
        raise UsageError(f"{what} has shape {list(shape)}, the model declares [{', '.join('?' if d is None else str(d) for d in dims)}]")
    for d, s in zip(dims, shape, strict=True):
        if isinstance(d, str):
            first, where = symbols.setdefault(d, (s, name))
            if first != s:
                raise UsageError(f"{what} has {s} for dimension '{d}', but input '{where}' has {first}")


def _names(source: str, kind: str, given: Mapping[str, object], wanted: list[str], weights: set[str] | None = None) -> None:
    missing = [n for n in wanted if n not in given]
    if missing:
        have = f"; it has {', '.join(given)}" if given else "; it is empty"
        raise UsageError(f"{source}: {kind} '{missing[0]}' is missing{have}")
    extra = [n for n in given if n not in wanted]
    if extra and weights and extra[0] in weights:
        raise UsageError(f"{source}: '{extra[0]}' is a weight of the model, not an input")
    if extra:
        raise UsageError(f"{source}: the model has no {kind} '{extra[0]}'; it has {', '.join(wanted) or 'none'}")


def _type(array: np.ndarray) -> str:
    return "string" if array.dtype.kind in "OUS" else str(array.dtype)
