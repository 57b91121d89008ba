"""The one row that every grounded source becomes, and how bad records are refused or counted.

A row is an image with a list of prompts. A prompt asks about a place (or the whole image) and has one target text;
what is known about places in that text comes with it, per utterance or as one box of the object it speaks of.
All boxes are xyxy in pixels of the original image (`width` x `height`).
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import datasets
from datasets import Dataset, Features, IterableDataset, List, Value
from PIL import Image as PILImage

from pixelllm_hf.processing.image_reading import ImageError, read_image

logger = logging.getLogger(__name__)

OnError = Literal["raise", "skip"]

_BOX = List(Value("float32"))

GROUNDED_FEATURES = Features(
    {
        "image": datasets.Image(),
        "image_id": Value("string"),
        "width": Value("int32"),
        "height": Value("int32"),
        # "trace", "caption", "refer", "segment", "region", "dense": names the default context, the augmentation and
        # the tensors. The prompts of a "dense" row are the objects to find in the image.
        "task": Value("string"),
        "prompts": List(
            {
                "box": _BOX,  # the place asked about; None = the whole image
                "context": Value("string"),  # text prompt; None = one of the task's prompt strings
                "target": Value("string"),
                "object_box": _BOX,  # box of the object that the target speaks of; None = unknown
                # Its compressed COCO run lengths, at the image's size; None = unknown.
                "mask": {"size": List(Value("int32")), "counts": Value("string")},
                "utterances": List({"text": Value("string"), "box": _BOX, "center": List(Value("float32"))}),
                "text_loss": Value("bool"),
                "point_loss": Value("bool"),
            }
        ),
    }
)


class BadRecordError(ValueError):
    """A record that a reader cannot use. Says where it is, what is wrong and what to do.

    `reason` is a short constant key ("unordered times"), for counting.
    """

    def __init__(self, reason: str, where: str, problem: str, remedy: str):
        super().__init__(f"{where}: {problem} {remedy}")
        self.reason = reason


class ReadReport:
    """What a reader kept and what it dropped, by reason. Pass one in to look at it after reading.

    `first` holds the first message of every reason, so that the summary points at a record to look at.
    """

    def __init__(self) -> None:
        self.kept = 0
        self.read: Counter[str] = Counter()  # records in, by kind
        self.dropped: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def drop(self, error: BadRecordError, on_error: OnError) -> None:
        """Count `error`, or raise it when that is what the caller asked for."""
        if on_error == "raise":
            raise error
        self.dropped[error.reason] += 1
        self.first.setdefault(error.reason, str(error))

    def leave_out(self, reason: str, where: str) -> None:
        """Count what is no mistake of the file, but nothing for the task: a crowd, a name that fits two objects."""
        self.dropped[reason] += 1
        self.first.setdefault(reason, where)

    def summary(self) -> str:
        """One line: kept, dropped, and the count and first example of every reason."""
        reasons = "; ".join(f"{count} {reason} (first: {self.first[reason]})" for reason, count in self.dropped.items())
        return f"kept {self.kept}, dropped {sum(self.dropped.values())}" + (f": {reasons}" if reasons else "")


def grounded_prompt(
    target: str,
    *,
    box: list[float] | None = None,
    context: str | None = None,
    object_box: list[float] | None = None,
    mask: dict[str, Any] | None = None,
    utterances: list[dict[str, Any]] | None = None,
    text_loss: bool = True,
    point_loss: bool = False,
) -> dict[str, Any]:
    """One entry of a row's `prompts`, every field present as `GROUNDED_FEATURES` wants it."""
    return {
        "box": box,
        "context": context,
        "target": target,
        "object_box": object_box,
        "mask": mask,
        "utterances": utterances or [],
        "text_loss": text_loss,
        "point_loss": point_loss,
    }


