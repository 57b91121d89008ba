"""Any image a user may hand in -> an upright RGB Pillow image, or an error that names it."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError, features

# About 100 megapixels: larger than any camera in common use, small enough to decode within a gigabyte.
MAX_IMAGE_PIXELS = 100_000_000

# What JPEG can have. Some of Pillow's decoders take memory for hundreds of rows before they see any.
MAX_IMAGE_SIDE = 65_535

# 100 megapixels of 16 bits with transparency, uncompressed, are 800 MB.
MAX_IMAGE_BYTES = 2**30

# The formats that images come in, of those that Pillow decodes itself: for PostScript it starts another program. HEIF
# and JPEG XL are read where a plugin for Pillow has been registered.
_FORMATS = (
    "JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "QOI", "PCX", "PSD", "SGI",
    "HEIF", "JXL",
)  # fmt: skip
_CODECS = {"JPEG": "jpg", "WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}

_EXIF_ORIENTATION = 0x0112


class ImageError(ValueError):
    """An image that cannot be used; the message names it and says what to do."""


class UnreadableImageError(ImageError):
    """Missing, truncated, not an image, or of a kind that is not understood."""


class ImageTooLargeError(ImageError):
    """More pixels than the limit allows."""


@dataclass(frozen=True)
class UprightImage:
    """pixels: RGB, EXIF orientation applied, perhaps decoded at reduced size; size_wh: of the full image."""

    pixels: Image.Image
    size_wh: tuple[int, int]


def readable_suffixes() -> frozenset[str]:
    """Suffixes, as in ".jpg", of the files that `read_image` reads here. Compare with `path.suffix.lower()`.

    Here, since Pillow may have been built without a codec, or have got a plugin for another one.
    """
    formats = {*readable_formats(), "MPO"}  # several JPEGs in one file, of which the first is read
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in formats)


def readable_formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read, for `Image.open(file, formats=…)`: none of them starts a program."""
    Image.init()
    built = [name for name in _FORMATS if name not in _CODECS or features.check(_CODECS[name])]
    return tuple(name for name in built if name in Image.OPEN)


def read_image(
    source: Any, *, max_pixels: int = MAX_IMAGE_PIXELS, enough: int | None = None, name: str = "image"
) -> UprightImage:
    """Read one image.

    source: Pillow image, array (H,W), (H,W,C) or (C,H,W) in numpy or torch, path, the bytes of a file, or an open
        binary file. Integers are 0..255 (uint16: 0..65535); floats are 0..1 if none is larger, else 0..255.
        An open file is read from its beginning, wherever it stands, and stands there again afterwards; one that cannot
        seek is read from where it stands to its end. It is never closed.
    enough: a longest side that will do; large JPEGs are then decoded at a fraction of their size, never below it.
    name: what errors call the image when it has no file name.

    Raises `UnreadableImageError` and `ImageTooLargeError`.
    """
    if isinstance(source, Image.Image):
        return _upright(source, max_pixels, _name_of(source, name))
    if isinstance(source, (str, os.PathLike)):
        return _read_file(source, max_pixels, enough)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(source), max_pixels, enough, f"{name} ({len(source)} bytes)")
    if isinstance(source, np.ndarray):
        return _upright(_from_array(source, name, channels_first=False), max_pixels, name)
    if is_tensor(source):
        return _upright(_from_array(_numbers_of(source, name), name, channels_first=True), max_pixels, name)
    if is_open_file(source):
        return _decode(io.BytesIO(_content_of(source, name)), max_pixels, enough, _name_of(source, name))
    raise UnreadableImageError(
        f"{name} must be a Pillow image, a numpy or torch array, a path, bytes or an open binary file, but it is a "
        f"{type(source).__name__}."
    )


def is_tensor(thing: Any) -> bool:
    """A torch tensor, without importing torch for those who have none."""
    return hasattr(thing, "detach") and hasattr(thing, "ndim")  # open files have a `detach` of their own


def is_open_file(thing: Any) -> bool:
    """Anything that bytes can be read from: an open file, `BytesIO`, a response, a member of an archive."""
    return callable(getattr(thing, "read", None))


def _numbers_of(tensor: Any, name: str) -> np.ndarray:
    try:
        tensor = tensor.detach().cpu()
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # numpy has no bfloat16
    except Exception as error:  # sparse, quantized, without memory ("meta")
        raise UnreadableImageError(
            f"{name} is a tensor that has no plain numbers ({error}). Make it dense, on a real device."
        ) from error


