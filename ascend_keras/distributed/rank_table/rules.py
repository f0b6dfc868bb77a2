"""What must hold between the fields of a rank table, and between it, the product and the environment."""

from ascend_keras.distributed.rank_table.faults import Place, is_digits, same_ip
from ascend_keras.distributed.rank_table.model import host_names, is_host

PRODUCTS = ("910A", "A2", "A3", "950")
RING = 4


def check_servers(faults, draft):
    """Every server has an id of its own; then the rules of the devices."""
    seen = set()
    for server in draft.servers:
        if server.server_id is not None and server.server_id in seen:
            what = "Two servers have this id."
            faults.add(server.place, "server_id", what, server.server_id, "Give each its own, or join their devices.")
        seen.add(server.server_id)
    check_devices(faults, draft)


def check_devices(faults, draft):
    """Ids of devices differ within a server, their addresses in the whole table."""
    for server in draft.servers:
        seen = set()
        for place, device in server.entries:
            if device.device_id is not None and device.device_id in seen:
                what = "The server has this device already."
                faults.add(place, "device_id", what, str(device.device_id), "Give each device its own physical id.")
            seen.add(device.device_id)
    owners, counts = {}, {}
    for place, device in draft.entries:
        for address in filter(None, device.device_ip.split(",")):
            owner = owners.setdefault(same_ip(address), place)
            if owner is not place:
                what = "Device {} of server {} has the same address.".format(owner.device, owner.server)
                faults.add(place, "device_ip", what, address, "Give each device the address of its own network card.")
        if device.device_ip:
            counts.setdefault(len(device.device_ip.split(",")), place)
            usual = next(iter(counts))
            if len(device.device_ip.split(",")) != usual:
                what = "The devices before have {} address(es), and all must have as many.".format(usual)
                faults.add(place, "device_ip", what, device.device_ip, "Give {}.".format(usual))


def check_ranks(faults, draft):
    """Rank ids are 0 to N-1, each once."""
    entries = draft.entries
    given = {device.rank_id for _, device in entries}
    missing = ", ".join(str(rank) for rank in range(len(entries)) if rank not in given) or "none"
    owners = {}
    for place, device in entries:
        rank = device.rank_id
        if rank is None:
            continue
        if rank in owners:
            what = "Device {} of server {} has the same rank; missing: {}.".format(*reversed(owners[rank]), missing)
            faults.add(place, "rank_id", what, rank, "Give each device a rank of its own.")
        elif rank >= len(entries):
            what = "{} devices have the ranks 0 to {}; missing: {}.".format(len(entries), len(entries) - 1, missing)
            faults.add(place, "rank_id", what, rank, "Number them without a gap.")
        owners.setdefault(rank, place)


def check_addresses_needed(faults, draft, environ):
    """Devices need addresses where they talk over the network: several servers (pods), or RoCE switched on."""
    if draft.version == "2.0":
        return
    why = ""
    if environ.get("HCCL_INTRA_ROCE_ENABLE") == "1":
        why = "HCCL_INTRA_ROCE_ENABLE=1 sends everything over the network"
    elif len(draft.super_pods if draft.version == "1.2" else draft.servers) > 1:
        why = "the devices of several {} talk over the network".format("pods" if draft.super_pods else "servers")
    has_some = any(device.device_ip for _, device in draft.entries)
    faulty = {(fault.server, fault.device) for fault in faults.found if fault.field == "device_ip"}
    for place, device in draft.entries:
        if device.device_ip or tuple(place) in faulty:
            continue
        if why:
            remedy = "Add the address that `hccn_tool -i {} -ip -g` prints.".format(place.device)
            faults.add(place, "device_ip", "It is missing, and {}.".format(why), remedy=remedy)
        elif has_some:
            remedy = "Add it, or leave it out everywhere."
            faults.add(place, "device_ip", "It is missing here, others have it.", remedy=remedy, warning=True)


# --- product ----------------------------------------------------------------------------------------------------


def check_product(faults, draft, product):
    """Which devices a product can combine; where the product is not known, the rule of the 910A only warns."""
    counts = [len(server.entries) for server in draft.servers]
    if product in ("910A", None) and draft.version in ("1.0", "lab", "cloud"):
        for server in draft.servers:
            _check_rings(faults, draft, server, warning=product is None)
    if product == "910A" and len(set(counts)) > 1:
        odd = next(server for server in draft.servers if len(server.entries) != counts[0])
        what = "On 910A all servers have the same number of devices; the first has {}.".format(counts[0])
        faults.add(odd.place, draft.devices_field, what, len(odd.entries), "Use as many on each.")
    if product == "910A" and len(counts) & (len(counts) - 1):
        what = "A power of two is preferred for the number of servers."
        faults.add(Place(), "server_list", what, len(counts), "Use another number if you can.", warning=True)
    if product == "A2":
        for server in draft.servers:
            if len(server.entries) > 8:
                what = "A server of this product has 8 devices."
                faults.add(server.place, draft.devices_field, what, len(server.entries), "Remove the others.")
    if product == "A3" and len(set(counts)) > 1:
        what = "On A3 all servers should have the same number of devices."
        faults.add(Place(), "server_list", what, counts, "Use as many on each.", warning=True)


