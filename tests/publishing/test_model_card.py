from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from transformers.pipelines import SUPPORTED_TASKS

from pixelllm_hf.families import FAMILIES, Family, family_of_folder
from pixelllm_hf.publishing import PublishError, render_model_card, validate_card
from pixelllm_hf.publishing.examples import draw_examples
from pixelllm_hf.publishing.model_card import Example, usage

TEXT = """---
license: mit
tags:
- mine
pipeline_tag: image-to-text
---

# Mine

<!-- metrics:trace -->
typed by hand: 0.99
<!-- /metrics:trace -->

Between.
"""


def report(task: str = "trace", **changes: Any) -> dict[str, Any]:
    metrics = {name: {"value": value, "low": 0.1, "high": 0.9, "count": 5} for name, value in METRICS.items()}
    return {
        "task": task, "scenes": 5, "metrics": metrics, "data": {"seed": 3}, "decoding": {"num_beams": 1},
        "command": "python scripts/evaluate.py", **changes,
    }  # fmt: skip


METRICS = {"object_f1": 0.5, "point_in_box": 0.25, "center_error_percent": None}


def card(text: str | None = TEXT, **options: Any) -> ModelCard:
    return ModelCard(render_model_card(text, **{"repo_id": "org/mine", **options}))


def test_the_authors_metadata_stay_and_ours_are_added():
    data = card().data
    assert (data.license, data.pipeline_tag, data.library_name) == ("mit", "image-to-text", "transformers")
    plain = card("---\nlicense: mit\n---\n\n# Mine\n").data
    assert plain.pipeline_tag in dict(SUPPORTED_TASKS), "transformers has no pipeline of that name"
    assert data.tags == ["mine", "grounded-captioning", "pixelllm"]
    assert card(license="apache-2.0").data.license == "apache-2.0"


def test_numbers_come_from_evaluations_alone():
    assert "0.99" not in card().text and card().data.eval_results is None
    measured = card(reports=[report()])
    assert "| 0.5000 | 0.1000 to 0.9000 | 5 |" in measured.text and "0.99" not in measured.text
    values = {r.metric_type: r.metric_value for r in measured.data.eval_results}
    assert values == {"object_f1": 0.5, "point_in_box": 0.25}, "what was not measured is not there"
    assert measured.data.model_name == "mine"


def test_several_tasks_and_evaluations_stay_apart_in_the_metadata():
    other_scenes = report(data={"folder": "photos"})
    data = card(reports=[report(), report("caption"), other_scenes]).data
    results = {(r.dataset_config, r.dataset_name, r.metric_type): r.metric_value for r in data.eval_results}
    assert len(results) == 6
    assert {config for config, *_ in results} == {"trace", "caption", "trace'"}


def test_what_has_no_slot_comes_at_the_end():
    text = card(
        "---\nlicense: mit\n---\n\n# Bare\n", reports=[report()], examples=[Example("examples/a.png", "a [b]")]
    ).text
    assert text.index("# Bare") < text.index("## Use") < text.index("## Examples") < text.index("0.5000")
    assert 'from_pretrained("org/mine")' in text
    assert "![a b](examples/a.png)" in text and r"> a \[b\]" in text


def test_a_slot_is_filled_where_it_stands():
    text = card(TEXT.replace("Between.", "<!-- usage --><!-- /usage -->\n\nBetween."), reports=[report()]).text
    assert text.index("0.5000") < text.index('"org/mine"') < text.index("Between.")
    assert "## Use" not in text


def test_rendering_again_changes_nothing():
    first = render_model_card(TEXT, repo_id="org/mine", reports=[report()])
    assert render_model_card(first, repo_id="org/mine", reports=[report()]) == first


def test_a_plain_card_says_what_is_not_known():
    text = str(card(None, license="mit", facts={"Stored as": "F32"}))
    assert "Stored as: F32" in text and "Not stated" in text and "## Limits" in text and "## Licences" in text


@pytest.mark.parametrize("text", [TEXT, "---\nlicense: mit\n---\n\n# Bare\n", None])
def test_every_part_has_its_licence_on_the_card(text: str | None):
    body = card(text, license="cc-by-4.0").text
    section = body[body.index("## Licences") :]
    assert "Weights, configuration, tokenizer and this text: `cc-by-4.0`" in section
    assert "Code (`*.py`)" in section and "Example images" in section and "Training data" in section
    assert body.count("## Licences") == 1


@pytest.mark.parametrize("text", [None, "# No metadata", "---\ntags: []\n---\n"])
def test_a_card_without_a_licence_is_refused(text: str | None):
    with pytest.raises(PublishError, match="states no licence"):
        card(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no metadata", "has no metadata"),
        ("---\n- a list\n---\n", "cannot be read"),
        ("---\nlicense: [\n---\n", "cannot be read"),
        ("---\nlicense: 1\n---\n", "`license` .* must be text"),
        ("---\nlicense: mit\ntags: mine\n---\n", "`tags` .* list"),
        ("---\nlicense: mit\nmodel-index:\n- name: x\n---\n", "cannot be read"),
        (
            "---\nlicense: mit\nmodel-index:\n- name: x\n  results:\n  - task: {type: t}\n"
            "    dataset: {type: d, name: d}\n    metrics:\n    - {type: m, value: .nan}\n---\n",
            "not a number",
        ),
    ],
)
def test_metadata_that_the_hub_would_not_take_are_refused_without_asking_it(content: str, message: str):
    with pytest.raises(PublishError, match=message):
        validate_card(content)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_card_says_whose_model_it_is_and_how_it_is_asked(family: Family):
    done = card(None, license="mit", family=family)
    assert family.model_type in done.data["tags"] and f"arXiv {family.paper}" in done.text
    assert family.model_class.__name__ in done.text and family.processor_class.__name__ in done.text


@pytest.mark.parametrize("name", ["small_checkpoint", "small_pixellm"])
def test_the_use_on_a_card_works(name: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch, capsys):
    folder = request.getfixturevalue(name)
    Image.effect_noise((60, 40), 80).convert("RGB").save(tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    code = usage(str(folder), family_of_folder(folder)).split("```python")[1].split("```")[0]
    exec(compile(code, "card", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_examples_of_a_model_that_has_to_be_asked_are_its_answers(small_pixellm: Path, tmp_path: Path):
    Image.effect_noise((60, 40), 80).convert("RGB").save(tmp_path / "a.png")
    ((example, file),) = draw_examples(small_pixellm, [tmp_path / "a.png"], tmp_path / "drawn")
    assert "SEG" not in example.caption.upper() and file.is_file()
