"""Run transformers' own common tests of models, configurations and processors against our classes.

python scripts/run_transformers_common_tests.py
python scripts/run_transformers_common_tests.py -k config --archive transformers-5.24.0.tar.gz

The tests come from the source archive of the installed version, which pip downloads; nothing of it is kept in the
repository. An archive from an index lacks the tests of `generate` (tests/generation), one from the project's own page
has them: give it with --archive. The last line has the numbers; the exit code is 0 if nothing failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

CASES = Path(__file__).with_name("transformers_common_cases.py")
IMAGE = Path(__file__).parents[1] / "demo" / "examples" / "scene.jpg"
MARK = "not applicable: "
NEEDED = "parameterized"  # their one requirement that nobody has otherwise

# What does not apply to us: patterns of "class.test", and why. Tests that transformers itself skips are not listed.
INAPPLICABLE = {
    "PixelLLMModelTest.test_can_load_ignoring_mismatched_shapes": (
        "for classifiers; before it finds none, its helper puts a number into every setting called *_std, and "
        "image_std is a list of three"
    ),
    "PixelLLMModelTest.test_get_image_features_*": (
        "the features of an image are the maps of two towers and their fusion, of several widths, not one sequence of "
        "states with hidden states and attention of one stack"
    ),
    "PixelLLMModelTest.test_assisted_decoding_*": (
        "assisted decoding keeps no state per token, from which locations are read; it is refused by name"
    ),
    "PixelLLMModelTest.test_prompt_lookup_decoding_*": "refused by name, like all assisted decoding",
    "PixelLLMModelTest.test_generate_without_input_ids": "every answer is about an image, here there is none",
    "PixelLLMModelTest.test_model_base_model_prefix": "there is one model, no base model under several heads",
    "PixelLLMProcessorTest.test_apply_chat_template_*": "a chat is one turn of the user, here it has several",
    "PixelLLMProcessorTest.test_chat_template_jinja_kwargs": "a chat is one turn of the user, here it has several",
    "PixelLLMProcessorTest.test_processor_text_has_no_visual": "every prompt is about an image",
    "PixelLLMImageProcessingTest.test_call_numpy_4_channels": "images of every kind are made RGB",
    "PixelLLMImageProcessingTest.test_new_models_require_torchvision_backend": "never needs torchvision",
}

# Siblings that an archive from an index leaves out, with as little as the common tests need of them.
STUBS = {
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/test_configuration_utils.py": (
        'config_common_kwargs = {"return_dict": False, "output_hidden_states": True, "chunk_size_feed_forward": 5, '
        '"dtype": "float16", "architectures": ["Some"], "problem_type": "regression"}\n'
    ),
    "fetch_hub_objects_for_ci.py": "import os\n\ndef url_to_local_path(url):\n    return os.environ['TEST_IMAGE']\n",
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archive", type=Path, help="source archive (.tar.gz) instead of downloading one")
    parser.add_argument("-k", metavar="EXPRESSION", help="only tests whose names match, as pytest's -k")
    parser.add_argument("-v", "--verbose", action="store_true", help="name every test as it runs")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="transformers-tests-") as temporary:
        work = Path(temporary)
        archive = args.archive or download(work)
        complete = unpack(archive, work)
        with searched_first(work, modules_for(work)):
            tally = run(args.k, args.verbose)
    print(f"transformers {version('transformers')}, {'with' if complete else 'without'} the tests of generate")
    for reason, count in tally.reasons(MARK).most_common():
        print(f"  {count:4d} not applicable: {reason}")
    for reason, count in tally.reasons("").most_common():
        print(f"  {count:4d} skipped by transformers: {reason}")
    for name in tally.named("failed"):
        print(f"  FAILED {name}")
    passed, failed = len(tally.named("passed")), len(tally.named("failed"))
    print(
        f"passed {passed}, failed {failed}, not applicable {tally.reasons(MARK).total()}, "
        f"skipped by transformers {tally.reasons('').total()}"
    )
    return 1 if failed or not passed else 0


def download(folder: Path) -> Path:
    """The source archive of the installed version, from whatever index pip is configured for."""
    wanted = f"transformers=={version('transformers')}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
    subprocess.run([*command, "--dest", str(folder), wanted], check=True)
    return next(folder.glob("transformers-*.tar.gz"))


def unpack(archive: Path, folder: Path) -> bool:
    """The archive's tests as the package `transformers_tests` in `folder`; whether those of generate are among them."""
    tests = folder / "transformers_tests"
    with tarfile.open(archive) as opened:
        for member in opened:
            parts = Path(member.name).parts
            if member.isfile() and len(parts) > 2 and parts[1] == "tests" and parts[2] != "models":
                target = tests.joinpath(*parts[2:])
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(opened.extractfile(member).read())  # type: ignore[union-attr]
    complete = (tests / "generation" / "test_utils.py").is_file()
    for name, text in STUBS.items():
        path = folder / name if "/" not in name else tests / name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path in [tests, *(p for p in tests.rglob("*") if p.is_dir())]:
        (path / "__init__.py").touch()
    return complete


