import argparse

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentence_api.errors import InvalidSize
from sentence_api.resources.sizes import (
    GIB,
    KIB,
    MIB,
    format_size,
    parse_cpus,
    parse_positive,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("4096", 4096),
        ("100b", 100),
        ("64k", 64 * KIB),
        ("512M", 512 * MIB),
        ("512m", 512 * MIB),
        ("512 MB", 512 * MIB),
        ("512MiB", 512 * MIB),
        ("8G", 8 * GIB),
        ("8gb", 8 * GIB),
        ("1.5GiB", 3 * GIB // 2),
        ("0.5G", 512 * MIB),
        ("2T", 2048 * GIB),
        (" 8G\n", 8 * GIB),
    ],
)
def test_a_size_is_read(text: str, size: int) -> None:
    """Units are binary, in either case, with or without B, and fractions are allowed."""
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        *["", " ", "G", "8X", "-1", "-1G", "+8G", "0", "0G", "0.0000001", "nan", "inf", "1e9"],
        *[
            "8 G B",
            "8GG",
            "8KG",
            "1.G",
            ".5G",
            "1,5G",
            "1.5.5G",
            "0x10",
            "8G 1",
            "max",
            "٨G",
            "8G\0",
        ],
    ],
)
def test_junk_is_refused_in_one_line(text: str) -> None:
    """Text that is not a positive size gets one line with the text and the valid form."""
    with pytest.raises(InvalidSize) as caught:
        parse_size(text)
    assert str(caught.value) == f"{text!r} is not a size; write for example 512M, 8G or 1.5G"


@pytest.mark.parametrize("text", ["9" * 400, "9" * 400 + "T"], ids=["bytes", "with a unit"])
def test_a_number_beyond_any_machine_is_refused(text: str) -> None:
    """More digits than a float holds are refused like other invalid text, in one line."""
    with pytest.raises(InvalidSize) as caught:
        parse_size(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 MiB"),
        (MIB // 2, "0.5 MiB"),
        (384 * MIB, "384 MiB"),
        (1000 * MIB, "1000 MiB"),
        (GIB, "1 GiB"),
        (3 * GIB // 2, "1.5 GiB"),
        (6 * GIB, "6 GiB"),
        (10 * GIB, "10 GiB"),
    ],
)
def test_a_size_is_written(size: int, text: str) -> None:
    """Sizes have at most one decimal, and are in GiB from 1 GiB up."""
    assert format_size(size) == text


def test_units_are_binary() -> None:
    """The units are powers of two, as the kernel and Docker count."""
    assert (KIB, MIB, GIB) == (1_024, 1_048_576, 1_073_741_824)


@settings(deadline=None)
@given(st.integers(1, 4096 * KIB), st.sampled_from([("K", KIB), ("M", MIB), ("G", GIB)]))
def test_whole_numbers_are_exact(count: int, unit: tuple[str, int]) -> None:
    """A whole number of a unit is exact in bytes."""
    assert parse_size(f"{count}{unit[0]}") == count * unit[1]


@settings(deadline=None)
@given(st.integers(1, 2**49))
def test_bytes_are_exact(size: int) -> None:
    """A number without a unit is exactly that many bytes."""
    assert parse_size(str(size)) == size


@settings(deadline=None)
@given(st.integers(1, 4096 * GIB))
def test_what_is_written_can_be_read(size: int) -> None:
    """A formatted size parses to the same size, within the rounding of its decimal."""
    unit = GIB if size >= GIB else MIB
    text = format_size(size)
    assert text == "0 MiB" or abs(parse_size(text) - size) <= unit // 20 + 1


@pytest.mark.parametrize(("text", "number"), [("2", 2.0), ("0.5", 0.5), (" 1e3 ", 1000.0)])
def test_a_positive_number_is_read(text: str, number: float) -> None:
    """CPUs and other positive numbers may be fractions."""
    assert parse_positive(text) == parse_cpus(text) == number


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "1e999", "two", "2 CPUs"])
def test_a_number_that_is_not_positive_is_refused(text: str) -> None:
    """Text that is not a positive, finite number gets one line that names what was expected."""
    for parse, kind in (
        (parse_positive, "a number above zero"),
        (parse_cpus, "a number of CPUs; write for example 2"),
    ):
        with pytest.raises(argparse.ArgumentTypeError) as caught:
            parse(text)
        assert str(caught.value) == f"{text!r} is not {kind}"
