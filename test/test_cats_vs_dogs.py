"""Cats and dogs in the forms in which they are published, their split, and the ten crops."""

import io
import os
import re
import subprocess
import sys
import zipfile

import image_files
import numpy as np
import pytest
from PIL import Image

from ascend_keras import compat, data
from ascend_keras.compat import tf
from ascend_keras.data import pet_files, ten_crops

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def paths_of(source):
    return [source.path_of(position) for position in range(source.samples)]


def names_of(source, folder):
    return [os.path.relpath(path, str(folder)) for path in paths_of(source)]


def both(path, **options):
    return [data.cats_vs_dogs(str(path), split, **options) for split in ("train", "validation")]


def elements(source, positions=None):
    """What the pipeline would get, as a list of dicts of NumPy values."""
    positions = np.arange(source.samples) if positions is None else np.asarray(positions)
    fields = dict(source.describe(positions), index=positions)
    rows = tf.data.Dataset.from_tensor_slices(fields).map(source.read)
    return [
        {
            key: value if isinstance(value, (bytes, np.generic, np.ndarray)) else value.numpy()
            for key, value in one.items()
        }
        for one in compat.open_dataset(rows)()
    ]


@pytest.fixture(scope="module")
def kaggle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kaggle")
    image_files.make_kaggle(folder / "train", per_class=12)
    return folder


@pytest.fixture(scope="module")
def petimages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("petimages")
    image_files.make_petimages(folder, per_class=11)
    return folder


# --- the forms -------------------------------------------------------------------------------------------------------


def test_kaggle_is_found_in_the_folder_and_above_it(kaggle):
    for path in (kaggle, kaggle / "train"):
        train, validation = both(path, held_out=4)
        assert (train.samples, validation.samples, train.classes) == (20, 4, 2)
        assert train.class_names == ["cat", "dog"]
        labels = np.concatenate([train.labels(), validation.labels()])
        names = [os.path.basename(path) for path in paths_of(train) + paths_of(validation)]
        assert labels.tolist() == [0 if name.startswith("cat.") else 1 for name in names]
        assert sorted(names) == sorted(os.listdir(str(kaggle / "train")))


def test_images_are_in_the_order_of_class_and_number(kaggle):
    train = data.cats_vs_dogs(str(kaggle), held_out=0)
    expected = ["{}.{}.jpg".format(name, number) for name in ("cat", "dog") for number in range(12)]
    assert names_of(train, kaggle / "train") == expected


def test_petimages_are_found_with_their_broken_files(petimages):
    for path in (petimages, petimages / "PetImages"):
        train, validation = both(path, held_out=5)
        assert (train.samples, validation.samples) == (24 - 5, 5)
        names = names_of(train, petimages / "PetImages") + names_of(validation, petimages / "PetImages")
        labels = np.concatenate([train.labels(), validation.labels()]).tolist()
        assert labels == [("Cat", "Dog").index(name.split(os.sep)[0]) for name in names]
        assert "Cat/666.jpg" in names
        assert not [name for name in names if name.endswith(".db")]


@pytest.mark.parametrize("cat, dog", [("cats", "dogs"), ("CAT", "DOG")])
def test_folders_may_be_called_in_other_ways(tmp_path, cat, dog):
    for name in (cat, dog):
        image_files.make_photographs(tmp_path / "train", classes=1, per_class=2, names=[name])
    assert data.cats_vs_dogs(str(tmp_path), held_out=1).samples == 3


@pytest.mark.parametrize("form", ["kaggle", "petimages", "nested"])
def test_zip_files_are_unpacked_once(tmp_path, kaggle, petimages, form):
    path = (
        tmp_path
        / {"kaggle": "train.zip", "petimages": "kagglecatsanddogs_5340.zip", "nested": "dogs-vs-cats.zip"}[form]
    )
    pack(petimages if form == "petimages" else kaggle, path)
    if form == "nested":
        inner = path.read_bytes()
        with zipfile.ZipFile(str(path), "w") as archive:
            archive.writestr("train.zip", inner)
            archive.writestr("test1.zip", b"not looked at")
    cache = str(tmp_path / "cache")
    train, validation = both(path, held_out=3, cache_dir=cache)
    unpacked = data.cats_vs_dogs(str(petimages if form == "petimages" else kaggle), held_out=3)
    assert [os.path.basename(one) for one in paths_of(train)] == [os.path.basename(one) for one in paths_of(unpacked)]
    assert all(one.startswith(cache) for one in paths_of(train) + paths_of(validation))
    before = stamps(cache)
    both(path, cache_dir=cache, held_out=3)
    assert stamps(cache) == before
    # Found in its folder too, by its name.
    assert paths_of(data.cats_vs_dogs(str(tmp_path), held_out=3, cache_dir=cache)) == paths_of(train)


