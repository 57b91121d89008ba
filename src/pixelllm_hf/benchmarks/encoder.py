"""SAM's image encoder against transformers' with the same weights, and how near it comes to a bare matrix product."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelllm_hf.conversion.public_layouts import sam_layout
from pixelllm_hf.evaluation.bootstrap import Estimate
from pixelllm_hf.modeling.configuration_towers import PixelLLMSamTowerConfig
from pixelllm_hf.modeling.vision_sam import SamVisionTower

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
    of what the matrix product beside it does; difference: the largest, as a share of the map's range."""

    ours: float
    theirs: float
    ratio: Estimate
    gflop: float
    gflops: float
    peak_gflops: float
    share: Estimate
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
            },
            repeats,
            clock,
        )
    flop, product = floating_point_operations(ours, pixels), 2 * PRODUCT**3
    seconds = {way: np.array(values) for way, values in found.seconds.items()}
    share = (flop / seconds["ours"]) / (product / seconds["product"])
    return EncoderRow(
        ours=found.median("ours"),
        theirs=found.median("theirs"),
        ratio=found.ratio("ours", "theirs"),
        gflop=flop / 1e9,
        gflops=flop / found.median("ours") / 1e9,
        peak_gflops=product / found.median("product") / 1e9,
        share=median_estimate(share),
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
    """Of its matrix products, convolutions and attentions: a multiplication and an addition are two.

    Nothing is computed: on the device `meta` attentions are products too, which torch does not count as such on CPUs.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        copy.deepcopy(tower).to("meta")(pixels.to("meta"))
    return counter.get_total_flops()


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / (expected.max() - expected.min()))


__all__ = ["SIZES", "EncoderRow", "compare", "floating_point_operations", "transformers_encoder", "with_weights_of"]
