"""A model that is one product, for what happens after the forward pass."""

import numpy as np


class FakeModel:
    """Logits are hidden @ output: hidden states may be anything."""

    def __init__(self, n_embd=6, n_vocab=50, seed=0, scale=1.0):
        self.output = (np.random.default_rng(seed).standard_normal((n_embd, n_vocab)) * scale).astype(np.float32)
        self.n_embd, self.n_vocab = n_embd, n_vocab

    def output_logits(self, hidden):
        return (hidden.astype(np.float64) @ self.output).astype(np.float32)  # so that any number of rows gives the same

    def output_part(self, tokens):
        return lambda hidden: np.ascontiguousarray(self.output_logits(hidden)[:, tokens])


def hidden_states(n_rows, n_embd=6, seed=1):
    return np.random.default_rng(seed).standard_normal((n_rows, n_embd)).astype(np.float32)


def targets(shape, n_vocab=50, seed=2):
    return np.random.default_rng(seed).integers(0, n_vocab, shape).astype(np.int32)
