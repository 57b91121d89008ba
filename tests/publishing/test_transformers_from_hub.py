"""With the package imported, transformers' own ways to a model of the Hub lead to our classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import pixelllm_hf
from pixelllm_hf.publishing import publish_model

IMAGE = Image.radial_gradient("L").convert("RGB").resize((60, 40))
AUTO_CLASSES = {
    "AutoConfig": "PixelLLMConfig",
    "AutoModel": "PixelLLMForGroundedGeneration",
    "AutoModelForImageTextToText": "PixelLLMForGroundedGeneration",
    "AutoProcessor": "PixelLLMProcessor",
    "AutoImageProcessor": "PixelLLMImageProcessor",
}


@pytest.fixture
def commit(checkpoint: Path, hub: Any) -> str | None:
    """The commit of a published model."""
    return publish_model(checkpoint, "org/small", examples=[]).commit


@pytest.mark.parametrize("trust", [None, True])
@pytest.mark.parametrize(("auto", "ours"), AUTO_CLASSES.items())
def test_an_auto_class_gives_ours_for_a_name_of_the_hub_whether_its_code_is_trusted_or_not(
    commit: str, hub: Any, auto: str, ours: str, trust: bool | None
):
    import transformers

    loaded = getattr(transformers, auto).from_pretrained("org/small", trust_remote_code=trust, revision=commit)
    assert type(loaded) is getattr(pixelllm_hf, ours)
    assert not [r.path for r in hub.requests if r.method == "GET" and r.path.endswith(".py")], "its code is not needed"


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"trust_remote_code": True}])
def test_the_pipeline_takes_a_name_of_the_hub(commit: str, checkpoint: Path, options: dict[str, Any]):
    from transformers import pipeline

    mine, theirs = (
        pipeline("grounded-captioning", model=str(name), device="cpu", max_new_tokens=5, **options)
        for name in (checkpoint, "org/small")
    )
    assert type(theirs) is pixelllm_hf.GroundedCaptioningPipeline
    assert theirs(IMAGE) == mine(IMAGE)


def test_a_pipeline_that_was_pushed_can_be_loaded_by_its_name(checkpoint: Path, hub: Any):
    from transformers import pipeline

    mine = pipeline("grounded-captioning", model=str(checkpoint), device="cpu", max_new_tokens=5)
    mine.push_to_hub("org/pushed")
    assert {"model.safetensors", "processor_config.json", "pipeline_grounded_captioning.py"} <= set(
        hub.files("org/pushed")
    )
    theirs = pipeline("grounded-captioning", model="org/pushed", device="cpu", max_new_tokens=5)
    assert theirs(IMAGE) == mine(IMAGE)
