"""What the TF 1.15 native code does when a session runs: reads the options, starts GE once, offloads or not."""

import itertools
import os
import sys
import weakref

import fake_ascend
import fake_ascend_ops
import tensorflow as tf
from tensorflow.python.client import session as session_lib

from npu_bridge import _options

_runs = [0]
_unplanned = itertools.count()
_frozen = {}


class Run:
    """One execution of an offloaded graph, with the collectives it can reach in the order they were built."""

    def __init__(self, session, ops):
        self.session = session
        self.index = {op.name: i for i, op in enumerate(ops)}
        self.counts = {}
        self.number = None
        if ops:
            _runs[0] += 1
            self.number = _runs[0]

    def key_of(self, name):
        """The (epoch, key) under which ranks meet: same run, same place in the graph, same repetition.

        An operator inside a function is not part of the plan; it is met by its name.
        """
        self.counts[name] = self.counts.get(name, 0) + 1
        if name not in self.index:
            return None, "free-{}-{}".format(name.replace("/", "."), next(_unplanned))
        return self.number, "run{}-op{}-{}".format(self.number, self.index[name], self.counts[name])


def running_on_device():
    return fake_ascend.state.current_run is not None


def watch_sessions():
    """Replaces the three doors through which a TF 1.15 session is run or closed."""
    base = session_lib.BaseSession
    run, make_callable, close = base.run, base._make_callable_from_options, base.close

    def watched_run(self, fetches, feed_dict=None, options=None, run_metadata=None):
        return _execute(
            self,
            lambda: _reachable(self.graph, _roots_of(self, fetches)),
            lambda: run(self, fetches, feed_dict, options, run_metadata),
        )

    def watched_callable(self, callable_options):
        target = make_callable(self, callable_options)
        names = list(callable_options.fetch) + list(callable_options.target)
        collectives = []

        def reachable():
            if not collectives:
                collectives.append(_reachable(self.graph, [_op_named(self.graph, name) for name in names]))
            return collectives[0]

        return lambda *args, **kwargs: _execute(self, reachable, lambda: target(*args, **kwargs))

    def watched_close(self):
        if fake_ascend.state.hccl_owner is not None and fake_ascend.state.hccl_owner() is self:
            fake_ascend.state.hccl_owner = None
        if not self._closed:
            fake_ascend.record("session_close", offloaded=bool(getattr(self, "_fake_offloaded", False)))
        return close(self)

    base.run, base._make_callable_from_options, base.close = watched_run, watched_callable, watched_close


def _op_named(graph, name):
    return graph.get_operation_by_name(name.split(":")[0].lstrip("^"))


def _roots_of(session, fetches):
    handler = session_lib._FetchHandler(session.graph, fetches, {})
    return [fetch.op for fetch in handler.fetches()] + list(handler.targets())


def _execute(session, reachable, call):
    if session._closed:
        return call()
    outer = fake_ascend.state.current_run
    fake_ascend.state.current_run = Run(session, reachable()) if _prepare(session) else None
    try:
        return call()
    except tf.errors.OpError as error:
        native = fake_ascend_ops.translated(error)
        if native is None:
            raise
        raise native from None
    finally:
        fake_ascend.state.current_run = outer


def _reachable(graph, roots):
    """The fake operators that the fetched ones depend on, in the order they were built."""
    candidates = fake_ascend_ops.graph_ops(graph)
    if not candidates:
        return []
    seen, waiting = set(), list(roots)
    while waiting:
        op = waiting.pop()
        if op not in seen:
            seen.add(op)
            waiting.extend(tensor.op for tensor in op.inputs)
            waiting.extend(op.control_inputs)
    return [op for op in candidates if op in seen]


# --- options ----------------------------------------------------------------------------------------------------


def _prepare(session):
    """Reads the options at the first run of a session; returns whether its graphs are offloaded."""
    if getattr(session, "_fake_offloaded", None) is None:
        session._fake_offloaded = _first_run(session)
    return session._fake_offloaded


def _first_run(session):
    config = session._config
    entries = config.graph_options.rewrite_options.custom_optimizers if config is not None else []
    npu = [entry for entry in entries if entry.name == "NpuOptimizer"]
    if not npu:
        fake_ascend.record("session", offloaded=False, reason="no NpuOptimizer")
        return False
    options = _options.read(npu)
    offloaded = options["use_off_line"] and options["job"] not in ("ps", "default")
    rewrite = config.graph_options.rewrite_options
    fields = dict(
        options=options,
        raw=_options.raw(npu),
        unknown=_options.unknown(npu),
        entries=len(npu),
        remapping=rewrite.remapping,
        memory_optimization=rewrite.memory_optimization,
        soft_placement=config.allow_soft_placement,
        device=_device_id(options),
    )
    if not offloaded:
        fake_ascend.record("session", offloaded=False, reason="use_off_line or job", **fields)
        return False
    start_engine({name: options[name] for name in _options.INIT_NAMES})
    options.update(_frozen)
    fake_ascend.record("session", offloaded=True, **fields)
    return True


def _device_id(options):
    if options["session_device_id"] >= 0:
        return options["session_device_id"]
    return int(os.environ.get("ASCEND_DEVICE_ID") or os.environ.get("DEVICE_ID") or 0)


def start_engine(init_options):
    """GE starts once in a process; the options of whoever came first stay (contract 3.2)."""
    if _frozen:
        ignored = sorted(name for name, value in init_options.items() if _frozen.get(name) != value)
        fake_ascend.record("ge_already_initialised", ignored=ignored)
        return
    if fake_ascend.device_count() == 0:
        raise tf.errors.InternalError(None, None, "[GePlugin] Initialize ge failed, ret : failed, no device")
    problem = fake_ascend.rank_table_problem()
    if problem and fake_ascend.rank_size() > 1:
        raise tf.errors.InternalError(None, None, "[GePlugin] Initialize ge failed, {}".format(problem))
    _frozen.update(init_options)
    fake_ascend.record("ge_init", options=dict(init_options), hccl=fake_ascend.hccl_variables())


def stop_engine():
    _frozen.clear()
    fake_ascend.state.hccl_owner = None
    fake_ascend.record("ge_finalize")


def start_system():
    fake_ascend.state.hccl_owner = weakref.ref(fake_ascend.state.current_run.session)


def stop_system():
    fake_ascend.state.hccl_owner = None


def fatal(message):
    """LOG(FATAL): prints and ends the process with SIGABRT."""
    sys.stdout.flush()
    sys.stderr.write("F tf_adapter/util/npu_attrs.cc] {}\n".format(message))
    sys.stderr.flush()
    os.abort()
