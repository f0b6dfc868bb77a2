"""TFRecord files by number of record: an exact index of where every record lies, and reading by it.

A record of a TFRecord file is its length (8 bytes, little endian), the masked CRC-32C of these 8 bytes (4), the data,
and the masked CRC-32C of the data (4); see TensorFlow's `lib/io/record_writer.h`. The index is made by walking from
length to length, without reading the data: every length is checked against its checksum and the size of the file, the
data's checksum is not (`ascend-keras data check` does that).
"""

import contextlib
import hashlib
import os
import tempfile
import threading
import zipfile
import zlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from ascend_keras.log import logger

HEADER, FOOTER = 12, 4
VERSION = 1
_OPEN_FILES = 256
_THREADS = 16


class RecordIndex:
    """Where the records of some TFRecord files lie.

    Attributes:
        files: paths, in the order given.
        counts: int64 [files], records in each.
        offsets, lengths: int64 [records], first byte and size of each record's data in its file, in bytes.
    """

    def __init__(self, files, counts, offsets, lengths):
        self.files = list(files)
        self.counts = np.asarray(counts, np.int64)
        self.offsets = np.asarray(offsets, np.int64)
        self.lengths = np.asarray(lengths, np.int64)
        self._ends = np.cumsum(self.counts)
        self._handles = _Handles()

    def __len__(self):
        return len(self.offsets)

    def file_of(self, positions):
        """Number of the file that holds each position, int64, as `positions`."""
        return np.searchsorted(self._ends, positions, side="right")

    def name_of(self, position):
        """'train-00003-of-01024:17', the 18th record of that file."""
        file = int(self.file_of(position))
        return "{}:{}".format(os.path.basename(self.files[file]), int(position - self._ends[file] + self.counts[file]))

    def read(self, positions):
        """The data of these records: object array of bytes [k].

        A file cut short since gives a short record, one that cannot be read any more an empty one.
        """
        return self.read_with_problems(positions)[0]

    def read_with_problems(self, positions):
        """As `read`, and why a record could not be read (b"" where it could): two object arrays of bytes [k]."""
        records, problems = np.empty(len(positions), object), np.full(len(positions), b"", object)
        files = self.file_of(positions)
        for row in np.lexsort((self.offsets[positions], files)):
            path = self.files[files[row]]
            try:
                handle = self._handles.get(path)
                records[row] = handle.read(int(self.offsets[positions[row]]), int(self.lengths[positions[row]]))
            except OSError as error:
                self._handles.forget(path)  # the next attempt opens the file anew
                records[row] = b""
                problems[row] = "the file cannot be read (errno {}, {})".format(error.errno, error.strerror).encode()
        return records, problems

    def will_read(self, positions):
        """Asks the system to read these records into its page cache in the background; neighbours as one."""
        if not len(positions) or not hasattr(os, "posix_fadvise"):
            return
        ordered = np.sort(positions)
        files = self.file_of(ordered)
        breaks = np.flatnonzero((np.diff(ordered) != 1) | (np.diff(files) != 0)) + 1
        for first, last in zip(np.r_[0, breaks], np.r_[breaks, len(ordered)] - 1):
            start = int(self.offsets[ordered[first]])
            end = int(self.offsets[ordered[last]] + self.lengths[ordered[last]])
            with contextlib.suppress(OSError):  # a hint: what cannot be opened is a matter of `read`
                self._handles.get(self.files[files[first]]).will_read(start, end - start)


class _Handle:
    """An open file that is closed when the last who uses it has let go."""

    def __init__(self, path):
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self):
        if hasattr(self, "_file"):
            os.close(self._file)

    def read(self, offset, length):
        return os.pread(self._file, length, offset)

    def will_read(self, offset, length):
        with contextlib.suppress(OSError):  # a hint that this file system does not take
            os.posix_fadvise(self._file, offset, length, os.POSIX_FADV_WILLNEED)


class _Handles:
    """The files used last, open: a process may not have open as many as ImageNet has shards."""

    def __init__(self):
        self._lock = threading.Lock()
        self._open = OrderedDict()

    def get(self, path):
        with self._lock:
            handle = self._open.get(path)
            if handle is None:
                handle = self._open[path] = _Handle(path)
                if len(self._open) > _OPEN_FILES:
                    self._open.popitem(last=False)
            self._open.move_to_end(path)
            return handle

    def forget(self, path):
        with self._lock:
            self._open.pop(path, None)


