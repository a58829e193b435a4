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

# Names in angle brackets are filled in. What they come to for a suite at the repository's root is templates/github/.
JUDGING = """\
# Judges every change. Nothing in it may write but the job of <branch>: docs/github.md
name: <workflow>

on:
  push:
    branches: [<branch>]
  pull_request:
  merge_group:
  workflow_dispatch:

permissions:
  contents: read

concurrency:
  # A newer push to a pull request ends the older run; on <branch> every commit is recorded.
  group: ${{ github.workflow }}-${{ github.event_name == 'push' && github.sha || github.ref }}
  cancel-in-progress: true

env:
  SUITE: "<folder>"

jobs:
  gate:
    if: github.event_name != 'push'
    runs-on: ubuntu-latest
    timeout-minutes: 60
    steps:
      - uses: actions/checkout@v5
        with:
          fetch-depth: 0 # the baseline is found among older commits
          persist-credentials: false
      - uses: compression-gate/compression_gate@v1
        with:
          suite: ${{ env.SUITE }}
          token: "" # the workflow that follows tells, with a token that this job does not see

  # On <branch> the same, and what was judged is recorded: later commits are held against it.
  record:
    if: github.event_name == 'push'
    runs-on: ubuntu-latest
    timeout-minutes: 60
    permissions:
      contents: write # refs/compression-gate/runs
    steps:
      - uses: actions/checkout@v5
        with:
          fetch-depth: 0
          persist-credentials: false
      - uses: compression-gate/compression_gate@v1
        with:
          suite: ${{ env.SUITE }}
          token: "" # the workflow that follows tells, with a token that this job does not see
      # A failed run is recorded as failed: no later commit is held against it.
      - if: ${{ !cancelled() }}
        env:
          GITHUB_TOKEN: ${{ github.token }}
        run: |
          git config credential.helper '!f() { echo username=token; echo "password=$GITHUB_TOKEN"; }; f'
          compression-gate record --push -C "$SUITE"
"""

TELLING = """\
# Tells on the pull request what the workflow that it follows judged, also of a fork: docs/github.md
name: <workflow>-post

on:
  workflow_run: # zizmor: ignore[dangerous-triggers] runs no code of a pull request; of it, one checked file is read
    workflows: [<workflow>]
    types: [requested, completed]

permissions: {}

# One after the other for one commit: a check run is opened before it is completed.
concurrency:
  group: ${{ github.workflow }}-${{ github.event.workflow_run.head_sha }}
  cancel-in-progress: false

jobs:
  post:
    runs-on: ubuntu-latest
    timeout-minutes: 10
    permissions:
      actions: read # the upload
      checks: write # the check run
      pull-requests: write # the comment
    steps:
      - uses: compression-gate/compression_gate/post@v1
        with:
          suites: "<suite>" # the suite's folder; for the root, the repository
"""
