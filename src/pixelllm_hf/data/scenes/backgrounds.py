"""What lies behind the objects: plain, gradients, procedural textures, or photographs of a folder."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from pixelllm_hf.processing.image_reading import ImageError, read_image, readable_suffixes

PHOTO_SHARE = 0.5  # of the scenes, once photographs are given
PHOTO_SIDE = 640  # px; photographs are reduced to it once


class BackgroundFolderError(ValueError):
    """A folder of background photographs that is missing, empty or unreadable."""


def load_photographs(folder: str | Path) -> list[Image.Image]:
    """All photographs of a folder and below, in the order of their paths."""
    folder = Path(folder)
    if not folder.is_dir():
        raise BackgroundFolderError(f"the folder of backgrounds {folder} does not exist or is not a folder.")
    photographs = []
    suffixes = readable_suffixes()
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in suffixes):
        try:
            image = read_image(path).pixels.copy()
        except ImageError as error:
            raise BackgroundFolderError(f"a background cannot be used: {error} Or remove it.") from error
        image.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
        photographs.append(image)
    if not photographs:
        raise BackgroundFolderError(f"the folder of backgrounds {folder} holds no images that can be read.")
    return photographs


def paint_background(
    rng: np.random.Generator, size_wh: tuple[int, int], photographs: list[Image.Image] | None = None
) -> np.ndarray:
    """A background (H, W, 3) uint8. Muted and neither very dark nor very light: objects must stand out."""
    use_photograph = rng.random() < PHOTO_SHARE
    if photographs and use_photograph:
        return _photograph(rng, size_wh, photographs)
    painter = _PAINTERS[rng.integers(len(_PAINTERS))]
    return painter(rng, size_wh)


def _color(rng: np.random.Generator) -> np.ndarray:
    hue, saturation, value = rng.random(), rng.uniform(0.03, 0.4), rng.uniform(0.5, 0.92)
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), dtype=np.float32) * 255


def _near(rng: np.random.Generator, color: np.ndarray, spread: float = 38) -> np.ndarray:
    return np.clip(color + rng.uniform(-spread, spread) + rng.uniform(-12, 12, 3), 50, 240).astype(np.float32)


def _blend(amount: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """amount (H, W) in 0..1 -> (H, W, 3) uint8, through a table of 256 colours because that is the fast way."""
    steps = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    table = (first + (second - first) * steps).astype(np.uint8)
    return table[(amount * 255).clip(0, 255).astype(np.uint8)]


def _smooth_noise(rng: np.random.Generator, size_wh: tuple[int, int], cells: int) -> np.ndarray:
    """(H, W) float32 around 0..1 with features of about 1/cells of the image."""
    coarse = Image.fromarray(rng.integers(0, 256, (cells, cells), dtype=np.uint8))
    return np.asarray(coarse.resize(size_wh, Image.Resampling.BICUBIC), dtype=np.float32) / 255


def _axes(size_wh: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    width, height = size_wh
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)
    return x[None, :], y[:, None]


def _slanted(rng: np.random.Generator, size_wh: tuple[int, int]) -> np.ndarray:
    x, y = _axes(size_wh)
    angle = rng.uniform(0, np.pi)
    return x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))


def _plain(rng: np.random.Generator, size_wh: tuple[int, int]) -> np.ndarray:
    return np.full((size_wh[1], size_wh[0], 3), _color(rng).astype(np.uint8), dtype=np.uint8)


def _linear_gradient(rng: np.random.Generator, size_wh: tuple[int, int]) -> np.ndarray:
    ramp = _slanted(rng, size_wh)
    ramp = (ramp - ramp.min()) / (np.ptp(ramp) + 1e-6)
    return _blend(ramp, _color(rng), _color(rng))


def _radial_gradient(rng: np.random.Generator, size_wh: tuple[int, int]) -> np.ndarray:
    x, y = _axes(size_wh)
    cx, cy = rng.uniform(0.2, 0.8) * size_wh[0], rng.uniform(0.2, 0.8) * size_wh[1]
    radius = np.sqrt((x - cx) ** 2 + (y - cy) ** 2)
    return _blend(radius / radius.max(), _color(rng), _color(rng))


def _cloudy(rng: np.random.Generator, size_wh: tuple[int, int]) -> np.ndarray:
    noise = (_smooth_noise(rng, size_wh, 6) / 2 + _smooth_noise(rng, size_wh, 18) / 4) / 0.75
    first = _color(rng)
    return _blend(noise, first, _near(rng, first, 60))


def _grainy(rng: np.random.Generator, size_wh: tuple[int, int]) -> np.ndarray:
    grain = rng.integers(0, 256, (size_wh[1], size_wh[0]), dtype=np.uint8).astype(np.float32) / 255
    first = _color(rng)
    return _blend(0.6 * grain + 0.4 * _smooth_noise(rng, size_wh, 6), first, _near(rng, first))


def _stripes(rng: np.random.Generator, size_wh: tuple[int, int]) -> np.ndarray:
    wave = np.sin(_slanted(rng, size_wh) * np.float32(2 * np.pi / rng.uniform(14, 60)))
    first = _color(rng)
    return _blend(np.clip(wave * 3 + 0.5, 0, 1), first, _near(rng, first))


def _checks(rng: np.random.Generator, size_wh: tuple[int, int]) -> np.ndarray:
    x, y = _axes(size_wh)
    side = rng.uniform(14, 44)
    first = _color(rng)
    return _blend(((x // side + y // side) % 2), first, _near(rng, first))


def _dots(rng: np.random.Generator, size_wh: tuple[int, int]) -> np.ndarray:
    x, y = _axes(size_wh)
    pitch = rng.uniform(16, 44)
    distance = np.sqrt((x % pitch - pitch / 2) ** 2 + (y % pitch - pitch / 2) ** 2)
    first = _color(rng)
    return _blend(np.clip(distance - pitch * rng.uniform(0.2, 0.38), 0, 1), first, _near(rng, first))


def _blobs(rng: np.random.Generator, size_wh: tuple[int, int]) -> np.ndarray:
    noise = _smooth_noise(rng, size_wh, int(rng.integers(5, 10)))
    first = _color(rng)
    return _blend(np.clip((noise - 0.5) * 14 + 0.5, 0, 1), first, _near(rng, first))


def _horizon(rng: np.random.Generator, size_wh: tuple[int, int]) -> np.ndarray:
    """Two bands, like a wall and a floor, each with a light gradient."""
    _, y = _axes(size_wh)
    edge = size_wh[1] * rng.uniform(0.35, 0.75)
    upper, lower = _color(rng), _color(rng)
    amount = np.broadcast_to(y / size_wh[1], (size_wh[1], size_wh[0]))
    wall, floor = _blend(amount, upper, _near(rng, upper)), _blend(amount, lower, _near(rng, lower))
    return np.where((y < edge)[..., None], wall, floor)


def _photograph(rng: np.random.Generator, size_wh: tuple[int, int], photographs: list[Image.Image]) -> np.ndarray:
    photo = photographs[rng.integers(len(photographs))]
    aspect = size_wh[0] / size_wh[1]
    largest = min(photo.width, photo.height * aspect)
    width = largest * rng.uniform(0.5, 1.0)
    height = width / aspect
    x, y = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
    cut = photo.resize(size_wh, Image.Resampling.BILINEAR, box=(x, y, x + width, y + height))
    if rng.random() < 0.5:
        cut = cut.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return np.asarray(cut)


_PAINTERS: tuple[Callable[[np.random.Generator, tuple[int, int]], np.ndarray], ...] = (
    _plain, _linear_gradient, _radial_gradient, _cloudy, _grainy, _stripes, _checks, _dots, _blobs, _horizon,
)  # fmt: skip
