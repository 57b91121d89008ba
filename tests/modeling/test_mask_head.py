from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pixelllm_hf.conversion.parity.golden import Golden
from pixelllm_hf.conversion.parity.masks import official_mask_head
from pixelllm_hf.conversion.scenic_hparams import mask_head_config
from pixelllm_hf.modeling.configuration_heads import PixelLLMMaskHeadConfig
from pixelllm_hf.modeling.mask_head import MaskAdapter, MaskHead, MaskHeadOutput, SamMaskDecoder

GOLDEN = Path(__file__).parents[1] / "golden" / "pixelllm" / "mask_adapter_decoder.safetensors"


@pytest.fixture
def golden() -> Golden:
    return Golden.read(GOLDEN)


@pytest.fixture
def head(golden) -> MaskHead:
    return official_mask_head(mask_head_config(golden.hparams, golden.hparams), golden.params, 32)


def image_side(golden: Golden) -> tuple[Tensor, Tensor, Tensor]:
    return golden.inputs["image_embeddings"], golden.inputs["image_pe"], golden.inputs["dense_prompt_embedding"]


def rows(golden: Golden, *names: str) -> tuple[Tensor, ...]:
    """Inputs (B,N,…) as rows (R,…), then the image of each row."""
    given = [golden.inputs[name] for name in names]
    images, prompts = given[0].shape[:2]
    return (*(value.flatten(0, 1) for value in given), torch.arange(images).repeat_interleave(prompts))


def small_config(**overrides) -> PixelLLMMaskHeadConfig:
    sizes = dict(hidden_size=16, num_attention_heads=2, intermediate_size=24, head_hidden_size=12)
    return PixelLLMMaskHeadConfig(**(sizes | overrides))


def random_decoder() -> SamMaskDecoder:
    """A small decoder with random weights everywhere."""
    torch.manual_seed(0)
    decoder = SamMaskDecoder(small_config()).eval()
    for weight in decoder.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return decoder


