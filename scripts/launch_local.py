"""Run a command as several processes on this machine, which JAX joins into one program.

    python scripts/launch_local.py 2 flaxmobile train fashion_mnist_mini --run-dir runs/two

Each process sees the GPU of its own number, or the CPU. (One process alone uses all GPUs of a machine: several are for
trying out what many hosts will do.) Lines of output begin with the number of their process. Ctrl-C and SIGTERM go to
all of them. When one fails, the others get a while to say what they know of it and are then ended; the exit status is
that of the first to fail, 128 + n where signal n ended it.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import IO

GRACE = 15
"""Seconds that the others have to end by themselves once one has failed."""
ANSWER = 10
"""Seconds between asking a process to end and killing it."""


def start(
    count: int, command: Sequence[str], environment: Mapping[str, str] = MappingProxyType({})
) -> list[subprocess.Popen]:
    """Start `command` in `count` processes that JAX will join, with what `environment` adds to ours."""
    with socket.socket() as free:
        free.bind(('localhost', 0))
        address = f'localhost:{free.getsockname()[1]}'
    processes = []
    for number in range(count):
        place = {
            'JAX_COORDINATOR_ADDRESS': address,
            'JAX_NUM_PROCESSES': str(count),
            'JAX_PROCESS_ID': str(number),
            'JAX_LOCAL_DEVICE_IDS': str(number),
            'PYTHONUNBUFFERED': '1',
        }
        process = subprocess.Popen(
            command,
            env=os.environ | dict(environment) | place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors='replace',
            start_new_session=True,  # A terminal's Ctrl-C reaches them once, through us.
        )
        processes.append(process)
    return processes


def launch(count: int, command: Sequence[str]) -> int:
    """Run `command` in `count` processes and return the exit status for all of them."""
    processes = start(count, command)
    forward(processes)
    readers = [reader for number, process in enumerate(processes) for reader in prefixed(number, process)]
    status = wait(processes)
    for reader in readers:
        reader.join(timeout=ANSWER)
    return status


def forward(processes: Sequence[subprocess.Popen]) -> None:
    """Hand SIGINT and SIGTERM on to the processes that still run."""

    def hand_on(number: int, frame: object) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hand_on)


def prefixed(number: int, process: subprocess.Popen) -> list[threading.Thread]:
    """Threads that copy what a process prints, with its number before each line."""

    def copy(source: IO[str], target: IO[str]) -> None:
        for line in source:
            target.write(f'[{number}] {line}')
            target.flush()

    readers = []
    for source, target in ((process.stdout, sys.stdout), (process.stderr, sys.stderr)):
        readers.append(threading.Thread(target=copy, args=(source, target), daemon=True))
        readers[-1].start()
    return readers


def wait(processes: Sequence[subprocess.Popen]) -> int:
    """Wait for all, end the others once one has failed, and give the status of the first that failed."""
    while True:
        running = any(process.poll() is None for process in processes)
        failed = next((number for number, process in enumerate(processes) if process.poll()), None)
        if failed is not None:
            break
        if not running:
            return 0
        time.sleep(0.1)
    say(f'process {failed} ended with exit status {status_of(processes[failed])}')
    deadline = time.monotonic() + GRACE
    for action in (signal.SIGTERM, signal.SIGKILL):
        while time.monotonic() < deadline and any(process.poll() is None for process in processes):
            time.sleep(0.1)
        for number, process in enumerate(processes):
            if process.poll() is None:
                say(f'process {number} still runs: {action.name}')
                process.send_signal(action)
        deadline = time.monotonic() + ANSWER
    return status_of(processes[failed])


def status_of(process: subprocess.Popen) -> int:
    """The exit status as a shell counts it."""
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def say(text: str) -> None:
    """Print a line of our own."""
    print(f'[launch_local] {text}', file=sys.stderr, flush=True)


def main() -> None:
    """Read the command line and exit with the status for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('processes', type=int, help='how many')
    parser.add_argument('command', nargs=argparse.REMAINDER, help='what each of them runs')
    given = parser.parse_args()
    if given.processes < 1 or not given.command:
        parser.error('say how many processes, 1 or more, and the command: launch_local.py 2 flaxmobile train ...')
    try:
        raise SystemExit(launch(given.processes, given.command))
    except FileNotFoundError as error:
        parser.error(f'there is no command {error.filename}')


if __name__ == '__main__':
    main()
