"""Teaching the language model to write before it sees: texts alone, with nothing to look at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from torch import Tensor, nn

from pixelllm_hf.modeling.language_model import packed_texts
from pixelllm_hf.modeling.language_t5 import T5PrefixLanguageModel
from pixelllm_hf.modeling.losses import label_loss
from pixelllm_hf.modeling.model_output import PixelLLMOutput
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.training.build_model import build_model_and_processor
from pixelllm_hf.training.export import export_dtype, save_folder
from pixelllm_hf.training.objective import Objective
from pixelllm_hf.training.recipe_values import ConfigError
from pixelllm_hf.training.text_batches import TextBatches, recipe_texts

if TYPE_CHECKING:
    from pixelllm_hf.training.recipe import TrainConfig


class Writer(nn.Module):
    """A model's decoder, reading a single state of zeros, of which attention makes nothing. Only what writes trains."""

    def __init__(self, model: PixelLLMForGroundedGeneration):
        super().__init__()
        if not isinstance(model.language_model, T5PrefixLanguageModel):
            raise ConfigError("objective text teaches the decoder of a T5; this model's language model has none.")
        self.model = model.requires_grad_(False)
        language = model.language_model
        for part in (language.body.decoder, language.body.shared, language.lm_head):
            part.requires_grad_(True)
        for name, parameter in language.body.decoder.named_parameters():
            if "EncDecAttention" in name:  # it would only decay
                parameter.requires_grad_(False)

    def forward(self, labels: Tensor, label_segments: Tensor) -> PixelLLMOutput:
        """labels and label_segments (R,T) as in the model."""
        language, config = self.model.language_model, self.model.config
        text = config.text_config
        start, padding = text.decoder_start_token_id, text.pad_token_id
        tokens, seen = packed_texts(labels, label_segments, start=start, padding=padding)
        nothing = language.lm_head.weight.new_zeros(len(labels), 1, language.width)
        states, _ = language.decode(tokens, nothing, None, decoder_mask=seen)
        loss = label_loss(
            language.logits(states),
            labels,
            label_smoothing=config.label_smoothing,
            eos_token_id=text.eos_token_id,
            pad_token_id=padding,
        )
        return PixelLLMOutput(loss=loss, loss_parts={"text": loss})


def text_objective(recipe: TrainConfig, accelerator: Accelerator) -> Objective:
    """The answers of `data.sources` and the lines of `data.texts`; `data.held_out` for the loss meanwhile."""
    data, settings = recipe.data, recipe.model
    final_dtype = export_dtype(settings.export_dtype)
    model, processor = build_model_and_processor(settings)
    with accelerator.main_process_first():
        texts = list(recipe_texts(data, data.sources))
        held_out = list(recipe_texts(replace(data, texts=[]), data.held_out))
    common: dict[str, Any] = {"max_tokens": data.max_text_tokens, "seed": recipe.run.seed}
    batches = TextBatches(texts, processor.tokenizer, batch_size=data.batch_size, **common)
    of_held_out = None
    if held_out:
        of_held_out = TextBatches(
            held_out, processor.tokenizer, batch_size=min(data.batch_size, len(held_out)), **common
        )

    def save(folder: Path, final: bool) -> None:
        save_folder(model, folder, processor=processor, dtype=final_dtype if final else export_dtype("float32"))

    note = f"{len(batches.tokens)} texts of {batches.lengths.mean():.1f} tokens"
    return Objective(Writer(model), batches, of_held_out, save, notes=(note,))
