from __future__ import annotations

import pytest
import torch

from pixelllm_hf.modeling.detections import (
    Detections,
    joined,
    rescore_with_beams,
    rescore_with_captions,
    rescored,
)
from pixelllm_hf.modeling.model_output import GroundedGenerateOutput


def detections() -> Detections:
    """Two objects in the first image, one in the second."""
    mask = torch.tensor([[True, True], [True, False]])
    boxes = torch.arange(4.0).view(2, 2, 1).expand(2, 2, 4)
    return Detections(boxes, mask, torch.tensor([[0.81, 0.64], [0.25, 0.0]]))


def answers(log_probs: list[float]) -> GroundedGenerateOutput:
    number = torch.arange(len(log_probs))[:, None]
    return GroundedGenerateOutput(sequences=number, sequences_scores=torch.tensor(log_probs))


def test_one_text_an_image_becomes_one_for_each_of_its_detections():
    text = torch.tensor([[5, 6], [7, 8]])
    assert detections().of_each_prompt(text, "input_ids").tolist() == [[5, 6], [5, 6], [7, 8]]
    with pytest.raises(ValueError, match="input_ids must have one row per image"):
        detections().of_each_prompt(text[:1], "input_ids")


def test_an_unlikely_caption_costs_its_box_the_first_place():
    output, found = rescored(answers([-2.0, 0.0, 0.0]), detections(), 10)
    assert output.sequences.flatten().tolist() == [1, 0, 2]
    assert found.boxes[found.mask][:, 0].tolist() == [1.0, 0.0, 2.0]
    assert found.mask.tolist() == [[True, True], [True, False]]
    expected = torch.tensor([[0.8, (0.81 * torch.tensor(-2.0).exp().item()) ** 0.5], [0.5, 0.0]])
    torch.testing.assert_close(found.scores, expected)


def test_of_several_captions_the_best_pairs_are_kept():
    output, found = rescored(answers([0.0, -0.1, -3.0, -4.0, -1.0, -1.0]), detections(), 3)
    assert output.sequences.flatten().tolist() == [0, 1, 2, 4, 5]
    assert found.boxes[found.mask][:, 0].tolist() == [0.0, 0.0, 1.0, 2.0, 2.0]
    assert found.mask.tolist() == [[True, True, True], [True, True, False]]


def test_answers_of_portions_are_padded_to_the_longest():
    first = GroundedGenerateOutput(
        sequences=torch.tensor([[0, 5, 1]]), coordinates=torch.zeros(1, 3, 2, 2), boxes=torch.zeros(1, 4), scores=(1,)
    )
    second = GroundedGenerateOutput(
        sequences=torch.tensor([[0, 1]]), coordinates=torch.ones(1, 2, 2, 2), boxes=torch.ones(1, 4), scores=(2,)
    )
    both = joined([first, second], pad_token_id=9)
    assert both.sequences.tolist() == [[0, 5, 1], [0, 1, 9]]
    assert both.coordinates[1, 2].isnan().all() and both.coordinates[1, :2].isfinite().all()
    assert both.boxes.shape == (2, 4) and "scores" not in both


def test_a_score_is_the_geometric_mean_of_box_and_caption():
    scores = torch.tensor([[0.64, 0.25, 0.0, -1.0]])
    log_probs = torch.tensor([[1.0, 0.36, 0.5, 0.9]]).log()
    torch.testing.assert_close(rescore_with_captions(scores, log_probs), torch.tensor([[0.8, 0.3, 0.0, 0.0]]))


def test_the_best_pairs_of_box_and_beam_come_first_by_hand():
    scores = torch.tensor([[0.5, 1.0, -1.0]])
    beams = torch.tensor([[[0.02, 0.5], [0.09, 0.16], [1.0, 1.0]]]).log()
    best, detection, beam = rescore_with_beams(scores, beams, 4)
    torch.testing.assert_close(best, torch.tensor([[0.5, 0.4, 0.3, 0.1]]))
    assert detection.tolist() == [[0, 1, 1, 0]]
    assert beam.tolist() == [[1, 1, 0, 0]]


def test_equal_pairs_keep_their_order():
    best, detection, beam = rescore_with_beams(torch.ones(1, 3), torch.zeros(1, 3, 2), 6)
    assert torch.equal(best, torch.ones(1, 6))
    assert (detection * 2 + beam).tolist() == [[0, 1, 2, 3, 4, 5]]
