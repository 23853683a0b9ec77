"""Photos of one person are fused into one template; one that does not look like the others is named."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from nodes.cli.demo_photos import demo_photos
from pets.errors import OddPhoto, TemplateError
from pets.faces import FaceModel
from pets.fusion import ODD_BELOW, fuse
from pets.templates import unit_templates


def photos_of(rng: np.random.Generator, people: int, each: int, cosine: float = 0.66) -> NDArray[np.float32]:
    """(people, each, 128) unit vectors: photos of one person have this cosine with each other, about."""
    centres = rng.standard_normal((people, 1, 128))
    noise = rng.standard_normal((people, each, 128))
    wide = np.sqrt(cosine) * centres + np.sqrt(1 - cosine) * noise
    return (wide / np.linalg.norm(wide, axis=2, keepdims=True)).astype(np.float32)


def test_the_mean_is_a_unit_vector_and_closer_to_a_further_photo_than_one_photo_is() -> None:
    photos = photos_of(np.random.default_rng(1), 200, 4)
    fused = np.stack([fuse(person[:3], ["a", "b", "c"]) for person in photos])
    unit_templates(fused, name="fused")
    one, three = (np.einsum("ij,ij->i", rows, photos[:, 3]).mean() for rows in (photos[:, 0], fused))
    assert three > one + 0.08


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_a_wrong_face_among_others_is_named(place: int) -> None:
    rng = np.random.default_rng(2)
    photos = photos_of(rng, 2, 4)
    mixed = photos[0].copy()
    mixed[place] = photos[1, 0]
    names = [f"photo-{index}.jpg" for index in range(4)]
    with pytest.raises(OddPhoto, match=f"photo-{place}.jpg does not look like the other photos") as caught:
        fuse(mixed, names)
    assert caught.value.places == (place,)
    fuse(photos[0], names)  # the control


def test_of_two_photos_that_differ_both_are_named() -> None:
    photos = photos_of(np.random.default_rng(3), 2, 1)[:, 0]
    with pytest.raises(OddPhoto, match=r"a\.jpg and b\.jpg do not look like one person") as caught:
        fuse(photos, ["a.jpg", "b.jpg"])
    assert caught.value.places == (0, 1)


def test_one_photo_is_itself_and_none_is_refused() -> None:
    photo = photos_of(np.random.default_rng(4), 1, 1)[0]
    assert np.allclose(fuse(photo, ["a"]), photo[0], atol=1e-6)
    with pytest.raises(TemplateError):
        fuse(photo[:0], [])


def test_real_photos_of_one_man_are_alike_and_another_man_is_odd() -> None:
    model, demo = FaceModel.load(provider="cpu"), demo_photos()
    same = [demo.obama, demo.obama2, demo.obama3]
    units = np.stack([model.embed(path).template for path in (*same, demo.biden)])
    fuse(units[:3], [path.name for path in same])
    with pytest.raises(OddPhoto, match=demo.biden.name):
        fuse(units, [*(path.name for path in same), demo.biden.name])
    assert ODD_BELOW == 0.36
