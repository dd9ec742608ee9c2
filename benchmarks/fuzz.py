"""Damaged input by the thousand: the GGUF reader, the imatrix reader, the recipe parser.

    python -m benchmarks.fuzz gguf --minutes 10
    python -m benchmarks.fuzz imatrix --minutes 10
    python -m benchmarks.fuzz recipe --minutes 10

Valid files are damaged (bits, numbers, pieces cut, doubled, moved, mixed with other files) and read in full. What may
come out is a result or an error of ours. Anything else, a case that takes longer than five seconds, and memory beyond
sixteen times the file's size and a megabyte are findings: they are written beside, and the exit code is 1. Cases follow
from --seed.
"""

import signal
import struct
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import click
import numpy as np

from quanttool.container import GGUFValueType, GGUFWriter, TensorInfo, open_gguf
from quanttool.container.writer import encode_value
from quanttool.errors import QuanttoolError
from quanttool.ggml_types import BY_NAME
from quanttool.imatrix import Entry, Imatrix, load, save
from quanttool.imatrix.gaps import shrink_experts
from quanttool.recipes.dialects import DIALECTS, format_rules, parse_rules
from quanttool.recipes.recipe import read_recipe_file, shipped_recipes, to_toml
from quanttool.recipes.review import lint

SECONDS, TIMES_SIZE, ROOM = 5, 16, 1 << 20
NUMBERS = [
    0,
    1,
    2,
    4,
    7,
    8,
    9,
    31,
    32,
    255,
    1 << 15,
    1 << 31,
    (1 << 31) - 1,
    (1 << 32) - 1,
    1 << 62,
    (1 << 63) - 1,
    (1 << 64) - 1,
]


def gguf_seeds(folder: Path) -> list[bytes]:
    kinds = GGUFValueType
    metadata = {
        "general.architecture": (kinds.STRING, encode_value("llama", kinds.STRING)),
        "general.alignment": (kinds.UINT32, encode_value(32, kinds.UINT32)),
        "tokens": (kinds.ARRAY, encode_value(["a", "", "ü"], kinds.ARRAY, kinds.STRING)),
        "scores": (kinds.ARRAY, encode_value([0.5, 1.5], kinds.ARRAY, kinds.FLOAT32)),
        "pairs": (kinds.ARRAY, struct.pack("<IQ", 9, 2) + struct.pack("<IQBB", 0, 2, 7, 8) * 2),
        "split.count": (kinds.UINT16, encode_value(1, kinds.UINT16)),
        "flag": (kinds.BOOL, encode_value(True, kinds.BOOL)),
    }
    shapes = {"Q8_0": (64, 3), "F32": (5,), "IQ4_KS": (256, 4, 2), "Q4_0_R8": (32, 8)}
    infos = [TensorInfo(f"blk.{i}.{kind}.weight", BY_NAME[kind], ne) for i, (kind, ne) in enumerate(shapes.items())]
    for name, keys, tensors in (("a", metadata, infos), ("b", {}, infos[:1]), ("c", metadata, [])):
        with GGUFWriter(folder / name, keys, tensors):
            pass
    return [(folder / name).read_bytes() for name in "abc"]


def imatrix_seeds(folder: Path) -> list[bytes]:
    rng = np.random.default_rng(1)
    entries = {
        "blk.0.attn_q.weight": Entry(rng.random((1, 8)) * 9, np.array([64])),
        "blk.0.ffn_up_exps.weight": Entry(rng.random((3, 8)) * 9, np.array([40, 0, 24])),
    }
    imatrix = Imatrix(entries, ["a.txt", "b.txt"], 2, 32)
    save(imatrix, folder / "a", "gguf")
    save(imatrix, folder / "b", "dat")
    return [(folder / name).read_bytes() for name in "ab"]


def recipe_seeds(_: Path) -> list[bytes]:
    texts = [
        "# head\nblk\\.[0-9]+\\.attn_(q|k|v)\\.weight = Q8_0\nffn_(up|gate)_exps=IQ3_KS, token_embd=Q6_K  # end\n",
        "^blk\\.([0-9]|[1-5][0-9]|60)\\.ffn_down_exps\\.weight$=iq4_ks,^output\\.weight$=q6_K,a{1,3}=q8_KV",
        "attn_v=q8_0 ffn_down=q6_k\tblk\\.\\d{1,2}\\.x=f16\n[[:digit:]]+=bf16",
    ]
    return [text.encode() for text in texts] + [path.read_bytes() for path in shipped_recipes().values()]


def read_gguf(path: Path) -> None:
    for header_only in (False, True):
        file = open_gguf(path, header_only)
        for key in file.metadata:
            file.metadata[key]
        if file.has_data:
            assert sum(int(file.data(name).sum()) for name in file.tensors) >= 0


