"""What every language family must do alike: one suite over all of them."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from transformers import AutoConfig, Dinov2Config, LlamaConfig
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration

T5: dict[str, Any] = dict(
    vocab_size=99, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_decoder_layers=2, num_heads=4, dropout_rate=0.0
)
LLAMA: dict[str, Any] = dict(
    vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, bos_token_id=2, eos_token_id=1, pad_token_id=0, initializer_range=0.3,
)  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "t5": T5,
    "umt5": T5 | {"decoder_start_token_id": 0},
    "pixelllm_prefix_decoder": {
        **{name: LLAMA[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")},
        **dict(num_attention_heads=4, bos_token_id=2, decoder_start_token_id=2, eos_token_id=1, dropout_rate=0.0),
    },
    "llama": LLAMA,
    "qwen3": LLAMA | {"pad_token_id": None, "tie_word_embeddings": True},
    "gemma2": LLAMA | {"sliding_window": 4, "query_pre_attn_scalar": 8},
    "gpt2": dict(
        vocab_size=99, n_embd=32, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=1, initializer_range=0.3,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    ),
    # one head of keys and values for all queries
    "falcon": {**{n: v for n, v in LLAMA.items() if "key_value" not in n and n != "head_dim"}, "multi_query": True},
    # words of another width than the layers
    "opt": {**{n: v for n, v in LLAMA.items() if n not in ("head_dim", "num_key_value_heads", "initializer_range")},
            **dict(ffn_dim=48, word_embed_proj_dim=16, do_layer_norm_before=False, init_std=0.3, dropout=0.0,
                   max_position_embeddings=64)},
}  # fmt: skip
ALIKE = dict(atol=2e-4, rtol=2e-4, equal_nan=True)


def made(family: str, **options) -> PixelLLMForGroundedGeneration:
    torch.manual_seed(0)
    prompt = PixelLLMConfig.for_tests().prompt_config.to_dict() | options.pop("prompt", {})
    text = {"model_type": family, **FAMILIES[family]}
    config = PixelLLMConfig.for_tests(text_config=text, prompt_config=prompt, proposal_head_config=None, **options)
    return PixelLLMForGroundedGeneration(config).eval()


@pytest.fixture(params=FAMILIES)
def model(request) -> PixelLLMForGroundedGeneration:
    return made(request.param)


def each_alone(inputs: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The valid prompts of small_inputs, each as a call of its own."""
    alone = []
    for row, (image, prompt) in enumerate(inputs["prompt_mask"].nonzero().tolist()):
        pixels = {name: inputs[name][image : image + 1] for name in ("pixel_values", "pixel_mask")}
        text = inputs["input_ids"][row : row + 1, : int(inputs["attention_mask"][row].sum())]
        boxes = inputs["prompt_boxes"][image : image + 1, prompt : prompt + 1]
        alone.append(pixels | {"input_ids": text, "prompt_boxes": boxes})
    return alone


@pytest.mark.parametrize("ways", [{}, {"reads_map": True, "pools_prompt": True}], ids=["", "short ways"])
@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_does_not_depend_on_its_neighbours(family, ways, small_inputs):
    model = made(family, prompt=ways)
    for beams in (1, 3):
        together = model.generate(**small_inputs, num_beams=beams, max_new_tokens=5, prompt_chunk_size=2)
        for row, alone in enumerate(each_alone(small_inputs)):
            output = model.generate(**alone, num_beams=beams, max_new_tokens=5)
            length = output.sequences.shape[1]
            assert torch.equal(together.sequences[row, :length], output.sequences[0])
            torch.testing.assert_close(together.coordinates[row, :length], output.coordinates[0], **ALIKE)


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, {"cache_implementation": "static"}], ids=str)
def test_a_cache_changes_no_answer(model, small_inputs, options):
    asked = dict(max_new_tokens=5, eos_token_id=None)
    cached = model.generate(**small_inputs, **asked, **options)
    plain = model.generate(**small_inputs, **asked, **{**options, "cache_implementation": None}, use_cache=False)
    assert torch.equal(cached.sequences, plain.sequences)
    torch.testing.assert_close(cached.coordinates, plain.coordinates, **ALIKE)
    torch.testing.assert_close(cached.token_log_probs, plain.token_log_probs, **ALIKE)


