"""`python -m pixelllm_hf` is the command `pixelllm`; `accelerate launch -m pixelllm_hf` has it in several processes."""

import sys

from pixelllm_hf.cli import main

if __name__ == "__main__":
    sys.exit(main())
