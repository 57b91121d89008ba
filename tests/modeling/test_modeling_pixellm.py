from __future__ import annotations

import pytest
import torch

from pixelllm_hf.modeling.configuration_pixellm import PixelLMConfig
from pixelllm_hf.modeling.modeling_pixellm import PixelLMForReasoningSegmentation

GROUP = [40, 41, 42, 43]


@pytest.fixture(scope="module")
def model() -> PixelLMForReasoningSegmentation:
    torch.manual_seed(0)
    return PixelLMForReasoningSegmentation(PixelLMConfig.for_tests()).eval()


def questions(*answers: list[int]) -> dict[str, torch.Tensor]:
    """One question for each image, with the answer behind it; padded on the right."""
    rows = [[1, *[47] * 16, 5, *answer] for answer in answers]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for target, row in zip(ids, rows, strict=True):
        target[: len(row)] = torch.tensor(row)
    generator = torch.Generator().manual_seed(1)
    pixel_mask = torch.ones(len(rows), 64, 64, dtype=torch.bool)
    pixel_mask[:, 40:] = False
    labels = ids.masked_fill(ids == 0, -100)
    labels[:, :18] = -100
    return {
        "pixel_values": torch.rand(len(rows), 3, 64, 64, generator=generator) * 255,
        "pixel_mask": pixel_mask,
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
        "labels": labels,
    }


def masks_for(count: int) -> torch.Tensor:
    masks = torch.zeros(count, 64, 64)
    for index, mask in enumerate(masks):
        mask[8 * index : 8 * index + 16, 4 : 4 + 12 * (index + 1)] = 1
    return masks


def test_every_target_of_every_answer_gets_a_mask(model):
    output = model(**questions([7, *GROUP, 8, *GROUP, 2], [7, 2], [*GROUP, 2]))
    assert output.row_of_target.tolist() == [0, 0, 2]
    assert output.mask_logits.shape == (3, 32, 32)


