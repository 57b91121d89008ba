"""Where a training starts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pixelllm_hf.training.build_model import build_model, model_config
from pixelllm_hf.training.config import ConfigError


def test_overrides_reach_a_tower_by_its_name() -> None:
    towers = {"sam": {"frozen": True, "drop_path_rate": 0.25}}
    config = model_config("for_tests", {"vision_config": {"towers": towers}})
    eva02, sam = config.vision_config.towers  # type: ignore[union-attr]
    assert sam.frozen and sam.drop_path_rate == 0.25 and sam.hidden_size == 24
    assert not eva02.frozen and eva02.drop_path_rate == 0.0


def test_a_list_of_towers_replaces_all_of_them() -> None:
    towers = [{"model_type": "pixelllm_yolox_tower", "base_channels": 4}]
    changes = {"towers": towers, "fused_maps": None, "mask_map": None}
    config = model_config("for_tests", {"vision_config": changes})
    assert config.vision_config.map_names == ["yolox.p3", "yolox.p4", "yolox.p5"]  # type: ignore[union-attr]
    with pytest.raises(ConfigError, match="fused_maps has 'eva02', but no map is called so"):
        model_config("for_tests", {"vision_config": {"towers": towers}})


@pytest.mark.parametrize(
    ("towers", "complaint"),
    [({"sum": {}}, "no setting 'sum'; it has eva02, sam"), ({"sam": {"frosen": True}}, "no setting 'frosen'")],
)
def test_a_misspelt_tower_or_setting_is_an_error(towers: dict, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        model_config("for_tests", {"vision_config": {"towers": towers}})


def test_weights_of_towers_are_laid_over_a_preset(tmp_path: Path) -> None:
    torch.manual_seed(0)
    name = "vision_towers.sam.neck.0.weight"
    weight = torch.randn(build_model("for_tests").state_dict()[name].shape)
    save_file({name: weight}, tmp_path / "towers.safetensors")
    model = build_model("for_tests", weights=[str(tmp_path / "towers.safetensors")])
    assert torch.equal(model.state_dict()[name], weight)
