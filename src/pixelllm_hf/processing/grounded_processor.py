"""What the processors of both families share: folders that may be damaged, settings, chats and texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.processing_utils import ProcessorMixin

from .chat_turns import check_conversations
from .code_export import export_processor_code
from .grounded_results import VISUAL_THRESHOLD, GroundedCaption, box_on_image, ground_words, mean_probability
from .grounded_streamer import GroundedStreamer
from .mask_resizing import masks_on_image
from .processing_kwargs import PixelLLMProcessorKwargs, refuse_unknown
from .processor_folder import check_settings, files_replaced, processor_errors
from .prompt_sources import PromptSource, as_array, entry, read_sources
from .word_spans import SpanReader
from .writable_text import from_characters
from .written_targets import WrittenTargets, read_without

Results = list[list[GroundedCaption]]


class GroundedProcessor(ProcessorMixin):
    """An image processor and a tokenizer, loaded and saved with care. `max_prompt_tokens` bounds texts.

    default_task: what is asked where nobody names a task.
    """

    valid_processor_kwargs = PixelLLMProcessorKwargs
    default_task: str
    max_prompt_tokens: int
    visual_threshold = VISUAL_THRESHOLD
    codebook_token_ids: Sequence[int]  # the tokens that a target is written with, which are no words

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """As transformers'. Files that are damaged, or ask for what nobody means, are a `ProcessorFolderError`."""
        with processor_errors(pretrained_model_name_or_path, kwargs.get("subfolder")):
            processor = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
            check_settings(processor, pretrained_model_name_or_path)
        return processor

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> list[str]:
        """As transformers'; a kill leaves the former files or the new ones, none of them half."""
        kwargs.setdefault("repo_id", Path(save_directory).resolve().name)
        with files_replaced(Path(save_directory)) as folder:
            saved = super().save_pretrained(str(folder), push_to_hub=push_to_hub, **kwargs)
            return [str(Path(save_directory) / Path(file).relative_to(folder)) for file in saved or ()]

    def _settings(self, kwargs: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The settings of a call and the tokenizer's own ones, by what they are for."""
        refuse_unknown(kwargs)
        return self._merge_kwargs(self.valid_processor_kwargs, self.tokenizer.init_kwargs, **kwargs)

    def misfit(self, config: Any) -> str | None:
        """Why this is not the processor of a model with this config, in words; None if it may be."""
        canvas, pieces = self.image_processor.canvas, len(self.tokenizer)
        vocabulary = config.get_text_config().vocab_size
        if canvas != config.image_size:
            return f"images come on a canvas of {canvas} pixels, the model reads {config.image_size}"
        if pieces > vocabulary:
            return f"the tokenizer has {pieces} pieces, the model knows {vocabulary}"
        return None

    def post_process_grounded_generation(self, outputs: Any, inputs: Mapping[str, Any]) -> Results:
        """The answers in the user's terms: per image a list of `GroundedCaption`, prompt after prompt.

        outputs: what `generate` returned (sequences, coordinates, token_log_probs; of some models coordinate_scales and
        visual_probs, of some tasks boxes, box_scores, masks, mask_scores, prompt_boxes, prompt_mask, detection_scores;
        of targets that the model has written row_of_target, target_positions, mask_logits, incomplete), or its
        sequences alone.
        inputs: what `generate` was given; needed are original_sizes, with several prompts an image prompt_mask, and
        after a detection detect_objects.
        With num_return_sequences=k the k answers of a prompt follow each other.
        """
        names = ("sequences", "coordinates", "token_log_probs", "boxes", "box_scores", "mask_scores")
        answers = {name: as_array(entry(outputs, name)) for name in names}
        if hasattr(outputs, "ndim"):
            answers["sequences"] = as_array(outputs)
        sequences, coordinates, log_probs, boxes, box_scores, mask_scores = answers.values()
        certainty = {name: as_array(entry(outputs, name)) for name in ("coordinate_scales", "visual_probs")}
        if sequences is None:
            raise ValueError(f"post-processing needs the sequences of generate, but a {type(outputs).__name__} came.")
        sources = self.prompt_sources(inputs, len(sequences), outputs)
        masks = _masks_of_rows(entry(outputs, "masks"), sources)
        queries = as_array(entry(inputs, "query_characters"))
        reader = SpanReader(self.tokenizer)
        targets = WrittenTargets.of(outputs)
        target_masks = {} if targets is None else targets.on_images(sources)
        results: Results = [[] for _ in range(len(inputs["original_sizes"]))]
        for row, source in enumerate(sources):
            if queries is None:
                spanned = read_without(reader, sequences[row], self.codebook_token_ids)
            else:
                query = from_characters(queries[row * len(queries) // len(sources)])
                spanned = reader.read_given(sequences[row], query)
            row_log_probs = None if log_probs is None else log_probs[row]
            box, box_score = source.found_box, source.found_score
            if boxes is not None and box is None:
                box = box_on_image(boxes[row], source.transform)
                box_score = None if box is None or box_scores is None else float(box_scores[row])
            words = ground_words(
                spanned,
                None if coordinates is None else coordinates[row],
                row_log_probs,
                source.transform,
                **{name: None if value is None else value[row] for name, value in certainty.items()},
            )
            if boxes is not None and source.found_box is None and not words:  # punctuation alone
                box, box_score = None, None
            has_mask = masks is not None and (box is not None or boxes is None)
            placed = box is not None or has_mask
            if targets is not None and not placed:
                targets.warn_of_incomplete(row, spanned.text)
            results[source.image_index].append(
                GroundedCaption(
                    text=spanned.text,
                    words=words,
                    image_size=source.transform.image_size_wh,
                    score=None if row_log_probs is None else mean_probability(row_log_probs),
                    prompt=source.prompt,
                    prompt_box=source.prompt_box,
                    prompt_points=source.prompt_points,
                    prompt_index=source.prompt_index,
                    visual_threshold=self.visual_threshold,
                    # what has a location of its own is one object, whatever is written about it
                    targets=() if targets is None or placed else targets.grounded(row, spanned, target_masks),
                    box=box,
                    box_score=box_score,
                    mask=masks[row] if masks is not None and has_mask else None,
                    mask_score=float(mask_scores[row]) if mask_scores is not None and has_mask else None,
                )
            )
        return results

    def post_process_reason(self, outputs: Any, inputs: Mapping[str, Any]) -> Results:
        """Per image an answer for each question; its `targets` are the phrases that point, each with its mask.

        What the length limit cut off is a `PartialAnswerWarning`, and so are masks that would not fit into memory.
        """
        if WrittenTargets.of(outputs) is None:
            raise ValueError(
                "the output has no targets. Answers that point need a model with a segmentation codebook and inputs of "
                "task='reason'; pass the whole output of generate."
            )
        return self.post_process_grounded_generation(outputs, inputs)

    @property
    def tells_roles(self) -> bool:
        """Whether the chat template has roles, and so may be given earlier turns."""
        return False

    def prompt_sources(self, inputs: Mapping[str, Any], num_rows: int, outputs: Any = None) -> list[PromptSource]:
        """What each of the `num_rows` rows of the model's answer was asked, from what went into `generate`.

        outputs: of `generate`; needed if the model was to find the places itself.
        """
        return read_sources(
            inputs,
            outputs,
            num_rows,
            canvas=self.image_processor.canvas,
            rounding=self.image_processor.rounding,
            decode=self._read,
        )

    def apply_chat_template(self, conversation: Any, *args: Any, **kwargs: Any) -> Any:
        """A conversation, or a list of them -> its text, or with tokenize=True and return_dict=True the inputs.

        conversation: one turn of the user, whose content is a text or has parts: one {"type": "image", "image": …} (as
        the processor takes it, or "path") and {"type": "text", "text": …}. Anything else is a `PromptError`; where the
        language model has a chat template of its own, earlier turns may stand before it. Settings of the processor go
        into processor_kwargs, its task, boxes and points too.
        """
        check_conversations(conversation, with_roles=self.tells_roles)
        return super().apply_chat_template(conversation, *args, **kwargs)

    def batch_decode(self, sequences: Any, *args: Any, **kwargs: Any) -> list[str]:
        """The texts of what `generate` returned, or of its sequences alone; options as the tokenizer's."""
        return self.tokenizer.batch_decode(self._ids_of(sequences), *args, **kwargs)

    def decode(self, token_ids: Any, *args: Any, **kwargs: Any) -> Any:
        """As `batch_decode`; the ids of one row give one text."""
        return self.tokenizer.decode(self._ids_of(token_ids), *args, **kwargs)

    def post_process_image_text_to_text(
        self, generated_outputs: Any, skip_special_tokens: bool = True, **kwargs: Any
    ) -> Any:
        """The plain texts of what `generate` returned, without locations."""
        return self.decode(generated_outputs, skip_special_tokens=skip_special_tokens, **kwargs)

    def _ids_of(self, outputs: Any) -> Any:
        """Token ids of an output of `generate`, or as they came. What a loss ignores (-100) is padding."""
        sequences = entry(outputs, "sequences")
        ids = outputs if sequences is None else sequences
        array = as_array(ids) if hasattr(ids, "ndim") else None
        return ids if array is None else np.where(array < 0, self.tokenizer.pad_token_id, array)

    @property
    def pad_token_id(self) -> int:
        """The tokenizer's; `Seq2SeqTrainer` pads answers with it."""
        return self.tokenizer.pad_token_id

    @property
    def _max_characters(self) -> int:
        """More than any text of max_prompt_tokens has: a longer one would cost minutes before it is refused."""
        return 64 * self.max_prompt_tokens

    def _read(self, ids: Any) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def streamer(self, inputs: Mapping[str, Any], timeout: float | None = None) -> GroundedStreamer:
        """For words while they are written: `for word in processor.streamer(inputs).stream(model.generate): …`."""
        return GroundedStreamer(self, inputs, timeout)

    def _upload_modified_files(self, working_dir: Any, *args: Any, **kwargs: Any) -> Any:
        """What goes to the Hub takes its code along, so that it loads where this package is not installed."""
        if self._auto_class is None:  # what was loaded with its code has saved that already
            classes = {"processor": type(self), "image_processor": type(self.image_processor)}
            export_processor_code(working_dir, **classes)
        return super()._upload_modified_files(working_dir, *args, **kwargs)


def _masks_of_rows(logits: Any, sources: Sequence[PromptSource]) -> list[np.ndarray] | None:
    """logits (R,h,w) over the canvas -> the mask of every row at the size of its image, (H,W) bool."""
    if logits is None:
        return None
    logits = torch.as_tensor(logits)
    masks: list[np.ndarray] = []
    start = 0
    while start < len(sources):  # rows of one image stand together
        source, stop = sources[start], start + 1
        while stop < len(sources) and sources[stop].image_index == source.image_index:
            stop += 1
        transform = source.transform
        stretched = masks_on_image(
            logits[start:stop],
            canvas_size=transform.canvas,
            resized_size_hw=transform.resized_size_wh[::-1],
            image_size_hw=transform.image_size_wh[::-1],
        )
        masks.extend(stretched.numpy(force=True))
        start = stop
    return masks


__all__ = ["GroundedProcessor"]
