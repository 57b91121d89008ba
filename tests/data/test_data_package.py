from __future__ import annotations

import subprocess
import sys

import pixelllm_hf.data


def test_every_listed_name_exists():
    for name in pixelllm_hf.data.__all__:
        assert getattr(pixelllm_hf.data, name) is not None


def test_importing_the_package_imports_neither_torch_nor_datasets():
    code = "import sys, pixelllm_hf.data; print([name for name in ('torch', 'datasets') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
