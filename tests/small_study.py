"""The file of a small study of two cells, with its sources in folders beside it."""

STUDY = """\
apiVersion: scaling-study.dev/v1alpha1
kind: ScalingStudy
metadata: {name: small}
spec:
  store: store
  grid: {sizes: ["0.03M"], codePercent: [0, 50], seeds: [1]}
  data:
    tokenizer: {train: {vocabulary: 1024, bytes: 1M, weights: {text: 50, code: 50}}}
    sources:
    - {name: text, group: text, path: text}
    - {name: code, group: code, path: code}
  training: {sequenceLength: 128, precision: fp32, schedule: {warmup: 8K}}
  recipes:
  - name: scratch
    stages:
    - {name: pretrain, tokens: 100K, mixture: {codePercent: grid, code: {code: 100}, text: {text: 100}}}
  evaluation: {after: [pretrain], suites: [bpb]}
  budget: {gpuHours: 10}
"""
