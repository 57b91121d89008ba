"""A PixelLLM whose answers are about to point: another tokenizer, and a codebook in the place of its mask head.

python scripts/start_codebook.py --model src/pixelllm_hf/checkpoints/tiny --tokenizer runs/reason-tokenizer \
    --out runs/reason-start

Words of both tokenizers keep what the model knows of them, and the light decoder begins as the mask head's decoder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer

from pixelllm_hf import PixelLLMForGroundedGeneration, PixelLLMProcessor
from pixelllm_hf.modeling.configuration_pixelllm import SEGMENTATION_HEADS
from pixelllm_hf.processing.target_tokens import target_token_ids
from pixelllm_hf.training.codebook_start import with_codebook
from pixelllm_hf.training.export import save_folder
from pixelllm_hf.training.vocabulary import change_vocabulary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder with a model and its processor")
    parser.add_argument("--tokenizer", required=True, help="folder of a tokenizer with target tokens")
    parser.add_argument("--scales", type=int, default=2, help="scales of the codebook")
    parser.add_argument(
        "--tokens-per-scale", type=int, help="of the tokenizer's target tokens; by default all are used"
    )
    parser.add_argument(
        "--segmentation-head", choices=SEGMENTATION_HEADS, default="codebook",
        help="what makes masks: the light decoder, or the model's own mask decoder (default: codebook)",
    )  # fmt: skip
    parser.add_argument("--out", required=True, type=Path, help="folder for the model and the new processor")
    args = parser.parse_args()
    model = PixelLLMForGroundedGeneration.from_pretrained(args.model, dtype=torch.float32)
    old = PixelLLMProcessor.from_pretrained(args.model)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    kept = change_vocabulary(model, old.tokenizer, tokenizer)
    ids = target_token_ids(tokenizer)
    if args.tokens_per_scale is not None:
        wanted = args.scales * args.tokens_per_scale
        if not 0 < wanted <= len(ids):
            parser.error(f"the tokenizer has {len(ids)} target tokens, but {wanted} are asked for.")
        ids = ids[:wanted]
    if not ids or len(ids) % args.scales:
        parser.error(
            f"the tokenizer has {len(ids)} target tokens, which is not a number for each of {args.scales} scales."
        )
    sizes = ("hidden_size", "num_attention_heads", "intermediate_size", "attention_downsample_rate")
    head = model.config.mask_head_config
    codebook = {name: getattr(head, name) for name in sizes} | {"num_hidden_layers": head.decoder_layers}
    codebook |= {"num_scales": args.scales, "tokens_per_scale": len(ids) // args.scales, "token_ids": ids}
    processor = PixelLLMProcessor(old.image_processor, tokenizer, max_prompt_tokens=old.max_prompt_tokens)
    save_folder(with_codebook(model, codebook, segmentation_head=args.segmentation_head), args.out, processor=processor)
    print(f"{kept} of {len(tokenizer)} pieces were there -> {args.out}")


if __name__ == "__main__":
    main()
