"""Small random SAMs, EVA02s and T5s as others write them: the packages' own modules, and an EVA02 written anew."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 64
EVA02_WIDTH, EVA02_DEPTH, EVA02_PATCH, EVA02_INNER = 128, 2, 14, 40


def randomized(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every weight drawn, also those that start at zero or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in [*module.parameters(), *module.buffers()]:
            if parameter.is_floating_point():
                scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5
                centre = 1.0 if parameter.ndim == 1 else 0.0
                parameter.copy_(centre + scale * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def segment_anything_modules() -> Any:
    """`segment_anything.modeling` alone; the package around it wants torchvision."""
    spec = importlib.util.find_spec("segment_anything")
    if spec is None:
        pytest.skip("segment-anything is not installed")
    package = types.ModuleType("segment_anything")
    package.__path__ = list(spec.submodule_search_locations or [])  # type: ignore[attr-defined]
    before = sys.modules.get("segment_anything")
    sys.modules["segment_anything"] = package
    try:
        return importlib.import_module("segment_anything.modeling")
    finally:
        sys.modules.pop("segment_anything")
        if before is not None:
            sys.modules["segment_anything"] = before


def original_sam(depth: int = 2) -> Any:
    """segment-anything's Sam of 32 channels."""
    sam = segment_anything_modules()
    return randomized(
        sam.Sam(
            image_encoder=sam.ImageEncoderViT(
                img_size=SIDE,
                patch_size=16,
                embed_dim=32,
                depth=depth,
                num_heads=2,
                out_chans=16,
                norm_layer=partial(nn.LayerNorm, eps=1e-6),
                use_rel_pos=True,
                window_size=3,
                global_attn_indexes=(1,),
            ),
            prompt_encoder=sam.PromptEncoder(
                embed_dim=16, image_embedding_size=(4, 4), input_image_size=(SIDE, SIDE), mask_in_chans=16
            ),
            mask_decoder=sam.MaskDecoder(
                transformer_dim=16,
                transformer=sam.TwoWayTransformer(depth=2, embedding_dim=16, mlp_dim=24, num_heads=8),
                iou_head_depth=3,
                iou_head_hidden_dim=16,
            ),
        )
    )


def transformers_sam() -> Any:
    from transformers import SamConfig, SamModel

    config = SamConfig(
        vision_config=dict(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_dim=64, image_size=SIDE, window_size=3,
            global_attn_indexes=[1], output_channels=16, num_pos_feats=8,
        ),
        prompt_encoder_config=dict(hidden_size=16, image_size=SIDE, image_embedding_size=4),
        mask_decoder_config=dict(hidden_size=16, mlp_dim=24, num_attention_heads=8, iou_head_hidden_dim=16),
    )  # fmt: skip
    model = randomized(SamModel(config))
    with torch.no_grad():
        shared = model.shared_image_embedding.positional_embedding
        model.prompt_encoder.shared_embedding.positional_embedding.copy_(shared)
    return model


def save_original_sam(folder: Path, **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(original_sam(**options).state_dict(), folder / "sam_vit_s.pth")
    return folder / "sam_vit_s.pth"


def eva02_tensors(depth: int = EVA02_DEPTH, side: int = 4, width: int = EVA02_WIDTH) -> dict[str, Tensor]:
    """Under the names of the authors."""
    generator = torch.Generator().manual_seed(3)
    inner = EVA02_INNER

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) * (shape[-1] ** -0.5 if len(shape) > 1 else 0.5)

    tensors = {
        "cls_token": draw(1, 1, width),
        "mask_token": draw(1, 1, width),
        "pos_embed": draw(1, 1 + side**2, width),
        "patch_embed.proj.weight": draw(width, 3, EVA02_PATCH, EVA02_PATCH) * 0.1,
        "patch_embed.proj.bias": draw(width),
        "rope.freqs_cos": draw(side**2, 64),
        "norm.weight": 1 + draw(width),
        "norm.bias": draw(width),
        "lm_head.weight": draw(7, width),
        "lm_head.bias": draw(7),
    }
    for i in range(depth):
        for norm, size in (("norm1", width), ("norm2", width), ("mlp.ffn_ln", inner)):
            tensors |= {f"blocks.{i}.{norm}.weight": 1 + draw(size), f"blocks.{i}.{norm}.bias": draw(size)}
        for name in ("q_proj", "k_proj", "v_proj", "proj"):
            tensors[f"blocks.{i}.attn.{name}.weight"] = draw(width, width)
        for name in ("q_bias", "v_bias", "proj.bias"):
            tensors[f"blocks.{i}.attn.{name}"] = draw(width)
        for name, fan_out, fan_in in (("w1", inner, width), ("w2", inner, width), ("w3", width, inner)):
            tensors |= {
                f"blocks.{i}.mlp.{name}.weight": draw(fan_out, fan_in),
                f"blocks.{i}.mlp.{name}.bias": draw(fan_out),
            }
    return tensors


