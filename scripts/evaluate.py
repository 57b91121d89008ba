"""Measure a model: print a table with intervals, write the numbers as JSON.

python scripts/evaluate.py --task refer --model tiny                          # 500 held-out scenes, composed here
python scripts/evaluate.py --task trace --model runs/tiny/model --scenes 50   # a first look
python scripts/evaluate.py --task segment --model org/pixelllm --data DIR --split testA --json segment.json
accelerate launch --num_processes 2 scripts/evaluate.py --task dense --model org/pixelllm --data DIR   # 2 accelerators
ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 scripts/evaluate.py --task dense  # 2 CPU cores

python scripts/evaluate.py --task refer --objects CUTOUTS --scenes 200 --trained-names builtin --title "Cut-outs of ..."

Photographs, with the splits that lie in the folder; baselines answer in the model's place:

python scripts/evaluate.py --task phrases --model photo --data FLICKR --split val  # caption, grounded_caption, …
python scripts/evaluate.py --task region --model photo --data COCO --split val     # or dense, segment, caption
python scripts/evaluate.py --task phrases --data FLICKR --split val --baseline fixed  # or chance
python scripts/evaluate.py --task dense --data COCO --split val --baseline teacher --teacher yolox_nano.onnx

FLICKR is in the layout of Flickr30k Entities: Sentences/, Annotations/, images/, SPLIT.txt. COCO has
instances_SPLIT.json, captions_SPLIT.json and images/. Any other DIR has images/ and annotations in their official
layouts, such as `python -m pixelllm_hf.data.scenes` writes:
  trace    instances.json, localized_narratives.jsonl     region, dense  visual_genome/*.json or GRiT's JSON
  caption  captions.json, perhaps instances.json          refer, segment refcoco/refs*, refcoco/instances.json
  muse     muse.json or muse_SPLIT.json, perhaps in muse/ multirefer     as refer
  reasonseg the folders SPLIT of ReasonSeg, with JSON beside the images
Or it holds the rows of the task that scripts/prepare_dataset.py made of such files, or of others. Every other layout
that training reads is measured with --format, its annotations as --data and its images as --images.
Where objects have names that the model never learnt, --trained-names says which it did: names are then measured on
those objects, places on all. --title keeps such a report apart from the others in a model card.
Several processes give the numbers of one. On a CPU each process has one thread, so that sums come in the same order on
every machine; set OMP_NUM_THREADS to have more.
"""

from __future__ import annotations

import os

# Read when numpy and torch are imported; see above. MKL's products would depend on where in memory their factors lie.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pixelllm_hf.cli import UsageError
from pixelllm_hf.cli.arguments import positive
from pixelllm_hf.cli.evaluation_errors import COMPOSING_ERRORS, EVALUATION_ERRORS
from pixelllm_hf.data.formats import FORMATS
from pixelllm_hf.decoding import longest, own_beams
from pixelllm_hf.evaluation.baselines import KINDS, Baseline, baseline
from pixelllm_hf.evaluation.object_detector import ObjectDetector
from pixelllm_hf.evaluation.report import counted, curve_tables, metrics_table, names_listed, names_note, write_report
from pixelllm_hf.evaluation.row_images import annotated_names
from pixelllm_hf.evaluation.runner import (
    Evaluation,
    GenerationSettings,
    evaluate,
    evaluate_baseline,
    versions,
    weights_digest,
)
from pixelllm_hf.evaluation.scene_folder import HELD_OUT_SEED, DataFolder, composed_folder
from pixelllm_hf.evaluation.seen_classes import SeenClasses
from pixelllm_hf.evaluation.tasks import NAMES, OF_KIND, Task, task_for
from pixelllm_hf.evaluation.tasks.task import EvalSettings
from pixelllm_hf.extras import require
from pixelllm_hf.files import atomic_text
from pixelllm_hf.inference import EMBEDDED, Captioner

SCENES = 500


