"""torch's `.pth` and `.pt`, the zip format and the older one, without torch.

A pickle is a program. The interpreter here knows the instructions and the names that a state dict needs, so it can
build numbers, strings, lists, dicts and tensors and nothing else; whatever else a file names is refused, never run.
Both layouts are those of torch's `torch/serialization.py`.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from flaxmobile.weights.formats import File, naming, strict_zip

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {
    'FloatStorage': np.dtype('<f4'),
    'DoubleStorage': np.dtype('<f8'),
    'HalfStorage': np.dtype('<f2'),
    'BFloat16Storage': np.dtype(ml_dtypes.bfloat16),
    'LongStorage': np.dtype('<i8'),
    'IntStorage': np.dtype('<i4'),
    'ShortStorage': np.dtype('<i2'),
    'CharStorage': np.dtype('i1'),
    'ByteStorage': np.dtype('u1'),
    'UntypedStorage': np.dtype('u1'),
    'BoolStorage': np.dtype('?'),
}
STORAGE_MODULES = ('torch', 'torch.cuda', 'torch.storage')
ORDERED_DICT = 'collections.OrderedDict'
REBUILD_TENSOR = 'torch._utils._rebuild_tensor_v2'
REBUILD_PARAMETER = 'torch._utils._rebuild_parameter'
FUNCTIONS = (ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER)
INSTRUCTIONS = {opcode.code.encode('latin-1'): opcode for opcode in pickletools.opcodes}
CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}
NUMBERS = {'BININT', 'BININT1', 'BININT2', 'LONG1', 'LONG4', 'BINFLOAT'}
TEXTS = {'SHORT_BINUNICODE', 'BINUNICODE', 'BINUNICODE8', 'SHORT_BINSTRING', 'BINSTRING'}
PUSHED = {*CONSTANTS, *NUMBERS, *TEXTS, 'SHORT_BINBYTES', 'BINBYTES', 'BINBYTES8'}
# How many values on the stack an instruction collects, and which collect all above the mark.
COUNTED = {'EMPTY_TUPLE': 0, 'EMPTY_LIST': 0, 'EMPTY_DICT': 0, 'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
COUNTED |= {'APPEND': 1, 'SETITEM': 2}
MARKED = ('TUPLE', 'LIST', 'DICT', 'APPENDS', 'SETITEMS')
WRAPPERS = ('state_dict_ema', 'state_dict', 'model')
LARGEST_RANK = 32
# Of a pickle: ten thousand tensors. One byte can make an object of a hundred, so this bounds the memory.
MOST_INSTRUCTIONS = 400_000


class Name(str):
    """A global that a pickle refers to; only a name here, with nothing behind it."""


class Storage(NamedTuple):
    """A block of numbers that tensors are views of."""

    key: str
    dtype: np.dtype
    length: int


class Tensor(NamedTuple):
    """A view of a storage; offset and stride count elements."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self, content: memoryview) -> np.ndarray:
        """Itself over the storage's bytes, read-only and not copied."""
        dtype = self.storage.dtype
        strides = tuple(dtype.itemsize * stride for stride in self.stride)
        return np.ndarray(self.size, dtype, content.toreadonly(), self.offset * dtype.itemsize, strides)


def read(path: Path) -> File:
    """Read a state dict, alone or in a checkpoint.

    Of a checkpoint's several state dicts it is the moving average (`state_dict_ema`), else `state_dict` or `model`.
    The checkpoint's plain numbers and strings become the metadata.

    Raises:
        ValueError: damaged, no state dict, or it refers to anything but tensors and ordered dicts, which is named.
    """
    with path.open('rb') as file:
        zipped = file.read(2) == b'PK'
    if zipped:
        members = strict_zip.members(path)
        with naming(path):
            root, contents = _read_zip(members)
            return _file(root, contents)
    data = path.read_bytes()
    with naming(path):
        root, contents = _read_stream(data)
        return _file(root, contents)


