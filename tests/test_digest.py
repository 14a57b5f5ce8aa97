"""Digests, and digesters whose inside is saved and loaded as Go does it."""

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobfs.digest import ALGORITHMS, Descriptor, Digest, Digester
from blobfs.errors import DigestInvalid, HashStateInvalid
from tests.support.layout import EMPTY

EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
INITIAL = "6a09e667bb67ae853c6ef372a54ff53a510e527f9b05688c1f83d9ab5be0cd19"

each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)
algorithms = st.sampled_from(ALGORITHMS)


def _hashed(content: bytes, algorithm: str) -> str:
    return hashlib.new(algorithm, content).hexdigest()


@each_algorithm
def test_digest_is_written_as_it_was_read(algorithm: str) -> None:
    text = f"{algorithm}:{_hashed(b'', algorithm)}"
    assert str(Digest.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "sha256",
        "sha256:",
        f":{EMPTY_SHA256}",
        EMPTY_SHA256,
        f"sha256:{EMPTY_SHA256[:-1]}",
        f"sha256:{EMPTY_SHA256}0",
        f"sha256:{EMPTY_SHA256.upper()}",
        f"sha256:{EMPTY_SHA256[:-1]}g",
        f"sha256:{EMPTY_SHA256[:-1]}٣",
        f"sha256:{EMPTY_SHA256}\n",
        f"sha256: {EMPTY_SHA256[:-1]}",
        f" sha256:{EMPTY_SHA256}",
        f"sha256::{EMPTY_SHA256}",
        f"sha256:sha256:{EMPTY_SHA256}",
        f"SHA256:{EMPTY_SHA256}",
        f"sha512:{EMPTY_SHA256}",
        f"sha384:{EMPTY_SHA256}",
        f"sha256:{EMPTY_SHA256}{EMPTY_SHA256}",
        f"sha256+b64:{EMPTY_SHA256}",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "tarsum.v1+sha256:" + EMPTY_SHA256,
        "sha256:" + "../" * 21 + "a",
        "sha256:" + "\0" * 64,
    ],
    ids=ascii,
)
def test_ill_formed_digest_is_refused(text: str) -> None:
    with pytest.raises(DigestInvalid):
        Digest.parse(text)


@pytest.mark.parametrize("text", ["a" * 10**7, ":" * 10**7, "sha256:" + "0" * 10**7])
def test_refusal_of_a_very_long_digest_is_short(text: str) -> None:
    with pytest.raises(DigestInvalid) as caught:
        Digest.parse(text)
    assert len(str(caught.value)) < 300


@given(st.text())
def test_any_text_is_a_digest_or_refused(text: str) -> None:
    try:
        digest = Digest.parse(text)
    except DigestInvalid:
        return
    assert str(digest) == text


@pytest.mark.parametrize(("algorithm", "encoded"), [("sha256", "00"), ("md5", "0" * 32)])
def test_digest_is_valid_by_construction(algorithm: str, encoded: str) -> None:
    with pytest.raises(DigestInvalid):
        Digest(algorithm, encoded)


@given(st.lists(st.binary(max_size=300)), algorithms)
def test_digest_of_chunks_is_that_of_hashlib(chunks: list[bytes], algorithm: str) -> None:
    encoded = _hashed(b"".join(chunks), algorithm)
    assert Digest.of_chunks(chunks, algorithm) == Digest(algorithm, encoded)


def test_digest_is_sha256_where_nothing_else_is_asked_for() -> None:
    assert str(Digest.of(b"abc")) == f"sha256:{hashlib.sha256(b'abc').hexdigest()}"


def test_empty_is_the_digest_of_no_bytes() -> None:
    assert str(EMPTY) == f"sha256:{EMPTY_SHA256}"


def test_equal_digests_are_one_key() -> None:
    assert len({Digest.of(b"a"), Digest.of(b"a"), Digest.of(b"b")}) == 2