def pack(folder, path):
    with zipfile.ZipFile(str(path), "w", zipfile.ZIP_DEFLATED) as archive:
        for parent, _, names in os.walk(str(folder)):
            for name in names:
                file = os.path.join(parent, name)
                archive.write(file, os.path.relpath(file, str(folder)))


def stamps(folder):
    return {
        os.path.join(parent, name): os.stat(os.path.join(parent, name)).st_mtime_ns
        for parent, _, names in os.walk(folder)
        for name in names
        if not name.endswith(".lock")
    }


def test_the_cache_is_below_xdg_cache_home(tmp_path, kaggle, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    pack(kaggle, tmp_path / "train.zip")
    train = data.cats_vs_dogs(str(tmp_path / "train.zip"), held_out=3)
    assert paths_of(train)[0].startswith(str(tmp_path / "xdg" / "ascend_keras" / "train-"))


def test_a_changed_zip_file_is_unpacked_anew(tmp_path, kaggle):
    path = tmp_path / "train.zip"
    pack(kaggle, path)
    cache = str(tmp_path / "cache")
    assert data.cats_vs_dogs(str(path), held_out=3, cache_dir=cache).samples == 21
    with zipfile.ZipFile(str(path), "a") as archive:
        archive.writestr("train/cat.99.jpg", b"new")
    assert data.cats_vs_dogs(str(path), held_out=3, cache_dir=cache).samples == 22


def test_a_damaged_zip_file_leaves_nothing(tmp_path, kaggle):
    path = tmp_path / "train.zip"
    pack(kaggle, path)
    content = bytearray(path.read_bytes())
    content[2000:2400] = bytes(400)
    path.write_bytes(bytes(content))
    with pytest.raises(OSError, match=r"The zip file is damaged .*train.zip'. Download it again."):
        data.cats_vs_dogs(str(path), held_out=3, cache_dir=str(tmp_path / "cache"))
    assert [name for name in os.listdir(str(tmp_path / "cache")) if not name.endswith(".lock")] == []


UNPACK = "import sys; from ascend_keras.data import pet_files; print(len(pet_files.find(*sys.argv[1:])))"


def test_what_a_killed_process_has_left_is_unpacked_again(tmp_path, kaggle):
    pack(kaggle, tmp_path / "train.zip")
    code = "import os, zipfile, signal\nreal = zipfile.ZipFile.extract\ncalls = []\n" + (
        "def extract(*arguments):\n    calls.append(1)\n"
        "    if len(calls) == 7:\n        os.kill(os.getpid(), signal.SIGKILL)\n    return real(*arguments)\n"
        "zipfile.ZipFile.extract = extract\n"
    )
    arguments = [str(tmp_path / "train.zip"), str(tmp_path / "cache")]
    environment = dict(os.environ, PYTHONPATH=ROOT, TF_CPP_MIN_LOG_LEVEL="3")
    killed = subprocess.run([sys.executable, "-W", "ignore", "-c", code + UNPACK] + arguments, env=environment)
    assert killed.returncode == -9
    assert [name for name in os.listdir(arguments[1]) if name.endswith(".part")]
    assert len(pet_files.find(*arguments)) == 24
    assert [name for name in os.listdir(arguments[1]) if name.endswith(".part")] == []


@pytest.mark.parametrize("make", [False, True])
def test_no_cats_and_dogs(tmp_path, make):
    folder = tmp_path / "nothing"
    if make:
        image_files.make_photographs(folder, classes=2, per_class=1, names=["cat", "horse"])
    with pytest.raises(ValueError, match="There are no cats and dogs. Received: path="):
        data.cats_vs_dogs(str(folder))


def test_other_classes_beside_them_are_no_cats_and_dogs(tmp_path):
    image_files.make_photographs(tmp_path, classes=3, per_class=1, names=["cat", "dog", "horse"])
    with pytest.raises(ValueError, match="Cat/ and Dog/ and no other class"):
        data.cats_vs_dogs(str(tmp_path))


@pytest.mark.parametrize("name", ["train", "test", "__MACOSX", ".cache"])
def test_folders_that_are_no_class_do_not_matter(tmp_path, name):
    image_files.make_photographs(tmp_path, classes=3, per_class=1, names=["cat", "dog", name])
    assert data.cats_vs_dogs(str(tmp_path), held_out=1).samples == 1


@pytest.mark.parametrize("name", ["cat", "dog"])
def test_one_of_them_alone_is_an_error(tmp_path, name):
    image_files.make_kaggle(tmp_path, per_class=2)
    for number in range(2):
        os.remove(str(tmp_path / "{}.{}.jpg".format({"cat": "dog", "dog": "cat"}[name], number)))
    with pytest.raises(ValueError, match="There must be cats and dogs. .*which has 2 {}s only.".format(name)):
        data.cats_vs_dogs(str(tmp_path), held_out=1)


# --- the split -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_the_split_is_disjoint_complete_and_by_seed(kaggle, seed):
    train, validation = both(kaggle, held_out=6, seed=seed)
    ids = [("cat", number) for number in range(12)] + [("dog", number) for number in range(12)]
    held = {ids[index] for index in np.random.RandomState(seed).permutation(24)[:6]}
    found = {tuple(re.match(r"(\w+)\.(\d+)", os.path.basename(path)).groups()) for path in paths_of(validation)}
    assert {(name, int(number)) for name, number in found} == held
    assert len(set(paths_of(train)) | set(paths_of(validation))) == train.samples + validation.samples == 24


def test_the_split_does_not_depend_on_where_the_folder_lies(kaggle, tmp_path):
    os.symlink(str(kaggle / "train"), str(tmp_path / "elsewhere"))
    here = data.cats_vs_dogs(str(kaggle), "validation", held_out=6)
    there = data.cats_vs_dogs(str(tmp_path / "elsewhere"), "validation", held_out=6)
    assert names_of(here, kaggle / "train") == names_of(there, tmp_path / "elsewhere")


def test_the_recipe_holds_out_a_thousand(tmp_path):
    for number in range(1002):
        (tmp_path / "{}.{}.jpg".format(("cat", "dog")[number % 2], number)).touch()
    assert [source.samples for source in both(tmp_path)] == [2, 1000]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"held_out": 24}, "Received: held_out=24, and there are 24. Give a number from 1 to 23."),
        ({"held_out": 0, "split": "validation"}, "Received: held_out=0, and there are 24."),
        ({"held_out": -1}, "`held_out` is a number of photographs. Received: held_out=-1."),
        ({"held_out": 0.1}, "`held_out` is a number of photographs. Received: held_out=0.1."),
        ({"seed": None}, "`seed` is a whole number from 0 to 2**32 - 1. Received: seed=None."),
        ({"seed": -1}, "`seed` is a whole number from 0 to 2**32 - 1. Received: seed=-1."),
        ({"seed": 2**32}, "`seed` is a whole number from 0 to 2**32 - 1. Received: seed=4294967296."),
        ({"split": "test"}, '`split` is "train" or "validation". Received: split=\'test\'.'),
    ],
)
def test_wrong_arguments(kaggle, options, message):
    with pytest.raises(ValueError) as caught:
        data.cats_vs_dogs(str(kaggle), **options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("cat.12.jpg", ("cat", 12, "")),
        ("DOG.7.JPEG", ("dog", 7, "")),
        ("cat.0000000123.jpg", ("cat", 12, "")),
        ("Cat/0000000123.jpg", ("cat", 123, "")),
        ("dogs/12.jpg", ("dog", 12, "")),
        ("/a/cats/rex.jpg", ("cat", -1, "rex")),
        ("dog.rex.1.jpg", ("dog", -1, "rex.1")),
    ],
)
def test_photograph_of_a_file(name, expected):
    assert pet_files.photograph_of(name) == expected


