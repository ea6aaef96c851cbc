"""README, docs/, CONTRIBUTING and CHANGELOG: links, anchors and paths lead somewhere, and code blocks hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from condense.config.models import Hyperparameters
from search.space.model import Space

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FOLDERS = ("condense", "search", "docs", "spaces", "tests", "benchmarks", "clusters", "examples")


def _blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http:", "https:")):
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        assert not anchor or anchor in _anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_paths_exist(page: Path) -> None:
    named = re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`", page.read_text(encoding="utf-8"))
    assert not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_hold(page: Path) -> None:
    for block in _blocks(page, "python"):
        compile(block, page.name, "exec")
    for block in _blocks(page, "yaml"):
        content = yaml.safe_load(block)
        if isinstance(content, dict) and {"name", "tasks", "search"} <= set(content):
            Space.model_validate(content)


def test_each_message_of_the_faq_is_one_of_the_program() -> None:
    source = "".join(
        path.read_text(encoding="utf-8") for wing in ("condense", "search") for path in (ROOT / wing).rglob("*.py")
    )
    headings = re.findall(r"^### `(.+)`$", (ROOT / "docs" / "faq.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings
    assert not [heading for heading in headings if heading not in source]


def test_every_hyperparameter_is_explained() -> None:
    page = (ROOT / "docs" / "hyperparameters.md").read_text(encoding="utf-8")
    assert [name for name in Hyperparameters.model_fields if f"`{name}`" not in page] == []


def test_the_index_has_every_page() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {name for name in pages if f"({name})" not in index} == set()
