"""The skeleton of a help page has what the written pages have: a row for each input and output, and their headings."""

from __future__ import annotations

import re

import pytest
from attention_patchbay.headless.engine.catalog import catalog
from attention_patchbay.tools.help_page import DOCS, help_page

NODES = sorted(path.stem for path in DOCS.glob("*.md"))


@pytest.mark.parametrize("node", NODES)
def test_it_names_what_the_page_names(node: str) -> None:
    info, page = catalog()[node].GET_NODE_INFO_V1(), (DOCS / f"{node}.md").read_text()
    skeleton = help_page(info)
    inputs = [*info["input"]["required"], *info["input"].get("optional", {}), *info["output_name"]]
    for text in (skeleton, page):
        assert text.startswith(f"# {info['display_name']}\n")
        assert [name for name in inputs if f"\n- `{name}`: " not in text] == []
        assert re.findall(r"^## \w+", text, re.MULTILINE)[0] in ("## Inputs", "## Outputs")


def test_a_row_has_type_default_and_range() -> None:
    rows = help_page(catalog()["PatchbayStyleAligned"].GET_NODE_INFO_V1()).splitlines()
    tips = [row.rpartition(" *")[2] for row in rows if row.startswith(("- `adain`", "- `strength`", "- `blocks`"))]
    sparse = help_page(catalog()["PatchbaySparseAttention"].GET_NODE_INFO_V1())
    assert ranges(sparse)["scale"] == "any; the widget offers -10 to 10"  # 20 is no error
    assert tips == ["yes or no; default yes*", "number: 0 to 1; default 1*", "text: a block address; default `all`*"]


@pytest.mark.parametrize("node", NODES)
def test_the_page_says_where_a_number_may_leave_the_range_of_its_widget(node: str) -> None:
    given, page = help_page(catalog()[node].GET_NODE_INFO_V1()), (DOCS / f"{node}.md").read_text()
    free = [name for name, limits in ranges(given).items() if re.match("any;|.*, or more$", limits)]
    assert [name for name in free if not re.search("the widget offers|, or more$", ranges(page)[name])] == []


@pytest.mark.parametrize("node", NODES)
def test_the_page_fits_a_narrow_panel(node: str) -> None:
    """The panel of the page is 282 pixels wide; what is in a table, or has no place to break, is cut off there."""
    page = (DOCS / f"{node}.md").read_text()
    assert [line for line in page.splitlines() if line.lstrip().startswith("|")] == []
    told = re.sub(r"```.*?```", "", page, flags=re.DOTALL)  # blocks of code scroll by themselves
    words = re.split(r"[\s/]+", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", told))
    assert [word for word in words if len(word) > 35] == []


def ranges(text: str) -> dict[str, str]:
    told = re.findall(r"^- `(\w+)`: .* \*[\w ]+(?:: (.*?))?(?:; default .*)?\*$", text, re.MULTILINE)
    return dict(told)