# --- ten crops -------------------------------------------------------------------------------------------------------


def bilinear(image, height, width):
    """Half-pixel centres, no antialiasing, float64."""

    def weights(size, target):
        centres = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
        low = np.floor(centres).astype(int)
        matrix = np.zeros((target, size))
        matrix[np.arange(target), low] += 1 - (centres - low)
        matrix[np.arange(target), np.minimum(low + 1, size - 1)] += centres - low
        return matrix

    rows = np.tensordot(weights(image.shape[0], height), image.astype(np.float64), axes=(1, 0))
    return np.tensordot(weights(image.shape[1], width), rows, axes=(1, 1)).transpose(1, 0, 2)


def expected_crops(image):
    """The ten crops of uint8 [h, w, 3] in float64."""
    height, width = image.shape[:2]
    short = min(height, width)
    height, width = (int(np.floor(side * 256 / short + 0.5)) for side in (height, width))
    resized = bilinear(image, height, width)
    bottom, right = height - 227, width - 227
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    crops = [resized[y : y + 227, x : x + 227] for y, x in corners]
    return crops + [crop[:, ::-1] for crop in crops]


@pytest.mark.parametrize("shape", [(300, 400), (171, 90), (256, 256), (227, 500), (40, 61)])
def test_ten_crops_equal_numpy(tmp_path, shape):
    image = image_files.photograph("chelsea").resize(shape[::-1], Image.BILINEAR)
    image.save(str(tmp_path / "cat.0.jpg"), "PNG")
    (tmp_path / "dog.0.jpg").write_bytes(image_files.jpeg("coffee", 0))
    source = data.cats_vs_dogs(str(tmp_path), held_out=0, ten_crop=True)
    assert (source.samples, source.prepared) == (20, True)
    found = elements(source, range(10))
    for element, expected in zip(found, expected_crops(np.asarray(image))):
        assert element["image"].shape == (227, 227, 3)
        assert element["image"].dtype == np.uint8
        # float32 may round a value near one half to the other side.
        difference = np.abs(element["image"] - expected)
        assert difference.max() < 0.5 + 1e-3
        assert element["label"] == 0
        assert element["boxes"].shape == (0, 4)


