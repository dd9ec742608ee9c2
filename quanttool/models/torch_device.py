"""Products and attention by PyTorch: on a GPU, or on the processor.

The only file that imports torch. Arrays come and go as numpy's; a weight stays on the device as long as its layer is
loaded. A float32 product uses no TF32; a bfloat16 one rounds both operands and adds in float32, as `products.py` says.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UsageError
from .attention import NO_WINDOW
from .products import Array, weight_values

ROWS_PER_BATCH = 8192  # a GPU wants many rows at a time, and every batch travels there and back
QUERY_BLOCK = 512  # queries whose scores are held at once


class TorchDevice:
    rows_per_batch = ROWS_PER_BATCH

    def __init__(self, name: str):
        self.name = name
        try:
            self.device = torch.device(name)
            torch.empty(1, device=self.device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:  # AssertionError: built without CUDA
            reason = str(error).splitlines()[0]
            raise UsageError(f"PyTorch cannot use the device {name!r}: {reason}") from None

    def weight(self, data: NDArray[np.uint8], type_name: str, n_cols: int, precision: str) -> "TorchWeight":
        values = weight_values(data, type_name, n_cols, "f32")
        return TorchWeight(self.tensor(values), precision != "f32", self)

    def tensor(self, values: Array) -> torch.Tensor:
        """An array, on the device."""
        if not values.flags.writeable:  # of a mapped file: torch would warn
            values = values.copy()
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    @torch.inference_mode()
    def attend(
        self,
        q: Array,  # [n_seq, n_ctx, n_head, head_size]
        k: Array,  # [n_seq, n_ctx, n_head_kv, head_size]
        v: Array,  # [n_seq, n_ctx, n_head_kv, head_size_v]
        scale: float,
        window: int = NO_WINDOW,
        soft_cap: float = 0.0,
        sinks: Array | None = None,  # [n_head]
    ) -> Array:  # [n_seq, n_ctx, n_head, head_size_v]
        """As `attention.attend`, one sequence at a time."""
        out = np.empty((*q.shape[:3], v.shape[3]), np.float32)
        sink = None if sinks is None else self.tensor(sinks)[:, None, None]
        for seq in range(len(q)):
            queries, keys, values = (self.tensor(x[seq]).transpose(0, 1) for x in (q, k, v))  # [n_head, n_ctx, size]
            group = queries.shape[0] // keys.shape[0]
            keys, values = keys.repeat_interleave(group, 0), values.repeat_interleave(group, 0)
            for start in range(0, queries.shape[1], QUERY_BLOCK):
                scores = queries[:, start : start + QUERY_BLOCK] * scale @ keys.transpose(1, 2)
                shares = self._softmax(scores, start, window, soft_cap, sink)
                out[seq, start : start + QUERY_BLOCK] = (shares @ values).transpose(0, 1).cpu().numpy()
        return out

    def _softmax(
        self, scores: torch.Tensor, start: int, window: int, soft_cap: float, sink: torch.Tensor | None
    ) -> torch.Tensor:
        """[n_head, n_queries, n_ctx] -> the same shape: shares of keys; the first query is number `start`."""
        if soft_cap:
            scores = soft_cap * torch.tanh(scores / soft_cap)
        query = torch.arange(start, start + scores.shape[1], device=self.device)[:, None]
        key = torch.arange(scores.shape[2], device=self.device)
        scores = scores.masked_fill((key > query) | (key <= query - window), -torch.inf)
        if sink is not None:
            scores = torch.cat([scores, sink.expand(-1, scores.shape[1], 1)], dim=-1)
        return torch.softmax(scores, dim=-1)[..., : len(key)]


class TorchWeight:
    """x @ weight.T"""

    def __init__(self, values: torch.Tensor, in_bf16: bool, device: TorchDevice):  # [n_out, n_in]
        self.in_bf16, self.device = in_bf16, device
        # A GPU keeps the sum in float32; elsewhere a bfloat16 product would come out rounded, so that rounded operands
        # are multiplied as float32.
        self.kind = torch.bfloat16 if in_bf16 and values.is_cuda else torch.float32
        self.values = self._rounded(values)

    def _rounded(self, values: torch.Tensor) -> torch.Tensor:
        return values.bfloat16().to(self.kind) if self.in_bf16 else values

    @torch.inference_mode()
    def __call__(self, x: Array, threads: int = 1) -> Array:  # [n, n_in] -> [n, n_out]
        left = self._rounded(self.device.tensor(x))
        options = {"out_dtype": torch.float32} if self.kind == torch.bfloat16 else {}
        return torch.mm(left, self.values.T, **options).cpu().numpy()
