"""Write the parts of a model that see, and compare them with the plain model.

python scripts/export_onnx.py --model tiny --out exported/tiny

Writes vision.onnx (pixels to the fused map) and prompt.onnx (map and box to visual tokens), of a PixelLM vision.onnx
alone (pixels to the image's tokens and the decoder's maps), and prints the largest difference of each output as a share
of its range; exit code 1 if one is beyond 1e-3, as of converted towers: square roots of a detector's smallest
probabilities make much of a rounding.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pixelllm_hf.conversion.exported_parts import ExportError, exported, program_differences, write_onnx
from pixelllm_hf.extras import MissingExtraError
from pixelllm_hf.inference import EMBEDDED, Captioner, ModelError

TOLERANCE = 1e-3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=EMBEDDED, help="folder or hub id; or the name of an embedded one")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make")
    args = parser.parse_args()
    try:
        model = Captioner.load(args.model, "cpu", "float32", {}).model
        found = {"torch.export": program_differences(model, exported(model)), "ONNX": write_onnx(model, args.out)}
    except (ExportError, MissingExtraError, ModelError, FileExistsError) as error:
        sys.exit(f"error: {error}")
    for way, differences in found.items():
        for output, difference in differences.items():
            print(f"{way:13} {output:14} {difference:.1e}")
    for file in sorted(args.out.iterdir()):
        print(f"{file} {file.stat().st_size / 1e6:.1f} MB")
    return int(max(max(differences.values()) for differences in found.values()) > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
