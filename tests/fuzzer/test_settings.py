"""What a user may write for budgets, sizes, workers and operators, and the sentence for everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzzer.settings import Budget, clock, lanes, parse_budget, parse_bytes, parse_seconds, select
from specs.rule import UsageError

KNOWN: dict[tuple[str, str], object] = {("", n): n for n in ("Conv", "ConvTranspose", "Relu", "LeakyRelu", "Slice", "MaxPool")} | {
    ("com.microsoft", "FusedConv"): 0
}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("90", 90), ("2m", 120), ("1h", 3600), ("1h30m", 5400), ("1.5h", 5400), ("1d", 86400), ("1m30s", 90), (" 2m ", 120), ("0.5s", 0.5)],
)
def test_times(text: str, seconds: float) -> None:
    assert parse_budget(text) == Budget(seconds=seconds)


@pytest.mark.parametrize(("text", "cases"), [("500cases", 500), ("1case", 1), ("20 cases", 20)])
def test_numbers_of_cases(text: str, cases: int) -> None:
    assert parse_budget(text) == Budget(cases=cases)


@pytest.mark.parametrize("text", ["", "soon", "0s", "-1m", "5x", "m", "1m1h", "1e3", "h1", "5 bananas", "0"])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"--budget '.*': give a time \(90s, 2m, 1h\) or a number of cases \(500cases\)"):
        parse_budget(text)


@given(st.text(max_size=12))
def test_a_budget_is_positive_or_refused(text: str) -> None:
    try:
        budget = parse_budget(text)
    except UsageError:
        return
    assert (budget.seconds is None) != (budget.cases is None)
    assert budget.cases is not None or (budget.seconds or 0) > 0


@given(st.integers(1, 10**7))
def test_a_budget_prints_as_the_user_thinks_of_it(n: int) -> None:
    assert str(Budget(cases=n)) == f"{n} cases"
    h, m, s = str(Budget(seconds=n)).split(":")
    assert int(h) * 3600 + int(m) * 60 + int(s) == n and clock(n + 0.9) == clock(n)


@pytest.mark.parametrize(("text", "n"), [("4G", 4 << 30), ("800M", 800 << 20), ("1.5g", 3 << 29), ("64K", 64 << 10), ("2GiB", 2 << 30), ("2GB", 2 << 30)])
def test_sizes(text: str, n: int) -> None:
    assert parse_bytes(text) == n


@pytest.mark.parametrize("text", ["", "4", "G", "4T", "-1G", "four"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"--memory '.*': give a size such as 4G or 800M"):
        parse_bytes(text)


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("2m", 120), ("30", 30), ("0.5", 0.5)])
def test_limits(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "never", "0s", "5cases", "1h30m"])
def test_limits_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        parse_seconds(text)


def test_workers() -> None:
    assert lanes("auto") >= 1 and lanes("3") == 3
    for text in ("0", "257", "-1", "many", "1.5", ""):
        with pytest.raises(UsageError, match=r"--workers '.*': give a number from 1 to 256, or auto"):
            lanes(text)


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ("conv*", {"Conv", "ConvTranspose"}),
        ("*conv", {"Conv", "FusedConv"}),
        ("CONV,relu", {"Conv", "Relu"}),
        ("*relu,!leaky*", {"Relu"}),
        ("!conv*,!fused*", {"Relu", "LeakyRelu", "Slice", "MaxPool"}),
        (" conv , relu ,", {"Conv", "Relu"}),
        ("?elu", {"Relu"}),
    ],
)
def test_selections(patterns: str, names: set[str]) -> None:
    found = select(patterns, KNOWN)
    assert found is not None and {n for _, n in found} == names


def test_no_selection_is_everything() -> None:
    assert select("", KNOWN) is None and select(None, KNOWN) is None


@pytest.mark.parametrize(
    ("patterns", "sentence"),
    [
        ("Convolve", r"--specs 'Convolve' matches no operator \(did you mean Conv\?\); `fuzz specs` lists them"),
        ("conv,xyzzy*", r"--specs 'xyzzy\*' matches no operator; `fuzz specs` lists them"),
        ("conv,!nothing_such", "--specs 'nothing_such' matches no operator"),
        ("conv,!conv*", r"--specs 'conv,!conv\*' leaves no operator"),
    ],
)
def test_selections_of_nothing(patterns: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        select(patterns, KNOWN)
