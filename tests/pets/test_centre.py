"""A centre is subtracted from every template, and is part of the model's specification."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from nodes.cli.demo_photos import demo_photos
from pets.centre import CENTRE_FILE, centred, load_centre, mean_of
from pets.errors import ModelError, ModelMismatch, ParameterError
from pets.faces import FaceModel
from pets.synthetic import synthetic_templates
from pets.templates import ModelSpec, check_same_model
from pets.thresholds import UNKNOWN, default_threshold
from pets.weights import default_models

PLAIN = ModelSpec("ab" * 32, "cd" * 32, "v1", 64, 176)
CENTRED = ModelSpec("ab" * 32, "cd" * 32, "v1", 64, 176, "ef" * 32)


def test_a_centre_takes_away_what_all_have_in_common() -> None:
    others, own = synthetic_templates(4000, 64, 1).astype(np.float64).reshape(2, 2000, 64)
    moved = centred(own, mean_of(others).astype(np.float64))
    assert np.linalg.norm(moved, axis=1) == pytest.approx(1)
    before, after = (rows[:1000] @ rows[1000:].T for rows in (own, moved))
    assert before.mean() > 0.08
    assert abs(after.mean()) < 0.01


def test_centred_templates_and_others_are_not_compared() -> None:
    check_same_model(CENTRED, ModelSpec.from_json(CENTRED.to_json()))
    with pytest.raises(ModelMismatch, match="centre efefefefefef"):
        check_same_model(PLAIN, CENTRED)
    assert PLAIN.digest() != CENTRED.digest()


def test_an_identity_from_before_there_were_centres_is_read_as_it_was() -> None:
    old = PLAIN.to_json().replace(',"centre_sha256":""', "")
    assert "centre" not in old
    assert ModelSpec.from_json(old) == PLAIN
    assert PLAIN.digest().hex() == "1a6de9d59afd26cc740f47d9eaed661ec8439b05a4bc21efe74f7481af524357"


@pytest.mark.parametrize(
    ("centre", "words"),
    [
        (np.zeros(32, np.float32), "must have shape (64,) for this model, got (32,)"),
        (np.full(64, 0.125, np.float32), "has norm 1, the limit is 0.9"),
        (np.full(64, np.nan, np.float32), "has norm nan"),
    ],
)
def test_a_file_that_is_no_centre_is_refused(tmp_path: Path, centre: np.ndarray, words: str) -> None:
    np.save(tmp_path / CENTRE_FILE, centre)
    with pytest.raises(ModelError) as caught:
        load_centre(tmp_path, 64)
    assert words in str(caught.value)


def test_a_mean_of_one_photo_is_no_centre() -> None:
    with pytest.raises(ModelError, match="not a mean over many people"):
        mean_of(synthetic_templates(1, 64, 1).astype(np.float64))


def test_a_model_folder_with_a_centre_subtracts_it(tmp_path: Path) -> None:
    for file in default_models().glob("*.onnx"):
        shutil.copy(file, tmp_path)
    plain = FaceModel.load(tmp_path, "cpu")
    photo = demo_photos().obama
    template = plain.embed(photo).template.astype(np.float64)
    mirrored = plain.embed(photo, mirrored=True).template
    assert 0.7 < template @ mirrored < 0.9999
    centre = np.random.default_rng(1).normal(size=128).astype(np.float32) / 40
    np.save(tmp_path / CENTRE_FILE, centre)
    model = FaceModel.load(tmp_path, "cpu")
    assert model.embed(photo).template == pytest.approx(centred(template, centre.astype(np.float64)), abs=1e-6)
    assert plain.spec.centre_sha256 == ""
    with pytest.raises(ModelMismatch):
        check_same_model(plain.spec, model.spec)
    assert default_threshold(plain.spec) == default_threshold(None) == UNKNOWN
    with pytest.raises(ParameterError, match="no default threshold for this model"):
        default_threshold(model.spec)
