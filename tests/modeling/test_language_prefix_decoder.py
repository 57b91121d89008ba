from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, GenerationConfig
from transformers.cache_utils import DynamicCache, EncoderDecoderCache, StaticCache

from pixelllm_hf.conversion.parity.golden import Golden
from pixelllm_hf.conversion.parity.heads import bert_text_head
from pixelllm_hf.conversion.scenic import (
    ScenicNamesError,
    convert_module,
    convert_pixelllm,
    name_map,
    restore_pixelllm,
)
from pixelllm_hf.conversion.scenic_hparams import pixelllm_config, prefix_decoder_config
from pixelllm_hf.modeling.configuration_language import PixelLLMPrefixDecoderConfig
from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.language_prefix_decoder import PrefixDecoderLanguageModel
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.modeling.point_head import PointHead

GOLDEN = Path(__file__).parents[1] / "golden" / "pixelllm"
BOS, EOS, PAD = 95, 96, 0


def small_config(**overrides) -> PixelLLMPrefixDecoderConfig:
    sizes = dict(
        vocab_size=99,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=20,
        dropout_rate=0.0,
        bos_token_id=BOS,
        eos_token_id=EOS,
        decoder_start_token_id=BOS,
    )
    return PixelLLMPrefixDecoderConfig(**(sizes | overrides))


def enlarged(model: nn.Module) -> nn.Module:
    """Weights large enough that every input matters; biases too."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator) * 0.2)
    return model.eval()


@pytest.fixture
def language_model() -> PrefixDecoderLanguageModel:
    torch.manual_seed(0)
    return enlarged(PrefixDecoderLanguageModel(small_config(), 24))


@pytest.fixture
def prefix_inputs() -> dict[str, torch.Tensor]:
    """Three rows: visual tokens, a prompt (padded, padded, whole) and text that begins with BOS."""
    generator = torch.Generator().manual_seed(1)
    prompt = torch.randint(1, 95, (3, 4), generator=generator)
    prompt[0, 2:] = prompt[1, 3:] = PAD
    text = torch.randint(1, 95, (3, 7), generator=generator)
    text[:, 0] = BOS
    return {"visual": torch.randn(3, 6, 24, generator=generator), "prompt": prompt, "text": text}


def encoded(model, inputs, with_prompt=True):
    prefix, mask = model.embed_prompt(inputs["visual"], inputs["prompt"] if with_prompt else None)
    return model.encode(prefix, mask), mask


def plain_pass(model: PrefixDecoderLanguageModel, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The whole sequence [memory ; text] through every layer under one mask: what the fast path must equal."""
    memory, valid = model.embed_prompt(inputs["visual"], inputs["prompt"])
    text = model.embedding(inputs["text"])
    first, length = memory.shape[1], text.shape[1]
    x = torch.cat([memory, text], dim=1)
    seen = torch.zeros(len(x), 1, first + length, first + length, dtype=torch.bool)
    seen[..., :first] = valid[:, None, None, :]
    seen[..., first:, first:] = torch.ones(length, length, dtype=torch.bool).tril()
    for layer in model.layers:
        x = layer(x, *layer.attention.keys_values(x), seen)
    return x[:, first:]


