from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pixelllm_hf.files import atomic_path, atomic_text, claim, is_stream


def write(target: Path, text: str = "all") -> None:
    with atomic_text(target) as file:
        file.write(text)


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
    with atomic_path(tmp_path / "image.png") as temporary:
        assert temporary.suffix == ".png"
        temporary.touch()


def test_two_writers_of_one_file_do_not_touch_each_others_work(tmp_path: Path):
    target = tmp_path / "out.txt"
    with atomic_text(target) as first:
        first.write("first")
        write(target, "second")
        assert target.read_text() == "second"
    assert target.read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]


def test_a_name_as_long_as_the_file_system_takes_it_can_be_written(tmp_path: Path):
    for name in ("x" * 250 + ".json", "x." + "y" * 250, "é" * 120 + ".json"):
        write(tmp_path / name)
        assert (tmp_path / name).read_text() == "all"


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(Path("data", "real.txt"))
    (tmp_path / "second.txt").symlink_to("link.txt")
    write(tmp_path / "second.txt")
    assert (tmp_path / "data" / "real.txt").read_text() == "all"
    assert (tmp_path / "second.txt").is_symlink() and (tmp_path / "link.txt").is_symlink()
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "data" / "new.txt")
    write(tmp_path / "dangling.txt")
    assert (tmp_path / "data" / "new.txt").read_text() == "all"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        write(tmp_path / "loop")


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path):
    target = tmp_path / "secret.txt"
    target.touch(mode=0o600)
    write(target)
    assert target.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_is_written_through_and_stays_a_pipe(tmp_path: Path, linked: bool):
    pipe = target = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    if linked:
        target = tmp_path / "link.txt"
        target.symlink_to(pipe)
    for way in (atomic_text, atomic_path):
        read: list[str] = []
        reader = threading.Thread(target=lambda read=read: read.append(pipe.read_text()))
        reader.start()
        with way(target) as opened:
            (opened.write if way is atomic_text else opened.write_text)("all")
        reader.join(timeout=60)
        assert read == ["all"] and pipe.is_fifo()
    assert sorted(tmp_path.iterdir()) == sorted({pipe, target})


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="the system has no such device")
def test_devices_and_standard_output_are_streams_under_every_name(tmp_path: Path):
    (tmp_path / "link").symlink_to("/dev/null")
    write(tmp_path / "link")
    assert Path("/dev/null").is_char_device() and (tmp_path / "link").is_symlink()
    assert is_stream("/dev/null") and is_stream("/dev/stdout") and is_stream("/dev/fd/1")
    assert not is_stream(tmp_path / "nothing.txt") and not is_stream(tmp_path)


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="the system has no such device")
def test_what_standard_output_has_is_not_written_over(tmp_path: Path):
    program = (
        "from pixelllm_hf.files import atomic_text\nprint('before', flush=True)\n"
        "with atomic_text('/dev/stdout') as file: file.write('within\\n')\nprint('after')"
    )
    with open(tmp_path / "out.txt", "w") as file:
        subprocess.run([sys.executable, "-c", program], stdout=file, check=True, timeout=120)
    assert (tmp_path / "out.txt").read_text() == "before\nwithin\nafter\n"


def test_a_folder_is_refused_before_anything_is_written(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write(tmp_path / "folder")


def test_a_claimed_file_cannot_be_claimed_again_until_it_is_closed(tmp_path: Path):
    pytest.importorskip("fcntl", reason="the system has no such locks")
    with open(tmp_path / "out.txt", "w") as first, open(tmp_path / "out.txt", "a") as second:
        claim(first)
        with pytest.raises(BlockingIOError):
            claim(second)
        first.close()
        claim(second)
