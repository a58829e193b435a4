"""Every disturbance of the test inputs that ``evaluate.perturbations`` may name; `measurers/robustness.py` has them."""

from __future__ import annotations

PERTURBATION = "perturbation"  # the slices of all examples, disturbed, are named as if this were a column
PERTURBATIONS: dict[str, str] = {
    "gaussian_noise": "normal noise; strength: its standard deviation, as a share of that of the test inputs",
    "brightness": "each example lighter or darker as a whole; strength: by which share of the inputs' range",
    "shift": "each example moved, its edge repeated; strength: by at most which share of height and width, or of time",
    "dropout": "pixels (all channels) or frames set to zero; strength: which share of them",
}