def timm_names(tensors: dict[str, Tensor], *, fused: bool = False) -> dict[str, Tensor]:
    """The same weights as timm has them, with queries, keys and values in one tensor or in three."""
    renamed = {}
    for name, tensor in tensors.items():
        name = name.replace("attn.q_bias", "attn.q_proj.bias").replace("attn.v_bias", "attn.v_proj.bias")
        name = name.replace("mlp.w1", "mlp.fc1_g").replace("mlp.w2", "mlp.fc1_x")
        name = name.replace("mlp.w3", "mlp.fc2").replace("mlp.ffn_ln", "mlp.norm")
        if not name.startswith(("mask_token", "lm_head", "rope")):
            renamed["fc_" + name if name.startswith("norm.") else name] = tensor
    if fused:
        for i in range(EVA02_DEPTH):
            at = f"blocks.{i}.attn"
            renamed[f"{at}.qkv.weight"] = torch.cat([renamed.pop(f"{at}.{name}_proj.weight") for name in "qkv"])
            renamed |= {f"{at}.{name}_bias": renamed.pop(f"{at}.{name}_proj.bias") for name in "qv"}
    return renamed


def eva02_features(tensors: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """The encoder, written out from its description in float64: pixels (B,3,S,S) -> (B,h,w,C)."""
    w = {name: tensor.double() for name, tensor in tensors.items()}
    x = F.conv2d(pixels.double(), w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=EVA02_PATCH)
    side = x.shape[-1]
    x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1) + w["pos_embed"]
    heads = x.shape[-1] // 64
    angles = torch.zeros(1 + side * side, 64, dtype=torch.float64)
    for row in range(side):
        for column in range(side):
            for pair in range(16):
                turn = 10000 ** (-pair / 16)
                angles[1 + row * side + column, 2 * pair : 2 * pair + 2] = row * turn
                angles[1 + row * side + column, 32 + 2 * pair : 34 + 2 * pair] = column * turn

    def norm(x: Tensor, name: str, eps: float = 1e-6) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    def turned(x: Tensor) -> Tensor:
        partner = torch.empty_like(x)
        partner[..., 0::2], partner[..., 1::2] = -x[..., 1::2], x[..., 0::2]
        return x * angles.cos() + partner * angles.sin()

    for i in range(sum(name.endswith("norm1.weight") for name in w)):
        at = f"blocks.{i}."
        y = norm(x, f"{at}norm1")
        q, k, v = (y @ w[f"{at}attn.{name}_proj.weight"].T + w.get(f"{at}attn.{name}_bias", 0) for name in "qkv")
        q, k, v = (t.unflatten(-1, (heads, 64)).transpose(1, 2) for t in (q, k, v))
        mixed = (turned(q) @ turned(k).transpose(-1, -2) / 8).softmax(-1) @ v
        x = x + mixed.transpose(1, 2).flatten(2) @ w[f"{at}attn.proj.weight"].T + w[f"{at}attn.proj.bias"]
        y = norm(x, f"{at}norm2")
        gate, value = (y @ w[f"{at}mlp.{name}.weight"].T + w[f"{at}mlp.{name}.bias"] for name in ("w1", "w2"))
        y = gate / (1 + (-gate).exp()) * value
        if f"{at}mlp.ffn_ln.weight" in w:  # not in the tiny and small sizes
            y = norm(y, f"{at}mlp.ffn_ln", 1e-5)
        x = x + y @ w[f"{at}mlp.w3.weight"].T + w[f"{at}mlp.w3.bias"]
    return norm(x, "norm")[:, 1:].unflatten(1, (side, side))


def save_eva02(folder: Path, **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": eva02_tensors(**options), "epoch": 3}, folder / "eva02_S.pt")
    return folder / "eva02_S.pt"


def save_t5(folder: Path, *, first: bool = False, max_shard_size: str = "5GB") -> Path:
    """A Flan-T5, with an output layer of its own, or one of the first T5s, whose words are its output layer."""
    import json

    from transformers import T5Config, T5ForConditionalGeneration

    from pixelllm_hf.data.tokenizer_training import train_tokenizer

    config = T5Config(
        vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=3, num_heads=4, dropout_rate=0.1,
        feed_forward_proj="relu" if first else "gated-gelu", decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(5)
    model = T5ForConditionalGeneration(config)
    if not first:
        model.lm_head.weight = nn.Parameter(torch.randn(99, 32))
    model.save_pretrained(folder, max_shard_size=max_shard_size)
    settings = json.loads((folder / "config.json").read_text())
    settings.pop("scale_decoder_outputs")  # as published
    (folder / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": first}))
    train_tokenizer(["a red square where is the blue one"], max_pieces=99).save_pretrained(folder)
    return folder


def causal_configs() -> dict[str, Any]:
    """Decoder-only models with an output layer of their own, with their words as output layer, and of other names."""
    from transformers import GPT2Config, GPTNeoXConfig, LlamaConfig, Qwen2Config

    shared: dict[str, Any] = dict(vocab_size=99, bos_token_id=2, eos_token_id=1)
    sizes = dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    return {
        "llama": LlamaConfig(**shared, **sizes, tie_word_embeddings=False),
        "qwen2": Qwen2Config(**shared, **sizes, tie_word_embeddings=True),
        "gpt_neox": GPTNeoXConfig(
            **shared, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
        ),
        "gpt2": GPT2Config(**shared, n_embd=32, n_layer=2, n_head=4, n_positions=64),
    }


def save_causal(folder: Path, name: str, **options: Any) -> Path:
    """As transformers saves it, with a tokenizer that has no padding."""
    from transformers import AutoModelForCausalLM

    from pixelllm_hf.data.tokenizer_training import train_tokenizer

    torch.manual_seed(7)
    randomized(AutoModelForCausalLM.from_config(causal_configs()[name])).save_pretrained(folder, **options)
    words = train_tokenizer(["a red square where is the blue one"], max_pieces=99)
    words.pad_token = None
    words.save_pretrained(folder)
    return folder
