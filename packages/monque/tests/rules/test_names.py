from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monque import InvalidArgumentError, InvalidJobIdentifierError
from monque._names import check_job_name, check_tags, check_unique_key

if TYPE_CHECKING:
    from collections.abc import Callable

NO_TEXT = [None, 1, True, b"name", ["name"]]
CONTROLS = ["a\0", "a\n", "\tb", "\r", "a\x1bb", "a\x7f", "a\x85b", "\x9f"]
SURROGATES = ["a\ud800", "\udfff"]
SPACES = ["a b", " a", "a ", " ", "a\u00a0b", "a\u2003", "a\u2028b", "a\u2029", "\u3000", "ü b"]

NAME = "1–255 characters without white space or control characters"
KEY = "1–1024 characters without control characters"


@pytest.mark.parametrize("name", [*NO_TEXT, "", "n" * 256, "ü" * 256, *CONTROLS, *SURROGATES, *SPACES], ids=ascii)
def test_what_is_no_job_name_is_refused(name: object) -> None:
    with pytest.raises(InvalidJobIdentifierError) as caught:
        check_job_name(name)
    assert (caught.value.field, caught.value.value) == ("name", name)
    assert str(caught.value).startswith(f"name: expected {NAME}, got {repr(name)[:100]}")


@pytest.mark.parametrize("key", [*NO_TEXT, "", "k" * 1025, "ü" * 1025, *CONTROLS, *SURROGATES], ids=ascii)
def test_what_is_no_unique_key_is_refused(key: object) -> None:
    with pytest.raises(InvalidJobIdentifierError) as caught:
        check_unique_key(key)
    assert (caught.value.field, caught.value.value) == ("unique_key", key)
    assert str(caught.value).startswith(f"unique_key: expected {KEY}, got {repr(key)[:100]}")


@pytest.mark.parametrize("name", ["a", "n" * 255, "ü" * 255, "send-email", "a.b:c/d$e", "é", "日本", "🚀"])
def test_a_job_name_may_be_any_visible_text(name: str) -> None:
    check_job_name(name)


@pytest.mark.parametrize("key", ["a", "k" * 1024, "ü" * 1024, "user 1", *SPACES])
def test_a_unique_key_may_hold_spaces(key: str) -> None:
    check_unique_key(key)


@pytest.mark.parametrize(
    "tags",
    [None, 1, b"eu", [1], "", ["a", ""], "t" * 256, *CONTROLS, *SURROGATES, [f"{n}" for n in range(21)]],
    ids=ascii,
)
def test_what_are_no_tags_is_refused(tags: object) -> None:
    with pytest.raises(InvalidArgumentError, match="a tag, or up to 20, each 1–255 characters") as caught:
        check_tags(tags)
    assert (caught.value.argument, caught.value.value) == ("tags", tags)


@pytest.mark.parametrize(
    ("given_", "kept"),
    [
        ("a b", ("a b",)),
        (["b", "a", "b"], ("b", "a")),
        (("ü" * 255,), ("ü" * 255,)),
        ({"c", "b", "a"}, ("a", "b", "c")),
        ({"x": 1}.keys(), ("x",)),
        ([], ()),
        (["same"] * 100, ("same",)),
    ],
)
def test_each_tag_is_kept_once(given_: object, kept: tuple[str, ...]) -> None:
    assert check_tags(given_) == kept


def accepts(check: Callable[[object], object], text: str) -> bool:
    try:
        check(text)
    except InvalidJobIdentifierError:
        return False
    return True


@given(text=st.text(st.characters(), max_size=30) | st.text(st.sampled_from("a \n\0\ud800"), max_size=4))
def test_names_and_keys_are_what_the_rule_says(text: str) -> None:
    plain = text != "" and not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)
    assert accepts(check_unique_key, text) == plain
    assert accepts(check_job_name, text) == (plain and not any(character.isspace() for character in text))


@given(text=st.text(st.characters()))
def test_what_is_accepted_can_be_stored(text: str) -> None:
    if accepts(check_unique_key, text):
        assert bson.decode(bson.encode({"key": text})) == {"key": text}  # pyright: ignore[reportUnknownMemberType]
