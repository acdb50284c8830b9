"""The command as a whole: which subcommand the words ask for, and what becomes of its errors."""

import errno
import functools
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

import flaxmobile
from flaxmobile.cli.exporting import export, quantize_report, web
from flaxmobile.cli.models import evaluate, predict, probe
from flaxmobile.cli.networks import benchmark, list_models, summary
from flaxmobile.cli.options import with_options
from flaxmobile.cli.refusals import refusals
from flaxmobile.cli.training import benchmark_input, compile_step, preview, train
from flaxmobile.cli.weights import convert, list_weights
from flaxmobile.compilation import keep_programs
from flaxmobile.memory import use_huge_pages
from flaxmobile.messages import printable, unknown
from flaxmobile.training.config import TrainConfig, list_configs, load_config
from flaxmobile.weights.download import cache_folder

_PYTHONS_FORMAT = warnings.formatwarning
LONGEST_MESSAGE = 2_000
"""Characters of an error or a warning that are printed at most."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit: 0; 1 for an unreadable image; 2 for wrong input; 128 + n for signal n.

    Without `arguments` they are the process's own, and so is the process: it keeps compiled programs on disk, and where
    it computes for long it begins anew with huge pages.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = '--debug' in words
    words = [word for word in words if word != '--debug']
    if words[:1] in (['--version'], ['-V']):
        print(f'flaxmobile {flaxmobile.__version__}')
        raise SystemExit(0)
    if arguments is None:
        warnings.formatwarning = _format_warning
        if words[:1] != ['compile']:  # A program for a machine that is not here cannot be read back.
            keep_programs(cache_folder() / 'xla')
        if words[:1] in (['train'], ['evaluate'], ['benchmark']) and not _asks_for_help(words):
            use_huge_pages()
        if words[:1] == ['train']:  # A run may end at any moment, and libraries it imports swallow KeyboardInterrupt.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        with _with_others(words, debug):
            raise SystemExit(_run(words))
    except BrokenPipeError:  # Whoever read the output has enough of it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except Exception as error:
        if debug or not _is_for_people(error):
            raise
        print(f'flaxmobile: {_message(error)}', file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _format_warning(message: Warning | str, category: type[Warning], *place: Any, **_: Any) -> str:
    """What a warning for people says, without the line of code that says it."""
    words = printable(with_options(str(message)), LONGEST_MESSAGE)
    return f'{words}\n' if issubclass(category, UserWarning) else _PYTHONS_FORMAT(words, category, *place)


def _asks_for_help(words: Sequence[str]) -> bool:
    return not {'--help', '-h'}.isdisjoint(words)


def _is_for_people(error: BaseException) -> bool:
    """Whether its message is meant for who gave the command."""
    return isinstance(error, ValueError | TypeError | OSError | ArithmeticError | ImportError) or _is_of_memory(error)


def _is_of_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or str(error).startswith('RESOURCE_EXHAUSTED')


def _told(error: BaseException, debug: bool) -> tuple[int, str]:
    """The exit status for what a command raised, and what is printed."""
    if isinstance(error, KeyboardInterrupt):
        return 130, 'stopped'
    if _is_for_people(error) and not debug:
        return 2, f'flaxmobile: {_message(error)}'
    return 1, ''.join(traceback.format_exception(error))


def _with_others(words: Sequence[str], debug: bool) -> AbstractContextManager[None]:
    """What makes this process one of several where a launcher started several, for commands that share their work."""
    if words[:1] not in (['train'], ['evaluate']) or _asks_for_help(words):
        return nullcontext()
    from flaxmobile.parallel.processes import joined

    told, training = functools.partial(_told, debug=debug), words[0] == 'train'
    advice = '; start all processes again with --resume, to go on from the last checkpoint' if training else ''
    return joined(told, advice, stoppable=training)


def _run(words: list[str]) -> int:
    configuration = _configuration(words)
    if words[:2] == ['benchmark', 'input']:
        status: int = tyro.cli(benchmark_input, prog='flaxmobile benchmark input', args=words[2:])
        return status
    commands: dict[str, Callable[..., int]] = {
        **{name: functools.partial(command, configuration=configuration) for name, command in _CONFIGURED.items()},
        'evaluate': evaluate,
        'predict': predict,
        'probe': probe,
        'list': list_models,
        'weights': list_weights,
        'convert': convert,
        'export': export,
        'web': web,
        'quantize-report': quantize_report,
        'summary': summary,
        'benchmark': benchmark,
    }
    about = 'The MobileNet family for JAX. `flaxmobile COMMAND --help` says more; --version gives the version.'
    with refusals():
        if words and words[0] in commands:  # Its own parser alone, so that a mistake is told of its options alone.
            _forget_earlier_calls()
            named: int = tyro.cli(commands[words[0]], prog=f'flaxmobile {words[0]}', args=words[1:])
            return named
        if words and not words[0].startswith('-'):
            raise ValueError(unknown('command', words[0], commands))
        return tyro.extras.subcommand_cli_from_dict(commands, prog='flaxmobile', description=about, args=words)


def _forget_earlier_calls() -> None:
    """Of tyro 0.9.17, which keeps the options that it did not know for the next parser of a subcommand."""
    formatter = sys.modules.get('tyro._argparse_formatter')
    getattr(formatter, 'global_unrecognized_arg_and_prog', []).clear()


_CONFIGURED: dict[str, Callable[..., int]] = {'train': train, 'preview': preview, 'compile': compile_step}


def _configuration(words: Sequence[str]) -> TrainConfig:
    """What the options of a command that takes a config start from: the config named first."""
    if not words or words[0] not in _CONFIGURED or _asks_for_help(words[1:2]):
        return TrainConfig(model='mobilenetv2_100', dataset='imagenet2012')
    if len(words) < 2 or words[1].startswith('-'):
        raise ValueError(f'flaxmobile {words[0]} needs a CONFIG first: {", ".join(list_configs())}, or a Python file')
    config = load_config(words[1])
    if words[0] != 'train' or not any(word.split('=')[0] == '--init' for word in words):
        return config
    from flaxmobile.runs.start import NETWORK, follow

    # A first reading, for what the weights say: the second one puts the user's own options on top of that.
    @functools.wraps(_CONFIGURED[words[0]])
    def read(configuration: TrainConfig, run_dir: Path | None = None, resume: bool = False, **_: Any) -> TrainConfig:
        folder = run_dir or Path('runs') / Path(words[1]).stem
        if not configuration.init:
            return config
        said = {
            name: getattr(configuration, name) for name in ('model', *NETWORK, 'init', 'init_ema', 'ignore_convention')
        }
        followed = follow(replace(config, **said), configuration.init, folder if resume else None)
        return followed.for_int8(configuration.init) if configuration.quantization.qat else followed

    # What the recipe of quantisation-aware training replaces of the config is not held against it.
    first = config.for_int8(words[1]) if '--qat' in words else config
    with refusals():
        return tyro.cli(functools.partial(read, configuration=first), prog=f'flaxmobile {words[0]}', args=words[1:])


def _message(error: BaseException) -> str:
    """One line for people: whatever stands in it, from a file or a path, cannot act on the terminal."""
    return printable(with_options(_words(error)), LONGEST_MESSAGE)


def _words(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        reasons = {errno.ENOSPC: 'no space is left on the disk', errno.EFBIG: 'a limit on the size of files is reached'}
        what = f'{error.filename} was not written' if error.filename else error.strerror
        return f'{reasons.get(error.errno, "the disk quota is used up")}: {what}; what was there before is untouched'
    if _is_of_memory(error):
        return f'there is not enough memory; a smaller batch or image size needs less ({error})'
    return str(error) or type(error).__name__
