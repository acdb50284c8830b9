"""The graph of a LiteRT file: its operations with their tensors."""

import dataclasses

from flaxmobile.export.extras import needed


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of the graph.

    Attributes:
        name: of the tensor.
        type: as LiteRT's schema calls it: 'FLOAT32', 'INT8'.
        constant: whether its values stand in the file.
    """

    name: str
    type: str
    constant: bool


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation of the graph, in the order in which they run.

    Attributes:
        kind: as LiteRT's schema calls it: 'CONV_2D'.
        inputs: its operands, without those that are left out.
        outputs: its results.
    """

    kind: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def read_graph(content: bytes) -> list[Operation]:
    """The operations of a LiteRT file's first graph.

    Raises:
        ModuleNotFoundError: litert-converter is not installed.
    """
    schema = needed('litert_converter.schema_py_generated', 'LiteRT', 'litert')
    model = schema.Model.GetRootAs(content, 0)
    kinds, types = (
        {number: name for name, number in vars(names).items() if isinstance(number, int)}
        for names in (schema.BuiltinOperator, schema.TensorType)
    )
    graph = model.Subgraphs(0)
    tensors = []
    for number in range(graph.TensorsLength()):
        tensor = graph.Tensors(number)
        buffer = model.Buffers(tensor.Buffer())
        constant = buffer.DataLength() > 0 or buffer.Offset() > 1  # The quantiser's lie behind the flatbuffer.
        tensors.append(Tensor(tensor.Name().decode(), types[tensor.Type()], constant))
    found = []
    for number in range(graph.OperatorsLength()):
        operation = graph.Operators(number)
        inputs = [operation.Inputs(place) for place in range(operation.InputsLength())]
        outputs = [operation.Outputs(place) for place in range(operation.OutputsLength())]
        found.append(
            Operation(
                kinds[model.OperatorCodes(operation.OpcodeIndex()).BuiltinCode()],
                tuple(tensors[index] for index in inputs if index >= 0),
                tuple(tensors[index] for index in outputs),
            )
        )
    return found
