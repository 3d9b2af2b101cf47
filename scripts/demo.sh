#!/usr/bin/env bash
# The demonstration: train ResNet-18 on the built-in digits, reduce its ReLUs, and write the frontier under runs/.
#   scripts/demo.sh [flags of 'deepreduce optimize']
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
prepare_environment
exec .venv/bin/deepreduce optimize --config configs/digits/resnet18.yaml "$@"
