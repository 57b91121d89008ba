from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration
from pixelllm_hf.modeling import linear as room
from pixelllm_hf.modeling.linear import Linear, linear, linear_for, with_linear


@pytest.fixture(autouse=True)
def on_such_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the processor of the tests is, if its torch can call oneDNN."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(room, "faster_with_onednn", lambda: True)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def is_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    return linear_for(x, weight) is not F.linear


@pytest.mark.parametrize("shape", [(8, 24), (16, 1, 24), (2, 3, 5, 24), (1, 24), (24,), (0, 24), (1000, 24)])
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_a_product_is_that_of_torch(shape: tuple[int, ...], bias: bool):
    x, weight, added = random(*shape), random(40, 24), random(40) if bias else None
    torch.testing.assert_close(linear(x, weight, added), F.linear(x, weight, added), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_tensors_that_are_views_are_multiplied_as_they_are_seen():
    x, weight = random(24, 6, 9).permute(2, 1, 0), random(24, 40).T[::2]
    assert is_onednn(x, weight)
    torch.testing.assert_close(linear(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_processor_that_gains_nothing_and_few_rows_take_the_product_of_torch(monkeypatch: pytest.MonkeyPatch):
    assert is_onednn(random(8, 24), random(40, 24)) and not is_onednn(random(7, 24), random(40, 24))
    monkeypatch.setattr(room, "faster_with_onednn", lambda: False)
    assert not is_onednn(random(8, 24), random(40, 24))


class OwnTensor(torch.Tensor):
    """As libraries have that keep weights in eight bits."""


def test_what_is_not_plain_float32_without_gradients_takes_the_product_of_torch():
    x, weight = random(8, 24), random(40, 24)
    assert not is_onednn(x, weight)  # gradients are on
    with torch.inference_mode():
        assert is_onednn(x, nn.Parameter(weight))
        for other in (x.double(), x.bfloat16(), x.to("meta"), x.as_subclass(OwnTensor)):
            assert not is_onednn(other, weight.to(other.dtype))
        assert not is_onednn(x, weight.as_subclass(OwnTensor))
        with torch.autocast("cpu", torch.bfloat16):
            assert not is_onednn(x, weight)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch, of processors that are not here
            with torch.backends.mkldnn.flags(enabled=False):
                assert not is_onednn(x, weight)


def test_a_layer_learns_as_that_of_torch():
    ours = Linear(24, 40)
    theirs = nn.Linear(24, 40)
    theirs.load_state_dict(ours.state_dict())
    for layer in (ours, theirs):
        layer(random(9, 24)).square().sum().backward()
    assert torch.equal(ours.weight.grad, theirs.weight.grad) and torch.equal(ours.bias.grad, theirs.bias.grad)


@pytest.mark.parametrize("way", ["exported", "traced", "compiled"])
@torch.no_grad()
def test_what_is_recorded_holds_the_operators_of_torch(way: str):
    layer, x = Linear(24, 40).eval(), random(9, 24)
    if way == "exported":
        found = str(torch.export.export(layer, (x,)).graph)
    elif way == "traced":
        found = str(torch.jit.trace(layer, (x,)).inlined_graph)
    else:
        graphs: list[str] = []

        def keep(module: torch.fx.GraphModule, inputs: Any) -> Any:
            graphs.append(str(module.graph))
            return module.forward

        torch.compile(layer, backend=keep, fullgraph=True)(x)
        found = "".join(graphs)
    assert "linear" in found and "mkldnn" not in found


def test_layers_of_another_library_become_ours_and_keep_their_names_and_weights():
    theirs = nn.Sequential(nn.Linear(3, 4), nn.ModuleList([nn.Linear(4, 5)]), nn.LayerNorm(5), nn.Bilinear(2, 2, 2))
    before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    ours = with_linear(theirs)
    assert ours is theirs and type(ours[0]) is type(ours[1][0]) is Linear
    assert type(ours[2]) is nn.LayerNorm and type(ours[3]) is nn.Bilinear
    assert list(before) == list(ours.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())


def test_every_linear_layer_of_a_model_that_is_not_for_float32_alone_is_one_of_these():
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests())
    others = {
        type(module).__name__ for module in model.modules() if isinstance(module, nn.Linear)
        if not isinstance(module, Linear)
    }  # fmt: skip
    assert others <= {"Float32Linear", "NonDynamicallyQuantizableLinear"}


@torch.no_grad()
def test_a_model_sees_and_says_the_same_whichever_product_it_takes(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests()).eval()
    side = model.config.image_size
    inputs = {"pixel_values": 255 * torch.rand(2, 3, side, side), "labels": torch.randint(2, 60, (2, 9))}
    found = model(**inputs)
    monkeypatch.setattr(room, "faster_with_onednn", lambda: False)
    expected = model(**inputs)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.coordinates, expected.coordinates, rtol=1e-4, atol=1e-3)
