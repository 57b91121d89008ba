"""Images and questions -> what a PixelLM takes; what it answers -> text whose phrases have masks in the user's pixels.

Source: arXiv 2312.02228 and the released conversation template `llava_v1`, which both sizes use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers.processing_utils import Unpack

from .grounded_processor import GroundedProcessor
from .model_inputs import PixelLLMInputs
from .processing_kwargs import PixelLLMProcessorKwargs
from .prompt_locations import PromptError, gather_prompts
from .target_tokens import add_target_tokens, target_token_ids
from .tasks import TASK_SPECS, task_spec
from .writable_text import as_characters, writable_text

IMAGE_TOKEN = "<image>"

LLAVA_TEMPLATE = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions. "
    "{%- for message in messages %}{{ ' USER: <im_start><image><im_end>\n' }}"
    "{%- if message.content is string %}{{ message.content }}"
    "{%- else %}{% for part in message.content if part.type == 'text' %}{{ part.text }}{% endfor %}"
    "{%- endif %}{% endfor %}{{ ' ASSISTANT:' }}"
)


class PixelLMProcessor(GroundedProcessor):
    """The user's world on both sides of a PixelLM.

    Args:
        image_processor: a `PixelLLMImageProcessor` with the model's canvas and `rounding="nearest"`.
        tokenizer: of the language model, with the tokens of a target and the image's: see `add_pixellm_tokens`.
        image_token: stands for what is seen of the image; num_image_tokens: how many the model reads of an image.
        max_prompt_tokens: longer prompts are refused; the template counts, the image's tokens do not.
        chat_template: makes a prompt of a question, with the image token in it; by default the released one.
    """

    default_task = "reason"

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        image_token: str = IMAGE_TOKEN,
        num_image_tokens: int = 256,
        max_prompt_tokens: int = 256,
        chat_template: Any = None,
    ):
        super().__init__(image_processor, tokenizer, chat_template=chat_template or LLAVA_TEMPLATE)
        self.image_token = image_token
        self.num_image_tokens = num_image_tokens
        self.max_prompt_tokens = max_prompt_tokens
        self.codebook_token_ids = target_token_ids(tokenizer)
        self.image_token_id = tokenizer.get_vocab().get(image_token)
        lacking = "of a target ([SEG0], [SEG1], …)" if not self.codebook_token_ids else repr(image_token)
        if not self.codebook_token_ids or self.image_token_id is None:
            raise ValueError(
                f"the tokenizer has no token {lacking}, which a PixelLM reads or writes. Add it with "
                "add_pixellm_tokens, and rows for new tokens to the model (resize_token_embeddings)."
            )

    def __call__(  # type: ignore[override]
        self,
        images: Any = None,
        text: Any = None,
        *,
        boxes: Any = None,
        points: Any = None,
        task: str | None = None,
        **kwargs: Unpack[PixelLLMProcessorKwargs],
    ) -> PixelLLMInputs:
        """What `generate` and `forward` take. R rows are the questions about all images, image after image.

        Args:
            images: one image or a list: Pillow, numpy, torch, path, bytes or an open file (see `read_image`).
            text: a question for all images, a list with an entry per image (one image: per question) or a list of
                lists with an entry per question. It is put into the template; a text with the image token in it is a
                whole prompt already, as `apply_chat_template` makes them.
            boxes, points: not taken, a PixelLM reads no locations.
            task: "reason", the only one.
            kwargs: as in `PixelLLMProcessor`.

        Returns pixel_values (B,3,S,S) float32 0..255, pixel_mask (B,S,S) bool, original_sizes (B,2) int64 (h, w),
        prompt_mask (B,N) bool, input_ids and attention_mask (R,L) int64, padded on the right, with the image token
        `num_image_tokens` times in each row, and prompt_characters (R,L) int64, the questions' code points.
        """
        spec = task_spec(task or self.default_task)
        if not spec.writes_targets:
            able = [name for name, other in TASK_SPECS.items() if other.writes_targets]
            raise PromptError(
                f"a PixelLM has no task {task!r}, but {', '.join(able)}. Choose a PixelLLM for the others."
            )
        if boxes is not None or points is not None:
            raise PromptError("a PixelLM reads no boxes and no points. Say in the question which thing is meant.")
        settings = self._settings(kwargs)
        text_kwargs, images_kwargs = settings["text_kwargs"], settings["images_kwargs"]
        return_tensors = text_kwargs.pop("return_tensors", "pt")
        return_tensors = images_kwargs.pop("return_tensors", return_tensors)
        data: dict[str, Any] = {}
        if images is None:
            questions = [text] if isinstance(text, str) else list(text or ())
            if not questions or not all(isinstance(item, str) for item in questions):
                raise PromptError(f"without images, text must be a string or a list of strings, but it is {text!r}.")
        else:
            data |= dict(self.image_processor(images, **images_kwargs))
            sizes_wh = [(int(w), int(h)) for h, w in data["original_sizes"]]
            prompts = gather_prompts(None, None, text, sizes_wh, max_points=1)
            asked = np.zeros((len(prompts), max(map(len, prompts))), dtype=bool)
            for row, own in zip(asked, prompts, strict=True):
                row[: len(own)] = True
            data["prompt_mask"] = asked
            questions = [spec.prompt(prompt.text) for own in prompts for prompt in own]
        data |= self.encode_prompts(questions, **text_kwargs)
        data["prompt_characters"] = as_characters([question[: self._max_characters] for question in questions])
        return PixelLLMInputs(data, tensor_type=return_tensors)

    def encode_prompts(
        self,
        texts: Sequence[str],
        *,
        padding: bool | str | None = None,
        max_length: int | None = None,
        truncation: bool | str | None = None,
    ) -> dict[str, np.ndarray]:
        """Questions, or whole prompts -> input_ids and attention_mask (R,L) int64, padded on the right.

        max_length counts the image's tokens too. A question is cut where truncation is asked for, never the template.
        """
        fixed, cut = padding == "max_length", truncation not in (None, False, "do_not_truncate")
        limit = self.max_prompt_tokens
        if max_length is not None and (fixed or cut):
            limit = min(limit, max_length - self.num_image_tokens)
        encoded = {text: self._encode(text, limit, cut=cut) for text in dict.fromkeys(texts)}
        rows = [encoded[text] for text in texts]
        length = limit + self.num_image_tokens if fixed else max(map(len, rows))
        input_ids = np.full((len(rows), length), self.tokenizer.pad_token_id, dtype=np.int64)
        attention_mask = np.zeros((len(rows), length), dtype=np.int64)
        for i, row in enumerate(rows):
            input_ids[i, : len(row)] = row
            attention_mask[i, : len(row)] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def misfit(self, config: Any) -> str | None:
        """As for any family; and both must mean the same tokens."""
        if self.num_image_tokens != config.num_image_tokens:
            return (
                f"a prompt has {self.num_image_tokens} tokens of the image, the model reads {config.num_image_tokens}"
            )
        ids = [self.image_token_id, *self.codebook_token_ids]
        known = [config.image_token_id, *config.codebook_token_ids]
        if ids != known:
            return f"the tokens of the image and of targets have the ids {ids} in the tokenizer, in the model {known}"
        return super().misfit(config)

    def _encode(self, text: str, limit: int, *, cut: bool) -> list[int]:
        """One row: the prompt's ids with the image's tokens in their place."""
        if len(text) > self._max_characters and not cut:
            raise PromptError(self._too_long(text, f"{len(text)} characters", limit))
        text = text[: self._max_characters]
        self._check_question(text.replace(self.image_token, " "))
        row = self._prompt_ids(text)
        if len(row) > limit + self.num_image_tokens:
            if not cut or self.image_token in text:
                raise PromptError(self._too_long(text, f"{len(row) - self.num_image_tokens} tokens", limit))
            kept, least = len(text), 0
            while least < kept:  # the longest beginning of the question with which the prompt fits
                middle = (least + kept + 1) // 2
                fits = len(self._prompt_ids(text[:middle])) <= limit + self.num_image_tokens
                least, kept = (middle, kept) if fits else (least, middle - 1)
            if not text[:kept].strip():
                raise PromptError(self._too_long(text, "more tokens with the template alone", limit))
            row = self._prompt_ids(text[:kept])
        return row

    def _prompt_ids(self, text: str) -> list[int]:
        """A question in the template, or a whole prompt -> ids, not bounded."""
        prompt = text
        if self.image_token not in text:
            question = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}]
            prompt = self.apply_chat_template(question, tokenize=False)
        before, *after = prompt.split(self.image_token)
        if len(after) != 1:
            raise PromptError(
                f"a prompt must have the image token {self.image_token} once, but {prompt[-80:]!r} has it {len(after)} "
                "times. A PixelLM is asked about one image at a time; leave the token out of a question."
            )
        begin = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        seen = [self.image_token_id] * self.num_image_tokens
        return [*begin, *self._text_ids(before), *seen, *self._text_ids(after[0])]

    def _check_question(self, text: str) -> None:
        """Refuse what cannot be read at all, and tokens that mean something to the model."""
        written = writable_text(self.tokenizer, text)
        if not written.ids:
            raise PromptError(
                f"the tokenizer cannot write anything of the question {text[:80]!r}. Ask in words that the model was "
                "trained with."
                if written.unwritable
                else f"the question {text[:80]!r} is empty. Ask something."
            )
        tokenizer = self.tokenizer
        reserved = {*self.codebook_token_ids, tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id}
        if found := sorted(reserved & set(written.ids)):
            raise PromptError(
                f"the question {text[:80]!r} holds {tokenizer.convert_ids_to_tokens(found)[0]!r}, which is no word to "
                "the model. Remove it."
            )
        written.warn()

    def _text_ids(self, text: str) -> list[int]:
        """Without what the tokenizer has no tokens for."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
        return [i for i in ids if i != self.tokenizer.unk_token_id]

    def _too_long(self, text: str, length: str, limit: int) -> str:
        return (
            f"a prompt may have {limit} tokens besides the image's (max_prompt_tokens), but that of {text[:60]!r}… has "
            f"{length}. Shorten it, raise the setting, or pass truncation=True."
        )

    @property
    def model_input_names(self) -> list[str]:
        """Keys of a call with images and text."""
        return [
            *self.image_processor.model_input_names,
            "prompt_mask",
            "input_ids",
            "attention_mask",
            "prompt_characters",
        ]


def add_pixellm_tokens(tokenizer: Any, group_size: int = 6, *, image_token: str = IMAGE_TOKEN) -> list[int]:
    """Add what a PixelLM writes and reads to a language model's tokenizer, as the release does; their ids.

    First the tokens of a target, then those around an image, then the image's own (ours). Tokens that are there stay.
    group_size: scales times tokens per scale. The model needs rows for them: `resize_token_embeddings`.
    """
    around = ["<im_start>", "<im_end>", image_token]
    ids = add_target_tokens(tokenizer, group_size)
    tokenizer.add_tokens([token for token in around if token not in tokenizer.get_vocab()], special_tokens=True)
    return [*ids, *(tokenizer.get_vocab()[token] for token in around)]


__all__ = ["IMAGE_TOKEN", "LLAVA_TEMPLATE", "PixelLMProcessor", "add_pixellm_tokens"]