def index_records(files, index_dir=None):
    """The index of TFRecord files, from the index file where that still fits, else made anew and written.

    A file fits as long as its size and its time of change are those noted. The index file lies beside the first of
    the TFRecords; where that folder cannot be written, in the cache directory ($XDG_CACHE_HOME/ascend_keras, by
    default ~/.cache/ascend_keras). It appears at once and whole, so that ranks may make it at the same time.
    What it says of other files, such as those of another split, is kept as long as it fits.

    Args:
        files: paths.
        index_dir: folder of the index file, made if missing; None as above.

    Returns:
        A RecordIndex.

    Raises:
        ValueError: there are no files, or some are missing, cut short or corrupt; all are named, with the byte.
    """
    files = [os.path.abspath(os.fspath(path)) for path in files]
    if not files:
        raise ValueError("There is no TFRecord file to index. Received: files=[]. Check the path and the split.")
    places = _index_paths(files, index_dir)
    folder = os.path.dirname(files[0])
    stats = _stat_all(files)
    noted = [entry for place in places for entry in _load(place, folder).items()]
    known = {path: entry for path, entry in noted if entry[0] == stats.get(path)}
    stale = [path for path in files if path not in known]
    if stale:
        known.update(_walk_all(stale, stats))
        _save(places, folder, dict(_fitting(noted), **known))
    parts = [known[path] for path in files]
    counts = [len(offsets) for _, offsets, _ in parts]
    return RecordIndex(files, counts, *(np.concatenate([part[k] for part in parts]) for k in (1, 2)))


def walk(path):
    """Offsets and lengths of all records of one file, int64 [n] each, in bytes.

    Raises:
        ValueError: the file ends within a record, or the checksum of a length does not fit; names file and byte.
    """
    size = os.path.getsize(path)
    headers, offsets, offset = [], [], 0
    with open(path, "rb", buffering=0) as stream:
        descriptor = stream.fileno()
        while offset < size:
            header = os.pread(descriptor, HEADER, offset)
            length = int.from_bytes(header[:8], "little")
            headers.append(header)
            offsets.append(offset + HEADER)
            offset += HEADER + length + FOOTER
            if len(header) < HEADER or offset > size:
                break
    start = offsets[-1] - HEADER if offsets else 0
    whole = headers if offset == size else headers[:-1]
    _check_headers(path, whole, offsets)
    if offset != size:
        _raise_broken(path, headers[-1], start, size)
    lengths = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, HEADER)[:, :8].copy().view("<u8").reshape(-1)
    return np.asarray(offsets, np.int64), lengths.astype(np.int64)


def _check_headers(path, headers, offsets):
    if not headers:
        return
    rows = np.frombuffer(b"".join(headers), np.uint8).reshape(-1, HEADER)
    noted = rows[:, 8:].copy().view("<u4").reshape(-1)
    wrong = np.flatnonzero(masked_crc32c(rows[:, :8]) != noted)
    if len(wrong):
        raise ValueError(
            "{} is corrupt at byte {}: the checksum of the length of record {} does not fit. Copy or write the file "
            "again.".format(path, offsets[wrong[0]] - HEADER, wrong[0])
        )


def _raise_broken(path, header, start, size):
    if len(header) == HEADER:
        _check_headers(path, [header], [start + HEADER])
        needed = HEADER + int.from_bytes(header[:8], "little") + FOOTER
    else:
        needed = HEADER
    raise ValueError(
        "{} is cut short: the record at byte {} needs at least {} bytes, the file has {} more. Copy or write the file "
        "again.".format(path, start, needed, size - start)
    )


def _crc_table():
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1).astype(np.uint32)
    return table


_TABLE = _crc_table()


