"""Make the embedded model's tokenizer from the texts of composed scenes and the prompts of all tasks.

python scripts/train_tokenizer.py --scenes data/scenes --out runs/tokenizer
python scripts/train_tokenizer.py --scenes data/scenes --out runs/tokenizer --max-pieces 512
"""

from __future__ import annotations

import argparse
from itertools import chain

from pixelllm_hf.data.tokenizer_training import prompt_texts, scene_texts, train_tokenizer
from pixelllm_hf.processing.target_tokens import add_target_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="+", required=True, help="folders written by pixelllm_hf.data.scenes")
    parser.add_argument("--out", required=True, help="folder for tokenizer.json and tokenizer_config.json")
    parser.add_argument("--max-pieces", type=int, default=1024, help="size of the vocabulary at most")
    parser.add_argument("--min-count", type=int, default=1, help="rarer words are spelt")
    parser.add_argument("--target-tokens", type=int, default=0, help="tokens that an answer writes for each target")
    args = parser.parse_args()
    texts = chain(prompt_texts(), chain.from_iterable(scene_texts(folder) for folder in args.scenes))
    tokenizer = train_tokenizer(texts, max_pieces=args.max_pieces, min_count=args.min_count)
    ids = add_target_tokens(tokenizer, args.target_tokens) if args.target_tokens else []
    tokenizer.save_pretrained(args.out)
    print(f"{len(tokenizer)} pieces -> {args.out}" + (f", a target is written as {ids}" if ids else ""))


if __name__ == "__main__":
    main()
