"""The documentation builds without a warning, asks nothing of other servers, and all its links lead somewhere."""

from __future__ import annotations

import re
import runpy
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

REPOSITORY = Path(__file__).parents[2]
# Attributes that make a browser fetch something as soon as a page is opened.
FETCHED = {
    "script": ("src",), "link": ("href",), "img": ("src", "srcset"), "iframe": ("src",), "source": ("src", "srcset"),
    "video": ("src", "poster"), "audio": ("src",), "object": ("data",), "embed": ("src",), "use": ("href",),
}  # fmt: skip
NOT_FETCHED = {"canonical", "prev", "next", "alternate"}  # relations of <link> that only name something


class Page(HTMLParser):
    """fetched: addresses that the page loads; links: where it leads; anchors: where one can come to."""

    def __init__(self, file: Path):
        super().__init__()
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = {""}
        self.text = file.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {name: value or "" for name, value in attrs}
        self.anchors |= {known[name] for name in ("id", "name") if name in known}
        if tag == "link" and set(known.get("rel", "").split()) & NOT_FETCHED:
            return
        self.fetched += [known[name] for name in FETCHED.get(tag, ()) if name in known]
        if tag == "a" and "href" in known:
            self.links.append(known["href"])


@pytest.fixture(scope="module")
def pages(build: tuple[Path, str]) -> dict[Path, Page]:
    files = set(build[0].rglob("*.html")) - {build[0] / "404.html"}  # its links start at the server's root
    return {file: Page(file) for file in sorted(files)}


def test_the_build_warns_of_nothing(build: tuple[Path, str]):
    assert not [line for line in build[1].splitlines() if re.match(r"\s*(WARNING|ERROR)", line)]


def test_every_page_of_the_folder_is_built_and_so_are_card_and_changelog(build: tuple[Path, str]):
    written = {path.relative_to(REPOSITORY / "docs") for path in (REPOSITORY / "docs").rglob("*.md")}
    expected = written | {
        Path(name) for name in ("model-card.md", "model-card-tiny.md", "changelog.md", "contributing.md")
    }
    assert {path.with_suffix(".html") for path in expected} <= {p.relative_to(build[0]) for p in build[0].rglob("*")}


def test_the_reference_has_the_docstrings_and_their_examples_as_code(build: tuple[Path, str]):
    page = (build[0] / "reference" / "processing.html").read_text(encoding="utf-8")
    for name in ("PixelLLMProcessor.__call__", "GroundedCaption.to_coco", "GroundedCaptioningPipeline.__call__"):
        assert re.search(rf'id="pixelllm_hf\.processing\.[\w.]*{re.escape(name)}"', page), name
    assert "on both sides of the model" in page
    assert '<span class="gp">' in page, "a prompt of an example"
    assert "<blockquote>" not in page


def test_parameters_stand_in_tables_with_types_and_defaults(build: tuple[Path, str]):
    page = (build[0] / "reference" / "publishing.html").read_text(encoding="utf-8")
    of_publish_model = page.partition('id="pixelllm_hf.publishing.repository.publish_model"')[2].partition("<h")[0]
    rows = [re.sub(r"<[^>]+>|\s+", " ", row).split() for row in re.findall(r"<tr.*?</tr>", of_publish_model, re.S)]
    assert ["Name", "Type", "Description", "Default"] in rows
    assert next(row for row in rows if row[0] == "rehearse")[1] == "bool"
    assert rows.index(next(r for r in rows if r[0] == "folder")) < rows.index(
        next(r for r in rows if r[0] == "rehearse")
    )
    without = [
        file.name for file in (build[0] / "reference").glob("*.html") if "Parameters:" not in file.read_text("utf-8")
    ]
    assert not without


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Writes it. b: the second; a: the first.", "Writes it.\n\nArgs:\n    a: the first.\n    b: the second"),
        (
            "Reads.\n\na, b: numbers,\nin pixels.",
            "Reads.\n\nArgs:\n    a: numbers, in pixels.\n    b: numbers, in pixels.",
        ),
        ("Reads.\n\nb: a number.", "Reads.\n\nArgs:\n    a: —\n    b: a number."),
        ("Reads a: what is there. c: not one of them.", "Reads a: what is there. c: not one of them."),
        ("Reads.\n\na: a file.\n\n>>> f(1)\n2", "Reads.\n\nArgs:\n    a: a file.\n    b: —\n\n>>> f(1)\n2"),
        ("Reads.\n\n    a: code stays", "Reads.\n\n    a: code stays"),
    ],
)
def test_prose_about_parameters_becomes_a_section_and_other_prose_stays(text, expected):
    assert (
        runpy.run_path(str(REPOSITORY / "docs/hooks/parameter_tables.py"))["with_section"](text, ["a", "b"]) == expected
    )


def test_every_public_name_is_in_the_reference(build: tuple[Path, str], pages: dict[Path, Page]):
    import pixelllm_hf
    from pixelllm_hf import publishing

    described = {
        anchor.rpartition(".")[2]
        for file, page in pages.items()
        if file.parent == build[0] / "reference"
        for anchor in page.anchors
        if anchor.startswith("pixelllm_hf.")
    }
    assert {*pixelllm_hf.__all__, *publishing.__all__} - {"__version__"} <= described


def test_pages_fetch_nothing_from_other_servers(pages: dict[Path, Page]):
    fetched = {f"{file.name}: {url}" for file, page in pages.items() for url in page.fetched if urlsplit(url).netloc}
    assert not fetched
    # the theme would fetch a library for such drawings
    assert not [file.name for file, page in pages.items() if 'class="mermaid"' in page.text]


def test_style_sheets_fetch_nothing_from_other_servers(build: tuple[Path, str]):
    for sheet in build[0].rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.findall(r"""(?:url\(\s*["']?|@import\s+["'])(?:https?:)?//""", text), sheet.name


def test_every_link_inside_leads_to_a_page_and_a_place_in_it(build: tuple[Path, str], pages: dict[Path, Page]):
    broken = []
    for file, page in pages.items():
        for link in [*page.links, *page.fetched]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = file if not parts.path else (file.parent / unquote(parts.path)).resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                broken.append(f"{file.relative_to(build[0])} -> {link}")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                broken.append(f"{file.relative_to(build[0])} -> {link} (no such place)")
    assert not broken


def test_no_place_of_the_machine_is_in_the_pages(pages: dict[Path, Page]):
    assert not [file.name for file, page in pages.items() if str(REPOSITORY) in page.text]
