"""`lpcc.retrain`: a student, a teacher and images in, the same graph with better weights out."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import lpcc
from lpcc.errors import DataError, ModelError, UsageError
from lpcc.runtime import Session
from lpcc.testing.golden import read_model
from lpcc.train.recipe import Recipe

torch = pytest.importorskip("torch", reason="the training extra is not installed")

NETWORK = """
<ir_version: 9, opset_import: ["": 17]>
net (float[N,3,8,8] x) => (float[N,10] y)
<float[8,3,3,3] w1, float[8] scale, float[8] bias, float[8] mean, float[8] s_var, float[10,128] w2, float[10] b2>
{
    [first] c = Conv <pads = [1,1,1,1]> (x, w1)
    [norm] n = BatchNormalization (c, scale, bias, mean, s_var)
    [active] r = Relu (n)
    [pool] g = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r)
    [flat] f = Flatten (g)
    [head] y = Gemm <transB = 1> (f, w2, b2)
}
"""


def images(count=512, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def teacher():
    return read_model(NETWORK)


@pytest.fixture(scope="module")
def student(teacher):
    """The teacher with weights that something has hurt."""
    hurt = onnx.ModelProto()
    hurt.CopyFrom(teacher)
    rng = np.random.default_rng(1)
    for tensor in hurt.graph.initializer:
        if tensor.name in ("w1", "w2"):
            values = onnx.numpy_helper.to_array(tensor)
            noise = rng.standard_normal(values.shape).astype(np.float32) * values.std()
            tensor.CopyFrom(onnx.numpy_helper.from_array(values + noise, tensor.name))
    return hurt


def distance(model, teacher, x):
    ours, theirs = (Session(each).run({"x": x})["y"] for each in (model, teacher))
    return float(((ours - theirs) ** 2).mean())


@pytest.fixture(scope="module")
def retrained(teacher, student):
    judged = {"x": images(64, 7), "labels": Session(teacher).run({"x": images(64, 7)})["y"].argmax(1)}
    return lpcc.retrain(
        student,
        teacher=teacher,
        train={"x": images()},
        loss="logits",
        recipe=Recipe(epochs=8, batch=32, learning_rate=0.05),
        eval=judged,
    )


def test_what_was_lost_is_learned_again(retrained, teacher, student):
    unseen = images(128, 5)
    assert distance(retrained.model, teacher, unseen) < 0.2 * distance(student, teacher, unseen)


def test_nodes_and_interface_stay(retrained, student):
    assert [node.SerializeToString() for node in retrained.model.graph.node] == [
        node.SerializeToString() for node in student.graph.node
    ]
    assert retrained.model.graph.input == student.graph.input
    assert retrained.model.graph.output == student.graph.output
    assert set(retrained.learned.nodes) == {"first", "norm", "head"}


def test_the_report_tells_the_course_and_the_scores(retrained):
    history, scores = retrained.learned.history, retrained.scores
    assert history.best > 0
    assert len(history.epochs) == 8
    assert scores.metric == "top1"
    assert scores.teacher == 100
    assert scores.after > scores.before
    text = "\n".join(retrained.lines())
    assert "epoch 8:" in text
    assert "student before" in text
    assert retrained.to_json()["recipe"]["epochs"] == 8


def test_the_same_bytes_twice(teacher, student):
    recipe = Recipe(epochs=1, batch=64, seed=3)

    def once():
        return lpcc.retrain(student, teacher=teacher, train={"x": images(128)}, recipe=recipe)

    assert once().model.SerializeToString() == once().model.SerializeToString()


def test_a_student_that_is_perfect_stays_as_it_is(teacher):
    found = lpcc.retrain(
        teacher, teacher=teacher, train={"x": images(128)}, loss="logits", recipe=Recipe(epochs=1, metric="loss")
    )
    assert found.learned.nodes == ()
    assert found.model == teacher
    assert "the weights are those that the student came with" in found.lines()


def test_labels_alone(student, teacher):
    x = images(1024)
    labels = Session(teacher).run({"x": x})["y"].argmax(1)
    found = lpcc.retrain(
        student, labels=True, train={"x": x, "labels": labels}, recipe=Recipe(epochs=4, learning_rate=0.1)
    )
    assert found.lesson.losses == "hard"
    assert found.learned.history.metric == "top1"
    assert found.learned.history.best_metric > found.learned.history.start


def test_labels_do_not_count_unasked(student, teacher):
    data = {"x": images(1024), "labels": np.zeros(1024, np.int64)}
    found = lpcc.retrain(student, teacher=teacher, train=data, recipe=Recipe(epochs=1))
    assert found.learned.history.metric == "agreement"


def test_few_samples_are_not_counted(student, teacher):
    found = lpcc.retrain(student, teacher=teacher, train={"x": images(128)}, recipe=Recipe(epochs=1))
    assert found.learned.history.metric == "loss"


def test_nothing_to_learn_from(student):
    with pytest.raises(UsageError, match="give a teacher, or labels"):
        lpcc.retrain(student, train={"x": images(8)})


def test_another_input(student, teacher):
    other = onnx.ModelProto()
    other.CopyFrom(teacher)
    other.graph.input[0].name = other.graph.node[0].input[0] = "z"
    with pytest.raises(ModelError, match=r"net: takes x, the teacher net takes z: both must have the same inputs"):
        lpcc.retrain(student, teacher=other, train={"x": images(8)})


def test_another_output(student, teacher):
    other = onnx.ModelProto()
    other.CopyFrom(teacher)
    other.graph.output[0].name = other.graph.node[-1].output[0] = "z"
    with pytest.raises(ModelError, match=r"gives y, the teacher .* gives z: both must have the same outputs"):
        lpcc.retrain(student, teacher=other, train={"x": images(8)})


class TestOwnLoop:
    """``trainer``: a user's function in the place of the loop."""

    @pytest.fixture
    def module(self, tmp_path, monkeypatch):
        (tmp_path / "own_loops.py").write_text(
            "import torch\n"
            "def train(student, teacher, data, recipe):\n"
            "    optimiser = torch.optim.SGD(student.parameters(), lr=0.0002)\n"
            "    for _ in range(recipe.epochs):\n"
            "        for batch in data.batches(recipe.batch):\n"
            "            x = {'x': torch.from_numpy(batch.feeds['x'])}\n"
            "            loss = ((student(x)['y'] - teacher(x)['y']) ** 2).mean()\n"
            "            optimiser.zero_grad()\n"
            "            loss.backward()\n"
            "            optimiser.step()\n"
            "    return student\n"
            "def worsen(student, teacher, data, recipe):\n"
            "    for value in student.parameters():\n"
            "        value.data.zero_()\n"
            "def lose(student, teacher, data, recipe):\n"
            "    return 'nothing'\n"
            "def fail(student, teacher, data, recipe):\n"
            "    raise RuntimeError('out of ideas')\n"
            "def spoil(student, teacher, data, recipe):\n"
            "    for value in student.parameters():\n"
            "        value.data.fill_(float('nan'))\n"
        )
        monkeypatch.chdir(tmp_path)

    def test_trains(self, module, student, teacher):
        found = lpcc.retrain(
            student,
            teacher=teacher,
            train={"x": images()},
            trainer="own_loops:train",
            recipe=Recipe(epochs=4, batch=32),
        )
        assert found.learned.history is None
        assert distance(found.model, teacher, images(64, 5)) < 0.5 * distance(student, teacher, images(64, 5))

    def test_harm_is_told(self, module, teacher):
        judged = {"x": images(64, 7), "labels": Session(teacher).run({"x": images(64, 7)})["y"].argmax(1)}
        given = {"train": {"x": images(64)}, "eval": judged}
        found = lpcc.retrain(teacher, teacher=teacher, trainer="own_loops:worsen", **given)
        assert found.scores.is_worse
        assert "note: worse than before: `own_loops:worsen` decides what is written" in found.lines()

    def test_harm_is_told_where_nothing_was_held_out_to_see_it(self, teacher):
        judged = {"x": images(64, 7), "labels": Session(teacher).run({"x": images(64, 7)})["y"].argmax(1)}
        wild = Recipe(epochs=1, batch=32, optimiser="sgd", learning_rate=50, clip=0, holdout=0)
        found = lpcc.retrain(
            teacher, teacher=teacher, train={"x": images(64)}, eval=judged, loss="kd*1000", recipe=wild
        )
        assert found.scores.is_worse
        assert "note: worse than before: no images were held out, the last epoch counts" in found.lines()

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("lose", r"own_loops:lose: returned a str, not the network"),
            ("fail", r"own_loops:fail: raised RuntimeError: out of ideas"),
            ("spoil", r"own_loops:spoil: left numbers in `\w+` that are not finite"),
            ("none", r"own_loops:none: module `own_loops` has no `none`"),
            ("", r"own_loops:: is no `module:function`"),
        ],
    )
    def test_mistakes(self, module, student, teacher, name, message):
        with pytest.raises(UsageError, match=message):
            lpcc.retrain(student, teacher=teacher, train={"x": images(8)}, trainer=f"own_loops:{name}")

    @pytest.mark.parametrize("option", [{"loss": "kd"}, {"pairs": ("r",)}])
    def test_what_only_our_loop_heeds_is_refused(self, module, student, teacher, option):
        with pytest.raises(UsageError, match="own_loops:train: a loop of your own has its own losses"):
            lpcc.retrain(student, teacher=teacher, train={"x": images(8)}, trainer="own_loops:train", **option)

    def test_it_is_not_resumed(self, module, student, teacher):
        with pytest.raises(UsageError, match="own_loops:train: a loop of your own leaves no state to resume from"):
            lpcc.retrain(student, teacher=teacher, train={"x": images(8)}, trainer="own_loops:train", resume=True)


