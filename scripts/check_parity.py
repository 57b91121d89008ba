"""Compare our modules with the official implementation, file by file, on its golden tensors.

python scripts/check_parity.py --golden golden/pixelllm --json parity.json   # a whole set
python scripts/check_parity.py --golden tests/golden/pixelllm                # the committed one, seconds
python scripts/check_parity.py --golden tests/golden/pixellm                 # PixelLM's: by the folder's name

Exit code 1 if anything is beyond tolerance: 1e-4 of an output's range for floats, 1e-3 for gradients, equality for
integers and masks. `--strict` also fails on outputs that are not covered yet.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from pixelllm_hf.conversion.parity.report import check_directory, passed, table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--golden", type=Path, required=True, metavar="DIR", help="folder of golden *.safetensors files"
    )
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="check these files only, e.g. sam_vit")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every number to this file")
    parser.add_argument("--strict", action="store_true", help="outputs that are not covered yet are failures")
    args = parser.parse_args()

    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        reports = check_directory(args.golden, only=args.only)
    except ValueError as error:
        parser.error(str(error))
    print(table(reports))
    if args.json:
        args.json.write_text(json.dumps([report.to_dict() for report in reports], indent=1) + "\n", encoding="utf-8")
    return 0 if passed(reports, strict=args.strict) else 1


if __name__ == "__main__":
    sys.exit(main())
