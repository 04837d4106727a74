from __future__ import annotations

from dataclasses import replace

import pytest

from lpcc.report import Quality, Report, Verdict
from lpcc.report.screen import screen


def lines(report: Report, width: int = 100, *, verbose: bool = False) -> list[str]:
    return [line if isinstance(line, str) else line[0] for line in screen(report, width, verbose=verbose)]


def test_everything_on_one_screen(report: Report) -> None:
    shown = lines(report)
    text = "\n".join(shown)
    assert shown[0] == "net.onnx -> net.x86.onnx"
    assert "nodes                     72       31   -57 %" in text
    assert "latency (predicted)  12.3 ms  5.10 ms   -59 %" in text
    assert "quality on 500 samples, as arm computes: top1 91.90 % -> 91.70 % (drop 0.20 of at most 1 points)" in text
    assert "21 batch norm folded" in text
    assert "3 Conv in int8, 3 Add in int8, 2 kinds more" not in text
    assert "3 Conv in int8, 3 Add in int8, 3 Slice in int8, 2 kinds more" in text
    assert "3 Conv in int8, 3 Add in int8, 3 kinds more" in "\n".join(lines(report, 80))
    assert "nothing to do for cse (1 refused), dce" in text
    assert "result: the optimised model, part of it taken back, 2.41x as fast (predicted)" in text
    assert "  `b` went back to float: 9.1 dB" in text
    assert "note: dimension N of input x taken as 1" in text
    assert "no kernel" not in text
    assert len(shown) < 36


def test_verbose_shows_refusals_and_layers(report: Report) -> None:
    text = "\n".join(lines(report, verbose=True))
    assert "no kernel: n0, n1, n2, n3, n4 and 2 more" in text
    assert "too large: a" in text
    assert "3 Gemm in int8" in text
    assert "float32 -> u8s8" in text


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_nothing_is_wider_than_the_terminal(report: Report, width: int) -> None:
    assert max(map(len, lines(report, width, verbose=True))) <= width


def test_a_budget_that_is_not_met_stands_out(report: Report) -> None:
    missed = replace(report, verdict=Verdict("original", False, ("top1 falls by 3.1 points",)))
    assert ("result: the original model; the budget is NOT met by what was asked for", "bold red") in list(
        screen(missed, 100)
    )


def test_many_reasons_are_counted(report: Report) -> None:
    many = replace(report, verdict=replace(report.verdict, reasons=tuple(f"reason {i}" for i in range(20))))
    assert "  and 12 more (--json has all)" in lines(many)


def test_quality_without_labels(report: Report) -> None:
    floors = Quality("agreement", 64, None, None, None, 97.0, 21.0, "synthetic", None, 90.0, 10.0)
    assert "quality on 64 made-up samples: agreement 97.00 % (at least 90), SQNR 21.0 dB (at least 10)" in lines(
        replace(report, quality=floors)
    )
    equal = Quality("sqnr", 64, data="real")
    assert "quality on 64 samples: outputs are equal" in lines(replace(report, quality=equal))
    assert "quality on 1 sample: outputs are equal" in lines(replace(report, quality=replace(equal, samples=1)))
    assert not any("quality" in line for line in lines(replace(report, quality=Quality())))


def test_another_metric_has_no_percent(report: Report) -> None:
    own = Quality("metrics:iou", 10, 0.512, 0.508, 0.004, None, None, "real", 0.01)
    assert "quality on 10 samples: metrics:iou 0.512 -> 0.508 (drop 0.00400 of at most 0.01)" in lines(
        replace(report, quality=own)
    )


def test_the_worst_layers_each_with_a_bar_and_a_remedy(report: Report) -> None:
    found = lines(report, 120)
    place = next(index for index, line in enumerate(found) if line.startswith("layers that add most noise"))
    first, remedy, second, _ = (" ".join(line.split()) for line in found[place + 1 : place + 5])
    assert first == "conv2 24.0 dB ████████ 12.0 dB its weights are coarse"
    assert remedy == "-> --preset accurate, or --keep conv2"
    assert second == "conv1 31.5 dB ████ 6.0 dB 8 bits are coarse for its input"


def test_bars_of_all_layers_with_details(report: Report) -> None:
    found = [line for line in lines(report, 120, verbose=True) if line.startswith("conv2  Conv")]
    assert "████████ 12.0 dB" in found[0]


def test_size_by_type_and_bits(report: Report) -> None:
    text = "\n".join(lines(report))
    assert "weights by type: int8 254 KB, float32 10.7 KB" in text
    assert "bits per weight" in text
    assert "8.31" in text


def test_whose_kernels_it_was_judged_by(report: Report) -> None:
    assert "quality on 500 samples, as arm computes: top1" in "\n".join(lines(report))


def test_what_was_taken_back_says_so(report: Report) -> None:
    undone = replace(report, passes=tuple(replace(item, taken_back=bool(item.counts)) for item in report.passes))
    text = "\n".join(lines(undone, 120))
    assert "taken back: 21 batch norm folded" in text
    assert "taken back: 3 Conv in int8" in text
