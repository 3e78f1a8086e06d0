#!/bin/bash
# All measurements on a device, each part with its own limit, results written as they are known.
#   experiments/gpu/run.sh [--device cuda|cpu] [--tiny] [--out DIR] [--seconds 460] [--only tests,throughput,steps,long]
# The folder of the results is --out or $OUT. .bundle/ comes from bundle.py; wheels in .whl/ are installed first.
set -u
cd "$(dirname "$0")/../.." || exit 1
device=cuda tiny="" out="${OUT:-}" seconds=460 only=tests,throughput,steps,long previous=""
while [ $# -gt 0 ]; do
  case "$1" in
    --device) device=$2; shift ;;
    --tiny) tiny=--tiny ;;
    --out) out=$2; shift ;;
    --seconds) seconds=$2; shift ;;
    --only) only=$2; shift ;;
    --previous) previous=$2; shift ;;
    *) echo "unknown option $1" >&2; exit 2 ;;
  esac
  shift
done
[ -n "$out" ] || { echo "name the folder of the results with --out or \$OUT" >&2; exit 2; }
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
work=${TMPDIR:-/tmp}/kdzero-gpu  # the same at every start, since trainings remember their paths
rm -rf "$work" && mkdir -p "$work" || exit 1
begun=$SECONDS
export PYTHONPATH="$PWD:${PYTHONPATH:-}" PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 KDZERO_CACHE="${KDZERO_CACHE:-$work/cache}"
if [ -d .whl ] && [ "$device" = cuda ]; then
  $python -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$work/site" .whl/*.whl || exit 1
  PYTHONPATH="$PYTHONPATH:$work/site"
fi
common=(--device "$device" $tiny --data "$work/cifar" --weights .bundle/teacher.safetensors --work "$work"
        --results "$out/results.jsonl")
left() { echo $((seconds - (SECONDS - begun))); }
part() { # name, limit in seconds, command …
  local name=$1 limit=$2
  shift 2
  case ",$only," in *",$name,"*) ;; *) return ;; esac
  local before=$SECONDS
  timeout -k 5 "$limit" "$@" 2>&1 | tee -a "$out/run.log" | tail -n 40
  local status=${PIPESTATUS[0]}
  [ "$status" = 0 ] || failed="${failed:-} $name"
  echo "{\"part\": \"end of $name\", \"exit\": $status, \"seconds\": $((SECONDS - before))}" | tee -a "$out/results.jsonl"
}
$python experiments/gpu/bundle.py unpack --bundle .bundle --out "$work/cifar" \
  ${tiny:+--train 400 --test 100} || exit 1
echo "{\"part\": \"set-up\", \"seconds\": $((SECONDS - begun))}" | tee -a "$out/results.jsonl"
tests=(tests/test_gpu.py tests/test_graphs.py tests/test_primitives.py)
[ -n "$tiny" ] && tests=(tests/test_graphs.py)  # the others take two minutes: KDZERO_TEST_DEVICE=cpu pytest -m gpu
part tests 120 env KDZERO_TEST_DEVICE="$device" "$python" -m pytest -m gpu -q -n 0 -p no:cacheprovider --durations 5 \
  "${tests[@]}"
part throughput 160 $python experiments/gpu/throughput.py "${common[@]}"
part steps 50 $python experiments/gpu/steps.py "${common[@]}"
rest=$(($(left) - 5))
extra=()
[ -n "$tiny" ] && rest=60 && extra=(--epochs 1 --seeds 1 --processes 2)
[ -n "$previous" ] && extra+=(--previous "$previous")
part long $((rest + 5)) $python experiments/gpu/long.py "${common[@]}" --seconds "$rest" ${extra[@]+"${extra[@]}"}
rm -rf "$work"
[ -z "${failed:-}" ] || { echo "failed:$failed"; exit 1; }
