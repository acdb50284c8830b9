"""Files damaged on purpose, by seed."""

from collections.abc import Iterator

import numpy as np


def mutants(data: bytes, count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """What may befall a file on its way, half of it single flipped bits; each differs from `data`, and says how."""
    rng = np.random.default_rng(seed)
    made = 0
    while made < count:
        start, other = (int(place) for place in rng.integers(len(data), size=2))
        length = int(rng.integers(1, 9))
        copied = data[other : other + length]
        piece, end = data[start : start + length], start + length
        kind = rng.choice(['flip', 'cut', 'lost', 'doubled', 'zeroed', 'overwritten', 'noise'], p=[0.5, *[1 / 12] * 6])
        mutant = {
            'flip': data[:start] + bytes([data[start] ^ 1 << length - 1]) + data[start + 1 :],
            'cut': data[:start],
            'lost': data[:start] + data[end:],
            'doubled': data[:end] + data[start:],
            'zeroed': data[:start] + bytes(len(piece)) + data[end:],
            'overwritten': data[:start] + copied + data[start + len(copied) :],
            'noise': data[:start] + rng.bytes(len(piece)) + data[end:],
        }[kind]
        if mutant != data:
            made += 1
            yield f'{kind} at {start}, {length}, {other}', mutant
