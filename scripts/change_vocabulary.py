"""A PixelLLM that reads and writes with another tokenizer: words of both keep what the model knows of them.

python scripts/change_vocabulary.py --model src/pixelllm_hf/checkpoints/tiny --tokenizer runs/reason-tokenizer \
    --out runs/reason-start
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import AutoTokenizer

from pixelllm_hf import PixelLLMForGroundedGeneration, PixelLLMProcessor
from pixelllm_hf.training.export import save_folder
from pixelllm_hf.training.vocabulary import change_vocabulary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder with a model and its processor")
    parser.add_argument("--tokenizer", required=True, help="folder of the new tokenizer")
    parser.add_argument("--out", required=True, type=Path, help="folder for the model and the new processor")
    args = parser.parse_args()
    model = PixelLLMForGroundedGeneration.from_pretrained(args.model, dtype=torch.float32)
    old = PixelLLMProcessor.from_pretrained(args.model)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    kept = change_vocabulary(model, old.tokenizer, tokenizer)
    processor = PixelLLMProcessor(old.image_processor, tokenizer, max_prompt_tokens=old.max_prompt_tokens)
    save_folder(model, args.out, processor=processor, dtype=torch.float32, lora=None)
    print(f"{kept} of {len(tokenizer)} pieces were there -> {args.out}")


if __name__ == "__main__":
    main()
