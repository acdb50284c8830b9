from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from rich.console import Console

import flaxmobile
from benchmarks.random_variables import random_variables
from flaxmobile.analysis import Layer, count_layers
from flaxmobile.analysis.latency import in_training
from flaxmobile.analysis.trace import LayerTable, LayerTime, Program, by_layer, durations_of, op_names, time_layers
from flaxmobile.data import Preprocessing
from flaxmobile.inspection.rehearsal import random_batch, rehearse, repeated
from flaxmobile.models.inference import inference_function
from flaxmobile.training.compiled import compile_step
from flaxmobile.weights import Model

# A network of three layers of which XLA made a loop over groups of images, cut down from a real program's text.
TEXT = """
%fused_computation (param_0.1: f32[256,2], param_1.1: f32[256,2]) -> f32[256,2] {
  %param_0.1 = f32[256,2]{1,0} parameter(0)
  %param_1.1 = f32[256,2]{1,0} parameter(1)
  %bitcast.1 = f32[256,2]{1,0} bitcast(%param_1.1), metadata={op_name="jit(f)/while/body/closed_call/Net/Net.features/block_00/expand/conv/dot_general"}
  ROOT %add.1 = f32[256,2]{1,0} add(%bitcast.1, %param_0.1), metadata={op_name="jit(f)/while/body/closed_call/Net/Net.features/block_00/add"}
}
%body (arg: (s32[], f32[8,8,8,2])) -> (s32[], f32[8,8,8,2]) {
  %slice_fusion = f32[4,8,8,2]{3,2,1,0} fusion(%p), kind=kLoop, calls=%fused, metadata={op_name="jit(f)/while/body/closed_call/Net/Net.features/stem/conv/pad" stack_frame_id=4}, backend_config={"outer":["2"]}
  %dot.4 = f32[256,2]{1,0} dot(%slice_fusion, %constant.2), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %bitcast_fusion = f32[256,2]{1,0} fusion(%dot.4), kind=kLoop, calls=%fused.2, metadata={op_name="jit(f)/while/body/closed_call/Net/Net.features/stem/jit(relu6)/min"}
  %dot.5 = f32[256,2]{1,0} dot(%bitcast_fusion, %constant.3), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %add.2 = f32[256,2]{1,0} fusion(%bitcast_fusion, %dot.5), kind=kLoop, calls=%fused_computation, metadata={op_name="jit(f)/while/body/closed_call/Net/Net.features/block_00/add"}
  %reduce.1 = f32[256]{0} reduce(%add.2, %zero), metadata={op_name="jit(f)/while/body/closed_call/Net/Net.features/block_00/reduce"}
}
ENTRY %main (images: f32[8,8,8,2]) -> f32[8,3] {
  %while.5 = (s32[], f32[8,8,8,2]{3,2,1,0}) while(%tuple), condition=%cond, body=%body, metadata={op_name="jit(f)/while"}
  ROOT %dot.6 = f32[8,3]{1,0} dot(%gte, %constant.4), lhs_contracting_dims={1}, metadata={op_name="jit(f)/Net/block_00/reduce/conv/dot_general"}
}
"""  # noqa: E501
ROWS = tuple(
    Layer(name, 'pointwise', (1, 1), (1, 1), (8, 8, 2), 4, 1000)
    for name in ('stem', 'block_00/expand', 'block_00/reduce')
)


def event(duration: float, **stats: object) -> SimpleNamespace:
    return SimpleNamespace(duration_ns=duration, stats=list(stats.items()))


def test_instructions_have_the_names_of_what_they_were_traced_from() -> None:
    names = op_names(TEXT)
    assert names['slice_fusion'].endswith('/stem/conv/pad')
    assert names['dot.6'] == 'jit(f)/Net/block_00/reduce/conv/dot_general'
    # Neither product has a name of its own: where the first is used has, and what of a fusion uses the second.
    assert names['dot.4'].endswith('/stem/jit(relu6)/min')
    assert names['dot.5'].endswith('/block_00/expand/conv/dot_general')
    assert 'while.5' not in names


