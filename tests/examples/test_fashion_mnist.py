from __future__ import annotations

import gzip
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from lpcc.data import Preprocess

EXAMPLE = Path(__file__).parents[2] / "examples" / "fashion_mnist"
STATED = 92.2  # top-1 on eval.npz in percent, as the README says
MARGIN = 0.3  # three images: kernels of another machine may tip as many


def run(model: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    logits: NDArray[np.float32] = session.run(["logits"], {"image": images})[0]
    return logits


def preprocessed(images: NDArray[np.generic]) -> NDArray[np.float32]:
    x: NDArray[np.float32] = Preprocess.load(EXAMPLE / "preprocess.toml").images(images, np.dtype(np.float32))
    return x


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return onnx.load(EXAMPLE / "model.onnx")


@pytest.fixture(scope="module")
def calibration() -> dict[str, NDArray[np.uint8]]:
    with np.load(EXAMPLE / "calib.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def evaluation() -> dict[str, NDArray[np.generic]]:
    with np.load(EXAMPLE / "eval.npz", allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture
def idx(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLE)
    return importlib.import_module("idx")


class TestFiles:
    def test_model_and_data_are_small(self) -> None:
        sizes = {name: (EXAMPLE / name).stat().st_size for name in ("model.onnx", "calib.npz", "eval.npz")}
        assert sizes["model.onnx"] < 1.1e6
        assert sum(file.stat().st_size for file in EXAMPLE.iterdir() if file.is_file()) < 2e6

    def test_interface(self, model: onnx.ModelProto) -> None:
        onnx.checker.check_model(model, full_check=True)
        described = {}
        for value in (*model.graph.input, *model.graph.output):
            tensor = value.type.tensor_type
            assert tensor.elem_type == onnx.TensorProto.FLOAT
            described[value.name] = [d.dim_param or d.dim_value for d in tensor.shape.dim]
        assert described == {"image": ["batch", 1, 28, 28], "logits": ["batch", 10]}
        assert model.opset_import[0].version >= 13
        assert len({p.key: p.value for p in model.metadata_props}["classes"].split(",")) == 10

    def test_batch_norm_is_a_node_after_every_convolution(self, model: onnx.ModelProto) -> None:
        readers = {name: node.op_type for node in model.graph.node for name in node.input}
        convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
        assert len(convolutions) == 14
        assert all(readers[node.output[0]] == "BatchNormalization" for node in convolutions)

    def test_has_residuals_and_depthwise_convolutions(self, model: onnx.ModelProto) -> None:
        assert sum(node.op_type == "Add" for node in model.graph.node) == 4
        groups = [a.i for node in model.graph.node for a in node.attribute if a.name == "group"]
        assert groups.count(1) < len(groups)
        assert sum(np.prod(w.dims) for w in model.graph.initializer) < 300_000

    def test_arrays(
        self, calibration: dict[str, NDArray[np.uint8]], evaluation: dict[str, NDArray[np.generic]]
    ) -> None:
        described = [{name: (a.shape, a.dtype) for name, a in arrays.items()} for arrays in (calibration, evaluation)]
        assert described == [
            {"image": ((256, 1, 28, 28), np.uint8)},
            {"image": ((1000, 1, 28, 28), np.uint8), "labels": ((1000,), np.int64)},
        ]
        assert set(np.unique(evaluation["labels"])) == set(range(10))
        assert not {i.tobytes() for i in calibration["image"]} & {i.tobytes() for i in evaluation["image"]}

    def test_calibration_and_evaluation_are_of_their_splits(
        self,
        idx: ModuleType,
        calibration: dict[str, NDArray[np.uint8]],
        evaluation: dict[str, NDArray[np.generic]],
    ) -> None:
        if not idx.DEBIAN.is_dir():
            pytest.skip("needs the Debian package dataset-fashion-mnist")
        train, test = (
            {image.tobytes(): label for image, label in zip(*idx.read_split(idx.DEBIAN, split), strict=True)}
            for split in ("train", "t10k")
        )
        assert all(image.tobytes() in train for image in calibration["image"])
        pairs = zip(evaluation["image"], evaluation["labels"], strict=True)
        assert all(test[image.tobytes()] == label for image, label in pairs)


class TestAccuracy:
    def test_is_what_the_readme_says(self, model: onnx.ModelProto, evaluation: dict[str, NDArray[np.generic]]) -> None:
        assert f"{STATED:.1f} %" in (EXAMPLE / "README.md").read_text("utf-8")
        logits = run(model, preprocessed(evaluation["image"]))
        top1 = 100 * float(np.mean(logits.argmax(1) == evaluation["labels"]))
        assert top1 == pytest.approx(STATED, abs=MARGIN)

    def test_any_batch_gives_the_same(self, model: onnx.ModelProto, calibration: dict[str, NDArray[np.uint8]]) -> None:
        x = preprocessed(calibration["image"][:3])
        np.testing.assert_allclose(run(model, x)[:1], run(model, x[:1]), rtol=1e-4, atol=1e-4)


def write_idx(path: Path, array: NDArray[np.uint8]) -> None:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(gzip.compress(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()))


def write_split(folder: Path, split: str, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    write_idx(folder / f"{split}-images-idx3-ubyte.gz", images)
    write_idx(folder / f"{split}-labels-idx1-ubyte.gz", labels)


class TestReadIdx:
    def test_array(self, idx: ModuleType, tmp_path: Path) -> None:
        array = np.arange(2 * 3 * 260, dtype=np.uint8).reshape(2, 3, 260)
        write_idx(tmp_path / "a.gz", array)
        np.testing.assert_array_equal(idx.read_idx(tmp_path / "a.gz"), array)

    @pytest.mark.parametrize(
        ("raw", "message"),
        [
            (b"", "no IDX file"),
            (b"\0\0\x0d\x01\0\0\0\x01\0\0\0\0", "no IDX file"),  # float32
            (b"\0\0\x08\x01\0\0\0\x03ab", "holds 2 bytes"),
            (b"\0\0\x08\x01\0\0\0\x03abcd", "holds 4 bytes"),
            (b"\0\0\x08\x02\0\0\0\x03", "header"),
        ],
    )
    def test_refuses(self, idx: ModuleType, tmp_path: Path, raw: bytes, message: str) -> None:
        (tmp_path / "a.gz").write_bytes(gzip.compress(raw))
        with pytest.raises(ValueError, match=message):
            idx.read_idx(tmp_path / "a.gz")

    def test_split(self, idx: ModuleType, tmp_path: Path) -> None:
        images = np.arange(2 * 784, dtype=np.uint8).reshape(2, 28, 28)
        write_split(tmp_path, "t10k", images, np.array([9, 0], np.uint8))
        read, labels = idx.read_split(tmp_path, "t10k")
        np.testing.assert_array_equal(read, images[:, None])
        assert (labels.tolist(), labels.dtype) == ([9, 0], np.int64)

    def test_refuses_a_split_of_unequal_counts(self, idx: ModuleType, tmp_path: Path) -> None:
        write_split(tmp_path, "train", np.zeros((2, 28, 28), np.uint8), np.zeros(3, np.uint8))
        with pytest.raises(ValueError, match="2 images but 3 labels"):
            idx.read_split(tmp_path, "train")


class TestWithTorch:
    @pytest.fixture(autouse=True)
    def torch(self, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
        module: ModuleType = pytest.importorskip(
            "torch", reason="the training script needs torch: pip install '.[train]'"
        )
        monkeypatch.syspath_prepend(EXAMPLE)
        return module

    def test_onnx_gives_what_torch_gives(self, torch: ModuleType) -> None:
        generator = torch.manual_seed(0)
        net = importlib.import_module("network").network()
        for layer in net.modules():
            if isinstance(layer, torch.nn.BatchNorm2d):  # statistics as after training, not zeros and ones
                for values in (layer.weight.data, layer.running_var):
                    values.uniform_(0.5, 1.5, generator=generator)
                for values in (layer.bias.data, layer.running_mean):
                    values.uniform_(-0.5, 0.5, generator=generator)
        written = importlib.import_module("onnx_writer").to_onnx(net, (1, 28, 28), 10, {"key": "value"})
        assert [(p.key, p.value) for p in written.metadata_props] == [("key", "value")]
        for batch in (1, 3):
            x = torch.randn(batch, 1, 28, 28, generator=generator)
            expected = net(x).detach().numpy()
            np.testing.assert_allclose(run(written, x.numpy()), expected, rtol=0, atol=1e-5 * np.abs(expected).max())

    def test_the_model_in_the_repository_is_this_network(self, model: onnx.ModelProto) -> None:
        net = importlib.import_module("network").network()
        written = importlib.import_module("onnx_writer").to_onnx(net, (1, 28, 28), 10, {})
        assert list(written.graph.node) == list(model.graph.node)

    def test_refuses_a_layer_it_does_not_know(self, torch: ModuleType) -> None:
        class Doubled(torch.nn.Module):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return 2 * x

        to_onnx = importlib.import_module("onnx_writer").to_onnx
        with pytest.raises(ValueError, match="known for Sigmoid"):
            to_onnx(torch.nn.Sequential(torch.nn.Sigmoid()), (1,), 1, {})
        with pytest.raises(ValueError, match="only layers"):
            to_onnx(Doubled(), (1,), 1, {})

    def test_preprocesses_as_the_compiler_does(
        self, torch: ModuleType, calibration: dict[str, NDArray[np.uint8]]
    ) -> None:
        images = calibration["image"][:8]
        trained_on = importlib.import_module("train").preprocess(images)
        np.testing.assert_allclose(preprocessed(images), trained_on.numpy(), rtol=1e-6, atol=1e-6)

    def test_augmented_images_are_shifted_or_mirrored(self, torch: ModuleType) -> None:
        train = importlib.import_module("train")
        torch.manual_seed(0)
        image = torch.zeros(1, 1, 28, 28)
        image[0, 0, 10, 5] = 1.0
        found = set()
        for out in train.augment(image.expand(400, -1, -1, -1)):
            (where,) = (out == 1.0).nonzero().tolist()
            found.add((where[1], where[2]))
        columns = [*range(3, 8), *range(20, 25)]  # 5 moved by -2 to 2, and 27 - 5 likewise
        assert found == {(row, column) for row in range(8, 13) for column in columns}

    @pytest.mark.slow
    def test_two_runs_write_the_same_bytes(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        for split, count in (("train", 300), ("t10k", 1000)):
            images = rng.integers(0, 256, (count, 28, 28), np.uint8)
            write_split(tmp_path, split, images, rng.integers(0, 10, count, np.uint8))
        for out in ("a", "b"):
            command = [sys.executable, "-W", "error", EXAMPLE / "train.py", "--data", tmp_path, "--out", tmp_path / out]
            subprocess.run([*command, "--epochs", "1"], check=True)
        for name in ("model.onnx", "calib.npz", "eval.npz"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
