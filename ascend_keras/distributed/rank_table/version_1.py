"""Rank tables of the versions 1.0 and 1.2: servers with devices, all scalars as text."""

from ascend_keras.distributed.rank_table import rules
from ascend_keras.distributed.rank_table.drafts import Draft, ServerDraft, label
from ascend_keras.distributed.rank_table.faults import MAX_PORT, Place, check_status
from ascend_keras.distributed.rank_table.model import Device

PORTS = ("device_port", "host_port", "backup_device_port")
EXTRA = PORTS + ("backup_device_ip",)
MAX_SERVER_ID = 63


def parse(faults, content) -> Draft:
    """Reads a table whose "version" is "1.0" or "1.2".

    Args:
        faults: a `Faults`, to which every fault of the table is added.
        content: the object of the file.
    """
    draft = Draft(content["version"])
    check_status(faults, content)
    for position, entry in enumerate(faults.entries(Place(), content, "server_list")):
        draft.servers.append(_server(faults, position, entry, draft.version))
    if isinstance(content.get("server_list"), list) and content["server_list"]:
        count = len(content["server_list"])
        faults.counted(Place(), content, "server_count", count, "servers in server_list", required=False)
    rules.check_servers(faults, draft)
    rules.check_ranks(faults, draft)
    if draft.version == "1.2":
        _super_pods(faults, content, draft)
    return draft


def _server(faults, position, entry, version) -> ServerDraft:
    place = Place(label(entry.get("server_id"), "server_list[{}]".format(position)))
    server_id = faults.text(place, entry, "server_id")
    if server_id is not None and len(server_id) > MAX_SERVER_ID:
        what = "It must be shorter than {} characters.".format(MAX_SERVER_ID + 1)
        faults.add(place, "server_id", what, server_id, "Shorten it.")
    server = ServerDraft(place, server_id, faults.addresses(place, entry, "host_ip"))
    for index, device in enumerate(faults.entries(place, entry, "device")):
        where = Place(place.server, label(device.get("device_id"), "device[{}]".format(index)))
        server.entries.append((where, _device(faults, where, device, version)))
    return server


def _device(faults, place, entry, version):
    device_id = faults.number(place, entry, "device_id")
    rank_id = faults.number(place, entry, "rank_id")
    device_ip = faults.addresses(place, entry, "device_ip")
    for port in PORTS:
        faults.number(place, entry, port, required=False, most=MAX_PORT)
    faults.addresses(place, entry, "backup_device_ip")
    extra = tuple((name, str(entry[name])) for name in EXTRA if name in entry)
    super_device_id = faults.number(place, entry, "super_device_id") if version == "1.2" else None
    return Device(
        device_id, rank_id, device_ip, extra, "" if super_device_id is None else str(entry["super_device_id"])
    )


def _super_pods(faults, content, draft):
    """Super pods name every server once, and within one every super_device_id is used once."""
    pod_of, names = {}, set()
    known = {server.server_id for server in draft.servers if server.server_id is not None}
    for pod in faults.entries(Place(), content, "super_pod_list"):
        name = faults.text(Place(), pod, "super_pod_id")
        if name in names:
            faults.add(Place(), "super_pod_id", "Two super pods have this id.", name, "Give each its own.")
        names.add(name)
        members = [faults.text(Place(), one, "server_id") for one in faults.entries(Place(), pod, "server_list")]
        draft.super_pods.append((name, tuple(members)))
        for server_id in (member for member in members if member is not None):
            if server_id not in known:
                what = "super_pod_list names a server that server_list does not have."
                faults.add(Place(server_id), "super_pod_list", what, server_id, "Add or remove it.")
            elif server_id in pod_of:
                what = "The server is in two super pods, {} and {}.".format(pod_of[server_id], name)
                faults.add(Place(server_id), "super_pod_list", what, server_id, "Keep it in one.")
            pod_of.setdefault(server_id, name)
    if draft.super_pods and all(None not in members for _, members in draft.super_pods):
        for server_id in sorted(known - set(pod_of)):
            what = "No super pod has this server."
            faults.add(Place(server_id), "super_pod_list", what, server_id, "Add it to its super pod.")
    _super_device_ids(faults, draft, pod_of)


def _super_device_ids(faults, draft, pod_of):
    seen = {}
    for server in draft.servers:
        for place, device in server.entries:
            key = (pod_of.get(server.server_id), device.super_device_id)
            if device.super_device_id and key in seen:
                what = "Device {} of server {} has the same, in the same super pod.".format(
                    seen[key].device, seen[key].server
                )
                faults.add(place, "super_device_id", what, device.super_device_id, "Give each device its own.")
            seen.setdefault(key, place)
