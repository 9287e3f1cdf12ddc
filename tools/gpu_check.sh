#!/usr/bin/env bash
# Test and measure the CUDA backend on a machine with a GPU, without network.
#
# Usage: tools/gpu_check.sh [--dry-run] [STAGE...]
#
#   first     at most 420 s: the library from gpu-pack/ (tools/gpu_pack) or a build; the C++ and
#             Python tests; the benchmark of the kernels; Nsight Compute's counters
#   second    at most 240 s: host time, CUDA graphs, training steps of ResNet-50, compute-sanitizer
#   nccl, example, full    by request: docs/gpu-check.md
#
# Without a STAGE: first, and second unless a test has failed. --dry-run, or a machine without a
# GPU: lists the tests and rehearses the benchmark on the CPU; this verifies nothing.
#
# A step that fails or reaches its time limit is recorded, and the next step runs. The exit status is
# 1 if a step has failed.
#
# Environment: OUT, the folder of the results (gpu-check-results); BUILD (build/gpu-check); PYTHON,
# the interpreter with torch; PACK (gpu-pack); JOBS; NCCL_ROOT and SYNCNORM_NCCL_LIBRARY for the
# stages example and nccl.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
set -a # each step runs in its own shell, with all variables and functions

# Seconds of each stage and of each step.
declare -A stage_limits=([first]=420 [second]=240 [nccl]=360 [example]=360 [full]=3600)
declare -A steps=(
  [first]="facts:15 library:170 correctness:140 kernels:120 counters:65"
  [second]="facts:15 library:170 host:50 training:85 sanitizer:90"
  [nccl]="facts:15 library:170 nccl:120"
  [example]="facts:15 example:300"
  [full]="facts:15 library:170 full:3400")

stages=()
DRY=no
for argument in "$@"; do
  case $argument in
    --dry-run) DRY=yes ;;
    first | second | nccl | example | full) stages+=("$argument") ;;
    *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
  esac
done
[ ${#stages[@]} -gt 0 ] || stages=(first second)
if ! nvidia-smi -L 2> /dev/null | grep -q GPU; then
  [ $DRY = yes ] || echo "nvidia-smi sees no GPU: a dry run"
  DRY=yes
fi

NAMED_NCCL=${SYNCNORM_NCCL_LIBRARY:-}
unset SYNCNORM_NCCL_LIBRARY
BUILD=${BUILD:-$PWD/build/gpu-check}
mkdir -p "$BUILD" "${OUT:=gpu-check-results}" || exit 1
RESULTS=$(cd "$OUT" && pwd)
TREE=$BUILD/tree # link to the library in use: core/, python/, tests/cpp/
LOGS=$BUILD/logs
rm -rf "$LOGS"
mkdir "$LOGS"

[ -n "${PYTHON:-}" ] || PYTHON=$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)
PYTHON=$(realpath -s "$(command -v "$PYTHON")") || { echo "$PYTHON is missing" >&2; exit 1; }
# The interpreter's cmake and ninja, the toolkit, Nsight Compute.
PATH=$(dirname "$PYTHON"):$PATH:/usr/local/cuda/bin$(printf ':%s' /opt/nvidia/nsight-compute/*)
PYTHONPATH=$TREE/python${PYTHONPATH:+:$PYTHONPATH}

# ----------------------------------------------------------------------------- helpers of the steps

# A line "note: ..." in the output of a step goes to the summary.
skip() { # reason; ends the step as "not run"
  echo "note: $*"
  exit 77
}

need() { # programs
  for program; do command -v "$program" > /dev/null || skip "$program is missing"; done
}

# Run a command in the background, with its own log, until 10 s before the step's limit.
start() { # name, command
  local name=$1
  shift
  declare -gA jobs
  # shellcheck disable=SC2016 # the inner shell expands "$@"
  timeout -k 5 $((STEP_LIMIT - 10)) bash -euo pipefail -c '"$@"' bash "$@" \
    > "$LOGS/$name.log" 2>&1 &
  jobs[$name]=$!
}

# Wait for all of them, print the closing line of each, and fail if one has failed.
finish() {
  local name status failed=0
  for name in $(printf '%s\n' "${!jobs[@]}" | sort); do
    status=0
    wait "${jobs[$name]}" || status=$?
    if [ $status != 0 ]; then
      failed=1
      tail -n 30 "$LOGS/$name.log"
      echo "note: $name: $([ $status = 124 ] && echo time limit || echo exit status $status)"
    else # of doctest, pytest, compute-sanitizer
      grep -E 'test cases|^=+ .* in [0-9.]+s|ERROR SUMMARY' "$LOGS/$name.log" | tail -n 1 |
        sed "s|^|$name: |" || true
    fi
  done
  return $failed
}

# Run parts of the benchmark, and end before the step's limit.
benchmark() { # seconds that the last measurement may take, parts, other arguments
  local seconds=$((STEP_LIMIT - $1 > 5 ? STEP_LIMIT - $1 : 5)) parts
  read -ra parts <<< "$2"
  shift 2
  if [ $DRY = yes ]; then set -- --device cpu --groups tiny --repeat 2 --compiled 1; fi
  "$PYTHON" -m benchmarks.gpu --add --output "$RESULTS" --parts "${parts[@]}" \
    --seconds $seconds "$@"
}

# --------------------------------------------------------------------------------------- the steps

step_facts() { "$PYTHON" tools/gpu_summary --machine "$LOGS/machine.json"; }

step_library() {
  local used=pack
  rm -f "$TREE"
  if ! tools/gpu_pack --unpack "$BUILD/pack"; then
    used=built
    need cmake nvcc
    tools/gpu_pack --build "$BUILD/built"
  fi
  ln -s $used "$TREE"
  "$PYTHON" -m syncnorm info || { rm "$TREE"; return 1; }
}

step_correctness() {
  local test list=() collect=() status=0
  if [ $DRY = yes ]; then list=(--list-test-cases) collect=(--collect-only); fi
  for test in "$TREE"/tests/cpp/test_backend_cuda*; do
    if [ -f "$test" ] && [ -x "$test" ]; then start "${test##*/}" "$test" "${list[@]}"; fi
  done
  start pytest "$PYTHON" -m pytest tests/python/gpu -v -p no:cacheprovider -W default \
    "${collect[@]}"
  finish || status=$?
  memcheck_commands | sed 10q > "$LOGS/memcheck.txt"
  return $status
}

