"""Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: blocks of 32 values with one scale (`_0`) or a scale and a minimum (`_1`)."""

from ..kernels import legacy
from .base import BlockFormat


class Q4_0(BlockFormat):
    name = "Q4_0"

    def dequantize(self, data, out):
        legacy.q4_0_unpack(data.reshape(-1, 18), out.reshape(-1, 32))


class Q4_1(BlockFormat):
    name = "Q4_1"

    def dequantize(self, data, out):
        legacy.q4_1_unpack(data.reshape(-1, 20), out.reshape(-1, 32))


class Q5_0(BlockFormat):
    name = "Q5_0"

    def dequantize(self, data, out):
        legacy.q5_0_unpack(data.reshape(-1, 22), out.reshape(-1, 32))


class Q5_1(BlockFormat):
    name = "Q5_1"

    def dequantize(self, data, out):
        legacy.q5_1_unpack(data.reshape(-1, 24), out.reshape(-1, 32))


class Q8_0(BlockFormat):
    name = "Q8_0"
    importance = "ignored"

    def dequantize(self, data, out):
        legacy.q8_0_unpack(data.reshape(-1, 34), out.reshape(-1, 32))
