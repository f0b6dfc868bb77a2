"""`ascend-keras rank-table`: makes, converts, joins and checks rank tables. No TensorFlow.

What it works with is imported by the commands that need it: every start of the command line passes here.
"""

import argparse
import json
import os
import sys

HCCN_CONF = "/etc/hccn.conf"

_EXAMPLES = """examples:
  ascend-keras rank-table make -o 8p.json                             this server, addresses from /etc/hccn.conf
  ascend-keras rank-table make -o 4p.json --devices 0-3               four of its devices
  ascend-keras rank-table make -o 8p.json --server node0:hccn.conf    from a file with address_N=, or what
                                                                      `hccn_tool -i N -ip -g` has printed for each N
  ascend-keras rank-table make -o 2p.json --server-id node0 --devices 0-1 --ips 192.168.100.101,192.168.101.101
  ascend-keras rank-table make -o 16p.json --server node0:a.conf --server node1:b.conf
  ascend-keras rank-table make -o 16p.json --merge node0.json node1.json
  ascend-keras rank-table make -o new.json --from old.json            an old form (group_list) into version 1.0
  ascend-keras rank-table check 8p.json --size 8 --product 910A       exit status 1 if something is wrong
"""

_MAKE = """Writes a rank table of version 1.0. Ranks go by server, in the order given, and in each server by device id;
a converted table keeps its ranks. The file is written aside and renamed.
"""