# Print a command for each failed test.
memcheck_commands() {
  local log memcheck="compute-sanitizer --tool memcheck"
  for log in "$LOGS"/test_backend_cuda*.log; do
    sed -n 's/^TEST CASE:  *//p' "$log" | tr "'," '??' | sort -u |
      sed "s|.*|$memcheck $TREE/tests/cpp/$(basename "$log" .log) -tc='&'|"
  done
  memcheck+=" --target-processes all $PYTHON -m pytest"
  sed -nE "s#^(FAILED|ERROR) ([^ ]+::[^ ]+).*#$memcheck '\2'#p" "$LOGS/pytest.log"
}

step_kernels() {
  benchmark 20 kernels --quick --groups large resnet50-32 --dtypes bfloat16 float32
}

step_counters() {
  if [ $DRY = yes ]; then
    "$PYTHON" -m benchmarks.gpu.profiled --device cpu --groups tiny --sequence "$LOGS/calls.json"
    return
  fi
  need ncu
  benchmark 25 counters --dtypes bfloat16
}

step_host() { benchmark 10 "host graphs" --quick; }

step_training() { benchmark 30 training --images 32; }

# The four tools side by side: none of them keeps the GPU busy.
step_sanitizer() {
  [ $DRY = yes ] || need compute-sanitizer
  for tool in memcheck racecheck initcheck synccheck; do start $tool sanitize $tool; done
  finish
}

sanitize() { # tool, on the tests of the suite "small"
  local test
  # initcheck needs the workspace as the device allocated it.
  if [ "$1" = initcheck ]; then export SYNCNORM_TEST_INITCHECK=1; fi
  for test in "$TREE"/tests/cpp/test_backend_cuda{,_shapes,_streams}; do
    "$test" --test-suite=small --count | grep 'filters: [1-9]' # none would pass unnoticed
    [ $DRY = yes ] || compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 20 \
      "$test" --test-suite=small
  done
}

step_full() { benchmark 0 "host graphs kernels training"; }

