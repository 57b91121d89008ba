from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import HfApi, ModelCard
from PIL import Image
from safetensors.torch import load_file

from pixelllm_hf import PixelLLMForGroundedGeneration, PixelLLMProcessor, embedded_checkpoint
from pixelllm_hf.publishing import (
    AccessError,
    PublishError,
    UploadError,
    publish_model,
    publish_space,
    push_dataset_folder,
    push_model,
)

IMAGE = Image.radial_gradient("L").convert("RGB").resize((60, 40))
TOKEN = "hf_" + "aB3" * 12


def publish(folder: Path, repo_id: str = "org/small", **options: Any):
    return publish_model(folder, repo_id, **{"examples": [], **options})


def answers(source: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    processor = PixelLLMProcessor.from_pretrained(source, **options)
    model = PixelLLMForGroundedGeneration.from_pretrained(source, **options).eval()
    output = model.generate(**processor(images=IMAGE, return_tensors="pt"), max_new_tokens=5)
    return output.sequences, output.coordinates


def assert_same_answers(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def change_a_weight(folder: Path) -> None:
    from safetensors.torch import save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["point_head.norm.weight"] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


# --- models -----------------------------------------------------------------------------------------------------


def test_a_published_model_gives_the_same_answers_to_the_bit(checkpoint: Path, hub: Any):
    done = publish(checkpoint)
    assert done.commit == HfApi().repo_info("org/small").sha
    assert done.url == f"{hub.endpoint}/org/small"
    assert_same_answers(answers("org/small"), answers(checkpoint))


def test_everything_that_loading_needs_is_there_and_nothing_else(checkpoint: Path, hub: Any):
    publish(checkpoint)
    names = set(hub.files("org/small"))
    code = {name for name in names if name.endswith(".py")}
    assert {"configuration_pixelllm.py", "modeling_pixelllm.py", "processing_pixelllm.py"} <= code
    assert names - code == {
        ".gitattributes", "README.md", "chat_template.jinja", "config.json", "generation_config.json",
        "model.safetensors", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


def test_beyond_the_size_limit_the_weights_go_in_shards_with_the_same_bits(checkpoint: Path, hub: Any):
    publish(checkpoint, max_shard_bytes=40_000)
    files = hub.files("org/small")
    shards = sorted(name for name in files if name.endswith(".safetensors"))
    assert len(shards) > 3 and "model.safetensors" not in files
    assert set(json.loads(files["model.safetensors.index.json"])["weight_map"].values()) == set(shards)
    before = PixelLLMForGroundedGeneration.from_pretrained(checkpoint).state_dict()
    after = PixelLLMForGroundedGeneration.from_pretrained("org/small").state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_what_an_earlier_publication_left_is_removed(checkpoint: Path, hub: Any):
    publish(checkpoint, max_shard_bytes=40_000)
    HfApi().upload_file(path_or_fileobj=b"by hand", path_in_repo="notes.txt", repo_id="org/small")
    done = publish(checkpoint)
    names = set(hub.files("org/small"))
    assert {name for name in names if "safetensors" in name} == {"model.safetensors"}
    assert "model.safetensors.index.json" in done.removed
    assert "notes.txt" in names, "what is not ours stays"


def test_publishing_the_same_again_makes_no_commit(checkpoint: Path, hub: Any):
    first = publish(checkpoint)
    before = len(hub.requests)
    assert publish(checkpoint).commit == first.commit
    assert hub.uploads(before) == []


def test_an_upload_that_broke_off_goes_on_where_it_stopped(checkpoint: Path, hub: Any):
    weights = (checkpoint / "model.safetensors").read_bytes()
    examples = checkpoint / "examples"
    examples.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (8, 8), name == "a").save(examples / f"{name}.png")
    hub.cut_upload_of(hashlib.sha256(weights).hexdigest(), after_bytes=10_000, when_stored=2)
    with pytest.raises(UploadError, match=r"broke off .*Run the same command again"):
        publish(checkpoint, examples=None)
    assert set(hub.files("org/small")) == {".gitattributes"}, "a reader sees nothing of it"
    arrived = set(hub.large)
    assert len(arrived) == 2
    hub.heal()
    before = len(hub.requests)
    publish(checkpoint, examples=None)
    assert hub.uploads(before) == [hashlib.sha256(weights).hexdigest()], "only what was missing is sent"
    assert hub.files("org/small")["model.safetensors"] == weights


def test_a_line_that_dies_once_is_not_noticed(checkpoint: Path, hub: Any, monkeypatch: pytest.MonkeyPatch):
    oid = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    cut_of = hub.cut_of
    monkeypatch.setattr(hub, "cut_of", lambda path: hub.heal() or 5_000 if hub._cuts else cut_of(path))
    hub.cut_upload_of(oid, after_bytes=5_000)
    publish(checkpoint)
    assert hub.uploads().count(oid) == 2


def test_revisions_stay_what_they_were(checkpoint: Path, hub: Any):
    first = publish(checkpoint)
    expected = answers(checkpoint)
    change_a_weight(checkpoint)
    second = publish(checkpoint)
    assert first.commit != second.commit
    assert_same_answers(answers("org/small", revision=first.commit), expected)
    assert_same_answers(answers("org/small"), answers(checkpoint))
    assert not torch.equal(expected[1], answers("org/small")[1])


def test_a_branch_is_made_and_main_left_alone(checkpoint: Path, hub: Any):
    publish(checkpoint, revision="v1.0")
    assert "model.safetensors" not in hub.files("org/small")
    assert_same_answers(answers("org/small", revision="v1.0"), answers(checkpoint))
    with pytest.raises(PublishError, match="name of a branch"):
        publish(checkpoint, revision="0" * 40)


def test_offline_the_cache_is_enough_and_nothing_is_asked(checkpoint: Path, hub: Any, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    publish(checkpoint)
    online = answers("org/small")
    before = len(hub.requests)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_same_answers(answers("org/small"), online)
    with pytest.raises(OSError, match="(?i)offline|cache"):
        PixelLLMForGroundedGeneration.from_pretrained("org/never-seen")
    with pytest.raises(AccessError, match="offline mode is on"):
        publish(checkpoint)
    assert len(hub.requests) == before


def test_a_private_model_is_for_those_with_a_token(checkpoint: Path, hub: Any, monkeypatch: pytest.MonkeyPatch):
    publish(checkpoint, private=True)
    assert_same_answers(answers("org/small"), answers(checkpoint))
    monkeypatch.delenv("HF_TOKEN")
    for token in (None, "token-of-stranger"):
        with pytest.raises(OSError, match="(?i)not a valid model identifier|private|not found"):
            PixelLLMForGroundedGeneration.from_pretrained("org/small", token=token, cache_dir=checkpoint / "elsewhere")


def test_a_public_repository_does_not_pass_for_a_private_one(checkpoint: Path, hub: Any):
    HfApi().create_repo("org/small")
    with pytest.raises(AccessError, match="exists and is public"):
        publish(checkpoint, private=True)
    assert set(hub.files("org/small")) == {".gitattributes"}


@pytest.mark.parametrize(
    ("token", "repo_id", "message"),
    [
        (None, "org/small", "without a token"),
        ("made-up", "org/small", "with this token"),
        ("token-of-stranger", "org/small", "403"),
        ("token-of-tester", "others/small", "403"),
    ],
)
def test_without_rights_nothing_is_sent(
    checkpoint: Path, hub: Any, monkeypatch: pytest.MonkeyPatch, token: str | None, repo_id: str, message: str
):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(AccessError, match=message):
        publish(checkpoint, repo_id, token=token)
    assert hub.repositories == {} and hub.uploads() == []


def test_nothing_private_or_useless_is_sent(checkpoint: Path, hub: Any):
    for name in (
        ".env", ".git/config", ".cache/huggingface/x", "__pycache__/a.pyc", "training_state/state.json",
        "training_state/optimizer.safetensors", "optimizer.safetensors", "metrics.jsonl", "train_here.py", "args.json",
        "adapter/adapter_model.safetensors", "examples/notes.txt", "events.out.tfevents.1", "model.safetensors.tmp",
    ):  # fmt: skip
        (checkpoint / name).parent.mkdir(parents=True, exist_ok=True)
        (checkpoint / name).write_bytes(b"{}")
    before = set(checkpoint_names(checkpoint))
    done = publish(checkpoint)
    names = set(hub.files("org/small"))
    sent_of_folder = {name for name in names if name in before}
    assert sent_of_folder == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert {".env", ".git/", "training_state/", "optimizer.safetensors", "train_here.py"} <= set(done.left_out)


def checkpoint_names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["README.md", "tokenizer_config.json", "modeling_mine.py"])
def test_a_key_in_a_text_stops_everything_and_is_not_repeated(checkpoint: Path, hub: Any, name: str):
    if name.endswith(".json"):
        settings = json.loads((checkpoint / name).read_text())
        (checkpoint / name).write_text(json.dumps(settings | {"token": TOKEN}))
    else:
        with open(checkpoint / name, "a") as file:
            file.write(f"# {TOKEN}\n")
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "modeling_mine.Mine"}}))
    (checkpoint / "modeling_mine.py").touch()
    with pytest.raises(PublishError, match="looks like a Hugging Face token") as raised:
        publish(checkpoint)
    assert TOKEN not in str(raised.value) and name in str(raised.value)
    assert hub.requests == []


