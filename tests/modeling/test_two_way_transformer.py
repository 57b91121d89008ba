from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pixelllm_hf.modeling.two_way_transformer import TwoWayTransformer


def random_transformer(**overrides) -> TwoWayTransformer:
    """Three layers with random weights everywhere, norms and biases too."""
    torch.manual_seed(0)
    transformer = TwoWayTransformer(3, 16, 4, 24, **overrides).eval()
    for weight in transformer.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return transformer


def random_inputs(images: int = 2, rows: int = 5, cells: int = 9, tokens: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shapes = (images, cells, 16), (1, cells, 16), (rows, tokens, 16)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def test_rows_that_share_an_image_get_what_they_get_with_a_copy_of_their_own():
    transformer, (images, positions, tokens) = random_transformer(), random_inputs()
    image_of_row = torch.tensor([0, 0, 1, 0, 1])
    shared = transformer(images, positions, tokens, image_of_row)
    copied = transformer(images[image_of_row], positions, tokens)
    torch.testing.assert_close(shared, copied)


def test_sharing_an_image_changes_no_gradient():
    transformer, (images, positions, tokens) = random_transformer(), random_inputs()
    image_of_row = torch.tensor([1, 0, 1, 1, 0])
    gradients = []
    for share in (True, False):
        leaf = images.clone().requires_grad_()
        given = (leaf, positions, tokens, image_of_row) if share else (leaf[image_of_row], positions, tokens)
        seen, image = transformer(*given)
        (seen.square().mean() + image.square().mean()).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def test_a_row_does_not_depend_on_its_neighbours():
    transformer, (images, positions, tokens) = random_transformer(), random_inputs()
    together = transformer(images, positions, tokens, torch.tensor([0, 0, 1, 0, 1]))
    alone = transformer(images[1:], positions, tokens[2:3])
    for rows, row in zip(together, alone, strict=True):
        torch.testing.assert_close(rows[2:3], row)


def test_the_order_of_cells_does_not_matter_as_long_as_their_positions_come_along():
    transformer, (images, positions, tokens) = random_transformer(), random_inputs(rows=2)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    seen, image = transformer(images, positions, tokens)
    seen_shuffled, image_shuffled = transformer(images[:, order], positions[:, order], tokens)
    torch.testing.assert_close(seen_shuffled, seen)
    torch.testing.assert_close(image_shuffled, image[:, order])


def test_positions_of_cells_matter():
    transformer, (images, positions, tokens) = random_transformer(), random_inputs(rows=2)
    seen, _ = transformer(images, positions, tokens)
    moved, _ = transformer(images, positions.flip(1), tokens)
    assert (seen - moved).abs().max() > 1e-2


def test_the_first_self_attention_replaces_the_tokens():
    transformer, (images, positions, tokens) = random_transformer(), random_inputs(rows=2)
    layer = transformer.layers[0]
    torch.nn.init.zeros_(layer.self_attn.out_proj.weight)
    torch.nn.init.zeros_(layer.norm1.weight)
    entered = []
    layer.norm1.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    transformer(images, positions, tokens)
    bias = layer.self_attn.out_proj.bias
    torch.testing.assert_close(entered[0], bias.expand_as(entered[0]))  # no trace of the tokens that came in


@pytest.mark.parametrize("rate", [1, 2])
def test_only_the_cross_attentions_are_narrowed(rate):
    layer = random_transformer(attention_downsample_rate=rate).layers[0]
    assert layer.self_attn.q_proj.out_features == 16
    assert layer.cross_attn_token_to_image.q_proj.out_features == 16 // rate
    assert layer.cross_attn_image_to_token.q_proj.out_features == 16 // rate


def test_a_width_that_the_heads_cannot_share_is_refused():
    with pytest.raises(ValueError, match="multiple of num_heads=8, but it is 4"):
        TwoWayTransformer(1, 8, 8, 16)
