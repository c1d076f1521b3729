"""Kernels as plugins: declared, found, built, substituted; and whatever a bad one does is noticed and said in one sentence."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from oracles import native, plugin, pool
from oracles.adjoint import weigher
from oracles.backends.kernels import kernels as kernels_backend
from oracles.backends.kernels import register
from oracles.blame import blame
from oracles.judge import judge_outcomes
from oracles.kernel import Kernel, applied, kernel, kernels, load
from oracles.plugin import Target
from oracles.pool import run
from oracles.records import Case, Outcome, Verdict
from oracles.reference import reference
from specs.formats import ALL, Format
from specs.program import Program
from specs.rule import Unsupported, UsageError
from tests.command import ENVIRONMENT, ROOT, fuzz

registry = importlib.import_module("oracles.kernel")  # `oracles.kernel` itself is the decorator
BAD = Path(__file__).parent / "kernels" / "bad.py"
EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "kernels").glob("*.py"))


def network(*ops: str, shape: tuple[int, ...] = (3, 7, 9), opset: int = 18, kind: int = 1, **attrs: Any) -> bytes:
    """A chain of unary operators."""
    nodes = [helper.make_node(op, [f"v{i}" if i else "x"], [f"v{i + 1}" if i + 1 < len(ops) else "y"], name=f"n{i}", **attrs) for i, op in enumerate(ops)]
    ends = [helper.make_tensor_value_info(name, kind, shape) for name in ("x", "y")]
    return helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:]), opset_imports=[helper.make_opsetid("", opset)], ir_version=8
    ).SerializeToString()


def values(shape: tuple[int, ...] = (3, 7, 9)) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(np.float32)


def judged(model: bytes, x: np.ndarray, *settings: str, timeout: float = 60.0) -> dict[str, Verdict]:
    """The gravest verdict of every setting."""
    case, program = Case(model, {"x": x}), Program(model, torch.float64)
    outcomes = run(case, [Target("kernels", settings)], timeout=timeout)
    verdicts = judge_outcomes(reference(program, case.inputs), outcomes, weigher(program, case.inputs))
    return {v.setting: v for v in sorted(verdicts, key=lambda v: v.is_finding)}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The bad kernels and the examples, for this file only, built into a cache of its own."""
    kernels()
    known = dict(registry._registry)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(registry.VARIABLE, "")
        patch.setenv("FUZZ_CACHE", str(tmp_path_factory.mktemp("cache")))
        pool.close()
        for file in (BAD, *EXAMPLES):
            load(str(file))
        yield
        pool.close()
    registry._registry.clear()
    registry._registry.update(known)
    register()