def decoder_inputs(image_of_row: list[int]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    shapes = (3, 4, 5, 16), (4, 5, 16), (1, 16), (len(image_of_row), 2, 16)
    return *(torch.randn(shape, generator=generator) for shape in shapes), torch.tensor(image_of_row, dtype=torch.long)


# --- the reference ----------------------------------------------------------------------------------------------


def test_adapted_box_tokens_equal_the_reference(golden, head):
    box_tokens, visual, states, _ = rows(golden, "sparse_embedding", "visual_features", "text_feats")
    adapted = head.adapter(box_tokens, visual, states)
    torch.testing.assert_close(adapted, golden.outputs["adapted_sparse"].flatten(0, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("name", "several"), [("single", False), ("multi", True)])
def test_masks_and_their_predicted_iou_equal_the_reference(golden, head, name, several):
    box_tokens, visual, states, of_row = rows(golden, "sparse_embedding", "visual_features", "text_feats")
    output = head(*image_side(golden), box_tokens, visual, states, of_row, multimask_output=several)
    torch.testing.assert_close(output.logits, golden.outputs[f"masks_{name}"].flatten(0, 1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(output.iou_predictions, golden.outputs[f"iou_{name}"].flatten(0, 1), atol=1e-5, rtol=0)


# --- adapter ----------------------------------------------------------------------------------------------------


def test_a_new_adapter_leaves_the_box_as_it_is():
    adapter = MaskAdapter(small_config(), visual_width=24, text_width=20)
    box_tokens = torch.randn(3, 2, 16)
    assert torch.equal(adapter(box_tokens, torch.randn(3, 6, 24), torch.randn(3, 9, 20)), box_tokens)


def test_a_new_adapter_can_learn_to_open_its_gate():
    adapter = MaskAdapter(small_config(), visual_width=24, text_width=20)
    adapter(torch.randn(3, 2, 16), torch.randn(3, 6, 24), torch.randn(3, 9, 20)).square().sum().backward()
    assert adapter.alpha.grad.abs().min() > 0


def test_the_adapter_reads_the_states_of_padding_too(golden, head):
    box_tokens, visual, states, _ = rows(golden, "sparse_embedding", "visual_features", "text_feats")
    whole, shorter = head.adapter(box_tokens, visual, states), head.adapter(box_tokens, visual, states[:, :-1])
    assert (whole - shorter).abs().amax((1, 2)).min() > 1e-3


def test_the_adapter_does_not_know_the_order_of_words(golden, head):
    box_tokens, visual, states, _ = rows(golden, "sparse_embedding", "visual_features", "text_feats")
    torch.testing.assert_close(
        head.adapter(box_tokens, visual, states.flip(1)), head.adapter(box_tokens, visual, states), atol=1e-5, rtol=1e-5
    )


# --- decoder ----------------------------------------------------------------------------------------------------


def test_a_mask_does_not_depend_on_its_neighbours():
    decoder = random_decoder()
    *image, sparse, of_row = decoder_inputs([0, 2, 2, 1, 0])
    together = decoder(*image, sparse, of_row)
    for row in range(len(of_row)):
        alone = decoder(*image, sparse[row : row + 1], of_row[row : row + 1])
        torch.testing.assert_close(together.logits[row : row + 1], alone.logits)
        torch.testing.assert_close(together.iou_predictions[row : row + 1], alone.iou_predictions)


@pytest.mark.parametrize("chunk_size", [1, 2, 4, 100])
def test_portions_of_rows_change_no_mask(chunk_size):
    decoder, inputs = random_decoder(), decoder_inputs([0, 2, 2, 1, 0])
    whole = decoder(*inputs, multimask_output=True)  # with gradients there are no chunks
    with torch.no_grad():
        chunks = decoder(*inputs, multimask_output=True, chunk_size=chunk_size)
    torch.testing.assert_close(chunks.logits, whole.logits)
    torch.testing.assert_close(chunks.iou_predictions, whole.iou_predictions)


def test_memory_does_not_grow_with_the_number_of_prompts():
    decoder, inputs = random_decoder(), decoder_inputs([0] * 9 + [1] * 3)
    largest = 0

    def watch(module, args, output):
        nonlocal largest
        largest = max(largest, len(output))

    decoder.output_upscaling.register_forward_hook(watch)
    with torch.no_grad():
        assert len(decoder(*inputs, chunk_size=4).logits) == 12
    assert largest == 4


def test_an_image_is_projected_once_for_all_its_prompts():
    decoder, inputs = random_decoder(), decoder_inputs([2, 2, 2, 0, 0, 0, 0])
    seen = []
    attention = decoder.transformer.layers[0].cross_attn_token_to_image
    attention.k_proj.register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape[0]))
    decoder(*inputs)
    assert seen == [2]  # two images with prompts, seven prompts, three images


def test_the_single_mask_is_none_of_the_several():
    decoder, inputs = random_decoder(), decoder_inputs([0, 1])
    one, several = decoder(*inputs), decoder(*inputs, multimask_output=True)
    assert one.logits.shape == (2, 1, 16, 20) and one.iou_predictions.shape == (2, 1)
    assert several.logits.shape == (2, 3, 16, 20) and several.iou_predictions.shape == (2, 3)
    assert (several.logits - one.logits).abs().amax((0, 2, 3)).min() > 1e-3


def test_no_prompts_give_no_masks():
    with torch.no_grad():
        output = random_decoder()(*decoder_inputs([]))
    assert output.logits.shape == (0, 1, 16, 20)
    assert output.iou_predictions.shape == (0, 1)


def test_half_precision_gives_nearly_the_same_mask():
    decoder, inputs = random_decoder(), decoder_inputs([0, 2, 1])
    exact = decoder(*inputs).logits
    *floats, of_row = inputs
    half = decoder.bfloat16()(floats[0].bfloat16(), *floats[1:], of_row).logits
    assert half.dtype == torch.bfloat16
    assert ((half > 0) == (exact > 0)).float().mean() > 0.9


def test_a_map_of_another_width_is_an_error_that_names_the_config():
    image, *rest = decoder_inputs([0])
    with pytest.raises(ValueError, match="hidden_size of mask_head_config"):
        random_decoder()(image[..., :8], *rest)


def test_the_best_mask_is_the_one_that_promises_most():
    logits = torch.arange(3.0)[None, :, None, None].expand(2, 3, 4, 4)
    best, iou = MaskHeadOutput(logits, torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.1, 0.4]])).best()
    assert best[:, 0, 0].tolist() == [1.0, 2.0]
    torch.testing.assert_close(iou, torch.tensor([0.9, 0.4]))


@pytest.mark.parametrize("hparams", [{"num_outputs": 3}, {"gating": False}])
def test_an_adapter_that_no_released_model_has_is_refused(hparams):
    with pytest.raises(ValueError, match="two tokens"):
        mask_head_config(hparams, {})
