"""TVM (relax) on the CPU: its build pipeline, its fusing CPU pipeline, and random sequences of passes that must not change the meaning.

`tvm.compile` runs no fusion by default; most miscompilations need it, or an order of passes nobody tried. Where there is a GPU, the
default pipeline for it is a setting too.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from oracles import plugin
from oracles.devices import CUDA, gpu
from oracles.plugin import Compiled, backend, split
from specs.formats import BY_ONNX
from specs.rule import Unsupported

#: On "TypeName: message". TVM's importer says most of its limits in words, the non-constant parameters often only by an accident of Python.
UNSUPPORTED = (
    (r"^OpNotImplemented\b", "its own type: no converter for this operator"),
    (r"(?:is|are|was) (?:currently )?(?:not (?:yet )?|un)supported|not (?:currently |yet )?(?:supported|implemented)", "said in words"),
    (r"does not support|\bUnsupported \w+|not supported yet", "said in words: 'Unsupported coordinate_transformation_mode: half_pixel_symmetric'"),
    (r"Cannot decide (?:min|max)_value for type", "a reduction without a start value for this type"),
    (r"must be \S+ for Relax frontend|only statically known .* can be", "said in words: 'TopK sorted must be 1 for Relax frontend'"),
    (r"Only (?:constant|\[.*\] reductions|\w+ (?:is|are) supported)|[Oo]nly supports?|only applies to float|are supported only", "said in words"),
    (r"must be (?:a )?(?:compile-time )?constants?\b|non-constant|compile-time constant", "a parameter computed at run time"),
    (r"requires a statically known|static shape is unknown|Shape dimension could not be inferred", "a shape known only at run time"),
    (r"symbolic dimension \w+ with non-1 constant|Size mismatch: .*relax\.(?:de)?quantize", "two sizes of which one is a name"),
    (r"Expect value to be constant int", "a size known only at run time"),
    (r"Cannot use and / or / not operator to Expr", "named dims, by an accident of Python"),
    (r"int\(\) argument must be a string, a bytes-like object or a real number, not '(?:Var|DataflowVar|Call)'", "a parameter or size known only at run time"),
    (r"requires the input new shape to be Shape", "Reshape to a shape computed at run time"),
    (r"'(?:Var|DataflowVar|Call)' object has no attribute '(?:value|data|tolist)'", "a parameter computed at run time"),
    (r"object of type '(?:Var|DataflowVar|Call)' has no len", "a parameter computed at run time"),
    (r"Cannot cast <class '[\w.]+'> to list of Expr", "a parameter computed at run time"),
    (r"should be one of \[.*\], but got", "a type refused by name"),
    (r"unknown intrinsic", "an operator its code generator lacks for this type: cosh of float64"),
    (r"no value in Constant", "value_int, value_floats and their like of Constant"),
    (r"requires the input [\w ]*to have \w+ dtype", "an operator that it has only for floats, or only for integers"),
    (r"unknown dtype `object`", "it has no strings"),
    (r"Missing outputs during conversion", "an optional output its converter does not make (Indices of MaxPool)"),
    (r"opset version \d+ of \w+ not implemented", "said in words"),
)


IMPORTED = "imported"  # the module as it is imported, done by torch: not TVM's own code, so it is asked only whether it agrees with TVM


def warm() -> None:
    """The first compilation loads LLVM's target and takes half a second."""
    import onnx

    one = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "warm", [one("x", 1, [2])], [one("y", 1, [2])])
    tvm(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10).SerializeToString(), "fused")


@backend(
    "tvm",
    settings=["default", "fused", "random", *([CUDA] if gpu() else [])],
    default=["default", "fused"],
    reference_setting="default",
    warm=warm,
    requires=["tvm"],
    unsupported=UNSUPPORTED,
    switches=lambda model, setting: switches(model, setting),
    steps=lambda model, setting: failing(model, setting),
    stages=[(IMPORTED, "the importer from ONNX")],
    distribution="apache-tvm",
)
def tvm(model: bytes, setting: str) -> Compiled:
    if split(setting)[0] == CUDA:
        return on_gpu(model)
    return imported(model) if setting == IMPORTED else load(model, passes(model, setting), [name for name in split(setting)[1] if name in _ON_STATEMENTS])


