#!/usr/bin/env bash
# Tests plans on a GPU and writes one log. Needs no Rust and no network: `cargo xtask gpu-test` made this folder.
#
#   run.sh [--quick] [--log FILE]      everything; --quick takes fewer inputs, shapes and plans
#   run.sh --prepare GROUP...          only compiles the plans of these groups that are missing
#
# NVIDIA's libraries are found as `sliderun devices` says; SLIDERUN_CUDA_PATH names more places.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here" || exit 2
quick= log=$here/gpu-test.log prepare=()
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=1 ;;
    --log) log=$2; shift ;;
    --prepare) shift; prepare=("$@"); break ;;
    *) sed -n '2,7{s/^# \{0,1\}//;p}' "$0" >&2; exit 2 ;;
  esac
  shift
done
sliderun=$here/bin/sliderun slidec=$here/bin/slidec models=$here/bin/gpu_models
target=cpu,${GPU_TEST_TARGET:-sm_90a}
export SLIDERUN_CACHE=${SLIDERUN_CACHE:-$here/cache} NO_COLOR=1
mkdir -p plans models cache results

# Lines of plans.txt of the given groups: group, name, model, options.
plans() { awk -v groups=" $* " '!/^#/ && NF { group = $1; sub(/\?$/, "", group); if (index(groups, " " group " ")) print }' plans.txt; }

# Makes one plan, unless it is there or its model is not.
prepare_plan() {
  local group=$1 name=$2 model=$3 file; shift 3
  [ -e "plans/$name.slide" ] && return 0
  case $model in
    product:*)
      file=results/$name.onnx
      IFS=:x read -r _ n k type <<<"$model"
      "$models" product "$n" "$k" "$type" "$file" || return 1 ;;
    *) file=models/$model.onnx; [ -e "$file" ] || return 0 ;;
  esac
  "$slidec" compile "$file" -o "plans/$name.slide" --target "$target" "$@" >"results/$name.compile.txt" 2>&1
  local code=$?
  case $model in product:*) rm -f "$file" ;; esac
  [ $code = 0 ] || case $group in *\?) echo "left out: $name, which slidec cannot make: $(grep -m1 -- '->' "results/$name.compile.txt")" ;; *) return 1 ;; esac
}

prepare_all() {
  local group name model options pids=()
  rm -f results/failed.txt
  while read -r group name model options; do
    while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n; done
    # shellcheck disable=SC2086
    { prepare_plan "$group" "$name" "$model" $options || echo "$name" >>results/failed.txt; } &
    pids+=($!)
  done < <(plans "$@" | { [ -n "$quick" ] && grep -v -e gate-up -e down-6x8 || cat; })
  # Not a plain wait: the log's tee would be waited for too.
  wait "${pids[@]}"
  [ -e results/failed.txt ] || return 0
  while read -r name; do echo "$name was not compiled:"; tail -n 20 "results/$name.compile.txt"; done <results/failed.txt
  return 1
}

