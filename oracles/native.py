"""C++ kernels: built on demand, cached by content, called through the C interface of `kernels/src/kernel.h`."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from oracles import plugin
from oracles.guard import DIRT, LINE, PLAIN, KernelFault, Placed, Regime, Room, Rooms
from oracles.kernel import SOURCES, Kernel
from specs.formats import BY_NUMPY
from specs.rule import Unsupported

FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
BUILD_LIMIT = 300.0  # seconds, on a busy machine
COMPILERS = ("g++", "clang++", "c++")
#: For a second build of a kernel, whose threads can be stalled: see kernels/src/stalls.cpp.
STALLING = ("-fsanitize-coverage=trace-pc",)
_THREADED = re.compile(rb"\b(?:omp|thread|pthread|async)\b")
_INCLUDE = re.compile(rb'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
    )


class _Attribute(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("n", ctypes.c_int64),
        ("ints", ctypes.POINTER(ctypes.c_int64)),
        ("floats", ctypes.POINTER(ctypes.c_double)),
        ("text", ctypes.c_char_p),
    )


class _Call(ctypes.Structure):
    _fields_ = (
        ("inputs", ctypes.POINTER(_Tensor)),
        ("n_in", ctypes.c_int),
        ("outputs", ctypes.POINTER(_Tensor)),
        ("n_out", ctypes.c_int),
        ("attrs", ctypes.POINTER(_Attribute)),
        ("n_attrs", ctypes.c_int),
        ("workspace", ctypes.c_void_p),
        ("workspace_bytes", ctypes.c_int64),
        ("threads", ctypes.c_int),
    )


# building --------------------------------------------------------------------------------------------------------------
def cache() -> Path:
    """Where built kernels are kept: $FUZZ_CACHE, or the user's cache directory."""
    told = os.environ.get("FUZZ_CACHE")
    base = Path(told) if told else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onnx-assay"
    return base / "kernels"


@functools.cache
def compiler() -> tuple[str, str]:
    """Path and version of the C++ compiler. Raises Unsupported when there is none."""
    for name in (*([os.environ["CXX"]] if os.environ.get("CXX") else []), *COMPILERS):
        path = shutil.which(name)
        if path:
            return path, subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout.partition("\n")[0]
    raise Unsupported(f"a C++ kernel needs a compiler, and none of {', '.join(COMPILERS)} is on the path; for example `apt install g++`")


@functools.cache
def _processor() -> str:
    """What -march=native depends on: a cache may be shared by machines."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    return next((line for line in text.splitlines() if line.startswith(("flags", "Features"))), "")


def sources(source: Path) -> dict[str, bytes]:
    """A source and everything it includes by name in quotes, from its own folder or the shipped one."""
    found, todo = dict[str, bytes](), [source]
    while todo:
        path = todo.pop()
        if str(path) in found:
            continue
        text = found[str(path)] = path.read_bytes()
        for name in _INCLUDE.findall(text):
            near = next((p for p in (path.parent / name.decode(), SOURCES / name.decode()) if p.exists()), None)
            if near is not None:
                todo.append(near)
    return found


def build(kernel: Kernel, defect: str = "", more: Sequence[str] = ()) -> Path:
    """The shared library of a kernel, compiled unless the cache has it; `more`: last flags.

    Raises Unsupported without a compiler, RuntimeError with its words.
    """
    if kernel.library is not None:
        if not kernel.library.exists():
            raise RuntimeError(f"kernel {kernel.name}: its library {kernel.library} does not exist")
        return kernel.library
    assert kernel.source is not None
    if not kernel.source.exists():
        raise RuntimeError(f"kernel {kernel.name}: its source {kernel.source} does not exist")
    path, version = compiler()
    flags = [*FLAGS, *kernel.flags, *([f"-DDEFECT_{defect.upper().replace('-', '_')}"] if defect else []), *more]
    texts = sources(kernel.source)
    digest = hashlib.blake2b(repr((sorted(texts.values()), flags, version, _processor())).encode(), digest_size=12).hexdigest()
    built = cache() / f"{kernel.source.stem}-{digest}.so"
    if not built.exists():
        _compile(kernel, [path, *flags, f"-I{kernel.source.parent}", f"-I{SOURCES}", str(kernel.source)], built)
    return built


@contextmanager
def building() -> Generator[None]:
    """What happens inside takes its time, once, and is not the model's fault."""
    plugin.ask_for_time(BUILD_LIMIT)
    try:
        yield
    finally:
        plugin.ask_for_time(0)


def _compile(kernel: Kernel, command: list[str], built: Path) -> None:
    """Into a file of its own first: two processes may build the same kernel at the same time."""
    built.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=built.stem, suffix=".part", dir=built.parent)
    os.close(handle)
    try:
        with building():
            done = subprocess.run([*command, "-o", name], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"kernel {kernel.name} does not compile: {errors(done.stderr)}")
        Path(name).chmod(0o755)
        Path(name).replace(built)
    finally:
        Path(name).unlink(missing_ok=True)


