"""The static coder: round trips, sizes against the entropy, a layout that stays, and bytes that mean harm."""

import time
from statistics import median

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compression_gate.codec.fast_coder import MAX_COUNT, SINGLE_BELOW, decode, encode
from compression_gate.errors import CodecError

LOWEST, HIGHEST = -(2**31), 2**31 - 1
SIZES = (0, 1, 2, 3, 4, 5, 1000, SINGLE_BELOW - 1, SINGLE_BELOW, SINGLE_BELOW + 3, 200_001)


def int32(values):
    return np.asarray(values).astype(np.int32)


def laplace(scale, count, seed=0, largest=127):
    values = np.rint(np.random.default_rng(seed).laplace(0, scale, count))
    return int32(values.clip(-largest, largest))


def normal(scale, count, largest):
    return int32(np.rint(np.random.default_rng(1).normal(0, scale, count)).clip(-largest, largest))


def mostly_zero(share, largest, count):
    random = np.random.default_rng(2)
    return int32(np.where(random.random(count) < share, random.integers(-largest, largest + 1, count), 0))


def uniform(low, high, count):
    return int32(np.random.default_rng(3).integers(low, high, count))


def entropy_bytes(symbols):
    """Order-0 empirical entropy of all symbols [bytes]."""
    counts = np.unique(symbols, return_counts=True)[1]
    return float(-(counts * np.log2(counts / symbols.size)).sum()) / 8