if [ ${#prepare[@]} -gt 0 ]; then prepare_all "${prepare[@]}"; exit; fi

exec > >(tee "$log") 2>&1
passed=0 failed=0
pass() { passed=$((passed + 1)); echo "ok     $*"; }
fail() { failed=$((failed + 1)); echo "FAILED $*"; }
heading() { echo; echo "=== $* ($((SECONDS / 60)) min $((SECONDS % 60)) s)"; }

shapes_minilm="batch_size=1,sequence_length=7 batch_size=4,sequence_length=128 batch_size=2,sequence_length=300 batch_size=3,sequence_length=33 batch_size=16,sequence_length=64"
shapes_vit="batch_size=1 batch_size=2 batch_size=3 batch_size=4 batch_size=5"
bench_minilm="batch_size=1,sequence_length=128 batch_size=32,sequence_length=128"
bench_vit="batch_size=1 batch_size=32"
rounds=20 turns=5 seconds=1 rows="512 2048 8192" patience=300 churn=10000
if [ -n "$quick" ]; then
  rounds=2 turns=2 seconds=0.2 rows="512 8192" patience=100 churn=1000
  shapes_minilm="batch_size=1,sequence_length=7 batch_size=4,sequence_length=128 batch_size=3,sequence_length=33" shapes_vit="batch_size=1 batch_size=2"
fi
first() { echo "${1%% *}"; }
of_model() { local v=$1_$2; echo "${!v-}"; }

heading "Where"
date -u '+%F %H:%M UTC'
echo "commit $(cat commit.txt 2>/dev/null || echo unknown)${quick:+, --quick}"
"$sliderun" devices
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,power.draw,temperature.gpu --format=csv
echo "$(grep -m1 'model name' /proc/cpuinfo | cut -d: -f2-), $(nproc) processors, $(uname -sr)"

heading "Plans that are compiled here"
prepare_all check kernel gemm && pass "every plan is there" || fail "plans"
ls -l plans | awk 'NR > 1 { printf "%12d  %s\n", $5, $9 }'
# The plans of a group that are there: name and model.
there() { while read -r _ name model _; do [ -e "plans/$name.slide" ] && echo "$name $model"; done < <(plans "$1"); }

heading "Each launch against the CPU: $rounds sets of random inputs a shape, outputs poisoned before"
while read -r name model; do
  for shape in $(of_model shapes "$model"); do
    out=results/$name.check.txt
    if timeout 300 "$sliderun" check "plans/$name.slide" --shape "$shape" --rounds $rounds >"$out" 2>&1; then
      pass "$name $shape: $(sed -n 's/^ *\(end to end.*\)/\1/p' "$out")"
    else
      fail "$name $shape"; tail -n 25 "$out" | cut -c1-200
    fi
    [ "$shape" = "$(first "$(of_model shapes "$model")")" ] && sed 's/^/       /' "$out" | cut -c1-120
  done
done < <(there check)

heading "End to end against the model: the GPU no farther from it than 1.1 times what the CPU is"
while read -r name model; do
  [ -e "models/$model.onnx" ] || { echo "left out: $name, whose model is not here"; continue; }
  shape=$(of_model shapes "$model"); shape=$(first "${shape#* }")
  distance() { timeout 200 "$slidec" verify "models/$model.onnx" "plans/$name.slide" --shape "$shape" --device "$1" 2>&1 | tee "results/$name.verify.$1.txt" | sed -n 's/^largest relative error of an output: //p'; }
  cpu=$(distance cpu) cuda=$(distance cuda)
  # Sums of f32 in another order differ by this much.
  if awk -v a="$cuda" -v b="$cpu" 'BEGIN { exit !(a != "" && b != "" && a <= 1.1 * b + 1e-5) }'; then
    pass "$name $shape: cuda $cuda, cpu $cpu"
  else
    fail "$name $shape: cuda ${cuda:-?}, cpu ${cpu:-?}"; tail -n 4 "results/$name.verify.cuda.txt"
  fi
done < <(there check | { [ -n "$quick" ] && grep minilm || cat; })

heading "Latency, $turns interleaved turns of $seconds s: medians of the turns' medians, µs"
rm -f results/latency.txt
for _ in $(seq $turns); do
  while read -r name model; do
    for shape in $(of_model bench "$model"); do
      timeout 200 "$sliderun" bench "plans/$name.slide" --device cuda --shape "$shape" --duration $seconds 2>&1 |
        awk -v key="$name $shape" '/^run with host copies/ { host = $6 } /^graph replayed  *[0-9]/ { print key, host, $4 }' >>results/latency.txt
    done
  done < <(there check)
done
printf '%-20s %-38s %12s %12s\n' PLAN SHAPE 'HOST COPIES' REPLAY
sort -k1,2 results/latency.txt | awk '
  function median(list, n,  i, j, t) { for (i = 2; i <= n; i++) for (j = i; j > 1 && list[j - 1] > list[j]; j--) { t = list[j]; list[j] = list[j - 1]; list[j - 1] = t } return list[int((n + 1) / 2)] }
  function end() { if (n) printf "%-20s %-38s %12.1f %12.1f\n", name, shape, median(host, n), median(replay, n) }
  { if ($1 " " $2 != key) { end(); n = 0; key = $1 " " $2; name = $1; shape = $2 } n++; host[n] = $3 + 0; replay[n] = $4 + 0 }
  END { end() }'

heading "Where the time goes"
while read -r name model; do
  for shape in $(of_model bench "$model"); do
    echo "--- $name $shape"
    timeout 200 "$sliderun" bench "plans/$name.slide" --device cuda --shape "$shape" --duration $seconds --operators 2>&1 | cut -c1-180
  done
done < <(there check | { [ -n "$quick" ] && grep -e minilm-f32 -e minilm-bf16 -e int8-6x8 || cat; })

heading "Kernels by themselves, M = 8192, against a large copy of the same run: 80% is asked for"
while read -r name _; do
  out=results/$name.bench.txt
  timeout 200 "$sliderun" bench "plans/$name.slide" --device cuda --shape m=8192 --duration $seconds --operators >"$out" 2>&1 || { fail "$name"; tail -n 5 "$out"; continue; }
  case $name in quantize*) kernel=QuantLift ;; *) kernel=Dequant ;; esac
  line=$(awk -v kernel=$kernel 'index($0, kernel) && $1 + 0 > 0' "$out")
  rate=$(awk '{ print $7 + 0 }' <<<"$line")
  if [ "${rate:-0}" -ge 80 ]; then pass "$name: $rate% of a copy"; else fail "$name: ${rate:-?}% of a copy"; fi
  grep -e ceilings -e 'COUNT' "$out"; echo "$line"
