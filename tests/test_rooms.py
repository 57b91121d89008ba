"""The imports of the package are those that docs/architecture.md allows, and what docstrings cite is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pixelllm_hf

ROOT = Path(__file__).parents[1]
PACKAGE = Path(pixelllm_hf.__file__).parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def rooms_in_the_table() -> dict[str, set[str]]:
    """Room -> rooms that it may import, as the page says."""
    table: dict[str, set[str]] = {}
    for names, may in re.findall(r"^\| ((?:`\w+/`(?:, )?)+) \|.*\| ([^|]*) \|$", PAGE, re.MULTILINE):
        rooms = re.findall(r"`(\w+)/`", names)
        allowed = set(table) if may == "all of these" else set(re.findall(r"\w+", may)) & ({*table, *ROOMS} - {"of"})
        table |= {room: allowed | set(rooms) for room in rooms}
    return table


ROOMS = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}


def imports(path: Path) -> Iterator[str]:
    """What a file of the package imports of it, by absolute names, wherever in the file."""
    here = ("pixelllm_hf", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) + 1 - node.level] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def rooms_of(name: str) -> set[str]:
    """The rooms that an imported name comes from; of the package's own names those that they lie in."""
    parts = name.split(".")
    if parts[0] != "pixelllm_hf" or len(parts) < 2:
        return set()
    if parts[1] in ROOMS:
        return {parts[1]}
    home = pixelllm_hf._HOMES.get(parts[1], "").lstrip(".")  # names that the package gives when first used
    return {home.split(".")[0]} & ROOMS


def files_of(room: str) -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py"))


def test_every_room_is_in_the_table():
    assert set(rooms_in_the_table()) >= ROOMS


def test_rooms_import_what_the_table_allows_and_nothing_else():
    table = rooms_in_the_table()
    assert table["data"] == {"data", "processing"} and table["modeling"] == {"modeling"}  # the table was read
    wrong = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for room in ROOMS
        for path in files_of(room)
        for name in imports(path)
        if not rooms_of(name) <= table[room]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_two_flat_rooms_import_nothing_else_of_the_package():
    for room in ("modeling", "processing"):
        for path in files_of(room):
            beyond = [name for name in imports(path) if name.startswith("pixelllm_hf.") and room not in name.split(".")]
            assert not beyond, f"{path.name} imports {beyond}"


def test_files_that_all_rooms_use_use_none_of_them():
    ground = re.search(r"and (`extras`.*?) use none of the rooms", PAGE, re.DOTALL)
    assert ground
    for name in re.findall(r"`(\w+)`", ground[1]):
        assert not [one for one in imports(PACKAGE / f"{name}.py") if rooms_of(one)], name


def test_the_ignored_label_of_batches_is_the_one_of_the_losses():
    from pixelllm_hf.data import packed_labels
    from pixelllm_hf.modeling import losses

    assert packed_labels.IGNORE_INDEX == losses.IGNORE_INDEX


def test_headings_that_are_cited_are_in_the_page_on_the_official_programs():
    page = (ROOT / "docs" / "official.md").read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    }
    cited = []
    for folder in ("src", "tests", "scripts"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            cited += [(path.name, anchor) for anchor in re.findall(r"official\.md#([\w-]+)", text)]
            assert path == Path(__file__) or not re.search(r"\bspec\b[^\n]{0,20} sections? \d", text), (
                f"{path} cites no page"
            )
    assert len(cited) > 40
    assert not [(name, anchor) for name, anchor in cited if anchor not in headings]
