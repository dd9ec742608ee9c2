"""A model that is one product, for what happens after the forward pass."""

import numpy as np


class FakeModel:
    """Logits are hidden @ output: hidden states may be anything."""

    def __init__(self, n_embd=6, n_vocab=50, seed=0, scale=1.0):
        self.output = (np.random.default_rng(seed).standard_normal((n_embd, n_vocab)) * scale).astype(np.float32)
        self.n_embd, self.n_vocab = n_embd, n_vocab

    def output_logits(self, hidden):
        return hidden @ self.output


def hidden_states(n_rows, n_embd=6, seed=1):
    return np.random.default_rng(seed).standard_normal((n_rows, n_embd)).astype(np.float32)


def targets(shape, n_vocab=50, seed=2):
    return np.random.default_rng(seed).integers(0, n_vocab, shape).astype(np.int32)
