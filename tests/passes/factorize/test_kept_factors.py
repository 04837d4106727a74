from __future__ import annotations

import _thread
import threading

import numpy as np
import pytest

from lpcc.analysis.types import annotate
from lpcc.errors import UsageError
from lpcc.graph import from_proto
from lpcc.passes.factorize import Factorize
from lpcc.passes.factorize.factors import relative_error
from lpcc.passes.factorize.form import Form
from lpcc.passes.factorize.methods.cpd import Cpd
from lpcc.passes.factorize.methods.kept import Kept, decompose
from lpcc.pipeline import Context
from lpcc.testing.golden import read_model

FORM = Form(
    "Conv", np.random.default_rng(0).standard_normal((1, 6, 5, 3, 3)), (1, 1), (1, 1), (1, 1, 1, 1), (0, 0), "NOTSET"
)


def test_what_was_found_is_read(tmp_path, monkeypatch):
    first = decompose("cpd", FORM, None, str(tmp_path / "kept"))
    assert isinstance(first, Kept)
    found = first.factors((4,))
    monkeypatch.setattr(Cpd, "factors", lambda *_: pytest.fail("it was found before"))
    again = decompose("cpd", FORM, None, str(tmp_path / "kept"))
    read = again.factors((4,))
    assert (read.method, read.rank) == (found.method, found.rank)
    for mine, theirs in zip(read.stages, found.stages, strict=True):
        assert mine.axes == theirs.axes
        np.testing.assert_array_equal(mine.tensor, theirs.tensor)
    assert again.error((4,)) == pytest.approx(relative_error(FORM, found, None))
    assert (again.full, again.name) == (first.full, "cpd")


def test_other_weights_moments_and_ranks_are_other_files(tmp_path):
    other = FORM.with_matrix(FORM.matrix + 1)
    moments = np.eye(45)[None]
    for form, own, rank in ((FORM, None, 2), (FORM, None, 3), (other, None, 2), (FORM, moments, 2)):
        decompose("cpd", form, own, str(tmp_path)).factors((rank,))
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"x" * 100])
def test_broken_files_count_as_none(tmp_path, content):
    found = decompose("cpd", FORM, None, str(tmp_path)).factors((2,))
    (path,) = tmp_path.iterdir()
    path.write_bytes(content)
    again = decompose("cpd", FORM, None, str(tmp_path)).factors((2,))
    np.testing.assert_array_equal(again.tensor, found.tensor)
    assert path.stat().st_size > 100


def test_what_is_quick_is_not_kept(tmp_path):
    decompose("bmd", FORM, None, str(tmp_path)).factors((2,))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file"):
        decompose("cpd", FORM, None, str(tmp_path / "file")).factors((2,))


LAYERS = """<ir_version: 8, opset_import: ["": 17]>
g (float[1,4,6,6] x) => (float[1,4,6,6] y) <float[4,4,3,3] u, float[4,4,3,3] v, float[4,4,3,3] w>
{ a = Conv<pads=[1,1,1,1]>(x, u) r = Relu(a) b = Conv<pads=[1,1,1,1]>(r, v) s = Relu(b) y = Conv<pads=[1,1,1,1]>(s, w) }
"""


def test_who_stops_it_has_what_is_done(monkeypatch):
    """Ctrl-C while the second layer is decomposed: the layers that wait for their turn stay whole."""
    graph = from_proto(read_model(LAYERS))
    annotate(graph)
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    began, stopped = threading.Event(), threading.Event()
    factors, calls = Cpd.factors, []

    def slow(self, rank):
        calls.append(rank)
        if len(calls) == 2:
            began.set()
            stopped.wait(10)
        return factors(self, rank)

    def stop():
        began.wait(10)
        _thread.interrupt_main()
        stopped.set()

    monkeypatch.setattr(Cpd, "factors", slow)
    thread = threading.Thread(target=stop)
    thread.start()
    changes = Factorize(method=("cpd",), ratio=0.5, fit="weights").run(graph, Context())
    thread.join()
    assert 1 <= len(changes.rewrites) < 3
    assert "stopped before its turn" in {refusal.reason for refusal in changes.refused}
