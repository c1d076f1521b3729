"""The import direction: specs <- oracles <- corpus <- triage <- fuzzer; nothing imports to the right. `python -m tests.imports`"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOMS = ("specs", "oracles", "corpus", "triage", "fuzzer")
ROOT = Path(__file__).resolve().parent.parent
DOOR = ROOT / "fuzzer" / "cli" / "bench.py"  # the command that runs the benchmarks, which measure everything


def imported(path: Path) -> set[str]:
    """Top-level packages a file imports anywhere, inside functions too."""
    found = set[str]()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(a.name.split(".")[0] for a in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
    return found


def violations() -> list[str]:
    """One sentence for each import against the direction."""
    result = list[str]()
    for i, room in enumerate(ROOMS):
        later = {*ROOMS[i + 1 :], "tests", "benchmarks"}
        for path in sorted((ROOT / room).rglob("*.py")):
            result += [f"{path.relative_to(ROOT)} imports {name}, which lies after {room}" for name in sorted(imported(path) & later) if path != DOOR]
    return result


if __name__ == "__main__":
    found = violations()
    print("\n".join(found) or "imports follow specs <- oracles <- corpus <- triage <- fuzzer")
    sys.exit(bool(found))