def test_digests_are_in_the_order_of_their_text() -> None:
    digests = [Digest.of(bytes([n]), algorithm) for n in range(9) for algorithm in ALGORITHMS]
    assert sorted(digests) == sorted(digests, key=str)


@pytest.mark.parametrize("algorithm", ["", "md5", "sha1", "SHA256", "sha224", "blake2b", "\0"])
def test_unknown_algorithm_is_refused(algorithm: str) -> None:
    with pytest.raises(DigestInvalid):
        Digest.of(b"", algorithm)
    with pytest.raises(DigestInvalid):
        Digester(algorithm)
    with pytest.raises(DigestInvalid):
        Digester.load(b"", algorithm)


def test_mtime_does_not_make_a_descriptor_another() -> None:
    assert Descriptor(EMPTY, 0, mtime_ns=1) == Descriptor(EMPTY, 0, mtime_ns=2)


@given(st.binary(max_size=1000), st.lists(st.integers(0, 1000), max_size=8), algorithms)
def test_digester_agrees_with_hashlib_however_it_is_fed(
    content: bytes, cuts: list[int], algorithm: str
) -> None:
    digester = Digester(algorithm)
    bounds = [0, *sorted(cuts), len(content)]
    for start, end in pairwise(bounds):
        digester.update(content[start:end])
    assert digester.digest().encoded == _hashed(content[: max(bounds)], algorithm)


@given(st.binary(max_size=1000), st.integers(0, 1000), algorithms)
def test_digester_goes_on_from_its_state(content: bytes, cut: int, algorithm: str) -> None:
    digester = Digester(algorithm)
    digester.update(content[:cut])
    resumed = Digester.load(digester.state(), algorithm)
    resumed.update(content[cut:])
    assert resumed.digest().encoded == _hashed(content, algorithm)


@each_algorithm
@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 111, 112, 127, 128, 129, 255, 256])
def test_state_at_the_edge_of_a_block_goes_on(algorithm: str, size: int) -> None:
    digester = Digester(algorithm)
    digester.update(b"a" * size)
    resumed = Digester.load(digester.state(), algorithm)
    assert (resumed.size, resumed.digest()) == (size, Digest.of(b"a" * size, algorithm))
    resumed.update(b"b")
    assert resumed.digest() == Digest.of(b"a" * size + b"b", algorithm)


@given(st.binary(max_size=1000), algorithms)
def test_loaded_state_is_saved_as_it_was(content: bytes, algorithm: str) -> None:
    digester = Digester(algorithm)
    digester.update(content)
    state = digester.state()
    assert Digester.load(state, algorithm).state() == state


@each_algorithm
def test_hashing_goes_on_after_a_digest_and_a_state(algorithm: str) -> None:
    digester = Digester(algorithm)
    digester.update(b"one")
    digester.digest()
    digester.state()
    digester.update(b"two")
    assert digester.digest() == Digest.of(b"onetwo", algorithm)


def test_size_counts_what_was_hashed() -> None:
    digester = Digester()
    digester.update(b"abc")
    digester.update(b"")
    digester.update(b"de")
    assert digester.size == 5


SHA256_STATES = {
    b"": "73686103" + INITIAL + "00" * 72,
    b"abc": "73686103" + INITIAL + "616263" + "00" * 61 + "0000000000000003",
    b"a" * 100: (
        "73686103df5bb81ce81e0626fb45a8944fd40f31b25e6816d6d499c1ab90492900635e66"
        + "61" * 36
        + "00" * 28
        + "0000000000000064"
    ),
}


@pytest.mark.parametrize(("content", "state"), SHA256_STATES.items(), ids=["empty", "abc", "100 a"])
def test_sha256_state_is_the_one_of_go(content: bytes, state: str) -> None:
    digester = Digester()
    digester.update(content)
    assert digester.state().hex() == state


