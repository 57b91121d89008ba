"""Annotations to evaluate on, with damaged values and bytes: images to ask about, or an error that names the file."""

from __future__ import annotations

import json
import math
import random
from typing import Any

from pixelllm_hf.data import AnnotationFileError, BadRecordError
from pixelllm_hf.data.scenes import write_scenes
from pixelllm_hf.evaluation.images import EvaluationDataError
from pixelllm_hf.evaluation.row_images import read_captioned, read_described, read_referred, read_scenes
from pixelllm_hf.evaluation.scene_folder import DataFolder

READERS = {
    "instances.json": (read_scenes, read_captioned),
    "captions.json": (read_captioned,),
    "refcoco/refs.json": (read_referred,),
    "refcoco/instances.json": (read_referred,),
    "visual_genome/region_descriptions.json": (read_described,),
    "visual_genome/image_data.json": (read_described,),
}


def test_damaged_annotations_are_refused_or_give_images_to_ask_about(fuzz, fuzz_inputs, tmp_path):
    folder = write_scenes(tmp_path / "scenes", 2, 5)
    whole = {name: (folder / name).read_bytes() for name in READERS}

    def make(chance: random.Random) -> Any:
        name = chance.choice(list(READERS))
        content = fuzz.as_json(fuzz.damaged(json.loads(whole[name]), chance))
        return name, fuzz.damaged_bytes(content, chance) if chance.random() < 0.2 else content

    def attempt(value: Any) -> None:
        name, content = value
        for other, intact in whole.items():
            (folder / other).write_bytes(content if other == name else intact)
        data = DataFolder(folder)
        for read in READERS[name]:
            for image in read(data):
                fuzz.must(image.file.is_file() and image.image_id not in ("None", ""), f"{image}")
                for entry in (*getattr(image, "expressions", ()), *getattr(image, "regions", ())):
                    fuzz.must(all(map(math.isfinite, entry.box)), f"{entry}")

    typed = [AnnotationFileError, BadRecordError, EvaluationDataError]
    fuzz.run(attempt, make, fuzz_inputs, typed=typed, megabytes=512).check()
