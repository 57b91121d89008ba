"""Evaluation numbers as JSON, as a table, and in a model card. Cards are rendered, never typed.

python -m pixelllm_hf.evaluation.report --template model_card.md --evaluation trace.json --evaluation refer.json \\
    --log "All parts=runs/tiny/metrics.jsonl" --out src/pixelllm_hf/checkpoints/tiny/README.md

Evaluations with a title (`scripts/evaluate.py --title`) are on other images than the model was made for. They go into
a section of their own, under their titles.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from pixelllm_hf.evaluation.photograph_table import is_of_photographs, photograph_table
from pixelllm_hf.evaluation.report_layout import problem_of
from pixelllm_hf.files import atomic_text
from pixelllm_hf.processing.tasks import TASK_SPECS

# Metric -> what it is, in the order of a table.
METRICS = {
    "object_f1": "object F1 of the caption, mean over scenes",
    "object_precision": "names said that are present",
    "object_recall": "names present that are said",
    "point_in_box": "object words whose point is in the object's box",
    "point_in_box_single": "the same, unambiguous names only",
    "center_error_percent": "centre error of object words, % of the diagonal",
    "word_on_object": "object words, right or wrong, whose point is on some object's box",
    "word_on_object_by_chance": "the same for points drawn at random",
    "object_pointed_at": "objects with the point of an object word in their box",
    "point_l1_teacher_forced": "point L1 of given narratives, in image sides",
    "LBM_k0": "LBM (k=0) of the boxes of given narratives' words, in image sides; lower is better",
    "LBM_k1": "LBM (k=1)",
    "P@0.5": "expressions whose box has an IoU above 0.5",
    "P@0.5_distractor": "the same, where another object of the class is in the image",
    "P@0.5_alone": "the same, where none is",
    "P@0.5_trained_name": "the same, of objects with a name that the model was trained on",
    "P@0.5_busy": "the same, of images with five objects or more",
    "P@0.6": "expressions whose box has an IoU above 0.6",
    "P@0.7": "above 0.7",
    "P@0.8": "above 0.8",
    "P@0.9": "above 0.9",
    "R@1": "phrases whose box has an IoU of at least 0.5",
    "mean_IoU": "mean IoU of the boxes",
    "mean_IoU_distractor": "the same, where another object of the class is in the image",
    "mean_IoU_alone": "the same, where none is",
    "mean_IoU_trained_name": "the same, of objects with a name that the model was trained on",
    "mean_IoU_busy": "the same, of images with five objects or more",
    "box_score_AUC": "right boxes (IoU above 0.5) that have a higher score than wrong ones",
    "seg_cIoU": "cIoU: all intersections over all unions",
    "seg_cIoU_distractor": "the same, where another object of the class is in the image",
    "seg_cIoU_alone": "the same, where none is",
    "seg_cIoU_trained_name": "the same, of objects with a name that the model was trained on",
    "seg_cIoU_busy": "the same, of images with five objects or more",
    "seg_gIoU": "gIoU: mean IoU of the masks",
    "seg_gIoU_distractor": "the same, where another object of the class is in the image",
    "seg_gIoU_alone": "the same, where none is",
    "seg_gIoU_trained_name": "the same, of objects with a name that the model was trained on",
    "seg_gIoU_busy": "the same, of images with five objects or more",
    "seg_P@0.5": "expressions whose mask has an IoU above 0.5",
    "seg_P@0.5_distractor": "the same, where another object of the class is in the image",
    "seg_P@0.5_alone": "the same, where none is",
    "seg_P@0.5_trained_name": "the same, of objects with a name that the model was trained on",
    "seg_P@0.5_busy": "the same, of images with five objects or more",
    "seg_P@0.6": "expressions whose mask has an IoU above 0.6",
    "seg_P@0.7": "above 0.7",
    "seg_P@0.8": "above 0.8",
    "seg_P@0.9": "above 0.9",
    "seg_box_P@0.5": "expressions whose mask's tight box has an IoU above 0.5",
    "head_noun": "captions of boxes whose head noun is the category or a synonym",
    "head_noun_not_person": "the same, of all categories but person",
    "noun_point_in_box": "nouns that name a phrase of the references and have their point in its box",
    "noun_in_references": "nouns that are a word of the references",
    "AP50": "AP50 of boxes and the categories that their captions name",
    "AP50_boxes_alone": "the same of boxes without names",
    "gIoU": "mean IoU of targets (gIoU)",
    "cIoU": "intersections over unions of all targets (cIoU)",
    "gIoU_few": "gIoU where up to three are annotated",
    "cIoU_few": "cIoU where up to three are annotated",
    "gIoU_many": "gIoU where more are annotated",
    "cIoU_many": "cIoU where more are annotated",
    "right_number": "answers with the right number of targets",
    "empty_accuracy": "questions about nothing whose answer points at nothing",
    "gIoU_released": "gIoU of the released meter",
    "cIoU_released": "cIoU of the released meter",
    "repeating": "texts that say three words in a row twice",
    "words_per_text": "words a text",
    "error_per_spread": "mean error of a side of a word's box over its mean spread; 1 is calibrated",
    "errors_within_spread": "errors below the spread; 0.632 is calibrated",
    "spread_rank_correlation": "rank correlation of spreads and errors",
    "visual_accuracy": "words rightly shown or not",
    "visual_majority": "the same, if all words were treated alike",
    "shown_words_with_place": "words shown that have a location",
    "words_with_place_shown": "words with a location that are shown",
    "visual_AUC": "words with a location that have a higher probability than words without",
    "visual_ECE": "expected calibration error of that probability",
    "exact_match": "captions that are the phrase, word for word",
    "object_name": "captions with the right object name",
    "mAP": "mAP of boxes with captions, over IoU 0.3 to 0.7 and METEOR 0 to 0.25",
    "mAP_detection": "mAP of boxes alone, over IoU 0.3 to 0.7",
    "CIDEr": "CIDEr, 0 to 10",
    "METEOR": "METEOR",
    "BLEU-4": "BLEU-4",
    "BLEU-3": "BLEU-3",
    "BLEU-2": "BLEU-2",
    "BLEU-1": "BLEU-1",
    "ROUGE-L": "ROUGE-L",
}
# What is measured in other ways than a task of the model is called.
OTHER_TITLES = {
    "muse": "Questions with any number of targets (muse)",
    "multirefer": "Several expressions at once (multirefer)",
    "reasonseg": "Questions that need thought, one target (reasonseg)",
    "phrases": "Phrases of given captions (phrases)",
    "grounded_caption": "Nouns of written captions, and where they belong (grounded_caption)",
    "certainty": "How sure locations are, and how sure they are said to be (certainty)",
}
OF_TASK = {("phrases", "point_in_box"): "words of phrases whose point is in their phrase's box"}
OTHER_IMAGES, PHOTOGRAPHS = "other-images", "photographs"
# Columns of a learning curve; the first whose columns a log has is shown.
CURVES = (
    (
        "step",
        "eval_object_f1",
        "eval_point_in_box",
        "eval_refer_p50",
        "eval_segment_ciou",
        "eval_region_exact",
        "eval_dense_map",
    ),
    ("step", "eval_object_f1", "eval_point_in_box", "eval_refer_p50", "eval_region_exact"),
    ("step", "eval_object_f1", "eval_point_in_box", "eval_center_error_percent"),
    ("step", "eval_fused_foreground_accuracy", "eval_background_accuracy"),
)
NO_TARGET = (
    "The model was not made for these images and was not trained on any of them. No target was set: the tables show "
    "what is left of its skill."
)
MAX_BYTES = 64_000_000
FRONT_MATTER = re.compile(r"\A---\n(.*?\n)---\n", re.S)
SLOT = re.compile(r"<!-- (?P<name>[\w:-]+) -->.*?<!-- /(?P=name) -->", re.S)


def title_of(task: str) -> str:
    """The heading of a task's table; of a task that is not known here its name."""
    return TASK_SPECS[task].title if task in TASK_SPECS else OTHER_TITLES.get(task, task)


