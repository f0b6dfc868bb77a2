"""The index of TFRecord files: exact counts and places, kept, made anew, and refused where files are broken."""

import glob
import os
import struct

import numpy as np
import pytest
from image_files import make_tfrecords

from ascend_keras.compat import tf
from ascend_keras.data import records
from ascend_keras.data.record_source import missing_shards, several_conversions


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(path, contents):
    with tf.io.TFRecordWriter(str(path)) as writer:
        for content in contents:
            writer.write(content)
    return str(path)


def shards(folder, counts):
    """Shards of records b'0', b'11', b'222', ...: record k has k + 1 bytes."""
    paths, number = [], 0
    for shard, count in enumerate(counts):
        content = [str(k % 10).encode() * (k + 1) for k in range(number, number + count)]
        paths.append(write(folder / "train-{:05d}-of-{:05d}".format(shard, len(counts)), content))
        number += count
    return paths


def index_files(folder):
    return sorted(os.path.basename(path) for path in glob.glob(str(folder / ".*index*")))


@pytest.mark.parametrize("counts", [[1], [3, 1, 4, 1, 5], [2, 0, 7], [5, 5, 2]])
def test_uneven_shards_are_counted_exactly(tmp_path, counts):
    index = records.index_records(shards(tmp_path, counts))
    assert index.counts.tolist() == counts
    assert len(index) == sum(counts)
    assert index.lengths.tolist() == [k + 1 for k in range(sum(counts))]
    assert index.file_of(np.arange(sum(counts))).tolist() == np.repeat(np.arange(len(counts)), counts).tolist()


def test_offsets_are_those_of_the_format(tmp_path):
    path = write(tmp_path / "train-0", [b"abc", b"", b"de"])
    offsets, lengths = records.walk(path)
    assert offsets.tolist() == [12, 12 + 3 + 4 + 12, 12 + 3 + 4 + 12 + 0 + 4 + 12]
    assert lengths.tolist() == [3, 0, 2]


def test_records_are_read_in_any_order(tmp_path):
    paths = shards(tmp_path, [3, 4, 2])
    expected = [record.numpy() if hasattr(record, "numpy") else record for record in all_records(paths)]
    order = np.random.RandomState(0).permutation(9)
    assert records.index_records(paths).read(order).tolist() == [expected[k] for k in order]


def all_records(paths):
    for path in paths:
        yield from tf.compat.v1.io.tf_record_iterator(path)


def test_names_say_file_and_number(tmp_path):
    index = records.index_records(shards(tmp_path, [3, 2]))
    assert [index.name_of(k) for k in (0, 2, 3, 4)] == [
        "train-00000-of-00002:0",
        "train-00000-of-00002:2",
        "train-00001-of-00002:0",
        "train-00001-of-00002:1",
    ]


def test_checksums_are_tensorflows(tmp_path):
    path = write(tmp_path / "x", [b"y" * 300])
    with open(path, "rb") as stream:
        content = stream.read()
    row = np.frombuffer(content[:8], np.uint8)[None]
    assert records.masked_crc32c(row).tolist() == [struct.unpack("<I", content[8:12])[0]]
    # RFC 3720, B.4: 32 bytes of zeros have the CRC-32C 0x8a9136aa; of ones 0x62a8ab43.
    for byte, crc in ((0, 0x8A9136AA), (255, 0x62A8AB43)):
        masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF
        assert records.masked_crc32c(np.full((1, 32), byte, np.uint8)).tolist() == [masked]


