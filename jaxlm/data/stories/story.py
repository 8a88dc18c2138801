"""How a story is told: the rules of its grammar, from the whole story down to the sentence.

The notation is explained in `grammar.py`, the slots are in `slots.py`. A story is an opening and
one of twelve plots (`plots.py`, `wishes.py`) with its ending. Every plot brings the hero (`kind`,
`name`) to a `place`, lets the hero meet a `friend` called `pal` there, and leaves the hero with a
`joy`, so that any ending fits.
"""

from functools import cache

from jaxlm.data.stories.grammar import Grammar
from jaxlm.data.stories.plots import ALONE, COMPANY, FIND, LOST
from jaxlm.data.stories.slots import LEXICONS, SLOTS
from jaxlm.data.stories.tables import rule
from jaxlm.data.stories.wishes import WISHES

BEGINNING = {
    "story": rule("<opening> <intro> <plot>"),
    "opening": rule("<once> {+trait.a} {+kind} [named|called|whose name was] {+name}."),
    "once": rule(
        "Once upon a time, there was",
        "Once upon a time, there lived",
        "There once was",
        "Long ago, there was",
        "Once there was",
        "A long time ago, there lived",
        "This is a story about",
        "Far, far away, there lived",
        "Many years ago, there was",
        "In a faraway land, there lived",
        "Not so long ago, there was",
        "My grandmother once told me about",
        "Let me tell you about",
        "Before you were born, there was",
    ),
    "intro": rule(
        "{name} loved to {+hobby}.",
        "{name.He} lived {+home}[.| and loved to {+hobby}.| with {name.his} {+elder}.]",
        "Every [day|morning|evening|weekend|summer], {name.he} [liked to|would] {+hobby}.",
        "Most of all, {name.he} [loved|liked] to {+hobby}.",
        "Everyone [knew|said] that {name} [loved|was born|lived] to {+hobby}.",
        "{name.His} [family lived {+home}.|{+elder} taught {name.him} to {+hobby}.]",
        "When {name.he} was not asleep, {name.he} liked to {+hobby}.",
        "There was nothing {name.he} liked more than to {+hobby}.",
        given=("trait",),
    ),
    "quirk": rule(
        "{name} always wore {+garb.a}[.|, and it was {+hue}.]",
        "{name.He} was also {+trait2}[.| and sometimes {+trait3}.| but never {+trait3}.]",
    ),
    "plot": rule(
        "<go> <event>",
        "<lost>",
        "<quirk> <go> <event>",
        "<earn>",
        "<learn>",
        "<bake>",
        "<grow>",
        given=("trait",),
    ),
    "event": rule("[<aside> |]<scene>", "<find>", given=("place.kind",)),
    "scene": rule("<meet> <company>", "<gather>", "<noise>", given=("time.weather",)),
    "company": rule("<help>", "<quarrel>", "<trip>", "<play>", given=("place.kind",)),
}

SHARED = {
    "site": rule("{+air} {+place.noun}"),
    "go": rule(
        "{+time.Cap}, {name} {+go} to the <site>[ {+manner}.|.| all alone.| to play.]",
        "It happened {+time}: {name} {+manner} {+go} to the <site>.",
    ),
    "aside": rule(
        "On the way, {name.he} [saw|passed|waved at|talked to] {+nature.a} {+creature}.",
        "It was [quiet|very quiet|busy|cool|lovely|strange] {place}.",
        "Not far away, {+nature.a} {+creature} [watched {name.him}|was asleep|sat {+spot}].",
        given=("place",),
    ),
    "meet": rule(
        "Then {name.he} [met|saw|bumped into|came upon] {+temper.a} {+friend} named {+pal}.",
        "{+temper.A} {+friend} named {+pal} [came by|came along|stopped|walked up|was there].",
        "Just then, {name.he} [met|saw] {+temper.a} {+friend} named {+pal}.",
        "Soon {name.he} [met|saw|ran into] {+temper.a} {+friend} called {+pal}.",
        "It was there that {name.he} met {+temper.a} {+friend} named {+pal}.",
        given=("place.kind",),
    ),
    "grieve": rule(
        "{name} felt {+upset}[.| and began to cry.| and sat down.| and did not know what to do.]",
        "{name.He} was [so|very] {+upset}[.|!]",
        "This made {name.him} {+upset}.",
        "{name} had never felt so {+upset}.",
        "Tears ran down {name.his} face, and {name.he} felt {+upset}.",
        given=("trait",),
    ),
    "ask": rule(
        '"What is wrong?" asked {pal}.',
        '"Why [are you|do you look] so {upset}?" asked {pal}.',
        '"Can I help you?" asked {pal}[.| the {friend}.]',
        "{pal} asked {name.him} what was wrong.",
        '"Hello, little {kind}," said {pal}. "You look {upset}."',
        '"My name is {pal}," said the {friend}. "Are you {upset}?"',
        given=("friend",),
    ),
    "glad": rule(
        "{name} was so {+joy} that {name.he} {+celebrate}.",
        "{name} felt {+joy}[.| and {+celebrate}.]",
        '"Thank you, {pal}!" {name} said. {name.He} felt {+joy}.',
        "Now {name} was {+joy}[.|, and {pal} was {joy} too.]",
        "This made {name.him} {+joy}.",
        given=("trait",),
    ),
    "praise": rule(
        '"Thank you, {name}!" {+cheer} {pal}.',
        '"You are [so|very] {+lesson}, {name}," {+cheer} {pal}.',
        "{pal} thanked {name.him} [{+manner}|again and again|with a hug|with a big smile].",
        '"You are a true friend," {+cheer} {pal}[.| the {friend}.]',
        '"I will never forget this," {+cheer} {pal}.',
        given=("friend",),
    ),
}

ENDING = {
    "ending": rule("<fate>", "<moral>", given=("trait",)),
    "close": rule("[<moral> |]<fate>"),
    "moral": rule(
        "{name} [learned|knew now] that it is good to be {+lesson}.",
        "Now {name} is not only {trait} but also {+lesson}[.| and {+lesson2}.]",
        "The {trait} {kind} had learned to be {+lesson}[.| and {+lesson2}.]",
        '"You are {trait.a} {kind}," said {name.his} {+elder}, "and {+lesson} too."',
        given=("joy",),
    ),
    "fate": rule(
        "From that day on, {name} and {pal} were [best|good|great|true] friends.",
        "And they [lived|played] happily ever after.",
        "That night, {name} [slept well|dreamed of {pal}|told {name.his} {+elder} all].",
        "Then {name} went home, feeling {joy}.",
        "They played {+game} until the sun went down.",
        "To this day, {pal} and {name} meet {place}[.| every week.| to eat {+taste} {+food}.]",
        "And that is how {name} the {kind} met {pal} the {friend}.",
        "{name.He} never forgot {pal}[.| the {friend}.]",
        "When {name.he} got home, {name.his} {+elder} made some {+taste} {+food}.",
        given=("joy",),
    ),
}

RULES = {**BEGINNING, **SHARED, **LOST, **FIND, **COMPANY, **ALONE, **WISHES, **ENDING}


@cache
def grammar(choices: int | None = None) -> Grammar:
    """The compiled grammar; its tables of odds are made on first use.

    `choices` limits the alternatives of each choice; None keeps all.
    """
    return Grammar(LEXICONS, SLOTS, RULES, most=choices)
