"""Every task of one model on one image, printed and drawn side by side.

python demo/all_tasks.py
python demo/all_tasks.py photo.jpg --expression "the red car" --model DIR_OR_HUB_ID --out tasks.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from pixelllm_hf import GroundedCaption, PixelLLMForGroundedGeneration, PixelLLMProcessor, default_checkpoint
from pixelllm_hf.processing.grounded_results import draw_results
from pixelllm_hf.processing.tasks import task_spec

EXAMPLE = Path(__file__).parent / "examples" / "skier.jpg"
MOST_OBJECTS = 8  # the best ones; a drawing of more is hard to read
COLUMNS, TILE, TITLE, PAPER, INK = 3, 720, 56, (18, 20, 26), (214, 217, 224)


class Demo:
    """A model and an image, which is asked one thing after the other."""

    def __init__(self, model: Any, processor: Any, image: Path):
        self.model, self.processor, self.image = model, processor, image
        self.drawings: list[tuple[str, Image.Image]] = []

    def ask(self, task: str, question: str = "", **prompts: Any) -> list[GroundedCaption]:
        """The answers about the image, printed and drawn; none if the model lacks what the task needs."""
        title = f"{task} {question}".strip()
        spec = task_spec(task)
        if (head := spec.missing_head(self.model.config)) is not None:
            print(f"{title}: skipped, this checkpoint has no {head}")
            return []
        inputs = self.processor(images=self.image, task=task, **prompts)
        with torch.inference_mode():
            output = self.model.generate(**inputs)
        limits = {"max_results": MOST_OBJECTS} if spec.finds_objects else {}
        results = spec.results(self.processor, output, inputs, **limits)[0]
        print(title)
        for result in results:
            print("  " + describe(result))
        if not results:
            print("  nothing found")
        drawing = draw_results(self.image, results) if spec.about_objects else results[0].draw(self.image)
        self.drawings.append((title, drawing))
        return results


def describe(result: GroundedCaption) -> str:
    """One line: the text, its words' points or its own box, the size of its mask."""
    if result.box is None:
        places = ", ".join(f"{w.text} ({w.point[0]:.0f}, {w.point[1]:.0f})" for w in result.placed_words if w.point)
        return f"{result.text}  [{places}]"
    box = ", ".join(f"{value:.0f}" for value in result.box)
    mask = "" if result.mask is None else f"  mask of {int(result.mask.sum())} pixels"
    score = "" if result.box_score is None else f"  score {result.box_score:.2f}"
    return f"{result.text}  box ({box}){score}{mask}"


def side_by_side(drawings: list[tuple[str, Image.Image]]) -> Image.Image:
    """The drawings in columns under their titles."""
    tiles = [
        (title, d.resize((TILE, round(d.height * TILE / d.width)), Image.Resampling.LANCZOS)) for title, d in drawings
    ]
    rows = [tiles[i : i + COLUMNS] for i in range(0, len(tiles), COLUMNS)]
    heights = [TITLE + max(tile.height for _, tile in row) for row in rows]
    columns = min(COLUMNS, len(tiles))
    sheet = Image.new("RGB", (columns * TILE + (columns - 1) * TITLE // 4, sum(heights)), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(26)
    for i, row in enumerate(rows):
        top = sum(heights[:i])
        for j, (title, tile) in enumerate(row):
            left = j * (TILE + TITLE // 4)
            pen.text((left + 16, top + TITLE / 2), title, font=font, fill=INK, anchor="lm")
            sheet.paste(tile, (left, top + TITLE))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description="Every task of one model on one image.")
    parser.add_argument("image", nargs="?", type=Path, default=EXAMPLE)
    parser.add_argument("--model", default=str(default_checkpoint()))
    parser.add_argument("--expression", dest="expressions", action="append", help="what to find; may be repeated")
    parser.add_argument("--out", type=Path, default=Path("demo/out/all_tasks.png"))
    args = parser.parse_args()
    expressions = args.expressions or (["the man", "the skis"] if args.image == EXAMPLE else ["the object"])
    quoted = ", ".join(f'"{expression}"' for expression in expressions)

    model = PixelLLMForGroundedGeneration.from_pretrained(args.model).eval()
    demo = Demo(model, PixelLLMProcessor.from_pretrained(args.model), args.image)
    demo.ask("caption")
    demo.ask("trace")
    found = demo.ask("refer", quoted, text=expressions)
    demo.ask("segment", quoted, text=expressions)
    boxes = [result.box for result in found if has_area(result.box)]
    demo.ask("region", "the first box" if boxes else "the whole image", boxes=boxes[:1] or None)
    demo.ask("dense", f"up to {MOST_OBJECTS} objects")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    side_by_side(demo.drawings).save(args.out)
    print(f"drawn to {args.out}")


def has_area(box: tuple[float, float, float, float] | None) -> bool:
    """Whether the place can be asked about."""
    return box is not None and box[2] > box[0] and box[3] > box[1]


if __name__ == "__main__":
    main()
