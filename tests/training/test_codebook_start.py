from __future__ import annotations

import pytest
import torch

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.training.codebook_start import with_codebook
from pixelllm_hf.training.recipe_values import ConfigError

SIZES = dict(
    hidden_size=16, num_attention_heads=2, intermediate_size=24, tokens_per_scale=2, token_ids=[90, 91, 92, 93]
)


@pytest.fixture(scope="module")
def model() -> PixelLLMForGroundedGeneration:
    torch.manual_seed(0)
    return PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests()).eval()


def test_a_codebook_begins_with_the_language_of_the_model_and_the_decoder_of_its_mask_head(model):
    made = with_codebook(model, SIZES)
    assert made.mask_head is None and made.proposal_head is None
    for name, tensor in made.language_model.body.state_dict().items():
        assert torch.equal(tensor, model.language_model.body.state_dict()[name])
    ours, theirs = made.codebook_head.decoder, model.mask_head.decoder
    for transformer in ours.transformer:
        for name, tensor in theirs.transformer.state_dict().items():
            assert torch.equal(transformer.state_dict()[name], tensor)
    matrix = model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    assert torch.equal(ours.pe1.positional_encoding_gaussian_matrix, matrix)


def test_its_necks_hand_on_mostly_the_map_that_masks_were_made_of(model):
    made = with_codebook(model, SIZES)
    features = made.get_image_features(torch.rand(1, 3, 64, 64) * 255)
    mask_map = features[made.config.vision_config.mask_map]
    plain = torch.nn.functional.layer_norm(mask_map, mask_map.shape[-1:])
    for level in made.codebook_head.level_maps(features):
        alike = torch.nn.functional.cosine_similarity(
            torch.nn.functional.interpolate(plain.permute(0, 3, 1, 2), level.shape[1:3]).flatten(),
            level.permute(0, 3, 1, 2).flatten(),
            dim=0,
        )
        assert alike > 0.5


@pytest.mark.parametrize("changes", [{"hidden_size": 32}, {"num_hidden_layers": 1}])
def test_a_codebook_of_other_sizes_is_refused(model, changes):
    with pytest.raises(ConfigError, match="sizes of the model's mask head, 16 wide"):
        with_codebook(model, SIZES | changes)


def test_a_model_without_a_mask_head_is_refused():
    bare = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(mask_head_config=None))
    with pytest.raises(ConfigError, match="this model has none"):
        with_codebook(bare, SIZES)
