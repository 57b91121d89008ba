"""Make a small tokenizer from the texts of composed scenes or of a recipe, and the prompts of all tasks.

python scripts/train_tokenizer.py --scenes data/scenes --out runs/tokenizer
python scripts/train_tokenizer.py --config configs/photo/text.yaml --set data=data/photographs \\
    --max-pieces 5120 --min-count 5 --out runs/photo/tokenizer
"""

from __future__ import annotations

import sys
from itertools import chain

from pixelllm_hf.cli.arguments import positive
from pixelllm_hf.data.tokenizer_training import prompt_texts, scene_texts, train_tokenizer
from pixelllm_hf.processing.target_tokens import add_target_tokens
from pixelllm_hf.training.recipe import TrainConfig
from pixelllm_hf.training.recipe_command import MENDABLE, load_recipe, recipe_parser
from pixelllm_hf.training.text_batches import recipe_texts


def main() -> None:
    parser = recipe_parser(__doc__)
    parser.add_argument("--scenes", nargs="+", default=[], help="folders written by pixelllm_hf.data.scenes")
    parser.add_argument("--out", required=True, help="folder for tokenizer.json and tokenizer_config.json")
    parser.add_argument("--max-pieces", type=positive, default=1024, help="size of the vocabulary at most")
    parser.add_argument("--min-count", type=positive, default=1, help="rarer words are spelt")
    parser.add_argument("--target-tokens", type=int, default=0, help="tokens that an answer writes for each target")
    args = parser.parse_intermixed_args()
    if not args.scenes and not args.config:
        parser.error("name --scenes or a --config: where the texts come from")
    texts = chain(prompt_texts(), chain.from_iterable(scene_texts(folder) for folder in args.scenes))
    if args.config:
        try:
            data = load_recipe(TrainConfig, args).data
            texts = chain(texts, list(recipe_texts(data, data.sources)))
        except MENDABLE as error:
            sys.exit(f"{type(error).__name__}: {error}")
    tokenizer = train_tokenizer(texts, max_pieces=args.max_pieces, min_count=args.min_count)
    ids = add_target_tokens(tokenizer, args.target_tokens) if args.target_tokens else []
    tokenizer.save_pretrained(args.out)
    print(f"{len(tokenizer)} pieces -> {args.out}" + (f", a target is written as {ids}" if ids else ""))


if __name__ == "__main__":
    main()
