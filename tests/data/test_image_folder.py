"""Images by the names that annotation files use, and whether they are the annotated ones."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from pixelllm_hf.data import BadRecordError, ReadReport, read_format
from pixelllm_hf.data.image_folder import ImageFolder, shape_problem


def save(path, size=(60, 40), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["7.jfif", "7.JPG", "7.webp", "7.bmp", "7.tif", "000000000007.jpe", "7.png", "7"])
def test_an_id_is_found_with_every_suffix_that_can_be_read(tmp_path, name):
    path = save(tmp_path / name, format="PNG")
    assert ImageFolder(tmp_path).find("here", 7) == path
    assert ImageFolder(tmp_path, check=True).find("here", "7", size_wh=(60, 40)) == path


@pytest.mark.parametrize(
    ("listed", "there"),
    [
        ("coco/train2017/1.jpg", "train2017/1.jpg"),
        ("coco/train2017/1.jpg", "1.jpg"),
        ("coco\\train2017\\1.jpg", "coco/train2017/1.jpg"),
        ("/data/coco/1.jpg", "coco/1.jpg"),
        ("http://images.cocodataset.org/train2017/1.jpg", "train2017/1.jpg"),
        ("https://example.org/a%20b/1.jpg?size=3#x", "a b/1.jpg"),
        ("COCO_train2014_000000000001.jpg", "000000000001.jpg"),
        ("../../1.jpg", "1.jpg"),
    ],
)
def test_a_listed_name_is_found_as_it_is_or_without_its_first_folders(tmp_path, listed, there):
    path = save(tmp_path / "images" / there)
    assert ImageFolder(tmp_path / "images").find("here", "no id", listed) == path


def test_a_file_outside_the_folder_is_not_found(tmp_path):
    save(tmp_path / "secret.png")
    save(tmp_path / "images" / "other.png")
    for name in ("../secret.png", str(tmp_path / "secret.png"), "file://" + str(tmp_path / "secret.png")):
        with pytest.raises(BadRecordError, match="no file for image"):
            ImageFolder(tmp_path / "images").find("here", "../secret", name)


@pytest.mark.parametrize("name", [7, True, [], {}, "a\0b", "\ud800.png", "x" * 30_000])
def test_what_is_no_name_is_refused(tmp_path, name):
    with pytest.raises(BadRecordError):
        ImageFolder(tmp_path).find("here", 1, name)


def test_equal_names_in_two_folders_are_not_one_image(tmp_path):
    save(tmp_path / "1.jpg")
    folder = ImageFolder(tmp_path)
    folder.find("record 0", 1, "a/1.jpg")
    folder.find("record 1", 1, "data/a/1.jpg")
    with pytest.raises(BadRecordError, match=r"record 2: '1\.jpg' was found for 'a/1\.jpg' and for 'b/1\.jpg'"):
        folder.find("record 2", 2, "b/1.jpg")


def test_visual_genome_is_read_as_its_two_archives_unpack(squares, tmp_path):
    about = json.loads(squares.image_data.read_text())
    for index, folder in enumerate(["VG_100K", "VG_100K_2", "VG_100K", "VG_100K_2"]):
        number = about[index]["image_id"]
        save(tmp_path / "vg" / folder / f"{number}.jpg", (about[index]["width"], about[index]["height"]))
        about[index]["url"] = f"https://cs.stanford.edu/people/rak248/{folder}/{number}.jpg" if index < 2 else ""
        about[index]["id"] = about[index].pop("image_id")  # as version 1.0 has it
    rows = read_format("visual_genome", squares.regions, tmp_path / "vg", companion=squares.dump("d.json", about))
    assert rows["image_id"][:] == ["1", "2", "3", "4"]


def test_lvis_names_its_images_by_their_url(squares):
    content = json.loads(squares.instances.read_text())
    for image in content["images"]:
        image["coco_url"] = "http://images.cocodataset.org/train2017/" + image.pop("file_name")
    assert len(read_format("coco_instances", squares.dump("i.json", content), squares.images)) == 4


def test_annotations_of_the_frame_before_rotation_are_bad_records_when_images_are_checked(squares):
    turned = Image.Exif()
    turned[0x0112] = 6
    with Image.open(squares.images / "000000000001.png") as image:
        size = image.size
    Image.new("RGB", size).save(squares.images / "000000000001.png", exif=turned.tobytes())
    for name, path, companion in [
        ("coco_captions", squares.captions, None),
        ("coco_instances", squares.instances, None),
        ("grit", squares.captions, None),
        ("referring_expressions", squares.refs, squares.instances),
        ("visual_genome", squares.regions, squares.image_data),
    ]:
        if name == "grit":
            content = json.loads(squares.instances.read_text())
            for thing in content["annotations"]:
                thing["caption"] = "a square"
            path = squares.dump("grit.json", content)
        report = ReadReport()
        options = {"companion": companion, "on_error": "skip", "check_images": True, "report": report}
        assert read_format(name, path, squares.images, **options)["image_id"][:] == ["2", "3", "4"]
        assert report.dropped == {"image of another shape": 1}
        assert "EXIF" in report.first["image of another shape"]


def test_a_resized_copy_is_the_annotated_image():
    assert shape_problem("a.jpg", (320, 213), (640, 427)) is None
    assert "EXIF" in str(shape_problem("a.jpg", (427, 640), (640, 427)))
    assert "EXIF" not in str(shape_problem("a.jpg", (500, 500), (640, 427)))
