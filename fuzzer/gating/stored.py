"""Cases that are run again before fresh ones: regression seeds, known findings, and what earlier gates kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from corpus.folders import stored_case, write_case
from fuzzer.gating.aim import applies
from fuzzer.gating.asking import Question
from oracles.kernel import Kernel
from oracles.records import Case
from oracles.substitution import operators
from specs.rule import Unsupported, UsageError

KEPT = 48  # cases kept for one kernel


def folders(places: Sequence[Path]) -> list[Path]:
    """Case folders in these places, at any depth, each once; the original of a reduced finding counts too."""
    found = {p.parent for place in places if place.is_dir() for p in place.rglob("model.onnx")}
    return sorted(f for f in found if (f / "inputs.npz").is_file() and not any(part.startswith(".") for part in f.parts[-2:]))


def replayed(places: Sequence[Path], kernels: Mapping[str, Kernel]) -> Iterator[Question]:
    """A question for every stored case and every kernel that is at work in it. What cannot be read any more is passed over."""
    seen = set[tuple[str, str]]()
    for folder in folders(places):
        try:
            case = stored_case(folder)
            present = operators(case.model)
            for name, kernel in kernels.items():
                if (name, case.id) in seen or not any(kernel.implements_node(*p) for p in present) or not applies(kernel, case):
                    continue
                seen.add((name, case.id))
                yield Question.of(name, Case(case.model, case.inputs, {**case.origin, "replayed": folder.name}), fresh=False)
        except (UsageError, Unsupported):
            continue


class Keeping:
    """Keeps cases that show something new of a kernel, so that the next gate begins with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = dict[str, int]()

    def __call__(self, question: Question) -> None:
        place = self.folder / question.kernel
        if question.kernel not in self._count:
            self._count[question.kernel] = len(folders([place]))
        target = place / question.case.id
        if self._count[question.kernel] < KEPT and not target.exists():
            self._count[question.kernel] += 1
            write_case(target, question.case)
