"""--cache-type-k and --cache-type-v: what a quantized cache of keys and values costs."""

from collections.abc import Callable
from functools import wraps

import click

_options = [
    click.option(
        "--cache-type-k", "type_k", default="f32", show_default=True, metavar="TYPE",
        help="Round the keys of each layer to this type, as in a quantized cache: f16, q8_0, q4_0, any type whose "
        "blocks heads divide into. A base model keeps float32.",
    ),
    click.option(
        "--cache-type-v", "type_v", default="f32", show_default=True, metavar="TYPE", help="The same of values.",
    ),
    click.option(
        "--no-cache-rotation", is_flag=True,
        help="Do not rotate keys and values before they are quantized; llama.cpp rotates heads of 64 and multiples.",
    ),
]  # fmt: skip


def cache_options(command: Callable) -> Callable:
    """Add the options; the command is given them as one argument `cache`, a function that makes the KVCache."""

    @wraps(command)
    def with_cache(*args, type_k: str, type_v: str, no_cache_rotation: bool, **kwargs):
        def cache():
            from ..models import KVCache

            return KVCache(type_k.upper(), type_v.upper(), not no_cache_rotation)

        return command(*args, cache=cache, **kwargs)

    for option in reversed(_options):
        with_cache = option(with_cache)
    return with_cache
