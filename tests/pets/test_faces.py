from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from nodes.casework.quality import assess
from nodes.cli.demo_photos import DemoPhotos, demo_photos
from nodes.cli.embed import run_embed
from pets import batches
from pets import photos as photo_limits
from pets.errors import (
    FaceTooSmall,
    InputError,
    ModelError,
    NoFace,
    ParameterError,
    PhotoError,
    SeveralFaces,
    UnreadablePhoto,
)
from pets.faces import Embedded, FaceModel
from pets.photos import list_photos, read_photo
from pets.templates import load_templates, quantise, read_model_spec, unit_templates
from pets.weights import DETECTOR, EMBEDDER, default_models

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> FaceModel:
    return FaceModel.load(provider="cpu")


@pytest.fixture(scope="module")
def demo() -> DemoPhotos:
    return demo_photos()


def save_resized(source: Path, target: Path, factor: float) -> Path:
    with Image.open(source) as image:
        size = (round(image.width * factor), round(image.height * factor))
        image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(target)
    return target


def test_one_man_scores_high_and_two_men_score_low(model: FaceModel, demo: DemoPhotos) -> None:
    same = [model.embed(path).template for path in (demo.obama, demo.obama2, demo.obama3)]
    other = [model.embed(path).template for path in (demo.biden, demo.tom_hanks)]
    unit_templates(np.stack(same + other), name="embedded")
    genuine = [float(same[i] @ same[j]) for i in range(3) for j in range(i)]
    impostor = [float(a @ b) for a in same for b in other] + [float(other[0] @ other[1])]
    assert min(genuine) > 0.6
    assert max(impostor) < 0.4


def test_box_score_and_size_of_a_face(model: FaceModel, demo: DemoPhotos) -> None:
    face = model.embed(demo.obama)
    left, top, right, bottom = face.box
    assert 300 < left < right < 680
    assert 50 < top < bottom < 480
    assert face.face_side == pytest.approx(min(right - left, bottom - top))
    assert 0.8 < face.score <= 1
    assert face.template.dtype == np.float32
    assert face.template.shape == (model.spec.dim,) == (128,)


def test_several_faces_are_counted_and_the_largest_can_be_chosen(model: FaceModel, demo: DemoPhotos) -> None:
    with pytest.raises(SeveralFaces, match=r"t1\.jpg: 6 faces found, 1 is needed"):
        model.embed(demo.six_faces)
    assert model.embed(demo.six_faces, largest=True).face_side == pytest.approx(118, abs=3)


def test_a_photo_without_a_face_says_so(model: FaceModel) -> None:
    for value in (0, 127, 255):
        with pytest.raises(NoFace, match="no face found"):
            model.embed(np.full((300, 400, 3), value, np.uint8))


def test_a_small_face_is_refused_with_its_size_and_the_limit(
    model: FaceModel, demo: DemoPhotos, tmp_path: Path
) -> None:
    small = save_resized(demo.obama, tmp_path / "small.png", 0.12)
    with pytest.raises(FaceTooSmall, match=r"small\.png: the face is (2|3)\d pixels wide, the limit is 40"):
        model.embed(small)


def test_a_face_that_fills_the_frame_and_one_lost_in_a_large_photo_are_found(
    model: FaceModel, demo: DemoPhotos
) -> None:
    image = read_photo(demo.obama)
    face = model.embed(image)
    left, top, right, bottom = (round(v) for v in face.box)
    closeup = np.repeat(np.repeat(image[top:bottom, left:right], 3, axis=0), 3, axis=1)
    assert model.embed(closeup).template @ face.template > 0.7
    crowd = np.full((3000, 4000, 3), 127, np.uint8)
    crowd[1000 : 1000 + 285, 2000 : 2000 + 228] = image[::4, ::4]
    assert model.embed(crowd).template @ face.template > 0.7


def test_the_largest_of_several_says_of_how_many(model: FaceModel, demo: DemoPhotos) -> None:
    assert model.embed(demo.six_faces, largest=True).faces == 6
    assert model.embed(demo.obama, largest=True).faces == 1


