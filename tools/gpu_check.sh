#!/usr/bin/env bash
# Everything that is to be run on a machine with a CUDA device; needs no network.
#
# Usage: tools/gpu_check.sh [--dry-run] [STAGE...]
#
#   build      the library with its CUDA backend, the C++ tests, the Python module
#   tests      the C++ tests on the device: the backend contract, shapes, graphs, large tensors
#   python     the Python tests on the device: tests/python/gpu
#   example    examples/04_cuda_nccl, on the library as it is installed: a trainer with its own NCCL
#   sanitizer  the small C++ tests under compute-sanitizer: memcheck, racecheck, initcheck, synccheck
#   bench      the benchmark, in its quick form: benchmarks/gpu
#
# and by request, each too long to go with all of these:
#
#   nccl       the tests of NCCL again, with the library that SYNCNORM_NCCL_LIBRARY names
#   full       the benchmark with all its shapes, layers under a CUDA graph
#   counters   Nsight Compute's counters of every kernel
#   resnet     whole training steps of ResNet-50
#
# Without a STAGE: the first six, within 9 minutes, and nccl where a library is named. --dry-run, or
# a machine without a device: builds, lists the tests and rehearses the benchmark on the CPU; then
# nothing was verified.
#
# Results go to the folder OUT (gpu-check-results): summary.md, results.json, benchmark.md, .json and
# .png, training.png, logs.tar.gz. SYNCNORM_NCCL_LIBRARY: a libnccl.so.2, a wheel that has one, or a
# folder with parts of either, as tools/nccl_library makes them; it is used in the stage nccl only.
# The build goes to BUILD (build/gpu-check). PYTHON: the interpreter with torch.
# The exit status is 1 where a stage failed; what a machine lacks is named, and its stage not run.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

stages=()
dry=no
for argument in "$@"; do
  case $argument in
    --dry-run) dry=yes ;;
    build | tests | python | example | sanitizer | bench) stages+=("$argument") ;;
    nccl | full | counters | resnet) stages+=("$argument") ;;
    *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
