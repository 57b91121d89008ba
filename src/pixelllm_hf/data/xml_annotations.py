"""XML annotation files of one image each, as PASCAL VOC and Flickr30k Entities have them.

What strangers' XML may do elsewhere it cannot do here: document types, and with them entities that expand or point to
other files, are refused before they are read; size and depth are bounded.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers.expat import ExpatError, ParserCreate

from pixelllm_hf.data.annotation_text import open_annotations
from pixelllm_hf.data.bad_records import AnnotationFileError, BadRecordError
from pixelllm_hf.data.record_fields import checked_number, checked_text, checked_xywh, image_size_wh, shown

MAX_XML = 1 << 22  # bytes; the files of both data sets have a few thousand
_MAX_DEPTH = 32
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)


def read_xml(path: str | Path, root: str) -> Element:
    """The outermost element, which must be a `root`. One file is one record: all that is wrong is `BadRecordError`."""
    where = str(path)
    try:
        with open_annotations(path) as stream:
            content = stream.read(MAX_XML + 1)
    except FileNotFoundError as error:
        raise BadRecordError("missing annotations", where, "the file does not exist.", "Add it.") from error
    except (AnnotationFileError, OSError) as error:
        raise BadRecordError("unreadable annotations", where, str(error), "Or skip the record.") from error
    if len(content) > MAX_XML:
        raise BadRecordError("overlong file", where, f"the file has more than {MAX_XML} bytes.", "Split it.")
    try:
        element = _parsed(where, content)
    except BadRecordError:
        raise
    except (ExpatError, LookupError, ValueError) as error:  # the last two: encodings that nobody knows
        raise BadRecordError("not XML", where, f"it is not XML ({error}).", "Was it downloaded whole?") from error
    if element.tag != root:
        raise BadRecordError(
            "malformed record", where, f"the outermost element must be <{root}>, not {shown(element.tag)}.", "Fix it."
        )
    return element


def child(where: str, element: Element, name: str) -> Element:
    """The one child of this name."""
    found = element.findall(name)
    if len(found) != 1:
        raise BadRecordError(
            "missing key" if not found else "malformed record",
            where,
            f"<{element.tag}> needs one <{name}>, but has {len(found)} (it has {shown([c.tag for c in element])}).",
            "Fix it.",
        )
    return found[0]


def child_text(where: str, element: Element, name: str) -> str:
    """The text of the one child of this name, without blanks around it."""
    return checked_text(where, child(where, element, name).text or "", f"<{name}>")


def child_number(where: str, element: Element, name: str) -> float:
    """The finite number in the one child of this name."""
    text = child_text(where, element, name)
    return checked_number(where, float(text) if _NUMBER.fullmatch(text) else text, f"<{name}>")


def child_flag(where: str, element: Element, name: str) -> bool:
    """1 or 0 in the child of this name; without the child it is no."""
    if element.find(name) is None:
        return False
    text = child_text(where, element, name)
    if text not in ("0", "1"):
        raise BadRecordError("malformed record", where, f"<{name}> must be 0 or 1, but it is {shown(text)}.", "Fix it.")
    return text == "1"


def size_element(where: str, annotation: Element) -> tuple[int, int]:
    """Width and height in <size>."""
    size = child(where, annotation, "size")
    return image_size_wh(where, {side: child_number(where, size, side) for side in ("width", "height")})


def bndbox_xyxy(where: str, element: Element, size_wh: tuple[int, int]) -> list[float]:
    """A <bndbox>, whose sides count pixels from 1 and are inside the box -> xyxy edges in pixels from 0, clipped."""
    x0, y0, x1, y1 = (child_number(where, element, side) for side in ("xmin", "ymin", "xmax", "ymax"))
    return checked_xywh(where, (x0 - 1, y0 - 1, x1 - (x0 - 1), y1 - (y0 - 1)), size_wh)


def _parsed(where: str, content: bytes) -> Element:
    builder, depth = TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            problem = f"elements are nested more than {_MAX_DEPTH} deep."
            raise BadRecordError("malformed record", where, problem, "No annotations are.")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        problem = "it declares a document type, through which XML reads other files and grows without end."
        raise BadRecordError("document type", where, problem, "Remove the <!DOCTYPE …> if you trust the file.")

    parser = ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.Parse(content, True)
    return builder.close()
