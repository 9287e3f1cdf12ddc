#!/usr/bin/env bash
# Everything that is to be run on a machine with a CUDA device; needs no network.
#
# Usage: tools/gpu_check.sh [--dry-run] [STAGE...]
#
#   build      the library with its CUDA backend, the C++ tests, the Python module
#   tests      the C++ tests on the device: the backend contract, shapes, graphs, large tensors
#   python     the Python tests on the device: tests/python/gpu
#   sanitizer  the small C++ tests under compute-sanitizer: memcheck, racecheck, initcheck, synccheck
#   bench      the benchmark, in its quick form: benchmarks/gpu
#
# Without a STAGE: all of them, within 9 minutes. --dry-run, or a machine without a device: builds,
# lists the tests and rehearses the benchmark on the CPU; then nothing was verified.
#
# Results go to the folder OUT (gpu-check-results): summary.md, results.json, benchmark.md, .json and
# .png, logs.tar.gz. The build goes to BUILD (build/gpu-check). PYTHON: the interpreter with torch.
# The exit status is 1 where a stage failed; what a machine lacks is named, and its stage not run.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

stages=()
dry=no
for argument in "$@"; do
  case $argument in
    --dry-run) dry=yes ;;
    build | tests | python | sanitizer | bench) stages+=("$argument") ;;
    *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
done
[ ${#stages[@]} -gt 0 ] || stages=(build tests python sanitizer bench)

export BUILD=${BUILD:-$PWD/build/gpu-check}
results=${OUT:-gpu-check-results}
mkdir -p "$BUILD" "$results" || exit 1
export RESULTS LOGS=$BUILD/logs
RESULTS=$(cd "$results" && pwd)
rm -rf "$LOGS"
mkdir -p "$LOGS"
: > "$RESULTS/stages.tsv"

[ -n "${PYTHON:-}" ] || PYTHON=$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)
PYTHON=$(command -v "$PYTHON") || { echo "'${PYTHON:-python3}' is missing" >&2; exit 1; }
export PYTHON
# The interpreter's cmake and ninja, and the toolkit.
PATH=$(dirname "$PYTHON"):$PATH:/usr/local/cuda/bin
export PYTHONPATH=$BUILD/python${PYTHONPATH:+:$PYTHONPATH}

if ! nvidia-smi -L 2> /dev/null | grep -q GPU; then
  [ $dry = yes ] || echo "nvidia-smi sees no GPU: a dry run"
  dry=yes
fi
export DRY=$dry
deadline=$((SECONDS + $([ $dry = yes ] && echo 6000 || echo 530)))
export SUITES="test_backend_cuda test_backend_cuda_shapes test_backend_cuda_streams"
export TOOLS="memcheck racecheck initcheck synccheck"

# ---------------------------------------------------------------------------------- the stages

stage_build() {
  local ninja=() architectures=native
  if command -v ninja > /dev/null; then ninja=(-G Ninja); fi
  if [ "$DRY" = yes ]; then architectures=90; fi
  cmake -S . -B "$BUILD" "${ninja[@]}" -DCMAKE_BUILD_TYPE=Release -DSYNCBN_CUDA=ON \
    -DCMAKE_CUDA_ARCHITECTURES=$architectures -DSYNCBN_BUILD_PYTHON=ON -DSYNCBN_BUILD_TESTS=ON \
    -DSYNCBN_INSTALL=OFF -DPython_EXECUTABLE="$PYTHON" -DPython3_EXECUTABLE="$PYTHON"
  cmake --build "$BUILD" --parallel "${JOBS:-$(nproc)}"
  "$PYTHON" -m syncbn info
}

stage_tests() {
  if [ "$DRY" = yes ]; then
    ctest --test-dir "$BUILD" -L cuda -N
    for test in "$BUILD"/tests/cpp/test_backend_cuda*; do
      if [ -f "$test" ]; then "$test" --list-test-cases; fi
    done
  else
    ctest --test-dir "$BUILD" -L cuda --output-on-failure --no-tests=error
  fi
}

stage_python() {
  local collect=()
  if [ "$DRY" = yes ]; then collect=(--collect-only); fi
  "$PYTHON" -m pytest tests/python/gpu -v -p no:cacheprovider -W default "${collect[@]}"
}

# One tool on the tests of the suite "small".
sanitize() {
  local test
  # initcheck is to see the workspace as it was allocated.
  if [ "$1" = initcheck ]; then export SYNCBN_TEST_INITCHECK=1; fi
  for test in $SUITES; do
    if ! "$BUILD/tests/cpp/$test" --test-suite=small --count | grep -q 'filters: [1-9]'; then
      echo "$test has no test in the suite 'small'"
      return 1
    fi
    echo "compute-sanitizer --tool $1 $test --test-suite=small"
    if [ "$DRY" = yes ]; then continue; fi
    compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 20 \
      "$BUILD/tests/cpp/$test" --test-suite=small
  done
}

# The tools side by side: none of them keeps the device busy.
stage_sanitizer() {
  local tool failed=0
  declare -A jobs
  for tool in $TOOLS; do
    (set -e; sanitize "$tool") > "$LOGS/$tool.log" 2>&1 &
    jobs[$tool]=$!
  done
  for tool in $TOOLS; do
    if wait "${jobs[$tool]}"; then
      echo "$tool: $([ "$DRY" = yes ] && echo "not run, for want of a device" || echo "no complaint")"
    else
      failed=1
      tail -n 30 "$LOGS/$tool.log"
      echo "$tool: FAILED"
    fi
  done
  return $failed
}

stage_bench() {
  if [ "$DRY" = yes ]; then
    "$PYTHON" -m benchmarks.gpu --device cpu --groups tiny --repeat 2 --output "$RESULTS"
  else
    "$PYTHON" -m benchmarks.gpu --quick --seconds "${BENCH_SECONDS:-140}" --output "$RESULTS"
  fi
}

# -------------------------------------------------------------------------------- their running

# What the stage lacks on this machine, in a few words.
lacks() {
  local program module
  case $1 in
    build) set -- "cmake nvcc" "nanobind" ;;
    tests) set -- "ctest" "" ;;
    python) set -- "" "torch numpy pytest pytest_timeout" ;;
    sanitizer) if [ $dry = yes ]; then set -- "" ""; else set -- "compute-sanitizer" ""; fi ;;
    bench) set -- "" "torch" ;;
  esac
  for program in $1; do command -v "$program" > /dev/null || echo "$program"; done
  for module in $2; do
    "$PYTHON" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$module') is None)" ||
      echo "Python's $module"
  done
}