def test_the_official_head_is_reproduced():
    golden = Golden.read(GOLDEN / "bert_text_head.safetensors")
    computed = bert_text_head(golden)
    for name, expected in golden.outputs.items():
        torch.testing.assert_close(computed.values[name], expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_memory_encoded_once_equals_one_pass_over_everything(language_model, prefix_inputs):
    states, _ = language_model.decode(prefix_inputs["text"], *encoded(language_model, prefix_inputs))
    torch.testing.assert_close(states, plain_pass(language_model, prefix_inputs), atol=1e-5, rtol=0)


@torch.no_grad()
def test_no_word_sees_the_words_after_it(language_model, prefix_inputs):
    memory = encoded(language_model, prefix_inputs)
    text = prefix_inputs["text"]
    changed = torch.cat([text[:, :4], text[:, 4:] % 90 + 1], dim=1)
    states, other = (language_model.decode(ids, *memory)[0] for ids in (text, changed))
    torch.testing.assert_close(states[:, :4], other[:, :4])
    assert not torch.allclose(states[:, 4:], other[:, 4:], atol=1e-3)


@torch.no_grad()
def test_padding_of_prompt_and_text_changes_no_word(language_model, prefix_inputs):
    text = prefix_inputs["text"][:1]
    short = {name: value[:1] for name, value in prefix_inputs.items()}
    short["prompt"] = short["prompt"][:, :2]
    states, _ = language_model.decode(text[:, :5], *encoded(language_model, short))
    padded = text.clone()
    padded[:, 5:] = PAD
    memory = encoded(language_model, {name: value[:1] for name, value in prefix_inputs.items()})
    takes_part = padded != PAD
    for mask in (None, takes_part):
        long, _ = language_model.decode(padded, *memory, decoder_mask=mask)
        torch.testing.assert_close(long[:, :5], states, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_prompt_matters_and_may_be_left_out(language_model, prefix_inputs):
    with_prompt, without = (
        language_model.decode(prefix_inputs["text"], *encoded(language_model, prefix_inputs, given))[0]
        for given in (True, False)
    )
    assert not torch.allclose(with_prompt, without, atol=1e-3)


@torch.no_grad()
def test_without_a_mask_all_of_memory_is_seen(language_model, prefix_inputs):
    memory = encoded(language_model, prefix_inputs)[0]
    everything = torch.ones(memory.shape[:2], dtype=torch.bool)
    masked, free = (language_model.decode(prefix_inputs["text"], memory, mask)[0] for mask in (everything, None))
    assert torch.equal(masked, free)


CACHES = {
    "made by decode": lambda: None,
    "encoder-decoder": lambda: EncoderDecoderCache(DynamicCache(), DynamicCache()),
    "text alone": DynamicCache,
    "static": lambda: StaticCache(config=small_config(), max_cache_len=12),
}


@pytest.mark.parametrize("steps", [(1,) * 7, (3, 1, 3)], ids=["one by one", "in pieces"])
@pytest.mark.parametrize("make_cache", CACHES.values(), ids=CACHES)
@torch.no_grad()
def test_states_are_the_same_with_a_cache(language_model, prefix_inputs, make_cache, steps):
    memory = encoded(language_model, prefix_inputs)
    whole, nothing = language_model.decode(prefix_inputs["text"], *memory)
    assert nothing is None
    cache, states = make_cache(), []
    for ids in prefix_inputs["text"].split(steps, dim=1):
        state, cache = language_model.decode(ids, *memory, cache=cache, use_cache=True)
        states.append(state)
    torch.testing.assert_close(torch.cat(states, dim=1), whole, atol=1e-4, rtol=0)
    assert int(cache.get_seq_length()) == 7


@torch.no_grad()
def test_sorted_beams_continue_the_text_they_were_sorted_to(language_model, prefix_inputs):
    states, mask = encoded(language_model, prefix_inputs)
    states, mask = states.repeat_interleave(2, dim=0), mask.repeat_interleave(2, dim=0)
    text = torch.randint(1, 95, (6, 5), generator=torch.Generator().manual_seed(2))
    _, cache = language_model.decode(text[:, :4], states, mask, use_cache=True)
    parents = torch.tensor([1, 0, 2, 2, 5, 5])
    cache.reorder_cache(parents)
    last, _ = language_model.decode(text[:, 4:], states, mask, cache=cache, use_cache=True)
    sequences = torch.cat([text[parents, :4], text[:, 4:]], dim=1)
    whole, _ = language_model.decode(sequences, states, mask)
    torch.testing.assert_close(last, whole[:, 4:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("additive", [False, True])
@torch.no_grad()
def test_a_mask_of_four_dimensions_says_what_text_sees_of_text(language_model, prefix_inputs, additive):
    memory = encoded(language_model, prefix_inputs)
    text = prefix_inputs["text"]
    seen = torch.ones(7, 7, dtype=torch.bool).tril()
    seen[:, 2] = False
    mask = seen[None, None]
    if additive:
        mask = torch.zeros(mask.shape).masked_fill(~mask, -1e10)
    changed = text.clone()
    changed[:, 2] = text[:, 2] % 90 + 1
    states, other = (language_model.decode(ids, *memory, decoder_mask=mask)[0] for ids in (text, changed))
    others = [0, 1, 3, 4, 5, 6]
    torch.testing.assert_close(states[:, others], other[:, others])


def test_every_weight_learns_and_checkpointing_changes_no_gradient(language_model, prefix_inputs):
    gradients = []
    for checkpointing in (False, True):
        for layer in language_model.layers:
            layer.gradient_checkpointing = checkpointing
            layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)
        language_model.train().zero_grad()
        states, _ = language_model.decode(prefix_inputs["text"], *encoded(language_model, prefix_inputs))
        language_model.logits(states).log_softmax(-1)[..., 7].sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in language_model.parameters())
        gradients.append({name: p.grad.clone() for name, p in language_model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_text_beyond_the_position_table_is_refused(language_model, prefix_inputs):
    memory = encoded(language_model, prefix_inputs)
    with pytest.raises(ValueError, match="max_position_embeddings"):
        language_model.decode(torch.ones(3, 21, dtype=torch.long), *memory)
    with pytest.raises(ValueError, match="20 tokens"):
        language_model.embed_prompt(prefix_inputs["visual"], torch.ones(3, 21, dtype=torch.long))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="multiple of num_attention_heads"):
        PrefixDecoderLanguageModel(small_config(num_attention_heads=5), 24)


# --- inside the whole model ---------------------------------------------------------------------------------------


@pytest.fixture
def prefix_model() -> PixelLLMForGroundedGeneration:
    """The test-sized model with this language family in the place of T5."""
    torch.manual_seed(0)
    text = small_config()
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests())
    model.config.text_config = text
    model.language_model = PrefixDecoderLanguageModel(text, model.config.prompt_config.output_dim)
    model.point_head = PointHead(model.config.point_head_config, text.hidden_size)
    model.generation_config = GenerationConfig.from_model_config(model.config)
    model.generation_config.return_dict_in_generate = True
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and not name.startswith(("language_model.embedding", "language_model.layers")):
                weight.mul_(3)
    enlarged(model.language_model)
    return model.eval()


MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 4, "num_return_sequences": 2},
    "reference beams": {"num_beams": 4, "reference_beam_search": True, "num_return_sequences": 2},
    "no repetition": {"no_immediate_repetition": True},
    "static cache": {"cache_implementation": "static"},
}


