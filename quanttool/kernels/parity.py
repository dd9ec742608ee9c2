"""Scales and codes of blocks in which four 4-bit codes must have an even number of set bits between them (IQ4_KSS).

Of each value the nearest entry with an even and with an odd code are known; where the four nearest of all break the
rule, the value that loses least takes its other one. That is the best choice there is. Tiles as in `tabulated`, each
four successive values share a word.
"""

import numpy as np

from .jit import helper, kernel
from .lanes import broadcast, load, magnitude, select, store
from .scales import first_largest
from .tabulated import NOTICEABLE, ONE, TWO, ZERO, nearest_entry, steps_of

WORD = 4  # values that share a word


@helper
def best_word(x, weight, first, inverse, v, even, odd, word):
    """The best entries for the values from `first` on, into word f32 [2 * WORD, LANES].

    even, odd:  (lowest entries f32 [n_variants], middles, steps) of the entries with even and with odd codes
    """
    parity = broadcast(ONE)  # 1 or -1: an even or an odd number of odd codes
    least = broadcast(np.inf)
    which = broadcast(0)  # the value whose other entry costs least
    for i in range(WORD):
        y = load(x, first + i) * inverse
        even_entry = nearest_entry(y, even[0][v], even[1], even[2], v)
        odd_entry = nearest_entry(y, odd[0][v], odd[1], odd[2], v)
        extra = (odd_entry - y) * (odd_entry - y) - (even_entry - y) * (even_entry - y)
        take_odd = extra < ZERO
        store(word, i, select(take_odd, odd_entry, even_entry))
        store(word, WORD + i, select(take_odd, even_entry, odd_entry))
        parity = select(take_odd, -parity, parity)
        extra = load(weight, first + i) * magnitude(extra)
        which = select(extra < least, i, which)
        least = select(extra < least, extra, least)
    for i in range(WORD):
        exchange = (parity < ZERO) & (which == i)
        store(word, i, select(exchange, load(word, WORD + i), load(word, i)))


@helper
def word_sums(x, weight, first, size, inverse, v, even, odd, word):
    """The weighted sums of q x and q^2, q the best entries for x * inverse."""
    sum_qx = sum_q2 = broadcast(0)
    for at in range(first, first + size, WORD):
        best_word(x, weight, at, inverse, v, even, odd, word)
        for i in range(WORD):
            wq = load(weight, at + i) * load(word, i)
            sum_qx += wq * load(x, at + i)
            sum_q2 += wq * load(word, i)
    return sum_qx, sum_q2


@kernel
def best_even_scales(x, weight, even_table, odd_table, trials, scales):
    """Of all trial scales that whose best entries fit best, refitted: max (sum w q x)^2 / sum w q^2.

    even_table, odd_table:  f32 [n_variants, n_codes / 2], entries with even and with odd codes, ascending
    trials:   f32 [n_trials, 3]: table, what the value of largest magnitude is scaled to, unused
    scales:   f32 [n_subs, LANES], written; 0 where nothing fits
    """
    size = len(x) // len(scales)
    even = (even_table[:, 0].copy(), *steps_of(even_table))
    odd = (odd_table[:, 0].copy(), *steps_of(odd_table))
    word = np.empty((2 * WORD, x.shape[1]), np.float32)
    for sub in range(len(scales)):
        largest = first_largest(x, size * sub, size)
        scale = best = broadcast(0)
        for t in range(len(trials)):
            v = np.int64(trials[t, 0])
            inverse = trials[t, 1] / largest
            sum_qx, sum_q2 = word_sums(x, weight, size * sub, size, inverse, v, even, odd, word)
            better = sum_qx * sum_qx > best * sum_q2 * NOTICEABLE
            scale = select(better, sum_qx / sum_q2, scale)
            best = select(better, scale * sum_qx, best)
        store(scales, sub, scale)


@kernel
def encode_even(x, weight, even_table, odd_table, d, levels, variants, entries, sums):
    """The better table for a given scale, its best entries, and the sums to refit d.

    d, levels:  f32 [n_subs, LANES]; the scale is d times the level
    variants:   f32 [n_subs, LANES], written
    entries:    f32 [n_subs * size, LANES], written: table entries, each four with an even number of odd codes
    sums:       f32 [2, n_subs, LANES], written: sum w x q and sum w q^2, q the level times the entry
    """
    size = len(x) // len(d)
    even = (even_table[:, 0].copy(), *steps_of(even_table))
    odd = (odd_table[:, 0].copy(), *steps_of(odd_table))
    word = np.empty((2 * WORD, x.shape[1]), np.float32)
    for sub in range(len(d)):
        first = size * sub
        level = load(levels, sub)
        scale = load(d, sub) * level
        inverse = select(scale == ZERO, ZERO, ONE / scale)
        best = broadcast(-np.inf)
        variant = best_qx = best_q2 = broadcast(0)
        for v in range(len(even_table)):
            sum_qx, sum_q2 = word_sums(x, weight, first, size, inverse, v, even, odd, word)
            gain = scale * (TWO * sum_qx - scale * sum_q2)
            better = gain > best
            best = select(better, gain, best)
            variant = select(better, v, variant)
            best_qx = select(better, level * sum_qx, best_qx)
            best_q2 = select(better, level * level * sum_q2, best_q2)
        for v in range(len(even_table)):
            for at in range(first, first + size, WORD):
                best_word(x, weight, at, inverse, v, even, odd, word)
                for i in range(WORD):
                    store(entries, at + i, select(variant == v, load(word, i), load(entries, at + i)))
        store(variants, sub, variant)
        store(sums[0], sub, best_qx)
        store(sums[1], sub, best_q2)
