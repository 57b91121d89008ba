"""How sure a place is: scales of coordinates, words without a location, and the loss of boxes."""

from __future__ import annotations

import pytest
import torch

from pixelllm_hf.modeling.configuration_heads import PixelLLMPointHeadConfig
from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.losses import giou_loss, laplace_loss, visual_loss
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.modeling.point_head import SMALLEST_SCALE, PointHead

LABELS = torch.tensor([[5, 6, 7, 1], [9, 8, 1, -100], [12, 1, -100, -100]])
POINTS = torch.rand(3, 4, 2, 2, generator=torch.Generator().manual_seed(3)) + 0.01
POINTS[0, 1] = POINTS[:, 3] = POINTS[1, 2] = POINTS[2] = torch.nan  # the third row has no location at all
VISUAL = torch.tensor([[1, 0, -100, -100], [1, 0, -100, -100], [0, -100, -100, -100]])


def a_model(**settings) -> PixelLLMForGroundedGeneration:
    torch.manual_seed(0)
    head = {name: settings.pop(name) for name in ("predict_scale", "predict_visual") if name in settings}
    small = PixelLLMConfig.for_tests().point_head_config.to_dict()
    return PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(point_head_config=small | head, **settings)).eval()


# --- the head ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [1, 2, 3])
def test_the_head_gives_a_positive_scale_for_every_coordinate_and_one_logit_a_token(points):
    config = PixelLLMPointHeadConfig(
        hidden_size=8, points_per_token=points, predict_scale=True, predict_visual=True, num_layers=2
    )
    found = PointHead(config, 12)(torch.randn(3, 5, 12) * 100)
    assert found.coordinates.shape == found.coordinate_scales.shape == (3, 5, points, 2)
    assert (found.coordinate_scales >= SMALLEST_SCALE).all() and found.coordinate_scales.isfinite().all()
    assert found.visual_logits.shape == (3, 5)


def test_a_head_of_one_layer_reads_the_states_themselves():
    config = PixelLLMPointHeadConfig(num_layers=1, predict_scale=True, predict_visual=True)
    found = PointHead(config, 12)(torch.randn(4, 12))
    assert found.coordinate_scales.shape == (4, 2, 2) and found.visual_logits.shape == (4,)


def test_without_the_options_the_head_is_the_official_one():
    plain = PointHead(PixelLLMPointHeadConfig(hidden_size=8), 12)
    unsure = PointHead(PixelLLMPointHeadConfig(hidden_size=8, predict_scale=True, predict_visual=True), 12)
    extra = set(unsure.state_dict()) - set(plain.state_dict())
    assert extra == {"scale.weight", "scale.bias", "visual.weight", "visual.bias"}
    unsure.load_state_dict(plain.state_dict(), strict=False)
    states = torch.randn(2, 3, 12)
    assert torch.equal(plain(states).coordinates, unsure(states).coordinates)
    assert plain(states).coordinate_scales is None and plain(states).visual_logits is None


def test_the_scales_and_logits_of_a_model_are_computed_in_float32():
    model = a_model(predict_scale=True, predict_visual=True).to(torch.bfloat16)
    found = model.point_head(torch.randn(2, 3, 32, dtype=torch.bfloat16))
    assert found.coordinate_scales.dtype == found.visual_logits.dtype == torch.float32
    assert model.point_head.scale.weight.dtype == torch.float32


def test_calibration_changes_what_generate_says_and_not_what_is_learnt():
    config = PixelLLMPointHeadConfig(hidden_size=8, predict_scale=True, predict_visual=True)
    torch.manual_seed(0)
    plain = PointHead(config, 12)
    states, has_location = torch.randn(2, 3, 12), torch.tensor([[False, True, True], [False, True, False]])
    said, raw = plain.locate(states, has_location), plain(states)
    config.scale_factor, config.visual_temperature, config.visual_bias = 2.0, 4.0, -1.0
    calibrated = PointHead(config, 12)
    calibrated.load_state_dict(plain.state_dict())
    assert torch.equal(calibrated(states).coordinate_scales, raw.coordinate_scales)
    located = calibrated.locate(states, has_location)
    torch.testing.assert_close(located["coordinate_scales"], said["coordinate_scales"] * 2, equal_nan=True)
    expected = torch.sigmoid(raw.visual_logits / 4 - 1).masked_fill(~has_location, torch.nan)
    torch.testing.assert_close(located["visual_probs"], expected, equal_nan=True)


