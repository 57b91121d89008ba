"""Whoever needs classes of a family gets them from one table."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageTextToText,
    AutoProcessor,
)

import pixelllm_hf
from pixelllm_hf.families import FAMILIES, UnknownFamilyError, family_of, family_of_folder


@pytest.fixture(params=list(FAMILIES))
def checkpoint(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue({"pixelllm": "small_checkpoint", "pixellm": "small_pixellm"}[request.param])


def test_the_auto_classes_give_those_of_the_table(checkpoint: Path):
    family = family_of_folder(checkpoint)
    assert type(AutoConfig.from_pretrained(checkpoint)) is family.config_class
    for auto in (AutoModel, AutoModelForImageTextToText):
        assert type(auto.from_pretrained(checkpoint)) is family.model_class
    assert type(AutoProcessor.from_pretrained(checkpoint)) is family.processor_class
    assert type(AutoImageProcessor.from_pretrained(checkpoint)) is family.image_processor_class


@pytest.mark.parametrize(
    "method", ["LoraConfig", "AdaLoraConfig", "LoHaConfig", "LoKrConfig", "VeraConfig", "BOFTConfig"]
)
def test_peft_adapts_queries_and_values_where_nobody_says_what(checkpoint: Path, method: str):
    peft = pytest.importorskip("peft")
    settings = {"AdaLoraConfig": {"total_step": 5}, "BOFTConfig": {"boft_block_size": 2}}.get(method, {})
    adapted = peft.get_peft_model(AutoModel.from_pretrained(checkpoint), getattr(peft, method)(**settings))
    names = adapted.targeted_module_names
    assert names and all(name.startswith("language_model.") and name[-6:] != "k_proj" for name in names)


def test_any_part_of_a_model_may_be_saved_with_an_adapter(checkpoint: Path):
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    plain = AutoModel.from_pretrained(checkpoint)
    side = plain.config.image_size
    for part, _ in plain.named_children():
        if part != "language_model":
            model = AutoModel.from_pretrained(checkpoint)
            adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, modules_to_save=[part])).get_base_model()
            assert adapted.get_image_features(torch.rand(1, 3, side, side)) is not None


def test_the_package_exports_every_class_of_the_table():
    for family in FAMILIES.values():
        for cls in (family.config_class, family.model_class, family.processor_class, family.image_processor_class):
            assert getattr(pixelllm_hf, cls.__name__) is cls
        assert family.config_class.model_type == family.model_type


def test_the_code_of_a_family_and_no_other_lies_beside_its_weights(checkpoint: Path, tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(checkpoint, folder)
    names = {file.name for file in pixelllm_hf.export_code(folder)}
    family = family_of_folder(folder)
    own = {f"{part}_{family.model_type}.py" for part in ("configuration", "modeling", "processing")}
    assert own <= names
    others = {f"modeling_{other}.py" for other in FAMILIES if other != family.model_type}
    assert not others & names


def test_another_model_is_refused_with_the_families_there_are(tmp_path: Path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UnknownFamilyError, match=r"model_type 'llama'.*pixelllm, pixellm"):
        family_of_folder(tmp_path)
    with pytest.raises(UnknownFamilyError, match="None"):
        family_of(None)
