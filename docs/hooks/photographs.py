"""mkdocs: figures of the embedded model of photographs, beside baselines and on clip-art; its best and worst answers.

The photographs are not ours to keep, so what is drawn of them is drawn when the documentation is built, from
`data/photographs` or the folder that the variable PHOTOGRAPHS names. Without them the page says so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html import escape
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from pixelllm_hf import embedded_checkpoint
from pixelllm_hf.evaluation.photograph_table import is_of_photographs, photograph_table
from pixelllm_hf.evaluation.report import METRICS

REPOSITORY = Path(__file__).parents[2]
BASELINES = REPOSITORY / "docs" / "baselines"  # what `scripts/evaluate.py --baseline … --json` wrote
DRAWN = "<!-- photographs-drawn -->"
TABLE = "<!-- photographs-table -->"
SCENES = "<!-- scenes-table -->"
ON_SCENES = BASELINES / "scenes"  # what `scripts/evaluate.py --model photo --scenes … --json` wrote
FOLDER = "photographs"  # of the site
_TITLES = {
    "caption": "Captions, a point for each word",
    "segment": "Masks of what a name means",
    "dense": "Found objects",
}
# Of the tasks of composed scenes, in the order of the table.
_OF_SCENES = {
    "trace": ("object_f1", "point_in_box"),
    "caption": ("CIDEr",),
    "region": ("object_name",),
    "refer": ("P@0.5",),
    "segment": ("seg_gIoU",),
    "dense": ("mAP", "mAP_detection"),
}
_drawn: list[dict[str, Any]] = []


def photographs() -> Path:
    """Where they are looked for."""
    return Path(os.environ.get("PHOTOGRAPHS") or REPOSITORY / "data" / "photographs")


def on_files(files: Files, config: Any) -> Files:
    """Draw, if there is something to draw, and add the drawings to the site."""
    _drawn.clear()
    folder = photographs()
    if not all((folder / part).is_dir() for part in ("flickr", "coco")):
        return files
    out = REPOSITORY / "build" / FOLDER
    script = [sys.executable, "scripts/draw_results.py", "--data", str(folder.resolve()), "--out", str(out)]
    subprocess.run(script, check=True, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    _drawn.extend(json.loads((out / "results.json").read_text(encoding="utf-8")))
    for one in _drawn:
        files.append(File.generated(config, f"{FOLDER}/{one['file']}", content=(out / one["file"]).read_bytes()))
    return files


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Fill the slots where a page has them."""
    for slot, filled in ((TABLE, table), (SCENES, scenes_table)):
        if slot in markdown:
            markdown = markdown.replace(slot, filled())
    return markdown.replace(DRAWN, drawings(_drawn)) if DRAWN in markdown else markdown


def table() -> str:
    """Figures of the embedded model of photographs beside the baselines."""
    files = sorted(embedded_checkpoint("photo").glob("evaluation_*.json")) + sorted(BASELINES.glob("*.json"))
    reports = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return photograph_table([report for report in reports if is_of_photographs(report)])


def scenes_table() -> str:
    """Figures of both embedded models on composed scenes of clip-art, of which one has learnt nothing."""
    rows, commands = ["| task | figure | photo | tiny |", "|---|---|---|---|"], []
    for task, metrics in _OF_SCENES.items():
        file = ON_SCENES / f"photo_{task}.json"
        if not file.is_file():
            continue
        theirs = embedded_checkpoint("tiny") / f"evaluation_{task}.json"
        reports = [json.loads(one.read_text(encoding="utf-8")) for one in (file, theirs)]
        commands += [f"- `{report['command']}` ({report['scenes']} scenes)" for report in reports]
        for metric in metrics:
            cells = [f"{report['metrics'][metric]['value']:.3f}" for report in reports]
            rows.append(f"| {task} | {METRICS.get(metric, metric)} | {' | '.join(cells)} |")
    return "\n".join([*rows, "", "Printed by", "", *commands])


def drawings(drawn: list[dict[str, Any]]) -> str:
    """The best and the worst of each task under each other, with what is true below."""
    if not drawn:
        return (
            "*These pages were built without the photographs, so nothing is drawn here. With the folder of "
            "[Training on photographs](training-on-photographs.md#the-data), `PHOTOGRAPHS=DIR make docs` draws it.*"
        )
    parts = []
    for task, title in _TITLES.items():
        parts.append(f"### {title}")
        for kind, heading in (("best", "Best"), ("worst", "Worst")):
            chosen = [one for one in drawn if (one["task"], one["kind"]) == (task, kind)]
            if chosen:
                parts.append(f"{heading} of {chosen[0]['of']}, by {chosen[0]['metric']}:")
            parts += [_figure(one) for one in chosen]
    return "\n\n".join(parts)


def _figure(one: dict[str, Any]) -> str:
    said = escape("; ".join(one["said"])) or "nothing"
    return (
        f'<figure><img src="{FOLDER}/{one["file"]}" alt="{said}" loading="lazy"><figcaption>{one["metric"]} '
        f"{one['score']:.2f}. Said: {said}. People: {escape(one['truth'])}</figcaption></figure>"
    )
