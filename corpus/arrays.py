"""Named arrays in .npz files that plain numpy can open, without pickle, for every ONNX format.

Plain numpy types are stored as they are. A type that numpy only knows through ml_dtypes is stored as unsigned integers of the
same width holding its bits, and its name goes into one extra member, `__formats__`: a JSON object from array names to formats.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from corpus.sentences import one_sentence
from specs.formats import BY_NAME, BY_NUMPY, Format
from specs.rule import UsageError

FORMATS = "__formats__"
#: Text that ends in NUL, which numpy's fixed-width strings would lose, is stored as JSON under this name instead.
TEXT = "string/json"
MEMORY = 4 << 30


def is_plain(dtype: np.dtype[Any]) -> bool:
    """True for a type that numpy itself writes and reads back."""
    return dtype.kind in "biufcU" and dtype.type.__module__ == "numpy"


def encode(array: np.ndarray) -> tuple[np.ndarray, str | None]:
    """What to store for an array, and the name of its format when the stored type does not tell."""
    array = np.asarray(array)
    if is_plain(array.dtype):
        return array, None
    if array.dtype.kind in "OS":
        items = [s.decode("utf-8", "surrogateescape") if isinstance(s, bytes) else str(s) for s in array.ravel().tolist()]
        if any(s.endswith("\0") or not s.isprintable() for s in items):
            return np.frombuffer(json.dumps([list(array.shape), items]).encode(), np.uint8), TEXT
        return np.array(items, np.str_).reshape(array.shape), None
    form = BY_NUMPY.get(array.dtype)
    if form is None:
        raise UsageError(f"arrays of type {array.dtype} cannot be stored")
    return np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}").reshape(array.shape), form.name


def decode(stored: np.ndarray, named: str | None = None, declared: Format | None = None) -> np.ndarray:
    """The way back; `declared` helps with files that others wrote (numpy stores bfloat16 as two void bytes)."""
    if named == TEXT:
        shape, items = json.loads(stored.tobytes())
        return np.array(items, object).reshape(shape)
    form = BY_NAME.get(named) if named else declared
    if form is None:
        return stored
    if form.name == "string":
        return stored.astype(object) if stored.dtype.kind in "US" else stored
    if stored.dtype == form.numpy or is_plain(form.numpy):
        return stored
    bits = stored.dtype.kind == "V" or stored.dtype == np.dtype(f"u{form.numpy.itemsize}")
    return stored.view(form.numpy).reshape(stored.shape) if bits and stored.dtype.itemsize == form.numpy.itemsize else stored


def save_arrays(target: Path | IO[bytes], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a .npz; unlike numpy.savez any name is allowed ("file", "/x:0"), and nothing is ever pickled."""
    forms = dict[str, str]()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as z:
        for name, array in arrays.items():
            stored, form = encode(array)
            if form is not None:
                forms[name] = form
            _put(z, name, stored)
        if forms:
            _put(z, FORMATS, np.array(json.dumps(forms)))


def _put(z: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    data = io.BytesIO()
    npy.write_array(data, np.asarray(array, order="C"), allow_pickle=False)
    z.writestr(zipfile.ZipInfo(name + ".npy"), data.getvalue())


@one_sentence
def load_arrays(path: Path, declared: Mapping[str, Format | None] | None = None, memory: int = MEMORY) -> dict[str, np.ndarray]:
    """Read a .npz. Raises UsageError with one sentence for anything that is not a plain, complete file within the memory limit."""
    try:
        with zipfile.ZipFile(path) as z:
            _bounded(path, z, memory)
            stored = dict(_members(path, z))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file") from None
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, RuntimeError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: is not a complete .npz file ({_first(e)})") from None
    except OSError as e:
        raise UsageError(f"{path}: cannot be read ({e.strerror or e})") from None
    listed = stored.pop(FORMATS, None)
    try:
        forms = json.loads(str(listed)) if listed is not None else {}
        return {name: decode(a, forms.get(name), (declared or {}).get(name)) for name, a in stored.items()}
    except (ValueError, TypeError, AttributeError) as e:
        raise UsageError(f"{path}: its arrays do not match the formats it lists ({_first(e)})") from None


def _bounded(path: Path, z: zipfile.ZipFile, memory: int) -> None:
    total = sum(i.file_size for i in z.infolist())
    if total > memory:
        raise UsageError(f"{path}: unpacks to {size(total)}, the memory limit is {size(memory)}")


def _members(path: Path, z: zipfile.ZipFile) -> Iterator[tuple[str, np.ndarray]]:
    for info in z.infolist():
        if info.is_dir():
            continue
        name = info.filename.removesuffix(".npy")
        data = z.read(info)
        try:
            yield name, _array(data)
        except ValueError as e:
            raise UsageError(f"{path}: array '{name}' cannot be read: {_first(e)}") from None


def _array(data: bytes) -> np.ndarray:
    """The header is checked before numpy allocates what it declares."""
    stream = io.BytesIO(data)
    version = npy.read_magic(stream)
    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    if version > (2, 0):
        raise ValueError("its header is of a version that only record arrays need")
    shape, _, dtype = header(stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled Python objects, which are never loaded")
    need = dtype.itemsize
    for d in shape:
        need *= int(d)
    if min(shape, default=0) < 0 or need != len(data) - stream.tell():
        raise ValueError(f"it declares shape {list(shape)} of {dtype} but holds {len(data) - stream.tell()} bytes")
    stream.seek(0)
    return npy.read_array(stream, allow_pickle=False)


def size(n: int) -> str:
    """Bytes as people say them: 10.0 GB."""
    for unit, one in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n >= one:
            return f"{n / one:.1f} {unit}"
    return f"{n} bytes"


def _first(e: BaseException) -> str:
    return (str(e).strip() or type(e).__name__).splitlines()[0]
