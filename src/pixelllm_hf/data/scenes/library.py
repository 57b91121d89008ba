"""The named cut-outs that scenes are made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from pixelllm_hf.data.annotation_text import load_json
from pixelllm_hf.data.bad_records import AnnotationFileError, BadRecordError
from pixelllm_hf.data.record_fields import checked_flag, checked_text, required
from pixelllm_hf.processing.image_reading import readable_formats, readable_suffixes

BUILTIN_FOLDER = Path(__file__).with_name("objects")
SPRITE_SIDE = 112  # px; larger cut-outs are reduced once when read, so that composing stays fast
IMAGE_SUFFIXES = (".avif", ".gif", ".png", ".tif", ".tiff", ".webp")  # with transparency

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (222, 32, 42),
    "orange": (250, 132, 16),
    "yellow": (252, 216, 30),
    "green": (46, 168, 62),
    "blue": (36, 96, 226),
    "purple": (128, 52, 190),
    "pink": (250, 130, 190),
    "brown": (122, 72, 36),
    "black": (34, 34, 38),
    "white": (248, 248, 248),
    "gray": (136, 138, 144),
}


class ObjectFolderError(ValueError):
    """A folder of cut-outs that is missing, empty or holds something that cannot be used."""


@dataclass(frozen=True, eq=False)
class Sprite:
    """One cut-out. `image` is premultiplied ("RGBa"), so that turning and resizing leave no fringe."""

    name: str
    plural: str
    image: Image.Image
    colorable: bool = False
    tinted: dict[str, Image.Image] = field(default_factory=dict, repr=False)

    def painted(self, color: str | None) -> Image.Image:
        """The cut-out, its main colour replaced by a named one; shading, highlights and details stay."""
        if color is None:
            return self.image
        if color not in self.tinted:
            self.tinted[color] = _tint(self.image, COLORS[color])
        return self.tinted[color]


class ObjectLibrary:
    """Cut-outs by name. The order of the names is part of the seed: scenes are reproducible for the same library."""

    def __init__(self, sprites: Sequence[Sprite]):
        if not sprites:
            raise ObjectFolderError("an object library needs at least one cut-out, but got none.")
        by_name: dict[str, list[Sprite]] = {}
        for sprite in sprites:
            by_name.setdefault(sprite.name, []).append(sprite)
        self._by_name = by_name
        self.names: tuple[str, ...] = tuple(by_name)
        self.colorable_names: tuple[str, ...] = tuple(n for n, s in by_name.items() if s[0].colorable)

    def __len__(self) -> int:
        return len(self.names)

    def sprites(self, name: str) -> list[Sprite]:
        """All cut-outs of a name."""
        return self._by_name[name]

    def plural(self, name: str) -> str:
        """The name for two or more.

        >>> ObjectLibrary.builtin().plural("bus")
        'buses'
        """
        return self._by_name[name][0].plural

    @classmethod
    def builtin(cls) -> ObjectLibrary:
        """The objects shipped with the package (a subset of Microsoft's Fluent Emoji, MIT; see objects/NOTICE).

        >>> len(ObjectLibrary.builtin()) >= 100
        True
        """
        return _builtin()

    @classmethod
    def from_folder(cls, path: str | Path) -> ObjectLibrary:
        """Cut-outs (.png, .webp and others with alpha) of a folder and below; the file's stem is the name.

        Underscores read as spaces and a trailing number is dropped: apple.png, apple_2.png and apple-3.png are all
        "apple". A names.json beside the files, a list of {"file", "name"[, "plural", "colourable"]}, goes first.
        """
        folder = Path(path)
        if not folder.is_dir():
            raise ObjectFolderError(f"the folder of cut-outs {folder} does not exist or is not a folder.")
        names_file = folder / "names.json"
        records = _read_names(names_file) if names_file.is_file() else _names_from_stems(folder)
        if not records:
            raise ObjectFolderError(
                f"the folder of cut-outs {folder} holds no {' or '.join(IMAGE_SUFFIXES)} files; "
                "give images with an alpha channel, named after what they show."
            )
        return cls([_read_sprite(folder, record) for record in records])


@lru_cache(maxsize=1)
def _builtin() -> ObjectLibrary:
    return ObjectLibrary.from_folder(BUILTIN_FOLDER)


def pluralise(name: str) -> str:
    """The regular English plural of the last word.

    >>> pluralise("cherry"), pluralise("fox"), pluralise("fire engine")
    ('cherries', 'foxes', 'fire engines')
    """
    if name.endswith(("s", "x", "ch", "sh")):
        return name + "es"
    if name.endswith("y") and name[-2:-1] not in set("aeiou"):
        return name[:-1] + "ies"
    return name + "s"


def _read_names(path: Path) -> list[dict]:
    """The entries of a names.json, each with a file inside the folder and a name."""
    try:
        records = load_json(path, list)
        for index, record in enumerate(records):
            where = f"{path}, entry {index}"
            file, name = (checked_text(where, text, "file or name") for text in required(where, record, "file", "name"))
            if Path(file).is_absolute() or ".." in Path(file).parts or "\0" in file:
                raise BadRecordError("outside", where, f"the file {file!r:.80} is not in the folder.", "Move it there.")
            if record.get("plural") is not None:
                checked_text(where, record["plural"], "plural")
            checked_flag(where, record.get("colourable"), "colourable")
    except (AnnotationFileError, BadRecordError) as error:
        raise ObjectFolderError(
            f'{error} It must be a list of {{"file": ..., "name": ...}} objects; remove it to use the file stems.'
        ) from error
    return records


def _names_from_stems(folder: Path) -> list[dict]:
    suffixes = readable_suffixes() & set(IMAGE_SUFFIXES)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.suffix.lower() in suffixes)
    return [{"file": str(f), "name": _stem_to_name(f.stem)} for f in files]


def _stem_to_name(stem: str) -> str:
    words = re.sub(r"[_\s]+", " ", stem.lower()).strip()
    return re.sub(r"[ -]?\d+$", "", words) or words


def _read_sprite(folder: Path, record: dict) -> Sprite:
    path = folder / record["file"]
    name = " ".join(record["name"].lower().split())
    try:
        with Image.open(path, formats=readable_formats()) as opened:
            image = opened.convert("RGBA")
    except Exception as error:  # Pillow raises nearly anything on broken data
        raise ObjectFolderError(
            f"the cut-out {path} cannot be read as an image ({error}); replace or remove it."
        ) from error
    box = image.getchannel("A").point(lambda a: 255 if a > 16 else 0).getbbox()
    if box is None:
        raise ObjectFolderError(f"the cut-out {path} is fully transparent; replace or remove it.")
    image = image.convert("RGBa").crop(box)
    image.thumbnail((SPRITE_SIDE, SPRITE_SIDE), Image.Resampling.LANCZOS)
    return Sprite(name, record.get("plural") or pluralise(name), image, bool(record.get("colourable", False)))


def _tint(premultiplied: Image.Image, color: tuple[int, int, int]) -> Image.Image:
    rgba = np.asarray(premultiplied.convert("RGBA"), dtype=np.float32)
    rgb, alpha = rgba[..., :3], rgba[..., 3:]
    high, low = rgb.max(-1), rgb.min(-1)
    saturation = (high - low) / np.maximum(high, 1)
    luminance = rgb @ np.array([0.3, 0.55, 0.15], dtype=np.float32)
    # hue as an angle from the opponent colours; the main hue is where most saturated pixels are
    angle = np.arctan2(1.732 * (rgb[..., 1] - rgb[..., 2]), 2 * rgb[..., 0] - rgb[..., 1] - rgb[..., 2])
    mass = saturation * (alpha[..., 0] / 255)
    main = np.arctan2((mass * np.sin(angle)).sum(), (mass * np.cos(angle)).sum())
    off = np.abs(np.angle(np.exp(1j * (angle - main))))
    weight = np.clip((saturation - 0.15) / 0.25, 0, 1) * np.clip((1.1 - off) / 0.35, 0, 1)
    solid = alpha[..., 0] > 128
    if not (weight[solid] > 0.5).any():  # a colourless cut-out: all of it is its main colour
        weight = np.ones_like(weight)
    reference = max(float(np.quantile(luminance[(weight > 0.5) & solid], 0.6)), 1.0)
    shade = (luminance / reference)[..., None]
    target = np.array(color, dtype=np.float32)
    painted = target * np.clip(shade, 0.25, 1) ** 0.8
    painted += (255 - painted) * np.clip((shade - 1) * 0.6, 0, 0.45)
    weight = weight[..., None]
    mixed = weight * painted + (1 - weight) * rgb
    out = np.concatenate([mixed, alpha], -1).clip(0, 255).astype(np.uint8)
    return Image.fromarray(out, "RGBA").convert("RGBa")