record() { # stage, result, seconds, remark
  printf '%s\t%s\t%s\t%s\n' "$@" >> "$RESULTS/stages.tsv"
  echo "== $1: $2${4:+, $4} (${3} s)"
  tar -czf "$RESULTS/logs.tar.gz" -C "$(dirname "$LOGS")" "$(basename "$LOGS")"
  "$PYTHON" tools/gpu_summary "$RESULTS" "$DRY"
}

run() { # stage, limit in seconds
  local stage=$1 limit=$2 left=$((deadline - SECONDS)) missing start=$SECONDS status
  missing=$(lacks "$stage" | paste -sd ',')
  if [ -n "$missing" ]; then record "$stage" "not run" 0 "missing: $missing"; return; fi
  if [ "$stage" != build ] && [ ! -e "$BUILD/python/syncbn" ]; then
    record "$stage" "not run" 0 "nothing is built"; return
  fi
  if [ "$left" -lt 10 ]; then record "$stage" "not run" 0 "no time is left"; return; fi
  if [ "$limit" -gt "$left" ]; then limit=$left; fi
  echo "== $stage (limit $limit s)"
  timeout -k 10 "$limit" bash -euo pipefail -c "stage_$stage" > "$LOGS/$stage.log" 2>&1
  status=$?
  case $status in
    0) record "$stage" "$([ $dry = yes ] && echo rehearsed || echo passed)" $((SECONDS - start)) "" ;;
    124 | 137) record "$stage" FAILED $((SECONDS - start)) "over its limit of $limit s" ;;
    *) record "$stage" FAILED $((SECONDS - start)) "exit status $status" ;;
  esac
  tail -n "$([ $status = 0 ] && echo 12 || echo 60)" "$LOGS/$stage.log"
}

export -f stage_build stage_tests stage_python stage_sanitizer stage_bench sanitize
# Of 9 minutes; those of a dry run are only against hanging.
declare -A limits=([build]=200 [tests]=110 [python]=150 [sanitizer]=110 [bench]=160)
for stage in "${stages[@]}"; do
  run "$stage" "$([ $dry = yes ] && echo 3000 || echo "${limits[$stage]}")"
done

cat "$RESULTS/summary.md"
! grep -q "	FAILED	" "$RESULTS/stages.tsv"
