from __future__ import annotations

import collections
import json
import pickle
from pathlib import Path

import pytest

from pixelllm_hf.data.grounded_examples import GROUNDED_FEATURES, BadRecordError, ReadReport
from pixelllm_hf.data.referring_expressions import load_plain_pickle, read_referring_expressions


class _Runs:
    """Unpickling this would touch a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_the_expression_is_question_and_decoder_text_without_text_loss(squares):
    rows = read_referring_expressions(squares.refs, squares.instances, squares.images)
    assert rows.features == GROUNDED_FEATURES
    prompt = rows[0]["prompts"][0]
    assert (prompt["context"], prompt["target"]) == ("where is the red square", "the red square")
    assert prompt["object_box"] == squares.boxes[0]
    assert prompt["box"] is None
    assert prompt["point_loss"] and not prompt["text_loss"]


def test_the_official_pickle_reads_like_the_json(squares):
    from_json = read_referring_expressions(squares.refs, squares.instances, squares.images)
    from_pickle = read_referring_expressions(squares.pickled_refs, squares.instances, squares.images)
    assert from_pickle["prompts"][:] == from_json["prompts"][:]


def test_a_split_is_kept_alone(squares):
    rows = read_referring_expressions(squares.refs, squares.instances, squares.images, split="val")
    assert rows["image_id"][:] == ["4"]


def test_a_pickle_that_would_run_code_is_refused_before_it_runs(tmp_path):
    target, path = tmp_path / "touched", tmp_path / "refs.p"
    path.write_bytes(pickle.dumps([{"ref": _Runs(target)}], protocol=2))
    with pytest.raises(pickle.UnpicklingError, match=r"refs\.p: refused to load"):
        load_plain_pickle(path)
    assert not target.exists()


@pytest.mark.parametrize("value", [collections.OrderedDict(a=1), bytearray(3), print, Path("x")])
def test_anything_but_plain_containers_is_refused_and_named(tmp_path, value):
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(value, protocol=2))
    with pytest.raises(pickle.UnpicklingError, match="refused to load"):
        load_plain_pickle(path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_containers_and_scalars_survive(tmp_path, protocol):
    content = [{"a": (1, 2.5, True, None, "ü"), "s": {1, 2}, "f": frozenset({3}), "big": 10**30}]
    path = tmp_path / "refs.p"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    assert load_plain_pickle(path) == content


def test_a_pickle_cut_short_is_named(tmp_path, squares):
    path = tmp_path / "cut.p"
    path.write_bytes(squares.pickled_refs.read_bytes()[:60])
    with pytest.raises(pickle.UnpicklingError, match=r"cut\.p"):
        load_plain_pickle(path)


def test_bad_references_are_dropped_and_counted(squares):
    refs = json.loads(squares.refs.read_text())
    refs[0]["ann_id"] = 999
    refs[1]["sentences"].append({"sent": " ", "raw": ""})
    refs[2]["image_id"] = 77
    path = squares.dump("bad.json", refs)
    report = ReadReport()
    rows = read_referring_expressions(path, squares.instances, squares.images, on_error="skip", report=report)
    assert rows["image_id"][:] == ["2", "4"]
    assert report.dropped == {"missing annotation": 1, "no expressions": 1, "empty text": 1, "missing image": 1}
    with pytest.raises(BadRecordError, match=r"bad\.json, ref 0"):
        read_referring_expressions(path, squares.instances, squares.images)
