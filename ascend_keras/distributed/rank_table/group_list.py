"""The two old forms without a version: "lab" (it has deploy_mode; an instance is a rank) and "cloud" (a pod)."""

from ascend_keras.distributed.rank_table import rules
from ascend_keras.distributed.rank_table.drafts import Draft, ServerDraft, label
from ascend_keras.distributed.rank_table.faults import Place, check_status
from ascend_keras.distributed.rank_table.model import Device

# What a lab table says of the board and its network cards; HCCL is reported to want them, training does not.
LAB_FIELDS = ("board_id", "chip_info", "para_plane_nic_location", "para_plane_nic_name", "para_plane_nic_num")


def parse(faults, content) -> Draft:
    """Reads a table with a "group_list"; see `version_1.parse`."""
    is_lab = "deploy_mode" in content
    draft = Draft("lab" if is_lab else "cloud", "devices")
    check_status(faults, content)
    if is_lab:
        _lab_head(faults, content)
    groups = faults.entries(Place(), content, "group_list")
    if groups:
        faults.counted(Place(), content, "group_count", len(content["group_list"]), "groups in group_list")
    servers, names = {}, set()
    for group in groups:
        _group_name(faults, group, names)
        (_lab_group if is_lab else _cloud_group)(faults, group, servers)
    draft.servers.extend(servers.values())
    rules.check_devices(faults, draft)
    if is_lab:
        rules.check_ranks(faults, draft)
    elif not faults.found:
        _number(draft)
    return draft


def _lab_head(faults, content):
    faults.text(Place(), content, "deploy_mode")
    for field in LAB_FIELDS:
        if field not in content:
            what = "Tables of this form usually have it."
            faults.add(Place(), field, what, remedy="Convert the table to version 1.0, which needs none.", warning=True)
    if content.get("para_plane_nic_location", "device") != "device":
        what = "Only the cards of the devices are used."
        faults.add(Place(), "para_plane_nic_location", what, content["para_plane_nic_location"], 'Write "device".')
    names = content.get("para_plane_nic_name")
    if isinstance(names, list) and "para_plane_nic_num" in content:
        faults.counted(Place(), content, "para_plane_nic_num", len(names), "names in para_plane_nic_name")


def _group_name(faults, group, names):
    # HCCL's own tests have a group without a name, so that an empty text is one.
    name = group.get("group_name")
    if not isinstance(name, str):
        name = faults.text(Place(), group, "group_name")
    elif name in names:
        faults.add(Place(), "group_name", "Two groups have this name.", name, "Give each its own.")
    names.add(name)


def _server_of(faults, place, instance, servers):
    server_id = faults.text(place, instance, "server_id")
    return servers.setdefault(server_id, ServerDraft(Place(server_id or ""), server_id))


def _lab_group(faults, group, servers):
    instances = faults.entries(Place(), group, "instance_list")
    for position, instance in enumerate(instances):
        otherwise = "instance_list[{}]".format(position)
        outer = Place(label(instance.get("server_id"), ""), otherwise)
        devices = faults.entries(outer, instance, "devices")
        place = outer._replace(device=label(devices[0].get("device_id"), otherwise) if devices else otherwise)
        server = _server_of(faults, place, instance, servers)
        rank_id = faults.number(place, instance, "rank_id")
        if len(devices) > 1:
            what = "An instance of this form has one device."
            faults.add(place, "devices", what, len(devices), "Give each device an instance of its own.")
        for device in devices[:1]:
            server.entries.append((place, _device(faults, place, device)._replace(rank_id=rank_id)))
    if instances:
        for field in ("device_num", "instance_count"):
            faults.counted(Place(), group, field, len(group["instance_list"]), "instances in instance_list")
        hosts = {one.get("server_id") for one in instances if isinstance(one.get("server_id"), str)}
        faults.counted(Place(), group, "server_num", len(hosts), "different server_id", required=False)


def _cloud_group(faults, group, servers):
    instances = faults.entries(Place(), group, "instance_list")
    pods, count = set(), 0
    for position, instance in enumerate(instances):
        place = Place(label(instance.get("server_id"), "instance_list[{}]".format(position)))
        server = _server_of(faults, place, instance, servers)
        pod = faults.text(place, instance, "pod_name")
        if pod is not None and pod in pods:
            faults.add(place, "pod_name", "Two instances have this name.", pod, "Give each its own.")
        pods.add(pod)
        for index, device in enumerate(faults.entries(place, instance, "devices")):
            where = place._replace(device=label(device.get("device_id"), "devices[{}]".format(index)))
            server.entries.append((where, _device(faults, where, device)._replace(pod_name=pod or "")))
            count += 1
    if instances:
        what = "instances in instance_list"
        faults.counted(Place(), group, "instance_count", len(group["instance_list"]), what)
        faults.counted(Place(), group, "device_count", count, "devices in the group")


def _device(faults, place, entry):
    device_id = faults.number(place, entry, "device_id")
    if "device_ip" not in entry:
        faults.text(place, entry, "device_ip")
    return Device(device_id, 0, faults.addresses(place, entry, "device_ip"))


def _number(draft):
    """Ranks by server and device, in this order; the form itself names none."""
    draft.servers.sort(key=lambda server: server.server_id)
    rank = 0
    for server in draft.servers:
        server.entries.sort(key=lambda entry: entry[1].device_id)
        for position, (place, device) in enumerate(server.entries):
            server.entries[position] = (place, device._replace(rank_id=rank))
            rank += 1
