"""Our classes as transformers' common tests want them. Run by scripts/run_transformers_common_tests.py."""

from __future__ import annotations

import unittest
from functools import wraps
from typing import Any
from unittest import mock

import numpy as np
import torch
from PIL import Image
from transformers import PreTrainedConfig
from transformers_tests.generation.test_utils import GenerationTesterMixin
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_image_processing_common import ImageProcessingTestMixin
from transformers_tests.test_modeling_common import ModelTesterMixin
from transformers_tests.test_processing_common import MODALITY_TEST_SPECS, ProcessorTesterMixin

from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration, PixelLLMImageProcessor, PixelLLMProcessor
from pixelllm_hf.data import train_tokenizer
from pixelllm_hf.modeling import (
    configuration_heads,
    configuration_language,
    configuration_pixelllm,
    configuration_towers,
    configuration_vision,
)

CANVAS = 64


class PixelLLMModelTester:
    """A tiny model and inputs for it, under the names that the tests read."""

    batch_size = 2
    seq_length = 7
    encoder_seq_length = 6 + seq_length  # visual tokens come before the text
    decoder_seq_length = seq_length  # some tests take the mask of one for the other
    is_training = True
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4

    def __init__(self, parent: unittest.TestCase):
        self.parent = parent

    def get_config(self) -> PixelLLMConfig:
        return PixelLLMConfig.for_tests(label_smoothing=0.0)  # a test compares the loss with plain cross-entropy

    def prepare_config_and_inputs_for_common(self) -> tuple[PixelLLMConfig, dict[str, Any]]:
        config = self.get_config()
        generator = torch.Generator().manual_seed(0)
        rows, vocabulary = self.batch_size, config.text_config.vocab_size

        def ids(length: int) -> torch.Tensor:
            return torch.randint(2, vocabulary, (rows, length), generator=generator)

        inputs = {
            "pixel_values": 255 * torch.rand(rows, 3, config.image_size, config.image_size, generator=generator),
            "input_ids": ids(self.seq_length),
            "attention_mask": torch.ones(rows, self.seq_length, dtype=torch.long),
            "decoder_input_ids": ids(self.decoder_seq_length),
        }
        return config, inputs


_forward = PixelLLMForGroundedGeneration.forward


@wraps(_forward)
def _usual_outputs(*args: Any, **kwargs: Any) -> Any:
    """What a forward pass gives that other models give as well."""
    output = _forward(*args, **kwargs)
    ours = ("coordinates", "decoder_states", "encoder_attention_mask", "visual_tokens")
    return type(output)(**{name: value for name, value in output.items() if name not in ours})


class PixelLLMModelTest(ModelTesterMixin, GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (PixelLLMForGroundedGeneration,)
    is_encoder_decoder = True
    _is_composite = True
    test_all_params_have_gradient = False  # heads for which a batch has no labels have none
    pipeline_model_mapping = {"image-text-to-text": PixelLLMForGroundedGeneration}

    def setUp(self) -> None:
        self.model_tester = PixelLLMModelTester(self)

    def test_init_weights_can_init_buffers(self) -> None:
        # As the test itself does for a setting called scale: random positions that cannot be equal are made zero.
        config = self.model_tester.get_config()
        config.prompt_config.position_scale = 0.0
        self.model_tester.get_config = lambda: config  # type: ignore[method-assign]
        super().test_init_weights_can_init_buffers()

    def test_attention_outputs(self) -> None:
        # It counts the entries of the output, of which ours has more than others.
        with mock.patch.object(PixelLLMForGroundedGeneration, "forward", _usual_outputs):
            super().test_attention_outputs()

    def _prepare_for_class(self, inputs_dict: dict, model_class: type, return_labels: bool = False) -> dict:
        inputs = super()._prepare_for_class(inputs_dict, model_class)
        if return_labels:
            inputs["labels"] = inputs.pop("decoder_input_ids")
        return inputs


class PixelLLMConfigTest(unittest.TestCase):
    """transformers' `ConfigTester` for the whole configuration and for each of its parts."""

    def setUp(self) -> None:
        self.model_tester = PixelLLMModelTester(self)


def _config_test(name: str, config_class: type[PreTrainedConfig]) -> Any:
    def test(self: PixelLLMConfigTest) -> None:
        whole = config_class is PixelLLMConfig
        has_text = name == "PixelLLMPrefixDecoderConfig"
        inputs = {} if whole or config_class.sub_configs else {"initializer_range": 0.03}
        tester = ConfigTester(
            self, config_class=config_class, has_text_modality=has_text, common_properties=[], **inputs
        )
        tester.run_common_tests()

    return test


_FILES = configuration_heads, configuration_language, configuration_pixelllm, configuration_towers, configuration_vision
for _name, _class in {name: value for file in _FILES for name, value in vars(file).items()}.items():
    if not (isinstance(_class, type) and issubclass(_class, PreTrainedConfig) and "PixelLLM" in _name):
        continue
    if getattr(_class, "model_type", ""):
        setattr(PixelLLMConfigTest, f"test_{_name}", _config_test(_name, _class))


def _tokenizer() -> Any:
    words = ["lower newer the quick brown fox jumps over a lazy dog", "a photo of", "upper older longer string"]
    tokenizer = train_tokenizer(words, max_pieces=99)
    tokenizer.model_max_length = 64
    return tokenizer


# Their example of a setting makes pixels negative, which ours refuses; a smaller canvas shows as well where it went.
SMALLER = {"height": CANVAS // 2, "width": CANVAS // 2}
MODALITY_TEST_SPECS["images"]["init_time_kwargs"] = {"size": SMALLER}


class PixelLLMProcessorTest(ProcessorTesterMixin, unittest.TestCase):
    processor_class = PixelLLMProcessor

    def _check_modality_outputs(self, inputs: dict, modality: str) -> None:
        self.assertEqual(tuple(inputs[self.images_input_name].shape[-2:]), (SMALLER["height"], SMALLER["width"]))

    @classmethod
    def _setup_image_processor(cls) -> PixelLLMImageProcessor:
        return PixelLLMImageProcessor(size={"height": CANVAS, "width": CANVAS})

    @classmethod
    def _setup_tokenizer(cls) -> Any:
        return _tokenizer()


class PixelLLMImageProcessingTester:
    """Settings and images for the tests of the image processor."""

    batch_size = 3
    num_channels = 3
    image_processing_classes = {"pil": PixelLLMImageProcessor}

    def __init__(self, parent: unittest.TestCase):
        self.parent = parent

    def prepare_image_processor_dict(self) -> dict[str, Any]:
        return {"size": {"height": CANVAS, "width": CANVAS}}

    def expected_output_image_shape(self, images: Any) -> tuple[int, int, int]:
        return self.num_channels, CANVAS, CANVAS

    def prepare_image_inputs(
        self, equal_resolution: bool = False, numpify: bool = False, torchify: bool = False
    ) -> list[Any]:
        generator = np.random.default_rng(0)
        sizes = [(40, 60)] * 3 if equal_resolution else [(40, 60), (90, 50), (64, 64)]
        arrays = [generator.integers(0, 256, (height, width, 3), dtype=np.uint8) for height, width in sizes]
        if torchify:
            return [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
        return arrays if numpify else [Image.fromarray(array) for array in arrays]


class PixelLLMImageProcessingTest(ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = PixelLLMImageProcessingTester
