"""One model with kernels at work: which kernel stands in where, under which regime, and what is said of it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from oracles import guard, plugin
from oracles.forms import prepared
from oracles.guard import HOSTILE, PLAIN, POISON, KernelFault, Regime
from oracles.kernel import FUNCTIONS, TEETH, Kernel, kernels
from oracles.rewriting import Run, lazily, listed
from oracles.variants import variants
from specs.rule import Unsupported

PATIENCE = 0.02  # seconds after which a kernel is not run once more

program = lazily("specs.program")
torch = lazily("torch")


def candidates(model: bytes, base: str, off: Sequence[str] = ()) -> list[tuple[Kernel, str]]:
    """Kernels of a setting that implement an operator of this model, each with what is asked of it (a baseline or a defect)."""
    name, _, baseline = base.partition("@")
    name, _, defect = name.partition("!")
    wanted = "@" + baseline if baseline else "!" + defect if defect else ""
    present = operators(model) if model else None
    return [
        (k, wanted)
        for k in kernels().values()
        if (k.name == name or (name == "all" and not k.problem)) and k.name not in off and (present is None or any(k.implements_node(*p) for p in present))
    ]


def operators(model: bytes) -> set[tuple[str, str]]:
    """(name, domain) of everything that is called in a model, inside functions and sub-graphs too."""
    parsed = program.parse(model)
    found, todo = set[tuple[str, str]](), [*parsed.graph.node, *(n for f in parsed.functions for n in f.node)]
    while todo:
        node = todo.pop()
        found.add((node.op_type, "" if node.domain == "ai.onnx" else node.domain))
        todo += [n for a in node.attribute if a.HasField("g") for n in a.g.node]
    return found


class Substitution:
    """A model, compiled with kernels. A kernel that cannot run here is left out of `all`, and the reason kept."""

    def __init__(self, model: bytes, setting: str, chosen: Sequence[tuple[Kernel, str]]) -> None:
        self.program = program.Program(model, keep=frozenset({FUNCTIONS}))
        self.plain = variants()["halves-in-float"].at
        self.chosen = list[tuple[Kernel, Callable[..., Any], str]]()
        self.applied: dict[str, dict[str, Any]] = {}
        self.hostile, self.last = False, b""
        reasons = list[str]()
        for kernel, wanted in chosen:
            try:
                self.chosen.append((kernel, prepared(kernel, wanted), wanted))
            except Unsupported as e:
                reasons.append(str(e))
        if chosen and not self.chosen:
            raise Unsupported("; ".join(reasons))
        self.nowhere = "" if "~" in setting else "no kernel applies to a node" if setting == "all" else f"kernel {setting} applies to no node"

    def compiled(self) -> Callable[[Mapping[str, np.ndarray]], dict[str, Any]]:
        """The callable; its attribute `words` says in JSON which kernels ran where."""

        def call(feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
            told = _told(feeds)
            self.hostile, self.last = told == self.last, told
            with torch.no_grad():
                values = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in self.program.feeds(feeds).items()}
                results = self.program.run(values, Run(self.at, base=self.plain))
            if self.chosen and not self.applied and self.nowhere:
                raise Unsupported(f"{self.nowhere} of this model with these inputs")
            return {name: program.to_numpy(value, self.program.formats.get(name)) for name, value in results.items()}

        call.words = lambda: json.dumps(list(self.applied.values())) if self.applied else ""  # type: ignore[attr-defined]
        return call

    def at(self, run: Run, node: Any, args: list[Any]) -> Any:
        """A kernel's results at a node; the reference's for a function without one; None where everybody's will do."""
        for kernel, execute, wanted in self.chosen:
            if _applies(kernel, node, args):
                result = self.by(kernel, execute, wanted, run, node, args)
                if result is not None:
                    return result
        return node.evaluate(args, run) if isinstance(node, program.Call) else None

    def by(self, kernel: Kernel, execute: Callable[..., Any], wanted: str, run: Run, node: Any, args: list[Any]) -> Any:
        """One kernel at one node; None when it says that this is not its own."""
        honest = node.evaluate(args, Run(lambda r, n, a: None, base=self.plain)) if isinstance(node, program.Call) else listed(run.honest(node, args))
        ins = [None if a is None else program.to_numpy(a, f) for a, f in zip(args, node.in_formats, strict=True)]
        want = [None if not o else program.to_numpy(h, f) for o, h, f in zip(node.outputs, honest, node.out_formats, strict=False)]
        note = ""
        place, note = guard.where(kernel.name, node), ""

        def run_under(regime: Regime) -> list[Any] | None:
            with _last_words(f"in {place}{'' if regime.name == 'plain' else f' with {regime.name}'}"):
                return execute(node, ins, want, regime)

        try:
            got = run_under(PLAIN)
            if got is not None:
                _written(run_under, got)
                if self.hostile:
                    got, note = _worst(run_under, got, kernel)
        except KernelFault as e:
            raise KernelFault(f"{place}: {e}") from None
        except Unsupported:
            raise
        except Exception as e:  # whatever a stranger's kernel raises
            raise KernelFault(f"{place} raised {type(e).__name__}: {e}") from e
        if got is None:
            return None
        self._note(kernel, node, ins, note)
        if wanted[1:] in TEETH:
            got = _bitten(wanted[1:], got, ins)
        return [None if g is None else program.to_torch(g, f) for g, f in zip(got, node.out_formats, strict=False)]

    def _note(self, kernel: Kernel, node: Any, ins: list[Any], differs: str) -> None:
        about = {
            "kernel": kernel.name,
            "op": node.op.name,
            "node": node.name,
            "dtypes": ["" if f is None else f.name for f in node.in_formats],
            "shapes": [None if i is None else list(i.shape) for i in ins],
            "attrs": {k: v for k, v in node.attrs.items() if isinstance(v, (int, float, str, list))},
        }
        entry = self.applied.setdefault(json.dumps([kernel.name, node.name, about["shapes"]]), about)
        if differs:
            entry["differs"] = differs


