"""Which operations of a LiteRT graph compute in int8, and which stay float32."""

from collections.abc import Collection, Mapping, Sequence

from flaxmobile.export.litert.graph import Operation
from flaxmobile.export.ranges import Range, affine, can_be_added

FLOAT_KINDS = ('HARD_SWISH', 'SOFTMAX', 'BATCH_MATMUL')
"""Those that XNNPACK does not compute in int8: left so, they would cut its graph into pieces."""
FOLLOWING = ('ADD', 'SUB', 'MUL', 'DIV')
"""Those that stay float32 between operations that do: int8 would cost two conversions, and digits."""
SUMS = ('ADD', 'SUB')
MOVED = ('QUANTIZE', 'DEQUANTIZE')
"""What goes between int8 and float32, and computes nothing."""


def float_operations(graph: Sequence[Operation], ranges: Mapping[str, Range]) -> list[Operation]:
    """The operations of a float32 graph that stay so.

    - those of `FLOAT_KINDS`;
    - sums whose terms' ranges are so far apart that XNNPACK does not add them in int8;
    - elementwise ones all of whose operands are float32 anyhow, as the factor of attention and the normalisation of
      pixels.

    Args:
        graph: in the order in which it runs.
        ranges: of the values of each tensor, and of the constants that are added.
    """
    left: list[Operation] = []
    made_in_float: set[str] = set()
    for operation in graph:
        operands = [tensor.name for tensor in operation.inputs if not tensor.constant]
        follows = operation.kind in FOLLOWING and bool(operands) and made_in_float.issuperset(operands)
        if operation.kind in FLOAT_KINDS or follows or _too_far_apart(operation, ranges):
            left.append(operation)
        elif operation.kind != 'CAST':
            continue
        made_in_float.update(tensor.name for tensor in operation.outputs)
    return left


def int8_share(graph: Sequence[Operation], moved: Collection[str] = MOVED) -> float:
    """The share of a graph's operations that answer int8, without those that only convert."""
    computing = [operation for operation in graph if operation.kind not in moved]
    return sum(operation.outputs[0].type == 'INT8' for operation in computing) / max(1, len(computing))


def _too_far_apart(operation: Operation, ranges: Mapping[str, Range]) -> bool:
    names = [tensor.name for tensor in (*operation.outputs, *operation.inputs)]
    if operation.kind not in SUMS or not ranges.keys() >= set(names):  # Whole numbers are added too.
        return False
    scale, *terms = (affine(*ranges[name])[0] for name in names)
    return not can_be_added(terms, scale)
