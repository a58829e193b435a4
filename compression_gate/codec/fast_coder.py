"""Whole numbers to bytes and back at hundreds of millions a second: a static order-0 coder, compiled.

What decides bytes is integer arithmetic alone, so that a stream decodes to the same numbers on every machine. The
stream holds neither its length nor the count of symbols: the caller stores both. There is no checksum.

Layout of a stream
==================

Numbers of several bytes are little-endian. A *varint* holds seven bits a byte, the lowest first, and the high bit of a
byte says that another follows; it has at most five bytes and is below 2^32. A *signed varint* holds ``2·v`` for v ≥ 0
and ``-2·v - 1`` for v < 0. A *bit field* fills each byte from its lowest bit up; numbers in it start with their lowest
bit; the unused bits of its last byte are zero. Symbols are int32, and sums and differences of symbols wrap modulo 2^32.

No symbols are no bytes. Otherwise the first byte tells the form:

====== ================================================================================================================
byte   form
====== ================================================================================================================
0–32   **packed**: the byte is a width w. A signed varint, the base; a bit field with w bits a symbol, each its
       distance from the base. (All symbols equal: w = 0, two to six bytes in all. No stream is longer than 32 bits a
       symbol and six bytes.)
72–80  **ranked** by frequency: the byte less 64 is S, and frequencies are parts of M = 2^S. The parts below follow.
====== ================================================================================================================

1. **Centre** c: a signed varint. A symbol v is known by its distance d = v - c. A **token** stands for one distance or
   for a class of them: token d + 2048 for d from -2048 to 2047, and tokens 4096 + 120·s + k for classes, where s is 1
   for d < 0 (m = -d - 1) and 0 otherwise (m = d). For m < 4, k = m. Otherwise, r being the bits of m less 3, k = 4·r +
   the two bits behind the highest one + 4, and the r lowest bits of m are the token's **raw bits**. An encoder may give
   a symbol near the centre by its class too.
2. **Table**: a varint, how many tokens are used, less 2; a signed varint, the first of them less 2048; then a bit
   field. Each token but the first starts with gamma(token - the one before). Each but the last goes on with its
   frequency f, from 1 to M - 1: with b the bits of f and b' those of the one before (S - 5 for the first),
   gamma(1 + 2·(b - b')) for b ≥ b' or gamma(2·(b' - b)) for b < b', then the b - 1 bits of f below its highest. The
   last frequency is what is missing from M, and at least 1. gamma(g), g ≥ 1, is as many zeros as g has bits behind its
   highest one, a one, and those bits (P. Elias, Universal codeword sets and representations of the integers, IEEE
   Transactions on Information Theory 21, 1975).
3. **States**: four bytes each, one state where there are fewer than 65,536 symbols and four otherwise.
4. **Words**: two bytes each, as many as decoding takes.
5. **Raw bits**: a bit field with the raw bits of all tokens in the order of the symbols. It ends the stream.

Decoding. Token t owns the slots start(t) to start(t) + f(t) - 1, where start(t) is the sum of the frequencies of the
tokens before. From a state x: slot = x mod M, its owner t is the next token, x becomes f(t)·⌊x / M⌋ + slot - start(t);
if that is below 2^16, x becomes 2^16·x + the next word. With four states symbol i comes from state i mod 4, but for the
last n mod 4 symbols, which come from state 0. States are at least 2^16 throughout and 2^16 behind the last symbol.

Source: J. Duda, Asymmetric numeral systems, arXiv:1311.2540, 2013, §3 (the range variant); several states on one string
of words: F. Giesen, Interleaved entropy coders, arXiv:1402.3392, 2014. Division by multiplication: T. Granlund and
P. Montgomery, Division by invariant integers using multiplication, PLDI 1994, §4.

What it costs
=============

The encoder weighs resolutions S of 8 to 16 bits against the length of the table, and takes classes in place of values
that are too rare for a slot of their own; it goes by the length that the frequencies promise and takes up to 0.4 % more
for a form that is faster. There are no runs: where one symbol is nearly always the same, each other token that is used
takes a share of at least 2^-16 from it, 0.00002 bits a symbol.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, cast

import numba
import numpy as np

from compression_gate.codec.compiling import compiled
from compression_gate.errors import CodecError

MAX_COUNT = 2**24
NEAR = 4096  # tokens that stand for one distance from the centre
TOKENS = NEAR + 240
RANKED = 64
SCALES_BITS = (8, 10, 12, 14, 16)
STATES = 4  # eight are no faster
SINGLE_BELOW = 65_536  # with fewer symbols the bytes of three states weigh more than their speed
LEAST_RANKED_BYTES = 9  # the form, three numbers, a byte of table and a state
MAX_GAMMA_ZEROS = 15
# A table's bits: a token's distance to the next (12 zeros, 13 bits) and its frequency (4 + 5 + 15) at most.
MAX_TABLE_BYTES = TOKENS * 7
LOG_UNIT = 1024  # logarithms of costs are counted in 1/1024 of a bit

int32 = cast("Callable[[Any], int]", numba.int32)
int64 = cast("Callable[[Any], int]", numba.int64)
uint64 = cast("Callable[[Any], int]", numba.uint64)
# Constants of the kernels: uint64 with a plain integer would become a float.
ZERO, ONE, HALF_WORD, WORD, LOW_MASK, LOWEST = (uint64(number) for number in (0, 1, 16, 32, 0xFFFF, 1 << 16))
# Whatever is not zero is what is wrong with a stream.
TOKEN_OUTSIDE, SUM_OUTSIDE, TABLE_ENDS, TABLE_PADDING, WORDS_END, STATE_LEFT, RAW_ENDS = range(1, 8)
PROBLEMS = {
    TOKEN_OUTSIDE: ("table of frequencies", f"tokens below {TOKENS}", "one outside"),
    SUM_OUTSIDE: ("table of frequencies", "frequencies that leave the last token its share", "a larger sum"),
    TABLE_ENDS: ("table of frequencies", "all of its tokens", "its end"),
    TABLE_PADDING: ("table of frequencies", "zeros behind its last token", "a one"),
    WORDS_END: ("words", "one for each that decoding takes", "their end"),
    STATE_LEFT: ("states", f"{1 << 16} behind the last symbol", "another number"),
    RAW_ENDS: ("raw bits", "those of every token", "their end"),
}


def encode(symbols: np.ndarray) -> bytes:
    """Return the bytes of ``symbols``: (n,) int32, n from 0 to 2^24.

    Raises:
        CodecError: the array has another shape, type or more symbols.
    """
    if symbols.ndim != 1 or symbols.dtype != np.int32 or symbols.size > MAX_COUNT:
        raise CodecError(
            f"fast coder: expected int32 of shape (n,), n up to {MAX_COUNT}, got {symbols.dtype} of {symbols.shape}: "
            "encode a larger array in parts"
        )
    if symbols.size == 0:
        return b""
    symbols = np.ascontiguousarray(symbols)
    low, high = int(symbols.min()), int(symbols.max())
    width = (high - low).bit_length()
    head = bytes([width]) + _signed_varint(low)
    packed_bytes = len(head) + (symbols.size * width + 7) // 8
    if packed_bytes > LEAST_RANKED_BYTES:
        ranked = _ranked(symbols, low, high, packed_bytes)
        if ranked is not None:
            return ranked
    return head + _pack(symbols, low, width).astype("<u4").tobytes()[: packed_bytes - len(head)]


def decode(data: bytes | memoryview | np.ndarray, count: int) -> np.ndarray:
    """Return the ``count`` symbols of a stream as int32 (count,).

    Whatever the bytes are, no more than 12 bytes a symbol and two megabytes are allocated.

    Raises:
        CodecError: the bytes are not a stream of so many symbols.
    """
    octets = np.frombuffer(data, np.uint8)
    if not 0 <= count <= MAX_COUNT:
        _refuse("count", f"0 to {MAX_COUNT} symbols", count)
    if count == 0:
        if octets.size:
            _refuse("end", "no bytes for no symbols", f"{octets.size} bytes")
        return np.empty(0, np.int32)
    if octets.size == 0:
        _refuse("first byte", f"a stream of {count} symbols", "no bytes")
    form = int(octets[0])
    if form <= 32:
        return _unpacked(octets, count, form)
    if form - RANKED not in SCALES_BITS:
        _refuse("first byte", "0 to 32, or 64 and an even number from 8 to 16", form)
    return _decode_ranked(octets, count, form - RANKED)


def _refuse(where: str, expected: str, got: object) -> NoReturn:
    message = f"fast stream, {where}: expected {expected}, got {got}: the stream is damaged, encode the symbols again"
    raise CodecError(message)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _signed_varint(number: int) -> bytes:
    return _varint(2 * number if number >= 0 else -2 * number - 1)


def _read_varint(octets: np.ndarray, position: int) -> tuple[int, int]:
    """Return a varint and where it ends."""
    number = 0
    for place in range(5):
        if position + place >= octets.size:
            _refuse(f"byte {position + place}", "a number", "the end")
        octet = int(octets[position + place])
        number |= (octet & 0x7F) << (7 * place)
        if octet < 0x80:
            if number >= 2**32:
                _refuse(f"byte {position}", "a number below 2^32", number)
            return number, position + place + 1
    return _refuse(f"byte {position}", "a number of at most five bytes", "more")


def _read_signed_varint(octets: np.ndarray, position: int) -> tuple[int, int]:
    number, position = _read_varint(octets, position)
    return (-(number + 1) // 2 if number & 1 else number // 2), position


def _ranked(symbols: np.ndarray, low: int, high: int, packed_bytes: int) -> bytes | None:
    """Return the ranked form, or None where the packed one is no longer."""
    centre = _centre(symbols, low, high)
    counts = np.zeros(TOKENS, np.int64)
    all_near = centre - NEAR // 2 <= low and high < centre + NEAR // 2
    if all_near:
        _count_near(symbols, centre, counts)
    else:
        _count_all(symbols, centre, counts)
    active = _active(counts)
    scale_bits, threshold, expected_bits = _plan(counts, active, symbols.size)
    if expected_bits >= 8 * packed_bytes:
        return None
    thinned, freqs = np.zeros_like(counts), np.zeros_like(counts)
    _thin(counts, active, threshold, thinned)
    _apportion(thinned, active, scale_bits, freqs)
    if all_near and not freqs[NEAR:].any():
        states, words = _encode_states(symbols, centre - NEAR // 2, freqs, scale_bits)
        raw = b""
    else:
        tokens = np.empty_like(symbols)
        raw_words = np.empty(symbols.size + 1, np.uint32)
        raw_bits = _tokenise(symbols, centre, freqs, tokens, raw_words)
        raw = raw_words.astype("<u4", copy=False).tobytes()[: (raw_bits + 7) // 8]
        states, words = _encode_states(tokens, 0, freqs, scale_bits)
    used = np.flatnonzero(freqs)
    table = np.zeros(MAX_TABLE_BYTES, np.uint8)
    table_bits = _write_table(used, freqs, scale_bits, table)
    ranked = b"".join(
        (
            bytes([RANKED + scale_bits]),
            _signed_varint(centre),
            _varint(used.size - 2),
            _signed_varint(int(used[0]) - NEAR // 2),
            table[: (table_bits + 7) // 8].tobytes(),
            states.astype("<u4").tobytes(),
            words.astype("<u2", copy=False).tobytes(),
            raw,
        )
    )
    return ranked if len(ranked) < packed_bytes else None


def _encode_states(indices: np.ndarray, lowest: int, freqs: np.ndarray, scale_bits: int) -> tuple[np.ndarray, ...]:
    """Return the states (1 or 4,) and the words of tokens ``indices - lowest``, each of which has a frequency."""
    states = np.empty(STATES if indices.size >= SINGLE_BELOW else 1, np.uint32)
    words = np.empty(indices.size + 1, np.uint16)  # a symbol sheds one word at most; the first entry is scratch
    first = _encode_words(indices, lowest, _steps(freqs, scale_bits), scale_bits, states, words)
    return states, words[int(first) :]


def _centre(symbols: np.ndarray, low: int, high: int) -> int:
    """The median of up to about 2,048 symbols, moved so that all symbols are near it where that can be."""
    sample = symbols[:: max(1, symbols.size // 1024)]
    centre = int(np.partition(sample, sample.size // 2)[sample.size // 2])
    if high - low < NEAR:
        centre = min(max(centre, high - NEAR // 2 + 1), low + NEAR // 2)
    return centre


def _unpacked(octets: np.ndarray, count: int, width: int) -> np.ndarray:
    base, position = _read_signed_varint(octets, 1)
    expected_bytes = (count * width + 7) // 8
    if octets.size - position != expected_bytes:
        _refuse(f"byte {position}", f"{expected_bytes} bytes of packed symbols", octets.size - position)
    unused_bits = 8 * expected_bytes - count * width
    if unused_bits and int(octets[-1]) >> (8 - unused_bits):
        _refuse("last byte", "zeros behind the last symbol", "a one")
    return _unpack(_padded(octets[position:], "<u4"), base, width, count)


def _padded(octets: np.ndarray, kind: str) -> np.ndarray:
    """Return bytes as numbers of this machine, with zeros behind them: eight bytes and what the last number lacks."""
    size = np.dtype(kind).itemsize
    padded = np.zeros(-(-octets.size // size) * size + 8, np.uint8)
    padded[: octets.size] = octets
    return padded.view(kind).astype(np.dtype(kind).newbyteorder("="), copy=False)


def _decode_ranked(octets: np.ndarray, count: int, scale_bits: int) -> np.ndarray:
    centre, position = _read_signed_varint(octets, 1)
    if not -(2**31) <= centre < 2**31:
        _refuse("byte 1", "a centre of 32 bits", centre)
    used, position = _read_varint(octets, position)
    first, position = _read_signed_varint(octets, position)
    freqs = np.zeros(TOKENS, np.int64)
    table = octets[position : position + MAX_TABLE_BYTES].copy()
    table_bits, problem = _read_table(table, used + 2, first + NEAR // 2, scale_bits, freqs)
    _check(problem)
    position += (table_bits + 7) // 8
    states_end = position + 4 * (STATES if count >= SINGLE_BELOW else 1)
    if octets.size < states_end:
        _refuse(f"byte {position}", f"{states_end - position} bytes of states", octets.size - position)
    states = octets[position:states_end].copy().view("<u4").astype(np.uint64)
    if (states < 1 << 16).any():
        _refuse(f"byte {position}", f"states of at least {1 << 16}", states.tolist())
    rest = octets[states_end:]
    in_classes = bool(freqs[NEAR:].any())
    slots = _slots(freqs, scale_bits, 0 if in_classes else centre - NEAR // 2)
    symbols = np.empty(count, np.int32)
    word_count = min(rest.size // 2, count)
    taken, problem = _decode_words(
        _padded(rest[: 2 * word_count], "<u2"), word_count, states, slots, scale_bits, symbols
    )
    _check(problem)
    raw = rest[2 * int(taken) :]
    # Checked before anything is made of them: no token has more than 28 raw bits.
    if raw.size > (4 * count if in_classes else 0):
        _refuse("end", "nothing behind the last symbol", f"{raw.size} bytes")
    if in_classes:
        raw_bits, problem = _detokenise(_padded(raw, "<u4"), 8 * raw.size, centre, symbols)
        _check(problem)
        if (raw_bits + 7) // 8 != raw.size or (raw_bits % 8 and int(raw[-1]) >> (raw_bits % 8)):
            _refuse("end", f"{raw_bits} raw bits and zeros up to a whole byte", f"{raw.size} bytes")
    return symbols


def _check(problem: int) -> None:
    if problem:
        _refuse(*PROBLEMS[problem])


# --- Tokens ---------------------------------------------------------------------------------------------------------


@compiled
def _bit_length(number: int) -> int:
    """Bits of a number from 0 to 2^32 - 1."""
    length = int64(0)
    for half in (16, 8, 4, 2, 1):
        if number >> half:
            number >>= half
            length += half
    return length + number


@compiled
def _distance(symbol: int, centre: int) -> int:
    """``symbol - centre``, wrapped to 32 bits with a sign."""
    return ((int64(symbol) - int64(centre) + 0x80000000) & 0xFFFFFFFF) - 0x80000000


@compiled
def _class_of(distance: int) -> tuple[int, int, int]:
    """Return the token of a distance's class, from ``NEAR`` to ``TOKENS - 1``, its raw bits and how many they are."""
    sign = int64(distance < 0)
    size = -distance - 1 if sign else distance  # below 2^31, so that there are at most 28 raw bits
    token = NEAR + 120 * sign
    if size < 4:
        return token + size, 0, 0
    raw_bits = _bit_length(size) - 3
    return token + 4 * raw_bits + (size >> raw_bits), size & ((1 << raw_bits) - 1), raw_bits


