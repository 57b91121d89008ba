"""Folders to repositories of the Hub: models, data sets, the demo.

A model or a Space is published in one commit: readers see what was there before or all of the new. What an earlier
publication left and this one no longer has is removed. Large files that the Hub has already are not sent again.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from pixelllm_hf.families import family_of_folder
from pixelllm_hf.files import sha256_of_files
from pixelllm_hf.safetensors_files import MAX_SHARD_BYTES, read_layout, sharded

from .contents import (
    DATA_FILES,
    DATASET_FILES,
    EXAMPLES,
    NEVER,
    WEIGHTS_INDEX,
    checkpoint_contents,
    code_beside,
    dataset_contents,
    is_weights,
    matches,
    read_json,
    refuse_secrets,
)
from .errors import AccessError, PublishError, hub_errors
from .model_card import dataset_card, load_reports, render_model_card, validate_card, with_licence

MAIN = "main"
PACKAGE = Path(__file__).parents[1]
SPACE_MODEL_VARIABLE = "PIXELLLM_MODEL"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OURS = re.compile(r"evaluation_\w+\.json|[\w.-]+\.py|" + EXAMPLES + r"/[^/]+")


@dataclass(frozen=True)
class Publication:
    """What is there now. `commit` is the revision to pin; None after a rehearsal, in which nothing was sent."""

    repo_id: str
    kind: str
    revision: str
    commit: str | None
    url: str
    files: tuple[str, ...]
    removed: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def publish_model(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    card: str | Path | None = None,
    evaluations: Sequence[str | Path] | None = None,
    examples: Sequence[str | Path] | None = None,
    license: str | None = None,  # noqa: A002 - the Hub's word
    message: str = "Publish PixelLLM",
    max_shard_bytes: int = MAX_SHARD_BYTES,
    rehearse: bool = False,
) -> Publication:
    """A checkpoint folder as a model that `from_pretrained(repo_id)` loads, with or without this package.

    revision: a branch, made if it is not there. card: a text to use instead of the folder's README.md.
    evaluations: JSON of scripts/evaluate.py, else the folder's evaluation_*.json. examples: images to caption and
    show; None takes composed scenes unless the folder brings images in examples/, an empty list none.
    rehearse: check and prepare everything and send nothing.

    Errors: `PublishError` before anything is sent, `AccessError`, `UploadError` (run it again).
    """
    folder = Path(folder)
    _check_names(repo_id, revision)
    contents = checkpoint_contents(folder)
    digest = sha256_of_files(contents.weights)
    measured = (
        {f"{Path(e).stem}.json": Path(e) for e in evaluations}
        if evaluations is not None
        else {name: path for name, path in contents.files.items() if matches(name, ["evaluation_*.json"])}
    )
    reports = load_reports(measured.values(), weights_sha256=digest)
    text = _card_text(card, contents.files.get("README.md"))
    with tempfile.TemporaryDirectory(prefix="pixelllm-publish-") as temporary:
        work = Path(temporary)
        files: dict[str, Path | bytes] = {
            name: path for name, path in contents.files.items() if not matches(name, ["evaluation_*.json"])
        }
        files |= {f"evaluation_{name.removeprefix('evaluation_')}": path for name, path in measured.items()}
        files |= code_beside(folder, work / "code")
        if (shards := sharded(contents.weights, work / "weights", max_shard_bytes=max_shard_bytes)) is not None:
            files = {name: f for name, f in files.items() if not is_weights(name) and name != WEIGHTS_INDEX}
            files |= {shard.name: shard for shard in shards}
        shown = []
        if examples is not None or not any(name.startswith(f"{EXAMPLES}/") for name in files):
            from .examples import draw_examples

            drawn = draw_examples(folder, examples, work / EXAMPLES)
            shown = [example for example, _ in drawn]
            files |= {example.path: file for example, file in drawn}
        files["README.md"] = render_model_card(
            text,
            repo_id=repo_id,
            reports=reports,
            examples=shown,
            license=license,
            facts=_facts(folder, contents.weights),
            family=family_of_folder(folder),
        ).encode()
        refuse_secrets(files)
        if rehearse:
            return _rehearsed("model", repo_id, revision, files, contents.left_out)
        with hub_errors(f"the model {repo_id}"):
            api = _ready(repo_id, "model", private=private, revision=revision, token=token)
            return _commit(
                api, repo_id, "model", files, revision=revision, message=message, left_out=contents.left_out,
                owned=lambda name: is_weights(name) or name == WEIGHTS_INDEX or bool(_OURS.fullmatch(name)),
            )  # fmt: skip


def push_model(model: Any, processor: Any, repo_id: str, **options: Any) -> Publication:
    """`publish_model` for a model and a processor in memory, all in one commit; `options` are its options.

    transformers' own `model.push_to_hub` and `processor.push_to_hub` send one of the two each, with its code; together
    they make a repository that loads as well, but without the pipeline, measured card, images and checks.
    """
    with tempfile.TemporaryDirectory(prefix="pixelllm-model-") as temporary:
        model.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        return publish_model(temporary, repo_id, **options)


def push_dataset_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    token: str | None = None,
    license: str | None = None,  # noqa: A002 - the Hub's word
    message: str = "Publish grounded captions",
    rehearse: bool = False,
) -> Publication:
    """A folder of data as a data set that `load_dataset(repo_id)` reads.

    Data files, images, text and the card are sent (`contents.DATASET_FILES`); anything else stays and is named in
    the result. license: of the data; needed unless README.md states it. A folder without README.md gets a plain one.
    """
    _check_names(repo_id, revision)
    contents = dataset_contents(folder)
    files: dict[str, Path | bytes] = dict(contents.files)
    card = contents.files.get("README.md")
    if card is not None:
        files["README.md"] = with_licence(_card_text(None, card) or "", license).encode()
    elif license is None:
        raise PublishError(f"{folder} has no README.md, so the licence of the data is needed: license='cc-by-4.0'.")
    else:
        files["README.md"] = dataset_card(repo_id, license=license).encode()
    refuse_secrets(files)
    if rehearse:
        return _rehearsed("dataset", repo_id, revision, files, contents.left_out)
    with hub_errors(f"the data set {repo_id}"):
        api = _ready(repo_id, "dataset", private=private, revision=revision, token=token)
        # a plain card does not take the place of one that was written there by hand
        if card is not None or not api.file_exists(repo_id, "README.md", repo_type="dataset", revision=revision):
            _upload_text(api, repo_id, "dataset", "README.md", files["README.md"], revision=revision, message=message)
        present = api.list_repo_files(repo_id, repo_type="dataset", revision=revision)
        # the client's own way for folders: several commits if there are very many files, resumed where it stopped
        info = api.upload_folder(
            folder_path=folder,
            repo_id=repo_id,
            repo_type="dataset",
            revision=revision,
            commit_message=message,
            allow_patterns=_anywhere(DATASET_FILES),
            ignore_patterns=[*NEVER, "README.md"],
            delete_patterns=_anywhere(DATA_FILES),  # shards of another split into files would be read along
        )
    removed = tuple(name for name in sorted(present) if matches(name, _anywhere(DATA_FILES)) and name not in files)
    return Publication(
        repo_id,
        "dataset",
        revision or MAIN,
        info.oid,
        f"{api.endpoint}/datasets/{repo_id}",
        tuple(sorted(files)),
        removed,
        contents.left_out,
    )


def _anywhere(patterns: Sequence[str]) -> list[str]:
    return [*patterns, *(f"*/{pattern}" for pattern in patterns)]


def _upload_text(
    api: HfApi, repo_id: str, kind: str, name: str, text: Any, *, revision: str | None, message: str
) -> None:
    api.upload_file(
        path_or_fileobj=text, path_in_repo=name, repo_id=repo_id, repo_type=kind, revision=revision,
        commit_message=message,
    )  # fmt: skip


def publish_space(
    folder: str | Path,
    repo_id: str,
    *,
    model_id: str,
    private: bool | None = None,
    token: str | None = None,
    message: str = "Publish the demo",
    rehearse: bool = False,
) -> Publication:
    """The demo's folder as a Space that shows `model_id`.

    folder: app.py, requirements.txt and a README.md with the Space's metadata. This package's own files go along, as
    it is on no index. The model's name is in the variable `PIXELLLM_MODEL` of the Space and in its metadata. A private
    model needs a token that may read it, as the secret `HF_TOKEN` of the Space; this sets none.
    """
    folder = Path(folder)
    _check_names(repo_id, None)
    missing = [name for name in ("README.md", "app.py", "requirements.txt") if not (folder / name).is_file()]
    if missing:
        raise PublishError(f"{folder} lacks {', '.join(missing)}, so it is not a Space. Give the folder of the demo.")
    card = validate_card((folder / "README.md").read_text(encoding="utf-8"), kind="space")
    if card.data.get("sdk") != "gradio" or card.data.get("app_file", "app.py") != "app.py":
        raise PublishError(f"the metadata of {folder / 'README.md'} must say `sdk: gradio` and `app_file: app.py`.")
    card.data["models"] = [model_id]
    files: dict[str, Path | bytes] = {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and _is_demo_file(path.relative_to(folder).as_posix())
    }
    left_out = sorted(
        name
        for path in folder.rglob("*")
        if path.is_file() and (name := path.relative_to(folder).as_posix()) not in files
    )
    files |= {f"{PACKAGE.name}/{name}": path for name, path in _package_files().items()}
    files["README.md"] = str(card).encode()
    files["requirements.txt"] = _requirements((folder / "requirements.txt").read_text(encoding="utf-8")).encode()
    refuse_secrets(files)
    if rehearse:
        return _rehearsed("space", repo_id, None, files, tuple(left_out))
    with hub_errors(f"the Space {repo_id}"):
        api = _ready(repo_id, "space", private=private, revision=None, token=token)
        api.add_space_variable(repo_id, SPACE_MODEL_VARIABLE, model_id)
        return _commit(
            api, repo_id, "space", files, revision=None, message=message, left_out=tuple(left_out),
            owned=lambda name: name.startswith(f"{PACKAGE.name}/"),
        )  # fmt: skip


def _is_demo_file(name: str) -> bool:
    return not matches(name, NEVER) and not name.startswith("out/")


def _package_files() -> dict[str, Path]:
    """This package without the embedded checkpoints: the Space loads the model that it is told."""
    return {
        name: path
        for path in sorted(PACKAGE.rglob("*"))
        if path.is_file()
        and not matches(name := path.relative_to(PACKAGE).as_posix(), (*NEVER, "*.pyc"))
        and not name.startswith("checkpoints/")
    }


def _requirements(text: str) -> str:
    """The demo's requirements without this package, which goes along, and with what this package needs."""
    own = re.compile(r"\s*pixelllm[-_]hf\b", re.I)
    lines = [line for line in text.splitlines() if not own.match(line)]
    named = {re.split(r"[\s<>=!~\[;]", line.strip(), maxsplit=1)[0].lower() for line in lines}
    try:
        needed = [r for r in metadata.requires("pixelllm_hf") or [] if "extra ==" not in r]
    except metadata.PackageNotFoundError:
        needed = []
    lines += [r for r in needed if re.split(r"[\s<>=!~\[;]", r, maxsplit=1)[0].lower() not in named]
    return "\n".join(lines) + "\n"