def test_writing_reading_and_training_see_the_same_states(model, small_inputs):
    written = model.generate(**small_inputs, max_new_tokens=5, output_masks=True, suppress_tokens=[0])
    given = model.generate(**small_inputs, query_ids=written.sequences[:, 1:], output_masks=True)
    torch.testing.assert_close(given.coordinates, written.coordinates, **ALIKE)
    torch.testing.assert_close(given.masks, written.masks, atol=2e-3, rtol=2e-3, equal_nan=True)
    one_pass = model(**small_inputs, decoder_input_ids=written.sequences)
    known = written.coordinates.isfinite()
    torch.testing.assert_close(one_pass.coordinates[known], written.coordinates[known], **ALIKE)
    half = model.generate(**small_inputs, decoder_input_ids=written.sequences[:, :3], max_new_tokens=3)
    assert torch.equal(half.sequences, written.sequences[:, : half.sequences.shape[1]])


def test_every_weight_that_is_used_learns_also_with_checkpointed_layers(model, small_inputs):
    labels = torch.randint(3, 99, (3, 4), generator=torch.Generator().manual_seed(3))
    points = torch.rand(3, 4, 2, 2, generator=torch.Generator().manual_seed(4))
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train().zero_grad()
        model(**small_inputs, labels=labels, point_labels=points).loss.backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-3)
    learnt = {name for name, gradient in gradients[0].items() if gradient.any()}
    of_language = {name for name, _ in model.language_model.named_parameters(prefix="language_model")}
    unused = {name for name in of_language - learnt if ".attention.k" not in name and "key.bias" not in name}
    assert not [name for name in unused if "k_proj.bias" not in name], unused


def test_checkpointed_layers_compute_their_part_again_on_the_way_back(model, small_inputs):
    block = next(m for m in model.language_model.modules() if isinstance(m, GradientCheckpointingLayer))
    within = next(part for part in block.modules() if isinstance(part, (torch.nn.Linear, Conv1D)))
    runs = []
    within.register_forward_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    model.activation_checkpointing_enable()
    labels = torch.randint(3, 99, (3, 4), generator=torch.Generator().manual_seed(3))
    loss = model.train()(**small_inputs, labels=labels).loss
    once = len(runs)
    loss.backward()
    assert len(runs) == 2 * once > 0
    assert all(getattr(m, "gradient_checkpointing", True) for m in model.language_model.modules())


def test_the_end_of_an_answer_is_learnt_whatever_its_id_is_called(model, small_inputs):
    """GPT-2 begins, ends and pads with one id."""
    end = torch.tensor([[5, 1], [6, 1], [7, 1]])
    cut = torch.tensor([[5, -100], [6, -100], [7, -100]])
    both, word = (model(**small_inputs, labels=labels).loss_parts["text"] for labels in (end, cut))
    assert both.isfinite() and not torch.isclose(both, word)


def test_a_saved_model_answers_alike(model, small_inputs, tmp_path):
    model.save_pretrained(tmp_path)
    loaded, info = PixelLLMForGroundedGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokens = torch.tensor([[2, 5, 9]] * 3)
    expected = model(**small_inputs, decoder_input_ids=tokens).logits
    torch.testing.assert_close(loaded.eval()(**small_inputs, decoder_input_ids=tokens).logits, expected)
    assert loaded.config.text_config.model_type == model.config.text_config.model_type


def test_layers_leave_what_they_are_asked_for(model, small_inputs):
    model.set_attn_implementation("eager")
    tokens = torch.tensor([[2, 5, 9]] * 3)
    output = model(**small_inputs, decoder_input_ids=tokens, output_hidden_states=True, output_attentions=True)
    depth = 2
    assert len(output.decoder_hidden_states) == depth + 1 and len(output.decoder_attentions) == depth
    size = output.encoder_last_hidden_state.shape[1]
    assert output.cross_attentions[0].shape[-2:] == (3, size) and output.decoder_attentions[0].shape[-2:] == (3, 3)


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_sit_in_the_language_model_alone_and_change_nothing_at_first(family, small_inputs):
    pytest.importorskip("peft")
    from pixelllm_hf.training.lora import LoraSettings, add_lora

    model = made(family)
    tokens = torch.tensor([[2, 5, 9]] * 3)
    before = model(**small_inputs, decoder_input_ids=tokens).logits
    adapted = add_lora(model, LoraSettings(rank=2, targets=["q", "v"]))
    assert len(adapted) >= 2 and all(name.startswith("language_model.") for name in adapted)
    torch.testing.assert_close(model(**small_inputs, decoder_input_ids=tokens).logits, before)
    trained = {n for n, p in model.named_parameters() if p.requires_grad and n.startswith("language_model.")}
    assert trained and all("lora_" in name or ".visual_projection." in name for name in trained)
    of_output = add_lora(made(family), LoraSettings(rank=2, targets=["o"]))
    assert of_output and not set(of_output) & set(adapted)


