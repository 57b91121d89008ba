"""A released PixelLM checkpoint -> a folder that `from_pretrained` reads.

python scripts/convert_pixellm.py --released PixelLM-7B --clip openai/clip-vit-large-patch14-336 --out pixellm-7b
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from pixelllm_hf.conversion.pixellm import ReleasedNamesError
from pixelllm_hf.conversion.released_pixellm import convert_release
from pixelllm_hf.conversion.weight_sources import WeightSourceError
from pixelllm_hf.safetensors_files import STORED_AS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--released", required=True, metavar="NAME", help="folder or Hub id with LLaVA's names")
    parser.add_argument("--clip", required=True, metavar="NAME", help="folder or Hub id of the CLIP it was trained on")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="folder to write")
    parser.add_argument(
        "--dtype", choices=STORED_AS, default="bfloat16", help="of the stored weights (default: bfloat16)"
    )
    parser.add_argument(
        "--lora-scale", type=float, default=2.0, help="alpha / r of LoRA weights that lie beside the base (default: 2)"
    )
    parser.add_argument(
        "--class-row", choices=("last", "first"), default="last",
        help="how CLIP's positions are resized: last as the released weights need it, first as is right for others",
    )  # fmt: skip
    args = parser.parse_args()
    try:
        config = convert_release(
            args.released, args.clip, args.out,
            dtype=getattr(torch, args.dtype), lora_scale=args.lora_scale, class_row=args.class_row,
        )  # fmt: skip
    except (OSError, ReleasedNamesError, WeightSourceError) as error:
        parser.error(str(error))
    layers, width = config.text_config.num_hidden_layers, config.text_config.hidden_size
    print(f"{args.out}: a PixelLM of {layers} layers, {width} wide, canvas {config.image_size} pixels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