def _read_zip(members: Mapping[str, memoryview]) -> tuple[Any, dict[str, memoryview]]:
    pickles = [name for name in members if name.endswith('/data.pkl')]
    if len(pickles) != 1:
        raise ValueError(f'is no file of torch: it holds {len(pickles)} data.pkl')
    prefix = pickles[0].removesuffix('data.pkl')
    order = bytes(members.get(f'{prefix}byteorder', b'little'))
    if order not in (b'little', b'big'):
        raise ValueError(f'its byte order is {order[:20]!r} instead of little or big')
    unpickler = Unpickler()
    root = unpickler.load(io.BytesIO(members[pickles[0]]))
    contents = {}
    for key, storage in unpickler.storages.items():
        content = members.get(f'{prefix}data/{key}')
        if content is None:
            raise ValueError(f'storage {key!r} is missing')
        if len(content) != storage.length * storage.dtype.itemsize:
            raise ValueError(f'storage {key!r} holds {len(content)} bytes and claims {storage.length} {storage.dtype}')
        contents[key] = content if order == b'little' else _swapped(content, storage.dtype.itemsize)
    return root, contents


def _swapped(content: memoryview, itemsize: int) -> memoryview:
    return memoryview(np.frombuffer(content, f'u{itemsize}').byteswap().view('u1').data)


def _read_stream(data: bytes) -> tuple[Any, dict[str, memoryview]]:
    stream = io.BytesIO(data)
    if Unpickler().load(stream) != MAGIC:
        raise ValueError('is a pickle that torch.save did not write')
    if (version := Unpickler().load(stream)) != PROTOCOL:
        raise ValueError(f'is of version {_shown(version)} of the old torch format, and only {PROTOCOL} is known')
    Unpickler().load(stream)  # What machine wrote it; the numbers are little-endian on every one.
    unpickler = Unpickler()
    root = unpickler.load(stream)
    keys = Unpickler().load(stream)
    listed = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not listed or sorted(keys) != sorted(unpickler.storages):
        raise ValueError('the list of its storages does not fit its tensors')
    position, contents = stream.tell(), {}
    for key in keys:
        storage = unpickler.storages[key]
        end = position + 8 + storage.length * storage.dtype.itemsize
        if end > len(data) or int.from_bytes(data[position : position + 8], 'little', signed=True) != storage.length:
            raise ValueError(f'storage {key!r} is cut short or claims another length than its tensors')
        contents[key] = memoryview(data)[position + 8 : end]
        position = end
    if position != len(data):
        raise ValueError(f'{len(data) - position} bytes follow its last storage')
    return root, contents


class Unpickler:
    """Interprets one pickle; `storages` are those it refers to, by key."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}

    def load(self, stream: io.BytesIO) -> Any:
        """The object of the pickle that starts at the stream's position; leaves the position after it.

        Raises:
            ValueError: it is damaged or asks for what is not allowed.
        """
        try:
            for _ in range(MOST_INSTRUCTIONS):
                if not self.step(*_instruction(stream)):
                    return self.stack.pop()
        except (IndexError, KeyError, TypeError) as error:
            raise ValueError('its pickle is damaged') from error
        raise ValueError(f'its pickle has over {MOST_INSTRUCTIONS} instructions')

    def step(self, opcode: str, argument: Any) -> bool:
        """Execute one instruction; False for the last."""
        stack = self.stack
        if opcode in PUSHED:
            stack.append(CONSTANTS.get(opcode, argument))
            return True
        match opcode:
            case 'PROTO' | 'FRAME' | 'STOP':
                pass
            case 'MARK':
                self.below.append(stack)
                self.stack = []
            case 'POP':
                stack.pop()
            case 'DUP':
                stack.append(stack[-1])
            case 'BINPUT' | 'LONG_BINPUT':
                self.memo[argument] = stack[-1]
            case 'MEMOIZE':
                self.memo[len(self.memo)] = stack[-1]
            case 'BINGET' | 'LONG_BINGET':
                stack.append(self.memo[argument])
            case 'GLOBAL':
                stack.append(_allowed(argument))
            case 'STACK_GLOBAL':
                name, module = stack.pop(), stack.pop()
                stack.append(_allowed(f'{_text(module)}.{_text(name)}'))
            case 'BINPERSID':
                stack.append(self.storage(*stack.pop()))
            case 'REDUCE':
                arguments, name = stack.pop(), stack.pop()
                stack.append(_call(name, arguments))
            case 'BUILD':
                state = stack.pop()
                if not isinstance(stack[-1], dict) or not isinstance(state, dict):
                    raise ValueError('it sets the inside of an object, which only an ordered dict may')
            case _:
                self.collect(opcode, argument)
        return opcode != 'STOP'

    def collect(self, opcode: str, argument: Any) -> None:
        """Execute an instruction that builds a collection, of what lies on top of the stack or above the mark."""
        if opcode in MARKED:
            items, self.stack = self.stack, self.below.pop()
        elif opcode in COUNTED:
            items = [self.stack.pop() for _ in range(COUNTED[opcode])][::-1]
        else:
            named = f' of {_shown(argument)}' if argument is not None else ''
            raise ValueError(_refusal(f'the pickle instruction {opcode}{named}'))
        match opcode:
            case 'EMPTY_TUPLE' | 'TUPLE1' | 'TUPLE2' | 'TUPLE3' | 'TUPLE':
                self.stack.append(tuple(items))
            case 'EMPTY_LIST' | 'LIST':
                self.stack.append(items)
            case 'EMPTY_DICT' | 'DICT':
                self.stack.append(_dict(items))
            case 'APPEND' | 'APPENDS':
                if not isinstance(self.stack[-1], list):
                    raise ValueError('its pickle is damaged: it appends to what is no list')
                self.stack[-1].extend(items)
            case 'SETITEM' | 'SETITEMS':
                if not isinstance(self.stack[-1], dict):
                    raise ValueError('its pickle is damaged: it sets an item of what is no dict')
                self.stack[-1].update(_dict(items))

    def storage(self, kind: Any, name: Any, key: Any, location: Any, count: Any, view: Any = None) -> Storage:
        """The storage of a persistent id."""
        if not (kind == 'storage' and isinstance(name, Name) and isinstance(key, str) and _is_count(count)):
            raise ValueError('its pickle is damaged: it refers to a storage that is none')
        if name in FUNCTIONS or view is not None:
            raise ValueError(f'storage {key!r} is of no known type, or a view of another')
        storage = Storage(key, STORAGES[name.rpartition('.')[2]], count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f'storage {key!r} is described in two ways')
        return storage


def _instruction(stream: io.BytesIO) -> tuple[str, Any]:
    code = stream.read(1)
    opcode = INSTRUCTIONS.get(code)
    if opcode is None:
        raise ValueError(f'its pickle is damaged: {code!r} is no instruction')
    if opcode.name in ('GLOBAL', 'INST'):
        return opcode.name, f'{_line(stream)}.{_line(stream)}'
    # What the text protocol writes with escapes torch does not write, and it is refused unread.
    return opcode.name, opcode.arg.reader(stream) if opcode.arg and opcode.proto else None


def _line(stream: io.BytesIO) -> str:
    line = stream.readline()
    if not line.endswith(b'\n'):
        raise ValueError('its pickle is damaged: a name is cut short')
    return line[:-1].decode()


def _allowed(name: str) -> Name:
    module, _, last = name.rpartition('.')
    if name in FUNCTIONS or (module in STORAGE_MODULES and last in STORAGES):
        return Name(name)
    raise ValueError(_refusal(name if name.isprintable() and len(name) < 200 else ascii(name[:200])))


def _refusal(what: str) -> str:
    return (
        f'refused: it asks for {what}. From a file flaxmobile builds tensors and ordered dicts and nothing else, and '
        'it runs nothing; write the weights alone: torch.save(model.state_dict(), ...)'
    )


def _call(name: Any, arguments: Any) -> Any:
    if not isinstance(name, Name) or not isinstance(arguments, tuple):
        raise ValueError('its pickle is damaged: it calls what is no function')
    if name == ORDERED_DICT:
        return _dict(_pairs(*arguments))
    if name == REBUILD_TENSOR:
        return _tensor(*arguments)
    if name == REBUILD_PARAMETER and len(arguments) == 3 and isinstance(arguments[0], Tensor):
        return arguments[0]
    raise ValueError(f'its pickle is damaged: it calls {name}')


def _pairs(pairs: Any = None) -> list[Any]:
    """Keys and values in turn, from the list of pairs that Python 2 wrote."""
    if pairs is None:
        return []
    if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise ValueError('its pickle is damaged: an ordered dict is made of what are no pairs')
    items = [part for pair in pairs for part in pair]
    pairs.clear()  # Used again and again, a long list would become any number of dicts.
    return items


def _dict(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2 or not all(isinstance(key, str) or _is_count(key) for key in items[::2]):
        raise ValueError('its pickle is damaged: a dict has a key that is no string or number')
    return dict(zip(items[::2], items[1::2], strict=True))


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> Tensor:
    whole = isinstance(storage, Storage) and isinstance(size, tuple) and isinstance(stride, tuple)
    whole = whole and len(size) == len(stride) <= LARGEST_RANK
    if not whole or not all(map(_is_count, (offset, *size, *stride))):
        raise ValueError('its pickle is damaged: a tensor is described wrongly')
    count = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if count > storage.length or (count and last >= storage.length):
        raise ValueError(
            f'a tensor of storage {storage.key!r} claims more than is there: shape {_shown(size)}, '
            f'strides {_shown(stride)} and offset {_shown(offset)}, of {storage.length} numbers'
        )
    return Tensor(storage, offset if count else 0, size, stride if count else (0,) * len(size))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError('its pickle is damaged: a name is no string')
    return value


def _shown(value: Any) -> str:
    """A plain value for a message; anything large or nested by its type."""
    parts = value if isinstance(value, tuple) else (value,)
    plain = len(parts) <= LARGEST_RANK and all(type(part) in (int, str) for part in parts)
    plain = plain and all(len(part) < 200 if isinstance(part, str) else abs(part) < 1 << 64 for part in parts)
    return ascii(value) if plain else f'a {type(value).__name__}'


def _file(root: Any, contents: Mapping[str, memoryview]) -> File:
    found, around = _state_dict(root)
    tensors = {name: value.array(contents[value.storage.key]) for name, value in found.items()}
    return File('torch', tensors, around)


def _state_dict(root: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors of the state dict in `root`, and the plain values around them."""
    if not isinstance(root, dict):
        raise ValueError(f'holds a {type(root).__name__} instead of a state dict: torch.save(model.state_dict(), ...)')
    inside = {name: tensors for name, value in root.items() if isinstance(value, dict) and (tensors := _tensors(value))}
    known = [name for name in WRAPPERS if name in inside]
    if not known and _tensors(root):
        return _tensors(root), _plain(root)
    if known or len(inside) == 1:
        chosen = (known or list(inside))[0]
        return inside[chosen], _plain(root) | _plain(root[chosen])
    if inside:
        names = ', '.join(sorted(str(name) for name in inside))
        raise ValueError(f'holds several state dicts ({names}): save the one that is meant by itself')
    raise ValueError('holds no tensors by name: torch.save(model.state_dict(), ...) writes them')


def _tensors(values: Mapping[Any, Any]) -> dict[str, Tensor]:
    return {name: value for name, value in values.items() if isinstance(value, Tensor) and isinstance(name, str)}


def _plain(values: Mapping[Any, Any]) -> dict[str, Any]:
    plain = (str, int, float, bool)
    return {name: value for name, value in values.items() if isinstance(name, str) and type(value) in plain}


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
            raise ValueError(f'{name} is {array.dtype.name}, and torch files hold {", ".join(map(str, names))}')
        stride = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
        storage = f'ctorch\n{names[array.dtype]}\n'.encode()
        identity = b'(' + value('storage') + storage + value(str(number)) + value('cpu') + value(array.size) + b'tQ'
        layout = value(0) + value(array.shape) + value(stride)
        tensor = b'ctorch._utils\n_rebuild_tensor_v2\n(' + identity + layout + b'\x89' + ordered_dict + b'tR'
        parts.append(value(name) + tensor)
    return b'\x80\2' + ordered_dict + b'(' + b''.join(parts) + b'u.'
