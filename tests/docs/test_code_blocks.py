"""Every code block of the documentation works: Python and commands are run, recipes are read.

The blocks of a page share a namespace and a folder and are run in their order. A block that cannot be run says so in
the comment before it, and is listed here as skipped with that reason:

    <!-- not run: why -->    <!-- needs: mask_head_config -->    <!-- run -->  (scripts too, not only their options)

Blocks that speak to a server have one on this machine: `<!-- with: hub -->` a Hub and what one publishes to it,
`<!-- with: demo -->` the demo page.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from pixelllm_hf.inference import EMBEDDED

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted((REPOSITORY / "docs").rglob("*.md")) + [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md"]
HEADS = ("mask_head_config", "proposal_head_config")
SERVERS = ("demo", "hub")
ADDRESS = "http://127.0.0.1:7860"  # of the demo, if nobody else has this port
UNCHECKED = ("text", "json")  # what is printed, not what is run


def _beside(name: str) -> ModuleType:
    """A module of this folder; tests are imported without packages."""
    full = f"pixelllm_tests_docs_{name}"
    if full not in sys.modules:
        spec = importlib.util.spec_from_file_location(full, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[full] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[full])
    return sys.modules[full]


markdown_blocks = _beside("markdown_blocks")
shell_commands = _beside("shell_commands")
BLOCKS = [
    block
    for path in PAGES
    for block in markdown_blocks.read_blocks(path, path.relative_to(REPOSITORY).as_posix())
    if block.language not in UNCHECKED
]


def entries() -> set[str]:
    """What lies where a block that is run in the wrong folder would leave something."""
    folders = (REPOSITORY, REPOSITORY / "demo", REPOSITORY / "docs", REPOSITORY / "demo" / "examples")
    return {str(path) for folder in folders for path in folder.iterdir() if "cache" not in path.name}


BEFORE = entries()
PROVENANCE = "src/pixelllm_hf/checkpoints/tiny/provenance"
RECIPES = [file for folder in ("configs", PROVENANCE) for file in (REPOSITORY / folder).rglob("*.yaml")]


def missing_heads() -> frozenset[str]:
    from pixelllm_hf import PixelLLMConfig, default_checkpoint

    config = PixelLLMConfig.from_pretrained(default_checkpoint())
    return frozenset(head for head in HEADS if getattr(config, head) is None)


class Reader:
    """Somebody who follows a page from its beginning, in a folder with the images that it speaks of."""

    def __init__(self, page: str, folder: Path):
        self.folder = folder
        self.namespace: dict[str, Any] = {"__name__": "__main__"}
        self.todo = [block for block in BLOCKS if block.page == page]
        self.failed: str | None = None
        shutil.copytree(REPOSITORY / "demo" / "examples", folder / "demo" / "examples")
        for recipes in ("configs", PROVENANCE):
            shutil.copytree(REPOSITORY / recipes, folder / recipes)
        scene, coffee = (folder / "demo" / "examples" / name for name in ("scene.jpg", "coffee.jpg"))
        shutil.copy(scene, folder / "photo.jpg")
        (folder / "photos").mkdir()
        for image in (scene, coffee):
            shutil.copy(image, folder / "photos")

    def follow(self, block: Any, serve: Callable[[str], Callable[[str], str]]) -> None:
        """Do what the page says up to this block, as far as that has not been done.

        serve: starts a server of a name and says how code reaches it.
        """
        while block in self.todo:
            if self.failed:
                pytest.fail(f"the block {self.failed} before it failed")
            self._do(self.todo.pop(0), serve)
        if not self.todo:
            self.namespace.clear()  # models of many pages fill a memory

    def _do(self, block: Any, serve: Callable[[str], Callable[[str], str]]) -> None:
        if block.not_run is not None or block.needs in missing_heads():
            return
        code = serve(block.server)(block.code) if block.server else block.code
        self.failed = block.name
        if block.language == "python":
            lines = "\n" * (block.line - 1) + code  # tracebacks name the line of the page
            exec(compile(lines, str(REPOSITORY / block.page), "exec", dont_inherit=True), self.namespace)
        elif block.language == "bash":
            hub = block.server == "hub"
            shell_commands.check_block(code, run=block.run, missing_heads=missing_heads(), hub=hub)
        elif block.language == "yaml":
            check_yaml(code)
        else:
            raise AssertionError(f"{block.name}: no check for blocks of {block.language or 'no language'!r}")
        self.failed = None


def check_yaml(code: str) -> None:
    """A recipe, or a part of one, of scripts/train.py: its keys are known."""
    from pixelllm_hf.training.config import from_dict
    from pixelllm_hf.training.recipe import TrainConfig

    sources = {"sources": [{"format": "coco_captions", "annotations": "a.json", "images": "images"}]}
    values = yaml.safe_load(code)
    from_dict(TrainConfig, {"data": sources} | values)


@pytest.fixture(scope="module")
def readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return {page: Reader(page, tmp_path_factory.mktemp("page")) for page in dict.fromkeys(b.page for b in BLOCKS)}


@pytest.fixture
def with_hub(hub: Any) -> Callable[[str], str]:
    """A Hub that knows org/pixelllm-mine; in the reader's folder what can be published: a model, narratives."""
    from pixelllm_hf import embedded_checkpoint
    from pixelllm_hf.data.scenes.writers import write_scenes
    from pixelllm_hf.publishing import publish_model

    model = Path("runs/tiny/model")
    if not model.exists():
        shutil.copytree(embedded_checkpoint("tiny"), model)
        for task in ("trace", "refer"):
            shutil.move(model / f"evaluation_{task}.json", f"{task}.json")
        write_scenes("scenes", 2, 1)
        shutil.move("scenes/localized_narratives.jsonl", "narratives.jsonl")
        shutil.move("scenes/images", "images")
    publish_model(model, "org/pixelllm-mine", examples=[], private=True)
    return lambda code: code


