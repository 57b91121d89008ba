"""Repositories from the Hub with every byte checked, also when the cache is all there is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")


class DamagedDownloadError(OSError):
    """What arrived, or lies in the cache, is not what the repository holds."""


def verified_snapshot(
    repo_id: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache_dir: str | Path | None = None,
    kind: str = "model",
    allow_patterns: Sequence[str] | None = None,
) -> Path:
    """The folder of a revision in the cache, for `from_pretrained`, after all its files were compared with their names.

    The client compares sizes of what it downloads, not contents. A file that differs is fetched once more; if it still
    differs, this raises `DamagedDownloadError` and leaves no damaged file behind. Offline it checks what is cached.
    """

    def fetch() -> Path:
        return Path(
            snapshot_download(
                repo_id,
                repo_type=kind,
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                allow_patterns=list(allow_patterns) if allow_patterns is not None else None,
            )
        )

    folder = _whole(fetch, repo_id)
    damaged = _remove(damaged_files(folder))
    if damaged:
        try:
            folder = _whole(fetch, repo_id)
        except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
            raise DamagedDownloadError(
                f"{', '.join(damaged)} of {repo_id} in the cache was damaged and has been removed, and the Hub cannot "
                "be reached for a new copy. Run it again with a connection."
            ) from error
        damaged = _remove(damaged_files(folder))
    if damaged:
        raise DamagedDownloadError(
            f"{', '.join(damaged)} of {repo_id} arrived damaged twice: the content does not have the hash that the "
            "repository states. Nothing damaged was kept; try again later, or over another connection."
        )
    return folder


def _whole(fetch: Callable[[], Path], repo_id: str) -> Path:
    """Once more if a file came too short; then `DamagedDownloadError`."""
    for attempt in (1, 2):
        try:
            return fetch()
        except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled):
            raise
        except (HTTPError, OSError) as error:
            if attempt == 2:
                raise DamagedDownloadError(
                    f"a file of {repo_id} did not arrive whole ({' '.join(str(error).split())[:300]}). Nothing damaged "
                    "was kept; try again later, or over another connection."
                ) from error
    raise AssertionError("unreachable")


def damaged_files(folder: str | Path) -> list[Path]:
    """Files of a snapshot in the cache whose content does not have the hash that it is stored under.

    The cache names contents by what the repository states: SHA-256 for large files, git's SHA-1 for others. Where the
    system has no symbolic links, the names are lost and nothing can be compared.
    """
    return [path for path in sorted(Path(folder).rglob("*")) if path.is_symlink() and not _is_as_named(path.resolve())]


def _is_as_named(content: Path) -> bool:
    if not content.is_file():
        return False
    if _SHA256.fullmatch(content.name):
        return _digest(content, hashlib.sha256()) == content.name
    if _SHA1.fullmatch(content.name):
        return _digest(content, hashlib.sha1(b"blob %d\0" % content.stat().st_size)) == content.name
    return True


def _digest(path: Path, digest: Any) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: digest).hexdigest()


def _remove(paths: Sequence[Path]) -> list[str]:
    for path in paths:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
    return [path.name for path in paths]
