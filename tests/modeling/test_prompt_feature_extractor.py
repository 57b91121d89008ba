from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pixelllm_hf.conversion.parity.golden import Golden
from pixelllm_hf.conversion.parity.heads import dense_outputs
from pixelllm_hf.conversion.scenic import convert_module
from pixelllm_hf.conversion.scenic_hparams import prompt_config
from pixelllm_hf.modeling.prompt_feature_extractor import PromptFeatureExtractor

GOLDEN = Path(__file__).parents[1] / "golden" / "pixelllm" / "prompt_adapter.safetensors"


@pytest.fixture
def golden() -> Golden:
    return Golden.read(GOLDEN)


@pytest.fixture
def extractor(golden) -> PromptFeatureExtractor:
    channels = golden.inputs["image_embeddings"].shape[-1]
    extractor = PromptFeatureExtractor(prompt_config(golden.hparams), channels).eval()
    extractor.load_state_dict(convert_module("prompt_adapter", golden.params))
    return extractor


def golden_inputs(golden: Golden) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One image, all of its prompts valid."""
    inputs = golden.inputs
    sparse = inputs["sparse_prompt_embeddings"][None]
    prompt_mask = torch.ones(sparse.shape[:2], dtype=torch.bool)
    image = inputs["image_embeddings"][None]
    return image, inputs["image_pe"], sparse, inputs["dense_prompt_embeddings"], prompt_mask


def test_visual_tokens_equal_the_reference(golden, extractor):
    tokens, _ = extractor(*golden_inputs(golden))
    torch.testing.assert_close(tokens, golden.outputs["sparse_outputs"], atol=1e-5, rtol=1e-5)


def test_the_map_that_prompts_leave_behind_equals_the_reference(golden, extractor):
    dense = dense_outputs(extractor, *golden_inputs(golden))
    torch.testing.assert_close(dense, golden.outputs["dense_outputs"], atol=1e-5, rtol=1e-5)


def test_rows_are_the_valid_prompts_image_after_image(golden, extractor):
    image, positions, sparse, dense, _ = golden_inputs(golden)
    images = torch.cat([image, image.flip(1)])
    prompts = torch.cat([sparse, sparse.flip(1)])
    prompt_mask = torch.tensor([[True, False, True], [False, True, False]])
    rows, _ = extractor(images, positions, prompts, dense, prompt_mask)
    one = torch.ones(1, 1, dtype=torch.bool)
    alone = [
        extractor(images[b : b + 1], positions, prompts[b : b + 1, n : n + 1], dense, one)[0]
        for b, n in ((0, 0), (0, 2), (1, 1))
    ]
    torch.testing.assert_close(rows, torch.cat(alone))


def test_an_invalid_prompt_costs_nothing_and_may_hold_anything(golden, extractor):
    image, positions, sparse, dense, _ = golden_inputs(golden)
    prompt_mask = torch.tensor([[True, False, True]])
    poisoned = sparse.clone()
    poisoned[:, 1] = torch.nan
    rows_seen = []
    extractor.transformer.register_forward_pre_hook(lambda _, args: rows_seen.append(len(args[2])))
    torch.testing.assert_close(
        extractor(image, positions, poisoned, dense, prompt_mask)[0],
        extractor(image, positions, sparse, dense, prompt_mask)[0],
    )
    assert rows_seen == [2, 2]


def test_the_map_is_projected_once_per_image(golden, extractor):
    images_seen = []
    for module in (
        extractor.image_projection_mlp,
        extractor.transformer.layers[0].cross_attn_token_to_image.k_proj,
        extractor.transformer.layers[0].cross_attn_image_to_token.q_proj,
    ):
        module.register_forward_pre_hook(lambda _, args: images_seen.append(len(args[0])))
    extractor(*golden_inputs(golden))
    assert images_seen == [1, 1, 1]


def test_one_prompt_per_image_needs_no_list_of_images(golden, extractor):
    image, positions, sparse, dense, _ = golden_inputs(golden)
    images, prompts = torch.cat([image, image.flip(1)]), sparse[0, :2, None]
    both, _ = extractor(images, positions, prompts, dense, torch.ones(2, 1, dtype=torch.bool))
    second, _ = extractor(images, positions, prompts, dense, torch.tensor([[False], [True]]))
    torch.testing.assert_close(both[1:], second)


def test_half_precision_maps_give_half_precision_tokens(golden, extractor):
    image, *rest = golden_inputs(golden)
    tokens, _ = extractor.bfloat16()(image.bfloat16(), *rest)
    assert tokens.dtype == torch.bfloat16
    torch.testing.assert_close(tokens.float(), golden.outputs["sparse_outputs"], atol=0.1, rtol=0.1)