# LD_PRELOAD makes torch use the same library.
step_nccl() {
  local library collect=()
  [ -n "$NAMED_NCCL" ] || skip "SYNCNORM_NCCL_LIBRARY is not set: expected an NCCL of 2.30 or newer"
  library=$("$PYTHON" tools/nccl_library "$NAMED_NCCL" "$BUILD/nccl")
  if [ $DRY = yes ]; then collect=(--collect-only); fi
  LD_PRELOAD=$library SYNCNORM_NCCL_LIBRARY=$library "$PYTHON" -m pytest \
    tests/python/gpu/test_nccl.py -v -p no:cacheprovider -W default "${collect[@]}"
}

step_example() {
  need cmake nvcc
  # By default the NCCL of the interpreter's packages.
  NCCL_ROOT=${NCCL_ROOT:-$("$PYTHON" -c "import nvidia.nccl as n; print(*n.__path__)" || true)}
  [ -e "$NCCL_ROOT/include/nccl.h" ] || skip "NCCL_ROOT has no include/nccl.h"
  cmake -S . -B "$BUILD/library" -DSYNCNORM_CUDA=ON -DSYNCNORM_BUILD_TESTS=OFF \
    -DCMAKE_CUDA_ARCHITECTURES="$([ $DRY = yes ] && echo 90 || echo native)"
  cmake --build "$BUILD/library" --parallel "${JOBS:-$(nproc)}"
  cmake --install "$BUILD/library" --prefix "$BUILD/installed"
  cmake -S examples/04_cuda_nccl -B "$BUILD/example" -DCMAKE_PREFIX_PATH="$BUILD/installed"
  cmake --build "$BUILD/example"
  [ $DRY = yes ] || "$BUILD/example/04_cuda_nccl"
}

# ---------------------------------------------------------------------------------- run the stages

declare -A results=()
run() { # step, limit in seconds
  local step=$1 limit=$2 left=$((deadline - SECONDS)) begin=$SECONDS log=$LOGS/$1.log status remark
  if [ $DRY = yes ]; then limit=3000; elif [ "$limit" -gt $left ]; then limit=$left; fi
  if [ ! -e "$TREE" ] && [[ ! $step =~ ^(facts|library|example)$ ]]; then
    echo "note: nothing is built" > "$log" && status=77
  elif [ "$limit" -lt 15 ]; then
    echo "note: no time is left" > "$log" && status=77
  else
    echo "== $step (limit $limit s)"
    STEP_LIMIT=$limit timeout -k 5 "$limit" bash -euo pipefail -c "step_$step" > "$log" 2>&1
    status=$?
  fi
  remark=$(sed -nE 's/^note: //p; /^(FAILED|NOT [A-Z]+ for lack of time):/p' "$log" | cut -c 1-200 |
    paste -sd ';' | sed 's/;/; /g')
  case $status in
    0) results[$step]=$([ $DRY = yes ] && echo rehearsed || echo passed) ;;
    77) results[$step]="not run" ;;
    124 | 137) results[$step]=FAILED remark="time limit of $limit s${remark:+; $remark}" ;;
    *) results[$step]=FAILED remark="exit status $status${remark:+; $remark}" ;;
  esac
  tail -n "$([ "${results[$step]}" = FAILED ] && echo 60 || echo 12)" "$log"
  echo "== $step: ${results[$step]} ($((SECONDS - begin)) s)"
  printf '%s\t%s\t%s\t%s\n' "$step" "${results[$step]}" $((SECONDS - begin)) "$remark" \
    >> "$LOGS/steps.tsv"
  tar -czf "$RESULTS/logs.tar.gz" -C "$BUILD" logs
  "$PYTHON" tools/gpu_summary "$RESULTS" "$LOGS" $DRY
}

case " ${stages[*]} " in *" first "* | *" full "*) rm -f "$RESULTS/benchmark.json" ;; esac
for stage in "${stages[@]}"; do
  if [ "$stage" = second ] && [ "${results[correctness]:-}" = FAILED ]; then continue; fi
  deadline=$((SECONDS + ${stage_limits[$stage]} - 10)) # a step may be killed 5 s late
  for step in ${steps[$stage]}; do
    # What has passed in an earlier stage is not repeated.
    [[ ${results[${step%:*}]:-} =~ passed|rehearsed ]] || run "${step%:*}" "${step#*:}"
  done
done

cat "$RESULTS/summary.md"
[[ " ${results[*]} " != *" FAILED "* ]]
