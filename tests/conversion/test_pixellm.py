"""Released names of a PixelLM, written down here once more and filled with random weights, load whole."""

from __future__ import annotations

import pytest
import torch

from pixelllm_hf.conversion.pixellm import ReleasedNamesError, convert_pixellm
from pixelllm_hf.modeling.configuration_pixellm import PixelLMConfig
from pixelllm_hf.modeling.modeling_pixellm import PixelLMForReasoningSegmentation
from pixelllm_hf.modeling.vision_clip import resize_positions

CONFIG = PixelLMConfig.for_tests()
OUR_NECK = {"0.weight": "0.weight", "0.norm": "1", "1.weight": "2.weight", "1.norm": "3"}


@pytest.fixture
def model() -> PixelLMForReasoningSegmentation:
    torch.manual_seed(0)
    return PixelLMForReasoningSegmentation(CONFIG)


def released(model: PixelLMForReasoningSegmentation) -> dict[str, torch.Tensor]:
    """The model under the official program's names, with what that one saves besides."""
    names = {}
    for name, value in model.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "language_model":
            names[rest] = value
        elif part == "vision_tower":
            names[f"model.vision_tower.vision_tower.{rest}"] = value
        elif name.endswith(("level_scales", "token_scales")):
            continue
        elif part == "target_projection":
            names[f"model.text_hidden_fcs.0.{rest.removeprefix('text_hidden_fcs.')}"] = value
        elif part == "image_feature_neck":
            layer = next(ours for ours in OUR_NECK if rest.startswith(ours))
            names[f"model.{part}.{rest.replace(layer, OUR_NECK[layer])}"] = value
        elif rest.startswith(("no_mask_embed.", "pe_layer.")):
            names[f"model.prompt_encoder.{rest}"] = value
        else:
            names[f"model.{name}"] = value
    names["model.mask_decoder.iou_prediction_head.layers.0.weight"] = torch.zeros(3, 3)
    names["model.prompt_encoder.point_embeddings.0.weight"] = torch.zeros(1, 16)
    names["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
    return names


def test_released_names_load_whole_and_equal(model):
    converted = convert_pixellm(released(model), CONFIG)
    ours = model.state_dict()
    assert converted.keys() == ours.keys()
    assert all(torch.equal(converted[name], ours[name]) for name in ours)


def test_lora_beside_the_weights_is_merged_with_its_scale(model):
    names = {f"base_model.model.{name}": value for name, value in released(model).items()}
    module = "base_model.model.model.layers.1.self_attn.q_proj"
    weight = names.pop(f"{module}.weight")
    a, b = torch.randn(2, 16), torch.randn(16, 2)
    names |= {f"{module}.base_layer.weight": weight}
    names |= {f"{module}.lora_A.default.weight": a, f"{module}.lora_B.default.weight": b}
    converted = convert_pixellm(names, CONFIG)
    merged = converted["language_model.model.layers.1.self_attn.q_proj.weight"]
    torch.testing.assert_close(merged, weight + 2 * b @ a)


@pytest.mark.parametrize("first", ["modules_to_save.default", "original_module"])
def test_of_a_module_that_peft_trained_whole_the_trained_weights_count_in_any_order(model, first):
    names = {f"base_model.model.{name}": value for name, value in released(model).items()}
    head = "base_model.model.lm_head"
    trained = names.pop(f"{head}.weight")
    copies = {f"{head}.modules_to_save.default.weight": trained, f"{head}.original_module.weight": trained + 1}
    names |= dict(sorted(copies.items(), key=lambda copy: first not in copy[0]))
    converted = convert_pixellm(names, CONFIG)
    assert torch.equal(converted["language_model.lm_head.weight"], trained)


def test_lora_of_another_base_is_refused_by_name(model):
    names = released(model)
    module = "model.layers.0.self_attn.v_proj"
    names |= {f"{module}.lora_A.weight": torch.zeros(2, 8), f"{module}.lora_B.weight": torch.zeros(8, 2)}
    with pytest.raises(ReleasedNamesError, match=rf"{module}.*another base model"):
        convert_pixellm(names, CONFIG)


@pytest.mark.parametrize("class_row", ["first", "last"])
def test_clips_own_weights_fill_the_tower_and_its_positions_are_resized(model, class_row):
    names = {name: value for name, value in released(model).items() if "vision_tower" not in name}
    clip = {f"vision_model.{name}": value for name, value in model.vision_tower.vision_model.state_dict().items()}
    small = torch.randn(17, 16)
    clip["vision_model.embeddings.position_embedding.weight"] = small
    converted = convert_pixellm(names, CONFIG, clip=clip, class_row=class_row)
    positions = converted["vision_tower.vision_model.embeddings.position_embedding.weight"]
    torch.testing.assert_close(positions, resize_positions(small, 8, class_row=class_row))


def test_a_checkpoint_without_clip_says_where_to_get_it(model):
    names = {name: value for name, value in released(model).items() if "vision_tower" not in name}
    with pytest.raises(ReleasedNamesError, match="give them as clip"):
        convert_pixellm(names, CONFIG)


def test_an_unknown_name_is_refused(model):
    with pytest.raises(ReleasedNamesError, match=r"model\.visual_model\.x"):
        convert_pixellm(released(model) | {"model.visual_model.x": torch.zeros(1)}, CONFIG)


def test_a_missing_name_is_refused(model):
    names = released(model)
    del names["model.mask_decoder.iou_token.weight"]
    with pytest.raises(ReleasedNamesError, match=r"mask_decoder\.iou_token\.weight"):
        convert_pixellm(names, CONFIG)


def test_a_tensor_of_another_shape_is_refused(model):
    names = released(model)
    names["lm_head.weight"] = torch.zeros(50, 16)
    with pytest.raises(ReleasedNamesError, match=r"lm_head\.weight has shape \(50, 16\)"):
        convert_pixellm(names, CONFIG)
