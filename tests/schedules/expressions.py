"""Crontabs as chance makes them, with a liking for what goes wrong: the hours around midnight, each hour, few days."""

from contextlib import suppress

from djtasks.schedules import ParseException, crontab
from djtasks.schedules.fields import DAY_OF_MONTH, DAY_OF_WEEK, HOUR, MINUTE, MONTH_OF_YEAR, SECOND


def any_crontab(random, *, with_seconds=False):
    """A crontab that does occur; to the minute unless `with_seconds`."""
    minute, hour = a_field(random, MINUTE, everything=0.3), a_field(random, HOUR, everything=0.4)
    second = a_field(random, SECOND, everything=0.2) if with_seconds else "0"
    while True:
        day_of_week = a_field(random, DAY_OF_WEEK, everything=0.75)
        day_of_month = a_field(random, DAY_OF_MONTH, everything=0.75)
        month_of_year = a_field(random, MONTH_OF_YEAR, everything=0.8)
        with suppress(ParseException):  # 30 February
            return crontab(minute, hour, day_of_week, day_of_month, month_of_year, second)


def a_field(random, field, *, everything):
    if random.random() < everything:
        return random.choice(["*", "*", "*/1", f"{field.low}-{field.high}"])
    return ",".join(a_part(random, field) for _ in range(random.choice([1, 1, 1, 2, 3])))


def a_part(random, field):
    low = random.choice([field.low, a_number(random, field)])
    high = a_number(random, field)
    step = random.choice([2, 3, 5, 7, 10, 15, 20, 30])
    step = min(step, field.high - field.low)
    return random.choice([f"{low}", f"{high}", f"{low}-{high}", f"{low}-{high}/{step}", f"*/{step}"])


def a_number(random, field):
    near = [number for number in (0, 1, 2, 3, 23, 29, 30, 59) if field.low <= number <= field.high]
    return random.choice(near) if random.random() < 0.5 else random.randint(field.low, field.high)