def _check_names(repo_id: str, revision: str | None) -> None:
    if repo_id.count("/") != 1:
        raise PublishError(f"a repository is called org/name, but this one {repo_id!r}.")
    if revision is not None and _COMMIT.fullmatch(revision):
        raise PublishError(f"the revision {revision} is a commit, which cannot change. Give the name of a branch.")


def _card_text(given: str | Path | None, own: Path | None) -> str | None:
    path = Path(given) if given is not None else own
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PublishError(f"the card {path} cannot be read ({error}).") from error


def _facts(folder: Path, weights: Sequence[Path]) -> dict[str, Any]:
    """What a plain card says about the model, read from its files."""
    tensors = [tensor for file in weights for tensor in read_layout(file).values()]
    processor = read_json(folder / "processor_config.json")
    size = (processor.get("image_processor") or processor).get("size") or {}
    return {
        "Numbers in the weights": f"{sum(tensor.num_values for tensor in tensors):,}",
        "Stored as": ", ".join(sorted({tensor.dtype for tensor in tensors})),
        "Images are read at": f"{size.get('width')} x {size.get('height')} pixels",
    }


def _rehearsed(
    kind: str, repo_id: str, revision: str | None, files: Mapping[str, Any], left_out: tuple[str, ...]
) -> Publication:
    return Publication(repo_id, kind, revision or MAIN, None, "", tuple(sorted(files)), left_out=left_out)