def read_imatrix(path: Path) -> None:
    load(path)
    imatrix, _ = shrink_experts(load(path, in_memory=False))
    for name in imatrix.entries:
        assert imatrix.importance(name).dtype == np.float32


def read_recipe(path: Path) -> None:
    data = path.read_bytes()
    for suffix in (".toml", ".txt"):
        named = path.with_suffix(suffix)
        named.write_bytes(data)
        with suppress(QuanttoolError):
            to_toml(read_recipe_file(named))
    text = data.decode(errors="replace")
    for dialect in DIALECTS:
        with suppress(QuanttoolError):
            rules = parse_rules(text, dialect)
            lint(rules)
            format_rules(rules, dialect)


TARGETS: dict[str, tuple[Callable[[Path], list[bytes]], Callable[[Path], None]]] = {
    "gguf": (gguf_seeds, read_gguf),
    "imatrix": (imatrix_seeds, read_imatrix),
    "recipe": (recipe_seeds, read_recipe),
}


def damaged(chance: Random, seeds: list[bytes]) -> bytes:
    """A seed with one to six pieces of damage."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 6)):
        at, n = chance.randrange(len(data) + 1), chance.choice((1, 2, 4, 8, chance.randint(1, 64)))
        piece = data[at : at + n]
        match chance.randrange(8):
            case 0 if at < len(data):
                data[at] ^= 1 << chance.randrange(8)
            case 1:
                number = chance.choice(NUMBERS) + chance.choice((-1, 0, 0, 0, 1))
                width = chance.choice((1, 2, 4, 8))
                data[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, "little")
            case 2:
                del data[at : at + n]
            case 3:
                data[at:at] = piece
            case 4:
                data[at : at + n] = chance.randbytes(n)
            case 5:
                other = chance.choice(seeds)
                start = chance.randrange(len(other) + 1)
                data[at : at + chance.choice((0, n))] = other[start : start + n]
            case 6 if chance.random() < 0.3:
                del data[at:]
            case _:
                to = chance.randrange(len(data) + 1)
                data[to : to + len(piece)] = piece
    return bytes(data)


@dataclass
class Findings:
    """What a fuzz has seen. `seconds` and `memory` are of the worst case, memory in bytes beyond the file's size."""

    cases: int = 0
    accepted: int = 0
    seconds: float = 0.0
    memory: int = 0
    wrong: list[tuple[str, bytes]] = field(default_factory=list)


class Hang(Exception):
    pass


@contextmanager
def time_limit() -> Iterator[None]:
    def stop(*_) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fuzz(target: str, seed: int, seconds: float = 0, cases: int = 0) -> Findings:
    """Damage and read for so many seconds, or so many cases."""
    make_seeds, read = TARGETS[target]
    found, chance, end = Findings(), Random(seed), time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as name:
        seeds, path = make_seeds(Path(name)), Path(name) / "case"
        tracemalloc.start()
        while found.cases < cases or time.monotonic() < end:
            _case(found, damaged(chance, seeds), read, path)
        tracemalloc.stop()
    return found


def _case(found: Findings, data: bytes, read: Callable[[Path], None], path: Path) -> None:
    path.write_bytes(data)
    tracemalloc.reset_peak()
    held, started, wrong = tracemalloc.get_traced_memory()[0], time.monotonic(), ""
    try:
        with time_limit():
            read(path)
        found.accepted += 1
    except QuanttoolError:
        pass
    except Hang:
        wrong = f"longer than {SECONDS} s"
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    memory = tracemalloc.get_traced_memory()[1] - held
    if not wrong and memory > TIMES_SIZE * len(data) + ROOM:
        wrong = f"{memory} bytes of memory for a file of {len(data)}"
    found.cases += 1
    found.seconds = max(found.seconds, time.monotonic() - started)
    found.memory = max(found.memory, memory - len(data))
    if wrong:
        found.wrong.append((wrong, data))


@click.command()
@click.argument("target", type=click.Choice(list(TARGETS)))
@click.option("--minutes", default=10.0)
@click.option("--seed", default=1)
def main(target: str, minutes: float, seed: int) -> None:
    found = fuzz(target, seed, seconds=60 * minutes)
    print(
        f"{target}: {found.cases:,} cases in {minutes:g} minutes, {found.accepted:,} of them read; the slowest took "
        f"{found.seconds:.2f} s, memory at most {found.memory / 1024:.0f} KiB above the file's size; "
        f"{len(found.wrong)} findings"
    )
    for number, (wrong, data) in enumerate(found.wrong[:20]):
        Path(f"finding-{target}-{number}").write_bytes(data)
        print(f"  finding-{target}-{number}: {wrong}")
    raise SystemExit(bool(found.wrong))


if __name__ == "__main__":
    main()
