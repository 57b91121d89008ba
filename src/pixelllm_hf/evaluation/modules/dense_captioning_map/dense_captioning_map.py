"""Dense captioning mAP of Visual Genome, as a module of `evaluate`."""

import datasets

from pixelllm_hf.evaluation.dense_captioning_map import dense_captioning_map
from pixelllm_hf.evaluation.meteor import meteor
from pixelllm_hf.evaluation.modules import declared_metric

_BOXES = datasets.List(datasets.List(datasets.Value("float64"), length=4))
_CAPTIONS = datasets.List(datasets.Value("string"))
_FEATURES = {
    "predictions": {"boxes": _BOXES, "captions": _CAPTIONS, "scores": datasets.List(datasets.Value("float64"))},
    "references": {"boxes": _BOXES, "captions": _CAPTIONS},
}


class DenseCaptioningMapModule(declared_metric.DeclaredMetric):
    """One entry per image: boxes xywh in original pixels, captions and, of predictions, scores.

    `meteor_variant` as `variant` of `meteor.meteor`; other options as in `dense_captioning_map`.
    """

    columns = _FEATURES

    def _compute(self, predictions, references, meteor_variant=None, merge=True, ignore_empty_string=True):
        def scorer(candidates, captions):
            result = meteor(candidates, captions, variant=meteor_variant)
            return result.samples, result.variant

        return dense_captioning_map(
            _records(predictions),
            _records(references),
            image_ids=range(len(references)),
            caption_scorer=scorer,
            merge=merge,
            ignore_empty_string=ignore_empty_string,
        ).to_dict()


def _records(images):
    records = []
    for image_id, image in enumerate(images):
        scores = image.get("scores") or [None] * len(image["boxes"])
        for box, caption, score in zip(image["boxes"], image["captions"], scores, strict=True):
            records.append({"image_id": image_id, "bbox": box, "caption": caption, "score": score})
    return records
