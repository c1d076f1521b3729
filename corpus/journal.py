"""The case in flight, on disk before it runs: what a kill leaves behind for the next start to name.

One file per lane, overwritten in place: a fixed-length header says which case is at which backend, behind it lies all that is
needed to run it again. A write costs microseconds because nothing waits for the disk; only a power cut can lose it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corpus.folders import plain
from oracles.records import Case
from specs.formats import BY_NAME, BY_NUMPY

HEADER = 256


@dataclass(frozen=True)
class Started:
    """A case that was begun and never finished; `backend` and `setting` are where it was, empty when nowhere yet."""

    case: Case
    slot: int
    backend: str
    setting: str
    since: float


class Journal:
    """The journal of one lane. `slot` is the lane's number."""

    def __init__(self, folder: Path, slot: int = 0) -> None:
        self.path = folder / f"inflight-{slot}.bin"
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._id, self._length = "", 0

    def begin(self, case: Case, backend: str = "", setting: str = "") -> None:
        """Note a case before it runs."""
        parts, chunks = list[list[Any]](), list[bytes]()
        for name, array in case.inputs.items():
            array = np.asarray(array)
            form = BY_NUMPY.get(array.dtype)
            data = json.dumps(array.ravel().tolist(), default=str).encode() if array.dtype.kind in "OSU" else array.tobytes()
            parts.append([name, "string" if array.dtype.kind in "OSU" else form.name if form else array.dtype.str, list(array.shape), len(data)])
            chunks.append(data)
        about = json.dumps({"origin": case.origin, "model": len(case.model), "inputs": parts}, default=plain).encode()
        body = b"".join((len(about).to_bytes(8, "little"), about, case.model, *chunks))
        self._id, self._length = case.id, len(body)
        os.pwrite(self._file, self._header(backend, setting) + body, 0)

    def at(self, backend: str, setting: str = "") -> None:
        """Note that the case is now at this backend."""
        os.pwrite(self._file, self._header(backend, setting), 0)

    def end(self) -> None:
        """The case is finished and recorded."""
        self._id = ""
        os.pwrite(self._file, self._header("", ""), 0)

    def close(self) -> None:
        """Finished in order: nothing is left behind."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self.path.unlink(missing_ok=True)

    def _header(self, backend: str, setting: str) -> bytes:
        text = json.dumps({"id": self._id, "length": self._length, "backend": backend[:60], "setting": setting[:60], "since": time.time()})
        return text.encode().ljust(HEADER - 1) + b"\n"


def unfinished(folder: Path) -> Iterator[Started]:
    """The cases that were in flight when an earlier run of this folder died."""
    for path in sorted(folder.glob("inflight-*.bin")):
        found = _read(path)
        if found is not None:
            yield found


def _read(path: Path) -> Started | None:
    """None for a journal that ended in order, or whose last write was cut off by a power failure."""
    data = path.read_bytes()
    try:
        header = json.loads(data[:HEADER])
        body = data[HEADER : HEADER + header["length"]]
        if not header["id"] or len(body) != header["length"]:
            return None
        start = 8 + int.from_bytes(body[:8], "little")
        about = json.loads(body[8:start])
        model, start = body[start : start + about["model"]], start + about["model"]
        inputs = dict[str, np.ndarray]()
        for name, form, shape, length in about["inputs"]:
            raw, start = body[start : start + length], start + length
            inputs[name] = np.array(json.loads(raw), object).reshape(shape) if form == "string" else np.frombuffer(raw, _dtype(form)).reshape(shape).copy()
        case = Case(model, inputs, about["origin"])
        slot = int(path.stem.rsplit("-", 1)[1])
    except (ValueError, KeyError, TypeError):
        return None
    return Started(case, slot, header["backend"], header["setting"], header["since"]) if case.id == header["id"] else None


def _dtype(form: str) -> np.dtype[Any]:
    return BY_NAME[form].numpy if form in BY_NAME else np.dtype(form)
