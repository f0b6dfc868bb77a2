"""The singleton that knows the number of ranks; JOB_ID must be set before it is first asked."""

import os

from tensorflow.python.platform import tf_logging as logging

from npu_bridge.estimator.npu import util


class JobInfo:
    def __init__(self, job_id, rank_size):
        self._job_id = job_id
        self._rank_size = rank_size


def _job_from_environment():
    if not os.environ.get("JOB_ID"):
        logging.error("Error:can not get job config from env")
        return None
    return JobInfo(os.environ["JOB_ID"], int(util.get_ranksize()))


class NPUBasics:
    """One object a process: what it read at first stays (contract 3.3)."""

    _instance = None

    def __new__(cls, file_name):
        if cls._instance is None:
            cls._instance = object.__new__(cls)
            cls._instance._job_info = _job_from_environment()
        return cls._instance

    @property
    def jobinfo(self):
        return self._job_info

    def size(self):
        return self._job_info._rank_size
