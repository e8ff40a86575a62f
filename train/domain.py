"""The closed domain of the embedded model, as a seeded text generator.

Digits, spelled letters and names, the radio alphabet, everyday assistant commands, dates, times,
numbers, and the kinds of prompt that the AN4 corpus has (spelled names and towns, phone and house
numbers, birth dates, control words with random alphanumerics). Text is lower case, words are
separated by blanks, a spelled letter is a word of one letter.
"""

from __future__ import annotations

import random
from collections.abc import Callable

__all__ = ["number_words", "sample_text"]

DIGITS = "zero one two three four five six seven eight nine".split()
TEENS = ("ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen").split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
).split()
MONTHS = (
    "january february march april may june july august september october november december"
).split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday today tomorrow tonight".split()
LETTERS = list("abcdefghijklmnopqrstuvwxyz")
RADIO = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar "
    "papa quebec romeo sierra tango uniform victor whiskey xray yankee zulu"
).split()
CONTROL = "yes no go stop start help enter erase rubout repeat".split()
ROOMS = "kitchen|bedroom|bathroom|hall|garden|office|living room".split("|")
DEVICES = "light lights lamp heater fan radio television music alarm".split()
FOOD = "water coffee tea bread milk soup rice apple orange juice pizza salad cheese eggs".split()
PEOPLE = (
    "mother father sister brother doctor nurse anna peter mary john david laura robert susan "
    "michael linda james karen"
).split()
MUSIC = "jazz rock piano classical country radio news".split()
SIMPLE = (
    "hello|good morning|good night|thank you|please|stop|pause|play|next song|previous song|"
    "volume up|volume down|louder|softer|help me|call for help|i need help|i am hungry|"
    "i am thirsty|i am tired|i am cold|i am in pain|go back|go home|yes please|no thank you|"
    "what time is it|what day is it|how is the weather|read my messages|turn it off|turn it on|"
    "open the door|close the door|lock the door|open the window|close the window|come here|"
    "wait a moment|say it again|switch off the television|cancel|cancel the timer|stop the alarm|"
    "where is my phone|left|right|up|down|more|less|again|okay|emergency"
).split("|")
NAMES = (
    "smith jones brown miller davis wilson moore taylor anderson thomas jackson white harris "
    "martin thompson garcia robinson clark lewis walker hall allen young king wright hill scott "
    "green adams baker nelson carter mitchell roberts turner phillips campbell parker evans "
    "edwards collins stewart morris rogers cook morgan bell murphy bailey cooper howard ward cox "
    "peterson gray watson brooks kelly sanders price bennett wood barnes ross henderson coleman "
    "john james robert michael william david richard joseph charles thomas daniel matthew anthony "
    "mark donald steven paul andrew kenneth george joshua kevin brian edward ronald timothy jason "
    "jeffrey ryan jacob gary nicholas eric stephen jonathan larry justin mary patricia jennifer "
    "linda elizabeth barbara susan jessica sarah karen nancy lisa betty margaret sandra ashley "
    "kimberly emily donna michelle carol amanda melissa deborah stephanie rebecca laura helen "
    "sharon cynthia kathleen amy shirley angela anna ruth brenda pamela nicole katherine "
    "boston denver dallas houston phoenix chicago detroit seattle atlanta miami memphis portland "
    "cleveland oakland tucson omaha tulsa tampa aurora anaheim lincoln buffalo madison norfolk "
    "orlando lubbock fresno newark toledo jersey durham reno hialeah akron dayton albany erie"
).split()


def number_words(value: int, rng: random.Random) -> str:
    """Return an integer from 0 to 9999 as it is spoken."""
    if value < 10:
        return DIGITS[value]
    if value < 20:
        return TEENS[value - 10]
    if value < 100:
        tens, ones = divmod(value, 10)
        return TENS[tens - 2] + (f" {DIGITS[ones]}" if ones else "")
    if value < 1000:
        hundreds, rest = divmod(value, 100)
        middle = " and " if rest and rng.random() < 0.3 else " "
        return (
            f"{DIGITS[hundreds]} hundred{middle}{number_words(rest, rng) if rest else ''}".strip()
        )
    thousands, rest = divmod(value, 1000)
    return f"{DIGITS[thousands]} thousand {number_words(rest, rng) if rest else ''}".strip()


def _digits(rng: random.Random, low: int, high: int) -> str:
    zero = rng.choice(["zero", "oh"])
    words = [rng.choice(DIGITS) for _ in range(rng.randint(low, high))]
    return " ".join(zero if word == "zero" else word for word in words)


def _spelled(rng: random.Random) -> str:
    return " ".join(rng.choice(NAMES))


def _random_letters(rng: random.Random) -> str:
    return " ".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 6)))


def _alphanumeric(rng: random.Random) -> str:
    head = rng.choice(["", "", "erase ", "rubout ", "enter "])
    letters = " ".join(rng.choice(LETTERS) for _ in range(rng.randint(2, 5)))
    tail = rng.choice(
        [
            _digits(rng, 1, 3),
            number_words(rng.randint(10, 99), rng),
            number_words(rng.randint(0, 9), rng),
        ]
    )
    return f"{head}{letters} {tail}"