class TestTheIndexFile:
    def count_walks(self, monkeypatch):
        walked, walk = [], records.walk

        def counting(path):
            walked.append(os.path.basename(path))
            return walk(path)

        monkeypatch.setattr(records, "walk", counting)
        return walked

    def test_lies_beside_the_data_and_is_used_again(self, tmp_path, monkeypatch):
        paths = shards(tmp_path, [3, 2])
        first = records.index_records(paths)
        assert index_files(tmp_path) == [".train.ascend_keras_index.npz"]
        walked = self.count_walks(monkeypatch)
        second = records.index_records(paths)
        assert walked == []
        assert second.files == first.files
        for name in ("counts", "offsets", "lengths"):
            assert getattr(second, name).tolist() == getattr(first, name).tolist()

    def test_holds_where_the_folder_is_moved(self, tmp_path, monkeypatch):
        os.makedirs(str(tmp_path / "a"))
        shards(tmp_path / "a", [3, 2])
        records.index_records(sorted(glob.glob(str(tmp_path / "a" / "train-*"))))
        os.rename(str(tmp_path / "a"), str(tmp_path / "b"))
        walked = self.count_walks(monkeypatch)
        index = records.index_records(sorted(glob.glob(str(tmp_path / "b" / "train-*"))))
        assert walked == []
        assert index.read(np.array([4])).tolist() == [b"44444"]

    def test_only_changed_files_are_walked_again(self, tmp_path, monkeypatch):
        paths = shards(tmp_path, [3, 2, 2])
        records.index_records(paths)
        write(paths[1], [b"new"] * 9)
        walked = self.count_walks(monkeypatch)
        assert records.index_records(paths).counts.tolist() == [3, 9, 2]
        assert walked == ["train-00001-of-00003"]

    def test_a_change_of_the_same_size_is_seen_by_its_time(self, tmp_path, monkeypatch):
        paths = shards(tmp_path, [2])
        records.index_records(paths)
        os.utime(paths[0], (1, 1))
        walked = self.count_walks(monkeypatch)
        records.index_records(paths)
        assert walked == ["train-00000-of-00001"]

    @pytest.mark.parametrize("content", [b"", b"PK nonsense"])
    def test_a_damaged_one_is_made_anew(self, tmp_path, content):
        paths = shards(tmp_path, [2, 1])
        records.index_records(paths)
        place = tmp_path / ".train.ascend_keras_index.npz"
        place.write_bytes(content)
        assert records.index_records(paths).counts.tolist() == [2, 1]
        assert place.stat().st_size > 100

    def test_goes_to_the_cache_where_the_folder_is_read_only(self, tmp_path, monkeypatch):
        os.makedirs(str(tmp_path / "data"))
        paths = shards(tmp_path / "data", [2])
        real = records._write

        def refuse(path, arrays):
            if os.path.dirname(path) == str(tmp_path / "data"):
                raise PermissionError(13, "Permission denied", path)
            real(path, arrays)

        monkeypatch.setattr(records, "_write", refuse)
        assert records.index_records(paths).counts.tolist() == [2]
        assert index_files(tmp_path / "data") == []
        assert len(index_files(tmp_path / "cache" / "ascend_keras")) == 1
        walked = self.count_walks(monkeypatch)
        records.index_records(paths)
        assert walked == []

    def test_a_stale_one_that_cannot_be_replaced_does_not_hide_the_cache(self, tmp_path, monkeypatch):
        os.makedirs(str(tmp_path / "data"))
        paths = shards(tmp_path / "data", [2, 3])
        records.index_records(paths)
        write(paths[1], [b"new"] * 4)
        real = records._write

        def refuse(path, arrays):
            if os.path.dirname(path) == str(tmp_path / "data"):
                raise PermissionError(13, "Permission denied", path)
            real(path, arrays)

        monkeypatch.setattr(records, "_write", refuse)
        walked = self.count_walks(monkeypatch)
        for _ in range(3):
            assert records.index_records(paths).counts.tolist() == [2, 4]
        assert walked == ["train-00001-of-00002"]

    def test_is_shared_by_splits_of_the_same_beginning(self, tmp_path, monkeypatch):
        splits = []
        for split, counts in (("train", [2, 3]), ("test", [1, 4])):
            names = ["toy-{}.tfrecord-0000{}-of-00002".format(split, shard) for shard in range(2)]
            splits.append([write(tmp_path / name, [b"x"] * count) for name, count in zip(names, counts)])
        walked = self.count_walks(monkeypatch)
        for _ in range(2):
            assert [records.index_records(paths).counts.tolist() for paths in splits] == [[2, 3], [1, 4]]
        assert index_files(tmp_path) == [".toy.ascend_keras_index.npz"]
        assert sorted(walked) == sorted(os.path.basename(path) for paths in splits for path in paths)
        # What is no more, or has changed, is not kept.
        os.remove(splits[0][0])
        write(splits[0][1], [b"x"])
        write(splits[1][0], [b"x"] * 7)
        records.index_records(splits[1])
        assert sorted(records._load(str(tmp_path / ".toy.ascend_keras_index.npz"), str(tmp_path))) == sorted(splits[1])

    def test_goes_where_index_dir_says(self, tmp_path):
        os.makedirs(str(tmp_path / "data"))
        records.index_records(shards(tmp_path / "data", [2]), index_dir=tmp_path / "deep" / "er")
        assert index_files(tmp_path / "data") == []
        assert len(index_files(tmp_path / "deep" / "er")) == 1

    def test_leaves_nothing_where_writing_fails(self, tmp_path, monkeypatch):
        monkeypatch.setattr(np, "savez", lambda *a, **k: (_ for _ in ()).throw(OSError(28, "No space left")))
        assert records.index_records(shards(tmp_path, [2])).counts.tolist() == [2]
        assert sorted(name for name in os.listdir(str(tmp_path)) if name != "cache") == ["train-00000-of-00001"]


