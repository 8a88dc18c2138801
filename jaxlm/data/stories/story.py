"""How a story is told: the rules of its grammar, from the whole story down to the sentence.

The notation is explained in `grammar.py`, the slots are in `slots.py`. A story is an opening, one
of ten plots and an ending. Every plot brings the hero (`kind`, `name`) to a `place` where a
`friend` called `pal` is met, and leaves the hero with a `joy`, so that any ending fits.
"""

from functools import cache

from jaxlm.data.stories.grammar import Grammar
from jaxlm.data.stories.slots import LEXICONS, SLOTS
from jaxlm.data.stories.tables import Rule


def _rule(*alternatives: str, given: tuple = ()) -> Rule:
    return Rule({"": list(alternatives)}, given)


BEGINNING = {
    "story": _rule("<opening> <intro> [<quirk> |]<plot> <ending>"),
    "opening": _rule("<once> {+trait.a} {+kind} [named|called|whose name was] {+name}."),
    "once": _rule(
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
    "intro": _rule(
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
    "quirk": _rule(
        "{name} always wore {+garb.a}[.|, and it was {+hue}.]",
        "{name.He} was also {+trait2}[.| and sometimes {+trait3}.| but never {+trait3}.]",
    ),
    "plot": _rule(
        "<go> [<aside> |]<event>",
        "<lost>",
        "<earn>",
        "<learn>",
        "<bake>",
        "<grow>",
        given=("trait",),
    ),
    "event": _rule(
        "<meet> <company>", "<find>", "<gather>", "<noise>", given=("place.kind",)
    ),
    "company": _rule("<help>", "<quarrel>", "<trip>", "<play>", given=("friend",)),
}

SHARED = {
    "go": _rule(
        "{+time.Cap}, {name} {+go} {+place.to}[.| {+manner}.| all alone.| to play.| to look around.]",
        "It happened {+time}: {name} {+go} {+place.to}.",
    ),
    "aside": _rule(
        "On the way, {name.he} [saw|passed|waved at|talked to|almost stepped on] {+creature.a}.",
        "It was [quiet|very quiet|busy|cool|lovely|strange] {place}.",
        "Not far away, {+creature.a} [watched {name.him}|was asleep|sat {+spot}|hummed a tune].",
        given=("place",),
    ),
    "meet": _rule(
        "Then {name.he} [met|saw|bumped into|came upon] {+friend.a} named {+pal}.",
        "{+friend.A} named {+pal} [came by|came along|stopped|walked up|was there].",
        "Just then, {name.he} [met|saw] {+friend.a} named {+pal}.",
        "Soon {name.he} [met|saw|ran into] {+friend.a} called {+pal}.",
        "It was there that {name.he} met {+friend.a} named {+pal}.",
        given=("place.kind",),
    ),
    "grieve": _rule(
        "{name} felt {+upset}[.| and began to cry.| and sat down.| and did not know what to do.]",
        "{name.He} was [so|very] {+upset}[.|!]",
        "This made {name.him} {+upset}.",
        "{name} had never felt so {+upset}.",
        "Tears ran down {name.his} face, and {name.he} felt {+upset}.",
        given=("trait",),
    ),
    "ask": _rule(
        "\"What is wrong?\" asked {pal}.",
        "\"Why [are you|do you look] so {upset}?\" asked {pal}.",
        "\"Can I help you?\" asked {pal}[.| the {friend}.]",
        "{pal} asked {name.him} what was wrong.",
        "\"Hello, little {kind},\" said {pal}. \"You look {upset}.\"",
        "\"My name is {pal},\" said the {friend}. \"Are you {upset}?\"",
        given=("friend",),
    ),
    "glad": _rule(
        "{name} was so {+joy} that {name.he} {+celebrate}.",
        "{name} felt {+joy}[.| and {+celebrate}.]",
        "\"Thank you, {pal}!\" {name} said. {name.He} was very {+joy}.",
        "Now {name} was {+joy}[.|, and {pal} was {joy} too.]",
        "This made {name.him} {+joy}.",
        given=("trait",),
    ),
    "praise": _rule(
        "\"Thank you, {name}!\" {+cheer} {pal}.",
        "\"You are [so|very] {+lesson}, {name},\" {+cheer} {pal}.",
        "{pal} thanked {name.him} [{+manner}|again and again|with a hug|with a big smile].",
        "\"You are a true friend,\" {+cheer} {pal}[.| the {friend}.]",
        "\"I will never forget this,\" {+cheer} {pal}.",
        given=("friend",),
    ),
}

# Something of one's own is lost, and found again.
LOST = {
    "lost": _rule("<own> <take> <lose> <grieve> <meet> <ask> <tell> <search> <found> <glad>"),
    "own": _rule(
        "{name} had {+look.a} {+toy} and took it everywhere.",
        "{name.His} favorite thing [in the world |of all |]was {+look.a} {+toy}.",
        "{name.He} owned {+look.a} {+toy}.",
        "There was one thing {name.he} loved most: {+look.a} {+toy}.",
        "For {name.his} birthday, {name.he} got {+look.a} {+toy} from {name.his} {+elder}.",
        given=("name",),
    ),
    "take": _rule(
        "{+time.Cap}, {name} {+go} {+place.to} [with the {toy}|with it|to play with it].",
        "It happened {+time}: {name} took the {toy} {+place.to}[.| in a bag.| to show it around.]",
    ),
    "lose": _rule(
        "But soon the {toy} was gone.",
        "When {name.he} looked [down|up|around], the {look} {toy} was gone.",
        "After a while, {name.he} could not find the {toy}.",
        "There {name.he} [put the {toy} down and forgot where|dropped it and did not see it].",
        "{+creature.A} took it and ran away.",
        "The wind [took it away|picked it up].",
        given=("place.kind",),
    ),
    "tell": _rule(
        '"I lost my {look} {toy}," {+said} {name}[.| {+sadly}.]',
        '"My {toy} is gone," {+said} {name}[.| {+sadly}.]',
        '"I cannot find my {toy}," {+said} {name}.',
        "{name} told {pal.him} about the {look} {toy}.",
        '"I had {look.a} {toy}, and now it is gone," {+said} {name}.',
    ),
    "search": _rule(
        "They looked {+spot} and {+spot2}.",
        "Together, they looked {+spot}, but it was not there.",
        "{pal} looked {+spot}, and {name} looked {+spot2}.",
        "First, they looked {+spot}. Then they looked {+spot2}.",
        "They searched {+sadly} for {+days} minutes.",
    ),
    "found": _rule(
        "At last, {pal} [saw|found|spotted] the {toy} {+spot3}.",
        "And there it was, {+spot3}!",
        "In the end, {name} [saw|found|spotted] it {+spot3}.",
        "The {toy} was {+spot3}!",
        '"Look {+spot3}!" {+cheer} {pal}. It was the {look} {toy}!',
    ),
}

# Something is found, and given back to the one who lost it.
FIND = {
    "find": _rule("<finding> <seen> <whose> <meet> <owner> <back> <reward>"),
    "finding": _rule(
        "There {name.he} [saw|found|noticed|spotted] {+find.a} {+spot}.",
        "{+spot.Cap}, {name.he} [found|saw] {+find.a}.",
        "{name} [almost fell over|found|picked up] {+find.a} {+spot}.",
        "Something lay {+spot}. It was {+find.a}!",
        given=("place.kind",),
    ),
    "seen": _rule(
        "It was {+sheen}[.| and {+sheen2}.|, and it looked {+sheen2}.]",
        "{name.He} had never seen such {+sheen.a} {find}.",
        "What {+sheen.a} {find}!",
        given=("find.group",),
    ),
    "whose": _rule(
        '"Whose {find} is this?" {name} [wondered|asked|thought].',
        "{name} wanted to keep the {find}, but it was not {name.own}.",
        '"Someone must miss this {find}," {name} [thought|said].',
        "{name.He} asked {+creature.a}, but {+creature.a} does not need {find.a}.",
        "{name} looked around for the owner of the {find}.",
        given=("trait",),
    ),
    "owner": _rule(
        '"Have you seen my {sheen} {find}?" asked {pal}.',
        "{pal} [was|looked] {+upset} because {pal.his} {find} was gone.",
        '"I lost my {find}," {pal} [said|sobbed|told {name.him}].',
        "The {friend} was looking for {sheen.a} {find}.",
        given=("friend",),
    ),
    "back": _rule(
        "{name} gave {pal.him} the {find}[.| {+manner}.]",
        '"Is this yours?" asked {name}. {pal} [nodded|said yes|took the {find}] {+manner}.',
        "So {name} gave it back.",
        '"Here it is," {name} [said|told {pal.him}] {+manner}.',
        given=("trait",),
    ),
    "reward": _rule(
        "{pal} was so {+joy} that {pal.he} {+celebrate}. <praise>",
        "<praise> Then they [shared|ate] some {+food}, and {name} felt {+joy}.",
        "{pal.He} gave {name} [{+gift.a}|some {+food}]. {name} was {+joy}.",
        "Now {pal} was {+joy}, and {name} was {joy} too.",
        given=("friend",),
    ),
}

# Someone is in need.
COMPANY = {
    "help": _rule("{pal} was {+problem}. [<plea> |]<aid> [<praise> |]<thanks>"),
    "plea": _rule(
        '"[Please help me|Can you help me|Help|I need help]!" {+cheer} {pal}.',
        '"How can I help?" asked {name}.',
        "No one else had stopped to help.",
        given=("problem.need",),
    ),
    "aid": Rule(
        {
            "stuck": [
                "{name} pulled {+manner} until {pal} was free.",
                "With {+aid.a}, {name} set {pal.him} free.",
                "{name} called {+creature.a}, and together they got {pal.him} out.",
            ],
            "lost": [
                "{name} took {pal.his} hand and they walked for {+days} minutes.",
                "{name} asked {+creature.a} for the way and led {pal} home.",
                "With {+aid.a}, {name} showed {pal.him} the right road.",
            ],
            "hungry": [
                "{name} gave {pal.him} some {+food}.",
                "{name} ran home and came back with some {+food} and some {+snack}.",
                "They sat down and shared {name.his} {+food}.",
            ],
            "cold": [
                "{name} gave {pal.him} {+wrap.a}.",
                "{name} made a fire and some hot {+food}.",
                "{name} ran home and came back with {+wrap.a}.",
            ],
            "hurt": [
                "{name} made a bandage from {+wrap.a}.",
                "{name} took {pal.him} to the doctor on {+ride.a}.",
                "{name} sat with {pal.him} and fed {pal.him} some {+food}.",
            ],
            "work": [
                "{name} took {+aid.a} and worked {+manner} for {+days} minutes.",
                "{name} helped {pal.him} {+manner} until the work was done.",
                "{name} asked {+creature.a} to help, and soon it was done.",
            ],
            "sad": [
                "{name} told {pal.him} a joke about {+creature.a}.",
                "They played {+game} until {pal} smiled.",
                "{name} sat down and listened {+manner}.",
                "{name} gave {pal.him} {+gift.a}.",
            ],
        },
        given=("problem",),
        fits={"problem": lambda alternative, problem: alternative["group"] == problem["need"]},
    ),
    "thanks": _rule(
        "To say thank you, {pal} gave {name.him} {+gift.a}. {name} was {+joy}.",
        "Soon {pal} was {+joy} again.",
        "{pal.He} was so {+joy} that {pal.he} {+celebrate}.",
        "It made {name} {+joy} to help.",
        given=("problem.need",),
    ),
    "quarrel": _rule("<both> <fight> <broken> <sorry> <peace>"),
    "both": _rule(
        "They both wanted to play with {+hue2.a} {+plaything}.",
        "{pal} had brought {+hue2.a} {+plaything}, and {name} wanted it.",
        "{name} had brought {+hue2.a} {+plaything}, but {name.he} did not want to share it.",
        given=("trait",),
    ),
    "fight": _rule(
        '"It is mine!" {+cheer} {name}. "No, it is mine!" said {pal}.',
        "They pulled and pulled[.| {+manner}.]",
        '"Give me the {plaything}!" {+cheer} {name}.',
        "{name} took the {plaything} and would not give it back.",
        given=("friend",),
    ),
    "broken": _rule(
        "Then the {plaything} [broke|fell down|landed {+spot}|flew away]. Now {name} felt {+upset}.",
        "{pal} went away, and {name} felt {+upset}.",
        "Soon they were both {+upset}.",
        "{+creature.A} came and took the {plaything}. {name} was {+upset}.",
        given=("trait",),
    ),
    "sorry": _rule(
        '"I am sorry," {+said} {name}[.| {+sadly}.]',
        "{name} said sorry {+sadly}.",
        '"Let us share," {+said} {name}.',
        '{name.His} {+elder} saw it and said, "You must be {+lesson}."',
        '"I do not want to fight," {+said} {name}.',
        given=("upset",),
    ),
    "peace": _rule(
        "They took turns with the {hue2} {plaything}, and {name} was {+joy}.",
        "{pal} smiled, and they played {+game}. {name} was {+joy}.",
        "They got the {plaything} back with {+aid.a}. How {+joy} they were!",
        "They ate some {+food} together and felt {+joy}.",
        given=("friend",),
    ),
    "trip": _rule("<ride> <storm> <shelter> <over>"),
    "ride": _rule(
        "Together, they [took|rode in|found|got into] {+ride.a}.",
        '"Let us go on a trip!" {+cheer} {pal}. So they took {+ride.a}.',
        "They went for a ride in {+ride.a}.",
        given=("friend",),
    ),
    "storm": _rule(
        "After {+days} minutes, {+weather}. <grieve>",
        "Then {+weather}, and {name} felt {+upset}.",
        "Suddenly, {+weather}! The {ride} stopped. <grieve>",
        "But {+weather}. They were [far from home|all alone], and {name} was {+upset}.",
    ),
    "shelter": _rule(
        "They hid {+spot} and [ate|shared] some {+snack}.",
        '"Do not be {upset}," said {pal}. {pal.He} [told a story about {+creature.a}|sang {+manner}].',
        "{pal} gave {name} {+wrap2.a} to keep warm.",
        "They sat {+spot} and played {+game}.",
        "{name} found {+aid.a} {+spot}, and they used it to get home.",
        given=("place.kind",),
    ),
    "over": _rule(
        "When it was over, {name} felt {+joy}.",
        "Soon the {ride} was moving again, and they were {+joy}.",
        "At last they were home, safe and {+joy}.",
        "It had been a long day, but {name} was {+joy}.",
        given=("time.weather",),
    ),
    "play": _rule("<game> <turn> <win>"),
    "game": _rule(
        "They [played|began to play|wanted to play] {+game}[.| for {+days} minutes.| until {name} got tired.]",
        '"Do you want to play {+game}?" asked {pal}[.| the {friend}.]',
        '"I know a game," {+cheer} {pal}. "It is called {+game}."',
        given=("friend",),
    ),
    "turn": _rule(
        "First, {pal} won. <grieve>",
        "{name} [lost|fell down|hid {+spot}|wanted to stop] after {+days} minutes and felt {+upset}.",
        "But {name} did not know how to play {game}. <grieve>",
        "They laughed {+manner}, but then {name} got hurt and was {+upset}.",
        given=("game",),
    ),
    "win": _rule(
        '"Try again," said {pal}. The next time, {name} won and was {+joy}.',
        "{pal} [let {name.him} win|gave {name.him} a hug|shared some {+food}]. {name} felt {+joy}.",
        "They played {+game} next, and {name} was {+joy}.",
        '"It is only a game," said {pal}. Soon they were both {+joy}.',
        "Then {+creature.a} joined them, and they {+celebrate2}. How {+joy} they were!",
        given=("friend",),
    ),
}

# Things are counted and shared; a noise turns out to be a friend.
ALONE = {
    "gather": _rule("<harvest> <meet> <asked> <share> <rest>"),
    "harvest": _rule(
        "{name.He} [picked|gathered|found|counted] {+count} {+fruit} there.",
        "{name.His} {+elder} had asked for {+count} {+fruit}, and {name.he} found them all.",
        "There were {+count} {+fruit} {+spot}, and {name} took them.",
        given=("place.kind",),
    ),
    "asked": _rule(
        '"I have no {fruit}," [said|sighed] {pal}[.| {+manner}.]',
        '"May I have some {fruit}?" asked {pal}.',
        "{pal} was {+upset} because {pal.he} had no {fruit}.",
        "{pal.He} loved {fruit} more than {+food}.",
        given=("friend",),
    ),
    "share": _rule(
        "So {name} gave {pal.him} {+gave} of the {fruit}.",
        "{name.He} had {count} {fruit} and gave {pal.him} {+gave}.",
        '"Take {+gave} of my {count} {fruit}," {name} [said|answered] {+manner}.',
        given=("trait",),
    ),
    "rest": _rule(
        "Now {name} had {+left} {fruit} left and was {+joy}.",
        "That left {+left} {fruit}, and both were {+joy}.",
        '"I still have {+left}," said {name}, who felt {+joy}. <praise>',
        "{name} took {+left} {fruit} home and felt {+joy}.",
        given=("gave",),
    ),
    "noise": _rule("<hear> <fear> <peek> <only> <laugh>"),
    "hear": _rule(
        "Suddenly, {name.he} heard {+sound.a}[.|, and then another.|, and it came closer.]",
        "Something made {+sound.a} {+spot}.",
        '"What was that?" {name} asked. It was {+sound.a}.',
        given=("time.weather",),
    ),
    "fear": _rule(
        "<grieve>",
        '"Who is there?" {name} asked. {name.He} felt {+upset}.',
        '"Is it {+creature.a}?" {name} thought and was {+upset}.',
    ),
    "peek": _rule(
        "{name} [took|picked up|held on to] {+aid.a} and looked {+spot}.",
        "{+manner.Cap}, {name} looked {+spot}.",
        "{name.He} wanted to run away, but {name.he} looked {+spot}.",
        given=("trait",),
    ),
    "only": _rule(
        "But it was only {+friend.a} named {+pal}!",
        "There sat {+friend.a} called {+pal}.",
        "It was not a monster. It was {+friend.a} named {+pal}.",
        given=("sound",),
    ),
    "laugh": _rule(
        '"I am sorry," {+cheer} {pal}. "I dropped my {+gift}." They laughed, and {name} felt {+joy}.',
        '"I was only playing with {+gift.a}," {+cheer} {pal}. {name} was {+joy}.',
        "They both laughed {+manner} and shared some {+food}. {name} was {+joy}.",
        '"Did I scare you?" asked {pal}. Soon they were both {+joy}.',
        '"That {sound} was me," {+cheer} {pal}. {name} was so {+joy} that {name.he} {+celebrate}.',
        given=("friend",),
    ),
}

# The hero wants something and works for it: a thing, a skill, a meal, a plant.
WISHES = {
    "earn": _rule("<wish> <price> <work> <go> [<aside> |]<meet> <deal> <glad>"),
    "wish": _rule(
        "{name} wanted {+look.a} {+toy} more than anything.",
        "One thing {name.he} did not have was {+look.a} {+toy}.",
        "All {name.he} wanted was {+look.a} {+toy}.",
        given=("name",),
    ),
    "price": _rule(
        '{name.His} {+elder} said, "First, {+chore}[."| and {+chore2}."]',
        "To get it, {name.he} had to {+chore}.",
        '"[First you|You] must {+chore}," said {name.his} {+elder}.',
    ),
    "work": _rule(
        "So {name} {chore.past} {+manner}.",
        "{name.He} {chore.past} for {+days} [days|hours|minutes].",
        "It was hard work, but {name.he} {chore.past} {+manner}.",
        "{name} {chore.past} and got {+days} coins.",
        given=("trait",),
    ),
    "deal": _rule(
        "{pal} [sold|gave|brought|made] {name.him} {look.a} {toy}.",
        "The {friend} had the {look} {toy} and gave it to {name.him}.",
        '"You may have my {toy}," {+cheer} {pal}.',
        '"[Take|Here is] the {look} {toy}," {+cheer} {pal}. "You have been so {+lesson}!"',
        given=("friend",),
    ),
    "learn": _rule("<dream> <go> <try> <grieve> <meet> <teach> <practice> <success>"),
    "dream": _rule(
        "More than anything, {name} wanted to {+skill}.",
        "{name} wished to {+skill}.",
        "{name.He} could not {+skill} yet.",
        "{name.His} dream was to {+skill}.",
        given=("trait",),
    ),
    "try": _rule(
        "{name} tried [and tried|many times|{+manner}|all day], but it [was too hard|did not work].",
        "There {name.he} tried {+days} times and got it wrong.",
        "But {name.he} [could not do it|did it all wrong|did not know how].",
        given=("skill",),
    ),
    "teach": _rule(
        '"I can show you how to {skill}," {+cheer} {pal}.',
        '"I could not {skill} at first," said {pal}. "You must be {+lesson}."',
        "{pal} was good at this and showed {name.him} how.",
        '"Watch me," {+cheer} {pal}.',
        '"Do you want to {skill}?" asked {pal}. "Then you need {+aid.a}!"',
        given=("friend",),
    ),
    "practice": _rule(
        "They practiced for {+days} [days|hours|weeks].",
        "Every day, they practiced {+spot}.",
        "{name} practiced {+manner}[.| with {+aid.a}.]",
        given=("skill",),
    ),
    "success": _rule(
        "At last, {name} could {skill}. <glad>",
        "Now {name} could {skill} [very well|better than {pal}] and was {+joy}.",
        "In the end, it was easy to {skill}, and {name} felt {+joy}.",
        '"Look, I can {skill}!" {+cheer} {name}. {name.He} was {+joy}.',
        given=("trait",),
    ),
    "bake": _rule("<occasion> <missing> <go> [<aside> |]<meet> <supply> <mix> <taste>"),
    "occasion": _rule(
        "It was the birthday of {name.his} {+elder}, so {name} wanted to make {+dish.a}.",
        "To surprise {name.his} {+elder}, {name.he} wanted to make {+dish.a}.",
        "When {name.his} {+elder} was sick, {name.he} wanted to make {+dish.a}.",
        given=("trait",),
    ),
    "missing": _rule(
        "But there was no {+need}.",
        "{name.He} needed {+need}.",
        "The last of the {+need} was gone.",
        "A good {dish} needs {+need}.",
        given=("dish",),
    ),
    "supply": _rule(
        '"I have {need}," {+cheer} {pal}[.| and smiled.]',
        "{pal} gave {name.him} a bag of {need}.",
        "{name} gave {+gift.a} to {pal} and got some {need}.",
        '"Where can I get {need}?" asked {name}. {pal} [pointed|looked {+spot}|knew the way].',
        given=("friend",),
    ),
    "mix": _rule(
        "They [stirred|mixed|worked|cooked] {+manner} for {+days} minutes.",
        "At home, {name} cooked {+manner}, and {pal} [helped|sang|watched].",
        "They used {+aid.a} and added some {+snack} too.",
        given=("dish.work",),
    ),
    "taste": _rule(
        "The {dish} was so good that {name.his} {elder} {+celebrate2}. {name} was {+joy}.",
        "{name.His} {elder} loved the {dish}, and {name} felt {+joy}.",
        '"This is the best {dish} ever!" said {name.his} {elder}. {name} was {+joy}.',
        "They all ate the {dish} with some {+food} and felt {+joy}.",
        given=("elder",),
    ),
    "grow": _rule("<plant> <wait> <doubt> <meet> <advice> <sprout> <crop>"),
    "plant": _rule(
        "{name} found {+seed.a} seed. {+time.Cap}, {name.he} planted it {+place}.",
        "In {name.his} pocket was {+seed.a} seed. {+time.Cap}, {name.he} planted it {+place}.",
        "From {name.his} {+elder}, {name} got {+seed.a} seed. {+time.Cap}, {name.he} planted it {+place}.",
    ),
    "wait": _rule(
        "Every day, {name.he} watered it[.| {+manner}.| with {+aid.a}.]",
        "{name} waited for {+days} days.",
        "{name.He} sang to it {+manner}.",
        given=("trait",),
    ),
    "doubt": _rule(
        "But nothing grew. <grieve>",
        "Nothing came up, and {name} felt {+upset}.",
        "{+creature.A} wanted to eat it, and {name} was {+upset}.",
        given=("seed",),
    ),
    "advice": _rule(
        '"Be {+lesson}," said {pal}. "It will grow."',
        '"It needs [water|sun|time|love|a song]," {+cheer} {pal}.',
        "{pal} [sang to it|dug around it|watered it|sat with {name.him}] {+manner}.",
        '"I will help you with {+aid.a}," {+cheer} {pal}.',
        given=("friend",),
    ),
    "sprout": _rule(
        "After {+days} days, {+hue2.a} leaf came up.",
        "One morning, there was {+hue2.a} [flower|leaf|bud].",
        "At last, the {seed} plant began to grow.",
        given=("seed",),
    ),
    "crop": _rule(
        "Soon the {seed} plant was big, and {name} was {+joy}.",
        "The {seed} plant grew taller than {name}. <glad>",
        "{name} and {pal} looked at the {seed} plant and felt {+joy}.",
        "Everyone [came to see|loved] the {seed} plant. <glad>",
        given=("trait",),
    ),
}

ENDING = {
    "ending": _rule(
        "From that day on, {name} and {pal} were [best|good|great|true] friends.",
        "{name} [learned|knew now|never forgot] that it is good to be {+lesson}.",
        "And they [lived|played] happily ever after.",
        "That night, {name} [slept well|dreamed of {pal} the {friend}|told {name.his} {+elder} about it].",
        "Then {name} went home, feeling {joy}.",
        "They played {+game} until the sun went down.",
        "To this day, {pal} and {name} meet {place}[.| every week.| to eat {+food}.]",
        "And that is how {name} the {kind} met {pal} the {friend}.",
        "Now {name} is not only {trait} but also {+lesson}.",
        "The {trait} {kind} never forgot {pal} the {friend}.",
        given=("joy",),
    ),
}

RULES = {**BEGINNING, **SHARED, **LOST, **FIND, **COMPANY, **ALONE, **WISHES, **ENDING}


@cache
def grammar() -> Grammar:
    """The compiled grammar; its tables of odds are made as they are first used."""
    return Grammar(LEXICONS, SLOTS, RULES)
