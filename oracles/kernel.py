"""Custom kernels as plugins: the decorator `kernel`, and where kernels are found.

Built in: the package `oracles.kernels`. Installed: the entry-point group `fuzzer.kernels`. Of the project at hand: the table
`[tool.fuzz.kernels]` of the pyproject.toml in the working directory, name = "module:function" or "path/to/file.py"; and the files
named in $FUZZ_KERNELS, separated like a path. Importing this module imports neither torch nor a compiler.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import pkgutil
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from specs.formats import BY_NAME, BY_NUMPY

if TYPE_CHECKING:
    from oracles.records import Outcome

Form = Literal["native", "python", "tvm-ffi", "torch", "onnxruntime", "triton"]
#: (node, inputs) -> whether the kernel is for this. The node's attributes are read as `node.axis`; inputs are torch tensors or None.
Where = Callable[[Any, Sequence[Any]], bool]

GROUP = "fuzzer.kernels"
#: Domain of the ONNX functions that blocks of the family `kernels` emit where ONNX has no operator.
FUNCTIONS = "assay.kernels"
VARIABLE = "FUZZ_KERNELS"
SOURCES = Path(__file__).parent / "kernels" / "src"
#: Broken on purpose for every kernel, to see that a test would notice: what `fuzz gate` calls its teeth.
TEETH = {"zero": "all outputs are zero", "identity": "the first input instead of the result", "truncated": "the last eighth of the result is zero"}


@dataclass(frozen=True, eq=False)
class Kernel:
    """One kernel and where it may stand in for the reference.

    implements  the ONNX operator, or the part before the first underscore of a function's name in the domain `assay.kernels`
    dtypes      names of the formats its first operand may have; any when empty
    form        how it is called, see `oracles.forms`
    source      C++ that is compiled on demand; `library` is one that is there already; neither for Python
    symbol      the function in it, "namespace::operator" for torch, "domain::Operator" for ONNX Runtime
    arguments   attributes that a TVM-FFI function is given behind its tensors
    flags       for the compiler, after ours
    baselines   other functions of the same source and interface, by name: what it is measured against
    defects     ways in which the source is broken when compiled with -DDEFECT_NAME, and what is then wrong
    strict      every operator it computes is as accurate as its type: an error of the whole array beyond that is `imprecise`
    strided     it takes inputs with any strides; others get contiguous copies
    aligned     it needs inputs and outputs at 64 bytes; others get them at any multiple of an element
    threads     the most threads that it makes use of
    location    (file, line) of its declaration
    problem     why it cannot be used at all: its plugin could not be imported
    """

    name: str
    implements: str
    dtypes: tuple[str, ...] = ()
    form: Form = "native"
    where: Where = lambda node, inputs: True
    function: Callable[..., Any] | None = None
    domain: str | None = None
    source: Path | None = None
    library: Path | None = None
    symbol: str = ""
    arguments: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    baselines: Mapping[str, str] = field(default_factory=dict)
    defects: Mapping[str, str] = field(default_factory=dict)
    strict: bool = True
    strided: bool = False
    aligned: bool = False
    threads: int = 3
    title: str = ""
    location: tuple[str, int] = ("", 0)
    shipped: bool = False
    problem: str = ""

    def implements_node(self, name: str, domain: str) -> bool:
        """Whether it is for operators of this name; for functions the suffix behind the first underscore does not count."""
        if domain == FUNCTIONS:
            return self.domain in (None, FUNCTIONS) and name.split("_")[0] == self.implements
        return self.domain in ((None, "") if not domain else (domain,)) and name == self.implements

    def applies(self, node: Any, inputs: Sequence[Any]) -> bool:
        """Whether it may stand in at a node of a program with these inputs."""
        if self.problem or not self.implements_node(node.op.name, node.op.domain):
            return False
        first = next((f.name for f, x in zip(node.in_formats, inputs, strict=False) if f is not None and x is not None), "")
        return (not self.dtypes or first in self.dtypes) and bool(self.where(node, inputs))

    @property
    def settings(self) -> list[str]:
        """Its name, then what runs only when it is asked for: baselines, planted defects and teeth."""
        return [self.name, *(f"{self.name}@{b}" for b in self.baselines), *(f"{self.name}!{d}" for d in (*self.defects, *TEETH))]


_registry: dict[str, Kernel] = {}
_loaded = False


def kernel(
    name: str,
    *,
    implements: str,
    dtypes: Sequence[str] = (),
    form: Form = "native",
    source: str | Path | None = None,
    library: str | Path | None = None,
    symbol: str = "",
    arguments: Sequence[str] = (),
    domain: str | None = None,
    where: Where | None = None,
    flags: Sequence[str] = (),
    baselines: Mapping[str, str] | None = None,
    defects: Mapping[str, str] | None = None,
    strict: bool = True,
    strided: bool = False,
    aligned: bool = False,
    threads: int = 3,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a kernel.

    Where the kernel is elsewhere (it has a `symbol`), the decorated function (node, inputs) -> bool says where it applies. In the
    forms "python" (node, *inputs) -> outputs and "triton" (node, inputs, outputs) -> None it is the kernel, and `where` says that.
    A relative `source` is looked for beside the declaring file, then among the shipped ones. Raises ValueError for a declaration
    that makes no sense.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        file = inspect.getsourcefile(function) or ""
        if not name or any(c in name for c in "!@~,:+ "):
            raise ValueError(f"kernel '{name}': a name is words joined by '-', without any of ! @ ~ , : + and blanks")
        if form not in get_args(Form):
            raise ValueError(f"kernel '{name}': no form '{form}'; there are {', '.join(get_args(Form))}")
        native = form not in ("python", "triton")
        if native != bool(symbol):
            raise ValueError(f"kernel '{name}': form '{form}' {'needs' if native else 'has no'} symbol=")
        if clash := sorted({*(defects or {})} & {*TEETH}):
            raise ValueError(f"kernel '{name}': every kernel has a defect {clash[0]} already; give yours another name")
        if form in ("native", "onnxruntime", "tvm-ffi") and (source is None) == (library is None):
            raise ValueError(f"kernel '{name}': give either source= or library=")
        known = _registry.get(name)
        if known is not None and known.location[0] != file:
            raise ValueError(f"kernel '{name}' is already declared in {known.location[0]}")
        _registry[name] = Kernel(
            name,
            implements,
            tuple(_format(name, d) for d in dtypes),
            form,
            (function if native else where) or (lambda node, inputs: True),
            None if native else function,
            domain,
            _beside(file, source),
            _beside(file, library),
            symbol,
            tuple(arguments),
            tuple(flags),
            dict(baselines or {}),
            dict(defects or {}),
            strict,
            strided,
            aligned,
            threads,
            (inspect.getdoc(function) or "").partition("\n")[0],
            (file, function.__code__.co_firstlineno),
            function.__module__.startswith("oracles.kernels."),
        )
        return function

    return decorate


def kernels() -> dict[str, Kernel]:
    """All kernels by name: shipped ones, then installed ones, then those of the project in the working directory."""
    global _loaded
    if not _loaded:
        _loaded = True
        import oracles.kernels

        for module in sorted(m.name for m in pkgutil.iter_modules(oracles.kernels.__path__)):
            _load(module, f"oracles.kernels.{module}")
        for name, target in _plugins():
            _load(name, target)
    return _registry


def load(target: str) -> list[Kernel]:
    """Kernels declared by a module, "module:function" or file, which are then known here and in the processes started from here."""
    kernels()
    before = set(_registry)
    _import(target)
    if target.endswith(".py"):
        target = str(Path(target).resolve())
    listed = [t for t in os.environ.get(VARIABLE, "").split(os.pathsep) if t]
    if target not in listed:
        os.environ[VARIABLE] = os.pathsep.join([*listed, target])
    from oracles.backends.kernels import register  # whose settings are the names of kernels

    register()
    return [k for name, k in _registry.items() if name not in before]


def applied(outcome: Outcome) -> dict[str, list[dict[str, Any]]]:
    """Which kernels were at work in a run that ended, each with where.

    Every place has op, node, dtypes, shapes and attrs, and `differs` when the result was another under a hostile regime.
    """
    found = dict[str, list[dict[str, Any]]]()
    if outcome.backend == "kernels" and outcome.status == "ok" and outcome.message:
        for place in json.loads(outcome.message):
            found.setdefault(place["kernel"], []).append(place)
    return found


def differs(outcome: Outcome) -> str:
    """'; kernel x at Neg differs with several threads', for the first place where one does; else empty."""
    places = [p for found in applied(outcome).values() for p in found if "differs" in p]
    return f"; kernel {places[0]['kernel']} at {places[0]['op']} differs with {places[0]['differs']}" if places else ""


def _plugins() -> Iterator[tuple[str, str]]:
    for entry in importlib.metadata.entry_points(group=GROUP):
        yield entry.name, entry.value
    here = Path("pyproject.toml")
    if here.is_file():
        try:
            table = tomllib.loads(here.read_text()).get("tool", {}).get("fuzz", {}).get("kernels", {})
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, AttributeError):
            table = {}  # said by whoever reads the settings in it
        yield from ((str(name), str(target)) for name, target in table.items())
    yield from ((Path(t).stem, t) for t in os.environ.get(VARIABLE, "").split(os.pathsep) if t)


def _load(name: str, target: str) -> None:
    """A plugin that cannot be imported must not take the others down: it is listed with the reason."""
    try:
        _import(target)
    except Exception as e:  # whatever a stranger's module raises
        _registry.setdefault(name, Kernel(name, "", problem=f"kernel '{name}' cannot be loaded from {target}: {type(e).__name__}: {e}"))


def _import(target: str) -> None:
    module, _, attribute = target.partition(":")
    if module.endswith(".py"):
        path = Path(module).resolve()
        name = f"__kernels_{path.stem}_{hashlib.blake2b(str(path).encode(), digest_size=4).hexdigest()}__"
        spec = importlib.util.spec_from_file_location(name, path)
        if name in sys.modules or spec is None or spec.loader is None:
            return
        loaded = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(loaded)
        except BaseException:
            del sys.modules[name]
            raise
    else:
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        loaded = importlib.import_module(module)
    if attribute:
        getattr(loaded, attribute)


def _format(kernel: str, dtype: str) -> str:
    """ONNX's name of a type that may be given as numpy or torch call it. Raises ValueError for what is no type."""
    name = dtype.replace("float8_", "float8")
    name = {"float32": "float", "float64": "double"}.get(name, name)
    if name not in BY_NAME:
        raise ValueError(f"kernel '{kernel}': no type '{dtype}'; there are {', '.join(sorted(BY_NUMPY[f.numpy].name for f in BY_NAME.values()))}")
    return name


def _beside(file: str, path: str | Path | None) -> Path | None:
    if path is None:
        return None
    near = Path(file).parent / path
    return near if near.exists() or not (SOURCES / path).exists() else SOURCES / path


__all__ = ["FUNCTIONS", "TEETH", "Form", "Kernel", "applied", "differs", "kernel", "kernels", "load"]
