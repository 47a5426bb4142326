#!/usr/bin/env bash
# Complete pipeline on synthetic patients: cohort, shards, two segmenters, three stages, report, and one patient
# compressed to files. Research use only, not a medical device. Run by `make demo`. If interrupted, the same command
# continues.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${DEMO_OUTPUT:-demo_output}
mkdir -p "$out"
export ACCELERATE_USE_CPU=true TOKENIZERS_PARALLELISM=false
launch=(accelerate launch --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no)

echo "== 1/8 synthetic cohort"
python scripts/make_phantom.py --output_dir "$out/phantom" --patients 80 --size 144 --slices 5 --phases 10 --seed 7
echo "== 2/8 shards"
python scripts/convert_acdc_to_wds.py --input_dir "$out/phantom" --output_dir "$out/phantom_wds" --modality "4d_mri" \
    --val_fraction 0.05 --test_fraction 0.1
echo "== 3/8 segmenter of the model, and reference segmenter of the report"
for name in segmenter reference; do
    "${launch[@]}" scripts/train_mri_titok.py config=configs/demo/$name.yaml dataset.shards="$out/phantom_wds" \
        experiment.output_dir="$out/$name"
done
for stage in 1 2 3; do
    echo "== $((stage + 3))/8 stage $stage"
    options=(config=configs/demo/stage$stage.yaml dataset.shards="$out/phantom_wds")
    options+=(experiment.output_dir="$out/stage$stage")
    [ "$stage" = 1 ] || options+=(experiment.init_weight="$out/stage$((stage - 1))/checkpoint_last.pth")
    [ "$stage" != 2 ] || options+=(model.conditioning.weights="$out/segmenter/checkpoint_last.pth")
    "${launch[@]}" scripts/train_mri_titok.py "${options[@]}"
done
echo "== 7/8 32 tokens for a whole cine"
"${launch[@]}" scripts/train_mri_titok.py config=configs/demo/sequence.yaml dataset.shards="$out/phantom_wds" \
    experiment.init_weight="$out/stage1/checkpoint_last.pth" experiment.output_dir="$out/sequence"
echo "== 8/8 report on held-out patients"
python scripts/evaluate.py --model "$out/stage1" "$out/sequence" "$out/stage2" "$out/stage3" \
    --segmenter "$out/reference" --data "$out/phantom_wds" --split test --output_dir "$out/report"
codecs=()
if python -c "import av" 2>/dev/null; then  # PyAV is optional
    codecs=(x265 --codec_option 'x265.ladder=[22,30,38,46]')
fi
python scripts/compare_codecs.py --model "$out/stage1" "$out/sequence" "$out/stage3" configs/ladder_mini \
    --field_of "$out/stage3" --segmenter "$out/reference" --data "$out/phantom_wds" --split test --limit 4 \
    --steps 0.1 0.25 0.6 --codecs ${codecs[@]+"${codecs[@]}"} --output_dir "$out/report/codecs"
patient=$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["split"]["test"][0])' \
    "$out/phantom_wds/manifest.json")
python scripts/compress.py "$out/phantom/$patient/${patient}_4d.nii.gz" "$out/$patient.tmri" \
    --model "$out/stage3" --force
python scripts/inspect_file.py "$out/$patient.tmri"
python scripts/decompress.py "$out/$patient.tmri" "$out/${patient}_decoded.nii.gz" --model "$out/stage3" --force
python scripts/compress.py "$out/phantom/$patient/${patient}_4d.nii.gz" "$out/${patient}_38dB.tmri" --psnr 38 --force
python scripts/decompress.py "$out/${patient}_38dB.tmri" "$out/${patient}_38dB.nii.gz" --force
echo "report: $out/report/index.html; models, a rate ladder and the codec x265: $out/report/codecs/index.html"
