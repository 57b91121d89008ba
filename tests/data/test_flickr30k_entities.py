"""Flickr30k Entities: captions whose words have locations, phrases as expressions and as regions."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from pixelllm_hf.data import AnnotationFileError, BadRecordError, GroundedCollator, ReadReport, read_format
from pixelllm_hf.data.flickr30k_entities import parse_sentence
from pixelllm_hf.data.mixing import undecoded
from pixelllm_hf.data.parquet_shards import prepare_format
from pixelllm_hf.data.prepared_folder import PreparedFolder
from pixelllm_hf.training.sources import SourceConfig, read_source_cached

SENTENCES = {
    "11": [
        "[/EN#1/people A man] throws [/EN#2/other/toys a ball] to [/EN#3/x two dogs] in [/EN#0/notvisual the end] .",
        "A man , [/EN#1/people a man] , a ball .",
    ],
    "12": ["[/EN#7/people A girl] and [/EN#8/people a girl] 's [/EN#9/scene park]", "Nothing is marked ."],
}


def thing(*names: object, box: tuple[int, ...] | None = None, rest: str = "") -> str:
    """An <object> with these names; box: its four sides as the file has them, pixels from 1, last ones inside."""
    sides = "".join(
        f"<{side}>{at}</{side}>" for side, at in zip(("xmin", "ymin", "xmax", "ymax"), box or (), strict=False)
    )
    inside = f"<bndbox>{sides}</bndbox>" if box else ""
    return f"<object>{''.join(f'<name>{name}</name>' for name in names)}{inside}{rest}</object>"


def xml(*objects: str, size: str = "<width>40</width><height>30</height>") -> str:
    return f"<annotation><filename>any.jpg</filename><size>{size}</size>{''.join(objects)}</annotation>"


BOXES = {
    "11": xml(
        thing(1, box=(1, 1, 10, 20)),
        thing(2, box=(11, 3, 14, 6)),
        thing(3, box=(21, 11, 25, 15)),
        thing(3, box=(31, 21, 40, 30)),
    ),
    "12": xml(
        thing(7, box=(1, 1, 5, 5)),
        thing(8, box=(6, 6, 9, 9)),
        thing(9, rest="<scene>1</scene><nobndbox>1</nobndbox>"),
    ),
}


@pytest.fixture
def entities(tmp_path: Path) -> SimpleNamespace:
    """Two images; a split list of the first."""
    root, images = tmp_path / "flickr", tmp_path / "flickr" / "images"
    for folder in ("Sentences", "Annotations", "images"):
        (root / folder).mkdir(parents=True)
    for (name, lines), suffix in zip(SENTENCES.items(), ("webp", "JPG"), strict=True):
        (root / "Sentences" / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        (root / "Annotations" / f"{name}.xml").write_text(BOXES[name], encoding="utf-8")
        Image.new("RGB", (40, 30)).save(images / f"{name}.{suffix}")
    (root / "train.txt").write_text("11\n\n")

    def read(**options):
        return undecoded(read_format("flickr30k_entities", root, images, **options))

    def write(name: str, content: str) -> None:
        (root / name).write_text(content, encoding="utf-8")

    return SimpleNamespace(root=root, images=images, read=read, write=write)


def said(prompt) -> list[tuple[str, list[float] | None]]:
    return [(one["text"], one["box"] if any(one["box"]) else None) for one in prompt["utterances"]]


def test_every_word_of_a_phrase_has_the_box_around_all_boxes_of_its_entity(entities):
    first, second = entities.read()
    assert (first["image_id"], first["task"], first["width"], first["height"]) == ("11", "caption", 40, 30)
    assert first["prompts"][0]["target"] == "A man throws a ball to two dogs in the end."
    assert said(first["prompts"][0]) == [
        ("A man", [0, 0, 10, 20]),
        ("throws", None),
        ("a ball", [10, 2, 14, 6]),
        ("to", None),
        ("two dogs", [20, 10, 40, 30]),
        ("in", None),
        ("the end.", None),
    ]
    assert first["prompts"][0]["point_loss"] and first["prompts"][0]["text_loss"]
    assert second["prompts"][0]["target"] == "A girl and a girl's park"
    assert said(second["prompts"][0])[-2:] == [("a girl's", [5, 5, 9, 9]), ("park", None)]
    assert not second["prompts"][1]["point_loss"] and second["prompts"][1]["utterances"] == []


def test_what_is_known_to_have_no_place_is_told_from_what_nobody_has_drawn(entities, tokenizer):
    rows = entities.read()
    marks = {one["text"]: one["visual"] for one in rows[0]["prompts"][0]["utterances"]}
    assert marks == {
        "A man": True,
        "throws": False,
        "a ball": True,
        "to": False,
        "two dogs": True,
        "in": False,
        "the end.": False,  # entity 0: its annotators found that it cannot be seen
    }
    park = rows[1]["prompts"][0]["utterances"][-1]
    assert park["text"] == "park" and park["visual"] is None  # a scene, which has no box and is there nevertheless
    row = {**rows[1], "image": Image.new("RGB", (40, 30))}
    batch = GroundedCollator(tokenizer, image_size=32, max_prompts=2)([row])
    offsets = tokenizer(row["prompts"][0]["target"], add_special_tokens=False, return_offsets_mapping=True)
    words = ["a girl", "and", "a girl's", "park"]
    ends = [len("A girl"), len("A girl and"), len("A girl and a girl's"), len("A girl and a girl's park")]
    expected = dict(zip(words, (1, 0, 1, -100), strict=True))
    said = [expected[words[sum(end > stop for stop in ends)]] for _, end in offsets["offset_mapping"]]
    assert batch["visual_labels"][0, : len(said)].tolist() == said
    assert (batch["visual_labels"][0, len(said) :] == -100).all()  # the end of the text
    assert (batch["visual_labels"][1] == -100).all()  # a caption without any location


def test_words_outside_phrases_have_no_point_labels_even_where_a_phrase_has_the_same_words(entities, tokenizer):
    row = {**entities.read()[0], "image": Image.new("RGB", (40, 30))}
    row["prompts"] = row["prompts"][1:]
    batch = GroundedCollator(tokenizer, image_size=32)([row])
    offsets = tokenizer(row["prompts"][0]["target"], add_special_tokens=False, return_offsets_mapping=True)
    inside = [7 < end <= len("A man, a man,") for _, end in offsets["offset_mapping"]]
    placed = ~np.isnan(batch["point_labels"][0].flatten(1).numpy()).any(1)
    assert any(inside) and not all(inside)
    assert placed.tolist() == [*inside, False]  # and the end of the text has none
    expected = np.array([0, 0, 10 / 40, 20 / 30], np.float32)
    np.testing.assert_allclose(batch["point_labels"][0].flatten(1).numpy()[placed][0], expected, atol=1e-6)


def test_a_phrase_asks_for_its_boxes_once_and_not_at_all_where_it_names_two_entities(entities):
    report = ReadReport()
    rows = entities.read(task="refer", on_error="skip", report=report)
    assert [(p["target"], p["object_box"]) for p in rows[0]["prompts"]] == [
        ("a man", [0, 0, 10, 20]),
        ("a ball", [10, 2, 14, 6]),
        ("two dogs", [20, 10, 40, 30]),
    ]
    assert len(rows) == 1 and not rows[0]["prompts"][0]["text_loss"]
    assert report.dropped == {"phrase without a box": 2, "ambiguous name": 2, "image without phrases": 1}
    assert report.read == {"images": 2, "captions": 4, "phrases": 8, "boxes": 6}


def test_a_region_s_answer_is_its_phrase(entities):
    rows = entities.read(task="region")
    assert [(p["target"], p["box"]) for p in rows[1]["prompts"]] == [
        ("a girl", [0, 0, 5, 5]),
        ("a girl", [5, 5, 9, 9]),
    ]


def test_a_split_is_any_list_in_the_folder(entities):
    entities.write("mine.txt", "12\n")
    assert [row["image_id"] for row in entities.read(split="train")] == ["11"]
    assert [row["image_id"] for row in entities.read(split="mine")] == ["12"]
    for split in ("val", "../train", "", "Train"):
        with pytest.raises(AnnotationFileError, match="no split .*; it has mine, train"):
            entities.read(split=split)


@pytest.mark.parametrize("line", ["../11", "/etc/passwd", "dog 1", ".", "..", "a\\b", "\0", "11"])
def test_a_line_of_a_list_that_is_no_new_id_is_a_bad_record(entities, line):
    entities.write("train.txt", f"11\n{line}\n12\n")
    report = ReadReport()
    assert len(entities.read(split="train", on_error="skip", report=report)) == 2
    assert sum(report.dropped.values()) == 1
    with pytest.raises(BadRecordError, match=r"train\.txt, line 2"):
        entities.read(split="train")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[/EN#1/people a man walks .", "malformed phrase"),
        ("/EN#1/people a man] walks .", "malformed phrase"),
        ("[/EN#x/people a man] walks .", "malformed phrase"),
        ("[/EN#1 a man] walks .", "malformed phrase"),
        ("[/EN#1/people a [/EN#2/people man]] walks .", "malformed phrase"),
        ("a man] walks", "malformed phrase"),
        ("[/EN#1/people ] walks .", "empty text"),
        ("a" * 20_001, "overlong text"),
    ],
)
def test_a_bad_caption_is_dropped_without_its_neighbours(entities, line, reason):
    entities.write("Sentences/11.txt", f"{line}\n[/EN#1/people A man] .\n")
    report = ReadReport()
    assert [p["target"] for p in entities.read(on_error="skip", report=report)[0]["prompts"]] == ["A man."]
    assert report.dropped == {reason: 1}
    with pytest.raises(BadRecordError, match=r"11\.txt, line 1"):
        entities.read()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (thing(3), "missing key"),
        (thing(3, rest="<nobndbox>0</nobndbox>"), "missing key"),
        (thing(3, rest="<nobndbox>yes</nobndbox>"), "malformed record"),
        (thing(3, box=(1, 2, 3)), "missing key"),
        (thing(3, box=(1, 2, 3, "nan")), "malformed number"),
        (thing(3, box=(1, 2, 3, "1_0")), "malformed number"),
        (thing(3, box=(1, 2, 3, "1e999")), "malformed number"),
        (thing(3, box=(1, 2, 3, "")), "empty text"),
        (thing(3, box=(30, 2, 3, 9)), "box without area"),
        (thing(3, box=(50, 2, 60, 9)), "box without area"),
        (thing(3, box=(1, 2, 3, 4), rest="<bndbox/>"), "malformed record"),
    ],
)
def test_an_entity_of_which_a_box_is_bad_has_no_place(entities, bad, reason):
    entities.write("Annotations/11.xml", BOXES["11"].replace("</annotation>", f"{bad}</annotation>"))
    report = ReadReport()
    prompt = entities.read(on_error="skip", report=report)[0]["prompts"][0]
    assert report.dropped == {reason: 1}
    assert [box for _, box in said(prompt) if box] == [[0, 0, 10, 20], [10, 2, 14, 6]]
    with pytest.raises(BadRecordError, match=r"11\.xml, object 4"):
        entities.read()


BOMB = '<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;">]>'
DEEP = "<annotation>" * 100_000


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (BOMB + BOXES["11"], "document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd">' + BOXES["11"], "document type"),
        (BOXES["11"].replace("any.jpg", "&x;"), "not XML"),
        (DEEP, "malformed record"),
        (BOXES["11"][:-30], "not XML"),
        ("", "not XML"),
        ("[]", "not XML"),
        ('<?xml version="1.0" encoding="klingon"?>' + BOXES["11"], "not XML"),
        ("<html></html>", "malformed record"),
        (xml(size=""), "missing key"),
        (xml(size="<width>0</width><height>30</height>"), "malformed size"),
        (xml(size="<width>4.5</width><height>30</height>"), "malformed size"),
        (BOXES["11"] + " " * (1 << 23), "overlong file"),
        (None, "missing annotations"),
    ],
)
def test_a_bad_xml_file_costs_its_image_alone(entities, content, reason):
    if content is None:
        (entities.root / "Annotations" / "11.xml").unlink()
    else:
        entities.write("Annotations/11.xml", content)
    report = ReadReport()
    assert [row["image_id"] for row in entities.read(on_error="skip", report=report)] == ["12"]
    assert report.dropped == {reason: 1}
    with pytest.raises(BadRecordError, match=r"11\.xml"):
        entities.read()


def test_names_that_are_no_text_cost_their_image_alone(entities):
    bad = entities.root / "Sentences" / os.fsdecode(b"\xff.txt")
    try:
        bad.write_text("A dog .")
    except OSError:
        pytest.skip("file names are Unicode here")
    report = ReadReport()
    assert [row["image_id"] for row in entities.read(on_error="skip", report=report)] == ["11", "12"]
    assert report.dropped == {"wrong encoding": 1}


def test_missing_captions_and_images_cost_their_image_alone(entities):
    (entities.root / "Sentences" / "11.txt").unlink()
    (entities.images / "12.JPG").unlink()
    entities.write("both.txt", "11\n12\n")
    report = ReadReport()
    assert len(entities.read(split="both", on_error="skip", report=report)) == 0
    assert report.dropped == {"missing captions": 1, "missing image": 1}


def test_a_folder_of_another_layout_is_named(entities, tmp_path):
    with pytest.raises(AnnotationFileError, match="no folder 'Sentences', as Flickr30k Entities has"):
        read_format("flickr30k_entities", entities.images, entities.images)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_format("flickr30k_entities", tmp_path / "none", entities.images)


def test_marks_of_other_programs_read_like_the_plain_files(entities):
    expected = [row["prompts"] for row in entities.read()]
    for path in (entities.root / "Sentences").iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    for path in (entities.root / "Annotations").iterdir():
        path.write_text(f'<?xml version="1.0" encoding="utf-16"?>{path.read_text()}', encoding="utf-16")
    (entities.root / "Sentences" / "._11.txt").write_bytes(b"\0")
    assert [row["prompts"] for row in entities.read()] == expected


def test_a_caption_without_marks_is_the_line_itself():
    assert parse_sentence("here", "  A dog , a cat and 3 o'clock ; it 's late ! ") == (
        "A dog, a cat and 3 o'clock; it's late!",
        [],
    )


def test_a_prepared_folder_knows_the_files_in_the_annotations_folder(entities, tmp_path):
    def prepare(out: str) -> list:
        prepare_format("flickr30k_entities", entities.root, entities.images, tmp_path / out, split="train")
        return PreparedFolder.load(tmp_path / out).settings["annotations"]

    first = prepare("one")
    assert [name for name, _ in first] == ["flickr"]
    entities.write("Sentences/12.txt", "Another caption .\n")
    assert prepare("two") != first


def test_a_recipe_reads_again_what_has_changed_inside_the_folder(entities, tmp_path):
    source = SourceConfig("flickr30k_entities", str(entities.root), str(entities.images), split="train")
    before, _ = read_source_cached(source, str(tmp_path / "cache"))
    entities.write("Sentences/11.txt", "Another caption .\n")
    after, _ = read_source_cached(source, str(tmp_path / "cache"))
    assert len(before[0]["prompts"]) == 2
    assert [prompt["target"] for prompt in after[0]["prompts"]] == ["Another caption."]
