"""Which image goes into which TFRecord file, and the lists that come with a data set."""

import os

import image_files
import numpy as np
import pytest
from tfrecord_folders import make_source, write_lines

from ascend_keras.data import name_lists, plan


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("photographs"))


def test_plan_is_a_permutation_by_seed_cut_into_even_shards(photographs):
    source, files = photographs
    planned = plan.make(source, shards=5, seed=7)
    order = np.random.RandomState(7).permutation(12)
    expected = [sorted(files)[index] for index in order]
    assert [row[0] for row in planned["files"]] == expected
    shards = [plan.shard_of(planned, number) for number in range(5)]
    assert [len(shard) for shard in shards] == [2, 2, 3, 2, 3]
    assert [file.path for shard in shards for file in shard] == expected
    assert plan.shard_name(planned, 3) == "train-00003-of-00005"


def test_shards_are_of_128_megabytes_unless_asked_otherwise(photographs):
    source, _ = photographs
    assert plan.make(source)["shards"] == 1
    large = [plan.File("", 100 * 2**20, 0, 0)] * 4
    assert plan._shard_count(None, large) == 4  # 400 MB need 3.125
    assert plan._shard_count(None, large * 1000) == 1024


def test_plan_names_all_that_is_wrong_with_a_folder(tmp_path):
    image_files.make_photographs(tmp_path, classes=1, per_class=1)
    (tmp_path / "loose.jpg").write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError) as caught:
        plan.make(str(tmp_path))
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("1 images are in no class folder, such as loose.jpg.")
    assert lines[1].startswith("1 classes have no images: empty.")


@pytest.mark.parametrize("make, message", [(False, "There is no such folder."), (True, "There are no images")])
def test_plan_of_no_images(tmp_path, make, message):
    folder = tmp_path / "source"
    if make:
        folder.mkdir()
    with pytest.raises(ValueError, match=message):
        plan.make(str(folder))


def test_more_shards_than_images(photographs):
    with pytest.raises(ValueError, match="There cannot be more shards than images. Received: shards=13, images=12."):
        plan.make(photographs[0], shards=13)


def test_classes_come_from_a_file_with_words(tmp_path):
    lines = ["n01440764 tench, Tinca tinca", "coffee\ta cup, hot", "astronaut", "chelsea"]
    names, texts = name_lists.read_classes(write_lines(tmp_path / "classes.txt", lines))
    assert names == ["n01440764", "coffee", "astronaut", "chelsea"]
    assert texts == ["tench, Tinca tinca", "a cup, hot", "", ""]
    assert name_lists.read_classes(write_lines(tmp_path / "bare.txt", ["two words", "b"])) == (["two words", "b"], [])


