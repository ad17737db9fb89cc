"""What an expression may say, and how a mistake is pointed at."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monque._cron import Cron
from monque.errors import InvalidArgumentError, InvalidCronError

STEADY = settings(deadline=None, derandomize=True)
THURSDAY = datetime(2026, 1, 1, tzinfo=UTC)


def firings(expression: str, count: int, after: datetime = THURSDAY) -> list[str]:
    cron, found = Cron.parse(expression), [after]
    for _ in range(count):
        found.append(cron.next_after(found[-1]))
    return [f"{time:%Y-%m-%d %H:%M:%S}".removesuffix(":00") for time in found[1:]]


def days(expression: str, count: int) -> list[str]:
    return [time.split()[0][5:] for time in firings(expression, count)]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("* * * * *", ["2026-01-01 00:01", "2026-01-01 00:02"]),
        ("0 9 * * 1-5", ["2026-01-01 09:00", "2026-01-02 09:00", "2026-01-05 09:00"]),
        ("*/20 * * * *", ["2026-01-01 00:20", "2026-01-01 00:40", "2026-01-01 01:00"]),
        ("5/25 * * * *", ["2026-01-01 00:05", "2026-01-01 00:30", "2026-01-01 00:55", "2026-01-01 01:05"]),
        ("10-30/15 * * * *", ["2026-01-01 00:10", "2026-01-01 00:25", "2026-01-01 01:10"]),
        ("5-5/15 * * * *", ["2026-01-01 00:05", "2026-01-01 01:05"]),
        ("*/90 * * * *", ["2026-01-01 01:00", "2026-01-01 02:00"]),
        (
            "1,3-4,*/30 * * * *",
            ["2026-01-01 00:01", "2026-01-01 00:03", "2026-01-01 00:04", "2026-01-01 00:30"],
        ),
        ("00 09 01 02 *", ["2026-02-01 09:00", "2027-02-01 09:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 0 */31 2 1", ["2027-02-01 00:00", "2038-02-01 00:00"]),
        ("15 30 2 * * *", ["2026-01-01 02:30:15", "2026-01-02 02:30:15"]),
        ("*/30 * * * * *", ["2026-01-01 00:00:30", "2026-01-01 00:01", "2026-01-01 00:01:30"]),
        ("@yearly", ["2027-01-01 00:00", "2028-01-01 00:00"]),
        ("@annually", ["2027-01-01 00:00", "2028-01-01 00:00"]),
        ("@monthly", ["2026-02-01 00:00", "2026-03-01 00:00"]),
        ("@weekly", ["2026-01-04 00:00", "2026-01-11 00:00"]),
        ("@daily", ["2026-01-02 00:00", "2026-01-03 00:00"]),
        ("@midnight", ["2026-01-02 00:00", "2026-01-03 00:00"]),
        ("@hourly", ["2026-01-01 01:00", "2026-01-01 02:00"]),
        (" @Daily\n", ["2026-01-02 00:00"]),
        ("\t0  9 *\r\n* 1-5 ", ["2026-01-01 09:00"]),
    ],
)
def test_meaning(expression: str, expected: list[str]) -> None:
    assert firings(expression, len(expected)) == expected


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("0 0 * JAN,mar *", ["01-02", "01-03", "01-04"]),
        ("0 0 1 apr-Jun *", ["04-01", "05-01", "06-01", "04-01"]),
        ("0 0 * * mon", ["01-05", "01-12"]),
        ("0 0 * * FRI-sat", ["01-02", "01-03", "01-09"]),
        ("0 0 * * 0", ["01-04", "01-11"]),
        ("0 0 * * 7", ["01-04", "01-11"]),
        ("0 0 * * 5-7", ["01-02", "01-03", "01-04", "01-09"]),
        ("0 0 * * 0-7", ["01-02", "01-03", "01-04", "01-05"]),
        ("0 0 * * 7-7", ["01-04", "01-11"]),
        ("0 0 * * 1/2", ["01-02", "01-04", "01-05", "01-07"]),
        ("0 0 L * *", ["01-31", "02-28", "03-31"]),
        ("0 0 15,l 2 *", ["02-15", "02-28"]),
        ("0 0 * * 5L", ["01-30", "02-27"]),
        ("0 0 * * friL,0L", ["01-25", "01-30", "02-22"]),
        ("0 0 * * 7L", ["01-25", "02-22"]),
        ("0 0 * * MON#2", ["01-12", "02-09"]),
        ("0 0 * * 1#1,1#3,FRI", ["01-02", "01-05", "01-09", "01-16", "01-19"]),
        ("0 0 * * 4#5", ["01-29", "04-30"]),
        # Both days restricted: either will do. One begins with a star: both must hold.
        ("0 0 13 * 5", ["01-02", "01-09", "01-13", "01-16"]),
        ("0 0 1-31 * 5", ["01-02", "01-03", "01-04"]),
        ("0 0 */2 * 5", ["01-09", "01-23"]),
        ("0 0 1-7 * */7", ["01-04", "02-01"]),
        ("0 0 30 2 1", ["02-02", "02-09"]),
    ],
)
def test_days(expression: str, expected: list[str]) -> None:
    assert days(expression, len(expected)) == expected


@pytest.mark.parametrize(
    ("expression", "position", "said"),
    [
        ("", 0, "expected 5 fields"),
        ("   ", 3, "expected 5 fields"),
        ("* * * *", 7, "got 4"),
        ("* * * * ", 8, "got 4"),
        ("* * * * * * *", 12, "got 7"),
        ("0 9 * * 1-5 2026 x", 12, "the day-of-week field"),
        ("hello", 0, "the minute field accepts 0-59"),
        ("60 * * * *", 0, "got '60'"),
        ("0 24 * * *", 2, "the hour field accepts 0-23"),
        ("0 0 0 * *", 4, "the day-of-month field accepts 1-31"),
        ("0 0 32 * *", 4, "L (the last day)"),
        ("0 0 * 13 *", 6, "the month field accepts 1-12 or JAN-DEC"),
        ("0 0 * FOO *", 6, "JAN-DEC"),
        ("0 0 * * 8", 8, "the day-of-week field accepts 0-7 or SUN-SAT"),
        ("0 0 * * Monday", 11, "'Monday'"),
        ("60 0 0 * * *", 0, "the second field"),
        ("0 60 0 * * *", 2, "the minute field"),
        ("MON * * * *", 0, "the minute field"),
        ("0 0 MON * *", 4, "the day-of-month field"),
        ("0 0 * * JAN", 8, "SUN-SAT"),
        ("1,,2 * * * *", 2, "the minute field"),
        (",1 * * * *", 0, "the minute field"),
        ("1, * * * *", 2, "the minute field"),
        ("0,15,75 * * * *", 5, "the minute field"),
        ("0 22-2 * * *", 5, "a range runs upwards, not from 22 to 2"),
        ("0 0 * * SAT-SUN", 12, "from 6 to 0"),
        ("0 1- * * *", 4, "the hour field"),
        ("0 -1 * * *", 2, "the hour field"),
        ("0 1-2-3 * * *", 5, "the hour field"),
        ("*/0 * * * *", 2, "the minute field"),
        ("*/ * * * *", 2, "the minute field"),
        ("*/5/2 * * * *", 3, "the minute field"),
        ("*5 * * * *", 1, "the minute field"),
        ("*-5 * * * *", 1, "the minute field"),
        ("1.5 * * * *", 1, "the minute field"),
        ("0 0 ? * 1", 4, "the day-of-month field"),
        ("H 0 * * *", 0, "the minute field"),
        ("0 0 LW * *", 5, "the day-of-month field"),
        ("0 0 L-2 * *", 5, "the day-of-month field"),
        ("0 0 L/2 * *", 5, "the day-of-month field"),
        ("0 0 15W * *", 6, "the day-of-month field"),
        ("0 L * * *", 2, "the hour field"),
        ("0 0 * * L", 8, "the day-of-week field"),
        ("0 0 * * 1-5L", 11, "the day-of-week field"),
        ("0 0 * * 5L/2", 10, "the day-of-week field"),
        ("0 0 * * 1#6", 10, "1#2 (the second Monday)"),
        ("0 0 * * 1#", 10, "the day-of-week field"),
        ("0 0 * * #2", 8, "the day-of-week field"),
        ("0 0 * * 1#2-3", 11, "the day-of-week field"),
        ("0 0 1#2 * *", 5, "the day-of-month field"),
        ("٣ 0 * * *", 0, "the minute field"),
        ("0 0 * \u017fep *", 6, "the month field"),
        ("0\u00a00 * * *", 1, "the minute field"),
        ("0 0 * * 1\x00", 9, "the day-of-week field"),
        ("@reboot", 0, "@hourly"),
        ("  @minutely", 2, "@hourly"),
        ("@daily 5", 7, "nothing may follow @daily"),
        ("0 @daily * * *", 2, "the hour field"),
        ("0 0 30 2 *", 4, "never comes true"),
        ("0 0 0 31 2,4,6,9,11 *", 6, "never comes true"),
        ("  0 0 30,31 FEB *", 6, "never comes true"),
        ("0 0 */31 * 1#2", 4, "never comes true"),
        ("0 " * 513, 1024, "at most 1024 characters"),
    ],
)
def test_mistake(expression: str, position: int, said: str) -> None:
    with pytest.raises(InvalidCronError) as caught:
        Cron.parse(expression)
    assert (caught.value.expression, caught.value.position) == (expression, position)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "timezone",
    [
        "",
        "Mars/Olympus",
        "Europe",
        "Europe/",
        "/etc/passwd",
        "../UTC",
        "+02:00",
        "UTC ",
        "a\x00b",
        "\ud800",
        "x" * 500,
    ],
)
def test_unknown_time_zone(timezone: str) -> None:
    with pytest.raises(InvalidArgumentError, match="IANA") as caught:
        Cron.parse("* * * * *", timezone)
    assert (caught.value.argument, caught.value.value) == ("timezone", timezone)


def test_value() -> None:
    cron = Cron.parse(" 0 9  * * mon ", "Europe/Berlin")
    assert (cron.expression, cron.timezone) == (" 0 9  * * mon ", "Europe/Berlin")
    assert cron == Cron.parse(" 0 9  * * mon ", "Europe/Berlin")
    assert cron != Cron.parse(" 0 9  * * mon ")
    assert repr(cron) == "Cron(expression=' 0 9  * * mon ', timezone='Europe/Berlin')"
    assert len({cron, Cron.parse("0 9 * * 1")}) == 2


def test_answers_in_utc_and_whole_seconds() -> None:
    planned = datetime(2026, 7, 1, 8, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=2)))
    found = Cron.parse("0 9 * * *", "Europe/Berlin").next_after(planned)
    assert found == datetime(2026, 7, 1, 7, tzinfo=UTC)
    assert found.tzinfo is UTC


def test_strictly_after() -> None:
    hourly, noon = Cron.parse("@hourly"), datetime(2026, 7, 1, 12, tzinfo=UTC)
    assert hourly.next_after(noon) == noon + timedelta(hours=1)
    assert hourly.next_after(noon - timedelta(microseconds=1)) == noon
    assert hourly.next_after(noon + timedelta(microseconds=1)) == noon + timedelta(hours=1)


def test_a_late_run_is_followed_by_the_next_planned_time() -> None:
    cron, planned = Cron.parse("0 * * * *"), datetime(2026, 7, 1, 12, tzinfo=UTC)
    following = planned + timedelta(hours=1)
    assert cron.next_from(planned, planned + timedelta(minutes=59)) == following
    assert cron.next_from(planned, planned - timedelta(days=1)) == following
    assert cron.next_from(planned, following) == following + timedelta(hours=1)
    assert cron.next_from(planned, datetime(2036, 7, 1, 12, 30, tzinfo=UTC)) == datetime(2036, 7, 1, 13, tzinfo=UTC)


NAIVE = datetime(2026, 7, 1)  # noqa: DTZ001
LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.parametrize("planned", [NAIVE, LAST, LAST.replace(tzinfo=timezone(timedelta(hours=-5)))])
def test_a_time_it_cannot_start_from(planned: datetime) -> None:
    with pytest.raises(InvalidArgumentError, match="time zone") as caught:
        Cron.parse("0 0 29 2 *").next_after(planned)
    assert (caught.value.argument, caught.value.value) == ("planned", planned)


def test_now_needs_a_time_zone() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        Cron.parse("@daily").next_from(THURSDAY, NAIVE)
    assert caught.value.argument == "now"


def test_the_rarest_day_is_found_from_every_year() -> None:
    """A 29 February on a given weekday may be 40 years away, over a 2100 that has none."""
    for weekday in range(7):
        cron = Cron.parse(f"0 0 */28 2 {weekday}#5")
        for year in range(2000, 2400, 7):
            found = cron.next_after(datetime(year, 3, 1, tzinfo=UTC))
            assert (found.month, found.day, found.isoweekday() % 7) == (2, 29, weekday)
            assert found.year - year <= 41


def parses_or_points(text: str) -> None:
    refused: InvalidCronError | None = None
    try:
        assert Cron.parse(text).next_after(THURSDAY) > THURSDAY
    except InvalidCronError as error:
        refused = error
    assert refused is None or (0 <= refused.position <= len(text) and refused.expression == text)


@STEADY
@given(st.text(max_size=40))
def test_any_text(text: str) -> None:
    parses_or_points(text)


@STEADY
@given(st.text(st.sampled_from("0123456789 */-,#LlWw?@monsatjanfeb\t"), max_size=30))
def test_text_of_cron_letters(text: str) -> None:
    parses_or_points(text)


ITEM = st.from_regex(r"(\*|[0-9]{1,2}(-[0-9]{1,2})?|L|[0-7](L|#[1-6])|MON|feb)(/[0-9]{1,2})?", fullmatch=True)


@STEADY
@given(st.lists(st.lists(ITEM, min_size=1, max_size=3).map(",".join), min_size=4, max_size=7).map(" ".join))
def test_text_of_cron_items(text: str) -> None:
    parses_or_points(text)