def _ready(repo_id: str, kind: str, *, private: bool | None, revision: str | None, token: str | None) -> HfApi:
    """A client that is logged in, and the repository and branch that it is to write."""
    api = HfApi(token=token)
    api.whoami()  # who has no token, or a wrong one, learns it before the repository is made
    sdk = "gradio" if kind == "space" else None
    api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True, space_sdk=sdk)
    if private and not api.repo_info(repo_id, repo_type=kind).private:
        raise AccessError(
            f"{repo_id} exists and is public, so publishing there would not be private. Make it private in its "
            "settings, or take another name."
        )
    if revision is not None and revision != MAIN:
        api.create_branch(repo_id, branch=revision, repo_type=kind, exist_ok=True)
    return api


def _commit(
    api: HfApi,
    repo_id: str,
    kind: str,
    files: Mapping[str, Path | bytes],
    *,
    revision: str | None,
    message: str,
    left_out: tuple[str, ...],
    owned: Callable[[str], bool],
) -> Publication:
    """Everything in one commit. `owned(name)`: such files of the repository go away if they are not among `files`."""
    present = api.list_repo_files(repo_id, repo_type=kind, revision=revision)
    removed = sorted(name for name in present if name not in files and owned(name))
    operations: list[Any] = [CommitOperationDelete(name, is_folder=False) for name in removed]
    operations += [CommitOperationAdd(name, source) for name, source in sorted(files.items())]
    info = api.create_commit(repo_id, operations, commit_message=message, repo_type=kind, revision=revision)
    prefix = "" if kind == "model" else f"{kind}s/"
    return Publication(
        repo_id, kind, revision or MAIN, info.oid, f"{api.endpoint}/{prefix}{repo_id}", tuple(sorted(files)),
        tuple(removed), left_out,
    )  # fmt: skip
