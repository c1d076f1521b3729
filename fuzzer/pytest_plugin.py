"""pytest replays stored cases: `pytest --fuzz-corpus fuzz-gate/corpus`, or `fuzz_corpus = corpus/seeds` in its configuration.

Every folder with a model.onnx and inputs.npz below is a test. A stored finding passes when it is fixed; any other case passes
when its backends (those of --fuzz-backends, else the kernel it was drawn for, else all installed compilers) are right.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SHOWN = 12  # lines of verdicts


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz", "replaying cases of fuzz")
    group.addoption("--fuzz-corpus", action="append", default=[], metavar="DIR", help="Collect every case folder below DIR as a test; may be repeated.")
    group.addoption("--fuzz-backends", default="", metavar="NAMES", help="What runs the cases, e.g. kernels:relu or onnxruntime:*.")
    parser.addini("fuzz_corpus", "Folders of cases that are collected when pytest is given no paths.", type="paths", default=[])
    parser.addini("fuzz_backends", "What runs the cases.", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Corpora are collected like folders named on the command line."""
    asked = [Path(d).resolve() for d in config.getoption("--fuzz-corpus") or ()]
    if missing := [d for d in asked if not d.is_dir()]:
        raise pytest.UsageError(f"--fuzz-corpus {missing[0]}: is no folder")
    usual = [d for d in config.getini("fuzz_corpus") if d.is_dir()]
    if config.args_source is not pytest.Config.ArgsSource.ARGS:
        asked += [d.resolve() for d in usual]
    config.stash[_CORPORA] = [*asked, *(d.resolve() for d in usual)]
    given = {Path(a.partition("::")[0]).resolve() for a in config.args}
    config.args += [str(d) for d in dict.fromkeys(asked) if not any(d == g or g in d.parents for g in given)]


_CORPORA = pytest.StashKey[list[Path]]()


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.name != "model.onnx" or not (file_path.parent / "inputs.npz").exists():
        return None
    corpora = parent.config.stash.get(_CORPORA, [])
    return CaseFile.from_parent(parent, path=file_path) if any(c in file_path.resolve().parents for c in corpora) else None


class CaseFile(pytest.File):
    """The model of a case folder, which holds one test."""

    def collect(self) -> Iterator[pytest.Item]:
        yield CaseItem.from_parent(self, name=self.path.parent.name)


class Misjudged(Exception):
    """A case failed; its words are lines for a reader."""


class CaseItem(pytest.Item):
    """One case, run again."""

    def runtest(self) -> None:
        folder = self.path.parent
        if (folder / "outcome.json").exists():
            self._finding(folder)
        else:
            self._case(folder)

    def _finding(self, folder: Path) -> None:
        from triage.replay import replay
        from triage.write import read_finding

        finding = read_finding(folder)
        result = replay(finding)
        if result.status == "STILL" and finding.known is not None:
            pytest.xfail(f"known: {finding.known.reference}")
        if result.status != "FIXED":
            raise Misjudged(f"{result.status} ({result.hits} of {result.repeats} runs): {finding.name}\n{result.now}\nfuzz replay {folder}")

    def _case(self, folder: Path) -> None:
        from fuzzer.checking import Request, check_path, summary_lines
        from oracles.plugin import installed, parse
        from oracles.records import FINDINGS

        told = self.config.getoption("--fuzz-backends") or self.config.getini("fuzz_backends")
        backends = told or _drawn_for(folder) or ",".join(installed())
        result = check_path(folder, Request(tuple(parse(backends))))
        verdicts: list[dict[str, Any]] = result["verdicts"]
        bad = [v for v in verdicts if v["verdict"] in FINDINGS]
        if bad:
            raise Misjudged("\n".join([*summary_lines(bad)[:SHOWN], f"fuzz check {folder} --backends '{backends}'"]))
        if not any(v["verdict"] in ("ok", "noise") for v in verdicts):
            pytest.skip(f"nothing that runs this case: {backends}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        return str(excinfo.value) if isinstance(excinfo.value, Misjudged) else super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, None, f"fuzz case {self.name}"


def _drawn_for(folder: Path) -> str:
    """The kernel that a case of a gate was aimed at."""
    try:
        about = json.loads((folder / "case.json").read_text())
    except (OSError, ValueError):
        return ""
    kernel = about.get("origin", {}).get("kernel", "") if isinstance(about, dict) else ""
    return f"kernels:{kernel}" if kernel else ""