done
export NAMED_NCCL=${SYNCNORM_NCCL_LIBRARY:-}
unset SYNCNORM_NCCL_LIBRARY
[ ${#stages[@]} -gt 0 ] || stages=(build tests python ${NAMED_NCCL:+nccl} example sanitizer bench)

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
# The interpreter's cmake and ninja, the toolkit, Nsight Compute.
PATH=$(dirname "$PYTHON"):$PATH:/usr/local/cuda/bin$(printf ':%s' /opt/nvidia/nsight-compute/*)
export PYTHONPATH=$BUILD/python${PYTHONPATH:+:$PYTHONPATH}

if ! nvidia-smi -L 2> /dev/null | grep -q GPU; then
  [ $dry = yes ] || echo "nvidia-smi sees no GPU: a dry run"
  dry=yes
fi
export DRY=$dry
deadline=$((SECONDS + $([ $dry = yes ] && echo 6000 || echo 530)))
# The NCCL of the interpreter's packages, unless another is named.
NCCL_ROOT=${NCCL_ROOT:-$("$PYTHON" -c "import nvidia.nccl as n; print(*n.__path__)" 2> /dev/null)}
export NCCL_ROOT
export SUITES="test_backend_cuda test_backend_cuda_shapes test_backend_cuda_streams"
export TOOLS="memcheck racecheck initcheck synccheck"

# ---------------------------------------------------------------------------------- the stages

stage_build() {
  local ninja=() architectures=native
  if command -v ninja > /dev/null; then ninja=(-G Ninja); fi
  if [ "$DRY" = yes ]; then architectures=90; fi
  cmake -S . -B "$BUILD" "${ninja[@]}" -DCMAKE_BUILD_TYPE=Release -DSYNCNORM_CUDA=ON \
    -DCMAKE_CUDA_ARCHITECTURES=$architectures -DSYNCNORM_BUILD_PYTHON=ON -DSYNCNORM_BUILD_TESTS=ON \
    -DPython_EXECUTABLE="$PYTHON" -DPython3_EXECUTABLE="$PYTHON"
  cmake --build "$BUILD" --parallel "${JOBS:-$(nproc)}"
  "$PYTHON" -m syncnorm info
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

# The library comes first in the process, so that torch uses the same one.
stage_nccl() {
  local library collect=()
  library=$("$PYTHON" tools/nccl_library "$NAMED_NCCL" "$BUILD/nccl")
  if [ "$DRY" = yes ]; then collect=(--collect-only); fi
  LD_PRELOAD=$library SYNCNORM_NCCL_LIBRARY=$library "$PYTHON" -m pytest tests/python/gpu/test_nccl.py \
    -v -p no:cacheprovider -W default "${collect[@]}"
}

stage_example() {
  cmake --install "$BUILD" --prefix "$BUILD/installed"
  cmake -S examples/04_cuda_nccl -B "$BUILD/example" -DCMAKE_PREFIX_PATH="$BUILD/installed"
  cmake --build "$BUILD/example"
  if [ "$DRY" = no ]; then "$BUILD/example/04_cuda_nccl"; fi
}

# One tool on the tests of the suite "small".
sanitize() {
  local test
  # initcheck is to see the workspace as it was allocated.
  if [ "$1" = initcheck ]; then export SYNCNORM_TEST_INITCHECK=1; fi
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

# Stages add to one benchmark.json, each what it measures.
benchmark() {
  "$PYTHON" -m benchmarks.gpu --add --output "$RESULTS" "$@"
}

stage_bench() {
  if [ "$DRY" = yes ]; then
    benchmark --device cpu --groups tiny --repeat 2 --parts kernels host graphs
  else
    benchmark --quick --parts host kernels --seconds "${BENCH_SECONDS:-$((LIMIT - 20))}"
  fi
}

stage_full() {
  if [ "$DRY" = yes ]; then stage_bench; return; fi
  benchmark --parts host graphs kernels --seconds $((LIMIT - 20))
}

stage_counters() {
  local status=0
  if [ "$DRY" = yes ]; then
    "$PYTHON" -m benchmarks.gpu.profiled --device cpu --groups tiny --sequence "$LOGS/calls.json"
  else
    benchmark --parts counters --seconds $((LIMIT - 40)) || status=$?
    if [ -e "$RESULTS/counters.csv" ]; then mv "$RESULTS/counters.csv" "$LOGS"; fi
    return $status
  fi
}

# What is begun within the seconds may take a minute.
stage_resnet() {
  if [ "$DRY" = yes ]; then
    benchmark --device cpu --repeat 2 --parts training
  else
    benchmark --parts training --seconds $((LIMIT - 60))
  fi
}

# -------------------------------------------------------------------------------- their running

# What the stage lacks on this machine, in a few words: programs, modules of Python, a header.
lacks() {
  local program module
  case $1 in
    build) set -- "cmake nvcc" "nanobind" ;;
    tests) set -- "ctest" "" ;;
    python) set -- "" "torch numpy pytest pytest_timeout" ;;
    example) set -- "cmake" "" "$NCCL_ROOT/include/nccl.h" ;;
    sanitizer) if [ $dry = yes ]; then set -- "" ""; else set -- "compute-sanitizer" ""; fi ;;
    nccl)
      set -- "" "torch numpy pytest pytest_timeout"
      [ -n "$NAMED_NCCL" ] || echo "SYNCNORM_NCCL_LIBRARY, to name an NCCL from 2.30 on" ;;
    counters) set -- "$([ $dry = yes ] || echo ncu)" "torch" ;;
    bench | full | resnet) set -- "" "torch" ;;
  esac
  for program in $1; do command -v "$program" > /dev/null || echo "$program"; done
  for module in $2; do
    "$PYTHON" -c "import importlib.util as u, sys; sys.exit(u.find_spec('$module') is None)" ||
      echo "Python's $module"
  done
  if [ -n "${3:-}" ] && [ ! -e "$3" ]; then echo "NCCL_ROOT with $(basename "$3")"; fi
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
  if [ "$stage" != build ] && [ ! -e "$BUILD/python/syncnorm" ]; then
    record "$stage" "not run" 0 "nothing is built"; return
  fi
  if [ "$left" -lt 10 ]; then record "$stage" "not run" 0 "no time is left"; return; fi
  if [ "$limit" -gt "$left" ]; then limit=$left; fi
  echo "== $stage (limit $limit s)"
  LIMIT=$limit timeout -k 10 "$limit" bash -euo pipefail -c "stage_$stage" > "$LOGS/$stage.log" 2>&1
  status=$?
  case $status in
    0) record "$stage" "$([ $dry = yes ] && echo rehearsed || echo passed)" $((SECONDS - start)) "" ;;
    124 | 137) record "$stage" FAILED $((SECONDS - start)) "over its limit of $limit s" ;;
    *) record "$stage" FAILED $((SECONDS - start)) "exit status $status" ;;
  esac
  tail -n "$([ $status = 0 ] && echo 12 || echo 60)" "$LOGS/$stage.log"
}

export -f stage_build stage_tests stage_python stage_example stage_sanitizer stage_bench sanitize
export -f stage_nccl stage_full stage_counters stage_resnet benchmark
# Of 9 minutes; those of a dry run are only against hanging.
declare -A limits=([build]=200 [tests]=110 [python]=150 [example]=60 [sanitizer]=110 [bench]=160
  [nccl]=120 [full]=380 [counters]=150 [resnet]=420)
case " ${stages[*]} " in *" bench "* | *" full "*) rm -f "$RESULTS/benchmark.json" ;; esac
for stage in "${stages[@]}"; do
  run "$stage" "$([ $dry = yes ] && echo 3000 || echo "${limits[$stage]}")"
done

cat "$RESULTS/summary.md"
! grep -q "	FAILED	" "$RESULTS/stages.tsv"
