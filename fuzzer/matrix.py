"""The support matrix: which backend runs which operator on which formats, and rightly; measured with single-node models."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fuzzer.generate import generate_from
from fuzzer.grow import Menu, opsets
from fuzzer.menus import FOLDER, path
from fuzzer.sources import Seeded
from oracles.adjoint import weigher
from oracles.judge import judge_outcomes
from oracles.plugin import Target, find
from oracles.pool import run
from oracles.reference import reference
from specs.operator import Operator, operators
from specs.rule import Unsupported

ENOUGH = 6  # models of one operator and its formats: formats are what varies
#: How a model of one operator can end, best first. `failing`: an error, a crash or a hang, never an answer.
STATES = ("implemented", "wrong", "failing", "refused")


@dataclass
class Support:
    """Ends seen for one operator and its formats: {"implemented": 3, "refused": 1}, and the last message of each."""

    seen: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """Wrong once is wrong; implemented when it ever ran; what only failed or was only refused is that."""
        return next((s for s in ("wrong", "implemented", "failing") if self.seen[s]), "refused")

    @property
    def message(self) -> str:
        return self.messages.get(self.state, "")


def measure(
    backend: str,
    draws: int = 40,
    names: Iterable[str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
    timeout: float = 30.0,
    known: frozenset[str] = frozenset(),
) -> dict[str, Support]:
    """Run `draws` single-node models of every operator on a backend with optimisation off, by support key; not those that are `known`."""
    setting = find(backend).reference_setting or find(backend).default[0]
    matrix = dict[str, Support]()
    for op in sorted((o for o in operators().values() if o.draw is not None), key=lambda o: o.key):
        if names is not None and op.name not in names:
            continue
        progress(op.name)
        for seed in range(draws):
            _probe(op, seed, Target(backend, (setting,)), matrix, timeout, known)
    return matrix


def _probe(op: Operator, seed: int, target: Target, matrix: dict[str, Support], timeout: float, known: frozenset[str]) -> None:
    menu = Menu(names=frozenset([op.key]), opsets=opsets(op.since))
    made = generate_from(Seeded("matrix", op.name, seed), 1, menu, elements=512, check=False, wraps=False)
    keys = [s.key for s in made.network.steps if s.op == op.name]
    if len(keys) != 1 or keys[0] in known or not made.found.safe:
        return
    support = matrix.setdefault(keys[0], Support())
    if sum(support.seen.values()) >= ENOUGH:
        return
    outcomes = run(made.case, [target], timeout=timeout)
    try:
        verdicts = judge_outcomes(reference(made.program, made.case.inputs), outcomes, weigher(made.program, made.case.inputs))
    except Unsupported:
        return
    for outcome in outcomes:
        findings = [v for v in verdicts if v.is_finding]
        if outcome.status in ("unsupported", "missing"):
            end, message = "refused", outcome.message
        elif outcome.status != "ok":
            end, message = "failing", f"{outcome.status}: {outcome.message}"
        elif findings:
            end, message = "wrong", f"{findings[0].verdict}: {findings[0].message or f'got {findings[0].got}, expected {findings[0].expected}'}"
        else:
            end, message = "implemented", ""
        support.messages[end] = " ".join(message.split())[:160]
        support.seen[end] += 1


def save(backend: str, matrix: Mapping[str, Support]) -> None:
    """Write the list that steers generation, beside the backend; what was not drawn this time stays, if the version is the same."""
    by_state: dict[str, dict[str, str]] = {s: {} for s in STATES}
    if stored().get(backend) == find(backend).version():
        by_state = {s: {k: m for k, m in kept.items() if k not in matrix} for s, kept in measured(backend).items()}
    for key, support in sorted(matrix.items()):
        by_state[support.state][key] = support.message
    content = {
        "version": find(backend).version(),
        "unsupported": dict(sorted(by_state["refused"].items())),
        "failing": sorted(by_state["failing"]),
        "wrong": dict(sorted(by_state["wrong"].items())),
        "implemented": sorted(by_state["implemented"]),
    }
    path(backend).write_text(json.dumps(content, indent=1) + "\n")


def measured(backend: str) -> dict[str, dict[str, str]]:
    """What was saved last: state -> key -> message."""
    content = json.loads(path(backend).read_text())
    return {
        "implemented": dict.fromkeys(content.get("implemented", ()), ""),
        "wrong": content.get("wrong", {}),
        "failing": dict.fromkeys(content["failing"], ""),
        "refused": content["unsupported"],
    }


def known(backend: str) -> frozenset[str]:
    """What was measured with the version that is installed."""
    if stored().get(backend) != find(backend).version():
        return frozenset()
    return frozenset(key for keys in measured(backend).values() for key in keys)


def stored() -> dict[str, str]:
    """Backends with a saved matrix, and the version it was measured with."""
    files = sorted(FOLDER.glob("*.unsupported.json"))
    return {f.name.removesuffix(".unsupported.json"): str(json.loads(f.read_text()).get("version", "")) for f in files}


def rows(backends: Sequence[str]) -> list[dict[str, Any]]:
    """One object per operator and combination of types: its state on every backend, None where it was never measured."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for backend in backends:
        for state, keys in measured(backend).items():
            for key, message in keys.items():
                found.setdefault(key, {})[backend] = (state, message)
    return [_row(key, states, backends) for key, states in sorted(found.items())]


def _row(key: str, states: Mapping[str, tuple[str, str]], backends: Sequence[str]) -> dict[str, Any]:
    name, *types = key.split(" ")
    domain, _, op = name.rpartition(".")
    return {
        "op": op,
        "domain": domain,
        "types": dict(t.split("=") for t in types),
        "backends": {b: states[b][0] if b in states else None for b in backends},
        "messages": {b: states[b][1] for b in backends if b in states and states[b][1]},
    }


def lines(table: Sequence[Mapping[str, Any]], backends: Sequence[str]) -> Iterator[str]:
    """One line per operator: of how many combinations of types each backend implements how many."""
    by_operator: dict[str, list[Mapping[str, Any]]] = {}
    for row in table:
        by_operator.setdefault(f"{row['domain']}.{row['op']}" if row["domain"] else row["op"], []).append(row)
    width = max((len(n) for n in by_operator), default=0)
    for name, found in by_operator.items():
        yield f"{name:{width}}  " + "   ".join(f"{b} {_share([r['backends'][b] for r in found])}" for b in backends)


def _share(states: Sequence[str | None]) -> str:
    counts = Counter(s for s in states if s is not None)
    if not counts:
        return "-"
    others = " ".join(f"{n} {s}" for s, n in sorted(counts.items()) if s not in ("implemented", "refused"))
    return f"{counts['implemented']}/{sum(counts.values())}{f' ({others})' if others else ''}"


def html(table: Sequence[Mapping[str, Any]], versions: Mapping[str, str]) -> str:
    """One page that needs nothing else: operator x types x backend."""
    from fuzzer.pages import page

    return page("matrix.html", rows=table, versions=versions)
