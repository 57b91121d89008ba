"""The Space: serves the demo of the models that PIXELLLM_MODEL names, or of the embedded one.

python demo/app.py
"""

from __future__ import annotations

from pathlib import Path

from pixelllm_hf.space.launching import default_models, end_in_order, start_demo

if __name__ == "__main__":
    end_in_order()
    start_demo(default_models(), examples=Path(__file__).parent / "examples").wait()
