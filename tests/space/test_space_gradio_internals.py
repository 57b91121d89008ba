"""Another gradio than the demo was made for is noticed, instead of being served with a hole in it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from pixelllm_hf.cli import WRONG_USAGE, main
from pixelllm_hf.space.gradio_internals import UnknownGradioError, internal

gr = pytest.importorskip("gradio", reason="needs gradio: pip install pixelllm-hf[demo]")


def test_what_is_there_is_given():
    assert internal(SimpleNamespace(_queue=7), "_queue") == 7


def test_what_gradio_has_renamed_is_named_with_both_versions():
    with pytest.raises(UnknownGradioError, match=rf"gradio 6\.31, but {gr.__version__} .* no Blocks\._gone") as raised:
        internal(gr.Blocks, "_gone")
    assert "pip install" in str(raised.value)


def test_a_page_is_not_made_where_its_inputs_could_not_be_sealed(monkeypatch: pytest.MonkeyPatch):
    from pixelllm_hf.space.local_files_only import LocalFilesOnlyBlocks

    monkeypatch.delattr(gr.Blocks, "preprocess_data")
    with pytest.raises(UnknownGradioError, match="preprocess_data"):
        LocalFilesOnlyBlocks()


def test_the_command_says_so_and_serves_nothing(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.delattr(gr.Blocks, "preprocess_data")
    assert main(["demo", "--device", "cpu"]) == WRONG_USAGE
    printed = capsys.readouterr()
    assert "made for gradio" in printed.err and "http://" not in printed.out


def test_a_server_whose_tools_cannot_be_made_to_speak_json_is_taken_down(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("mcp", reason="needs mcp: pip install pixelllm-hf[demo]")
    from gradio.mcp import GradioMCPServer

    from pixelllm_hf.space.launching import start_demo

    closed = []
    close = gr.Blocks.close
    monkeypatch.setattr(gr.Blocks, "close", lambda self, verbose=True: (closed.append(1), close(self, verbose)))
    monkeypatch.delattr(GradioMCPServer, "postprocess_output_data")
    with pytest.raises(UnknownGradioError, match="postprocess_output_data"):
        start_demo(["tiny"], device="cpu", host="127.0.0.1", quiet=True)
    assert closed
