from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pets import templates
from pets.errors import GalleryError, ModelError, ModelMismatch, TemplateError
from pets.params import norm_bound, scale
from pets.templates import (
    ModelSpec,
    check_same_model,
    load_templates,
    quantise,
    quantise_rows,
    read_model_spec,
    save_templates,
    sidecar_path,
    unit_templates,
)

SFACE = ModelSpec("ab" * 32, "cd" * 32, "similarity-5-landmarks-112-v1", 128, 248)


def unit_rows(n: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).normal(size=(n, dim))
    unit: NDArray[np.float32] = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def reference(rows: NDArray[Any]) -> list[list[int]]:
    """The definition, entry by entry; Python's round is half to even."""
    s = scale(rows.shape[1])
    return [[max(-127, min(127, round(s * float(x)))) for x in row] for row in rows]


@given(seed=st.integers(0, 2**32), dim=st.sampled_from([8, 64, 128, 512, 1024]), peak=st.floats(0, 50))
@settings(max_examples=60, deadline=None)
def test_quantisation_is_the_definition(seed: int, dim: int, peak: float) -> None:
    rows = np.random.default_rng(seed).normal(size=(3, dim))
    rows[:, 0] += peak  # so that the largest entry is clipped
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    for dtype in (np.float32, np.float64):
        got = quantise(rows.astype(dtype))
        assert got.dtype == np.int8
        assert got.tolist() == reference(rows.astype(dtype))
        assert (got.astype(np.int64) ** 2).sum(axis=1).max() <= norm_bound(dim)


def test_halves_are_rounded_to_even() -> None:
    s = scale(64)
    row = np.zeros(64)
    row[:4] = np.array([0.5, 1.5, 2.5, -2.5]) / s
    row[4] = np.sqrt(1 - (row**2).sum())
    assert quantise(row)[:4].tolist() == [0, 2, 2, -2]


def test_chunks_do_not_show_in_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unit_rows(25, 64)
    whole = quantise_rows(rows)
    monkeypatch.setattr(templates, "CHUNK_ROWS", 7)
    done: list[int] = []
    assert np.array_equal(quantise_rows(rows, progress=done.append), whole)
    assert done == [7, 7, 7, 4]


def test_an_error_names_the_row_counted_over_all_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "CHUNK_ROWS", 7)
    rows = unit_rows(25, 64)
    rows[16] *= 2
    with pytest.raises(TemplateError, match=r"row 16 of gallery has norm 2, it must be 1 ± 0.001"):
        quantise_rows(rows, name="gallery")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.astype(np.float16), "must be float32 or float64, got float16"),
        (lambda r: r.astype(">f4"), "must be float32 or float64, got >f4"),
        (lambda r: r.astype(object), "must be float32 or float64, got object"),
        (lambda r: r[None], r"shape \(d,\) or \(n, d\), got \(1, 4, 64\)"),
        (lambda r: r[0, 0].reshape(()), r"shape \(d,\) or \(n, d\), got \(\)"),
        (lambda r: r[:, :63], r"shape \(4, 63\): .* multiple of 8 from 8 to 1024, got 63"),
        (lambda r: np.tile(r, (1, 17)), "multiple of 8 from 8 to 1024, got 1088"),
        (lambda r: r[:, :0], "multiple of 8 from 8 to 1024, got 0"),
        (lambda r: r * 1.002, r"row 0 of x has norm 1\.002, it must be 1 ± 0\.001"),
        (lambda r: r.astype(np.float64) * 1e300, "row 0 of x has norm inf"),
    ],
)
def test_what_is_no_unit_template_is_refused(change: Any, message: str) -> None:
    with pytest.raises(TemplateError, match=message):
        unit_templates(change(unit_rows(4, 64)), name="x")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named_with_its_place(value: float) -> None:
    rows = unit_rows(4, 64)
    rows[2, 5] = value
    with pytest.raises(TemplateError, match=rf"row 2 of x has {value} at entry 5"):
        unit_templates(rows, name="x")


def test_a_zero_vector_is_refused() -> None:
    rows = unit_rows(4, 64)
    rows[3] = 0
    with pytest.raises(TemplateError, match="row 3 of x is the zero vector"):
        unit_templates(rows, name="x")


def test_a_row_that_rounding_makes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "norm_bound", lambda dim: 100)
    with pytest.raises(TemplateError, match=r"row 0 of x has squared norm \d+ after rounding, the limit is 100"):
        quantise_rows(unit_rows(1, 64), name="x")


