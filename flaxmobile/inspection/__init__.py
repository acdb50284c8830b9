"""Looks at a run without training: dry run, preview, speed of the input, a training step by itself."""

from typing import TYPE_CHECKING

from flaxmobile.lazy import lazy_names

if TYPE_CHECKING:
    from flaxmobile.inspection.dry_run import plan_run
    from flaxmobile.inspection.input_speed import measure_input
    from flaxmobile.inspection.preview import write_preview
    from flaxmobile.inspection.rehearsal import planned_step, rehearse

__all__ = ['measure_input', 'plan_run', 'planned_step', 'rehearse', 'write_preview']

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        '.dry_run': ('plan_run',),
        '.input_speed': ('measure_input',),
        '.preview': ('write_preview',),
        '.rehearsal': ('planned_step', 'rehearse'),
    },
)
