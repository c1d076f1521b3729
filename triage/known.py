"""Public issues we would only repeat: a match is counted, and reported with its link, never as new."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnx.helper

from specs.rule import UsageError
from triage.cause import Cause, Model

FOLDER = Path(__file__).parent / "known"


@dataclass(frozen=True)
class Known:
    """One public defect and how to recognise it. An empty field matches everything.

    operators  a chain of operators in which each reads the one before it; ["Relu", "Clip"]. "*" stands for any operator
    attributes "name=value", or "name~regular expression", which a node of the first of these operators must have; "name=" is one left out
    formats    classes of formats as in Cause: half, float, double, int ...
    versions   "<1.22", ">=1.10,<2", of the backend
    message    regular expression, searched in the backend's own words
    stage      as in Cause: "later run" for what shows only once the same compiled model has run on other inputs
    guilty     passes of which one has to be blamed; where nothing was blamed, the rest decides
    status     open, closed, fixed
    """

    name: str
    backend: str
    title: str
    references: tuple[str, ...]
    status: str = "open"
    verdicts: tuple[str, ...] = ()
    operators: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()
    formats: tuple[str, ...] = ()
    versions: str = ""
    message: str = ""
    fixed_in: str = ""
    guilty: tuple[str, ...] = ()
    stage: str = ""

    @property
    def reference(self) -> str:
        """The link to give: the newest report."""
        return self.references[0]

    def matches(self, cause: Cause, model: bytes, message: str, version: str = "") -> bool:
        """Whether a finding is this issue."""
        return (
            cause.backend == self.backend
            and (not self.verdicts or cause.verdict in self.verdicts)
            and (not self.formats or not cause.dtype or cause.dtype in self.formats)
            and (not self.stage or self.stage == cause.stage)
            and (not self.versions or not version or in_range(version, self.versions))
            and (not self.guilty or not cause.guilty or bool(set(self.guilty) & set(cause.guilty)))
            and (not self.message or re.search(self.message, message) is not None)
            and (not self.operators or self._in_model(Model(model)))
        )

    def _in_model(self, model: Model) -> bool:
        def has(node: onnx.NodeProto) -> bool:
            given = {a.name: str(onnx.helper.get_attribute_value(a)) for a in node.attribute}
            return all(_fits(given.get(name, ""), sign, value) for name, sign, value in map(_condition, self.attributes))

        return has_chain(model, self.operators) and any(n.op_type == self.operators[0] and has(n) for n in model.nodes)


def _condition(text: str) -> tuple[str, str, str]:
    """ "to=18" as ("to", "=", "18")."""
    found = re.fullmatch(r"(\w+)([=~])(.*)", text)
    if not found:
        raise UsageError(f'attribute "{text}": write "name=value" or "name~regular expression"')
    return found[1], found[2], found[3]


def _fits(given: str, sign: str, value: str) -> bool:
    return given == value if sign == "=" else re.search(value, given) is not None


def has_chain(model: Model, operators: Sequence[str]) -> bool:
    """True when nodes of these types follow each other, each reading an output of the one before."""

    def follows(name: str, rest: Sequence[str]) -> bool:
        if not rest:
            return True
        users = [n for n in model.nodes if name in n.input and rest[0] in ("*", n.op_type)]
        return any(follows(o, rest[1:]) for n in users for o in n.output if o)

    starts = [n for n in model.nodes if operators[0] in ("*", n.op_type)]
    return any(follows(o, operators[1:]) for n in starts for o in n.output if o)


def in_range(version: str, ranges: str) -> bool:
    """Whether "1.31.1" is in ">=1.10,<2". Anything after the numbers ("+cpu", ".dev3") is not looked at."""
    have = _numbers(version)
    for part in ranges.split(","):
        found = re.fullmatch(r"\s*(<=|>=|<|>|==)\s*([\d.]+)\s*", part)
        if not found:
            raise UsageError(f"version range '{ranges}': write for example \">=1.10,<2\"")
        want = _numbers(found[2])
        width = max(len(have), len(want))
        a, b = have + (0,) * (width - len(have)), want + (0,) * (width - len(want))
        if not {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b, "==": a == b}[found[1]]:
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(n) for n in found[0].split(".")) if found else ()


def newer(version: str, other: str) -> bool:
    """Whether 1.32.0 is newer than 1.31.1; False when one of the two is not a number."""
    a, b = _numbers(version), _numbers(other)
    return bool(a and b) and a > b


def load(folder: Path) -> list[Known]:
    """The issues in a folder of .toml files. Raises UsageError for one that cannot be used, rather than matching too much."""
    known = list[Known]()
    for path in sorted(folder.glob("*.toml")):
        try:
            issues = tomllib.loads(path.read_text())
        except tomllib.TOMLDecodeError as e:
            raise UsageError(f"{path}: {e}") from None
        for name, fields in issues.items():
            try:
                values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
                entry = Known(name, **values)
                re.compile(entry.message)
                in_range("0", entry.versions or ">=0")
                for a in entry.attributes:
                    re.compile(_condition(a)[2])
                if entry.attributes and not entry.operators:
                    raise UsageError("attributes are those of the first of the operators: name it")
            except (TypeError, re.error, UsageError) as e:
                raise UsageError(f"{path}: [{name}]: {e}") from None
            if not entry.references or not (entry.message or entry.operators):
                raise UsageError(f"{path}: [{name}]: needs references, and a message or operators to recognise it by")
            known.append(entry)
    return known


@cache
def catalogue() -> tuple[Known, ...]:
    """The issues that ship with us."""
    return tuple(load(FOLDER))


def match(cause: Cause, model: bytes, message: str, version: str = "", among: Sequence[Known] | None = None) -> Known | None:
    """The known issue a finding belongs to."""
    return next((k for k in (catalogue() if among is None else among) if k.matches(cause, model, message, version)), None)
