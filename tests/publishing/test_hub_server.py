"""The local Hub answers the client as the real one does; otherwise the other tests here mean little."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

LARGE = bytes(range(256)) * 200


@pytest.fixture
def api(hub: Any) -> HfApi:
    api = HfApi()
    api.create_repo("org/name")
    return api


def upload(api: HfApi, content: bytes, path: str, **options: Any) -> str:
    return api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id="org/name", **options).oid


def test_a_repository_is_made_once_and_again_only_where_that_is_allowed(api: HfApi):
    assert api.create_repo("org/name", exist_ok=True) == f"{api.endpoint}/org/name"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("org/name")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("others/name")


def test_small_and_large_files_come_back_as_they_were_sent(api: HfApi, hub: Any):
    upload(api, b"{}", "config.json")
    upload(api, LARGE, "sub/weights.safetensors")
    folder = Path(snapshot_download("org/name"))
    assert (folder / "config.json").read_bytes() == b"{}"
    assert (folder / "sub/weights.safetensors").read_bytes() == LARGE
    assert (folder / "sub/weights.safetensors").resolve().name == hashlib.sha256(LARGE).hexdigest()
    assert hub.files("org/name")["sub/weights.safetensors"] == LARGE


def test_the_token_never_reaches_the_server_of_large_files(api: HfApi, hub: Any):
    upload(api, LARGE, "weights.safetensors")
    hf_hub_download("org/name", "weights.safetensors")
    at_cdn = [request for request in hub.requests if request.server == "cdn"]
    assert at_cdn and not any("authorization" in request.headers for request in at_cdn)


def test_large_files_go_in_parts_where_the_server_asks_for_them(make_hub: Any):
    hub = make_hub(multipart_over=20_000)
    api = HfApi()
    api.create_repo("org/name")
    upload(api, LARGE, "weights.safetensors")
    assert hub.files("org/name")["weights.safetensors"] == LARGE
    assert len(hub.uploads()) == 3


def test_listings_are_followed_over_several_pages(make_hub: Any):
    make_hub(page_size=2)
    api = HfApi()
    api.create_repo("org/name")
    for i in range(5):
        upload(api, b"x", f"folder/{i}.txt")
    assert len(api.list_repo_files("org/name")) == 6
    assert {entry.path for entry in api.list_repo_tree("org/name")} == {".gitattributes", "folder"}
    assert [info.path for info in api.get_paths_info("org/name", ["folder/1.txt", "no"])] == ["folder/1.txt"]


def test_old_revisions_stay_and_unknown_ones_are_refused(api: HfApi):
    first, second = upload(api, b"1", "n.txt"), upload(api, b"2", "n.txt")
    api.create_branch("org/name", branch="old", revision=first)
    assert Path(hf_hub_download("org/name", "n.txt", revision="old")).read_bytes() == b"1"
    assert Path(hf_hub_download("org/name", "n.txt", revision=second)).read_bytes() == b"2"
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download("org/name", "n.txt", revision="never")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("org/name", "other.txt")


@pytest.mark.parametrize(("token", "status"), [("token-of-stranger", 403), ("made-up", 401)])
def test_writing_needs_a_token_with_rights(api: HfApi, token: str, status: int):
    with pytest.raises(HfHubHTTPError, match=str(status)):
        upload(HfApi(token=token), b"x", "x.txt")


def test_a_private_repository_is_like_none_for_strangers(hub: Any):
    HfApi().create_repo("org/secret", private=True)
    assert HfApi().repo_info("org/secret").private
    for token in (False, "token-of-stranger"):
        with pytest.raises(RepositoryNotFoundError):
            HfApi(token=token).repo_info("org/secret")
        with pytest.raises((RepositoryNotFoundError, LocalEntryNotFoundError)):
            hf_hub_download("org/secret", ".gitattributes", token=token)


def test_part_of_a_file_can_be_asked_for(api: HfApi, hub: Any):
    from huggingface_hub.utils import get_session

    upload(api, b"0123456789", "n.txt")
    answer = get_session().get(f"{hub.endpoint}/org/name/resolve/main/n.txt", headers={"Range": "bytes=2-4"})
    assert (answer.status_code, answer.content, answer.headers["Content-Range"]) == (206, b"234", "bytes 2-4/10")
    assert answer.headers["X-Repo-Commit"] == api.repo_info("org/name").sha
