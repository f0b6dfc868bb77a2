"""Images per second of the input pipeline against bare decoding and cropping of the same JPEGs, in one run.

    python test/bench/bench_input.py [--images 400] [--rounds 5] [--folder DIR]

Rows, each measured in turn in every round, medians printed:
    bare        read, fused decode and crop of random windows, bilinear resize, nothing else: tf.data's parallel map
    bare+boxes  the same with the pipeline's own augmentation (box sampling, flip), still a parallel map
    files       data.images of the files: bad-image handling, order, resume, batches of both
    records     data.images of the same images in TFRecord files
    10% bad     files, of which one in ten is cut short (images that come out, a second)
    evaluation  centre crops of all files
    synthetic   no files
"""

import argparse
import os
import sys
import tempfile
import time

import numpy as np

sys.path[:0] = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]

import image_files  # noqa: E402

from ascend_keras import compat, data  # noqa: E402
from ascend_keras.compat import tf  # noqa: E402
from ascend_keras.data import augment  # noqa: E402
from ascend_keras.data.threads import cpu_count  # noqa: E402

SIZE, BATCH = 224, 64


def bare(paths, threads):
    """What the images cost by themselves."""

    def make(path, label):
        encoded = tf.io.read_file(path)
        shape = tf.image.extract_jpeg_shape(encoded)
        part = tf.random.uniform([4])
        height = tf.cast(tf.cast(shape[0], tf.float32) * (0.5 + 0.3 * part[0]), tf.int32)
        width = tf.cast(tf.cast(shape[1], tf.float32) * (0.5 + 0.3 * part[1]), tf.int32)
        top = tf.cast(tf.cast(shape[0] - height, tf.float32) * part[2], tf.int32)
        left = tf.cast(tf.cast(shape[1] - width, tf.float32) * part[3], tf.int32)
        image = tf.image.decode_and_crop_jpeg(encoded, tf.stack([top, left, height, width]), channels=3)
        image = tf.compat.v1.image.resize_bilinear(image[None], [SIZE, SIZE])[0]
        return tf.cast(tf.round(image), tf.uint8), label

    return parallel_map(paths, make, threads)


def bare_with_augmentation(paths, threads):
    """What they cost with the augmentation of the pipeline."""

    def make(path, label):
        seed = tf.cast(tf.stack([label, label]), tf.int64)
        image = augment.random_resized_crop(tf.io.read_file(path), tf.zeros([0, 4]), seed, SIZE)
        return augment.flip(image, seed + [0, 1]), label

    return parallel_map(paths, make, threads)


def parallel_map(paths, make, threads):
    labels = np.arange(len(paths), dtype=np.int32)
    dataset = tf.data.Dataset.from_tensor_slices((paths, labels)).repeat()
    dataset = dataset.map(make, num_parallel_calls=threads).batch(BATCH, drop_remainder=True).prefetch(2)
    return compat.set_data_options(dataset, None, True)


class Row:
    """One pipeline that keeps running from round to round."""

    def __init__(self, name, dataset, again=False):
        self.name, self.speeds, self.cpu = name, [], []
        self._start = compat.open_dataset(dataset)
        self._batches = self._start()
        self._again = again
        next(self._batches)

    def measure(self, batches):
        if self._again:
            self._batches = self._start()
        begin, cpu = time.perf_counter(), time.process_time()
        for _ in range(batches):
            np.asarray(next(self._batches)[1])
        self.speeds.append(batches * BATCH / (time.perf_counter() - begin))
        self.cpu.append((time.process_time() - cpu) / (batches * BATCH) * 1e3)


def files(folder, images):
    """JPEGs of the size that most of ImageNet has, 500 x 375 pixels; they are smoother, and so shorter files."""
    paths, _ = image_files.make_photographs(
        os.path.join(folder, "photographs"), classes=4, per_class=images // 4, sides=(375, 500)
    )
    return list(paths)


def shards(folder, paths):
    for shard in range(4):
        path = os.path.join(folder, "train-{:05d}-of-00004".format(shard))
        with tf.io.TFRecordWriter(path) as writer:
            for number in range(shard, len(paths), 4):
                with open(paths[number], "rb") as stream:
                    content = stream.read()
                feature = {
                    "image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[content])),
                    "image/class/label": tf.train.Feature(int64_list=tf.train.Int64List(value=[1 + number % 1000])),
                }
                writer.write(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())
    return folder


def broken(folder, paths):
    paths = list(paths)
    for number in range(0, len(paths), 10):
        with open(paths[number], "rb") as stream:
            content = stream.read()
        paths[number] = os.path.join(folder, "{}.jpg".format(number))
        with open(paths[number], "wb") as stream:
            stream.write(content[: len(content) // 2])
    return paths


def rows(folder, paths, threads):
    labels = [0] * len(paths)
    source = data.FileSource(paths, labels)
    return [
        Row("bare", bare(paths, threads)),
        Row("bare+boxes", bare_with_augmentation(paths, threads)),
        Row("files", data.images(source, BATCH)()),
        Row("records", data.images(data.imagenet(shards(folder, paths)), BATCH, shuffle_buffer=100)()),
        Row("10% bad", data.images(data.FileSource(broken(folder, paths), labels), BATCH)()),
        Row("evaluation", data.images(source, BATCH, training=False)(), again=True),
        Row("synthetic", data.images(data.synthetic(image_size=SIZE), BATCH)()),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None)
    arguments = parser.parse_args()
    threads = cpu_count()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        paths = files(folder, arguments.images)
        size = np.mean([os.path.getsize(path) for path in paths])
        print("{}, {} CPUs, {} JPEGs of {:.0f} kB".format(compat.stack_name(), threads, len(paths), size / 1e3))
        measured = rows(folder, paths, threads)
        for _ in range(arguments.rounds):
            for row in measured:
                row.measure(min(10, len(paths) // BATCH))
        print("{:12s} {:>10s} {:>14s} {:>12s}".format("", "images/s", "CPU ms/image", "CPU / bare+boxes"))
        reference = np.median(measured[1].cpu)
        for row in measured:
            cpu = np.median(row.cpu)
            print("{:12s} {:10.0f} {:14.3f} {:12.2f}".format(row.name, np.median(row.speeds), cpu, cpu / reference))


if __name__ == "__main__":
    main()
