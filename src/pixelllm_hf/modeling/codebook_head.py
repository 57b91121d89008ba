"""PixelLM's codebook behind T5: answers that point, with a mask of each (official.md#pixellm-answers-that-point)."""

from __future__ import annotations

from torch import Tensor, nn

from .codebook_decoder import CodebookPixelDecoder
from .codebook_targets import TargetProjection, TokenGroups, find_token_groups
from .configuration_pixelllm import PixelLLMConfig
from .feature_pyramid import map_neck
from .vision_sam import resize_map
from .vision_towers import VisionFeatures


class CodebookHead(nn.Module):
    """States of a target's tokens and named maps of the towers become the target's mask.

    Where `segmentation_head` is "sam" the mask head's decoder takes the embeddings as its prompt (as LISA does), and
    there are neither necks nor a light decoder here.
    """

    def __init__(self, config: PixelLLMConfig, text_width: int):
        super().__init__()
        codebook = config.codebook_config
        self.config = codebook
        self.target_projection = TargetProjection(codebook, text_width)
        self.necks, self.decoder = None, None
        if config.segmentation_head == "codebook":
            channels = {str(count): count for count in config.level_channels}  # maps of one width share a neck
            self.necks = nn.ModuleDict(
                {name: map_neck(count, codebook.hidden_size) for name, count in channels.items()}
            )
            self.decoder = CodebookPixelDecoder(codebook)

    def find(self, sequences: Tensor, states: Tensor) -> tuple[TokenGroups, Tensor]:
        """sequences (R,T) and states (R,T,C) that have consumed them -> the groups and their tokens' states (K,G,C)."""
        groups = find_token_groups(sequences, self.config.token_ids)
        places = groups.positions - 1 if self.config.target_state == "predicting" else groups.positions
        return groups, states[groups.row[:, None], places]

    def level_maps(self, image_features: VisionFeatures) -> tuple[Tensor, ...]:
        """The maps (B,h,w,D) that the scales are decoded on, on the first one's grid."""
        assert self.necks is not None
        maps = [image_features[name] for name in self.config.level_maps]
        grid_hw = tuple(maps[0].shape[1:3])
        levels = []
        for image_map in maps:
            resized = resize_map(image_map, grid_hw).permute(0, 3, 1, 2)
            levels.append(self.necks[str(image_map.shape[-1])](resized).permute(0, 2, 3, 1))
        return tuple(levels)

    def forward(self, image_features: VisionFeatures, group_states: Tensor, image_of_target: Tensor) -> Tensor:
        """group_states (K,G,C), image_of_target (K,) -> logits (K,h,w) over the canvas, > 0 inside."""
        assert self.decoder is not None
        embeddings = self.target_projection(group_states)
        return self.decoder(self.level_maps(image_features), embeddings, image_of_target).logits


__all__ = ["CodebookHead"]
