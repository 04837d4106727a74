from __future__ import annotations

import re

from lpcc.targets import BUILTIN
from lpcc.targets.fit.catalogue import DOCS, catalogue


def test_the_page_is_up_to_date() -> None:
    page = (DOCS / "targets.md").read_text(encoding="utf-8")
    assert page == catalogue(), "run: python -m lpcc.targets.fit.catalogue"


def test_every_target_and_every_source_is_on_it() -> None:
    page = catalogue()
    for name in BUILTIN:
        assert f"\n## {name}\n" in page


def test_every_plot_is_shown_on_a_page() -> None:
    there = {path.name for path in (DOCS / "plots").glob("*")}
    pages = "".join(page.read_text() for page in DOCS.glob("*.md"))
    assert there == set(re.findall(r"\]\(plots/([^)]+)\)", pages))
    assert set(re.findall(r"\]\(plots/([^)]+)\)", catalogue())) <= there
