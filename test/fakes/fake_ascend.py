"""What the fake packages share: process state, the record of events, overflow injection, and the link between ranks.

Imports no TensorFlow. Everything here is state of one process, as it is in the real adapters: a scenario that needs a
clean state needs a new process. Environment variables are described in README.md.
"""

import json
import os
import pickle
import threading
import time

MARK_TIMEOUT = "EI0002: HCCL timeout"
MARK_MISMATCH = "EI0005: mismatch in"
WORLD_GROUP = "hccl_world_group"
SATURATION, INF_NAN = 0, 1

events = []
_lock = threading.RLock()


class State:
    """The process-wide registers of the pretended device and of HCCL."""

    def __init__(self):
        self.product = os.environ.get("FAKE_ASCEND_PRODUCT", "A2")
        self.sat_mode = SATURATION if self.product == "910A" else INF_NAN
        self.float_status = False
        self.status_reads = 0
        self.overflows_left = 0
        self.hccl_owner = None
        self.groups = {}
        self.collectives = 0
        self.own_files = []
        self.waiting = 0
        self.current_run = None
        self._seen = set()

    def seen(self, name):
        """Whether `name` was asked for before."""
        known = name in self._seen
        self._seen.add(name)
        return known


def record(kind, **fields):
    """Appends an event to `events`, and to events.rank<R>.jsonl when FAKE_ASCEND_DIR is set."""
    event = dict(event=kind, **fields)
    with _lock:
        events.append(event)
        _append_line("events", event)
    return event


def hccl_variables():
    """The variables of HCCL as the device sees them when it is opened."""
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith("HCCL_")}


def recorded(kind):
    """The events of one kind, oldest first."""
    return [event for event in events if event["event"] == kind]


def _append_line(stem, entry):
    folder = os.environ.get("FAKE_ASCEND_DIR")
    if folder:
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "{}.rank{}.jsonl".format(stem, rank_id())), "a") as stream:
            stream.write(json.dumps(entry, default=str) + "\n")


# --- environment ------------------------------------------------------------------------------------------------


def rank_size():
    """Number of ranks; both spellings of it at once are an error, as in both adapters."""
    if "RANK_SIZE" in os.environ and "CM_WORKER_SIZE" in os.environ:
        raise ValueError("RANK_SIZE and CM_WORK_SIZE cannot be configured at the same time")
    return int(os.environ.get("RANK_SIZE", os.environ.get("CM_WORKER_SIZE", "1")))


def rank_id():
    """The rank HCCL would give: RANK_ID, or in CM mode FAKE_ASCEND_RANK, or the device id."""
    if "RANK_ID" in os.environ:
        return int(os.environ["RANK_ID"])
    return int(os.environ.get("FAKE_ASCEND_RANK", os.environ.get("ASCEND_DEVICE_ID", "0")))


def device_count():
    return int(os.environ.get("FAKE_ASCEND_DEVICES", "8"))


def libraries_are_broken():
    """FAKE_ASCEND_BROKEN=1 plays a host where the package is there and CANN is not."""
    return os.environ.get("FAKE_ASCEND_BROKEN") == "1"


def rank_table_problem():
    """What HCCL's parser finds wrong with the rank table, or None. Covers version 1.0 only."""
    path = os.environ.get("RANK_TABLE_FILE")
    if not path:
        return None
    if not (path.endswith(".json") and os.path.isfile(path)):
        return "EI0004: the ranktable {} is not an existing .json file".format(path)
    try:
        with open(path) as stream:
            table = json.load(stream)
    except ValueError as error:
        return "EI0004: the ranktable {} is not JSON: {}".format(path, error)
    if table.get("status") != "completed":
        return "EI0004: the ranktable {} has status {!r}".format(path, table.get("status"))
    if table.get("version") != "1.0":
        return None
    ranks = [device.get("rank_id") for server in table["server_list"] for device in server["device"]]
    if sorted(ranks, key=str) != sorted((str(i) for i in range(len(ranks))), key=str):
        return "EI0004: rank_id in the ranktable {} must be the texts 0..N-1: {}".format(path, ranks)
    if len(ranks) != rank_size() or rank_id() >= len(ranks):
        return "EI0004: RANK_SIZE {} or RANK_ID {} does not fit the {} ranks of {}".format(
            rank_size(), rank_id(), len(ranks), path
        )
    return None


# --- overflow ---------------------------------------------------------------------------------------------------


def inject_overflow(steps=1):
    """Raises the float status for the next `steps` executions of npu_get_float_status_v2.

    The status then stays raised until npu_clear_float_status_v2 runs, as the device register does. Without effect in
    INF/NAN mode, where overflow shows as Inf or NaN in the data and the register is not used.
    """
    with _lock:
        state.overflows_left += steps


def _planned_overflow():
    planned = os.environ.get("FAKE_ASCEND_OVERFLOW", "")
    return str(state.status_reads) in [part.strip() for part in planned.split(",")]


def read_float_status(saw_overflow):
    """One execution of the status operator: True if the register is raised. `saw_overflow`: Inf or NaN went by."""
    with _lock:
        state.status_reads += 1
        if state.sat_mode == INF_NAN:
            return False
        if _planned_overflow() or saw_overflow:
            state.float_status = True
        elif state.overflows_left and not state.float_status:
            state.overflows_left -= 1
            state.float_status = True
        record("float_status", value=state.float_status, read=state.status_reads)
        return state.float_status


