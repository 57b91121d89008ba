from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers import T5Config
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration
from pixelllm_hf.modeling import language_t5
from pixelllm_hf.modeling.t5_steps import T5Steps


def model_of(*, reads_map: bool = False, **text: Any) -> PixelLLMForGroundedGeneration:
    torch.manual_seed(0)
    prompt = PixelLLMConfig.for_tests().prompt_config.to_dict() | {"reads_map": reads_map}
    settings: dict[str, Any] = dict(
        vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_decoder_layers=3, num_heads=4,
        decoder_start_token_id=0, feed_forward_proj="gated-gelu",
    )  # fmt: skip
    config = PixelLLMConfig.for_tests(text_config=T5Config(**settings | text), prompt_config=prompt)
    model = PixelLLMForGroundedGeneration(config)
    with torch.no_grad():
        for parameter in model.language_model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return model.eval()


def states_of(model: Any, tokens: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """A token at a time, with a cache."""
    cache, states = None, []
    for token in tokens.unbind(1):
        state, cache = model.language_model.decode(token[:, None], memory, mask, cache=cache, use_cache=True)
        states.append(state)
    return torch.cat(states, dim=1)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that were taken without modules."""
    taken: list[int] = []
    plain = T5Steps.__call__

    def counted(steps: T5Steps, x: torch.Tensor, *args: Any) -> torch.Tensor:
        taken.append(len(x))
        return plain(steps, x, *args)

    monkeypatch.setattr(T5Steps, "__call__", counted)
    return taken


@pytest.mark.parametrize("form", ["gated-gelu", "relu"])
@pytest.mark.parametrize("masked", [False, True])
def test_steps_compute_what_one_pass_over_the_text_does(calls: list[int], form: str, masked: bool):
    model = model_of(feed_forward_proj=form)
    generator = torch.Generator().manual_seed(1)
    memory = torch.randn(3, 7, 32, generator=generator)
    tokens = torch.randint(60, (3, 140), generator=generator)  # longer than the first table of positions
    mask = torch.ones(3, 7, dtype=torch.bool)
    if masked:
        mask[1, 4:] = False
    with torch.inference_mode():
        stepwise = states_of(model, tokens, memory, mask if masked else None)
        whole, _ = model.language_model.decode(tokens, memory, mask)
    assert len(calls) == 139  # the first fills the cache
    torch.testing.assert_close(stepwise, whole, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True}])
def test_answers_are_those_of_the_modules(calls: list[int], monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]):
    model = model_of()
    inputs = {"pixel_values": torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2)) * 255}
    torch.manual_seed(3)
    quick = model.generate(**inputs, max_new_tokens=12, **options)
    assert len(calls) >= 10
    calls.clear()
    monkeypatch.setattr(language_t5, "_needs_modules", lambda device: True)
    torch.manual_seed(3)
    plain = model.generate(**inputs, max_new_tokens=12, **options)
    assert not calls and torch.equal(quick.sequences, plain.sequences)
    torch.testing.assert_close(quick.coordinates, plain.coordinates, equal_nan=True, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(quick.token_log_probs, plain.token_log_probs, equal_nan=True, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_prompts_of_one_image_that_read_its_map_are_answered_as_by_the_modules(
    calls: list[int], monkeypatch: pytest.MonkeyPatch, beams: int
):
    model = model_of(reads_map=True)
    boxes = torch.tensor([[[4.0, 4.0, 40.0, 60.0], [0.0, 0.0, 64.0, 30.0], [9.0, 9.0, 20.0, 20.0]]])
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(5)) * 255
    given = {"pixel_values": pixels, "prompt_boxes": boxes, "num_beams": beams, "max_new_tokens": 12}
    quick = model.generate(**given)
    assert calls and set(calls) == {3 * beams}
    monkeypatch.setattr(language_t5, "_needs_modules", lambda device: True)
    plain = model.generate(**given)
    assert torch.equal(quick.sequences, plain.sequences)
    torch.testing.assert_close(quick.coordinates, plain.coordinates, equal_nan=True, atol=1e-5, rtol=1e-5)


def _copied(cache: Any) -> Any:
    return copy.deepcopy(cache)


def _reordered(cache: Any) -> Any:
    cache.reorder_cache(torch.arange(3))
    return cache


def _put_back(cache: Any) -> Any:
    """A cache whose keys and values are those that the other one had, not copies of them."""
    layers = cache.self_attention_cache.layers
    twin = copy.deepcopy(cache)
    for mine, own in zip(twin.self_attention_cache.layers, layers, strict=True):
        mine.keys, mine.values = own.keys, own.values
    return twin


@pytest.mark.parametrize("branch", [_copied, _reordered, _put_back])
@pytest.mark.parametrize("modes", [torch.no_grad, torch.inference_mode])
def test_texts_that_part_after_the_same_beginning_do_not_write_over_each_other(branch: Any, modes: Any):
    model = model_of()
    generator = torch.Generator().manual_seed(6)
    memory, tokens = torch.randn(3, 7, 32, generator=generator), torch.randint(60, (3, 9), generator=generator)
    other = tokens.clone()
    other[:, 5:] = torch.randint(60, (3, 4), generator=generator)

    def step(text: torch.Tensor, place: int, cache: Any) -> tuple[torch.Tensor, Any]:
        return model.language_model.decode(text[:, place, None], memory, None, cache=cache, use_cache=True)

    with modes():
        cache = None
        for place in range(5):
            _, cache = step(tokens, place, cache)
        twin, found, parted = branch(cache), [], []
        if twin is cache:  # reordering gives no second one
            twin = copy.deepcopy(cache)
        for place in range(5, 9):
            state, cache = step(tokens, place, cache)
            found.append(state)
            state, twin = step(other, place, twin)
            parted.append(state)
        for states, text in ((found, tokens), (parted, other)):
            whole, _ = model.language_model.decode(text, memory, None)
            torch.testing.assert_close(torch.cat(states, 1), whole[:, 5:], atol=2e-5, rtol=2e-5)


def test_a_text_that_is_cut_goes_on_as_if_the_rest_had_never_been():
    model = model_of()
    memory, tokens = torch.randn(2, 7, 32), torch.randint(60, (2, 9))
    with torch.inference_mode():
        cache = None
        for place in range(9):
            _, cache = model.language_model.decode(tokens[:, place, None], memory, None, cache=cache, use_cache=True)
        cache.crop(-5)
        state, _ = model.language_model.decode(tokens[:, 8:], memory, None, cache=cache, use_cache=True)
        whole, _ = model.language_model.decode(torch.cat([tokens[:, :4], tokens[:, 8:]], 1), memory, None)
    torch.testing.assert_close(state[:, 0], whole[:, 4], atol=2e-5, rtol=2e-5)


def test_steps_go_on_where_inference_mode_begins_and_ends():
    model = model_of()
    memory, tokens = torch.randn(2, 7, 32), torch.randint(60, (2, 8))
    cache, states = None, []
    for place in range(8):
        with torch.inference_mode() if place % 3 == 1 else torch.no_grad():
            state, cache = model.language_model.decode(
                tokens[:, place, None], memory, None, cache=cache, use_cache=True
            )
            states.append(state)
    with torch.no_grad():
        whole, _ = model.language_model.decode(tokens, memory, None)
    torch.testing.assert_close(torch.cat(states, 1), whole, atol=2e-5, rtol=2e-5)


def _hooked(model: Any, seen: list[Any]) -> Any:
    model.language_model.body.decoder.block[1].register_forward_hook(lambda *given: seen.append(1))
    return model


def _adapted(model: Any, seen: list[Any]) -> Any:
    peft = pytest.importorskip("peft")
    return peft.get_peft_model(model, peft.LoraConfig(r=2)).eval()


def _halved(model: Any, seen: list[Any]) -> Any:
    return model.to(torch.bfloat16)


def _replaced(model: Any, seen: list[Any]) -> Any:
    class Doubled(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(1)
            return 2 * super().forward(x)

    model.language_model.body.decoder.block[0].layer[2].DenseReluDense.wo = Doubled(48, 32, bias=False)
    return model


@pytest.mark.parametrize("change", [_hooked, _adapted, _halved, _replaced])
def test_what_is_not_t5s_own_is_computed_by_its_modules(calls: list[int], change: Any):
    seen: list[Any] = []
    model = change(model_of(), seen)
    model.generate(pixel_values=torch.rand(1, 3, 64, 64) * 255, max_new_tokens=6, min_new_tokens=6)
    assert not calls
    assert len(seen) == (7 if change in (_hooked, _replaced) else 0)


def test_training_gradients_and_other_caches_take_the_modules(calls: list[int]):
    model = model_of()
    tokens, memory = torch.ones(2, 4, dtype=torch.long), torch.randn(2, 5, 32)
    assert states_of(model, tokens, memory, None).requires_grad
    with torch.no_grad():
        states_of(model.train(), tokens, memory, None)
        model.eval()
        with torch.autocast("cpu", torch.bfloat16):
            states_of(model, tokens, memory, None)
    assert not calls


def test_a_copied_cache_goes_on_as_its_first(calls: list[int]):
    model, memory = model_of(), torch.randn(1, 5, 32)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    with torch.no_grad():
        for token in (0, 5, 9):
            model.language_model.decode(torch.tensor([[token]]), memory, None, cache=cache, use_cache=True)
        again = copy.deepcopy(cache)
        states = [
            model.language_model.decode(torch.tensor([[7]]), memory, None, cache=one, use_cache=True)[0]
            for one in (cache, again)
        ]
    assert torch.equal(*states) and again.get_seq_length() == cache.get_seq_length() == 4


def test_rows_of_a_cache_may_be_repeated_and_chosen_between_steps(calls: list[int]):
    model, memory = model_of(), torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(6))
    tokens = torch.tensor([[0, 5, 9, 7], [0, 6, 8, 3]])
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    with torch.no_grad():
        for token in tokens[:, :3].unbind(1):
            model.language_model.decode(token[:, None], memory, None, cache=cache, use_cache=True)
        cache.batch_repeat_interleave(2)
        rows = torch.tensor([0, 0, 1, 1])
        state, _ = model.language_model.decode(tokens[rows, 3:], memory[rows], None, cache=cache, use_cache=True)
        whole, _ = model.language_model.decode(tokens, memory, None)
    torch.testing.assert_close(state[:, 0], whole[rows, 3], atol=2e-5, rtol=2e-5)
    assert calls == [2, 2, 4]
