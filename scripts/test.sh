#!/usr/bin/env bash
# Run all tests, the slow ones too; 'scripts/test.sh -m "not slow"' runs the fast ones only.
#   scripts/test.sh [flags of pytest]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh
prepare_environment dev
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
exec "$python" -m pytest --numprocesses auto --dist worksteal -m "slow or not slow" "$@"
