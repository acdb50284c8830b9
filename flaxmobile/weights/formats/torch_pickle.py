"""torch's `.pth` and `.pt`, the zip format and the older one, without torch.

Both layouts are those of torch's `torch/serialization.py`.
"""

import io
import math
import pickle
import warnings
import zipfile
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flaxmobile.messages import listing, printable
from flaxmobile.weights.formats import File, naming, strict_zip
from flaxmobile.weights.formats.checkpoint import WRAPPERS, NoWeightsError, choose, is_average
from flaxmobile.weights.formats.unpickler import STORAGES, Foreign, Tensor, Unpickler, maker, refusal, shown

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
PLAIN = (str, int, float, bool)


def read(path: Path, ema: bool = False) -> File:
    """Read a state dict, alone or in a checkpoint.

    Of a checkpoint's several mappings it is the one with the most tensors. The checkpoint's plain numbers and strings
    become the metadata. What else is in it is passed over, and a warning names it.

    Args:
        path: of the file.
        ema: take the moving average of the weights.

    Raises:
        ValueError: damaged, no state dict, no moving average, or its tensors are made by what is not known, which is
            named.
    """
    with path.open('rb') as file:
        zipped = file.read(2) == b'PK'
    members = strict_zip.members(path) if zipped else {}
    with naming(path):
        unpickler = Unpickler()
        if zipped:
            root, contents = _read_zip(members, unpickler)
        else:
            root, contents = _read_stream(path.read_bytes(), unpickler)
        found, note = _file(root, contents, unpickler, ema)
    if note:
        warnings.warn(f'{printable(path, None)}: {note}', stacklevel=2)
    return found


def _read_zip(members: Mapping[str, memoryview], unpickler: Unpickler) -> tuple[Any, dict[str, memoryview]]:
    pickles = [name for name in members if is_pickle(name)]
    if len(pickles) != 1:
        raise ValueError(f'is no file of torch: it holds {len(pickles)} data.pkl')
    prefix = pickles[0].removesuffix('data.pkl')
    order = bytes(members.get(f'{prefix}byteorder', b'little'))
    if order not in (b'little', b'big'):
        raise ValueError(f'its byte order is {order[:20]!r} instead of little or big')
    root = unpickler.load(io.BytesIO(members[pickles[0]]))
    contents = {}
    for key, storage in unpickler.storages.items():
        content = members.get(f'{prefix}data/{key}')
        if content is None:
            raise ValueError(f'storage {shown(key)} is missing')
        if len(content) != storage.length * storage.dtype.itemsize:
            claimed = f'{storage.length} {storage.dtype}'
            raise ValueError(f'storage {shown(key)} holds {len(content)} bytes and claims {claimed}')
        if order == b'big' and content:
            np.frombuffer(content, f'u{storage.dtype.itemsize}').byteswap(inplace=True)
        contents[key] = content
    return root, contents


def is_pickle(member: str) -> bool:
    """Whether a zip's member of that name is the pickle that makes it a file of torch."""
    return member.rpartition('/')[2] == 'data.pkl'


def _read_stream(data: bytes, unpickler: Unpickler) -> tuple[Any, dict[str, memoryview]]:
    stream = io.BytesIO(data)
    if Unpickler(plain=True).load(stream) != MAGIC:
        raise ValueError('is a pickle that torch.save did not write')
    if (version := Unpickler(plain=True).load(stream)) != PROTOCOL:
        raise ValueError(f'is of version {shown(version)} of the old torch format, and only {PROTOCOL} is known')
    Unpickler(plain=True).load(stream)  # What machine wrote it; the numbers are little-endian on every one.
    root = unpickler.load(stream)
    keys = Unpickler(plain=True).load(stream)
    _require_none(next(iter(unpickler.unread), None))  # Where the next one starts is known of known types.
    listed = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not listed or sorted(keys) != sorted(unpickler.storages):
        raise ValueError('the list of its storages does not fit its tensors')
    position, contents = stream.tell(), {}
    for key in keys:
        storage = unpickler.storages[key]
        end = position + 8 + storage.length * storage.dtype.itemsize
        if end > len(data) or int.from_bytes(data[position : position + 8], 'little', signed=True) != storage.length:
            raise ValueError(f'storage {shown(key)} is cut short or claims another length than its tensors')
        contents[key] = memoryview(data)[position + 8 : end]
        position = end
    if position != len(data):
        raise ValueError(f'{len(data) - position} bytes follow its last storage')
    return root, contents


