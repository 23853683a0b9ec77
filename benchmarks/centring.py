"""What subtracting a mean template gains: measured on people whose photos are not in the mean.

    python -m benchmarks.centring --photos FOLDER --largest --json benchmarks/results/centring.json
    python -m benchmarks.centring --embeddings FILE.npy --labels FILE        templates; no mirror images then

In each draw half of the people, at random, give the mean, of their photos and the mirror images. Misses at each false
match rate are counted on the other half, with the mean subtracted and without. FOLDER holds a folder a person.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import machine

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--photos", type=Path)
parser.add_argument("--embeddings", type=Path)
parser.add_argument("--labels", type=Path)
parser.add_argument("--models", type=Path, help="folder of ONNX files; default: YuNet and SFace")
parser.add_argument("--largest", action="store_true", help="with several faces, take the largest")
parser.add_argument("--draws", type=int, default=40)
parser.add_argument("--seed", type=int, default=1)
parser.add_argument("--json", type=Path)
options = parser.parse_args()
machine.prepare()

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402
from rich.console import Console  # noqa: E402

from nodes.calibrate.sample import Sample, from_photos, from_templates  # noqa: E402
from pets.centre import centred, mean_of  # noqa: E402

FMRS = (1e-2, 1e-3, 1e-4)
LEAST = 3  # false matches: a rate of fewer is not measurable
Floats = npt.NDArray[np.float64]


def samples() -> tuple[Sample, Sample | None]:
    """The sample, and that of the mirror images if there are photos."""
    console = Console(stderr=True)
    if options.photos is None:
        if options.embeddings is None or options.labels is None:
            parser.error("give either --photos, or --embeddings with --labels")
        return from_templates(options.embeddings, options.labels, None, options.seed), None
    from pets.faces import FaceModel

    model = FaceModel.load(options.models)
    plain, mirror = (
        from_photos(options.photos, model, options.seed, largest=options.largest, console=console, mirrored=mirrored)
        for mirrored in (False, True)
    )
    return plain, mirror


def misses(templates: Floats, people: npt.NDArray[Any]) -> dict[float, float]:
    """By false match rate, the share of genuine pairs below the threshold that keeps it; none below 3 in all pairs."""
    later = np.triu(np.ones((len(people), len(people)), bool), 1)
    same = people[:, None] == people[None, :]
    scores = templates @ templates.T
    genuine, impostor = scores[later & same], np.sort(scores[later & ~same])[::-1]
    found = {}
    for fmr in FMRS:
        if fmr * len(impostor) < LEAST:
            continue
        allowed = int(fmr * len(impostor))  # so many may lie at or above the threshold
        found[fmr] = float((genuine <= impostor[allowed]).mean())
    return found


def main() -> None:
    plain, mirror = samples()
    people = plain.people
    rng = np.random.default_rng(options.seed)
    without: list[dict[float, float]] = []
    with_: list[dict[float, float]] = []
    for _ in range(options.draws):
        given = rng.permutation(len(plain.names))[: len(plain.names) // 2]
        averaged = plain.templates[np.isin(people, given)]
        if mirror is not None:
            names = np.array(mirror.names)[mirror.people]
            averaged = np.concatenate([averaged, mirror.templates[np.isin(names, np.array(plain.names)[given])]])
        others = ~np.isin(people, given)
        centre = mean_of(averaged).astype(np.float64)
        without.append(misses(plain.templates[others], people[others]))
        with_.append(misses(centred(plain.templates[others], centre), people[others]))
    result = {
        "machine": machine.describe(2),
        "people": len(plain.names),
        "photos": len(plain.templates),
        "mirror_images": mirror is not None,
        "draws": options.draws,
        "fmr": [
            {
                "fmr": fmr,
                "misses": float(np.mean([draw[fmr] for draw in without])),
                "misses_centred": float(np.mean([draw[fmr] for draw in with_])),
                "lower": float(np.mean([b[fmr] < a[fmr] for a, b in zip(without, with_, strict=True)])),
                "higher": float(np.mean([b[fmr] > a[fmr] for a, b in zip(without, with_, strict=True)])),
            }
            for fmr in FMRS
            if all(fmr in draw for draw in without)
        ],
        "not_measurable": [fmr for fmr in FMRS if any(fmr not in draw for draw in without)],
    }
    text = json.dumps(result, indent=2)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