def _control(rng: random.Random) -> str:
    if rng.random() < 0.4:
        return rng.choice(CONTROL)
    return f"{rng.choice(['enter', 'erase', 'rubout'])} {number_words(_skewed(rng), rng)}"


def _skewed(rng: random.Random) -> int:
    return rng.randint(0, 10 ** rng.randint(1, 4) - 1)


def _house_number(rng: random.Random) -> str:
    parts = [number_words(rng.randint(1, 99), rng), number_words(rng.randint(10, 99), rng)]
    return rng.choice([" ".join(parts), _digits(rng, 3, 5), number_words(_skewed(rng), rng)])


def _phone(rng: random.Random) -> str:
    head = "area code " + _digits(rng, 3, 3) + " " if rng.random() < 0.15 else ""
    return head + _digits(rng, 7, 7)


def _year(rng: random.Random) -> str:
    return f"nineteen {number_words(rng.randint(10, 99), rng)}"


def _ordinal(rng: random.Random) -> str:
    day = rng.randint(1, 31)
    if day <= 20:
        return ORDINALS[day - 1]
    if day == 30:
        return "thirtieth"
    head, ones = ("twenty", day - 20) if day < 30 else ("thirty", day - 30)
    return f"{head} {ORDINALS[ones - 1]}"


def _date(rng: random.Random) -> str:
    month = rng.choice(MONTHS)
    day = _ordinal(rng) if rng.random() < 0.6 else number_words(rng.randint(1, 31), rng)
    style = rng.random()
    if style < 0.6:
        return f"{month} {day} {_year(rng)}"
    if style < 0.8:
        return (
            f"{number_words(rng.randint(1, 12), rng)} {number_words(rng.randint(1, 31), rng)} "
            + (number_words(rng.randint(30, 99), rng))
        )
    return f"{rng.choice(DAYS[:7])} the {_ordinal(rng)} of {month}"


def _radio(rng: random.Random) -> str:
    words = [rng.choice(RADIO if rng.random() < 0.8 else DIGITS) for _ in range(rng.randint(1, 5))]
    return " ".join(words)


def _time(rng: random.Random) -> str:
    hour = number_words(rng.randint(1, 12), rng)
    minutes = rng.choice(["", "fifteen", "thirty", "forty five", "oh five", "ten", "twenty"])
    return f"{hour} {minutes} {rng.choice(['', '', 'a m', 'p m'])}"


def _device(rng: random.Random) -> str:
    verb = rng.choice(["turn on", "turn off", "switch on", "switch off"])
    place = rng.choice(["", f"in the {rng.choice(ROOMS)}", f"{rng.choice(ROOMS)}"])
    device = rng.choice(DEVICES)
    return (
        f"{verb} the {device} {place}" if place.startswith("in") else f"{verb} the {place} {device}"
    )


def _assistant(rng: random.Random) -> str:
    number = number_words(rng.choice([rng.randint(1, 20), rng.randint(1, 99)]), rng)
    choices: list[Callable[[], str]] = [
        lambda: f"set a timer for {number} {rng.choice(['minutes', 'seconds', 'hours'])}",
        lambda: f"set an alarm for {_time(rng)}",
        lambda: f"wake me up at {_time(rng)}",
        lambda: f"remind me {rng.choice(DAYS)} at {_time(rng)}",
        lambda: f"call {rng.choice(['', 'my '])}{rng.choice(PEOPLE)}",
        lambda: f"send a message to {rng.choice(PEOPLE)}",
        lambda: f"play {rng.choice(['some ', '', 'the '])}{rng.choice(MUSIC)}",
        lambda: f"i want {rng.choice(['some ', ''])}{rng.choice(FOOD)}",
        lambda: f"order {rng.choice(FOOD)} and {rng.choice(FOOD)}",
        lambda: f"set the {rng.choice(['heater', 'volume', 'temperature'])} to {number}",
        lambda: f"how is the weather {rng.choice(DAYS)}",
        lambda: f"add {rng.choice(FOOD)} to my shopping list",
        lambda: f"call {_digits(rng, 5, 7)}",
        lambda: f"open the {rng.choice(['door', 'window', 'garage'])}",
    ]
    return rng.choice(choices)()


# Half of the text follows AN4's prompt types, so that real speech of the domain is covered.
_KINDS: tuple[tuple[float, Callable[[random.Random], str]], ...] = (
    (0.15, _spelled),
    (0.07, _random_letters),
    (0.12, _alphanumeric),
    (0.07, _control),
    (0.06, _house_number),
    (0.07, _phone),
    (0.07, _date),
    (0.08, lambda rng: _digits(rng, 1, 6)),
    (0.06, _radio),
    (0.08, _device),
    (0.12, _assistant),
    (0.05, lambda rng: rng.choice(SIMPLE)),
)


def sample_text(rng: random.Random) -> str:
    """Return one utterance of the domain, such as ``"erase o t h f i five zero"``."""
    weights = [weight for weight, _ in _KINDS]
    kind = rng.choices([kind for _, kind in _KINDS], weights)[0]
    return " ".join(kind(rng).split())
