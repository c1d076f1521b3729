"""External tensor data, read only from regular files inside the model's own folder.

A model is data from strangers: an absolute location, `..` or a link that leads out of the folder would make us read (and put
into a public report) any file of the user.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx

from specs.rule import UsageError


def is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def locate(model: Path, tensor: onnx.TensorProto, need: int) -> tuple[Path, int]:
    """The file and offset of a tensor that needs `need` bytes, checked without opening the file. Raises UsageError."""
    what = f"{model}: tensor '{tensor.name}'"
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    if not location:
        raise UsageError(f"{what} is external but names no file")
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    if posix.is_absolute() or windows.drive or windows.root:
        raise UsageError(f"{what} has its data at the absolute path '{location}'; external data must lie in the model's own folder")
    if ".." in posix.parts or ".." in windows.parts:
        raise UsageError(f"{what} has its data at '{location}', outside the model's folder")
    if "\0" in location:
        raise UsageError(f"{what} has its data at an impossible path")
    folder = model.parent.resolve()
    file = folder / location
    if not file.resolve().is_relative_to(folder):
        raise UsageError(f"{what} has its data at '{location}', a link that leads outside the model's folder")
    if not file.exists():
        raise UsageError(f"{what} has its data in '{location}', which does not exist")
    if not file.is_file():
        raise UsageError(f"{what} has its data in '{location}', which is not a regular file")
    offset, length = _number(what, entries, "offset", 0), _number(what, entries, "length", need)
    if length != need:
        raise UsageError(f"{what} needs {need} bytes for shape {list(tensor.dims)} but its external data has length {length}")
    if offset + need > file.stat().st_size:
        raise UsageError(f"{what} needs bytes {offset} to {offset + need} of '{location}', which has only {file.stat().st_size}")
    return file, offset


def _number(what: str, entries: dict[str, str], key: str, default: int) -> int:
    text = entries.get(key, str(default))
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{what} has the external data {key} '{text}', which is not a number of bytes")
    return int(text)


def read(model: Path, tensor: onnx.TensorProto, need: int) -> None:
    """Put the tensor's bytes into the tensor. Raises UsageError."""
    file, offset = locate(model, tensor, need)
    try:
        handle = os.open(file.resolve(), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        with os.fdopen(handle, "rb") as f:
            f.seek(offset)
            data = f.read(need)
    except OSError as e:
        raise UsageError(f"{model}: tensor '{tensor.name}': its external data cannot be read ({e.strerror or e})") from None
    if len(data) != need:
        raise UsageError(f"{model}: tensor '{tensor.name}': its external data ends early")
    tensor.raw_data = data
    tensor.ClearField("external_data")
    tensor.data_location = onnx.TensorProto.DEFAULT
