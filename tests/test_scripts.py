"""The launchers, as far as a machine without clusters can try them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from flaxmobile.training.config import load_config

SCRIPTS = Path(__file__).parents[1] / 'scripts'
LAUNCH = [sys.executable, str(SCRIPTS / 'launch_local.py')]


def executable(path: Path, text: str) -> None:
    path.write_text(f'#!/usr/bin/env bash\n{text}\n')
    path.chmod(0o755)


def shell(script: str, *words: str, path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one of the scripts with the commands in `path` before all others."""
    added = {'PATH': f'{path}{os.pathsep}{os.environ["PATH"]}'} | environment
    return subprocess.run(
        ['bash', str(SCRIPTS / script), *words], env=os.environ | added, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize('script', ['slurm.sh', 'tpu_pod.sh'])
def test_without_words_a_script_says_how_to_use_it(script: str, tmp_path: Path) -> None:
    done = shell(script, path=tmp_path)
    assert done.returncode == 2
    assert 'train imagenet_mobilenetv3_large' in done.stdout


def test_output_has_the_number_of_its_process() -> None:
    code = 'import os, sys; print("out", os.environ["JAX_PROCESS_ID"]); print("err", file=sys.stderr)'
    done = subprocess.run([*LAUNCH, '3', sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == ['[0] out 0', '[1] out 1', '[2] out 2']
    assert sorted(done.stderr.splitlines()) == ['[0] err', '[1] err', '[2] err']


@pytest.mark.parametrize(('end', 'status'), [('raise SystemExit(7)', 7), ('os.kill(os.getpid(), 9)', 137)])
def test_the_failure_of_one_is_that_of_all(end: str, status: int) -> None:
    code = f'import os, time\nif os.environ["JAX_PROCESS_ID"] == "1": {end}\ntime.sleep(2)\nprint("done")'
    done = subprocess.run([*LAUNCH, '2', sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert done.returncode == status
    assert f'process 1 ended with exit status {status}' in done.stderr
    assert done.stdout == '[0] done\n'


def test_one_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts import launch_local

    monkeypatch.setattr(launch_local, 'GRACE', 0.2)
    monkeypatch.setattr(launch_local, 'ANSWER', 0.2)
    code = (
        'import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
        'if os.environ["JAX_PROCESS_ID"] == "1": raise SystemExit(3)\ntime.sleep(60)'
    )
    processes = launch_local.start(2, [sys.executable, '-c', code])
    assert launch_local.wait(processes) == 3
    assert processes[0].wait(timeout=5) == -signal.SIGKILL
    for process in processes:
        process.communicate()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_every_process_once(number: signal.Signals) -> None:
    code = (
        'import signal, time\nheard = []\n'
        f'signal.signal({int(number)}, lambda *_: heard.append(1))\nprint("ready", flush=True)\n'
        'while not heard: time.sleep(0.05)\ntime.sleep(0.5)\nprint(len(heard))'
    )
    running = subprocess.Popen([*LAUNCH, '2', sys.executable, '-c', code], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert {running.stdout.readline(), running.stdout.readline()} == {'[0] ready\n', '[1] ready\n'}
    time.sleep(0.2)
    running.send_signal(number)
    assert sorted(running.stdout.read().splitlines()) == ['[0] 1', '[1] 1']
    assert running.wait(timeout=30) == 0


@pytest.mark.parametrize(('status', 'restart'), [(0, 0), (143, 0), (75, 2), (2, 0)])
def test_a_slurm_job_goes_on_after_preemption(status: int, restart: int, tmp_path: Path) -> None:
    executable(tmp_path / 'srun', f'printf "<%s>" "$@"; exit {status}')
    executable(tmp_path / 'scontrol', 'echo; echo "scontrol $*"')
    words = ('train', 'cifar10', '--run-dir', 'a b', '--overwrite')
    done = shell('slurm.sh', *words, path=tmp_path, SLURM_JOB_ID='42', SLURM_RESTART_COUNT=str(restart))
    assert done.returncode == status
    run, *queued = done.stdout.splitlines()
    last = '<--resume>' if restart else '<--overwrite>'
    assert run == f'<--kill-on-bad-exit=0><flaxmobile><train><cifar10><--run-dir><a b>{last}'
    assert queued == (['scontrol requeue 42'] if status in (143, 75) else [])


def test_a_tpu_pod_gets_the_code_and_the_command(tmp_path: Path) -> None:
    """With a `gcloud` that runs here what it is to run on the hosts, and a `uv` that installs nothing."""
    bin_folder, host = tmp_path / 'bin', tmp_path / 'host'
    for folder in (bin_folder, host / '.flaxmobile' / 'bin', host / '.local' / 'bin'):
        folder.mkdir(parents=True)
    executable(host / '.local' / 'bin' / 'uv', 'echo "uv $*"')
    executable(host / '.flaxmobile' / 'bin' / 'python', '')
    executable(host / '.flaxmobile' / 'bin' / 'flaxmobile', 'printf "<%s>" "$@"; exit 3')
    executable(
        bin_folder / 'gcloud',
        f"""
        case $4 in
          scp) cp "$5" {host} ;;
          ssh) cd {host}; export HOME={host}; for word; do :; done; bash -c "${{word#--command=}}" ;;
        esac""",
    )
    done = shell('tpu_pod.sh', 'slice', 'zone', 'train', 'cifar10', '--run-dir', 'a b', path=bin_folder)
    assert done.returncode == 3, done.stderr
    assert (host / 'flaxmobile' / 'pyproject.toml').is_file()
    assert 'uv pip install --quiet --python .flaxmobile/bin/python ./flaxmobile jax[tpu]' in done.stdout
    assert done.stdout.endswith('<train><cifar10><--run-dir><a b>')
    assert (host / 'flaxmobile.log').read_text() == '<train><cifar10><--run-dir><a b>'


def test_the_jobset_is_of_one_piece() -> None:
    jobset = yaml.safe_load((SCRIPTS / 'kubernetes.yaml').read_text())
    assert (jobset['apiVersion'], jobset['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
    [job] = jobset['spec']['replicatedJobs']
    spec = job['template']['spec']
    assert spec['completionMode'] == 'Indexed'
    pod = spec['template']['spec']
    [container] = pod['containers']
    chips = container['resources']['limits']['google.com/tpu']
    assert container['resources']['requests']['google.com/tpu'] == chips
    across, down = map(int, pod['nodeSelector']['cloud.google.com/gke-tpu-topology'].split('x'))
    assert spec['parallelism'] == spec['completions'] == across * down // chips
    assert {mount['name'] for mount in container['volumeMounts']} == {volume['name'] for volume in pod['volumes']}
    load_config(container['command'][5])


@pytest.mark.parametrize(
    ('restart', 'has_run', 'resumed'), [('0', True, False), ('1', False, False), ('1', True, True)]
)
def test_a_jobset_that_is_started_again_resumes(restart: str, has_run: bool, resumed: bool, tmp_path: Path) -> None:
    jobset = yaml.safe_load((SCRIPTS / 'kubernetes.yaml').read_text())
    [container] = jobset['spec']['replicatedJobs'][0]['template']['spec']['template']['spec']['containers']
    executable(tmp_path / 'flaxmobile', 'printf "<%s>" "$@"')
    if has_run:
        (tmp_path / 'run.json').touch()
    environment = {'PATH': f'{tmp_path}{os.pathsep}{os.environ["PATH"]}', 'RUN_DIR': str(tmp_path), 'RESTART': restart}
    done = subprocess.run(
        container['command'], env=os.environ | environment, capture_output=True, text=True, timeout=60, check=True
    )
    words = ['train', 'imagenet_mobilenetv3_large', '--data-dir=/shared/tfds', *['--resume'] * resumed]
    assert done.stdout == ''.join(f'<{word}>' for word in [*words, '--run-dir', str(tmp_path)])
