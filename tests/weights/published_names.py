"""Names and shapes that libraries give to the tensors of networks, from a text file beside this one.

A line `# names` starts the tensors of these networks. A line `block: conv 32,3,3,3; bn.* 32` has those whose names
start with `block.`, a line without a colon one; `.*` stands for what every BatchNorm has.
"""

from pathlib import Path

Tensors = dict[str, tuple[int, ...]]


def read(file_name: str, of_a_norm: tuple[str, ...], separator: str) -> dict[str, Tensors]:
    """The shape of each tensor by its name, in the file's order, by network."""
    networks: dict[str, Tensors] = {}
    tensors: Tensors = {}
    for line in (Path(__file__).parent / file_name).read_text().splitlines():
        if line.startswith('# '):
            tensors = {}
            networks.update(dict.fromkeys(line.removeprefix('# ').split(', '), tensors))
            continue
        prefix, colon, parts = line.rpartition(': ')
        for part in parts.split('; '):
            name, sides = part.rsplit(' ', 1)
            full = f'{prefix}.{name}' if colon else name
            names = [full.replace('*', leaf) for leaf in of_a_norm] if full.endswith(f'{separator}*') else [full]
            tensors.update(dict.fromkeys(names, tuple(map(int, sides.split(',')))))
    return networks
