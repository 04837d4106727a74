from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from lpcc.data import Dataset, TensorSpec
from lpcc.errors import DataError, ModelError, UsageError
from lpcc.quality import BUILTIN, Expected, class_outputs, compare, drop, evaluate, layer_sqnr, parse_metric
from lpcc.quality.compare import batch_size
from lpcc.runtime import Session

F32 = np.dtype(np.float32)
WEIGHTS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
X = np.random.default_rng(1).standard_normal((10, 4)).astype(np.float32)
HIDDEN = X @ WEIGHTS
LOGITS = np.maximum(HIDDEN, 0)


def classifier(weights: np.ndarray = WEIGHTS, batch: int | str = "n", output: str = "y") -> onnx.ModelProto:
    """relu(x @ weights), with the product named `h`."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], [output])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(weights, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def data(batch: int | None = None, labels: np.ndarray | None = None) -> Dataset:
    return Dataset.from_arrays({"x": X}, labels, [TensorSpec("x", F32, (batch, 4))])


NOISY = WEIGHTS + np.random.default_rng(2).normal(0, 0.3, WEIGHTS.shape).astype(np.float32)
NOISY_LOGITS = np.maximum(X @ NOISY, 0)


@pytest.mark.parametrize(("side", "expected"), [(32, 16), (224, 3), (1024, 1)])
def test_large_images_run_few_at_a_time(side: int, expected: int) -> None:
    images = Dataset.from_arrays({"x": np.zeros((2, 3, side, side), np.float32)})
    assert batch_size(images) == expected


def test_the_batch_of_a_users_metric_does_not_depend_on_the_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "counting.py").write_text("def batch(outputs, labels):\n    return len(outputs['y'])\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.modules["lpcc.quality.compare"], "_BATCH_VALUES", 8)  # two rows of four
    seen: list[int] = []
    compare(classifier(), classifier(), data(), progress=seen.append)
    assert seen == [2, 4, 6, 8, 10]
    assert evaluate(classifier(), data(), parse_metric("counting:batch")).value == 10
    sys.modules.pop("counting")


def test_compare_equals_the_formulas() -> None:
    seen: list[int] = []
    c = compare(classifier(), classifier(NOISY), data(), batch=3, progress=seen.append)
    noise = ((LOGITS - NOISY_LOGITS).astype("f8") ** 2).sum()
    assert c.samples == 10
    assert seen == [3, 6, 9, 10]
    assert c.sqnr_db["y"] == pytest.approx(10 * np.log10((LOGITS.astype("f8") ** 2).sum() / noise), abs=1e-3)
    assert c.agreement == pytest.approx(100 * (LOGITS.argmax(1) == NOISY_LOGITS.argmax(1)).mean())
    assert c.worst_sqnr_db == c.sqnr_db["y"]
    assert c.worst_relative_error == pytest.approx(np.abs(LOGITS - NOISY_LOGITS).max() / LOGITS.max(), rel=1e-4)


def test_padding_of_fixed_batches_does_not_count() -> None:
    free = compare(classifier(), classifier(NOISY), data())
    fixed = compare(classifier(batch=4), classifier(NOISY, batch=4), data(4))
    assert fixed.samples == free.samples
    assert fixed.sqnr_db["y"] == pytest.approx(free.sqnr_db["y"], abs=1e-4)
    assert fixed.agreement == free.agreement


@pytest.mark.parametrize(("limit", "runs"), [(1 << 20, 4), (5 * 12, 4 + 3), (0, 8)])
def test_a_reference_runs_once_where_its_outputs_fit(limit: int, runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, ran = Session(classifier(), optimise=False), 0
    run = reference.run

    def counted(*arguments: Any) -> dict[str, Any]:
        nonlocal ran
        ran += 1
        return run(*arguments)

    monkeypatch.setattr(reference, "run", counted)
    expected = Expected(reference, data(), class_outputs(classifier()), batch=3, limit=limit)
    for weights in (NOISY, WEIGHTS):
        assert expected.compare(Session(classifier(weights))) == compare(
            classifier(), classifier(weights), data(), batch=3
        )
    assert ran == runs


def test_equal_models_are_equal_and_json_is_json() -> None:
    c = compare(classifier(), Session(classifier(), optimise=False), data())
    assert c.worst_sqnr_db == math.inf
    assert c.agreement == 100
    assert c.worst_relative_error == 0
    plain = json.loads(json.dumps(c.to_json(), allow_nan=False))
    assert plain["sqnr_db"] == {"y": 200.0}
    broken = compare(classifier(), classifier(WEIGHTS * np.float32(np.nan)), data())
    assert broken.worst_sqnr_db == -math.inf
    assert broken.agreement == 0
    plain = json.loads(json.dumps(broken.to_json(), allow_nan=False))
    assert plain["sqnr_db"] == {"y": -200.0}
    assert plain["max_relative_error"] == {"y": None}


def test_the_candidate_needs_the_same_outputs() -> None:
    with pytest.raises(ModelError, match="the candidate has no output `y`"):
        compare(classifier(), classifier(output="z"), data())


def test_layer_sqnr_looks_inside() -> None:
    other = classifier(NOISY)
    other.graph.node[0].output[0] = other.graph.node[1].input[0] = "hq"
    found = layer_sqnr(classifier(), other, data(), {"h": "hq", "y": "y"}, batch=3)
    noise = ((HIDDEN - X @ NOISY).astype("f8") ** 2).sum()
    assert found["h"] == pytest.approx(10 * np.log10((HIDDEN.astype("f8") ** 2).sum() / noise), abs=1e-3)
    assert list(found) == ["h", "y"]
    with pytest.raises(ModelError, match="makes a tensor named `nothing`"):
        layer_sqnr(classifier(), other, data(), {"h": "nothing"})


def test_top_k_counts_labels() -> None:
    labels = np.arange(10) % 3
    score = evaluate(classifier(), data(4, labels), parse_metric("top1"))
    assert score.samples == 10
    assert score.value == pytest.approx(100 * (LOGITS.argmax(1) == labels).mean())
    assert evaluate(classifier(), data(None, labels), parse_metric("top5")).value == 100


def test_metrics_against_the_original() -> None:
    c = compare(classifier(), classifier(NOISY), data())
    found = {
        n: evaluate(classifier(NOISY), data(), m, classifier()).value for n, m in BUILTIN.items() if "top" not in n
    }
    assert found == pytest.approx(
        {
            "agreement": c.agreement,
            "sqnr": c.sqnr_db["y"],
            "cosine": c.cosine["y"],
            "relative-error": c.mean_relative_error["y"],
        }
    )


@pytest.mark.parametrize(
    ("metric", "labels", "expected"),
    [
        ("top1", None, "has no labels, which top1 needs"),
        ("top1", np.full(10, 3), "label 3 is none of the model's 3 classes"),
        ("sqnr", None, "sqnr compares with the original model"),
    ],
)
def test_evaluate_refuses(metric: str, labels: np.ndarray | None, expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        evaluate(classifier(), data(None, labels), parse_metric(metric))


def test_accuracy_needs_scores() -> None:
    model = classifier(WEIGHTS[:, :1])
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    with pytest.raises(DataError, match="top1 needs an output of class scores"):
        evaluate(model, data(None, np.zeros(10, int)), parse_metric("top1"))
    with pytest.raises(DataError, match="agreement needs an output of class scores"):
        evaluate(model, data(), parse_metric("agreement"), model)
    assert compare(model, model, data()).agreement is None


def test_a_users_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_metric.py").write_text(
        "def mean(outputs, labels):\n    return outputs['y'].mean() + labels.mean()\n"
        "def bad(outputs, labels):\n    return outputs['z']\n"
        "class Span:\n"
        "    def __init__(self):\n        self.seen = []\n"
        "    def add(self, outputs, labels):\n        self.seen += list(labels)\n"
        "    def value(self):\n        return max(self.seen) - min(self.seen)\n"
        "class Broken(Span):\n    def value(self):\n        return 1 / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    labels = np.arange(10)
    metric = parse_metric("my_metric:mean")
    assert metric.name == "my_metric:mean"
    value = evaluate(classifier(), data(4, labels), metric).value
    assert value == pytest.approx(LOGITS.mean() + labels.mean(), rel=1e-5)
    with pytest.raises(DataError, match="metric my_metric:bad raised KeyError: 'z'"):
        evaluate(classifier(), data(), parse_metric("my_metric:bad"))
    span = parse_metric("my_metric:Span")
    assert [evaluate(classifier(), data(4, labels), span, batch=3).value for _ in range(2)] == [9, 9]  # one for each
    with pytest.raises(DataError, match="metric my_metric:Broken raised ZeroDivisionError"):
        evaluate(classifier(), data(4, labels), parse_metric("my_metric:Broken"))
    with pytest.raises(UsageError, match="has no `none`"):
        parse_metric("my_metric:none")
    sys.modules.pop("my_metric")


@pytest.mark.parametrize(
    ("text", "expected"), [("top-1", "did you mean `top1`?"), ("zzz", "known are top1, top5, agreement, sqnr, cosine")]
)
def test_unknown_metrics(text: str, expected: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_metric(text)
    assert f"unknown metric `{text}`" in str(error.value)
    assert expected in str(error.value)


def test_names_read_back() -> None:
    assert all(parse_metric(name).name == name for name in BUILTIN)


def test_drop_is_what_is_lost() -> None:
    assert drop(parse_metric("top1"), 90.0, 89.5) == 0.5
    assert drop(parse_metric("relative-error"), 0.0, 0.1) == 0.1
    assert drop(parse_metric("sqnr"), math.inf, math.inf) == 0
    assert drop(parse_metric("sqnr"), math.inf, 20.0) == math.inf


def test_zoo_accuracy_is_the_published_one(zoo: Any) -> None:
    name = "fashion_mnist_vgg"
    feeds, labels = zoo.eval(name, 500)
    model = onnx.load(zoo.model(name))
    dataset = Dataset.from_arrays(feeds, labels, TensorSpec.inputs_of(model))
    score = evaluate(model, dataset, parse_metric("top1"))
    assert score.value == pytest.approx(zoo.module.score(name, zoo.model(name), 500))
    assert compare(model, model, dataset).worst_relative_error < 1e-4
