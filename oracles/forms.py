"""The forms a kernel may have, each made a function (node, inputs, expected outputs, regime) -> outputs or None for "not mine".

All of them compute on tensors in guarded memory. Those that write where they are told (native, TVM-FFI, ONNX Runtime, Triton) get
guarded outputs too; those that return what they made (Python, torch) are looked at for their inputs only.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from oracles.guard import KernelFault, Placed, Regime, Rooms
from oracles.kernel import TEETH, Kernel
from oracles.native import FLAGS, Native, build, building, cache, compiler, errors, sources
from oracles.rewriting import lazily
from specs.rule import Unsupported

torch = lazily("torch")

Arrays = Sequence[np.ndarray | None]
Execute = Callable[[Any, Arrays, Arrays, Regime], list[np.ndarray | None] | None]


def prepared(kernel: Kernel, wanted: str = "") -> Execute:
    """A kernel ready to run; `wanted` is "", "@BASELINE" or "!DEFECT". Raises Unsupported when something is missing here."""
    if kernel.problem:
        raise RuntimeError(kernel.problem)
    defect = wanted[1:] if wanted.startswith("!") and wanted[1:] not in TEETH else ""
    symbol = kernel.baselines[wanted[1:]] if wanted.startswith("@") else kernel.symbol
    return FORMS[kernel.form](kernel, symbol, defect)


def _native(kernel: Kernel, symbol: str, defect: str) -> Execute:
    call = Native(kernel, symbol, defect)

    def execute(node: Any, ins: Arrays, want: Arrays, regime: Regime) -> Any:
        types = [0 if f is None else f.onnx for f in node.in_formats], [0 if f is None else f.onnx for f in node.out_formats]
        return call(node.attrs, ins, want, regime, types)

    return execute


def _python(kernel: Kernel, symbol: str, defect: str) -> Execute:
    """A function on torch tensors: (node, *inputs) -> a tensor or a tuple of them, or NotImplemented for "not mine"."""
    assert kernel.function is not None
    return _returning(kernel, kernel.function)


def _torch(kernel: Kernel, symbol: str, defect: str) -> Execute:
    """An operator of torch's dispatcher: tensors in the order of its schema, everything else by name from the node's attributes.

    A symbol without a namespace is in that of the build, TORCH_EXTENSION_NAME: then variants of a source can be in one process.
    """
    _needs(kernel, "torch")
    space, _, name = symbol.rpartition("::")
    if kernel.source is not None:
        space = _torch_source(kernel, space, defect)
    elif kernel.library is not None:
        torch.ops.load_library(str(build(kernel)))
    try:
        operator = getattr(getattr(torch.ops, space), name).default
    except AttributeError:
        raise RuntimeError(f"kernel {kernel.name}: torch has no operator {symbol}; does its library register it?") from None

    def function(node: Any, *inputs: Any) -> Any:
        tensors, given = list(inputs), dict[str, Any]()
        for argument in operator._schema.arguments:
            if "Tensor" in str(argument.type):
                given[argument.name] = tensors.pop(0) if tensors else None
            elif node.attrs.get(argument.name) is not None:
                given[argument.name] = node.attrs[argument.name]
        return operator(**given)

    return _returning(kernel, function)


_spaces = dict[str, str]()  # namespaces of torch operators by the build that registered them


def _torch_source(kernel: Kernel, space: str, defect: str) -> str:
    """Builds and loads; returns the namespace of its operators."""
    from torch.utils import cpp_extension

    digest, flags = _digest(kernel, defect)
    name = f"kernel_{digest}"
    space = space or name
    if _spaces.setdefault(space, digest) != digest:  # torch would end the process
        raise RuntimeError(f"kernel {kernel.name}: another build has registered {space} here; register in TORCH_EXTENSION_NAME, and give no namespace")
    folder = cache() / f"torch-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / f"{name}.so").exists():
        try:
            with building():
                cpp_extension.load(name, [str(kernel.source)], extra_cflags=flags, build_directory=str(folder), is_python_module=False)
        except RuntimeError as e:
            raise RuntimeError(f"kernel {kernel.name} does not compile: {errors(str(e))}") from e
    else:
        torch.ops.load_library(str(folder / f"{name}.so"))
    return space


def _returning(kernel: Kernel, function: Callable[..., Any]) -> Execute:
    def execute(node: Any, ins: Arrays, want: Arrays, regime: Regime) -> Any:
        rooms = Rooms(ins, [], regime, kernel.aligned, kernel.strided)
        tensors = [None if p is None else _tensor(p) for p in rooms.inputs]
        threads = torch.get_num_threads()
        torch.set_num_threads(min(regime.threads, kernel.threads))
        try:
            result = function(node, *tensors)
        finally:
            torch.set_num_threads(threads)
        rooms.examine()
        if result is NotImplemented:
            return None
        given = list(result) if isinstance(result, (tuple, list)) else [result]
        return [None if w is None else _array(k, g, w) for k, (g, w) in enumerate(zip(given, want, strict=False))]

    return execute


def _tensor(placed: Placed) -> Any:
    """A tensor in the room of an input or output."""
    array = placed.array
    return torch.from_numpy(array if array.dtype.isbuiltin == 1 else array.view(f"u{array.itemsize}")).view(_type(array.dtype))


def _type(dtype: np.dtype) -> Any:
    """What torch calls a type; one byte for those it has not."""
    if dtype.isbuiltin == 1:
        return torch.from_numpy(np.empty(0, dtype)).dtype
    if dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"):
        return getattr(torch, dtype.name)
    return torch.int8 if dtype.name.startswith("int") else torch.uint8


def _array(k: int, tensor: Any, want: np.ndarray) -> np.ndarray:
    """A result of torch as the array that is expected. Raises KernelFault when it is none, or of another shape or type."""
    if not isinstance(tensor, torch.Tensor):
        raise KernelFault(f"returned a {type(tensor).__name__} as output {k}")
    if tuple(tensor.shape) != want.shape:
        raise KernelFault(f"returned shape {list(tensor.shape)} as output {k}, expected {list(want.shape)}")
    if tensor.dtype != _type(want.dtype):
        raise KernelFault(f"returned type {str(tensor.dtype).removeprefix('torch.')} as output {k}, expected {want.dtype.name}")
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)
    return flat.numpy().copy().view(want.dtype).reshape(want.shape)


def _tvm_ffi(kernel: Kernel, symbol: str, defect: str) -> Execute:
    """A function of a TVM-FFI module: inputs, then outputs, then the attributes that the declaration names."""
    _needs(kernel, "tvm_ffi", "apache-tvm-ffi")
    import tvm_ffi
    import tvm_ffi.cpp

    if kernel.library is not None:
        module = tvm_ffi.load_module(str(build(kernel)))
    else:
        assert kernel.source is not None
        digest, flags = _digest(kernel, defect)
        folder = cache() / f"tvm-ffi-{digest}"
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with building():
                module = tvm_ffi.cpp.load_inline(
                    f"kernel_{digest}", cpp_sources=kernel.source.read_text(), functions=symbol, extra_cflags=flags, build_directory=str(folder)
                )
        except RuntimeError as e:
            raise RuntimeError(f"kernel {kernel.name} does not compile: {errors(str(e))}") from e
    function = getattr(module, symbol)

    def execute(node: Any, ins: Arrays, want: Arrays, regime: Regime) -> Any:
        rooms = Rooms(ins, want, regime, kernel.aligned, kernel.strided)
        function(*(_tensor(p) for p in (*rooms.inputs, *rooms.outputs) if p is not None), *(node.attrs[a] for a in kernel.arguments))
        rooms.examine()
        return rooms.results()

    return execute


def _onnxruntime(kernel: Kernel, symbol: str, defect: str) -> Execute:
    """An operator of a custom-op library, in a session of one node; its inputs and outputs are bound to guarded memory."""
    _needs(kernel, "onnxruntime")
    import onnx
    import onnxruntime as ort

    library = str(build(kernel, defect))
    domain, _, name = symbol.partition("::")
    sessions = dict[Any, Any]()

    def session(node: Any, ins: Arrays, want: Arrays) -> Any:
        key = repr((sorted(node.attrs.items()), [None if a is None else (a.dtype.name, a.shape) for a in (*ins, *want)]))
        if key not in sessions:
            options = ort.SessionOptions()
            options.log_severity_level = 4
            options.intra_op_num_threads = options.inter_op_num_threads = 1
            options.register_custom_ops_library(library)
            sessions[key] = ort.InferenceSession(model(node, ins, want).SerializeToString(), options, providers=["CPUExecutionProvider"])
        return sessions[key]

    def model(node: Any, ins: Arrays, want: Arrays) -> Any:
        make = onnx.helper
        inputs = [make.make_tensor_value_info(f"x{i}", f.onnx, a.shape) for i, (a, f) in enumerate(zip(ins, node.in_formats, strict=True)) if a is not None]
        outputs = [make.make_tensor_value_info(f"y{i}", f.onnx, a.shape) for i, (a, f) in enumerate(zip(want, node.out_formats, strict=False)) if a is not None]
        names = [f"x{i}" if a is not None else "" for i, a in enumerate(ins)], [f"y{i}" if a is not None else "" for i, a in enumerate(want)]
        attrs: dict[str, Any] = {k: v for k, v in node.attrs.items() if isinstance(v, (int, float, str, list))}
        call = make.make_node(name, *names, domain=domain, **attrs)
        graph = make.make_graph([call], "kernel", inputs, outputs)
        return make.make_model(graph, opset_imports=[make.make_opsetid("", 17), make.make_opsetid(domain, 1)], ir_version=8)

    def execute(node: Any, ins: Arrays, want: Arrays, regime: Regime) -> Any:
        rooms = Rooms(ins, want, regime, kernel.aligned)
        running = session(node, ins, want)
        binding = running.io_binding()
        for prefix, placed, formats, bind in (
            ("x", rooms.inputs, node.in_formats, binding.bind_input),
            ("y", rooms.outputs, node.out_formats, binding.bind_output),
        ):
            for i, p in enumerate(placed):
                if p is not None:
                    bind(f"{prefix}{i}", "cpu", 0, formats[i].onnx, list(p.array.shape), p.room.address)
        running.run_with_iobinding(binding)
        rooms.examine()
        return rooms.results()

    return execute


def _triton(kernel: Kernel, symbol: str, defect: str) -> Execute:
    """A function (node, inputs, outputs) that launches Triton kernels: on a GPU where there is one, else in Triton's interpreter."""
    gpu = torch.cuda.is_available()
    if not gpu:
        os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is declared: `import triton` belongs into the function
    _needs(kernel, "triton")
    function = kernel.function
    assert function is not None

    def execute(node: Any, ins: Arrays, want: Arrays, regime: Regime) -> Any:
        rooms = Rooms(ins, want, regime, kernel.aligned, kernel.strided)
        inputs, outputs = ([None if p is None else _tensor(p) for p in placed] for placed in (rooms.inputs, rooms.outputs))
        there = [None if t is None else t.cuda() for t in outputs] if gpu else outputs
        result = function(node, [None if t is None else t.cuda() for t in inputs] if gpu else inputs, there)
        if gpu:
            for here, t in zip(outputs, there, strict=True):
                if here is not None and t is not None:
                    here.copy_(t)
        rooms.examine()
        return None if result is NotImplemented else rooms.results()

    return execute