@compiled
def _raw_bits_of(token: int) -> int:
    """How many raw bits a token has."""
    return max((token - NEAR) % 120 - 4, 0) >> 2 if token >= NEAR else 0


@compiled
def _count_near(symbols: np.ndarray, centre: int, counts: np.ndarray) -> None:
    """Count symbols, all of which are near the centre."""
    # Four rows, so that a symbol that repeats does not wait for the count before. Inside: 0 ≤ index < NEAR for each.
    rows = np.zeros((4, NEAR), np.uint32)
    lowest = int64(centre) - NEAR // 2
    whole = symbols.size // 4 * 4
    for i in range(0, whole, 4):
        rows[0, uint64(int64(symbols[i]) - lowest)] += np.uint32(1)
        rows[1, uint64(int64(symbols[i + 1]) - lowest)] += np.uint32(1)
        rows[2, uint64(int64(symbols[i + 2]) - lowest)] += np.uint32(1)
        rows[3, uint64(int64(symbols[i + 3]) - lowest)] += np.uint32(1)
    for i in range(whole, symbols.size):
        rows[0, uint64(int64(symbols[i]) - lowest)] += np.uint32(1)
    for token in range(NEAR):
        for row in range(4):
            counts[token] += int64(rows[row, token])


@compiled
def _count_all(symbols: np.ndarray, centre: int, counts: np.ndarray) -> None:
    """Count symbols near the centre by value and all others by class."""
    for i in range(symbols.size):
        distance = _distance(symbols[i], centre)
        if -NEAR // 2 <= distance < NEAR // 2:
            counts[distance + NEAR // 2] += 1
        else:
            counts[_class_of(distance)[0]] += 1


@compiled
def _tokenise(symbols: np.ndarray, centre: int, freqs: np.ndarray, tokens: np.ndarray, raw_words: np.ndarray) -> int:
    """Write each symbol's token (n,) and all raw bits (at most n + 1 words of 32); return how many bits there are."""
    held, held_bits, position = ZERO, 0, 0
    for i in range(symbols.size):
        distance = _distance(symbols[i], centre)
        if -NEAR // 2 <= distance < NEAR // 2 and freqs[distance + NEAR // 2] > 0:
            tokens[i] = distance + NEAR // 2
            continue
        token, raw, raw_bits = _class_of(distance)
        tokens[i] = token
        # Fewer than 32 bits are held and at most 28 come: one word at most leaves for each symbol, and one at the end.
        held |= uint64(raw) << uint64(held_bits)
        held_bits += raw_bits
        if held_bits >= 32:
            raw_words[position] = np.uint32(held & uint64(0xFFFFFFFF))
            held >>= WORD
            held_bits -= 32
            position += 1
    raw_words[position] = np.uint32(held)
    return 32 * position + held_bits


@compiled
def _detokenise(raw_words: np.ndarray, raw_bits: int, centre: int, symbols: np.ndarray) -> tuple[int, int]:
    """Put symbols in the place of their tokens; return how many raw bits were taken, and what is wrong.

    Args:
        raw_words: uint32, the ``raw_bits`` and at least one word more; taken is at most ``raw_bits``.
    """
    taken = int64(0)
    for i in range(symbols.size):
        token = int64(symbols[i])
        if token < NEAR:
            symbols[i] = int32(int64(centre) + token - NEAR // 2)
            continue
        within = (token - NEAR) % 120
        size = within
        if within >= 4:
            count = (within - 4) >> 2
            if taken + count > raw_bits:
                return taken, RAW_ENDS
            # taken ≤ raw_bits, so that the word at taken // 32 and the one behind are in raw_words and its padding.
            word = taken >> 5
            both = uint64(raw_words[word]) | (uint64(raw_words[word + 1]) << WORD)
            raw = int64((both >> uint64(taken & 31)) & ((ONE << uint64(count)) - ONE))
            size = ((4 | (within & 3)) << count) | raw
            taken += count
        symbols[i] = int32(int64(centre) + (-size - 1 if token >= NEAR + 120 else size))
    return taken, 0


# --- Frequencies ----------------------------------------------------------------------------------------------------


@compiled
def _active(counts: np.ndarray) -> np.ndarray:
    """Return, in order, the tokens that have a count and the classes that rare ones of them may move to."""
    wanted = counts > 0
    for token in range(NEAR):
        if counts[token] > 0:
            wanted[_class_of(token - NEAR // 2)[0]] = True
    return np.flatnonzero(wanted)


@compiled
def _plan(counts: np.ndarray, active: np.ndarray, symbol_count: int) -> tuple[int, int, int]:
    """Choose a resolution and from which count on a near value has a token of its own.

    Returns:
        The scale [bit], the threshold, and the length that is to be expected of all but the first bytes [bit].
    """
    best_cost, best_scale_bits, best_threshold, best_bits = int64(1) << 62, 0, 0, int64(1) << 62
    thinned, freqs = np.zeros_like(counts), np.zeros_like(counts)
    states_bits = 32 * (STATES if symbol_count >= SINGLE_BELOW else 1)
    for scale_bits in SCALES_BITS:
        slot = symbol_count >> scale_bits
        moved_before = int64(-1)
        for threshold in (1, 2, 3, 6, 12, slot >> 1, slot, 2 * slot):
            moved = _thin(counts, active, threshold, thinned)
            # The same number of moved values is the same values, the rarest ones.
            if moved == moved_before or not _apportion(thinned, active, scale_bits, freqs):
                continue
            moved_before = moved
            bits = _expected_bits(thinned, active, freqs, scale_bits) + states_bits
            # Small tables stay in the nearest cache, and classes take a second pass: worth two bits in a thousand.
            cost = bits + (bits >> 9) * (int64(scale_bits > 12) + int64(thinned[NEAR:].max() > 0))
            if cost < best_cost:
                best_cost, best_scale_bits, best_threshold, best_bits = cost, scale_bits, threshold, bits
    return best_scale_bits, best_threshold, best_bits


@compiled
def _thin(counts: np.ndarray, active: np.ndarray, threshold: int, thinned: np.ndarray) -> int:
    """Write ``counts`` with near values that are rarer than ``threshold`` counted by class; return how many values."""
    moved = int64(0)
    for token in active:
        thinned[token] = counts[token]
    for token in active:
        if token < NEAR and 0 < counts[token] < threshold:
            thinned[_class_of(token - NEAR // 2)[0]] += counts[token]
            thinned[token] = 0
            moved += 1
    return moved


@compiled
def _apportion(counts: np.ndarray, active: np.ndarray, scale_bits: int, freqs: np.ndarray) -> bool:
    """Write frequencies of sum 2^scale_bits in proportion to counts, each used one at least 1.

    Tokens whose share is below one slot get one; the others share what is left, each sum from the first token on
    rounded down, so that each is less than one slot from its share. Fewer than two tokens, or more than slots: False.
    """
    used, slots, total = 0, int64(1) << scale_bits, int64(0)
    for token in active:
        used += counts[token] > 0
        total += counts[token]
        freqs[token] = 0
    if used < 2 or used > slots:
        return False
    # The most frequent of the tokens that are left has a share of slots / tokens ≥ 1 at least, so that it stays, and
    # each pass but the last gives away a slot: at most as many passes as tokens, two or three in practice.
    changed = True
    while changed:
        changed = False
        for token in active:
            if freqs[token] == 0 and counts[token] > 0 and counts[token] * slots < total:
                freqs[token] = 1
                slots -= 1
                total -= counts[token]
                changed = True
    before, given = int64(0), int64(0)
    for token in active:
        if freqs[token] == 0 and counts[token] > 0:
            before += counts[token]
            upto = before * slots // total  # before < 2^25 and slots ≤ 2^16: far below 2^63
            freqs[token] = upto - given
            given = upto
    return True


@compiled
def _log2(number: int) -> int:
    """log2 of a number from 1 to 2^31 in units of 1/1024 bit, rounded down: ten squarings."""
    whole = _bit_length(number) - 1
    mantissa = uint64(number) << uint64(31 - whole)  # in [2^31, 2^32)
    result = int64(whole)
    for _ in range(10):
        mantissa = (mantissa * mantissa) >> uint64(31)
        doubled = mantissa >= uint64(1 << 32)
        if doubled:
            mantissa >>= ONE
        result = 2 * result + int64(doubled)
    return result


@compiled
def _expected_bits(counts: np.ndarray, active: np.ndarray, freqs: np.ndarray, scale_bits: int) -> int:
    """Length of the table, the words and the raw bits [bit]."""
    units, table_bits = int64(0), int64(0)
    last, length = -1, scale_bits - 5
    for token in active:
        if freqs[token] == 0:
            continue
        units += counts[token] * ((_raw_bits_of(token) + scale_bits) * LOG_UNIT - _log2(freqs[token]))
        if last >= 0:
            table_bits += 2 * _bit_length(token - last) - 1
        before, length = length, _bit_length(freqs[token])
        table_bits += 2 * _bit_length(_step_code(length, before)) - 1 + length - 1
        last = token
    if scale_bits == 16:
        units += units >> 10  # measured: states just above 2^16 hold a share of 2^-16 only roughly
    return units // LOG_UNIT + table_bits


# --- The table ------------------------------------------------------------------------------------------------------


@compiled
def _step_code(length: int, before: int) -> int:
    """The number, at least 1, that tells a frequency's length from that of the one before."""
    return 1 + 2 * (length - before) if length >= before else 2 * (before - length)


@compiled
def _put_bits(octets: np.ndarray, position: int, number: int, bits: int) -> int:
    """Write the lowest ``bits`` of a number at a bit of zeroed bytes that have room; return the bit behind."""
    for place in range(bits):
        octets[(position + place) >> 3] |= np.uint8(((number >> place) & 1) << ((position + place) & 7))
    return position + bits


@compiled
def _put_gamma(octets: np.ndarray, position: int, number: int) -> int:
    behind = _bit_length(number) - 1
    position = _put_bits(octets, position + behind, 1, 1)
    return _put_bits(octets, position, number, behind)


@compiled
def _write_table(used: np.ndarray, freqs: np.ndarray, scale_bits: int, octets: np.ndarray) -> int:
    """Write gaps and frequencies of tokens in order to zeroed bytes; return how many bits they take."""
    position, length = 0, scale_bits - 5
    for place in range(used.size):
        if place > 0:
            position = _put_gamma(octets, position, used[place] - used[place - 1])
        if place < used.size - 1:
            before, length = length, _bit_length(freqs[used[place]])
            position = _put_gamma(octets, position, _step_code(length, before))
            position = _put_bits(octets, position, freqs[used[place]], length - 1)
    return position


@compiled
def _get_bits(octets: np.ndarray, position: int, bits: int) -> int:
    """Read up to 16 bits, or return -1 where there are not so many."""
    if position + bits > 8 * octets.size:
        return -1
    number = int64(0)
    for place in range(bits):
        # Inside: position + place < 8 · size.
        number |= int64((octets[(position + place) >> 3] >> ((position + place) & 7)) & 1) << place
    return number


@compiled
def _get_gamma(octets: np.ndarray, position: int) -> tuple[int, int]:
    """Return a number from 1 to 2^16 - 1 and the bit behind it; -1 where the bytes end or it is larger."""
    behind = 0
    bit = _get_bits(octets, position, 1)
    while bit == 0 and behind < MAX_GAMMA_ZEROS:
        behind += 1
        bit = _get_bits(octets, position + behind, 1)
    if bit != 1:
        return -1, position
    position += behind + 1
    low = _get_bits(octets, position, behind)
    return ((int64(1) << behind) | low) if low >= 0 else -1, position + behind


@compiled
def _read_table(octets: np.ndarray, used: int, first: int, scale_bits: int, freqs: np.ndarray) -> tuple[int, int]:
    """Fill zeroed ``freqs`` (TOKENS,); return how many bits were read, and what is wrong.

    Where nothing is wrong, frequencies are not negative and their sum is 2^scale_bits.
    """
    position, length, token, left = int64(0), int64(scale_bits - 5), int64(first), int64(1) << scale_bits
    # used ≤ 2^32 + 1 is a stranger's, but each turn raises the token, which ends at TOKENS: no more turns than that.
    for place in range(used):
        if place > 0:
            gap, position = _get_gamma(octets, position)
            if gap < 0:
                return position, TABLE_ENDS
            token += gap
        if token < 0 or token >= TOKENS:
            return position, TOKEN_OUTSIDE
        frequency = left
        if place < used - 1:
            code, position = _get_gamma(octets, position)
            if code < 0:
                return position, TABLE_ENDS
            length += code >> 1 if code & 1 else -(code >> 1)
            if length < 1 or length > scale_bits:
                return position, SUM_OUTSIDE
            low = _get_bits(octets, position, length - 1)
            if low < 0:
                return position, TABLE_ENDS
            position += length - 1
            frequency = (int64(1) << (length - 1)) | low
        left -= frequency
        if frequency < 1 or left < 0 or (left == 0) != (place == used - 1):
            return position, SUM_OUTSIDE
        freqs[token] = frequency
    padding = -position & 7
    if _get_bits(octets, position, padding) != 0:
        return position, TABLE_PADDING
    return position, 0


# --- States and words -----------------------------------------------------------------------------------------------


@compiled
def _steps(freqs: np.ndarray, scale_bits: int) -> np.ndarray:
    """What encoding a token does to a state: (TOKENS, 5) uint64.

    The columns: from which state on a word is shed; factor and shift of the division by the frequency f; the token's
    first slot; M - f. With shift = 32 - S + 2·⌈log2 f⌉ and factor = ⌈2^shift / f⌉, ⌊x·factor / 2^shift⌋ = ⌊x / f⌋ for
    every x < f·2^(32 - S): x·factor / 2^shift is less than x / 2^shift ≤ 1 / f above x / f, and no overflow comes of
    x·factor < 2^(32 - S)·(2^shift + f - 1) - (2^shift + f - 1) / f < 2^64, since shift ≤ 32 + S and f < 2^S.
    """
    steps = np.zeros((TOKENS, 5), np.uint64)
    start = int64(0)
    for token in range(TOKENS):
        frequency = freqs[token]
        if frequency == 0:
            continue
        shift = uint64(32 - scale_bits + 2 * _bit_length(frequency - 1))
        steps[token, 0] = uint64(frequency) << uint64(32 - scale_bits)
        steps[token, 1] = ((ONE << shift) - ONE) // uint64(frequency) + ONE
        steps[token, 2] = shift
        steps[token, 3] = uint64(start)
        steps[token, 4] = uint64((int64(1) << scale_bits) - frequency)
        start += frequency
    return steps


@compiled
def _push(state: int, position: int, token: int, steps: np.ndarray, words: np.ndarray) -> tuple[int, int]:
    """Encode a token: return the state, and the place of the last word that was written."""
    # Inside: token < TOKENS as the caller makes sure, and 1 ≤ position: words has one entry more than symbols.
    words[position - ONE] = np.uint16(state & LOW_MASK)
    full = state >= steps[token, 0]
    position -= uint64(full)
    state = state >> HALF_WORD if full else state
    quotient = (state * steps[token, 1]) >> steps[token, 2]
    return state + steps[token, 3] + quotient * steps[token, 4], position


@compiled
def _encode_words(
    indices: np.ndarray, lowest: int, steps: np.ndarray, scale_bits: int, states: np.ndarray, words: np.ndarray
) -> int:
    """Write states (1 or 4,) and, from the end of ``words`` (n + 1,) back, words; return the place of the first.

    Args:
        indices: (n,) int32; ``index - lowest`` is a token with a frequency for each.
    """
    position, count, offset = uint64(words.size), indices.size, int64(lowest)
    whole = count // STATES * STATES if states.size == STATES else 0
    a = b = c = d = LOWEST
    for i in range(count - 1, whole - 1, -1):
        a, position = _push(a, position, uint64(int64(indices[i]) - offset), steps, words)
    for i in range(whole - STATES, -1, -STATES):
        d, position = _push(d, position, uint64(int64(indices[i + 3]) - offset), steps, words)
        c, position = _push(c, position, uint64(int64(indices[i + 2]) - offset), steps, words)
        b, position = _push(b, position, uint64(int64(indices[i + 1]) - offset), steps, words)
        a, position = _push(a, position, uint64(int64(indices[i]) - offset), steps, words)
    states[0] = a
    if states.size == STATES:
        states[1], states[2], states[3] = b, c, d
    return position


@compiled
def _slots(freqs: np.ndarray, scale_bits: int, lowest: int) -> np.ndarray:
    """What each slot tells: (2^scale_bits,) uint64 of lowest + token (32 bits), frequency (16) and place in it (16).

    The sum of the frequencies is 2^scale_bits, so that all slots are filled and none outside; and since there are at
    least two tokens, no frequency is 2^16.
    """
    slots = np.zeros(1 << scale_bits, np.uint64)
    start = 0
    for token in range(TOKENS):
        head = (uint64(np.uint32((int64(lowest) + token) & 0xFFFFFFFF)) << WORD) | (uint64(freqs[token]) << HALF_WORD)
        for place in range(freqs[token]):
            slots[start + place] = head | uint64(place)
        start += freqs[token]
    return slots


@compiled
def _pull(state: int, position: int, slots: np.ndarray, scale: int, words: np.ndarray) -> tuple[int, int, int]:
    """Decode a symbol: return the state, how many words were taken, and the symbol.

    A state from 2^16 to 2^32 - 1 stays so: scale ≤ 16, so that the quotient and with it the product are at least 1.
    """
    # Inside: slots has 2^scale entries; the caller makes sure of a word at position.
    slot = slots[state & ((ONE << scale) - ONE)]
    state = ((slot >> HALF_WORD) & LOW_MASK) * (state >> scale) + (slot & LOW_MASK)
    refilled = (state << HALF_WORD) | uint64(words[position])
    empty = state < LOWEST
    return refilled if empty else state, position + uint64(empty), int32(slot >> WORD)


@compiled
def _decode_words(
    words: np.ndarray, word_count: int, states: np.ndarray, slots: np.ndarray, scale_bits: int, symbols: np.ndarray
) -> tuple[int, int]:
    """Fill ``symbols`` (n,); return how many words were taken, and what is wrong.

    Args:
        words: (at least word_count + 4,) uint16. Each turn takes up to four and starts only while no more than
            ``word_count`` were taken: the last one read is word_count + 3.
        states: (1 or 4,) uint64, each from 2^16 to 2^32 - 1.
    """
    position, limit, scale, count = ZERO, uint64(word_count), uint64(scale_bits), symbols.size
    whole = count // STATES * STATES if states.size == STATES else 0
    a = b = c = d = states[0]
    if states.size == STATES:
        b, c, d = states[1], states[2], states[3]
    for i in range(0, whole, STATES):
        if position > limit:
            return position, WORDS_END
        a, position, symbols[i] = _pull(a, position, slots, scale, words)
        b, position, symbols[i + 1] = _pull(b, position, slots, scale, words)
        c, position, symbols[i + 2] = _pull(c, position, slots, scale, words)
        d, position, symbols[i + 3] = _pull(d, position, slots, scale, words)
    for i in range(whole, count):
        if position > limit:
            return position, WORDS_END
        a, position, symbols[i] = _pull(a, position, slots, scale, words)
    if position > limit:
        return position, WORDS_END
    if a != LOWEST or (states.size == STATES and (b != LOWEST or c != LOWEST or d != LOWEST)):
        return position, STATE_LEFT
    return position, 0


# --- Packed ---------------------------------------------------------------------------------------------------------


@compiled
def _pack(symbols: np.ndarray, base: int, width: int) -> np.ndarray:
    """Return distances from the base, each below 2^width, as a bit field in words of 32."""
    words = np.zeros((symbols.size * width + 31) // 32 + 1, np.uint32)
    held, held_bits, position = ZERO, 0, 0
    for i in range(symbols.size):
        # Fewer than 32 bits are held and at most 32 come: one word at most leaves for each, whole ones only.
        held |= uint64(int64(symbols[i]) - int64(base)) << uint64(held_bits)
        held_bits += width
        if held_bits >= 32:
            words[position] = np.uint32(held & uint64(0xFFFFFFFF))
            held >>= WORD
            held_bits -= 32
            position += 1
    words[position] = np.uint32(held)
    return words


@compiled
def _unpack(words: np.ndarray, base: int, width: int, count: int) -> np.ndarray:
    """Return (count,) int32 of a bit field in words of 32, of which one more is there than count · width bits take."""
    symbols = np.empty(count, np.int32)
    mask = (ONE << uint64(width)) - ONE
    for i in range(count):
        # i · width < 2^29; behind the word in which a symbol starts there is another, if only padding.
        start = uint64(i) * uint64(width)
        word = start >> uint64(5)
        both = uint64(words[word]) | (uint64(words[word + ONE]) << WORD)
        symbols[i] = int32(int64(base) + int64((both >> (start & uint64(31))) & mask))
    return symbols
