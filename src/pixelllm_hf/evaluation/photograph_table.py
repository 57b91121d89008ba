"""The figures of photographs in one table: a model, what can be answered without it, and what others have reached.

Evaluations of `scripts/evaluate.py` on the layouts of Flickr30k Entities and COCO go into it, those with `--baseline`
too. Published numbers are none of ours: each has its source, and the data that it is of.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

KINDS = ("phrases", "categories")
# Task, metric and what it is, in the order of the table.
FIGURES = (
    ("caption", "CIDEr", "captions: CIDEr, 0 to 10"),
    ("caption", "BLEU-4", "captions: BLEU-4"),
    ("phrases", "R@1", "phrases of given captions: box with an IoU of at least 0.5"),
    ("phrases", "point_in_box", "words of given captions: point in their phrase's box"),
    ("grounded_caption", "noun_point_in_box", "nouns of written captions: point in the box of that phrase"),
    ("grounded_caption", "noun_in_references", "nouns of written captions: a word of the references"),
    ("region", "head_noun", "captions of boxes: the head noun is the category or a synonym"),
    ("dense", "AP50", "found boxes: AP50 over the categories"),
    ("segment", "seg_gIoU", "masks of named objects, own box: mean IoU"),
)
BASELINES = {"chance": "chance", "fixed": "one answer for all", "teacher": "detector alone"}


@dataclass(frozen=True)
class Published:
    """What a system is said to reach. value: a fraction. data: of what, where it is not the set of our own figure."""

    task: str
    metric: str
    value: float
    system: str
    data: str
    source: str


PUBLISHED = (
    Published(
        "caption",
        "BLEU-4",
        0.123,
        "LSTM on VGG features, greedy",
        "Flickr8k test, five references",
        "https://gist.github.com/jcoreyes/7e76e90664f935c6f65d",
    ),
    Published(
        "caption",
        "BLEU-4",
        0.218,
        "visual attention as in Show, Attend and Tell, a reimplementation",
        "Flickr8k",
        "https://github.com/chaitanya100100/Attention-Modeling-for-Image-Captioning",
    ),
    Published(
        "phrases",
        "R@1",
        0.823,
        "MDETR, ResNet-101, trained on COCO, Visual Genome and Flickr30k",
        "Flickr30k Entities validation, merged boxes",
        "https://github.com/ashkamath/mdetr/blob/main/.github/flickr.md",
    ),
    Published(
        "dense",
        "AP50",
        0.426,
        "YOLOX-Nano, EasyCV's training",
        "COCO val2017",
        "https://github.com/alibaba/EasyCV/blob/master/docs/source/model_zoo_detection.md",
    ),
)


def is_of_photographs(report: Mapping[str, Any]) -> bool:
    """Whether an evaluation belongs into this table."""
    return report["data"].get("kind") in KINDS and "title" not in report["data"]


def photograph_table(reports: Sequence[Mapping[str, Any]]) -> str:
    """The table, how it was made, and the published numbers of the figures that are in it.

    reports: of one model and of baselines. Of several for the same figure the last counts.
    """
    measured: dict[tuple[str, str], dict[str, Mapping[str, Any]]] = {}
    for report in reports:
        for name, estimate in report["metrics"].items():
            measured.setdefault((report["task"], name), {})[report.get("baseline", "")] = estimate
    shown = [(task, name, title) for task, name, title in FIGURES if (task, name) in measured]
    others = [kind for kind in BASELINES if any(kind in measured[task, name] for task, name, _ in shown)]
    head = ["figure", "this model", "95 % interval", *(BASELINES[kind] for kind in others)]
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for task, name, title in shown:
        of = measured[task, name]
        own = of.get("")
        interval = "" if own is None else f"{_number(own['low'])} to {_number(own['high'])}"
        cells = [f"{title} (`{task}`, `{name}`)", _number(None if own is None else own["value"]), interval]
        rows.append(f"| {' | '.join([*cells, *(_number(of[k]['value']) if k in of else '' for k in others)])} |")
    parts = ["\n".join(rows), _commands(reports), _published({(task, name) for task, name, _ in shown})]
    return "\n\n".join(part for part in parts if part)


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.3f}"


def _commands(reports: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"- `{report['command']}` ({report['scenes']} photographs)" for report in reports]
    return "\n".join(["Printed by", "", *lines])


def _published(figures: set[tuple[str, str]]) -> str:
    known = [one for one in PUBLISHED if (one.task, one.metric) in figures]
    if not known:
        return ""
    rows = ["Published, for comparison; sets and protocols differ where it says so:", ""]
    rows += ["| figure | value | system | data | source |", "|---|---|---|---|---|"]
    rows += [f"| `{p.task}`, `{p.metric}` | {p.value:.3f} | {p.system} | {p.data} | <{p.source}> |" for p in known]
    return "\n".join(rows)
