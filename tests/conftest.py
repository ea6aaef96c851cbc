"""What holds in every test: no deadline for hypothesis (machines are shared), and no test in the user's cache."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("condense", deadline=None)
settings.load_profile("condense")


LONGEST = (
    "test_ray_submit.py",
    "test_resume.py",
    "test_examples.py",
)  # files that would else run on when all others are done


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))  # several searches, on a machine that does something else as well


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Datasets and encoders of this session in a folder of its own, which pytest-xdist's processes share, unless
    $CONDENSE_CACHE names another."""
    if os.environ.get("CONDENSE_CACHE"):
        yield
        return
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["CONDENSE_CACHE"] = str(shared / "shared-cache")
    yield
    del os.environ["CONDENSE_CACHE"]
