"""The words of the library, which speak to Python callers of arguments, in those of the command: options."""

import re

OPTIONS = {
    'calibration': '--calibration',
    'calibration_images': '--calibration-images',
    'data_dir': '--data-dir',
    'dataset': '--dataset',
    'download': '--download',
    'ema': '--ema',
    'file': '--weights',
    'float16': '--float16',
    'ignore_convention': '--ignore-convention',
    'images': '--images',
    'init': '--init',
    'init_ema': '--init-ema',
    'int8': '--int8',
    'int8_io': '--int8-io',
    'model': '--model',
    'observer': '--observer',
    'overwrite': '--overwrite',
    'qat': '--qat',
    'resume': '--resume',
    'run_dir': '--run-dir',
    'softmax': '--softmax',
    'teacher': '--teacher',
    'trained': '--trained',
    'warmup_epochs': '--warmup-epochs',
}
"""The argument that messages tell to give, to the option."""
COMMANDS = {'list_models()': '`flaxmobile list`', 'weights.list_weights()': '`flaxmobile weights list`'}
"""The call that messages tell to make, to the command."""

_TOLD = re.compile(
    '|'.join(
        [
            *map(re.escape, COMMANDS),
            r'\w\([^()]*\)',  # Any other call stays what it is, with its arguments.
            r'(?<![\w./\'"-])(?P<given>{names})=(?P<value>True|\.\.\.|\w+)'.format(names='|'.join(OPTIONS)),
            r'(?<![\w./\'"-])(?P<named>run_dir|data_dir)(?![\w./=\'"-])',
            r'(?<![\w./\'"-])(?P<changed>[a-z0-9_]+)(?= was \S[^()]* and is \S)',  # A field of a run's configuration.
        ]
    )
)


def with_options(text: str) -> str:
    """The text with `overwrite=True` as `--overwrite`, `teacher=None` as `--teacher None`, `init=...` as `--init`."""
    return _TOLD.sub(_option, text)


def _option(found: re.Match[str]) -> str:
    whole, argument, value = found[0], found['given'] or found['named'], found['value']
    if found['changed']:
        return f'--{whole.replace("_", "-")}'
    if not argument:
        return COMMANDS.get(whole, whole)
    return OPTIONS[argument] if value in (None, 'True', '...') else f'{OPTIONS[argument]} {value}'
