"""Tables of sensitivities: what is measured, in how many processes, and what is left after a kill."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpcc.errors import LpccError, PassError
from lpcc.passes import Quantize
from lpcc.sensitivity import Bench, Subject, Table, Trial, around, leave_one_in, leave_one_out, measure
from lpcc.sensitivity.table import Journal, Row
from lpcc.target import Target
from lpcc.testing.golden import read_model

NETWORK = """<ir_version: 8, opset_import: ["": 17]>
g (float[N,3,12,12] x) => (float[N,10] y)
<float[16,3,3,3] w1, float[16,16,3,3] w2, float[16,16,3,3] w3, float[16,10] w4>
{
    first = Conv<pads = [1,1,1,1]>(x, w1)
    a = Relu(first)
    second = Conv<pads = [1,1,1,1]>(a, w2)
    b = Relu(second)
    third = Conv<pads = [1,1,1,1]>(b, w3)
    c = Relu(third)
    d = GlobalAveragePool(c)
    e = Flatten(d)
    y = Gemm(e, w4)
}
"""
LAYERS = ["first", "second", "third"]


@pytest.fixture
def subject() -> Subject:
    images = np.random.default_rng(0).normal(size=(24, 3, 12, 12)).astype(np.float32)
    item = Quantize(ranges="mse", min_work=0)
    model = read_model(NETWORK).SerializeToString()
    return Subject(model, item, "bits", {"x": images}, 20, Target.load("x86-avx512-vnni"))


def test_fewer_bits_do_more_damage(subject):
    table = measure(subject, around(LAYERS, "8", ["4", "2"]), processes=1)
    assert len(table.rows) == 1 + 2 * 3
    for layer in LAYERS:
        damages = [table.damage("8", layer, choice) for choice in ("8", "4", "2")]
        assert damages[0] == 0
        assert damages == sorted(damages)
        assert table.damage("8", layer, "2", "sqnr") < table.damage("8", layer, "4", "sqnr") < 0
    assert table.of("8").values["agreement"] > 50


def test_alone_and_spared(subject):
    alone = measure(subject, leave_one_in(LAYERS, ["4"], "float"), processes=1)
    spared = measure(subject, leave_one_out(LAYERS, "4", "float"), processes=1)
    noise = {row.layer: row.values["noise"] for row in alone}
    assert all(noise[layer] > noise[""] for layer in LAYERS)
    for layer in LAYERS:
        assert spared.damage("4", layer, "float", "sqnr") > 0  # sparing a layer helps
    together = spared.of("4").values["noise"]
    assert together == pytest.approx(sum(noise[layer] - noise[""] for layer in LAYERS) + noise[""], rel=0.8)


def test_each_row_is_what_the_pass_gives(subject):
    bench = Bench(subject)
    (_, trial, *_) = around(LAYERS, "8", ["4"])
    assert (trial.layer, trial.choice) == ("first", "4")
    assert dict(trial.assignment) == {"first": "4", "second": "8", "third": "8"}
    model = bench.model(dict(trial.assignment))
    int4 = [t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT4]
    assert int4 == ["w1_quantized"]
    found = measure(subject, [trial], processes=1)
    assert found.rows[0].values == bench.values(trial)


def test_processes_agree_to_the_last_bit(subject):
    trials = around(LAYERS, "8", ["4", "2"])
    seen = []
    one = measure(subject, trials, processes=1)
    two = measure(subject, trials, processes=2, progress=lambda done, total: seen.append((done, total)))
    assert one == two
    assert sorted(seen) == [(done, 7) for done in range(1, 8)]


def test_a_pass_that_fails_in_another_process_says_where(subject):
    trials = [Trial("8", "first", f"{n}", (("first", f"{n}"),)) for n in range(3, 9)]
    with pytest.raises(PassError, match=r"measuring `first=\d` failed: .*no choice of bits"):
        measure(subject, trials, processes=2)


def test_a_network_that_cannot_run_has_infinite_damage(subject):
    bench = Bench(subject)
    broken = bench.model({})
    broken.graph.node[0].op_type = "NoSuchOperator"
    values = bench.judge(broken)
    assert math.isinf(values["noise"])
    table = Table((Row("8", "", "", {"noise": 1.0}), Row("8", "first", "4", values)))
    assert table.damage("8", "first", "4") == math.inf


def test_what_was_measured_is_not_measured_again(subject, tmp_path, monkeypatch):
    trials = around(LAYERS, "8", ["4"])
    first = measure(subject, trials[:3], cache=tmp_path, processes=1)
    runs = []
    original = Bench.values
    monkeypatch.setattr(Bench, "values", lambda self, trial: (runs.append(trial.layer), original(self, trial))[1])
    table = measure(subject, trials, cache=tmp_path, processes=1)
    assert runs == ["third"]
    assert table.rows[:3] == first.rows
    other = replace(subject, judged=8)
    measure(other, trials, cache=tmp_path, processes=1)
    assert len(runs) == 1 + 4
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "change",
    [
        {
            "model": read_model(
                NETWORK.replace("= [1,1,1,1]>(b", "= [1,1,1,1], dilations = [1,1]>(b")
            ).SerializeToString()
        },
        {"images": {"x": np.zeros((24, 3, 12, 12), np.float32)}},
        {"item": Quantize(ranges="minmax")},
        {"target": None},
        {"judged": 3},
        {"seed": 1},
    ],
)
def test_the_digest_knows_all_that_matters(subject, change):
    assert replace(subject).digest == subject.digest
    assert replace(subject, **change).digest != subject.digest


@settings(deadline=None)
@given(st.integers(0, 400))
def test_a_line_that_was_cut_off_is_dropped_and_the_rest_kept(tmp_path_factory, cut):
    folder = tmp_path_factory.mktemp("journal")
    trials = around(["a", "b=/:"], "8", ["4"])
    journal = Journal(folder, "d")
    for place, trial in enumerate(trials):
        journal.add(trial, {"noise": float(place), "sqnr": math.inf})
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole[: min(cut, len(whole))])
    again = Journal(folder, "d")
    left = whole[: min(cut, len(whole))].count(b"\n")
    assert [again.get(trial) is not None for trial in trials] == [place < left for place in range(3)]
    for trial in trials[left:]:
        again.add(trial, {"noise": 7.0})
    lines = again.path.read_text().splitlines()
    assert len(lines) == 3
    assert all(json.loads(line)["key"] for line in lines)
    assert Journal(folder, "d").get(trials[2]) is not None


def test_foreign_lines_do_no_harm(tmp_path):
    (tmp_path / "d.jsonl").write_text('hello\n{"key": 1}\n[]\n{"key": "k", "values": 3}\n')
    assert Journal(tmp_path, "d").get(Trial("8", "", "", ())) is None


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LpccError, match="cannot keep sensitivities there"):
        Journal(tmp_path / "file", "d")


SCRIPT = """
import pickle, sys
from pathlib import Path
from lpcc.sensitivity import around, measure
subject = pickle.loads(Path(sys.argv[1]).read_bytes())
measure(subject, around(["first", "second", "third"], "8", ["4", "2", "float"]), cache=Path(sys.argv[2]), processes=2)
"""


@pytest.mark.slow
def test_it_goes_on_after_a_kill(subject, tmp_path):
    import pickle

    job, cache = tmp_path / "job", tmp_path / "cache"
    job.write_bytes(pickle.dumps(subject))
    command = [sys.executable, "-c", SCRIPT, str(job), str(cache)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}  # noqa: PTH109
    running = subprocess.Popen(command, env=environment)
    journal = cache / f"{subject.digest}.jsonl"
    for _ in range(600):
        if journal.exists() and journal.read_bytes().count(b"\n") >= 2:
            break
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    kept = [line for line in journal.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    assert len(kept) >= 2
    subprocess.run(command, env=environment, check=True)
    lines = journal.read_bytes().splitlines(keepends=True)
    assert lines[: len(kept)] == kept
    assert len(lines) == 10
    assert len({json.loads(line)["key"] for line in lines}) == 10


def test_csv_there_and_back(tmp_path):
    rows = (Row("8", "", "", {"noise": 0.1, "sqnr": math.inf}), Row("8", 'a,"b', "4", {"noise": 1e-17, "sqnr": 3.5}))
    path = tmp_path / "table.csv"
    Table(rows).write_csv(path)
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["layer"] for row in found] == ["", 'a,"b']
    assert [float(row["noise"]) for row in found] == [0.1, 1e-17]
    assert float(found[0]["sqnr"]) == math.inf
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(LpccError, match="cannot be written"):
        Table(rows).write_csv(tmp_path / "no" / "table.csv")


@pytest.mark.slow
def test_resnet20_is_quick(zoo):
    """21 layers in three choices on 200 images; the time is for a machine that does nothing else."""
    from lpcc.graph import load, to_proto
    from lpcc.pipeline import Context, Pipeline
    from lpcc.pipeline.runner import run_pipeline

    graph = load(zoo.model("cifar10_resnet20_jpegft"))
    target = Target.load("x86-avx512-vnni")
    run_pipeline(graph, Pipeline.parse("exact"), Context(target=target))
    layers = [node.name for node in graph.nodes if node.op in ("Conv", "Gemm")]
    images = zoo.calib("cifar10_resnet20_jpegft", 200)
    item = Quantize(ranges="mse", min_work=0)
    subject = Subject(to_proto(graph).SerializeToString(), item, "bits", images, 200, target)
    start = time.perf_counter()
    table = measure(subject, around(layers, "8", ["4", "2", "float"]))
    assert time.perf_counter() - start < 240
    assert len(table.rows) == 1 + 3 * len(layers)
    two, four, eight = ([table.damage("8", layer, choice) for layer in layers] for choice in ("2", "4", "float"))
    assert sum(two) > 5 * sum(four) > 5 * sum(eight)
