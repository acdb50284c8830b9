#!/usr/bin/env bash
# flaxmobile on every host of a Google Cloud TPU slice, from your own machine, in a clone of the repository.
#
#   gcloud compute tpus tpu-vm create my-slice --zone=us-central1-a \
#     --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite
#   scripts/tpu_pod.sh my-slice us-central1-a \
#     train imagenet_mobilenetv3_large --data-dir /mnt/disk/tfds --run-dir /mnt/disk/runs/v3_large
#
# Installs this commit and JAX for TPU on all hosts, starts the command on all of them and shows their output; JAX finds
# the hosts. The run's folder has to be on storage that all of them mount (Filestore, or a bucket by gcsfuse). The
# command outlives a lost connection, and its output is in flaxmobile.log on each host. The same command with --resume
# goes on with a run; to stop it with a checkpoint:
#
#   gcloud compute tpus tpu-vm ssh my-slice --zone=us-central1-a --worker=all \
#     --command='pkill -TERM -f "[b]in/flaxmobile"'
#
set -euo pipefail

if (($# < 3)); then
  sed -n '2,/^set/s/^#\( \|$\)//p' "$0"
  exit 2
fi
slice=$1 zone=$2
shift 2
printf -v command '%q ' "$@"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
git -C "$(dirname "$0")/.." archive --prefix=flaxmobile/ --output="$folder/flaxmobile.tar.gz" HEAD
gcloud compute tpus tpu-vm scp "$folder/flaxmobile.tar.gz" "$slice:" --zone="$zone" --worker=all

# The images have Python 3.10; uv brings a newer one.
# shellcheck disable=SC2016 # The hosts' shells expand it.
install='set -e; cd; tar -xzf flaxmobile.tar.gz; uv=$HOME/.local/bin/uv python=.flaxmobile/bin/python;
  [ -x $uv ] || curl --location --silent --show-error --fail https://astral.sh/uv/install.sh | sh;
  [ -x $python ] || $uv venv --quiet --python 3.12 .flaxmobile;
  $uv pip install --quiet --python $python ./flaxmobile "jax[tpu]"'
start=": > flaxmobile.log; setsid nohup .flaxmobile/bin/flaxmobile $command>> flaxmobile.log 2>&1 < /dev/null & process=\$!;
  tail --follow --lines=+1 --pid=\$process flaxmobile.log; wait \$process"
gcloud compute tpus tpu-vm ssh "$slice" --zone="$zone" --worker=all --command="$install; $start"