def _check_rings(faults, draft, server, warning):
    ids = [device.device_id for _, device in server.entries]
    if None in ids:
        return
    what = "If this is a 910A: " if warning else ""
    for place, device in server.entries:
        if device.device_id >= 2 * RING and not warning:
            remedy = "Give the physical id on its server."
            faults.add(place, "device_id", "A 910A server has the devices 0 to 7.", str(device.device_id), remedy)
            return
    if len(ids) not in (1, 2, 4, 8):
        what += "a server takes 1, 2, 4 or 8 devices."
        faults.add(server.place, draft.devices_field, what, len(ids), "Use such a number.", warning)
    elif len(ids) in (2, 4) and len({device_id // RING for device_id in ids}) > 1:
        what += "devices 0-3 and 4-7 are two rings, and 2 or 4 devices must be in one of them."
        faults.add(server.place, "device_id", what, sorted(ids), "Take them from 0-3 or from 4-7.", warning)


# --- launch -----------------------------------------------------------------------------------------------------


def check_launch(faults, draft, size, rank):
    """The table has as many ranks as are launched, this one among them."""
    count = len(draft.entries)
    if size is not None and size != count:
        what = "The rank table has {} ranks.".format(count)
        faults.add(Place(), "size", what, size, "Launch {}, or make a table for {}.".format(count, size))
    if rank is not None and not 0 <= rank < count:
        what = "The rank table has the ranks 0 to {}.".format(count - 1)
        faults.add(Place(), "rank", what, rank, "Give one of these.")


def check_environment(faults, draft, environ):
    """The variables of this process agree with the table: RANK_SIZE, RANK_ID or POD_NAME, ASCEND_DEVICE_ID, host."""
    count, mine = len(draft.entries), None
    size = _variable(faults, environ, "RANK_SIZE")
    if size is not None and size != count:
        what = "The rank table has {} ranks.".format(count)
        faults.add(Place(), "RANK_SIZE", what, environ["RANK_SIZE"], "Launch as many as the table has.")
    if draft.version == "cloud":
        mine = _by_pod(faults, draft, environ)
    else:
        rank = _variable(faults, environ, "RANK_ID")
        if rank is not None:
            named = [entry for entry in draft.entries if entry[1].rank_id == rank]
            mine = named[0] if len(named) == 1 else None
            if not named:
                what = "The rank table has the ranks 0 to {}.".format(count - 1)
                faults.add(Place(), "RANK_ID", what, environ["RANK_ID"], "Give one of these.")
    if mine is not None:
        server = next(server for server in draft.servers if mine in server.entries)
        _check_device(faults, draft, environ, server, *mine)
        _check_host(faults, draft, server)


def _variable(faults, environ, name):
    text = environ.get(name, "")
    if text and not is_digits(text):
        faults.add(Place(), name, "It must be a whole number from 0 on.", text, "Correct this environment variable.")
    return int(text) if is_digits(text) else None


def _by_pod(faults, draft, environ):
    pod, pods = environ.get("POD_NAME", ""), {}
    for place, device in draft.entries:
        pods.setdefault(device.pod_name, []).append((place, device))
    if pod not in pods:
        what = "In tables of this form a process is found by its pod, and this one is not there."
        remedy = "Set it to one of {}, or convert the table to version 1.0.".format(", ".join(sorted(pods)))
        faults.add(Place(), "POD_NAME", what, pod, remedy)
        return None
    return pods[pod][0] if len(pods[pod]) == 1 else None


def _check_device(faults, draft, environ, server, place, device):
    opened = _variable(faults, environ, "ASCEND_DEVICE_ID")
    ids = [one.device_id for _, one in server.entries]
    received, remedy = environ.get("ASCEND_DEVICE_ID", ""), "Set it to that device."
    size = environ.get("RANK_SIZE", "")
    # A pod of the cloud's form is shown its own devices, and the first is 0.
    if not received and is_digits(size) and int(size) > 1 and draft.version != "cloud":
        opened, remedy = 0, "Without it every rank opens device 0. " + remedy
    # Where only some devices are shown to the process, it numbers those, whichever they are.
    if opened is None or None in ids or environ.get("ASCEND_RT_VISIBLE_DEVICES"):
        return
    ids.sort()
    # A container numbers its devices anew from 0 on: the logical id is then the position.
    if device.device_id == opened or ids.index(device.device_id) == opened:
        return
    what = "Rank {} belongs to device {} of server {}, number {} there.".format(
        device.rank_id, device.device_id, place.server, ids.index(device.device_id)
    )
    faults.add(place, "ASCEND_DEVICE_ID", what, received, remedy)


def _check_host(faults, draft, server):
    names = host_names()
    if len(draft.servers) > 1 and draft.version != "2.0" and not is_host(server, names):
        other = [one.server_id for one in draft.servers if is_host(one, names)]
        what = "This rank's server is not this machine, which has {}.".format(", ".join(sorted(names)))
        remedy = "This machine is {}.".format(other[0]) if other else "In a container that may be so."
        faults.add(server.place, "server_id", what, server.server_id, remedy, warning=not other)