def test_a_metric_without_images_to_judge_on(student, teacher):
    with pytest.raises(UsageError, match="metric sqnr judges the images of `eval`, and there are none"):
        lpcc.retrain(student, teacher=teacher, train={"x": images(8)}, metric="sqnr")


MAP = """
<ir_version: 9, opset_import: ["": 17]>
net (float[N,3,8,8] x) => (float[N,2,8,8] y)
<float[2,3,3,3] w>
{
    [conv] c = Conv <pads = [1,1,1,1]> (x, w)
    y = Softmax <axis = 1> (c)
}
"""


def test_maps_of_classes_are_judged_by_their_noise():
    model = read_model(MAP)
    found = lpcc.retrain(model, teacher=model, train={"x": images(32)}, eval={"x": images(8)}, recipe=Recipe(epochs=1))
    assert found.scores is not None
    assert found.scores.metric == "sqnr"


def test_what_cannot_be_judged_is_told_before_training(monkeypatch):
    monkeypatch.setattr("lpcc.train.transfer.transfer", lambda *_, **__: pytest.fail("trained"))
    model = read_model(MAP)
    with pytest.raises(DataError, match="agreement needs an output of class scores"):
        lpcc.retrain(model, teacher=model, train={"x": images(32)}, eval={"x": images(8)}, metric="agreement")