class TestBrokenFiles:
    def broken(self, tmp_path, change):
        paths = shards(tmp_path, [3, 3])
        with open(paths[1], "rb") as stream:
            content = stream.read()
        with open(paths[1], "wb") as stream:
            stream.write(change(content))
        with pytest.raises(ValueError) as error:
            records.index_records(paths)
        return str(error.value), paths[1]

    # Record 4 (4 bytes) of the second file is at byte 0, record 5 at 20, record 6 at 41, and the end at 63.
    def test_cut_within_the_data(self, tmp_path):
        text, path = self.broken(tmp_path, lambda content: content[:50])
        assert text == (
            "{} is cut short: the record at byte 41 needs at least 12 bytes, the file has 9 more. Copy or write the "
            "file again.".format(path)
        )

    def test_cut_within_a_record(self, tmp_path):
        text, path = self.broken(tmp_path, lambda content: content[:60])
        assert "the record at byte 41 needs at least 22 bytes, the file has 19 more" in text
        assert text.startswith(path)

    def test_a_wrong_checksum_of_a_length(self, tmp_path):
        text, path = self.broken(tmp_path, lambda content: content[:29] + b"\0" + content[30:])
        assert text.startswith("{} is corrupt at byte 20: the checksum of the length of record 1".format(path))

    def test_a_wrong_length(self, tmp_path):
        text, path = self.broken(tmp_path, lambda content: content[:27] + b"\x7f" + content[28:])
        assert text.startswith("{} is corrupt at byte 20".format(path))

    def test_no_tfrecord_at_all(self, tmp_path):
        text, path = self.broken(tmp_path, lambda content: b"this is a text file and no TFRecord" * 10)
        assert text.startswith("{} is corrupt at byte 0".format(path))

    def test_all_broken_files_are_named(self, tmp_path):
        paths = shards(tmp_path, [3, 3, 3])
        for path in paths[::2]:
            with open(path, "ab") as stream:
                stream.write(b"tail")
        with pytest.raises(ValueError) as error:
            records.index_records(paths)
        assert [line.split(" ")[0] for line in str(error.value).splitlines()] == paths[::2]

    def test_missing_files_are_named(self, tmp_path):
        paths = shards(tmp_path, [1, 1, 1])
        os.remove(paths[0])
        os.remove(paths[2])
        with pytest.raises(ValueError, match="No such file") as error:
            records.index_records(paths)
        assert [line.split(" ")[0] for line in str(error.value).splitlines()] == paths[::2]

    def test_no_files(self):
        with pytest.raises(ValueError, match="no TFRecord file"):
            records.index_records([])


