"""A LiteRT file's operations, and the file in its runtime."""

import collections
from typing import Any

import numpy as np

from flaxmobile.export.checks import Runtime
from flaxmobile.export.extras import needed
from flaxmobile.export.litert.conversion import INPUT, SIGNATURE
from flaxmobile.messages import listing

NOT_RUN = ('STABLEHLO_', 'CUSTOM', 'DELEGATE', 'PLACEHOLDER')
"""How the names begin of what the converter leaves where LiteRT has nothing of its own."""


def operations(content: bytes) -> dict[str, int]:
    """How often each operation is in a LiteRT file's graph, by the names of LiteRT's schema.

    Raises:
        ValueError: there is an operation in it that LiteRT does not run.
    """
    schema = needed('litert_converter.schema_py_generated', 'LiteRT', 'litert')
    model = schema.Model.GetRootAs(content, 0)
    names = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    graph = model.Subgraphs(0)
    codes = (graph.Operators(number).OpcodeIndex() for number in range(graph.OperatorsLength()))
    found = collections.Counter(names[model.OperatorCodes(code).BuiltinCode()] for code in codes)
    if foreign := sorted(name for name in found if name.startswith(NOT_RUN)):
        raise ValueError(f'LiteRT has no operation for {listing(foreign)}, which the network needs')
    return dict(found)


def run(content: bytes, images: np.ndarray) -> tuple[np.ndarray, int | None]:
    """What a LiteRT file answers to each image, and how many pieces of its graph XNNPACK takes."""
    interpreter = _interpreter(content)
    runner = interpreter.get_signature_runner(SIGNATURE)
    (output,) = runner.get_output_details()
    answers = [runner(**{INPUT: image[None]})[output] for image in images]
    delegated = sum(operation['op_name'] == 'DELEGATE' for operation in interpreter._get_ops_details())
    return np.concatenate(answers), delegated


def left_out(content: bytes) -> dict[str, int]:
    """How often each operation is in a LiteRT file's graph that XNNPACK does not take, whatever pieces there are.

    The `CAST` of uint8 images is not counted: XNNPACK takes none, and it is one step over the image.
    """
    interpreter = _interpreter(content)
    images = {each['index'] for each in interpreter.get_input_details()}
    nodes = interpreter._get_ops_details()
    makers = {output: node for node in nodes if node['op_name'] != 'DELEGATE' for output in node['outputs']}
    taken: set[int] = set()
    for piece in (node for node in nodes if node['op_name'] == 'DELEGATE'):
        given, wanted = set(piece['inputs']), list(piece['outputs'])
        while wanted:
            node = makers.get(tensor := wanted.pop())
            if tensor not in given and node is not None and node['index'] not in taken:
                taken.add(node['index'])
                wanted.extend(node['inputs'])
    others = [node for node in makers.values() if node['index'] not in taken]
    return dict(
        collections.Counter(
            node['op_name'] for node in others if node['op_name'] != 'CAST' or not images.intersection(node['inputs'])
        )
    )


def _interpreter(content: bytes) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    return interpreter


LITERT = Runtime('ai-edge-litert', 'ai_edge_litert', run, left_out)