def tasks_of_a_card() -> list[str]:
    """The tasks in the order of a model card: the paper's own one leads."""
    return [*sorted(_measured_as_called(), key=lambda task: task != "trace"), *OTHER_TITLES]


def _measured_as_called() -> list[str]:
    """Tasks of the model that are measured under their own name: answers that point are in several ways."""
    return [name for name, spec in TASK_SPECS.items() if not spec.writes_targets]


def optional_slots() -> set[str]:
    """Parts of a card's template of which nothing is left where there is nothing to say."""
    return {OTHER_IMAGES, PHOTOGRAPHS, *(f"metrics:{task}" for task in _measured_as_called())}


class ReportError(ValueError):
    """An evaluation file or template that cannot be used."""


def write_report(path: str | Path, report: Mapping[str, Any]) -> None:
    """JSON with sorted keys, whole or not at all; the same numbers give the same bytes. Unknown values are null."""
    with atomic_text(path) as file:
        file.write(json.dumps(_without_nan(report), indent=1, sort_keys=True, allow_nan=False) + "\n")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def read_report(path: str | Path) -> dict[str, Any]:
    """An evaluation written by `write_report`; what is not one is a `ReportError` that names file and entry."""
    report = _read_json(path)
    problem = problem_of(report)
    if problem:
        raise ReportError(f"{path} is not an evaluation: {problem}. Make it with scripts/evaluate.py --json.")
    return report