@pytest.mark.parametrize("lines, message", [(["a", "b", "a"], "names classes twice: a"), ([], "is empty")])
def test_lists_of_classes_that_are_none(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        name_lists.read_classes(write_lines(tmp_path / "classes.txt", lines))


def test_classes_that_the_list_lacks(tmp_path):
    listed = write_lines(tmp_path / "classes.txt", ["chelsea"])
    image_files.make_photographs(tmp_path / "s", classes=2, per_class=1, names=["chelsea", "other"])
    with pytest.raises(ValueError, match="1 classes of the images are not in the list of classes: other."):
        plan.make(str(tmp_path / "s"), classes=listed)


FLAT = ["val_1.JPEG", "val_2.JPEG", "val_3.JPEG"]


@pytest.mark.parametrize(
    "lines, table, expected",
    [
        (["val_3.JPEG dog", "val_1.JPEG cat", "val_2.JPEG cat"], None, ["cat", "cat", "dog"]),
        (["val_1,cat", "val_2,dog", "val_3,cat"], None, ["cat", "dog", "cat"]),
        (["dog", "cat", "cat"], None, ["dog", "cat", "cat"]),
        (["val_1.JPEG 0", "val_2.JPEG 1", "val_3.JPEG 0"], ["dog", "cat"], ["dog", "cat", "dog"]),
        (["7", "5", "7"], ["5", "7"], ["7", "5", "7"]),
        (["val_1.JPEG\tmy cat", "val_2.JPEG\t\tdog", "val_3.JPEG\tdog"], None, ["my cat", "dog", "dog"]),
        (["val_1, my cat", "val_2,dog", "val_3 ,dog"], None, ["my cat", "dog", "dog"]),
        (["val_1 cat", "val_2 dog", "val_1 cat", "val_3 dog"], None, ["cat", "dog", "dog"]),
    ],
)
def test_labels_from_a_file(tmp_path, lines, table, expected):
    assert name_lists.labels_from_file(write_lines(tmp_path / "labels.txt", lines), FLAT, table) == expected


@pytest.mark.parametrize(
    "lines, table, message",
    [
        (["val_1.JPEG cat", "val_2.JPEG cat"], None, "1 images have no label, such as val_3.JPEG."),
        (["cat", "dog"], None, "There must be a label for each image. .* with 2 lines, 3 images."),
        (
            ["val_1.JPEG 65", "val_2.JPEG 970", "val_3.JPEG 1"],
            None,
            "The labels are numbers, and nothing says of what.",
        ),
        (["0", "1", "2"], ["cat", "dog"], "count the 2 classes from 0 on, and 2 is too large"),
        (["val_1.JPEG a b", "val_2.JPEG a", "val_3.JPEG a"], None, "1 images have no label, such as val_1.JPEG."),
        (["val_1.JPEG\ta", "val_2.JPEG\ta\tb", "val_3.JPEG\ta"], None, "labels.txt', line 2"),
        (["val_1,a", "val_2,a", "val_3,a,b"], None, "labels.txt', line 3"),
        (
            ["val_1 a", "val_2 b", "val_1 b", "val_3 a"],
            None,
            "1 names have two labels, such as val_1. Received: ",
        ),
        (["val_1 a\0"], None, "The file is no text in UTF-8."),
        ([], None, "an empty file"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, lines, table, message):
    with pytest.raises(ValueError, match=message):
        name_lists.labels_from_file(write_lines(tmp_path / "labels.txt", lines), FLAT, table)


def test_names_of_files_with_blanks_and_of_any_bytes(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(b"my cat.jpg a\ncaf\xe9.jpg b\n")
    files = sorted(["my cat.jpg", os.fsdecode(b"caf\xe9.jpg")])
    assert name_lists.labels_from_file(str(path), files) == ["b", "a"]
    path.write_bytes(b"caf\xe9.jpg,0,0,1,1\n")
    assert name_lists.read_boxes(str(path)) == {files[0]: [(0.0, 0.0, 1.0, 1.0)]}


# --- which image a name means ----------------------------------------------------------------------------------------


def in_folders(*names):
    return [name.replace("/", os.sep) for name in names]


@pytest.mark.parametrize(
    "given, expected",
    [
        (["1.jpg", "2"], {"2.jpg": "2", "1.jpg": "1.jpg"}),
        (["a/1.jpg", "b/1"], {"a/1.jpg": "a/1.jpg", "b/1.jpg": "b/1"}),
        (["3.jpg"], {"a/3.jpg": "3.jpg"}),
        (["3"], {"a/3.jpg": "3"}),
        (["3", "a/3.jpg"], {"a/3.jpg": "a/3.jpg"}),
        (["1.jpg"], {"1.jpg": "1.jpg"}),  # the path of one image is not taken for the name of another
        (["4.jpg"], {}),
    ],
)
def test_names_mean_a_path_or_a_file_that_is_the_only_one_of_its_name(given, expected):
    files = in_folders("1.jpg", "2.jpg", "a/1.jpg", "a/3.jpg", "b/1.jpg")
    names = name_lists.match_names(in_folders(*given), files, "")
    assert names == dict(zip(in_folders(*expected), in_folders(*expected.values())))


@pytest.mark.parametrize("given", [["1.jpg"], ["1"], ["a/1.jpg", "1.jpg"], ["c/1", "a/1.jpg", "b/1.jpg"]])
def test_a_name_of_several_images_is_refused(given):
    files = in_folders("a/1.jpg", "b/1.jpg", "c/1.jpg", "c/1.png")
    with pytest.raises(ValueError) as caught:
        name_lists.match_names(in_folders(*given), files, "boxes='b.csv'")
    text = str(caught.value)
    name = given[0] if given[0] != "a/1.jpg" else "1.jpg"
    images = {
        "1.jpg": "a/1.jpg, b/1.jpg, c/1.jpg",
        "1": "a/1.jpg, b/1.jpg, c/1.jpg, c/1.png",
        "c/1": "c/1.jpg, c/1.png",
    }
    assert text == (
        "1 names are those of several images, such as {}: {}. Received: boxes='b.csv'. Give paths below the "
        "source.".format(name, images[name])
    )


def test_labels_of_images_with_the_same_name_in_two_folders(tmp_path):
    files = in_folders("a/1.jpg", "b/1.jpg")
    listed = write_lines(tmp_path / "labels.txt", ["b/1.jpg dog", "a/1.jpg cat"])
    assert name_lists.labels_from_file(listed, files) == ["cat", "dog"]
    listed = write_lines(tmp_path / "labels.txt", ["1.jpg dog"])
    with pytest.raises(ValueError, match="1 names are those of several images, such as 1.jpg: a/1.jpg, b/1.jpg."):
        name_lists.labels_from_file(listed, files)


# --- names of classes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a\nb", "a\tb", " a", "a ", "a\rb"])
def test_classes_that_a_list_cannot_hold_are_refused_by_name(tmp_path, name):
    image_files.make_photographs(tmp_path, classes=2, per_class=1, names=[name, "fine"])
    with pytest.raises(ValueError) as caught:
        plan.make(str(tmp_path))
    assert str(caught.value) == (
        "1 names of classes have line breaks, tabs, or blanks at their ends, which a list of classes cannot hold: "
        "{!r}. Received: source={!r}. Rename them.".format(name, str(tmp_path))
    )


@pytest.mark.parametrize("name", ["two words", "n01440764", "n01440764 tench", "caf\u00e9", "a\\nb"])
@pytest.mark.parametrize("text", ["", "a cup, hot"])
def test_lines_of_classes_are_read_back(tmp_path, name, text):
    path = tmp_path / "classes.txt"
    path.write_text(name_lists.class_line(name, text) + "\nother\n", encoding="utf-8")
    assert name_lists.read_classes(str(path)) == ([name, "other"], [text, ""] if text else [])


def test_paths_in_a_list_have_one_line():
    assert name_lists.one_line("a\nb\tc\rd\\n") == "a\\nb\\tc\\rd\\\\n"


def test_boxes_from_a_file(tmp_path):
    lines = ["name,xmin,ymin,xmax,ymax", "a.JPEG,0.1,0.2,0.3,0.4", "b.JPEG,0,0,1,1", "a.JPEG,0.5,0.5,0.5,1"]
    found = name_lists.read_boxes(write_lines(tmp_path / "boxes.csv", lines))
    assert found == {"a.JPEG": [(0.2, 0.1, 0.4, 0.3), (0.5, 0.5, 1.0, 0.5)], "b.JPEG": [(0.0, 0.0, 1.0, 1.0)]}


@pytest.mark.parametrize("line", ["a.JPEG,0.5,0.2,0.3,0.4", "a.JPEG,0,0,1,1.5", "a.JPEG,1,2", "a.JPEG,a,b,c,d"])
def test_boxes_that_are_none(tmp_path, line):
    with pytest.raises(ValueError, match="boxes.csv', line 2"):
        name_lists.read_boxes(write_lines(tmp_path / "boxes.csv", ["b.JPEG,0,0,1,1", line]))
