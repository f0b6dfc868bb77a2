"""Rank tables for tests: generated in every form, with what they say; and broken by one change each."""

import copy
import json

from hypothesis import strategies as st

FORMS = ("1.0", "1.2", "2.0", "lab", "cloud")
PORTS = ("device_port", "host_port", "backup_device_port")


@st.composite
def plans(draw):
    """What a table says, apart from any form: a list of (server_id, host_ip, [device as a dict]), ranks shuffled."""
    counts = draw(st.lists(st.integers(1, 8), min_size=1, max_size=5))
    ranks = draw(st.permutations(range(sum(counts))))
    several = draw(st.integers(1, 2))  # addresses of a device
    with_ips = len(counts) > 1 or draw(st.booleans())
    six = draw(st.booleans())
    plan, number = [], 0
    for position, count in enumerate(counts):
        server_id = draw(st.text("abcz019_-.", min_size=1, max_size=20)) + "-{}".format(position)
        host_ip = "172.16.{}.{}".format(position, draw(st.integers(1, 254))) if draw(st.booleans()) else ""
        ids = draw(st.lists(st.integers(0, 15), min_size=count, max_size=count, unique=True))
        devices = []
        for device_id in ids:
            pattern = "fd00::{:x}:{:x}" if six else "10.{}.7.{}"
            ips = ",".join(pattern.format(1 + line, 1 + number) for line in range(several)) if with_ips else ""
            ports = {name: str(draw(st.integers(0, 65535))) for name in PORTS if draw(st.integers(0, 3)) == 0}
            devices.append(dict(device_id=device_id, rank_id=ranks[number], device_ip=ips, ports=ports))
            number += 1
        plan.append((server_id, host_ip, devices))
    return plan


def said(plan, form):
    """The plan as the reader should see it: (server_id, host_ip, [(device_id, rank_id, device_ip, extra)]) each."""
    if form == "cloud":
        plan = sorted(plan, key=lambda server: server[0])
        ranks = iter(range(sum(len(devices) for _, _, devices in plan)))
        plan = [
            (name, ip, [dict(one, rank_id=next(ranks)) for one in sorted(devices, key=lambda one: one["device_id"])])
            for name, ip, devices in plan
        ]
    poor = form in ("2.0", "lab", "cloud")
    return [
        (
            server_id,
            "" if poor else host_ip,
            [
                (
                    one["device_id"],
                    one["rank_id"],
                    "" if form == "2.0" else one["device_ip"],
                    () if poor else tuple((name, one["ports"][name]) for name in PORTS if name in one["ports"]),
                )
                for one in devices
            ],
        )
        for server_id, host_ip, devices in plan
    ]


def rendered(plan, form):
    """The content of a file of this form."""
    return {"1.0": _version_1, "1.2": _version_1_2, "2.0": _version_2, "lab": _lab, "cloud": _cloud}[form](plan)


def _version_1(plan):
    servers = []
    for server_id, host_ip, devices in plan:
        server = {"server_id": server_id, "device": [_device(one, one["ports"]) for one in devices]}
        servers.append(dict(server, host_ip=host_ip) if host_ip else server)
    return {"version": "1.0", "server_count": str(len(plan)), "server_list": servers, "status": "completed"}


def _device(one, more):
    entry = dict({"device_id": str(one["device_id"]), "rank_id": str(one["rank_id"])}, **more)
    return dict(entry, device_ip=one["device_ip"]) if one["device_ip"] else entry


def _version_1_2(plan):
    content = dict(_version_1(plan), version="1.2")
    number = 0
    for server in content["server_list"]:
        for device in server["device"]:
            device["super_device_id"] = str(number)
            number += 1
    names = [{"server_id": server["server_id"]} for server in content["server_list"]]
    pods = [names] if len(names) < 3 else [names[:2], names[2:]]
    content["super_pod_list"] = [
        {"super_pod_id": str(index), "server_list": members} for index, members in enumerate(pods)
    ]
    return content


