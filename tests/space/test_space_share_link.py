from __future__ import annotations

from urllib.parse import parse_qsl

import pytest

from pixelllm_hf.space.limits import Limits
from pixelllm_hf.space.refusals import RefusedError
from pixelllm_hf.space.share_link import SharedView, read_query

LIMITS = Limits(letters=40)


def read(query: str) -> SharedView | None:
    return read_query(parse_qsl(query.removeprefix("?"), keep_blank_values=True), LIMITS)


@pytest.mark.parametrize(
    "view",
    [
        SharedView(example="scene"),
        SharedView(example="duck", task="segment", prompt="the duck & <b>me</b> = 100 % ü\n"),
        SharedView(example="my-scene_2", task="region", box=(1.5, 2.0, 300.0, 99999.0), beams=4, model="org/m (2)"),
        SharedView(example="scene", task="region", point=(0.0, 7.1)),
    ],
)
def test_a_link_brings_back_what_it_was_made_of(view):
    assert read(view.query()) == view


def test_an_address_without_anything_of_ours_asks_nothing():
    assert read("") is None
    assert read("?__theme=dark&__sign=abc") is None


@pytest.mark.parametrize(
    "query",
    [
        "?task=refer&task=dense",
        "?file=/etc/passwd",
        "?example=../../etc/passwd",
        "?example=" + "x" * 65,
        "?picture=" + "0" * 64,
        "?example=a&task=<script>",
        "?example=a&prompt=" + "x" * 41,
        "?example=a&box=1,2,3",
        "?example=a&box=1,2,3,nan",
        "?example=a&box=1,2,3,1e9",
        "?example=a&point=1,2,3",
        "?example=a&beams=0",
        "?example=a&beams=99",
        "?example=a&beams=²",
    ],
)
def test_anything_else_in_a_link_is_refused(query):
    with pytest.raises(RefusedError):
        read(query)
