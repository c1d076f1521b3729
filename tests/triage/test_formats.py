"""Outputs for other programs, read back as they read them."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from oracles.kernel import kernels
from specs.rule import UsageError
from tests.triage.made import KNOWN, made
from triage.finding import Finding
from triage.formats import parse, write
from triage.sarif import FINGERPRINT

ABOUT = {"seed": 7, "cases": 1234, "seconds": 61.5, "versions": {"onnxruntime": "1.2.3", "tvm": "0.9"}, "tested": {"onnxruntime": 1200, "tvm": 34}}


def some() -> list[Finding]:
    """A known one, a new one, a flaky one, and one with text that XML, HTML and Markdown have to escape."""
    odd = made(verdict="broken", v_message="Fail: <b> & ]]> \x00 | `x`\ufffe")
    return [made(known=KNOWN), made(verdict="crash"), made(verdict="nonfinite", reproduced=1), odd]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    files = write(some(), tmp_path / "report", ["html", "md", "junit", "sarif", "json"], ABOUT)
    assert [f.name for f in files] == ["report.html", "report.md", "junit.xml", "report.sarif", "report.json"] and all(f.exists() for f in files)
    return tmp_path / "report"


def test_junit_has_a_test_case_a_cause(written: Path) -> None:
    root = ET.fromstring((written / "junit.xml").read_bytes())
    suite = root.find("testsuite")
    assert root.tag == "testsuites" and suite is not None
    cases = suite.findall("testcase")
    failed, skipped = [c for c in cases if c.find("failure") is not None], [c for c in cases if c.find("skipped") is not None]
    assert [len(cases), len(failed), len(skipped)] == [5, 2, 2] == [int(suite.attrib[k]) for k in ("tests", "failures", "skipped")]
    assert {c.find("failure").attrib["type"] for c in failed} == {"crash", "broken"}  # type: ignore[union-attr]
    assert [s.find("skipped").attrib["message"] for s in skipped] == ["flaky: 1 of 3 runs showed it", "known: https://example.org/issues/7"]  # type: ignore[union-attr]
    (clean,) = [c for c in cases if c not in failed and c not in skipped]
    assert clean.attrib["classname"] == "fuzz.tvm", "a backend without findings is a test that passed"
    assert not any("1.2.3" in c.attrib["name"] for c in cases), "names stay the same in the next release"
    assert "<b> & ]]>" in "".join(suite.itertext())


def test_junit_of_nothing_still_has_tests(tmp_path: Path) -> None:
    write([], tmp_path / "report", ["junit"], ABOUT)
    suite = ET.fromstring((tmp_path / "report" / "junit.xml").read_bytes()).find("testsuite")
    assert suite is not None and [c.attrib["classname"] for c in suite.findall("testcase")] == ["fuzz.onnxruntime", "fuzz.tvm"]


def test_sarif_is_what_code_scanning_reads(written: Path) -> None:
    log = json.loads((written / "report.sarif").read_text())
    assert log["version"] == "2.1.0" and "sarif-2.1.0" in log["$schema"]
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert len({r["id"] for r in rules}) == len(rules) == 4 and all(r["shortDescription"]["text"] and r["fullDescription"]["text"] for r in rules)
    assert all(re.fullmatch(r"[A-Z][A-Za-z]+", r["name"]) for r in rules)
    results = run["results"]
    assert len(results) == 4 and all(rules[r["ruleIndex"]]["id"] == r["ruleId"] for r in results)
    assert sorted(r["level"] for r in results) == ["error", "error", "note", "warning"]
    assert [r["suppressions"][0]["kind"] for r in results if "suppressions" in r] == ["external"]
    for r in results:
        place = r["locations"][0]["physicalLocation"]["artifactLocation"]
        assert place["uriBaseId"] in run["originalUriBaseIds"] and place["uri"] == f"findings/{r['properties']['finding']}/model.onnx"
        assert r["message"]["text"].startswith("[Bug]")
    assert all(b["uri"].startswith("file:///") and b["uri"].endswith("/") for b in run["originalUriBaseIds"].values())
    assert len({r["partialFingerprints"][FINGERPRINT] for r in results}) == 4


def test_fingerprints_are_of_the_cause_alone(tmp_path: Path) -> None:
    """The same cause found again, with another case and version, is the same alert."""
    again = replace(made(environment={"onnxruntime": "9.9"}, count=77), given_key="0123456789abcdef")
    prints = []
    for i, finding in enumerate((made(), again)):
        write([finding], tmp_path / str(i), ["sarif"])
        prints.append(json.loads((tmp_path / str(i) / "report.sarif").read_text())["runs"][0]["results"][0]["partialFingerprints"])
    assert prints[0] == prints[1] == {FINGERPRINT: made().cause.key}


def test_a_kernel_is_located_in_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(k.name for k in kernels().values() if k.source is not None)
    source = kernels()[name].source
    assert source is not None
    base = made()
    finding = replace(base, verdict=replace(base.verdict, backend="kernels", setting=f"{name}!zero"), cause=replace(base.cause, backend="kernels"))
    monkeypatch.chdir(source.parents[1])
    write([finding], tmp_path, ["sarif"])
    (result,) = json.loads((tmp_path / "report.sarif").read_text())["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": f"{source.parent.name}/{source.name}", "uriBaseId": "SRCROOT"} and place["region"]["startLine"] == 1


def test_json_has_everything(written: Path) -> None:
    content = json.loads((written / "report.json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    assert content["run"]["seed"] == 7 and len(content["findings"]) == 4
    assert [f["status"] for f in content["findings"]] == ["new", "new", "flaky", "known"], "what is new comes first"
    first = content["findings"][0]
    assert {"name", "folder", "claim", "title", "key", "cause", "verdict", "verdicts", "blame", "environment", "reproduced"} <= set(first)


def test_markdown(written: Path, snapshot: SnapshotAssertion) -> None:
    assert (written / "report.md").read_text() == snapshot


class Page(HTMLParser):
    """Sections, and everything that a page may load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)
        if tag == "section":
            self.sections.append(given["id"] or "")
        if tag in ("script", "link", "img", "iframe") or "src" in given:
            self.loads.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_else(written: Path) -> None:
    page, text = Page(), (written / "report.html").read_text()
    page.feed(text)
    assert page.open == [] and page.loads == [] and "@import" not in text and "url(" not in text
    assert page.sections == [f["name"] for f in json.loads((written / "report.json").read_text())["findings"]]
    assert "&lt;b&gt; &amp; ]]&gt;" in text and "<b>" not in text and "https://example.org/issues/7" in text


def test_kinds_are_checked() -> None:
    assert parse("md, junit,md") == ["md", "junit"]
    with pytest.raises(UsageError, match="choose among html, md, junit, sarif, json"):
        parse("html,pdf")
