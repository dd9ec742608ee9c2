"""The one merge loop of byte-level BPE and SentencePiece: join the best neighbours until none are left."""

from collections.abc import Mapping
from heapq import heapify, heappop, heappush


def merge(symbols: list[str], priority: Mapping[str, float], joint: str) -> list[str]:
    """Join neighbours, the pair of smallest priority first and the leftmost of equals, until no pair has a priority.

    A pair is looked up as left + joint + right: BPE ranks its merges ("le ft", joint " "), SentencePiece ranks the
    result ("left", joint ""). O(n log n) for n symbols, which matters: one word can be a whole line of "=".
    Source: llama.cpp src/llama-vocab.cpp llm_tokenizer_bpe_session::tokenize, llm_tokenizer_spm_session::tokenize.
    """
    n = len(symbols)
    symbols = symbols[:]
    lengths = [len(symbol) for symbol in symbols]  # 0: joined into its left neighbour
    after = list(range(1, n + 1))
    before = list(range(-1, n - 1))
    lookup = priority.get

    queue = []  # (priority, left, right, joined length); stale once either symbol has grown or gone
    for left in range(n - 1):
        rank = lookup(symbols[left] + joint + symbols[left + 1])
        if rank is not None:
            queue.append((rank, left, left + 1, lengths[left] + lengths[left + 1]))
    heapify(queue)

    while queue:
        _, left, right, length = heappop(queue)
        if not lengths[left] or not lengths[right] or lengths[left] + lengths[right] != length:
            continue
        symbols[left] = joined = symbols[left] + symbols[right]
        lengths[left], lengths[right] = length, 0
        following = after[left] = after[right]
        if following < n:
            before[following] = left
            rank = lookup(joined + joint + symbols[following])
            if rank is not None:
                heappush(queue, (rank, left, following, length + lengths[following]))
        preceding = before[left]
        if preceding >= 0:
            rank = lookup(symbols[preceding] + joint + joined)
            if rank is not None:
                heappush(queue, (rank, preceding, left, lengths[preceding] + length))
    return [symbol for symbol, length in zip(symbols, lengths, strict=True) if length]
