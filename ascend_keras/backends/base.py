"""What a backend owes the trainer."""

import contextlib
import os
import zlib
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import numpy as np

from ascend_keras import compat, optimizers
from ascend_keras.backends import npu_hccl, npu_options
from ascend_keras.distributed import rank_table
from ascend_keras.distributed.cluster import Cluster


class Availability(NamedTuple):
    """Whether a backend can be had on this machine, and if not, why and what to do."""

    ok: bool
    reason: str
    remedy: str = ""


class Settings(NamedTuple):
    """What the trainer was asked for, checked.

    Attributes:
        options: the adapter options.
        cluster: rank, size and device of this process.
        product: "910A", "A2", "A3", "950", or None when not stated.
        session_config: TF 1.15 only: a ConfigProto to start from.
        hccl: how gradients are grouped into collectives, and how long ranks wait.
    """

    options: npu_options.OptionSet
    cluster: Cluster
    product: Optional[str] = None
    session_config: Any = None
    hccl: npu_hccl.Hccl = npu_hccl.Hccl()


class Backend:
    """One way to run tf.keras: an adapter of an NPU, or the host.

    A backend is opened once, before any variable exists, and closed once. Its class says whether it can be had at all.
    """

    name = ""
    adapter: Optional[str] = None
    # Whether open() fixes options for the life of the process, so that a second trainer cannot have others.
    process_wide = True
    # Whether the device stays open after close(), until the process ends.
    stays_open = False

    def __init__(self, settings: Settings):
        self.settings = settings
        self._gathers: Dict[int, Callable[[np.ndarray], np.ndarray]] = {}

    @classmethod
    def availability(cls) -> Availability:
        """Says whether this backend can be had, without importing its adapter."""
        raise NotImplementedError

    def check(self) -> List[str]:
        """Problems of the settings that only this backend sees; each names value and remedy."""
        problems = []
        mode = precision(self.settings.options)
        if mode in MIXED and compat.computes_in_float16():
            problems.append(
                "Two knobs lower the precision: a global float16 policy of Keras, and the device. Received: {!r}. Keep "
                "the policy and give precision_mode_v2='origin', or reset it to 'float32'.".format(mode)
            )
        if self.settings.cluster.mode == "rank_table":
            problems.extend(self._table_problems())
        if self.settings.cluster.mode == "tf_config" and self.adapter is not None:
            problems.append(
                "TF_CONFIG is for ranks on hosts, and the backend {!r} runs on NPUs. Received: TF_CONFIG={!r}. Launch "
                "with `ascend-keras launch --backend npu`, or give NPUTrainer backend='host'.".format(
                    self.name, os.environ.get("TF_CONFIG")
                )
            )
        if self.settings.session_config is not None and not compat.TF1:
            problems.append(
                "session_config is a ConfigProto of TF 1.15. Received: one on {}. Remove it.".format(
                    compat.stack_name()
                )
            )
        return problems

    def _table_problems(self):
        """What is wrong with the rank table; HCCL would wait for minutes and then say little."""
        table = os.environ.get("RANK_TABLE_FILE", "")
        if not (table.endswith(".json") and os.path.isfile(table)):
            return [
                "{} ranks find each other by a rank table. Received: RANK_TABLE_FILE={!r}. Set it to an existing .json "
                "file on every rank.".format(self.settings.cluster.size, table)
            ]
        faults = rank_table.check(table, environ=os.environ, product=self.settings.product)
        return ["{}: {}".format(table, fault) for fault in faults if not fault.warning]

    def fixed_options(self) -> Dict[str, Any]:
        """The options that nothing can change in this process once the device is open."""
        return dict(self.settings.options.process_wide(self.adapter), device=self.settings.cluster.device_id)

    def open(self) -> None:
        """Takes the device and fixes the options."""

    def close(self) -> None:
        """Gives the device back."""

    def scope(self):
        """A context in which the model is built."""
        return contextlib.ExitStack()

    @property
    def needs_loss_scale(self) -> bool:
        """Whether gradients may be computed in float16, so that loss_scale="auto" means "dynamic"."""
        mode = precision(self.settings.options)
        if mode is None:
            # Without a mode the 910A takes allow_fp32_to_fp16, the later products keep the dtypes of the model.
            return self.settings.product in (None, "910A") or compat.computes_in_float16()
        return mode not in NO_FLOAT16 or compat.computes_in_float16()

    def assemble(self, optimizer, loss_scale):
        """Puts loss scaling and the reduction over ranks around `optimizer`, in the order that cannot hang."""
        return optimizers.scale_loss(optimizer, loss_scale)

    def compile_arguments(self, arguments: Dict[str, Any]) -> Dict[str, Any]:
        """The further arguments of `model.compile` as this backend needs them.

        Raises:
            ValueError: one of them cannot work on this backend.
        """
        return arguments

    def before_run(self, steps_per_execution: int, steps: Dict[str, Optional[int]]) -> None:
        """Checks and prepares fit, evaluate or predict.

        Args:
            steps_per_execution: steps in one call of the device.
            steps: steps of each phase ("train", "test", "predict"), None where they are unknown.

        Raises:
            ValueError, RuntimeError: the run would stall, or would not be on the device.
        """

    def synchronise(self, variables) -> None:
        """Gives every rank the values of rank 0, in list order."""

    def sum_over_ranks(self, vector) -> np.ndarray:
        """Adds up a vector over all ranks; a collective, see `gather_over_ranks`.

        Args:
            vector: (length,) real numbers; taken as float64, so that whole numbers are exact up to 2**53.

        Returns:
            (length,) float64, a new array with the same bits on every rank: the values added in rank order. Nothing is
            lost but the rounding of size - 1 additions in float64. With one rank: the vector.

        Raises:
            ValueError: `vector` has not one axis, or does not hold real numbers.
            RuntimeError: TF 1.15: the graph is finalised and was not prepared for this length.
        """
        return add_in_order(self._gather(_as_vector(vector, "sum_over_ranks")))

    def gather_over_ranks(self, vector) -> np.ndarray:
        """The vectors of all ranks; one all-gather of 8 bytes a number.

        A collective: every rank has to call it, in the same order and with the same length, or the others wait until
        HCCL gives up. The first call with a length compiles a graph for it, so keep to few lengths. An empty vector and
        a single rank take no collective.

        Args:
            vector: (length,) real numbers; taken as float64.

        Returns:
            (size, length) float64, a new array with the same bits on every rank, in rank order. The values travel with
            all their bits, so that NaN, Inf and values beyond float32 arrive as they are.

        Raises:
            ValueError: `vector` has not one axis, or does not hold real numbers.
            RuntimeError: TF 1.15: the graph is finalised and was not prepared for this length.
        """
        return self._gather(_as_vector(vector, "gather_over_ranks"))

    def _gather(self, vector):
        size = self.settings.cluster.size
        if size == 1 or not vector.size:
            return np.repeat(vector[np.newaxis], size, axis=0)
        # The bits as whole numbers: the adapters put no float64 on the device, a precision mode may make float16 out of
        # float32, and operators of a 910A must not see Inf or NaN.
        words = np.ascontiguousarray(self._gather_of(2 * vector.size)(vector.view(np.int32)), np.int32)
        return words.view(np.float64).reshape(size, vector.size).copy()

    def gather_texts(self, text: str) -> List[str]:
        """The texts of all ranks, in rank order.

        A collective: one small one where all texts are equal, and a second one as long as the longest elsewhere.

        Raises:
            RuntimeError: TF 1.15: the graph is finalised.
        """
        size, data = self.settings.cluster.size, text.encode()
        told = self._gather(np.array([len(data), zlib.crc32(data)], np.float64))
        if (told == told[0]).all():
            return [text] * size
        # To a multiple of 1 kB, so that texts of about one length share a graph.
        count = -(-int(told[:, 0].max()) // 1024) * 256
        words = np.frombuffer(data.ljust(4 * count, b"\0"), np.int32)
        rows = np.ascontiguousarray(self._gather_of(count)(words), np.int32).reshape(size, count)
        return [row.tobytes()[: int(length)].decode() for row, length in zip(rows, told[:, 0])]

    def prepare_sum(self, length: int) -> None:
        """Builds what `sum_over_ranks` needs for a vector of `length`, without running it.

        On TF 1.15 it has to come before the graph is finalised; elsewhere nothing needs it.
        """
        if self.settings.cluster.size > 1 and length:
            self._gather_of(2 * length)

    def _gather_of(self, count):
        if count not in self._gathers:
            self._gathers[count] = self.make_gather(count)
        return self._gathers[count]

    def make_gather(self, count: int) -> Callable[[np.ndarray], np.ndarray]:
        """Makes a function that takes int32 of (count,) and returns those of all ranks, (size * count,), in rank order.

        It is called once for each `count`, and what it returns is kept.
        """
        raise NotImplementedError("The backend {!r} has no collectives, so it runs one rank only.".format(self.name))

    def describe(self) -> Dict[str, Any]:
        """What is stated at start, in the history and in the result file."""
        return dict({"backend": self.name}, **self._ranks())

    def _ranks(self):
        cluster = self.settings.cluster
        return {} if cluster.size == 1 else {"rank": "{} of {}".format(cluster.rank, cluster.size)}


class RankSum:
    """The sum over the ranks of a backend, as callbacks get it.

    Args:
        backend: an open backend.
    """

    def __init__(self, backend):
        self._backend = backend

    def __call__(self, vector):
        """See `Backend.sum_over_ranks`."""
        return self._backend.sum_over_ranks(vector)

    def prepare(self, length):
        """Adds what vectors of this length need to the graph, for those who must not add to it later."""
        self._backend.prepare_sum(length)


def refuse_late(what):
    """Raises if variables exist already, which would not be on the device that is about to be opened.

    Args:
        what: what has to come first, for the message.

    Raises:
        RuntimeError: there are variables.
    """
    names = compat.existing_variables()
    if names:
        raise RuntimeError(
            "{} before any variable exists. Received: {} variables, such as {!r}. Create NPUTrainer first, and the "
            "model after it.".format(what, len(names), names[0])
        )


# Modes under which the device itself decides which operation runs in 16 bits.
MIXED = (
    "allow_mix_precision",
    "allow_mix_precision_fp16",
    "allow_mix_precision_bf16",
    "mixed_float16",
    "mixed_bfloat16",
)

# Modes under which the device makes no float16 out of float32.
NO_FLOAT16 = (
    "must_keep_origin_dtype",
    "origin",
    "allow_mix_precision_bf16",
    "allow_fp32_to_bf16",
    "mixed_bfloat16",
)


def precision(options) -> Optional[str]:
    """The precision mode of either knob, None when neither was turned."""
    return options.get("precision_mode") or options.get("precision_mode_v2")


def add_in_order(rows) -> np.ndarray:
    """Adds the rows of a (ranks, length) array from the first to the last, the same bits wherever it runs."""
    total = rows[0].copy()
    with np.errstate(over="ignore", invalid="ignore"):
        for row in rows[1:]:
            total += row
    # Of two NaN, processors differ in the one that a sum takes its bits from.
    total[np.isnan(total)] = np.nan
    return total


def _as_vector(vector, name):
    array, problems = np.asarray(vector), []
    if array.ndim != 1:
        problems.append(
            "{} takes an array with one axis. Received: shape={}. Give array.ravel().".format(name, array.shape)
        )
    if array.dtype.kind not in "biuf":
        problems.append(
            "{} takes real numbers. Received: dtype={}. Give array.astype('float64').".format(name, array.dtype)
        )
    if problems:
        raise ValueError("\n".join(problems))
    return np.array(array, np.float64)