def _version_2(plan):
    ranks = []
    for server_id, _, devices in plan:
        for local, one in enumerate(devices):
            address = {"addr_type": "IPV4", "addr": "10.9.0.{}".format(one["rank_id"]), "ports": ["0/1"]}
            lowest = {"net_layer": 0, "net_instance_id": server_id, "net_type": "TOPO_FILE_DESC"}
            levels = [
                dict(lowest, net_attr="", rank_addr_list=[address]),
                {"net_layer": 1, "net_instance_id": "all", "net_type": "CLOS", "net_attr": "", "rank_addr_list": []},
            ]
            ids = {"rank_id": one["rank_id"], "device_id": one["device_id"], "local_id": local}
            ranks.append(dict(ids, level_list=levels))
    return {"version": "2.0", "status": "completed", "rank_count": len(ranks), "rank_list": ranks}


def _lab(plan):
    instances = [
        {
            "devices": [{"device_id": str(one["device_id"]), "device_ip": one["device_ip"]}],
            "rank_id": str(one["rank_id"]),
            "server_id": server_id,
        }
        for server_id, _, devices in plan
        for one in devices
    ]
    group = {"group_name": "", "device_num": str(len(instances)), "server_num": str(len(plan))}
    group.update(instance_count=str(len(instances)), instance_list=instances)
    return {
        "board_id": "0x0000",
        "chip_info": "910",
        "deploy_mode": "lab",
        "group_count": "1",
        "group_list": [group],
        "para_plane_nic_location": "device",
        "para_plane_nic_name": ["eth0", "eth1"],
        "para_plane_nic_num": "2",
        "status": "completed",
    }


def _cloud(plan):
    instances = [
        {
            "pod_name": "pod-{}".format(position),
            "server_id": server_id,
            "devices": [{"device_id": str(one["device_id"]), "device_ip": one["device_ip"]} for one in devices],
        }
        for position, (server_id, _, devices) in enumerate(plan)
    ]
    group = {"group_name": "workers", "instance_count": str(len(instances)), "instance_list": instances}
    group["device_count"] = str(sum(len(one["devices"]) for one in instances))
    return {"status": "completed", "group_count": "1", "group_list": [group]}


# Two servers, s0 and s1, with devices 0 and 1 each; ranks 0 to 3.
SMALL = [
    (
        "s{}".format(server),
        "",
        [
            dict(device_id=i, rank_id=2 * server + i, device_ip="10.0.{}.{}".format(server, i + 1), ports={})
            for i in (0, 1)
        ],
    )
    for server in (0, 1)
]


def at(content, *keys):
    """What lies below these keys."""
    for key in keys:
        content = content[key]
    return content


def put(*path_and_value):
    """A change that sets a value."""
    *path, key, value = path_and_value

    def change(content):
        at(content, *path)[key] = value

    return change


def drop(*path):
    """A change that removes a key or an entry."""

    def change(content):
        del at(content, *path[:-1])[path[-1]]

    return change


S0, S1 = ("server_list", 0), ("server_list", 1)
D00, D01, D10, D11 = S0 + ("device", 0), S0 + ("device", 1), S1 + ("device", 0), S1 + ("device", 1)
R0, R3 = ("rank_list", 0), ("rank_list", 3)
G, I0, I3 = ("group_list", 0), ("group_list", 0, "instance_list", 0), ("group_list", 0, "instance_list", 3)
C1 = ("group_list", 0, "instance_list", 1)