def build_dataset(
    rows: Callable[[ReadReport], Iterator[dict[str, Any]]],
    *,
    features: Features = GROUNDED_FEATURES,
    streaming: bool = False,
    report: ReadReport | None = None,
) -> Dataset | IterableDataset:
    """Typed dataset from a generator of rows; streaming reads again at every pass and keeps nothing.

    What was dropped is in `report` and, when it is anything, in one warning at the end of the pass. With several
    loader workers a streamed pass counts in each worker.
    """
    report = report if report is not None else ReadReport()

    def one_pass() -> Iterator[dict[str, Any]]:
        report.kept, report.read, report.dropped, report.first = 0, Counter(), Counter(), {}
        for row in rows(report):
            report.kept += 1
            yield row
        if report.dropped:
            logger.warning(report.summary())

    if streaming:
        return IterableDataset.from_generator(one_pass, features=features)
    # Not Dataset.from_generator: its cache is keyed by paths, and would outlive a change of the files.
    chunks = [Dataset.from_list(chunk, features=features) for chunk in _chunks(one_pass(), 1000)]
    if not chunks:
        return Dataset.from_dict({name: [] for name in features}, features=features)
    return datasets.concatenate_datasets(chunks)


def check_task(task: str, tasks: tuple[str, ...]) -> None:
    """Refuse a task that the format has nothing for before any record is read."""
    if task not in tasks:
        raise ValueError(f"these records serve the task {' or '.join(map(repr, tasks))}, but it is {task!r}.")


def check_on_error(on_error: str) -> None:
    """Refuse a misspelt `on_error` before any record is read."""
    if on_error not in ("raise", "skip"):
        raise ValueError(f"on_error must be 'raise' or 'skip', but it is {on_error!r}.")


class ImageFolder:
    """Finds image files by the ids and names that annotation files use, and their sizes without decoding them.

    check: decode every file that is found, so that a damaged one is a bad record now and no surprise in training.
    """

    _PATTERNS = ("{id}", "{id}.jpg", "{id:0>12}.jpg", "{id}.png", "{id}.jpeg", "{id:0>12}.png")

    def __init__(self, folder: str | Path, *, check: bool = False):
        self.folder, self.check = Path(folder), check
        if not self.folder.is_dir():
            raise FileNotFoundError(f"the image folder {str(folder)!r} does not exist. Pass the folder of image files.")

    def find(self, where: str, image_id: object, *file_names: str | None) -> Path:
        """First existing of `file_names` and of the usual spellings of `image_id`; `where` names the record."""
        names = [name for name in file_names if isinstance(name, str) and name and "\0" not in name]
        # An image listed as "folder/name.jpg", or by its URL, often lies flat in our folder, and COCO's of 2014 under
        # the shorter names of 2017. Names that lead out of the folder are not followed: files are not ours to trust.
        inside = [name for name in names if not Path(name).is_absolute() and ".." not in Path(name).parts]
        flat = [Path(name).name for name in names if Path(name).name not in ("", "..")]
        names = inside + flat + [name.rsplit("_", 1)[1] for name in flat if name.startswith("COCO_")]
        names += [pattern.format(id=Path(str(image_id)).name) for pattern in self._PATTERNS]
        for name in names:
            path = self.folder / name
            if _is_file(path):
                if self.check:
                    self._decode(where, path)
                return path
        raise BadRecordError(
            "missing image",
            where,
            f"no file for image {image_id!r} in {str(self.folder)!r} (tried {names[0]!r} and other spellings).",
            "Put the image there or read with on_error='skip'.",
        )

    @staticmethod
    def _decode(where: str, path: Path) -> None:
        try:
            read_image(path)
        except ImageError as error:
            raise BadRecordError("unreadable image", where, str(error), "Or skip the record.") from error

    @staticmethod
    def size_wh(where: str, path: Path) -> tuple[int, int]:
        """Width and height as a viewer shows them (EXIF orientation applied), from the file's header."""
        try:
            with PILImage.open(path) as image:
                width, height = image.size
                turned = image.getexif().get(0x0112, 1) >= 5
        except (OSError, PILImage.DecompressionBombError, SyntaxError) as error:
            raise BadRecordError(
                "unreadable image", where, f"{str(path)!r} cannot be read ({error}).", "Replace the file or skip it."
            ) from error
        return (height, width) if turned else (width, height)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def image_size_wh(where: str, record: object) -> tuple[int, int]:
    """`width` and `height` of a record, which must be whole numbers above 0."""
    width, height = required(where, record, "width", "height")
    for name, side in (("width", width), ("height", height)):
        if isinstance(side, bool) or not isinstance(side, int | float) or side != side or side < 1 or side != int(side):
            raise BadRecordError(
                "malformed size", where, f"{name} must be a whole number above 0, but it is {side!r}.", "Correct it."
            )
    return int(width), int(height)


