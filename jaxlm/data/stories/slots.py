"""What a story remembers: its slots, what their odds depend on, and which words fit together."""

from jaxlm.data.stories import lexicon, lexicon_events
from jaxlm.data.stories.tables import Entry, Fits, Lexicon, Slot

LEXICONS = {
    name.lower(): value
    for module in (lexicon, lexicon_events)
    for name, value in vars(module).items()
    if isinstance(value, Lexicon)
}


def _same_kind(entry: Entry, place: Entry) -> bool:
    return place["kind"] in entry["kind"].split()


def _suits(look: Entry, thing: Entry) -> bool:
    return look["group"] == "any" or thing["group"] in look["group"].split()


def _thing_suits(thing: Entry, look: Entry) -> bool:
    return _suits(look, thing)


def _another(entry: Entry, other: Entry) -> bool:
    return entry[""] != other[""]


def _may_be(entry: Entry, kind: Entry) -> bool:
    return kind["group"] in entry["group"].split()


# the others may be either
_HE = set("rooster bull policeman postman fisherman peacock wizard".split()) | {"old man"}
_SHE = set("hen cow mermaid milkmaid ladybug".split()) | {"old lady"}


def _same_sex(name: Entry, kind: Entry) -> bool:
    return not (kind[""] in _HE and name["he"] == "she" or kind[""] in _SHE and name["he"] == "he")


def _only(group: str) -> Fits:
    return {(): lambda entry: entry["group"] == group}


_ELSEWHERE: Fits = {"place.kind": lambda s, kind: kind in s["kind"].split(), "spot": _another}

SLOTS = {
    # the hero
    "trait": Slot("traits"),
    "kind": Slot("kinds", ("trait",)),
    "name": Slot("names", ("kind",), {"kind": lambda n, k: _may_be(n, k) and _same_sex(n, k)}),
    "trait2": Slot("traits", ("trait",), {"trait": _another}),
    "trait3": Slot("traits", ("trait2", "kind.group"), {"trait2": _another}),
    "home": Slot("homes", ("kind",), {"kind": _may_be}),
    "hobby": Slot("hobbies", ("kind", "trait")),
    "elder": Slot("elders", ("kind.group",)),
    "garb": Slot("things", ("kind",), _only("wear")),
    "hue": Slot("looks", ("garb",), {"garb": _suits}),
    # when and where
    "time": Slot("times", ("trait",)),
    "go": Slot("goes", ("kind", "time.weather")),
    "air": Slot("airs", ("kind.group", "time.weather")),
    "place": Slot("places", ("kind", "air")),
    "spot": Slot("spots", ("place",), {"place": _same_kind}),
    "spot2": Slot(
        "spots",
        ("place.kind", "spot"),
        _ELSEWHERE,
    ),
    "spot3": Slot("spots", ("place.kind", "spot"), _ELSEWHERE),
    "weather": Slot(
        "weathers",
        ("time.weather", "place"),
        {"time.weather": lambda w, t: t in w["weather"].split()},
    ),
    "ride": Slot("rides", ("kind", "time.weather")),
    # whom the hero meets
    "friend": Slot("friends", ("temper", "place"), {"place": _same_kind}),
    "temper": Slot("tempers", ("place", "kind.group")),
    "pal": Slot("pals", ("friend",), {"friend": _same_sex}),
    "nature": Slot("tempers", ("place.kind",)),
    "creature": Slot("friends", ("place", "time.weather"), {"place": _same_kind}),
    # things
    "look": Slot("looks", ("name",)),
    "toy": Slot("things", ("look", "kind.group"), {"look": _thing_suits}),
    "hue2": Slot("looks", ("friend",)),
    "plaything": Slot("things", ("hue2", "friend"), {"hue2": _thing_suits}, joint=False),
    "glow": Slot("looks", ("friend",)),
    "gift": Slot("things", ("glow", "place.kind"), {"glow": _thing_suits}),
    "find": Slot("things", ("place",)),
    "sheen": Slot("looks", ("find",), {"find": _suits}),
    "sheen2": Slot(
        "looks",
        ("sheen", "find.group"),
        {"sheen": _another, "find.group": lambda look, group: _suits(look, {"group": group})},
    ),
    "make": Slot("looks", ("place.kind",), {(): lambda look: _suits(look, {"group": "tool"})}),
    "aid": Slot("things", ("make", "place.kind"), _only("tool")),
    "wrap": Slot("things", ("problem",), _only("wear")),
    "wrap2": Slot("things", ("weather",), _only("wear")),
    "fruit": Slot("counted", ("place",)),
    "taste": Slot("tastes", ("trait",)),
    "food": Slot("foods", ("friend", "taste")),
    "snack": Slot("foods", ("place", "taste")),
    "dish": Slot("dishes", ("elder", "trait")),
    "need": Slot("ingredients", ("dish",)),
    "seed": Slot("seeds", ("trait",)),
    "count": Slot("counts", ("trait",)),
    "gave": Slot("gaves", ("count",), {"count": lambda g, c: g["value"] <= c["value"] - 2}),
    # what is left follows from the two: no choice, and no entropy
    "left": Slot(
        "lefts",
        ("count", "gave"),
        {("count", "gave"): lambda n, c, g: n["value"] == max(2, c["value"] - g["value"])},
    ),
    "days": Slot("days", ("trait",)),
    # what is done, said and felt
    "manner": Slot("manners", ("trait",)),
    "sadly": Slot("manners", ("upset",)),
    "upset": Slot("upsets", ("trait",)),
    "said": Slot("speech", ("upset", "kind.group")),
    "joy": Slot("joys", ("trait",)),
    "cheer": Slot("cheers", ("friend", "trait")),
    "celebrate": Slot("celebrations", ("joy", "kind.group")),
    "celebrate2": Slot("celebrations", ("friend",)),
    "problem": Slot("problems", ("friend",)),
    "skill": Slot("skills", ("kind", "trait")),
    "chore": Slot("chores", ("trait",)),
    "chore2": Slot("chores", ("chore",), {"chore": _another}),
    "sound": Slot("sounds", ("place",)),
    "game": Slot("games", ("friend",)),
    "lesson2": Slot("lessons", ("lesson", "trait"), {"lesson": _another, "trait": _another}),
    "lesson": Slot("lessons", ("trait", "friend"), {"trait": _another}),
}