# form, change, and the one fault that it must give: (server, device, field).
BROKEN = [
    ("1.0", drop("version"), ("", "", "version")),
    ("1.0", put("version", 1.0), ("", "", "version")),
    ("1.0", put("version", "1.1"), ("", "", "version")),
    ("1.0", drop("status"), ("", "", "status")),
    ("1.0", put("status", "initializing"), ("", "", "status")),
    ("1.0", put("status", True), ("", "", "status")),
    ("1.0", put("server_count", 2), ("", "", "server_count")),
    ("1.0", put("server_count", "3"), ("", "", "server_count")),
    ("1.0", put("server_count", "two"), ("", "", "server_count")),
    ("1.0", drop("server_list"), ("", "", "server_list")),
    ("1.0", put("server_list", []), ("", "", "server_list")),
    ("1.0", put("server_list", {}), ("", "", "server_list")),
    ("1.0", drop(*S0 + ("server_id",)), ("server_list[0]", "", "server_id")),
    ("1.0", put(*S0 + ("server_id", "")), ("server_list[0]", "", "server_id")),
    ("1.0", put(*S0 + ("server_id", 7)), ("7", "", "server_id")),
    ("1.0", put(*S1 + ("server_id", "s0")), ("s0", "", "server_id")),
    ("1.0", put(*S1 + ("server_id", "s" * 64)), ("s" * 64, "", "server_id")),
    ("1.0", put(*S1 + ("host_ip", "172.16.0")), ("s1", "", "host_ip")),
    ("1.0", put(*S1 + ("host_ip", 172)), ("s1", "", "host_ip")),
    ("1.0", drop(*D10 + ("device_id",)), ("s1", "device[0]", "device_id")),
    ("1.0", put(*D10 + ("device_id", 0)), ("s1", "0", "device_id")),
    ("1.0", put(*D10 + ("device_id", "1")), ("s1", "1", "device_id")),
    ("1.0", put(*D10 + ("device_id", "-1")), ("s1", "-1", "device_id")),
    ("1.0", put(*D10 + ("device_id", "99999999999")), ("s1", "99999999999", "device_id")),
    ("1.0", drop(*D11 + ("rank_id",)), ("s1", "1", "rank_id")),
    ("1.0", put(*D11 + ("rank_id", 3)), ("s1", "1", "rank_id")),
    ("1.0", put(*D11 + ("rank_id", "2")), ("s1", "1", "rank_id")),
    ("1.0", put(*D11 + ("rank_id", "4")), ("s1", "1", "rank_id")),
    ("1.0", put(*D01 + ("rank_id", "1.0")), ("s0", "1", "rank_id")),
    ("1.0", put(*D01 + ("rank_id", None)), ("s0", "1", "rank_id")),
    ("1.0", drop(*D01 + ("device_ip",)), ("s0", "1", "device_ip")),
    ("1.0", put(*D01 + ("device_ip", "")), ("s0", "1", "device_ip")),
    ("1.0", put(*D01 + ("device_ip", "10.0.0.256")), ("s0", "1", "device_ip")),
    ("1.0", put(*D01 + ("device_ip", "10.0.0.02")), ("s0", "1", "device_ip")),
    ("1.0", put(*D01 + ("device_ip", "fe80::1%eth0")), ("s0", "1", "device_ip")),
    ("1.0", put(*D01 + ("device_ip", "10.0.0.1")), ("s0", "1", "device_ip")),
    ("1.0", put(*D10 + ("device_ip", "10.0.0.1")), ("s1", "0", "device_ip")),
    ("1.0", put(*D01 + ("device_ip", "10.0.0.8,10.0.0.9")), ("s0", "1", "device_ip")),
    ("1.0", put(*D01 + ("device_ip", ["10.0.0.8"])), ("s0", "1", "device_ip")),
    ("1.0", put(*D01 + ("device_port", "65536")), ("s0", "1", "device_port")),
    ("1.0", put(*D01 + ("host_port", 16666)), ("s0", "1", "host_port")),
    ("1.0", put(*D01 + ("backup_device_port", "")), ("s0", "1", "backup_device_port")),
    ("1.0", put(*D01 + ("backup_device_ip", "host")), ("s0", "1", "backup_device_ip")),
    ("1.2", drop(*D01 + ("super_device_id",)), ("s0", "1", "super_device_id")),
    ("1.2", put(*D01 + ("super_device_id", 1)), ("s0", "1", "super_device_id")),
    ("1.2", put(*D10 + ("super_device_id", "1")), ("s1", "0", "super_device_id")),
    ("1.2", drop("super_pod_list"), ("", "", "super_pod_list")),
    ("1.2", drop("super_pod_list", 0, "server_list", 1), ("s1", "", "super_pod_list")),
    ("1.2", drop("super_pod_list", 0, "super_pod_id"), ("", "", "super_pod_id")),
    ("1.2", put("super_pod_list", 0, "server_list", 1, "server_id", 5), ("", "", "server_id")),
    ("2.0", put("rank_count", 5), ("", "", "rank_count")),
    ("2.0", put("rank_count", "4"), ("", "", "rank_count")),
    ("2.0", put("rank_list", []), ("", "", "rank_list")),
    ("2.0", put(*R3 + ("rank_id", 0)), ("s1", "1", "rank_id")),
    ("2.0", put(*R3 + ("rank_id", 4)), ("s1", "1", "rank_id")),
    ("2.0", put(*R3 + ("rank_id", "3")), ("s1", "1", "rank_id")),
    ("2.0", put(*R3 + ("device_id", -1)), ("s1", "-1", "device_id")),
    ("2.0", drop(*R3 + ("local_id",)), ("s1", "1", "local_id")),
    ("2.0", put(*R0 + ("device_port", 70000)), ("s0", "0", "device_port")),
    ("2.0", put(*R0 + ("level_list", 1, "net_layer", 0)), ("s0", "0", "net_layer")),
    ("2.0", put(*R0 + ("level_list", 1, "net_layer", 4)), ("s0", "0", "net_layer")),
    ("2.0", put(*R0 + ("level_list", 0, "rank_addr_list", 0, "addr", "::1")), ("s0", "0", "addr")),
    ("2.0", put(*R0 + ("level_list", 0, "rank_addr_list", 0, "addr_type", "MAC")), ("s0", "0", "addr_type")),
    ("lab", put("group_count", "2"), ("", "", "group_count")),
    ("lab", put("group_count", 1), ("", "", "group_count")),
    ("lab", put(*G + ("device_num", "8")), ("", "", "device_num")),
    ("lab", put(*G + ("server_num", "1")), ("", "", "server_num")),
    ("lab", put(*G + ("instance_count", "3")), ("", "", "instance_count")),
    ("lab", put(*G + ("group_name", None)), ("", "", "group_name")),
    ("lab", put("para_plane_nic_location", "host"), ("", "", "para_plane_nic_location")),
    ("lab", put("para_plane_nic_num", "1"), ("", "", "para_plane_nic_num")),
    ("lab", put(*I3 + ("rank_id", "0")), ("s1", "1", "rank_id")),
    ("lab", put(*I3 + ("devices", [])), ("s1", "instance_list[3]", "devices")),
    ("lab", drop(*I0 + ("devices", 0, "device_ip")), ("s0", "0", "device_ip")),
    ("lab", put(*I3 + ("devices", 0, "device_id", "0")), ("s1", "0", "device_id")),
    ("cloud", put(*G + ("device_count", "3")), ("", "", "device_count")),
    ("cloud", put(*G + ("instance_count", "4")), ("", "", "instance_count")),
    ("cloud", put(*C1 + ("pod_name", "pod-0")), ("s1", "", "pod_name")),
    ("cloud", drop(*C1 + ("server_id",)), ("instance_list[1]", "", "server_id")),
    ("cloud", put(*C1 + ("devices", 0, "device_id", "1")), ("s1", "1", "device_id")),
    ("cloud", put("status", ""), ("", "", "status")),
]


def broken(index):
    """Number `index` of BROKEN: its content, and the fault."""
    form, change, fault = BROKEN[index]
    content = copy.deepcopy(rendered(SMALL, form))
    change(content)
    return content, fault


def save(content, path):
    """Writes a table; returns its path as text."""
    path.write_text(json.dumps(content))
    return str(path)