def _applies(kernel: Kernel, node: Any, args: list[Any]) -> bool:
    try:
        return kernel.applies(node, args)
    except Exception as e:  # a stranger's code
        raise KernelFault(f"{guard.where(kernel.name, node)}: asked whether it applies, it raised {type(e).__name__}: {e}") from e


def _written(run_under: Callable[[Regime], list[Any] | None], got: list[Any]) -> None:
    """Raises when an output still holds the poison it was given, in two runs with different poison."""
    if not any(g is not None and guard.unwritten(g, None).any() for g in got):
        return
    again = run_under(Regime("other poison", poison=POISON[1]))
    for k, (a, b) in enumerate(zip(got, again or [], strict=False)):
        if a is not None and b is not None and (left := guard.unwritten(a, b)).any():
            first = [int(i) for i in np.unravel_index(int(np.flatnonzero(left)[0]), a.shape)]
            raise KernelFault(f"did not write {int(left.sum())} of the {left.size} elements of output {k}, the first at {first}")


def _worst(run_under: Callable[[Regime], list[Any] | None], got: list[Any], kernel: Kernel) -> tuple[list[Any], str]:
    """The result furthest from the plain one under regimes that a correct kernel does not notice, and the names of those that were about as far."""
    worst, gaps = got, dict[str, float]()
    for regime in HOSTILE:
        if (regime.gaps and not kernel.strided) or (regime.stalls and kernel.threads < 2):
            continue
        until = time.perf_counter() + PATIENCE
        for _ in range(regime.repeats):
            other = run_under(regime)
            if other is None:
                raise KernelFault(f"takes these arguments, but not with {regime.name}")
            apart = max((_apart(a, b) for a, b in zip(got, other, strict=True) if a is not None), default=0.0)
            if apart > max(gaps.values(), default=0.0):
                worst = other
            gaps[regime.name] = max(apart, gaps.get(regime.name, 0.0))
            if time.perf_counter() > until:
                break
    far = max(gaps.values(), default=0.0)
    return worst, ", or ".join(name for name, gap in gaps.items() if gap >= 0.1 * far) if far else ""


def _told(feeds: Mapping[str, Any]) -> bytes:
    """To notice the same inputs again."""
    digest = hashlib.blake2b()
    for name, value in sorted(feeds.items()):
        array = np.asarray(value)
        digest.update(f"{name} {array.dtype} {array.shape} ".encode() + (repr(value).encode() if array.dtype == object else array.tobytes()))
    return digest.digest()


def _apart(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference; infinity where only one of them is finite."""
    if a.tobytes() == b.tobytes():
        return 0.0
    x, y = a.astype(np.float64), b.astype(np.float64)
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.where(same, 0.0, np.abs(x - y))
    return float(np.nan_to_num(gap, nan=np.inf, posinf=np.inf).max())


def _bitten(tooth: str, got: list[Any], ins: list[Any]) -> list[Any]:
    """Results broken on purpose; `identity` where the first input does not fit repeats it until it does."""
    broken = list[Any]()
    for g in got:
        if g is None or tooth == "zero":
            broken.append(None if g is None else np.zeros_like(g))
        elif tooth == "identity":
            source = next((i for i in ins if i is not None and i.size and i.dtype != object), np.zeros(1))
            copied = np.resize(np.ascontiguousarray(source).reshape(-1).view(np.uint8), g.nbytes)  # bytes: a converted input is what a cast answers
            broken.append(copied.view(g.dtype).reshape(g.shape))
        else:
            flat = g.reshape(-1).copy()
            flat[flat.size - max(1, flat.size // 8) :] = np.zeros(1, g.dtype)[0]
            broken.append(flat.reshape(g.shape))
    return broken


@contextmanager
def _last_words(text: str) -> Generator[None]:
    """What a worker's log says if the process dies inside: written before, taken back afterwards."""
    if plugin.more_time is None:  # not in a worker: standard error is not ours to cut
        yield
        return
    size = os.fstat(2).st_size
    os.write(2, f"{text}\n".encode())
    yield
    os.ftruncate(2, size)


__all__ = ["Substitution", "candidates", "operators"]
