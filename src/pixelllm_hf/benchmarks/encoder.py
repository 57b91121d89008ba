"""SAM's image encoder against transformers' with the same weights, and how near it comes to a bare matrix product."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pixelllm_hf.conversion.public_layouts import sam_layout
from pixelllm_hf.evaluation.bootstrap import Estimate
from pixelllm_hf.modeling.configuration_towers import PixelLLMSamTowerConfig
from pixelllm_hf.modeling.linear import linear
from pixelllm_hf.modeling.vision_sam import SamBlock, SamVisionTower

from .pairs import median_estimate, timed_in_turn

# width, layers, heads and global blocks of the three published ones, and one for a first look
SIZES = {
    "tiny": (96, 2, 2, (1,)),
    "b": (768, 12, 12, (2, 5, 8, 11)),
    "l": (1024, 24, 16, (5, 11, 17, 23)),
    "h": (1280, 32, 16, (7, 15, 23, 31)),
}
PRODUCT = 1024  # side of the matrices whose product is the peak


@dataclass(frozen=True)
class EncoderRow:
    """seconds of both (medians); ratio: ours as a multiple of theirs; share: what ours computes in a second as a share
    of what torch's matrix product beside it does, share_of_linear: of what that of our linear layers does, which is
    the same or faster; difference: the largest, as a share of the map's range."""

    ours: float
    theirs: float
    ratio: Estimate
    gflop: float
    gflops: float
    peak_gflops: float
    share: Estimate
    share_of_linear: Estimate
    difference: float


def compare(size: str, *, image_size: int, images: int, repeats: int, clock: str = "wall") -> EncoderRow:
    """Both encoders with the same random weights on the same pixels, and the product of two matrices in every turn."""
    theirs = transformers_encoder(size, image_size)
    ours = with_weights_of(theirs)
    pixels = torch.randn(images, 3, image_size, image_size)
    left, right = torch.randn(2, PRODUCT, PRODUCT)
    with torch.inference_mode():
        found = timed_in_turn(
            {
                "ours": lambda: ours(pixels)["neck"],
                "theirs": lambda: theirs(pixels).last_hidden_state.permute(0, 2, 3, 1),
                "product": lambda: left @ right,
                "linear": lambda: linear(left, right),
            },
            repeats,
            clock,
        )
    flop, product = floating_point_operations(ours, pixels), 2 * PRODUCT**3
    seconds = {way: np.array(values) for way, values in found.seconds.items()}
    shares = {way: (flop / seconds["ours"]) / (product / seconds[way]) for way in ("product", "linear")}
    return EncoderRow(
        ours=found.median("ours"),
        theirs=found.median("theirs"),
        ratio=found.ratio("ours", "theirs"),
        gflop=flop / 1e9,
        gflops=flop / found.median("ours") / 1e9,
        peak_gflops=product / found.median("product") / 1e9,
        share=median_estimate(shares["product"]),
        share_of_linear=median_estimate(shares["linear"]),
        difference=_difference(found.results["ours"], found.results["theirs"]),
    )


def transformers_encoder(size: str, image_size: int) -> Any:
    """`SamVisionModel` with random weights, its tables of positions made for this image size."""
    from transformers import SamVisionConfig, SamVisionModel

    width, layers, heads, global_blocks = SIZES[size]
    config = SamVisionConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        mlp_dim=4 * width,
        global_attn_indexes=list(global_blocks),
        image_size=image_size,
    )
    torch.manual_seed(0)
    model = SamVisionModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # its tables of positions and biases start at zero
            parameter.normal_(std=parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1)
    return model


def with_weights_of(theirs: Any) -> SamVisionTower:
    """Our tower with the weights of a `SamVisionModel`."""
    config = theirs.config
    tower = SamVisionTower(
        PixelLLMSamTowerConfig(
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            global_attn_indexes=tuple(config.global_attn_indexes),
            pretrain_image_size=config.image_size,
        )
    ).eval()
    tensors = {f"vision_encoder.{k.removeprefix('vision_encoder.')}": v for k, v in theirs.state_dict().items()}
    found = sam_layout(tensors)
    assert found is not None, "these are no weights of transformers' SAM"
    placed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        places = found[0].place(name, "sam")
        assert isinstance(places, tuple)
        placed[places[0].target.removeprefix("vision_towers.sam.")] = tensor
    tower.load_state_dict(placed)
    return tower


def floating_point_operations(tower: SamVisionTower, pixels: Tensor) -> int:
    """Of its linear layers, convolutions and attentions, in SAM's own way, however they are computed, but with windows'
    padding projected once: a multiplication and an addition are two. Nothing is computed: it runs on the device `meta`.
    """
    total = 0

    def count(module: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, SamBlock):  # what its attention does between its linear layers
            images, height, width, channels = inputs[0].shape
            window = module.window_size
            rows, columns = (-(-side // window) * window if window else side for side in (height, width))
            seen = (window, window) if window else (height, width)
            total += 2 * images * rows * columns * channels * (2 * seen[0] * seen[1] + sum(seen))
        else:
            total += 2 * output.numel() * module.weight[0].numel()

    tower = copy.deepcopy(tower).to("meta")
    for module in tower.modules():
        if isinstance(module, (SamBlock, nn.Linear, nn.Conv2d)):
            module.register_forward_hook(count)
    with torch.inference_mode():
        tower(pixels.to("meta"))
    return total


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / (expected.max() - expected.min()))


__all__ = ["SIZES", "EncoderRow", "compare", "floating_point_operations", "transformers_encoder", "with_weights_of"]
