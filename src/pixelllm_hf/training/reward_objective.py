"""Self-critical training: a model writes several captions of an image, and those that score better become likelier.

Rennie et al. 2017 (arXiv 1612.00563), with the mean of the other samples in the place of a greedy caption (Luo 2020,
arXiv 2003.09971). Steps of the ordinary losses are mixed in, so that what has no reward, such as locations, stays.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn import functional as F

from pixelllm_hf.data.packed_labels import NO_SEGMENT, pack_labels
from pixelllm_hf.data.plain_texts import plain_prompt
from pixelllm_hf.modeling.language_model import packed_texts
from pixelllm_hf.modeling.losses import IGNORE_INDEX
from pixelllm_hf.modeling.model_output import PixelLLMOutput
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.processing.tasks import TASK_SPECS
from pixelllm_hf.training.batch_stream import BatchSource
from pixelllm_hf.training.language_objective import language_objective
from pixelllm_hf.training.objective import Objective
from pixelllm_hf.training.recipe_values import ConfigError

if TYPE_CHECKING:
    from pixelllm_hf.training.recipe import RewardConfig, TrainConfig

# captions of each image, references of each image -> what each caption is worth
Reward = Callable[[Sequence[Sequence[str]], Sequence[Sequence[str]]], Sequence[Sequence[float]]]
END = "<end>"  # a word, so that a caption that breaks off is worth less than one that ends


class RewardedBatches:
    """Batches of which some are marked `rewarded`: of captions of whole images, and drawn by seed and index."""

    def __init__(self, batches: BatchSource, share: float, seed: int):
        self.batches, self.share, self.seed = batches, share, seed

    def batch_at(self, index: int) -> dict[str, Any]:
        batch = self.batches.batch_at(index)
        # Phrases and names of what is in a box are no captions, nor are texts that are given and not written.
        captions = batch["prompt_boxes"].shape[1] == 1 and bool(batch["text_loss_mask"].all())
        drawn = np.random.default_rng([self.seed, 4, index]).random() < self.share
        return {**batch, "rewarded": captions and bool(drawn)}


class SelfCritical(nn.Module):
    """A model whose rewarded batches teach it to prefer the better of its own captions."""

    def __init__(self, model: PixelLLMForGroundedGeneration, tokenizer: Any, reward: Reward, config: RewardConfig):
        super().__init__()
        self.model, self.tokenizer, self.reward, self.config = model, tokenizer, reward, config

    def forward(self, rewarded: bool = False, **batch: Any) -> PixelLLMOutput:
        """rewarded: see `RewardedBatches`; the rest as in the model, with the references of an image as its labels."""
        if not rewarded:
            return self.model(**batch)
        model = self.model
        features = model.encode_image(batch.get("image_features"), batch.get("pixel_values"), batch.get("pixel_mask"))
        seen = model.get_prompt_features(
            features, batch.get("pixel_mask"), batch["prompt_boxes"], prompt_mask=batch["prompt_mask"]
        )
        states, mask = model.encode_prompts(seen, batch.get("input_ids"), batch.get("attention_mask"))
        captions = self._sampled(states.detach(), mask)
        references = [
            [self._text(labels[segments == number].tolist()) for number in range(int(segments.max()) + 1)]
            for labels, segments in zip(batch["labels"].cpu(), batch["label_segments"].cpu(), strict=True)
        ]
        rewards = torch.tensor(self.reward([[self._text(ids) for ids in row] for row in captions], references))
        others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
        loss = self.config.weight * self._loss(captions, (rewards - others).to(states.device), states, mask)
        return PixelLLMOutput(loss=loss, loss_parts={"self_critical": loss, "reward": rewards.mean()})

    @torch.no_grad()
    def _sampled(self, states: Tensor, mask: Tensor) -> list[list[list[int]]]:
        """Tokens of `samples` captions of each row, those that ended with EOS. `generate` would locate them, too."""
        language, text, config = self.model.language_model, self.model.config.text_config, self.config
        states = states.repeat_interleave(config.samples, dim=0)
        readable = None if mask.all() else mask.repeat_interleave(config.samples, dim=0)
        tokens = torch.full((len(states), 1), text.decoder_start_token_id, device=states.device)
        ended = torch.zeros_like(tokens, dtype=torch.bool)
        written, cache, trained = [], None, language.training
        language.eval()
        for _ in range(config.max_new_tokens):
            decoded, cache = language.decode(tokens, states, readable, cache=cache, use_cache=True)
            scores = language.logits(decoded).float() / config.temperature
            # The largest of scores with Gumbel noise is a draw from their softmax, and cheaper than `multinomial`.
            noise = torch.empty_like(scores).exponential_().log()
            tokens = (scores - noise).argmax(-1).masked_fill(ended, text.pad_token_id)
            written.append(tokens)
            ended = ended | (tokens == text.eos_token_id)
            if ended.all():
                break
        language.train(trained)
        captions = []
        for ids in torch.cat(written, dim=1).tolist():
            end = ids.index(text.eos_token_id) + 1 if text.eos_token_id in ids else len(ids)
            captions.append(ids[:end])
        return [captions[start : start + config.samples] for start in range(0, len(captions), config.samples)]

    def _text(self, ids: list[int]) -> str:
        words = self.tokenizer.decode(ids, skip_special_tokens=True)
        return f"{words} {END}" if self.model.config.text_config.eos_token_id in ids else words

    def _loss(self, captions: list[list[list[int]]], advantages: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Negative log-likelihood of each token, times what its caption is worth more than the others of its image."""
        model, flat = self.model, [ids for row in captions for ids in row]
        labels = torch.full((len(flat), max(map(len, flat))), IGNORE_INDEX)
        for row, ids in enumerate(flat):
            labels[row, : len(ids)] = torch.tensor(ids)
        packed = pack_labels({"labels": labels}, [len(row) for row in captions])
        labels, segments = packed["labels"].to(states.device), packed["label_segments"].to(states.device)
        text = model.config.text_config
        tokens, sight = packed_texts(labels, segments, start=text.decoder_start_token_id, padding=text.pad_token_id)
        decoded, _ = model.language_model.decode(tokens, states, mask, decoder_mask=sight)
        losses = F.cross_entropy(
            model.language_model.logits(decoded).flatten(0, 1).float(), labels.flatten(), reduction="none"
        ).view(labels.shape)
        worth = advantages.gather(1, segments.clamp(min=0)).masked_fill(segments == NO_SEGMENT, 0.0)
        return (losses * worth).sum() / (segments != NO_SEGMENT).sum()