@pytest.mark.parametrize(
    ("algorithm", "magic", "size"), [("sha384", "73686104", 204), ("sha512", "73686107", 204)]
)
def test_larger_state_is_laid_out_as_go_does(algorithm: str, magic: str, size: int) -> None:
    digester = Digester(algorithm)
    digester.update(b"abc")
    state = digester.state()
    assert len(state) == size
    assert state[:4].hex() == magic
    assert state[68:] == b"abc".ljust(128, b"\0") + (3).to_bytes(8, "big")


@pytest.mark.parametrize(
    ("state", "encoded"),
    [
        (
            "736861037958afb7042a8faa9b78c5231feb94fd7a31affb6bd6970ac933cf020b2ea5e4"
            + "00" * 64
            + "00000001a8179d67",
            "f5e06371f0c115e9968455c8e48a318aba548b9f15676fa41de123f7d1c99c55",
        ),
        (
            "73686103249333750a560be2f73a3021cab3a413d32036dc4242b519cd3dc168ee3db49c"
            + "404142434445"
            + "00" * 58
            + "00000001a5683846",
            "a280b08df5eba060fcd0eb3d29320bbc038afb95781661f91bbfd0a6fc9fdd6e",
        ),
        (
            "736861039f128747f2df3c82a0112f2a570226494b576c680395b1ab0c0af65a65f91d1b"
            + bytes(range(0x27)).hex()
            + "00" * 25
            + "0000000181563927",
            "d2fffb762f105ab71e2d70069346c44c38c4fe183aad8cfcf5a76397c0457806",
        ),
    ],
    ids=["7.1 GB", "7.1 GB and 6 bytes", "6.5 GB and 39 bytes"],
)
def test_state_that_go_saved_after_gigabytes_goes_on(state: str, encoded: str) -> None:
    assert Digester.load(bytes.fromhex(state)).digest().encoded == encoded


def test_bytes_behind_the_buffered_ones_do_not_count() -> None:
    digester = Digester()
    digester.update(b"abc")
    state = bytearray(digester.state())
    state[39:100] = b"?" * 61
    assert Digester.load(bytes(state)).digest() == Digest.of(b"abc")


STATE = bytes.fromhex(SHA256_STATES[b"abc"])


@pytest.mark.parametrize(
    "state",
    [
        b"",
        STATE[:-1],
        STATE + b"\0",
        b"sha\x02" + STATE[4:],
        b"sha\x07" + STATE[4:],
        STATE[1:] + b"s",
        bytes(108),
        b"sha\x03" + bytes(200),
        STATE[:-8] + (2**61).to_bytes(8, "big"),
        STATE[:-8] + b"\xff" * 8,
    ],
    ids=[
        "empty",
        "short",
        "long",
        "sha224",
        "sha512's magic",
        "shifted",
        "zeros",
        "sha512's size",
        "more than sha256 can count",
        "most",
    ],
)
def test_ill_formed_state_is_refused(state: bytes) -> None:
    with pytest.raises(HashStateInvalid):
        Digester.load(state)


@each_algorithm
def test_state_of_another_algorithm_is_refused(algorithm: str) -> None:
    state = Digester(algorithm).state()
    for other in set(ALGORITHMS) - {algorithm}:
        with pytest.raises(HashStateInvalid):
            Digester.load(state, other)


@each_algorithm
@given(st.binary(min_size=192, max_size=192), st.integers(0, 2**60))
def test_any_well_formed_state_can_be_gone_on_with(
    algorithm: str, inside: bytes, size: int
) -> None:
    empty = Digester(algorithm).state()
    state = empty[:4] + inside[: len(empty) - 12] + size.to_bytes(8, "big")
    digester = Digester.load(state, algorithm)
    digester.update(b"more" * 100)
    digester.digest()
    assert Digester.load(digester.state(), algorithm).digest() == digester.digest()


@given(st.binary(max_size=220), algorithms)
def test_any_bytes_are_a_state_or_refused(state: bytes, algorithm: str) -> None:
    with pytest.raises(HashStateInvalid):
        Digester.load(state, algorithm)