def masked_crc32c(rows):
    """Masked CRC-32C (Castagnoli) of each row, as TFRecord files hold it.

    Args:
        rows: uint8 [n, bytes].

    Returns:
        uint32 [n]: ((crc >> 15) | (crc << 17)) + 0xa282ead8 modulo 2**32.
    """
    crc = np.full(len(rows), 0xFFFFFFFF, np.uint32)
    for column in range(rows.shape[1]):
        crc = _TABLE[(crc ^ rows[:, column]) & 0xFF] ^ (crc >> np.uint32(8))
    crc = (crc ^ np.uint32(0xFFFFFFFF)).astype(np.uint64)
    return ((((crc >> np.uint64(15)) | (crc << np.uint64(17))) + np.uint64(0xA282EAD8)) & np.uint64(0xFFFFFFFF)).astype(
        np.uint32
    )


def _stat_all(files):
    stats, missing = {}, []
    for path in files:
        try:
            stats[path] = _stat(path)
        except OSError as error:
            missing.append("{} cannot be read: {}.".format(path, error.strerror))
    if missing:
        raise ValueError("\n".join(missing))
    return stats


def _fitting(noted):
    """Those entries of files whose size and time of change are still those noted, as a dict."""
    kept = {}
    for path, entry in noted:
        with contextlib.suppress(OSError):
            if entry[0] == _stat(path):
                kept[path] = entry
    return kept


def _stat(path):
    stat = os.stat(path)
    return stat.st_size, stat.st_mtime_ns


def _walk_all(files, stats):
    if len(files) > 8:
        logger.info("indexing %d TFRecord files, once", len(files))

    def one(path):
        try:
            return (stats[path],) + walk(path)
        except (OSError, ValueError) as error:
            return str(error)

    with ThreadPoolExecutor(min(_THREADS, len(files))) as pool:
        found = list(pool.map(one, files))
    problems = [result for result in found if isinstance(result, str)]
    if problems:
        raise ValueError("\n".join(problems))
    return dict(zip(files, found))


def _index_paths(files, index_dir):
    """Places for the index file, the best first."""
    folder = os.path.dirname(files[0])
    label = os.path.basename(files[0]).split("-")[0]
    mark = hashlib.sha256(folder.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    elsewhere = ".{}-{}.ascend_keras_index.npz".format(label, mark)
    if index_dir is not None:
        return [os.path.join(os.path.abspath(os.fspath(index_dir)), elsewhere)]
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    beside = ".{}.ascend_keras_index.npz".format(label)
    return [os.path.join(folder, beside), os.path.join(cache, "ascend_keras", elsewhere)]


def _load(path, folder):
    """What an index file says: {path: ((size, mtime), offsets, lengths)}; empty where there is no readable one.

    Its names are relative to the folder of the data, which may be mounted elsewhere by then.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if int(arrays["version"]) != VERSION:
                return {}
            files = [name.decode("utf-8", "surrogateescape") for name in arrays["files"].tobytes().split(b"\0")]
            stats, ends = arrays["stats"], np.cumsum(arrays["counts"])[:-1]
            offsets, lengths = (np.split(arrays[key], ends) for key in ("offsets", "lengths"))
            return {
                os.path.normpath(os.path.join(folder, name)): (tuple(stat.tolist()), first, length)
                for name, stat, first, length in zip(files, stats, offsets, lengths)
            }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        logger.warning("the index %s cannot be used and is made anew: %s", path, error)
        return {}


def _save(places, folder, known):
    names = [os.path.relpath(name, folder).encode("utf-8", "surrogateescape") for name in known]
    arrays = {
        "version": np.int64(VERSION),
        "files": np.frombuffer(b"\0".join(names), np.uint8),
        "stats": np.array([part[0] for part in known.values()], np.int64),
        "counts": np.array([len(part[1]) for part in known.values()], np.int64),
        "offsets": np.concatenate([part[1] for part in known.values()]),
        "lengths": np.concatenate([part[2] for part in known.values()]),
    }
    errors = []
    for path in places:
        try:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            _write(path, arrays)
            return
        except OSError as error:
            errors.append(str(error))
    logger.warning("the index of the TFRecords could not be kept and is made anew at each start: %s", "; ".join(errors))


def _write(path, arrays):
    descriptor, aside = tempfile.mkstemp(dir=os.path.dirname(path), prefix=os.path.basename(path), suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            np.savez(stream, **arrays)
        os.chmod(aside, 0o644)  # mkstemp keeps others out, who may train on the same data
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise
