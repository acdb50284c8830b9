"""The pickles in torch's files, interpreted without torch.

A pickle is a program. The interpreter here knows the instructions and the names that a state dict needs, so it can
build numbers, strings, lists, dicts and tensors. Whatever else a file names becomes a `Foreign`, an empty box with that
name on it: nothing is imported and nothing is called.
"""

import io
import math
import pickletools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from flaxmobile.messages import printable

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
# What torch's own names and NumPy's make is taken for numbers, but for these.
NO_NUMBERS = ('torch.Size', 'torch.device', 'torch.Generator', 'torch.serialization._get_layout')
ARRAY_MODULES = ('numpy.core.multiarray', 'numpy._core.multiarray', 'numpy.core.numeric', 'numpy._core.numeric')
ARRAY_MAKERS = tuple(f'{module}.{name}' for module in ARRAY_MODULES for name in ('_reconstruct', '_frombuffer'))
INSTRUCTIONS = {opcode.code.encode('latin-1'): opcode for opcode in pickletools.opcodes}
CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False}
NUMBERS = {'BININT', 'BININT1', 'BININT2', 'LONG1', 'LONG4', 'BINFLOAT'}
TEXTS = {'SHORT_BINUNICODE', 'BINUNICODE', 'BINUNICODE8', 'SHORT_BINSTRING', 'BINSTRING'}
PUSHED = {*CONSTANTS, *NUMBERS, *TEXTS, 'SHORT_BINBYTES', 'BINBYTES', 'BINBYTES8', 'BYTEARRAY8'}
# How many values on the stack an instruction takes, and which take all above the mark.
COUNTED = {'EMPTY_TUPLE': 0, 'EMPTY_LIST': 0, 'EMPTY_DICT': 0, 'EMPTY_SET': 0, 'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}
COUNTED |= {'APPEND': 1, 'SETITEM': 2, 'NEWOBJ': 2, 'NEWOBJ_EX': 3}
MARKED = ('TUPLE', 'LIST', 'DICT', 'APPENDS', 'SETITEMS', 'ADDITEMS', 'FROZENSET', 'OBJ', 'INST')
LARGEST_RANK = 32
# Of a pickle: ten thousand tensors. One byte can make an object of a hundred, so this bounds the memory.
MOST_INSTRUCTIONS = 400_000


class Name(str):
    """A global that a pickle refers to and that is known; only a name here, with nothing behind it."""


class Foreign:
    """A global that is not known, or what a pickle makes by calling it: its name and what it was given, no more."""

    __slots__ = ('name', 'parts')

    def __init__(self, name: str, *parts: Any) -> None:
        self.name = name
        self.parts = list(parts)

    def makes_numbers(self) -> bool:
        """Whether it was called and what it makes may be numbers by its name."""
        return bool(self.parts) and (
            self.name in ARRAY_MAKERS or (self.name.startswith('torch.') and self.name not in NO_NUMBERS)
        )


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


class Unpickler:
    """Interprets one pickle.

    Attributes:
        storages: those it refers to, by key.
        foreign: the names that are not known, in the order in which it asks for them.
        unread: the unknown ones of them that are types of storages.
    """

    def __init__(self, plain: bool = False) -> None:
        """With `plain`, an unknown name is an error."""
        self.plain = plain
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: dict[int, Any] = {}
        self.storages: dict[str, Storage] = {}
        self.foreign: dict[str, Foreign] = {}
        self.unread: list[str] = []

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
            case 'POP_MARK':
                self.stack = self.below.pop()
            case 'DUP':
                stack.append(stack[-1])
            case 'BINPUT' | 'LONG_BINPUT':
                self.memo[argument] = stack[-1]
            case 'MEMOIZE':
                self.memo[len(self.memo)] = stack[-1]
            case 'BINGET' | 'LONG_BINGET':
                stack.append(self.memo[argument])
            case 'GLOBAL':
                stack.append(self.named(argument))
            case 'STACK_GLOBAL':
                name, module = stack.pop(), stack.pop()
                stack.append(self.named(f'{_text(module)}.{_text(name)}'))
            case 'BINPERSID':
                stack.append(self.persistent(*stack.pop()))
            case 'REDUCE':
                arguments, name = stack.pop(), stack.pop()
                stack.append(_call(name, arguments))
            case 'BUILD':
                _build(stack[-2], stack.pop())
            case _:
                self.collect(opcode, argument)
        return opcode != 'STOP'

    def collect(self, opcode: str, argument: Any) -> None:
        """Execute an instruction that takes what lies on top of the stack or above the mark."""
        if opcode in MARKED:
            items, self.stack = self.stack, self.below.pop()
        elif opcode in COUNTED:
            items = [self.stack.pop() for _ in range(COUNTED[opcode])][::-1]
        else:
            of = f' of {shown(argument)}' if argument is not None else ''
            raise ValueError(refusal(f'the pickle instruction {opcode}{of}'))
        match opcode:
            case 'EMPTY_TUPLE' | 'TUPLE1' | 'TUPLE2' | 'TUPLE3' | 'TUPLE':
                self.stack.append(tuple(items))
            case 'EMPTY_LIST' | 'LIST':
                self.stack.append(items)
            case 'EMPTY_DICT' | 'DICT':
                self.stack.append(_dict(items))
            case 'EMPTY_SET' | 'FROZENSET':
                self.stack.append(Foreign('builtins.set', *items))
            case 'NEWOBJ' | 'NEWOBJ_EX' | 'OBJ':
                self.stack.append(_new(*items))
            case 'INST':
                self.stack.append(_new(self.named(argument), *items))
            case _:
                _add(self.stack[-1], items, pairs=opcode.startswith('SETITEM'))

    def named(self, name: str) -> Name | Foreign:
        """A global by its name."""
        module, _, last = name.rpartition('.')
        if name in FUNCTIONS or (module in STORAGE_MODULES and last in STORAGES):
            return Name(name)
        if self.plain:
            raise ValueError(refusal(printable(name)))
        return self.foreign.setdefault(name, Foreign(name))

    def persistent(self, kind: Any, name: Any, *about: Any) -> Storage | Foreign:
        """What a persistent id refers to: a storage; in the old format also the class of a module, with its source."""
        if isinstance(name, Foreign) and kind == 'module':
            return name
        if isinstance(name, Foreign) and kind == 'storage':
            self.unread.append(name.name)
            return Foreign(name.name, name)
        key, _, count, *view = about if len(about) > 2 else (None,) * 3
        if not (kind == 'storage' and isinstance(name, Name) and isinstance(key, str) and _is_count(count)):
            raise ValueError('its pickle is damaged: it refers to a storage that is none')
        if name in FUNCTIONS or view not in ([], [None]):
            raise ValueError(f'storage {shown(key)} is of no known type, or a view of another')
        storage = Storage(key, STORAGES[name.rpartition('.')[2]], count)
        if self.storages.setdefault(key, storage) != storage:
            raise ValueError(f'storage {shown(key)} is described in two ways')
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


def refusal(what: str) -> str:
    """Why a file is refused whose weights cannot be built without that name or instruction."""
    return (
        f'refused: it asks for {what}. From a file flaxmobile builds tensors, lists and dicts and nothing else, and '
        'it runs nothing; write the weights alone: torch.save(model.state_dict(), ...)'
    )


def maker(values: Iterable[Any]) -> str | None:
    """The name of what would make numbers in one of the values, which are not read; None: nothing in them would."""
    seen: set[int] = set()
    for value in values:
        for part in _inside(value, seen) if isinstance(value, Foreign) else ():
            if isinstance(part, Foreign) and part.makes_numbers():
                return part.name
            if isinstance(part, Tensor | Storage):
                return value.name
    return None


def _inside(root: Any, seen: set[int]) -> Iterator[Any]:
    """`root` and all that is inside it but what was seen before, each once, however often it is shared."""
    waiting = [root]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield value
        if isinstance(value, dict):
            waiting.extend((*value.keys(), *value.values()))
        elif isinstance(value, Foreign):
            waiting.extend(value.parts)
        elif isinstance(value, list | tuple) and not isinstance(value, Tensor | Storage):
            waiting.extend(value)


def _build(target: Any, state: Any) -> None:
    """Set the inside of an object. torch gives its dicts the versions of their modules; they are not needed."""
    if isinstance(target, Foreign):
        target.parts.append(state)
    elif not isinstance(target, dict) or not isinstance(state, dict):
        raise ValueError('it sets the inside of an object, which only an ordered dict may')


def _add(target: Any, items: list[Any], pairs: bool) -> None:
    if isinstance(target, Foreign):
        target.parts.extend(items)
    elif isinstance(target, dict) and pairs:
        target.update(_dict(items))
    elif isinstance(target, list) and not pairs:
        target.extend(items)
    else:
        raise ValueError(f'its pickle is damaged: it adds to a {type(target).__name__}')


def _new(kind: Any, *parts: Any) -> Foreign:
    """An object of a class."""
    if not isinstance(kind, Name | Foreign):
        raise ValueError('its pickle is damaged: it makes an object of what is no class')
    return Foreign(kind.name if isinstance(kind, Foreign) else kind, kind, *parts)


def _call(name: Any, arguments: Any) -> Any:
    if not isinstance(name, Name | Foreign) or not isinstance(arguments, tuple):
        raise ValueError('its pickle is damaged: it calls what is no function')
    if isinstance(name, Foreign):
        return Foreign(name.name, name, *arguments)
    if name == ORDERED_DICT:
        return _dict(_pairs(*arguments))
    first = arguments[0] if arguments else None
    if name == REBUILD_TENSOR:
        return Foreign(first.name, first) if isinstance(first, Foreign) else _tensor(*arguments)
    if name == REBUILD_PARAMETER and len(arguments) == 3 and isinstance(first, Tensor | Foreign):
        return first
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
    if len(items) % 2:
        raise ValueError('its pickle is damaged: a key has no value')
    return {_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}


def _key(key: Any) -> Any:
    """A string or number as it is; any other key by its identity, for it may take endless to compare."""
    plain = type(key) in (str, float, bool, type(None)) or (type(key) is int and -(1 << 64) < key < 1 << 64)
    return key if plain else Foreign('a key', key)


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> Tensor:
    whole = isinstance(storage, Storage) and isinstance(size, tuple) and isinstance(stride, tuple)
    whole = whole and len(size) == len(stride) <= LARGEST_RANK
    whole = whole and not any(isinstance(value, Foreign) for value in (requires_grad, hooks, metadata))
    if not whole or not all(map(_is_count, (offset, *size, *stride))):
        raise ValueError('its pickle is damaged: a tensor is described wrongly')
    count = math.prod(size)
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if count > storage.length or (count and last >= storage.length):
        raise ValueError(
            f'a tensor of storage {shown(storage.key)} claims more than is there: shape {shown(size)}, '
            f'strides {shown(stride)} and offset {shown(offset)}, of {storage.length} numbers'
        )
    return Tensor(storage, offset if count else 0, size, stride if count else (0,) * len(size))


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError('its pickle is damaged: a name is no string')
    return value


def shown(value: Any) -> str:
    """A plain value for a message; anything large or nested by its type."""
    parts = value if isinstance(value, tuple) else (value,)
    plain = len(parts) <= LARGEST_RANK and all(type(part) in (int, str) for part in parts)
    plain = plain and all(len(part) < 200 if isinstance(part, str) else abs(part) < 1 << 64 for part in parts)
    return ascii(value) if plain else f'a {type(value).__name__}'
