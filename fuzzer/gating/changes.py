"""What changed: the files a kernel is made of, an earlier state of the repository beside this one, and the seed of a commit."""

from __future__ import annotations

import ast
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from oracles.before import moved
from oracles.kernel import Kernel
from oracles.native import sources
from specs.rule import UsageError


@dataclass(frozen=True)
class Before:
    """An earlier state of a repository. `folder`: a copy of its files; `root`: the repository; `commit` and the name it was asked for by."""

    folder: Path
    root: Path
    commit: str
    name: str

    def __str__(self) -> str:
        return self.commit[:10] if self.commit.startswith(self.name) else f"{self.commit[:10]} ({self.name})"


def files(kernel: Kernel) -> set[Path]:
    """Declaration, sources with what they include, library, and for Python the modules of the same project that it imports."""
    declared = Path(kernel.location[0])
    found = {declared} if declared.is_file() else set[Path]()
    if kernel.source is not None and kernel.source.is_file():
        found.update(map(Path, sources(kernel.source)))
    if kernel.library is not None and kernel.library.is_file():
        found.add(kernel.library)
    if not kernel.shipped and declared.is_file():
        found |= _imported(declared)
    return {f.resolve() for f in found}


def _imported(file: Path) -> set[Path]:
    """Modules that a file imports, directly or not, from its own folder or from the working directory."""
    found, todo = set[Path](), [file]
    while todo:
        path = todo.pop()
        try:
            tree = ast.parse(path.read_text())
        except (OSError, SyntaxError, ValueError):
            continue
        for name in _names(tree):
            for root in (path.parent, Path.cwd(), *path.parents[1:3]):
                parts = root.joinpath(*name.split("."))
                near = next((p for p in (parts.with_suffix(".py"), parts / "__init__.py") if p.is_file()), None)
                if near is not None and near not in found and Path(sys.prefix) not in near.parents:
                    found.add(near)
                    todo.append(near)
                    break
    return found


def _names(tree: ast.AST) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            yield from [base, *(f"{base}.{a.name}".lstrip(".") for a in node.names)] if base else [a.name for a in node.names]


def differing(kernels: Mapping[str, Kernel], base: Before) -> dict[str, list[Path]]:
    """Kernels of which a file is not what it was, each with those files."""
    found = dict[str, list[Path]]()
    for name, kernel in kernels.items():
        changed = sorted(f for f in files(kernel) if not _same(f, moved(f, base.folder, base.root)))
        if changed or kernel.problem:
            found[name] = changed
    return found


def _same(now: Path, then: Path) -> bool:
    return then.is_file() and now.read_bytes() == then.read_bytes()


def touched(kernels: Mapping[str, Kernel], paths: Sequence[Path]) -> dict[str, list[Path]]:
    """Kernels that are made of one of these files, or of files in one of these folders."""
    wanted = [p.resolve() for p in paths]
    found = {name: sorted(f for f in files(k) if any(f == p or p in f.parents for p in wanted)) for name, k in kernels.items()}
    return {name: f for name, f in found.items() if f}


# git --------------------------------------------------------------------------------------------------------------------
def git(*arguments: str, at: Path | None = None) -> str | None:
    """What git says; None where it has nothing to say: no git, no repository, no such commit."""
    if shutil.which("git") is None:
        return None
    done = subprocess.run(["git", *arguments], cwd=at, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def earlier(ref: str) -> Before:
    """The files of the repository where `ref` and HEAD parted, copied to a temporary folder: the repository itself is left alone.

    Raises UsageError without a repository or for a commit it does not have.
    """
    root = git("rev-parse", "--show-toplevel")
    if root is None:
        raise UsageError(f"--base '{ref}': {Path.cwd()} is in no git repository")
    commit = git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
    if commit is None:
        raise UsageError(f"--base '{ref}': git knows no such commit here; in CI, fetch it first (git fetch --depth 1 origin {ref})")
    commit = git("merge-base", commit, "HEAD") or commit
    folder = Path(tempfile.mkdtemp(prefix="fuzz-base-"))
    with tempfile.TemporaryFile() as packed:
        done = subprocess.run(["git", "archive", "--format=tar", commit], cwd=root, stdout=packed, stderr=subprocess.PIPE, check=False)
        if done.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            raise UsageError(f"--base '{ref}': git archive: {done.stderr.decode(errors='replace').strip()}")
        packed.seek(0)
        with tarfile.open(fileobj=packed) as archive:
            archive.extractall(folder, filter="data")
    return Before(folder.resolve(), Path(root).resolve(), commit, ref)


def discard(base: Before) -> None:
    """Remove the copy."""
    shutil.rmtree(base.folder, ignore_errors=True)


def head() -> str:
    """The commit that is tested, with a + when files differ from it; empty outside of a repository."""
    commit = git("rev-parse", "HEAD")
    return "" if commit is None else commit[:10] + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")


def seed(kernels: Mapping[str, Kernel]) -> int:
    """Of the commit; outside of a repository, of the kernels' files."""
    commit = git("rev-parse", "HEAD")
    told = [commit] if commit else [hashlib.blake2b(f.read_bytes()).hexdigest() for k in kernels.values() for f in sorted(files(k))]
    return int.from_bytes(hashlib.blake2b("".join(told).encode(), digest_size=4).digest(), "big") % 10**9
