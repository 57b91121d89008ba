"""Published files as they really are: their odd layouts, what stands in their place, and where the result goes."""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration
from pixelllm_hf.cli import main
from pixelllm_hf.conversion import assembly_plan
from pixelllm_hf.conversion.assembling import AssemblyError, assemble, make_plan
from pixelllm_hf.conversion.weight_sources import PickledTensor, WeightSource, WeightSourceError, find_weights

from .public_parts import (
    SIDE,
    eva02_features,
    eva02_tensors,
    original_sam,
    save_causal,
    save_eva02,
    save_original_sam,
    save_t5,
    segment_anything_modules,
    timm_names,
    transformers_sam,
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("parts")
    sam, eva02 = save_original_sam(folder / "sam"), save_eva02(folder / "eva02")
    return {"sam": str(sam), "eva02": str(eva02), "lm": str(save_t5(folder / "t5"))}


def command(parts: dict[str, str], out: Path, *more: str) -> list[str]:
    words = ["assemble", *(w for kind in parts for w in (f"--{kind}", parts[kind])), "--out", str(out)]
    return [*words, "--quiet", "--image-size", str(SIDE), *more]


def refusal(parts: dict[str, str], out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """What the command says where it makes nothing, in one line."""
    capsys.readouterr()
    assert main(command(parts, out, *more)) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith("pixelllm: ") and "\n" not in told and not out.exists()
    return told


# ---------------------------------------------------------------- layouts


def test_an_eva02_without_inner_norm_is_made_and_computes_the_same(parts: dict[str, str], tmp_path: Path):
    """The tiny and small sizes: timm has queries, keys and values in one tensor, and both gates of the MLP too."""
    plain = {name: tensor for name, tensor in eva02_tensors().items() if "ffn_ln" not in name}
    packed = timm_names(plain, fused=True)
    for i in range(2):
        for kind in ("weight", "bias"):
            gates = [packed.pop(f"blocks.{i}.mlp.{half}.{kind}") for half in ("fc1_g", "fc1_x")]
            packed[f"blocks.{i}.mlp.fc1.{kind}"] = torch.cat(gates)
    save_file({name: tensor.contiguous() for name, tensor in packed.items()}, tmp_path / "tiny.safetensors")
    plan = make_plan(**parts | {"eva02": str(tmp_path / "tiny.safetensors")}, image_size=SIDE)
    model = PixelLLMForGroundedGeneration.from_pretrained(assemble(plan, tmp_path / "model"))
    assert model.config.vision_config.towers[0].inner_norm is False
    pixels = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = model.vision_towers.eva02(pixels)["patches"].double()
    theirs = eva02_features(plain, pixels)
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


@pytest.mark.parametrize(
    ("size", "width", "depth", "heads", "globally"),
    [("b", 768, 12, 12, [2, 5, 8, 11]), ("l", 1024, 24, 16, [5, 11, 17, 23]), ("h", 1280, 32, 16, [7, 15, 23, 31])],
)
def test_sizes_of_the_published_sams_are_read_off_their_names_and_shapes(
    parts: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    size: str,
    width: int,
    depth: int,
    heads: int,
    globally: list,
):
    modules = segment_anything_modules()
    with torch.device("meta"):
        encoder = modules.ImageEncoderViT(
            depth=depth, embed_dim=width, img_size=1024, mlp_ratio=4, num_heads=heads, patch_size=16, qkv_bias=True,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), use_rel_pos=True, global_attn_indexes=globally,
            window_size=14, out_chans=256,
        )  # fmt: skip
        prompts = modules.PromptEncoder(
            embed_dim=256, image_embedding_size=(64, 64), input_image_size=(1024, 1024), mask_in_chans=16
        )
        decoder = modules.MaskDecoder(
            transformer=modules.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
            transformer_dim=256, iou_head_depth=3, iou_head_hidden_dim=256,
        )  # fmt: skip
        whole = modules.Sam(encoder, prompts, decoder)
    file = Path(f"sam_vit_{size}.pth")
    tensors = {name: PickledTensor.of(file, tensor) for name, tensor in whole.state_dict().items()}
    source = WeightSource(file.name, Path(), (), tensors)
    monkeypatch.setattr(assembly_plan, "find_weights", lambda name: source if name == file.name else find_weights(name))
    plan = make_plan(**parts | {"sam": file.name})
    tower = next(tower for tower in plan.config.vision_config.towers if tower.name == "sam")
    assert (tower.hidden_size, tower.num_hidden_layers, tower.num_attention_heads) == (width, depth, heads)
    assert list(tower.global_attn_indexes) == globally and tower.window_size == 14
    assert tower.pretrain_image_size == 1024 and plan.parts["SAM"].layout.name == "original SAM"
    fates = {row.fate for row in plan.rows if row.kind == "SAM" and "mask_downscaling" not in row.name}
    assert fates == {"used"} and len(plan.mask_decoder) == len(decoder.state_dict())


def test_parts_come_from_the_hub_by_their_names(parts: dict[str, str], hub: Any, tmp_path: Path):
    from huggingface_hub import HfApi

    transformers_sam().save_pretrained(tmp_path / "sam")
    lm = save_causal(tmp_path / "lm", "gpt2")
    for name in ("tokenizer.json", "special_tokens_map.json"):
        (lm / name).unlink(missing_ok=True)
    words = {"<unk>": 0, "</s>": 1, "<s>": 2, "a": 3, "r": 4, "e": 5, "d": 6, "re": 7}
    (lm / "vocab.json").write_text(json.dumps(words))
    (lm / "merges.txt").write_text("#version: 0.2\nr e\n")
    (lm / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "GPT2Tokenizer", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>",
    }))  # fmt: skip
    timm = tmp_path / "timm"
    timm.mkdir()
    save_file({name: t.contiguous() for name, t in timm_names(eva02_tensors()).items()}, timm / "model.safetensors")
    api = HfApi(endpoint=hub.endpoint, token=hub.token)
    for folder in (tmp_path / "sam", lm, timm):
        api.create_repo(f"org/{folder.name}")
        api.upload_folder(repo_id=f"org/{folder.name}", folder_path=folder)
    api.create_repo("org/eva")
    api.upload_file(repo_id="org/eva", path_or_fileobj=parts["eva02"], path_in_repo="pt/eva02_S.pt")
    for eva02 in ("org/timm", "org/eva/pt/eva02_S.pt"):
        out = tmp_path / eva02.replace("/", "-")
        assert main(command({"sam": "org/sam", "eva02": eva02, "lm": "org/lm"}, out)) == 0
        assert PixelLLMForGroundedGeneration.from_pretrained(out).config.text_config.model_type == "gpt2"
        assert (out / "tokenizer.json").is_file()


SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
BACKBONES: dict[str, dict[str, Any]] = {
    "dinov2": SMALL | {"patch_size": 16, "image_size": SIDE, "num_labels": 3},
    "swin": dict(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, image_size=SIDE, num_labels=3),
    "convnext": dict(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=3),
}


def save_backbone(folder: Path, kind: str, **settings: Any) -> Path:
    """A classifier of images, as most are published."""
    from transformers import AutoConfig, AutoModelForImageClassification

    torch.manual_seed(4)
    config = AutoConfig.for_model(kind, **BACKBONES[kind] | settings)
    AutoModelForImageClassification.from_config(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}))
    return folder


@pytest.mark.parametrize("kind", BACKBONES)
def test_a_published_backbone_joins_the_towers_or_takes_eva02s_place(
    parts: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
):
    from transformers import AutoBackbone, AutoConfig

    folder = save_backbone(tmp_path / kind, kind)
    theirs = type(AutoBackbone.from_config(AutoConfig.from_pretrained(folder))).from_pretrained(folder).eval()
    alone = {name: value for name, value in parts.items() if name != "eva02"}
    pixels = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    for given, names in ((alone, [kind, "sam"]), (parts, ["eva02", kind, "sam"])):
        out = tmp_path / "-".join(names)
        assert main(command(given, out, "--backbone", str(folder))) == 0
        model = PixelLLMForGroundedGeneration.from_pretrained(out).eval()
        towers = model.config.vision_config.towers
        assert [tower.name for tower in towers] == names
        tower = next(tower for tower in towers if tower.name == kind)
        assert list(tower.image_mean) == [127.5] * 3 and list(tower.image_std) == [63.75] * 3
        ours = dict(model.vision_towers.get_submodule(kind).backbone.state_dict())
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(ours[name], tensor), name
        with torch.no_grad():
            seen = next(iter(model.vision_towers.get_submodule(kind)(pixels).values()))
            expected = theirs(pixels).feature_maps[-1].permute(0, 2, 3, 1)
            torch.testing.assert_close(seen, expected, atol=1e-5, rtol=1e-4)
    fates = {
        row.name: row.fate for row in make_plan(**alone, eva02=None, backbones=[str(folder)], image_size=SIDE).rows
    }
    assert {fate for name, fate in fates.items() if name.startswith("classifier")} == {"unused"}


