from __future__ import annotations

import resource

import pytest

from lpcc.analysis.types import annotate
from lpcc.graph import from_proto
from lpcc.testing.golden import read_model

COUNTS_FAR = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,4] x) => (float[N,4] y, int64[1] z)
<int64 start = {0}, int64 limit = {100000000000}, int64 step = {1}, int64[1] first = {0}>
{
  all = Range(start, limit, step)
  z = Gather(all, first)
  y = Relu(x)
}
"""


def test_a_range_of_claimed_terabytes_takes_no_memory() -> None:
    graph = from_proto(read_model(COUNTS_FAR))
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (2**34, hard))
    try:
        annotate(graph)
    except MemoryError:
        pytest.fail("took more than 16 GB")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert graph.nodes[-1].outputs[0].shape == ["N", 4]