def load(model: bytes, names: Sequence[str], disabled: Sequence[str] = (), instruments: Sequence[Any] = ()) -> Compiled:
    """Import, run these passes in this order, compile without the `disabled` passes on loops: what a bisection calls with shorter lists."""
    import tvm as t
    from tvm import relax

    module, inputs, outputs = _module(model)
    target = t.target.Target("llvm")
    pipeline = _pipeline(names, target)
    watching = [] if plugin.changed is None else [_watch(plugin.changed)]
    with t.transform.PassContext(opt_level=3, disabled_pass=list(disabled), instruments=[*instruments, *watching]):
        try:
            executable = t.compile(module, target=target, relax_pipeline=pipeline)
        except t.error.InternalError as e:
            if "CodeGenVM cannot emit" in str(e) and _open(model):
                raise Unsupported("tvm: an operator is not legalised for sizes that are known only at run time") from e
            raise
    device: Any = t.cpu()
    main = relax.VirtualMachine(executable, device)["main"]

    def call(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        results = main(*[_tensor(feeds[name]) for name in inputs])
        return dict(zip(outputs, [_array(results)] if len(outputs) == 1 else [_array(r) for r in results], strict=True))

    return call


def on_gpu(model: bytes) -> Compiled:
    """Its default pipeline for the device that is there, which schedules every loop for threads."""
    import tvm as t
    from tvm import relax

    device: Any = t.cuda()
    if not t.runtime.enabled(CUDA) or not device.exist:
        raise Unsupported("tvm: this build of TVM has no CUDA, or sees no device")
    executable, inputs, outputs = built_for(model, t.target.Target.from_device(device))
    main = relax.VirtualMachine(executable, device)["main"]

    def call(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        results = main(*[_tensor(feeds[name], device) for name in inputs])
        return dict(zip(outputs, [_array(results)] if len(outputs) == 1 else [_array(r) for r in results], strict=True))

    return call


def built_for(model: bytes, target: Any) -> tuple[Any, list[str], list[str]]:
    """An executable by the default pipeline of a target, which need not be here; names of its inputs and outputs."""
    import tvm as t
    from tvm import relax

    module, inputs, outputs = _module(model)
    with t.transform.PassContext(opt_level=3):
        return t.compile(module, target=target, relax_pipeline=relax.get_default_pipeline(target)), inputs, outputs


def _open(model: bytes) -> bool:
    """Whether a size is known only at run time."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model)).graph
    values = [v.type.tensor_type for v in (*graph.input, *graph.value_info, *graph.output)]
    return any(not t.HasField("shape") or any(not d.HasField("dim_value") for d in t.shape.dim) for t in values)


def _watch(told: list[Collection[str]]) -> Any:
    """Tells the names of the passes behind which a module is another one than before."""
    import tvm as t
    import tvm_ffi

    changed = set[str]()
    told.append(changed)

    @t.instrument.pass_instrument
    class Watch:
        def __init__(self) -> None:
            self.before = list[int]()

        def run_before_pass(self, module: Any, info: Any) -> None:
            self.before.append(tvm_ffi.structural_hash(module))

        def run_after_pass(self, module: Any, info: Any) -> None:
            if tvm_ffi.structural_hash(module) != self.before.pop() and info.name not in _CONTAINERS:
                changed.add(str(info.name))

    return Watch()


def _module(model: bytes) -> tuple[Any, list[str], list[str]]:
    """The imported module with the names of its inputs and outputs."""
    import onnx
    from tvm.relax.frontend.onnx import from_onnx

    proto = onnx.load_from_string(model)
    narrow = [v.name for v in (*proto.graph.input, *proto.graph.output) if _narrow(v.type.tensor_type.elem_type)]
    if narrow:
        raise Unsupported(f"tvm: its runtime neither takes nor gives tensors of elements below 8 bits ({', '.join(narrow)})")
    known = {i.name for i in proto.graph.initializer}
    inputs = [i.name for i in proto.graph.input if i.name not in known]
    outputs = [o.name for o in proto.graph.output]
    importer: Any = from_onnx  # annotated as taking a GraphProto; it takes a ModelProto
    return importer(proto, keep_params_in_input=False), inputs, outputs


def imported(model: bytes) -> Compiled:
    """The imported module with torch in place of TVM's operators: wrong in the same way as TVM when the importer is to blame.

    Raises Unsupported for an operator that TVM's own converter to torch does not know. It forgets attributes of some others, so
    its results prove something only when they agree with others.
    """
    import torch
    from tvm.relax.relax_to_pyfunc_converter import RelaxToPyFuncConverter

    module, inputs, outputs = _module(model)
    function: Any = RelaxToPyFuncConverter(module).convert(["main"]).pyfuncs["main"]

    def call(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        results = function(*[torch.from_numpy(np.array(feeds[name])) for name in inputs])
        values = [results] if len(outputs) == 1 else list(results)
        if any(not isinstance(v, torch.Tensor) for v in values):
            raise Unsupported(f"tvm: its converter to torch does not know {str(values)[:80]}")
        return {name: v.numpy() for name, v in zip(outputs, values, strict=True)}

    return call


def failing(model: bytes, setting: str) -> list[str]:
    """The passes begun before the one that raises, that one last; "the importer from ONNX" when it does not come to that."""
    import tvm as t

    done, at = ["the importer from ONNX"], list[str]()

    @t.instrument.pass_instrument
    class Watch:
        def run_before_pass(self, module: Any, info: Any) -> None:
            at.append(str(info.name))

        def run_after_pass(self, module: Any, info: Any) -> None:
            done.append(at.pop())

    if split(setting)[0] == CUDA:
        return []
    try:
        load(model, passes(model, setting), instruments=[Watch()])
    except Exception:  # this is asked about models that fail
        begun = [name for name in at if name not in _CONTAINERS]
        return [*done, *begun[:1]] if begun else done[:1] if len(done) == 1 else [*done, "code generation"]
    return []


def _narrow(element: int) -> bool:
    form = BY_ONNX.get(element)
    return form is not None and form.kind != "bool" and 0 < form.bits < 8


def passes(model: bytes, setting: str) -> list[str]:
    """The names of the passes a setting runs; for "random" a function of the model alone, so that a finding replays."""
    base, off = split(setting)
    gone = {name for switch in off for name in ([*_FUSION] if switch == "FuseOps" else [switch])}
    return [name for name in _passes(model, base) if name not in gone]


def switches(model: bytes, setting: str) -> list[str]:
    """Passes that can be left out; FuseOps stands for itself and its companions, which make no sense alone."""
    if split(setting)[0] == CUDA:
        return []
    mine = [name for name in dict.fromkeys(passes(model, setting)) if name not in NECESSARY and name not in _FUSION[1:]]
    return [*mine, *(name for name in _ON_STATEMENTS if name not in split(setting)[1])]


def _passes(model: bytes, setting: str) -> list[str]:
    if setting == "default":
        return [*_DISPATCH, "LegalizeOps", *_LOWER]
    if setting == "fused":
        return [*_DISPATCH, "LegalizeOps", *_FUSE, *_LOWER]
    source = random.Random(hashlib.blake2b(model, digest_size=8).digest())
    chosen = [*_some(source, _ON_OPERATORS), *_DISPATCH, "LegalizeOps"]
    fuse = source.random() < 0.75
    if fuse:
        chosen += ["AnnotateTIROpPattern", *_some(source, _ON_LOOPS), "FuseOps", "FuseTIR"]
    chosen += _some(source, _ON_LOOPS)
    return chosen + [name for name in _LOWER if name not in _OPTIONAL or source.random() < 0.5]


_DISPATCH = ["DispatchSampling", "DispatchSortScan"]
_FUSION = ["FuseOps", "FuseTIR", "AnnotateTIROpPattern"]
_FUSE = ["AnnotateTIROpPattern", "FoldConstant", "FuseOps", "FuseTIR"]
_LOWER = ["RewriteDataflowReshape", "ToNonDataflow", "RemovePurityChecking", "CallTIRRewrite", "StaticPlanBlockMemory", "LowerAllocTensor", "KillAfterLastUse",
          "LowerRuntimeBuiltin", "ComputePrimValue", "VMShapeLower", "AttachGlobalSymbol"]  # fmt: skip
#: Passes of the lowering that only save time or memory.
_OPTIONAL = {"RewriteDataflowReshape", "StaticPlanBlockMemory", "KillAfterLastUse"}
NECESSARY = {*_DISPATCH, "LegalizeOps", *_LOWER} - _OPTIONAL
#: Keep the meaning and the rounding of every operator, so they may run in any order. Left out are those
#: that are allowed to change results (FastMathTransform, ToMixedPrecision) or re-associate products of matrices (AdjustMatmulOrder, ExpandMatmulOfSum).
_ON_OPERATORS = [
    "FoldConstant", "EliminateCommonSubexpr", "DeadCodeElimination", "CanonicalizeBindings", "ConvertToDataflow", "RemoveRedundantReshape",
    "FuseTransposeMatmul", "ReorderPermuteDimsAfterConcat", "ReorderTakeAfterMatmul", "CombineParallelMatmul", "ConvertLayout",
    "OptimizeLayoutTransform", "DecomposeOpsForInference", "TopologicalSort", "Normalize", "NormalizeGlobalVar", "FoldBatchnormToConv2D",
    "RemoveUnusedOutputs", "RemoveUnusedParameters", "InlinePrivateFunctions", "ExpandTupleArguments", "LambdaLift",
]  # fmt: skip
_ON_LOOPS = [
    "FoldConstant", "EliminateCommonSubexpr", "DeadCodeElimination", "CanonicalizeBindings", "ConvertToDataflow", "TopologicalSort",
    "DataflowUseInplaceCalls", "RemoveUnusedOutputs", "RemoveUnusedParameters",
]  # fmt: skip


#: Passes on the loops of a compiled kernel that only make it faster; turned off by name in TVM's own way.
_ON_STATEMENTS = (
    "tirx.CommonSubexprElim", "tirx.RemoveNoOp", "tirx.StorageRewrite", "tirx.UnrollLoop", "tirx.VectorizeLoop", "s_tir.HoistIfThenElse",
    "s_tir.InjectDoubleBuffer", "s_tir.LoopPartition", "s_tir.RenormalizeSplitPattern", "s_tir.RewriteUnsafeSelect", "s_tir.CompactBufferAllocation",
)  # fmt: skip
_CONTAINERS = {"run", "sequential", "_pipeline"}


def _some(source: random.Random, names: Sequence[str]) -> list[str]:
    return source.sample(list(names), source.randint(1, 5))


def _pipeline(names: Sequence[str], target: Any) -> Any:
    import tvm as t
    from tvm import relax

    special: dict[str, Callable[[], Any]] = {
        "DispatchSampling": relax.backend.DispatchSampling,
        "DispatchSortScan": relax.backend.DispatchSortScan,
        "ConvertLayout": partial(relax.transform.ConvertLayout, {"relax.nn.conv2d": ["NHWC", "OHWI"]}),
        "TopologicalSort": partial(relax.transform.TopologicalSort, order="depth-first"),
    }
    sequence = t.transform.Sequential([special[n]() if n in special else getattr(relax.transform, n)() for n in names])

    def run(module: Any, context: Any) -> Any:
        with target:  # the dispatching passes ask for the current target
            return sequence(module)

    return t.transform.module_pass(run, opt_level=0)


def _tensor(array: np.ndarray, device: Any = None) -> Any:
    import tvm as t

    if isinstance(array, list):
        raise Unsupported("tvm: a sequence as graph input is not tried")
    array = np.asarray(array)
    if array.dtype == object:
        raise Unsupported("tvm: it has no strings")
    return t.runtime.tensor(array, device)


def _array(value: Any) -> Any:
    """TVM answers tensors, shapes as tuples of integers, and lists for sequences."""
    if hasattr(value, "numpy"):
        return value.numpy()
    kind = type(value).__name__
    if kind in ("Shape", "ShapeTuple"):
        return np.array(list(value), np.int64)
    if kind == "Array":
        return [_array(v) for v in value]
    if value is None or isinstance(value, (bool, int, float)):
        return None if value is None else np.asarray(value)
    raise Unsupported(f"tvm: an output of type {kind} has no ONNX counterpart that we know")
