"""The values of records, checked before they are used: type, finiteness, range, encoding and length.

Every reader takes values from files through these functions; what does not pass is a `BadRecordError` that names the
record. None of them asks for more memory than the file had, or writes more than a line about a value.
"""

from __future__ import annotations

import math
import reprlib
from typing import Any

from pixelllm_hf.data.bad_records import BadRecordError

# Far above all data sets that we know of; a text of this length is still aligned in seconds.
MAX_TEXT = 20_000  # characters
MAX_SIDE = 1_000_000  # pixels


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 2, 60, 60
        self.maxlist = self.maxtuple = self.maxdict = self.maxset = self.maxfrozenset = 5

    def repr_int(self, value: int, level: int) -> str:
        return repr(value) if abs(value) < 10**20 else f"a number of {value.bit_length()} bits"


shown = _Short().repr  # any value on one line, however long, deep or large it is


def required(where: str, record: object, *keys: str) -> tuple[Any, ...]:
    """The values of `keys`; a record that is no mapping or lacks one of them is a `BadRecordError`."""
    return tuple(required_one(where, record, key) for key in keys)


def required_one(where: str, record: object, *names: str) -> Any:
    """The value of the first of `names` that the record has: the key's name now and its older ones."""
    checked_record(where, record)
    for name in names:
        if name in record:  # type: ignore[operator]
            return record[name]  # type: ignore[index]
    raise BadRecordError(
        "missing key",
        where,
        f"the record has no {' or '.join(map(repr, names))} (it has {shown(list(record))}).",  # type: ignore[call-overload]
        "Add the key.",
    )


def checked_record(where: str, record: object) -> dict[str, Any]:
    """`record`, which must be a mapping."""
    if not isinstance(record, dict):
        raise BadRecordError(
            "malformed record", where, f"a record must be a mapping, but it is {shown(record)}.", "Fix it."
        )
    return record


def checked_text(where: str, text: object, name: str, *, may_be_empty: bool = False) -> str:
    """The text without blanks around it; what is no text, or is empty, is a `BadRecordError`."""
    text = checked_string(where, text, name)
    if not text.strip() and not may_be_empty:
        raise BadRecordError("empty text", where, f"{name} is empty ({shown(text)}).", "Add it or skip the record.")
    return text.strip()


def checked_string(where: str, text: object, name: str) -> str:
    """The text as it is, perhaps empty."""
    if not isinstance(text, str):
        raise BadRecordError("malformed text", where, f"{name} must be a string, but it is {shown(text)}.", "Fix it.")
    if len(text) > MAX_TEXT:
        raise BadRecordError(
            "overlong text", where, f"{name} has {len(text)} characters, above the limit of {MAX_TEXT}.", "Split it."
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) - 0xDC00  # how `annotation_text` hands on what is not UTF-8
        problem = f"holds the byte {byte:#x}, which is not UTF-8" if 0x80 <= byte <= 0xFF else "holds half a character"
        raise BadRecordError(
            "wrong encoding", where, f"{name} {problem}: {shown(text)}.", "Save the file as UTF-8."
        ) from error
    return text


def checked_list(where: str, value: object, name: str) -> list[Any]:
    """`value`, which must be a list."""
    if not isinstance(value, list):
        raise BadRecordError("malformed record", where, f"{name} must be a list, but it is {shown(value)}.", "Fix it.")
    return value


def checked_id(where: str, value: object) -> int | str:
    """`value`, which must be a whole number of 64 bits or a string, as ids are."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        problem = f"an id must be a number or a string, but it is {shown(value)}."
        raise BadRecordError("malformed record", where, problem, "Fix it.")
    if isinstance(value, str):
        return checked_text(where, value, "an id")
    return checked_whole(where, value, "an id")


def checked_whole(where: str, value: object, name: str) -> int:
    """A whole number of 64 bits."""
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    if number is None or not -(1 << 63) <= number < 1 << 63:
        problem = f"{name} must be a whole number of 64 bits, but it is {shown(value)}."
        raise BadRecordError("malformed record", where, problem, "Fix it.")
    return number


def checked_number(where: str, value: object, name: str, reason: str = "malformed number") -> float:
    """A finite number; text that looks like one is none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    raise BadRecordError(reason, where, f"{name} must be a finite number, but it is {shown(value)}.", "Fix it.")


def checked_flag(where: str, value: object, name: str) -> bool:
    """Yes or no as 1 or 0, true or false; null is no."""
    if value is None:
        return False
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    raise BadRecordError("malformed record", where, f"{name} must be 0 or 1, but it is {shown(value)}.", "Fix it.")


def annotated_xywh(where: str, xywh: object) -> tuple[float, float, float, float]:
    """COCO-style x, y, w, h as the file has them: four finite numbers, of which nothing else is asked."""
    if not isinstance(xywh, list | tuple) or len(xywh) != 4:
        raise BadRecordError(
            "malformed box", where, f"a box must be four numbers x, y, w, h, but it is {shown(xywh)}.", "Fix it."
        )
    x, y, w, h = (checked_number(where, value, "a side of a box x, y, w, h", "malformed box") for value in xywh)
    return x, y, w, h


def checked_xywh(where: str, xywh: object, size_wh: tuple[int, int], *, may_be_empty: bool = False) -> list[float]:
    """COCO-style x, y, w, h -> xyxy clipped to the image; refuses what is not a box or has no area inside."""
    x, y, w, h = annotated_xywh(where, xywh)
    width, height = size_wh
    box = [min(max(x, 0.0), width), min(max(y, 0.0), height), min(max(x + w, 0.0), width), min(max(y + h, 0.0), height)]
    if not (box[2] > box[0] and box[3] > box[1]) and not may_be_empty:
        raise BadRecordError(
            "box without area",
            where,
            f"the box x, y, w, h = {[x, y, w, h]} has no area inside the {width}x{height} image.",
            "Correct the box or skip the record.",
        )
    return box


def image_size_wh(where: str, record: object) -> tuple[int, int]:
    """`width` and `height` of a record, which must be whole numbers of 1 to `MAX_SIDE`."""
    width, height = (
        _side(where, side, name) for side, name in zip(required(where, record, *_SIDES), _SIDES, strict=True)
    )
    return width, height


_SIDES = ("width", "height")


def _side(where: str, side: object, name: str) -> int:
    number = isinstance(side, int | float) and not isinstance(side, bool)
    if not number or not 1 <= side <= MAX_SIDE or side != int(side):  # type: ignore[operator, call-overload]
        raise BadRecordError(
            "malformed size", where, f"{name} must be a whole number of 1 to {MAX_SIDE}, not {shown(side)}.", "Fix it."
        )
    return int(side)  # type: ignore[call-overload]