def test_a_backbone_of_another_depth_or_none_is_named(
    parts: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from transformers import Dinov2Config

    folder = save_backbone(tmp_path / "dino", "dinov2")
    Dinov2Config(**BACKBONES["dinov2"] | {"num_hidden_layers": 1}).save_pretrained(folder)
    more = ("--backbone", str(folder))
    assert re.search(r"layer\.1\..* has no place", refusal(parts, tmp_path / "made", capsys, *more))
    Dinov2Config(**BACKBONES["dinov2"] | {"num_hidden_layers": 3}).save_pretrained(folder)
    assert re.search(r"dinov2 lacks what .*layer\.2\.", refusal(parts, tmp_path / "made", capsys, *more))
    told = refusal(parts, tmp_path / "made", capsys, "--backbone", parts["lm"])
    assert "no config.json of a backbone of transformers" in told
    alone = {name: value for name, value in parts.items() if name != "eva02"}
    assert "EVA02 or another backbone" in refusal(alone, tmp_path / "made", capsys)


# ---------------------------------------------------------------- what is no weights


def _save(file: Path, tensors: dict[str, Tensor], **beside: Any) -> Path:
    torch.save({"model": tensors, **beside}, file)
    return file


def test_a_training_checkpoint_with_its_arguments_is_read(parts: dict[str, str], tmp_path: Path):
    file = _save(tmp_path / "checkpoint.pt", eva02_tensors(), args=argparse.Namespace(lr=1e-4), epoch=3)
    assert make_plan(**parts | {"eva02": str(file)}, image_size=SIDE).parts["EVA02"].layout.name == "original EVA02"


_PROJECTION = "blocks.1.attn.proj.weight"


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [
        *((".pt", kind) for kind in (torch.int8, torch.float8_e4m3fn, torch.complex64, "sparse")),
        *((".safetensors", kind) for kind in (torch.int8, torch.float8_e4m3fn)),
    ],
    ids=str,
)
def test_weights_that_are_no_plain_floats_are_named_and_not_cast(
    parts: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str, kind: Any
):
    tensors = eva02_tensors()
    weight = tensors[_PROJECTION]
    tensors[_PROJECTION] = weight.to_sparse() if kind == "sparse" else weight.to(kind)
    file = tmp_path / f"eva02{suffix}"
    if suffix == ".pt":
        _save(file, tensors)
    else:
        save_file(tensors, file)
    told = refusal(parts | {"eva02": str(file)}, tmp_path / "made", capsys)
    assert f"{_PROJECTION} of EVA02 has numbers of type" in told and "not quantized" in told


def test_an_integer_table_that_has_no_use_is_no_reason_to_refuse(parts: dict[str, str], tmp_path: Path):
    tensors = eva02_tensors() | {"blocks.0.attn.rope.index": torch.zeros(3, dtype=torch.int16)}
    save_file(tensors, tmp_path / "eva02.safetensors")
    plan = make_plan(**parts | {"eva02": str(tmp_path / "eva02.safetensors")}, image_size=SIDE)
    assert ("blocks.0.attn.rope.index", "unused") in {(row.name, row.fate) for row in plan.rows}


def test_a_tensor_without_content_is_named(parts: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = _save(tmp_path / "eva02.pt", eva02_tensors() | {_PROJECTION: torch.empty(128, 128, device="meta")})
    assert f"{_PROJECTION} in {file} has no content" in refusal(parts | {"eva02": str(file)}, tmp_path / "made", capsys)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.pth", b"", "no file of weights"),
        ("x.pth", b"<html>not found</html>", "no file of weights"),
        ("x.safetensors", b"<html>not found</html>" * 9, "not a whole safetensors file"),
        ("x.pth", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "pointer of Git LFS"),
        ("x.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "pointer of Git LFS"),
        ("x.pth", b"PK\x03\x04 but no archive", "no whole file of weights"),
    ],
)
def test_what_stands_in_the_place_of_weights_is_said(
    parts: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, said: str
):
    (tmp_path / name).write_bytes(content)
    assert said in refusal(parts | {"sam": str(tmp_path / name)}, tmp_path / "made", capsys)


