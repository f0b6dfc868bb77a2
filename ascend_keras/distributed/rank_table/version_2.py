"""Rank tables of version 2.0 (Ascend 950): a list of ranks with network layers; numbers are numbers.

HCCL reads these together with topology files of the driver, so that only what the file itself must hold is checked.
"""

from ascend_keras.distributed.rank_table import rules
from ascend_keras.distributed.rank_table.drafts import Draft, ServerDraft, label
from ascend_keras.distributed.rank_table.faults import MAX_PORT, Place, check_status, is_ip
from ascend_keras.distributed.rank_table.model import Device

LAYERS = 4
ADDRESS_TYPES = ("IPV4", "IPV6", "EID")


def parse(faults, content) -> Draft:
    """Reads a table whose "version" is "2.0"; see `version_1.parse`."""
    draft = Draft("2.0", "rank_list")
    check_status(faults, content)
    ranks = faults.entries(Place(), content, "rank_list")
    count = faults.integer(Place(), content, "rank_count")
    if ranks and count is not None and count != len(content["rank_list"]):
        what = "There are {} ranks in rank_list.".format(len(content["rank_list"]))
        faults.add(Place(), "rank_count", what, count, "Write {}.".format(len(content["rank_list"])))
    servers = {}
    for position, entry in enumerate(ranks):
        instance = _lowest_instance(entry)
        place = Place(instance or "", label(entry.get("device_id"), "rank_list[{}]".format(position)))
        device = Device(faults.integer(place, entry, "device_id"), faults.integer(place, entry, "rank_id"))
        for field, required in (("local_id", True), ("replaced_local_id", False)):
            faults.integer(place, entry, field, required)
        faults.integer(place, entry, "device_port", required=False, most=MAX_PORT)
        _levels(faults, place, entry)
        server = servers.setdefault(instance, ServerDraft(Place(place.server), instance))
        server.entries.append((place, device))
    draft.servers.extend(servers.values())
    rules.check_ranks(faults, draft)
    return draft


def _lowest_instance(entry):
    """What stands for a server: the instance of the lowest network layer, None where there is none."""
    levels = entry.get("level_list")
    lowest = levels[0] if isinstance(levels, list) and levels else None
    instance = lowest.get("net_instance_id") if isinstance(lowest, dict) else None
    return instance if isinstance(instance, str) and instance.strip() else None


def _levels(faults, place, entry):
    """Checks the network layers of a rank."""
    former = -1
    for level in faults.entries(place, entry, "level_list"):
        layer = faults.integer(place, level, "net_layer", most=LAYERS - 1)
        if layer is not None and layer <= former:
            what = "The layers of a rank must rise; {} comes after {}.".format(layer, former)
            faults.add(place, "net_layer", what, layer, "Put them in order.")
        former = former if layer is None else layer
        faults.text(place, level, "net_instance_id")
        if level.get("rank_addr_list") != []:  # a layer may have none
            for address in faults.entries(place, level, "rank_addr_list"):
                _address(faults, place, address)


def _address(faults, place, address):
    kind, value = faults.text(place, address, "addr_type"), faults.text(place, address, "addr")
    if kind is not None and kind not in ADDRESS_TYPES:
        faults.add(place, "addr_type", "It must be {}.".format(" or ".join(ADDRESS_TYPES)), kind, "Correct it.")
    elif kind in ("IPV4", "IPV6") and value is not None and not (is_ip(value) and (":" in value) == (kind == "IPV6")):
        faults.add(place, "addr", "It is no {} address.".format(kind), value, "Correct the address.")