def reward_objective(recipe: TrainConfig, accelerator: Accelerator) -> Objective:
    """A recipe of objective `language` whose captions are rewarded as `reward` says."""
    config = recipe.reward or RewardConfig()
    if not recipe.data.pack_texts:
        raise ConfigError("objective reward needs all captions of an image in one row: set data.pack_texts.")
    objective = language_objective(recipe, accelerator)
    model: Any = objective.module
    if not isinstance(model, PixelLLMForGroundedGeneration) or not model.language_model.texts_can_share_rows:
        raise ConfigError("objective reward trains a model with a T5 alone, without auxiliary labels.")
    tokenizer = objective.processor.tokenizer
    reward = _reward(config.function, _references(objective.grounded.sources, tokenizer, recipe.data.plain_texts))
    return replace(
        objective,
        module=SelfCritical(model, tokenizer, reward, config),
        batches=RewardedBatches(objective.batches, config.share, recipe.run.seed),
    )


def _references(sources: dict[str, Any], tokenizer: Any, plain: bool) -> list[list[str]]:
    """The captions of every training image as the tokenizer writes them, ended."""
    captions = []
    for source in sources.values():
        spec = TASK_SPECS.get(source[0]["task"])
        if spec is None or not spec.describes_images:
            continue
        for prompts in source.rows["prompts"]:
            texts = [(plain_prompt(prompt) if plain else prompt)["target"] for prompt in prompts if not prompt["box"]]
            ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
            captions.append([f"{text} {END}" for text in tokenizer.batch_decode(ids)])
    if not captions:
        able = " or ".join(name for name, spec in TASK_SPECS.items() if spec.describes_images)
        raise ConfigError(f"objective reward needs a source of captions: task {able}.")
    return captions


def _reward(name: str, references: list[list[str]]) -> Reward:
    module, _, attribute = name.partition(":")
    try:
        made = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"reward.function names {name!r}, which cannot be imported ({error}).") from error
    return made(references)