def _needs(kernel: Kernel, module: str, install: str = "") -> None:
    """Raises Unsupported, with what to install, for a module that is not here."""
    if importlib.util.find_spec(module) is None:
        raise Unsupported(f"kernel {kernel.name} is of the form {kernel.form}, which needs {module}; pip install {install or module}")


@functools.cache
def _texts(source: Path) -> str:
    return repr(sorted(sources(source).values()))


def _digest(kernel: Kernel, defect: str) -> tuple[str, list[str]]:
    """A name for what a build depends on, and the compiler's flags."""
    assert kernel.source is not None
    if not kernel.source.exists():
        raise RuntimeError(f"kernel {kernel.name}: its source {kernel.source} does not exist")
    flags = [*FLAGS[:4], *kernel.flags, *([f"-DDEFECT_{defect.upper().replace('-', '_')}"] if defect else [])]
    return hashlib.blake2b(repr((_texts(kernel.source), flags, compiler())).encode(), digest_size=8).hexdigest(), flags


FORMS: dict[str, Callable[[Kernel, str, str], Execute]] = {
    "native": _native,
    "python": _python,
    "tvm-ffi": _tvm_ffi,
    "torch": _torch,
    "onnxruntime": _onnxruntime,
    "triton": _triton,
}
__all__ = ["FORMS", "Execute", "prepared"]
