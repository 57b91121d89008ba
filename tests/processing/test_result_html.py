from __future__ import annotations

from html.parser import HTMLParser

import numpy as np

from pixelllm_hf import GroundedCaption, GroundedWord


class Balanced(HTMLParser):
    """Collects the text, and fails where tags do not close in order."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.said = ""
        self.tags: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.said += data


def test_a_notebook_shows_the_text_and_a_mark_for_every_word_with_a_point():
    words = (
        GroundedWord("a", 0, 1),
        GroundedWord("<b>", 2, 5, (10.0, 20.0), (5.0, 10.0, 15.0, 30.0), 0.5),
        GroundedWord("ball", 6, 10, (30.5, 20.25), (30.5, 20.25, 30.5, 20.25)),
    )
    page = Balanced(GroundedCaption("a <b> ball & 'more'", words, (64, 48))._repr_html_())
    assert page.said.startswith("a <b> ball & 'more'")
    circles = [attrs for tag, attrs in page.tags if tag == "circle"]
    assert [(c["cx"], c["cy"]) for c in circles] == [("10.0", "20.0"), ("30.5", "20.2")]
    frame = next(attrs for tag, attrs in page.tags if tag == "svg")
    assert frame["viewbox"] == "0 0 64 48"


def test_a_notebook_shows_box_mask_and_their_scores():
    mask = np.zeros((48, 64), bool)
    mask[10:20, 10:30] = True
    thing = GroundedCaption("a dog", (), (64, 48), box=(10.0, 10.0, 30.0, 20.0), box_score=0.75, mask=mask)
    page = Balanced(thing._repr_html_())
    assert "mask 200 pixels" in page.said and "box score 0.75" in page.said
    (box,) = (attrs for tag, attrs in page.tags if tag == "rect")
    assert (box["x"], box["width"], box["height"]) == ("10.0", "20.0", "10.0")
    assert sum(tag == "polygon" for tag, _ in page.tags) == 1
