from __future__ import annotations

import pytest
import torch

from pixelllm_hf.modeling.codebook_decoder import resize_logits
from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.modeling.target_masks import AnswerTargets, joined_targets

GROUP = [90, 91, 92, 93]
SMALL = dict(
    token_ids=GROUP,
    tokens_per_scale=2,
    hidden_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=24,
)


def config(**changes) -> PixelLLMConfig:
    return PixelLLMConfig.for_tests(**({"codebook_config": SMALL} | changes))


def made(**changes) -> PixelLLMForGroundedGeneration:
    torch.manual_seed(0)
    model = PixelLLMForGroundedGeneration(config(**changes)).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("gaussian_matrix"):
            buffer.normal_()
    return model


def images(count: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    pixel_mask = torch.ones(count, 64, 64, dtype=torch.bool)
    pixel_mask[:, 40:] = False
    return {
        "pixel_values": torch.rand(count, 3, 64, 64, generator=generator) * 255,
        "pixel_mask": pixel_mask,
        "input_ids": torch.arange(5, 8).repeat(count, 1),
    }


def answers(*rows: list[int]) -> torch.Tensor:
    labels = torch.full((len(rows), max(map(len, rows))), -100)
    for target, row in zip(labels, rows, strict=True):
        target[: len(row)] = torch.tensor(row)
    return labels


def masks_for(count: int) -> torch.Tensor:
    masks = torch.zeros(count, 64, 64)
    for index, mask in enumerate(masks):
        mask[8 * index : 8 * index + 16, 4 : 4 + 12 * (index + 1)] = 1
    return masks


@pytest.fixture(scope="module")
def model() -> PixelLLMForGroundedGeneration:
    """Its answers begin with a target."""
    model = made()
    with torch.no_grad():
        begun = model(**images(3), labels=answers([1], [1], [1])).decoder_states[:, 0]
        model.language_model.target_tokens.output[0] = 2 * begun.mean(0)
    return model


@pytest.mark.parametrize("head", ["codebook", "sam"])
def test_four_answers_are_learnt_by_heart(head):
    # masks are made of an eighth of the decoder's width: 16 channels would leave two
    wide = dict(hidden_size=64, num_attention_heads=4, intermediate_size=64)
    sam = PixelLLMConfig.for_tests().mask_head_config.to_dict() | wide | {"head_hidden_size": 64}
    prompt = PixelLLMConfig.for_tests().prompt_config.to_dict() | {"embed_dim": 64}
    changes = dict(mask_head_config=sam, prompt_config=prompt) if head == "sam" else {}
    model = made(codebook_config=SMALL | wide, segmentation_head=head, label_smoothing=0.0, **changes).train()
    inputs = images(4) | {
        "input_ids": torch.arange(5, 17).view(4, 3),  # questions that differ
        "labels": answers([7, *GROUP, 8, *GROUP, 1], [9, *GROUP, 1], [10, *GROUP, 1], [11, 1]),
        "target_mask_labels": masks_for(4),
    }
    inputs["image_features"] = model.get_image_features(inputs["pixel_values"], inputs["pixel_mask"])
    inputs["image_features"].fused = inputs["image_features"].fused.detach()
    inputs["image_features"].maps = {name: value.detach() for name, value in inputs["image_features"].maps.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    first = None
    for _ in range(70):
        output = model(**inputs)
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        first = first or {name: part.item() for name, part in output.loss_parts.items()}
    assert output.loss_parts["text"].item() < 0.1 * first["text"]
    assert output.loss_parts["target"].item() < 0.3 * first["target"]
    assert model.language_model.target_tokens.embedding.grad.abs().sum() > 0
    written = model.eval().generate(**{k: v for k, v in inputs.items() if "label" not in k}, max_new_tokens=12)
    assert written.targets.row_of_target.tolist() == [0, 0, 1, 2]
    inside = resize_logits(written.targets.mask_logits, (64, 64)) > 0
    truth = masks_for(4) > 0
    inside, truth = inside[:, :40], truth[:, :40]
    assert ((inside & truth).sum((1, 2)) / (inside | truth).sum((1, 2))).min() > 0.8


@torch.no_grad()
def test_an_answer_and_its_masks_do_not_depend_on_their_neighbours(model):
    inputs = images(3)
    together = model.generate(**inputs, max_new_tokens=11)
    assert len(together.targets.row_of_target) >= 3
    for row in range(3):
        alone = model.generate(**{name: value[row : row + 1] for name, value in inputs.items()}, max_new_tokens=11)
        own = together.targets.row_of_target == row
        length = alone.sequences.shape[1]
        assert torch.equal(together.sequences[row, :length], alone.sequences[0])
        assert torch.equal(together.targets.target_positions[own], alone.targets.target_positions)
        torch.testing.assert_close(together.targets.mask_logits[own], alone.targets.mask_logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_portions_of_prompts_give_the_same_targets(model):
    inputs = images(3)
    whole = model.generate(**inputs, max_new_tokens=11).targets
    chunks = model.generate(**inputs, max_new_tokens=11, prompt_chunk_size=2).targets
    assert whole.keys() == chunks.keys()
    for name in whole:
        torch.testing.assert_close(whole[name], chunks[name], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_return_sequences": 2, "num_beams": 2}])
@pytest.mark.parametrize("state", ["predicting", "consumed"])
def test_masks_are_those_of_a_second_reading_of_the_answer(model, options, state):
    inputs, head = images(2), model.codebook_head
    was, head.config.target_state = head.config.target_state, state
    try:
        output = model.generate(**inputs, max_new_tokens=10, **options)
        copies = len(output.sequences) // 2
        again = {name: value.repeat_interleave(copies, 0) for name, value in inputs.items()}
        read = model.generate(**again, query_ids=output.sequences[:, 1:])
    finally:
        head.config.target_state = was
    assert len(output.targets.row_of_target)
    assert torch.equal(output.targets.target_positions, read.targets.target_positions)
    torch.testing.assert_close(output.targets.mask_logits, read.targets.mask_logits, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_target_that_is_begun_is_written_whole_and_one_that_is_cut_off_is_marked(model):
    inputs = images(1)
    whole = model.generate(**inputs, max_new_tokens=4)
    assert len(whole.targets.row_of_target) == 1 and not whole.targets.incomplete.any()
    start = int(whole.targets.target_positions[0, 0])
    cut = model.generate(**inputs, max_new_tokens=start + 1)
    assert cut.targets.incomplete.tolist() == [True] and len(cut.targets.row_of_target) == 0
    assert cut.targets.mask_logits.shape[0] == 0
    free = model.generate(**inputs, max_new_tokens=4, complete_groups=False)
    assert not torch.equal(free.sequences, whole.sequences)


@torch.no_grad()
def test_what_was_cut_off_changes_nothing_for_the_other_rows(model):
    inputs = images(2)
    query = torch.tensor([[7, *GROUP, 8, *GROUP[:2]], [7, *GROUP, 8, 9, 1]])
    targets = model.generate(**inputs, query_ids=query).targets
    assert targets.row_of_target.tolist() == [0, 1] and targets.incomplete.tolist() == [True, False]
    alone = model.generate(**{k: v[1:] for k, v in inputs.items()}, query_ids=query[1:]).targets
    torch.testing.assert_close(targets.mask_logits[1:], alone.mask_logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", ["codebook", "sam"])
def test_saving_and_loading_changes_no_bit(head, tmp_path):
    ours = made(segmentation_head=head)
    ours.save_pretrained(tmp_path)
    loaded = PixelLLMForGroundedGeneration.from_pretrained(tmp_path).eval()
    assert loaded.config.segmentation_head == head
    mine, theirs = ours.state_dict(), loaded.state_dict()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    inputs = images(2)
    first, second = (one.generate(**inputs, max_new_tokens=8) for one in (ours, loaded))
    assert torch.equal(first.sequences, second.sequences)
    assert torch.equal(first.targets.mask_logits, second.targets.mask_logits)


@torch.no_grad()
def test_the_codebooks_tokens_are_no_words_of_the_vocabulary(model):
    ids = torch.tensor([[5, 90, 6]])
    words = model.get_input_embeddings()(ids)
    embedded = model.language_model.target_tokens.embed(ids, words)
    assert torch.equal(embedded[0, [0, 2]], words[0, [0, 2]])
    torch.testing.assert_close(embedded[0, 1], model.language_model.target_tokens.embedding[0])


def test_pixels_that_two_targets_of_an_answer_claim_weigh_as_the_config_says():
    inputs = images(1) | {"labels": answers([7, *GROUP, 8, *GROUP, 1]), "target_mask_labels": masks_for(2)}
    losses = []
    for alpha in (1.0, 2.0):
        model = made(codebook_config=SMALL | {"refinement_alpha": alpha})
        with torch.no_grad():
            model.codebook_head.decoder.output_upscaling[0].bias += 1
            losses.append(model(**inputs).loss_parts["target"].item())
    assert losses[1] >= losses[0]


def test_joined_targets_count_rows_on():
    def chunk(rows):
        count = len(rows)
        return {
            "row_of_target": torch.tensor(rows, dtype=torch.long),
            "target_positions": torch.zeros(count, 4),
            "mask_logits": torch.zeros(count, 2, 2),
            "mask_scores": torch.zeros(count),
            "incomplete": torch.zeros(2, dtype=torch.bool),
        }

    joined = joined_targets([AnswerTargets(**chunk([0, 1])), AnswerTargets(**chunk([1]))])
    assert joined.row_of_target.tolist() == [0, 1, 3] and len(joined.incomplete) == 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook_config": SMALL | {"token_ids": [90, 91]}}, "must be 4 different ids"),
        ({"codebook_config": SMALL | {"token_ids": [90, 91, 92, 99]}}, "vocabulary of 99"),
        ({"codebook_config": SMALL | {"token_ids": [90, 91, 92, 1]}}, r"hold \[1\], with which .* ends"),
        ({"codebook_config": SMALL | {"attention_downsample_rate": 0}}, "attention_downsample_rate must be at least 1"),
        ({"codebook_config": SMALL | {"hidden_size": 12}}, "multiple of 8"),
        ({"codebook_config": SMALL | {"refinement_alpha": -1.0}}, "refinement_alpha must be 0 or more"),
        (
            {"codebook_config": SMALL | {"level_maps": ["fused", "tower"]}},
            "a map for each of the 2 scales, of fused",
        ),
        ({"codebook_config": SMALL | {"target_state": "written"}}, "consumed or predicting"),
        ({"segmentation_head": "light"}, "codebook or sam"),
        ({"segmentation_head": "sam", "mask_head_config": None}, "mask_head_config is None"),
        ({"segmentation_head": "sam", "codebook_config": SMALL | {"hidden_size": 32}}, "16 in mask_head_config"),
    ],
)
def test_a_config_that_cannot_be_built_says_why(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_masks_that_are_not_one_for_each_target_are_refused(model):
    labels = answers([7, *GROUP, 1])
    with pytest.raises(ValueError, match=r"\(1, 64, 64\).*\(2, 64, 64\)"):
        model(**images(1), labels=labels, target_mask_labels=masks_for(2))
    with pytest.raises(ValueError, match="no codebook head"):
        PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests())(
            **images(1), labels=labels, target_mask_labels=masks_for(1)
        )


@torch.no_grad()
def test_how_sure_a_mask_is_does_not_count_the_padding(model):
    inputs = images(2)
    targets = model.generate(**inputs, max_new_tokens=11).targets
    cells = round(40 / 64 * targets.mask_logits.shape[-1])
    assert (targets.mask_logits[:, cells:] > 0).any()
    for logits, score in zip(targets.mask_logits[:, :cells], targets.mask_scores, strict=True):
        inside = logits[logits > 0]
        expected = inside.sigmoid().mean() if len(inside) else torch.zeros(())
        torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-4)
