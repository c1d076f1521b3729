"""Case folders: model.onnx, inputs.npz, expected.npz, outputs.npz, case.json. Each file is there in full or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from corpus.arrays import MEMORY, load_arrays, save_arrays
from corpus.inputs import declared, load_inputs, load_outputs
from corpus.models import load_model
from corpus.sentences import one_sentence
from oracles.records import Case
from specs.rule import UsageError


@dataclass(frozen=True)
class CaseFolder:
    """What a user's .onnx file or case folder holds; `inputs` and `outputs` are None where there are no such files."""

    path: Path
    model: onnx.ModelProto
    inputs: Mapping[str, np.ndarray] | None = None
    outputs: Mapping[str, np.ndarray] | None = None
    origin: Mapping[str, Any] | None = None

    @property
    def case(self) -> Case:
        """Raises UsageError when there are no inputs."""
        if self.inputs is None:
            raise UsageError(f"{self.path}: has no inputs.npz")
        return Case(self.model.SerializeToString(), self.inputs, self.origin or {})


@one_sentence
def read_case(path: Path | str, memory: int = MEMORY) -> CaseFolder:
    """A model file, or a folder with model.onnx and, if there, inputs.npz, outputs.npz and case.json. Raises UsageError."""
    path = Path(path)
    if not path.is_dir():
        return CaseFolder(path, load_model(path, memory))
    if not (path / "model.onnx").exists():
        raise UsageError(f"{path}: has no model.onnx")
    model = load_model(path / "model.onnx", memory)
    inputs = load_inputs(path / "inputs.npz", model, memory) if (path / "inputs.npz").exists() else None
    outputs = load_outputs(path / "outputs.npz", model, memory) if (path / "outputs.npz").exists() else None
    return CaseFolder(path, model, inputs, outputs, _origin(path / "case.json"))


def _origin(path: Path) -> Mapping[str, Any] | None:
    if not path.exists():
        return None
    try:
        about = json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise UsageError(f"{path}: is not readable JSON ({e})") from None
    if not isinstance(about, dict):
        raise UsageError(f"{path}: is not a JSON object")
    origin = about.get("origin", about)
    return origin if isinstance(origin, dict) else None


def stored_case(folder: Path) -> Case:
    """A case we wrote ourselves, byte for byte: the model is not parsed, so that ids stay the same. Raises UsageError."""
    try:
        model = (folder / "model.onnx").read_bytes()
    except OSError as e:
        raise UsageError(f"{folder}: has no readable model.onnx ({e.strerror})") from None
    try:
        forms = declared(onnx.load_from_string(model).graph.input)
    except DecodeError as e:
        raise UsageError(f"{folder}/model.onnx: is not an ONNX model ({e})") from None
    before = tuple(load_arrays(folder / f"before-{i}.npz", forms) for i in range(len(list(folder.glob("before-*.npz")))))
    return Case(model, load_arrays(folder / "inputs.npz", forms), _origin(folder / "case.json") or {}, before)


def write_case(
    folder: Path, case: Case, *, expected: Mapping[str, np.ndarray] | None = None, outputs: Mapping[str, np.ndarray] | None = None, **about: Any
) -> Path:
    """Write a case folder; `about` goes into case.json beside id and origin. Raises OSError when the disk refuses."""
    folder.mkdir(parents=True, exist_ok=True)
    put(folder / "model.onnx", case.model)
    for name, arrays in (("inputs", case.inputs), ("expected", expected), ("outputs", outputs)):
        if arrays is not None:
            put_arrays(folder / f"{name}.npz", arrays)
    put_before(folder, case)
    put_json(folder / "case.json", {"id": case.id, **about, "origin": dict(case.origin)})
    return folder


def put_before(folder: Path, case: Case) -> None:
    """Inputs on which the model is run first, as before-0.npz, before-1.npz ...; those of a case that was here are taken away."""
    for left in folder.glob("before-*.npz"):
        if left.name not in {f"before-{i}.npz" for i in range(len(case.before))}:
            left.unlink(missing_ok=True)
    for i, inputs in enumerate(case.before):
        put_arrays(folder / f"before-{i}.npz", inputs)


def put(path: Path, data: bytes | str) -> None:
    """Write a file in one step: readers, and a kill at any moment, see the old one or the new one."""
    _replace(path, lambda f: f.write(data.encode() if isinstance(data, str) else data))


def put_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    _replace(path, lambda f: save_arrays(f, arrays))


def put_json(path: Path, value: Any) -> None:
    put(path, json.dumps(value, indent=1, default=plain) + "\n")


def _replace(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as f:
            write(f)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def plain(value: Any) -> Any:
    """What JSON has no type for, as the nearest thing it has."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (set, frozenset)):
        return sorted(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return str(value)
