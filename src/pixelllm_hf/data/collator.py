"""Grounded rows -> the tensors that the model trains on (official.md#data)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pixelllm_hf.data.image_folder import shape_problem
from pixelllm_hf.data.image_transforms import Augmentation, TrainingView, canvas_mask
from pixelllm_hf.data.mirrored_text import mirrored_prompt
from pixelllm_hf.data.packed_labels import IGNORE_INDEX, asking_alike, pack_labels
from pixelllm_hf.data.target_writing import write_targets
from pixelllm_hf.data.trace_alignment import (
    align_by_rank,
    align_by_text,
    valid_utterances,
    whole_pixels,
)
from pixelllm_hf.processing.image_reading import read_image
from pixelllm_hf.processing.mask_codec import decode_rle
from pixelllm_hf.processing.target_tokens import target_token_ids
from pixelllm_hf.processing.tasks import TASK_SPECS

_CROP_ATTEMPTS = 3
# Of `GROUNDED_FEATURES`; and the column by which Trainer may group rows, which the collator leaves alone.
_NEEDED = ("image", "image_id", "width", "height", "task", "prompts")
_COLUMNS = (*_NEEDED, "length")
_OF_PROMPTS = ("box", "context", "target", "object_box", "utterances", "text_loss", "point_loss")

Alignment = Literal["rank", "text"]


class GroundedCollator:
    """Makes a batch of rows of `GROUNDED_FEATURES`: images on the canvas, prompts, labels and their tokens' locations.

    Emits what the processor emits (pixel_values 0..255, pixel_mask, prompt_boxes in canvas pixels, prompt_mask,
    input_ids, attention_mask, original_sizes) and, per valid prompt (R rows, image-major):
    labels (R, T) with EOS, -100 in the padding; point_labels (R, T, 2, 2), box corners xy in 0..1 of the unpadded
    image, NaN where a token has no location; visual_labels (R, T) 1 where a token's word is known to have one, 0 where
    it is known to have none, -100 elsewhere; text_loss_mask (R,) 1.0 where the text counts.
    Rows of task "segment" add mask_labels (R, S, S) uint8, 1 inside, in canvas pixels, and mask_loss_mask (R,), 0.0
    where no mask is known or in view.
    Rows of task "reason" add target_mask_labels (K, S, S) uint8, 1 inside, in canvas pixels: the targets of all prompts
    in the order they are written; one that truncation has cut off has none.
    Rows of task "dense" have no prompts: input_ids and attention_mask are (B, L), one context an image, and the objects
    to find are object_boxes (B, M, 4), xyxy canvas pixels, zero in the padding, and object_labels (B, M, T) with EOS,
    -100 in the padding. They do not share a batch with other tasks.

    With `pixels=False` the images are not read: mirrored (B,) bool is there in the place of pixel_values, for features
    that are looked up.
    Made by `for_model` it gives dense batches labels (B, M*T) as well, the texts of an image's objects one behind the
    other: the model needs none, but without them transformers' Trainer evaluates no loss.
    With `pack` one row is all prompts of an image that ask the same: their labels stand one behind the other, and
    label_segments (R, T) counts which of them each label belongs to, -1 in the padding.

    Args:
        tokenizer: a fast tokenizer with pad, EOS and character offsets.
        image_size: side of the canvas in pixels. antialias: how images are made smaller; rounding: of their
            sizes on the canvas; all as in the processor.
        max_prompts: prompts taken per image; more are drawn at random, or the first ones (`prompt_choice`). Of the
            objects of a dense row always the first ones in view, as in the reference.
        max_text_tokens: longest text with BOS and EOS; truncation drops EOS, like the reference.
        max_context_tokens: longest context with EOS.
        align: "text" matches utterances to the caption's words, "rank" is the reference's proportional rule.
        augmentation: by task; tasks without an entry fill the canvas unflipped. `REFERENCE_AUGMENTATION` is the
            released recipe.
        contexts: prompt strings by task for prompts without their own, one is drawn per prompt; the official ones of
            `tasks` unless given.
        object_points: "last" puts an object's box on the last token before EOS, the one that referring reads;
            "all" on every token.
        region_points: let region phrases learn their object's box too, and dense ones (then with point_labels
            (B, M, T, 2, 2)), and of "reason" rows a target's tokens and the words that name it; the reference does not.
        target_tokens: ids that a target is written with, as the model's codebook_config has them; by default all such
            tokens that the tokenizer has.
        pixels: whether images are read. pack: whether prompts of an image share a row; an image's prompts without
            their own context then have the same one.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        image_size: int,
        antialias: bool = True,
        rounding: str = "down",
        max_prompts: int = 1,
        max_text_tokens: int = 128,
        max_context_tokens: int = 32,
        align: Alignment = "text",
        augmentation: Mapping[str, Augmentation] | None = None,
        contexts: Mapping[str, Sequence[str]] | None = None,
        prompt_choice: Literal["random", "first"] = "random",
        object_points: Literal["last", "all"] = "last",
        region_points: bool = False,
        target_tokens: Sequence[int] | None = None,
        pixels: bool = True,
        pack: bool = False,
    ):
        if align not in ("rank", "text"):
            raise ValueError(f"align must be 'rank' or 'text', but it is {align!r}.")
        if not getattr(tokenizer, "is_fast", False):
            raise TypeError(
                f"the collator needs character offsets, which {type(tokenizer).__name__} does not give. "
                "Load a fast tokenizer (AutoTokenizer gives one where a tokenizer.json is present)."
            )
        if min(max_prompts, max_text_tokens - 1, max_context_tokens) < 1:
            raise ValueError(
                "max_prompts and max_context_tokens must be 1 or more and max_text_tokens 2 or more, but they are "
                f"{max_prompts}, {max_context_tokens} and {max_text_tokens}."
            )
        self.tokenizer = tokenizer
        self.image_size, self.antialias, self.rounding = image_size, antialias, rounding
        self.max_prompts = max_prompts
        self.max_text_tokens, self.max_context_tokens = max_text_tokens, max_context_tokens
        self.align = align
        self.augmentation = dict(augmentation or {})
        self.contexts: dict[str, Sequence[str]] = {
            task: prompt.training or (prompt.default,) for task, prompt in TASK_SPECS.items() if prompt.default
        }
        self.contexts.update(contexts or {})
        self.prompt_choice = prompt_choice
        self.object_points = object_points
        self.region_points = region_points
        self.target_tokens = list(target_token_ids(tokenizer) if target_tokens is None else target_tokens)
        self.pixels, self.pack = pixels, pack
        self.for_trainer = False

    @classmethod
    def for_processor(cls, processor: Any, **settings: Any) -> GroundedCollator:
        """With a processor's tokenizer, canvas and resizing: the model trains on what it will be shown."""
        images = processor.image_processor
        return cls(
            processor.tokenizer,
            image_size=images.canvas,
            antialias=images.antialias,
            rounding=images.rounding,
            **settings,
        )

    @classmethod
    def for_model(cls, model: Any, processor: Any, **settings: Any) -> GroundedCollator:
        """For transformers' `Trainer`, which then leaves the columns of rows in a data set (`model.row_columns`)."""
        plain = model.get_base_model() if hasattr(model, "get_base_model") else model  # of peft's
        plain.row_columns = _COLUMNS
        made = cls.for_processor(processor, **settings)
        made.for_trainer = True
        return made

    def __call__(
        self, rows: Sequence[dict[str, Any]], generators: Sequence[np.random.Generator] | None = None
    ) -> dict[str, Tensor]:
        """rows (B) -> batch. generators: one per row for everything random; without them a fixed seed per place."""
        if not rows:
            raise ValueError("a batch needs at least one row, but there is none.")
        for row in rows:
            _check_row(row, type(self).__name__)
        if generators is None:
            generators = [np.random.default_rng(place) for place in range(len(rows))]
        tasks = {row["task"] for row in rows}
        specs = [TASK_SPECS[task] for task in sorted(tasks) if task in TASK_SPECS]
        found = [spec.name for spec in specs if spec.finds_objects]
        if found and len(tasks) > 1:
            raise ValueError(
                f"rows of task {found[0]!r} have no prompts and need a batch of their own, but the tasks of this one "
                f"are {sorted(tasks)}. Batch the sources separately."
            )
        examples = [self._example(row, generator) for row, generator in zip(rows, generators, strict=True)]
        batch = {
            "pixel_mask": torch.stack([example["mask"] for example in examples]),
            "original_sizes": torch.tensor([example["original_size"] for example in examples]),
        }
        if self.pixels:
            batch["pixel_values"] = torch.stack([example["pixels"] for example in examples])
        else:
            batch["mirrored"] = torch.tensor([example["mirrored"] for example in examples])
        if found:
            batch |= self._context_tensors([example["prompts"][0]["context"] for example in examples])
            objects = self._object_tensors(examples)
            shown = {"labels": objects["object_labels"].flatten(1)} if self.for_trainer else {}
            return batch | objects | shown
        prompts = [prompt for example in examples for prompt in example["prompts"]]
        wants_masks, writes_targets = (any(getattr(s, n) for s in specs) for n in ("wants_masks", "writes_targets"))
        packed = self.pack and not wants_masks and not writes_targets
        by_image = [example["rows"] if packed else [[p] for p in example["prompts"]] for example in examples]
        rows_of = [row for rows in by_image for row in rows]
        asked = [row[0] for row in rows_of]
        batch["text_loss_mask"] = torch.tensor([float(prompt["text_loss"]) for prompt in asked])
        batch |= self._prompt_tensors([[row[0] for row in rows] for rows in by_image])
        batch |= self._context_tensors([prompt["context"] for prompt in asked])
        if wants_masks:
            batch |= self._mask_tensors(prompts)
        labels = self._label_tensors(prompts)
        if writes_targets:
            batch["target_mask_labels"] = self._target_masks(prompts)
        return batch | (pack_labels(labels, [len(row) for row in rows_of]) if packed else labels)

    # ---------------------------------------------------------------- one image

    def _example(self, row: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
        annotated_wh = (row["width"], row["height"])
        augmentation, spec = self.augmentation.get(row["task"], Augmentation()), TASK_SPECS.get(row["task"])
        finds_objects = spec is not None and spec.finds_objects
        for attempt in range(_CROP_ATTEMPTS + 1):
            # An unlucky crop may hold none of the objects asked about; the last attempt shows the whole image.
            augmentation = augmentation if attempt < _CROP_ATTEMPTS else replace(augmentation, scale=(1.0, 1.0))
            view = TrainingView.draw(annotated_wh, self.image_size, augmentation, generator, rounding=self.rounding)
            chosen = row["prompts"] if finds_objects else self._chosen(row["prompts"], generator)
            if view.flipped and augmentation.flip_text:
                mirrored = [mirrored_prompt(prompt) for prompt in chosen]
                view = replace(view, flipped=None not in mirrored)
                chosen = [prompt for prompt in mirrored if prompt] if view.flipped else chosen
            prompts = [moved for prompt in chosen if (moved := self._moved(prompt, view))]
            if finds_objects:
                prompts = prompts[: self.max_prompts]
            if prompts:
                break
        else:
            raise ValueError(
                f"image {row['image_id']!r} has no usable prompt: it has none, or every box lies outside. Drop the row."
            )
        contexts = self.contexts.get(row["task"]) or ("",)
        shared = contexts[int(generator.integers(len(contexts)))] if self.pack else None
        for prompt in prompts:
            if prompt["context"] is None:
                prompt["context"] = shared or contexts[int(generator.integers(len(contexts)))]
            learns_boxes = self.region_points and spec is not None and spec.names_objects
            prompt["point_loss"] = prompt["point_loss"] or learns_boxes
            prompt["points_at_targets"] = spec is not None and spec.writes_targets
        example: dict[str, Any] = {"original_size": annotated_wh[::-1], "mirrored": view.flipped}
        if self.pack:
            example["rows"] = asking_alike(prompts)
            prompts = [prompt for alike in example["rows"] for prompt in alike]
        if not self.pixels:
            return {**example, "mask": canvas_mask(view.size_wh, self.image_size), "prompts": prompts}
        pixels, mask = view.image(read_row_image(row, view, antialias=self.antialias), antialias=self.antialias)
        return {**example, "pixels": pixels, "mask": mask, "prompts": prompts}

    def _chosen(self, prompts: Sequence[dict[str, Any]], generator: np.random.Generator) -> list[dict[str, Any]]:
        if len(prompts) <= self.max_prompts or self.prompt_choice == "first":
            return list(prompts[: self.max_prompts])
        chosen = generator.choice(len(prompts), self.max_prompts, replace=False)
        return [prompts[index] for index in sorted(chosen)]

    def _moved(self, prompt: dict[str, Any], view: TrainingView) -> dict[str, Any] | None:
        """The prompt with its boxes in canvas pixels, or None when the crop left nothing of one of them."""
        moved = {**prompt, "view": view}
        for name in ("box", "object_box"):
            if prompt[name]:
                moved[name] = view.boxes(torch.tensor(prompt[name], dtype=torch.float32))
                if not bool((moved[name][2:] > moved[name][:2]).all()):
                    return None
        if targets := prompt.get("targets"):
            moved["targets"] = [{**target, "on_canvas": view.mask(decode_rle(target["mask"]))} for target in targets]
            if not all(bool(target["on_canvas"].any()) for target in moved["targets"]):
                return None
        if not prompt["box"]:
            moved["box"] = torch.tensor([0.0, 0.0, *view.size_wh])
        return moved

    # ---------------------------------------------------------------- tensors

    def _prompt_tensors(self, by_image: Sequence[Sequence[dict[str, Any]]]) -> dict[str, Tensor]:
        most = max(map(len, by_image))
        boxes = torch.zeros(len(by_image), most, 4)
        mask = torch.zeros(len(by_image), most, dtype=torch.bool)
        for index, prompts in enumerate(by_image):
            boxes[index, : len(prompts)] = torch.stack([prompt["box"] for prompt in prompts])
            mask[index, : len(prompts)] = True
        return {"prompt_boxes": boxes, "prompt_mask": mask}

    def _mask_tensors(self, prompts: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        labels = torch.zeros(len(prompts), self.image_size, self.image_size, dtype=torch.uint8)
        for index, prompt in enumerate(prompts):
            mask = prompt.get("mask")  # rows written by hand or before there were masks lack the key
            if mask:
                labels[index] = prompt["view"].mask(decode_rle(mask))
        return {"mask_labels": labels, "mask_loss_mask": labels.flatten(1).any(1).float()}

    def _target_masks(self, prompts: Sequence[dict[str, Any]]) -> Tensor:
        """The masks of the targets that `_label_tensors` has written whole."""
        masks = [target["on_canvas"] for prompt in prompts for target in prompt["targets"][: prompt["targets_written"]]]
        return torch.stack(masks) if masks else torch.zeros(0, self.image_size, self.image_size, dtype=torch.uint8)

    def _object_tensors(self, examples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        counts = [len(example["prompts"]) for example in examples]
        present = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
        objects = [thing for example in examples for thing in example["prompts"]]
        of_objects = self._label_tensors(objects)

        def by_image(values: Tensor, padding: float) -> Tensor:
            """(objects, ...) -> (B, M, ...)"""
            padded = values.new_full((*present.shape, *values.shape[1:]), padding)
            padded[present] = values
            return padded

        result = {
            "object_boxes": by_image(torch.stack([thing["box"] for thing in objects]), 0.0),
            "object_labels": by_image(of_objects["labels"], IGNORE_INDEX),
        }
        if self.region_points:
            result["point_labels"] = by_image(of_objects["point_labels"], float("nan"))
        return result

    def _context_tensors(self, contexts: Sequence[str]) -> dict[str, Tensor]:
        encoded = self.tokenizer(list(contexts), add_special_tokens=False)["input_ids"]
        rows = [self._ended(tokens, self.max_context_tokens) for tokens in encoded]
        ids = _padded(rows, self.tokenizer.pad_token_id)
        lengths = torch.tensor([len(row) for row in rows])
        return {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths[:, None]).long()}

    def _label_tensors(self, prompts: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        end, most = self.tokenizer.eos_token_id, self.max_text_tokens - 1  # BOS takes one
        written, offsets = self._encoded(prompts)
        tokens = [self._ended(ids, most) for ids in written]
        labels = _padded(tokens, IGNORE_INDEX)
        points = torch.full((*labels.shape, 2, 2), float("nan"))
        visual = torch.full_like(labels, IGNORE_INDEX)
        for row, (prompt, ids) in enumerate(zip(prompts, tokens, strict=True)):
            words = len(ids) - (ids[-1] == end)
            if prompt.get("points_at_targets"):
                answer = prompt["answer"]
                prompt["targets_written"] = sum(place <= words for place in answer.group_ends)
                if prompt["point_loss"]:
                    self._place_targets(points[row], visual[row], prompt, answer.target_of_token[:words])
            elif prompt["point_loss"]:
                self._place_tokens(points[row], visual[row], prompt, offsets[row][:words], ended=words < len(ids))
        return {"labels": labels, "point_labels": points, "visual_labels": visual}

    def _encoded(self, prompts: Sequence[dict[str, Any]]) -> tuple[list[list[int]], list[Any]]:
        """Ids of the prompts' target texts without EOS, and their tokens' characters where these are texts alone."""
        texts = [prompt["target"] for prompt in prompts]
        encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        written, offsets = list(encoded["input_ids"]), list(encoded["offset_mapping"])
        for index, prompt in enumerate(prompts):
            if prompt.get("points_at_targets"):
                names = [target["name"] for target in prompt["targets"]]
                prompt["answer"] = write_targets(self.tokenizer, prompt["target"], names, self.target_tokens)
                written[index], offsets[index] = prompt["answer"].ids, None
        return written, offsets

    def _place_targets(
        self, points: Tensor, visual: Tensor, prompt: dict[str, Any], target_of_token: Sequence[int]
    ) -> None:
        """Fill points (T, 2, 2) and visual (T,) of one row where its tokens name a target, or are a target's own."""
        view = prompt["view"]
        for token, index in enumerate(target_of_token):
            box = None if index < 0 else prompt["targets"][index]["box"]
            if box:
                boxes = torch.tensor(box, dtype=torch.float32)
                points[token] = view.relative_boxes(boxes).unflatten(-1, (2, 2))
                visual[token] = 1

    def _ended(self, tokens: list[int], longest: int) -> list[int]:
        """The tokens with EOS, which goes first when they are too many, as in the reference."""
        return (tokens + [self.tokenizer.eos_token_id])[:longest]

    def _place_tokens(
        self,
        points: Tensor,
        visual: Tensor,
        prompt: dict[str, Any],
        offsets: Sequence[tuple[int, int]],
        *,
        ended: bool,
    ) -> None:
        """Fill points (T, 2, 2) of one row where its tokens have a location, and visual (T,) where that is known."""
        words, view = len(offsets), prompt["view"]
        nowhere = points.new_tensor(float("nan"))
        if prompt["utterances"]:
            width, height = view.transform.image_size_wh
            boxes = np.array([utterance["box"] for utterance in prompt["utterances"]], np.float32)
            pixels = torch.from_numpy(whole_pixels(boxes, (height, width)))
            utterance = torch.from_numpy(self._aligned(prompt, offsets))
            # The reference takes an all-zero box for "no location"; here NaN says so.
            known = (utterance >= 0) & (pixels[utterance.clamp(min=0)] > 0).any(-1)
            places = view.relative_boxes(pixels)[utterance.clamp(min=0)].unflatten(-1, (2, 2))
            points[:words] = torch.where(known[:, None, None], places, nowhere)
            said = [utterance.get("visual") for utterance in prompt["utterances"]]  # rows may be older than the field
            told = torch.tensor([IGNORE_INDEX if value is None else int(value) for value in said])
            visual[:words] = told[utterance.clamp(min=0)].where(utterance >= 0, IGNORE_INDEX)
        elif prompt["object_box"] is not None:
            place = (prompt["object_box"] / points.new_tensor(view.size_wh * 2)).unflatten(-1, (2, 2))
            if self.object_points == "all":
                points[:words] = place
            elif ended and words:
                points[words - 1] = place

    def _aligned(self, prompt: dict[str, Any], offsets: Sequence[tuple[int, int]]) -> np.ndarray:
        texts = [utterance["text"] for utterance in prompt["utterances"]]
        if self.align == "text":
            return align_by_text(prompt["target"], offsets, texts)
        centers = np.array([utterance["center"] for utterance in prompt["utterances"]], np.float32)
        return align_by_rank(np.ones(len(offsets), bool), valid_utterances(texts, centers))


def _check_row(row: Mapping[str, Any], kind: str) -> None:
    """Raise a ValueError that names what a row, or a prompt of it, lacks. kind: of the collator."""
    if missing := [name for name in _NEEDED if name not in row]:
        raise ValueError(
            f"a row needs {', '.join(missing)}, but it has {', '.join(row) or 'nothing'}. If transformers' "
            f"Trainer has removed them, make its data_collator by {kind}.for_model(model, processor)."
        )
    for number, prompt in enumerate(row["prompts"]):
        if missing := [name for name in _OF_PROMPTS if name not in prompt]:
            raise ValueError(
                f"prompt {number} of image {row['image_id']!r} lacks {', '.join(missing)}. Give all fields of a prompt "
                "in GROUNDED_FEATURES, None where one says nothing."
            )


def read_row_image(row: dict[str, Any], view: TrainingView, *, antialias: bool) -> Image.Image:
    """A row's image, decoded or not, upright and with enough pixels for the view.

    It must have the shape that the annotations are for; its resolution may be another.
    """
    source = row["image"]
    if isinstance(source, dict):  # a `datasets` image with decode=False
        source = source["bytes"] if source.get("bytes") else source["path"]
    if source is None:
        raise ValueError(f"row {row['image_id']!r} has no image. Give the reader the folder of images.")
    # The processor asks for the same multiple; what the model sees must not depend on who reads.
    enough = 2 * max(view.transform.resized_size_wh) if antialias else None
    image = read_image(source, enough=enough, name=f"image {row['image_id']!r}")
    if problem := shape_problem(f"image {row['image_id']!r}", image.size_wh, (row["width"], row["height"])):
        raise ValueError(f"{problem} Pair the annotations with their images.")
    return image.pixels


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    result = torch.full((len(rows), max(1, max(map(len, rows)))), value, dtype=torch.long)
    for index, row in enumerate(rows):
        result[index, : len(row)] = torch.tensor(row, dtype=torch.long)
    return result
