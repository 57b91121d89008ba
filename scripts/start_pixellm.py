"""A CLIP and a causal language model as published -> a PixelLM that `scripts/train.py` can train.

python scripts/start_pixellm.py --language org/llava-7b-language-model \\
    --clip openai/clip-vit-large-patch14-336 --out runs/pixellm/start
python scripts/train.py --config configs/pixellm/joint.yaml
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from pixelllm_hf.conversion.new_pixellm import new_pixellm
from pixelllm_hf.conversion.pixellm import ReleasedNamesError
from pixelllm_hf.conversion.weight_sources import WeightSourceError
from pixelllm_hf.safetensors_files import STORED_AS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--language", required=True, metavar="NAME", help="folder or Hub id of a causal language model")
    parser.add_argument("--clip", required=True, metavar="NAME", help="folder or Hub id of a CLIP")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="folder to write")
    parser.add_argument("--image-size", type=int, default=448, help="side of the canvas in pixels (default: 448)")
    parser.add_argument("--scales", type=int, default=2, help="of the codebook (default: 2)")
    parser.add_argument("--tokens-per-scale", type=int, default=3, help="of the codebook (default: 3)")
    parser.add_argument(
        "--feature-layers", type=int, nargs="+", default=[-2, -11],
        help="hidden states of CLIP, one for each scale, the deepest first (default: -2 -11)",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=STORED_AS, default="bfloat16", help="of the stored weights (default: bfloat16)"
    )
    args = parser.parse_args()
    config = {
        "codebook_config": {"num_scales": args.scales, "tokens_per_scale": args.tokens_per_scale},
        "feature_layers": args.feature_layers,
    }
    try:
        made = new_pixellm(
            args.language,
            args.clip,
            args.out,
            image_size=args.image_size,
            dtype=getattr(torch, args.dtype),
            config=config,
        )
    except (OSError, ValueError, ReleasedNamesError, WeightSourceError) as error:
        parser.error(" ".join(str(error).split()))
    layers, width = made.text_config.num_hidden_layers, made.text_config.hidden_size
    print(f"{args.out}: a PixelLM of {layers} layers, {width} wide, canvas {made.image_size} pixels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