@torch.no_grad()
def test_an_answer_does_not_depend_on_its_neighbours(model):
    inputs = questions([7, *GROUP, 8, *GROUP, 2], [*GROUP, 2])
    together = model(**inputs)
    alone = model(
        **{
            name: value[1:, :23] if name in ("input_ids", "attention_mask", "labels") else value[1:]
            for name, value in inputs.items()
        }
    )
    torch.testing.assert_close(together.logits[1:, :23], alone.logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.mask_logits[2:], alone.mask_logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_two_questions_about_one_image_see_it_once(model):
    inputs = questions([*GROUP, 2], [7, *GROUP])
    inputs = {name: value[:1] if name.startswith("pixel") else value for name, value in inputs.items()}
    output = model(**inputs, prompt_mask=torch.tensor([[True, False, True]]))
    features = model.get_image_features(inputs["pixel_values"], inputs["pixel_mask"])
    again = model(**{name: value for name, value in inputs.items() if name != "pixel_values"}, image_features=features)
    torch.testing.assert_close(output.mask_logits, again.mask_logits)


def test_masks_are_read_from_the_states_that_predict_the_codebooks_tokens(model):
    inputs = questions([7, *GROUP, 2])
    before = model(**inputs).mask_logits
    changed = dict(inputs, input_ids=inputs["input_ids"].clone())
    changed["input_ids"][0, 23] = 9  # the end, which no state of the group has seen
    torch.testing.assert_close(model(**changed).mask_logits, before)


def test_four_answers_are_learnt_by_heart():
    torch.manual_seed(0)
    # masks are made of an eighth of the decoder's width: 16 channels would leave two
    wider = dict(tokens_per_scale=2, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64)
    model = PixelLMForReasoningSegmentation(PixelLMConfig.for_tests(codebook_config=wider)).train()
    inputs = questions([7, *GROUP, 8, *GROUP, 2], [9, *GROUP, 2], [10, *GROUP, 2], [11, 2])
    masks = masks_for(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first = None
    for _ in range(70):
        output = model(**inputs, mask_labels=masks)
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        first = first or {name: part.item() for name, part in output.loss_parts.items()}
    assert output.loss_parts["text"].item() < 0.1 * first["text"]
    assert output.loss_parts["mask"].item() < 0.2 * first["mask"]


def test_saving_and_loading_changes_no_bit(model, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = PixelLMForReasoningSegmentation.from_pretrained(tmp_path).eval()
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_masks_for_a_target_that_is_not_written_whole_are_refused(model):
    inputs = questions([7, *GROUP[:3]])
    with pytest.raises(ValueError, match=r"mask_labels must be \(0, 64, 64\)"):
        model(**inputs, mask_labels=masks_for(1))


def test_a_question_without_the_images_tokens_is_refused(model):
    inputs = questions([7, 2])
    inputs["input_ids"][0, 3] = 5
    with pytest.raises(ValueError, match=r"16 times, but the questions have it \[15\]"):
        model(**inputs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook_token_ids": (40, 40, 41, 42)}, "4 different ids"),
        ({"feature_layers": (-2,)}, "each of the codebook's 2 scales"),
        ({"feature_layers": (-2, -9)}, "3 blocks"),
    ],
)
def test_a_config_that_cannot_be_built_says_why(changes, message):
    with pytest.raises(ValueError, match=message):
        PixelLMConfig.for_tests(**changes)


def test_a_language_model_without_room_for_the_codebook_is_refused():
    with pytest.raises(ValueError, match="up to id 50.*vocab_size is 48"):
        PixelLMForReasoningSegmentation(PixelLMConfig.for_tests(image_token_id=50))


@pytest.mark.parametrize("rows", [1, 3])
def test_questions_that_do_not_fit_their_mask_are_refused(rows):
    """With fewer rows than the mask has questions, the first would be answered about other images."""
    model = PixelLMForReasoningSegmentation(PixelLMConfig.for_tests()).eval()
    ids = torch.tensor([[1, *[47] * 16, 5, 6]]).repeat(rows, 1)
    inputs = {
        "pixel_values": torch.rand(2, 3, 64, 64) * 255,
        "prompt_mask": torch.ones(2, 1, dtype=torch.bool),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
    }
    for call in (model, model.generate):
        with pytest.raises(ValueError, match=f"there are 2 prompts and {rows} rows"):
            call(**inputs)


def test_a_batch_without_questions_or_with_the_mask_of_other_images_is_refused():
    model = PixelLMForReasoningSegmentation(PixelLMConfig.for_tests()).eval()
    ids = torch.tensor([[1, *[47] * 16, 5, 6]])
    inputs = {"pixel_values": torch.rand(1, 3, 64, 64) * 255, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    none = {"input_ids": ids[:0], "attention_mask": ids[:0], "prompt_mask": torch.zeros(1, 1, dtype=torch.bool)}
    with pytest.raises(ValueError, match="at least one question"):
        model.generate(**inputs | none)
    with pytest.raises(ValueError, match="there are 1 images and 2 rows"):
        model.generate(**inputs, prompt_mask=torch.tensor([[False], [True]]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook_token_ids": (40, 40, 41, 42, 43)}, "4 different ids"),
        ({"codebook_token_ids": (40, 41, 42, 47)}, "must be different ids of 0 or more"),
        ({"codebook_token_ids": (40, 41, 42, -1)}, "must be different ids of 0 or more"),
        ({"image_token_id": -1}, "must be different ids of 0 or more"),
        ({"image_token_grid": 0}, "image_token_grid must be at least 1"),
        ({"projector_factor": 0}, "projector_factor must be at least 1"),
        ({"codebook_config": {"tokens_per_scale": 0}}, "tokens_per_scale must be at least 1"),
    ],
)
def test_a_config_that_cannot_be_meant_says_why(changes, message):
    with pytest.raises(ValueError, match=message):
        PixelLMConfig.for_tests(**changes)


@pytest.mark.parametrize(
    ("part", "given", "said"),
    [
        (
            "vision_config",
            {"model_type": "dinov2"},
            "vision_config must be .*'clip_vision_model'.*'dinov2'",
        ),
        ("codebook_config", {"model_type": "t5"}, "codebook_config must be a config of .*one of 't5'"),
        ("text_config", {"model_type": "t5"}, "decoder-only language model.*'t5'"),
    ],
)
def test_a_part_of_another_kind_is_refused_by_name(part, given, said):
    with pytest.raises(ValueError, match=said):
        PixelLMConfig.for_tests(**{part: given})