def _read_json(path: str | Path) -> Any:
    try:
        if not Path(path).is_file():
            raise OSError("it is no file")
        if Path(path).stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES} bytes")
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        told = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ReportError(f"{path} is not an evaluation ({told}); make it with scripts/evaluate.py --json.") from error


def metric_title(metric: str, task: str | None = None) -> str:
    """What a metric is, in words; of one that is not known here its name."""
    return OF_TASK.get((task or "", metric)) or METRICS.get(metric, metric)


def metrics_table(report: Mapping[str, Any]) -> str:
    """A markdown table: value, 95 % interval and over how many scenes or words it is taken."""
    rows = ["| metric | value | 95 % interval | over |", "|---|---|---|---|"]
    metrics = report["metrics"]
    ordered = [name for name in METRICS if name in metrics] + [name for name in metrics if name not in METRICS]
    for name, estimate in ((name, metrics[name]) for name in ordered):
        value, low, high = (_written(estimate[key], name) for key in ("value", "low", "high"))
        title = metric_title(name, report.get("task"))
        rows.append(f"| {title} (`{name}`) | {value} | {low} to {high} | {estimate['count']} |")
    return "\n".join([*rows, *_notes(report)])


def curve_tables(report: Mapping[str, Any]) -> str:
    """The curves of a report, a table each; nothing where it has none."""
    tables = []
    for points in report.get("curves", {}).values():
        columns = list(points[0])
        rows = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        rows += ["| " + " | ".join(_cell(point[column]) for column in columns) + " |" for point in points]
        tables.append("\n".join(rows))
    return "\n\n".join(tables)


def _notes(report: Mapping[str, Any]) -> list[str]:
    """How the numbers were counted, below their table."""
    lines = [f"Counted: {counted(report)}." if "notes" in report else "", " · ".join(report.get("notes", []))]
    return [part for line in lines if line for part in ("", line)]


def counted(report: Mapping[str, Any]) -> str:
    """What was asked and answered, in one line.

    >>> counted({"task": "trace", "scenes": 2, "words": 31, "metrics": {}})
    '2 scenes, 31 words'
    """
    counts = {name: value for name, value in report.items() if isinstance(value, int)}
    counts = {"scenes": counts.pop("scenes"), **counts}
    return ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items())


def _written(value: float | None, name: str) -> str:
    if value is None or math.isnan(value):
        return "none"
    return f"{value:.2f}" if name.endswith("_percent") else f"{value:.4f}"


def how_made(report: Mapping[str, Any]) -> str:
    """One sentence on what was measured and how to get the same numbers."""
    decoding = report["decoding"]
    beams = decoding.get("num_beams")
    search = "the text is given" if beams is None else "greedy decoding" if beams == 1 else f"{beams} beams"
    return f"Measured on {data_name(report)} from `generate()` output, {search}; printed by `{report['command']}`."