# what a bad kernel does ------------------------------------------------------------------------------------------------
CAUGHT = {
    "past-the-end": ("broken", "kernel past-the-end at Neg: wrote to byte 12 past the end of output 0"),
    "before-the-start": ("broken", "wrote to byte 8 before the start of output 0"),
    "workspace-too-small": ("broken", "wrote to byte 4 past the end of its workspace"),
    "reads-past-the-end": ("crash", "in kernel reads-past-the-end at Neg with memory ending at a forbidden page"),
    "reads-before-the-start": ("crash", "with memory beginning behind a forbidden page"),
    "skips-the-tail": ("broken", "did not write 5 of the 189 elements of output 0, the first at [2, 6, 4]"),
    "changes-its-input": ("broken", "changed its input 0"),
    "assumes-alignment": ("unstable", "memory off its line by one element"),
    "ignores-strides": ("unstable", "differs with every second element as input"),
    "takes-zeros-for-granted": ("unstable", "differs with a workspace that was used before"),
    "drops-the-last-chunk": ("unstable", "two threads"),
    "races": ("unstable", "threads"),
    "shares-its-scratch": ("unstable", "three threads, stalled now and then"),
    "needs-a-line-and-does-not-say-so": ("broken", "returned 7"),
    "fails": ("broken", "kernel fails at Neg: returned 7"),
    "crashes": ("crash", "SIGSEGV\nin kernel crashes at Neg"),
    "python-killed": ("crash", "in kernel python-killed at Neg"),
    "python-raises": ("broken", "kernel python-raises at Neg raised ArithmeticError: no luck"),
    "python-in-place": ("broken", "changed its input 0"),
    "python-flat": ("broken", "returned shape [189] as output 0, expected [3, 7, 9]"),
    "python-wide": ("broken", "returned type float64 as output 0, expected float32"),
    "python-list": ("broken", "returned a list as output 0"),
    "predicate-raises": ("broken", "kernel predicate-raises at Neg: asked whether it applies, it raised IndexError"),
    "no-such-symbol": ("broken", "there is no symbol no_such_symbol in"),
    "does-not-compile": ("broken", "kernel does-not-compile does not compile:"),
    "has-no-source": ("broken", "does not exist"),
    "has-no-library": ("broken", "does not exist"),
    "is-never-mine": ("unsupported", "kernel is-never-mine applies to no node of this model with these inputs"),
    "python-not-mine": ("unsupported", "applies to no node"),
    "only-small": ("unsupported", "applies to no node of this model with these inputs"),
}
RIGHT = ("right", "follows-strides", "needs-a-line")


@pytest.fixture(scope="module")
def of_neg(loaded: None) -> dict[str, Verdict]:
    return judged(network("Neg"), values(), "off", *RIGHT, *CAUGHT)


@pytest.mark.parametrize("name", CAUGHT)
def test_a_bad_kernel_is_caught(of_neg: dict[str, Verdict], name: str) -> None:
    verdict, words = CAUGHT[name]
    assert of_neg[name].verdict == verdict and words in of_neg[name].message, of_neg[name]


@pytest.mark.parametrize("name", ["off", *RIGHT])
def test_a_right_kernel_is_ok(of_neg: dict[str, Verdict], name: str) -> None:
    assert of_neg[name].verdict == "ok"


def test_a_hang_is_an_outcome_of_that_kernel_alone(loaded: None) -> None:
    found = judged(network("Neg"), values(), "hangs", "right", timeout=3)
    assert found["hangs"].verdict == "hang" and found["right"].verdict == "ok"


