"""Loads the op library. A library that cannot be loaded is printed and left at that: the name is then missing."""

import fake_ascend
import tensorflow


def _load():
    if fake_ascend.libraries_are_broken():
        raise OSError("libge_runner.so: cannot open shared object file: No such file or directory")
    if not tensorflow.__version__.startswith("1.15."):
        raise OSError(
            "_tf_adapter.so: undefined symbol: _ZN10tensorflow15OpKernelContext (TensorFlow {})".format(
                tensorflow.__version__
            )
        )
    from npu_bridge import _library

    _library.register()
    return _library


try:
    npu_bridge_handle = _load()
except OSError as error:
    print(str(error))


def get_gen_ops():
    """The op library; NameError when it could not be loaded."""
    return npu_bridge_handle


version = "v1.15.0"