def clear_float_status():
    with _lock:
        state.float_status = False


def set_sat_mode(mode):
    """0 saturation, 1 INF/NAN. A refused mode is only logged, as the native setter does; returns 0 or -1."""
    accepted = mode in (SATURATION, INF_NAN) and not (state.product == "910A" and mode == INF_NAN)
    record("set_device_sat_mode", mode=mode, accepted=accepted)
    if not accepted:
        print("[GePlugin] set device sat mode failed, mode: {}".format(mode), flush=True)
        return -1
    state.sat_mode = mode
    return 0


# --- HCCL -------------------------------------------------------------------------------------------------------


def hccl_is_ready():
    """Whether the rank API works: an owner (device handle, open session) initialised HCCL and is still alive."""
    return state.hccl_owner is not None and state.hccl_owner() is not None


def collective(kind, array, name="", reduction=None, root_rank=0, group=WORLD_GROUP):
    """Runs one collective of this rank and waits for the same one of the peers.

    Args:
        kind: Operator type, e.g. "HcomAllReduce".
        array: This rank's tensor.
        name: Name of the operator in the graph, for the log.
    Returns:
        A list with the arrays of all ranks, in rank order.
    Raises:
        RuntimeError: A peer did not come in time, or came with another operator, shape, dtype or reduction.
    """
    size = rank_size()
    with _lock:
        run = state.current_run
        if run is None:
            epoch, key = state.collectives, "k{}".format(state.collectives)
        else:
            epoch, key = run.key_of(name)
        entry = dict(
            seq=state.collectives,
            key=key,
            kind=kind,
            name=name,
            shape=list(array.shape),
            dtype=str(array.dtype),
            reduction=reduction,
            root_rank=root_rank,
            group=group,
            size=size,
        )
        state.collectives += 1
        _append_line("collectives", entry)
    if size == 1:
        return [array]
    if not (os.environ.get("RANK_TABLE_FILE") or os.environ.get("CM_CHIEF_IP")):
        raise RuntimeError(
            "EI0004: {} over {} ranks, but neither RANK_TABLE_FILE nor CM_CHIEF_IP is set.".format(kind, size)
        )
    return _exchange(epoch, key, entry, array, size)


def _exchange(epoch, key, entry, array, size):
    folder = os.environ.get("FAKE_ASCEND_DIR")
    if not folder:
        raise RuntimeError(
            "The fakes need FAKE_ASCEND_DIR, a folder common to all ranks, to run {} over {} ranks.".format(
                entry["kind"], size
            )
        )
    folder = os.path.join(folder, "link")
    os.makedirs(folder, exist_ok=True)
    me = rank_id()
    _post(os.path.join(folder, "{}.r{}".format(key, me)), (entry, array))
    arrays = []
    for rank in range(size):
        other, data = (entry, array) if rank == me else _fetch(folder, key, rank, entry)
        if _signature(other) != _signature(entry):
            raise RuntimeError(
                "{} {} ({} {!r}): rank {} has {}, rank {} has {}".format(
                    MARK_MISMATCH, entry["kind"], key, entry["name"], me, _signature(entry), rank, _signature(other)
                )
            )
        arrays.append(data)
    _forget_files(epoch, os.path.join(folder, "{}.r{}".format(key, me)))
    return arrays


def _signature(entry):
    return tuple(str(entry[field]) for field in ("kind", "shape", "dtype", "reduction", "root_rank", "group"))


def _post(path, content):
    draft = "{}.tmp{}".format(path, threading.get_ident())
    with open(draft, "wb") as stream:
        pickle.dump(content, stream)
    os.replace(draft, path)


def _fetch(folder, key, rank, entry):
    path = os.path.join(folder, "{}.r{}".format(key, rank))
    with _lock:
        state.waiting += 1
    try:
        patience = _await_file(path)
    finally:
        with _lock:
            state.waiting -= 1
    if patience is not None:
        record("hccl_timeout", op_type=entry["kind"], key=key, name=entry["name"], waited_for=rank)
        raise RuntimeError(
            "{}: rank {} waited {} s for rank {} in {} ({} {!r})".format(
                MARK_TIMEOUT, rank_id(), patience, rank, entry["kind"], key, entry["name"]
            )
        )
    with open(path, "rb") as stream:
        return pickle.load(stream)


def _await_file(path):
    """Returns None when the file is there, or the seconds waited in vain."""
    patience = float(os.environ.get("FAKE_ASCEND_TIMEOUT", "20"))
    deadline = time.monotonic() + patience
    pause = 0.001
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            return patience
        time.sleep(pause)
        # Many operators of one run may wait at once; together they look a few thousand times a second at most.
        pause = max(min(pause * 1.5, 0.02), state.waiting * 0.0005)
    return None


def _forget_files(epoch, path):
    """Removes this rank's posts of earlier epochs: who takes part in this one has read them."""
    if epoch is None:
        return
    with _lock:
        for old_epoch, old_path in state.own_files:
            if old_epoch < epoch and os.path.exists(old_path):
                os.remove(old_path)
        state.own_files = [pair for pair in state.own_files if pair[0] >= epoch] + [(epoch, path)]


state = State()