done < <(there kernel)

heading "Products of Qwen2.5-7B: our algorithm within 2% of the best of all, each in its turn on the plan's operands; its launches add up to within 3% of what they take one behind the other, all measured in one go"
while read -r name _; do
  for m in $rows; do
    out=results/$name.$m.txt
    timeout 300 "$sliderun" tune "plans/$name.slide" --shape m=$m >"$out" 2>&1 || { fail "$name M=$m: tune"; tail -n 5 "$out"; continue; }
    timeout 200 "$sliderun" bench "plans/$name.slide" --device cuda --shape m=$m --duration $seconds --operators --algorithms >"$out.bench" 2>&1 || { fail "$name M=$m: bench"; tail -n 5 "$out.bench"; continue; }
    read -r time tflops dense < <(awk '/, cu(SPARSE|BLAS)Lt$/ { print $2, $4, $5 }' "$out.bench")
    read -r own best ratio tried < <(awk 'found { print $1, $2, $3, $4; exit } /OWN µs/ { found = 1 }' "$out.bench")
    sum=$(sed -n 's/.* µs, \([0-9.]*\) of what all take.*/\1/p' "$out.bench")
    said="$name M=$m: $time µs, $tflops TFLOPS, $dense of a large dense product; beside the others $own µs, best of $tried $best µs; launches add up to $sum of them all"
    if awk -v t="$tried" -v r="$ratio" -v s="$sum" 'BEGIN { exit !(t > 1 && r <= 1.02 && s >= 0.97 && s <= 1.03) }'; then pass "$said"; else fail "$said"; fi
  done
done < <(there gemm)

heading "compute-sanitizer"
if command -v compute-sanitizer >/dev/null; then
  while read -r name model; do
    shape=$(of_model shapes "$model"); shape=$(first "$shape")
    for tool in memcheck racecheck; do
      out=results/$name.$tool.txt
      # The driver's answers that programs ask for are no errors; racecheck itself fails in the libraries' kernels.
      case $tool in
        memcheck) options=(--report-api-errors no) command=(run "plans/$name.slide" --random --device cuda) ;;
        racecheck) options=() command=(check "plans/$name.slide" --kernels --rounds 1) ;;
      esac
      timeout $patience compute-sanitizer --tool $tool "${options[@]}" --error-exitcode 9 "$sliderun" "${command[@]}" --shape "$shape" >"$out" 2>&1
      code=$?
      summary=$(grep -m1 SUMMARY "$out" | sed 's/^=* *//')
      if [ $code = 0 ] && [ -n "$summary" ]; then pass "$tool $name: $summary"
      else fail "$tool $name: exit code $code, $summary"; grep -A10 -e Invalid -e hazard -e Error -e WRONG -e '^sliderun: ' "$out" | head -n 30; fi
    done
  done < <(there check | if [ -n "$quick" ]; then grep -e minilm-bf16 -e minilm-int8-6x8; else cat; fi)
