from __future__ import annotations

import inspect

import pytest
from transformers.utils.generic import find_labels

from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.modeling.modeling_pixellm import PixelLMForReasoningSegmentation
from pixelllm_hf.modeling.pretrained_pixelllm import ShownToTrainer


class Base:
    row_columns: tuple[str, ...] = ()

    @ShownToTrainer
    def forward(self, x, point_labels=None, labels=None, **kwargs):
        """What forward does."""
        return self, x, point_labels, labels, kwargs


class Derived(Base):
    def forward(self, x, **kwargs):
        return super().forward(x + 1, **kwargs)


@pytest.mark.parametrize("model", [PixelLLMForGroundedGeneration, PixelLMForReasoningSegmentation, Base])
def test_trainer_waits_for_labels_alone(model):
    assert find_labels(model) == ["labels"]


@pytest.mark.parametrize("model", [PixelLLMForGroundedGeneration, PixelLMForReasoningSegmentation])
def test_a_loss_is_left_to_trainer_to_divide(model):
    assert model.accepts_loss_kwargs is False


def test_the_instance_shows_and_takes_everything():
    base = Base()
    assert list(inspect.signature(base.forward).parameters) == ["x", "point_labels", "labels", "kwargs"]
    assert base.forward(1, 2, labels=3, more=4) == (base, 1, 2, 3, {"more": 4})
    assert Base.forward(base, 1, point_labels=2) == (base, 1, 2, None, {})
    assert Base.forward.__doc__ == base.forward.__doc__ == "What forward does."
    derived = Derived()
    assert derived.forward(1, point_labels=2) == (derived, 2, 2, None, {})


def test_an_instance_whose_collator_reads_rows_shows_their_columns_and_takes_what_it_took():
    base = Base()
    base.row_columns = ("image", "prompts")
    assert list(inspect.signature(base.forward).parameters) == [
        "x", "point_labels", "labels", "image", "prompts", "kwargs",
    ]  # fmt: skip
    assert base.forward(1, 2, labels=3) == (base, 1, 2, 3, {})
    assert "image" not in inspect.signature(Base().forward).parameters
