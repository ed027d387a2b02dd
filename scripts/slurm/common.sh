# shellcheck shell=bash disable=SC2034 # not every reader uses everything
# What the batch scripts of this folder share. Read by them, not a job. `submit` exports what is used here.

: "${DATA:?is not set (hint: use scripts/slurm/submit, which sets it for its jobs)}"
: "${BACKBONE:?is not set (hint: use scripts/slurm/submit, which sets it for its jobs)}"
: "${HEADSTART_JOBS:?is not set (hint: use scripts/slurm/submit, which sets it for its jobs)}"
extractor=${HEADSTART_EXTRACTOR:-target/release/extractor}
head_trainer=${HEADSTART_HEAD_TRAINER:-target/release/head-trainer}
results=${RESULTS:-${HEADSTART_DATA_DIR:-data}}
store_flag=(--store "${STORE:-$results/features}")
index_flag=()
[ -z "${INDEX:-}" ] || index_flag=(--index "$INDEX")

# Of an array's task not SLURM_JOB_ID: the last task's is that of the whole array, and would bring all of it back.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-${SLURM_JOB_ID:-}}

say() {
  echo "slurm: $(date +%T) job $job on ${SLURMD_NODENAME:-?}, start $((${SLURM_RESTART_COUNT:-0} + 1)): $*" >&2
}

# queue_again CODE REASON: back into the queue, a bounded number of times. Without `exit 75`, which needs
# RequeueExit in slurm.conf, and never in the end with 75, which with RequeueExit would come back for ever.
queue_again() {
  local state
  if [ "${SLURM_RESTART_COUNT:-0}" -ge "${RETRIES:-20}" ]; then
    say "$2, for the last of $((${RETRIES:-20} + 1)) times (hint: RETRIES=N allows more)"
    exit 1
  fi
  # Not if it was cancelled, or is on its way back already after a node failure or a preemption.
  state=$(squeue --noheader --format=%T --jobs="$job" 2> /dev/null) || state=gone
  if [ "$state" != RUNNING ]; then
    say "$2; not queued again, as the job is ${state:-gone}"
    exit "$1"
  fi
  say "$2; queued again"
  scontrol requeue "$job" || exit 1
  exit 0
}

# result NAME: what the results of the parts that are done say of it.
result() {
  sed -n "s/^$1  *//p" "$HEADSTART_JOBS"/part-*.txt 2> /dev/null | sort -u || true
}

# require_features: puts the folder of the parts' store into $store and their index into $index. Where rows are missing
# it says which parts are not done and ends the job.
require_features() {
  local code=0 views flags=() part undone=() list
  for ((part = 0; part < ${HEADSTART_SHARDS:-0}; part++)); do
    [ -e "$HEADSTART_JOBS/part-$part.txt" ] || undone+=("$part")
  done
  store=$(result store) index=$(result index) views=$(result views)
  if [ -z "$store" ]; then
    say "no part of the features is done (hint: see $HEADSTART_JOBS/features-*.log)"
    exit 4
  elif [[ $store$index$views == *$'\n'* ]]; then
    say "the parts differ in store, index or views (hint: submit the features again):" "$store" "$index" "$views"
    exit 1
  fi
  [ -z "$views" ] || flags=(--views "$views")
  "$extractor" store inspect "$store" --index "$index" "${flags[@]}" || code=$?
  case $code in
    0 | 3) return ;;
    4)
      list=$(IFS=,; echo "${undone[*]:-0-$((HEADSTART_SHARDS - 1))}")
      say "rows are missing; parts to run again: $list (hint: see $HEADSTART_JOBS/features-*.log, then, with the same" \
        "variables, scripts/slurm/submit --array $list)" ;;
    75) queue_again "$code" "the store could not be read for now (exit 75)" ;;
  esac
  exit "$code"
}

# sweep_lines: the lines of flags in the file SWEEP.
sweep_lines() {
  grep -v '^[[:space:]]*\(#\|$\)' "$SWEEP"
}
