"""From a program to the bytes of a LiteRT file, by the packages litert-converter and litert-quantizer."""

import contextlib
import io
import re
from collections.abc import Mapping
from typing import Any

import jax

from flaxmobile.export.extras import distribution_of, needed
from flaxmobile.export.graph import layer_of
from flaxmobile.export.litert.xnnpack import for_xnnpack
from flaxmobile.export.program import Program
from flaxmobile.messages import printable

SIGNATURE = 'serving_default'
"""The name of the file's only signature, which readers take where none is named."""
INPUT = 'image'
"""The name of the signature's input."""
FLOAT16_OPERATIONS = ('CONV_2D', 'DEPTHWISE_CONV_2D', 'FULLY_CONNECTED')
"""Those whose weights become float16."""


def versions(*, quantized: bool) -> dict[str, str]:
    """What makes the file, and its version, as a description's `made` has it; `quantized`: float16 or int8."""
    packages = ('litert-converter', 'litert-quantizer') if quantized else ('litert-converter',)
    modules = {package: package.replace('-', '_') for package in packages}
    for module in modules.values():
        _package(module)
    return {package: distribution_of(module, package)[1] for package, module in modules.items()}


def convert(program: Program, metadata: Mapping[str, bytes]) -> bytes:
    """A LiteRT file of a program, float32, or int8 of a network trained for it.

    Args:
        program: what to convert.
        metadata: buffers that the file holds besides, by name.

    Raises:
        ModuleNotFoundError: litert-converter is not installed.
        ValueError: the program has an operation that LiteRT has not.
    """
    api = _package('litert_converter.converter_api_ext')
    ir, passmanager = _package('litert_converter.mlir.ir'), _package('litert_converter.mlir.passmanager')
    # Of a marked network each operation lies between marks, and new ones would have none.
    function = program.function if program.marked else for_xnnpack(program.function)
    exported = jax.export.export(jax.jit(function), platforms=['cpu'])(program.image)
    context = ir.Context()
    api.prepare_mlir_context(context)
    with context:
        module = ir.Module.parse(_with_short_names(exported.mlir_module()))
        api.set_signature(module.operation, SIGNATURE, [INPUT], list(program.outputs))
        try:
            config = api.ConvertToTFLConfig()
            config.strict_qdq_mode = program.marked  # Int8 where all around is marked, and there alone.
            api.run_convert_to_tfl_passes(module, passmanager.PassManager(), config)
            # The exporter writes a buffer for each entry, where re-packing the file would lose its alignment.
            held = {name: ir.StringAttr.get(value) for name, value in metadata.items()}
            module.operation.attributes['tfl.metadata'] = ir.DictAttr.get(held)
            return bytes(api.export_flatbuffer_to_bytes(module.operation))
        except (ir.MLIRError, RuntimeError, ValueError) as error:
            raise ValueError(f'LiteRT cannot hold this model: {printable(error)}') from error


def _with_short_names(text: str) -> str:
    """A traced program whose operations are called by layer, `block_03/project/add`: LiteRT's tensors take the names.

    JAX puts the network's class and its methods in front, 100 letters a tensor.
    """
    return re.sub(r'loc\("jit\([^"/]*\)/([^"]*)"', lambda found: f'loc("{layer_of(found[1])}"', text)


def to_float16(content: bytes) -> bytes:
    """A LiteRT file with the weights of convolutions and dense layers as float16, from which it computes in float32.

    Raises:
        ModuleNotFoundError: litert-quantizer is not installed.
    """
    quantizer, manager = _package('litert_quantizer.quantizer'), _package('litert_quantizer.recipe_manager')
    types, algorithms = _package('litert_quantizer.qtyping'), _package('litert_quantizer.algorithm_manager')
    recipe = manager.RecipeManager()
    for name in FLOAT16_OPERATIONS:
        operation, algorithm = types.TFLOperationName(name), algorithms.AlgorithmName.FLOAT_CASTING
        recipe.add_weight_only_config('.*', operation, num_bits=16, algorithm_key=algorithm)
    made = quantizer.Quantizer(bytearray(content), recipe.get_quantization_recipe())
    with contextlib.redirect_stderr(io.StringIO()):  # It draws a bar of its progress whatever it is told.
        return bytes(made.quantize(enable_progress_bar=False, enable_progress_report=False).quantized_model)


def _package(module: str) -> Any:
    return needed(module, 'LiteRT', 'litert')