def test_a_file_that_is_lost_gives_empty_records(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_OPEN_FILES", 1)
    paths = shards(tmp_path, [2, 2, 1])
    index = records.index_records(paths)
    os.rename(paths[1], paths[1] + ".away")
    found, problems = index.read_with_problems(np.arange(5))
    lost = b"the file cannot be read (errno 2, No such file or directory)"
    assert found.tolist() == index.read(np.arange(5)).tolist() == [b"0", b"11", b"", b"", b"44444"]
    assert problems.tolist() == [b"", b"", lost, lost, b""]
    index.will_read(np.arange(5))
    os.rename(paths[1] + ".away", paths[1])
    assert index.read(np.arange(2, 4)).tolist() == [b"222", b"3333"]


def test_a_read_that_fails_opens_the_file_anew(tmp_path, monkeypatch):
    index = records.index_records(shards(tmp_path, [2]))
    index.read(np.arange(2))
    pread, failed = os.pread, []

    def fail_once(*arguments):
        if not failed:
            failed.append(arguments[0])
            raise OSError(116, "Stale file handle")
        return pread(*arguments)

    monkeypatch.setattr(records.os, "pread", fail_once)
    found, problems = index.read_with_problems(np.arange(2))
    assert found.tolist() == [b"", b"11"]
    assert problems.tolist() == [b"the file cannot be read (errno 116, Stale file handle)", b""]


def test_shards_of_several_conversions_are_found_by_name():
    names = ["a/train-00000-of-00002", "a/train-00001-of-00002", "a/train-00000-of-00001", "a/b-00000-of-00003"]
    assert several_conversions(names) == ["train-*-of-00001", "train-*-of-00002"]
    assert several_conversions(names[:2] + names[3:] + ["a/train-0.tfrecord"]) == []
    assert several_conversions([names[0], names[0] + ".tfrecord"]) == ["train-*-of-00002", "train-*-of-00002.tfrecord"]


def test_missing_shards_are_found_by_name():
    names = ["a/train-00000-of-00004", "a/train-00002-of-00004", "a/x-00001-of-00002.tfrecord", "a/other"]
    assert missing_shards(names) == [
        "train-00001-of-00004",
        "train-00003-of-00004",
        "x-00000-of-00002.tfrecord",
    ]
    assert missing_shards(["train-0.tfrecord", "train-1.tfrecord"]) == []


def test_many_files_do_not_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_OPEN_FILES", 4)
    index = records.index_records(shards(tmp_path, [1] * 20))
    before = len(os.listdir("/proc/self/fd"))
    assert index.read(np.arange(20)).tolist() == [str(k % 10).encode() * (k + 1) for k in range(20)]
    assert len(os.listdir("/proc/self/fd")) - before == 4


def test_the_hint_to_read_ahead_joins_neighbours(tmp_path, monkeypatch):
    hints = []
    monkeypatch.setattr(records._Handle, "will_read", lambda self, offset, length: hints.append((offset, length)))
    index = records.index_records(shards(tmp_path, [4, 4]))
    index.will_read(np.array([2, 0, 1, 5, 4, 7]))
    # Records 0..2 of the first file; 0..1 and 3 of the second: 12 + 5 + 4 + 12 + 6 + 4 + 12 + 7 + 4 = 66.
    assert hints == [(12, 1 + 4 + 12 + 2 + 4 + 12 + 3), (12, 5 + 4 + 12 + 6), (66 + 12, 8)]
    index.will_read(np.zeros(0, np.int64))
    assert len(hints) == 3


def test_the_test_files_are_read_as_they_were_made(tmp_path):
    made = make_tfrecords(tmp_path, "train", (2, 3))
    index = records.index_records(sorted(glob.glob(str(tmp_path / "train-*"))))
    assert index.counts.tolist() == [2, 3]
    for record, one in zip(index.read(np.arange(5)), made):
        example = tf.train.Example.FromString(record)
        assert example.features.feature["image/encoded"].bytes_list.value[0] == one["encoded"]