@pytest.mark.parametrize("name", ["scale_factor", "visual_temperature"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_calibration_that_would_turn_predictions_round_is_refused(name, value):
    with pytest.raises(Exception, match=f"{name} must be above 0"):
        PixelLLMPointHeadConfig(**{name: value})


# --- the losses -------------------------------------------------------------------------------------------------


def test_the_laplace_loss_is_the_likelihood_by_hand():
    pred, target, scales = (torch.rand(2, 3, 2, 2) + 0.1 for _ in range(3))
    mask = torch.tensor([[True, False, True], [False, True, False]])
    expected = -torch.distributions.Laplace(pred, scales).log_prob(target)[mask].mean() - torch.tensor(2.0).log()
    target[~mask] = torch.nan
    torch.testing.assert_close(laplace_loss(pred, scales, target, mask), expected)


def test_the_best_scale_of_the_laplace_loss_is_the_mean_error():
    target = torch.tensor([0.1, 0.5, 0.9, 0.3]).view(4, 1, 1).expand(4, 2, 2)
    pred, mask = torch.full((4, 2, 2), 0.4), torch.ones(4, dtype=torch.bool)
    scale = torch.tensor(0.7, requires_grad=True)
    optimizer = torch.optim.Adam([scale], lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        laplace_loss(pred, scale.expand(4, 2, 2), target, mask).backward()
        optimizer.step()
    assert scale.item() == pytest.approx((pred - target).abs().mean().item(), abs=0.01)


def test_no_token_with_a_place_costs_nothing_and_teaches_nothing():
    pred, scales = torch.rand(2, 3, 2, 2, requires_grad=True), torch.rand(2, 3, 2, 2, requires_grad=True)
    target, mask = torch.full((2, 3, 2, 2), torch.nan), torch.zeros(2, 3, dtype=torch.bool)
    loss = laplace_loss(pred, scales, target, mask) + giou_loss(pred, target.nan_to_num(), mask)
    loss = loss + visual_loss(torch.rand(2, 3, requires_grad=True), torch.full((2, 3), -100))
    assert loss == 0
    loss.backward()
    assert (pred.grad == 0).all() and (scales.grad == 0).all()


def test_the_giou_loss_is_one_less_giou():
    pred = torch.tensor([[[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 0.5]], [[0.2, 0.1], [0.6, 0.4]]])
    target = torch.tensor([[[3.0, 0.0], [4.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]], [[0.2, 0.1], [0.6, 0.4]]])
    alone = [giou_loss(pred[i : i + 1], target[i : i + 1], torch.tensor([True])).item() for i in range(3)]
    assert alone == pytest.approx([1.5, 0.5, 0.0], abs=1e-6)
    assert giou_loss(pred, target, torch.tensor([True, False, True])).item() == pytest.approx(0.75)


@pytest.mark.parametrize("start", [[[0.9, 0.1], [0.1, 0.9]], [[0.9, 0.9], [0.1, 0.1]], [[0.5, 0.5], [0.5, 0.5]]])
def test_corners_that_start_the_wrong_way_round_are_turned_and_the_spread_shrinks(start):
    """With corners put in order, their boxes would be right at once, and the points for ever wrong."""
    target, mask = torch.tensor([[[0.2, 0.2], [0.8, 0.8]]]), torch.ones(1, dtype=torch.bool)
    pred = torch.tensor([start], requires_grad=True)
    scales = torch.full((1, 2, 2), 0.6, requires_grad=True)
    optimizer = torch.optim.Adam([pred, scales], lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        # The weights of configs/photo.
        (0.4 * laplace_loss(pred, scales.clamp(min=0.01), target, mask) + giou_loss(pred, target, mask)).backward()
        optimizer.step()
    torch.testing.assert_close(pred.detach(), target, atol=0.03, rtol=0)
    assert scales.max() < 0.1


def test_the_visual_loss_is_the_mean_cross_entropy_of_what_is_known():
    logits, labels = torch.tensor([[2.0, -1.0, 9.0]]), torch.tensor([[1, 0, -100]])
    expected = -(torch.sigmoid(logits[0, 0]).log() + torch.sigmoid(-logits[0, 1]).log()) / 2
    torch.testing.assert_close(visual_loss(logits, labels), expected)


# --- through the model ------------------------------------------------------------------------------------------


def test_the_official_loss_does_not_know_of_these_options(small_inputs):
    output = a_model()(**small_inputs, labels=LABELS, point_labels=POINTS, visual_labels=VISUAL)
    assert set(output.loss_parts) == {"text", "point"}
    assert output.coordinate_scales is None and output.visual_logits is None


def test_the_criterion_takes_the_tokens_of_rows_that_have_a_place(small_inputs):
    model = a_model(predict_scale=True, predict_visual=True, giou_loss_weight=2.0, visual_loss_weight=0.5)
    output = model(**small_inputs, labels=LABELS, point_labels=POINTS, visual_labels=VISUAL)
    placed = POINTS.isfinite().flatten(2).all(-1)
    points, scales, logits = output.coordinates[:, 1:], output.coordinate_scales[:, 1:], output.visual_logits[:, 1:]
    parts = output.loss_parts
    target = POINTS.nan_to_num()
    expected = ((points - target).abs() / scales + scales.log())[placed].mean()
    torch.testing.assert_close(parts["point"], expected)
    torch.testing.assert_close(parts["giou"], giou_loss(points, target, placed))
    known = VISUAL.clone()
    known[2] = -100  # nothing of the third caption has a location: perhaps nobody looked
    torch.testing.assert_close(parts["visual"], visual_loss(logits, known))
    total = parts["text"] + 0.1 * parts["point"] + 2 * parts["giou"] + 0.5 * parts["visual"]
    torch.testing.assert_close(output.loss, total)


def test_without_labels_of_it_nobody_is_taught_what_has_a_place(small_inputs):
    model = a_model(predict_visual=True)
    assert set(model(**small_inputs, labels=LABELS, point_labels=POINTS).loss_parts) == {"text", "point"}


def test_a_box_loss_needs_the_two_points_of_a_box():
    with pytest.raises(Exception, match=r"giou_loss_weight is 1.0, but a box has two points and points_per_token is 1"):
        PixelLLMConfig.for_tests(giou_loss_weight=1.0, point_head_config={"points_per_token": 1})


def test_training_learns_how_far_off_each_place_is():
    """Locations that are drawn anew each time cannot be learnt, but how far they lie apart can."""
    torch.manual_seed(0)
    head = PointHead(PixelLLMPointHeadConfig(hidden_size=32, num_layers=2, predict_scale=True), 16)
    states, spread = torch.randn(3, 16), torch.tensor([0.3, 0.02, 0.1])[:, None, None]
    optimizer = torch.optim.AdamW(head.parameters(), lr=5e-3)
    for _ in range(200):
        found = head(states.expand(8, 3, 16))
        points = 0.5 + spread * (torch.rand(8, 3, 2, 2) * 2 - 1)
        optimizer.zero_grad()
        laplace_loss(found.coordinates, found.coordinate_scales, points, torch.ones(8, 3)).backward()
        optimizer.step()
    scales = head(states).coordinate_scales.detach().mean((-2, -1))
    assert scales.tolist() == pytest.approx([0.15, 0.01, 0.05], rel=0.5)


# --- through generate -------------------------------------------------------------------------------------------

CERTAINTY = ("coordinates", "coordinate_scales", "visual_probs")


@pytest.fixture
def unsure_model() -> PixelLLMForGroundedGeneration:
    model = a_model(predict_scale=True, predict_visual=True)
    with torch.no_grad():
        model.language_model.lm_head.weight.mul_(3)  # so that captions differ
    model.point_head.scale_factor, model.point_head.visual_temperature = 1.5, 0.5
    return model


def check_certainty(model, output, inputs):
    """What `generate` says is what one pass over the finished answers says, calibrated; NaN where nothing is placed."""
    forced = model(**inputs, decoder_input_ids=output.sequences)
    has_location = output.coordinates.isfinite().flatten(2).all(-1)
    assert has_location.any() and not has_location[:, 0].any()
    assert torch.equal(output.visual_probs.isfinite(), has_location)
    assert torch.equal(output.coordinate_scales.isfinite().flatten(2).all(-1), has_location)
    scales, probs = forced.coordinate_scales * 1.5, torch.sigmoid(forced.visual_logits / 0.5)
    torch.testing.assert_close(output.coordinate_scales[has_location], scales[has_location], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(output.visual_probs[has_location], probs[has_location], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 2, "early_stopping": True}])
def test_written_answers_say_how_sure_their_places_are(unsure_model, small_inputs, options):
    output = unsure_model.generate(**small_inputs, max_new_tokens=6, **options)
    check_certainty(unsure_model, output, small_inputs)


def test_given_answers_say_how_sure_their_places_are(unsure_model, small_inputs):
    output = unsure_model.generate(**small_inputs, query_ids=LABELS.clamp(min=0))
    check_certainty(unsure_model, output, small_inputs)


def test_portions_are_joined_with_their_certainty(unsure_model, small_inputs):
    whole = unsure_model.generate(**small_inputs, max_new_tokens=6)
    parts = unsure_model.generate(**small_inputs, max_new_tokens=6, prompt_chunk_size=1)
    for name in CERTAINTY:
        torch.testing.assert_close(parts[name], whole[name], atol=1e-4, rtol=1e-4, equal_nan=True)


def test_detections_have_certainty_also_where_nothing_is_found(unsure_model, small_inputs):
    images = {name: small_inputs[name] for name in ("pixel_values", "pixel_mask")}
    found = unsure_model.generate(**images, detect_objects=True, max_new_tokens=3)
    assert len(found.sequences) and found.visual_probs.shape == found.sequences.shape
    unsure_model.proposal_head.config.detection_score_threshold = 2.0
    nothing = unsure_model.generate(**images, detect_objects=True, max_new_tokens=3)
    assert nothing.coordinate_scales.shape == nothing.coordinates.shape == (0, 1, 2, 2)
    assert nothing.visual_probs.shape == (0, 1)


@pytest.mark.parametrize("listens", [True, False])
def test_a_streamer_that_listens_is_told_how_sure_each_place_is(unsure_model, small_inputs, listens):
    class Streamer:
        def __init__(self):
            self.told, self.points = [], []
            if listens:
                self.put_certainty = lambda **values: self.told.append(values)

        def put(self, value): ...
        def end(self): ...
        def put_location(self, points):
            self.points.append(points)

    streamer = Streamer()
    output = unsure_model.generate(**small_inputs, max_new_tokens=5, streamer=streamer)
    assert len(streamer.points) == output.sequences.shape[1] - 1 and len(streamer.told) == listens * len(
        streamer.points
    )
    if listens:
        probs = torch.stack([values["visual_probs"] for values in streamer.told], dim=1)
        scales = torch.stack([values["coordinate_scales"] for values in streamer.told], dim=1)
        placed = output.visual_probs[:, 1:].isfinite()
        torch.testing.assert_close(probs[placed], output.visual_probs[:, 1:][placed], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(scales[placed], output.coordinate_scales[:, 1:][placed], atol=1e-4, rtol=1e-4)


def test_a_model_that_does_not_predict_certainty_gives_none(small_inputs):
    output = a_model().generate(**small_inputs, max_new_tokens=3)
    assert output.coordinate_scales is None and output.visual_probs is None
