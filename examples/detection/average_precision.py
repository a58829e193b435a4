"""Mean average precision of a detector, told example by example, so that the gate can say how sure it is.

mAP is no mean over images: all detections of a class are ranked together. The gate takes a scorer's figure to be the
mean of one score an example, and asks how much that mean varies. So each image's score here is the mAP of all images
plus what this one adds to it: (n − 1) times what is lost when it is left out, less the mean of that over all images.
The scores' mean is exactly the mAP, and the spread of that mean is the mAP's own, to first order. The mean over a slice
of the images would not be the mAP of the slice: the data have no columns to make slices of.

Source: J. Tukey, Bias and confidence in not-quite large samples, Annals of Mathematical Statistics 29, 1958 (the
    jackknife's pseudo-values; the correction of bias is left out, or the mean would not be the mAP). Average precision:
    M. Everingham et al., The Pascal Visual Object Classes Challenge: A Retrospective, 2015, section 3.4.1.
"""

from __future__ import annotations

import numpy as np
import torch
from detector import CLASSES, decoded
from scenes import NOTHING, overlaps
from torch import Tensor

RIGHT = 0.5  # least overlap of a detection with its item
SAME = 0.45  # from this overlap on, the weaker of two detections of one class is dropped
LEAST = 0.02  # a detection's least probability
MOST = 40  # detections of an image that are looked at
CELLS = 4_000_000  # numbers held at a time while images are left out


def score(outputs: Tensor, items: Tensor) -> dict[str, Tensor]:
    """Return ``mAP``, a score for each image ``(N,)``, from answers ``(N, 240, 15)`` and items ``(N, 4, 5)``."""
    ranked, found, image = [], [], []
    labels = []
    for index, (answers, own) in enumerate(zip(outputs, items, strict=True)):
        classes, confidence, boxes = detections(answers)
        labels.append(classes)
        ranked.append(confidence)
        found.append(hits(classes, boxes, own[own[:, 0] != NOTHING]))
        image.append(torch.full((len(classes),), index))
    every = [torch.cat(parts).numpy() for parts in (labels, ranked, found, image)]
    there = np.stack([(items[..., 0] == label).sum(1).numpy() for label in range(CLASSES)])
    whole, without = np.zeros(CLASSES), np.zeros((CLASSES, len(items)))
    for label in range(CLASSES):
        inside = every[0] == label
        order = np.argsort(-every[1][inside], kind="stable")
        whole[label], without[label] = left_out(every[2][inside][order], every[3][inside][order], there[label])
    seen = there.sum(1) > 0
    mean, others = whole[seen].mean(), without[seen].mean(0)
    return {"mAP": torch.from_numpy(mean + (len(items) - 1) * (others.mean() - others))}


def detections(answers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Classes, probabilities and boxes of one image's answers ``(240, 15)``, the most probable first."""
    probabilities = answers[:, 4:].softmax(1)[:, 1:]
    confidence, order = probabilities.flatten().topk(MOST)
    order = order[confidence >= LEAST]
    confidence = confidence[: len(order)]
    classes, boxes = order % CLASSES, decoded(answers[:, :4])[order // CLASSES]
    close = (overlaps(boxes, boxes) > SAME) & (classes[:, None] == classes)
    kept: list[int] = []
    for place in range(len(order)):
        if not close[place, kept].any():
            kept.append(place)
    return classes[kept], confidence[kept], boxes[kept]


def hits(classes: Tensor, boxes: Tensor, items: Tensor) -> Tensor:
    """Which detections, the most probable first, find an item ``(M, 5)`` that none before them has found."""
    shared = overlaps(boxes, items[:, 1:]).masked_fill(classes[:, None] != items[:, 0], 0)
    right = torch.zeros(len(boxes), dtype=torch.bool)
    taken: set[int] = set()
    for place, row in enumerate(shared):
        if len(row) and float(row.max()) >= RIGHT and int(row.argmax()) not in taken:
            taken.add(int(row.argmax()))
            right[place] = True
    return right


def left_out(right: np.ndarray, image: np.ndarray, there: np.ndarray) -> tuple[float, np.ndarray]:
    """Average precision of one class over all images, and without each of them ``(N,)``.

    Args:
        right, image: ``(D,)`` of the ranked detections: whether they found an item, and in which image.
        there: ``(N,)`` items of this class in each image.
    """
    count = len(there)
    without = np.empty(count)
    step = max(1, CELLS // max(len(right), 1))
    for start in range(0, count, step):
        chosen = np.arange(start, min(start + step, count))
        stays = image != chosen[:, None]
        without[chosen] = area(right & stays, stays, there.sum() - there[chosen])
    return float(area(right[None], np.ones((1, len(right)), dtype=bool), there.sum()[None])[0]), without


def area(right: np.ndarray, counted: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Areas ``(B,)`` under precision against recall, precision made to fall only; 0 where there are no items.

    Args:
        right, counted: ``(B, D)`` which of the ranked detections found an item, and which count at all.
        items: ``(B,)`` how many there are to find.
    """
    if not right.shape[1]:
        return np.zeros(len(items))
    precision = right.cumsum(1) / np.maximum(counted.cumsum(1), 1)
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return (precision * right).sum(1) / np.maximum(items, 1)
