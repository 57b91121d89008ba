"""mkdocs: files of the repository as pages, links to them that also work in the repository, titles that break well."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).parents[2]
# file of the repository -> page; links between them are written as the files lie in the repository
PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "src/pixelllm_hf/checkpoints/photo/README.md": "model-card.md",
    "src/pixelllm_hf/checkpoints/tiny/README.md": "model-card-tiny.md",
    "src/pixelllm_hf/checkpoints/tiny-reason/README.md": "model-card-tiny-reason.md",
}
_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.S)
_TITLE_NAME = re.compile(r'(<span class="doc doc-object-name[^"]*">)([^<]+)')
_LINK = re.compile(r"(\]\()([^)#\s]+\.md)(#[^)\s]*)?(?=\))")


def on_files(files: Files, config: Any) -> Files:
    """Add the files of the repository; what only the Hub reads at their top is left out."""
    for source, page in PAGES.items():
        text = _FRONT_MATTER.sub("", (REPOSITORY / source).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **kwargs: Any) -> str:
    """Links from file to file of the repository -> links from page to page."""
    own = page.file.src_uri
    source = {to: at for at, to in PAGES.items()}.get(own, f"docs/{own}")

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2]))
        if target not in PAGES and not target.startswith("docs/"):
            return link[0]
        to = PAGES.get(target, target.removeprefix("docs/"))
        return f"{link[1]}{_relative(to, own)}{link[3] or ''}"

    return _LINK.sub(moved, markdown)


def on_page_content(html: str, **kwargs: Any) -> str:
    """Long names in titles may break between their parts: after a dot or an underline, not within a word."""
    return _TITLE_NAME.sub(lambda found: found[1] + re.sub(r"(?<=\w)[._](?=\w)", r"\g<0><wbr>", found[2]), html)


def _relative(to: str, page: str) -> str:
    return os.path.relpath(to, posixpath.dirname(page) or ".").replace(os.sep, "/")