def modules_for(folder: Path) -> Path:
    """A folder with what the tests import and the environment may lack; the environment is left as it is."""
    target = folder / "modules"
    target.mkdir()
    if importlib.util.find_spec(NEEDED) is None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), NEEDED]
        subprocess.run(command, check=True)
    return target


@contextmanager
def searched_first(*folders: Path) -> Iterator[None]:
    """Modules in these folders can be imported, here and by processes that the tests start."""
    before, environment = sys.path[:], os.environ.copy()
    sys.path[:0] = [str(folder) for folder in folders]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    os.environ |= {"TEST_IMAGE": str(IMAGE), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_TEST_DEVICE": "cpu"}
    try:
        yield
    finally:
        sys.path[:] = before
        os.environ.clear()
        os.environ |= environment


class Tally:
    """Counts outcomes as a plugin of pytest."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}  # by test; a test with parts has failed if one of them has

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        import pytest

        for item in items:
            name = f"{item.cls.__name__}.{item.name}"
            reasons = [reason for pattern, reason in INAPPLICABLE.items() if fnmatchcase(name, pattern)]
            if reasons:
                item.add_marker(pytest.mark.skip(reason=MARK + reasons[0]))

    def pytest_runtest_logreport(self, report: Any) -> None:
        name = ".".join(report.nodeid.split("::")[1:])
        is_part = hasattr(report, "context")  # of a test with subtests, which has a report of its own
        if report.failed:
            self.outcomes[name] = "failed"
        elif report.skipped and not is_part:
            self.outcomes.setdefault(name, str(report.longrepr[2]).removeprefix("Skipped: "))
        elif report.when == "call" and not is_part:
            self.outcomes.setdefault(name, "passed")

    def named(self, outcome: str) -> list[str]:
        """The tests that have "passed" or "failed"."""
        return [name for name, own in self.outcomes.items() if own == outcome]

    def reasons(self, prefix: str) -> Counter[str]:
        """How often each reason was given; without a prefix those of transformers."""
        skipped = [own for own in self.outcomes.values() if own not in ("passed", "failed")]
        chosen = [own for own in skipped if own.startswith(MARK) == bool(prefix)]
        return Counter(reason.removeprefix(MARK) for reason in chosen)


def run(expression: str | None, verbose: bool) -> Tally:
    import pytest

    tally = Tally()
    options = [
        "-v" if verbose else "-q",
        "--tb=short",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
        "-c",
        os.devnull,
    ]
    # Not shown, but not ignored: some tests look for the warning they provoke.
    options += ["--rootdir", str(CASES.parent), "--no-header", "--disable-warnings"]
    pytest.main([str(CASES), *options, *(["-k", expression] if expression else [])], plugins=[tally])
    return tally


if __name__ == "__main__":
    sys.exit(main())