def main(args: argparse.Namespace) -> None:
    if args.teacher and args.baseline != "teacher":
        raise UsageError("--teacher is the detector of --baseline teacher; give both or neither.")
    if args.data and (args.scenes or args.seed is not None):
        raise UsageError("--data brings its own scenes; leave --scenes and --seed out, or leave --data out.")
    if (args.format or args.companion) and not (args.data and args.format):
        raise UsageError("--format is the layout of --data, and --companion its second file; give these too.")
    if args.description and not args.title:
        raise UsageError("--description goes under a --title; give one, or leave it out.")
    require("accelerate", "datasets", what="evaluation")
    import datasets
    from accelerate import PartialState

    datasets.disable_progress_bars()
    trained = SeenClasses.read(args.seen_classes) if args.seen_classes else None
    state = PartialState(cpu=args.device == "cpu")
    device = str(state.device) if state.num_processes > 1 else args.device
    captioner = None if args.baseline else Captioner.load(args.model, device, args.dtype, {})
    seed = HELD_OUT_SEED if args.seed is None else args.seed
    started = time.perf_counter()
    with ExitStack() as stack:
        folder = args.data or stack.enter_context(composed_once(state, args, seed))
        data = DataFolder(
            Path(folder),
            images=args.images,
            split=args.split,
            trained=trained,
            format=args.format,
            companion=args.companion,
        )
        task = task_for(args.task, data)
        generation = GenerationSettings(
            batch_size=args.batch_size,
            max_new_tokens=args.max_new_tokens,
            no_repeat_ngram_size=args.no_repeat_ngram_size,
            num_beams=args.num_beams,
            progress=sys.stderr.isatty() and state.is_main_process,
        )
        evaluation: Evaluation | None
        if captioner is None:
            evaluation = evaluate_baseline(answering(args, data), task, data, limit=args.limit)
        else:
            settings = EvalSettings(released_meter=args.released_meter)
            model, processor = captioner.model, captioner.processor
            evaluation = evaluate(
                model, processor, task, data, generation=generation, settings=settings, limit=args.limit
            )
        if evaluation is None or not state.is_main_process:
            return
        made = (
            made_by(args, captioner.model, task, generation)
            if captioner
            else {"baseline": args.baseline, "decoding": {}}
        )
        report = heading(args, seed, data) | made | evaluation.result
    answered_by, seconds = report.get("model", args.baseline), time.perf_counter() - started
    print(f"{args.task} · {answered_by} · {counted(report)} · {seconds:.1f} s")
    print(metrics_table(report))
    if curves := curve_tables(report):
        print(f"\n{curves}")
    if note := names_note(report):
        print(f"\n{note}\n\n{names_listed(report)}")
    if args.json:
        write_report(args.json, report)
    if args.captions:
        with atomic_text(args.captions) as file:
            file.writelines(json.dumps(record) + "\n" for record in evaluation.answers)


def heading(args: argparse.Namespace, seed: int, folder: DataFolder) -> dict[str, Any]:
    """What the numbers are about, and how to get them again."""
    data: dict[str, Any] = {"folder": Path(args.data).name} if args.data else {"seed": seed}
    data |= {"kind": folder.kind} if folder.kind in OF_KIND else {}
    data |= {"format": args.format} if args.format else {}
    data |= {k: Path(v).name for k, v in (("objects", args.objects), ("backgrounds", args.backgrounds)) if v}
    own = ("split", "limit", "title", "description")
    data |= {name: value for name in own if (value := getattr(args, name))}
    if folder.trained is not None and folder.categories is not None:
        data["names"] = folder.trained.report(folder.categories)
    return {
        "task": args.task,
        "command": " ".join(["python scripts/evaluate.py", *_without_outputs(sys.argv[1:])]),
        "data": data,
        "versions": versions(),
    }


def made_by(args: argparse.Namespace, model: Any, task: Task, generation: GenerationSettings) -> dict[str, Any]:
    """The model, and how it was asked."""
    decoding: dict[str, Any] = {"dtype": str(model.dtype).removeprefix("torch.")}
    if task.searches:
        own = model.generation_config
        decoding |= {"num_beams": generation.num_beams or own_beams(own)}
        decoding |= {"max_new_tokens": generation.max_new_tokens or longest(own)}
        if generation.no_repeat_ngram_size is not None:
            decoding["no_repeat_ngram_size"] = generation.no_repeat_ngram_size
    source = Path(model.name_or_path)
    return {
        "model": args.model if not Path(args.model).exists() else Path(args.model).name,
        "weights_sha256": weights_digest(source) if source.is_dir() else None,
        "decoding": decoding,
    }


