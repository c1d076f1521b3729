"""Detection: the share of visible seeded faults that are flagged, by severity and format, beside the rules of others."""

from __future__ import annotations

from collections import Counter

from benchmarks import Figures, Scale, benchmark
from benchmarks.cases import table
from benchmarks.seeded import flagged, peers, strict, visible
from oracles.faults import faults

STRENGTHS = ("2^-11", "2^-14", "2^-17")
WIDE = ("float", "double", "integer")


@benchmark(
    "detection",
    share_gross_fp32=(">=", 0.995),
    share_subtle_fp32=(">=", 0.97),
    share_precision_2_11_fp32=(">=", 0.95),
    share_precision_2_14_fp32=(">=", 0.90),
    share_precision_2_17_fp32=(">=", 0.80),
    share_gross_fp16=(">=", 0.97),
    share_subtle_fp16=(">=", 0.92),
    share_precision_fp16=(">=", 0.40),
)
def detection(scale: Scale) -> Figures:
    """Seeded faults in networks of 1 to 10 nodes around the operator that has the fault.

    fp32   networks whose narrowest float is float32 or double, and those of integers; fp16: with float16 or bfloat16
    certified  by a certified finding; without the word, by any. The rules of others are asked where the first run is wrong
    """
    names = [n for n, f in faults().items() if f.severity != "legal"]
    seen, hit, sure, missed = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    rules, asked = Counter[str](), Counter[str]()
    found = set[str]()
    for s in visible(names, scale.count(12, 1), scale.count(36, 3)):
        verdicts, kind = s.verdicts(), "fp32" if s.p.kind in WIDE else "fp16" if s.p.kind in ("float16", "bfloat16") else "fp8"
        yes, keys = flagged(verdicts), [f"{s.fault.severity}_{kind}"]
        keys += [f"precision_{p.replace('^-', '_')}_{kind}" for p in STRENGTHS if s.fault.kind in ("relative", "biased") and f"-{p}:" in s.fault.name]
        for key in keys:
            seen[key] += 1
            hit[key] += yes
            sure[key] += strict(verdicts)
        for rule, said in ({} if s.late else peers(s.p, s.outputs, s.healthy)).items():
            rules[f"{s.fault.severity}_{kind} by {rule}"] += said
            asked[f"{s.fault.severity}_{kind} by {rule}"] += 1
        (found.add(s.fault.name) if yes else missed.update([s.fault.name]))
    table("missed", missed, 20)
    figures: Figures = {"faults": len(names), "faults_seen": len(found | set(missed)), "faults_found": len(found)}
    for key in sorted(seen):
        figures[f"cases_{key}"] = seen[key]
        figures[f"share_{key}"] = hit[key] / seen[key]
        figures[f"share_certified_{key}"] = sure[key] / seen[key]
    for key in sorted(rules):
        severity, rule = key.split(" by ")
        figures[f"share_{severity} {rule}"] = rules[key] / asked[key]
    return figures
