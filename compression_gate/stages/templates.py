"""The texts that `init` writes."""

IGNORED = ("/models/reference/", "/models/candidate/", "/models/.*", "/reports/", "/releases/", ".compression_gate/")

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
  # A newer push to a pull request ends the older run; on main every commit is recorded.
  group: ${{{{ github.workflow }}}}-${{{{ github.event_name == 'push' && github.sha || github.ref }}}}
  cancel-in-progress: true
jobs:
  gate:
    runs-on: ubuntu-latest
    timeout-minutes: 60
    permissions:
      contents: write # what main's job judged is recorded in refs/compression-gate/runs; forks get read-only tokens
    steps:
      - uses: actions/checkout@v5
        with:
          fetch-depth: 0 # the baseline is found among older commits
      - uses: actions/setup-python@v6
        with:
          python-version: "3.12"
      # Artifacts of earlier runs, baselines among them; a DVC remote does as well and keeps them longer.
      - uses: actions/cache@v5
        with:
          path: .dvc/cache
          key: dvc-${{{{ runner.os }}}}-${{{{ github.sha }}}}
          restore-keys: dvc-${{{{ runner.os }}}}-
      # Install a CPU build of torch first (see pytorch.org/get-started): the default one brings gigabytes of CUDA.
      - run: pip install compression-gate
      - run: compression-gate run -C {folder}
      # The report in the job's summary, the rules that do not pass in its log. A workflow_run job may post it on the
      # pull request, forks' too: docs/github.md of compression_gate.
      - run: |
          compression-gate post -C {folder} || true
          compression-gate post -C {folder} --to "$RUNNER_TEMP/upload" || true
        if: ${{{{ !cancelled() }}}}
      - uses: actions/upload-artifact@v6
        if: ${{{{ !cancelled() }}}}
        with:
          name: compression-gate-{name}
          path: ${{{{ runner.temp }}}}/upload/
          if-no-files-found: warn
      # Later commits are held against what main's runs were judged to be; a failed run is recorded as failed.
      - run: compression-gate record --push -C {folder}
        if: ${{{{ !cancelled() && github.event_name == 'push' }}}}
"""