def answering(args: argparse.Namespace, data: DataFolder) -> Baseline:
    """The baseline that answers in the model's place."""
    detector = None
    if args.teacher is not None:
        from pixelllm_hf.conversion.towers import yolox_tower
        from pixelllm_hf.modeling.configuration_towers import PixelLLMYoloxTowerConfig

        tower = yolox_tower(args.teacher, PixelLLMYoloxTowerConfig(output_maps=["detections"]))
        detector = ObjectDetector(tower.detect)
    names = annotated_names(data) if data.kind == "categories" and args.task != "caption" else ()
    return baseline(args.baseline, names=names, detector=detector)


@contextmanager
def composed_once(state: Any, args: argparse.Namespace, seed: int) -> Iterator[Path]:
    """The composed scenes: one folder on every machine, made by its first process and read by all."""
    with ExitStack() as stack:
        problem, folder = None, None
        if state.is_local_main_process:
            try:
                folder = stack.enter_context(
                    composed_folder(args.scenes or SCENES, seed, objects=args.objects, backgrounds=args.backgrounds)
                )
            except COMPOSING_ERRORS as error:
                problem = error  # the others wait for an answer
        from accelerate.utils import gather_object

        folders = gather_object([folder])
        folder = folders[state.process_index - state.local_process_index]
        if problem is not None or folder is None:
            raise problem or UsageError("the scenes could not be composed; see the message of the first process.")
        yield folder
        state.wait_for_everyone()


def _without_outputs(arguments: list[str]) -> list[str]:
    """The command line without what changes no number: output files, titles, and where folders are."""
    left_out = ("--json", "--captions", "--title", "--description")
    kept, skip = [], False
    for argument in arguments:
        if skip or argument in left_out:
            skip = not skip
        elif not argument.startswith(tuple(f"{name}=" for name in left_out)):
            path = Path(argument)
            elsewhere = path.is_absolute() or ".." in path.parts
            kept.append(shlex.quote(path.name if elsewhere else argument))
    return kept


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=NAMES, default="trace")
    parser.add_argument("--model", default=EMBEDDED, help="folder or hub id; or the name of an embedded one")
    parser.add_argument("--data", help="folder with annotations, or a prepared one, instead of composing scenes")
    parser.add_argument(
        "--format",
        choices=sorted(name for name, layout in FORMATS.items() if layout.needs_images),
        help="layout of --data, which then is the annotation file or folder, as for scripts/prepare_dataset.py",
    )
    parser.add_argument("--companion", type=Path, help="second file of --format: instances or image_data")
    parser.add_argument("--images", type=Path, help="the images of --data, if they are not in its images/")
    parser.add_argument(
        "--split", help="of data that has several: a list of a folder, a file's name, or in a refs file"
    )
    parser.add_argument("--limit", type=positive, help="only the first images")
    parser.add_argument("--scenes", type=positive, help=f"how many to compose (default: {SCENES})")
    parser.add_argument("--seed", type=int, help=f"their series, never a trained one (default: {HELD_OUT_SEED})")
    parser.add_argument("--objects", help="folder of other cut-outs to compose with")
    parser.add_argument("--backgrounds", help="folder of photographs to compose on")
    parser.add_argument(
        "--trained-names",
        dest="seen_classes",
        help="text file, one a line; or builtin: those of the scenes composed without --objects",
    )
    parser.add_argument("--title", help="of the data, for reports on other images than the model was made for")
    parser.add_argument("--description", help="of the data, a sentence or two: what it is, whose, under which licence")
    parser.add_argument("--json", type=Path, help="write the numbers")
    parser.add_argument("--captions", type=Path, help="write every answer, one JSON record per image and line")
    parser.add_argument("--batch-size", type=positive, default=25, help="images at a time, in each process")
    parser.add_argument("--max-new-tokens", type=positive, help="default: the checkpoint's own")
    parser.add_argument("--num-beams", type=positive, help="default: the checkpoint's own")
    parser.add_argument(
        "--no-repeat-ngram-size",
        type=int,
        help="tokens in a row that no text says twice; default: the checkpoint's own",
    )
    parser.add_argument("--baseline", choices=KINDS, help="what can be answered without a model, in its place")
    parser.add_argument("--teacher", type=Path, metavar="FILE", help="ONNX file of YOLOX-Nano, for --baseline teacher")
    parser.add_argument(
        "--released-meter",
        action="store_true",
        help="of answers that point, also what PixelLM's release would report: its meter favours false positives",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16", "float16"])
    try:
        main(parser.parse_args())
    except EVALUATION_ERRORS as error:
        sys.exit(f"error: {error}")
