"""The op library of the TF 2.6 fake."""

from fake_ascend_ops import (
    drop_out_do_mask,
    drop_out_gen_mask,
    fast_gelu,
    hcom_all_gather,
    hcom_all_reduce,
    hcom_broadcast,
    hcom_reduce,
    hcom_reduce_scatter,
    npu_alloc_float_status,
    npu_clear_float_status,
    npu_clear_float_status_v2,
    npu_get_float_status,
    npu_get_float_status_v2,
)

__all__ = [
    "drop_out_do_mask",
    "drop_out_gen_mask",
    "fast_gelu",
    "hcom_all_gather",
    "hcom_all_reduce",
    "hcom_broadcast",
    "hcom_reduce",
    "hcom_reduce_scatter",
    "npu_alloc_float_status",
    "npu_clear_float_status",
    "npu_clear_float_status_v2",
    "npu_get_float_status",
    "npu_get_float_status_v2",
]
