"""What every test shares: one thread, quiet warnings, a fixed Hypothesis profile, and `--draws`."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

DRAWS = 24  # models per operator in the self-check, unless told otherwise

torch.set_num_threads(1)
# The same examples every time: a red build has to be the change's fault. HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile("fixed", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
settings.register_profile("search", deadline=None, max_examples=500, print_blob=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--draws", type=int, default=int(os.environ.get("DRAWS", DRAWS)), help=f"models per operator in the self-check (default {DRAWS}, or DRAWS)"
    )


@pytest.fixture
def draws(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--draws")