def nudge(ids, scores):
    """No EOS among the first three tokens; after them it is likely."""
    nudged = scores.clone()
    nudged[:, EOS] = -50 if ids.shape[1] < 4 else scores.max(1).values - 1
    return nudged


@pytest.mark.parametrize("mode", MODES)
@torch.no_grad()
def test_one_pass_places_equal_a_teacher_forced_second_pass(prefix_model, small_inputs, mode):
    torch.manual_seed(3)
    out = prefix_model.generate(**small_inputs, max_new_tokens=9, logits_processor=[nudge], **MODES[mode])
    assert (out.sequences[:, 0] == BOS).all()
    states, mask = prefix_model.encode(**{k: v for k, v in small_inputs.items() if k != "original_sizes"})
    copies = out.sequences.shape[0] // states.shape[0]
    second, _ = prefix_model.language_model.decode(
        out.sequences, states.repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)
    )
    places = prefix_model.point_head(second).coordinates
    has_location = (out.sequences == EOS).cumsum(1) == 0
    has_location[:, 0] = False
    assert torch.equal(out.coordinates.isfinite().all(-1).all(-1), has_location)
    torch.testing.assert_close(out.coordinates[has_location], places[has_location], atol=1e-4, rtol=0)


@pytest.mark.parametrize("mode", ["greedy", "beams", "reference beams"])
@torch.no_grad()
def test_captions_and_places_are_the_same_without_a_cache(prefix_model, small_inputs, mode):
    cached, plain = (
        prefix_model.generate(
            **small_inputs, max_new_tokens=9, logits_processor=[nudge], use_cache=use_cache, **MODES[mode]
        )
        for use_cache in (True, False)
    )
    assert torch.equal(cached.sequences, plain.sequences)
    torch.testing.assert_close(cached.coordinates, plain.coordinates, atol=1e-4, rtol=0, equal_nan=True)


@torch.no_grad()
def test_what_follows_the_end_is_padding_and_not_the_start_token(prefix_model, small_inputs):
    def end_early(ids, scores):
        ended = scores.clone()
        ended[0, EOS] = 1e3
        ended[1:, EOS] = -1e3
        return ended

    out = prefix_model.generate(**small_inputs, max_new_tokens=5, logits_processor=[end_early])
    assert out.sequences[0].tolist() == [BOS, EOS, PAD, PAD, PAD, PAD]


