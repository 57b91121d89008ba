from __future__ import annotations

from pathlib import Path

import pytest

from pixelllm_hf.files import atomic_path, atomic_text


def test_a_file_appears_when_it_is_whole(tmp_path: Path):
    target = tmp_path / "out.txt"
    with atomic_text(target) as file:
        file.write("all")
        assert not target.exists()
    assert target.read_text() == "all"


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    target = tmp_path / "out.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_text(target) as file:
        file.write("half")
        raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_temporary_file_keeps_the_suffix(tmp_path: Path):
    with atomic_path(tmp_path / "picture.png") as temporary:
        assert temporary.suffix == ".png"
        temporary.touch()
