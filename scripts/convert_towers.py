"""Published weights of vision towers -> one safetensors file with the names of a whole model.

python scripts/convert_towers.py --model photo --out towers.safetensors \\
    --weights efficientnet_lite=efficientnet_lite0_imagenet.safetensors yolox=yolox_nano.onnx

A recipe starts from it with `model.weights: [towers.safetensors]`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from pixelllm_hf.conversion.onnx_file import OnnxFileError
from pixelllm_hf.conversion.towers import TowerWeightsError, tower_tensors
from pixelllm_hf.training.build_model import model_config
from pixelllm_hf.training.config import ConfigError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, metavar="NAME", help="preset or checkpoint folder with the towers")
    parser.add_argument("--weights", required=True, nargs="+", metavar="TOWER=FILE", help="files of the towers")
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="safetensors file to write")
    args = parser.parse_args()

    files = dict(pair.partition("=")[::2] for pair in args.weights)
    try:
        vision: Any = model_config(args.model).vision_config
        tensors = tower_tensors(vision, files)
    except (ConfigError, OSError, OnnxFileError, TowerWeightsError) as error:
        parser.error(str(error))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, args.out, metadata={"format": "pt"})
    print(f"{args.out}: {len(tensors)} tensors of {', '.join(files)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