_CHECK = """Names every fault of a rank table (versions 1.0, 1.2, 2.0, and the old forms with a group_list) by server,
device and field. A table without fault is summed up, with a hash that must be the same on all nodes.
"""


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Adds `rank-table` and its commands to the subparsers of the command line."""
    parser = commands.add_parser(
        "rank-table",
        allow_abbrev=False,
        help="make and check rank tables",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=lambda arguments: _usage(parser))
    actions = parser.add_subparsers(dest="action", metavar="command")
    _add_make(actions)
    _add_check(actions)


def _usage(parser):
    parser.print_help()
    return 2


def _add_make(actions):
    parser = actions.add_parser("make", allow_abbrev=False, help="write a table", description=_MAKE)
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the table; its name ends in .json")
    parser.add_argument(
        "--server",
        action="append",
        metavar="ID:FILE",
        help="a server and its hccn.conf or output of hccn_tool; once for each server",
    )
    parser.add_argument("--server-id", metavar="ID", help="this one server (default: the name of this machine)")
    parser.add_argument(
        "--devices", metavar="LIST", help="physical ids such as 0-7 or 0,1,4-5 (default: all in the file)"
    )
    parser.add_argument("--ips", metavar="LIST", help="addresses of these devices, in their order, instead of a file")
    parser.add_argument("--merge", nargs="+", metavar="TABLE", help="join tables, such as each server has made its own")
    parser.add_argument("--from", dest="old", metavar="TABLE", help="convert a table of an old form")
    parser.add_argument("--product", help="910A, A2, A3 or 950: check what it can combine")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")
    parser.set_defaults(run=_make)


def _add_check(actions):
    parser = actions.add_parser("check", allow_abbrev=False, help="name the faults of a table", description=_CHECK)
    parser.add_argument("file", metavar="FILE", help="the table")
    parser.add_argument("--size", type=int, help="number of ranks that shall be launched")
    parser.add_argument("--product", help="910A, A2, A3 or 950: check what it can combine")
    parser.add_argument(
        "--environment",
        action="store_true",
        help="compare with this machine and with RANK_SIZE, RANK_ID, ASCEND_DEVICE_ID, POD_NAME as they are set here",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_check)


def _check(arguments):
    from ascend_keras.distributed import rank_table

    environ = os.environ if arguments.environment else None
    faults = rank_table.check(arguments.file, arguments.size, None, environ, arguments.product)
    good = all(fault.warning for fault in faults)
    if arguments.json:
        print(json.dumps({"faults": [fault._asdict() for fault in faults], "good": good}, indent=2))
        return 0 if good else 1
    for fault in faults:
        print(fault)
    if good:
        print(rank_table.summary(rank_table.read(arguments.file)))
        print("content {}: the same on every node".format(rank_table.content_hash(arguments.file)))
    else:
        count = sum(not fault.warning for fault in faults)
        print("{}: {} fault{}".format(arguments.file, count, "" if count == 1 else "s"))
    return 0 if good else 1


def _make(arguments):
    from ascend_keras.distributed import rank_table

    table = _table(arguments)
    rank_table.write(table, arguments.output, arguments.overwrite, arguments.product)
    print(rank_table.summary(table))
    print("written to {}, content {}".format(arguments.output, rank_table.content_hash(arguments.output)))
    return 0


def _table(arguments):
    from ascend_keras.distributed import rank_table

    sources = ("server", "ips", "merge", "old")
    given = [name for name in sources if getattr(arguments, name) is not None]
    titles = {"old": "from"}
    if len(given) > 1:
        named = ", ".join("--" + titles.get(name, name) for name in given)
        raise ValueError("The table can come from one of these only. Received: {}. Give one of them.".format(named))
    if given and given[0] in ("merge", "old"):
        useless = [name for name in ("server_id", "devices") if getattr(arguments, name) is not None]
        if useless:
            named = ", ".join("--" + name.replace("_", "-") for name in useless)
            raise ValueError(
                "A table that exists keeps its servers and devices. Received: {}. Leave it out.".format(named)
            )
        if arguments.merge is not None:
            return rank_table.merge([rank_table.read(path) for path in arguments.merge])
        return rank_table.as_version_1(rank_table.read(arguments.old))
    if arguments.server is not None:
        if arguments.server_id is not None:
            raise ValueError("--server names the server already. Received: --server-id={}.".format(arguments.server_id))
        return rank_table.make([_server(text, arguments.devices) for text in arguments.server])
    return rank_table.make([_this_server(arguments)])


def _server(text, devices):
    server_id, _, path = text.rpartition(":")
    if not server_id or not path:
        raise ValueError("--server takes ID:FILE. Received: {!r}. Write --server=node0:hccn.conf.".format(text))
    return server_id, _addresses(path, devices)


def _addresses(path, devices):
    from ascend_keras.distributed import rank_table

    with open(path, encoding="utf-8", errors="replace") as file:
        found = rank_table.addresses_in(file.read(), path)
    wanted = list(found) if devices is None else _device_ids(devices)
    missing = [str(device) for device in wanted if device not in found]
    if missing:
        raise ValueError(
            "{} has no address for device {}. Received: --devices={}; it has devices {}.".format(
                path, ", ".join(missing), devices, ", ".join(map(str, found))
            )
        )
    return {device: found[device] for device in wanted}


def _this_server(arguments):
    server_id = arguments.server_id or os.uname().nodename
    if arguments.ips is None:
        if arguments.devices is None or os.path.exists(HCCN_CONF):
            return server_id, _addresses(HCCN_CONF, arguments.devices)
        print("without addresses: {} is not here".format(HCCN_CONF), file=sys.stderr)
        return server_id, dict.fromkeys(_device_ids(arguments.devices), "")
    addresses = [one.strip() for one in arguments.ips.split(",")]
    devices = list(range(len(addresses))) if arguments.devices is None else _device_ids(arguments.devices)
    if len(devices) != len(addresses):
        raise ValueError(
            "There must be an address for each device. Received: {} devices, {} addresses.".format(
                len(devices), len(addresses)
            )
        )
    return server_id, dict(zip(devices, addresses))


def _device_ids(text):
    found = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not (first.isdigit() and (last.isdigit() or not dash)) or int(last or first) < int(first):
            raise ValueError("Devices are written like 0-7 or 0,1,4-5. Received: --devices={!r}.".format(text))
        found.extend(range(int(first), int(last or first) + 1))
    if len(set(found)) < len(found):
        raise ValueError("A device is named twice. Received: --devices={!r}. Name each once.".format(text))
    return found