def test_a_header_whose_sizes_contradict_each_other_is_refused(tmp_path: Path):
    save_file({"a": torch.zeros(4, 4)}, tmp_path / "a.safetensors")
    content = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(content.replace(b"[4,4]", b"[4,3]"))
    with pytest.raises(WeightSourceError, match="a in .* has 64 bytes"):
        find_weights(str(tmp_path / "a.safetensors"))


# ---------------------------------------------------------------- what makes no model


def _config(lm: Path, **settings: Any) -> None:
    file = lm / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lm: _config(lm, d_model="wide"), "config.json cannot be read"),
        (lambda lm: _config(lm, model_type=None), "config.json cannot be read"),
        (lambda lm: (lm / "config.json").write_bytes(b"\xff{"), "config.json cannot be read"),
        (lambda lm: _config(lm, quantization_config={"quant_method": "bitsandbytes"}), "quantized weights"),
        (lambda lm: _config(lm, d_model=64), r"has shape (32, 32) where the model's"),
    ],
)
def test_a_language_models_config_that_is_wrong_is_said_in_one_line(
    parts: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Callable[[Path], Any], said: str
):
    lm = tmp_path / "lm"
    shutil.copytree(parts["lm"], lm)
    change(lm)
    told = refusal(parts | {"lm": str(lm)}, tmp_path / "made", capsys)
    assert said in told and " of shape (32, 64) would be made of" not in told  # not said twice


def test_parts_of_which_no_model_can_be_made_are_an_error_of_the_assembly(
    parts: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    alone = {name: t for name, t in original_sam().state_dict().items() if not name.startswith("mask_decoder.")}
    torch.save(alone, tmp_path / "sam.pth")
    told = refusal(parts | {"sam": str(tmp_path / "sam.pth")}, tmp_path / "made", capsys, "--heads", "mask")
    assert "the parts make no model" in told and "one width" in told
    assert "sees 1 x 1 pixels" in refusal(parts, tmp_path / "made", capsys, "--image-size", "1")
    with pytest.raises(ValueError, match=r"tower 'eva02' sees 13 x 13 pixels, but one of its cells has 14"):
        PixelLLMConfig.for_tests(vision_config={"image_size": 13})


# ---------------------------------------------------------------- where it goes


def test_a_target_that_is_taken_is_refused_before_anything_is_read(
    parts: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("x")
    assert main(command(dict.fromkeys(parts, "nowhere.pth"), taken)) == 2
    assert "is there already" in capsys.readouterr().err
    assert main(command(parts, Path(parts["lm"]))) == 2 and (Path(parts["lm"]) / "model.safetensors").is_file()


def test_files_of_others_beside_the_target_stay(parts: dict[str, str], tmp_path: Path):
    work = tmp_path / ".made.assembling"
    work.mkdir()
    (work / "mine.txt").write_text("x")
    plan = make_plan(**parts, image_size=SIDE)
    with pytest.raises(AssemblyError, match=r"files of no assembly: mine\.txt"):
        assemble(plan, tmp_path / "made")
    assert (work / "mine.txt").read_text() == "x"


@pytest.mark.parametrize("record", [b"{", b"[]", b"\xff", b"{}"])
def test_a_damaged_record_of_an_earlier_try_starts_anew(parts: dict[str, str], tmp_path: Path, record: bytes):
    work = tmp_path / ".made.assembling"
    work.mkdir()
    (work / "plan.json").write_bytes(record)
    made = assemble(make_plan(**parts, image_size=SIDE), tmp_path / "made")
    assert PixelLLMForGroundedGeneration.from_pretrained(made)
    assert not {path.name for path in made.iterdir()} & {"plan.json", ".lock"}


def test_a_link_to_a_folder_is_followed(parts: dict[str, str], tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    assemble(make_plan(**parts, image_size=SIDE), tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "config.json").is_file()


@pytest.mark.parametrize("seed", ["9" * 30, "x", "1.5"])
def test_a_seed_that_is_none_is_a_wrong_usage(
    parts: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: str
):
    assert main(command(parts, tmp_path / "made", "--seed", seed)) == 2
    assert "argument --seed: expected a whole number" in capsys.readouterr().err
