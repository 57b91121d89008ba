from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError

from pixelllm_hf.publishing import DamagedDownloadError, verified_snapshot

CONFIG = b'{"model_type": "pixelllm"}'
WEIGHTS = bytes(range(256)) * 100
FILES = {"config.json": CONFIG, "model.safetensors": WEIGHTS}


@pytest.fixture
def published(hub: Any) -> Any:
    api = HfApi()
    api.create_repo("org/name")
    for name, content in FILES.items():
        api.upload_file(path_or_fileobj=content, path_in_repo=name, repo_id="org/name")
    return hub


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name in FILES}


def test_a_whole_repository_arrives(published: Any):
    assert contents(verified_snapshot("org/name")) == FILES


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["flipped", "short", "cut"])
def test_a_file_that_arrives_damaged_once_is_fetched_again(published: Any, name: str, how: str):
    published.damage(name, how, times=1)
    assert contents(verified_snapshot("org/name")) == FILES


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["flipped", "short", "cut"])
def test_a_file_that_arrives_damaged_always_is_an_error_and_the_next_try_heals(
    published: Any, name: str, how: str, tmp_path: Path
):
    published.damage(name, how)
    with pytest.raises(DamagedDownloadError, match="org/name"):
        verified_snapshot("org/name", cache_dir=tmp_path / "here")
    kept = [p for p in (tmp_path / "here").rglob("blobs/*") if p.read_bytes() not in FILES.values()]
    assert [p.name for p in kept if p.stat().st_size > 2000 or p.read_bytes() == CONFIG[: len(CONFIG) // 2]] == []
    published.heal()
    assert contents(verified_snapshot("org/name", cache_dir=tmp_path / "here")) == FILES


def test_a_file_that_went_bad_in_the_cache_is_noticed_and_replaced(published: Any):
    folder = verified_snapshot("org/name")
    (folder / "model.safetensors").resolve().write_bytes(WEIGHTS[::-1])
    assert contents(verified_snapshot("org/name")) == FILES


def test_offline_a_damaged_cache_is_an_error_and_a_whole_one_is_used(published: Any, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    folder = verified_snapshot("org/name")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(published.requests)
    assert contents(verified_snapshot("org/name")) == FILES
    (folder / "model.safetensors").resolve().write_bytes(b"bad")
    with pytest.raises(DamagedDownloadError, match="model.safetensors of org/name in the cache was damaged"):
        verified_snapshot("org/name")
    assert len(published.requests) == before


def test_a_revision_is_pinned(published: Any):
    first = HfApi().repo_info("org/name").sha
    HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="org/name")
    assert (verified_snapshot("org/name", revision=first) / "config.json").read_bytes() == CONFIG
    assert (verified_snapshot("org/name") / "config.json").read_bytes() == b"{}"


def test_what_is_not_there_is_no_damage(published: Any):
    with pytest.raises(RepositoryNotFoundError):
        verified_snapshot("org/other")