def data_name(report: Mapping[str, Any]) -> str:
    """On what, in words."""
    data = report["data"]
    if "title" in data:
        return f'{report["scenes"]} images of "{data["title"]}"'
    if "seed" not in data:
        what = "photographs" if is_of_photographs(report) else "scenes"
        parts = [f"{report['scenes']} {what} of {data['folder']}", *(f"{k} {data[k]}" for k in ("split",) if k in data)]
        return ", ".join(parts)
    details = [f"seed {data['seed']}", *(f"{k}: {data[k]}" for k in ("objects", "backgrounds") if k in data)]
    return f"{report['scenes']} composed scenes ({', '.join(details)})"


def task_section(reports: Sequence[Mapping[str, Any]], heading: str = "###") -> str:
    """The section of one task in a model card: a table for each of its evaluations."""
    tables = [f"{how_made(report)}\n\n{metrics_table(report)}" for report in reports]
    return "\n\n".join([f"{heading} {title_of(reports[0]['task'])}", *tables])


def other_images(reports: Sequence[Mapping[str, Any]]) -> str:
    """The section of evaluations with a title: for each title its description and a section for each task."""
    parts = ["## Other images", NO_TARGET]
    for title in dict.fromkeys(report["data"]["title"] for report in reports):
        own = [report for report in reports if report["data"]["title"] == title]
        parts.append(f"### {title}")
        said = [
            text
            for report in own
            for text in (report["data"].get("description"), names_note(report), _folded(names_listed(report)))
            if text
        ]
        parts += dict.fromkeys(said)  # once, where all tasks say the same
        for task in [task for task in tasks_of_a_card() if any(report["task"] == task for report in own)]:
            parts.append(task_section([report for report in own if report["task"] == task], "####"))
    return "\n\n".join(parts)


def _folded(text: str) -> str:
    return text and f"<details><summary>The names</summary>\n\n{text}\n\n</details>"


def names_note(report: Mapping[str, Any]) -> str:
    """How many objects count in naming, where the model was not trained on the names of all; else nothing."""
    names = report["data"].get("names")
    if names is None:
        return ""
    counted, others = sum(map(len, names["counted"].values())), len(names["not_counted"])
    return (
        f"Of {counted + others} names of objects {counted} count under one that the model was trained on. Object "
        "names and captions of regions are measured on these alone; a trained name said of anything else is wrong. "
        "Places, mAP and the scores of whole captions are over all objects."
    )


def names_listed(report: Mapping[str, Any]) -> str:
    """Which names count, and as what, and which do not; nothing where all names were trained."""
    names = report["data"].get("names")
    if names is None:
        return ""
    counted = [name if own == [name] else f"{name} ({', '.join(own)})" for name, own in names["counted"].items()]
    return f"Counted: {', '.join(counted) or 'none'}.\n\nNot counted: {', '.join(names['not_counted']) or 'none'}."


