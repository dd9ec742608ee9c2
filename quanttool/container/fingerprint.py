"""Recognize a model without reading all of it."""

import hashlib

from .reader import GGUFFile

SAMPLE_BYTES = 4096


def fingerprint(file: GGUFFile) -> str:
    """SHA-256, in hex, of every tensor's name, type, shape and first 4 KiB.

    Metadata do not count: a model that was only renamed stays itself, one that was quantized anew does not.
    """
    digest = hashlib.sha256()
    for name, tensor in file.tensors.items():
        digest.update(f"{name} {tensor.type} {tensor.ne}".encode(errors="surrogateescape"))
        digest.update(file.head(name, SAMPLE_BYTES))
    return digest.hexdigest()
