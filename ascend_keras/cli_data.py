"""`ascend-keras data`: writes TFRecords, and looks whether a data set is whole. Its help needs no TensorFlow."""

import argparse
import contextlib
import json
import os
import sys

_EXAMPLES = """examples:
  ascend-keras data to-tfrecord /data/imagenet /data/records
  ascend-keras data to-tfrecord /data/imagenet /data/records --split=validation --labels=val.txt --classes=synsets.txt
  ascend-keras data check /data/records          exit status 1 if an image or a record is broken
"""

_TO_TFRECORD = """Writes a folder with a folder per class as TFRecord files with the features of slim's ImageNet
records, labels from 1 on. Start the same command again after an interruption, of whatever kind: it goes on, and the
files are the same to the byte. RGB and grey JPEGs are kept as they are, all other images become RGB JPEGs.
"""

_CHECK = """Reads every record or image of a data set, decodes it, and names those that are broken. The data set may be
TFRecords (train-*, validation-*), class folders, or cats-vs-dogs (folders or the zip file).
"""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds `data` and its commands to the subparsers of the command line."""
    data = commands.add_parser(
        "data",
        allow_abbrev=False,
        help="write TFRecords, check data sets",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    data.set_defaults(run=lambda arguments: _usage(data))
    actions = data.add_subparsers(dest="action", metavar="command")
    _add_to_tfrecord(actions)
    _add_check(actions)


def _usage(parser: argparse.ArgumentParser) -> int:
    parser.print_help()
    return 2


def _add_to_tfrecord(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "to-tfrecord", allow_abbrev=False, help="a folder of images into TFRecord files", description=_TO_TFRECORD
    )
    parser.add_argument("source", metavar="SOURCE", help="folder with class folders, or with train/ and val/ of such")
    parser.add_argument("output", metavar="OUTPUT", help="folder for the TFRecord files")
    parser.add_argument("--split", default="train", help="train (default), validation, or another name")
    parser.add_argument("--shards", type=_count, help="number of files (default: of 128 MB each, at most 1024)")
    parser.add_argument("--workers", type=_count, help="number of threads (default: one per CPU)")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the images (default: 0)")
    parser.add_argument("--classes", metavar="FILE", help="name of a class per line (default: the sorted folder names)")
    parser.add_argument(
        "--labels", metavar="FILE", help='"name label" per line, for images that are in no class folder'
    )
    parser.add_argument("--boxes", metavar="CSV", help="bounding boxes: name,xmin,ymin,xmax,ymax in 0..1 per line")
    parser.add_argument(
        "--on-bad-image", choices=("skip", "error"), default="skip", help="leave out and list (default), or stop"
    )
    parser.add_argument(
        "--restart",
        action="store_true",
        help="delete all that an earlier run has written, finished files too, and begin anew",
    )
    parser.set_defaults(run=_to_tfrecord)


def _add_check(actions: argparse._SubParsersAction) -> None:
    parser = actions.add_parser(
        "check", allow_abbrev=False, help="counts, classes, and what is broken", description=_CHECK
    )
    parser.add_argument("path", metavar="PATH", help="the data set")
    parser.add_argument("--split", help="train or validation (default: all there are)")
    parser.add_argument("--workers", type=_count, help="number of threads (default: one per CPU)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_check)


def _count(text: str) -> int:
    value = int(text) if text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError("must be a whole number from 1 on, not {!r}".format(text))
    return value


def _to_tfrecord(arguments: argparse.Namespace) -> int:
    options = ("split", "shards", "workers", "seed", "classes", "labels", "boxes", "on_bad_image", "restart")
    values = {name: getattr(arguments, name) for name in options}
    try:
        with _quiet_tensorflow():
            from ascend_keras.data.to_tfrecord import to_tfrecord

            summary = to_tfrecord(arguments.source, arguments.output, show=True, **values)
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on with the missing files.", file=sys.stderr)
        return 130
    _print(
        "{:,} images of {:,} classes in {:,} files, {:,} of them written now; {:,} images left out{}".format(
            summary.images,
            summary.classes,
            summary.shards,
            summary.written,
            len(summary.skipped),
            ", see {}.skipped.txt".format(arguments.split) if summary.skipped else "",
        )
    )
    return 0


def _check(arguments: argparse.Namespace) -> int:
    try:
        with _quiet_tensorflow():
            from ascend_keras.data import check

            findings = check.check(arguments.path, arguments.split, arguments.workers, show=True)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 130
    _print(json.dumps(check.as_json(findings), indent=2) if arguments.json else check.text(findings))
    return 0 if check.is_whole(findings) else 1


def _print(text: str) -> None:
    """Prints; what stdout cannot encode, such as file names that are not UTF-8, becomes an escape like \\udce9."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))


@contextlib.contextmanager
def _quiet_tensorflow():
    """Keeps its C++ code silent, which complains of damaged JPEGs without saying which; the commands name them."""
    variable = "TF_CPP_MIN_LOG_LEVEL"
    former = os.environ.get(variable)
    os.environ.setdefault(variable, "3")
    try:
        yield
    finally:
        if former is None:
            del os.environ[variable]
