"""Metadata of the package; the tools' settings are in pyproject.toml."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'^__version__ = "(.+)"$', (HERE / "src/pixelllm_hf/__init__.py").read_text("utf-8"), re.M)
assert VERSION is not None

DEMO = ["gradio[mcp]>=6.31,<7"]
TRAIN = ["accelerate>=1.15", "datasets>=5.2", "peft>=0.21"]
METRICS = ["accelerate>=1.15", "datasets>=5.2", "evaluate>=0.4.6"]
EVAL = [*METRICS, "pycocoevalcap>=1.2"]  # METEOR's data and, with Java, the official scorers
INT8 = ["accelerate>=1.15", "torchao>=0.18"]
ONNX = ["onnx>=1.23", "onnxruntime>=1.20", "onnxscript>=0.7"]
SAM = ["segment-anything"]
SUPERVISION = ["supervision>=0.26"]
DEV = [
    *DEMO,
    *TRAIN,
    *METRICS,
    *ONNX,
    "ipykernel>=7.0",
    "mkdocs-material>=9.7",
    "mkdocstrings[python]>=1.0",
    "mypy>=2.0",
    "nbclient>=0.10",
    "nbformat>=5.10",
    "playwright>=1.60",
    "pycocotools>=2.0.8",
    "pytest>=9.0",
    "pytest-xdist>=3.8",
    "ruff>=0.17",
    "scipy>=1.14",
    "segment-anything",  # whose own modules assembled models are held to
    "sentencepiece>=0.2",
    "tensorboard>=2.20",
    "types-PyYAML",
    "types-tqdm",
]

setup(
    name="pixelllm-hf",
    version=VERSION[1],
    description="PixelLLM for the Hugging Face ecosystem: captions with a pixel location for every word",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "src/pixelllm_hf/data/scenes/objects/NOTICE"],
    python_requires=">=3.11",
    package_dir={"": "src"},
    packages=find_packages("src"),
    package_data={"pixelllm_hf": ["checkpoints/*/*", "data/scenes/objects/*", "py.typed", "space/viewer_assets/*"]},
    install_requires=[
        "huggingface_hub>=2.4",
        "numpy>=2.0",
        "pillow>=12.0",
        "pyyaml>=6.0",
        "safetensors>=0.8",
        "tokenizers>=0.23",
        "torch>=2.13",
        "tqdm>=4.67",
        "transformers>=5.24,<6",
    ],
    extras_require={
        "demo": DEMO,
        "train": TRAIN,
        "eval": EVAL,
        "int8": INT8,
        "onnx": ONNX,
        "sam": SAM,
        "supervision": SUPERVISION,
        "dev": DEV,
    },
    entry_points={"console_scripts": ["pixelllm=pixelllm_hf.cli:main"]},
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