def model_index(name: str, reports: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The `model-index` of a card's metadata, from which the Hub shows results."""
    results = []
    for report in reports:
        written = {
            metric: round(estimate["value"], 6)
            for metric, estimate in report["metrics"].items()
            if estimate["value"] is not None and not math.isnan(estimate["value"])
        }
        results.append(
            {
                "task": {"type": "image-text-to-text", "name": title_of(report["task"])},
                "dataset": {
                    "type": "composed-scenes" if "seed" in report["data"] else "folder",
                    "name": data_name(report),
                    "config": report["task"],  # without it readers merge the tasks into one result
                },
                "metrics": [
                    {"type": metric, "value": value, "name": METRICS.get(metric, metric)}
                    for metric, value in written.items()
                ],
            }
        )
    return [{"name": name, "results": results}]


def with_model_index(card: str, reports: Sequence[Mapping[str, Any]]) -> str:
    """The card with `model-index` as the last entry of its metadata, in the place of one that is there."""
    match = FRONT_MATTER.match(card)
    if match is None:
        raise ReportError("the template needs metadata between two lines of three dashes at its top.")
    heading = re.search(r"^# (.+)$", card, re.M)
    index = model_index(heading[1] if heading else "model", reports)
    kept = re.sub(r"^model-index:\n(?:[ -].*\n)*", "", match[1], flags=re.M)
    dumped = yaml.safe_dump({"model-index": index}, sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{kept}{dumped}---\n{card[match.end() :]}"


def read_log(path: str | Path) -> list[dict[str, Any]]:
    """The records of a training log, one JSON object a line."""
    records = []
    try:
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
            record = json.loads(line)
            if not isinstance(record, dict) or not all(isinstance(v, (int, float, str)) for v in record.values()):
                raise ValueError(f"line {number} is no record of numbers")
            records.append(record)
    except (OSError, ValueError, RecursionError) as error:
        raise ReportError(f"{path} is not a training log ({error}). Give the metrics.jsonl of a run.") from error
    return records


def learning_curve(lines: Sequence[Mapping[str, Any]]) -> str:
    """Records of a training log that have all columns of one of `CURVES`, as a markdown table."""
    known = [curve for curve in CURVES if any(all(column in record for column in curve) for record in lines)]
    if not known:
        raise ReportError(f"the log has no record with all of {' or of '.join(', '.join(c) for c in CURVES)}.")
    columns = known[0]
    rows = ["| " + " | ".join(column.removeprefix("eval_") for column in columns) + " |", "|" + "---|" * len(columns)]
    for record in lines:
        if all(column in record for column in columns):
            rows.append("| " + " | ".join(_cell(record[column]) for column in columns) + " |")
    return "\n".join(rows)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def render_card(template: str, slots: Mapping[str, str]) -> str:
    """Fill `<!-- name -->…<!-- /name -->` of the template; a slot that the template lacks is an error.

    >>> render_card("a <!-- x --><!-- /x --> b", {"x": "1"})
    'a <!-- x -->\\n1\\n<!-- /x --> b'
    """
    present = {match["name"] for match in SLOT.finditer(template)}
    unknown = sorted(set(slots) - present)
    if unknown:
        raise ReportError(f"the template has no slot for {', '.join(unknown)}; its slots are {sorted(present)}.")

    def filled(match: re.Match[str]) -> str:
        name = match["name"]
        return f"<!-- {name} -->\n{slots[name]}\n<!-- /{name} -->" if name in slots else match[0]

    return SLOT.sub(filled, template)


def main(arguments: Sequence[str] | None = None) -> int:
    """Render a template from evaluations and, if given, training logs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--template", required=True, type=Path)
    parser.add_argument("--evaluation", required=True, type=Path, action="append", help="JSON of scripts/evaluate.py")
    parser.add_argument(
        "--log", default=[], action="append", metavar="TITLE=FILE", help="training log, one JSON record a line; repeat"
    )
    parser.add_argument("--out", required=True, type=Path)
    args = parser.parse_args(arguments)
    try:
        reports = [read_report(path) for path in args.evaluation]
        template = args.template.read_text(encoding="utf-8")
        # nothing is left of what is not given
        slots = {match["name"]: "" for match in SLOT.finditer(template) if match["name"] in optional_slots()}
        if of_photographs := [report for report in reports if is_of_photographs(report)]:
            slots[PHOTOGRAPHS] = photograph_table(of_photographs)
        untitled = [r for r in reports if "title" not in r["data"] and not is_of_photographs(r)]
        for task in dict.fromkeys(report["task"] for report in untitled):
            slots[f"metrics:{task}"] = task_section([report for report in untitled if report["task"] == task])
        if titled := [report for report in reports if "title" in report["data"]]:
            slots[OTHER_IMAGES] = other_images(titled)
        curves = []
        for title, _, path in (log.rpartition("=") for log in args.log):
            records = read_log(path)
            curves.append(f"{title}:\n\n{learning_curve(records)}" if title else learning_curve(records))
        if curves:
            slots["learning-curve"] = "\n\n".join(curves)
        card = render_card(template, slots)
        with atomic_text(args.out) as file:
            file.write(with_model_index(card, [report for report in reports if "baseline" not in report]))
    except (ReportError, OSError, UnicodeDecodeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