def test_a_bystander_far_behind_is_not_counted(model: FaceModel, demo: DemoPhotos) -> None:
    image = read_photo(demo.obama).copy()
    image[700:842, 20:134] = image[::8, ::8][:142, :114]  # a face of 30 pixels beside one of 242
    assert model.embed(image).face_side > 200


def test_exif_orientation_is_respected(model: FaceModel, demo: DemoPhotos, tmp_path: Path) -> None:
    with Image.open(demo.obama) as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # to be shown turned by 90° clockwise
        image.rotate(90, expand=True).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    assert model.embed(tmp_path / "turned.jpg").template @ model.embed(demo.obama).template > 0.95


@pytest.mark.parametrize(("turns", "who"), [(1, "obama"), (1, "biden"), (2, "obama2"), (3, "tom_hanks"), (3, "biden")])
def test_a_photo_on_its_side_or_on_its_head_gives_the_same_template(
    turns: int, who: str, model: FaceModel, demo: DemoPhotos, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the trying, the control, the face is not found, or found and somebody else's."""
    image = read_photo(getattr(demo, who))
    upright = model.embed(image)
    quality = assess(image, upright)
    turned = np.ascontiguousarray(np.rot90(image, -turns))
    face = model.embed(turned)
    assert face.turned == turns
    assert face.template @ upright.template > 0.98
    assert sorted(face.box)[0] >= -20
    assert face.face_side == pytest.approx(upright.face_side, rel=0.05)
    assert abs(assess(turned, face)["head pose roll"] - quality["head pose roll"]) <= 2
    with monkeypatch.context() as without:
        without.setattr("pets.faces.UPRIGHT_SCORE", 0.0)
        with contextlib.suppress(NoFace, FaceTooSmall):
            assert model.embed(turned, largest=True).template @ upright.template < 0.5


def test_an_upright_photo_is_not_turned(model: FaceModel, demo: DemoPhotos) -> None:
    for path in (demo.obama, demo.obama2, demo.obama3, demo.biden, demo.tom_hanks):
        assert model.embed(path).turned == 0
    assert {face.turned for face in model.embed_all(read_photo(demo.six_faces))} == {0}


def unreadable_files(folder: Path, photo: Path) -> list[Path]:
    whole = photo.read_bytes()
    contents = {
        "empty.jpg": b"",
        "garbage.jpg": b"no image" * 100,
        "truncated.jpg": whole[: len(whole) // 2],
        "header.jpg": whole[:20],
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [*(folder / name for name in contents), folder / "absent.jpg", folder]


def test_files_that_are_no_photos_are_unreadable(model: FaceModel, demo: DemoPhotos, tmp_path: Path) -> None:
    for path in unreadable_files(tmp_path, demo.obama):
        with pytest.raises(UnreadablePhoto, match=str(path)):
            model.embed(path)


def test_what_is_wrong_with_a_file_is_said_in_the_words_of_its_owner(tmp_path: Path) -> None:
    """No address of a buffer in memory, and our limit of pixels, not the decoder's."""
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(UnreadablePhoto, match=r"text\.jpg is not a JPEG, PNG, .* image$"):
        read_photo(tmp_path / "text.jpg")
    Image.new("1", (20_000, 9_000)).save(tmp_path / "vast.png")
    with pytest.raises(UnreadablePhoto, match=r"vast\.png has more than 100000000 pixels, the limit$"):
        read_photo(tmp_path / "vast.png")


def test_photos_over_the_limits_are_refused_before_they_are_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large.bmp"
    with large.open("wb") as stream:
        stream.truncate(photo_limits.MAX_FILE_BYTES + 1)
    with pytest.raises(UnreadablePhoto, match="33554433 bytes, the limit is 33554432"):
        read_photo(large)
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 2_001)).save(bomb)
    assert bomb.stat().st_size < 100_000
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(UnreadablePhoto, match="20000x2001 pixels, the limit is 40000000"):
        read_photo(bomb)


def test_colours_arrive_as_bgr_from_every_mode(tmp_path: Path) -> None:
    for mode, colour in (("RGB", (10, 20, 30)), ("RGBA", (10, 20, 30, 255)), ("L", 77)):
        Image.new(mode, (4, 3), colour).save(tmp_path / "x.png")
        got: NDArray[np.uint8] = read_photo(tmp_path / "x.png")
        assert got.shape == (3, 4, 3)
        assert got[0, 0].tolist() == ([77] * 3 if mode == "L" else [30, 20, 10])
    Image.new("I;16", (4, 3), 40_000).save(tmp_path / "x.png")
    with pytest.raises(UnreadablePhoto, match="more than 8 bits a channel"):
        read_photo(tmp_path / "x.png")


def test_an_array_that_is_no_image_is_refused(model: FaceModel) -> None:
    for array in (np.zeros((9, 9), np.uint8), np.zeros((9, 9, 3), np.float32), np.zeros((0, 9, 3), np.uint8)):
        with pytest.raises(UnreadablePhoto, match=r"must be \(height, width, 3\) uint8"):
            model.embed(array)  # type: ignore[arg-type]


def test_a_batch_gives_each_photo_its_face_or_its_error(model: FaceModel, demo: DemoPhotos, tmp_path: Path) -> None:
    steps: list[None] = []
    paths = [demo.obama, demo.six_faces, tmp_path / "absent.jpg", demo.biden]
    results = list(model.embed_each(paths, progress=lambda: steps.append(None)))
    assert [path for path, _ in results] == paths
    assert [type(r).__name__ for _, r in results] == ["Embedded", "SeveralFaces", "UnreadablePhoto", "Embedded"]
    assert len(steps) == 4


def test_a_batch_gives_the_templates_that_each_photo_gives_alone(model: FaceModel, demo: DemoPhotos) -> None:
    paths = [demo.obama, demo.six_faces, demo.biden, demo.obama2]
    together = [face for _, face in model.embed_each(paths, largest=True)]
    assert model.batch_size == 16
    for path, face in zip(paths, together, strict=True):
        alone = model.embed(path, largest=True)
        assert isinstance(face, Embedded)
        assert np.array_equal(quantise(face.template[None]), quantise(alone.template[None]))
        np.testing.assert_allclose(face.template, alone.template, atol=1e-6)
        assert (face.box, face.faces, face.turned) == (alone.box, alone.faces, alone.turned)


class Network:
    """Stands for an embedder of four numbers; `most`: faces that it takes; `wrong`: it mixes them up."""

    input_size = (112, 112)
    model_file = ""

    def __init__(self, most: int = 99, wrong: bool = False) -> None:
        self.most, self.wrong = most, wrong

    def get_feat(self, faces: list[NDArray[np.uint8]]) -> NDArray[np.float32]:
        if len(faces) > self.most:
            raise RuntimeError("Got invalid dimensions for input")
        out = np.stack([face.reshape(-1, 4).astype(np.float32).mean(0) for face in faces])
        return out[::-1] if self.wrong else out


@pytest.mark.parametrize(("network", "size"), [(Network(), 16), (Network(most=1), 1), (Network(wrong=True), 1)])
def test_an_embedder_that_takes_one_face_or_mixes_them_up_gets_one(
    network: Network, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_freed", lambda embedder: None)
    assert batches.Batched(network).size == size


def test_an_operators_folder_with_the_same_files_is_the_same_model(model: FaceModel, tmp_path: Path) -> None:
    for name in (DETECTOR, EMBEDDER):
        shutil.copy(default_models() / name, tmp_path / name)
    assert FaceModel.load(tmp_path, "cpu").spec == model.spec


def test_unusable_model_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent does not exist"):
        FaceModel.load(tmp_path / "absent", "cpu")
    with pytest.raises(ModelError, match=r"holds no \.onnx file"):
        FaceModel.load(tmp_path, "cpu")
    shutil.copy(default_models() / EMBEDDER, tmp_path)
    with pytest.raises(ModelError, match=r"no face detector among its ONNX files: rec_sface\.onnx"):
        FaceModel.load(tmp_path, "cpu")
    (tmp_path / EMBEDDER).unlink()
    shutil.copy(default_models() / DETECTOR, tmp_path)
    with pytest.raises(ModelError, match=r"no face embedder among its ONNX files: det_yunet\.onnx"):
        FaceModel.load(tmp_path, "cpu")
    (tmp_path / EMBEDDER).write_bytes(b"no network")
    with pytest.raises(ModelError, match="cannot be loaded"):
        FaceModel.load(tmp_path, "cpu")


@pytest.mark.skipif("CUDAExecutionProvider" in onnxruntime.get_available_providers(), reason="has CUDA")
def test_cuda_where_there_is_none_is_refused(model: FaceModel) -> None:
    with pytest.raises(ModelError, match=r"cuda is not available: this onnxruntime has .*CPUExecutionProvider"):
        FaceModel.load(provider="cuda")
    assert model.provider == "cpu"
    with pytest.raises(ParameterError, match="must be auto, cuda or cpu, got 'tpu'"):
        FaceModel.load(provider="tpu")  # type: ignore[arg-type]


def embed(photos: list[Path], output: Path, *, skip_bad: bool = False) -> str:
    console = Console(file=io.StringIO(), width=200)
    run_embed(photos, output, models=None, provider="cpu", largest=False, skip_bad=skip_bad, console=console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_embedding_files_and_folders_writes_rows_in_order(demo: DemoPhotos, tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    shutil.copy(demo.biden, tmp_path / "in" / "deep" / "b.JPG")
    shutil.copy(demo.obama, tmp_path / "in" / "a.jpg")
    (tmp_path / "in" / "notes.txt").write_text("not a photo")
    output = tmp_path / "out.npy"
    report = embed([demo.obama2, tmp_path / "in", tmp_path / "in" / "a.jpg"], output)
    assert "running on cpu" in report
    assert "photos a second" in report
    rows = load_templates(output, what="templates")
    assert rows.shape == (3, 128)
    assert rows.dtype == np.float32
    assert rows[0] @ rows[1] > 0.6 > 0.4 > rows[0] @ rows[2]
    spec = read_model_spec(output)
    assert spec is not None
    assert spec.dim == 128
    sidecar = json.loads((tmp_path / "out.npy.model.json").read_text(encoding="utf-8"))
    assert [Path(name).name for name in sidecar["photos"]] == ["obama2.jpg", "a.jpg", "b.JPG"]


def test_one_bad_photo_stops_a_batch_unless_it_may_be_skipped(demo: DemoPhotos, tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    output = tmp_path / "out.npy"
    photos = [demo.obama, tmp_path / "bad.jpg", demo.six_faces]
    with pytest.raises(InputError, match=r"2 of 3 photos give no template.*\n.*bad\.jpg.*\n.*6 faces") as caught:
        embed(photos, output)
    assert not isinstance(caught.value, PhotoError)
    assert not list(tmp_path.glob("out*"))
    report = embed(photos, output, skip_bad=True)
    assert "left out 2 of 3" in report
    assert "6 faces" in report
    assert load_templates(output, what="templates").shape == (1, 128)
    with pytest.raises(InputError, match="none of 1 photo gives a template"):
        embed([tmp_path / "bad.jpg"], tmp_path / "none.npy", skip_bad=True)


def test_arguments_of_embed_that_cannot_work_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must end in \.npy, got"):
        embed([tmp_path], tmp_path / "out.txt")
    with pytest.raises(InputError, match=r"output folder .* does not exist"):
        embed([tmp_path], tmp_path / "absent" / "out.npy")
    with pytest.raises(InputError, match="holds no photo"):
        list_photos([tmp_path])
    with pytest.raises(InputError, match=r"absent\.jpg does not exist"):
        list_photos([tmp_path / "absent.jpg"])
    with pytest.raises(InputError, match="no photos given"):
        list_photos([])
