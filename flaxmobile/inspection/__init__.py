"""What looks at a run and trains nothing: dry run, preview, input speed, a step by itself."""

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