@torch.no_grad()
def test_an_answer_does_not_depend_on_its_neighbours(prefix_model, small_inputs):
    together = prefix_model.generate(**small_inputs, max_new_tokens=6)
    alone = prefix_model.generate(
        pixel_values=small_inputs["pixel_values"][1:],
        pixel_mask=small_inputs["pixel_mask"][1:],
        prompt_boxes=small_inputs["prompt_boxes"][1:, :1],
        input_ids=small_inputs["input_ids"][2:, :2],
        attention_mask=small_inputs["attention_mask"][2:, :2],
        max_new_tokens=6,
    )
    length = alone.sequences.shape[1]
    assert torch.equal(together.sequences[2:, :length], alone.sequences)
    assert not together.sequences[2:, length:].any()
    places = together.coordinates[2:, :length]
    torch.testing.assert_close(places, alone.coordinates, atol=1e-4, rtol=0, equal_nan=True)


def test_four_captions_are_learnt_by_heart(prefix_model):
    torch.manual_seed(0)
    model = prefix_model.train()
    model.config.label_smoothing = 0.0
    pixels = torch.rand(4, 3, 64, 64) * 255
    with torch.no_grad():
        features = model.get_image_features(pixels)
    labels = torch.randint(2, 90, (4, 6))
    labels[:, -1] = EOS
    labels[-1, 3], labels[-1, 4:] = EOS, -100
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(60):
        loss = model(image_features=features, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    out = model.eval().generate(image_features=features, max_new_tokens=8)
    assert torch.equal(out.sequences[:3, 1:7], labels[:3])


# --- config and conversion ----------------------------------------------------------------------------------------


def test_the_released_size_has_the_parameters_of_the_specification():
    with torch.device("meta"):
        model = PrefixDecoderLanguageModel(PixelLLMPrefixDecoderConfig(), 1024)
    width, vocabulary = 768, 30522
    layer = 4 * (width * width + width) + (width * 3072 + 3072) + (3072 * width + width) + 4 * width
    tables = (vocabulary + 1024) * width + 2 * width
    visual = 1024 * width + width + 2 * width
    assert sum(p.numel() for p in model.parameters()) == visual + tables + 6 * layer + vocabulary * width + vocabulary


def test_the_config_is_known_to_auto_config_and_survives_the_round_trip(tmp_path):
    config = small_config()
    config.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), PixelLLMPrefixDecoderConfig)
    assert PixelLLMPrefixDecoderConfig.from_pretrained(tmp_path).to_dict() == config.to_dict()


@pytest.fixture
def official() -> dict[str, torch.Tensor]:
    return Golden.read(GOLDEN / "bert_text_head.safetensors").params


def test_any_missing_or_unknown_name_is_an_error_that_lists_it(official):
    for name in official:
        with pytest.raises(ScenicNamesError) as error:
            convert_module("textual", {other: value for other, value in official.items() if other != name})
        assert error.value.missing == (name,)
    with pytest.raises(ScenicNamesError, match="t5_module/mystery"):
        convert_module("textual", official | {"t5_module/mystery": torch.zeros(1)})


def test_every_weight_has_its_own_name_and_survives_the_way_there_and_back(official):
    assert len({move.target for move in name_map("textual", official)}) == len(official)
    files = {
        "sam_vit": "sam_backbone",
        "eva02_vit": "git_backbone",
        "prompt_encoder": "prompt_encoder",
        "prompt_adapter": "prompt_adapter",
        "bert_text_head": "textual",
        "point_predictor": "point_predictor",
    }
    whole = {
        f"{group}/{name}": value
        for file, group in files.items()
        for name, value in Golden.read(GOLDEN / f"{file}.safetensors").params.items()
    }
    converted = convert_pixelllm(whole)  # no visual_project_layers: the head projects visual tokens itself
    assert "language_model.visual_projection.0.weight" in converted
    back = restore_pixelllm(whole, converted)
    assert back.keys() == whole.keys()
    assert all(torch.equal(back[name], value) for name, value in whole.items())


def test_hyper_parameters_without_sizes_give_the_released_head():
    released = pixelllm_config({"model": {"text_decoder_name": "git", "begin_token_id": 101, "end_token_id": 102}})
    assert released.text_config.to_dict() == PixelLLMPrefixDecoderConfig().to_dict()
    assert prefix_decoder_config({"hidden_size": 64, "num_heads": 4}).intermediate_size == 256


def test_fused_hidden_states_are_refused():
    with pytest.raises(ValueError, match="out_feat_fuse_method='sum:1,2'"):
        prefix_decoder_config({"out_feat_fuse_method": "sum:1,2"})
