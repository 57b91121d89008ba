"""Compare our convolutional towers, with their published weights, with the same weights run by onnxruntime.

python scripts/check_towers.py --efficientnet_lite efficientnet_lite0_imagenet.safetensors --yolox yolox_nano.onnx

Prints the largest deviation of every map as a share of its range; exit code 1 if one is beyond 1e-3. Needs onnxruntime.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pixelllm_hf.conversion.onnx_file import OnnxFileError
from pixelllm_hf.conversion.parity.towers import efficientnet_lite_deviations, yolox_deviations
from pixelllm_hf.conversion.towers import TowerWeightsError

TOLERANCE = 1e-3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--efficientnet_lite", type=Path, metavar="FILE", help="safetensors file of Lite0")
    parser.add_argument("--yolox", type=Path, metavar="FILE", help="ONNX file of Nano")
    args = parser.parse_args()
    if args.efficientnet_lite is None and args.yolox is None:
        parser.error("give --efficientnet_lite, --yolox or both")

    within = True
    for name, path, compare in (
        ("EfficientNet-Lite0", args.efficientnet_lite, efficientnet_lite_deviations),
        ("YOLOX-Nano", args.yolox, yolox_deviations),
    ):
        if path is None:
            continue
        try:
            deviations = compare(path)
        except (OSError, OnnxFileError, TowerWeightsError) as error:
            parser.error(str(error))
        for of, deviation in deviations.items():
            print(f"{name:20} {of:14} {deviation:.1e}")
        within = within and max(deviations.values()) <= TOLERANCE
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
