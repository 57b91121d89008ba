from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from pixelllm_hf.conversion.onnx_file import OnnxFile, OnnxFileError
from pixelllm_hf.conversion.parity.onnx_graph import OnnxGraph
from pixelllm_hf.conversion.parity.towers import efficientnet_lite_deviations, yolox_deviations
from pixelllm_hf.conversion.towers import (
    TowerWeightsError,
    convert_efficientnet_lite,
    convert_yolox,
    tower_tensors,
    yolox_tower,
)
from pixelllm_hf.modeling.configuration_towers import PixelLLMEfficientNetLiteTowerConfig, PixelLLMYoloxTowerConfig
from pixelllm_hf.modeling.configuration_vision import PixelLLMVisionConfig

SMALL_LITE = dict(
    stem_channels=8,
    stage_channels=[4, 6, 8, 8],
    stage_depths=[1, 2, 2, 1],
    stage_strides=[1, 2, 2, 1],
    stage_kernels=[3, 3, 5, 5],
    head_channels=12,
)


def small_lite(**overrides) -> PixelLLMEfficientNetLiteTowerConfig:
    return PixelLLMEfficientNetLiteTowerConfig(**{**SMALL_LITE, "output_maps": ["stage2", "head"], **overrides})


def lite_tensors() -> dict[str, Tensor]:
    """Random weights and statistics under the names of the PyTorch port, written out from the sizes above."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}

    def conv(name: str, norm: str, *shape: int) -> None:
        fan_in = shape[1] * shape[2] ** 2
        tensors[f"{name}.weight"] = (
            torch.randn(shape[0], shape[1], shape[2], shape[2], generator=generator) * fan_in**-0.5
        )
        tensors[f"{norm}.weight"] = torch.rand(shape[0], generator=generator) + 0.5
        tensors[f"{norm}.bias"] = torch.randn(shape[0], generator=generator) * 0.2
        tensors[f"{norm}.running_mean"] = torch.randn(shape[0], generator=generator) * 0.2
        tensors[f"{norm}.running_var"] = torch.rand(shape[0], generator=generator) + 0.5
        tensors[f"{norm}.num_batches_tracked"] = torch.tensor(7)

    conv("_conv_stem", "_bn0", 8, 3, 3)
    blocks = [(8, 4, 3), (4, 6, 3), (6, 6, 3), (6, 8, 5), (8, 8, 5), (8, 8, 5)]
    for number, (fan_in, fan_out, kernel) in enumerate(blocks):
        inner = fan_in * (6 if number else 1)
        if number:
            conv(f"_blocks.{number}._expand_conv", f"_blocks.{number}._bn0", inner, fan_in, 1)
        conv(f"_blocks.{number}._depthwise_conv", f"_blocks.{number}._bn1", inner, 1, kernel)
        conv(f"_blocks.{number}._project_conv", f"_blocks.{number}._bn2", fan_out, inner, 1)
    conv("_conv_head", "_bn1", 12, 8, 1)
    tensors["_fc.weight"], tensors["_fc.bias"] = torch.zeros(5, 12), torch.zeros(5)
    return tensors


SMALL_YOLOX = dict(base_channels=4, num_classes=3)


def small_yolox(**overrides) -> PixelLLMYoloxTowerConfig:
    return PixelLLMYoloxTowerConfig(**{**SMALL_YOLOX, **overrides})


def yolox_file(side: int = 64, width: int = 4, classes: int = 3) -> bytes:
    """The official network at a small width, operator by operator as its exporter writes it, with random weights."""
    graph, generator = OnnxGraph(), np.random.default_rng(0)

    def conv(x: str, fan_in: int, fan_out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> str:
        scale = (fan_in // groups * kernel**2 / 2) ** -0.5 / (100 if fan_in == 12 else 1)  # pixels are 0..255
        weight = graph.constant(generator.normal(0, scale, (fan_out, fan_in // groups, kernel, kernel)).astype("f4"))
        bias = graph.constant(generator.normal(0, 0.1, fan_out).astype("f4"))
        pads = [kernel // 2] * 4
        return graph.add("Conv", x, weight, bias, pads=pads, strides=[stride] * 2, group=groups)

    def active(x: str) -> str:
        return graph.add("Mul", x, graph.add("Sigmoid", x))

    def base(x: str, fan_in: int, fan_out: int, kernel: int = 1) -> str:
        return active(conv(x, fan_in, fan_out, kernel))

    def separable(x: str, fan_in: int, fan_out: int, stride: int = 1) -> str:
        x = active(conv(x, fan_in, fan_in, 3, stride=stride, groups=fan_in))
        return base(x, fan_in, fan_out)

    def concat(*xs: str) -> str:
        return graph.add("Concat", *xs, axis=1)

    def stage(x: str, fan_in: int, fan_out: int, depth: int, shortcut: bool) -> str:
        half = fan_out // 2
        first, second = base(x, fan_in, half), base(x, fan_in, half)
        for _ in range(depth):
            branch = separable(base(first, half, half), half, half)
            first = graph.add("Add", branch, first) if shortcut else branch
        return base(concat(first, second), 2 * half, fan_out)

    def slices(x: str, axis: int, start: int) -> str:
        numbers = (graph.constant([number]) for number in (start, 10**9, axis, 2))
        return graph.add("Slice", x, *numbers)

    def doubled(x: str) -> str:
        nothing, scales = graph.constant(np.zeros(0, "f4")), graph.constant(np.array([1, 1, 2, 2], "f4"))
        kind = dict(coordinate_transformation_mode="asymmetric", mode="nearest", nearest_mode="floor")
        return graph.add("Resize", x, nothing, scales, **kind)

    w = width
    corners = [slices(slices("images", 2, row), 3, column) for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
    x = base(concat(*corners), 12, w, 3)
    x = stage(separable(x, w, 2 * w, 2), 2 * w, 2 * w, 1, True)
    dark3 = stage(separable(x, 2 * w, 4 * w, 2), 4 * w, 4 * w, 3, True)
    dark4 = stage(separable(dark3, 4 * w, 8 * w, 2), 8 * w, 8 * w, 3, True)
    x = base(separable(dark4, 8 * w, 16 * w, 2), 16 * w, 8 * w)
    pools = [graph.add("MaxPool", x, kernel_shape=[k, k], pads=[k // 2] * 4, strides=[1, 1]) for k in (5, 9, 13)]
    dark5 = stage(base(concat(x, *pools), 32 * w, 16 * w), 16 * w, 16 * w, 1, False)
    lateral5 = base(dark5, 16 * w, 8 * w)
    x = stage(concat(doubled(lateral5), dark4), 16 * w, 8 * w, 1, False)
    lateral4 = base(x, 8 * w, 4 * w)
    p3 = stage(concat(doubled(lateral4), dark3), 8 * w, 4 * w, 1, False)
    p4 = stage(concat(separable(p3, 4 * w, 4 * w, 2), lateral4), 8 * w, 8 * w, 1, False)
    p5 = stage(concat(separable(p4, 8 * w, 8 * w, 2), lateral5), 16 * w, 16 * w, 1, False)
    answers = []
    for level, channels, stride in ((p3, 4 * w, 8), (p4, 8 * w, 16), (p5, 16 * w, 32)):
        x = base(level, channels, 4 * w)
        about = separable(separable(x, 4 * w, 4 * w), 4 * w, 4 * w)
        which = graph.add("Sigmoid", conv(about, 4 * w, classes, 1))
        about = separable(separable(x, 4 * w, 4 * w), 4 * w, 4 * w)
        box, found = conv(about, 4 * w, 4, 1), graph.add("Sigmoid", conv(about, 4 * w, 1, 1))
        shape = graph.constant([1, 5 + classes, (side // stride) ** 2])
        answers.append(graph.add("Reshape", concat(box, found, which), shape))
    output = graph.add("Transpose", graph.add("Concat", *answers, axis=2), perm=[0, 2, 1])
    return graph.model({"images": (1, 3, side, side)}, [output])


@pytest.fixture
def lite_path(tmp_path):
    save_file(lite_tensors(), tmp_path / "lite.safetensors")
    return tmp_path / "lite.safetensors"


@pytest.fixture
def yolox_path(tmp_path):
    (tmp_path / "yolox.onnx").write_bytes(yolox_file())
    return tmp_path / "yolox.onnx"


@pytest.mark.parametrize("side", [64, 61, 50])
def test_efficientnet_lite_equals_an_independent_runtime(lite_path, side):
    pytest.importorskip("onnxruntime")
    deviations = efficientnet_lite_deviations(lite_path, small_lite(), side)
    assert set(deviations) == {"stage1", "stage2", "stage3", "stage4", "head"}
    assert max(deviations.values()) < 1e-4


def test_yolox_equals_an_independent_runtime_boxes_and_scores_included(yolox_path):
    pytest.importorskip("onnxruntime")
    deviations = yolox_deviations(yolox_path, small_yolox())
    assert set(deviations) == {"boxes", "objectness", "class scores", "classes"}
    assert max(deviations.values()) < 1e-4


def test_a_tower_without_the_head_takes_the_same_file(yolox_path):
    config = small_yolox(output_maps=["p4", "p3"])
    maps = yolox_tower(yolox_path, config)(torch.zeros(1, 3, 64, 64))
    assert {name: tuple(m.shape) for name, m in maps.items()} == {"p4": (1, 4, 4, 32), "p3": (1, 8, 8, 16)}
    whole = yolox_tower(yolox_path, small_yolox(output_maps=["p3", "classes"]))(torch.zeros(1, 3, 64, 64))
    torch.testing.assert_close(maps["p3"], whole["p3"], atol=0, rtol=0)


def test_a_shorter_tower_takes_what_it_needs_of_the_classifier():
    whole = convert_efficientnet_lite(lite_tensors(), small_lite())
    short = convert_efficientnet_lite(lite_tensors(), small_lite(output_maps=["stage2"]))
    assert set(short) < set(whole)
    assert not any(name.startswith(("head", "stages.2")) for name in short)
    assert torch.equal(short["stages.1.1.project.conv.weight"], lite_tensors()["_blocks.2._project_conv.weight"])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda t: t.pop("_blocks.2._bn1.running_var"), r"_blocks\.2\._bn1\.running_var is missing"),
        (lambda t: t.update({"_blocks.9._bn1.bias": torch.zeros(2)}), r"_blocks\.9\._bn1\.bias is unknown"),
        (lambda t: t.update({"_conv_head.weight": torch.zeros(12, 9, 1, 1)}), r"_conv_head\.weight has shape \(12, 9"),
    ],
)
def test_a_classifier_that_is_not_of_this_size_is_refused_by_name(change, complaint):
    tensors = lite_tensors()
    change(tensors)
    with pytest.raises(TowerWeightsError, match=complaint):
        convert_efficientnet_lite(tensors, small_lite())


def test_a_detector_of_another_size_is_refused(yolox_path):
    file = OnnxFile.read(yolox_path)
    with pytest.raises(TowerWeightsError, match="has shape"):
        convert_yolox(file, PixelLLMYoloxTowerConfig(base_channels=8, num_classes=3))
    with pytest.raises(TowerWeightsError, match="convolutions with a bias"):
        convert_yolox(file, small_yolox(base_depth=2))


def test_weights_of_towers_get_the_names_of_a_whole_model(lite_path, yolox_path):
    towers = [small_lite(name="semantic"), small_yolox(name="localising")]
    vision = PixelLLMVisionConfig(image_size=64, towers=towers)
    tensors = tower_tensors(vision, {"semantic": lite_path, "localising": yolox_path})
    assert "vision_towers.semantic.stem.conv.weight" in tensors
    assert "vision_towers.localising.stem.0.bias" in tensors
    with pytest.raises(TowerWeightsError, match="no tower 'sam' .* semantic, localising"):
        tower_tensors(vision, {"sam": lite_path})


def test_what_is_written_is_what_is_read(tmp_path):
    graph = OnnxGraph()
    weight = np.arange(6, dtype=np.float32).reshape(1, 2, 3)
    sum_ = graph.add("Add", "x", graph.constant(weight), note="so", sizes=[1, -2], share=0.5, axis=-1)
    (tmp_path / "a.onnx").write_bytes(graph.model({"x": (1, 2, 3)}, [sum_]))
    file = OnnxFile.read(tmp_path / "a.onnx")
    assert [(node.op_type, node.inputs) for node in file.nodes] == [("Add", ("x", "constant_0"))]
    assert np.array_equal(file.tensors["constant_0"], weight)


def test_damaged_files_are_refused_wherever_they_end(tmp_path):
    content = yolox_file()
    path = tmp_path / "damaged.onnx"
    random = np.random.default_rng(0)
    for length in [0, 1, 5, *random.integers(1, len(content), 20)]:
        path.write_bytes(content[:length])
        with pytest.raises(OnnxFileError, match=r"damaged\.onnx must be an ONNX model"):
            OnnxFile.read(path)


def test_bytes_of_anything_else_are_an_onnx_file_error_and_nothing_raw(tmp_path):
    random = np.random.default_rng(1)
    content = bytearray(yolox_file()[:4000])
    for _ in range(200):
        damaged = bytearray(content)
        damaged[int(random.integers(0, 300))] = int(random.integers(0, 256))
        (tmp_path / "a.onnx").write_bytes(bytes(damaged))
        with pytest.raises(OnnxFileError):
            OnnxFile.read(tmp_path / "a.onnx")