def _content_of(stream: Any, name: str) -> bytes:
    """All bytes of an open file, which then stands where it stood."""
    name = _name_of(stream, name)
    try:
        position = stream.tell()
        stream.seek(0)
    except Exception:  # a pipe, a socket; a closed file is refused below
        position = None
    try:
        content = stream.read(MAX_IMAGE_BYTES + 1)
        if position is not None:
            stream.seek(position)
    except Exception as error:  # a file object may be anybody's class
        raise UnreadableImageError(f"{name} cannot be read: {error}. Open it again, with mode 'rb'.") from error
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise UnreadableImageError(
            f"{name} must give bytes, but {type(content).__name__} came from it. Open it with mode 'rb'."
        )
    _check_bytes(len(content), name)
    return bytes(content)


def _name_of(thing: Any, name: str) -> str:
    """The file name of a Pillow image or an open file, if it has one."""
    file = getattr(thing, "filename", None) or getattr(thing, "name", None)
    return _shown(file) if isinstance(file, (str, os.PathLike)) else name


def _shown(path: str | os.PathLike) -> str:
    """A path for a message: printable whatever its bytes are, and not endless."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text if len(text) <= 300 else f"{text[:150]}…{text[-100:]}"


def check_image_file(path: str | os.PathLike, *, max_pixels: int = MAX_IMAGE_PIXELS) -> None:
    """What `read_image` would raise about a file as far as its first bytes tell, without decoding it."""
    with _opened_file(path) as (stream, name):
        _opened_image(stream, max_pixels, name)


def _read_file(path: str | os.PathLike, max_pixels: int, enough: int | None) -> UprightImage:
    with _opened_file(path) as (stream, name):
        return _decode(stream, max_pixels, enough, name)


@contextmanager
def _opened_file(path: str | os.PathLike) -> Iterator[tuple[Any, str]]:
    """The open file and what to call it."""
    path = os.fsdecode(path)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://|data:", path):
        raise UnreadableImageError(
            f"images are read from files, never from the network, but a URL came: {path[:200]}. "
            "Download it first and pass the path."
        )
    name = _shown(path)
    file = os.path.expanduser(path)  # ~nobody stays as it is
    try:
        status = os.stat(file)
    except FileNotFoundError:
        raise UnreadableImageError(f"{name} does not exist. Check the path.") from None
    except (OSError, ValueError) as error:  # too long a name, no permission; a zero byte in it
        reason = error.strerror if isinstance(error, OSError) else error
        raise UnreadableImageError(f"{name} cannot be read: {reason}. Check the path.") from error
    if stat.S_ISDIR(status.st_mode):
        raise UnreadableImageError(f"{name} is a folder, not an image. Pass the files in it.")
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device may have no end
        raise UnreadableImageError(
            f"{name} is a pipe, a socket or a device, not a file. Save what comes from it, or pass an open file."
        )
    _check_bytes(status.st_size, name)
    try:
        with open(file, "rb") as stream:
            yield stream, name
    except OSError as error:  # no permission, a broken disk
        raise UnreadableImageError(f"{name} cannot be read: {error.strerror}.") from error


def _check_bytes(size: int, name: str) -> None:
    if size > MAX_IMAGE_BYTES:
        raise ImageTooLargeError(
            f"{name} has more than {MAX_IMAGE_BYTES / 2**20:.0f} MiB. Scale the image down, or save it compressed."
        )


def _opened_image(stream: Any, max_pixels: int, name: str) -> Image.Image:
    """Not decoded yet."""
    try:
        image = Image.open(stream, formats=readable_formats())
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(
            f"{name} has more pixels than Pillow agrees to open ({error}). Scale it down, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS and the processor's max_image_pixels if you trust it."
        ) from error
    except UnidentifiedImageError as error:
        raise UnreadableImageError(
            f"{name} is not an image in a format that is read here ({', '.join(readable_formats())}). Convert it to "
            "PNG or JPEG."
        ) from error
    except Exception as error:
        raise UnreadableImageError(f"{name} has a broken header: {error}. Save or download it again.") from error
    _check_size(image.size, max_pixels, name)
    return image


def _decode(stream: Any, max_pixels: int, enough: int | None, name: str) -> UprightImage:
    image = _opened_image(stream, max_pixels, name)
    full_size_wh = image.size
    if enough is not None:
        image.draft(None, (enough, enough))  # JPEG only, else nothing
    upright = _upright(image, max_pixels, name)
    if image.size == full_size_wh:
        return upright
    return UprightImage(upright.pixels, full_size_wh[::-1] if _is_turned(image) else full_size_wh)


def _upright(image: Image.Image, max_pixels: int, name: str) -> UprightImage:
    _check_size(image.size, max_pixels, name)
    if isinstance(image, ImageFile.ImageFile) and image.tile and image.format in ("EPS", "WMF"):
        raise UnreadableImageError(
            f"{name} is in the format {image.format}, for which Pillow starts another program. Convert it to PNG, or "
            "call its load() yourself if you trust it."
        )
    try:
        image.load()
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"{name}: {error}. Scale it down.") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on broken data
        raise UnreadableImageError(f"{name} is truncated or damaged: {error}. Save or download it again.") from error
    pixels = to_rgb(_turned_upright(image), name)
    return UprightImage(pixels, pixels.size)


def _check_size(size_wh: tuple[int, int], max_pixels: int, name: str) -> None:
    width, height = size_wh
    if width < 1 or height < 1:
        raise UnreadableImageError(f"{name} is empty ({width} x {height} pixels). Leave it out.")
    if max(width, height) > MAX_IMAGE_SIDE:
        raise ImageTooLargeError(
            f"{name} is {width} x {height} pixels, a side above the limit of {MAX_IMAGE_SIDE}. Cut it into parts."
        )
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"{name} is {width} x {height}, {width * height / 1e6:.1f} megapixels, above the limit of "
            f"{max_pixels / 1e6:.1f}. Scale it down, or raise max_image_pixels if you trust it."
        )


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block is no reason to refuse a good image
        return 1


def _is_turned(image: Image.Image) -> bool:
    """Whether EXIF swaps the sides."""
    return _orientation(image) in (5, 6, 7, 8)


def _turned_upright(image: Image.Image) -> Image.Image:
    if _orientation(image) in (None, 1):
        return image
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # see `_orientation`
        return image


def to_rgb(image: Image.Image, name: str = "image") -> Image.Image:
    """Any mode -> RGB: transparency over white, 16 bits and floats scaled to 8. Never changes its argument."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _from_array(np.asarray(image), name, channels_first=False, wide_integers=True)
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        rgba = image.convert("LA" if image.mode == "La" else "RGBA")
        rgba = rgba.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise UnreadableImageError(
            f"{name} has the colour mode {image.mode}, which cannot become RGB: {error}. Convert it to RGB first."
        ) from error


