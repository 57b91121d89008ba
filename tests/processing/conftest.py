"""Small tokenizers of three kinds and a processor, made on the spot."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pixelllm_hf.processing.image_processing_pixelllm import PixelLLMImageProcessor
from pixelllm_hf.processing.processing_pixelllm import PixelLLMProcessor

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'\"()%-"


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def make_unigram() -> PreTrainedTokenizerFast:
    """Like T5's: SentencePiece unigram, pad 0, end 1, unknown 2; a lone blank may be a piece."""
    pieces = ["▁", *LETTERS, "▁a", "▁dog", "▁red", "ball", "▁cha", "ses", "▁is", "n't", "▁it", "▁photo", "▁of", "▁A"]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [(p, -1.0 - len(LETTERS) / (9 * len(p))) for p in pieces]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=2))
    tokenizer.normalizer = normalizers.Strip()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return _wrapped(tokenizer)


def make_byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE without merges: a letter outside ASCII takes several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: i for i, piece in enumerate(["<pad>", "</s>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _wrapped(tokenizer)


def make_wordpiece() -> PreTrainedTokenizerFast:
    """Like BERT's."""
    pieces = ["<pad>", "</s>", "<unk>", *LETTERS, *(f"##{letter}" for letter in LETTERS), "dog", "ball", "cha", "##ses"]
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(cleanup=False)
    return _wrapped(tokenizer)


TOKENIZERS = {"unigram": make_unigram, "byte-level": make_byte_level, "wordpiece": make_wordpiece}


@pytest.fixture(params=list(TOKENIZERS))
def any_tokenizer(request):
    return TOKENIZERS[request.param]()


@pytest.fixture
def byte_level_tokenizer():
    return make_byte_level()


@pytest.fixture(scope="session")
def tokenizer():
    return make_unigram()


@pytest.fixture
def processor(tokenizer):
    return PixelLLMProcessor(PixelLLMImageProcessor(size={"height": 64, "width": 64}), tokenizer)
