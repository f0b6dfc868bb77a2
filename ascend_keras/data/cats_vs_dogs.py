"""Cats and dogs, for the recipe AlexNet_ID0259."""

import numpy as np

from ascend_keras.data import pet_files
from ascend_keras.data.source import FileSource
from ascend_keras.data.ten_crops import TenCropSource


def cats_vs_dogs(path, split="train", held_out=1000, seed=0, ten_crop=False, cache_dir=None):
    """The source of the recipe AlexNet_ID0259: cats are class 0, dogs class 1.

    Args:
        path: folder with cat.0.jpg, dog.0.jpg ... (or a folder `train` of such), folder with Cat/ and Dog/ (or a folder
            PetImages of such), or the zip file of either.
        split: "train" or "validation".
        held_out: number of photographs of the validation split. It is the photographs that are split: crops of one
            photograph, made on the fly or written to files before, are all on one side.
        seed: of the choice. The same seed holds out the same files wherever the folder lies.
        ten_crop: each photograph gives ten images, see `ascend_keras.data.ten_crops`, in their final size.
        cache_dir: where to unpack a zip file; None takes $XDG_CACHE_HOME/ascend_keras or ~/.cache/ascend_keras.

    Returns:
        A Source.

    Raises:
        ValueError: no cats or no dogs in `path`, or other classes beside them; a wrong split or seed; as many images
            held out as there are, or none left.
        OSError: the zip file is damaged, or there is no room to unpack it.
    """
    problems = []
    if split not in ("train", "validation"):
        problems.append('`split` is "train" or "validation". Received: split={!r}.'.format(split))
    if not isinstance(held_out, int) or isinstance(held_out, bool) or held_out < 0:
        problems.append("`held_out` is a number of photographs. Received: held_out={!r}.".format(held_out))
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        problems.append("`seed` is a whole number from 0 to 2**32 - 1. Received: seed={!r}.".format(seed))
    if problems:
        raise ValueError("\n".join(problems))
    animals = pet_files.find(path, cache_dir)
    if not animals:
        raise ValueError(
            "There are no cats and dogs. Received: path={!r}. Give a folder with cat.0.jpg and dog.0.jpg, a folder "
            "with Cat/ and Dog/ and no other class, or the zip file of either.".format(str(path))
        )
    _check_both(path, animals)
    chosen = [animals[position] for position in _positions(animals, split, held_out, seed)]
    name = "cats_vs_dogs ({})".format(split)
    paths, labels = [path_ for _, path_, _ in chosen], [label for _, _, label in chosen]
    kind = TenCropSource if ten_crop else FileSource
    return kind(paths, labels, class_names=pet_files.CLASSES, name=name)


def _check_both(path, animals):
    found = sorted({label for _, _, label in animals})
    if len(found) < 2:
        raise ValueError(
            "There must be cats and dogs. Received: path={!r}, which has {:,} {}s only. Add the others.".format(
                str(path), len(animals), pet_files.CLASSES[found[0]]
            )
        )


def _positions(animals, split, held_out, seed):
    """Positions of the images of a split, in the order of `animals`."""
    photographs = [pet_files.photograph_of(name) for name, _, _ in animals]
    distinct = sorted(set(photographs))
    if held_out >= len(distinct) or (split == "validation" and not held_out):
        raise ValueError(
            "Both splits need photographs. Received: held_out={}, and there are {:,}. Give a number from 1 to "
            "{:,}.".format(held_out, len(distinct), len(distinct) - 1)
        )
    order = np.random.RandomState(seed).permutation(len(distinct))
    held = {distinct[number] for number in order[:held_out]}
    return [number for number, one in enumerate(photographs) if (one in held) == (split == "validation")]
