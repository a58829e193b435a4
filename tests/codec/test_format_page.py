"""A decoder and an encoder written from docs/format.md alone, in plain Python, against the real ones."""

from __future__ import annotations

import bisect
import json
import struct
import zlib
from functools import cache
from math import isqrt, prod
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from compression_gate.codec import container, structure_code
from compression_gate.codec.coded_model import decode_model, encode_model
from compression_gate.codec.coded_tensors import decode_tensors, encode_tensors
from compression_gate.codec.forms import FORM_NAMES
from compression_gate.codec.inspection import inspected
from compression_gate.codec.logistic import logits, priors, probabilities, rates
from compression_gate.codec.number_types import TYPES

PAGE = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")

# --- What the page says, and nothing else -----------------------------------------------------------------------------

FIELDS = {"F32": (4, 8, 23), "F16": (2, 5, 10), "BF16": (2, 8, 7), "F64": (8, 11, 52), "F8_E4M3": (1, 4, 3),
          "F8_E5M2": (1, 5, 2)}  # fmt: skip
BYTES = {"I8": 1, "U8": 1, "I16": 2, "U16": 2, "I32": 4, "U32": 4, "I64": 8, "U64": 8, "BOOL": 1}


@cache
def tables():
    step, term, count = 0, 1 << 64, 0
    while term:
        step, count = step + term, count + 1
        term //= 256 * count
    power, squash = 1 << 64, {}
    for logit in range(2841):
        squash[logit] = min(65536 * power // (power + (1 << 64)), 65535)
        power = power * step >> 64
    squash |= {-logit: 65536 - squash[logit] for logit in range(1, 2841)}
    ordered = [squash[logit] for logit in range(-2840, 2841)]
    stretch = [min(bisect.bisect_left(ordered, one) - 2840, 2840) for one in range(65536)]
    return squash, stretch, [327680 // (5 * seen + 8) for seen in range(256)]


@cache
def prior(bucket, node):
    one = 1 << 32
    square = one * one << bucket >> 18
    powers = [(isqrt(one * one + square) - one) * one // isqrt(square)]
    for _ in range(24):
        powers.append(powers[-1] * powers[-1] // one)
    if node == 0:
        found = 2 * powers[0] * 65536 // (one + powers[0])
    elif node < 27:
        found = powers[node - 2] * 65536 // one
    else:
        exponent, prefix = next((e, node - 26 - (1 << e)) for e in range(1, 8) if 1 <= node - 26 - (1 << e) < 1 << e)
        below = powers[exponent - prefix.bit_length()]
        found = below * 65536 // (one + below)
    return min(max(found, 16), 65520)


def bucket(total, count):
    scaled = 512 * total // count
    if scaled <= 1:
        return 0
    octave = scaled.bit_length() - 1
    return min(2 * octave + (octave < 31 and scaled * scaled >> 2 * octave >= 2), 31)


def level(symbol):
    return min(abs(symbol), 3)


def side(symbol):
    return 0 if symbol == 0 else 1 if symbol > 0 else 2


class PageStream:
    """Reads a stream, or writes one where there are no bytes."""

    def __init__(self, data=None, schema=2):
        self.data, self.out, self.position, self.schema = data, bytearray(), 0, schema
        self.known = {"steps": [], "tables": [], "tensors": []}
        self.low, self.high, self.code = 0, 0xFFFFFFFF, 0
        if data is not None:
            for _ in range(4):
                self.code = self.code << 8 | self.next_byte()
        self.slots, self.weights, self.asked, self.producers = {}, {}, {}, []

    def next_byte(self):
        self.position += 1
        return self.data[self.position - 1] if self.position <= len(self.data) else 0

    def bit(self, one, bit):
        width = self.high - self.low
        middle = self.low + (width >> 16) * one + ((width & 0xFFFF) * one >> 16)
        if self.data is not None:
            bit = self.code <= middle
        if bit:
            self.high = middle
        else:
            self.low = middle + 1
        while (self.low ^ self.high) >> 24 == 0:
            if self.data is None:
                self.out.append(self.high >> 24)
            else:
                self.code = self.code << 8 & 0xFFFFFFFF | self.next_byte()
            self.low, self.high = self.low << 8 & 0xFFFFFFFF, self.high << 8 & 0xFFFFFFFF | 255
        return int(bit)

    def finish(self):
        for count in range(5):
            number = self.high >> 8 * (4 - count) << 8 * (4 - count)
            if number >= self.low:
                self.out += number.to_bytes(4, "big")[:count]
                break
        for _ in range(4):
            if self.out and self.out[-1] == 0:
                self.out.pop()
        return bytes(self.out)

    def check_end(self):
        assert len(self.data) <= self.position <= len(self.data) + 8

    def numbers(self, bits, count):
        return [self.number(bits) for _ in range(count)]

    def number(self, bits, value=0):
        found = 0
        for place in reversed(range(bits)):
            found = 2 * found + self.bit(32768, value >> place & 1)
        return found

    def whole(self, value=0):
        folded = 2 * value + 1 if value >= 0 else -2 * value
        bits = folded.bit_length() - 1
        count = 0
        while not self.bit(32768, count == bits):
            count += 1
        low = min(count, 32)
        rest = folded & (1 << count) - 1
        rest = self.number(max(count - 32, 0), rest >> low) << low | self.number(low, rest & (1 << low) - 1)
        folded = 1 << count | rest
        return folded // 2 if folded & 1 else -(folded // 2)

    def decide(self, node, keys, bit):
        """One decision of a symbol: ``keys`` are the slots in use, each with what its prior is if it has one."""
        squash, stretch, rate = tables()
        for place, (key, own_prior) in enumerate(keys):
            if key not in self.slots:
                first = self.slots[keys[0 if node == 1 else 1][0]][0] if own_prior is None and place else own_prior
                self.slots[key] = [first, 1]
        weights = self.weights.setdefault(node, [7864] * 10)
        inputs = [stretch[self.slots[key][0]] for key, _ in keys]
        mixed = sum(weights[place] * one for place, one in enumerate(inputs)) >> 16
        one = min(max(squash[min(max(mixed, -2840), 2840)], 2), 65534)
        bit = self.bit(one, bit)
        asked = self.asked.get(node, 0)
        speed = 3
        if asked < 80:
            self.asked[node] = asked + 1
            speed = 384 // (16 + asked + 1)
        for place, (key, _) in enumerate(keys):
            change = (65536 * bit - one) * inputs[place] * speed + 131072 >> 18
            weights[place] = min(max(weights[place] + change, -(1 << 24)), 1 << 24)
            probability, seen = self.slots[key]
            self.slots[key] = [probability + ((65535 * bit - probability) * rate[seen] >> 16), min(seen + 1, 255)]
        return bit

    def symbol(self, contexts, signs, value):
        size, negative = abs(value), value < 0

        def keys(node):
            used = 10 if node < 5 else 5 if node < 27 else 3
            own = [prior(contexts[place], node) if place < 5 else None for place in range(used)]
            found = [(("size", place, contexts[place], node), own[place]) for place in range(used)]
            if negative and node > 1:
                found[0] = (("size of a negative one", contexts[0], node), own[0])
            return found

        if not self.decide(0, keys(0), size > 0):
            return 0
        sign_keys = [(("sign", place, signs[place]), None if place else 32768) for place in range(10)]
        negative = bool(self.decide(1, sign_keys, negative))
        exponent = 0
        while exponent < 24 and self.decide(2 + exponent, keys(2 + exponent), size >> exponent + 1 > 0):
            exponent += 1
        prefix = 1
        if exponent <= 7:
            for left in reversed(range(exponent)):
                node = 27 + (1 << exponent) + prefix - 1
                prefix = 2 * prefix + self.decide(node, keys(node), size >> left & 1)
        else:
            prefix = prefix << exponent | self.number(exponent, size & (1 << exponent) - 1)
        return -prefix if negative else prefix

    def plane(self, rows, columns, stride, kernel, values=None):
        plainly = self.schema > 1 and rows * columns >= 1024 and self.number(1, 0)
        found = self.plain_plane(rows, columns) if plainly else self.mixed_plane(rows, columns, stride, kernel, values)
        if rows > 1:
            self.producers = [bucket(sum(map(abs, row)), columns) for row in found]
        return found

    def plain_plane(self, rows, columns):
        counts = {}

        def decide(node):
            zeros, ones = counts.get(node, (0, 0))
            bit = self.bit(min(max((2 * ones + 1 << 15) // (zeros + ones + 1), 1), 65535), 0)
            counts[node] = (zeros + 1 - bit, ones + bit)
            return bit

        def symbol():
            if not decide(0):
                return 0
            negative, exponent, prefix = decide(1), 0, 1
            while exponent < 24 and decide((negative, 2 + exponent)):
                exponent += 1
            for _ in range(exponent):
                node = (negative, 27 + (1 << exponent) + prefix - 1)
                prefix = 2 * prefix + (decide(node) if exponent <= 7 else self.number(1))
            return -prefix if negative else prefix

        return [[symbol() for _ in range(columns)] for _ in range(rows)]

    def mixed_plane(self, rows, columns, stride, kernel, values=None):
        found = [[0] * columns for _ in range(rows)]
        column_sums, total, count = [0] * columns, 0, 0
        for r in range(rows):
            row_sum = 0
            for c in range(columns):
                contexts, signs = self.contexts(found, r, c, stride, kernel, row_sum, column_sums[c], total, count)
                found[r][c] = self.symbol(contexts, signs, values[r][c] if values is not None else 0)
                size = abs(found[r][c])
                row_sum, total, count = row_sum + size, total + size, count + 1
                column_sums[c] += size
        return found

    def contexts(self, found, r, c, stride, kernel, row_sum, column_sum, total, count):
        columns = len(found[0])

        def at(row, column):
            return found[row][column] if row >= 0 and 0 <= column < columns else 0

        left, left2, up, up2, up3 = at(r, c - 1), at(r, c - 2), at(r - 1, c), at(r - 2, c), at(r - 3, c)
        up_left, up_right = at(r - 1, c - 1), at(r - 1, c + 1)
        back, back2, back_left = at(r, c - stride), at(r, c - 2 * stride), at(r, c - stride - 1)
        back_right = at(r, c - stride + 1) if stride > 1 else 0
        near = 2 * (abs(left) + abs(back) + abs(up))
        near += sum(map(abs, (left2, back_left, back2, up2, up_left, up_right)))
        mean = (16 * total + 16) // (count + 1)
        of_row = bucket(16 * row_sum + 2 * mean, 16 * c + 32)
        of_column = bucket(16 * column_sum + mean, 16 * r + 16)
        of_near = bucket(16 * near + 2 * mean, 240)
        if kernel > 1:
            last = min(c % kernel, 511)
        elif columns <= 64:
            last = c
        else:
            known = self.producers and columns % len(self.producers) == 0
            last = 600 + (self.producers[c // (columns // len(self.producers))] if known else of_column)
        together = 8 * near + 128 * (row_sum + 1) // (c + 2) + 128 * (column_sum + 1) // (r + 2)
        return (
            [
                bucket(4 * total + 2, 4 * count + 4), bucket(together, 360), of_row, of_column, of_near,
                64 * level(left) + 16 * level(up) + 4 * level(back) + level(back2),
                16 * (of_row >> 1) + (of_column >> 1), 16 * (of_row >> 1) + (of_near >> 1),
                64 * level(up) + 16 * level(up2) + 4 * level(up3) + level(left), last,
            ],
            [
                0, 9 * side(left) + 3 * side(back) + side(up),
                27 * side(back) + 9 * side(back_right) + 3 * side(back_left) + side(left),
                min(max(left + back + back_right + back_left + 4, 0), 8), side(back),
                3 * side(left) + side(up), 3 * side(up) + side(up_left), last,
                min(max(up + up2 + up3 + 4, 0), 8), 9 * side(up) + 3 * side(up_left) + side(left),
            ],
        )  # fmt: skip


def strides_of(shape, columns):
    kernel = prod(shape[2:])
    found = {1, kernel, shape[-1] if len(shape) > 2 else 1, isqrt(columns) if isqrt(columns) ** 2 == columns else 1}
    return sorted(stride for stride in found if stride == 1 or 1 < stride < columns)


def float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def read_tensor(stream, kind, shape):
    """The bit patterns of a tensor, in its own order."""
    size = prod(shape)
    if size == 0:
        return []
    alike = [own for (own_kind, own_shape), own in stream.known["tensors"] if (own_kind, own_shape) == (kind, shape)]
    found = read_some(stream, kind, shape, alike)
    if stream.schema > 1:
        stream.known["tensors"] = [*stream.known["tensors"], ((kind, shape), found)][-1024:]
    return found


def key_of(pattern, kind):
    """The number of a pattern in the order of values."""
    bits = 8 * (FIELDS[kind][0] if kind in FIELDS else BYTES[kind])
    if kind not in FIELDS or pattern < 1 << bits - 1:
        return pattern
    return -(pattern - (1 << bits - 1)) - 1


def pattern_of(key, kind):
    bits = 8 * (FIELDS[kind][0] if kind in FIELDS else BYTES[kind])
    key = (key + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)
    return key % (1 << bits) if kind not in FIELDS or key >= 0 else (1 << bits - 1) + (-key - 1)


def again(stream, what):
    """What was there before and comes again, or None."""
    known = stream.known[what]
    if not known or not stream.number(1):
        return None
    return known[stream.number((len(known) - 1).bit_length())]


def keep(stream, what, new):
    if stream.schema > 1:
        stream.known[what] = [*stream.known[what], new][-64:]
    return new


def read_some(stream, kind, shape, alike):
    size = prod(shape)
    form = stream.number(3)
    can_turn = len(shape) > 1 and shape[0] > 1 and shape[1] > 1
    turned = bool(can_turn and stream.number(1))
    axes = (shape[1], shape[0], *shape[2:]) if turned else shape
    rows, columns = (axes[0], prod(axes[1:])) if len(axes) > 1 else (1, size)
    strides = strides_of(axes, columns)
    stride = strides[stream.number(2)] if len(strides) > 1 else 1
    width = FIELDS[kind][0] if kind in FIELDS else BYTES[kind]
    mask = (1 << 8 * width) - 1

    def plane():
        flat = [symbol for row in stream.plane(rows, columns, stride, prod(axes[2:])) for symbol in row]
        return np.array(flat, dtype=object).reshape(axes).swapaxes(0, 1).reshape(-1).tolist() if turned else flat

    if form == 0:
        if kind not in FIELDS:
            return [stream.whole() & mask] * size
        unused = stream.number(6)
        bits = 8 * width - unused
        upper = stream.number(max(bits - 32, 0))
        return [(upper << min(bits, 32) | stream.number(min(bits, 32))) << unused] * size
    if form == 1:
        return [symbol & mask for symbol in plane()]
    if form == 2:
        step = again(stream, "steps")
        if step is None:
            exponent, count = stream.number(8), stream.number(5)
            pattern = exponent << 23 | stream.number(count) << 23 - count
            step = keep(stream, "steps", struct.unpack("<f", struct.pack("<I", pattern))[0])
        values = [float32(float32(symbol) * step) for symbol in plane()]
        if kind == "F16":
            return [struct.unpack("<H", struct.pack("<e", value))[0] for value in values]
        patterns = [struct.unpack("<I", struct.pack("<f", value))[0] for value in values]
        return [pattern >> 16 for pattern in patterns] if kind == "BF16" else patterns
    if form == 3:
        everything = stream.known["tables"]
        stream.known["tables"] = [one for one in everything if one[0] == kind]
        found = again(stream, "tables")
        stream.known["tables"] = everything
        if found is None:
            count, zero = stream.number(12) + 1, stream.number(13)
            table = read_floats(stream, kind, lambda: stream.plane(1, count, 1, 1)[0])
            found = keep(stream, "tables", (kind, table, zero))
        _, table, zero = found
        return [table[symbol + zero] for symbol in plane()]
    if form == 4:
        return read_floats(stream, kind, plane)
    if form == 6:
        if width < 8:
            return stream.numbers(8 * width, size)
        upper, lower = stream.numbers(32, size), stream.numbers(32, size)
        return [high << 32 | low for high, low in zip(upper, lower, strict=True)]
    if form == 7:
        base = alike[stream.number((len(alike) - 1).bit_length())]
        return [pattern_of(key_of(own, kind) + symbol, kind) for own, symbol in zip(base, plane(), strict=True)]
    rows_of_bytes = stream.plane(size, width, 1, 1)
    return [int.from_bytes(bytes(row), "little") for row in rows_of_bytes]


def read_floats(stream, kind, plane):
    _, exponent_bits, mantissa_bits = FIELDS[kind]
    top, unused = stream.number(exponent_bits), stream.number(6)
    found, symbols = [], plane()
    mantissas = iter(stream.numbers(mantissa_bits - unused, sum(symbol != 0 for symbol in symbols)))
    for symbol in symbols:
        mantissa = next(mantissas) << unused if symbol else 0
        sign = (symbol < 0) << exponent_bits + mantissa_bits
        found.append((sign | top + 1 - abs(symbol) << mantissa_bits | mantissa) if symbol else 0)
    return found


def varint(data, position):
    number = shift = 0
    while True:
        number |= (data[position] & 127) << shift
        position, shift = position + 1, shift + 7
        if data[position - 1] < 128:
            return number, position


def read_file(data):
    """Everything but the streams: flags, what the head begins with, the pool and the segments."""
    assert data[:3] == b"CGZ"
    assert data[3] in (1, 2)
    flags = data[4]
    length, behind = varint(data, 5)
    assert length == len(data)
    stored, position = int.from_bytes(data[behind : behind + 4], "little"), behind + 4
    first = None
    if flags & 1:
        first, position = int.from_bytes(data[position : position + 2], "little"), position + 2
    else:
        count, position = varint(data, position)
        first, position = json.loads(zlib.decompress(data[position : position + count])), position + count
    assert not flags & 4
    frames = []
    count, position = varint(data, position) if flags & 2 else (0, position)
    for _ in range(count):
        size, position = varint(data, position)
        frames.append((size, int.from_bytes(data[position : position + 4], "little")))
        position += 4
    pool_length, position = varint(data, position) if flags & 2 else (len(data) - position, position)
    pool, position = data[position : position + pool_length], position + pool_length
    assert zlib.crc32(data[behind + 4 : position], zlib.crc32(data[:behind])) == stored
    segments = []
    for size, checksum in frames:
        segments.append(data[position : position + size])
        assert zlib.crc32(segments[-1]) == checksum
        position += size
    assert position == len(data)
    return flags, first, pool, segments


def read_tensors(data):
    """Bit patterns by name of a file of named tensors."""
    flags, directory, pool, segments = read_file(data)
    stream, found, waiting = PageStream(pool, data[3]), {}, list(segments)
    for name, kind, shape in directory:
        width = FIELDS[kind][0] if kind in FIELDS else BYTES[kind]
        if prod(shape) * width < 65536:
            found[name] = read_tensor(stream, kind, tuple(shape))
    stream.check_end()
    for name, kind, shape in directory:
        if name not in found:
            own = (FastPageStream if flags & 8 else PageStream)(waiting.pop(0), data[3])
            found[name] = read_tensor(own, kind, tuple(shape))
            own.check_end()
    return found


class Bits:
    """A bit field: the lowest bit of the first byte comes first."""

    def __init__(self, data):
        self.data, self.place = data, 0

    def take(self, bits):
        first, behind = self.place // 8, (self.place + bits + 7) // 8
        assert behind <= len(self.data)
        found = int.from_bytes(self.data[first:behind], "little") >> self.place % 8 & (1 << bits) - 1
        self.place += bits
        return found

    def gamma(self):
        zeros = 0
        while not self.take(1):
            zeros += 1
        return 1 << zeros | self.take(zeros)

    def bytes(self):
        return (self.place + 7) // 8


def signed(data, position):
    number, position = varint(data, position)
    return (-(number + 1) // 2 if number & 1 else number // 2), position


def wrapped(number):
    return (number + 2**31) % 2**32 - 2**31


def static_code(data, count):
    if count == 0:
        return []
    if data[0] <= 32:
        base, position = signed(data, 1)
        field = Bits(data[position:])
        return [wrapped(base + field.take(data[0])) for _ in range(count)]
    scale = data[0] - 64
    centre, position = signed(data, 1)
    used, position = varint(data, position)
    token, position = signed(data, position)
    table, length = frequencies(Bits(data[position:]), used + 2, token + 2048, scale)
    position += length
    states = 4 if count >= 65_536 else 1
    x = [int.from_bytes(data[position + 4 * i : position + 4 * i + 4], "little") for i in range(states)]
    position, tokens = position + 4 * states, []
    for place in range(count):
        state = place % states if place < count // states * states else 0
        slot = x[state] & (1 << scale) - 1
        token, frequency, start = table[slot]
        x[state] = frequency * (x[state] >> scale) + slot - start
        if x[state] < 1 << 16:
            x[state] = x[state] << 16 | int.from_bytes(data[position : position + 2], "little")
            position += 2
        tokens.append(token)
    assert x == [1 << 16] * states
    raw = Bits(data[position:])
    found = [wrapped(centre + distance(token, raw)) for token in tokens]
    assert raw.bytes() == len(data) - position
    return found


def frequencies(field, used, token, scale):
    """What each slot says, and how many bytes the table took."""
    left, bits, slots = 1 << scale, scale - 5, []
    for place in range(used):
        token += field.gamma() if place else 0
        frequency = left
        if place < used - 1:
            code = field.gamma()
            bits += code >> 1 if code & 1 else -(code >> 1)
            frequency = 1 << bits - 1 | field.take(bits - 1)
        slots += [(token, frequency, (1 << scale) - left)] * frequency
        left -= frequency
    assert left == 0
    return slots, field.bytes()


def distance(token, raw):
    if token < 4096:
        return token - 2048
    negative, size = divmod(token - 4096, 120)
    if size >= 4:
        below = (size - 4) // 4
        size = (size - 4 * below) << below | raw.take(below)
    return -size - 1 if negative else size


class FastPageStream:
    """Reads a stream of the fast profile."""

    def __init__(self, data, schema):
        self.data, self.position, self.schema = data, 0, schema
        self.known = {"steps": [], "tables": [], "tensors": []}

    def numbers(self, bits, count):
        field = Bits(self.data[self.position :])
        found = [field.take(bits) for _ in range(count)]
        self.position += field.bytes()
        return found

    def number(self, bits, value=0):
        return self.numbers(bits, 1)[0]

    def bit(self, one, bit):
        return self.number(1)

    def plane(self, rows, columns, stride, kernel):
        length = self.number(32)
        flat = static_code(self.data[self.position : self.position + length], rows * columns)
        self.position += length
        return [flat[row * columns : (row + 1) * columns] for row in range(rows)]

    def check_end(self):
        assert self.position == len(self.data)

    whole = PageStream.whole


# --- Against the real ones --------------------------------------------------------------------------------------------

# A file of schema 1 put together with the page at hand: one constant, one tensor of integers.
HAND_MADE = bytes.fromhex(
    "43475a01003e81c4e7a728789c8b8e564a54d2517272333453d28936d2318e8dd589564a020a795a0005cc6363630194f908"
    "80fe700cb60bd880f50322ff"
)
VALUES = {"a": (torch.bfloat16, [[1.5] * 3] * 2), "b": (torch.int8, [0, 1, -2, 300 - 256, 0, 0, 5])}


def sealed(flags, first, pool, schema=2):
    """A file without segments."""
    beginning = b"CGZ" + bytes([schema, flags])
    length = len(beginning) + 1 + 4 + len(first) + len(pool)
    assert length < 128
    beginning += bytes([length])
    return beginning + zlib.crc32(first + pool, zlib.crc32(beginning)).to_bytes(4, "little") + first + pool


def written_by_hand():
    stream = PageStream()
    stream.number(3, 0)  # a: constant
    stream.number(1, 0)  # not turned
    stream.number(6, 6)  # 0x3FC0 ends in six zeros
    stream.number(10, 0x3FC0 >> 6)
    stream.number(3, 1)  # b: integers
    stream.plane(1, 7, 1, 1, [VALUES["b"][1]])
    directory = zlib.compress(b'[["a","BF16",[2,3]],["b","I8",[7]]]')
    return sealed(0, bytes([len(directory)]) + directory, stream.finish(), schema=1)


def test_a_file_written_from_the_page_is_decoded(tmp_path):
    assert written_by_hand() == HAND_MADE
    decode_tensors(HAND_MADE, tmp_path / "a.safetensors")
    found = load_file(tmp_path / "a.safetensors")
    for name, (kind, values) in VALUES.items():
        assert torch.equal(found[name], torch.tensor(values, dtype=kind))


def test_a_decoder_written_from_the_page_reads_the_same_file():
    assert read_tensors(HAND_MADE) == {"a": [0x3FC0] * 6, "b": [0, 1, 254, 44, 0, 0, 5]}


def patterns(tensor):
    flat = tensor.contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().view(f"<u{flat.element_size()}").tolist()


def tensors_of_every_form():
    random = torch.Generator().manual_seed(0)
    centres, wild = torch.randn(6, generator=random), torch.randn(3, 90, generator=random)
    return {
        "shared": centres[torch.randint(0, 6, (8, 40), generator=random)],
        "shared again": centres[torch.randint(0, 5, (7, 30), generator=random)],
        "step again": torch.randint(-2, 3, (3, 9), generator=random) * 0.03125,
        "original": wild,
        "changed": wild * (1 + 1e-4 * torch.randn(3, 90, generator=random)),
        "halves": (wild.double() * -2).half(),
        "halves again": (wild.double() * -2.002).half(),
        "high bytes": torch.arange(60) * 2**26,
        "any": torch.randint(-9, 90, (40, 70), generator=random).to(torch.int8),
        "sparse": (torch.rand(40, 70, generator=random) < 0.02).to(torch.int8) * 9,
        "wide": torch.randint(-4, 5, (6, 80), generator=random, dtype=torch.int8),
        "image": torch.randint(-2, 3, (4, 3, 3, 3), generator=random) * 0.03125,
        "half": torch.randint(-9, 9, (7, 5), generator=random).half() * 0.1,
        "brain": torch.randint(-9, 9, (5, 7), generator=random).bfloat16() * 0.1,
        "floats": torch.randn(3, 4, generator=random),
        "double": torch.randn(5, generator=random, dtype=torch.float64),
        "few": torch.randn(4, generator=random)[torch.randint(0, 4, (9, 9), generator=random)],
        "odd": torch.tensor([float("nan"), float("inf"), -0.0, 0.0, 1e-42, -1.0]),
        "small": torch.randint(-9, 9, (40, 2), generator=random),
        "large": torch.tensor([2**62, -1, 7]),
        "unsigned": torch.tensor([[2**25 - 1], [0], [70_000]], dtype=torch.int32),
        "flags": torch.rand(30, generator=random) < 0.2,
        "double constant": torch.full((4,), 1 / 3, dtype=torch.float64),
        "negative constant": torch.full((4, 2), -7, dtype=torch.int16),
        "zero": torch.zeros(3, 3),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "eight": torch.randn(20, generator=random).to(torch.float8_e4m3fn),
    }


def test_a_decoder_written_from_the_page_reads_every_form(tmp_path):
    tensors = tensors_of_every_form()
    save_file(tensors, tmp_path / "a.safetensors")
    encode_tensors(tmp_path / "a.safetensors", tmp_path / "a.cgz")
    found = read_tensors((tmp_path / "a.cgz").read_bytes())
    assert set(found) == set(tensors)
    for name, tensor in tensors.items():
        assert found[name] == patterns(tensor), name


def test_tensors_of_every_form_have_them(tmp_path):
    tensors = tensors_of_every_form()
    save_file(tensors, tmp_path / "a.safetensors")
    encode_tensors(tmp_path / "a.safetensors", tmp_path / "a.cgz")
    forms = {one.name: one.forms[0] for one in inspected(tmp_path / "a.cgz").tensors}
    assert set(forms.values()) == set(FORM_NAMES)
    assert {forms["changed"], forms["original"]} == {forms["halves"], forms["halves again"]} == {"floats", "difference"}
    assert forms["shared"] == forms["shared again"] == "table"


def test_a_decoder_written_from_the_page_reads_segments(tmp_path):
    values = torch.zeros(256, 258, dtype=torch.int8)
    values[::16, ::9] = 3
    save_file({"large": values, "small": torch.arange(4.0)}, tmp_path / "a.safetensors")
    encode_tensors(tmp_path / "a.safetensors", tmp_path / "a.cgz")
    found = read_tensors((tmp_path / "a.cgz").read_bytes())
    assert found == {"large": patterns(values), "small": patterns(torch.arange(4.0))}


LARGE = {
    "normal": lambda random: torch.randn(130, 129, generator=random),
    "integers": lambda random: (torch.randn(300, 300, generator=random) * 20).round().to(torch.int8),
    "few steps": lambda random: torch.randint(-3, 4, (128, 131), generator=random) * 0.25,
    "wide": lambda random: (torch.randn(129, 128, generator=random) * 5000).round().to(torch.int32),
    "full range": lambda random: torch.randint(-(2**24), 2**24, (130, 130), generator=random, dtype=torch.int32),
    "regular": lambda random: torch.arange(8200) * 2**40,
}


@pytest.mark.parametrize("name", LARGE)
def test_a_decoder_written_from_the_page_reads_the_fast_profile(tmp_path, name):
    tensor = LARGE[name](torch.Generator().manual_seed(0))
    save_file({"a": tensor, "b": tensor.reshape(-1)[:20].clone()}, tmp_path / "a.safetensors")
    encode_tensors(tmp_path / "a.safetensors", tmp_path / "a.cgz", fast=True)
    found = read_tensors((tmp_path / "a.cgz").read_bytes())
    assert found == {"a": patterns(tensor), "b": patterns(tensor.reshape(-1)[:20])}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(6, 4), nn.Linear(4, 2)


def changed_net():
    net = Net()
    net.first = nn.Sequential(nn.Linear(6, 2, bias=False), nn.Linear(2, 4))
    with torch.no_grad():
        for place, value in enumerate(net.parameters()):
            value.copy_((torch.arange(value.numel()).reshape(value.shape) % 3 - 1) * 0.5 ** (place % 2))
    return net.eval()


def pool_by_hand(stream, values=None):
    """The structure of the changed net, and its tensors, written or read."""
    reading = values is None

    def number(bits, value):
        assert stream.number(bits, value) == value or reading
        return value

    assert stream.whole(3) == 3  # layers
    assert stream.number(2, 1) == 1  # "", first, head: three places
    assert stream.number(6, 28) == 28  # Sequential
    assert stream.number(1, 0) == 0
    assert stream.number(3, 3) == 3  # a whole number
    assert stream.whole(2) == 2
    assert stream.number(3, 3) == 3  # first.0, the fourth of five places
    assert stream.number(6, 0) == 0  # Linear
    for argument in (6, 2):
        assert stream.number(1, 0) == 0
        assert stream.number(3, 3) == 3
        assert stream.whole(argument) == argument
    assert stream.number(1, 0) == 0
    assert stream.number(3, 1) == 1  # no bias
    assert stream.number(3, 4) == 4  # first.1
    assert stream.number(6, 0) == 0
    assert stream.number(1, 0) == 0
    assert stream.number(3, 7) == 7  # 2, no larger than the 6 of the last Linear
    assert stream.number(3, 2) == 2
    assert stream.number(1, 0) == 0
    assert stream.number(3, 3) == 3
    assert stream.whole(4) == 4
    assert stream.number(1, 0) == 0
    assert stream.number(3, 2) == 2  # a bias again
    assert stream.whole(0) == 0  # attributes
    assert stream.whole(0) == 0  # shapes
    assert stream.number(1, 1) == 1  # ties


def test_a_models_structure_is_what_the_page_says(tmp_path):
    encode_model(changed_net(), Net(), tmp_path / "model.cgz")
    flags, signature, pool, segments = read_file((tmp_path / "model.cgz").read_bytes())
    lines = "first.weight torch.float32 (4, 6)\nfirst.bias torch.float32 (4,)\nhead.weight torch.float32 (2, 4)\n" \
        "head.bias torch.float32 (2,)"  # fmt: skip
    assert (flags, signature, segments) == (1, zlib.crc32(lines.encode()) & 0xFFFF, [])
    stream = PageStream(pool)
    pool_by_hand(stream)
    for name, tensor in changed_net().state_dict().items():
        assert read_tensor(stream, "F32", tuple(tensor.shape)) == patterns(tensor + 0), name
    stream.check_end()


def test_a_model_written_from_the_page_is_decoded():
    stream = PageStream()
    pool_by_hand(stream)
    known = []
    for tensor in changed_net().state_dict().values():
        rows, columns = tensor.shape if tensor.dim() > 1 else (1, tensor.numel())
        step = tensor.abs().max()
        stream.number(3, 2)  # steps
        if rows > 1 and columns > 1 and tensor.dim() > 1:
            stream.number(1, 0)
        if len(strides_of(tuple(tensor.shape), columns)) > 1:
            stream.number(2, 0)
        if known:
            stream.number(1, step in known)
        if step in known:
            stream.number((len(known) - 1).bit_length(), known.index(step))
        else:
            stream.number(8, 127 if step == 1 else 126)
            stream.number(5, 0)
            known.append(step)
        stream.plane(rows, columns, 1, 1, (tensor / step).int().reshape(rows, columns).tolist())
    lines = [f"{name} {tensor.dtype} {tuple(tensor.shape)}" for name, tensor in Net().state_dict().items()]
    signature = zlib.crc32("\n".join(lines).encode()) & 0xFFFF
    model = decode_model(Net(), sealed(1, signature.to_bytes(2, "little"), stream.finish()))
    for name, tensor in changed_net().state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_the_pages_tables_are_the_real_ones():
    squash, stretch, rate = tables()
    assert [squash[logit] for logit in range(-2840, 2841)] == probabilities().tolist()
    assert stretch == logits().tolist()
    assert rate == rates().tolist()
    nodes = [0, *range(2, 27), *(27 + (1 << e) + p - 1 for e in range(1, 8) for p in range(1, 1 << e))]
    assert all(prior(one, node) == priors()[one, node] for one in range(32) for node in nodes)


LISTS = {  # what the page must list, in this order
    "types of numbers": " ".join(kind.name for kind in TYPES),
    "words": " ".join(structure_code.WORDS),
    "attributes": " ".join(structure_code.ATTRIBUTES),
}


@pytest.mark.parametrize("what", LISTS)
def test_the_page_lists_what_there_is(what):
    assert f"`{LISTS[what]}`" in " ".join(PAGE.split())


def test_the_page_lists_every_type_with_its_arguments():
    rows = [line[1:-1].split("|") for line in PAGE.splitlines() if line.startswith("| `")]
    own = "bits granularity group_size symmetric inputs input_bits"
    listed = {}
    for kinds, arguments in (row for row in rows if len(row) == 2):
        names = " ".join(word.partition("=")[0] for word in arguments.split(", then")[0].split())
        listed |= {kind.strip("`"): f"{names} {own}" if "own" in arguments else names for kind in kinds.split()}
    assert listed == {kind: " ".join(structure_code.names_of(kind)) for kind in structure_code.TYPES}
    assert list(listed) == list(structure_code.TYPES)


def test_the_page_tells_the_limits():
    for text, value in [("2^20 numbers", container.SEGMENT_NUMBERS), ("65,536 bytes", container.LARGE_BYTES)]:
        number = 1 << int(text[2:4]) if text.startswith("2^") else int(text.split()[0].replace(",", ""))
        assert text in PAGE
        assert number == value
