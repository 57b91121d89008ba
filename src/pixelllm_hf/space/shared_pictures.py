"""Pictures that links name: pixels only, by the digest of their file, for a while."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

from PIL import Image

from pixelllm_hf.files import atomic_path

from .own_folder import BoundedFolder, Bounds
from .refusals import RefusedError

BOUNDS = Bounds(files=200, bytes=512 << 20, seconds=7 * 24 * 3600)
MOST_BYTES = 32 << 20  # of one picture


class SharedPictures:
    """A bounded folder of PNG files; which are kept only because a visitor asked for a link."""

    def __init__(self, folder: Path, bounds: Bounds = BOUNDS):
        self.folder = BoundedFolder(folder, bounds)

    def put(self, picture: Image.Image) -> str:
        """Keep the pixels, without what else the visitor's file said (where it was taken); -> the digest."""
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, format="PNG", compress_level=3)
        if buffer.tell() > MOST_BYTES:
            raise RefusedError("this picture is too large to be kept for a link. Scale it down.")
        content = buffer.getvalue()
        digest = hashlib.sha256(content).hexdigest()
        file = self._file(digest)
        if file.exists():
            file.touch()
        else:
            with atomic_path(file) as temporary:
                temporary.write_bytes(content)
        self.folder.trim()
        return digest

    def get(self, digest: str) -> Path:
        """The file, or a `RefusedError` if it has been forgotten. digest: 64 hexadecimal digits."""
        file = self._file(digest)
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef") or not file.is_file():
            raise RefusedError("the picture of this link is not kept any longer. Upload it again.")
        file.touch()
        return file

    def _file(self, digest: str) -> Path:
        return self.folder.path / f"{digest}.png"


__all__ = ["BOUNDS", "SharedPictures"]
