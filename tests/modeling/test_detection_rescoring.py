from __future__ import annotations

import torch

from pixelllm_hf.modeling.detection_rescoring import rescore_with_beams, rescore_with_captions


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
