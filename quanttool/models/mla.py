"""Multi-head latent attention: keys and values of all heads come from one short vector per token (DeepSeek-V2).

Two forms of the same weights exist in files. Split (attn_k_b, attn_v_b): queries are taken into the latent space, where
one key and one value per token serve all heads. Unsplit (attn_kv_b, older files): keys and values of each head are
spread out first. After llama.cpp src/models/deepseek2.cpp.
"""

from math import sqrt

import numpy as np

from ..errors import UsageError
from .config import Config
from .layers import RMSNorm
from .rope import Rope, log_scale
from .tensors import Array, Tensors


class LatentAttention:
    def __init__(self, c: Config, t: Tensors, rope: Rope):
        self.rope, self.n_head, self.rank, self.n_rot = rope, c.n_head, c.count("attention.kv_lora_rank"), c.n_rot
        self.split = t.has("attn_k_b.weight")
        mla = "_mla" if self.split else ""
        self.head_size = c.count("attention.key_length" + mla)
        self.head_size_v = c.count("attention.value_length" + mla)
        self._check_cache(c, t)
        self.n_nope = self.head_size - self.n_rot  # values of a head that do not turn; they come first
        # YaRN here multiplies scores, and leaves the turned values alone
        self.scale = (rope.magnitude * log_scale(rope.factor, yarn_multiplier(c))) ** 2 / sqrt(self.head_size)
        n_q = self.n_head * self.head_size
        if t.has("attn_q_a.weight"):
            q_rank = c.count("attention.q_lora_rank")
            self.attn_q_a = t.linear("attn_q_a", q_rank, c.n_embd)
            self.attn_q_a_norm = RMSNorm(c, t, "attn_q_a_norm", q_rank)
            self.attn_q_b = t.linear("attn_q_b", n_q, q_rank)
        else:
            self.attn_q_a = None
            self.attn_q = t.linear("attn_q", n_q, c.n_embd)
        self.attn_kv_a_mqa = t.linear("attn_kv_a_mqa", self.rank + self.n_rot, c.n_embd)
        self.attn_kv_a_norm = RMSNorm(c, t, "attn_kv_a_norm", self.rank)
        if self.split:
            self.attn_k_b = t.heads("attn_k_b", self.n_head, self.rank, self.n_nope)
            self.attn_v_b = t.heads("attn_v_b", self.n_head, self.head_size_v, self.rank)
        else:
            self.attn_kv_b = t.linear("attn_kv_b", self.n_head * (self.n_nope + self.head_size_v), self.rank)
        self.attn_output = t.linear("attn_output", c.n_embd, self.n_head * self.head_size_v)

    def __call__(self, x: Array) -> Array:  # [n_seq, n_ctx, n_embd] -> the same shape
        shape = x.shape[:2]
        q = self.attn_q(x) if self.attn_q_a is None else self.attn_q_b(self.attn_q_a_norm(self.attn_q_a(x)))
        q = q.reshape(*shape, self.n_head, self.head_size)
        q_rot = self.rope(np.ascontiguousarray(q[..., self.n_nope :]))
        kv = self.attn_kv_a_mqa(x)
        k_rot = self.rope(np.ascontiguousarray(kv[..., None, self.rank :]))  # [n_seq, n_ctx, 1, n_rot]
        latent = self.attn_kv_a_norm(np.ascontiguousarray(kv[..., : self.rank]))  # [n_seq, n_ctx, rank]
        work = self._in_latent_space if self.split else self._spread_out
        out = work(q[..., : self.n_nope], q_rot, latent, k_rot)
        return self.attn_output(out.reshape(*shape, -1))

    def _check_cache(self, c: Config, t: Tensors) -> None:
        self.cache, self.attend = t.cache, t.device.attend
        if self.split and self.cache.type_k != self.cache.type_v:
            raise UsageError(
                f"{c.path}: keys and values are one cache in this model; give both the same type, "
                f"not {self.cache.type_k} and {self.cache.type_v}"
            )
        sizes = [self.rank + self.n_rot] * 2 if self.split else [self.head_size, self.head_size_v]
        self.cache.check(c.path, *sizes)

    def _in_latent_space(self, q_nope: Array, q_rot: Array, latent: Array, k_rot: Array) -> Array:
        shape = latent.shape[:2]
        q = np.empty((*shape, self.n_head, self.rank + self.n_rot), np.float32)
        for head in range(self.n_head):
            rows = np.ascontiguousarray(q_nope[:, :, head]).reshape(-1, self.n_nope)
            q[:, :, head, : self.rank] = self.attn_k_b(rows, head).reshape(*shape, self.rank)
        q[..., self.rank :] = q_rot
        # one head: its values are the first part of its keys
        keys = self.cache.shared(np.concatenate([latent[:, :, None], k_rot], axis=-1))
        mixed = self.attend(q, keys, np.ascontiguousarray(keys[..., : self.rank]), self.scale)
        out = np.empty((*shape, self.n_head, self.head_size_v), np.float32)
        for head in range(self.n_head):
            rows = np.ascontiguousarray(mixed[:, :, head]).reshape(-1, self.rank)
            out[:, :, head] = self.attn_v_b(rows, head).reshape(*shape, self.head_size_v)
        return out

    def _spread_out(self, q_nope: Array, q_rot: Array, latent: Array, k_rot: Array) -> Array:
        kv = self.attn_kv_b(latent).reshape(*latent.shape[:2], self.n_head, -1)
        k_rot = np.broadcast_to(k_rot, (*kv.shape[:3], self.n_rot))
        q = np.concatenate([q_nope, q_rot], axis=-1)
        k = np.concatenate([kv[..., : self.n_nope], k_rot], axis=-1)
        v = np.ascontiguousarray(kv[..., self.n_nope :])
        return self.attend(q, self.cache.keys(k), self.cache.values(v), self.scale)


def yarn_multiplier(c: Config) -> float:
    """How much YaRN's correction counts; files hold a tenth of it (convert_hf_to_gguf.py, DeepseekV2Model)."""
    return 10 * c.number("rope.scaling.yarn_log_multiplier", 0.0)