def test_an_instruction_that_nothing_names_has_no_name() -> None:
    assert op_names('  %copy.3 = s32[] copy(%constant.1)\n  ROOT %add.1 = s32[] add(%copy.3, %one)') == {
        'copy.3': '',
        'add.1': '',
    }


def test_events_add_up_by_instruction() -> None:
    events = [
        event(30.0, hlo_op='dot.4', run_id=1),
        event(99.0, python='call'),
        event(12.0, hlo_op='dot.4', run_id=2),
        event(5.0, hlo_op='add.2'),
    ]
    assert durations_of(events) == {'dot.4': 42.0, 'add.2': 5.0}


def test_times_go_to_layers_in_network_order() -> None:
    durations = {'dot.6': 1.0, 'reduce.1': 0.25, 'add.2': 0.5, 'dot.5': 2.0, 'dot.4': 4.0, 'slice_fusion': 8.0}
    times = by_layer({**durations, 'while.5': 100.0}, op_names(TEXT), ROWS)
    # The operation `reduce` in block_00 is not the layer `block_00/reduce`, and the sum in the block is no layer's.
    assert times == [LayerTime(ROWS[0], 12.0), LayerTime(ROWS[1], 2.0), LayerTime(ROWS[2], 1.0), LayerTime(None, 0.75)]


def test_the_table_says_rates_and_shares() -> None:
    console = Console(width=140)
    with console.capture() as printed:
        console.print(
            LayerTable('inference', [LayerTime(ROWS[0], 0.03), LayerTime(ROWS[1], 0.0), LayerTime(None, 0.01)], 6)
        )
    lines = [line.split() for line in printed.get().splitlines()]
    # 6 images of 1,000 multiply-adds in 0.03 ms: 0.2 G a second.
    assert lines[1] == ['stem', 'pointwise', '8x8x2', '6,000', '0.030', '75.0', '%', '0.2']
    assert lines[2] == ['block_00/expand', 'pointwise', '8x8x2', '6,000', '0.000', '0.0', '%']
    assert lines[3] == ['no', 'layer', '0.010', '25.0', '%']
    assert lines[4] == ['total', '12,000', '0.040', '100', '%']


def assert_has_all(times: list[LayerTime], rows: tuple[Layer, ...]) -> None:
    assert [time.layer for time in times] == [*rows, None]
    work = sum(row.multiply_adds for row in rows)
    large = [time for time in times[:-1] if time.layer.multiply_adds > work / 100]  # A small one may be merged away.
    assert [time.layer.name for time in large if time.milliseconds <= 0] == []
    assert times[-1].milliseconds < sum(time.milliseconds for time in times) / 2


@pytest.mark.parametrize(
    ('name', 'batch_size', 'image_size'),
    [('mobilenetv3_small_050', 1, 64), pytest.param('mobilenetv1_025', 5, 224, marks=pytest.mark.slow)],
)
def test_a_traced_network_has_the_layers_that_are_counted(name: str, batch_size: int, image_size: int) -> None:
    model = flaxmobile.create_model(name, num_classes=4)
    images = jnp.ones((batch_size, image_size, image_size, 3))
    variables = random_variables(model, images.shape)
    rows = count_layers(model, image_size)
    compiled = inference_function(model, variables).lower(images).compile()
    program = Program(lambda: jax.block_until_ready(compiled(images)), compiled.as_text())
    assert_has_all(time_layers(program, rows, 2), rows)


@pytest.mark.slow
def test_a_traced_training_step_has_them_too() -> None:
    model = flaxmobile.create_model('mobilenetv1_025', num_classes=4)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.ones((1, 64, 64, 3)))
    loaded = Model(model, variables, Preprocessing(64))
    step, state, batch = rehearse(loaded, random_batch(loaded, 8))
    compiled = compile_step(step, state, batch)
    rows = in_training(count_layers(model, 64))
    assert_has_all(time_layers(Program(repeated(compiled, state, batch), compiled.as_text()), rows, 2), rows)