class Streamer:
    """Notes the location of every token as it comes."""

    def __init__(self):
        self.locations = []

    def put(self, value):
        """Words are of no interest here."""

    def put_location(self, points):
        self.locations.append(points)

    def end(self):
        """Nothing to do."""


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_a_location_may_be_read_from_the_state_that_predicts_its_token(family, small_inputs):
    consumed, predicting = made(family), made(family, location_state="predicting")
    predicting.load_state_dict(consumed.state_dict())
    tokens = torch.tensor([[2, 5, 9, 7]] * 3)
    states = consumed(**small_inputs, decoder_input_ids=tokens).decoder_states
    here = predicting(**small_inputs, decoder_input_ids=tokens).coordinates
    torch.testing.assert_close(here[:, 1:], consumed.point_head(states).coordinates[:, :-1])

    streamer, asked = Streamer(), dict(max_new_tokens=4, eos_token_id=None, suppress_tokens=[0])
    written = predicting.generate(**small_inputs, streamer=streamer, **asked)
    plain = consumed.generate(**small_inputs, **asked)
    assert torch.equal(written.sequences, plain.sequences)
    one_pass = predicting(**small_inputs, decoder_input_ids=written.sequences).coordinates
    torch.testing.assert_close(written.coordinates[:, 1:], one_pass[:, 1:], **ALIKE)
    torch.testing.assert_close(torch.stack(streamer.locations, dim=1), written.coordinates[:, 1:], **ALIKE)
    given = predicting.generate(**small_inputs, query_ids=written.sequences[:, 1:], eos_token_id=None)
    known = given.coordinates.isfinite()
    torch.testing.assert_close(given.coordinates[known], written.coordinates[known], **ALIKE)
    beams = predicting.generate(**small_inputs, max_new_tokens=4, num_beams=3, eos_token_id=None)
    one_pass = predicting(**small_inputs, decoder_input_ids=beams.sequences).coordinates
    torch.testing.assert_close(beams.coordinates[:, 1:], one_pass[:, 1:], **ALIKE)


def test_a_given_cache_gives_locations_from_predicting_states_too(small_inputs):
    model = made("t5", location_state="predicting")
    one = {name: value[:1] for name, value in small_inputs.items() if name not in ("prompt_mask", "original_sizes")}
    one["prompt_boxes"] = one["prompt_boxes"][:, :1]
    first = model.generate(**one, max_new_tokens=3, eos_token_id=None)
    cached = copy.deepcopy(first["cache"])
    more = model.generate(**one, decoder_input_ids=first.sequences, cache=cached, max_new_tokens=2, eos_token_id=None)
    one_pass = model(**one, decoder_input_ids=more.sequences).coordinates
    torch.testing.assert_close(more.coordinates[:, 1:], one_pass[:, 1:], **ALIKE)


WINDOW = LLAMA | {"sliding_window": 4}
AS_TRANSFORMERS: dict[str, dict[str, Any]] = {
    **{family: FAMILIES[family] for family in ("llama", "qwen3", "gpt2", "falcon", "opt")},
    "mistral": WINDOW,
    "gemma2": WINDOW | {"query_pre_attn_scalar": 8},
    "gemma3_text": WINDOW | {"num_hidden_layers": 6},
    "qwen2": WINDOW | {"use_sliding_window": True, "max_window_layers": 1},
    "cohere": LLAMA | {"logit_scale": 0.3},
    "granite": LLAMA | {"logits_scaling": 7.0, "embedding_multiplier": 3.0},
    "gpt_neox": {name: value for name, value in LLAMA.items() if name not in ("head_dim", "num_key_value_heads")},
}


