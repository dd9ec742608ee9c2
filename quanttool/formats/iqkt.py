"""IQ1_KT, IQ2_KT, IQ3_KT, IQ4_KT: trellis types, each group of 4 or 8 values is a pseudo-random sequence by its seed.

Layouts: ik_llama.cpp ggml-common.h `block_iq1_kt` ... `block_iq4_kt`, each row led by a float32 scale; decoding:
iqk_quantize.cpp `dequantize_row_iq1_kt` ... `dequantize_row_iq4_kt`; search: `quantize_row_iq1_kt_impl` ...
"""

from collections.abc import Iterator
from itertools import product
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from . import iqk_tables as table
from .layout import Layout, bits, join
from .pool import PoolSearch
from .tabulated import F32, U16, UNIFORM_IMPORTANCE, quotient

j = np.arange(256)  # values of a block
b = np.arange(8)  # its sub-blocks of 32
g = np.arange(32)  # its groups of 8
q = np.arange(64)  # its groups of 4


class Trellis(PoolSearch):
    """The search of the four: a few scales for each sub-block, each with the nearest sequences.

    part:          the sub-block's largest value is brought to this part of the sequences' range ...
    by_row:        ... or, if that is more, to this times its share in the row's largest value
    offsets:       and to these beside it
    signs:         with these signs
    d_targets:     the row's largest scale is brought to these levels
    best_offsets:  in place of `offsets`, for search="best"
    """

    part: ClassVar[float] = 90
    by_row: ClassVar[float] = 124
    offsets: ClassVar[tuple[float, ...]] = (0,)
    signs: ClassVar[tuple[int, ...]] = (1, -1)
    d_targets: ClassVar[tuple[float, ...]] = tuple(range(-127 - 9, -127 + 10))
    best_offsets: ClassVar[tuple[float, ...]] = tuple(range(-48, 25, 12))
    plain_sigma = 0.25
    rescales = False  # levels lie far apart: the loss is lower with those found for the whole row

    def weights(self, rows, importance, size):
        """Never quite zero, as sequences are told apart by their weighted distance alone."""
        return super().weights(rows, importance, size) + UNIFORM_IMPORTANCE

    def scales_and_tables(self, data: NDArray[np.uint8]) -> tuple[F32, U16]:
        """Of each group of rows u8 [n_rows, row_bytes] the scale and the number of its table, [n_rows, n_groups]."""
        fields = self.layout.unpack(data, self.type.row_meta_bytes)
        scales = self.read_d(data, fields) * self.levels[fields["scale"]]
        tables = fields.get("variant", np.zeros_like(fields["scale"]))
        n = self.points.fields["point"].shape[1] // fields["scale"].shape[2]  # groups that share a scale
        return tuple(np.repeat(part.reshape(len(data), -1), n, axis=1) for part in (scales, tables))

    def nearest_points(self, x: F32, weights: F32, scales: F32, tables: U16) -> NDArray[np.int64]:
        """Numbers [n] of the sequences nearest to groups x f32 [n, dim].

        weights: f32 [dim]; scales: f32 [n]; tables: [n], which table each group has
        """
        weights = np.repeat(weights[None, None], len(x), axis=0)
        codes, _, _ = self.find_sequences(x[:, None], weights, scales[:, None], tables[:, None])
        return codes.reshape(-1).astype(np.int64)

    def find_levels(self, x, weights):
        scales, scores, variants = self.find_scales(x, weights)
        d = self.fit_d(scales, scores, self.d_targets)
        return d, self.nearest_levels(scales, d), variants

    def find_scales(self, x: F32, weights: F32) -> tuple[F32, F32, U16]:
        """Best float scale, its score (sum w q x)^2 / sum w q^2, and table of each sub-block, [n_units, n_subs]."""
        scales, scores = np.zeros((2, *x.shape[:2]), np.float32)
        variants = np.zeros(x.shape[:2], np.uint16)
        for v, _, qx, q2 in self.trials_of(x, weights, self.inverses(x, self.offsets)):
            better = qx * qx > scores * q2
            scales = np.where(better, quotient(qx, q2), scales)
            scores = np.where(better, scales * qx, scores)
            variants = np.where(better, np.uint16(v), variants)
        return scales, scores, variants

    def inverses(self, x: F32, offsets: tuple[float, ...]) -> Iterator[F32]:
        """Inverse trial scales f32 [n_units, n_subs]."""
        largest = np.abs(x).max(axis=2)
        share = largest / np.maximum(largest.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        target = np.maximum(np.float32(self.part), np.float32(self.by_row) * share)
        for offset, sign in product(offsets, self.signs):
            yield quotient(np.float32(sign) * (target + np.float32(offset)), largest)

    def best_pool(self, x, weights):
        return self.trials_of(x, weights, self.inverses(x, self.best_offsets))

    def find_codes(self, x, weights, d, scale_codes, variants):
        levels = self.levels[scale_codes]
        codes, qx, q2 = self.find_sequences(x, weights, d[:, None] * levels, variants)
        return codes, np.stack([(levels * qx).sum(axis=1), (levels * levels * q2).sum(axis=1)], axis=1)

    def find_sequences(self, x: F32, weights: F32, scales: F32, variants: U16) -> tuple[U16, F32, F32]:
        """`nearest_sequences` with the table that each sub-block has, for scales f32 [n_units, n_subs]."""
        inverses = quotient(np.float32(1), scales)
        codes, qx, q2 = self.nearest_sequences(x, weights, inverses, 0, self.reach[1])
        for v in range(1, len(self.tables)):
            codes_v, qx_v, q2_v = self.nearest_sequences(x, weights, inverses, v, self.reach[1])
            here = variants == v
            codes = np.where(here[..., None], codes_v, codes)
            qx, q2 = np.where(here, qx_v, qx), np.where(here, q2_v, q2)
        return codes, qx, q2


class IQ1_KT(Trellis):
    name = "IQ1_KT"
    layout = Layout(
        56,
        scale=bits(4, b),
        code=join(bits(8, 8 + g), bits(4, 40 + g % 16, 4 * (g // 16)), bits(1, g // 4, 4 + g % 4)),
    )
    points = Layout(56, point=layout.fields["code"])
    levels = table.IQ4[0, :, 0]
    offsets = (0, -8)
    d_factor = 1.07

    @property
    def tables(self):
        return table.sequences(1 << 13, 8)[None]


class IQ2_KT(Trellis):
    name = "IQ2_KT"
    layout = Layout(68, scale=bits(4, b % 4, 4 * (b // 4)), code=bits(16, 4 + 2 * g))
    points = Layout(68, point=layout.fields["code"])
    levels = table.IQ4[0, :, 0]

    @property
    def tables(self):
        return table.sequences(1 << 16, 8)[None]


class IQ3_KT(Trellis):
    """Magnitudes by sequence, signs one by one."""

    name = "IQ3_KT"
    layout = Layout(
        100,
        scale=bits(4, b % 4, 4 * (b // 4)),
        code=bits(16, 4 + 2 * g),
        sign=bits(1, 68 + j % 32, j // 32),
    )
    points = Layout(100, point=layout.fields["code"], sign=layout.fields["sign"].reshape(32, 8))
    levels = table.integers(0, 16)
    part = 84
    by_row = 123
    offsets = (0, -24, -16, -8, 8, 16, 24)
    best_offsets = tuple(range(-48, 25, 8))
    signs = (1,)
    d_targets = tuple(15 + 0.2 * i for i in range(-9, 10))

    @property
    def tables(self):
        return table.magnitudes(1 << 16, 8)[None]

    def nearest_sequences(self, x, weights, inverses, v, reach):
        return super().nearest_sequences(np.abs(x), weights, inverses, v, reach)

    def write_codes(self, codes, x):
        return {"code": codes, "sign": x < 0}

    def expand(self, fields, scales, out):
        super().expand(fields, scales, out)
        bits_of_out = out.view(np.uint32)
        bits_of_out ^= fields["sign"].reshape(out.shape).astype(np.uint32) << 31


class IQ4_KT(Trellis):
    """Groups of 4; the second table are the seeds that follow those of the first."""

    name = "IQ4_KT"
    layout = Layout(
        128,
        variant=bits(1, 4 * b),
        scale=bits(7, 4 * b, 1),
        code=join(bits(8, 32 + q), bits(4, 96 + q % 32, 4 * (q // 32)), bits(3, 4 * (q // 8), 8 + 3 * (q % 8))),
    )
    points = Layout(128, point=layout.fields["code"])
    levels = table.integers(-64, 64)
    n_bins = 4
    reach = (0.5, 1.0)
    offsets = (0, -16, -8, 8, 16)
    best_offsets = tuple(range(-48, 25, 6))
    d_targets = (-64,)

    @property
    def tables(self):
        return table.sequences(1 << 16, 4).reshape(2, 1 << 15, 4)
