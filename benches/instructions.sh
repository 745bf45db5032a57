#!/usr/bin/env bash
# Counts the instructions that the program executes in user space for one unit of work, which
# does not depend on the load of the machine. Each workload is run with N units and with 2N;
# the difference, divided by N, excludes the start and the end of the program.
#
#   benches/instructions.sh [-n UNITS] [WORKLOAD]...
#
# Counts with `perf stat` if the processor's counter is available, else with valgrind;
# COUNTER=perf or COUNTER=valgrind selects one. Names of workloads: `make bench BENCH=--list`.
# If BEFORE names another build of the program, both are counted and compared.
set -euo pipefail
cd "$(dirname "$0")/.."

units=2000
while getopts n: option; do
  case $option in
    n) units=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
workloads=("$@")
if [ "${#workloads[@]}" -eq 0 ]; then
  workloads=(keepalive keepalive-logged new echo-64 tls-keepalive tls-echo-64 socks-keepalive)
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

perf_counts() {
  command -v perf >/dev/null && perf stat -x, -e instructions:u -o "$work/try" true 2>/dev/null &&
    grep -q '^[0-9]' "$work/try"
}
if [ -z "${COUNTER-}" ]; then
  if perf_counts; then
    COUNTER=perf
  elif command -v valgrind >/dev/null; then
    COUNTER=valgrind
  else
    echo 'Neither perf with a counter of instructions nor valgrind is installed.' >&2
    exit 1
  fi
fi

# The benchmark, built as `cargo bench` builds it, drives the program.
drive() {
  cargo bench --locked --quiet --bench compare -- --only "$contender" "$@"
}

# Prints the instructions of one run of $2 units of workload $1.
count() {
  rm -f "$work/count"
  case $COUNTER in
    perf)
      drive --drive "$1" --count "$2" --wrap "perf stat -x, -e instructions:u -o $work/count"
      awk -F, '/^[0-9]/ { print $1 }' "$work/count"
      ;;
    valgrind)
      drive --drive "$1" --count "$2" \
        --wrap "valgrind --tool=callgrind --callgrind-out-file=$work/count"
      awk '/^(totals|summary):/ { total = $2 } END { print total }' "$work/count"
      ;;
    *)
      echo "COUNTER is perf or valgrind" >&2
      return 1
      ;;
  esac
}

# Prints the instructions of one unit of workload $1.
unit() {
  once=$(count "$1" "$units")
  twice=$(count "$1" $((2 * units)))
  if [ -z "$once" ] || [ -z "$twice" ]; then
    echo "$1: nothing was counted" >&2
    return 1
  fi
  echo $(((twice - once) / units))
}

echo "instructions outside the kernel, by $COUNTER, $units units and $((2 * units))"
for workload in "${workloads[@]}"; do
  contender=simple-proxy
  now=$(unit "$workload")
  printf '%-18s %8d a unit' "$workload" "$now"
  if [ -n "${BEFORE-}" ]; then
    contender=before
    before=$(unit "$workload")
    awk -v now="$now" -v before="$before" \
      'BEGIN { printf ", before %8d, now %.3f of it", before, now / before }'
  fi
  echo
done