@torch.no_grad()
@pytest.mark.parametrize("family", AS_TRANSFORMERS)
def test_scores_are_those_of_transformers_own_model(family):
    torch.manual_seed(0)
    text = {"model_type": family, **AS_TRANSFORMERS[family]}
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(text_config=text, proposal_head_config=None)).eval()
    language = model.language_model
    words = torch.tensor([[2, 5, 17, 3], [2, 8, 2, 1]])
    prompt = torch.randn(2, 5, language.get_input_embeddings().embedding_dim)
    states, _ = language.decode(words, *language.prefill(prompt))
    whole = torch.cat([prompt, language.get_input_embeddings()(words)], dim=1)
    expected = language.body(inputs_embeds=whole).logits[:, 5:]
    torch.testing.assert_close(language.logits(states), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("made_in", [torch.float32, torch.bfloat16])
def test_a_published_config_in_half_precision_makes_no_part_narrower_than_the_others(small_inputs, tmp_path, made_in):
    """Nearly every published language model says bfloat16 in its config."""
    LlamaConfig(**LLAMA, dtype="bfloat16").save_pretrained(tmp_path / "lm")
    backbone = Dinov2Config(
        hidden_size=24, num_hidden_layers=1, num_attention_heads=2, patch_size=16, image_size=64, dtype="float16"
    )
    vision = {"image_size": 64, "towers": [backbone, PixelLLMConfig.for_tests().vision_config.towers[1]]}
    text = AutoConfig.from_pretrained(tmp_path / "lm")
    config = PixelLLMConfig.for_tests(text_config=text, vision_config=vision, proposal_head_config=None)
    torch.set_default_dtype(made_in)
    try:
        model = PixelLLMForGroundedGeneration(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    parts = (model.language_model, model.vision_towers)
    assert {p.dtype for part in parts for p in part.parameters()} == {made_in}
    assert len(model.generate(**small_inputs, max_new_tokens=3).sequences) == 3
    if made_in == torch.float32:
        model.train()(**small_inputs, labels=torch.tensor([[5, 1], [6, 1], [7, 1]])).loss.backward()


def test_layers_with_a_window_do_not_see_beyond_it_with_any_cache(small_inputs):
    model = made("gemma2")
    assert model.config.text_config.sliding_window == 4
    ways = [{}, {"cache_implementation": "static"}, {"use_cache": False}]
    written = [model.generate(**small_inputs, max_new_tokens=7, eos_token_id=None, **way).sequences for way in ways]
    assert torch.equal(written[0], written[1]) and torch.equal(written[0], written[2])


@pytest.mark.parametrize(
    ("family", "block"),
    [("t5", "T5Block"), ("llama", "LlamaDecoderLayer"), ("gpt2", "GPT2Block"), ("falcon", "FalconDecoderLayer")],
)
def test_blocks_of_every_family_stay_together_on_a_device_and_as_a_shard(family, block):
    model = made(family)
    assert {block, "SamBlock", "Eva02Block"} <= set(model._no_split_modules)
    assert any(type(module).__name__ == block for module in model.language_model.modules())


@pytest.mark.parametrize(
    "model_type",
    ["mamba", "bert", "vit", "bloom", "ctrl", "modernbert-decoder", "git", "gemma3n_text", "deepseek_v3"],
)
def test_what_cannot_be_a_language_model_is_refused_by_name(model_type):
    with pytest.raises((ValueError), match=rf"{model_type}.*(llama|Llama)"):
        config = PixelLLMConfig.for_tests(text_config={"model_type": model_type, "bos_token_id": 2, "eos_token_id": 1})
        with torch.device("meta"):
            PixelLLMForGroundedGeneration(config)


def test_a_state_that_is_neither_is_refused():
    with pytest.raises(ValueError, match="location_state must be consumed or predicting"):
        PixelLLMConfig.for_tests(location_state="after")


def test_peft_adapts_queries_and_values_of_the_language_model_where_nobody_says_what(model):
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer

    expected = re.compile(model.lora_pattern(["q", "v"]))
    wanted = {name for name, module in model.named_modules() if expected.fullmatch(name)}
    adapted = get_peft_model(model, LoraConfig(r=2)).base_model.model
    assert {name for name, module in adapted.named_modules() if isinstance(module, LoraLayer)} == wanted
    assert wanted
