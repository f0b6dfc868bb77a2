"""Batches: what comes out for training and evaluation, over ranks, after a resume, in another process, and with
images that cannot be decoded."""

import hashlib
import json
import os
import subprocess
import sys

import image_files
import numpy as np
import pytest

from ascend_keras import compat, data
from ascend_keras.compat import keras, tf
from ascend_keras.data import augment, pipeline, pipeline_settings
from ascend_keras.data.order import Order
from ascend_keras.log import logger

N, CLASSES = 50, 10
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


@pytest.fixture(autouse=True)
def fresh_graph():
    yield
    keras.backend.clear_session()


@pytest.fixture
def lines(monkeypatch):
    """What is logged as a warning."""
    found = []
    monkeypatch.setattr(logger, "warning", lambda text, *values: found.append(text % values))
    return found


@pytest.fixture
def no_reasons(monkeypatch):
    """Does without the reasons of many bad images, for each of which TF 1.15 needs a session."""
    monkeypatch.setattr(pipeline, "reason_of", lambda *_: "told elsewhere")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("photographs")
    image_files.make_photographs(path, classes=CLASSES, per_class=N // CLASSES, sides=(40, 70))
    return path


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    path = tmp_path_factory.mktemp("shards")
    image_files.make_tfrecords(path, "train", (13, 7, 30), classes=CLASSES, sides=(40, 70))
    return path


class Coded(data.ArraySource):
    """Images that come as they are."""

    prepared = True


def coded(samples=N, classes=CLASSES):
    """A source of constant images whose grey value is the position."""
    x = np.zeros((samples, 8, 8, 3), np.uint8) + np.arange(samples, dtype=np.uint8)[:, None, None, None]
    return Coded(x, np.arange(samples) % classes, classes)


def take(dataset, count=None, rank=0, ranks=1):
    """Batches of a rank as NumPy arrays: the first `count`, or all of an evaluation."""
    context = tf.distribute.InputContext(ranks, rank, ranks)
    found = []
    for batch in compat.open_dataset(dataset(context))():
        found.append(tuple(np.asarray(part) for part in batch))
        if count is not None and len(found) == count:
            break
    return found


def positions(batches):
    """The positions of images of `coded` in these batches."""
    return np.concatenate([batch[0][:, 0, 0, 0] for batch in batches]).astype(np.int64)


def digest(batches):
    return [hashlib.sha256(b"".join(part.tobytes() for part in batch)).hexdigest() for batch in batches]


class TestTraining:
    def test_shapes_are_static_and_small(self, folder):
        dataset = data.images(data.image_folder(folder), 8, 32)()
        image, label = compat.tf.compat.v1.data.get_output_shapes(dataset)
        assert image.as_list() == [8, 32, 32, 3] and label.as_list() == [8]
        assert tf.compat.v1.data.get_output_types(dataset) == (tf.uint8, tf.int32)
        assert compat.is_endless(dataset)
        assert compat.count_steps(dataset) is None

    @pytest.mark.parametrize("ranks", [1, 3, 8])
    def test_the_order_of_three_epochs(self, ranks):
        dataset = data.images(coded(), 3, 8, seed=5)
        steps = dataset.steps(ranks)
        assert steps == N // ranks // 3
        seen = [[] for _ in range(3)]
        for rank in range(ranks):
            batches = take(dataset, 3 * steps, rank, ranks)
            for epoch in range(3):
                mine = positions(batches[epoch * steps : (epoch + 1) * steps])
                random = np.random.RandomState([5, 0, epoch, 0])
                part = random.permutation(N)[rank * N // ranks : (rank + 1) * N // ranks]
                assert mine.tolist() == part[: steps * 3].tolist()
                seen[epoch] += mine.tolist()
            for image, label in batches:
                assert (label == image[:, 0, 0, 0] % CLASSES).all()
        for epoch in seen:
            assert len(set(epoch)) == len(epoch) == ranks * steps * 3

    def test_batches_that_fit_cover_everything(self):
        dataset = data.images(coded(48), 2, 8, seed=1)
        for ranks in (1, 3, 8):
            found = [positions(take(dataset, dataset.steps(ranks), rank, ranks)) for rank in range(ranks)]
            assert sorted(np.concatenate(found).tolist()) == list(range(48))

    @pytest.mark.parametrize("kind, start", [("files", 12), ("records", 5)])
    def test_resuming_at_a_batch_gives_that_batch(self, folder, shards, kind, start):
        source = data.image_folder(folder) if kind == "files" else data.imagenet(shards, classes=CLASSES)
        options = dict(seed=3, color_jitter=0.4, pca_noise=0.1, shuffle_buffer=20)
        straight = digest(take(data.images(source, 4, 32, **options), 20, 1, 2))
        assert data.images(source, 4, 32).steps(2) == 6  # the 20 batches cross three borders of epochs
        resumed = data.images(source, 4, 32, start_step=start, **options)
        assert digest(take(resumed, 20 - start, 1, 2)) == straight[start:]
        assert len(set(straight)) == 20

    def test_starting_at_is_start_step(self):
        assert digest(take(data.images(coded(), 4, 8).starting_at(15), 3)) == digest(
            take(data.images(coded(), 4, 8, start_step=15), 3)
        )

    def test_nothing_is_read_that_is_skipped(self, folder):
        source = data.image_folder(folder)
        asked = []
        describe = source.describe
        source.describe = lambda which: asked.append(which.tolist()) or describe(which)
        take(data.images(source, 4, 32, start_step=5), 1)
        order = Order(N, 4)
        assert asked[0] == [0]  # asked once for the dtypes
        assert order.batch(5).tolist() in asked[1:3]  # two batches are planned at a time
        assert all(batch in [order.batch(step).tolist() for step in range(5, 60)] for batch in asked[1:])

    def test_the_number_of_threads_changes_nothing(self, folder, monkeypatch):
        expected = digest(take(data.images(data.image_folder(folder), 8, 32, seed=9, threads=1), 8))
        monkeypatch.setattr(pipeline_settings, "cpu_count", lambda: 5)
        assert digest(take(data.images(data.image_folder(folder), 8, 32, seed=9), 8)) == expected

    def test_another_process_gets_the_same(self, shards):
        options = dict(seed=2, color_jitter=0.4, shuffle_buffer=20)
        code = (
            "import sys, json; sys.path.insert(0, 'test')\n"
            "import test_pipeline as t\n"
            "source = t.data.imagenet({!r}, classes=t.CLASSES)\n"
            "print(json.dumps(t.digest(t.take(t.data.images(source, 8, 32, threads=1, **{!r}), 8))))"
        ).format(str(shards), options)
        environment = dict(os.environ, PYTHONPATH=ROOT, TF_CPP_MIN_LOG_LEVEL="3", PYTHONHASHSEED="7")
        printed = subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, env=environment)
        here = digest(take(data.images(data.imagenet(shards, classes=CLASSES), 8, 32, **options), 8))
        assert json.loads(printed.decode().strip().splitlines()[-1]) == here

    def test_each_epoch_augments_anew(self, folder):
        dataset = data.images(data.image_folder(folder), N, 32, seed=4)
        assert dataset.steps() == 1
        (first, labels), (second, others) = take(dataset, 2)
        assert sorted(labels.tolist()) == sorted(others.tolist())
        assert not {image.tobytes() for image in first} & {image.tobytes() for image in second}

    def test_the_order_does_not_change_the_augmentation(self, folder):
        # One rank or two, batches of 5 or 10: the same 50 images of epoch 0, each cut and mirrored alike.
        source = data.image_folder(folder)
        one = take(data.images(source, 10, 32, seed=6), 5)
        two = [batch for rank in range(2) for batch in take(data.images(source, 5, 32, seed=6), 5, rank, 2)]
        found = [{image.tobytes() for batch in batches for image in batch[0]} for batches in (one, two)]
        assert len(found[0]) == N
        assert found[0] == found[1]

    def test_options_act(self, folder):
        source = data.image_folder(folder)
        plain = dict(crop=False, flip=False)
        found = {
            name: digest(take(data.images(source, 5, 32, **options), 1))[0]
            for name, options in {
                "no crop": dict(crop=False),
                "no flip": dict(flip=False),
                "plain": plain,
                "squash": dict(plain, resize="squash"),
                "resize_to": dict(plain, resize_to=32),
                "jitter": dict(plain, color_jitter=0.4),
                "pca": dict(plain, pca_noise=0.5),
            }.items()
        }
        assert len(set(found.values())) == len(found)

    def test_without_augmentation_images_are_the_centre_crops(self, folder):
        source = data.image_folder(folder)
        images, _ = take(data.images(source, 6, 32, crop=False, flip=False, resize_to=40), 1)[0]
        order = Order(N, 6).batch(0)
        expected = evaluate([augment.centre_crop(encoded(source.path_of(k)), 32, 40) for k in order])
        np.testing.assert_array_equal(images, expected)

    def test_crop_and_flip_draw_different_numbers(self, folder):
        source = data.image_folder(folder)
        images, _ = take(data.images(source, 6, 32, seed=8), 1)[0]
        order = Order(N, 6, seed=8)
        rows = order.batch(0)
        made = []
        for k, seeds in zip(rows, order.seeds(0, rows)):
            cut = augment.random_resized_crop(encoded(source.path_of(k)), tf.zeros([0, 4]), tf.constant(seeds), 32)
            made.append(augment.flip(cut, tf.constant(seeds + [0, 1])))
        np.testing.assert_array_equal(images, evaluate(made))

    def test_flips_are_half(self):
        # A ramp from left to right shows by its slope whether it was mirrored; 1,000 images, 3 sd.
        x = np.tile(np.arange(0, 128, 8, dtype=np.uint8)[None, None, :, None], (1000, 16, 1, 3))
        source = data.arrays(x, np.zeros(1000, int))
        batches = take(data.images(source, 100, 16, crop=False, resize_to=16), 10)
        mirrored = np.concatenate([batch[0][:, 8, 0, 0] > batch[0][:, 8, 15, 0] for batch in batches])
        assert np.mean(mirrored) == pytest.approx(0.5, abs=3 * np.sqrt(0.25 / 1000))

    def test_it_trains_a_model(self, folder):
        dataset = data.images(data.image_folder(folder), 10, 16)
        layers = [keras.layers.Flatten(input_shape=(16, 16, 3)), keras.layers.Dense(CLASSES, activation="softmax")]
        model = keras.Sequential(
            [keras.layers.Lambda(lambda x: tf.cast(x, tf.float32), input_shape=(16, 16, 3))] + layers
        )
        options = {} if not compat.KERAS3 else {"jit_compile": False}
        model.compile("sgd", "sparse_categorical_crossentropy", **options)
        history = model.fit(dataset(), steps_per_epoch=dataset.steps(), epochs=2, verbose=0)
        assert len(history.history["loss"]) == 2
        evaluation = data.images(data.image_folder(folder), 8, 16, training=False)
        assert np.isfinite(model.evaluate(evaluation(), steps=evaluation.steps(), verbose=0))


def content(path):
    with open(path, "rb") as stream:
        return stream.read()


def encoded(path):
    return tf.constant(content(path))


def evaluate(tensors):
    return np.stack([np.asarray(keras.backend.get_value(tensor)) for tensor in tensors])


class TestEvaluation:
    @pytest.mark.parametrize("batch", [1, 7, 50, 64])
    @pytest.mark.parametrize("ranks", [1, 3, 8])
    def test_50_of_50_are_counted(self, batch, ranks):
        dataset = data.images(coded(), batch, 8, training=False)
        found = []
        for rank in range(ranks):
            batches = take(dataset, rank=rank, ranks=ranks)
            assert len(batches) == dataset.steps(ranks) == int(np.ceil(np.ceil(N / ranks) / batch))
            for image, label, weight in batches:
                assert image.shape == (batch, 8, 8, 3) and label.shape == weight.shape == (batch,)
                assert (image.dtype, label.dtype, weight.dtype) == (np.uint8, np.int32, np.float32)
                assert set(weight.tolist()) <= {0.0, 1.0}
                real = weight == 1
                assert (label[real] == image[real, 0, 0, 0] % CLASSES).all()
                assert not image[~real].any() and not label[~real].any()
                found += image[real, 0, 0, 0].tolist()
        assert found == list(range(N))

    def test_the_number_of_batches_is_known(self):
        dataset = data.images(coded(), 8, 8, training=False)()
        assert compat.count_steps(dataset) == 7
        shapes = tf.compat.v1.data.get_output_shapes(dataset)
        assert [shape.as_list() for shape in shapes] == [[8, 8, 8, 3], [8], [8]]

    def test_two_passes_are_the_same(self, folder):
        batches = compat.open_dataset(data.images(data.image_folder(folder), 16, 32, training=False)())
        passes = [[tuple(np.asarray(part) for part in batch) for batch in batches()] for _ in range(2)]
        assert digest(passes[0]) == digest(passes[1])

    @pytest.mark.parametrize("resize", ["short_side", "squash"])
    def test_images_are_the_centre_crops(self, folder, resize):
        source = data.image_folder(folder)
        [(images, _, _)] = take(data.images(source, N, 28, training=False, resize=resize))
        made = [augment.centre_crop(encoded(source.path_of(k)), 28, 32, resize) for k in range(0, N, 9)]
        np.testing.assert_array_equal(images[::9], evaluate(made))

    @pytest.mark.parametrize("size, resized", [(224, 256), (299, 341), (227, 259)])
    def test_what_is_cut_is_in_proportion(self, size, resized, monkeypatch):
        asked = []

        def centre_crop(image, size, resize_to, resize):
            asked.append((size, resize_to, resize))
            return tf.zeros([size, size, 3], tf.uint8)

        monkeypatch.setattr(augment, "centre_crop", centre_crop)
        data.images(data.arrays(np.zeros((9, 8, 8, 3), np.uint8), [0] * 9), 8, size, training=False)()
        assert set(asked) == {(size, resized, "short_side")}


class TestSynthetic:
    def test_images_come_as_they_are(self):
        [(images, labels)] = take(data.images(data.synthetic(100, 16, 7), 5, 16, seed=1), 1)
        order = Order(100, 5, seed=1).batch(0)
        pattern = np.random.RandomState(0).randint(0, 256, (80, 80, 3)).astype(np.uint8)
        assert labels.tolist() == (order % 7).tolist()
        for image, position in zip(images, order):
            np.testing.assert_array_equal(image, pattern[position % 7 : position % 7 + 16, :16] ^ (position % 251))

    def test_another_size_is_scaled(self):
        [(images, _)] = take(data.images(data.synthetic(100, 16, 7), 5, 24), 1)
        assert images.shape == (5, 24, 24, 3)

    def test_imagenet_starts_at_once_anywhere(self):
        dataset = data.images(data.synthetic(image_size=8), 256, 8, start_step=5004 * 60 + 17)
        assert dataset.steps() == 5004 and dataset.steps(8) == 625
        [(_, labels)] = take(dataset, 1)
        order = np.random.RandomState([0, 0, 60, 0]).permutation(1281167)
        assert labels.tolist() == (order[17 * 256 : 18 * 256] % 1000).tolist()


class TestBadImages:
    BAD = (3, 17, 18, 49)

    def source(self, folder, bad=BAD):
        """Photographs among which some are broken: cut short, text, empty, missing."""
        good = data.image_folder(folder)
        contents = {0: b"not an image", 1: b"", 2: content(good.path_of(0))[:200]}
        x = [content(good.path_of(k)) for k in range(N)]
        for number, k in enumerate(bad):
            x[k] = contents[number % 3]
        return data.arrays(x, np.arange(N) % CLASSES)

    def test_evaluation_gives_them_no_weight(self, folder, lines):
        dataset = data.images(self.source(folder), 8, 32, training=False)
        batches = take(dataset)
        weight = np.concatenate([batch[2] for batch in batches])
        assert np.flatnonzero(weight == 0).tolist() == sorted(self.BAD) + list(range(N, 56))
        whole = take(data.images(data.image_folder(folder), 8, 32, training=False))
        for mine, other in zip(batches, whole):
            real = mine[2] == 1
            np.testing.assert_array_equal(mine[0][real], other[0][real])
            assert not mine[0][~real].any()
        assert dataset.bad_images.count == 4
        assert sorted(dataset.bad_images.names) == ["arrays:17", "arrays:18", "arrays:3", "arrays:49"]
        assert len(lines) == 4
        [text] = [line for line in lines if "arrays:3:" in line]
        assert text.startswith("bad image skipped: arrays:3: ") and len(text) > 35

    def test_they_are_named_once_in_a_process(self, folder, lines):
        dataset = data.images(self.source(folder), 8, 32, training=False)
        for _ in range(2):
            take(dataset)
        assert len(lines) == dataset.bad_images.count == 4

    def test_training_puts_another_in_their_place_and_moves_nothing(self, folder, lines):
        dataset = data.images(self.source(folder), 5, 32, seed=3)
        batches = take(dataset, 20)
        whole = take(data.images(data.image_folder(folder), 5, 32, seed=3), 20)
        order = Order(N, 5, seed=3)
        replaced = 0
        for step, (mine, other) in enumerate(zip(batches, whole)):
            for row, k in enumerate(order.batch(step).tolist()):
                if k in self.BAD:
                    attempts = [order.substitute(step * 5 + row, attempt) for attempt in range(10)]
                    stand_in = next(one for one in attempts if one not in self.BAD)
                    assert mine[1][row] == stand_in % CLASSES
                    replaced += 1
                else:
                    assert mine[1][row] == k % CLASSES
                    np.testing.assert_array_equal(mine[0][row], other[0][row])
        assert replaced == 8  # each bad image once in each of two epochs
        assert dataset.bad_images.count == len(lines) == 4

    def test_a_resume_replaces_them_alike(self, folder, lines):
        options = dict(seed=3)
        straight = digest(take(data.images(self.source(folder), 5, 32, **options), 20))
        assert digest(take(data.images(self.source(folder), 5, 32, start_step=7, **options), 13)) == straight[7:]

    @pytest.mark.parametrize("training", [True, False])
    def test_error_names_image_and_reason(self, folder, training):
        dataset = data.images(self.source(folder, [7]), N, 32, training=training, on_bad_image="error")
        with pytest.raises(tf.errors.OpError) as error:
            take(dataset, 1)
        assert "bad image: arrays:7: " in str(error.value)

    def test_no_image_at_all_is_an_error(self, folder, lines, no_reasons):
        x = [b"no image"] * 40
        dataset = data.images(data.arrays(x, [0] * 40), 4, 32)
        with pytest.raises(tf.errors.OpError, match="32 images that should stand in for one another cannot be decoded"):
            take(dataset, 1)

    def test_missing_files_are_bad_images(self, folder, tmp_path, lines):
        good = data.image_folder(folder)
        paths = [good.path_of(k) for k in range(10)]
        paths[4] = str(tmp_path / "gone.jpg")
        dataset = data.images(data.FileSource(paths, [0] * 10), 10, 32, training=False)
        [(_, _, weight)] = take(dataset)
        assert np.flatnonzero(weight == 0).tolist() == [4]
        [text] = lines
        assert text.startswith("bad image skipped: {0}: ".format(paths[4])) and "No such file" in text

    def test_records_with_broken_images_and_wrong_labels(self, tmp_path, lines):
        image_files.make_tfrecords(tmp_path, "train", (5, 7), classes=4, encoded={3: b"", 8: b"abc"})
        source = data.imagenet(tmp_path, classes=3)  # so that labels 4, of records 3, 7 and 11, are outside
        dataset = data.images(source, 12, 32, training=False)
        [(_, labels, weight)] = take(dataset)
        assert np.flatnonzero(weight == 0).tolist() == [3, 7, 8, 11]
        assert labels.tolist() == [k % 4 if k not in (3, 7, 8, 11) else 0 for k in range(12)]
        assert sorted(dataset.bad_images.names) == [
            "train-00000-of-00002:3 (train_00000003.JPEG)",
            "train-00001-of-00002:2 (train_00000007.JPEG)",
            "train-00001-of-00002:3 (train_00000008.JPEG)",
            "train-00001-of-00002:6 (train_00000011.JPEG)",
        ]
        assert any("its label is not in 1..3" in line for line in lines)

    def test_ugly_files_are_read_or_named(self, tmp_path, lines):
        paths = image_files.ugly(tmp_path, huge=False)
        kinds = sorted(paths)
        source = data.FileSource([paths[kind] for kind in kinds], [0] * len(kinds))
        dataset = data.images(source, 4, 32, training=False)
        weight = np.concatenate([batch[2] for batch in take(dataset)])[: len(kinds)]
        assert {kind for kind, one in zip(kinds, weight) if one == 0} == set(image_files.UNREADABLE)
        assert sorted(dataset.bad_images.names) == sorted(paths[kind] for kind in image_files.UNREADABLE)
        take(data.images(source, 4, 32, seed=1), 12)

    def test_no_more_than_100_names_are_kept(self, lines, no_reasons):
        dataset = data.images(data.arrays([b"x"] * 150, [0] * 150), 50, 8, training=False)
        take(dataset)
        assert dataset.bad_images.count == len(lines) == 150
        assert len(dataset.bad_images.names) == 100


class TestArguments:
    def test_attributes(self, folder):
        dataset = data.images(data.image_folder(folder), 8)
        assert (dataset.samples, dataset.classes, dataset.batch_size) == (N, CLASSES, 8)
        assert dataset.class_names == sorted(os.listdir(str(folder)))
        assert (dataset.steps(), dataset.steps(2), dataset.steps(3)) == (6, 3, 2)
        assert dataset.bad_images.count == 0 and dataset.bad_images.names == []

    @pytest.mark.parametrize(
        "options, text",
        [
            (dict(batch_size=0), "`batch_size` must be a whole number >= 1. Received: batch_size=0"),
            (dict(batch_size=2.0), "Received: batch_size=2.0"),
            (dict(image_size=True), "`image_size` must be a whole number >= 1. Received: image_size=True"),
            (dict(seed=-1), "`seed` must be a whole number >= 0. Received: seed=-1"),
            (dict(seed=2**63), "`seed` must be below 2**63"),
            (dict(resize="stretch"), "`resize` must be 'short_side' or 'squash'. Received: resize='stretch'"),
            (dict(resize_to=31), "`resize_to` must be at least `image_size`. Received: resize_to=31, image_size=32"),
            (dict(color_jitter=-0.1), "`color_jitter` must be a number >= 0"),
            (dict(pca_noise=float("nan")), "`pca_noise` must be a number >= 0. Received: pca_noise=nan"),
            (dict(shuffle_buffer=0), "`shuffle_buffer` must be a whole number >= 1"),
            (dict(threads=0), "`threads` must be a whole number >= 1. Received: threads=0"),
            (dict(on_bad_image="ignore"), "`on_bad_image` must be 'skip' or 'error'"),
            (dict(start_step=-1), "`start_step` must be a whole number >= 0"),
            (dict(start_step=1, training=False), "Evaluation starts at batch 0. Received: start_step=1"),
            (
                dict(source="imagenet"),
                "`source` must be a Source, such as data.imagenet(path). Received: source='imagenet'",
            ),
            (
                dict(batch_size=51),
                "Received: batch_size=51, 50 images in arrays over 1 ranks. Give batch_size=50 or less",
            ),
        ],
    )
    def test_errors(self, options, text):
        arguments = dict(dict(source=coded(), batch_size=8, image_size=32), **options)
        with pytest.raises(ValueError) as error:
            data.images(**arguments)
        assert text in str(error.value)

    def test_all_errors_at_once(self):
        with pytest.raises(ValueError) as error:
            data.images(None, 0, 0, seed=-1, resize="x", threads=-2, pca_noise="1")
        assert len(str(error.value).splitlines()) == 7

    def test_ranks_with_less_than_a_batch(self):
        dataset = data.images(coded(), 8, 8)
        with pytest.raises(
            ValueError, match="batch_size=8, 50 images in arrays over 7 ranks. Give batch_size=7 or less"
        ):
            dataset(tf.distribute.InputContext(7, 3, 7))
        with pytest.raises(ValueError, match="`ranks` must be a whole number >= 1. Received: ranks=0"):
            dataset.steps(0)

    def test_starting_at(self):
        dataset = data.images(coded(), 8, 8)
        with pytest.raises(ValueError, match="`step` must be a whole number >= 0. Received: step=-1"):
            dataset.starting_at(-1)
        with pytest.raises(ValueError, match="Evaluation starts at batch 0. Received: step=3"):
            data.images(coded(), 8, 8, training=False).starting_at(3)
        assert dataset.starting_at(5).bad_images is dataset.bad_images

    def test_what_is_left_over_is_said_once(self, monkeypatch):
        found = []
        monkeypatch.setattr(logger, "info", lambda text, *values: found.append(text % values))
        dataset = data.images(coded(), 8, 8)
        dataset()
        dataset()
        data.images(coded(), 5, 8)()
        data.images(coded(), 8, 8, training=False)()
        assert found == [
            "arrays: 2 of 50 images do not fill a batch on every rank and wait for another epoch, others each time"
        ]


def test_private_threads_and_strict_order_reach_tensorflow():
    for threads, deterministic in ((None, None), (3, False)):
        dataset = data.images(coded(), 8, 8, threads=threads, deterministic=deterministic)()
        options = dataset.options()
        threading = getattr(options, "threading", None) or options.experimental_threading
        assert threading.private_threadpool_size == threads
        strict = options.deterministic if hasattr(options, "deterministic") else options.experimental_deterministic
        assert strict is (deterministic is None)