def test_valid_templates_are_returned_as_they_are() -> None:
    rows = unit_rows(4, 64)
    assert unit_templates(rows, name="x") is rows
    assert quantise(rows[0]).shape == (64,)


def test_templates_and_their_model_come_back_from_disk(tmp_path: Path) -> None:
    rows = unit_rows(3, 128)
    path = tmp_path / "photos.npy"
    save_templates(path, rows, SFACE, ["a.jpg", "b.jpg", "ç.jpg"])
    loaded = load_templates(path, what="gallery")
    assert isinstance(loaded, np.memmap)
    assert np.array_equal(loaded, rows)
    assert read_model_spec(path) == SFACE
    assert "ç.jpg" in sidecar_path(path).read_text(encoding="utf-8")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos.npy", "photos.npy.model.json"]


def test_a_file_without_sidecar_has_an_unknown_model(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", unit_rows(3, 128))
    assert read_model_spec(tmp_path / "x.npy") is None


def test_a_sidecar_of_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    save_templates(path, unit_rows(3, 128), SFACE, ["a", "b", "c"])
    np.save(path, unit_rows(4, 128))
    with pytest.raises(ModelError, match=r"written for templates of shape \(3, 128\), x.npy has \(4, 128\)"):
        read_model_spec(path)


def _sidecar_with_scale(value: int) -> str:
    return f'{{"model": {SFACE.to_json()}, "photos": []}}'.replace("248", str(value))


def test_a_damaged_sidecar_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, unit_rows(3, 128))
    for text in ("", "{}", '{"model": {"dim": "x"}, "photos": []}', "\xff", _sidecar_with_scale(500)):
        sidecar_path(path).write_text(text, encoding="latin-1")
        with pytest.raises(ModelError, match="cannot be read"):
            read_model_spec(path)


def test_files_that_are_no_arrays_are_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.npy"
    with pytest.raises(GalleryError, match=r"gallery .*bad\.npy does not exist"):
        load_templates(bad, what="gallery")
    with pytest.raises(GalleryError, match="is not a file"):
        load_templates(tmp_path, what="gallery")
    np.save(tmp_path / "whole.npy", unit_rows(3, 128))
    for content in (b"", b"no array at all, but long enough", (tmp_path / "whole.npy").read_bytes()[:-4]):
        bad.write_bytes(content)
        with pytest.raises(GalleryError, match=r"is not a \.npy file of numbers"):
            load_templates(bad, what="gallery")


def test_a_pickled_array_is_never_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    np.save(tmp_path / "p.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(GalleryError, match="Python objects"):
        load_templates(tmp_path / "p.npy", what="probe")
    assert not (tmp_path / "ran").exists()


def test_a_file_of_another_type_or_shape_is_refused(tmp_path: Path) -> None:
    for array, message in ((np.zeros((2, 8), np.int32), "got int32"), (np.zeros((2, 2, 8)), "got \\(2, 2, 8\\)")):
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(TemplateError, match=message):
            load_templates(tmp_path / "x.npy", what="gallery")


def test_every_field_of_the_identity_is_in_its_digest() -> None:
    other = [
        ModelSpec("00" * 32, SFACE.embedder_sha256, SFACE.alignment, 128, 248),
        ModelSpec(SFACE.detector_sha256, "00" * 32, SFACE.alignment, 128, 248),
        ModelSpec(SFACE.detector_sha256, SFACE.embedder_sha256, "v2", 128, 248),
        ModelSpec(SFACE.detector_sha256, SFACE.embedder_sha256, SFACE.alignment, 512, 497),
    ]
    assert len({SFACE.digest(), *(spec.digest() for spec in other)}) == 5
    assert len(SFACE.digest()) == 32
    for spec in other:
        with pytest.raises(ModelMismatch, match=r"the probe comes from .* the gallery from"):
            check_same_model(SFACE, spec)


def test_equal_and_unknown_models_pass() -> None:
    check_same_model(SFACE, ModelSpec.from_json(SFACE.to_json()))
    check_same_model(SFACE, None)
    check_same_model(None, SFACE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"detector_sha256": "AB" * 32}, "64 lower-case hex digits"),
        ({"embedder_sha256": "ab"}, "64 lower-case hex digits"),
        ({"alignment": "a|b"}, "alignment version"),
        ({"dim": 12}, "multiple of 8"),
        ({"scale": 500}, "scale at dimension 128 is 248, got 500"),
        ({"dim": "128"}, "not a model specification"),
    ],
)
def test_an_impossible_identity_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ModelSpec.from_json(json.dumps({**json.loads(SFACE.to_json()), **change}))
