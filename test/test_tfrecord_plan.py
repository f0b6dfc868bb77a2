"""Which image goes into which TFRecord file, and the lists that come with a data set."""

import image_files
import numpy as np
import pytest
from tfrecord_folders import make_source, write_lines

from ascend_keras.data import plan


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
    names, texts = plan.read_classes(write_lines(tmp_path / "classes.txt", lines))
    assert names == ["n01440764", "coffee", "astronaut", "chelsea"]
    assert texts == ["tench, Tinca tinca", "a cup, hot", "", ""]
    assert plan.read_classes(write_lines(tmp_path / "bare.txt", ["two words", "b"])) == (["two words", "b"], [])


@pytest.mark.parametrize("lines, message", [(["a", "b", "a"], "names classes twice: a"), ([], "is empty")])
def test_lists_of_classes_that_are_none(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        plan.read_classes(write_lines(tmp_path / "classes.txt", lines))


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
    ],
)
def test_labels_from_a_file(tmp_path, lines, table, expected):
    assert plan.labels_from_file(write_lines(tmp_path / "labels.txt", lines), FLAT, table) == expected


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
        (["val_1.JPEG a b", "val_2.JPEG a", "val_3.JPEG a"], None, "labels.txt', line 1"),
        ([], None, "an empty file"),
    ],
)
def test_labels_that_do_not_fit(tmp_path, lines, table, message):
    with pytest.raises(ValueError, match=message):
        plan.labels_from_file(write_lines(tmp_path / "labels.txt", lines), FLAT, table)


def test_boxes_from_a_file(tmp_path):
    lines = ["name,xmin,ymin,xmax,ymax", "a.JPEG,0.1,0.2,0.3,0.4", "b.JPEG,0,0,1,1", "a.JPEG,0.5,0.5,0.5,1"]
    found = plan.read_boxes(write_lines(tmp_path / "boxes.csv", lines))
    assert found == {"a.JPEG": [(0.2, 0.1, 0.4, 0.3), (0.5, 0.5, 1.0, 0.5)], "b.JPEG": [(0.0, 0.0, 1.0, 1.0)]}


@pytest.mark.parametrize("line", ["a.JPEG,0.5,0.2,0.3,0.4", "a.JPEG,0,0,1,1.5", "a.JPEG,1,2", "a.JPEG,a,b,c,d"])
def test_boxes_that_are_none(tmp_path, line):
    with pytest.raises(ValueError, match="boxes.csv', line 2"):
        plan.read_boxes(write_lines(tmp_path / "boxes.csv", ["b.JPEG,0,0,1,1", line]))