def _from_array(array: np.ndarray, name: str, channels_first: bool, wide_integers: bool = False) -> Image.Image:
    """channels_first decides where both readings are possible; wide_integers: above 255 they are 16 bits."""
    shape = array.shape
    if array.ndim == 4 and shape[0] == 1:
        array = array[0]
    if array.ndim == 3:
        first, last = array.shape[0] in (1, 2, 3, 4), array.shape[-1] in (1, 2, 3, 4)
        if not first and not last:
            raise UnreadableImageError(
                f"{name} must have 1 to 4 channels, first or last, but its shape is {tuple(shape)}."
            )
        if first and (channels_first or not last):
            array = np.moveaxis(array, 0, -1)
    elif array.ndim != 2:
        raise UnreadableImageError(f"{name} must be (H,W), (H,W,C) or (C,H,W), but its shape is {tuple(shape)}.")
    if array.size == 0:
        raise UnreadableImageError(f"{name} is empty, its shape is {tuple(shape)}. Leave it out.")
    array = _to_bytes(array, name, wide_integers)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    mode = "L" if array.ndim == 2 else {2: "LA", 3: "RGB", 4: "RGBA"}[array.shape[-1]]
    return to_rgb(Image.frombytes(mode, array.shape[1::-1], np.ascontiguousarray(array).tobytes()), name)


def _to_bytes(array: np.ndarray, name: str, wide_integers: bool) -> np.ndarray:
    """Values of any kind -> uint8."""
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    if array.dtype.kind not in "iuf":
        raise UnreadableImageError(f"{name} must hold numbers, but its dtype is {array.dtype}.")
    low, high = float(array.min()), float(array.max())  # NaN passes through both
    floats = array.dtype.kind == "f"
    limit = 65535.0 if array.dtype.str[1:] == "u2" or wide_integers and high > 255 else 255.0
    if not (low >= 0 and high <= limit):
        raise UnreadableImageError(
            f"{name} must hold values of 0..{limit:.0f}{' or 0..1' if floats else ''}, but they go from {low:g} to "
            f"{high:g}. Undo its normalisation or scale it first."
        )
    scale = 255.0 / limit
    if floats and high <= 1.0:
        scale = 255.0
    return np.rint(array.astype(np.float32) * scale).astype(np.uint8)


__all__ = [
    "MAX_IMAGE_PIXELS",
    "ImageError",
    "ImageTooLargeError",
    "UnreadableImageError",
    "UprightImage",
    "check_image_file",
    "is_open_file",
    "is_tensor",
    "read_image",
    "readable_formats",
    "readable_suffixes",
    "to_rgb",
]
