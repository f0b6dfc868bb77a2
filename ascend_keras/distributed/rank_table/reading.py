"""Reading and checking a rank table of any form."""

import json
import os
from typing import Any, List, Mapping, Optional, Tuple, Union

from ascend_keras.distributed.rank_table import group_list, rules, version_1, version_2
from ascend_keras.distributed.rank_table.drafts import Draft
from ascend_keras.distributed.rank_table.faults import Fault, Faults, Place, RankTableError
from ascend_keras.distributed.rank_table.model import RankTable

_PARSERS = {"1.0": version_1.parse, "1.2": version_1.parse, "2.0": version_2.parse}
Source = Union[str, "os.PathLike[str]", Mapping[str, Any]]


def read(source: Source, environ: Optional[Mapping[str, str]] = None) -> RankTable:
    """Reads a rank table of any form.

    Args:
        source: path of the file, or its content as a dict.
        environ: where to look for HCCL_INTRA_ROCE_ENABLE, under which devices need addresses; None is this process'.

    Raises:
        RankTableError: a ValueError that lists every fault, also those of the file as such.
    """
    faults = Faults()
    draft = _parse(faults, source, os.environ if environ is None else environ)
    wrong = [fault for fault in faults.found if not fault.warning]
    if wrong or draft is None:
        raise RankTableError(title(source), wrong)
    return draft.table()


def check(
    source: Source,
    size: Optional[int] = None,
    rank: Optional[int] = None,
    environ: Optional[Mapping[str, str]] = None,
    product: Optional[str] = None,
) -> List[Fault]:
    """Finds all that is wrong with a rank table, for a launch, a product and an environment.

    Args:
        source: path of the file, or its content as a dict.
        size: number of ranks that are launched.
        rank: one of them.
        environ: variables to compare the table with: RANK_SIZE, RANK_ID (POD_NAME for the form "cloud"),
            ASCEND_DEVICE_ID, and with RANK_ID whether this machine is that rank's server. None compares none.
        product: "910A", "A2", "A3", "950"; None where it is not known: then the ring rule of the 910A is a warning.

    Returns:
        A list of `Fault`; those with `warning` do not keep the table from being used.

    Raises:
        ValueError: there is no such product.
    """
    if product is not None and product not in rules.PRODUCTS:
        raise ValueError("Unknown product. Received: product={!r}. Use {}.".format(product, ", ".join(rules.PRODUCTS)))
    faults = Faults()
    draft = _parse(faults, source, os.environ if environ is None else environ)
    if draft is None or not draft.entries:
        return faults.found
    rules.check_product(faults, draft, product)
    rules.check_launch(faults, draft, size, rank)
    if environ is not None:
        rules.check_environment(faults, draft, environ)
    return faults.found


def title(source) -> str:
    """How messages call a source."""
    return "The rank table" if isinstance(source, Mapping) else "The rank table {}".format(os.fspath(source))


def _parse(faults, source, environ) -> Optional[Draft]:
    content = source if isinstance(source, Mapping) else _load(faults, os.fspath(source))
    if content is None:
        return None
    version = content.get("version")
    if "version" in content:
        parser = _PARSERS.get(version) if isinstance(version, str) else None
    else:
        parser = group_list.parse if "group_list" in content else None
    if parser is None:
        _unknown_version(faults, content)
        return None
    draft = parser(faults, content)
    rules.check_addresses_needed(faults, draft, environ)
    return draft


def _unknown_version(faults, content):
    if "version" not in content:
        what = "It is missing, and so is the group_list of the old forms."
        faults.add(Place(), "version", what, remedy='Add "version": "1.0".')
    elif isinstance(content["version"], str):
        what, remedy = "There is no such version.", "Use one of {}.".format(", ".join(sorted(_PARSERS)))
        faults.add(Place(), "version", what, content["version"], remedy)
    else:
        what = "It must be text in quotes."
        faults.add(Place(), "version", what, content["version"], 'Write "version": "1.0".')


def _load(faults, path) -> Optional[Mapping[str, Any]]:
    place = Place()
    if not path.endswith(".json"):
        faults.add(place, "path", "HCCL takes files that end in .json only.", path, "Rename the file.")
    twice: List[str] = []
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file, object_pairs_hook=lambda pairs: _object(pairs, twice))
    except OSError as error:
        faults.add(place, "path", "The file cannot be read: {}.".format(error.strerror), path, "Correct the path.")
        return None
    except ValueError as error:  # of JSON, or of UTF-8
        remedy = "Correct it; JSON has no comments (// or #) and no comma after the last entry."
        faults.add(place, "JSON", "The file is no JSON: {}.".format(error), remedy=remedy)
        return None
    for key in twice:
        faults.add(place, key, "One object has this key twice.", remedy="Keep one of them.")
    if not isinstance(content, dict):
        faults.add(place, "JSON", "The file must hold one object.", content, "Write {...}.")
        return None
    return content


def _object(pairs: List[Tuple[str, Any]], twice: List[str]):
    keys = [key for key, _ in pairs]
    twice.extend(key for index, key in enumerate(keys) if key in keys[:index])
    return dict(pairs)