def test_positions_labels_and_names_of_ten_crops(kaggle):
    train, validation = both(kaggle, held_out=4, ten_crop=True)
    plain, _ = both(kaggle, held_out=4)
    assert (train.samples, validation.samples) == (200, 40)
    assert train.labels().tolist() == [label for label in plain.labels() for _ in range(10)]
    assert train.name_of(37) == "{} (crop 7)".format(plain.name_of(3))
    names = {element["name"] for element in elements(train, range(30, 40))}
    assert names == {os.fsencode(plain.path_of(3))}


def test_a_very_long_image_is_not_resized_as_a_whole(tmp_path):
    long = np.random.RandomState(0).randint(0, 256, (10, 12000, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(long).save(stream, "PNG")
    crop = compat.host_function(lambda encoded: [ten_crops.ten_crop(encoded, tf.constant(k)) for k in (0, 3)])
    left = expected_crops(long[:, :40])[0]
    right = expected_crops(long[:, -40:])[3]
    found = crop(stream.getvalue())
    assert np.abs(found[0] - left).max() < 0.5 + 1e-3
    assert np.abs(found[1] - right).max() < 0.5 + 1e-3


def test_written_crops_are_those_made_on_the_fly_and_stay_together(kaggle, tmp_path, caplog):
    source = data.cats_vs_dogs(str(kaggle), held_out=0)
    assert data.write_ten_crops(source, str(tmp_path / "crops"), workers=2) == 240
    names = sorted(os.listdir(str(tmp_path / "crops")))
    assert names == ["{}.{:09d}{}.jpg".format(a, n, k) for a in ("cat", "dog") for n in range(12) for k in range(10)]
    on_the_fly = elements(data.cats_vs_dogs(str(kaggle), held_out=0, ten_crop=True), range(50, 60))
    for number, element in enumerate(on_the_fly):
        stored = np.asarray(Image.open(str(tmp_path / "crops" / "cat.000000005{}.jpg".format(number))), np.float64)
        assert np.abs(stored - element["image"]).mean() < 2.5  # quality 95, half of the colour resolution
    train, validation = both(tmp_path / "crops", held_out=4)
    assert (train.samples, validation.samples) == (200, 40)
    kept = data.cats_vs_dogs(str(kaggle), "validation", held_out=4)
    photographs = {pet_files.photograph_of(path) for path in paths_of(validation)}
    assert photographs == {pet_files.photograph_of(path) for path in paths_of(kept)}
    assert not photographs & {pet_files.photograph_of(path) for path in paths_of(train)}


def test_writing_crops_of_broken_and_unnumbered_files(petimages, tmp_path):
    source = data.cats_vs_dogs(str(petimages), held_out=0)
    assert data.write_ten_crops(source, str(tmp_path / "crops")) == 220
    (tmp_path / "dog.rex.jpg").write_bytes(b"")
    image_files.make_kaggle(tmp_path, per_class=1)
    with pytest.raises(ValueError, match=r"The number of a photograph is taken from its name.*dog.rex.jpg'"):
        data.write_ten_crops(data.cats_vs_dogs(str(tmp_path), held_out=0), str(tmp_path / "none"))
