"""The texts that `init` writes."""

IGNORED = ("/models/reference/", "/models/candidate/", "/models/.*", "/reports/", ".compression_gate/")

PARAMS_TEXT = """\
# What is compressed, how, and what it may cost. `compression-gate list` names every method, metric and rule.
task:
  model: {model}
  data: {data}
{optional}train: {{epochs: 4, batch_size: 128, learning_rate: 0.003, seed: 0}}
compress:
  steps:
    - {{method: structured_pruning, pruning_ratio: 0.5, importance: l2}}
    - {{method: distillation, epochs: 2}}
    - {{method: static_quantization, bits: 8}}
gate:
{quality}  min_compression_ratio: 4
  max_latency_increase: "5%"
"""

WORKFLOW = """\
name: compression-gate {name}
on:
  push:
    branches: [main]
  pull_request:
  merge_group:
  workflow_dispatch:
permissions:
  contents: read
concurrency:
  group: ${{{{ github.workflow }}}}-${{{{ github.ref }}}}
  cancel-in-progress: true
jobs:
  gate:
    runs-on: ubuntu-latest
    timeout-minutes: 60
    steps:
      - uses: actions/checkout@v5
        with:
          fetch-depth: 0
          persist-credentials: false
      - uses: actions/setup-python@v6
        with:
          python-version: "3.12"
      # Install a CPU build of torch first (see pytorch.org/get-started): the default one brings gigabytes of CUDA.
      - run: pip install compression-gate
      - run: compression-gate run -C {folder}
      - run: cat {folder}/reports/report.md >> "$GITHUB_STEP_SUMMARY"
        if: always()
"""
