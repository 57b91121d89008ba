"""Official Flax names and layouts -> ours."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import inject_adapter_in_model

from pixelllm_hf.conversion.parity.golden import Golden
from pixelllm_hf.conversion.parity.heads import load_text_head
from pixelllm_hf.conversion.scenic import (
    GROUPS,
    OPTIONAL_GROUPS,
    ScenicNamesError,
    convert_module,
    convert_pixelllm,
    name_map,
    restore_pixelllm,
)
from pixelllm_hf.conversion.scenic_hparams import (
    ScenicLora,
    lora_config,
    pixelllm_config,
    proposal_head_config,
    sam_config,
    t5_config,
)
from pixelllm_hf.modeling.configuration_heads import PixelLLMProposalHeadConfig
from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.language_t5 import T5PrefixLanguageModel

GOLDEN = Path(__file__).parents[1] / "golden" / "pixelllm"
# Golden file -> the official group that its weights belong to.
FILES = {
    "sam_vit": "sam_backbone",
    "eva02_vit": "git_backbone",
    "prompt_encoder": "prompt_encoder",
    "prompt_adapter": "prompt_adapter",
    "visual_project_layers": "visual_project_layers",
    "t5_text_head": "textual",
    "point_predictor": "point_predictor",
    "box_decoder": "box_decoder",
}


def golden(name: str) -> Golden:
    return Golden.read(GOLDEN / f"{name}.safetensors")


@pytest.fixture
def whole_model() -> dict[str, torch.Tensor]:
    """Official names of a whole model, put together from the parts (whose sizes do not fit each other)."""
    flat = {f"{group}/{name}": value for file, group in FILES.items() for name, value in golden(file).params.items()}
    return flat | golden("mask_adapter_decoder").params  # two groups, named there


@pytest.mark.parametrize(("file", "group"), FILES.items())
def test_an_unknown_name_is_an_error_that_lists_it(file, group):
    flat = golden(file).params | {"blocks.0/attn/mystery/kernel": torch.zeros(2, 2)}
    with pytest.raises(ScenicNamesError, match="mystery") as error:
        convert_module(group, flat)
    assert error.value.unknown == ("blocks.0/attn/mystery/kernel",)
    assert error.value.missing == ()


@pytest.mark.parametrize(("file", "group"), FILES.items())
def test_any_missing_name_is_an_error_that_lists_it(file, group):
    flat = golden(file).params
    for name in flat:
        with pytest.raises(ScenicNamesError) as error:
            convert_module(group, {other: value for other, value in flat.items() if other != name})
        assert error.value.missing == (name,)
        assert not error.value.unknown


def test_a_part_without_weights_names_all_it_lacks():
    with pytest.raises(ScenicNamesError) as error:
        convert_module("sam_backbone", {})
    assert "blocks.0/attn/qkv/kernel" in error.value.missing
    assert len(error.value.missing) == len(GROUPS["sam_backbone"][1])


def test_a_linear_kernel_is_transposed_and_a_convolution_becomes_out_in_height_width():
    flat = golden("sam_vit").params
    ours = convert_module("sam_backbone", flat)
    assert torch.equal(ours["blocks.0.mlp.lin1.weight"], flat["blocks.0/mlp/lin1/kernel"].T)
    kernel = flat["neck/2/kernel"]
    assert torch.equal(ours["neck.2.weight"][3, 5], kernel[:, :, 5, 3])


def test_a_head_that_a_model_may_go_without_is_left_out_by_name_or_by_the_checkpoint(whole_model):
    without = {name: value for name, value in whole_model.items() if not name.startswith(OPTIONAL_GROUPS)}
    bare = convert_pixelllm(without)
    assert not any(name.startswith(("mask_head.", "proposal_head.")) for name in bare)
    assert convert_pixelllm(whole_model, skip_groups=OPTIONAL_GROUPS).keys() == bare.keys()


def test_half_a_head_that_a_model_may_go_without_is_an_error(whole_model):
    lacking = "mask_decoder/iou_prediction_head/layers.1/kernel"
    with pytest.raises(ScenicNamesError) as error:
        convert_pixelllm({name: value for name, value in whole_model.items() if name != lacking})
    assert error.value.missing == (lacking.removeprefix("mask_decoder/"),)


def test_a_group_of_the_model_itself_cannot_be_left_out(whole_model):
    with pytest.raises(ValueError, match="point_predictor"):
        convert_pixelllm(whole_model, skip_groups=["point_predictor"])


def test_a_group_that_nobody_knows_is_an_error(whole_model):
    with pytest.raises(ScenicNamesError, match="optimizer/step"):
        convert_pixelllm(whole_model | {"optimizer/step": torch.zeros(1)}, skip_groups=OPTIONAL_GROUPS)


def test_every_weight_survives_the_way_there_and_back(whole_model):
    back = restore_pixelllm(whole_model, convert_pixelllm(whole_model))
    assert back.keys() == whole_model.keys()
    for name, value in whole_model.items():
        assert torch.equal(back[name], value), name


def test_no_two_official_tensors_get_the_same_name(whole_model):
    for group in GROUPS:
        names = [name.removeprefix(f"{group}/") for name in whole_model if name.startswith(f"{group}/")]
        targets = [move.target for move in name_map(group, names)]
        assert len(set(targets)) == len(targets)


def test_merged_lora_computes_what_the_adapter_computes():
    file = golden("t5_text_head")
    config, lora = t5_config(file.hparams), ScenicLora.from_hparams(file.hparams)
    visual = file.inputs["visual_features"]
    merged = T5PrefixLanguageModel(config, visual.shape[-1]).eval()
    load_text_head(merged, convert_module("textual", file.params, merge_lora=lora))
    adapted = T5PrefixLanguageModel(config, visual.shape[-1])
    adapted = inject_adapter_in_model(lora_config(file.hparams), adapted).eval()
    load_text_head(adapted, convert_module("textual", file.params))
    prefix = merged.embed_prompt(visual)
    torch.testing.assert_close(merged.encode(*prefix), adapted.encode(*prefix), rtol=1e-4, atol=1e-4)


def test_encoder_and_decoder_lora_keep_their_own_rank_and_scale():
    lora = ScenicLora(encoder_rank=4, decoder_rank=3, encoder_scale=2.0, decoder_scale=1.5, decoder_modules=("q", "k"))
    config = t5_config(golden("t5_text_head").hparams)
    model = inject_adapter_in_model(lora.peft_config(), T5PrefixLanguageModel(config, 16))
    ranks = {
        name: module for name, module in model.named_modules() if hasattr(module, "lora_A") and hasattr(module, "r")
    }
    assert {module.r["default"] for name, module in ranks.items() if ".encoder." in name} == {4}
    assert {module.r["default"] for name, module in ranks.items() if ".decoder." in name} == {3}
    assert {module.scaling["default"] for name, module in ranks.items() if ".decoder." in name} == {1.5}
    assert {name.rpartition(".")[2] for name in ranks if ".decoder." in name} == {"q", "k"}


def test_windowed_blocks_become_the_complement_of_the_global_ones():
    assert tuple(sam_config({"depth": 5, "window_block_indexes": [0, 2, 3]}).global_attn_indexes) == (1, 4)


def test_hyper_parameters_without_sizes_give_the_released_recipe():
    released = pixelllm_config(
        {"model": {"text_decoder_name": "flan_t5_xl", "vocab_size": 32128, "text_decoder_args": {"vocab_size": 32128}}}
    )
    ours = PixelLLMConfig.t5_xl()
    assert released.vision_config.towers[0].intermediate_size == ours.vision_config.towers[0].intermediate_size
    assert released.prompt_config.to_dict() == ours.prompt_config.to_dict()
    assert released.point_head_config.to_dict() == ours.point_head_config.to_dict()
    for size in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads"):
        assert getattr(released.text_config, size) == getattr(ours.text_config, size)


@pytest.mark.parametrize("hparams", [{"mlp_activations": ["relu"]}, {"logits_via_embedding": True}, {"emb_dim": 8}])
def test_a_t5_that_we_cannot_build_is_an_error(hparams):
    with pytest.raises(ValueError, match="T5"):
        t5_config(hparams)


def test_the_box_decoder_of_the_released_recipe_is_the_default():
    released = {
        "num_classes": -1,
        "roi_num_classes": 1,
        "strides": [8, 16, 32, 64, 128],
        "hm_weight": 0.5,
        "reg_weight": 1.0,
        "score_thresh": 0.0001,
        "iou_thresh": 0.9,
        "roi_matching_threshold": [0.6],
        "roi_nms_threshold": 0.5,
        "fpn_args": {"out_channels": 256},
        "num_text_proposals": 32,
        "mult_caption_score": False,
    }
    config, default = proposal_head_config(released).to_dict(), PixelLLMProposalHeadConfig().to_dict()
    assert {name: value for name, value in config.items() if not isinstance(value, list | tuple)} == {
        name: value for name, value in default.items() if not isinstance(value, list | tuple)
    }
    assert list(config["strides"]) == list(default["strides"])


def test_a_box_decoder_of_several_classes_is_refused():
    with pytest.raises(ValueError, match="one class"):
        proposal_head_config({"roi_num_classes": 80})
