"""Two ranks on TF 1.15 that do not fit together. argv: what to do."""

# ruff: noqa: F403, F405 (the star import is what users write)

import json
import os
import sys

import tensorflow as tf
from npu_bridge.npu_init import *

rank = int(os.environ["RANK_ID"])
case = sys.argv[1]
session = tf.Session()
if case == "shape":
    op = hccl_ops.allreduce(tf.ones([rank + 1]), "sum")
elif case == "length":
    op = hccl_ops.allgather(tf.ones([rank + 1, 2]), 2)
else:
    op = hccl_ops.allreduce(tf.ones([1]), "sum")
answer = "no error"
try:
    for _ in range(2 if case == "steps" and rank == 1 else 1):
        session.run(op)
except tf.errors.InternalError as error:
    answer = "InternalError: " + error.message
print("RESULT " + json.dumps(answer))
