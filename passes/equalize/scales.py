"""Scales for the channels of a graph: which are allowed, and which are best.

A channel is divided by its scale s: the rows that make it become w / s, the columns that read it w s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lpcc.calibrate.channels import Channels
from lpcc.passes.equalize.tied import Ties
from lpcc.passes.normalize.linear import Linear

Array = np.ndarray[Any, Any]

_REAL, _MADE_UP = (1.2, 6.0), (2.0, 10.0)
"""Margin and deviations within which channels are expected to stay on other images than those seen."""
_MOST = 64.0
"""A scale lies between 1 / 64 and 64 in what is judged by weights; tiny weights say little."""
_LEAST_NOISE = 1 / 8
"""How far a quiet channel is turned up at most when judged by noise: it may be louder on other images."""
_SWEEPS = 30
_SETTLED = 1e-2
_GAIN = 0.9
"""Share of the noise that must be left at most for a change to be made."""


@dataclass(frozen=True)
class Room:
    """Which sets of channels may be scaled, and between which ends, (count,)."""

    free: Array
    least: Array
    most: Array


def room(ties: Ties, found: Mapping[str, Channels], *, made_up: bool = False) -> Room:
    """What may be scaled: what some layer writes and another reads, nothing holds, and no Clip limits on images.

    A Clip to [low, high] of a channel does nothing as long as the channel stays within. How far it reaches is the
    greatest value `found` on images and a margin, or the mean and six deviations of what goes into the Clip if that is
    more; on images that are `made_up`, ten deviations, and twice the greatest value. A channel that reaches a limit is
    held, one that does not is scaled up at most so far that it still does not; a Clip of which nothing was found holds
    all.
    """
    writes, reads = np.zeros(ties.count, dtype=bool), np.zeros(ties.count, dtype=bool)
    for layer in ties.layers:
        writes[layer.outputs] = True
        reads[layer.inputs] = True
    free = writes & reads & ~ties.held
    least, most = np.full(ties.count, 1 / _MOST), np.full(ties.count, _MOST)
    margin, deviations = _MADE_UP if made_up else _REAL
    for limit in ties.limits:
        channels = found.get(limit.node.inputs[0].name)
        if channels is None:
            free[limit.channels] = False
            continue
        spread = deviations * np.sqrt(channels.variance)
        share = np.maximum(channels.high * margin, channels.mean + spread) / limit.high
        if limit.low < 0:
            share = np.maximum(share, np.minimum(channels.low * margin, channels.mean - spread) / limit.low)
        free[limit.channels[share >= 1]] = False
        np.maximum.at(least, limit.channels, share)
    return Room(free, np.minimum(least, 1.0), most)


class Equaliser:
    """Chooses scales for the free channels, block by block: those that one layer writes, and what is tied to them."""

    def __init__(self, ties: Ties, room: Room) -> None:
        self._room = room
        self._layers = ties.layers
        self._scales: Array = np.ones(ties.count)
        self._weights = [Linear.of(layer.node).unpack() for layer in ties.layers]
        self._largest = [np.abs(w).max(axis=3) for w in self._weights]
        block_of = _blocks(ties, room.free)
        self._blocks: dict[int, Array] = {}
        for block in dict.fromkeys(block_of[block_of >= 0].tolist()):
            self._blocks[block] = np.empty(0)
        order = np.argsort(block_of, kind="stable")
        starts = np.searchsorted(block_of[order], list(self._blocks))
        ends = np.searchsorted(block_of[order], list(self._blocks), side="right")
        for block, start, end in zip(list(self._blocks), starts, ends, strict=True):
            self._blocks[block] = order[start:end]
        self._writers = self._touching(block_of, [layer.outputs for layer in ties.layers])
        self._readers = self._touching(block_of, [layer.inputs for layer in ties.layers])
        self._scratch = np.zeros((2, ties.count))

    def by_weights(self) -> Array:
        """Scales (count,) that give the weights that write a channel and those that read it one range.

        With r1 the largest magnitude in the rows that write channel i and r2 that in the columns that read it,

            s = sqrt(r1 r2) / r2

        makes both sqrt(r1 r2) (Nagel et al. 2019, arXiv 1906.04721, equation 11), the best for weights that share
        one scale in each layer. One block changes its neighbours' ranges, so all are gone through until none changes.
        """
        self._scales[:] = 1.0
        for _ in range(_SWEEPS):
            moved = 0.0
            for block, members in self._blocks.items():
                written, read = self._ranges(block, members)
                known = (written > 0) & (read > 0)
                step = np.sqrt(np.where(known, written, 1.0) / np.where(known, read, 1.0))
                moved = max(moved, self._set(members, self._scales[members] * step))
            if moved < _SETTLED:
                break
        return self._scales.copy()

    def by_noise(self, magnitude: Array, square: Array, levels: int, largest: int) -> Array:
        """Scales (count,) that balance the noise of rounded activations with that of rounded weights.

        Activations share the step D of their tensor, weights the step d_j of their row j. Up to one twelfth the noise
        that channel i causes in its readers is

            s^2 D^2 sum_j w_ji^2  +  E[x_i^2] / s^2 sum_j d_j^2

        and is least where both parts are equal. As D and d_j follow from the largest activation and the largest weight,
        s is kept within what raises neither. A depthwise convolution's row reads one channel: its step shrinks with s,
        and only the first part counts. `magnitude` is the largest value of each set of channels and `square` its mean
        square; activations have `levels` steps, weights at most `largest`. A block is left alone if with its weights as
        they are rounded the noise does not fall by a tenth: weights that lie on their grid already would leave it.
        """
        self._scales[:] = 1.0
        for _ in range(_SWEEPS):
            moved = 0.0
            for block, members in self._blocks.items():
                if not magnitude[members].max() > 0 or not self._readers[block]:
                    continue
                old = self._scales[members].copy()
                before = self._noise(block, members, magnitude, square, levels, largest)
                step = self._set(members, self._balanced(block, members, magnitude, square, levels, largest))
                if self._noise(block, members, magnitude, square, levels, largest) < _GAIN * before:
                    moved = max(moved, step)
                else:
                    self._scales[members] = old
            if moved < _SETTLED:
                break
        return self._scales.copy()

    def _balanced(self, block: int, members: Array, magnitude: Array, square: Array, levels: int, top: int) -> Array:
        energy, steps = self._scratch
        energy[members] = steps[members] = 0.0
        most = np.full(len(members), np.inf)
        reach = (magnitude[members] / self._scales[members]).max()
        for index in self._readers[block]:
            layer, weights = self._layers[index], self._weights[index]
            groups, outputs, inputs, taps = weights.shape
            rows = self._scales[layer.outputs].reshape(groups, outputs, 1)
            np.add.at(energy, layer.inputs, (np.square(weights).sum(axis=3) / rows**2).sum(axis=1).reshape(-1))
            if inputs == 1:
                continue
            highest = self._scaled(index).max(axis=2)
            summed = np.square(highest / top).sum(axis=1) * taps
            np.add.at(steps, layer.inputs, np.repeat(summed, inputs))
            own = self._largest[index] / rows
            ends = np.where(own > 0, highest[:, :, None] / np.where(own > 0, own, 1.0), np.inf).min(axis=1).reshape(-1)
            most = np.minimum(most, _gather(layer.inputs, ends, members))
        least = magnitude[members] / reach
        given, taken = square[members] * steps[members], energy[members] * (reach / levels) ** 2
        best = np.where(taken > 0, given / np.where(taken > 0, taken, 1.0), 1.0) ** 0.25
        return np.maximum(np.clip(best, least, np.maximum(most, least)), _LEAST_NOISE)

    def _noise(self, block: int, members: Array, magnitude: Array, square: Array, levels: int, top: int) -> float:
        """Twelve times the noise in what reads a block, in units of the unscaled network, weights as rounded."""
        reach = float((magnitude[members] / self._scales[members]).max())
        noise = 0.0
        for index in self._readers[block]:
            layer = self._layers[index]
            groups, outputs, inputs, _ = self._weights[index].shape
            columns = self._scales[layer.inputs].reshape(groups, 1, inputs, 1)
            rows = self._scales[layer.outputs].reshape(groups, outputs, 1, 1)
            scaled = self._weights[index] * columns / rows
            step = np.abs(scaled).max(axis=(2, 3), keepdims=True) / top
            step[step == 0] = 1.0
            error = np.square((scaled - np.rint(scaled / step) * step) * rows)
            power = (square[layer.inputs] / self._scales[layer.inputs] ** 2).reshape(groups, 1, inputs, 1)
            noise += 12 * float((error * power).sum()) + float(np.square(scaled * rows).sum()) * (reach / levels) ** 2
        return noise

    def _scaled(self, index: int) -> Array:
        """Largest magnitude over the taps of the weights of a layer as scaled, (groups, outputs, inputs)."""
        layer = self._layers[index]
        groups, outputs, inputs = self._largest[index].shape
        columns = self._scales[layer.inputs].reshape(groups, 1, inputs)
        result: Array = self._largest[index] * columns / self._scales[layer.outputs].reshape(groups, outputs, 1)
        return result

    def _ranges(self, block: int, members: Array) -> tuple[Array, Array]:
        """Largest magnitude of the weights that write each channel of a block, and of those that read it."""
        written, read = self._scratch
        written[members] = read[members] = 0.0
        for index in self._writers[block]:
            np.maximum.at(written, self._layers[index].outputs, self._scaled(index).max(axis=2).reshape(-1))
        for index in self._readers[block]:
            np.maximum.at(read, self._layers[index].inputs, self._scaled(index).max(axis=1).reshape(-1))
        return written[members], read[members]

    def _set(self, members: Array, scales: Array) -> float:
        """Take scales over, within the room there is; by how much the logarithm of any changed at most."""
        new = np.clip(scales, self._room.least[members], self._room.most[members])
        moved = float(np.abs(np.log(new / self._scales[members])).max(initial=0.0))
        self._scales[members] = new
        return moved

    def _touching(self, block_of: Array, channels: Sequence[Array]) -> dict[int, list[int]]:
        """By block the numbers of the layers of which some of `channels` are in it."""
        touching: dict[int, list[int]] = {block: [] for block in self._blocks}
        for index, sets in enumerate(channels):
            for block in np.unique(block_of[sets]):
                if block >= 0:
                    touching[int(block)].append(index)
        return touching


def _gather(places: Array, values: Array, members: Array) -> Array:
    """The least of `values` at each of `members`, infinite for those that are in none of `places`."""
    order = np.argsort(members, kind="stable")
    found = np.full(len(members), np.inf)
    at = np.searchsorted(members[order], places)
    inside = (at < len(members)) & (members[order][np.minimum(at, len(members) - 1)] == places)
    np.minimum.at(found, order[at[inside]], values[inside])
    return found


def _blocks(ties: Ties, free: Array) -> Array:
    """The block of each set of channels (count,): those that one layer writes are in one; -1 for what is not free."""
    block_of = np.full(ties.count, -1)
    names: list[int] = []  # of each block, the one that it became part of
    for layer in ties.layers:
        members = np.unique(layer.outputs[free[layer.outputs]])
        if not len(members):
            continue
        number = len(names)
        names.append(number)
        for other in np.unique(block_of[members]):
            if other >= 0:
                names[_last(names, int(other))] = number
        block_of[members[block_of[members] < 0]] = number
    return np.asarray([-1 if block < 0 else _last(names, int(block)) for block in block_of], dtype=np.intp)


def _last(names: list[int], block: int) -> int:
    while names[block] != block:
        block = names[block]
    return block


def magnitudes(ties: Ties, found: Mapping[str, Channels]) -> tuple[Array, Array]:
    """The largest magnitude of each set of channels in the tensors of `found`, and its mean square, (count,)."""
    largest, square = np.zeros(ties.count), np.zeros(ties.count)
    for name, channels in found.items():
        sets = ties.tensors.get(name)
        if sets is not None:
            np.maximum.at(largest, sets, channels.magnitude)
            np.maximum.at(square, sets, channels.variance + channels.mean**2)
    return largest, square
