"""Asking a model needs no package that only training, evaluation or the demo use; what does need one says which."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pixelllm_hf.extras import EXTRAS, MissingExtraError, require

ROOT = Path(__file__).parents[1]
SCENE = ROOT / "demo" / "examples" / "skier.jpg"
# As if the packages were not installed: for `import`, and for those who look whether they are there.
WITHOUT = "import sys\nfor name in {packages!r}: sys.modules[name] = None\n"


def python(program: str, without: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a program where these packages are not installed."""
    code = WITHOUT.format(packages=without) + program
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=600)


def requirements() -> tuple[list[str], dict[str, list[str]]]:
    """Of setup.py: names of what is always installed, and of what each extra adds."""
    program = """
import json, setuptools
wanted = ("name", "install_requires", "extras_require")
setuptools.setup = lambda **given: print(json.dumps([given[key] for key in wanted]))
exec(compile(open("setup.py").read(), "setup.py", "exec"), {"__file__": "setup.py"})
"""
    name, always, extras = ast.literal_eval(python(program, []).stdout)
    assert name == "pixelllm-hf"
    return [_name(line) for line in always], {extra: [_name(line) for line in lines] for extra, lines in extras.items()}


def _name(requirement: str) -> str:
    return re.split(r"[^\w-]", requirement)[0]


def test_a_caption_needs_none_of_the_extras():
    program = f"from pixelllm_hf.cli import main\nsys.exit(main(['caption', {str(SCENE)!r}]))"
    done = python(program, list(EXTRAS))
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ +skis +point \(", done.stdout, re.M)


def test_drawing_exporting_and_publishing_can_be_imported_without_the_extras():
    modules = ("processing.result_exports", "publishing", "publishing.repository", "data.scenes", "inference", "cli")
    done = python("\n".join(f"import pixelllm_hf.{module}" for module in modules), list(EXTRAS))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("statement", "package", "extra"),
    [
        ("import pixelllm_hf.training.trainer", "accelerate", "train"),
        ("import pixelllm_hf.training.trainer", "datasets", "train"),
        ("from pixelllm_hf.data import read_coco_captions", "datasets", "train"),
        ("from pixelllm_hf.data.localized_narratives import read_localized_narratives", "datasets", "eval"),
        (
            "from pixelllm_hf.training.lora import LoraSettings, add_lora; add_lora(None, LoraSettings())",
            "peft",
            "train",
        ),
        ("from pixelllm_hf.evaluation.modules import declared_metric", "evaluate", "eval"),
        ("sys.argv = ['evaluate.py']; import runpy; runpy.run_path('scripts/evaluate.py')", "datasets", "eval"),
        ("from pixelllm_hf.space.launching import start_demo; start_demo(['tiny'])", "gradio", "demo"),
        ("from pixelllm_hf.space.launching import start_demo; start_demo(['tiny'])", "mcp", "demo"),
    ],
)
def test_what_needs_an_extra_asks_for_it_by_name(statement, package, extra):
    done = python(statement, [package])
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode != 0
    assert last.startswith("pixelllm_hf.extras.MissingExtraError:") and f"needs {package}, which is not" in last
    assert f'pip install "pixelllm-hf[{extra}]"' in last


def test_the_extras_that_are_named_bring_what_is_missing():
    always, extras = requirements()
    for package, named in EXTRAS.items():
        assert package not in always
        brought_by_gradio = package == "mcp"  # gradio[mcp]
        assert brought_by_gradio or all(package in extras[extra] for extra in named)


def test_whoever_develops_has_all_that_training_evaluation_and_the_demo_use():
    _, extras = requirements()
    optional = {"pycocoevalcap"}  # the official scorers, a hundred megabytes; tests skip what needs them
    assert {name for extra in ("train", "eval", "demo") for name in extras[extra]} - optional <= set(extras["dev"])


def test_a_package_that_is_there_but_broken_is_not_said_to_be_missing(tmp_path, monkeypatch):
    (tmp_path / "evaluate.py").write_text("import a_part_of_it_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evaluate", raising=False)
    with pytest.raises(ModuleNotFoundError, match="a_part_of_it") as raised:
        require("evaluate", what="a test")
    assert not isinstance(raised.value, MissingExtraError)
