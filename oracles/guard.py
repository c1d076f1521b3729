"""Memory for the tensors of a kernel: canaries around it, poison in it, pages behind or before it that must not be touched.

A room holds one tensor. In the regime `plain` it has canaries on both sides, so that a stray write is named; in the hostile ones
it ends where a forbidden page begins, so that a stray read ends the process, or begins at an odd multiple of the element.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

PAGE = mmap.PAGESIZE
ZONE = PAGE  # bytes of canaries on each side
CANARY = 0xC5
POISON = (0xFF, 0x5B)  # as floats NaN, and large; an output that keeps both was not written
DIRT = 0x7F  # what a workspace holds that was used before: large numbers in every format
LINE = 64


class KernelFault(RuntimeError):
    """A kernel did what none may do. The message names the kernel, the node and what it did."""


@dataclass(frozen=True)
class Regime:
    """How a kernel is called.

    place    "zone": canaries on both sides; "end": the tensor ends at a forbidden page; "start": it begins behind one
    shift    elements by which tensors are off a 64-byte line, where the kernel does not ask for alignment
    gaps     layout of inputs for kernels that take strides: 0 contiguous, 1 every second element of the last axis, 2 reversed axes
    poison   what outputs hold before
    dirty    whether the workspace holds the remains of an earlier call
    threads  how many the kernel may use
    repeats  how often it is called: what threads do to each other happens only now and then
    stalls   whether threads are stalled now and then; only a kernel compiled from its source can be
    """

    name: str
    place: str = "zone"
    shift: int = 0
    gaps: int = 0
    poison: int = POISON[0]
    dirty: bool = False
    threads: int = 1
    repeats: int = 1
    stalls: bool = False


PLAIN = Regime("plain")
#: Each has one thing that a right kernel does not notice; those with gaps are for kernels that take strides.
HOSTILE = (
    Regime("memory ending at a forbidden page", place="end"),
    Regime("memory beginning behind a forbidden page", place="start"),
    Regime("memory off its line by one element", shift=1),
    Regime("a workspace that was used before", dirty=True),
    Regime("every second element as input", gaps=1),
    Regime("reversed axes as input", gaps=2),
    Regime("three threads", threads=3, repeats=2),
    Regime("three threads, stalled now and then", threads=3, repeats=4, stalls=True),
    Regime("two threads, memory off its line by three elements", shift=3, dirty=True, threads=2),
)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_ANONYMOUS = 0x20 if sys.platform == "linux" else 0x1000
_NOTHING = 0  # PROT_NONE


class Room:
    """Memory for `nbytes` at `address`, and what is around it. Given back when the last array that looks at it is gone."""

    def __init__(self, nbytes: int, itemsize: int, regime: Regime, aligned: bool) -> None:
        pages = -(-(nbytes + LINE) // PAGE) * PAGE
        size = pages + 2 * ZONE
        base = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | _ANONYMOUS, -1, 0)
        if base in (None, ctypes.c_void_p(-1).value):
            raise MemoryError(f"Cannot allocate memory: {size} bytes for a tensor of a kernel")
        first, last = base, base + size
        if regime.place == "end":
            last -= ZONE
            _libc.mprotect(last, ZONE, _NOTHING)
            start = (last - nbytes) // (LINE if aligned else max(itemsize, 1)) * (LINE if aligned else max(itemsize, 1))
        else:
            start = first + ZONE + (0 if aligned else regime.shift * itemsize)
            if regime.place == "start":
                _libc.mprotect(first, ZONE, _NOTHING)
                first += ZONE
        self.address, self.nbytes = start, nbytes
        owner = (ctypes.c_uint8 * (last - first)).from_address(first)
        weakref.finalize(owner, _libc.munmap, base, size).atexit = False
        self._whole = np.frombuffer(memoryview(owner), np.uint8)
        self._before, self._behind = start - first, start - first + nbytes
        self._whole[:] = CANARY

    @property
    def content(self) -> np.ndarray:
        """The bytes of the tensor, in place."""
        return self._whole[self._before : self._behind]

    def strays(self) -> str:
        """'to byte 8 past the end' when something around the tensor was written to; else empty."""
        behind = np.flatnonzero(self._whole[self._behind :] != CANARY)
        before = np.flatnonzero(self._whole[: self._before] != CANARY)
        if behind.size:
            return f"to byte {int(behind[-1]) + 1} past the end"
        return f"to byte {self._before - int(before[0])} before the start" if before.size else ""


@dataclass
class Placed:
    """A tensor in its room: what a kernel is given."""

    room: Room
    array: np.ndarray  # a view into the room, with the strides that the kernel sees
    before: bytes  # the room's bytes when the kernel was called

    @property
    def strides(self) -> list[int]:
        """In elements."""
        return [s // max(self.array.itemsize, 1) for s in self.array.strides]


def place_input(array: np.ndarray, regime: Regime, aligned: bool, strided: bool) -> Placed:
    """A copy of an array in a room; what lies between its elements is poison."""
    gaps = regime.gaps if strided and array.ndim and array.size else 0
    shape, step = array.shape, array.itemsize
    if gaps == 1:
        store = (*shape[:-1], 2 * shape[-1] - 1)
    elif gaps == 2:
        store = shape[::-1]
    else:
        store = shape
    nbytes = int(np.prod(store, dtype=np.int64)) * step
    room = Room(nbytes, step, regime, aligned)
    room.content[:] = POISON[0]
    whole = room.content.view(array.dtype).reshape(store)
    view = whole[..., ::2] if gaps == 1 else whole.transpose() if gaps == 2 else whole
    view[...] = array
    return Placed(room, view, room.content.tobytes())


def place_output(shape: Sequence[int], dtype: np.dtype, regime: Regime, aligned: bool) -> Placed:
    room = Room(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize, dtype.itemsize, regime, aligned)
    room.content[:] = regime.poison
    return Placed(room, room.content.view(dtype).reshape(tuple(shape)), b"")


class Rooms:
    """All tensors of one call. None stands for an optional one that is left out."""

    def __init__(
        self, ins: Sequence[np.ndarray | None], outs: Sequence[np.ndarray | None], regime: Regime, aligned: bool = False, strided: bool = False
    ) -> None:
        """Copies of the inputs; memory as the expected outputs want it."""
        self.inputs = [None if a is None else place_input(a, regime, aligned, strided) for a in ins]
        self.outputs = [None if a is None else place_output(a.shape, a.dtype, regime, aligned) for a in outs]
        self.workspace: Room | None = None

    def examine(self) -> None:
        """Raises KernelFault for what a kernel did to memory that is not its own."""
        for k, placed in enumerate(self.outputs):
            if placed is not None and (found := placed.room.strays()):
                raise KernelFault(f"wrote {found} of output {k}")
        if self.workspace is not None and (found := self.workspace.strays()):
            raise KernelFault(f"wrote {found} of its workspace")
        for k, placed in enumerate(self.inputs):
            if placed is not None and (found := placed.room.strays()):
                raise KernelFault(f"wrote {found} of input {k}")
            if placed is not None and placed.room.content.tobytes() != placed.before:
                raise KernelFault(f"changed its input {k}")

    def results(self) -> list[np.ndarray | None]:
        """Copies of the outputs."""
        return [None if o is None else o.array.copy() for o in self.outputs]


def unwritten(first: np.ndarray, second: np.ndarray | None) -> np.ndarray:
    """Which elements hold the first poison (and, in another run, the second): flat booleans."""

    def holds(array: np.ndarray, poison: int) -> np.ndarray:
        if not array.size:
            return np.zeros(0, bool)
        return (np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(array.size, -1) == poison).all(1)

    found = holds(first, POISON[0])
    return found if second is None else found & holds(second, POISON[1])


def where(kernel: str, node: Any) -> str:
    """'kernel two-pass-softmax at Softmax'; of a function's name the suffix is left out."""
    return f"kernel {kernel} at {node.op.name if not node.op.domain else node.op.name.split('_')[0]}"
