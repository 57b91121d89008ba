"""What tests of several rooms need: a small model in a folder, an environment without the package, a Hub."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# The tests' tensors are too small to share between threads. Set before torch is imported, and for subprocesses too.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz-inputs", type=int, default=200, help="damaged inputs that each fuzzer of tests/fuzz tries")


@pytest.fixture(autouse=True)
def _no_accelerator_of_another_test() -> Iterator[None]:
    """accelerate keeps one state a process; what a test chose must not bind the next."""
    _forget_accelerator()
    yield
    _forget_accelerator()


def _forget_accelerator() -> None:
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Model, processor and tokenizer of a few thousand weights; it writes some words that mean nothing."""
    import torch

    from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration, PixelLLMImageProcessor, PixelLLMProcessor
    from pixelllm_hf.data import train_tokenizer
    from pixelllm_hf.processing.tasks import TASK_SPECS

    folder = tmp_path_factory.mktemp("small") / "checkpoint"
    prompts = [f"{prompt.prefix} {prompt.default or ''}" for prompt in TASK_SPECS.values()]
    tokenizer = train_tokenizer(["a dog and two red cats on the left", *prompts], max_pieces=99)
    torch.manual_seed(3)
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests())
    with torch.no_grad():
        for name, weight in model.named_parameters():  # large enough that different images give different words
            if weight.ndim > 1 and "shared" not in name:
                weight.mul_(3)
        head = model.language_model.lm_head.weight
        head.mul_(4)
        head[len(tokenizer) :] = 0
    model.save_pretrained(folder)
    side = model.config.image_size
    PixelLLMProcessor(PixelLLMImageProcessor(size={"height": side, "width": side}), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_pixellm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PixelLM of a few thousand weights with its processor; its answers are words and targets that mean nothing."""
    import torch

    from pixelllm_hf import (
        PixelLLMImageProcessor,
        PixelLMConfig,
        PixelLMForReasoningSegmentation,
        PixelLMProcessor,
        add_pixellm_tokens,
    )
    from pixelllm_hf.data import train_tokenizer

    folder = tmp_path_factory.mktemp("small_pixellm") / "checkpoint"
    tokenizer = train_tokenizer(["what can be eaten? a red apple and the dog on a sofa, sure."], max_pieces=90)
    ids = add_pixellm_tokens(tokenizer, 4)
    size = PixelLMConfig.for_tests()
    text = size.text_config.to_dict() | {"vocab_size": len(tokenizer), "max_position_embeddings": 512}
    text |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = PixelLMConfig.for_tests(text_config=text, codebook_token_ids=ids[:4], image_token_id=ids[-1])
    torch.manual_seed(5)
    model = PixelLMForReasoningSegmentation(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():  # large enough that different questions get different answers
            if weight.ndim > 1 and "vision" not in name:
                weight.mul_(4)
        model.get_output_embeddings().get_parameter("weight")[ids[0]] *= 3  # it likes to begin targets
    model.save_pretrained(folder)
    images = PixelLLMImageProcessor(size={"height": 64, "width": 64}, rounding="nearest")
    PixelLMProcessor(images, tokenizer, num_image_tokens=config.num_image_tokens).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_pointing_pixelllm(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint with a segmentation codebook; its answers are targets and words that mean nothing."""
    import torch

    from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration, PixelLLMProcessor
    from pixelllm_hf.processing.target_tokens import add_target_tokens

    folder = tmp_path_factory.mktemp("small_pointing") / "checkpoint"
    processor = PixelLLMProcessor.from_pretrained(small_checkpoint)
    codebook: dict[str, Any] = dict(tokens_per_scale=2, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    codebook |= dict(intermediate_size=24, token_ids=add_target_tokens(processor.tokenizer, 4))
    small = PixelLLMForGroundedGeneration.from_pretrained(small_checkpoint)
    torch.manual_seed(3)
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(codebook_config=codebook)).eval()
    model.load_state_dict(small.state_dict(), strict=False)
    with torch.no_grad():
        inputs = processor(images=torch.rand(3, 48, 64), text="a dog")
        states = model(**inputs, labels=torch.ones(1, 1, dtype=torch.long)).decoder_states[:, 0]
        model.language_model.target_tokens.output[0] = 5 * states.mean(0)  # it likes to begin targets
    model.save_pretrained(folder)
    PixelLLMProcessor(processor.image_processor, processor.tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def python_without_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a virtual environment that has all that this one has, except this package.

    Run it with -I, so that nothing but the environment says what can be imported.
    """
    folder = tmp_path_factory.mktemp("without_package") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    modules = next(folder.glob("lib/python*/site-packages"))
    for place in map(Path, sys.path):
        if place.name in ("site-packages", "dist-packages"):
            for entry in place.iterdir():
                # also the files through which an editable installation is found
                if "pixelllm" not in entry.name.lower() and not (modules / entry.name).exists():
                    (modules / entry.name).symlink_to(entry)
    return folder / "bin" / "python"


def _hub_server() -> Any:
    """The module of the tests of publishing; tests are imported without packages."""
    name = "pixelllm_tests_hub_server"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / "publishing" / "hub_server.py")
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture
def make_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """`make_hub(**settings)` starts a Hub and points the client at it, with a token and an empty cache of its own."""
    import transformers.utils.hub
    from huggingface_hub import constants, file_download
    from huggingface_hub.utils import (
        _http,
        are_progress_bars_disabled,
        close_session,
        disable_progress_bars,
        enable_progress_bars,
    )

    started = []

    def start(**settings: Any) -> Any:
        hub = _hub_server().LocalHub(**settings).__enter__()
        started.append(hub)
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        return hub

    for name, value in {
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_STORED_TOKENS_PATH": str(tmp_path / "stored_tokens"),
        "HF_HUB_DISABLE_XET": True,  # the server does not speak it
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)  # it remembers the address of its first use
    impatient = SimpleNamespace(**{name: getattr(time, name) for name in ("time", "monotonic", "perf_counter")})
    impatient.sleep = lambda seconds: None  # the client waits longer and longer between attempts
    monkeypatch.setattr(_http, "time", impatient)
    monkeypatch.setattr(file_download, "time", impatient)
    shown = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield start
    finally:
        close_session()
        if shown:
            enable_progress_bars()
        for hub in started:
            hub.__exit__()
            assert not [r.path for r in hub.requests if "xet" in r.path]


@pytest.fixture
def hub(make_hub: Any) -> Any:
    return make_hub()
