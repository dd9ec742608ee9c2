"""Log-probabilities in 16 bits, as llama-perplexity stores them: plain float32 arithmetic in the reference's order.

A row is a scale and a minimum (float32 each, so four 16-bit places), then a code per token, and a 0 if their number is
odd: log p = scale * code + minimum. After tools/perplexity/perplexity.cpp, functions log_softmax.
"""

import numpy as np

from .jit import kernel
from .rounding import nearest_int

ONE, ZERO, LARGEST_CODE = np.float32(1), np.float32(0), np.float32(65535)
HEADER = 4  # 16-bit places before the codes


@kernel
def encode_log_probs(logits, largest, smallest, total, window, rows):
    """Rows of some tokens: f32 [n_rows, n_tokens] -> u16 [n_rows, at least 4 + n_tokens], the rest 0.

    largest, smallest f32, total f64 (sum of e^(logit - largest)), all [n_rows]: of the whole vocabulary. Logits further
    than `window` (f32) below the largest get the code 0, that of the lowest.
    """
    for row in range(logits.shape[0]):
        line, codes = logits[row], rows[row, HEADER:]
        lowest = max(smallest[row], np.float32(largest[row] - window))
        scale = np.float32(np.float32(largest[row] - lowest) / LARGEST_CODE)
        header = rows[row, :HEADER].view(np.float32)
        header[0] = scale
        header[1] = np.float32(np.float32(lowest - largest[row]) - np.float32(np.log(total[row])))
        codes[:] = 0
        if scale > ZERO:
            inverse = np.float32(ONE / scale)
            for token in range(line.shape[0]):
                above = np.float32(line[token] - lowest)
                codes[token] = np.uint16(nearest_int(np.float32(inverse * above))) if above > ZERO else 0


@kernel
def decode_log_probs(rows, out):
    """Log-probabilities of some tokens: u16 [n_rows, 4 + n_tokens] -> f32 [n_rows, n_tokens]."""
    for row in range(out.shape[0]):
        header = rows[row, :HEADER].view(np.float32)
        scale, smallest = header[0], header[1]
        codes, line = rows[row, HEADER:], out[row]
        for token in range(line.shape[0]):
            line[token] = np.float32(scale * np.float32(codes[token])) + smallest
