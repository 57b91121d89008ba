#!/usr/bin/env bash
# What CPUs cannot check, in at most six minutes on one GPU: parity in bf16, a training step of each stage of the paper at
# full width and reduced depth, and what torch.compile gains. Without a GPU it says so and ends with status 77.
#
#   bash scripts/check_gpu.sh                  # on a machine with a GPU
#   bash scripts/check_gpu.sh --rehearse       # the same steps with a tiny model on the CPU; proves the script alone
set -euo pipefail
cd "$(dirname "$0")/.."
exec timeout 360 "${PYTHON:-python}" scripts/check_gpu.py "$@"