def _file(root: Any, contents: Mapping[str, memoryview], unpickler: Unpickler, ema: bool) -> tuple[File, str]:
    """What the file holds, and what a user may want to know of it."""
    if isinstance(root, Foreign):
        raise ValueError(refusal(printable(root.name)))
    if not isinstance(root, dict):
        raise ValueError(f'holds a {type(root).__name__} instead of a state dict: torch.save(model.state_dict(), ...)')
    meant = [value for name, value in root.items() if (is_average(name) if ema else name in WRAPPERS)]
    if not any(isinstance(value, dict) for value in meant):
        _require_none(maker(meant))
    try:
        choice = choose(
            root, lambda value: isinstance(value, Tensor), ema, lambda value: value.array(contents[value.storage.key])
        )
    except NoWeightsError:
        _require_none(next(iter(unpickler.foreign), None))
        raise
    _require_none(maker(choice.weights.values()))
    found = {name: value for name, value in choice.weights.items() if _is_named_tensor(name, value)}
    tensors = {name: value.array(contents[value.storage.key]) for name, value in found.items()}
    around, part, left = _plain(root), root, list[str]()
    for depth, name in enumerate(choice.part):
        named = {other[depth] for other in choice.others if other[:depth] == choice.part[:depth] and other[depth:]}
        left += _left(part, {name} | named, _plain(part))
        part = part[name]
        around |= _plain(part)
    named = {other[0] for other in choice.others if not choice.part}
    left += _left(part, tensors.keys() | named, around)
    notes = [choice.note, f'passed over {listing(left)}' if left else '']
    return File('torch', tensors, around), '; '.join(filter(None, notes))


def _require_none(name: str | None) -> None:
    """Refuse the file where its weights need what that names."""
    if name is not None:
        raise ValueError(refusal(printable(name)))


def _is_named_tensor(name: Any, value: Any) -> bool:
    return isinstance(name, str) and isinstance(value, Tensor)


def _plain(values: Mapping[Any, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if isinstance(name, str) and type(value) in PLAIN}


def _left(values: Mapping[Any, Any], taken: Container[str], around: Container[str]) -> Iterator[str]:
    """What is neither of those taken nor plain, by name and, where the pickle has one, type."""
    for name, value in values.items():
        if value is not None and (not isinstance(name, str) or (name not in taken and name not in around)):
            title = name.name if isinstance(name, Foreign) else name
            yield f'{title} ({value.name})' if isinstance(value, Foreign) else f'{title}'


def encode(tensors: Mapping[str, np.ndarray]) -> bytes:
    """A file in torch's zip format that `torch.load` reads as an ordered dict of those tensors, `weights_only` too.

    Raises:
        ValueError: torch has no storage of an array's type.
    """
    arrays = {name: np.asarray(array, order='C') for name, array in tensors.items()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w') as archive:

        def add(name: str, content: bytes | memoryview) -> None:
            archive.writestr(zipfile.ZipInfo(f'archive/{name}', (1980, 1, 1, 0, 0, 0)), content)

        add('data.pkl', _pickle(arrays))
        add('byteorder', b'little')
        for number, array in enumerate(arrays.values()):
            add(f'data/{number}', array.tobytes())
        add('version', b'3\n')
    return file.getvalue()


def _pickle(arrays: Mapping[str, np.ndarray]) -> bytes:
    def value(plain: Any) -> bytes:
        return pickle.dumps(plain, 2)[2:-1]

    names = {dtype: name for name, dtype in STORAGES.items() if name != 'UntypedStorage'}
    ordered_dict = b'ccollections\nOrderedDict\n)R'
    parts: list[bytes] = []
    for number, (name, array) in enumerate(arrays.items()):
        if array.dtype not in names:
            raise ValueError(
                f'{printable(name)} is {array.dtype.name}, and torch files hold {", ".join(map(str, names))}'
            )
        stride = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
        storage = f'ctorch\n{names[array.dtype]}\n'.encode()
        identity = b'(' + value('storage') + storage + value(str(number)) + value('cpu') + value(array.size) + b'tQ'
        layout = value(0) + value(array.shape) + value(stride)
        tensor = b'ctorch._utils\n_rebuild_tensor_v2\n(' + identity + layout + b'\x89' + ordered_dict + b'tR'
        parts.append(value(name) + tensor)
    return b'\x80\2' + ordered_dict + b'(' + b''.join(parts) + b'u.'
