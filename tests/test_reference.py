"""The grammars of repository names, tags and references, at their edges."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blobfs.errors import NameInvalid
from blobfs.reference import Reference, RepositoryName, Tag, is_component
from tests.support.layout import EMPTY

COMPONENTS = [
    "a",
    "0",
    "a0",
    "library",
    "a.b",
    "a_b",
    "a__b",
    "a-b",
    "a--b",
    "a---b",
    "a.b_c__d-e---f",
    "0.0",
    "n" * 255,
]
NO_COMPONENTS = [
    "",
    ".",
    "..",
    "_",
    "-",
    ".a",
    "_a",
    "-a",
    "a.",
    "a_",
    "a__",
    "a-",
    "a..b",
    "a___b",
    "a._b",
    "a_-b",
    "a.-b",
    "A",
    "aB",
    "a b",
    "a\n",
    "\na",
    "a\0",
    "a:b",
    "a@b",
    "é",
    "٣",
    "²",
    "a/b",
    "_layers",
    "_manifests",
    "_uploads",
    "n" * 256,
]

words = st.text("abz019", min_size=1, max_size=5)
separators = st.sampled_from([".", "_", "__", "-", "--", "-----"])
components = st.builds(
    lambda first, others: first + "".join(others),
    words,
    st.lists(st.builds(str.__add__, separators, words), max_size=3),
)


@pytest.mark.parametrize("text", COMPONENTS)
def test_well_formed_component_is_one(text: str) -> None:
    assert is_component(text)


@pytest.mark.parametrize("text", NO_COMPONENTS, ids=ascii)
def test_ill_formed_component_is_none(text: str) -> None:
    assert not is_component(text)


@pytest.mark.parametrize("text", [*COMPONENTS, "a/b", "library/a.b/c__d/0", "/".join("a" * 128)])
def test_well_formed_repository_name_is_itself(text: str) -> None:
    assert RepositoryName(text) == text


@given(st.lists(components, min_size=1, max_size=6))
def test_components_joined_by_slashes_are_a_repository_name(parts: list[str]) -> None:
    assert RepositoryName("/".join(parts)) == "/".join(parts)


@pytest.mark.parametrize(
    "text",
    [
        *(text for text in NO_COMPONENTS if text != "a/b"),
        "/",
        "/a",
        "a/",
        "a//b",
        "a/./b",
        "a/../b",
        "a/B",
        "a/_layers",
        "a/b\n",
        "example.com:5000/a",
        "a\ud800",
    ],
    ids=ascii,
)
def test_ill_formed_repository_name_is_refused(text: str) -> None:
    with pytest.raises(NameInvalid):
        RepositoryName(text)


def test_repository_name_of_255_bytes_is_long_enough() -> None:
    assert len(RepositoryName("a/" * 127 + "b")) == 255


def test_repository_name_of_256_bytes_is_too_long() -> None:
    with pytest.raises(NameInvalid):
        RepositoryName("a/" * 127 + "bc")


@given(st.text())
def test_repository_name_is_of_components(text: str) -> None:
    if all(is_component(part) for part in text.split("/")):
        assert RepositoryName(text) == text
    else:
        with pytest.raises(NameInvalid):
            RepositoryName(text)


@pytest.mark.parametrize(
    "text", ["latest", "1.0", "_", "_a", "A", "a-b", "a..b", "1.0_rc.1-", "t" * 128]
)
def test_well_formed_tag_is_itself(text: str) -> None:
    assert Tag(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "..",
        ".a",
        "-a",
        "a/b",
        "a:b",
        "a@b",
        "a+b",
        "a b",
        "a\n",
        "\na",
        "é",
        "٣",
        "a٣",
        "ª",
        "t" * 129,
    ],
    ids=ascii,
)
def test_ill_formed_tag_is_refused(text: str) -> None:
    with pytest.raises(NameInvalid):
        Tag(text)


@given(st.text(max_size=140))
def test_tag_is_of_ascii_letters_digits_and_marks(text: str) -> None:
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", text):
        assert Tag(text) == text
    else:
        with pytest.raises(NameInvalid):
            Tag(text)


def test_reference_by_tag() -> None:
    assert Reference.parse("library/a:1.0") == Reference(RepositoryName("library/a"), Tag("1.0"))


def test_reference_by_digest() -> None:
    assert Reference.parse(f"library/a@{EMPTY}") == Reference(RepositoryName("library/a"), EMPTY)


@pytest.mark.parametrize("text", ["a:b", "a/b/c:latest", f"a@{EMPTY}"])
def test_reference_is_written_as_it_was_read(text: str) -> None:
    assert str(Reference.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        ":",
        "@",
        "a:",
        "a@",
        ":b",
        f"@{EMPTY}",
        "a@b",
        "a:b:c",
        "a:b/c",
        "localhost:5000/a",
        f"a:b@{EMPTY}",
        f"a@{EMPTY}@{EMPTY}",
        f"a@{EMPTY}\n",
        "a:b\n",
        f"a:{EMPTY}",
        f"A@{EMPTY}",
        "a@md5:d41d8cd98f00b204e9800998ecf8427e",
    ],
    ids=ascii,
)
def test_ill_formed_reference_is_refused(text: str) -> None:
    with pytest.raises(NameInvalid):
        Reference.parse(text)


@pytest.mark.parametrize("mark", ["", ":", "@", "/", ".", "-", "_", "é"], ids=ascii)
def test_refusal_of_a_very_long_text_is_quick_and_short(mark: str) -> None:
    text = ("a" + mark) * 1_000_000 + "!"
    for parse in (RepositoryName, Tag, Reference.parse):
        with pytest.raises(NameInvalid) as caught:
            parse(text)
        assert len(str(caught.value)) < 1000
