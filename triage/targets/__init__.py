"""The projects a finding can be reported to: one file each, with its issue template filled in.

A template is a function from a report to Markdown, registered with what else its project asks for.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from specs.rule import UsageError
from triage.finding import Finding
from triage.report import title
from triage.sections import Report


@dataclass(frozen=True)
class Project:
    """One tracker.

    project   owner/name, or empty when there is no tracker and so no budget
    backends  those that are its own; () takes any
    labels    to be set on the issue
    title     of the issue, one sentence
    versions  what its own tool prints about an environment
    """

    name: str
    render: Callable[[Report], str]
    project: str
    backends: tuple[str, ...]
    labels: tuple[str, ...]
    title: Callable[[Finding], str]
    versions: Callable[[], str]


_projects: dict[str, Project] = {}


def project(
    name: str,
    *,
    project: str = "",
    backends: Sequence[str] = (),
    labels: Sequence[str] = (),
    title: Callable[[Finding], str] = title,
    versions: Callable[[], str] = lambda: "",
) -> Callable[[Callable[[Report], str]], Callable[[Report], str]]:
    """Register a template."""

    def decorate(render: Callable[[Report], str]) -> Callable[[Report], str]:
        _projects[name] = Project(name, render, project, tuple(backends), tuple(labels), title, versions)
        return render

    return decorate


def projects() -> dict[str, Project]:
    """All by name."""
    for module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
        importlib.import_module(f"triage.targets.{module}")
    return _projects


def choose(name: str, finding: Finding) -> Project:
    """The project that was asked for, or the one the backend belongs to. Raises UsageError."""
    known, backend = projects(), finding.verdict.backend
    if not name:
        return next((p for p in known.values() if backend in p.backends), known["generic"])
    if name not in known:
        raise UsageError(f"--target '{name}': there are {', '.join(known)}")
    if known[name].backends and backend not in known[name].backends:
        own = choose("", finding).name
        raise UsageError(f"--target {name}: {finding.name} is a finding of {backend}, which is not theirs; give --target {own}")
    return known[name]


def rendered(project: Project, report: Report) -> str:
    """The whole text: title and labels as comments, which a tracker does not show, then the body."""
    labels = f"<!-- labels: {', '.join(project.labels)} -->\n" if project.labels else ""
    banner = f"{report.banner}\n" if report.banner else ""
    return f"<!-- title: {project.title(report.finding)} -->\n{labels}{banner}{project.render(report).rstrip()}\n"