else
  echo "left out: compute-sanitizer is not on the PATH"
fi

plan=$(there check | awk '/minilm-int8-6x8/ { print $1; exit }')
if [ -n "$plan" ]; then
  heading "$churn runs over 200 shapes leave nothing behind"
  out=results/churn.txt
  if timeout 600 "$sliderun" churn "plans/$plan.slide" --largest batch_size=8,sequence_length=128 --runs $churn >"$out" 2>&1; then
    pass "$plan"
  else
    fail "$plan"
  fi
  sed 's/^/       /' "$out"
fi

heading "What is missing is said"
plan=$(there check | awk '/6x8/ { print $1; exit }')
[ -n "$plan" ] || plan=$(there check | awk '{ print $1; exit }')
empty=$here/results/empty; mkdir -p "$empty"
# Runs a command that must fail with exit code 1 and say what is expected.
refused() {
  local what=$1 expected=$2 code said; shift 2
  said=$("$@" 2>&1); code=$?
  if [ $code = 1 ] && grep -q -e "$expected" <<<"$said"; then pass "$what: $(grep -m1 -e "$expected" <<<"$said" | cut -c1-160)"; else fail "$what: exit code $code: $said"; fi
}
run=("$sliderun" run "plans/$plan.slide" --random)
refused "no such GPU" 'there is no device cuda:99' "${run[@]}" --device cuda:99
refused "no GPU visible" 'no CUDA device' env CUDA_VISIBLE_DEVICES= "${run[@]}" --device cuda
bare=(env -u LD_LIBRARY_PATH -u VIRTUAL_ENV -u CONDA_PREFIX SLIDERUN_CUDA_PATH="$empty" PATH="$empty" HOME="$empty")
found=$("${bare[@]}" "$sliderun" devices)
for library in cuSPARSELt cuBLASLt; do
  needs=$(there check | while read -r name _; do "$sliderun" inspect "plans/$name.slide" | grep -q "$library" && echo "$name" && break; done)
  if grep -q "^$library: version" <<<"$found"; then
    echo "left out: this machine has $library where it is always found"
  elif [ -n "$needs" ]; then
    # Without it a plan runs its dense variant, if it has one.
    variant=(); [ "$library" = cuSPARSELt ] && variant=(--variant sparse)
    refused "no $library" "$library (lib.*was not found. Looked in" "${bare[@]}" "$sliderun" run "plans/$needs.slide" --random --device cuda "${variant[@]}"
  fi
done
if [ -x "$slidec" ] && "$models" product 64 64 f32 results/small.onnx; then
  "$slidec" compile results/small.onnx -o results/cpu.slide >/dev/null 2>&1
  refused "a plan for the CPU" 'compiled for the CPU alone' "$sliderun" run results/cpu.slide --random --device cuda
  if "$slidec" compile results/small.onnx -o results/other.slide --target sm_75 >/dev/null 2>&1 || "$slidec" compile results/small.onnx -o results/other.slide --target sm_120 >/dev/null 2>&1; then
    refused "a plan for another GPU" 'the plan has no kernels for' "$sliderun" run results/other.slide --random --device cuda
  fi
fi

if command -v python3 >/dev/null && python3 -c 'import torch' 2>/dev/null && [ -e models/minilm.onnx ] && [ -e torch_compile.py ]; then
  heading "torch.compile on the same GPU"
  timeout 280 python3 torch_compile.py models/minilm.onnx --batch 1 --sequence 128
  best=$(awk '$2 == "batch_size=1,sequence_length=128" && (!best || $4 < best) { best = $4 } END { print best }' results/latency.txt)
  echo "the fastest of our plans, 1×128, graph replay: $best µs"
fi

heading "End"
command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=clocks.sm,clocks.mem,power.draw,temperature.gpu --format=csv,noheader
echo "$passed passed, $failed failed"
if [ $failed = 0 ]; then echo PASS; else echo FAIL; exit 1; fi