def checked_text(where: str, text: object, name: str) -> str:
    """The text without blanks around it; what is no text, or is empty, is a `BadRecordError`."""
    if not isinstance(text, str):
        raise BadRecordError(
            "malformed text", where, f"{name} must be a string, but it is {text!r:.80}.", "Correct it."
        )
    if not text.strip():
        raise BadRecordError("empty text", where, f"{name} is empty ({text!r}).", "Add the text or skip the record.")
    return text.strip()


def checked_list(where: str, value: object, name: str) -> list[Any]:
    """`value`, which must be a list."""
    if not isinstance(value, list):
        raise BadRecordError(
            "malformed record", where, f"{name} must be a list, but it is {value!r:.80}.", "Correct the record."
        )
    return value


def checked_id(where: str, value: object) -> int | str:
    """`value`, which must be a whole number or a string, as ids are."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise BadRecordError(
            "malformed record", where, f"an id must be a number or a string, but it is {value!r:.80}.", "Correct it."
        )
    return value


def checked_xywh(where: str, xywh: object, size_wh: tuple[int, int]) -> list[float]:
    """COCO-style x, y, w, h -> xyxy clipped to the image; refuses what is not a box or has no area inside."""
    try:
        x, y, w, h = (float(value) for value in xywh)  # type: ignore[attr-defined]
    except (TypeError, ValueError) as error:
        raise BadRecordError(
            "malformed box", where, f"a box must be four numbers x, y, w, h, but it is {xywh!r}.", "Correct the record."
        ) from error
    width, height = size_wh
    box = [min(max(x, 0.0), width), min(max(y, 0.0), height), min(max(x + w, 0.0), width), min(max(y + h, 0.0), height)]
    if not (box[2] > box[0] and box[3] > box[1]):  # also catches NaN
        raise BadRecordError(
            "box without area",
            where,
            f"the box x, y, w, h = {[x, y, w, h]} has no area inside the {width}x{height} image.",
            "Correct the box or skip the record.",
        )
    return box


def required(where: str, record: object, *keys: str) -> tuple[Any, ...]:
    """The values of `keys`, or a `BadRecordError` that names the first missing one."""
    if not isinstance(record, dict):
        raise BadRecordError(
            "malformed record", where, f"a record must be an object, but it is {type(record).__name__}.", "Correct it."
        )
    for key in keys:
        if key not in record:
            raise BadRecordError(
                "missing key", where, f"the record has no {key!r} (it has {sorted(map(str, record))}).", "Add the key."
            )
    return tuple(record[key] for key in keys)


def load_json(path: str | Path, kind: type) -> Any:
    """The parsed file, whose outermost value must be a `kind` (list or dict)."""
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not JSON ({error}). Was it downloaded whole?") from error
    if not isinstance(content, kind):
        raise ValueError(f"{path} must hold a {kind.__name__}, but it holds a {type(content).__name__}.")
    return content


def _chunks(rows: Iterable[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    chunk: list[dict[str, Any]] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