def errors(text: str) -> str:
    """The lines of a compiler's output that say what is wrong."""
    lines = [line for line in text.splitlines() if re.search(r"\berror\b|undefined reference", line)]
    return "\n".join((lines or text.splitlines())[:4])


@functools.cache
def _library(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


def load(kernel: Kernel, defect: str = "", more: Sequence[str] = ()) -> ctypes.CDLL:
    """The kernel's library, in this process. Raises RuntimeError when the linker does not want it."""
    try:
        return _library(build(kernel, defect, more))
    except OSError as e:
        raise RuntimeError(f"kernel {kernel.name}: {kernel.library or kernel.source} cannot be loaded: {e}") from e


def function(kernel: Kernel, symbol: str = "", defect: str = "", more: Sequence[str] = ()) -> tuple[Any, Any]:
    """The kernel's function and the one that says its workspace (None without). Raises RuntimeError for a symbol that is not there."""
    symbol, library = symbol or kernel.symbol, load(kernel, defect, more)
    try:
        entry = library[symbol]
    except AttributeError:
        raise RuntimeError(f'kernel {kernel.name}: there is no symbol {symbol} in {kernel.library or kernel.source}; is it extern "C"?') from None
    entry.argtypes, entry.restype = [ctypes.POINTER(_Call)], ctypes.c_int
    try:
        wanted = library[f"{symbol}_workspace"]
    except AttributeError:
        return entry, None
    wanted.argtypes, wanted.restype = [ctypes.POINTER(_Call)], ctypes.c_int64
    return entry, wanted


@functools.cache
def _staller() -> ctypes.CDLL | None:
    """What a build that can be stalled calls, found by name; None on systems whose linkers want every name at once."""
    if not sys.platform.startswith("linux"):
        return None
    built = build(Kernel("stalls", "", source=SOURCES / "stalls.cpp", symbol="stalls_begin"))
    try:
        return ctypes.CDLL(str(built), mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return None


# calling ---------------------------------------------------------------------------------------------------------------
class Native:
    """A C function as a kernel: arrays in, arrays out, under a regime."""

    def __init__(self, kernel: Kernel, symbol: str = "", defect: str = "") -> None:
        self.kernel = kernel
        self.entry, self.workspace = function(kernel, symbol, defect)
        self._again = functools.cache(lambda: self._stalled(symbol, defect))

    def __call__(
        self,
        attrs: Mapping[str, Any],
        inputs: Sequence[np.ndarray | None],
        outputs: Sequence[np.ndarray | None],
        regime: Regime = PLAIN,
        types: tuple[Sequence[int], Sequence[int]] | None = None,
    ) -> list[np.ndarray | None] | None:
        """Results of the shapes and types of `outputs`; None for "not mine".

        types  ONNX numbers of the inputs' and outputs' types; those of the arrays when they are not given
        Raises KernelFault for what no kernel may do.
        """

        def run(entry: Callable[[Any], int], how: Regime) -> list[np.ndarray | None] | None:
            rooms, call = self._bound(attrs, inputs, outputs, how, types)
            code = entry(ctypes.byref(call))
            rooms.examine()
            if code not in (0, 1):
                raise KernelFault(f"returned {code}")
            return None if code else rooms.results()

        stalled = self._again() if regime.stalls else None
        if stalled is None:
            return run(self.entry, regime)
        entry, halting = stalled
        alone = replace(regime, threads=1)
        plain, own, other = run(self.entry, alone), run(entry, alone), run(halting, regime)
        # Another build may round otherwise: only what its threads did to each other is the kernel's.
        return None if plain is None or own is None or other is None else [_where_apart(*found) for found in zip(plain, own, other, strict=True)]

    def _stalled(self, symbol: str, defect: str) -> tuple[Any, Callable[[Any], int]] | None:
        """The kernel in another build, as it is and with stalled threads; None for one that has no threads, or that does not build like this."""
        source = self.kernel.source
        if source is None or not any(_THREADED.search(text) for text in sources(source).values()):
            return None
        try:
            staller, (entry, _) = _staller(), function(self.kernel, symbol, defect, STALLING)
        except (RuntimeError, Unsupported):
            return None
        if staller is None:
            return None

        def halting(arguments: Any) -> int:
            staller.stalls_begin()
            try:
                return int(entry(arguments))
            finally:
                staller.stalls_end()

        return entry, halting

    def timed(
        self, attrs: Mapping[str, Any], inputs: Sequence[np.ndarray | None], outputs: Sequence[np.ndarray | None], types: Any = None
    ) -> Callable[[], int]:
        """The bare call, to be timed: tensors are placed once, nothing is examined."""
        rooms, call = self._bound(attrs, inputs, outputs, PLAIN, types)
        entry, pointer = self.entry, ctypes.pointer(call)

        def again(keep: Any = rooms) -> int:
            return entry(pointer)

        return again

    def _bound(self, attrs: Any, inputs: Any, outputs: Any, regime: Regime, types: Any) -> tuple[Rooms, _Call]:
        rooms = Rooms(inputs, outputs, regime, self.kernel.aligned, self.kernel.strided)
        of_inputs, of_outputs = types or ([_number(i) for i in inputs], [_number(o) for o in outputs])
        given, made = _tensors(rooms.inputs, of_inputs), _tensors(rooms.outputs, of_outputs)
        listed = _attributes(attrs)
        call = _Call(given, len(inputs), made, len(outputs), listed, len(listed), None, 0, max(1, min(regime.threads, self.kernel.threads)))
        self._scratch(call, regime, rooms)
        return rooms, call

    def bare(self, attrs: Mapping[str, Any], inputs: Sequence[np.ndarray | None], outputs: Sequence[np.ndarray | None], threads: int = 1) -> Bare:
        """The call without rooms, on contiguous arrays as they are: for measuring."""
        given, made = (_bare(arrays) for arrays in (inputs, outputs))
        listed = _attributes(attrs)
        call = _Call(given, len(inputs), made, len(outputs), listed, len(listed), None, 0, threads)
        size = self.workspace(ctypes.byref(call)) if self.workspace is not None else 0
        scratch = np.zeros(size + LINE, np.uint8)
        call.workspace, call.workspace_bytes = scratch.ctypes.data + -scratch.ctypes.data % LINE, size
        return Bare(self.entry, call, size, (inputs, outputs, scratch))

    def _scratch(self, call: _Call, regime: Regime, rooms: Rooms) -> None:
        size = self.workspace(ctypes.byref(call)) if self.workspace is not None else 0
        if size < 0:
            raise KernelFault(f"asked for a workspace of {size} bytes")
        if size:
            rooms.workspace = room = Room(size, 1, regime, True)
            room.content[:] = DIRT if regime.dirty else 0
            call.workspace, call.workspace_bytes = room.address, size


def _where_apart(plain: np.ndarray | None, own: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    """`plain`, but `other` in every element in which that is not `own`, bit by bit."""
    if plain is None or own is None or other is None or own.tobytes() == other.tobytes():
        return plain
    result, step = plain.copy(), max(1, plain.itemsize)
    bits = [np.ascontiguousarray(a).reshape(-1).view(np.uint8).reshape(-1, step) for a in (own, other)]
    apart = (bits[0] != bits[1]).any(1)
    flat = result.reshape(-1)
    flat[apart] = np.ascontiguousarray(other).reshape(-1)[apart]
    return flat.reshape(plain.shape)


class Bare:
    """A call that can be made again and again. `workspace`: bytes of it."""

    def __init__(self, entry: Any, call: _Call, workspace: int, kept: Any) -> None:
        self.workspace = workspace
        self._entry, self._call, self._kept = entry, call, kept

    def __call__(self) -> int:
        """What the kernel returns: 0 done, 1 not mine."""
        return int(self._entry(ctypes.byref(self._call)))


def _bare(arrays: Sequence[np.ndarray | None]) -> Any:
    made = (_Tensor * max(1, len(arrays)))()
    for t, a in zip(made, arrays, strict=False):
        if a is not None:
            t.data, t.type, t.rank = a.ctypes.data, _number(a), a.ndim
            t.shape, t.strides = (ctypes.c_int64 * a.ndim)(*a.shape), (ctypes.c_int64 * a.ndim)(*(s // a.itemsize for s in a.strides))
    return made


def _number(array: np.ndarray | None) -> int:
    return 0 if array is None else BY_NUMPY[array.dtype].onnx


def _tensors(placed: Sequence[Placed | None], types: Sequence[int]) -> Any:
    made = (_Tensor * max(1, len(placed)))()
    for t, p, kind in zip(made, placed, types, strict=False):
        if p is not None:
            rank = p.array.ndim
            t.data, t.type, t.rank = p.room.address, kind, rank
            t.shape, t.strides = (ctypes.c_int64 * rank)(*p.array.shape), (ctypes.c_int64 * rank)(*p.strides)
    return made


def _attributes(attrs: Mapping[str, Any]) -> Any:
    """Numbers, lists of numbers and texts; tensors are not passed."""
    found = list[_Attribute]()
    for name, value in attrs.items():
        if isinstance(value, str):
            text = value.encode()
            found.append(_Attribute(name.encode(), len(text), None, None, text))
        elif isinstance(value, (bool, int, float)) or (isinstance(value, list) and all(isinstance(v, (int, float)) for v in value)):
            values = value if isinstance(value, list) else [value]
            if any(isinstance(v, float) for v in values):
                found.append(_Attribute(name.encode(), len(values), None, (ctypes.c_double * len(values))(*values), None))
            else:
                found.append(_Attribute(name.encode(), len(values), (ctypes.c_int64 * len(values))(*values), None, None))
    return (_Attribute * len(found))(*found)
