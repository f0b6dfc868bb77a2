"""Plans of launches for tests."""

import json
import os

import pytest

from ascend_keras.distributed.launch import settings
from ascend_keras.distributed.launch.settings import LaunchError, Request

SCRIPT = os.path.abspath(__file__)
NPUS = list(range(8))


def resolve(present=(), environ=None, script=(SCRIPT,), **changes):
    return settings.resolve(Request(script=script, **changes), environ or {}, list(present))


def problems(present=(), environ=None, **changes):
    with pytest.raises(LaunchError) as caught:
        resolve(present, environ, **changes)
    return str(caught.value).splitlines()


def write_table(folder, servers):
    content = {"version": "1.0", "server_count": str(len(servers)), "status": "completed", "server_list": []}
    rank = 0
    for number, devices in enumerate(servers):
        entries = []
        for device in devices:
            entry = {"device_id": str(device), "rank_id": str(rank)}
            entries.append(dict(entry, device_ip="10.1.{}.{}".format(number, device + 1)))
            rank += 1
        content["server_list"].append({"server_id": "10.9.9.{}".format(number), "device": entries})
    path = folder / "table.json"
    path.write_text(json.dumps(content))
    return str(path)
