"""Quiet hours: tables of the known traps, and any week of any zone against the clock on the wall, minute by minute."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.quiet import DAYS, QuietHours, check_zone, day_numbers, time_of_day, zones

NIGHT = ("22:00", "08:00")


def ms(text: str, zone: str = "UTC", fold: int = 0) -> int:
    wall = datetime.fromisoformat(text)
    return int(wall.replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp() * 1000)


def released(window: tuple[str, str], days: list[str] | None, zone: str, at: str, fold: int = 0) -> str | None:
    """When it is quiet until, as the clock shows it there with its offset; None if it is not quiet."""
    found = QuietHours(*window, days, zone).release_ms(ms(at, zone, fold))
    return None if found is None else datetime.fromtimestamp(found / 1000, ZoneInfo(zone)).isoformat()


@pytest.mark.parametrize(
    ("window", "days", "at", "until"),
    [
        (NIGHT, None, "2026-03-02T21:59:59.999", None),
        (NIGHT, None, "2026-03-02T22:00", "2026-03-03T08:00:00+00:00"),
        (NIGHT, None, "2026-03-02T23:59", "2026-03-03T08:00:00+00:00"),
        (NIGHT, None, "2026-03-03T07:59:59.999", "2026-03-03T08:00:00+00:00"),
        (NIGHT, None, "2026-03-03T08:00", None),
        (("12:00", "14:00"), None, "2026-03-02T13:00", "2026-03-02T14:00:00+00:00"),
        (("12:00", "14:00"), None, "2026-03-02T11:59", None),
        (("12:00", "12:00"), None, "2026-03-02T12:00", None),  # never
        (("00:00", "00:00"), None, "2026-03-02T00:00", None),
        (("24:00", "24:00"), None, "2026-03-02T00:00", None),
        (("20:00", "24:00"), None, "2026-03-02T21:00", "2026-03-03T00:00:00+00:00"),
        (("20:00", "00:00"), None, "2026-03-02T21:00", "2026-03-03T00:00:00+00:00"),
        (NIGHT, ["mon"], "2026-03-02T23:00", "2026-03-03T08:00:00+00:00"),  # 2026-03-02 is a Monday
        (NIGHT, ["mon"], "2026-03-03T07:00", "2026-03-03T08:00:00+00:00"),  # it belongs to the day on which it starts
        (NIGHT, ["mon"], "2026-03-03T22:00", None),
        (NIGHT, ["mon"], "2026-03-02T07:00", None),
        (NIGHT, ["sun"], "2026-03-02T07:00", "2026-03-02T08:00:00+00:00"),
        (("00:00", "24:00"), ["sat", "sun"], "2026-03-07T10:00", "2026-03-09T00:00:00+00:00"),  # one continuous time
        (("00:00", "24:00"), ["mon", "wed"], "2026-03-02T10:00", "2026-03-03T00:00:00+00:00"),
        (("00:00", "24:00"), list(DAYS[:6]), "2026-03-02T00:00", "2026-03-08T00:00:00+00:00"),
        (("20:00", "19:59"), None, "2026-03-02T19:58", "2026-03-02T19:59:00+00:00"),  # not contiguous by a minute
        (NIGHT, None, "2028-02-28T23:00", "2028-02-29T08:00:00+00:00"),  # leap day
        (NIGHT, None, "2028-02-29T23:00", "2028-03-01T08:00:00+00:00"),
        (NIGHT, ["tue"], "2028-02-29T23:00", "2028-03-01T08:00:00+00:00"),
        (NIGHT, None, "2026-12-31T23:00", "2027-01-01T08:00:00+00:00"),
    ],
)
def test_a_window(window: tuple[str, str], days: list[str] | None, at: str, until: str | None) -> None:
    assert released(window, days, "UTC", at) == until


# In Paris 02:00 becomes 03:00 (+02:00) on 2026-03-29, and 03:00 becomes 02:00 (+01:00) on 2026-10-25.
@pytest.mark.parametrize(
    ("zone", "window", "at", "fold", "until"),
    [
        ("Europe/Paris", NIGHT, "2026-03-28T22:00", 0, "2026-03-29T08:00:00+02:00"),  # nine hours
        ("Europe/Paris", NIGHT, "2026-10-24T22:00", 0, "2026-10-25T08:00:00+01:00"),  # eleven
        ("Europe/Paris", ("22:00", "02:30"), "2026-03-29T01:59", 0, "2026-03-29T03:00:00+02:00"),  # its end is skipped
        ("Europe/Paris", ("22:00", "02:30"), "2026-03-29T03:00", 0, None),
        ("Europe/Paris", ("02:30", "05:00"), "2026-03-29T01:59", 0, None),
        ("Europe/Paris", ("02:30", "05:00"), "2026-03-29T03:00", 0, "2026-03-29T05:00:00+02:00"),  # its start is
        ("Europe/Paris", ("02:10", "02:50"), "2026-03-29T03:00", 0, None),  # both are
        ("Europe/Paris", ("22:00", "02:30"), "2026-10-25T02:29", 0, "2026-10-25T02:30:00+01:00"),  # the second 02:30
        ("Europe/Paris", ("22:00", "02:30"), "2026-10-25T02:45", 0, "2026-10-25T02:30:00+01:00"),
        ("Europe/Paris", ("22:00", "02:30"), "2026-10-25T02:30", 1, None),
        ("Europe/Paris", ("02:30", "05:00"), "2026-10-25T02:29", 0, None),
        ("Europe/Paris", ("02:30", "05:00"), "2026-10-25T02:30", 0, "2026-10-25T05:00:00+01:00"),  # the first 02:30
        ("Europe/Paris", ("02:30", "05:00"), "2026-10-25T02:10", 1, "2026-10-25T05:00:00+01:00"),  # one piece
        ("Europe/Paris", ("02:10", "02:50"), "2026-10-25T02:55", 0, "2026-10-25T02:50:00+01:00"),
        # Half an hour: +10:30 to +11:00 at 02:00 on 2026-10-04, and back at 02:00 on 2026-04-05.
        ("Australia/Lord_Howe", NIGHT, "2026-10-03T23:00", 0, "2026-10-04T08:00:00+11:00"),
        ("Australia/Lord_Howe", ("22:00", "02:15"), "2026-10-04T01:00", 0, "2026-10-04T02:30:00+11:00"),
        ("Australia/Lord_Howe", ("22:00", "01:45"), "2026-04-05T01:40", 0, "2026-04-05T01:45:00+10:30"),
        ("Australia/Lord_Howe", ("22:00", "01:45"), "2026-04-05T01:45", 1, None),
        # The change is at midnight: on 2026-04-05 00:00 becomes 23:00 of the day before.
        ("America/Santiago", ("23:30", "06:00"), "2026-04-04T23:30", 0, "2026-04-05T06:00:00-04:00"),
        ("America/Santiago", ("23:30", "06:00"), "2026-04-04T23:10", 1, "2026-04-05T06:00:00-04:00"),
        ("America/Santiago", ("20:00", "24:00"), "2026-04-04T23:10", 0, "2026-04-05T00:00:00-04:00"),
        ("America/Santiago", ("00:30", "06:00"), "2026-09-06T01:00", 0, "2026-09-06T06:00:00-03:00"),
        # 2011-12-30 is not: the 29th, a Thursday, is followed by the 31st.
        ("Pacific/Apia", NIGHT, "2011-12-29T23:00", 0, "2011-12-31T08:00:00+14:00"),
        ("Pacific/Apia", ("22:00", "23:00"), "2011-12-29T22:30", 0, "2011-12-29T23:00:00-10:00"),
        ("Pacific/Apia", ("22:00", "23:00"), "2011-12-31T00:00", 0, None),
        ("Asia/Kathmandu", NIGHT, "2026-05-05T23:00", 0, "2026-05-06T08:00:00+05:45"),
    ],
)
def test_a_window_across_a_change_of_the_clock(
    zone: str, window: tuple[str, str], at: str, fold: int, until: str | None
) -> None:
    assert released(window, None, zone, at, fold) == until


@pytest.mark.parametrize(
    ("day", "at", "until"),
    [
        ("thu", "2011-12-29T23:00", "2011-12-31T00:00:00+14:00"),  # its end, Friday 08:00, is in the gap
        ("thu", "2011-12-31T00:00", None),
        ("fri", "2011-12-31T00:00", "2011-12-31T08:00:00+14:00"),  # its start is
        ("fri", "2011-12-29T23:00", None),
    ],
)
def test_windows_of_a_day_that_was_skipped(day: str, at: str, until: str | None) -> None:
    assert released(NIGHT, [day], "Pacific/Apia", at) == until


def test_one_object_answers_for_instants_in_any_order() -> None:
    quiet = QuietHours(*NIGHT, ["mon", "fri"], "America/New_York")
    instants = [ms("2026-03-01T00:00") + step * 1_801_000 for step in range(1_500)]
    fresh = [QuietHours(*NIGHT, ["mon", "fri"], "America/New_York").release_ms(instant) for instant in instants]
    assert [quiet.release_ms(instant) for instant in instants] == fresh
    assert [quiet.release_ms(instant) for instant in reversed(instants)] == fresh[::-1]
    assert len(set(fresh)) > 8


def test_equal_questions_are_answered_without_the_calendar(monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = QuietHours(*NIGHT, None, "Europe/Paris")
    looks = []
    look = QuietHours._look

    def counted(self: QuietHours, now_ms: int) -> None:
        looks.append(now_ms)
        look(self, now_ms)

    monkeypatch.setattr(QuietHours, "_look", counted)
    start = ms("2026-06-01T12:00")
    for second in range(0, 86_400, 10):
        quiet.release_ms(start + second * 1000)
    assert len(looks) == 3  # by day, by night, by day


@pytest.mark.parametrize(
    ("start", "end", "days", "says"),
    [
        ("7:5", "08:00", None, "'7:5' is not a time of day"),
        ("22:00", "25:00", None, "'25:00' is not a time of day"),
        ("22:00", "24:01", None, "'24:01' is not a time of day"),
        ("22:60", "08:00", None, "'22:60' is not a time of day"),
        ("٢٢:00", "08:00", None, "is not a time of day"),
        ("22:00\n", "08:00", None, "is not a time of day"),
        ("22:00", "08:00", [], "it names no day"),
        ("22:00", "08:00", ["Monday"], "'Monday' is not one of mon, tue"),
        ("22:00", "08:00", ["mon", "mon"], "'mon' is there twice"),
        ("00:00", "24:00", None, "for ever"),
        ("00:00", "24:00", list(DAYS), "for ever"),
    ],
)
def test_what_is_refused(start: str, end: str, days: list[str] | None, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        QuietHours(start, end, days, "UTC")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Europe/Paris", None),
        ("UTC", None),
        ("Europe/Pariss", "did you mean Europe/Paris"),
        ("europe/paris", "did you mean Europe/Paris"),
        ("Europe/Pariss", "did you mean Europe/Paris?"),  # it alone
        ("Paris", "did you mean Europe/Paris"),
        ("America/New York", "did you mean America/New_York"),
        ("", 'it is a name such as "Europe/Paris"'),
        ("?", 'it is a name such as "Europe/Paris"'),
        ("../UTC", "unknown time zone"),
        ("posix/Europe/Paris", "unknown time zone"),
    ],
)
def test_the_names_of_zones(name: str, says: str | None) -> None:
    problem = check_zone(name)
    assert problem is None if says is None else says in str(problem)


def test_every_zone_has_rules() -> None:
    assert len(zones()) > 500
    for name in zones():
        ZoneInfo(name)


# --- against the clock on the wall --------------------------------------------------------------------------------

MINUTES = 60
CHANGES = [  # a few days around a change of the clock, or any days
    ("Europe/Paris", "2026-03-29"),
    ("Europe/Paris", "2026-10-25"),
    ("America/New_York", "2027-03-14"),
    ("America/Santiago", "2026-04-05"),
    ("America/Santiago", "2026-09-06"),
    ("Australia/Lord_Howe", "2026-04-05"),
    ("Australia/Lord_Howe", "2026-10-04"),
    ("Pacific/Apia", "2011-12-30"),
    ("Antarctica/Troll", "2026-03-29"),  # two hours
    ("Africa/Casablanca", "2026-02-15"),
    ("Asia/Kathmandu", "2026-07-01"),
    ("UTC", "2028-02-29"),
]
times = st.integers(0, 95).map(lambda quarter: f"{quarter // 4:02}:{quarter % 4 * 15:02}") | st.just("24:00")
weekdays = st.none() | st.lists(st.sampled_from(DAYS), min_size=1, unique=True)


def by_the_wall(start: str, end: str, days: list[str] | None, zone: str, first_s: int, count: int) -> list[bool]:
    """Whether it is quiet at each of so many minutes, from nothing but what the clock on the wall shows at each."""
    walls = [datetime.fromtimestamp(first_s + n * 60, ZoneInfo(zone)).replace(tzinfo=None) for n in range(count)]
    midnight = datetime.combine(walls[0].date(), datetime.min.time()) - timedelta(days=3)
    quiet = [False] * count
    for offset in range(count // 1440 + 6):
        day = midnight + timedelta(days=offset)
        if day.weekday() not in day_numbers(days):
            continue
        begins = day + timedelta(minutes=time_of_day(start))
        ends = day + timedelta(minutes=time_of_day(end), days=time_of_day(end) <= time_of_day(start))
        after_start = next((n for n, wall in enumerate(walls) if wall >= begins), count)
        before_end = next((n for n in range(count - 1, -1, -1) if walls[n] < ends), -1)
        if time_of_day(start) != time_of_day(end):
            quiet[after_start : before_end + 1] = [True] * max(0, before_end + 1 - after_start)
    return quiet


@settings(max_examples=40)
@given(times, times, weekdays, st.sampled_from(CHANGES) | st.tuples(
    st.sampled_from(sorted(zones())), st.dates(date(1975, 1, 1), date(2036, 1, 1)).map(str)
))  # fmt: skip
def test_any_days_minute_by_minute(start: str, end: str, days: list[str] | None, place: tuple[str, str]) -> None:
    zone, day = place
    try:
        quiet = QuietHours(start, end, days, zone)
    except ValueError:
        assert (start, end) == ("00:00", "24:00")
        return
    first_s = int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) - 2 * 86_400
    expected = by_the_wall(start, end, days, zone, first_s, 9 * 1440)
    for n in range(3 * 1440, 5 * 1440):  # far enough from the ends, where the clock is not followed
        now_ms = (first_s + n * 60) * 1000
        release_ms = quiet.release_ms(now_ms)
        assert (release_ms is not None) == expected[n], datetime.fromtimestamp(now_ms / 1000, ZoneInfo(zone))
        if release_ms is not None:
            assert release_ms > now_ms
            assert quiet.release_ms(release_ms - 1) == release_ms
            assert QuietHours(start, end, days, zone).release_ms(release_ms) is None
            quiet.release_ms(now_ms)


@settings(max_examples=150)
@given(times, times, weekdays, st.sampled_from(sorted(zones())), st.integers(0, 2_200_000_000_000))
def test_a_release_is_ahead_and_not_quiet(start: str, end: str, days: list[str] | None, zone: str, now_ms: int) -> None:
    try:
        quiet = QuietHours(start, end, days, zone)
    except ValueError:
        return
    release_ms = quiet.release_ms(now_ms)
    if release_ms is not None:
        assert now_ms < release_ms <= now_ms + 9 * 86_400_000
        assert quiet.release_ms(release_ms) is None
