"""What a story remembers: its slots, what their odds depend on, and which words fit together."""

from jaxlm.data.stories import lexicon, lexicon_events
from jaxlm.data.stories.tables import Lexicon, Slot

LEXICONS = {
    name.lower(): value
    for module in (lexicon, lexicon_events)
    for name, value in vars(module).items()
    if isinstance(value, Lexicon)
}


def _same_kind(entry: dict, place: dict) -> bool:
    return place["kind"] in entry["kind"].split()


def _suits(look: dict, thing: dict) -> bool:
    return look["group"] == "any" or thing["group"] in look["group"].split()


def _thing_suits(thing: dict, look: dict) -> bool:
    return _suits(look, thing)


def _another(entry: dict, other: dict) -> bool:
    return entry[""] != other[""]


def _is(group: str):
    return lambda entry: entry["group"] == group


SLOTS = {
    # the hero
    "trait": Slot("traits"),
    "kind": Slot("kinds", ("trait",)),
    "name": Slot("names", ("kind",), {"kind": lambda n, k: k["group"] in n["group"].split()}),
    "trait2": Slot("traits", ("trait",), {"trait": _another}),
    "trait3": Slot("traits", ("trait2", "kind.group"), {"trait2": _another}),
    "home": Slot("homes", ("kind",), {"kind": lambda h, k: k["group"] in h["group"].split()}),
    "hobby": Slot("hobbies", ("kind", "trait")),
    "elder": Slot("elders", ("kind",)),
    "garb": Slot("things", ("kind",), {(): _is("wear")}),
    "hue": Slot("looks", ("garb",), {"garb": _suits}),
    # when and where
    "time": Slot("times", ("trait",)),
    "go": Slot("goes", ("kind", "time.weather")),
    "place": Slot("places", ("kind", "time.weather")),
    "spot": Slot("spots", ("place",), {"place": _same_kind}),
    "spot2": Slot("spots", ("place.kind", "spot"), {"place.kind": lambda s, k: k in s["kind"], "spot": _another}),
    "spot3": Slot("spots", ("place",), {"place": _same_kind}),
    "weather": Slot("weathers", ("time.weather", "place"), {"time.weather": lambda w, t: t in w["weather"].split()}),
    "ride": Slot("rides", ("kind", "time.weather")),
    # whom the hero meets
    "friend": Slot("friends", ("place", "kind"), {"place": _same_kind, "kind": _another}),
    "pal": Slot("pals", ("friend",)),
    "creature": Slot("friends", ("place", "time.weather"), {"place": _same_kind}),
    # things
    "look": Slot("looks", ("name",)),
    "toy": Slot("things", ("look", "kind.group"), {"look": _thing_suits}),
    "hue2": Slot("looks", ("friend",)),
    "plaything": Slot("things", ("hue2", "friend"), {"hue2": _thing_suits}, joint=False),
    "gift": Slot("things", ("friend",)),
    "find": Slot("things", ("place",)),
    "sheen": Slot("looks", ("find",), {"find": _suits}),
    "sheen2": Slot("looks", ("sheen", "find.group"), {"sheen": _another, "find.group": lambda s, g: s["group"] == "any" or g in s["group"].split()}),
    "aid": Slot("things", ("place",), {(): _is("tool")}),
    "wrap": Slot("things", ("problem",), {(): _is("wear")}),
    "wrap2": Slot("things", ("weather",), {(): _is("wear")}),
    "fruit": Slot("counted", ("place",)),
    "food": Slot("foods", ("friend",)),
    "snack": Slot("foods", ("place",)),
    "dish": Slot("dishes", ("elder", "kind")),
    "need": Slot("ingredients", ("dish",)),
    "seed": Slot("seeds", ("kind",)),
    "count": Slot("counts", ("trait",)),
    "gave": Slot("gaves", ("count",), {"count": lambda g, c: g["value"] <= c["value"] - 2}),
    # what is left follows from the two: no choice, and no entropy
    "left": Slot("lefts", ("count", "gave"), {("count", "gave"): lambda n, c, g: n["value"] == max(2, c["value"] - g["value"])}),
    "days": Slot("days", ("kind",)),
    # what is done, said and felt
    "manner": Slot("manners", ("trait",)),
    "sadly": Slot("manners", ("upset",)),
    "upset": Slot("upsets", ("trait",)),
    "said": Slot("speech", ("upset", "kind")),
    "joy": Slot("joys", ("trait",)),
    "cheer": Slot("cheers", ("friend", "trait")),
    "celebrate": Slot("celebrations", ("joy", "kind")),
    "celebrate2": Slot("celebrations", ("friend",)),
    "problem": Slot("problems", ("friend",)),
    "skill": Slot("skills", ("kind", "trait")),
    "chore": Slot("chores", ("trait",)),
    "chore2": Slot("chores", ("chore",), {"chore": _another}),
    "sound": Slot("sounds", ("place",)),
    "game": Slot("games", ("friend",)),
    "lesson": Slot("lessons", ("trait", "friend"), {"trait": _another}),
}
