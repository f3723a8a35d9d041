#!/usr/bin/env bash
# Everything that is measured on a GPU, in one call: benchmarks/gpu.sh [--policy FOLDER] [--toy] [--out FILE.json]
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
[ -x "$PYTHON" ] || PYTHON=python3
exec "$PYTHON" benchmarks/gpu.py "$@"
