"""A script of a finding where only the packages that it names can be imported: what its reader has, and no more."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

PACKAGES = {"torch": "torch", "numpy": "numpy", "onnx": "onnx", "onnxruntime": "onnxruntime", "apache-tvm": "apache-tvm"}
OURS = frozenset({"benchmarks", "corpus", "fuzzer", "oracles", "specs", "tests", "triage"})
_SITE = """\
import sys


class Clean:
    \"\"\"In place of all other finders: what belongs to other packages is not there.\"\"\"

    others, finders = {others!r}, list(sys.meta_path)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in self.others:
            return next((found for f in self.finders if (found := f.find_spec(name, path, target)) is not None), None)

    def invalidate_caches(self):
        for f in self.finders:
            getattr(f, "invalidate_caches", int)()


sys.meta_path[:] = [Clean()]
"""


def named(script: str) -> list[str]:
    """The packages that the script says it needs."""
    said = re.search(r"Needs ([^.]*)\.", script)
    return [p for p in re.findall(r"[\w-]+", said[1] if said else "") if p in PACKAGES]


def modules(packages: list[str]) -> frozenset[str]:
    """Top-level modules of these packages, of all they require, and of what setuptools carries with it."""
    wanted, todo = set[str](), list(packages)
    while todo:
        name = _plain(todo.pop())
        if name in wanted:
            continue
        wanted.add(name)
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        todo += [re.split(r"[\s;<>=!~\[(]", r, maxsplit=1)[0] for r in required if "extra ==" not in r]
    carried = {p.parts[-2] for p in metadata.files("setuptools") or () if "_vendor" in p.parts} if "setuptools" in wanted else set[str]()
    return frozenset(top for top, homes in metadata.packages_distributions().items() if any(_plain(h) in wanted for h in homes)) | carried


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def run_clean(script: Path, timeout: float = 300.0, without: str = "") -> subprocess.CompletedProcess[str]:
    """Run it with this interpreter, all other packages out of reach; `without`: this one, too. Raises TimeoutExpired."""
    packages = [p for p in named(script.read_text()) if p != without]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "sitecustomize.py").write_text(_SITE.format(others=OURS | metadata.packages_distributions().keys() - modules(packages)))
        environment = {**os.environ, "PYTHONPATH": folder, "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run([sys.executable, script.name], cwd=script.parent, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


def shows(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether the script found the defect: it ended with its own assertion, not with another error."""
    last = done.stderr.strip().splitlines()[-1:]
    return done.returncode == 1 and bool(last) and last[0].startswith("AssertionError: ")
