"""The card of a published model: its text with the measured numbers filled in, and metadata that the Hub understands.

Numbers come from evaluation files alone. What a card has a slot for (`<!-- usage --><!-- /usage -->`, `examples`,
`licences`, `metrics:TASK`) goes there; what it has none for becomes a section at its end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCard, DatasetCardData, EvalResult, ModelCard, ModelCardData, RepoCard, SpaceCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from pixelllm_hf.evaluation.photograph_table import is_of_photographs, photograph_table
from pixelllm_hf.evaluation.report import (
    PHOTOGRAPHS,
    SLOT,
    ReportError,
    model_index,
    read_report,
    render_card,
    task_section,
)
from pixelllm_hf.families import FAMILIES, Family
from pixelllm_hf.processing.tasks import task_spec

from .errors import PublishError

PIPELINE_TAG = "image-text-to-text"  # the nearest task of the Hub that transformers has a pipeline for
TAG = "grounded-captioning"
HEADINGS = {
    "usage": "## Use\n\n",
    PHOTOGRAPHS: "## On photographs\n\n",
    "examples": "## Examples\n\n",
    "licences": "## Licences\n\n",
}


@dataclass(frozen=True)
class Example:
    """An image of the repository and what the model said about it."""

    path: str
    caption: str


def render_model_card(
    text: str | None,
    *,
    repo_id: str,
    reports: Sequence[Mapping[str, Any]] = (),
    examples: Sequence[Example] = (),
    license: str | None = None,  # noqa: A002 - the Hub's word
    facts: Mapping[str, Any] | None = None,
    family: Family = FAMILIES["pixelllm"],
) -> str:
    """The whole README. text: the author's card with or without metadata; None gives a plain one made of `facts`.
    family: whose model it is.

    A card without a licence is a `PublishError`, as is one that the Hub's client would not read back as it is.
    """
    card = _read_card(_with_metadata(text) if text is not None else _plain_card(repo_id, facts or {}, family), "model")
    known = card.data.to_dict()
    stated = license or known.get("license")
    if not stated:
        raise PublishError(
            "the card states no licence. Give one with --license (e.g. apache-2.0, or other), or write "
            "`license:` into the metadata at the top of README.md."
        )
    known.pop("model-index", None)  # measured numbers come from the evaluation files alone
    tags = list(dict.fromkeys([*(known.pop("tags", None) or []), TAG, family.model_type]))
    known |= {"license": stated, "tags": tags}
    metadata: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": PIPELINE_TAG, **known}
    if reports:
        metadata |= {"model_name": repo_id.split("/")[-1], "eval_results": eval_results(reports)}
    card.data = ModelCardData(**metadata)
    card.text = _filled(card.text, _slots(repo_id, stated, reports, examples, family))
    content = str(card)
    validate_card(content)
    return content


def _with_metadata(text: str) -> str:
    return text if text.lstrip().startswith("---") else f"---\n{{}}\n---\n\n{text}"


def eval_results(reports: Iterable[Mapping[str, Any]]) -> list[EvalResult]:
    """One entry per metric that has a value, as the Hub's `model-index` wants them.

    The Hub tells results apart by task type, data set and configuration, and what we measure is of one task type there;
    so the configuration names our task.
    """
    results: list[EvalResult] = []
    taken: set[str] = set()
    for report in [report for report in reports if "baseline" not in report]:
        configuration = report["task"]
        while configuration in taken:
            configuration += "'"  # the same task once more, on other scenes
        taken.add(configuration)
        _, entries = model_index_to_eval_results(model_index("", [report]))
        results += [replace(entry, dataset_config=configuration, dataset_split="test") for entry in entries]
    return results


def _slots(
    repo_id: str, stated: str, reports: Sequence[Mapping[str, Any]], examples: Sequence[Example], family: Family
) -> dict[str, str]:
    slots = {"usage": usage(repo_id, family), "licences": licences(stated)}
    if examples:
        slots["examples"] = "\n\n".join(f"![{_alt(e.caption)}]({e.path})\n\n> {_quoted(e.caption)}" for e in examples)
    if of_photographs := [report for report in reports if is_of_photographs(report)]:
        slots[PHOTOGRAPHS] = photograph_table(of_photographs)
    others = [report for report in reports if not is_of_photographs(report)]
    tasks = dict.fromkeys(report["task"] for report in others)
    return slots | {f"metrics:{t}": task_section([r for r in others if r["task"] == t]) for t in tasks}


def _filled(text: str, slots: Mapping[str, str]) -> str:
    present = {match["name"] for match in SLOT.finditer(text)}
    # numbers that no evaluation file vouches for do not stay in the text
    empty = {name: "" for name in present if name.startswith("metrics:") or name == PHOTOGRAPHS}
    text = render_card(text, empty | {name: value for name, value in slots.items() if name in present})
    for name, value in slots.items():
        if name not in present:
            text = f"{text.rstrip()}\n\n{HEADINGS.get(name, '')}<!-- {name} -->\n{value}\n<!-- /{name} -->\n"
    return text


def _alt(caption: str) -> str:
    return re.sub(r"[\[\]\\<>]", "", caption).replace("\n", " ")


def _quoted(caption: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", caption).replace("\n", " ")


_SHOW_WORDS = """for word in answer.words:
    print(word.text, word.point, word.box)"""
_SHOW_TARGETS = """print(answer.text)
for target in answer.targets:
    print(answer.text[target.start : target.end], target.mask.sum(), target.mask_score)"""


def usage(repo_id: str, family: Family) -> str:
    """How to load the model by its name, with the package and without it."""
    model, processor = family.model_class.__name__, family.processor_class.__name__
    spec = task_spec(family.processor_class.default_task)
    words = ', text="what here can be eaten?"' if spec.needs_words else ""
    return f"""With the package `pixelllm_hf`:

```python
from pixelllm_hf import {model}, {processor}

processor = {processor}.from_pretrained("{repo_id}")
model = {model}.from_pretrained("{repo_id}")
inputs = processor(images="image.jpg"{words})
answer = processor.{spec.post_process}(model.generate(**inputs), inputs)[0][0]
{_SHOW_TARGETS if spec.writes_targets else _SHOW_WORDS}
```

Without it, from the code in this repository (read it first, then pin the commit that you have read):

```python
from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained("{repo_id}", trust_remote_code=True, revision="COMMIT")
model = AutoModel.from_pretrained("{repo_id}", trust_remote_code=True, revision="COMMIT")
```"""


def licences(stated: str) -> str:
    """Whose licence is for what. stated: that of the weights."""
    return f"""- Weights, configuration, tokenizer and this text: `{stated}`, as in the metadata.
- Code (`*.py`), which is that of `pixelllm_hf`: Apache-2.0.
- Example images are drawn over images that keep their own licences; the clip-art of composed scenes is Microsoft's
  Fluent Emoji (MIT).
- Training data: licences of their own; what is known of them stands under training."""


def _plain_card(repo_id: str, facts: Mapping[str, Any], family: Family) -> str:
    """What can be said without knowing how the model was trained; it says that this is not known."""
    lines = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    return f"""---
{{}}
---

# {repo_id.split("/")[-1]}

A {family.title} ([arXiv {family.paper}](https://arxiv.org/abs/{family.paper})): {family.does}.

{lines}

## Training data

Not stated. Ask whoever published this model before relying on it.

## Limits

Words and locations are predictions. They can be wrong while sounding certain, and a word's location can be wrong while
the word is right. What is not listed under an evaluation on this page was not measured.
"""


def load_reports(files: Iterable[Path], *, weights_sha256: str) -> list[dict[str, Any]]:
    """Evaluations to publish with weights of this digest; numbers of other weights are a `PublishError`."""
    reports = []
    for file in files:
        try:
            report = read_report(file)
        except ReportError as error:
            raise PublishError(str(error)) from error
        measured = report.get("weights_sha256")
        if "baseline" in report:  # of no weights
            reports.append(report)
            continue
        if measured != weights_sha256:
            theirs = f"SHA-256 {measured[:12]}…" if measured else "it does not say on which"
            raise PublishError(
                f"{file} was measured on other weights ({theirs}; these are {weights_sha256[:12]}…). Run "
                "scripts/evaluate.py again on this folder, or leave the file away."
            )
        reports.append(report)
    return reports


def validate_card(content: str, *, kind: str = "model") -> RepoCard:
    """The card as `huggingface_hub` reads it, or a `PublishError`; no connection is made.

    Checked: front matter that parses to a dictionary, types of the known fields, and a model index that survives the
    way through the client's own classes.
    """
    card = _read_card(content, kind)
    data = card.data.to_dict()
    if not data and kind != "dataset":
        raise PublishError("the card has no metadata: it must begin with a block between two lines of ---.")
    if "model-index" in data:
        name, results = model_index_to_eval_results(data["model-index"])
        if eval_results_to_model_index(name, results) != data["model-index"]:
            raise PublishError("the model index does not survive the client's reading; publish from evaluation files.")
        for result in results:
            if isinstance(result.metric_value, float) and not math.isfinite(result.metric_value):
                raise PublishError(f"the value of {result.metric_type} in the model index is not a number.")
    return card


def _check_types(data: Mapping[str, Any]) -> None:
    for name in ("license", "pipeline_tag", "library_name", "title", "sdk"):
        if name in data and not isinstance(data[name], str):
            raise PublishError(f"`{name}` in the card's metadata must be text, but is {data[name]!r}.")
    tags = data.get("tags", [])
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise PublishError(f"`tags` in the card's metadata must be a list of texts, but is {tags!r}.")


def _read_card(content: str, kind: str) -> RepoCard:
    card_class: type[RepoCard] = {"model": ModelCard, "dataset": DatasetCard, "space": SpaceCard}[kind]
    try:
        _check_types(RepoCard(content).data.to_dict())  # as written: the class for models takes `tags: abc` for a, b, c
        return card_class(content)
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise PublishError(f"the metadata at the top of the card cannot be read: {error}") from error


def with_licence(content: str, stated: str | None) -> str:
    """A data set's card whose metadata states a licence: `stated`, or its own; neither is a `PublishError`."""
    card = validate_card(content if content.lstrip().startswith("---") else _with_metadata(content), kind="dataset")
    if stated:
        card.data["license"] = stated
    elif not card.data.get("license"):
        raise PublishError(
            "the card of the data set states no licence. Write `license:` into its metadata, or give one."
        )
    return str(card)


def dataset_card(repo_id: str, *, license: str) -> str:  # noqa: A002 - the Hub's word
    """A plain card for a data set that came without one."""
    data = DatasetCardData(license=license, task_categories=["image-to-text"], tags=[TAG, "pixelllm"])
    return (
        f"---\n{data.to_yaml()}\n---\n\n# {repo_id.split('/')[-1]}\n\n"
        "Grounded captions in the format of `pixelllm_hf`: every row is an image with prompts, captions and, per "
        "word, locations in pixels of the image.\n"
    )