@pytest.fixture
def with_demo() -> Iterator[Callable[[str], str]]:
    """The demo with the embedded model."""
    for name in ("gradio", "gradio_client", "mcp"):
        pytest.importorskip(name, reason=f"the demo is not started: {name} is not installed")
    from pixelllm_hf.space.launching import start_demo

    demo = start_demo([EMBEDDED], device="cpu", host="127.0.0.1", quiet=True)
    yield lambda code: code.replace(ADDRESS, demo.url.rstrip("/"))
    demo.close()


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block.name}:{block.language}")
def test_a_block_works_as_it_stands(
    block: Any,
    readers: dict[str, Reader],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    request: pytest.FixtureRequest,
):
    if block.not_run is not None:
        pytest.skip(f"{block.name} is not run: {block.not_run}")
    if block.needs in missing_heads():
        pytest.skip(f"{block.name}: the embedded checkpoint has no {block.needs}")
    reader = readers[block.page]
    monkeypatch.chdir(reader.folder)
    for name in ("HF_HUB_OFFLINE", "HF_EVALUATE_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    reader.follow(block, lambda server: request.getfixturevalue(f"with_{server}"))


@pytest.mark.parametrize(
    "file",
    sorted([*(REPOSITORY / "scripts").glob("*.py"), *RECIPES]),
    ids=lambda f: f.name,
)
def test_the_commands_at_the_top_of_a_script_or_recipe_are_understood(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPOSITORY)
    text = file.read_text(encoding="utf-8")
    head = ast.get_docstring(ast.parse(text)) or "" if file.suffix == ".py" else re.sub(r"(?m)^#\s*", "", text)
    head = head.replace("$R/", f"{PROVENANCE}/")
    starts = ("python ", "accelerate ", "ACCELERATE_USE_CPU=")
    lines = head.replace("\\\n", " ").splitlines()
    for line in [line for line in lines if line.startswith(starts)]:
        shell_commands.check_block(line, run=False, missing_heads=frozenset())


def test_every_image_of_the_readme_was_drawn_by_a_command_that_is_named_under_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(REPOSITORY)
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    images = re.findall(r"^!\[[^]]+\]\(([^)]+)\)\n\n(.+)$", text, re.M)
    assert len(images) >= 2 and len(images) == text.count("](docs/images/")
    for image, below in images:
        assert (REPOSITORY / image).is_file()
        drawn_by = re.match(r"\*Drawn by `([^`]+)`", below)
        assert drawn_by and image in drawn_by[1], f"{image}: which command drew it?"
        (words,) = shell_commands.commands(drawn_by[1])
        assert words[0] in ("pixelllm", "python")


def test_a_block_that_is_not_run_says_why():
    silent = [block.name for block in BLOCKS if block.not_run is not None and len(block.not_run.split()) < 4]
    assert not silent


def test_a_block_needs_a_head_that_there_is():
    assert {block.needs for block in BLOCKS} <= {None, *HEADS}


def test_a_block_has_a_server_that_there_is():
    assert {block.server for block in BLOCKS} <= {None, *SERVERS}
    assert all(ADDRESS in block.code for block in BLOCKS if block.server == "demo")


def test_nothing_is_left_in_the_repository():
    assert entries() - BEFORE == set()


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("pixelllm caption photo.jpg --beams 4", "--beams"),
        ("pixelllm describe photo.jpg", "describe"),
        ("python scripts/no_such_script.py", "not in the repository"),
        ("python scripts/evaluate.py --task trace --scene 5 --model", "--model"),
        ("python scripts/train.py --config configs/smoke.yaml steps=5", "steps"),
        ("accelerate launch --processes 2 scripts/train.py --config configs/smoke.yaml", "--processes"),
        ("make coffee", "coffee"),
        ("pip install .[everything]", "everything"),
        ("curl example.org", "curl"),
        ("pixelllm caption photo.jpg | head", "no check"),
    ],
)
def test_a_command_that_does_not_work_is_noticed(
    code: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from pixelllm_hf.training.config import ConfigError

    shutil.copytree(REPOSITORY / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((shell_commands.CommandError, ConfigError), match=problem):
        shell_commands.check_block(code, run=False, missing_heads=frozenset())


def test_comments_decide_about_the_block_after_them_only(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("<!-- not run: it needs a network -->\n\n```bash\na\n```\n\n```python\nb\nc\n```\n", "utf-8")
    first, second = markdown_blocks.read_blocks(page, "page.md")
    assert (first.not_run, first.line, first.code) == ("it needs a network", 4, "a\n")
    assert (second.not_run, second.line, second.code) == (None, 8, "b\nc\n")
