"""Opening the device, making it the default, and the patches of TensorFlow that come with that."""

import atexit
import os
import threading
import weakref

# ruff: noqa: I001
# First: on a host without the libraries, or with another TensorFlow, this is the import that fails.
from npu_device import _npu_device_backends

import absl.logging as logging
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.eager import def_function
from tensorflow.python.framework import ops
from tensorflow.python.util import tf_contextlib

import fake_ascend
import fake_ascend_ops
from npu_device import _library as gen_npu_ops  # noqa: F401 (offered from here)
from npu_device import _loop
from npu_device.configs.npu_config import NpuConfig
from npu_device.configs.npu_run_context_option import NpuRunContextOptions

NPU = "/job:localhost/replica:0/task:0/device:NPU"

_global_options = NpuConfig()
_instances = {}
_default = {"handle": None}
_old_contexts = []
_thread = threading.local()
_plain_function = def_function.function
_plain_call = def_function.Function.__call__
_lock = threading.Lock()


def global_options():
    return _global_options


def set_npu_loop_size(loop_size):
    """Batches that the device gets for one call of a function with a loop. Values below 1 are only logged."""
    _npu_device_backends.SetNpuLoopSize(loop_size)


def set_device_sat_mode(mode):
    _npu_device_backends.SetDeviceSatMode(mode)


def is_inf_nan_enabled():
    return _npu_device_backends.GetDeviceSatMode() == 1


def global_npu_ctx():
    """The handle that is the default, or None: without it no collective of npu.distribute does anything."""
    return _default["handle"]


fake_ascend_ops.is_offloaded[0] = lambda: global_npu_ctx() is not None


class _ContextWithDefaultDevice(context.Context):
    """The eager context that open() puts in place of the one that was there."""

    default_device = ""


def get_ranksize():
    return str(fake_ascend.rank_size())


def _check_cluster(options):
    """Environment of a cluster: a rank table or the CM_* variables, not both."""
    chief, table = os.getenv("CM_CHIEF_IP"), os.getenv("RANK_TABLE_FILE")
    if chief is not None and table is not None:
        raise RuntimeError("CM_CHIEF_IP and RANK_TABLE_FILE cannot be configured at the same time.")
    if chief is not None:
        for name in ("CM_CHIEF_PORT", "CM_CHIEF_DEVICE", "CM_CHIEF_IP"):
            if not os.getenv(name):
                raise RuntimeError("You must specify {} in distribution mode".format(name))
            options["_distribute." + name.lower()] = os.getenv(name)
        options["_distribute.cm_worker_ip"] = os.getenv("CM_WORKER_IP")
        return
    if table is None:
        raise RuntimeError("CM_CHIEF_IP and RANK_TABLE_FILE are all not be configured.")
    if not os.getenv("RANK_ID"):
        raise RuntimeError("You must specify rank id by set env RANK_ID in distribution mode")
    options["_distribute.rank_table"] = table
    options["_distribute.rank_id"] = os.getenv("RANK_ID")


def _replace_context():
    """Variables of the old context are lost; the old one is kept so that their destruction does no harm."""
    if isinstance(context.context(), _ContextWithDefaultDevice):
        return
    _old_contexts.append(context.context())
    fresh = _ContextWithDefaultDevice()
    fresh.ensure_initialized()
    context._set_context(fresh)
    _instances.clear()


def open(device_id=None):
    """Opens a device. The same id again gives the same handle, another id is an error."""
    if device_id is None:
        device_id = int(os.getenv("ASCEND_DEVICE_ID", "0"))
    with _lock:
        _replace_context()
        if device_id in _instances:
            logging.info("Npu instance on device %s already created", device_id)
            return _instances[device_id]
        if _instances:
            raise RuntimeError(
                "Failed create npu instance on device {} as existed instance on {}".format(device_id, list(_instances))
            )
        options = global_options().as_dict()
        workers_num = int(get_ranksize())
        if workers_num > 1:
            _check_cluster(options)
        error = _npu_device_backends.Open(device_id, options)
        if error:
            raise RuntimeError("Failed open npu device {} : {}".format(device_id, error))
        worker_id = fake_ascend.rank_id() if workers_num > 1 else 0
        handle = _instances[device_id] = NpuDeviceHandle(context.context(), device_id, workers_num, worker_id)
        fake_ascend.state.hccl_owner = weakref.ref(handle)
        return handle


def close():
    _npu_device_backends.Close()


atexit.register(close)


class NpuDeviceHandle:
    """An open device."""

    def __init__(self, ctx, device_id, workers_num, worker_id):
        self._ctx = ctx
        self._device_id = device_id
        self._device_name = "{}:{}".format(NPU, device_id)
        self.workers_num = workers_num
        self.worker_id = worker_id

    def name(self):
        return self._device_name

    @tf_contextlib.contextmanager
    def scope(self):
        """On the device; here, where there is none, on the host."""
        yield

    def is_cluster_worker(self):
        return self.workers_num > 1 and self.workers_num > self.worker_id >= 0

    def as_default(self):
        """Process-wide and for good: patches tf.function, tf.device, dropout, and what the fake needs to watch."""
        def_function.Function.__call__ = _never_nested_call
        def_function.function = npu_compat_function
        tf.function = npu_compat_function
        ops.device = _same_device
        self._ctx.default_device = self._device_name
        first = _default["handle"] is None
        _default["handle"] = self
        if first:
            _loop.watch_iterators()
            fake_ascend_ops.make_finite_tests_blind()
            from npu_device.train import convert_dropout

            convert_dropout.dropout_api_convert()
        fake_ascend.record(
            "as_default", device_id=self._device_id, workers_num=self.workers_num, worker_id=self.worker_id
        )
        return self


@tf_contextlib.contextmanager
def _device_of_context():
    with context.device(context.context().device_name):
        yield


def _same_device(*args, **kwargs):
    """Device requests of user code are ignored once the NPU is the default."""
    return _device_of_context()


def npu_compat_function(func=None, *args, **kwargs):
    """tf.function without XLA: both of its flags are dropped."""

    def decorate(function):
        for flag in ("experimental_compile", "jit_compile"):
            if kwargs.get(flag):
                logging.info("Skip xla compile tf function %s on npu", function.__name__)
                kwargs[flag] = False
        return _plain_function(*args, **kwargs)(function)

    return decorate if func is None else decorate(func)


def _never_nested_call(self, *args, **kwargs):
    """A function called inside another one is inlined; where that fails it is called as usual."""
    if getattr(_thread, "entrance", None) is not None:
        try:
            return self._python_function(*args, **kwargs)
        except Exception:  # noqa: BLE001 (the adapter falls back on any error)
            return _plain_call(self, *args, **kwargs)
    name = _thread.entrance = getattr(self._python_function, "__name__", "function")
    if not fake_ascend.state.seen(name):
        fake_ascend.record("npu_function", name=name)
    try:
        with _loop.one_call(name):
            return _plain_call(self, *args, **kwargs)
    except tf.errors.OpError as error:
        native = fake_ascend_ops.translated(error)
        if native is None:
            raise
        raise native from None
    finally:
        _thread.entrance = None


@tf_contextlib.contextmanager
def npu_run_context(options=None):
    """Options of the graphs run inside; here recorded."""
    if options is not None and not isinstance(options, NpuRunContextOptions):
        raise ValueError("options type must be NpuRunContextOptions")
    options = options or NpuRunContextOptions()
    fake_ascend.record("run_context", recompute=options.experimental.graph_memory_optimize_config.recompute.value)
    yield


def enable_v1():
    raise NotImplementedError("The fake does not reproduce the compat.v1 mode of npu_device.")