def test_imprecise_is_said_of_kernels_that_declare_to_be_strict(loaded: None) -> None:
    """A sum of 256 products in float16 is legal for a compiler, and is not what a kernel promises."""
    shapes = {"x": (16, 256), "w": (256, 16), "y": (16, 16)}
    info = {name: helper.make_tensor_value_info(name, 10, shape) for name, shape in shapes.items()}
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], name="n")], "g", [info["x"], info["w"]], [info["y"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    random = np.random.default_rng(4)
    case = Case(model, {name: random.standard_normal(shapes[name]).astype(np.float16) for name in ("x", "w")})
    program = Program(model, torch.float64)
    outcomes = run(case, [Target("kernels", ("off", "rough", "rough-and-says-so"))])
    verdicts = judge_outcomes(reference(program, case.inputs), outcomes, weigher(program, case.inputs))
    found = {v.setting: v.verdict for v in verdicts}
    assert found["rough"] == "imprecise" and {found["off"], found["rough-and-says-so"]} <= {"ok", "noise"}


# substitution ----------------------------------------------------------------------------------------------------------
def test_kernels_stand_in_where_they_apply_and_the_outcome_says_where(loaded: None) -> None:
    model = network("Relu", "Softsign", "Exp", "Relu")
    (outcome,) = run(Case(model, {"x": values()}), [Target("kernels", ("all",))])
    found = applied(outcome)
    assert set(found) == {"relu", "softsign"} and [p["node"] for p in found["relu"]] == ["n0", "n3"]
    assert found["relu"][0] == {"kernel": "relu", "op": "Relu", "node": "n0", "dtypes": ["float"], "shapes": [[3, 7, 9]], "attrs": {}}


def test_other_types_are_left_to_the_reference(loaded: None) -> None:
    found = run(Case(network("Relu", kind=11), {"x": values().astype(np.float64)}), [Target("kernels", ("off", "relu", "all"))])
    assert [o.status for o in found] == ["ok", "unsupported", "unsupported"] and "applies" in found[1].message


def test_inside_a_loop_and_a_branch(loaded: None) -> None:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Neg", ["v"], ["out"], name="inside")],
        "body",
        [helper.make_tensor_value_info("i", 7, ()), helper.make_tensor_value_info("go", 9, ()), helper.make_tensor_value_info("v", 1, (5,))],
        [helper.make_tensor_value_info("on", 9, ()), helper.make_tensor_value_info("out", 1, (5,))],
    )
    three = onnx.numpy_helper.from_array(np.array(3), "three")
    graph = helper.make_graph(
        [helper.make_node("Loop", ["three", "", "x"], ["y"], body=body)],
        "g",
        [helper.make_tensor_value_info("x", 1, (5,))],
        [helper.make_tensor_value_info("y", 1, (5,))],
        [three],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8).SerializeToString()
    found = judged(model, values((5,)), "right", "skips-the-tail")
    assert found["right"].verdict == "ok" and found["skips-the-tail"].verdict == "broken"


def test_a_fault_among_all_kernels_is_blamed_on_its_kernel(loaded: None) -> None:
    model = network("Relu", "Softsign", "LeakyRelu")
    case = Case(model, {"x": values()})

    def shows(outcome: Outcome) -> bool:
        return "softsign" in applied(outcome)

    assert blame(case, "kernels", "all", shows) == ("softsign",)
    (off,) = run(case, [Target("kernels", ("all~relu~softsign~leaky-relu",))])
    assert off.status == "ok" and not applied(off)


def test_teeth_are_noticed_wherever_a_kernel_applies(loaded: None) -> None:
    found = judged(network("Exp", "Neg"), values(), "right", *(f"right!{t}" for t in registry.TEETH))
    assert found.pop("right").verdict == "ok" and all(v.verdict == "wrong" for v in found.values()), found


# forms -----------------------------------------------------------------------------------------------------------------
FORMS = {
    "hard-swish": ("HardSwish", {}, "hard-swish!tail"),
    "hard-swish@plain": ("HardSwish", {}, ""),
    "softsign": ("Softsign", {}, "softsign!zero"),
    "thresholded-relu": ("ThresholdedRelu", {"alpha": 0.25}, "thresholded-relu!tail"),
    "elu": ("Elu", {"alpha": 1.5}, "elu!sign"),
    "leaky-relu": ("LeakyRelu", {"alpha": 0.3}, "leaky-relu!no-slope"),
    "triton-sigmoid": ("Sigmoid", {}, "triton-sigmoid!zero"),
}


@pytest.mark.parametrize("name", [pytest.param(f, marks=[pytest.mark.slow] if f == "elu" else []) for f in FORMS])
def test_the_example_of_a_form_works_and_its_defect_is_seen(loaded: None, name: str) -> None:
    op, attrs, defect = FORMS[name]
    needs = {"thresholded-relu": "tvm_ffi", "leaky-relu": "onnxruntime", "triton-sigmoid": "triton"}.get(name)
    if needs and not plugin._importable(needs):
        (outcome,) = run(Case(network(op, **attrs), {"x": values()}), [Target("kernels", (name,))])
        assert outcome.status == "unsupported" and "which needs" in outcome.message and "pip install" in outcome.message
        return
    found = judged(network(op, **attrs), values(), name, *([defect] if defect else []), timeout=300)
    assert found[name].verdict == "ok", found[name]
    assert not defect or found[defect].is_finding


@pytest.mark.parametrize("form", [f for f in ALL if f.kind not in ("string", "complex")], ids=str)
def test_every_type_arrives_and_returns(loaded: None, form: Format) -> None:
    """As torch has it: float8 and bfloat16 as they are, int4 and smaller in a byte."""
    x = np.array([[0, 1, 3], [2, 1, 0]]).astype(form.numpy)
    compiled = kernels_backend(network("Identity", shape=x.shape, opset=25, kind=form.onnx), "same")
    assert compiled({"x": x})["y"].tobytes() == x.tobytes()
    assert compiled({"x": x})["y"].dtype == form.numpy


@pytest.mark.parametrize("shape", [(), (0, 3), (1,), (2, 1, 1, 3)])
def test_of_every_shape(loaded: None, shape: tuple[int, ...]) -> None:
    found = judged(network("Neg", shape=shape), values(shape), "right", "follows-strides", "needs-a-line")
    assert all(v.verdict == "ok" for v in found.values()), found


# declaring and finding -------------------------------------------------------------------------------------------------
def test_no_shipped_kernel_has_a_problem() -> None:
    shipped = [k for k in kernels().values() if k.shipped or not k.location[0]]
    assert shipped and not [k.problem for k in shipped if k.problem]


def test_every_shipped_kernel_says_where_it_comes_from_and_how_it_may_break() -> None:
    for k in (k for k in kernels().values() if k.shipped):
        assert k.title and k.source is not None and k.source.exists() and k.defects, k.name
        assert Path(k.location[0]).exists() and k.location[1] > 0


@pytest.mark.parametrize(
    ("declaration", "words"),
    [
        ({"name": "two words"}, "joined by '-'"),
        ({"name": "x", "form": "fortran"}, "no form 'fortran'"),
        ({"name": "x"}, "form 'native' needs symbol="),
        ({"name": "x", "form": "python", "symbol": "f"}, "form 'python' has no symbol="),
        ({"name": "x", "symbol": "f"}, "either source= or library="),
        ({"name": "x", "symbol": "f", "source": "a.cpp", "library": "a.so"}, "either source= or library="),
        ({"name": "x", "symbol": "f", "source": "a.cpp", "dtypes": ["float33"]}, "no type 'float33'"),
        ({"name": "x", "symbol": "f", "source": "a.cpp", "defects": {"zero": ""}}, "a defect zero already"),
        ({"name": "relu", "symbol": "f", "source": "a.cpp"}, "already declared in"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(declaration: dict[str, Any], words: str) -> None:
    kernels()
    with pytest.raises(ValueError, match=re.escape(words)):
        kernel(implements="Neg", **declaration)(lambda node, inputs: True)


def test_kernels_of_the_project_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`[tool.fuzz.kernels]`: a file, and a module that cannot be imported, which is said and does not take the others down."""
    (tmp_path / "mine.py").write_text(
        "from oracles.kernel import kernel\n@kernel('mine-of-the-project', implements='Neg', form='python')\ndef f(node, x):\n    return -x\n"
    )
    (tmp_path / "pyproject.toml").write_text('[tool.fuzz.kernels]\nmine = "mine.py"\ntheirs = "no_such_module:f"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_loaded", False)
    monkeypatch.setattr(registry, "_registry", dict(registry._registry))
    monkeypatch.setenv(registry.VARIABLE, "")
    found = kernels()
    assert found["mine-of-the-project"].form == "python" and not found["mine-of-the-project"].shipped
    assert "kernel 'theirs' cannot be loaded from no_such_module:f: ModuleNotFoundError" in found["theirs"].problem


def test_kernels_of_an_installed_distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry-point group `fuzzer.kernels`: found, and at work in a process of its own."""
    info = tmp_path / "acme_kernels-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-kernels\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[fuzzer.kernels]\nacme = acme_kernels:acme_neg\n")
    text = "from oracles.kernel import kernel\n@kernel('acme-neg', implements='Neg', form='python')\ndef acme_neg(node, x):\n    return -x\n"
    (tmp_path / "acme_kernels.py").write_text(text)
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", f"{ROOT}{os.pathsep}{tmp_path}")
    listed = {r["name"]: r for r in json.loads(fuzz("backends", "kernels", "--json", cwd=tmp_path).stdout)}
    assert listed["acme-neg"]["implements"] == "Neg" and not listed["acme-neg"]["shipped"] and not listed["acme-neg"]["problem"]
    (tmp_path / "neg.onnx").write_bytes(network("Neg"))
    done = fuzz("check", "neg.onnx", "--backends", "kernels:acme-neg", "--json", cwd=tmp_path)
    assert done.returncode == 0 and [v["verdict"] for v in json.loads(done.stdout)["verdicts"]] == ["ok"], done.stdout + done.stderr


def test_settings_that_are_broken_on_purpose_run_only_when_named() -> None:
    (usual,) = plugin.parse("kernels:*")
    assert "relu" in usual.settings and not [s for s in usual.settings if "!" in s or "@" in s]
    assert plugin.parse("kernels:relu!tail+all~relu") == [Target("kernels", ("relu!tail", "all~relu"))]
    with pytest.raises(UsageError, match=r"no setting 'relu!tial' \(did you mean 'relu!tail'\?\)"):
        plugin.parse("kernels:relu!tial")


# building --------------------------------------------------------------------------------------------------------------
def made(tmp_path: Path, text: str) -> Kernel:
    (tmp_path / "k.cpp").write_text(text)
    return Kernel("k", "Neg", source=tmp_path / "k.cpp", symbol="k")


def test_a_library_is_built_once_for_what_it_depends_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUZZ_CACHE", str(tmp_path / "cache"))
    (tmp_path / "value.h").write_text("enum { VALUE = 5 };\n")
    source = '#include "kernel.h"\n#include "value.h"\nextern "C" int k(const Call *) { return VALUE; }\n'
    first = native.build(made(tmp_path, source))
    written = first.stat().st_mtime_ns
    assert native.build(made(tmp_path, source)) == first and first.stat().st_mtime_ns == written
    assert native.build(made(tmp_path, source), "tail") != first
    assert native.build(made(tmp_path, source + "\n// changed\n")) != first
    (tmp_path / "value.h").write_text("enum { VALUE = 6 };\n")
    assert native.build(made(tmp_path, source)) != first
    assert not list((tmp_path / "cache" / "kernels").glob("*.part"))


def test_another_build_may_round_otherwise_and_only_what_threads_did_counts() -> None:
    plain, own, other = (np.array(v, np.float32) for v in ([[1, 2, 3]], [[1.5, 2, 3]], [[1.5, 9, 3]]))
    assert native._where_apart(plain, own, own) is plain
    assert native._where_apart(plain, own, other).tolist() == [[1, 9, 3]]  # type: ignore[union-attr]
    assert native._where_apart(np.float32(1).reshape(()), np.float32(2).reshape(()), np.float32(3).reshape(())) == 3


def test_without_a_compiler_a_kernel_is_unsupported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUZZ_CACHE", str(tmp_path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    native.compiler.cache_clear()
    with pytest.raises(Unsupported, match=r"needs a compiler, and none of g\+\+, clang\+\+, c\+\+ is on the path"):
        native.build(made(tmp_path, "int k;"))
    native.compiler.cache_clear()


def test_compiling_a_kernel_does_not_count_against_the_time_limit_of_a_model(loaded: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "slow-c++"
    slow.write_text(f'#!/bin/sh\ncase "$*" in *--version*) ;; *) sleep 3;; esac\nexec {native.compiler()[0]} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("CXX", str(slow))
    monkeypatch.setenv("FUZZ_CACHE", str(tmp_path))
    pool.close()
    (outcome,) = run(Case(network("Neg"), {"x": values()}), [Target("kernels", ("right",))], timeout=2)
    pool.close()
    assert outcome.status == "ok", outcome.message