DISTRIBUTIONS = {
    "laplace": lambda count: laplace(12, count),
    "far_from_zero": lambda count: laplace(12, count) + np.int32(2_000_000_000),
    "mostly_zero": lambda count: mostly_zero(0.001, 5, count),
    "mostly_zero_rest_rare": lambda count: mostly_zero(0.01, 150, count),
    "wide": lambda count: normal(3000, count, 10**6),
    "at_both_ends": lambda count: int32(np.resize([LOWEST, HIGHEST, 0, LOWEST, -1], count)),
    "near_the_lowest": lambda count: (LOWEST + np.abs(laplace(3, count).astype(np.int64))).astype(np.int32),
    "random_bits": lambda count: uniform(LOWEST, HIGHEST + 1, count),
    "all_equal": lambda count: np.full(count, LOWEST, np.int32),
    "counting": lambda count: np.arange(count, dtype=np.int32),
    "once_another": lambda count: int32(np.arange(count) == count // 2),
}

# A form each: packed, one state, classes with raw bits, four states, four states with classes.
FORMS = {
    "packed": uniform(0, 11, 20),
    "one_state": laplace(2, 120),
    "classes": int32([0] * 50 + [1] * 10 + [-1] * 10 + [2, -3, 70_000, -70_001]),
    "four_states": int32(np.arange(SINGLE_BELOW + 2) % 4093 == 0),
    "four_states_classes": np.where(np.arange(SINGLE_BELOW) % 5003 == 7, np.arange(SINGLE_BELOW) * 1001, 0).astype(
        np.int32
    ),
}

# (symbols, bytes): what is here must not change, or files that exist are lost.
GOLDEN = [
    ([], ""),
    ([7], "00 0e"),
    ([-3, -3, -3], "00 05"),
    ([5, 8, 6, 5], "02 0a 1c"),
    (
        FORMS["classes"].tolist(),
        "48 00 05 05 2a cc c8 5a 89 48 01 40 1d 28 10 07 b0 19 fa 79 7b 62 db 52 e6 b3 14 b0 1b 24 fa a9 70 11 5c 04",
    ),
]


def outcome(data, count):
    """What decoding gives: CodecError, or symbols as many as were asked for."""
    try:
        symbols = decode(data, count)
    except CodecError as error:
        return error
    assert symbols.dtype == np.int32
    assert symbols.shape == (count,)
    return symbols


def flipped(data, bit):
    harmed = bytearray(data)
    harmed[bit // 8] ^= 1 << bit % 8
    return bytes(harmed)


class Bits:
    """A bit field, read as the layout says."""

    def __init__(self, data):
        self.number, self.taken = int.from_bytes(data, "little"), 0

    def take(self, bits):
        self.taken += bits
        return (self.number >> (self.taken - bits)) & ((1 << bits) - 1)

    def take_gamma(self):
        behind = 0
        while not self.take(1):
            behind += 1
        return (1 << behind) | self.take(behind)


def read_varint(data):
    number = place = 0
    while True:
        octet = data.pop(0)
        number |= (octet & 127) << place
        place += 7
        if octet < 128:
            return number


def read_signed(data):
    number = read_varint(data)
    return -(number + 1) // 2 if number % 2 else number // 2


def decode_by_the_layout(stream, count):
    """Decode as the module's docstring says, one step after the other, without a look at the code."""
    data = list(stream)
    if not count:
        return []
    form = data.pop(0)
    if form <= 32:
        base, bits = read_signed(data), Bits(bytes(data))
        return [base + bits.take(form) for _ in range(count)]
    scale, centre, used, token = form - 64, read_signed(data), read_varint(data) + 2, read_signed(data) + 2048
    bits, frequencies, length = Bits(bytes(data)), {}, scale - 5
    for place in range(used):
        token += bits.take_gamma() if place else 0
        if place == used - 1:
            frequencies[token] = 2**scale - sum(frequencies.values())
        else:
            step = bits.take_gamma()
            length += step // 2 if step % 2 else -(step // 2)
            frequencies[token] = 1 << (length - 1) | bits.take(length - 1)
    data = data[-(-bits.taken // 8) :]
    owners = [(token, place) for token, frequency in frequencies.items() for place in range(frequency)]
    state_count = 1 if count < 65_536 else 4
    states = [int.from_bytes(bytes(data[4 * k : 4 * k + 4]), "little") for k in range(state_count)]
    data, tokens = data[4 * state_count :], []
    for place in range(count):
        k = place % state_count if place < count // 4 * 4 else 0
        token, offset = owners[states[k] % 2**scale]
        states[k] = frequencies[token] * (states[k] >> scale) + offset
        if states[k] < 2**16:
            states[k] = states[k] << 16 | data[0] | data[1] << 8
            data = data[2:]
        tokens.append(token)
    assert states == [2**16] * state_count
    raw, symbols = Bits(bytes(data)), []
    for token in tokens:
        distance = token - 2048
        if token >= 4096:
            sign, k = divmod(token - 4096, 120)
            r = (k - 4) // 4
            size = k if k < 4 else (4 + (k - 4) % 4) << r | raw.take(r)
            distance = -size - 1 if sign else size
        symbols.append((centre + distance + 2**31) % 2**32 - 2**31)
    assert len(data) == -(-raw.taken // 8)
    return symbols


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_decode_gives_back_what_was_encoded(name, count):
    symbols = DISTRIBUTIONS[name](count)
    before = symbols.copy()
    np.testing.assert_array_equal(decode(encode(symbols), count), before)
    np.testing.assert_array_equal(symbols, before)


VALUES = (
    st.integers(-2, 2),
    st.integers(-128, 127),
    st.integers(-3000, 3000),
    st.integers(LOWEST, HIGHEST),
    st.sampled_from([LOWEST, LOWEST + 1, -2049, -2048, 2047, 2048, HIGHEST - 1, HIGHEST]),
)


@settings(max_examples=400, deadline=None)  # the first call compiles
@given(st.lists(st.one_of(*VALUES), max_size=400), st.integers(1, 9))
def test_decode_gives_back_any_symbols(values, repeats):
    symbols = int32(values * repeats)
    np.testing.assert_array_equal(decode(encode(symbols), symbols.size), symbols)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8)])
def test_decode_takes_any_kind_of_bytes(kind):
    symbols = FORMS["classes"]
    np.testing.assert_array_equal(decode(kind(encode(symbols)), symbols.size), symbols)


def test_encode_takes_an_array_with_gaps():
    symbols = laplace(5, 3000)
    np.testing.assert_array_equal(decode(encode(symbols[::3]), 1000), symbols[::3])


@pytest.mark.parametrize("name", FORMS)
def test_forms_are_the_ones_that_the_tests_mean(name):
    data = encode(FORMS[name])
    assert (data[0] <= 32) == (name == "packed")
    assert (FORMS[name].size >= SINGLE_BELOW) == name.startswith("four_states")


@pytest.mark.parametrize("name", FORMS)
def test_layout_is_enough_to_decode(name):
    symbols = FORMS[name]
    assert decode_by_the_layout(encode(symbols), symbols.size) == symbols.tolist()


@pytest.mark.parametrize(("symbols", "expected"), GOLDEN)
def test_bytes_stay_the_same(symbols, expected):
    assert encode(int32(symbols)).hex(" ") == expected
    assert decode(bytes.fromhex(expected), len(symbols)).tolist() == symbols


NEAR_THE_ENTROPY = {
    "laplace_6": laplace(6, 2**20),
    "laplace_12": laplace(12, 2**20),
    "normal_25": normal(25, 2**20, 127),
    "normal_40_of_301_values": normal(40, 2**20, 150),
    "uniform_300": uniform(0, 300, 2**20),
    "uniform_16": uniform(0, 16, 2**20),
    "pruned": np.where(np.arange(2**20) % 10 == 0, laplace(20, 2**20), 0).astype(np.int32),
    "gaps_of_sparse_positions": int32(np.random.default_rng(4).geometric(0.05, 2**20)),
    "one_in_a_thousand": mostly_zero(0.001, 5, 2**22),
}


@pytest.mark.parametrize("name", NEAR_THE_ENTROPY)
def test_size_is_within_one_percent_and_16_bytes_of_the_entropy(name):
    symbols = NEAR_THE_ENTROPY[name]
    entropy, size = entropy_bytes(symbols), len(encode(symbols))
    print(f"{name}: {size} bytes, {size / entropy - 1:.3%} and {size - entropy:.0f} bytes above the entropy")
    assert size <= 1.01 * entropy + 16


SMALL = [  # symbols, at most so many bits each and bytes in all
    (np.full(MAX_COUNT, -77, np.int32), 0, 4),
    (np.full(1, LOWEST, np.int32), 0, 6),
    (mostly_zero(0.001, 150, 2**20), 0.03, 0),
    (mostly_zero(0.00001, 150, 2**20), 0.002, 0),
    (uniform(LOWEST, HIGHEST + 1, 2**18), 32, 6),
    (uniform(LOWEST, HIGHEST + 1, 100), 32, 6),
]


@pytest.mark.parametrize(("symbols", "bits", "constant_bytes"), SMALL)
def test_size_never_blows_up(symbols, bits, constant_bytes):
    assert len(encode(symbols)) <= bits * symbols.size / 8 + constant_bytes


@pytest.mark.parametrize("name", FORMS)
def test_flipped_bits_give_an_error_or_symbols(name):
    data, count = encode(FORMS[name]), FORMS[name].size
    outcomes = [outcome(flipped(data, bit), count) for bit in range(8 * len(data))]
    assert any(isinstance(found, CodecError) for found in outcomes)


@pytest.mark.parametrize("name", FORMS)
def test_every_truncation_is_refused(name):
    data, count = encode(FORMS[name]), FORMS[name].size
    for end in range(len(data)):
        with pytest.raises(CodecError, match="fast stream"):
            decode(data[:end], count)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("tail", [b"\0", b"\0\0", b"\xff", bytes(100_000)])
def test_trailing_bytes_are_refused(name, tail):
    with pytest.raises(CodecError, match="fast stream"):
        decode(encode(FORMS[name]) + tail, FORMS[name].size)


@pytest.mark.parametrize("name", FORMS)
def test_another_count_gives_an_error_or_symbols(name):
    data, count = encode(FORMS[name]), FORMS[name].size
    for other in (0, 1, count - 1, count + 1, 3 * count, SINGLE_BELOW - 1, SINGLE_BELOW):
        outcome(data, other)


def test_random_bytes_give_an_error_or_symbols():
    random = np.random.default_rng(5)
    refused = 0
    for _ in range(4000):
        data = random.integers(0, 256, random.integers(0, 80)).astype(np.uint8)
        if data.size and random.random() < 0.8:
            data[0] = random.choice([72, 74, 76, 78, 80])
            data[1:4] = random.integers(0, 4, data[1:4].size)
        refused += isinstance(outcome(data.tobytes(), int(random.choice([0, 1, 5, 100, 3000]))), CodecError)
    assert refused > 3000


def test_many_harmed_bytes_give_an_error_or_symbols():
    random = np.random.default_rng(6)
    streams = [(np.frombuffer(encode(symbols), np.uint8), symbols.size) for symbols in FORMS.values()]
    for turn in range(3000):
        stream, count = streams[turn % len(streams)]
        harmed = stream.copy()
        places = random.integers(0, stream.size, random.integers(1, 6))
        harmed[places] = random.integers(0, 256, places.size)
        outcome(harmed[: random.integers(1, stream.size + 1)] if turn % 3 == 0 else harmed, count)


REFUSED = [  # bytes, count, what the error says
    ("", 1, "first byte: expected a stream of 1 symbols, got no bytes"),
    ("00", 0, "end: expected no bytes for no symbols, got 1 bytes"),
    ("21", 1, "first byte: .*, got 33"),
    ("49", 1, "first byte: .*, got 73"),
    ("00 ff ff ff ff 1f", 1, "byte 1: expected a number below 2"),
    ("00 80 80 80 80 80 00", 1, "byte 1: expected a number of at most five bytes"),
    ("04 00 f1", 1, "last byte: expected zeros behind the last symbol"),
    ("20 00 01", 1, "byte 2: expected 4 bytes of packed symbols, got 1"),
    ("48 00 ff ff ff ff 0f 00 ff ff", 9, "table of frequencies: expected"),
    ("48 00 00 ff 7f 00 00 00", 9, f"table of frequencies: expected tokens below {4096 + 240}"),
    ("48 00 00 00 00 00 00 00", 9, "table of frequencies: expected all of its tokens, got its end"),
    ("00 00", MAX_COUNT + 1, "count: expected 0 to"),
    ("00 00", -1, "count: expected 0 to"),
]


@pytest.mark.parametrize(("data", "count", "message"), REFUSED)
def test_errors_say_where_expected_got_and_what_to_do(data, count, message):
    with pytest.raises(
        CodecError, match=f"^fast stream, {message}.*: the stream is damaged, encode the symbols again$"
    ):
        decode(bytes.fromhex(data), count)


def test_states_that_end_elsewhere_are_refused():
    symbols = FORMS["one_state"]
    data = encode(symbols)
    with pytest.raises(CodecError, match="states: expected 65536 behind the last symbol"):
        decode(flipped(data, 8 * len(data) - 1), symbols.size)


@pytest.mark.parametrize("symbols", [np.zeros(3), np.zeros(3, np.int64), np.zeros((2, 2), np.int32)])
def test_encode_refuses_other_arrays(symbols):
    with pytest.raises(CodecError, match="expected int32 of shape"):
        encode(symbols)


def test_encode_refuses_more_symbols_than_decode_takes():
    with pytest.raises(CodecError, match=str(MAX_COUNT + 1)):
        encode(np.zeros(MAX_COUNT + 1, np.int32))


@pytest.mark.parametrize("name", ["laplace_12", "normal_25"])
def test_throughput_is_not_lost(name):
    """A tenth of what an idle core is to reach, in processor time: slips by a factor, not by a load, are seen."""
    symbols = NEAR_THE_ENTROPY[name]
    data = encode(symbols)
    decode(data, symbols.size)
    encode_s = median(elapsed(lambda: encode(symbols)) for _ in range(5))
    decode_s = median(elapsed(lambda: decode(data, symbols.size)) for _ in range(5))
    print(f"{name}: encode {symbols.size / encode_s / 1e6:.0f}, decode {symbols.size / decode_s / 1e6:.0f} million/s")
    assert symbols.size / encode_s > 5e6
    assert symbols.size / decode_s > 2.5e6


def elapsed(call):
    start = time.process_time()
    call()
    return time.process_time() - start
