"""False positives: everything a legal implementation may do, judged; each accusation is a mistake of the judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks import Figures, Scale, benchmark
from benchmarks.cases import Outputs, Prepared, answer, bits, stream, table
from oracles.compare import compare
from oracles.plugin import find, parse
from oracles.pool import run
from oracles.records import Outcome, Verdict
from oracles.rewriting import compiled
from oracles.second import second_opinion
from oracles.variants import variants

SIZES = (1, 2, 3, 5, 8, 10, 14, 20, 30)
VALUES = ("wrong", "nonfinite", "imprecise", "mistyped")


def implementations(p: Prepared) -> Iterator[tuple[str, Callable[[Mapping[str, np.ndarray]], Outputs]]]:
    """Everybody who can run the case: as declared, every variant that has something to say, the real compilers."""
    yield "as-declared", compiled(p.case.model, lambda run, node, args: None)
    for v in variants().values():
        if v.policy != "winograd" and (not v.ops or v.ops & p.ops):
            yield v.name, compiled(p.case.model, v.at)


def real(p: Prepared) -> Iterator[tuple[str, Outputs]]:
    """Clean runs of ONNX Runtime without and with all optimisations, and of TVM, which takes seconds, on the smallest networks."""
    wanted = [w for w, few in (("onnxruntime:off+all", False), ("tvm:default", True)) if find(w.split(":")[0]).available() and (p.nodes < 3 or not few)]
    for o in run(p.case, parse(",".join(wanted))) if wanted else ():
        if o.status == "ok" and o.outputs is not None:
            yield f"{o.backend}-{o.setting}", o.outputs


def strict(name: str, p: Prepared) -> bool:
    """Whether this implementation keeps to the strict policy here: in halves torch's own formulas round at every step."""
    return name in variants() and variants()[name].policy == "strict" and (name.startswith("halves") or p.kind in ("float", "double", "integer"))


def accusations(p: Prepared, outputs: Outputs, strict: bool, seen: dict[str, set[Any]], counts: Counter[str]) -> Iterator[tuple[Verdict, Verdict]]:
    """Verdicts against one implementation, before and after the second opinion; `counts` gets what was judged."""
    for name, want in p.expected.items():
        got = outputs.get(name)
        counts["judged"] += 1
        if (key := (bits(got), strict)) in seen.setdefault(name, set()):
            continue
        seen[name].add(key)
        counts["independent"] += 1
        v = p.weigh(compare("legal", "", name, want, got))
        if strict:  # it may be called imprecise as well
            v = p.weigh.whole(p.weigh.strictly(v, got), want, got)
        counts["masked"] += v.masked > 0.5
        if v.verdict in VALUES:
            yield v, second_opinion(p.case.model, p.case.inputs, p.expected, v, Outcome("legal", "", "ok", outputs), p.weigh, ways=False)


@benchmark("noise", wrong_certified_per_50000=("<=", 1.0), wrong_likely_per_10000=("<=", 1.0))
def noise(scale: Scale) -> Figures:
    """Legal variants and clean runs, per output judged: networks of 1 to 30 nodes, all formats.

    certified  accused before any second opinion
    likely     accused of something likely that the second opinion did not take back
    independent  outputs whose bits differ from every other answer to the same question
    """
    counts, by_variant, by_kind = Counter[str](), Counter[str](), Counter[str]()
    for p in stream("noise", scale.count(1500, 40), SIZES):
        seen: dict[str, set[Any]] = {}
        counts["networks"] += 1
        runs = ((name, answer(call, p.case)) for name, call in implementations(p))
        for name, outputs in (*runs, *real(p)):
            if outputs is None:
                continue
            for before, after in accusations(p, outputs, strict(name, p), seen, counts):
                compiler = name.startswith(("onnxruntime", "tvm"))
                who = "compiler" if compiler else "variant"
                counts[f"{before.grade}_{who}"] += 1
                counts[f"{after.grade}_{who}_after"] += after.verdict in VALUES
                by_variant[name] += 1
                by_kind[p.kind] += 1
    table("accused", by_variant)
    table("formats", by_kind)
    n = max(1, counts["judged"])
    return {
        "networks": counts["networks"],
        "outputs_judged": counts["judged"],
        "outputs_independent": counts["independent"],
        "wrong_certified_per_50000": 5e4 * counts["certified_variant"] / n,
        "wrong_certified_after_second_opinion_per_50000": 5e4 * counts["certified_variant_after"] / n,
        "wrong_likely_before_second_opinion_per_10000": 1e4 * counts["likely_variant"] / n,
        "wrong_likely_per_10000": 1e4 * counts["likely_variant_after"] / n,
        "compiler_findings_to_look_at": counts["certified_compiler_after"] + counts["likely_compiler_after"],
    }
