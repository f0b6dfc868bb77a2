"""Unary operators, as a class without state."""

from npu_bridge.helper import helper


class NPUUnaryOps:
    def gelu(self, x):
        return helper.get_gen_ops().fast_gelu(x)


npu_unary_ops = NPUUnaryOps()