def break_off(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "lacks tokenizer.json"),
        (lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'), "type 'bert'"),
        (lambda folder: (folder / "config.json").write_text("{"), "cannot be read as JSON"),
        (break_off, "where its header announces"),
        (lambda folder: (folder / "README.md").write_text("# No licence"), "states no licence"),
        (lambda folder: (folder / "README.md").write_text("---\nlicense: [\n---\n"), "cannot be read"),
        (lambda folder: shutil.copy(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors"), "both"),
    ],
)
def test_a_folder_that_nobody_could_use_is_refused_before_anything_is_sent(
    checkpoint: Path, hub: Any, spoil: Any, message: str
):
    spoil(checkpoint)
    with pytest.raises(PublishError, match=message):
        publish(checkpoint)
    assert hub.requests == []


def test_a_rehearsal_needs_no_connection(checkpoint: Path, hub: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_TOKEN")
    done = publish(checkpoint, rehearse=True)
    assert done.commit is None and "model.safetensors" in done.files
    assert hub.requests == []


def test_the_card_shows_what_the_model_says_of_images(checkpoint: Path, hub: Any, tmp_path: Path):
    IMAGE.save(tmp_path / "gradient.png")
    publish(checkpoint, examples=[tmp_path / "gradient.png"])
    files = hub.files("org/small")
    assert files["examples/gradient.png"].startswith(b"\x89PNG")
    assert "](examples/gradient.png)" in files["README.md"].decode()
    with pytest.raises(PublishError, match="cannot be read"):
        publish(checkpoint, examples=[tmp_path / "none.png"])


def test_without_images_of_ones_own_composed_scenes_are_shown(checkpoint: Path, hub: Any):
    publish(checkpoint, examples=None)
    images = {name for name in hub.files("org/small") if name.startswith("examples/")}
    assert images == {"examples/scene_12.png", "examples/scene_13.png"}


def test_the_embedded_model_can_be_published_as_it_is(hub: Any):
    done = publish_model(embedded_checkpoint("tiny"), "org/pixelllm-tiny", examples=[], rehearse=True)
    assert {"README.md", "evaluation_trace.json", "model.safetensors"} <= set(done.files)
    assert hub.requests == []


def evaluation(weights_sha256: str) -> dict[str, Any]:
    estimate = {"value": 0.25, "low": 0.2, "high": 0.3, "count": 7}
    return {
        "command": "python scripts/evaluate.py", "data": {"seed": 1}, "decoding": {"num_beams": 1}, "scenes": 7,
        "metrics": {"object_f1": estimate}, "task": "trace", "weights_sha256": weights_sha256,
    }  # fmt: skip


def test_measured_numbers_reach_the_card_and_its_metadata(checkpoint: Path, hub: Any):
    digest = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    (checkpoint / "evaluation_trace.json").write_text(json.dumps(evaluation(digest)))
    publish(checkpoint)
    card = ModelCard.load("org/small")
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_config) == ("object_f1", 0.25, "trace")
    assert "| 0.2500 | 0.2000 to 0.3000 | 7 |" in card.text
    assert "evaluation_trace.json" in hub.files("org/small")


def test_a_card_that_the_hub_itself_refuses_is_said_to_be_and_nothing_is_committed(
    checkpoint: Path, hub: Any, monkeypatch: pytest.MonkeyPatch
):
    validate = hub._validate
    monkeypatch.setattr(hub, "_validate", lambda asked: validate({"content": "---\n- a list\n---\n"}))
    with pytest.raises(PublishError, match="not a dictionary"):
        publish(checkpoint)
    assert set(hub.files("org/small")) == {".gitattributes"} and hub.large == {}


def test_numbers_of_other_weights_are_refused(checkpoint: Path, hub: Any, tmp_path: Path):
    other = tmp_path / "elsewhere.json"
    other.write_text(json.dumps(evaluation("0" * 64)))
    with pytest.raises(PublishError, match="measured on other weights"):
        publish(checkpoint, evaluations=[other])


def test_a_model_in_memory_is_published_whole(small_checkpoint: Path, hub: Any):
    model = PixelLLMForGroundedGeneration.from_pretrained(small_checkpoint)
    push_model(model, PixelLLMProcessor.from_pretrained(small_checkpoint), "org/small", license="mit", examples=[])
    assert_same_answers(answers("org/small"), answers(small_checkpoint))
    assert "Not stated" in hub.files("org/small")["README.md"].decode(), "the plain card claims nothing"


def test_the_librarys_own_push_to_hub_works_too(small_checkpoint: Path, hub: Any):
    PixelLLMForGroundedGeneration.from_pretrained(small_checkpoint).push_to_hub("org/small")
    PixelLLMProcessor.from_pretrained(small_checkpoint).push_to_hub("org/small")
    assert_same_answers(answers("org/small"), answers(small_checkpoint))


def test_the_librarys_own_push_to_hub_sends_shards_of_the_size_that_is_asked_for(small_checkpoint: Path, hub: Any):
    model = PixelLLMForGroundedGeneration.from_pretrained(small_checkpoint)
    model.push_to_hub("org/small", max_shard_size=40_000)
    assert sum(name.endswith(".safetensors") for name in hub.files("org/small")) > 3
    before, after = model.state_dict(), PixelLLMForGroundedGeneration.from_pretrained("org/small").state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_without_a_size_the_shards_that_push_to_hub_sends_have_five_gigabytes_at_most(
    small_checkpoint: Path, hub: Any, monkeypatch: pytest.MonkeyPatch
):
    model, sizes = PixelLLMForGroundedGeneration.from_pretrained(small_checkpoint), []
    saved = model.save_pretrained
    monkeypatch.setattr(
        model,
        "save_pretrained",
        lambda *args, **options: (sizes.append(options["max_shard_size"]), saved(*args, **options)),
    )
    model.push_to_hub("org/small")
    assert sizes == ["5GB"]


def test_what_push_to_hub_sends_names_code_that_it_sends_and_a_folder_saved_here_has_none(
    small_checkpoint: Path, hub: Any, tmp_path: Path
):
    model = PixelLLMForGroundedGeneration.from_pretrained(small_checkpoint)
    processor = PixelLLMProcessor.from_pretrained(small_checkpoint)
    for part, settings in ((model, "config.json"), (processor, "processor_config.json")):
        part.push_to_hub("org/alone")
        files = hub.files("org/alone")
        named = {reference.split(".")[0] for reference in json.loads(files[settings])["auto_map"].values()}
        sent = {name.removesuffix(".py"): text.decode() for name, text in files.items() if name.endswith(".py")}
        imported = {name for text in sent.values() for name in re.findall(r"^from \.(\w+) import", text, re.M)}
        assert named | imported <= set(sent)
        part.save_pretrained(tmp_path)
        assert not list(tmp_path.glob("*.py")) and "auto_map" not in (tmp_path / settings).read_text()
    assert set(ModelCard.load("org/alone").data.tags) >= {"grounded-captioning", "pixelllm"}


# --- data sets --------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path: Path) -> Path:
    from datasets import Dataset

    folder = tmp_path / "data"
    for split in ("train", "validation"):
        rows = Dataset.from_dict({"caption": [f"a {split} caption", "two"], "number": [1, 2]})
        rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def test_a_published_data_set_is_loaded_by_its_name(
    data: Path, hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    done = push_dataset_folder(data, "org/captions", license="cc-by-4.0")
    from datasets import config, load_dataset

    monkeypatch.setattr(config, "HF_ENDPOINT", hub.endpoint)
    for options in ({}, {"revision": done.commit}):
        rows = load_dataset("org/captions", split="train", cache_dir=str(tmp_path / "datasets"), **options)
        assert rows["caption"][0] == "a train caption"
    assert "license: cc-by-4.0" in hub.files("org/captions", kind="dataset")["README.md"].decode()


def test_a_data_set_sheds_old_shards_and_keeps_out_what_is_no_data(data: Path, hub: Any):
    push_dataset_folder(data, "org/captions", license="cc-by-4.0")
    (data / "data/train-00000-of-00001.parquet").rename(data / "data/train-00000-of-00002.parquet")
    for name in (".env", "refs.p", "data/.cache/x.json", "data/a.parquet.incomplete", "state.pkl"):
        (data / name).parent.mkdir(exist_ok=True)
        (data / name).write_text("{}")
    done = push_dataset_folder(data, "org/captions", license="cc-by-4.0")
    assert done.removed == ("data/train-00000-of-00001.parquet",)
    assert set(hub.files("org/captions", kind="dataset")) == {
        ".gitattributes", "README.md", "data/train-00000-of-00002.parquet", "data/validation-00000-of-00001.parquet",
    }  # fmt: skip
    assert ".env" in done.left_out and "data/.cache/x.json" in done.left_out


def test_a_data_set_that_broke_off_goes_on_where_it_stopped(data: Path, hub: Any):
    shards = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in data.rglob("*.parquet")}
    missing, arrived = shards["train-00000-of-00001.parquet"], shards["validation-00000-of-00001.parquet"]
    hub.cut_upload_of(missing, after_bytes=100, when_stored=1)
    with pytest.raises(UploadError, match="the data set org/captions broke off"):
        push_dataset_folder(data, "org/captions", license="cc-by-4.0")
    assert set(hub.large) == {arrived}
    hub.heal()
    before = len(hub.requests)
    push_dataset_folder(data, "org/captions", license="cc-by-4.0")
    assert hub.uploads(before) == [missing]


def test_the_card_of_a_data_set_gets_the_licence_that_is_given(data: Path, hub: Any):
    (data / "README.md").write_text("---\nconfigs: []\n---\n\nRows.\n")
    with pytest.raises(PublishError, match="states no licence"):
        push_dataset_folder(data, "org/captions")
    push_dataset_folder(data, "org/captions", license="cc-by-4.0")
    card = hub.files("org/captions", kind="dataset")["README.md"].decode()
    assert "license: cc-by-4.0" in card and "Rows." in card


def test_data_without_a_licence_or_with_a_key_stay_here(data: Path, hub: Any):
    with pytest.raises(PublishError, match="licence of the data is needed"):
        push_dataset_folder(data, "org/captions")
    (data / "notes.txt").write_text(f"login with {TOKEN}")
    with pytest.raises(PublishError, match=r"notes\.txt, line 1"):
        push_dataset_folder(data, "org/captions", license="mit")
    assert hub.requests == []


# --- the demo ---------------------------------------------------------------------------------------------------


def test_a_space_gets_the_demo_the_package_and_the_models_name(hub: Any, tmp_path: Path):
    demo = tmp_path / "demo"
    (demo / "out").mkdir(parents=True)
    (demo / "app.py").write_text("import pixelllm_hf\n")
    (demo / "requirements.txt").write_text("gradio>=6.0\npixelllm-hf[demo]\n")
    (demo / "README.md").write_text("---\ntitle: PixelLLM\nsdk: gradio\napp_file: app.py\n---\n\nTry it.\n")
    (demo / "out/drawn.png").write_bytes(b"x")
    (demo / ".env").write_text("x")
    done = publish_space(demo, "org/try", model_id="org/small")
    files = hub.files("org/try", kind="space")
    assert {"app.py", "README.md", "pixelllm_hf/__init__.py", "pixelllm_hf/modeling/modeling_pixelllm.py"} <= set(files)
    assert not any(name.startswith("pixelllm_hf/checkpoints/") for name in files)
    assert b"- org/small" in files["README.md"]
    requirements = files["requirements.txt"].decode().split()
    assert "gradio>=6.0" in requirements and not any(line.startswith("pixelllm") for line in requirements)
    assert hub.repositories["space", "org/try"].settings["variables"] == {"PIXELLLM_MODEL": "org/small"}
    assert done.left_out == (".env", "out/drawn.png")
